"""Small networks of every kind that a circuit has, with weights on a grid on which all sums are exact."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import spikecredit as sc
from spikecredit.circuits import Activity

GRID = 20


@torch.no_grad()
def gridded(net: sc.Network, bits: int = GRID, gain: float = 2.5) -> sc.Network:
    """The network in float64 with larger weights, so that neurons fire, rounded to multiples of 2^-bits."""
    net.double()
    for name, parameter in net.named_parameters():
        if not name.endswith("log_tau"):
            parameter.copy_(torch.round(parameter * gain * 2.0**bits) / 2.0**bits)
    return net.eval()


def spikes(*shape: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).double()


def dense(first: nn.Module, second: nn.Module | None = None, last: nn.Module | None = None) -> sc.Network:
    layers = [sc.Linear(8, 10), first, sc.Linear(10, 6), second or sc.LIF(tau=4.0)]
    return sc.Network(*layers, sc.Linear(6, 3), last or sc.LeakyReadout(tau=5.0), seed=0)


def different(n: int, seed: int = 1) -> Tensor:
    return 2 + 10 * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def image(*layers: nn.Module, features: int) -> sc.Network:
    return sc.Network(*layers, sc.Flatten(), sc.Linear(features, 3), sc.LeakyReadout(tau=4.0), seed=0)


def cells() -> sc.Network:
    """E and I neurons of different kinds, in a row, in a map and in a recurrent population."""
    ei = lambda: sc.EINeurons(sc.ALIF(tau=6.0), sc.LIF(tau=3.0, reset="zero", refractory=2))  # noqa: E731
    return sc.Network(
        sc.Conv2d(1, 5, 3), ei(), sc.AvgPool2d(2), sc.Flatten(), sc.RecurrentLinear(45, 10, ei()), sc.Linear(10, 3),
        sc.LeakyReadout(tau=4.0), constraint=sc.Dale(excitatory=0.6), seed=3,
    )  # fmt: skip


def learned() -> sc.LIF:
    return sc.LIF(tau=different(10), shape=(10,), learn_tau=True)


NEURONS: dict[str, Callable[[], sc.Network]] = {
    "lif subtract": lambda: dense(sc.LIF(tau=5.0)),
    "lif zero": lambda: dense(sc.LIF(tau=5.0, reset="zero"), last=sc.LIF(threshold=0.6, reset="none")),
    "lif none": lambda: dense(sc.LIF(tau=5.0, reset="none", threshold=1.5)),
    "lif refractory": lambda: dense(sc.LIF(tau=5.0, refractory=3), sc.LIF(tau=4.0, reset="zero", refractory=2)),
    "alif": lambda: dense(sc.ALIF(tau=5.0, tau_adaptation=30.0), sc.ALIF(tau=4.0, reset="zero", adaptation=0.7)),
    "alif refractory": lambda: dense(
        sc.ALIF(tau=5.0, refractory=4, adaptation=0.1), sc.ALIF(tau=4.0, reset="none", refractory=2)
    ),
    "current": lambda: dense(sc.CurrentLIF(tau=5.0, tau_synapse=2.0), sc.CurrentLIF(tau=4.0, reset="zero")),
    "current refractory": lambda: dense(sc.CurrentLIF(tau=5.0, refractory=3), sc.CurrentLIF(reset="none")),
    "own tau": lambda: dense(
        learned(), sc.LIF(tau=different(6), shape=(6,)), sc.LeakyReadout(different(3), shape=(3,))
    ),
    "own taus": lambda: dense(
        sc.CurrentLIF(different(10), different(10, 2), shape=(10,)), sc.ALIF(different(6), different(6, 3), shape=(6,))
    ),
}

LAYERS: dict[str, Callable[[], sc.Network]] = {
    "same padding": lambda: image(
        sc.Conv2d(1, 4, (5, 3), dilation=(1, 2), padding="same"), sc.LIF(tau=3.0), features=256
    ),
    "stride, dilation": lambda: image(
        sc.Conv2d(1, 4, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 0)), sc.LIF(tau=3.0), features=96
    ),
    "groups": lambda: image(
        sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), sc.Conv2d(4, 6, 3, groups=2, bias=False), sc.LIF(tau=3.0), features=96
    ),
    "circular": lambda: image(sc.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), sc.LIF(tau=3.0), features=256),
    "reflect": lambda: image(sc.Conv2d(1, 2, 5, padding=2, padding_mode="reflect"), sc.LIF(tau=3.0), features=128),
    "average of currents": lambda: image(sc.Conv2d(1, 4, 3), sc.AvgPool2d(2), sc.LIF(tau=3.0), features=36),
    "average of spikes": lambda: image(sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), sc.AvgPool2d(2, 1), features=100),
    "average at borders": lambda: image(
        sc.AvgPool2d(2, 2, padding=1, count_include_pad=False), sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0),
        sc.AvgPool2d(2, 2, ceil_mode=True, divisor_override=8), features=16,
    ),
    "global average": lambda: sc.Network(
        sc.Conv2d(1, 4, 5), sc.LIF(tau=3.0), sc.GlobalAvgPool2d(), sc.Linear(4, 3), sc.LIF(tau=2.0), seed=0
    ),
    "row": lambda: image(
        sc.Conv2d(1, 4, 3, padding="same"), sc.AvgPool2d(2), sc.LIF(tau=3.0, threshold=0.5),
        sc.Conv2d(4, 6, 3, groups=2), sc.LIF(tau=3.0, threshold=0.5), sc.AvgPool2d(2), features=6,
    ),
    "maximum": lambda: image(sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), sc.MaxPool2d(2), features=36),
    "maximum at borders": lambda: image(
        sc.MaxPool2d(3, 2, padding=1, dilation=2, ceil_mode=True), sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), features=16
    ),
    "two maxima": lambda: image(sc.Conv2d(1, 4, 3), sc.LIF(), sc.MaxPool2d(3, 1), sc.MaxPool2d(2), features=16),
    "linear on maps": lambda: image(sc.Linear(8, 5), sc.LIF(tau=3.0), features=40),
    "two synapses": lambda: image(sc.Conv2d(1, 2, 3), sc.Conv2d(2, 4, 3, bias=False), sc.LIF(tau=3.0), features=64),
    "neurons first": lambda: image(sc.LIF(tau=3.0, threshold=0.9), sc.LIF(tau=2.0, threshold=0.5), features=64),
    "delays": lambda: image(
        sc.Delay(2), sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), sc.Delay(1), sc.MaxPool2d(2), sc.Delay(3), sc.Dropout(0.5),
        features=36,
    ),
    "recurrent": lambda: sc.Network(
        sc.RecurrentLinear(64, 12, sc.LIF(tau=4.0)), sc.Delay(2), sc.RecurrentLinear(12, 6, sc.ALIF(refractory=2)),
        sc.Linear(6, 3), sc.LeakyReadout(tau=4.0), seed=0,
    ),
    "cells": cells,
    "dale": lambda: sc.Network(
        sc.Linear(64, 10), sc.LIF(tau=3.0), sc.Linear(10, 3), sc.LIF(), constraint=sc.Dale(mode="reparametrize"), seed=0
    ),
    "dann": lambda: sc.Network(
        sc.DANNLinear(64, 12, divisive=False), sc.LIF(tau=3.0), sc.Linear(12, 3), sc.LeakyReadout(), seed=0
    ),
}  # fmt: skip


def case(name: str, steps: int = 30, samples: int = 2) -> tuple[sc.Network, Tensor, tuple[int, ...]]:
    """A gridded network, spikes for it, and the shape of its input."""
    torch.manual_seed(len(name))
    net = (NEURONS | LAYERS)[name]()
    net = gridded(net, 15, 1.0) if name == "dann" else gridded(net)  # its weight is a product of two on the grid
    if name in NEURONS:
        shape: tuple[int, ...] = (8,)
    else:
        shape = (64,) if name in ("recurrent", "dale", "dann") else (1, 8, 8)
    return net, spikes(steps, samples, *shape), shape


def assert_same(a: Activity, b: Activity) -> None:
    """Equal spikes, and potentials of equal bits."""
    assert a.spikes.keys() == b.spikes.keys() and a.potentials.keys() == b.potentials.keys()
    for name, fired in a.spikes.items():
        assert fired.dtype == b.spikes[name].dtype == torch.bool
        assert torch.equal(fired, b.spikes[name]), f"{name}: {int((fired != b.spikes[name]).sum())} spikes differ"
    for name, u in a.potentials.items():
        assert u.dtype == b.potentials[name].dtype == torch.float64
        assert torch.equal(u, b.potentials[name]), f"{name}: {int((u != b.potentials[name]).sum())} potentials differ"
    assert torch.equal(a.output, b.output)

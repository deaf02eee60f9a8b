"""Networks of ours, exported: run by the installed snnTorch, and taken back."""

from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from snn_nets import CLASSES, distances, grid_input, in_double, on_grid
from torch import Tensor, nn

import spikecredit as sc
from spikecredit.circuits import from_snntorch, to_snntorch
from spikecredit.circuits.layers import EachStep, Potentials, SnnTorchLoop
from spikecredit.neurons.decay import Factor

TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}
SURROGATES = {
    "fast_sigmoid": sc.FastSigmoid(4.0),
    "atan": sc.ArcTan(3.0),
    "sigmoid": sc.Sigmoid(1.5),
    "straight_through_estimator": sc.StraightThrough(),
}


@st.composite
def networks(draw: st.DrawFn) -> tuple[sc.Network, str, torch.dtype]:
    """A random network that snnTorch can hold, the name of its surrogate there, and its dtype."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    current, recurrent = draw(st.booleans()), draw(st.booleans())
    reset = draw(st.sampled_from(["subtract", "zero", "none"]))
    options: dict[str, Any] = {"reset": reset, "threshold": draw(st.sampled_from([0.5, 0.7, 1.25]))}
    if reset == "zero":
        plain = not current and not recurrent
        erases = (current and recurrent) or (not plain and draw(st.booleans()))
        if erases:
            options["refractory"] = 2
        else:
            options["detach_reset"] = plain and draw(st.booleans())
    name = draw(st.sampled_from(sorted(CLASSES)))
    options["surrogate"] = SURROGATES[name]
    options["learn_tau"] = draw(st.booleans())
    dtype = torch.float32 if recurrent else draw(st.sampled_from([torch.float32, torch.float64]))
    if dtype == torch.float64 and options["threshold"] == 0.7:
        options["threshold"] = 0.75
    each = draw(st.booleans())
    kind = sc.CurrentLIF if current else sc.LIF

    def neurons(units: int) -> Any:
        given = {"tau": 1 + 20 * torch.rand(units), "shape": (units,)} if each else {"tau": draw(st.floats(0.5, 50.0))}
        return kind(**given, **options)

    layers: list[nn.Module] = [sc.AvgPool2d(2), sc.Flatten()]
    if recurrent:
        layers += [sc.RecurrentLinear(8, 6, neurons(6), recurrent_bias=draw(st.booleans()))]
    else:
        layers += [sc.Linear(8, 6), neurons(6)]
    layers += [sc.Linear(6, 3, bias=False)]
    end = draw(st.sampled_from(["neurons", "readout", "potentials"]))
    if end == "readout":
        layers += [sc.LeakyReadout(tau=draw(st.floats(1.0, 30.0)), learn_tau=options["learn_tau"])]
    elif end == "neurons" or "refractory" in options or not options.get("detach_reset", True) or reset == "none":
        layers += [neurons(3) if "refractory" not in options or current else sc.LIF()]
    else:
        layers += [Potentials(neurons(3))]
    return on_grid(sc.Network(*layers)).to(dtype), name, dtype


@settings(max_examples=60)
@given(networks())
def test_snntorch_runs_it_with_the_same_result_and_it_comes_back(case: tuple[sc.Network, str, torch.dtype]) -> None:
    net, name, dtype = case
    exported, x = to_snntorch(net), grid_input(12, 3, 2, 4, 4, dtype=dtype)
    back = from_snntorch(exported)
    if dtype == torch.float64:
        values = [getattr(SURROGATES[name], key) for key in ("slope", "alpha") if hasattr(SURROGATES[name], key)]
        in_double(exported, name, *values)
    margin = distances(exported)
    ours, theirs, again = net(x), exported(x), back(x)
    assert torch.equal(ours, again)
    if any(isinstance(layer, sc.RecurrentLinear) for layer in net.layers):  # (beta u + I) + V s: a last bit may differ
        assume(min(margin) > 1e-5)
        assert torch.allclose(ours, theirs, atol=1e-5)
    else:
        assert torch.equal(ours, theirs)
    coefficients = torch.randn(ours.shape, dtype=dtype)
    for out in (ours, theirs, again):
        (out * coefficients).sum().backward()
    for index, (a, b) in enumerate(zip(weights(net), weights(back), strict=True)):
        assert torch.equal(a, b), index
    for index, (a, b) in enumerate(zip(weights(net), weights(exported), strict=True)):
        if b.isfinite().all():  # their sigmoid overflows
            assert float((a - b).abs().max()) <= TOLERANCE[dtype] * max(float(b.abs().max()), 1.0), index


def weights(module: nn.Module) -> list[Tensor]:
    """The gradients of all weights and biases, in order."""
    return [
        torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
        if name.endswith(("weight", "bias"))
    ]


def test_what_it_is() -> None:
    net = sc.Network(
        sc.Conv2d(1, 2, 3, padding=1), EachStep(sc.BatchNorm2d(2)), sc.MaxPool2d(2), sc.LIF(tau=5.0), sc.Flatten(),
        nn.Dropout(0.25), sc.RecurrentLinear(8, 4, sc.LIF(refractory=2, reset="zero")), sc.Linear(4, 3),
        sc.LeakyReadout(tau=7.0),
    )  # fmt: skip
    exported = to_snntorch(net)
    assert isinstance(exported, SnnTorchLoop) and exported.read == "potentials"
    assert [type(layer) for layer in exported] == [
        nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, snn.Leaky, nn.Flatten, nn.Dropout, nn.Linear, snn.RLeaky, nn.Linear,
        snn.Leaky,
    ]  # fmt: skip
    assert all(layer.init_hidden for layer in exported if isinstance(layer, snn.SpikingNeuron))
    x = torch.rand(6, 5, 1, 4, 4) * 3
    net.eval()
    exported.eval()
    assert torch.allclose(net(x), exported(x), atol=1e-5)
    back = from_snntorch(exported)
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in net.layers]
    assert torch.equal(back(x), net(x))


def test_the_forward_weights_leave_pathway_and_constraint_behind() -> None:
    net = sc.Network(
        sc.Linear(4, 6), sc.LIF(), sc.Linear(6, 3), sc.LIF(),
        pathway=sc.SignSymmetry(), constraint=sc.Dale(mode="reparametrize"), seed=0,
    )  # fmt: skip
    exported, x = to_snntorch(net), torch.rand(10, 2, 4) * 4
    assert torch.equal(exported[2].weight, net.layers[2].effective_weight())
    assert not torch.equal(exported[2].weight, net.layers[2].weight)
    assert torch.allclose(exported(x), net(x))


def test_a_learned_tau_becomes_a_learned_beta_and_a_learned_beta_stays_one() -> None:
    net = sc.Network(sc.Linear(2, 2), sc.CurrentLIF(learn_tau=True), sc.Linear(2, 2), sc.LIF())
    net.layers[3].decay = Factor(torch.tensor([0.25, 0.5]), learn=True)
    exported = to_snntorch(net)
    assert isinstance(exported[1].beta, nn.Parameter) and isinstance(exported[1].alpha, nn.Parameter)
    assert torch.equal(exported[3].beta, torch.tensor([0.25, 0.5])) and exported[3].beta.requires_grad
    with torch.no_grad():
        exported[3].beta.fill_(0.1)
    assert float(net.layers[3].decay.beta[0].detach()) == 0.25


def test_evaluation_only() -> None:
    net = sc.Network(sc.Linear(3, 4), sc.BatchNorm1d(4), sc.LIF())
    with pytest.raises(ValueError, match=r"net\.eval\(\)"):
        to_snntorch(net)
    net(torch.rand(5, 4, 3))
    net.eval()
    x = torch.rand(5, 4, 3) * 5
    assert torch.equal(to_snntorch(net)(x), net(x))


def recurrent(neuron: nn.Module) -> list[nn.Module]:
    return [sc.RecurrentLinear(2, 2, neuron)]


REFUSED = {
    "ALIF": lambda: [sc.Linear(2, 2), sc.ALIF()],
    "refractory=3": lambda: [sc.LIF(refractory=3)],
    "refractory=2": lambda: [sc.LIF(refractory=2, reset="zero")],
    "by subtraction": lambda: [sc.LIF(detach_reset=False)],
    "resets to zero with detach_reset=True": lambda: [sc.CurrentLIF(reset="zero")],
    "RSynaptic": lambda: recurrent(sc.CurrentLIF(reset="zero", detach_reset=False)),
    "surrogate Triangle": lambda: [sc.LIF(surrogate=sc.Triangle())],
    "surrogate StraightThrough": lambda: [sc.LIF(surrogate=sc.StraightThrough(0.5))],
    "Dropout": lambda: [sc.Dropout(0.5)],
    "ReLU": lambda: [sc.Linear(2, 2), sc.ReLU()],
    "is read by the layers after it": lambda: [sc.LeakyReadout(), sc.Linear(2, 2)],
    "neurons that snnTorch has not": lambda: recurrent(sc.ALIF()),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_snntorch_has_not_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_snntorch(sc.Network(*REFUSED[words]()))


@pytest.mark.parametrize(
    ("layer", "words"), [(sc.RecurrentLinear(2, 2), "float32 spikes"), (sc.LIF(threshold=0.7), "0.7")]
)
def test_what_snntorch_gets_wrong_in_float64_is_refused(layer: nn.Module, words: str) -> None:
    layers = [sc.Linear(2, 2), layer]
    to_snntorch(sc.Network(*layers))
    with pytest.raises(ValueError, match=words):
        to_snntorch(sc.Network(*layers).double())

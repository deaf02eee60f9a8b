"""Rules on the synapses of a circuit in Brian2: against the same network and rules in torch."""

from collections.abc import Iterator
from dataclasses import replace

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2 import ms
from plasticity_cases import MS, TRACES
from torch import Tensor

import spikecredit as sc
from spikecredit.circuits import Activity, Units, balanced, to_brian
from spikecredit.plasticity import (
    CustomRule,
    Equations,
    ErrorSTDP,
    HeterosynapticSTDP,
    InhibitorySTDP,
    Plastic,
    Rule,
    TripletSTDP,
    attach,
    balance,
)
from spikecredit.plasticity.circuit import PlasticCircuit, renamed

STEPS = 80
STRONG = TripletSTDP(A2_plus=0.02, A3_plus=0.05, A2_minus=0.03, A3_minus=0.02)
DELAYED = CustomRule(text=TRACES)


def spikes(n: int, seed: int = 0, rate: float = 0.3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, 1, n, generator=g, dtype=torch.float64) < rate).double()


def network(*neurons: sc.LIF, seed: int = 0, constraint: sc.Dale | None = None) -> sc.Network:
    """Two dense layers, weights on the grid of circuits, of both signs, a few of them 0."""
    first, second = neurons or (sc.LIF(tau=5.0), sc.LIF(tau=10.0, refractory=2))
    torch.manual_seed(seed)
    net = sc.Network(sc.Linear(8, 7), first, sc.Linear(7, 5), second, seed=seed, constraint=constraint).double()
    with torch.no_grad():
        for layer, gain in ((net.layers[0], 4.0), (net.layers[2], 6.0)):
            layer.weight.copy_((layer.weight * gain * 2**26).round() / 2**26)
            layer.bias.copy_((layer.bias.abs() * 2**26).round() / 2**26)
            layer.weight[0, :2] = 0
    return net.eval()


def both(
    net: sc.Network, rules: dict[str, Rule], x: Tensor, units: Units | None = None, **options: object
) -> tuple[Tensor, PlasticCircuit, Activity]:
    """The output in torch, which changes net, and the circuit of the network before, run in Brian2."""
    plastic = Plastic(net, rules, **options)
    circuit = attach(to_brian(net, x, units=units), plastic)
    activity = circuit.run()
    return plastic(x), circuit, activity


@pytest.mark.parametrize(
    ("rules", "signed"),
    [
        ({"layers.0": STRONG}, True), ({"layers.2": STRONG}, False), ({"layers.0": DELAYED}, False),
        ({"layers.0": STRONG, "layers.2": DELAYED}, True), ({"layers.0": DELAYED, "layers.2": STRONG}, False),
    ],
    ids=["from the input, signed", "between neurons", "delayed and bounded", "both, signed", "both"],
)  # fmt: skip
def test_brian_learns_what_torch_learns(rules: dict[str, Rule], signed: bool) -> None:
    net, x = network(), spikes(8)
    before = {name: net.get_submodule(name).weight.detach().clone() for name in rules}
    still = to_brian(net, x).run()
    out, circuit, activity = both(net, rules, x, scale=0.5, signed=signed)
    assert torch.equal(activity.output, out) and out.sum() > 20
    for name, found in circuit.weights().items():
        torch.testing.assert_close(found, net.get_submodule(name).weight.detach(), rtol=0, atol=1e-9)
        assert (found - before[name]).abs().max() > 0.05
    assert any(still.differing_spikes(activity).values())  # the weights at work were those that change


def test_a_rule_of_both_sides_with_every_kind_of_neuron_and_a_clocked_weight() -> None:
    """A weight with a slope, a trace that does not start at rest, and names that the neurons have."""
    rule = CustomRule(
        text=Equations(
            "dA/dt = (beta - A)/tau : 1\ndr/dt = (0.5 - r)/tau : 1\ndu/dt = -u/tau_u : 1",
            "A -= 0.1*r*theta\nu += 1",
            "I = 0.2*u\nA += I\nr += 1",
            parameters={"tau": (200.0, "ms"), "tau_u": MS, "beta": (0.3, "1"), "theta": (0.5, "1")},
            start={"r": 2.0},
            weight="A",
        )
    )
    for neurons in ((sc.ALIF(tau=5.0), sc.CurrentLIF(tau=8.0)), (sc.LIF(reset="zero"), sc.ALIF(refractory=3))):
        net, x = network(*neurons), spikes(8)
        before = net.layers[2].weight.detach().clone()
        out, circuit, activity = both(net, {"layers.0": rule, "layers.2": rule}, x)
        assert torch.equal(activity.output, out) and out.sum() > 5
        for name, found in circuit.weights().items():
            torch.testing.assert_close(found, net.get_submodule(name).weight.detach(), rtol=0, atol=1e-9)
        assert (circuit.weights()["layers.2"] - before).abs().max() > 0.05


def test_a_rule_with_continuous_equations() -> None:
    rule = CustomRule(
        text=Equations(
            "dx/dt = -x/tau : 1\ndy/dt = -y/tau : 1\ndw/dt = eta*x*(y - 0.3)*(1 - w) : 1", "x += 1", "y += 1",
            parameters={"tau": MS, "eta": (8.0, "Hz")}, bounds={"w": (0.0, 1.5)}, method="euler",
        )
    )  # fmt: skip
    net, x = network(), spikes(8)
    before = net.layers[0].weight.detach().clone()
    out, circuit, activity = both(net, {"layers.0": rule}, x, scale=2.0)
    assert torch.equal(activity.output, out)
    found = circuit.weights()["layers.0"]
    torch.testing.assert_close(found, net.layers[0].weight.detach(), rtol=0, atol=1e-9)
    assert (found - before).abs().max() > 0.05


@pytest.mark.parametrize("exact", [True, False])
def test_in_millivolts_and_picoamperes(exact: bool) -> None:
    units = Units(v_rest=-70.0, v_threshold=-50.0, capacitance=200.0, exact=exact)
    net, x = network(sc.LIF(tau=5.0), sc.LIF(tau=10.0)), spikes(8)
    out, circuit, activity = both(net, {"layers.0": STRONG, "layers.2": DELAYED}, x, units)
    assert torch.equal(activity.output, out)
    for name, found in circuit.weights().items():
        torch.testing.assert_close(found, net.get_submodule(name).weight.detach(), rtol=0, atol=1e-9)


def test_weights_are_clamped_after_both_halves_of_a_step() -> None:
    """A presynaptic spike takes more than the weight, a postsynaptic one of the same step gives it back."""
    text = Equations("w : 1\ndx/dt = -x/tau : 1", "w -= 1.5\nx = 1", "w += 1.2*x", parameters={"tau": MS})
    net = sc.Network(sc.Linear(1, 1, bias=False), sc.LIF(tau=5.0), seed=0).double()
    with torch.no_grad():
        net.layers[0].weight.fill_(2.0)
    x = torch.zeros(STEPS, 1, 1, dtype=torch.float64)
    x[5] = 1
    circuit = attach(to_brian(net, x), Plastic(net, {"layers.0": CustomRule(text=text)}))
    assert circuit.run().output.sum() == 1
    assert circuit.weights()["layers.0"].item() == pytest.approx(2 - 1.5 + 1.2)
    with torch.no_grad():
        net.layers[0].weight.fill_(1.25)
    out, circuit, activity = both(net, {"layers.0": CustomRule(text=text)}, x)
    assert torch.equal(activity.output, out) and out.sum() == 1
    assert circuit.weights()["layers.0"].item() == pytest.approx(net.layers[0].weight.item()) == pytest.approx(0.95)
    with torch.no_grad():
        net.layers[0].weight.fill_(1.25)
    weak = CustomRule(text=replace(text, on_post="w += 0.1*x"))  # 1.25 - 1.5 + 0.1 < 0
    _, circuit, _ = both(net, {"layers.0": weak}, x)
    assert circuit.weights()["layers.0"].item() == net.layers[0].weight.item() == 0


def test_weights_return_into_the_network_and_the_next_input_goes_on() -> None:
    """Three inputs in turn, weights carried from one to the next in each engine; Dale's law is kept, from 0 too."""
    here, there = (network(constraint=sc.Dale(excitatory=0.6)) for _ in range(2))
    assert (here.layers[2].weight == 0).any() and (here.layers[2].presynaptic_sign < 0).any()
    rules: dict[str, Rule] = {"layers.2": replace(STRONG, A2_minus=0.05)}
    plastic, copied = Plastic(here, rules, scale=0.5), Plastic(there, rules, scale=0.5)
    first = here.layers[2].weight.detach().clone()
    for k in range(3):
        x = spikes(8, seed=k)
        out = plastic(x)
        circuit = attach(to_brian(sc.circuits.Circuit.of(there, (8,), bits=None), x), copied)
        assert torch.equal(circuit.run().output, out)
        circuit.write()
        torch.testing.assert_close(there.layers[2].weight, here.layers[2].weight, rtol=0, atol=1e-9)
    assert here.violations() == there.violations() == 0
    assert ((here.layers[2].weight == 0) & (first != 0)).any() and ((here.layers[2].weight != 0) & (first == 0)).any()


def test_a_weight_that_fell_to_zero_keeps_its_sign() -> None:
    net = sc.Network(sc.Linear(1, 1, bias=False), sc.LIF(tau=5.0), seed=0).double()
    with torch.no_grad():
        net.layers[0].weight.fill_(-0.5)
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    Plastic(net, {"layers.0": CustomRule(text=Equations("w : 1", "w -= 1"))})(x)
    assert net.layers[0].weight.item() == 0
    Plastic(net, {"layers.0": CustomRule(text=Equations("w : 1", "w += 0.25"))})(x)
    assert net.layers[0].weight.item() == -0.25


def test_the_circuit_with_its_new_weights_can_be_read() -> None:
    net, x = network(), spikes(8)
    export = to_brian(net, x)
    circuit = attach(export, Plastic(net, {"layers.2": STRONG}))
    circuit.run()
    back = sc.circuits.read(export.network)
    wanted = circuit.weights()["layers.2"]
    made = torch.zeros_like(wanted)
    (projection,) = (p for p in back.projections if p.source == 0)
    made[projection.post, projection.pre] = projection.weight
    torch.testing.assert_close(made, wanted, rtol=0, atol=0)


def test_names_that_neurons_have_are_renamed_everywhere() -> None:
    given = HeterosynapticSTDP().equations()
    made = renamed(given, {"w", "beta", "A", "z_plus", "rule_beta", "P"})
    assert made.weight == "rule_w" and {"rule_A", "rule_rule_beta", "rule_P", "B"} <= {*made.parameters}
    assert {"rule_w", "w_ref", "rule_z_plus", "z_minus"} <= {*made.lines} and "w" not in made.lines
    assert made.start == {"rule_w": 0.5, "w_ref": 0.5} and [*made.bounds] == ["rule_w"]
    values = {n: 0.1 * k for k, n in enumerate(sorted(given.lines))}
    theirs = {{"w": "rule_w", "z_plus": "rule_z_plus"}.get(n, n): v for n, v in values.items()}
    for a, b in zip(given.blocks["post"], made.blocks["post"], strict=True):
        from spikecredit.plasticity.language import NUMPY

        assert a.value({**given.values, **values}, NUMPY) == b.value({**made.values, **theirs}, NUMPY)


@pytest.fixture(autouse=True)
def _default_step() -> Iterator[None]:
    """Brian2's clock is the process's: a test that moves it puts it back."""
    yield
    b2.defaultclock.dt = 0.1 * ms


def rate_of(g: float, eta: float, rho_0: float, duration: float) -> float:
    """Hz, of the excitatory neurons in the last 100 ms."""
    b2.defaultclock.dt = 0.25 * ms
    circuit = balanced.brunel(excitatory=80, connection=0.25, weight=1.0, g=g, seed=1)
    made = balance(circuit, InhibitorySTDP(eta=eta, rho_0=rho_0), scale=1.0)
    assert np.ptp(made.w_) == 0 and made.w_[0] == -g * 1e-3 and not circuit.inhibit.w_[circuit.inhibit.j[:] < 80].any()
    assert len(made) == (circuit.inhibit.j[:] < 80).sum() > 0
    b2.seed(2)
    circuit.network.run(duration * ms, namespace={})
    late = (np.asarray(circuit.spikes.t / ms) > duration - 100) & (np.asarray(circuit.spikes.i) < 80)
    return float(late.sum() / 80 / 0.1)


def test_inhibitory_plasticity_brings_a_balanced_network_to_its_target() -> None:
    """alpha / (2 tau), from far above and from below; eta = 0 is the network as it was."""
    for g, target in ((4.0, 20.0), (10.0, 120.0)):
        rule = InhibitorySTDP(rho_0=target)
        assert rule.alpha / (2 * rule.tau * 1e-3) == pytest.approx(target)
        still, learned = rate_of(g, 0.0, target, 150), rate_of(g, 0.15, target, 400)
        print(g, target, still, learned)
        assert abs(learned - target) < 0.4 * target < 0.7 * abs(still - target)


def test_refusals_say_what_to_write() -> None:
    net, x = network(), spikes(8)
    plastic = Plastic(net, {"layers.0": STRONG})
    with pytest.raises(ValueError, match=r"schedule='brian' a postsynaptic spike is a step late.*same_step"):
        attach(to_brian(net, x, schedule="brian"), plastic)
    with pytest.raises(ValueError, match=r"write to_brian\(\.\.\., target='numpy'\)"):
        attach(to_brian(net, x, target="cpp_standalone"), plastic)
    with pytest.raises(ValueError, match=r"2 samples side by side.*x\[:, :1\]"):
        attach(to_brian(net, x.expand(-1, 2, -1)), plastic)
    with pytest.raises(ValueError, match=r"a step of the circuit is 1 ms and one of Plastic 2: write dt=1"):
        attach(to_brian(net, x), Plastic(net, {"layers.0": STRONG}, dt=2.0))
    with pytest.raises(ValueError, match=r"layers\.0 takes spikes, 0 or 1.*encode\.rate"):
        attach(to_brian(net, 0.5 * x), plastic)
    with pytest.raises(ValueError, match=r"layers\.0: the rule reads the signal 'error'.*take Plastic"):
        attach(to_brian(net, x), Plastic(net, {"layers.0": ErrorSTDP()}))
    export = to_brian(net, x)
    with torch.no_grad():
        net.layers[0].weight[1, 1] += 0.1
    with pytest.raises(ValueError, match=r"from input to lif1 are not those of layers\.0 \(7, 8\).*has changed since"):
        attach(export, plastic)
    reward = CustomRule(text=Equations("w : 1", "w += 1", on_reward="w += 1"))
    with pytest.raises(ValueError, match="the rule reads a reward"):
        attach(to_brian(net, x), Plastic(net, {"layers.0": reward}))
    derived = CustomRule(text=Equations("w = 2*rho : 1\nrho : 1", "rho += 1"))
    with pytest.raises(ValueError, match="'w' is computed from other variables"):
        attach(to_brian(net, x), Plastic(net, {"layers.0": derived}))
    normed = sc.Network(sc.Linear(8, 7), sc.BatchNorm1d(7), sc.LIF(), seed=0).double().eval()
    with torch.no_grad():
        normed.layers[1].running_var.fill_(4.0)
    with pytest.raises(ValueError, match=r"not those of layers\.0.*batch normalisation"):
        attach(to_brian(normed, x), Plastic(normed, {"layers.0": CustomRule(text=Equations("w : 1", "w += 1"))}))
    with pytest.raises(ValueError, match="scale is the weight in mV"):
        balance(balanced.brunel(excitatory=40), InhibitorySTDP(), scale=0.0)

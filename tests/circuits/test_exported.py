"""Back from Brian2: weights, delays, constants, then spikes and potentials are what they were, bit for bit."""

import brian2 as b2
import pytest
import torch
from circuit_cases import case, gridded, spikes
from hypothesis import given, settings
from hypothesis import strategies as st

import spikecredit as sc
from spikecredit.circuits import Circuit, read, read_input, to_brian
from spikecredit.circuits.equations import equations, recognise
from spikecredit.circuits.population import DECAYS


def assert_same_circuit(a: Circuit, b: Circuit) -> None:
    assert (a.inputs, a.dt) == (b.inputs, b.dt)
    for p, q in zip(a.populations, b.populations, strict=True):
        assert (p.name, p.level, type(p.neuron)) == (q.name, q.level, type(q.neuron))
        assert torch.equal(p.bias, q.bias)
        for constant in ("threshold", "reset", "adaptation"):
            assert getattr(p.neuron, constant, None) == getattr(q.neuron, constant, None)
        assert max(1, getattr(p.neuron, "refractory", 0)) == max(1, getattr(q.neuron, "refractory", 0))
        for decay in DECAYS:
            if hasattr(p.neuron, decay):
                x, y = (torch.as_tensor(getattr(o.neuron, decay)(), dtype=torch.float64) for o in (p, q))
                assert torch.equal(x.expand(p.size), y.expand(p.size))
    order = lambda c: sorted(c.projections, key=lambda p: (p.target, -1 if p.source is None else p.source, p.delay))  # noqa: E731
    for p, q in zip(order(a), order(b), strict=True):
        assert (p.source, p.target, p.delay) == (q.source, q.target, q.delay)
        assert torch.equal(p.pre, q.pre) and torch.equal(p.post, q.post) and torch.equal(p.weight, q.weight)


@pytest.mark.parametrize("schedule", ["same_step", "brian"])
@pytest.mark.parametrize("name", ["cells", "delays", "alif refractory", "own taus", "current refractory", "lif zero"])
def test_the_round_trip_is_exact(name, schedule):
    net, x, shape = case(name)
    circuit = Circuit.of(net, shape)
    export = to_brian(circuit, x[:, 0], schedule=schedule)
    back = read(export.network)
    assert_same_circuit(circuit, back)
    again = read_input(export.network, len(x))
    assert torch.equal(again, x[:, 0].flatten(1))
    here, there = circuit.run(x[:, 0]), back.run(again)
    assert all(torch.equal(s, there.spikes[k]) for k, s in here.spikes.items())
    assert all(torch.equal(u, there.potentials[k]) for k, u in here.potentials.items())
    assert torch.equal(here.output.flatten(1), there.output)


@pytest.mark.parametrize("still", [True, False])
@pytest.mark.parametrize("schedule", ["same_step", "brian"])
def test_injected_currents_come_back_as_the_input(still, schedule):
    torch.manual_seed(0)
    net = gridded(sc.Network(sc.Linear(5, 6), sc.LIF(tau=4.0), sc.Linear(6, 2), sc.LeakyReadout(), seed=0))
    x = torch.rand(1 if still else 9, 5).double().expand(9, 5) * 4
    circuit = Circuit.of(net, (5,))
    export = to_brian(circuit, x, schedule=schedule)
    back, current = read(export.network), read_input(export.network, 9)
    assert current.shape == (9, 6)
    assert torch.equal(back.run(current).output, circuit.run(x).output)
    assert torch.equal(back.populations[0].bias, circuit.populations[0].bias)


def test_a_weight_that_changed_in_brian_is_read_and_what_was_added_is_left_out():
    net, x, shape = case("lif subtract")
    export = to_brian(Circuit.of(net, shape), x[:, 0], name="changed")
    export.synapses["lif1", "lif2"].w[3, 4] = 0.125
    export.network.add(b2.NeuronGroup(2, "v : 1", name="somebody_elses"))
    found = next(p for p in read(export.network).projections if p.source == 0 and p.target == 1)
    assert found.weight[(found.pre == 3) & (found.post == 4)].tolist() == [0.125]


def test_equations_are_recognised_and_others_are_refused():
    for kind in (sc.LIF, sc.CurrentLIF, sc.ALIF):
        for reset in ("subtract", "zero", "none"):
            for refractory in (False, True):
                assert recognise(equations(kind, reset, refractory).update, True) == (kind, reset, refractory)
    assert recognise(equations(sc.LeakyReadout).update, False) == (sc.LeakyReadout, "none", False)
    group = b2.NeuronGroup(1, "v : 1", name="stranger")
    with pytest.raises(ValueError, match=r"no group of this network was made by spikecredit\.circuits\.to_brian"):
        read(b2.Network(group))
    with pytest.raises(ValueError, match="its equations were changed"):
        recognise("u = u + 1", True)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**31), bits=st.sampled_from([10, 30, None]), delay=st.integers(0, 3))
def test_random_circuits_come_back(seed, bits, delay):
    torch.manual_seed(seed)
    net = sc.Network(sc.RecurrentLinear(3, 4), sc.Delay(delay), sc.Linear(4, 2), sc.LIF(tau=3.0), seed=seed)
    circuit = Circuit.of(net, (3,), bits)
    export = to_brian(circuit, spikes(4, 3), schedule="brian" if seed % 2 else "same_step")
    assert_same_circuit(circuit, read(export.network))


def test_from_brian_sends_our_own_export_to_read():
    net, x, shape = case("cells")
    export = to_brian(Circuit.of(net, shape), x[:, 0], name="sent")
    with pytest.raises(ValueError, match=r"made by to_brian: circuits.read\(network\)"):
        sc.circuits.from_brian(export.network)

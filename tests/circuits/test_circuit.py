"""A network as a circuit: the same numbers in torch, bit for bit, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from circuit_cases import LAYERS, NEURONS, case, gridded, image, spikes

import spikecredit as sc
from spikecredit.circuits import Circuit


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("name", [*NEURONS, *LAYERS])
def test_a_circuit_is_its_network_bit_for_bit(name):
    net, x, shape = case(name)
    with torch.no_grad():
        wanted = net(x)
    circuit = Circuit.of(net, shape)
    activity = circuit.run(x)
    assert equal(activity.output, wanted), str(circuit)
    for population, fired in activity.spikes.items():
        assert fired.any(), f"{population} is silent: nothing was compared"
        assert not fired.all(), f"{population} always fires: nothing was compared"
    single = circuit.run(x[:, 1])
    assert equal(single.output, wanted[:, 1])


def normalised() -> sc.Network:
    net = image(
        sc.Conv2d(1, 4, 3), sc.AvgPool2d(2), sc.BatchNorm2d(4), sc.LIF(tau=3.0), sc.Flatten(), sc.Linear(36, 8),
        sc.BatchNorm1d(8), sc.LIF(tau=3.0), features=8,
    )  # fmt: skip
    net.layers.pop(8)  # the second Flatten: the maps are flat already
    return net.train()


def test_batch_normalisation_is_folded_with_its_running_statistics_whatever_the_mode():
    torch.manual_seed(1)
    net = normalised()
    for _ in range(20):
        net(spikes(6, 8, 1, 8, 8, seed=_).float())
    for norm in (net.layers[2], net.layers[6]):
        norm.weight.data.uniform_(0.5, 2.0)
        norm.bias.data.uniform_(0.0, 1.0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = spikes(20, 3, 1, 8, 8, seed=99)
    circuit = Circuit.of(net, (1, 8, 8))
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    activity = circuit.run(x)
    assert all(0 < fired.double().mean() < 1 for fired in activity.spikes.values())
    net.double().eval()
    assert torch.allclose(activity.output, net(x), rtol=0, atol=1e-6)
    free = Circuit.of(net, (1, 8, 8), bits=None).run(x)
    assert not torch.equal(activity.potentials["lif1"], free.potentials["lif1"])


def test_weights_lie_on_the_grid_after_folding_and_none_leaves_them():
    torch.manual_seed(0)
    net = normalised()
    fine, coarse, free = (Circuit.of(net, (1, 8, 8), bits) for bits in (30, 8, None))
    for circuit, bits in ((fine, 30), (coarse, 8)):
        for values in [p.weight for p in circuit.projections] + [p.bias for p in circuit.populations]:
            assert torch.equal(values * 2.0**bits, torch.round(values * 2.0**bits))
    for a, b in zip(fine.projections, free.projections, strict=True):
        assert (a.weight - b.weight).abs().max() <= 2.0**-31
    assert not torch.equal(fine.projections[0].weight, free.projections[0].weight)
    assert sum(len(p.weight) for p in coarse.projections) < sum(len(p.weight) for p in free.projections)
    assert all((p.weight != 0).all() for p in coarse.projections)
    for p in fine.projections:
        key = p.pre * fine.size(p.target) + p.post
        assert (key.diff() > 0).all()


def test_sums_that_float64_may_not_hold_exactly_are_refused():
    net = sc.Network(sc.Linear(4, 1, bias=True), sc.LIF(), seed=0).double()
    net.layers[0].weight.data.fill_(1.0)
    net.layers[0].bias.data.fill_(-4.0)
    Circuit.of(net, (4,), bits=48)  # 8 < 2^4
    with pytest.raises(ValueError, match=r"lif1: inputs may add up to 8, .* sums below 2\^3 .* smaller bits"):
        Circuit.of(net, (4,), bits=49)
    for bits in (-1, 53, 1.5, True):
        with pytest.raises(ValueError, match="bits is a whole number"):
            Circuit.of(net, (4,), bits)


@pytest.mark.parametrize("layers", [(), (sc.Delay(3),)])
def test_graded_input_is_injected_and_no_batch_changes_a_bit(layers):
    torch.manual_seed(2)
    net = gridded(image(*layers, sc.Conv2d(1, 4, 3), sc.LIF(tau=3.0), features=144))
    circuit = Circuit.of(net, (1, 8, 8))
    still, moving = torch.rand(1, 5, 1, 8, 8).double().expand(12, -1, -1, -1, -1), torch.rand(12, 5, 1, 8, 8).double()
    for x in (still, moving):
        whole = circuit.run(x)
        assert torch.allclose(whole.output, net(x), rtol=0, atol=1e-12)
        assert whole.spikes["lif1"].any()
        for b in range(5):
            assert torch.equal(circuit.run(x[:, b]).potentials["lif1"], whole.potentials["lif1"][:, b])
    assert torch.equal(circuit.run(still.clone()).output, circuit.run(still).output)
    dyadic = torch.round(moving * 64) / 64
    assert torch.equal(circuit.run(dyadic).output, net(dyadic))


def test_currents_of_many_pixels_do_not_depend_on_the_batch():
    circuit = Circuit.of(sc.Network(sc.Linear(600, 40), sc.LIF(), seed=0), (600,))
    x = torch.rand(1, 9, 600).double().expand(3, -1, -1)
    whole = circuit.run(x).potentials["lif1"]
    for b in range(9):
        assert torch.equal(circuit.run(x[:, b]).potentials["lif1"], whole[:, b])


def test_cells_of_two_kinds_are_two_populations_whose_synapses_have_their_signs():
    net, _, shape = case("cells")
    circuit = Circuit.of(net, shape)
    names = [p.name for p in circuit.populations]
    assert names == ["ei1_excitatory", "ei1_inhibitory", "ei2_excitatory", "ei2_inhibitory", "readout1"]
    assert [p.level for p in circuit.populations] == [1, 1, 2, 2, 3]
    for p in circuit.projections:
        if p.source is not None:
            assert ((p.weight > 0) == (circuit.name(p.source).endswith("excitatory"))).all()
    assert {(circuit.name(p.source), circuit.name(p.target)) for p in circuit.projections if p.delay == 1} == {
        (a, b) for a in names[2:4] for b in names[2:4]
    }


def test_the_report_counts_what_the_grid_and_what_float32_change():
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(64, 40, bias=False), sc.LIF(tau=1 / math.log(2)), sc.Linear(40, 2), sc.LeakyReadout(), seed=0
    )
    net.layers[0].weight.data = torch.round(torch.randn(40, 64) * 2) / 10  # multiples of 0.1: ties at threshold 1
    x = spikes(60, 8, 64, rate=0.1).float()
    circuit = Circuit.of(net, (64,), bits=6)
    report = circuit.report(net, x)
    fired = circuit.run(x).spikes["lif1"]
    found = report.populations["lif1"]
    assert (found.spikes, found.entries) == (int(fired.sum()), fired.numel())
    assert found.by_precision == int((fired != (net.layers[1](net.layers[0](x)) > 0)).sum())
    assert found.by_grid == int((fired != Circuit.of(net, (64,), bits=None).run(x).spikes["lif1"]).sum())
    assert found.by_grid and found.by_precision
    assert found.distance == float((circuit.run(x).potentials["lif1"] - 1).abs().min()) < 1e-2
    assert list(report.populations) == ["lif1"]
    assert str(report).splitlines()[1].startswith("lif1")
    with pytest.raises(ValueError, match="not made from this network"):
        Circuit.of(sc.Network(sc.Linear(64, 2), sc.ALIF()), (64,)).report(net, x)
    with pytest.raises(ValueError, match=r"x of shape \(T, B"):
        circuit.report(net, x[:, 0])


def test_distances_are_those_of_neurons_that_decide():
    for name in ("lif refractory", "alif refractory", "current refractory"):
        net, x, shape = case(name)
        circuit = Circuit.of(net, shape)
        activity, near = circuit.run(x), circuit.distances(x)
        for population in circuit.populations[:2]:
            s, u = activity.spikes[population.name], activity.potentials[population.name]
            neuron = population.neuron
            hold, a, least = torch.zeros_like(s[0], dtype=int), torch.zeros_like(u[0]), math.inf
            for t in range(len(s)):
                threshold = neuron.threshold + (neuron.adaptation * a if isinstance(neuron, sc.ALIF) else 0)
                least = min(least, float((u[t] - threshold).abs()[hold == 0].min()))
                hold = torch.where(s[t], max(0, neuron.refractory - 1), (hold - 1).clamp(min=0))
                a = a * neuron.decay_adaptation() + s[t] if isinstance(neuron, sc.ALIF) else a
            assert near[population.name] == pytest.approx(least, rel=1e-12)


def test_while_a_neuron_is_held_its_threshold_may_come_near():
    """u = 1.5 fires at threshold 1, 0.5 away; while u is held the threshold is 1 + 0.5, and nothing is decided."""
    net = sc.Network(sc.Linear(1, 1, bias=False), sc.ALIF(adaptation=0.5, refractory=3), seed=0)
    net.layers[0].weight.data.fill_(1.5)
    assert Circuit.of(net, (1,)).distances(torch.tensor([[1.0], [0.0], [0.0]])) == {"alif1": 0.5}


REFUSED = {
    "maximum of currents": (
        [sc.Conv2d(1, 2, 3), sc.MaxPool2d(2), sc.LIF()],
        r"layers\[1\], MaxPool2d takes the maximum of currents.*AvgPool2d",
    ),
    "maximum of a mean": ([sc.LIF(), sc.AvgPool2d(2), sc.MaxPool2d(2), sc.LIF()], "maximum of currents"),
    "soft pool": ([sc.LIF(), sc.SoftPool2d(2), sc.LIF()], "soft maximum: take AvgPool2d"),
    "rate": ([sc.Conv2d(1, 2, 3), sc.ReLU(), sc.Conv2d(2, 1, 3), sc.LIF()], "ReLU hands on a rate.*take LIF"),
    "rates of a kind": (
        [sc.Conv2d(1, 2, 3), sc.EINeurons(sc.LIF(), sc.ReLU(), torch.tensor([1, -1]))],
        "ReLU neurons have no spikes",
    ),
    "residual": ([sc.architectures.Residual([], [sc.LIF()], [])], "residual block"),
    "torch's own": (
        [torch.nn.GELU(), sc.LIF()],
        "nothing in a circuit computes the same; a circuit has Linear, Conv2d",
    ),
    "potentials": ([sc.LeakyReadout(), sc.Conv2d(1, 2, 3), sc.LIF()], "LeakyReadout before it hands on potentials"),
    "potentials at once": ([sc.LeakyReadout(), sc.LIF()], "would hear potentials"),
    "late bias": ([sc.Conv2d(1, 2, 3), sc.Delay(2), sc.LIF()], "put Delay before the synapses"),
    "no end": ([sc.LIF(), sc.Conv2d(1, 2, 3)], "lead to no neurons"),
    "late end": ([sc.LIF(), sc.Delay(1)], "lead to no neurons"),
    "no neurons": ([sc.Flatten()], "lead to no neurons"),
    "division": ([sc.DANNConv2d(1, 4, 3), sc.LIF()], "divisive=False"),
    "recurrent rates": ([sc.Flatten(), sc.RecurrentLinear(64, 3, sc.Tanh())], "recurrent synapses carry spikes"),
    "wrong size": ([sc.Flatten(), sc.Linear(63, 3), sc.LIF()], r"takes \(\.\.\., 63\), but what reaches it is \(64,\)"),
    "two steps": ([sc.LIF(dt=1.0), sc.Conv2d(1, 2, 3), sc.LIF(dt=0.5)], r"one time step dt, got \[0.5, 1.0\] ms"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_circuit_has_is_refused_with_what_to_write(name):
    layers, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Circuit.of(sc.Network(*layers, seed=0), (1, 8, 8))


def test_inputs_that_do_not_fit_are_refused():
    net, x, shape = case("maximum at borders")
    circuit = Circuit.of(net, shape)
    with pytest.raises(ValueError, match="put a layer of neurons before MaxPool2d"):
        circuit.run(x / 2)
    with pytest.raises(ValueError, match=r"takes \(T, \*\(1, 8, 8\)\)"):
        circuit.run(x[..., :-1])
    with pytest.raises(TypeError, match=r"a circuit is made from a spikecredit\.Network, got Linear"):
        Circuit.of(torch.nn.Linear(2, 2), (2,))


def test_a_circuit_made_by_hand_is_checked():
    net, _, shape = case("recurrent")
    c = Circuit.of(net, shape)
    with pytest.raises(ValueError, match="from lif1 to lif1 has a delay of 0"):
        replace(c, projections=tuple(replace(p, delay=0) for p in c.projections))
    with pytest.raises(ValueError, match="names of their own"):
        replace(c, populations=tuple(replace(p, name="input") for p in c.populations))
    with pytest.raises(ValueError, match="no neurons"):
        replace(c, populations=())

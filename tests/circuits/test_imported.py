"""Gradients of imported circuits, and the way back of their weights."""

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2 import ms, mV
from brian_networks import DT, random_network, same, spikes_of
from torch import Tensor

import spikecredit as sc
from spikecredit.circuits import CircuitError, from_brian


@pytest.fixture(autouse=True)
def clock() -> None:
    b2.defaultclock.dt = DT


SCALE = 2.0**-10  # of the physical potential: exact, so that both loops round alike


def network(
    refractory=False, flag: str = "", reset: str = "v = 0*volt", physical: bool = False, threshold: str = "v > theta"
) -> b2.Network:
    """6 neurons with current, 4 sources, delays 0 to 2 in the input and 1 in the recurrence; in volts or without."""
    unit, scale = ("volt", SCALE) if physical else ("1", 1.0)
    rng = np.random.default_rng(5)
    group = b2.NeuronGroup(
        6, f"dv/dt = (x - v)/(2*ms) : {unit} {flag}\ndx/dt = -x/(1*ms) : {unit}", threshold=threshold, method="exact",
        reset=reset if physical else reset.replace("*volt", ""), refractory=refractory, name="G",
        namespace={"theta": scale * b2.volt if physical else scale},
    )  # fmt: skip
    times = np.nonzero(rng.random((40, 4)) < 0.3)
    source = b2.SpikeGeneratorGroup(4, times[1], times[0] * DT, name="I")
    feed = b2.Synapses(source, group, f"w : {unit}", on_pre="x += w", name="S")
    feed.connect()
    feed.w_ = 6 * scale * rng.random(24)
    feed.delay = rng.integers(0, 3, 24) * DT
    back = b2.Synapses(group, group, f"w : {unit}", on_pre="v_post += w", name="R", delay=DT)
    back.connect(condition="i != j")
    back.w_ = scale * rng.normal(size=30)
    return b2.Network(group, source, feed, back)


def dense(circuit, name: str, delay: int | None = None) -> Tensor:
    """W (sources, targets) of some synapses, differentiable."""
    pre, post = (torch.tensor(each, dtype=torch.int64) for each in circuit.plan.ends[name])
    w = circuit.weight(name, "w")
    if delay is not None:
        steps = {
            int(k): b.delay for p in circuit.pathways if p.name.startswith(name) for b in p.blocks for k in b.synapse
        }
        w = w * torch.tensor([steps[k] == delay for k in range(len(w))])
    return torch.zeros(int(pre.max()) + 1, 6, dtype=torch.float64).index_put((pre, post), w)


def loop(circuit, x: Tensor, surrogate, refractory: int, held: bool, subtract: bool, detach: bool, theta=1.0) -> Tensor:
    """Potentials (T, 6), by an explicit loop over dense matrices that autograd differentiates."""

    def fire(v: Tensor) -> Tensor:
        smooth = surrogate.derivative(v.detach()) * v
        return (v > 0).double() + smooth - smooth.detach()

    a, b = np.exp(-0.1 / 2), np.exp(-0.1 / 1)
    gain = (b - a) / (1 - 2)  # of the exact solution: v <- a v + (tau_x / (tau_x - tau)) (b - a) x
    v = current = torch.zeros(6, dtype=torch.float64)
    age = torch.full((6,), 10**6)
    spikes, potentials = [], []
    for t in range(len(x)):
        able = age >= refractory
        free = able if held else torch.ones_like(able)
        v, current = torch.where(free, a * v + gain * current, v), b * current
        s = fire((v - theta) / theta) * able
        spikes.append(s)
        age = torch.where(s > 0, 0, age) + 1
        free = able & (s == 0) if held else torch.ones_like(able)
        for delay in range(3):
            if t >= delay:
                current = current + x[t - delay] @ dense(circuit, "S", delay)
        if t:
            v = torch.where(free, v + spikes[t - 1] @ dense(circuit, "R"), v)
        r = s.detach() if detach else s
        v = v - r * theta if subtract else (1 - r) * v
        potentials.append(v)
    return torch.stack(potentials)


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "attached"])
@pytest.mark.parametrize(
    ("refractory", "flag", "reset"),
    [(0, "", "v = 0*volt"), (0, "", "v -= theta"), (4, "", "v = 0*volt"), (4, "(unless refractory)", "v -= theta")],
)
def test_gradients_are_those_of_an_explicit_loop(refractory: int, flag: str, reset: str, detach: bool) -> None:
    surrogate = sc.Triangle(gamma=0.7, width=0.8)
    made = network(refractory * DT if refractory else False, flag, reset)
    circuit = from_brian(made, surrogate=surrogate, detach_reset=detach)
    x = (torch.rand(40, 1, 4, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    ours = circuit(40, {"I": x}, record=["G.v"])
    target = torch.randn(39, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (ours.variables["G.v"][1:, 0] * target).sum().backward()  # recorded at the beginning of a step
    found = {name: p.grad.clone() for name, p in circuit.named_parameters()}
    circuit.zero_grad()
    theirs = loop(circuit, x[:, 0], surrogate, refractory, bool(flag), "-=" in reset, detach)
    torch.testing.assert_close(ours.variables["G.v"][1:, 0], theirs[:-1], rtol=1e-13, atol=1e-13)
    (theirs[:-1] * target).sum().backward()
    assert ours.spikes["G"].sum() > 20
    for name, p in circuit.named_parameters():
        assert p.grad.abs().max() > 0.1
        torch.testing.assert_close(found[name], p.grad, rtol=1e-10, atol=1e-10, msg=name)


def test_without_spikes_the_gradient_is_that_of_finite_differences() -> None:
    circuit = from_brian(network(), surrogate=sc.Triangle(width=1e-9))  # one that is 0 where nothing fires
    with torch.no_grad():
        circuit.weight("S", "w").mul_(0.02)
    x = (torch.rand(15, 2, 4, generator=torch.Generator().manual_seed(1)) < 0.3).double()

    def last() -> Tensor:
        recording, state = circuit.stream(15, {"I": x}, circuit.initial(2))
        assert recording.spikes["G"].sum() == 0
        return state.variables["G.v"].square().sum()

    last().backward()
    w = circuit.weight("S", "w")
    for k in (0, 7, 23):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                w[k] += sign * 1e-6
            values.append(last().item())
            with torch.no_grad():
                w[k] -= sign * 1e-6
        assert abs((values[0] - values[1]) / 2e-6 - float(w.grad[k])) < 1e-8 and w.grad[k] != 0


def test_a_circuit_in_volts_learns_as_the_same_one_without_units() -> None:
    """Weights scale by s, gradients by 1/s: the span, from reset to threshold, makes the surrogate dimensionless."""
    grads = []
    for physical in (False, True):
        circuit = from_brian(network(physical=physical))
        out = circuit(40).spikes["G"]
        assert out.sum() > 20
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        grads.append(torch.cat([p.grad for p in circuit.parameters()]))
    torch.testing.assert_close(grads[1] * SCALE, grads[0], rtol=1e-12, atol=0)
    wider = from_brian(network(physical=True), span={"G": 4 * SCALE * b2.volt})
    out = wider(40).spikes["G"]
    (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
    assert (torch.cat([p.grad for p in wider.parameters()]) * SCALE - grads[0]).abs().max() > 1e-3


def test_the_surrogate_is_the_one_that_was_asked_for_and_inputs_have_gradients() -> None:
    found = []
    for surrogate in (None, sc.FastSigmoid(), sc.ArcTan()):
        circuit = from_brian(network(), surrogate=surrogate)
        x = torch.full((40, 1, 4), 1.0, dtype=torch.float64, requires_grad=True)
        circuit(40, {"I": x}).spikes["G"].sum().backward()
        assert x.grad.abs().sum() > 0
        found.append(circuit.weight("R", "w").grad)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_threshold_may_be_written_from_either_side() -> None:
    grads = []
    for threshold in ("v > theta", "theta < v"):
        circuit = from_brian(network(threshold=threshold))
        circuit(40).spikes["G"].square().sum().backward()
        grads.append(circuit.weight("R", "w").grad)
    assert torch.equal(*grads) and grads[0].abs().max() > 0


def test_import_train_write_back_simulate() -> None:
    made = random_network(3, refractory=1 * ms, flag="(unless refractory)")
    circuit = from_brian(made)
    with torch.no_grad():
        before = circuit(100).spikes["G"].sum()
    optimizer = torch.optim.Adam(circuit.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        circuit(40).spikes["G"].sum().backward()  # towards silence
        optimizer.step()
    circuit.write_back(made)
    for name in circuit.plan.ends:
        np.testing.assert_array_equal(made[name].w[:], circuit.weight(name, "w").detach().numpy())
    same(made, circuit, 100)
    assert spikes_of(made["spikes"], 100).sum() < 0.9 * before
    again = random_network(3, refractory=1 * ms, flag="(unless refractory)")
    circuit.write_back(again)
    assert all(torch.equal(a, b) for a, b in zip(circuit.parameters(), from_brian(again).parameters(), strict=True))


def test_weights_are_written_only_where_they_belong() -> None:
    circuit = from_brian(network())
    with pytest.raises(ValueError, match="the network holds no object 'R'"):
        circuit.write_back(b2.Network(*[item for item in network().objects if item.name != "R"]))
    group = b2.NeuronGroup(6, "v : 1\nx : 1", threshold="v > 1", reset="v = 0")
    source = b2.SpikeGeneratorGroup(4, [], [] * ms)
    one = b2.Synapses(source, group, "w : 1", on_pre="x += w", name="S")
    one.connect(j="i")
    two = b2.Synapses(group, group, "w : 1", on_pre="v_post += w", name="R")
    two.connect(condition="i != j")
    with pytest.raises(ValueError, match="S: the synapses connect other neurons"):
        circuit.write_back(b2.Network(group, source, one, two))


def test_signs_are_kept_by_projection() -> None:
    made = network()
    made["R"].w = "(1 - 2*int(i >= 4)) * (0.1 + rand()) * int(i != 2)"
    made["S"].w = "rand()"
    circuit = from_brian(made)
    with torch.no_grad():
        for p in circuit.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype))
    before = circuit.weight("R", "w").detach().clone()
    circuit.project_signs()
    source, w = made["R"].i[:], circuit.weight("R", "w").detach()
    assert torch.all(w[source < 4] >= 0) and torch.all(w[source >= 4] <= 0) and torch.all(w[source == 2] == 0)
    assert torch.all(w[w != 0] == before[w != 0]) and 5 < (w == 0).sum() < 25
    assert torch.all(circuit.weight("S", "w") >= 0)
    with pytest.raises(ValueError, match=r"R\.w: neuron 0 came with weights of both signs"):
        from_brian(network()).project_signs()


def test_one_weight_for_all_synapses_and_weights_in_products() -> None:
    group = b2.NeuronGroup(3, "dv/dt = -v/(5*ms) : volt\nfactor : 1 (constant)", threshold="v > 20*mV",
                           reset="v = 0*mV", method="exact", name="G")  # fmt: skip
    group.v, group.factor = [25, 5, 0] * mV, [1, 2, 3]
    all_ = b2.Synapses(
        group, group, "w : volt (shared)\nk : 1", on_pre="x = w*k*factor_post\nv_post += 3*x - w", name="S"
    )
    all_.connect()
    all_.w, all_.k = 2 * mV, "4*i + 2"
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    made = b2.Network(group, all_, *monitors)
    circuit = from_brian(made)
    assert circuit.weight("S", "w").shape == (1,) and circuit.weight("S", "k").shape == (9,)
    circuit(50).spikes["G"].sum().backward()
    assert circuit.weight("S", "w").grad.abs() > 0
    circuit.project_signs()
    assert circuit.weight("S", "w").item() == 0.002
    assert same(made, circuit, 50) > 1


def test_a_network_that_has_run_is_read_again_once_it_is_restored() -> None:
    made = network()
    before = from_brian(made)(40).spikes["G"]
    made.store()
    made.run(2 * ms)
    with pytest.raises(CircuitError, match=r"has run until t = 0\.002 s"):
        from_brian(made)
    made.restore()
    assert torch.equal(from_brian(made)(40).spikes["G"], before) and before.sum() > 20

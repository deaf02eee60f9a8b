"""Brian2 networks in torch: the same spikes and the same bits, and sentences for all that has no counterpart."""

import sys

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2 import Hz, ms, mV, nA, nS, pA, pF, volt
from brian_networks import DT, generator, random_network, same, spikes_of

from spikecredit.circuits import CircuitError, balanced, from_brian


@pytest.fixture(autouse=True)
def clock() -> None:
    b2.defaultclock.dt = DT


@pytest.mark.parametrize(
    ("reset", "refractory", "flag"),
    [
        ("v -= 1", False, ""), ("v = 0", False, ""), ("v -= 1", 2 * ms, ""), ("v = 0", 2 * ms, "(unless refractory)"),
        ("v -= 1", 0 * ms, "(unless refractory)"),
    ],
    ids=["subtract", "zero", "2 ms", "2 ms, held", "0 ms, held"],
)  # fmt: skip
def test_random_networks_have_the_same_spikes_and_the_same_bits(reset: str, refractory, flag: str) -> None:
    """Any weights, no grid: events are added one by one in Brian2's order."""
    network = random_network(1, reset, refractory, flag)
    assert same(network, from_brian(network), 120, variables=("v", "ge", "gi")) > 80


def test_a_batch_is_its_samples_and_a_run_may_be_cut() -> None:
    circuit = from_brian(random_network(2, refractory=1 * ms, flag="(unless refractory)"))
    x = (torch.rand(90, 3, 20, generator=torch.Generator().manual_seed(0)) < 0.05).double()
    with torch.no_grad():
        whole = circuit(90, {"I": x}, record=["G.v"])
        for sample in range(3):
            alone = circuit(90, {"I": x[:, [sample]]}, record=["G.v"])
            assert torch.equal(alone.variables["G.v"][:, 0], whole.variables["G.v"][:, sample])
        state, parts = circuit.initial(3), []
        for low, high in ((0, 7), (7, 50), (50, 90)):
            part, state = circuit.stream(high - low, {"I": x[low:high]}, state, record=["G.v"])
            parts.append(part)
    assert torch.equal(torch.cat([part.variables["G.v"] for part in parts]), whole.variables["G.v"])
    assert torch.equal(torch.cat([part.spikes["G"] for part in parts]), whole.spikes["G"])
    assert whole.spikes["G"].sum() > 100 and state.number == 90


@pytest.mark.parametrize("method", ["exact", "exponential_euler", "euler", "rk4"])
def test_every_method_in_physical_units(method: str) -> None:
    namespace = {"C": 200 * pF, "g": 10 * nS, "E": -70 * mV, "tau_s": 3 * ms}
    equations = """dv/dt = (g*(E - v) + current + drive) / C : volt (unless refractory)
                   dcurrent/dt = -current / tau_s : amp
                   drive : amp"""
    group = b2.NeuronGroup(
        4, equations, threshold="v > -50*mV", reset="v = -60*mV; current += 20*pA", refractory=1 * ms, method=method,
        namespace=namespace, name="G",
    )  # fmt: skip
    group.v, group.drive = -65 * mV, [0, 150, 250, 400] * pA
    source = generator("I", np.random.default_rng(0).random((150, 3)) < 0.1)
    synapses = b2.Synapses(source, group, "w : amp", on_pre="current_post += w", name="S")
    synapses.connect()
    synapses.w = np.random.default_rng(1).random(12) * nA
    monitors = (
        b2.SpikeMonitor(group, name="spikes"),
        b2.StateMonitor(group, ["v", "current"], record=True, name="states"),
    )
    network = b2.Network(group, source, synapses, *monitors)
    assert same(network, from_brian(network), 150, variables=("v", "current")) > 10


def test_ties_are_decided_by_the_order_of_events() -> None:
    """Weights of tenths and a threshold of 1: the order of additions decides. One sum at the end gives other bits."""
    rng = np.random.default_rng(0)
    fired = rng.random((150, 256)) < 0.1
    w = np.round(2 * rng.normal(size=(256, 64, 2))) / 10  # two synapses between every two neurons
    group = b2.NeuronGroup(64, "dv/dt = -v/tau : 1", threshold="v > 1", reset="v -= 1", method="exact", name="G",
                           namespace={"tau": DT / np.log(2)})  # fmt: skip
    source = generator("I", fired)
    synapses = b2.Synapses(source, group, "w : 1", on_pre="v += w", name="S")
    synapses.connect(n=2)
    synapses.w = w.ravel()
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(group, source, synapses, *monitors)
    circuit = from_brian(network)
    assert same(network, circuit, 150) > 300
    v, potentials = np.zeros(64), []
    for t in range(150):
        potentials.append(v)
        v = 0.5 * v
        v = v + fired[t].astype(float) @ w.sum(2) - (v > 1)
    assert (np.array(potentials)[:5] != network["states"].v.T[:5]).any()


@pytest.mark.parametrize(("steps", "interval"), [(0, 1), (1, 1), (2, 2), (3, 3), (5, 5)])
def test_refractory_table(steps: int, interval: int) -> None:
    """Refractory for k steps: the next spike comes k steps later, for 0 and 1 in the next one."""
    group = b2.NeuronGroup(1, "dv/dt = 20/ms : 1 (unless refractory)", threshold="v > 1", reset="v = 0",
                           refractory=steps * DT, method="euler", name="G")  # fmt: skip
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(group, *monitors)
    same(network, from_brian(network), 30)
    assert set(np.diff(np.rint(network["spikes"].t / DT))) == {interval}


@pytest.mark.parametrize(("reset", "spikes"), [("v = 0", 2), ("v -= 1", 3)])
def test_input_in_the_step_of_a_spike_is_lost_with_a_reset_to_zero(reset: str, spikes: int) -> None:
    """Brian2 issue 1332: synapses come before resets."""
    source = generator("I", np.ones((3, 1)))
    group = b2.NeuronGroup(1, "v : 1", threshold="v > 1", reset=reset, name="G")
    synapses = b2.Synapses(source, group, on_pre="v += 1.1", name="S")
    synapses.connect()
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(source, group, synapses, *monitors)
    assert same(network, from_brian(network), 8) == spikes


def test_input_of_a_refractory_neuron_is_lost_only_if_its_variable_is_held() -> None:
    for flag, spikes in (("(unless refractory)", 1), ("", 2)):
        source = generator("I", np.array([1, 0, 1, 1, 0, 0, 0, 0, 0, 0])[:, None])
        group = b2.NeuronGroup(1, f"dv/dt = 0/second : 1 {flag}", threshold="v > 1", reset="v = 0", refractory=5 * DT,
                               method="euler", name="G")  # fmt: skip
        synapses = b2.Synapses(source, group, on_pre="v += 1.1", name="S")
        synapses.connect()
        monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
        network = b2.Network(source, group, synapses, *monitors)
        assert same(network, from_brian(network), 10) == spikes


def test_each_neuron_may_have_its_own_refractory_period_and_threshold() -> None:
    group = b2.NeuronGroup(3, "dv/dt = 20/ms : 1 (unless refractory)\nrest : second\ntheta : 1",
                           threshold="v >= theta", reset="v = 0; theta += 0.25", method="euler",
                           refractory="rest + 0.1*ms", name="G")  # fmt: skip
    group.rest, group.theta = [0, 3, 7] * DT, [1, 2, 4]
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(group, *monitors)
    same(network, from_brian(network, span={"G": 1.0}), 60)
    assert np.all(network["spikes"].count[:] > [10, 5, 3])


def test_synapses_may_have_several_pathways_with_delays_of_their_own() -> None:
    source = generator("I", np.random.default_rng(0).random((100, 5)) < 0.1)
    group = b2.NeuronGroup(5, "dv/dt = (x - v)/(3*ms) : 1\ndx/dt = -x/(2*ms) : 1", threshold="v > 1", reset="v = 0",
                           method="exact", name="G")  # fmt: skip
    synapses = b2.Synapses(source, group, "w : 1", on_pre={"near": "x += w", "far": "v -= 0.5*w\nx -= 0.3"}, name="S",
                           delay={"near": DT, "far": 3 * DT})  # fmt: skip
    synapses.connect()
    synapses.w = np.random.default_rng(1).random(25) * 6
    synapses.near.order = -2  # before the other; by their names, which decide otherwise, it would come after
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, ["v", "x"], record=True, name="states")
    network = b2.Network(group, source, synapses, *monitors)
    assert same(network, from_brian(network), 100, variables=("v", "x")) > 20


def test_poisson_sources_are_given_or_drawn() -> None:
    poisson = b2.PoissonGroup(50, rates=np.linspace(0, 400, 50) * Hz, name="P")
    group = b2.NeuronGroup(5, "dv/dt = -v/(10*ms) : 1", threshold="v > 1", reset="v = 0", method="exact", name="G")
    synapses = b2.Synapses(poisson, group, on_pre="v += 0.3", name="S")
    synapses.connect(j="i % 5")
    background = b2.PoissonInput(group, "v", 100, 50 * Hz, weight=0.1)
    heard = b2.SpikeMonitor(poisson, name="heard")
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(poisson, group, synapses, background, heard, *monitors)
    circuit = from_brian(network)
    with pytest.raises(ValueError, match="is random: give its spikes or counts"):
        circuit(10)
    drawn, again, other = (circuit(500, seed=seed, batch=4) for seed in (0, 0, 1))
    assert torch.equal(drawn.spikes["G"], again.spikes["G"]) and not torch.equal(drawn.spikes["G"], other.spikes["G"])
    rates = drawn.spikes["P"].sum((0, 1)) / 0.2
    assert rates[0] == 0 and torch.allclose(rates, torch.linspace(0, 400, 50, dtype=torch.float64), atol=4 * 45)
    assert abs(rates.mean() - 200) < 4 * (200 / 10) ** 0.5
    first, state = circuit.stream(200, state=circuit.initial(4), seed=0)
    assert torch.equal(
        torch.cat([first.spikes["G"], circuit.stream(300, state=state, seed=0)[0].spikes["G"]]), drawn.spikes["G"]
    )
    network.remove(background)
    circuit = from_brian(network)
    network.store()
    network.run(20 * ms)
    given = torch.tensor(spikes_of(heard, 200)[:, None], dtype=torch.float64)
    ours = circuit(200, {"P": given})
    np.testing.assert_array_equal(ours.spikes["G"][:, 0].numpy().astype(bool), spikes_of(network["spikes"], 200))
    assert ours.spikes["G"].sum() > 10


def test_poisson_input_adds_weight_times_count() -> None:
    """With a probability of 1 the count is N in both, and lost by refractory neurons; else it is drawn."""

    def neurons():
        return b2.NeuronGroup(200, "dv/dt = -v/(10*ms) : volt (unless refractory)", threshold="v > 5*mV",
                              reset="v = 0*volt", refractory=3 * DT, method="exact", name="G")  # fmt: skip

    group = neurons()
    certain = b2.PoissonInput(group, "v", 7, 1 / DT, weight=0.3 * mV)
    monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
    network = b2.Network(group, certain, *monitors)
    counts = torch.full((20, 1, 200), 7.0)
    assert same(network, from_brian(network), 20, inputs={certain.name: counts}) >= 400
    group = neurons()
    maybe = b2.PoissonInput(group, "v", 40, 1000 * Hz, weight=1 * volt)
    circuit = from_brian(b2.Network(group, maybe))
    counts = circuit.stream(1, state=circuit.initial(50), seed=3)[1].variables["G.v"]
    assert abs(counts.mean() - 4) < 0.1 and abs(counts.var() - 3.6) < 0.3
    given = circuit(2, {maybe.name: torch.full((2, 1, 200), 5.0)}, record=["G.v"])
    assert torch.all(given.variables["G.v"][1] == 5)


def test_time_and_run_regularly() -> None:
    drive = b2.TimedArray([0.0, 3.0, 1.5, 0.2], dt=2 * ms)
    group = b2.NeuronGroup(3, "dv/dt = (drive(t)*(i + 1) - v)/(3*ms) : 1\na : 1\nb : 1", threshold="v > 1",
                           reset="v -= 1", method="exact", name="G", namespace={"drive": drive})  # fmt: skip
    regular = group.run_regularly("a = tanh(v) - a*0.5\nv += 0.01*sqrt(abs(a)) + 0.001*exp(-v)\nb = 3/(1.7 + b**2)",
                                 when="after_resets")  # fmt: skip
    monitors = (
        b2.SpikeMonitor(group, name="spikes"),
        b2.StateMonitor(group, ["v", "a", "b"], record=True, name="states"),
    )
    network = b2.Network(group, regular, *monitors)
    circuit = from_brian(network)
    ours = circuit(100, record=["G.v", "G.a", "G.b"])
    network.run(100 * DT)
    np.testing.assert_array_equal(
        ours.spikes["G"][:, 0].detach().numpy().astype(bool), spikes_of(network["spikes"], 100)
    )
    np.testing.assert_array_equal(ours.variables["G.b"][:, 0].numpy(), network["states"].b.T)
    for name in ("v", "a"):  # exp and tanh are not rounded as numpy's
        expected = getattr(network["states"], f"{name}_").T
        np.testing.assert_allclose(ours.variables[f"G.{name}"][:, 0].detach().numpy(), expected, atol=1e-13)
    assert len(network["spikes"].t) > 5


def test_the_order_within_a_step_is_the_networks_own() -> None:
    """Resets before synapses: no input is lost. Brian2 itself runs this order if it is told to."""
    found = []
    for when in ("resets", "before_synapses"):
        source = generator("I", np.ones((3, 1)))
        group = b2.NeuronGroup(1, "v : 1", threshold="v > 1", reset="v = 0", name="G")
        group.resetter["spike"].when = when
        synapses = b2.Synapses(source, group, on_pre="v += 1.1", name="S")
        synapses.connect()
        monitors = b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "v", record=True, name="states")
        network = b2.Network(source, group, synapses, *monitors)
        found.append(same(network, from_brian(network), 8))
    assert found == [2, 3]


def test_layers_that_fire_within_one_step_by_a_schedule_of_their_own() -> None:
    """As trained networks are often written in Brian2: slots for each layer, the reset in the next update."""
    rng, objects = np.random.default_rng(0), []
    before = generator("I", rng.random((80, 12)) < 0.2)
    before.when, slots = "L0", ["start", "L0", "S1", "U1", "T1", "R1", "S2", "U2", "T2", "R2"]
    objects.append(before)
    for layer in (1, 2):
        group = b2.NeuronGroup(8, "u : 1\nx : 1\nr : 1", threshold="u - 1 > 0", reset="", name=f"G{layer}")
        objects.append(group.run_regularly("r = int(u - 1 > 0)\nu = (0.9*u + x) - r*1\nx = 0", when=f"U{layer}"))
        group.thresholder["spike"].when, group.resetter["spike"].when = f"T{layer}", f"R{layer}"
        synapses = b2.Synapses(before, group, "w : 1", on_pre="x_post += w", name=f"S{layer}")
        synapses.connect()
        synapses.w, synapses.pre.when = rng.normal(0.15, 0.4, len(synapses)), f"S{layer}"
        objects += [group, synapses]
        before = group
    objects += [b2.SpikeMonitor(group, name="spikes"), b2.StateMonitor(group, "u", record=True, name="states")]
    network = b2.Network(*objects)
    network.schedule = [*slots, "groups", "thresholds", "synapses", "resets", "end"]
    with pytest.raises(CircuitError, match="do not say how far"):
        from_brian(network)
    circuit = from_brian(network, span={"G1": 1.0, "G2": 1.0})
    circuit(80).spikes["G2"].sum().backward()
    assert circuit.weight("S1", "w").grad.abs().max() > 0
    assert same(network, circuit, 80, "G2", ("u",)) > 20


def network_of(equations="dv/dt = -v/(10*ms) : 1", on_pre="v_post += w", model="w : 1", more=(), **neurons):
    """A source, a neuron and synapses with something in it that cannot be imported."""
    arguments = {"threshold": "v > 1", "reset": "v = 0", "method": "euler", "name": "G", **neurons}
    group = b2.NeuronGroup(2, equations, **arguments)
    source = generator("I", np.ones((3, 2)))
    on = on_pre if isinstance(on_pre, dict) else {"on_pre": on_pre}
    synapses = b2.Synapses(source, group, model, name="S", method="euler", **on)
    synapses.connect()
    return b2.Network(group, source, synapses, *more)


def spoiled(change) -> b2.Network:
    network = network_of()
    change(network)
    return network


REFUSED = {
    "noise": (lambda: network_of("dv/dt = -v/(10*ms) + xi*(10*ms)**-0.5 : 1"), r"G: noise \['xi'\] is not supported"),
    "random": (lambda: network_of("dv/dt = -v/(10*ms) : 1", reset="v = rand()"), r"the function rand\(\)"),
    "power": (lambda: network_of("dv/dt = -v**3/(10*ms) : 1"), "the operation Pow of a state variable"),
    "function": (lambda: network_of("dv/dt = -sin(v)/(10*ms) : 1"), r"the function sin\(\) of a state variable"),
    "plasticity": (lambda: network_of(on_pre="v_post += w; w += 0.1"), "writes S.w, which is the synapse's"),
    "post": (lambda: network_of(on_pre={"on_pre": "v += w", "on_post": "w += 1"}), "S: on_post `w .= 1`"),
    "traces": (lambda: network_of(model="w : 1\ndx/dt = -x/ms : 1 (event-driven)"), "event-driven equations of .'x'."),
    "equations": (lambda: network_of(model="w : 1\ndx/dt = -x/ms : 1 (clock-driven)"), "differential equations"),
    "source": (lambda: recurrent("v_pre += w"), "which is the source's"),
    "assignment": (lambda: network_of(on_pre="v_post = w"), "does not add"),
    "state": (lambda: network_of(on_pre="v_post += w*(2 - v_post)"), "depends on v_post, which changes in time"),
    "summed": (lambda: network_of("g : 1", on_pre="g += w", model="w : 1\ng_post = w : 1 (summed)"), "summed"),
    "condition": (lambda: network_of(refractory="v > 0.5"), "is a condition"),
    "threshold": (lambda: network_of(threshold="v > 1 and v < 5"), "is not one comparison"),
    "constant threshold": (lambda: network_of("v : 1\nx : 1", threshold="x > 0"), "no variable that changes"),
    "span": (lambda: network_of(reset="v *= 0.5"), r"write span={'G': ...}"),
    "events": (lambda: network_of(events={"burst": "v > 2"}), r"events \['burst'\]"),
    "linked": (lambda: network_of("dv/dt = -v/(10*ms) : 1\nx : 1 (linked)"), "linked variables"),
    "half a step": (lambda: spoiled(lambda n: setattr(n["S"], "delay", 0.25 * ms)), "2.5 steps, which"),
    "clock": (lambda: network_of(dt=1 * ms), "dt = 0.0001 s, others have 0.001 s|dt = 0.001 s, others have 0.0001 s"),
    "inactive": (lambda: spoiled(lambda n: setattr(n["S"], "active", False)), "is not active"),
    "has run": (lambda: spoiled(lambda n: n.run(1 * ms)), "read it before its first run"),
    "operation": (lambda: network_of(more=[b2.NetworkOperation(lambda: None, name="N")]), "N runs Python code"),
    "rates": (lambda: network_of(more=[b2.PoissonGroup(2, "t*Hz/ms", name="P")]), "P: rates `t.Hz/ms` may change"),
    "period": (lambda: network_of(more=[b2.SpikeGeneratorGroup(1, [0], [0] * ms, period=1 * ms)]), "period is not"),
    "empty": (lambda: b2.Network(), "holds no neurons"),
    "float32": (lambda: network_of(dtype=np.float32), "of type float32; supported is float64"),
    "shared": (lambda: shared(), "shared variable G.x"),
    "spatial": (lambda: b2.Network(b2.SpatialNeuron(
        b2.Soma(10 * b2.um), "Im = 0*amp/meter**2 : amp/meter**2", name="N")), "is a|holds no neurons"),
}  # fmt: skip


def recurrent(on_pre: str) -> b2.Network:
    group = b2.NeuronGroup(2, "dv/dt = -v/(10*ms) : 1", threshold="v > 1", reset="v = 0", method="euler", name="G")
    synapses = b2.Synapses(group, group, "w : 1", on_pre=on_pre, name="S")
    synapses.connect()
    return b2.Network(group, synapses)


def shared() -> b2.Network:
    group = b2.NeuronGroup(2, "v : 1\nx : 1 (shared)", threshold="v > 1", reset="v = 0", name="G")  # fmt: skip
    return b2.Network(group, group.run_regularly("x += 1", dt=DT))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_with_a_sentence(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(CircuitError, match=sentence):
        from_brian(make())


def test_wrong_arguments_say_what_is_right() -> None:
    network = network_of()
    with pytest.raises(ValueError, match=r"span: \['I'\] are no groups with a threshold; those are \['G'\]"):
        from_brian(network, span={"I": 1.0})
    with pytest.raises(ValueError, match="must be above 0"):
        from_brian(network, span={"G": 0.0})
    circuit = from_brian(network)
    with pytest.raises(ValueError, match=r"'J' is no source of this circuit; its sources are \['I'\]"):
        circuit(3, {"J": torch.zeros(3, 1, 2)})
    with pytest.raises(ValueError, match=r"'I' is \(T, B, N\) = \(3, 1, 2\), got \(4, 1, 2\)"):
        circuit(3, {"I": torch.zeros(4, 1, 2)})
    with pytest.raises(ValueError, match="'I' holds spikes, which are 0 or 1"):
        circuit(3, {"I": torch.full((3, 1, 2), 0.5)})
    with pytest.raises(ValueError, match=r"record: 'G.u' is no variable that changes; those are \['G.v'\]"):
        circuit(3, record=["G.u"])
    with pytest.raises(ValueError, match=r"write circuit.double\(\)"):
        circuit.float()(3)
    with pytest.raises(ValueError, match=r"write circuit.cpu\(\)"):
        circuit.double().to("meta")(3)


def test_names_are_those_where_it_is_called_or_those_given() -> None:
    tau, theta = 5 * ms, 0.4  # noqa: F841
    network = network_of("dv/dt = (1 - v)/tau : 1", threshold="v > theta", on_pre="v += 0*w")
    here = from_brian(network)(100).spikes["G"].sum()
    there = from_brian(network, namespace={"tau": 10 * ms, "theta": 0.4})(100).spikes["G"].sum()
    assert here > there > 0
    with pytest.raises(KeyError, match="could not be resolved"):
        from_brian(network, namespace={"tau": 10 * ms})


def test_a_network_of_another_device_is_refused() -> None:
    network = network_of()
    b2.set_device("cpp_standalone", build_on_run=False)
    try:
        with pytest.raises(CircuitError, match="the device is CPPStandaloneDevice"):
            from_brian(network)
    finally:
        b2.device.reinit()
        b2.set_device("runtime")


def test_brian2_is_missed_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of()
    for name in [*sys.modules]:
        if name.partition(".")[0] == "brian2":
            monkeypatch.setitem(sys.modules, name, None)
    for call in (lambda: from_brian(network), balanced.cuba):
        with pytest.raises(ImportError, match=r"pip install 'spikecredit\[brian\]'"):
            call()

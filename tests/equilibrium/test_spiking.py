"""Relaxation by spikes: what it converges to, that synapses hear spikes only, and what its traces learn."""

import itertools
import math

import pytest
import torch
from relaxing import batch, convolutional, dense, flat, relative

import spikecredit as sc
from spikecredit.equilibrium import (
    Centred,
    ContrastiveHebbian,
    CrossEntropy,
    Holomorphic,
    Hopfield,
    Nudge,
    Phase,
    Predictive,
    SigmaDelta,
    Spikes,
    SquaredError,
    Sweeps,
    directed_change,
    free_state,
    gradient,
    sections,
    settle,
)

TRACE = 30
"""Steps, of the traces of the reference's measurement."""

CONSTANT = SigmaDelta(20 * TRACE, 20 * TRACE, epsilon=0.2, epsilon_decay=0.0, lam=1 / TRACE, lam_decay=0.0)


def network(unit=sc.HardSigmoid, seed=3):
    """The network of the reference's measurement: 40-60-10, biases 0.3, most units between 0 and 1."""
    g = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in ((40, 60), (60, 10)):
        layer = sc.Linear(a, b).double()
        with torch.no_grad():
            layer.weight.copy_(
                ((2 * torch.rand(a, b, generator=g, dtype=torch.float64) - 1) * 0.7 * math.sqrt(6 / (a + b))).T
            )
            layer.bias.fill_(0.3)
        layers += [layer, unit()]
    x = torch.rand(16, 40, generator=g, dtype=torch.float64)
    return sc.Network(*layers, seed=0).double(), x, torch.arange(16) % 10


def cosines(found, wanted):
    return [float(torch.cosine_similarity(flat([found[k][0]]), flat([wanted[k][0]]), dim=0)) for k in wanted]


def exact(net, x, y, beta=0.05):
    return gradient(net, x, y, SquaredError(), relaxation=Sweeps(2000, 2000), estimator=Centred(beta))[0]


@pytest.mark.parametrize(("steps", "bound"), [(20, 0.006), (100, 0.003), (300, 0.001)])
def test_sigma_delta_finds_the_fixed_point_of_the_rates(steps, bound):
    net, x, _ = network()
    wanted = free_state(net, x, relaxation=Sweeps(free=2000))
    settled = settle(net, x, relaxation=SigmaDelta(free=steps))
    errors = [float((a - b).abs().mean()) for a, b in zip(settled.state.s, wanted, strict=True)]
    assert sum(errors) / 2 < bound
    for trace, s in zip(settled.activities, settled.state.s, strict=True):
        assert float((trace - s).abs().mean()) < 0.832 / steps**0.584


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_with_feedback_of_its_own_too(pathway):
    net, (x, _) = dense(sc.HardSigmoid, pathway=pathway), batch()
    wanted = flat(free_state(net, x, relaxation=Sweeps(free=1000)))
    found = flat(settle(net, x, relaxation=SigmaDelta(free=2000)).state.s)
    assert float((found - wanted).abs().mean()) < 1e-3


def test_convolutions_settle_by_spikes():
    net, (x, _) = convolutional(lambda: sc.AvgPool2d(2), sc.HardSigmoid), batch((2, 12, 12))
    with torch.no_grad():
        for part in sections(net)[1:]:
            part.layer.weight.mul_(0.5)
    wanted = flat(free_state(net, x, relaxation=Sweeps(free=1000)))
    assert float((flat(settle(net, x, relaxation=SigmaDelta(free=2000)).state.s) - wanted).abs().mean()) < 1e-3


def test_what_crosses_a_synapse_is_a_spike():
    """The traces are made of zeros and ones alone: each step of them is (1 - lambda) trace or that plus lambda."""
    net, x, _ = network()
    phase, relaxation = Phase.of(sections(net), x), SigmaDelta()
    with torch.no_grad():
        state = relaxation.start(Hopfield(), phase)
        for t in range(1, 40):
            after = relaxation.run(Hopfield(), phase, 1, state)
            lam = 0.832 / t**0.584
            for before, now in zip(state.trace, after.trace, strict=True):
                z = (now - (1 - lam) * before) / lam
                assert float(torch.minimum(z.abs(), (z - 1).abs()).max()) < 1e-9
            assert after.step == t
            state = after
        whole = relaxation.run(Hopfield(), phase, 39, relaxation.start(Hopfield(), phase))
    assert all(map(torch.equal, whole.trace, state.trace))  # going on is the same as not having stopped


def test_spike_traces_learn_the_gradient():
    """Row 17 of the reference: tau = 30, centred beta = 0.2; at beta = 1 the bias of the nudge dominates."""
    net, x, y = network()
    wanted = exact(net, x, y)

    def at(beta, relaxation=CONSTANT):
        return cosines(
            gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=Centred(beta))[0], wanted
        )  # fmt: skip

    assert min(at(0.2)) > 0.97
    assert max(at(1.0)) < 0.8
    assert min(at(0.2, SigmaDelta())) > 0.93  # 30 and 20 steps of the published schedule


def test_the_change_by_spike_events_is_the_contrast_of_the_phases():
    """Each synapse, step by step from both traces (pair STDP in both directions), adds up to what `gradient` takes."""
    net, x, y = network()
    relaxation, beta = SigmaDelta(40, 25), 0.3
    found, settled = gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=Centred(beta))
    changes = [torch.zeros(60, 40, dtype=torch.float64), torch.zeros(10, 60, dtype=torch.float64)]
    with torch.no_grad():
        phase = Phase.of(sections(net), x)
        for sign in (1, -1):
            nudge = Nudge(SquaredError(), y, torch.full((16, 1), sign * beta, dtype=torch.float64))
            state = settled.state
            for _ in range(25):
                after = relaxation.run(Hopfield(), phase, 1, state, nudge)
                around = [[x, *s.trace] for s in (state, after)]
                for i in range(2):
                    pre, post = (torch.stack([now[j] for now in around]) for j in (i, i + 1))
                    both = directed_change(pre, post) + directed_change(post, pre).T
                    changes[i] -= sign * both / (2 * beta * 16)
                state = after
    assert relative(flat(changes), flat([w for w, _ in found.values()])) < 1e-12


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_membranes_learn_from_presynaptic_spikes_and_the_membrane_behind(pathway):
    """Written out: the trace of the free phase's spikes times the contrast of the postsynaptic membrane; symmetric
    weights learn in both directions."""
    net, (x, y), beta = dense(sc.HardSigmoid, pathway=pathway), batch(), 0.3
    relaxation = SigmaDelta(40, 25, learn="membranes")
    found, settled = gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=Centred(beta))
    with torch.no_grad():
        phase, free, spikes = settled.phase, relaxation.start(Hopfield(), settled.phase), []
        for _ in range(40):
            after = relaxation.run(Hopfield(), phase, 1, free)
            spikes.append(relaxation.told(free, after))
            free = after
        traces = [torch.zeros_like(s) for s in free.s]
        for t, layer in enumerate(spikes, 1):  # decoded anew, from the spikes alone
            traces = [a + 0.832 / t**0.584 * (z - a) for a, z in zip(traces, layer, strict=True)]
        s = []
        for sign in (1, -1):
            nudge = Nudge(SquaredError(), y, torch.full((len(x), 1), sign * beta, dtype=torch.float64))
            s.append(relaxation.run(Hopfield(), phase, 25, free, nudge).s)
    moved = [(a - b) / (2 * beta * len(x)) for a, b in zip(*s, strict=True)]
    for i, (w, b) in enumerate(found.values()):
        wanted = moved[i].T @ (traces[i - 1] if i else x)
        if i and pathway is None:
            wanted = wanted + traces[i].T @ moved[i - 1]
        assert relative(w, -wanted) < 1e-12
        assert relative(b, -moved[i].sum(0)) < 1e-12


def test_membranes_know_what_shared_weights_should_learn_and_traces_hardly_do():
    """A kernel learns from all places at once, where little moves and every trace is noisy."""
    net, (x, y) = convolutional(lambda: sc.AvgPool2d(2), sc.HardSigmoid), batch((2, 12, 12))
    wanted = exact(net, x, y, 1e-3)

    def at(learn):
        relaxation = SigmaDelta(40, 30, learn=learn)
        return cosines(
            gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=Centred(0.1))[0], wanted
        )  # fmt: skip

    assert min(at("membranes")) > 0.85  # 0.986, 0.914, 0.899
    assert min(at("traces")) < 0.3  # 0.687, 0.135, 0.884


def test_firing_neurons_have_the_fixed_point_of_their_own_curve():
    """LIF with reset "subtract" and a leak of nearly none fires as often as its current says, between 0 and 1."""
    net, x, _ = network()
    wanted = flat(free_state(net, x, relaxation=Sweeps(free=2000)))
    firing, x, _ = network(lambda: sc.LIF(tau=2000.0))
    found = flat(free_state(firing, x, relaxation=Spikes(4000, 1, tau=10, tau_stdp=200)))
    assert float((found - wanted).abs().mean()) < 0.01
    leaky, x, _ = network(lambda: sc.LIF(tau=5.0))
    found = flat(free_state(leaky, x, relaxation=Spikes(4000, 1, tau=10, tau_stdp=200)))
    assert float((found - wanted).abs().mean()) > 0.03


def test_firing_neurons_learn_nearly_the_gradient():
    net, x, y = network()
    firing, *_ = network(lambda: sc.LIF(tau=200.0))
    found, _ = gradient(
        firing, x, y, SquaredError(), relaxation=Spikes(1500, 1500, tau_stdp=60), estimator=Centred(0.2)
    )
    assert min(cosines(found, exact(net, x, y))) > 0.95


@pytest.mark.parametrize(
    "neuron", [sc.LIF, sc.ALIF, lambda: sc.CurrentLIF(tau=20.0, tau_synapse=5.0), lambda: sc.LIF(refractory=2)]
)
def test_any_spiking_neuron_relaxes_and_goes_on_where_it_stopped(neuron):
    net, (x, y) = dense(neuron), batch()
    relaxation = Spikes(20, 10)
    energy, phase = Hopfield(), Phase.of(sections(net), x)
    with torch.no_grad():
        half = relaxation.run(energy, phase, 20, relaxation.start(energy, phase))
        twice = relaxation.run(energy, phase, 20, half)
        whole = relaxation.run(energy, phase, 40, relaxation.start(energy, phase))
    assert all(map(torch.equal, twice.trace + twice.slow, whole.trace + whole.slow))
    for estimator in (Centred(0.5), ContrastiveHebbian()):
        found, _ = gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=estimator)
        assert all(t.isfinite().all() and t.any() for t in found["layers.4"])


@pytest.mark.parametrize("relaxation", [SigmaDelta(20, 10), Spikes(20, 10)])
def test_samples_do_not_hear_each_other_and_nodes_do_not_either(relaxation):
    net, x, y = network(sc.HardSigmoid if isinstance(relaxation, SigmaDelta) else sc.LIF)
    whole, _ = gradient(net, x, y, SquaredError(), relaxation=relaxation)
    alone = [gradient(net, x[i : i + 1], y[i : i + 1], SquaredError(), relaxation=relaxation)[0] for i in range(16)]
    for name, (w, _) in whole.items():
        assert relative(sum(found[name][0] for found in alone) / 16, w) < 1e-9


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (lambda: dense(sc.Tanh), {"relaxation": SigmaDelta()}, "activities between 0 and 1"),
        (lambda: dense(last=False), {"relaxation": SigmaDelta()}, "linear units"),
        (lambda: dense(sc.LIF), {"relaxation": SigmaDelta()}, "drives LIF"),
        (lambda: dense(sc.HardSigmoid), {"relaxation": Spikes()}, "never fire"),
        (lambda: dense(sc.LIF), {"relaxation": Sweeps()}, "which fires"),
        (lambda: dense(), {"relaxation": SigmaDelta(), "energy": Predictive()}, "write energy: hopfield"),
        (lambda: dense(), {"relaxation": Sweeps(), "energy": Predictive()}, "order: euler"),
        (lambda: dense(), {"relaxation": SigmaDelta(), "estimator": Holomorphic()}, "nudges by complex numbers"),
    ],
)
def test_what_cannot_relax_so_is_refused(net, arguments, message):
    x, y = batch()
    with pytest.raises(ValueError, match=message):
        gradient(net(), x, y, CrossEntropy(), **arguments)


@pytest.mark.parametrize(
    ("pool", "message"), [(sc.MaxPool2d, "no fixed place. Write AvgPool2d"), (sc.SoftPool2d, "not linear.*AvgPool2d")]
)
def test_maxima_are_refused_where_spikes_are_pooled(pool, message):
    net, (x, y) = convolutional(lambda: pool(2), sc.HardSigmoid), batch((2, 12, 12))
    with pytest.raises(ValueError, match=message):
        gradient(net, x, y, SquaredError(), relaxation=SigmaDelta())


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        *itertools.product([SigmaDelta, Spikes], [{"free": 0}, {"nudged": 1.5}]),
        *((SigmaDelta, {name: value}) for name in ("epsilon", "lam") for value in (0.0, 1.5, math.nan)),
        *((SigmaDelta, {name: -0.1}) for name in ("epsilon_decay", "lam_decay")),
        *((Spikes, {name: value}) for name in ("tau", "tau_stdp") for value in (0.5, math.inf, math.nan)),
        (SigmaDelta, {"learn": "spikes"}),
    ],
)
def test_numbers_out_of_range_are_refused(make, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)

"""Synapses with memory: what a chain conserves, how it forgets, and the cascade's Markov matrix."""

import math

import numpy as np
import pytest

from spikecredit.plasticity import BennaFusi, Cascade
from spikecredit.plasticity.engines import ENGINES, Stimulus, reference
from spikecredit.plasticity.engines.batched import Batch
from spikecredit.plasticity.memory import signal_to_noise

NONE = np.empty(0)

# ---- the chain -------------------------------------------------------------------------------------------------------


def chain(rule, seconds, dt, pre=(), post=(), **start):
    stimulus = Stimulus((np.array(pre),), (np.array(post),), seconds * 1e3)
    names = tuple(f"u{k}" for k in range(1, rule.m + 1))
    return reference.run(
        rule.equations(), stimulus, dt=dt * 1e3, start=start, record=names, every=seconds * 1e3 / 8
    )  # fmt: skip


def test_the_default_is_the_papers_doubling():
    rule = BennaFusi()
    assert rule.ratio == 2.0 and rule.published == "doubling"
    np.testing.assert_allclose(rule.capacities, 2.0 ** np.arange(6))
    np.testing.assert_allclose(rule.conductances, [*(2.0 ** -np.arange(1, 6)), 0.0])
    np.testing.assert_allclose(BennaFusi(leak=True).conductances, 2.0 ** -np.arange(1, 7))
    assert not BennaFusi.PRESETS["doubling"].verified


def test_liquid_is_conserved_and_leaks_only_where_it_may():
    pre, post = [10.0, 3000.0, 5000.0], [20.0, 2990.0, 5003.0]
    rule = BennaFusi(m=5)
    made = chain(rule, 60.0, 0.1, pre, post)
    content = sum(rule.capacities[k] * made.state[f"u{k + 1}"][0, 0] for k in range(5))
    put = sum(0.1 * math.exp(-abs(b - a) / 20) * np.sign(b - a) for a, b in zip(pre, post, strict=True))
    put += 0.1 * (math.exp(-2983 / 20) + math.exp(-1987 / 20) - math.exp(-2010 / 20) - math.exp(-2980 / 20))
    assert content == pytest.approx(put, abs=1e-9)
    leaky = chain(BennaFusi(m=2, beta=8.0, leak=True), 60.0, 0.1, pre, post)
    assert leaky.state["u1"][0, 0] + 2 * leaky.state["u2"][0, 0] < 0.1 * put


@pytest.mark.parametrize("leak", [False, True])
def test_the_rule_is_its_linear_response(leak):
    rule = BennaFusi(m=4, alpha=2.0, beta=200.0, leak=leak)
    made = chain(rule, 40.0, 0.05, u1=1.0)
    np.testing.assert_allclose(made.traces["u1"][:, 0, 0], rule.response(made.times / 1e3), rtol=0, atol=1e-7)


def test_an_event_fades_as_one_over_the_square_root_of_time():
    rule = BennaFusi(m=8, alpha=1.0, beta=4.0**7)
    times = np.geomspace(5, rule.beta / 10, 30)
    slope = np.polyfit(np.log(times), np.log(rule.response(times)), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.05)
    # the same from the simulated rule, at the time scales that it can reach quickly
    stimulus = Stimulus((NONE,), (NONE,), 200e3)
    found = ENGINES["torch"]()(rule.equations(), stimulus, dt=50.0, start={"u1": 1.0}, record=("u1",), every=1e3)
    u1, seconds = found.traces["u1"][5:, 0, 0], found.times[5:] / 1e3
    assert np.polyfit(np.log(seconds), np.log(u1), 1)[0] == pytest.approx(-0.5, abs=0.05)
    # a single beaker with a leak instead forgets exponentially: no such slope
    two = BennaFusi(m=2, alpha=1.0, beta=1.001, leak=True)
    assert np.polyfit(np.log(times[:10]), np.log(two.response(times[:10])), 1)[0] < -1


def test_chain_refuses_what_is_no_chain():
    with pytest.raises(ValueError, match="m >= 2"):
        BennaFusi(m=1).equations()
    with pytest.raises(ValueError, match="0 < alpha < beta"):
        BennaFusi(alpha=3.0, beta=2.0).equations()


# ---- the cascade -----------------------------------------------------------------------------------------------------


def test_the_matrix_of_two_levels_written_by_hand():
    """r = 1/2, n = 2: q = (1, 1), p_1 = 1. States: weak 2, weak 1, strong 1, strong 2."""
    up = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1.0]])
    np.testing.assert_allclose(Cascade(n=2).matrix(1.0), up)
    np.testing.assert_allclose(Cascade(n=2).matrix(0.0), up[::-1, ::-1])


def test_the_published_probabilities_of_four_levels():
    up = Cascade(n=4).matrix(1.0)
    weak = [3, 2, 1, 0]
    np.testing.assert_allclose(up[4, weak], [1, 1 / 2, 1 / 4, 1 / 4])  # q
    np.testing.assert_allclose([up[4 + k, 3 + k] for k in (1, 2, 3)], [1, 1 / 2, 1 / 4])  # p


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize("r", [0.5, 0.3])
def test_all_states_are_equally_likely_at_rest(n, r):
    matrix = Cascade(n=n, r=r).matrix(0.5)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-14)
    np.testing.assert_allclose(matrix @ np.ones(2 * n), 1, atol=1e-14)


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("potentiate", [True, False])
def test_the_rule_moves_as_its_matrix(engine, potentiate):
    """Spikes at one moment are a candidate for potentiation with certainty (and with e^-25 for depression)."""
    rule, copies, events = Cascade(n=4), 3000, 3
    pre = 20.0 + 500.0 * np.arange(events)
    post = pre if potentiate else pre - 1e-9
    if not potentiate:  # a presynaptic spike right after a postsynaptic one; tau so long that y is still 1
        rule, post = Cascade(n=4, tau_minus=1e12, tau_plus=1e-3), pre - 1
    s = np.repeat([-1.0, 1.0], copies // 2)
    k = np.tile(np.arange(1.0, 5.0), copies // 4)
    made = ENGINES[engine]()(
        rule.equations(), Stimulus((pre,), (post,), 2000.0), replicates=copies, seed=5,
        start={"s": s[None], "k": k[None]},
    )  # fmt: skip
    order = [(-1, 4), (-1, 3), (-1, 2), (-1, 1), (1, 1), (1, 2), (1, 3), (1, 4)]
    found = np.array([np.mean((made.state["s"] == a) & (made.state["k"] == b)) for a, b in order])
    first = np.array([np.mean((s == a) & (k == b)) for a, b in order])
    wanted = np.linalg.matrix_power(rule.matrix(1.0 if potentiate else 0.0), events) @ first
    spread = np.sqrt(wanted * (1 - wanted) / copies)
    assert (np.abs(found - wanted) <= 4 * spread + 1e-12).all(), (found, wanted)
    assert (found[wanted == 0] == 0).all()


def test_a_candidate_comes_with_the_probability_of_the_trace():
    rule = Cascade(n=2, tau_plus=20.0)
    made = reference.run(rule.equations(), Stimulus((np.array([20.0]),), (np.array([40.0]),), 60.0), replicates=4000)
    assert made.after.mean() == pytest.approx(math.exp(-1), abs=4 * math.sqrt(0.24 / 4000))
    assert rule.change(made.before, made.after)[0] == made.after.mean()


def test_deeper_cascades_remember_longer_and_start_no_weaker_than_one_over_n():
    events, synapses = np.array([0, 10, 100, 1000]), 10000
    snr = {n: Cascade(n=n).signal_to_noise(events, synapses) for n in (2, 5, 10)}
    assert snr[2][0] > snr[5][0] > snr[10][0] and snr[10][3] > snr[5][3] > snr[2][3]
    # at the start: a share of sum(q)/2n of all synapses flips, half of them either way
    q = [1, 0.5, 0.25, 0.125, 0.125]
    assert snr[5][0] == pytest.approx(sum(q) / 10 / 0.5 * 100)
    middle = np.geomspace(10, 300, 8).astype(int)
    slope = np.polyfit(np.log(middle), np.log(Cascade(n=10).signal_to_noise(middle, 1)), 1)[0]
    assert slope == pytest.approx(-0.75, abs=0.15)  # the paper's t^-3/4 (from memory)


def test_simulated_memories_fade_as_the_matrix_says():
    """Every synapse stores a bit, then sees random candidates: the ideal observer against the Markov chain."""
    import torch

    rule = Cascade(n=3, tau_plus=1e-3, tau_minus=1e-3)  # only spikes at one moment are candidates
    copies, synapses, later = 200, 400, 6
    batch = Batch(rule.equations(), copies, 1, synapses)
    generator = torch.Generator().manual_seed(0)
    shape = (copies, 1, synapses)

    def event(bit):
        """The trace of the other neuron says what an event is: 1 makes a spike a candidate."""
        state["x"].fill_(0.0)
        chosen = {name: value.clone() for name, value in state.items()}
        for side, spikes in (("post", bit), ("pre", ~bit)):
            trial = {name: value.clone() for name, value in state.items()}
            trial["x" if side == "post" else "y"].fill_(1.0)
            neurons = torch.ones(copies, 1 if side == "post" else synapses, dtype=torch.bool)
            batch.events(trial, {side: neurons})
            for name in ("s", "k"):
                chosen[name] = torch.where(spikes, trial[name], chosen[name])
        state.update(chosen)

    state = batch.start({
        "s": torch.randint(0, 2, shape, generator=generator).double() * 2 - 1,
        "k": torch.randint(1, 4, shape, generator=generator).double(),
    })  # fmt: skip
    pattern = torch.rand(shape, generator=generator) < 0.5
    event(pattern)
    seen = [batch.strength(state)[:, 0] - 0.5]
    for _ in range(later):
        event(torch.rand(shape, generator=generator) < 0.5)
        seen.append(batch.strength(state)[:, 0] - 0.5)
    found = signal_to_noise(torch.stack(seen).numpy(), np.where(pattern[:, 0].numpy(), 1.0, -1.0))
    wanted = rule.signal_to_noise(np.arange(later + 1), synapses)
    wanted /= np.sqrt(1 - wanted**2 / synapses)  # the helper divides by the noise at rest, the observer by that of now
    np.testing.assert_allclose(found, wanted, rtol=0.2, atol=0.3)
    assert found[0] > 2 * found[-1] > 0


def test_signal_to_noise_of_known_numbers():
    weights = np.array([[[1.0, -1.0], [2.0, 0.0]], [[0.0, 0.0], [1.0, -1.0]]])
    pattern = np.array([[1.0, -1.0], [1.0, -1.0]])
    np.testing.assert_allclose(signal_to_noise(weights[1:], pattern), [0.5 / math.sqrt(0.5)])
    with pytest.raises(ValueError, match="at least 2 copies"):
        signal_to_noise(weights[:, :1], pattern[:1])


def test_cascade_refuses_a_ratio_that_gives_no_probability():
    with pytest.raises(ValueError, match="ratio r in"):
        Cascade(r=0.7).matrix(0.5)

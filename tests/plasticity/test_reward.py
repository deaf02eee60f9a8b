"""Dopamine and reward: closed forms, the bounded flow against a fine integration, and what must not change."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import DopamineSTDP, RewardSTDP
from spikecredit.plasticity.engines import ENGINES, Stimulus, reference

NONE = np.empty(0)


def run(rule, pre, post, reward=(), duration=20000.0, engine="reference", **start):
    stimulus = Stimulus((np.array(pre),), (np.array(post),), duration, (np.array(reward),))
    return ENGINES[engine]()(rule.equations(), stimulus, start=start)


def change(*args, **kwargs):
    made = run(*args, **kwargs)
    return float(made.after[0, 0] - made.before[0, 0])


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("late", [0.0, 500.0, 3000.0])
def test_one_pair_and_one_reward_is_the_closed_form(engine, late):
    rule = DopamineSTDP(reward=0.4, gain=2.0)
    found = change(rule, [50.0], [60.0], [60.0 + late], engine=engine, duration=12000.0)
    wanted = 2.0 * math.exp(-10 / 20) * 0.4 * math.exp(-late / 1000) / (1 / 1.0 + 1 / 0.2)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_without_dopamine_the_weight_is_unchanged_exactly():
    pre, post = np.arange(10.0, 5000, 37), np.arange(15.0, 5000, 53)
    assert change(DopamineSTDP(), pre, post) == 0.0
    assert change(DopamineSTDP(), [50.0], [60.0], [40.0], duration=45.0 + 15) != 0.0  # dopamine before the pair acts
    assert change(DopamineSTDP(), [], [], [40.0]) == 0.0


def test_a_reward_after_five_time_constants_has_less_than_one_percent():
    at_once, late = (change(DopamineSTDP(), [50.0], [60.0], [60.0 + d]) for d in (0.0, 5001.0))
    assert 0 < late < 0.01 * at_once


def test_the_order_of_the_pair_gives_the_sign():
    assert change(DopamineSTDP(), [60.0], [50.0], [100.0]) < 0 < change(DopamineSTDP(), [50.0], [60.0], [100.0])


@given(
    pre=st.lists(st.integers(0, 390), min_size=1, max_size=5, unique=True),
    post=st.lists(st.integers(0, 390), min_size=1, max_size=5, unique=True),
    reward=st.lists(st.integers(0, 390), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=15, deadline=None)
def test_the_exact_solution_is_the_bounded_differential_equation(pre, post, reward):
    rule = DopamineSTDP(
        tau_plus=15.0, tau_minus=25.0, tau_c=100.0, tau_d=50.0, reward=0.5, tonic=0.1, gain=30.0, w_max=2.0
    )
    h, c, d, x, y, w = 0.02, 0.0, 0.0, 0.0, 0.0, 1.0
    events = sorted([(t, 0) for t in pre] + [(t, 1) for t in post] + [(t, 2) for t in reward])
    for step in range(round(400 / h) + 1):
        if step:  # the trapezoid rule for the weight, stopped at its bounds
            before = c * (0.1 + d)
            c, d = c * math.exp(-h / 100), d * math.exp(-h / 50)
            x, y = x * math.exp(-h / 15), y * math.exp(-h / 25)
            w = min(max(w + 30 * h * 1e-3 * (before + c * (0.1 + d)) / 2, 0.0), 2.0)
        while events and events[0][0] <= step * h + 1e-9:
            kind = events.pop(0)[1]
            c += (-1.5 * y, x, 0.0)[kind]
            x, y, d = x + (kind == 0), y + (kind == 1), d + 0.5 * (kind == 2)
    made = run(rule, pre, post, reward, duration=400.0)
    assert float(made.after[0, 0]) == pytest.approx(w, abs=1e-5)


def test_a_recorded_weight_stays_within_its_bounds_and_moves_between_events():
    rule = DopamineSTDP(gain=100.0, w_max=2.0)
    stimulus = Stimulus((np.array([50.0]),), (np.array([60.0]),), 500.0, (np.array([70.0]),))
    traces = {
        name: engine()(rule.equations(), stimulus, record=("w",), every=5.0).traces["w"][:, 0, 0]
        for name, engine in ENGINES.items()
    }
    for found in traces.values():
        np.testing.assert_allclose(found, traces["reference"], rtol=0, atol=1e-9)
        assert found.max() == 2.0 and found[:14].max() == 1.0 and (np.diff(found) >= 0).all()


@pytest.mark.parametrize("engine", ["reference", "torch"])
def test_what_a_bound_cuts_off_is_forgotten(engine):
    """Far above the upper bound, then down by a known step: it counts from the bound, not from what was cut off."""
    rule = DopamineSTDP(gain=20.0, w_max=1.5)
    up = change(rule, [50.0], [60.0], [60.0], engine=engine)
    assert up == 0.5
    both = change(rule, [50.0, 10070.0], [60.0, 10060.0], [60.0, 10070.0], engine=engine)
    d = 0.5 * (1 + math.exp(-10010 / 200))
    down = 20 * 0.3 * d / (1 / 1.0 + 1 / 0.2) * math.exp(-10 / 20)
    free = replace(rule, w_max=math.inf, A_minus=0.3)
    assert change(free, [10070.0], [10060.0], [10070.0], engine=engine) == pytest.approx(-down, rel=1e-4)
    assert both == -1.0 and 0.5 - 5 * down < -1.0  # the lower bound
    small = replace(rule, A_minus=0.3)
    both = change(small, [50.0, 10070.0], [60.0, 10060.0], [60.0, 10070.0], engine=engine)
    assert both == pytest.approx(0.5 - down, abs=1e-3)


def test_a_presynaptic_spike_turns_the_weight_round_at_its_bound():
    """The weight reaches 1.5 within 15 ms; then c becomes negative, and the way down starts there."""
    rule = DopamineSTDP(gain=200.0, w_max=1.5, A_minus=1.3)
    c = math.exp(-10 / 20) * math.exp(-15 / 1000) - 1.3 * math.exp(-15 / 20)
    d = 0.5 * math.exp(-15 / 200)
    assert change(rule, [50.0], [60.0], [60.0], duration=75.0) == 0.5
    found = change(rule, [50.0, 75.0], [60.0], [60.0])
    assert c < 0 and found == pytest.approx(0.5 + 200 * c * d / (1 / 1.0 + 1 / 0.2), abs=1e-9)


def test_a_postsynaptic_spike_turns_the_weight_round_at_zero():
    rule = DopamineSTDP(gain=200.0, w_max=1.5, A_minus=1.0, A_plus=1.3, w_start=0.5)
    c = -math.exp(-10 / 20) * math.exp(-15 / 1000) + 1.3 * math.exp(-15 / 20)
    d = 0.5 * math.exp(-15 / 200)
    assert change(rule, [60.0], [50.0], [60.0], duration=75.0) == -0.5
    found = change(rule, [60.0], [50.0, 75.0], [60.0])
    assert c > 0 and found == pytest.approx(-0.5 + 200 * c * d / (1 / 1.0 + 1 / 0.2), abs=1e-9)


def test_the_preset_has_the_programs_factors():
    rule = DopamineSTDP.preset("izhikevich")
    assert math.exp(-1 / rule.tau_plus) == pytest.approx(0.95)
    assert math.exp(-10 / rule.tau_c) == pytest.approx(0.99) and math.exp(-1 / rule.tau_d) == pytest.approx(0.995)
    # the program, one pair and a reward, every 10 ms: s += (0.002 + DA) sd
    sd, da, s = 0.1 * 0.95**10, 0.0, 1.0
    for ms in range(1, 15001):
        da = (da + (0.5 if ms == 1000 else 0.0)) * 0.995
        if ms % 10 == 0:
            s, sd = s + (0.002 + da) * sd, sd * 0.99
    found = float(run(rule, [40.0], [50.0], [50.0 + 1000], duration=15050.0).after[0, 0])
    assert found - 1 == pytest.approx(s - 1, rel=0.04)  # it adds every 10 ms what here flows


def test_reward_above_expectation_changes_the_weight_by_what_is_left_of_the_eligibility():
    rule = RewardSTDP(eta=0.1, expected=0.25)
    made = run(rule, [50.0], [60.0], [300.0], R=0.75)
    left = math.exp(-10 / 20) * math.exp(-240 / 500)
    assert float(made.after[0, 0]) - 1 == pytest.approx(0.1 * 0.5 * left, abs=1e-12)
    assert float(made.state["R_mean"][0, 0]) == pytest.approx(0.25 + 0.5 / 5)


def test_an_expected_reward_changes_nothing_and_a_missing_one_reverses():
    assert change(RewardSTDP(expected=1.0), [50.0], [60.0], [100.0]) == 0.0
    assert change(RewardSTDP(expected=1.0), [50.0], [60.0], [100.0], R=0.0) < 0
    assert change(RewardSTDP(expected=1.0, baseline=False), [50.0], [60.0], [100.0]) > 0


def test_the_baseline_removes_the_drift_of_rewards_that_mean_nothing():
    """Rewards that do not depend on the spikes: only <R - R_mean> <e> is left, which is 0 with the right mean."""
    trials = np.arange(50) * 200.0
    drift = {}
    for baseline in (True, False):
        rule = RewardSTDP(eta=0.01, tau_c=30.0, n_mean=1e12, expected=0.5, baseline=baseline)
        drift[baseline] = sum(change(rule, trials + 20, trials + 30, trials + 150, R=R) for R in (1.0, 0.0, 0.0, 1.0))
    assert drift[False] > 0.005 and abs(drift[True]) < 1e-9


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (DopamineSTDP(reward=-1.0), "not negative"),
        (DopamineSTDP(pairing="nn"), "pairing must be"),  # type: ignore[arg-type]
        (RewardSTDP(n_mean=0.5), "at least 1"),
    ],
)
def test_wrong_parameters_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        rule.equations()


def test_nearest_pairing_sets_the_traces():
    rule = replace(DopamineSTDP(), pairing="nearest")
    stimulus = Stimulus((np.array([50.0, 51.0]),), (NONE,), 60.0)
    made = reference.run(rule.equations(), stimulus)
    assert float(made.state["x"][0, 0]) == pytest.approx(math.exp(-9 / 20))

"""The calcium-based rule: time above thresholds, the published shapes, and simulation against the closed form."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import CustomRule, Pairing, pieces
from spikecredit.plasticity.calcium import CalciumRule
from spikecredit.plasticity.protocols import Experiment, Protocol


@dataclass(frozen=True)
class Given(Protocol):
    """An experiment as it is."""

    made: Experiment
    kind: ClassVar[str] = "given"

    def experiment(self):
        return self.made


def quadrature(rule, threshold, dt, rate, step=1e-3):
    """The fraction of time above a threshold, by adding up the last periods of all pairs on a fine grid."""
    period = 1e3 / rate
    t = np.arange(0, period, step)
    calcium = np.zeros_like(t)
    for back in range(-3, math.ceil(40 * rule.tau_Ca / period) + 2):
        for start, jump in ((rule.D - back * period, rule.C_pre), (dt - back * period, rule.C_post)):
            age = t - start
            calcium += np.where(age >= 0, jump * np.exp(-np.maximum(age, 0) / rule.tau_Ca), 0)
    return float((calcium > threshold).mean())


# ---- closed forms ----------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(CalciumRule.PRESETS)), st.floats(-60, 60), st.sampled_from([1.0, 10.0, 35.0, 50.0]))
def test_time_above_is_the_quadrature(preset, dt, rate):
    rule = CalciumRule.preset(preset)
    for threshold in (rule.theta_d, rule.theta_p):
        step = 1e3 / rate / 50000
        assert rule.time_above(threshold, dt, rate) == pytest.approx(
            quadrature(rule, threshold, dt, rate, step), abs=1e-4
        )


def test_time_above_when_both_jump_at_once():
    """One jump of the sum, not two: log(1.2) tau of a second for 0.6 + 0.6."""
    rule = CalciumRule.preset("D")
    assert rule.time_above(1.0, 0.0, 1.0) == pytest.approx(20 * math.log(1.2) / 1000, rel=1e-9)
    for preset in ("P", "D", "D'"):
        rule = CalciumRule.preset(preset)
        assert rule.strength_after(0.0) == pytest.approx(rule.strength_after(1e-6), abs=1e-5)


KNOWN = {
    "DP": {-40: 0.8514, -20: 0.7643, -10: 0.8818, 0: 1.0079, 5: 1.2405, 10: 1.2214, 20: 1.1722, 40: 1.0849},
    "DPD": {-20: 0.9983, -10: 0.8592, 0: 0.9966, 5: 1.1933, 10: 0.9607, 15: 0.8408, 20: 0.8675, 30: 0.9992},
    "D": {-20: 1.0, -10: 1.0, 10: 1.0, 20: 1.0},
}


@pytest.mark.parametrize("preset", KNOWN)
def test_strength_known_answers(preset):
    rule = CalciumRule.preset(preset)
    assert {dt: rule.strength_after(dt) for dt in KNOWN[preset]} == pytest.approx(KNOWN[preset], abs=0.005)


def test_authors_own_simulation():
    """1000 synapses, simulated by the authors: within 0.025 of the closed form."""
    found = {-40: 0.827, -20: 0.760, 0: 0.994, 20: 1.188, 40: 1.083}
    rule = CalciumRule.preset("DP")
    assert {dt: rule.strength_after(dt) for dt in found} == pytest.approx(found, abs=0.025)
    assert CalciumRule.preset("DPD").strength_after(0) == pytest.approx(0.997, abs=0.025)
    assert CalciumRule.preset("DPD").strength_after(20) == pytest.approx(0.879, abs=0.025)


def signs(preset, lags):
    changes = np.array([CalciumRule.preset(preset).strength_after(float(dt)) - 1 for dt in lags])
    kept = np.sign(changes[np.abs(changes) > 0.02])
    return "".join("+" if s > 0 else "-" for s in kept[np.append(True, np.diff(kept) != 0)])


@pytest.mark.parametrize(
    ("preset", "shape"), [("DP", "-+"), ("DPD", "-+-"), ("DPD'", "-+-"), ("P", "+"), ("D", "-"), ("D'", "-")]
)
def test_shapes(preset, shape):
    """What gives each set its name."""
    assert signs(preset, range(-60, 61)) == shape


def test_potentiation_is_symmetric():
    """Of the set P, whose jumps are equal and undelayed; the curve has a dip at 0, where one peak replaces two."""
    rule = CalciumRule.preset("P")
    for dt in (1.0, 5.0, 17.0, 40.0):
        assert rule.strength_after(dt) == pytest.approx(rule.strength_after(-dt), abs=1e-12)
    assert rule.strength_after(0.0) < rule.strength_after(5.0)


SJOSTROM = {
    10: {0.1: (-0.04, 0.05), 10: (0.14, 0.10), 20: (0.29, 0.14), 40: (0.53, 0.11), 50: (0.56, 0.26)},
    -10: {0.1: (-0.29, 0.08), 10: (-0.41, 0.11), 20: (-0.34, 0.10), 40: (0.56, 0.32), 50: (0.75, 0.19)},
}
"""Sjöström et al. 2001: relative change and its standard error by rate, for +10 and -10 ms."""


def test_cortical_set_against_the_data():
    """Every point within 2.1 standard errors, and the mean squared distance near 1."""
    rule = CalciumRule.preset("cortical_slices")
    off = [
        (rule.strength_after(lag, rate, 75) - 1 - mean) / error
        for lag, points in SJOSTROM.items()
        for rate, (mean, error) in points.items()
    ]
    assert np.abs(off).max() < 2.1
    assert np.mean(np.square(off)) < 0.8


# ---- simulation ------------------------------------------------------------------------------------------------------


def test_simulated_is_the_closed_form():
    """60 pairs at 1 Hz, 4000 synapses: the tolerance is two standard errors of the worst condition."""
    for preset, lags in (("DP", (-40.0, 20.0)), ("DPD", (10.0,)), ("P", (0.0,)), ("D", (0.0,))):
        rule = CalciumRule.preset(preset)
        outcome = pieces.run(rule, Pairing(dt=lags).experiment(), 0.25, 500.0, replicates=4000, seed=3)
        wanted = [rule.strength_after(dt) for dt in lags]
        assert 1 + rule.change(outcome.before, outcome.after) == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("engine", ["reference", "torch", "brian"])
def test_engines_agree_statistically(engine):
    """20 pairs at 5 Hz in a synapse three times as fast, with all noise: each engine's mean is the closed form's."""
    rule = replace(CalciumRule.preset("DP"), D=14.0, tau=50.0)
    lags = (-20.0, 10.0)
    result = Pairing(dt=lags, n=20, rate=5.0).run(rule, engine=engine, dt=0.5, replicates=2000, seed=1)
    wanted = np.array([rule.strength_after(dt, 5.0, 20) - 1 for dt in lags])
    assert result.change == pytest.approx(wanted, abs=0.06)
    assert np.abs(wanted).min() > 0.1


@pytest.mark.parametrize("engine", ["torch", "brian"])
def test_engines_agree_without_noise(engine):
    """On one grid; the reference engine's own way, exact times, is compared in `test_drift_without_noise`."""
    gridded = replace(replace(CalciumRule.preset("DP"), sigma=0.0, D=14.0).equations(), method="euler")
    rule = CustomRule(text=gridded)
    protocol = Pairing(dt=(-20.0, 10.0), n=5, rate=20.0)
    start = {"rho": 0.4}
    reference = protocol.run(rule, start=start, dt=0.5).outcome
    outcome = protocol.run(rule, engine=engine, start=start, dt=0.5).outcome
    assert outcome.state["rho"] == pytest.approx(reference.state["rho"], abs=1e-12)
    assert np.abs(reference.state["rho"] - 0.4).min() > 0.01


@pytest.mark.parametrize(("lag", "up"), [(-20.0, 0.0), (10.0, 1.0)])
def test_drift_without_noise(lag, up):
    """One synapse, no noise: the equation by Euler's method in plain NumPy, from times above the thresholds."""
    rule = replace(CalciumRule.preset("DP"), sigma=0.0)
    made = Pairing(dt=(lag,), n=10, rate=5.0).experiment()
    h, rho, c = 0.01, 0.5 + 0.1 * (2 * up - 1), 0.0
    arrivals = {round(t / h): rule.C_pre for t in made.pre[0] + rule.D}
    arrivals |= {round(t / h): rule.C_post for t in made.post[0]}
    for k in range(round(made.duration / h) + 1):
        slope = -rho * (1 - rho) * (0.5 - rho)
        slope += rule.gamma_p * (1 - rho) * (c > rule.theta_p) - rule.gamma_d * rho * (c > rule.theta_d)
        rho += h * 1e-3 * slope / rule.tau
        c = c * math.exp(-h / rule.tau_Ca) + arrivals.get(k, 0.0)
    start = {"rho": 0.5 + 0.1 * (2 * up - 1)}
    outcome = pieces.run(rule, made, 0.02, 1.0, start=start)
    assert outcome.state["rho"][0, 0] == pytest.approx(rho, abs=5e-4)
    assert abs(rho - start["rho"]) > 0.01


def test_read_out_and_start():
    """A fraction beta starts DOWN with strength 1, the others UP with strength b; silence changes nothing."""
    rule = CalciumRule.preset("hippocampal_slices")
    silent = Given(Experiment({}, [{}], [np.empty(0)], [np.empty(0)], 100.0))
    outcome = silent.run(rule, replicates=10).outcome
    assert sorted(outcome.before[0].tolist()) == [1.0] * 7 + [5.28145] * 3
    assert np.array_equal(outcome.after, outcome.before)
    outcome = silent.run(rule, start={"rho": 0.51}).outcome
    assert outcome.after[0, 0] == 5.28145


def test_delay_shifts_the_window():
    """D is where the jump of a presynaptic spike is."""
    rule = CalciumRule.preset("DP")
    moved = replace(rule, D=rule.D + 4)
    assert moved.strength_after(9.0) == pytest.approx(rule.strength_after(5.0), abs=1e-12)
    assert moved.strength_after(5.0) != pytest.approx(rule.strength_after(5.0), abs=1e-3)


def test_presets_are_complete():
    assert len(CalciumRule.PRESETS) == 9
    assert all(preset.verified and "synapticChange" in preset.source for preset in CalciumRule.PRESETS.values())

"""What the gallery says of its experiments: numbers found beside closed forms and published ones."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import gallery_figures as figures
from benchmarks.gallery import Fact
from spikecredit.plasticity import (
    BCM,
    AntiHebbian,
    BennaFusi,
    CalciumRule,
    Cascade,
    DopamineSTDP,
    InhibitorySTDP,
    PairSTDP,
    RateDerivative,
    Result,
    RewardSTDP,
    SynapticScaling,
    TaggingAndCapture,
    TsodyksMarkram,
    VoltageSTDP,
)
from spikecredit.plasticity.pair import SCHEMES
from spikecredit.plasticity.rate import learn_linear

Facts = Sequence[Fact]


def at(result: Result, **place: Any) -> float:
    """The change in per cent in one condition."""
    (row,) = [row for row in result.rows if all(row[name] == value for name, value in place.items())]
    return 100 * float(row["change"])


def pair_facts(results: Sequence[Result]) -> Facts:
    rule = PairSTDP.preset("bi_poo")
    return [
        Fact("change at +10 ms (%)", at(results[0], dt=10.0), 6000 * rule.A_plus * math.exp(-10 / rule.tau_plus)),
        Fact("change at -10 ms (%)", at(results[0], dt=-10.0), -6000 * rule.A_minus * math.exp(-10 / rule.tau_minus)),
    ]


def scheme_facts(results: Sequence[Result]) -> Facts:
    """Only the mean of all-to-all pairs has no threshold: rate^2 (A_plus tau_plus - A_minus tau_minus)."""
    fast = 30.0
    expected = 100 * fast**2 * 100 * (0.005 * 0.02 - 0.003 * 0.04)
    return [
        Fact(f"{name}, {fast:g} Hz (%)", at(r, rate=fast), expected if name == "all_to_all" else None)
        for name, r in zip(SCHEMES, results, strict=True)
    ]


def competition_facts(results: Sequence[Result]) -> Facts:
    found = figures.competition()
    slow, even, half = found["additive"][0], found["multiplicative"], found["correlated_half"]
    return [
        Fact("additive, 10 Hz: weights below 0.1 of the bound (%)", 100 * slow["below_0.1"]),
        Fact("additive, 10 Hz: weights above 0.9 of the bound (%)", 100 * slow["above_0.9"]),
        Fact("additive, 40 Hz: weights above 0.9 of the bound (%)", 100 * found["additive"][-1]["above_0.9"]),
        Fact("multiplicative: mean weight / bound", even["mean"], even["fixed_point"]),
        Fact("additive, half of the inputs correlated: their mean weight / bound", half["mean_correlated"]),
        Fact("additive, half of the inputs correlated: mean of the others", half["mean_others"]),
    ]


def anti_hebbian_facts(results: Sequence[Result]) -> Facts:
    """Beside the window's closed form, B - A K(d)."""
    found = []
    for result, cells in zip(results, ("electric fish", "Purkinje cell"), strict=True):
        rule = result.rule
        assert isinstance(rule, AntiHebbian)
        for lag in (20.0, 120.0, 300.0):
            value = 100 * (rule.B - rule.A * rule.window(lag))
            found.append(Fact(f"{cells}, {lag:+g} ms (%)", 100 * at(result, dt=lag), value, "closed form"))
    return found


def suppression_facts(results: Sequence[Result]) -> Facts:
    return [Fact(f"{r['dt1']:+g}, {r['dt2']:+g} ms (%)", 100 * r["change"]) for r in results[0].rows]


def authors_facts(results: Sequence[Result]) -> Facts:
    """Beside what the authors' own program gives (ModelDB 144566, `FrequencyDependence.m`)."""
    published = {10.0: (100.0, 102.9, 115.7, 146.3, 165.0), -10.0: (71.7, 59.6, 60.5, 117.8, 173.6)}
    rates = (0.1, 10.0, 20.0, 40.0, 50.0)
    return [
        Fact(f"{lag:+g} ms, {rate:g} Hz (% of before)", 100 + at(results[0], rate=rate, dt=lag), value,
             "the authors' program")
        for lag, values in published.items() for rate, value in zip(rates, values, strict=True)
    ]  # fmt: skip


def clamp_facts(results: Sequence[Result]) -> Facts:
    cortex, hippocampus = (VoltageSTDP.preset(name) for name in ("visual_cortex", "hippocampal"))
    lowest = [min(r.rows, key=lambda row: row["change"]) for r in results]
    return [
        Fact("visual cortex: lowest, of a weight of 1 (%)", 100 + 100 * lowest[0]["change"] * cortex.w0, 91.1,
             "the authors' program"),
        Fact("hippocampus: lowest, of a weight of 1 (%)", 100 + 100 * lowest[1]["change"] * hippocampus.w0, 75.8,
             "the authors' program"),
        Fact("hippocampus: where it is lowest (mV)", lowest[1]["voltage"], -30.0, "the authors' program"),
        Fact("hippocampus: change at the crossover, theta+ + A_LTD/A_LTP = -19 mV (%)",
             at(results[1], voltage=-19.0), 0.0),
    ]  # fmt: skip


def calcium_facts(results: Sequence[Result]) -> Facts:
    facts = []
    for name, result in zip(figures.SHAPES, results, strict=True):
        closed = np.array([CalciumRule.preset(name).strength_after(row["dt"]) - 1 for row in result.rows])
        gaps = 100 * np.abs(result.change - closed)
        facts.append(Fact(f"{name}: largest gap between simulation and closed form (points)", float(gaps.max()), 0.0))
    authors = (("DP", -40.0, 0.827), ("DP", -20.0, 0.760), ("DP", 0.0, 0.994), ("DP", 20.0, 1.188),
               ("DP", 40.0, 1.083), ("DPD", 0.0, 0.997), ("DPD", 20.0, 0.879))  # fmt: skip
    for name, lag, value in authors:
        found = 100 + at(results[figures.SHAPES.index(name)], dt=lag)
        facts.append(Fact(f"{name}, {lag:+g} ms (% of before)", found, 100 * value, "the authors' 1000 runs"))
    for name, noted in (("P", 1.2663), ("D", 0.5371), ("D'", None)):
        found = 100 + at(results[figures.SHAPES.index(name)], dt=0.0)
        closed = 100 * CalciumRule.preset(name).strength_after(0.0)
        facts.append(Fact(f"{name}, both jumps at once (% of before)", found, closed))
        if noted is not None:
            facts.append(
                Fact(f"{name}, the same", found, 100 * noted, "an earlier table of ours, which was wrong here")
            )
    return facts


def trace_facts(results: Sequence[Result]) -> Facts:
    rule = results[0].rule
    assert isinstance(rule, CalciumRule)
    return [
        Fact(f"time above {name} at {lag:+g} ms, in closed form (ms per pair)",
             100.0 * rule.time_above(level, lag, 10.0))
        for lag in (-20.0, 20.0) for name, level in (("theta_p", rule.theta_p), ("theta_d", rule.theta_d))
    ]  # fmt: skip


def nmda_facts(results: Sequence[Result]) -> Facts:
    n = len(figures.COACTIVE)
    return [
        Fact("near the soma, 1 input (%)", 100 * results[0].change[0]),
        Fact("distal, 1 input (%)", 100 * results[n].change[0]),
        Fact("distal, 40 inputs (%)", 100 * results[2 * n - 1].change[0]),
        Fact("AP5, 40 inputs (%)", 100 * results[3 * n - 1].change[0], 0.0),
    ]


def bcm_facts(results: Sequence[Result]) -> Facts:
    rule = BCM(eta=1e-3)
    inputs, weights = torch.full((6000, 1), 5.0, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    _, y = learn_linear(rule, inputs, weights, dt=10.0)
    return [Fact("rate of a linear neuron after 60 s of a constant 5 Hz (Hz)", float(y[-1, 0]), rule.y_0)]


def bcm_mean(rates: np.ndarray) -> np.ndarray:
    """Mean change in per cent by independent Poisson trains: the smoothed rate has variance rate / (2 tau)."""
    rule, tau, x, seconds = BCM(), 0.5, 20.0, 40.0
    second = rates**2 + rates / (2 * tau)
    return 100 * rule.eta * x * seconds * (second - rule.theta_0 * rates)


def oja_facts(results: Sequence[Result]) -> Facts:
    _, weights, first = figures.oja()
    last = weights[-1]
    length = np.linalg.norm(last, axis=1)
    angle = np.degrees(np.arccos(np.clip(np.abs(last @ first) / length, 0, 1)))
    return [
        Fact("length of both weight vectors at the end, the farther from 1", float(length[np.abs(length - 1).argmax()]),
             1.0),
        Fact("angle to the first eigenvector at the end, the larger (°)", float(angle.max()), 0.0),
    ]  # fmt: skip


def derivative_curve(lags: np.ndarray, tau: float = 20.0) -> np.ndarray:
    """The integral of x dy for two exponentials, in per cent."""
    half = 50 * RateDerivative().eta * (1e3 / tau) ** 2 * np.exp(-np.abs(lags) / tau)
    return np.where(lags >= 0, half, -half)


def derivative_facts(results: Sequence[Result]) -> Facts:
    return [
        Fact(f"change at {lag:+g} ms (%)", at(results[0], dt=lag), float(derivative_curve(np.array(lag))),
             "closed form without a step")
        for lag in (20.0, -20.0)
    ]  # fmt: skip


def dopamine_change(seconds: float, tail: float = 5.0) -> float:
    """Change in per cent by a pair at +10 ms and a reward this long after it."""
    r, delay = DopamineSTDP.preset("izhikevich"), 1e3 * seconds
    c = r.A_plus * math.exp(-10 / r.tau_plus)
    both = 1 / (1 / r.tau_c + 1 / r.tau_d)
    burst = r.reward * math.exp(-delay / r.tau_c) * both * (1 - math.exp(-1e3 * tail / both))
    tonic = r.tonic * r.tau_c * (1 - math.exp(-(8e3 + 1e3 * tail) / r.tau_c))
    return 100 * r.gain * 1e-3 * c * (burst + tonic) / r.w_start


def dopamine_facts(results: Sequence[Result]) -> Facts:
    return [Fact(f"reward after {t:g} s (%)", at(results[0], delay=t), dopamine_change(t)) for t in (0.0, 1.0, 5.0)]


def reward_change(seconds: float) -> float:
    rule = RewardSTDP()
    return 100 * rule.eta * math.exp(-10 / rule.tau_plus - 1e3 * seconds / rule.tau_c)


def reward_facts(results: Sequence[Result]) -> Facts:
    return [Fact(f"reward after {t:g} s (%)", at(results[0], delay=t), reward_change(t)) for t in (0.0, 1.0)]


def inhibitory_curve(rates: np.ndarray) -> np.ndarray:
    """Mean change in per cent in 200 s with presynaptic spikes at 10 Hz."""
    rule = InhibitorySTDP.preset("vogels")
    return 100 * rule.eta * 10.0 * 200.0 * (2 * rates * rule.tau * 1e-3 - rule.alpha)


def inhibitory_facts(results: Sequence[Result]) -> Facts:
    rates = np.array([row["rate"] for row in results[0].rows])
    slope, offset = np.polyfit(rates, results[0].change, 1)
    return [Fact("rate without change, by a straight line through the points (Hz)", float(-offset / slope),
                 InhibitorySTDP.preset("vogels").rho_0)]  # fmt: skip


def scaling_facts(results: Sequence[Result]) -> Facts:
    (result,) = results
    rule, seconds = result.rule, result.experiment.duration / 1e3
    assert isinstance(rule, SynapticScaling)
    facts = []
    for row, post, nu in zip(result.rows, result.experiment.post, result.outcome.state["nu"][:, 0], strict=True):
        exponent = rule.beta * (rule.nu_0 * seconds - len(post) + float(nu) * rule.tau_nu * 1e-3)
        what = f"mean rate {row['rate']:g} Hz: weight after {seconds:.0f} s"
        facts.append(Fact(what, 1 + row["change"], math.exp(exponent)))
    return facts


def hetero_facts(results: Sequence[Result]) -> Facts:
    return [
        Fact(f"from {start:g}: weight after the bursts", float(result.outcome.after[-1, 0]),
             float(result.outcome.state["w_ref"][-1, 0]), "its reference")
        for start, result in zip((0.8, 0.2), results, strict=True)
    ]  # fmt: skip


OUTCOMES = {"STET": "late LTP", "WTET": "decays", "SLFS": "late LTD", "WLFS": "decays"}
"""What the four protocols are known for, from memory."""


def tagging_facts(results: Sequence[Result]) -> Facts:
    (result,) = results
    rule = TaggingAndCapture()
    facts = []
    for c, row in enumerate(result.rows):
        name = row["induction"]
        early = result.outcome.traces["h"][0, c].mean() * 1e3 / rule.h0
        late = result.outcome.state["z"][c].mean()
        facts.append(Fact(f"{name}: early phase h/h0 when stimulation ends", float(early)))
        facts.append(Fact(f"{name}: late phase z after 8 h (expected from memory: {OUTCOMES[name]})", float(late)))
    return facts


def benna_facts(results: Sequence[Result]) -> Facts:
    rule, times = BennaFusi(m=6), np.geomspace(6.0, 500.0, 40)
    return [Fact("slope of the response between the fastest and the slowest time constant, log-log",
                 figures.slope_of(rule.response(times), times), -0.5, "theory")]  # fmt: skip


def cascade_facts(results: Sequence[Result]) -> Facts:
    events = np.unique(np.geomspace(10, 300, 8).astype(int))
    curve = Cascade(n=10).signal_to_noise(events, 1)
    return [Fact("slope of 10 levels between 10 and 300 events, log-log", figures.slope_of(curve, events), -0.75,
                 "the paper, from memory")]  # fmt: skip


def short_facts(results: Sequence[Result]) -> Facts:
    rule = TsodyksMarkram.preset("depressing")
    long = rule.releases(np.arange(200) * 50.0)
    return [Fact("depressing, 20 Hz: release in the steady state", float(long[-1]), figures.steady_release(rule, 20.0))]

"""What the gallery shows: a record for each experiment, sorted as `RULES`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import gallery_figures as figures
from benchmarks.gallery import Entry, Fact, Piecewise, Run
from spikecredit.plasticity import (
    BCM,
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

CORTEX = (
    "visual_cortex_all_to_all", "visual_cortex_all_to_all_minimal", "visual_cortex_nearest",
    "visual_cortex_nearest_minimal",
)  # fmt: skip
BALANCED = ("rates=2:30:2", "seconds=100", "A_plus=0.005", "A_minus=0.003", "tau_minus=40")
LAG = "lag, t post - t pre (ms)"
Facts = Sequence[Fact]


def at(result: Result, **place: Any) -> float:
    """The change in per cent in one condition."""
    (row,) = [row for row in result.rows if all(row[name] == value for name, value in place.items())]
    return 100 * float(row["change"])


def course() -> Callable[[Sequence[Result]], Any]:
    return lambda results: results[0].plot(kind="course")


# ---- what is said of the results -------------------------------------------------------------------------------------


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
    for name in ("P", "D", "D'"):
        rule = CalciumRule.preset(name)
        once = [rule.time_above(level, 0.0, 1.0) for level in (rule.theta_p, rule.theta_d)]
        found = 100 + at(results[figures.SHAPES.index(name)], dt=0.0)
        up, down = rule.transitions(2 * once[0], 2 * once[1], 60.0)
        low = rule.beta * (1 - up) + (1 - rule.beta) * down
        twice = (low + rule.b * (1 - low)) / (rule.beta + (1 - rule.beta) * rule.b)
        facts += [
            Fact(f"{name}, both jumps at once (% of before)", found, 100 * rule.strength_after(0.0)),
            Fact(f"{name}, the same", found, 100 * twice, "a closed form that counts the joint jump twice"),
        ]
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


DELAYS = "delays=0:8:0.25"


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


def draw_hetero(results: Sequence[Result]) -> Any:
    parts = {}
    for c, row in enumerate(results[0].rows):
        lines = {
            f"starts at {start:g}": (r.outcome.times / 1e3, r.outcome.traces["w"][:, c, 0])
            for start, r in zip((0.8, 0.2), results, strict=True)
        }
        lines["reference of the upper one"] = (
            results[0].outcome.times / 1e3,
            results[0].outcome.traces["w_ref"][:, c, 0],
        )
        parts[f"postsynaptic spikes at {row['rate']:g} Hz"] = lines
    return figures.panels(parts, "time (s)", "weight")


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


# ---- the gallery -----------------------------------------------------------------------------------------------------

_RATES, _POISSON = np.linspace(0.5, 30, 60), np.linspace(0.5, 20, 40)
_TIMES = np.linspace(0, 8, 200)
_SPAN = np.concatenate([np.linspace(-100, -0.1, 200), [np.nan], np.linspace(0, 100, 200)])
_NMDA = [
    Run("nmda", "pairing", ("dt=10", "n=10", f"coactive={n}", *words), "torch", shown=n == 20)
    for words in ((), ("bpap=20",), ("g_NMDA=0",)) for n in figures.COACTIVE
]  # fmt: skip

ENTRIES: tuple[Entry, ...] = (
    Entry("pair", "pair", "The window of pairs", (Run("pair/bi_poo", "pairing", ("dt=-80:80:2",)),), facts=pair_facts),
    Entry(
        "pair_schemes", "pair", "Which spikes are paired",
        tuple(Run("pair", "poisson", (*BALANCED, f"scheme={s}")) for s in SCHEMES),
        figures.overlay("rate", "rate of both neurons, independent Poisson spikes (Hz)", tuple(SCHEMES), at=12.5),
        scheme_facts,
    ),
    Entry(
        "pair_competition", "pair", "Competition of 1000 inputs", draw=figures.draw_competition,
        facts=competition_facts, code="python -m benchmarks.plasticity_competition",
    ),
    Entry(
        "box", "box", "Striatum, with and without GABA_A",
        (
            Run("box/striatum", "striatal", ("dt=-60:60:1",), data="fino2010"),
            Run("box/striatum_gaba_blocked", "striatal", ("dt=-60:60:1",)),
        ),
        figures.overlay("dt", LAG, ("GABA_A intact", "GABA_A blocked (only the sign is the paper's)"), "fino2010"),
    ),
    Entry(
        "suppression", "suppression", "Triplets under suppression",
        (Run("suppression/visual_cortex", "triplet"),), facts=suppression_facts,
    ),
    Entry(
        "suppression_window", "suppression", "The window of single pairs",
        (Run("suppression/visual_cortex", "pairing", ("dt=-100:100:2",)),),
    ),
    Entry(
        "triplet", "triplet", "Pairs at increasing rates, visual cortex",
        tuple(Run(f"triplet/{name}", "frequency", data="sjostrom2001") for name in CORTEX),
        figures.by_lag([name.removeprefix("visual_cortex_").replace("_", " ") for name in CORTEX], "sjostrom2001"),
    ),
    Entry(
        "triplet_grouped", "triplet", "The same in groups of five pairs, as they were measured",
        tuple(Run(f"triplet/{name}", "frequency", ("grouping=5,15,10000",), data="sjostrom2001") for name in CORTEX),
        figures.by_lag([name.removeprefix("visual_cortex_").replace("_", " ") for name in CORTEX], "sjostrom2001"),
    ),
    Entry(
        "triplet_hippocampus", "triplet", "Triplets, hippocampus",
        (Run("triplet/hippocampus_nearest", "triplet", data="wang2005"),),
    ),
    Entry(
        "triplet_quadruplet", "triplet", "Quadruplets, hippocampus",
        (Run("triplet/hippocampus_nearest", "quadruplet"),),
    ),
    Entry(
        "voltage", "voltage", "Pairs at increasing rates, as the authors simulate them",
        (Run("voltage/visual_cortex", "authors_sweep", ("pause=1000", "slow=600"), "torch", data="sjostrom2001"),),
        figures.by_lag(("voltage rule, visual cortex",), "sjostrom2001"), authors_facts,
    ),
    Entry(
        "voltage_clamp", "voltage", "A clamped cell",
        (
            Run("voltage/visual_cortex", "voltage_clamp", ("potentials=-80:-38:1", "n=25"), "torch"),
            Run("voltage/hippocampal", "voltage_clamp", ("potentials=-80:0:1", "n=100"), "torch"),
        ),
        figures.overlay("voltage", "potential of the clamped cell (mV)", ("visual cortex, 25 spikes",
                        "hippocampus, 100 spikes")),
        clamp_facts,
    ),
    Entry(
        "calcium", "calcium", "Six windows from two thresholds",
        tuple(
            Piecewise(f"calcium/{name}", "pairing", ("dt=-60:60:10",), replicates=1000, seed=1, shown=False)
            for name in figures.SHAPES
        ),
        figures.draw_calcium, calcium_facts,
        "pieces.run(CalciumRule.preset('DP'), Pairing(dt=...).experiment(), 0.25, 500.0, replicates=1000, seed=1)",
    ),
    Entry(
        "calcium_trace", "calcium", "Calcium and its thresholds",
        (Run("calcium/DP", "pairing", ("dt=-20,20", "n=3", "rate=10"), record=("c",), every=0.5),),
        course(), trace_facts,
    ),
    Entry(
        "calcium_frequency", "calcium", "Pairs at increasing rates, cortical slices",
        (Piecewise("calcium/cortical_slices", "frequency", ("grouping=5,15,10000",), replicates=1000, seed=1,
                   data="sjostrom2001", shown=False),),
        figures.by_lag(("calcium rule, cortical slices",), "sjostrom2001"),
        code="pieces.run(CalciumRule.preset('cortical_slices'), FrequencySweep(grouping=(5, 15, 10000.0)).experiment(), "
        "0.25, 500.0, replicates=1000, seed=1)",
    ),
    Entry("nmda", "nmda", "Recruitment of NMDA receptors", tuple(_NMDA), figures.draw_nmda, nmda_facts),
    Entry(
        "nmda_window", "nmda", "The window that calcium control makes",
        (Run("nmda/shouval_2002", "pairing", ("dt=-100:100:5", "n=20"), "torch"),),
    ),
    Entry(
        "bcm", "bcm", "Depression and potentiation by rate",
        (Run("bcm", "poisson", ("rate_pre=20", "rates=1:30:2", "seconds=40", "tau_rate=500", "tau_theta=1000000000"),
             "torch"),),
        figures.overlay("rate", "postsynaptic rate (Hz)", ("Poisson spikes, threshold held at 10 Hz",),
                        closed={"mean, with the variance of smoothed spikes": (_RATES, bcm_mean(_RATES).tolist()),
                                "at constant rates": (_RATES, (4000 * figures.bcm_curve(BCM(), 20.0, _RATES)).tolist())},
                        at=10.0),
        bcm_facts,
    ),
    Entry(
        "oja", "oja", "The first principal component", draw=figures.draw_oja, facts=oja_facts,
        code="learn_linear(Oja(eta=2e-3), inputs, weights)",
    ),
    Entry(
        "rate_derivative", "rate_derivative", "A window from slopes",
        (Run("rate_derivative", "pairing", ("dt=-100:100:5", "n=1", "tau_rate=20")),),
        figures.overlay("dt", LAG, ("spikes smoothed over 20 ms",),
                        closed={"closed form": (_SPAN, derivative_curve(_SPAN).tolist())}),
        derivative_facts,
    ),
    Entry(
        "dopamine", "dopamine", "A reward that comes late",
        (Run("dopamine/izhikevich", "reward", (DELAYS,)),),
        figures.overlay("delay", "delay of the reward (s)", ("izhikevich",),
                        closed={"closed form": (_TIMES, [dopamine_change(t) for t in _TIMES])}),
        dopamine_facts,
    ),
    Entry(
        "reward", "reward", "A reward, beyond what was expected",
        (Run("reward", "reward", (DELAYS,)), Run("reward", "reward", (DELAYS, "expected=0.5")),
         Run("reward", "reward", (DELAYS, "expected=1"))),
        figures.overlay("delay", "delay of the reward (s)",
                        ("nothing was expected", "half of it was expected", "all of it was expected"),
                        closed={"closed form": (_TIMES, [reward_change(t) for t in _TIMES])}),
        reward_facts,
    ),
    Entry(
        "inhibitory", "inhibitory", "The rate that inhibition holds",
        (Run("inhibitory/vogels", "poisson", ("rate_pre=10", "rates=1:20:1", "seconds=200")),),
        figures.overlay("rate", "postsynaptic rate (Hz)", ("vogels",),
                        closed={"mean of independent trains": (_POISSON, inhibitory_curve(_POISSON).tolist())}, at=6.25),
        inhibitory_facts,
    ),
    Entry(
        "scaling", "scaling", "Scaling towards a mean rate",
        (Run("scaling", "poisson", ("rates=1,5,15", "seconds=60"), record=("w", "nu"), every=250.0),),
        course(), scaling_facts,
    ),
    Entry(
        "heterosynaptic", "heterosynaptic", "Postsynaptic spikes alone pull a weight to its reference",
        tuple(
            Run("heterosynaptic/zenke", "poisson", ("rate_pre=0.000001", "rates=20,40", "seconds=30"),
                record=("w", "w_ref"), every=100.0, start=(("w", w), ("w_ref", 0.5)), shown=False)
            for w in (0.8, 0.2)
        ),
        draw_hetero, hetero_facts,
        "PoissonPair(rate_pre=1e-6, rates=(20.0, 40.0), seconds=30).run(HeterosynapticSTDP.preset('zenke'), "
        "start={'w': 0.8, 'w_ref': 0.5}, record=('w', 'w_ref'), every=100.0)",
    ),
    Entry(
        "tagging", "tagging", "Eight hours of early and late phase",
        (Run("tagging/luboeinski_tetzlaff", "consolidation", replicates=10, record=("h", "p", "z"), every=60000.0),),
        course(), tagging_facts,
    ),
    Entry(
        "benna_fusi", "benna_fusi", "A chain of beakers remembers", draw=figures.draw_benna_fusi, facts=benna_facts,
        code="BennaFusi(m=6).response(times)",
    ),
    Entry(
        "cascade", "cascade", "Deeper cascades remember longer", draw=figures.draw_cascade, facts=cascade_facts,
        code="Cascade(n=10).signal_to_noise(events, 10_000)",
    ),
    Entry(
        "short_term", "short_term", "Three kinds of synapses under trains", draw=figures.draw_short_term,
        facts=short_facts, code="TsodyksMarkram.preset('depressing').releases(times)",
    ),
)  # fmt: skip

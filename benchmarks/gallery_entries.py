"""What the gallery shows: a record for each experiment, sorted as `RULES`."""

import numpy as np

from benchmarks import gallery_facts as facts
from benchmarks import gallery_figures as figures
from benchmarks.gallery import Entry, Piecewise, Run
from spikecredit.plasticity import BCM
from spikecredit.plasticity.pair import SCHEMES

CORTEX = (
    "visual_cortex_all_to_all", "visual_cortex_all_to_all_minimal", "visual_cortex_nearest",
    "visual_cortex_nearest_minimal",
)  # fmt: skip
BALANCED = ("rates=2:30:2", "seconds=100", "A_plus=0.005", "A_minus=0.003", "tau_minus=40")
LAG = "lag, t post - t pre (ms)"
DELAYS = "delays=0:8:0.25"

_RATES, _POISSON = np.linspace(0.5, 30, 60), np.linspace(0.5, 20, 40)
_STEADY = 4000 * figures.bcm_curve(BCM(), 20.0, _RATES)
_TIMES = np.linspace(0, 8, 200)
_SPAN = np.concatenate([np.linspace(-100, -0.1, 200), [np.nan], np.linspace(0, 100, 200)])
_NMDA = [
    Run("nmda", "pairing", ("dt=10", "n=10", f"coactive={n}", *words), "torch", shown=n == 20)
    for words in ((), ("bpap=20",), ("g_NMDA=0",)) for n in figures.COACTIVE
]  # fmt: skip

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "pair", "pair", "The window of pairs",
        (Run("pair/bi_poo", "pairing", ("dt=-80:80:2",)),), facts=facts.pair_facts,
    ),
    Entry(
        "pair_schemes", "pair", "Which spikes are paired",
        tuple(Run("pair", "poisson", (*BALANCED, f"scheme={s}")) for s in SCHEMES),
        figures.overlay("rate", "rate of both neurons, independent Poisson spikes (Hz)", tuple(SCHEMES), at=12.5),
        facts.scheme_facts,
    ),
    Entry(
        "pair_competition", "pair", "Competition of 1000 inputs", draw=figures.draw_competition,
        facts=facts.competition_facts, code="python -m benchmarks.plasticity_competition",
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
        "anti_hebbian", "anti_hebbian", "Parallel fibres: electric fish and cerebellum",
        (
            Run("anti_hebbian/ell", "pairing", ("dt=-100:400:5", "n=1")),
            Run("anti_hebbian/purkinje", "pairing", ("dt=-100:400:5", "n=1")),
        ),
        figures.overlay("dt", LAG, ("electric fish (from memory)", "Purkinje cell (from memory)")),
        facts=facts.anti_hebbian_facts,
    ),
    Entry(
        "suppression", "suppression", "Triplets under suppression",
        (Run("suppression/visual_cortex", "triplet"),), facts=facts.suppression_facts,
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
        figures.by_lag(("voltage rule, visual cortex",), "sjostrom2001"), facts.authors_facts,
    ),
    Entry(
        "voltage_clamp", "voltage", "A clamped cell",
        (
            Run("voltage/visual_cortex", "voltage_clamp", ("potentials=-80:-38:1", "n=25"), "torch"),
            Run("voltage/hippocampal", "voltage_clamp", ("potentials=-80:0:1", "n=100"), "torch"),
        ),
        figures.overlay("voltage", "potential of the clamped cell (mV)", ("visual cortex, 25 spikes",
                        "hippocampus, 100 spikes")),
        facts.clamp_facts,
    ),
    Entry(
        "calcium", "calcium", "Six windows from two thresholds",
        tuple(
            Piecewise(f"calcium/{name}", "pairing", ("dt=-60:60:10",), replicates=1000, seed=1, shown=False)
            for name in figures.SHAPES
        ),
        figures.draw_calcium, facts.calcium_facts,
        "pieces.run(CalciumRule.preset('DP'), Pairing(dt=...).experiment(), 0.25, 500.0, replicates=1000, seed=1)",
    ),
    Entry(
        "calcium_trace", "calcium", "Calcium and its thresholds",
        (Run("calcium/DP", "pairing", ("dt=-20,20", "n=3", "rate=10"), record=("c",), every=0.5),),
        figures.course, facts.trace_facts,
    ),
    Entry(
        "calcium_frequency", "calcium", "Pairs at increasing rates, cortical slices",
        (Piecewise("calcium/cortical_slices", "frequency", ("grouping=5,15,10000",), replicates=1000, seed=1,
                   data="sjostrom2001", shown=False),),
        figures.by_lag(("calcium rule, cortical slices",), "sjostrom2001"),
        code="pieces.run(CalciumRule.preset('cortical_slices'), FrequencySweep(grouping=(5, 15, 1e4)).experiment(), "
        "0.25, 500.0, replicates=1000, seed=1)",
    ),
    Entry("nmda", "nmda", "Recruitment of NMDA receptors", tuple(_NMDA), figures.draw_nmda, facts.nmda_facts),
    Entry(
        "nmda_window", "nmda", "The window that calcium control makes",
        (Run("nmda/shouval_2002", "pairing", ("dt=-100:100:5", "n=20"), "torch"),),
    ),
    Entry(
        "bcm", "bcm", "Depression and potentiation by rate",
        (Run("bcm", "poisson", ("rate_pre=20", "rates=1:30:2", "seconds=40", "tau_rate=500", "tau_theta=1000000000"),
             "torch"),),
        figures.overlay("rate", "postsynaptic rate (Hz)", ("Poisson spikes, threshold held at 10 Hz",),
                        closed={"mean, with the variance of smoothed spikes": (_RATES, facts.bcm_mean(_RATES).tolist()),
                                "at constant rates": (_RATES, _STEADY.tolist())},
                        at=10.0),
        facts.bcm_facts,
    ),
    Entry(
        "oja", "oja", "The first principal component", draw=figures.draw_oja, facts=facts.oja_facts,
        code="learn_linear(Oja(eta=2e-3), inputs, weights)",
    ),
    Entry(
        "rate_derivative", "rate_derivative", "A window from slopes",
        (Run("rate_derivative", "pairing", ("dt=-100:100:5", "n=1", "tau_rate=20")),),
        figures.overlay("dt", LAG, ("spikes smoothed over 20 ms",),
                        closed={"closed form": (_SPAN, facts.derivative_curve(_SPAN).tolist())}),
        facts.derivative_facts,
    ),
    Entry(
        "dopamine", "dopamine", "A reward that comes late",
        (Run("dopamine/izhikevich", "reward", (DELAYS,)),),
        figures.overlay("delay", "delay of the reward (s)", ("izhikevich",),
                        closed={"closed form": (_TIMES, [facts.dopamine_change(t) for t in _TIMES])}),
        facts.dopamine_facts,
    ),
    Entry(
        "reward", "reward", "A reward, beyond what was expected",
        (Run("reward", "reward", (DELAYS,)), Run("reward", "reward", (DELAYS, "expected=0.5")),
         Run("reward", "reward", (DELAYS, "expected=1"))),
        figures.overlay("delay", "delay of the reward (s)",
                        ("nothing was expected", "half of it was expected", "all of it was expected"),
                        closed={"closed form": (_TIMES, [facts.reward_change(t) for t in _TIMES])}),
        facts.reward_facts,
    ),
    Entry(
        "inhibitory", "inhibitory", "The rate that inhibition holds",
        (Run("inhibitory/vogels", "poisson", ("rate_pre=10", "rates=1:20:1", "seconds=200")),),
        figures.overlay("rate", "postsynaptic rate (Hz)", ("vogels",),
                        closed={"mean of independent trains": (_POISSON, facts.inhibitory_curve(_POISSON).tolist())},
                        at=6.25),
        facts.inhibitory_facts,
    ),
    Entry(
        "scaling", "scaling", "Scaling towards a mean rate",
        (Run("scaling", "poisson", ("rates=1,5,15", "seconds=60"), record=("w", "nu"), every=250.0),),
        figures.course, facts.scaling_facts,
    ),
    Entry(
        "heterosynaptic", "heterosynaptic", "Postsynaptic spikes alone pull a weight to its reference",
        tuple(
            Run("heterosynaptic/zenke", "poisson", ("rate_pre=0.000001", "rates=20,40", "seconds=30"),
                record=("w", "w_ref"), every=100.0, start=(("w", w), ("w_ref", 0.5)), shown=False)
            for w in (0.8, 0.2)
        ),
        figures.draw_hetero, facts.hetero_facts,
        "PoissonPair(rate_pre=1e-6, rates=(20.0, 40.0), seconds=30).run(HeterosynapticSTDP.preset('zenke'), "
        "start={'w': 0.8, 'w_ref': 0.5}, record=('w', 'w_ref'), every=100.0)",
    ),
    Entry(
        "tagging", "tagging", "Eight hours of early and late phase",
        (Run("tagging/luboeinski_tetzlaff", "consolidation", replicates=10, record=("h", "p", "z"), every=60000.0),),
        figures.course, facts.tagging_facts,
    ),
    Entry(
        "benna_fusi", "benna_fusi", "A chain of beakers remembers", draw=figures.draw_benna_fusi,
        facts=facts.benna_facts,
        code="BennaFusi(m=6).response(times)",
    ),
    Entry(
        "cascade", "cascade", "Deeper cascades remember longer", draw=figures.draw_cascade, facts=facts.cascade_facts,
        code="Cascade(n=10).signal_to_noise(events, 10_000)",
    ),
    Entry(
        "short_term", "short_term", "Three kinds of synapses under trains", draw=figures.draw_short_term,
        facts=facts.short_facts, code="TsodyksMarkram.preset('depressing').releases(times)",
    ),
)  # fmt: skip

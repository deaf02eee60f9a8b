"""Tagging and capture: four protocols and eight hours, the end of protein synthesis, and the engines."""

import math
from dataclasses import replace

import numpy as np
import pytest

from spikecredit.plasticity import CustomRule, Pairing, pieces
from spikecredit.plasticity.engines.reference import run as reference_run
from spikecredit.plasticity.engines.stimulus import Stimulus
from spikecredit.plasticity.protocols import Experiment
from spikecredit.plasticity.tagging import INDUCTIONS, Consolidation, TaggingAndCapture, induction
from spikecredit.plasticity.triplet import TripletSTDP

HOUR = 3.6e6


def test_inductions():
    strong, weak, slow, poisson = (induction(name) for name in INDUCTIONS)
    assert len(strong) == 300 and strong[[0, 99, 100, 299]].tolist() == [0, 990, 6e5, 1.2e6 + 990]
    assert len(weak) == 20 and weak[-1] == 190
    assert len(slow) == 2700 and slow[:4].tolist() == [0, 50, 100, 1150]
    assert 800 < len(poisson) < 1000 and poisson[-1] < 9e5
    assert not np.array_equal(poisson, induction("WLFS", seed=1)[: len(poisson)])
    with pytest.raises(ValueError, match="unknown induction 'TET': there are STET, WTET, SLFS, WLFS"):
        induction("TET")


def test_four_protocols():
    """Strong tetani and strong low frequency last eight hours, their weak forms do not, and each has its sign."""
    rule = TaggingAndCapture()
    result = Consolidation(fine=1.0).run(rule, replicates=10, record=("h", "z"), every=HOUR / 2)
    early, late = (result.outcome.traces[name].mean(axis=2) for name in ("h", "z"))
    early = early / (rule.h0 * 1e-3) - 1
    assert np.sign(early[0]).tolist() == [1, 1, -1, -1]
    assert np.abs(early[0]).min() > 0.1
    assert np.abs(early[-1]).max() < 0.03, "the early phase is gone after 8 h"
    assert late[-1, 0] > 0.5 and late[-1, 2] < -0.25
    assert np.array_equal(late[:, [1, 3]], np.zeros_like(late[:, [1, 3]])), "no proteins, no late phase"
    assert result.change == pytest.approx(late[-1] + early[-1], abs=1e-9)


def test_protein_synthesis_ends():
    """It lasts tau_h / 0.1 ln(|h - h0| / theta_pro) after stimulation; the amount is 1 until then."""
    rule = TaggingAndCapture()
    h = 8.19
    start = {"h": h * 1e-3, "p": 1.0}
    silent = Stimulus((np.empty(0),), (np.empty(0),), 3 * HOUR)
    outcome = reference_run(rule.equations(), silent, dt=2000.0, start=start, record=("p",), every=20000.0)
    amount = outcome.traces["p"][:, 0, 0]
    falls = outcome.times[np.argmax(amount < 1 - 1e-9)] / 1e3
    assert falls == pytest.approx(rule.protein_end(h), rel=0.01)
    assert rule.protein_end(h) == pytest.approx(6884 * math.log((8.19 - 4.20075) / 2.10037), rel=1e-12)
    assert rule.protein_end(2 * 4.20075 - h) == pytest.approx(rule.protein_end(h), rel=1e-9)
    assert rule.protein_end(5.0) == 0
    last = amount[np.argmin(np.abs(outcome.times - 1e3 * (falls + 3600)))]
    assert last == pytest.approx(math.exp(-1), abs=0.01)


def test_strong_drive():
    """Calcium high for 4 h: h comes near its fixed point above 1.8 h0, and at 8 h z is above 0.9."""
    rule = TaggingAndCapture(sigma=0.0, tau_Ca=1e12, C_pre=4.0, D=0.0)
    drive = Stimulus((np.array([0.0]),), (np.empty(0),), 4 * HOUR)
    driven = reference_run(rule.equations(), drive, dt=400.0).state
    fixed = (0.1 * 4.20075 + 1645.6 * 10) / (0.1 + 1645.6 + 313.1)
    assert driven["h"][0, 0] == pytest.approx(fixed * 1e-3, rel=1e-9)
    assert driven["h"][0, 0] > 1.8 * 4.20075e-3
    silent = Stimulus((np.empty(0),), (np.empty(0),), 4 * HOUR)
    after = reference_run(rule.equations(), silent, dt=5000.0, start={**driven, "c": 0.0}).state
    assert after["z"][0, 0] > 0.9


def test_early_phase_in_numpy():
    """A weak tetanus by the closed form of each stretch between crossings of a threshold."""
    rule = replace(TaggingAndCapture(), sigma=0.0)
    times = induction("WTET") + rule.D
    low, high = (pieces.above(times, np.ones(20), 48.8, theta, 1000.0) for theta in (1.2, 3.0))
    h, now = 4.20075, 0.0
    for t in sorted({x for a in low + high for x in a} | {1000.0}):
        middle = (now + t) / 2
        up = 1645.6 * any(a <= middle < b for a, b in high)
        down = 313.1 * any(a <= middle < b for a, b in low)
        goal = (0.1 * 4.20075 + up * 10) / (0.1 + up + down)
        h, now = goal + (h - goal) * math.exp(-(t - now) / 688400 * (0.1 + up + down)), t
    made = Experiment({}, [{}], [induction("WTET")], [np.empty(0)], 1000.0)
    assert pieces.run(rule, made, 0.02, 100.0).state["h"][0, 0] == pytest.approx(h * 1e-3, rel=1e-3)
    assert h > 5


def test_calcium_is_late():
    """Nothing happens until D after the spike."""
    rule = TaggingAndCapture(sigma=0.0, C_pre=4.0)
    early, late = (
        pieces.run(rule, Experiment({}, [{}], [np.array([0.0])], [np.empty(0)], end), 0.1, 1.0) for end in (18.7, 20.0)
    )
    assert early.after[0, 0] == pytest.approx(4.20075e-3, rel=1e-12)
    assert late.after[0, 0] == pytest.approx(
        4.20075e-3 + 1.2 * (1645.6 * 5.79925e-3 - 313.1 * 4.20075e-3) / 688400, rel=1e-4
    )


@pytest.mark.parametrize("engine", ["torch", "brian"])
def test_engines_agree(engine):
    rule = replace(TaggingAndCapture(), sigma=0.0, D=19.0, tau_p=1.0, tau_z=1.0, tau_h=20.0)
    protocol = Pairing(dt=(1.0, 5.0), n=30, rate=100.0)
    reference = protocol.run(rule).outcome.state
    outcome = protocol.run(rule, engine=engine).outcome.state
    for name in ("h", "p", "z"):
        assert outcome[name] == pytest.approx(reference[name], rel=1e-9), name
    assert reference["h"].min() > 6e-3 and reference["p"].min() > 0.05 and reference["z"].min() > 1e-4


@pytest.mark.parametrize("engine", ["torch", "brian"])
def test_hours_on_other_engines(engine):
    """The clocked engines take one coarse step more, that of time 0: 20 s of 6884."""
    protocol = Consolidation(("WTET",), hours=1.0, coarse=20000.0)
    rule = TaggingAndCapture()
    reference = protocol.run(rule, seed=3).outcome
    outcome = protocol.run(rule, engine=engine, seed=3, record=("h",), every=6e5).outcome
    assert outcome.after == pytest.approx(reference.after, rel=1e-3)
    assert len(outcome.times) == 7 and outcome.times[0] == protocol.stimulation
    assert outcome.traces["h"][0, 0, 0] > 1.1 * 4.20075e-3


def test_noise_needs_calcium():
    """sigma acts while calcium is above a threshold only: synapses differ after a tetanus, and relax without noise."""
    rule = TaggingAndCapture()
    protocol = Consolidation(("WTET",), hours=0.5)
    spread = protocol.run(rule, replicates=400).outcome.state["h"].std()
    made = replace(protocol.experiment(), duration=1000.0)
    tetanus = pieces.run(rule, made, 0.5, 5000.0, replicates=400).state["h"].std()
    assert spread == pytest.approx(tetanus * math.exp(-1804 / 6884), rel=0.01)
    assert 0.02e-3 < tetanus < 1e-3


def test_refusals():
    with pytest.raises(ValueError, match="for TaggingAndCapture, got TripletSTDP"):
        Consolidation().run(TripletSTDP())
    with pytest.raises(ValueError, match=r"write Consolidation\(fine=..., coarse=...\), not dt=1"):
        Consolidation().run(TaggingAndCapture(), dt=1)
    with pytest.raises(ValueError, match="whole number of coarse steps of 5000 ms, got 7000 ms"):
        Consolidation().run(TaggingAndCapture(), record=("h",), every=7000.0)
    assert TaggingAndCapture().published == "luboeinski_tetzlaff"
    assert not isinstance(TaggingAndCapture(), CustomRule)


def test_conditions_with_names_are_told_and_drawn(tmp_path):
    """The axis of this protocol has words, not numbers: the verb's table, file and figures take them."""
    protocol = Consolidation(inductions=("WTET",), hours=1.0)
    result = protocol.run(TaggingAndCapture(), record=("h", "z"), every=600_000.0)
    assert result.table().splitlines()[1].split()[0] == "WTET"
    assert result.to_csv(tmp_path / "changes.csv")[0].read_text().splitlines()[1].startswith("WTET,")
    pytest.importorskip("matplotlib")
    assert [label.get_text() for label in result.plot().axes[0].get_xticklabels()] == ["WTET"]
    assert result.plot(kind="course").axes[0].lines[0].get_label() == "induction = WTET"

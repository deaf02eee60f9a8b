"""NMDA recruitment: the magnesium block, AP5, cooperativity, and where on the dendrite."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from spikecredit.plasticity import Pairing
from spikecredit.plasticity.nmda import NMDARecruitment
from spikecredit.plasticity.protocols import Experiment, Protocol


@dataclass(frozen=True)
class Given(Protocol):
    """An experiment as it is."""

    made: Experiment
    kind: ClassVar[str] = "given"

    def experiment(self):
        return self.made


def held(potentials, n=3, rate=20.0):
    times = [10.0 + np.arange(n) * 1e3 / rate for _ in potentials]
    silent = [np.empty(0)] * len(potentials)
    return Given(Experiment({}, [{}] * len(potentials), times, silent, 300.0, voltage=np.array(potentials)))


def inputs(n=20, rate=5.0):
    """Presynaptic spikes alone."""
    end = 100.0 + n * 1e3 / rate
    return Given(Experiment({}, [{}], [50.0 + np.arange(n) * 1e3 / rate], [np.empty(0)], end))


def test_block():
    rule = NMDARecruitment()
    assert rule.unblocked(0.0) == pytest.approx(1 / (1 + 1 / 3.57), abs=1e-15)
    assert rule.unblocked(-70.0) == pytest.approx(1 / (1 + np.exp(4.34) / 3.57), abs=1e-15)
    assert replace(rule, Mg=0.0).unblocked(-70.0) == 1.0


@pytest.mark.parametrize("engine", ["reference", "torch", "brian"])
def test_calcium_of_one_input_at_two_potentials(engine):
    """Calcium is linear in B(V) (V_r - V), so its ratio is theirs at every moment."""
    rule = NMDARecruitment()
    outcome = held((-70.0, -40.0)).run(rule, engine=engine, record=("Ca",), every=50.0).outcome
    block = [1 / (1 + np.exp(-0.062 * v) / 3.57) for v in (-70, -40)]
    ratio = block[1] * 170 / (block[0] * 200)
    assert 3.5 < ratio < 5
    calcium = outcome.traces["Ca"][1:, :, 0]
    assert calcium[:, 1] / calcium[:, 0] == pytest.approx(np.full(len(calcium), ratio), rel=1e-9)
    assert rule.influx(-40.0) / rule.influx(-70.0) == pytest.approx(ratio, rel=1e-12)


def test_equations_in_numpy():
    """Euler's method, written out."""
    rule, dt = NMDARecruitment(coactive=15), 1.0
    times = {10, 60, 110}
    made = Experiment({}, [{}], [np.array(sorted(times), float)], [np.array([70.0])], 250.0)
    v = rule.potential(np.arange(251) * dt, made.pre[0], made.post[0])
    fast = slow = calcium = 0.0
    w = 0.25
    for k in range(251):
        omega = 0.25 + 1 / (1 + np.exp(-80 * (calcium - 0.55))) - 0.25 / (1 + np.exp(-80 * (calcium - 0.35)))
        dw = (omega - w) / (100 / (1e-5 + calcium**3) + 1000)
        flux = 0.002 * (fast + slow) * (130 - v[k]) / (1 + np.exp(-0.062 * v[k]) / 3.57)
        w, calcium = w + dt * dw, calcium + dt * (flux - calcium / 50)
        fast, slow = fast * np.exp(-dt / 50), slow * np.exp(-dt / 200)
        if k in times:
            fast = slow = 0.25
    outcome = Given(made).run(rule).outcome
    assert outcome.after[0, 0] == pytest.approx(w, abs=1e-12)
    assert outcome.state["Ca"][0, 0] == pytest.approx(calcium, abs=1e-12)
    assert w > 0.26


@pytest.mark.parametrize("engine", ["torch", "brian"])
def test_engines_agree(engine):
    protocol = Pairing(dt=(-10.0, 10.0), n=3, rate=10.0)
    reference = protocol.run(NMDARecruitment()).change
    assert protocol.run(NMDARecruitment(), engine=engine).change == pytest.approx(reference, abs=1e-12)
    assert np.abs(reference).min() > 1e-2


def test_potential():
    """An EPSP with its peak, scaled by the number of inputs; a back-propagating spike with its delay."""
    rule = NMDARecruitment(coactive=4)
    t = np.arange(0, 200, 0.01)
    v = rule.potential(t, np.array([20.0]), np.empty(0))
    assert v.max() == pytest.approx(-65 + 4, abs=1e-6)
    assert t[v.argmax()] == pytest.approx(20 + 12.79, abs=0.01)
    v = rule.potential(t, np.empty(0), np.array([20.0]))
    assert v[t < 22 - 1e-9] == pytest.approx(-65)
    assert v.max() == pytest.approx(35, abs=1e-6)
    late = v[np.searchsorted(t, 52)]
    assert late == pytest.approx(-65 + 100 * (0.75 * np.exp(-10) + 0.25 * np.exp(-30 / 25)), abs=0.02)


def test_window():
    """LTD, LTP, and again LTD at long positive lags: the shape of Shouval, Bear & Cooper 2002."""
    lags = (-100.0, -10.0, 5.0, 20.0, 80.0)
    change = Pairing(dt=lags, n=10, rate=1.0).run(NMDARecruitment(), engine="torch").change
    assert np.sign(np.round(change, 2)).tolist() == [0, -1, 1, 1, -1]


def test_ap5_abolishes():
    """Without NMDA current there is no calcium, and Omega is the weight that the synapse has."""
    protocol = Pairing(dt=(10.0,), n=10, rate=5.0)
    assert protocol.run(NMDARecruitment()).change[0] > 0.3
    blocked = protocol.run(replace(NMDARecruitment(), g_NMDA=0.0))
    assert blocked.change[0] == pytest.approx(0, abs=1e-9)
    assert blocked.outcome.state["Ca"][0, 0] == 0


def test_cooperativity():
    """Few inputs depress, many potentiate; between them is one threshold, and calcium grows with every input."""
    number = (1, 5, 9, 13, 17, 21)
    rules = [replace(NMDARecruitment(), coactive=n) for n in number]
    changes = np.array([inputs().run(rule).change[0] for rule in rules])
    assert (changes[:3] < 0).all() and (changes[-2:] > 0).all()
    assert np.sum(np.diff(np.sign(changes)) != 0) == 1
    calcium = [inputs(n=3).run(r, record=("Ca",), every=1.0).outcome.traces["Ca"].max() for r in rules]
    assert (np.diff(calcium) > 0).all()


def test_where_on_the_dendrite():
    """Sjöström & Häusser 2006, by sign: the same pairs potentiate where the whole spike arrives, depress where little
    of it does, and potentiate there as well once many inputs cooperate."""
    pairs = Pairing(dt=(10.0,), n=10, rate=5.0)

    def change(bpap, coactive):
        return pairs.run(replace(NMDARecruitment(), bpap=bpap, coactive=coactive)).change[0]

    assert change(100.0, 1) > 0.2
    assert change(20.0, 1) < -0.05
    assert change(20.0, 20) > 0.2


def test_provenance():
    assert not NMDARecruitment.PRESETS["shouval_2002"].verified

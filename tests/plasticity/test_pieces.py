"""Runs in pieces: exact intervals above a threshold, and the result of a run in one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import Pairing, pieces
from spikecredit.plasticity.calcium import CalciumRule


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 180), st.floats(0.1, 2)), max_size=8), st.floats(0.3, 3))
def test_intervals(events, threshold):
    times, jumps = (np.array([e[i] for e in events]) for i in (0, 1))
    found = pieces.above(times, jumps, 20.0, threshold, 200.0)
    t = np.linspace(0, 200, 4001)[:-1]
    age = t[:, None] - times
    calcium = np.where(age >= 0, jumps * np.exp(-np.maximum(age, 0) / 20), 0).sum(axis=1)
    inside = np.zeros(t.shape, bool)
    for a, b in found:
        assert a < b <= 200.0
        inside |= (t >= a) & (t < b)
    clear = np.abs(calcium - threshold) > 1e-9
    assert np.array_equal(inside[clear], (calcium > threshold)[clear])


def test_pieces_are_one_run():
    """Cut or not, the same drift, up to the steps."""
    rule = replace(CalciumRule.preset("cortical_slices"), sigma=0.0)
    protocol = Pairing(dt=(-10.0, 10.0), n=4, rate=10.0)
    start = {"rho": 0.45}
    whole = protocol.run(rule, dt=0.02, start=start).outcome.state
    cut = pieces.run(rule, protocol.experiment(), 0.02, 50.0, start=start).state
    assert cut["rho"] == pytest.approx(whole["rho"], abs=1e-4)
    assert cut["c"] == pytest.approx(whole["c"], rel=1e-9)
    assert np.abs(whole["rho"] - 0.45).min() > 5e-3


def test_pieces_cover_the_experiment():
    found = pieces._pieces([(1.0, 2.0), (2.1, 3.0), (9.5, 10.0)], 10.0, 0.5, 5.0)
    assert [a for a, _, _ in found] == [0.0, *[b for _, b, _ in found][:-1]]
    assert found[-1][1] == 10.0
    assert all(dt == 0.5 for a, b, dt in found if a < 3.5 and b > 1.0)
    assert (3.5, 9.5, 5.0) in found


def test_steps_refused():
    with pytest.raises(ValueError, match="0 < fine <= coarse, got fine = 2 and coarse = 1"):
        pieces.run(CalciumRule(), Pairing(dt=(10.0,), n=1).experiment(), 2, 1)

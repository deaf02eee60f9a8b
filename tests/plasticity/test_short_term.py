"""Tsodyks-Markram: closed forms for regular and random trains."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import TsodyksMarkram
from spikecredit.plasticity.engines import ENGINES, Stimulus

DEPRESSING, FACILITATING = (TsodyksMarkram.preset(n) for n in ("depressing", "facilitating"))


@given(
    gaps=st.lists(st.floats(0.5, 500), min_size=1, max_size=12),
    U=st.floats(0.01, 1.0), tau_rec=st.floats(5, 1000), tau_f=st.sampled_from([0.0, 20.0, 530.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_releases_are_the_published_recursion(gaps, U, tau_rec, tau_f):
    times = np.cumsum(gaps)
    u, x, wanted = 0.0, 1.0, []
    for k, gap in enumerate(gaps):
        if k:
            u = u * math.exp(-gap / tau_f) if tau_f else 0.0
            x = 1 - (1 - x) * math.exp(-gap / tau_rec)
        u += U * (1 - u)
        wanted.append(u * x)
        x -= u * x
    np.testing.assert_allclose(TsodyksMarkram(U, tau_rec, tau_f).releases(times), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [1.0, 5.0, 20.0, 60.0])
@pytest.mark.parametrize("rule", [DEPRESSING, TsodyksMarkram(0.3, 200.0)])
def test_regular_train_settles_where_the_closed_form_says(rule, rate):
    E = math.exp(-1e3 / (rate * rule.tau_rec))
    settled = rule.releases(np.arange(400) * 1e3 / rate)[-1]
    assert settled == pytest.approx(rule.U * (1 - E) / (1 - (1 - rule.U) * E), abs=1e-9)


def settled_facilitating(rate):
    """The release of a regular train in the long run."""
    U, T = FACILITATING.U, 1e3 / rate
    u = U / (1 - (1 - U) * math.exp(-T / FACILITATING.tau_f))
    E = math.exp(-T / FACILITATING.tau_rec)
    return u * (1 - E) / (1 - (1 - u) * E)


def test_facilitating_synapse_peaks_at_its_frequency():
    rates = np.array([5.0, 12.0, 18.0, 21.0, 24.0, 32.0, 50.0])
    found = np.array([FACILITATING.releases(np.arange(14 * r) * 1e3 / r)[-1] for r in rates])
    np.testing.assert_allclose(found, [settled_facilitating(r) for r in rates], rtol=0, atol=1e-9)
    fine = np.linspace(2, 60, 58001)
    peak = fine[np.argmax([settled_facilitating(r) for r in fine])]
    assert rates[np.argmax(found)] == 21.0
    assert peak == pytest.approx(20.821, abs=1e-3)  # 1/sqrt(U tau_rec tau_f) = 22.0 Hz is the mean-field estimate
    assert peak == pytest.approx(1e3 / math.sqrt(0.03 * 130 * 530), rel=0.06)


def test_limiting_frequency():
    """Above 1/(U tau_rec) = 2.5 Hz a depressing synapse transmits 1/tau_rec a second, whatever the rate."""
    limit = 1e3 / (DEPRESSING.U * DEPRESSING.tau_rec)
    assert limit == 2.5
    per_second = {r: r * DEPRESSING.releases(np.arange(300) * 1e3 / r)[-1] for r in (limit / 10, limit, 40.0, 80.0)}
    assert per_second[80.0] == pytest.approx(1.25, rel=0.03) and per_second[40.0] == pytest.approx(1.25, rel=0.05)
    assert per_second[limit / 10] == pytest.approx(0.25 * DEPRESSING.U, rel=0.01)
    assert 0.5 * 1.25 < per_second[limit] < 0.75 * 1.25  # a random train gives one half


@pytest.mark.parametrize("rate", [2.5, 10.0])
def test_random_train_releases_as_the_mean_says(rate):
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.exponential(1e3 / rate, 6000))
    per_second = DEPRESSING.releases(times).sum() / times[-1] * 1e3
    assert per_second == pytest.approx(rate * 0.5 / (1 + rate * 0.5 * 0.8), rel=0.05)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_release_can_be_recorded(engine):
    times = np.array([10.0, 30.0, 35.0, 200.0])
    made = ENGINES[engine]()(
        FACILITATING.equations(), Stimulus((times,), (np.empty(0),), 220.0), record=("w",), every=1.0
    )
    after = [int(t) + 1 for t in times]
    np.testing.assert_allclose(made.traces["w"][after, 0, 0], FACILITATING.releases(times), rtol=0, atol=1e-9)
    assert made.traces["w"][5, 0, 0] == pytest.approx(0.03)  # a rested synapse


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match=r"U is a share"):
        TsodyksMarkram(U=1.5).equations()
    with pytest.raises(ValueError, match="tau_f >= 0"):
        TsodyksMarkram(tau_f=-1.0).equations()

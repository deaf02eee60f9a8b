"""Pair STDP: windows, pairing schemes against explicit sums over pairs, weight dependences against NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import BoxSTDP, OutsideFit, Pairing, PairSTDP
from spikecredit.plasticity.engines import Stimulus, reference
from spikecredit.plasticity.engines.batched import Batch

TIMES = st.lists(st.integers(0, 300), min_size=1, max_size=8, unique=True).map(lambda t: sorted(map(float, t)))


def change(rule, pre, post, **start):
    """The change of weight, by the reference engine."""
    stimulus = Stimulus((np.array(pre),), (np.array(post),), 400.0)
    made = reference.run(rule.equations(), stimulus, start=start)
    return float(made.after[0, 0] - made.before[0, 0])


def chosen_pairs(scheme, pre, post):
    """The pairs (t_pre, t_post) that count, potentiating (pre first or together) and depressing (post first). Of two
    spikes at one time the presynaptic one is first."""
    plus = [(i, j) for i in pre for j in post if i <= j]
    minus = [(i, j) for i in pre for j in post if j < i]
    if scheme == "nearest_symmetric":
        plus = [(max(i for i in pre if i <= j), j) for j in post if any(i <= j for i in pre)]
        minus = [(i, max(j for j in post if j < i)) for i in pre if any(j < i for j in post)]
    if scheme == "pre_centred":
        plus = [(i, min(j for j in post if j >= i)) for i in pre if any(j >= i for j in post)]
        minus = [(i, max(j for j in post if j < i)) for i in pre if any(j < i for j in post)]
    if scheme == "restricted_symmetric":
        plus = [(i, j) for i, j in plus if not any(i < k <= j for k in pre) and not any(i <= k < j for k in post)]
        minus = [(i, j) for i, j in minus if not any(j < k < i for k in post) and not any(j < k < i for k in pre)]
    return plus, minus


@pytest.mark.parametrize("scheme", ["all_to_all", "nearest_symmetric", "pre_centred", "restricted_symmetric"])
@given(pre=TIMES, post=TIMES)
@settings(max_examples=60, deadline=None)
def test_schemes_are_sums_over_their_pairs(scheme, pre, post):
    rule = PairSTDP(0.02, 0.03, 17.0, 34.0, scheme=scheme)
    plus, minus = chosen_pairs(scheme, pre, post)
    wanted = sum(0.02 * math.exp(-(j - i) / 17) for i, j in plus)
    wanted -= sum(0.03 * math.exp(-(i - j) / 34) for i, j in minus)
    assert change(rule, pre, post) == pytest.approx(wanted, abs=1e-12)


def test_schemes_differ_on_a_triplet_by_exactly_the_pairs_that_they_leave_out():
    pre, post = [50.0, 60.0], [70.0]
    a2a, nearest = (change(PairSTDP(scheme=s), pre, post) for s in ("all_to_all", "nearest_symmetric"))
    assert a2a - nearest == pytest.approx(0.005 * math.exp(-1), abs=1e-15)
    assert change(PairSTDP(scheme="pre_centred"), pre, post) == pytest.approx(a2a, abs=1e-15)
    assert change(PairSTDP(scheme="restricted_symmetric"), pre, post) == pytest.approx(nearest, abs=1e-15)
    pre, post = [50.0], [60.0, 70.0]
    centred, restricted = (change(PairSTDP(scheme=s), pre, post) for s in ("pre_centred", "restricted_symmetric"))
    assert centred == restricted == pytest.approx(0.005 * math.exp(-0.5), abs=1e-15)


def test_window_at_201_lags():
    lags = np.arange(-100.0, 101.0)
    result = Pairing(dt=tuple(lags), n=1).run(PairSTDP())
    wanted = np.where(lags >= 0, 0.005 * np.exp(-np.abs(lags) / 20), -0.00525 * np.exp(-np.abs(lags) / 20))
    np.testing.assert_allclose(result.change, wanted, rtol=0, atol=1e-12)
    assert result.change[100] == pytest.approx(0.005, abs=1e-15)  # lag 0 is pre before post
    slope = np.polyfit(lags[101:], np.log(result.change[101:]), 1)[0]
    assert -1 / slope == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize(("plus", "minus"), [(0.0, 0.0), (1.0, 1.0), (0.4, 0.4), (0.0, 1.0), (0.7, 0.2)])
@given(pre=TIMES, post=TIMES, start=st.floats(0.0, 2.0))
@settings(max_examples=25, deadline=None)
def test_weight_dependence_is_the_published_formula_clipped_after_each_event(plus, minus, pre, post, start):
    top, step, alpha = 2.0, 0.2, 1.3
    rule = PairSTDP(step, alpha * step, mu_plus=plus, mu_minus=minus, w_max=top)
    w, x, y, now = start / top, 0.0, 0.0, 0.0
    for t, kind in sorted([(t, 0) for t in pre] + [(t, 1) for t in post]):
        x, y, now = x * math.exp((now - t) / 20), y * math.exp((now - t) / 20), t
        if kind == 0:
            w, x = max(0.0, w - step * alpha * w**minus * y), x + 1
        else:
            w, y = min(1.0, w + step * (1 - w) ** plus * x), y + 1
    assert start + change(rule, pre, post, w=start) == pytest.approx(top * w, abs=1e-12)


def test_power_law_and_van_rossum():
    rule = PairSTDP(0.1, 0.2, mu_plus=0.4, mu_minus=1.0, w_0=2.0)
    assert change(rule, [50.0], [60.0], w=3.0) == pytest.approx(0.1 * 2 * 1.5**0.4 * math.exp(-0.5), abs=1e-12)
    assert change(rule, [60.0], [50.0], w=3.0) == pytest.approx(-0.2 * 3 * math.exp(-0.5), abs=1e-12)
    rule = PairSTDP.preset("van_rossum")
    assert change(rule, [50.0], [60.0], w=100.0) == pytest.approx(7 * math.exp(-0.5), abs=1e-12)
    assert change(rule, [60.0], [50.0], w=100.0) == pytest.approx(-0.3 * math.exp(-0.5), abs=1e-12)
    assert change(rule, [60.0], [50.0]) == pytest.approx(-change(rule, [50.0], [60.0]), rel=1e-12)  # its balance


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_multiplicative_weights_gather_at_their_fixed_point(alpha):
    rule = PairSTDP(0.005, 0.005 * alpha, mu_plus=1.0, mu_minus=1.0, w_max=1.0)
    batch = Batch(rule.equations(), 1, 30, 30)
    state = batch.start()
    generator = torch.Generator().manual_seed(1)
    for _ in range(8000):
        pre, post = (torch.rand(1, 30, generator=generator) < 0.05 for _ in range(2))
        batch.step(state, pre, post)
    together = math.exp(1 / 20)  # pairs in one step of 1 ms all potentiate
    assert float(state["w"].mean()) == pytest.approx(together / (together + alpha), rel=0.02)
    assert float(state["w"].mean()) == pytest.approx(1 / (1 + alpha), rel=0.05)
    assert ((state["w"] > 0) & (state["w"] < 1)).all()


def test_negative_amplitudes_turn_a_side_of_the_window():
    symmetric = PairSTDP(0.01, -0.01)
    assert change(symmetric, [50.0], [60.0]) == pytest.approx(change(symmetric, [60.0], [50.0]))
    assert change(PairSTDP(-0.01, -0.01), [50.0], [60.0]) < 0 < change(PairSTDP(-0.01, -0.01), [60.0], [50.0])


def test_bounds_hold_and_additive_rules_without_top_have_none():
    pre, post = list(range(10, 300, 10)), list(range(15, 305, 10))
    assert change(PairSTDP(1.0, 0.0, w_max=0.5), pre, post, w=0.25) == 0.25
    assert change(PairSTDP(0.0, 1.0, w_max=0.5), post, pre, w=0.25) == -0.25
    assert change(PairSTDP(0.0, 1.0), post, pre) < -1


def test_presets_say_where_they_come_from():
    song = PairSTDP.preset("song_miller_abbott")
    assert song.A_minus == pytest.approx(1.05 * song.A_plus) and song.w_max == 0.015
    assert PairSTDP.PRESETS["song_miller_abbott"].verified
    assert not PairSTDP.PRESETS["bi_poo"].verified and not PairSTDP.PRESETS["van_rossum"].verified
    result = Pairing(dt=(0.0,), n=1).run(PairSTDP.preset("bi_poo"))
    assert result.change[0] == pytest.approx(0.777 / 60)
    with pytest.warns(OutsideFit, match="its data end after 60 s"):
        Pairing(dt=(5.0,), n=100).run(PairSTDP.preset("bi_poo"))
    with pytest.raises(ValueError, match="fitted as a whole"):
        PairSTDP.preset("bi_poo", tau_plus=1.0)


def test_striatum_is_anti_hebbian_and_reverses_with_gaba_blocked():
    pairing = Pairing(dt=(-35.0, -29.0, -10.0, 10.0, 39.0, 45.0), n=100, rate=1.01)
    intact = pairing.run(BoxSTDP.preset("striatum")).change
    np.testing.assert_allclose(intact, [0, 0.612, 0.612, -0.277, -0.277, 0], atol=1e-12)
    blocked = pairing.run(BoxSTDP.preset("striatum_gaba_blocked")).change
    np.testing.assert_allclose(blocked, -intact, atol=1e-12)
    assert not BoxSTDP.PRESETS["striatum_gaba_blocked"].verified


def test_a_box_pairs_each_spike_with_the_nearest_one_before_it():
    rule = BoxSTDP(0.1, -0.2, 20.0, 10.0)
    assert change(rule, [50.0, 60.0], [65.0]) == pytest.approx(0.1)
    assert change(rule, [50.0, 60.0], [45.0]) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (PairSTDP(scheme="nearest"), "scheme must be one of all_to_all"),
        (PairSTDP(mu_plus=1.0), "needs w_max"),
        (PairSTDP(w_0=1.0, w_max=2.0), "no upper bound"),
        (PairSTDP(-0.1, 0.1, mu_minus=1.0, w_max=1.0), "not negative"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        rule.equations()
    assert replace(rule, scheme="all_to_all", mu_plus=0.0, mu_minus=0.0, w_0=None).equations()

"""Protocols of pairs: which spikes they are, what they refuse, and the published answers of the triplet rule."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikecredit.plasticity import (
    PROTOCOLS,
    FrequencySweep,
    OutsideFit,
    Pairing,
    Quadruplet,
    StriatalPairing,
    Triplet,
    TripletSTDP,
)
from spikecredit.plasticity.protocols import GAP, Protocol

RATES = (0.1, 10.0, 20.0, 40.0, 50.0)
TABLE = {  # computed twice before: by an event-driven program and in Brian2; 60 contiguous pairs from rest
    "visual_cortex_all_to_all": (
        (0, .132053, .246962, .533723, .740906), (-.312161, -.333623, -.351622, .154795, .727247)
    ),
    "visual_cortex_all_to_all_minimal": (
        (0, .118641, .227795, .532112, .762731), (-.316620, -.332213, -.341735, .173715, .749177)
    ),
    "visual_cortex_nearest": (
        (0, .103587, .323163, .560292, .624255), (-.294323, -.411286, -.338231, .259795, .619349)
    ),
    "visual_cortex_nearest_minimal": (
        (0, .100863, .322032, .568284, .635847), (-.356755, -.355614, -.278607, .289829, .629902)
    ),
}  # fmt: skip
ERRORS = {
    "visual_cortex_all_to_all": 0.34, "visual_cortex_all_to_all_minimal": 0.36, "visual_cortex_nearest": 0.23,
    "visual_cortex_nearest_minimal": 0.35,
}  # fmt: skip


def triplet_rule(pre: Any, post: Any, rule: TripletSTDP) -> float:
    """The rule's change of weight, event by event, as in the paper."""
    tau = np.array([rule.tau_plus, rule.tau_x, rule.tau_minus, rule.tau_y])
    trace, last, w = np.zeros(4), 0.0, 0.0
    for t, side in sorted([(t, 0) for t in pre] + [(t, 1) for t in post]):
        trace *= np.exp(-(t - last) / tau)
        last = t
        r1, r2, o1, o2 = trace
        w += r1 * (rule.A2_plus + rule.A3_plus * o2) if side else -o1 * (rule.A2_minus + rule.A3_minus * r2)
        own = slice(2, 4) if side else slice(0, 2)
        trace[own] = 1.0 if rule.pairing == "nearest" else trace[own] + 1.0
    return w


@pytest.mark.parametrize("preset", TABLE)
def test_sixty_contiguous_pairs_give_the_table_and_fit_the_data(preset: str) -> None:
    result = FrequencySweep().run(TripletSTDP.preset(preset))
    found = np.array([[next(row["change"] for row in result.rows if row["rate"] == rate and row["dt"] == d)
                       for rate in RATES] for d in (10.0, -10.0)])  # fmt: skip
    np.testing.assert_allclose(found, TABLE[preset], atol=1e-6)
    compared = result.compare("sjostrom2001")
    assert len(compared.points) == 10
    assert abs(compared.distance).max() <= 2.0
    error = compared.E
    assert error == pytest.approx(ERRORS[preset], abs=0.01)


def test_the_grouping_of_the_real_experiment_refutes_the_all_to_all_rows_only() -> None:
    grouped = FrequencySweep(grouping=(5, 15, 10_000))
    for preset, fails in (("visual_cortex_all_to_all", True), ("visual_cortex_all_to_all_minimal", True),
                          ("visual_cortex_nearest", False), ("visual_cortex_nearest_minimal", False)):  # fmt: skip
        with pytest.warns(OutsideFit, match="contiguous trains"):
            found = grouped.run(TripletSTDP.preset(preset)).compare("sjostrom2001").E
        assert found > 5 if fails else found < 0.6, (preset, found)


def test_triplets_of_the_hippocampal_row() -> None:
    rule = TripletSTDP.preset("hippocampus_nearest")
    np.testing.assert_allclose(
        Triplet().run(rule).change, [.050, .018, -.042, .090, .378, .215, .104, .355], atol=6e-4
    )  # fmt: skip
    np.testing.assert_allclose(Pairing(dt=(10.0, -10.0)).run(rule).change, [0.152, -0.134], atol=6e-4)
    compared = Triplet().run(rule).compare("wang2005")
    assert not compared.data.verified
    assert len(compared.points) == 8 and compared.chi2 == pytest.approx(sum(compared.distance**2))


CASES: dict[str, tuple[Protocol, list[tuple[list[float], list[float]]]]] = {
    "pairs": (Pairing(dt=(10.0, -20.0), n=2, rate=10.0), [([20, 120], [30, 130]), ([20, 120], [0, 100])]),
    "later pairs": (Pairing(dt=(10.0,), n=2, rate=10.0), [([0, 100], [10, 110])]),
    "pre-post-pre": (Triplet(dt=((15.0, -5.0),), n=2, rate=10.0), [([0, 20, 100, 120], [15, 115])]),
    "post-pre-post": (Triplet(dt=((-15.0, 5.0),), n=2, rate=10.0), [([15, 115], [0, 20, 100, 120])]),
    "post-pre, pre-post": (Quadruplet(T=(20.0,), n=1), [([5, 20], [0, 25])]),
    "pre-post, post-pre": (Quadruplet(T=(-20.0,), n=1), [([0, 25], [5, 20])]),
    "groups": (FrequencySweep((5.0,), (10.0,), grouping=(2, 2, 1000)), [([0, 100, 1000, 1100], [5, 105, 1005, 1105])]),
}


@pytest.mark.parametrize("name", CASES)
def test_spikes_are_where_the_name_says(name: str) -> None:
    protocol, wanted = CASES[name]
    made = protocol.experiment()
    assert len(made.rows) == len(made.pre) == len(made.post) == len(wanted)
    last = 0.0
    for pre, post, (before, after) in zip(made.pre, made.post, wanted, strict=True):
        np.testing.assert_allclose(pre, np.array(before) + GAP)
        np.testing.assert_allclose(post, np.array(after) + GAP)
        last = max(last, before[-1], after[-1])
    assert made.duration == pytest.approx(last + 2 * GAP)


def test_sjostroms_grouping_is_fifteen_times_five_and_fifty_contiguous_at_the_lowest_rate() -> None:
    made = FrequencySweep(grouping=(5, 15, 10_000)).experiment()
    sizes = {row["rate"]: len(pre) for row, pre in zip(made.rows, made.pre, strict=True)}
    assert sizes == {0.1: 50, 10.0: 75, 20.0: 75, 40.0: 75, 50.0: 75}
    slow, fast = made.pre[0], made.pre[8]
    np.testing.assert_allclose(np.diff(slow), 10_000)
    np.testing.assert_allclose(np.diff(fast.reshape(15, 5), axis=1), 20)
    np.testing.assert_allclose(np.diff(fast.reshape(15, 5)[:, 0]), 10_000)
    assert FrequencySweep(grouping=(5, 15, 10_000)).grouped and not FrequencySweep().grouped


def test_striatal_pairing_is_a_hundred_pairs_at_one_hertz() -> None:
    made = StriatalPairing(dt=(20.0,)).experiment()
    assert len(made.pre[0]) == 100
    np.testing.assert_allclose(np.diff(made.pre[0]), 1000)
    np.testing.assert_allclose(made.post[0] - made.pre[0], 20)


def test_every_protocol_is_under_its_own_name_and_runs_by_default() -> None:
    for kind, protocol in PROTOCOLS.items():
        assert protocol.kind == kind
        made = protocol().experiment()
        assert len(made.rows) == len(made.pre) == len(made.post) > 0
        assert all(set(row) == set(made.axes) for row in made.rows)
        assert hash(protocol()) == hash(protocol())  # frozen, numbers only


@given(
    lags=st.lists(st.floats(-200, 200), min_size=1, max_size=5, unique=True),
    n=st.integers(1, 20),
    rate=st.floats(0.05, 100),
)
def test_no_lag_makes_a_negative_time_and_all_keep_their_distance(lags: list[float], n: int, rate: float) -> None:
    made = FrequencySweep(tuple(lags), (rate,), n).experiment()
    for row, pre, post in zip(made.rows, made.pre, made.post, strict=True):
        assert min(pre.min(), post.min()) >= GAP - 1e-6 and max(pre.max(), post.max()) <= made.duration
        np.testing.assert_allclose(post - pre, row["dt"], atol=1e-6)
        np.testing.assert_allclose(np.diff(pre), 1e3 / rate, rtol=1e-9)


@given(T=st.floats(6, 400), sign=st.sampled_from([-1, 1]), dt=st.floats(1, 5))
def test_the_interval_of_quadruplets_is_from_middle_to_middle(T: float, sign: int, dt: float) -> None:
    made = Quadruplet(T=(sign * T,), dt=dt, n=1).experiment()
    pre, post = made.pre[0], made.post[0]
    pairs = sorted(zip(pre, sorted(post), strict=True))  # as the pairs do not overlap
    assert [math.copysign(1, b - a) for a, b in pairs] == [-sign, sign]
    (a, b), (c, d) = pairs
    assert (c + d) / 2 - (a + b) / 2 == pytest.approx(T)


@pytest.mark.parametrize(
    ("preset", "protocol"),
    [("visual_cortex_all_to_all", FrequencySweep((7.0, -13.0), (0.3, 33.0), grouping=(4, 3, 2000))),
     ("hippocampus_nearest", Quadruplet(T=(-30.0, 12.5), n=7)),
     ("hippocampus_all_to_all", Triplet("post-pre-post", n=9, rate=5.0))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::spikecredit.plasticity.OutsideFit")
def test_protocols_and_rule_agree_with_the_rule_written_out(preset: str, protocol: Protocol) -> None:
    rule, made = TripletSTDP.preset(preset), protocol.experiment()
    wanted = [triplet_rule(pre, post, rule) for pre, post in zip(made.pre, made.post, strict=True)]
    np.testing.assert_allclose(protocol.run(rule).change, wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Pairing(n=0), "n is a number of pairs, an integer of at least 1, got 0"),
        (lambda: Pairing(n=2.0), "an integer"),  # type: ignore[arg-type]
        (lambda: Pairing(rate=0.0), "rate is in Hz, positive and finite, got 0.0"),
        (lambda: Pairing(rate=math.inf), "finite"),
        (lambda: Pairing(dt=10.0), "dt is a list of values in ms"),  # type: ignore[arg-type]
        (lambda: Pairing(dt=()), "dt is a list of values in ms"),
        (lambda: Pairing(dt=(math.nan,)), "dt must be finite"),
        (lambda: Pairing(dt=(5.0, 5)), "dt has a value twice"),
        (lambda: FrequencySweep(rates=(10.0, -1.0)), "rates must be above 0 Hz, got -1"),
        (lambda: FrequencySweep(grouping=(5, 15)), "grouping is (pairs per group, groups, ms"),  # type: ignore[arg-type]
        (lambda: FrequencySweep(rates=(10.0,), grouping=(5, 15, 300.0)), "5 pairs at 10 Hz overlap: each lasts 400 ms"),
        (lambda: FrequencySweep(grouping=(0, 15, 300.0)), "pairs per group"),
        (lambda: Triplet("pre-pre-post"), "order must be 'pre-post-pre'"),  # type: ignore[arg-type]
        (lambda: Triplet(dt=((5.0, 5.0),)), "opposite signs"),
        (lambda: Triplet("pre-post-pre", dt=((-5.0, 5.0),)), "is post-pre-post, and order is 'pre-post-pre'"),
        (lambda: Triplet(rate=50.0), "triplets overlap: each lasts 20 ms, and the next begins after 20 ms"),
        (lambda: Quadruplet(T=(4.0,)), "lets two spikes of one neuron meet"),
        (lambda: Quadruplet(rate=20.0), "quadruplets overlap"),
    ],
)  # fmt: skip
def test_mistakes_are_met_with_a_sentence(make: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the text is compared below, without a pattern's escapes
        make()
    assert told in str(error.value)

"""Published data: each says where it is from, and finds its own conditions in an experiment."""

import math
from dataclasses import replace

import pytest

from spikecredit.plasticity import DATASETS, PROTOCOLS, Burst, Dataset, FrequencySweep, Pairing, PoissonPair, Triplet
from spikecredit.plasticity.datasets import Point, dataset


@pytest.mark.parametrize("data", DATASETS.values(), ids=DATASETS.keys())
def test_each_has_a_source_and_repeats_under_its_protocol(data: Dataset) -> None:
    assert DATASETS[data.name] is data and len(data.source) > 10 and data.region
    assert data.verified is (data.name != "wang2005")  # the page of references: all but Wang's were read
    assert data.protocols
    for kind in data.protocols:
        assert dict(PROTOCOLS[kind]().experiment().axes) == dict(data.axes)
    for point in data.points:
        assert set(point.at) == set(data.axes)
        assert math.isnan(point.sem) or point.sem > 0
        assert point.sign is not None or -1 < point.change < 2  # relative, not per cent


def test_the_values_of_sjostrom_2001() -> None:
    rates = (0.1, 10, 20, 40, 50)
    found = {(p.at["rate"], p.at["dt"]): (p.change, p.sem) for p in DATASETS["sjostrom2001"].points}
    forward = [found[rate, 10.0] for rate in rates]
    backward = [found[rate, -10.0] for rate in rates]
    assert forward == [(-0.04, 0.05), (0.14, 0.10), (0.29, 0.14), (0.53, 0.11), (0.56, 0.26)]
    assert backward == [(-0.29, 0.08), (-0.41, 0.11), (-0.34, 0.10), (0.56, 0.32), (0.75, 0.19)]


def test_default_protocols_measure_every_point_of_their_data() -> None:
    for protocol, name in ((FrequencySweep(), "sjostrom2001"), (Triplet(), "wang2005"), (Pairing(), "fino2010"),
                           (Pairing(), "pawlak2008"),
                           (FrequencySweep((5.0, -10.0), (2.0, 5.0, 10.0, 20.0, 30.0, 40.0)), "markram_regular"),
                           (PoissonPair(rates=(1.0, 20.0, 35.0, 50.0)), "sjostrom2001_stochastic")):  # fmt: skip
        made, data = protocol.experiment(), DATASETS[name]
        places = data.places(made.axes, made.rows)
        assert [point for point, _ in places] == list(data.points)
        for point, inside in places:
            assert all(point.covers(made.rows[c]) for c in inside) and inside


def test_a_pooled_point_takes_the_lags_inside_its_range() -> None:
    made = Pairing(dt=(-40.0, -30.0, -20.0, -10.0, 0.0, 10.0, 40.0, 50.0)).experiment()
    places = DATASETS["fino2010"].places(made.axes, made.rows)
    assert [[made.rows[c]["dt"] for c in inside] for _, inside in places] == [[-20.0, -10.0], [10.0]]


def test_a_point_covers_its_own_place_only() -> None:
    point = Point({"rate": 10.0, "dt": (0.0, 20.0)}, 0.1, 0.1)
    assert point.covers({"rate": 10.0, "dt": 5.0}) and point.covers({"rate": 10.0 * (1 + 1e-12), "dt": 5.0})
    assert not point.covers({"rate": 10.1, "dt": 5.0}) and not point.covers({"rate": 10.0, "dt": 20.0})


def test_a_sign_alone_is_a_point() -> None:
    assert [Point({}, sign=1).agrees(c) for c in (0.2, 0.05, -0.2)] == [True, False, False]
    assert [Point({}, sign=0).agrees(c) for c in (0.2, 0.05, -0.05, -0.06)] == [False, True, True, False]
    assert [Point({}, sign=-1).agrees(c) for c in (0.2, 0.0, -0.2)] == [False, False, True]
    assert Point({}, 0.1).agrees(0.1) is None
    assert [Point({}, sign=s).text for s in (1, 0, -1)] == ["LTP", "none", "LTD"] and Point({}, 0.1).text == "+0.10"
    for wrong in ({}, {"change": 0.1, "sign": 1}, {"sign": 2}):
        with pytest.raises(ValueError, match=r"a point has a change, such as 0\.1, or a sign alone"):
            Point({}, **wrong)


def test_the_signs_of_bursts_in_physiological_calcium() -> None:
    """One spike depresses, two do nothing, three and four potentiate; at any rate within the burst."""
    made = Burst(dt=(10.0, -10.0), n_post=(1, 2, 3, 4), rate_post=(50.0, 100.0)).experiment()
    found = {p.at["n_post"]: (p.sign, len(rows)) for p, rows in DATASETS["inglebert2020"].places(made.axes, made.rows)}
    assert found == {1: (-1, 2), 2: (0, 2), 3: (1, 2), 4: (1, 2)}
    assert [(p.at["dt"], p.sign) for p in DATASETS["mossy_fibre"].points] == [(10.0, 1), (-30.0, -1)]


def test_what_does_not_fit_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="no data 'sjostrom'; did you mean 'sjostrom2001'"):
        dataset("sjostrom")
    pairs, rates = Pairing(dt=(10.0,)).experiment(), FrequencySweep(rates=(3.0,)).experiment()
    told = r"measured over rate \(Hz\), dt \(ms\), and this experiment varies dt \(ms\): compare it with frequency"
    with pytest.raises(ValueError, match=told):
        DATASETS["sjostrom2001"].places(pairs.axes, pairs.rows)
    with pytest.raises(ValueError, match=r"no point in common .* rate = 0.1, 10, 20, 40, 50; dt = 10, -10"):
        DATASETS["sjostrom2001"].places(rates.axes, rates.rows)
    other = replace(DATASETS["fino2010"], axes={"dt": "s"})
    with pytest.raises(ValueError, match=r"dt \(s\)"):
        other.places(pairs.axes, pairs.rows)

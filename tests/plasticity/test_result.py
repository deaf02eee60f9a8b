"""A result: its table, its files, and its distance to data."""

import csv
from pathlib import Path

import numpy as np
import pytest

from spikecredit.plasticity import (
    Comparison,
    CustomRule,
    Dataset,
    Equations,
    FrequencySweep,
    Pairing,
    Result,
    TripletSTDP,
)
from spikecredit.plasticity.datasets import Point


@pytest.fixture(scope="module")
def result() -> Result:
    protocol = FrequencySweep(rates=(10.0, 20.0), n=5)
    return protocol.run(TripletSTDP(tau_x=100.0), record=("w", "r1"), every=50.0)


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def line_rule() -> CustomRule:
    """w grows by 0.1 per postsynaptic spike."""
    return CustomRule(text=Equations(model="w : 1", on_post="w += 0.1", start={"w": 1.0}))


def own(*points: Point) -> Dataset:
    return Dataset("own", {"dt": "ms"}, points, "made up for this test", True, "nowhere", ("pairing",))


def test_distances_are_in_standard_errors_and_the_error_is_their_mean_square() -> None:
    """Two postsynaptic spikes: the model says +0.2 at every lag."""
    found = Pairing(dt=(-10.0, 5.0, 10.0), n=2).run(line_rule())
    np.testing.assert_allclose(found.change, 0.2)
    data = own(Point({"dt": 10.0}, 0.1, 0.05), Point({"dt": 5.0}, 0.5, 0.1), Point({"dt": -10.0}, 0.9))
    compared = found.compare(data)
    assert isinstance(compared, Comparison)
    np.testing.assert_allclose(compared.model, 0.2)
    np.testing.assert_allclose(compared.distance, [2, -3, np.nan])
    assert [compared.chi2, compared.E] == pytest.approx([13, 6.5])
    text = compared.table()
    assert "E = 6.500, the mean of the squares over 2 points; chi2 = 13.00" in text and "none" in text


def test_points_without_standard_errors_have_no_distance() -> None:
    compared = Pairing(dt=(10.0,), n=2).run(line_rule()).compare(own(Point({"dt": 10.0}, 0.1), Point({"dt": 3.0}, 0.1)))
    assert np.isnan(compared.chi2) and np.isnan(compared.E)
    assert "no standard errors, so no distance; 1 of 2 points were not measured here" in compared.table()


def test_a_pooled_point_is_the_mean_of_its_lags() -> None:
    rule = TripletSTDP(A3_plus=0.0, A2_plus=0.01, A2_minus=0.0, A3_minus=0.0)
    found = Pairing(dt=(0.0, 10.0, 20.0, 30.0), n=1).run(rule)
    compared = found.compare(own(Point({"dt": (0.0, 30.0)}, 0.0, 1.0)))
    assert compared.model[0] == pytest.approx(0.01 * np.exp([-10 / 16.8, -20 / 16.8]).mean())


def test_data_that_do_not_fit_are_refused(result: Result) -> None:
    with pytest.raises(ValueError, match="compare it with triplet"):
        result.compare("wang2005")
    with pytest.raises(ValueError, match="did you mean 'sjostrom2001'"):
        result.compare("sjostrm2001")
    with pytest.raises(ValueError, match="no figure 'windw'; did you mean 'window'"):
        result.plot(kind="windw")


def test_the_table_has_every_condition(result: Result) -> None:
    lines = result.table().splitlines()
    assert lines[0].split() == ["rate", "(Hz)", "dt", "(ms)", "change", "of", "before"]
    assert len(lines) == 1 + 4 and len({len(line) for line in lines}) == 1  # flush
    for line, row in zip(lines[1:], result.rows, strict=True):
        rate, d, change, percent, _ = line.split()
        assert (float(rate), float(d)) == (row["rate"], row["dt"])
        assert float(change) == pytest.approx(row["change"], abs=1e-6)
        assert float(percent) == pytest.approx(100 * (1 + row["change"]), abs=0.05)


def test_csv_holds_the_changes_and_traces_exactly(result: Result, tmp_path: Path) -> None:
    first, second = result.to_csv(tmp_path / "deep" / "out.csv")
    table = read(first)
    assert table[0] == ["rate (Hz)", "dt (ms)", "change"]
    np.testing.assert_array_equal([float(row[2]) for row in table[1:]], result.change)
    traces = read(second)
    assert second.name == "out_traces.csv"
    assert traces[0] == ["rate (Hz)", "dt (ms)", "replicate", "time (ms)", "w", "r1"]
    values = np.array(traces[1:], dtype=float)
    times = result.outcome.times
    assert len(values) == 4 * len(times)
    for c, row in enumerate(result.experiment.rows):
        own = values[c * len(times) : (c + 1) * len(times)]
        assert (own[:, 0] == row["rate"]).all() and (own[:, 1] == row["dt"]).all() and (own[:, 2] == 0).all()
        np.testing.assert_array_equal(own[:, 3], times)
        np.testing.assert_array_equal(own[:, 4], result.outcome.traces["w"][:, c, 0])
        np.testing.assert_array_equal(own[:, 5], result.outcome.traces["r1"][:, c, 0])


def test_without_traces_there_is_one_file_and_a_comparison_has_its_own(tmp_path: Path) -> None:
    found = FrequencySweep(n=3).run(TripletSTDP())
    assert [path.name for path in found.to_csv(tmp_path / "a.csv")] == ["a.csv"]
    compared = found.compare("sjostrom2001")
    table = read(compared.to_csv(tmp_path / "b.csv"))
    assert table[0] == ["rate (Hz)", "dt (ms)", "model", "data", "sem", "distance"] and len(table) == 11
    model, data, sem, distance = np.array([row[2:] for row in table[1:]], dtype=float).T
    np.testing.assert_allclose((model - data) / sem, distance)
    np.testing.assert_array_equal(model, compared.model)


def test_several_replicates_are_rows_of_their_own(tmp_path: Path) -> None:
    found = Pairing(dt=(10.0,), n=1).run(line_rule(), replicates=3, record=("w",), every=100.0)
    values = np.array(read(found.to_csv(tmp_path / "a.csv")[1])[1:], dtype=float)
    assert sorted(set(values[:, 1])) == [0, 1, 2] and len(values) == 3 * len(found.outcome.times)

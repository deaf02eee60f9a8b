"""The figure of angles over training: where it looks, and what its table says."""

from pathlib import Path

from benchmarks import angles
from benchmarks.angles import BASE, measured_at, plot, row, table
from spikecredit.data import Digits


def test_points_are_evenly_spaced_in_log_and_include_both_ends() -> None:
    points = measured_at(1360)
    assert points[0] == 0 and points[1] == 1 and points[-1] == 1360 and points == sorted(set(points))
    ratios = [b / a for a, b in zip(points[-6:], points[-5:], strict=False)]
    assert max(ratios) / min(ratios) < 1.1


def test_a_row_measures_each_hidden_layer_at_each_point(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(angles, "BASE", (*BASE, "training.epochs=1", "network.hidden=[16, 16]"))
    found = row(Digits().load(), "sign_symmetry", seeds=2)
    assert [len(seed) for seed in found["angles"]] == [2, 2]
    assert all(len(layer) == len(found["steps"]) for seed in found["angles"] for layer in seed)
    assert all(0 < value < 90 for seed in found["angles"] for layer in seed for value in layer)
    tied = row(Digits().load(), "backprop", seeds=1)
    assert max(max(layer) for layer in tied["angles"][0]) < 1e-3
    record = {"rows": {"sign symmetry": found, "backprop": tied}}
    header, rows = table(record)
    assert len(header) == len(rows[0]) and rows[1][1:4] == ["0 / 0"] * 3
    plot(record, tmp_path / "figure.svg")
    assert "hidden layer 2" in (tmp_path / "figure.svg").read_text()


def test_a_table_shows_means_and_the_worst_seed() -> None:
    found = {"steps": [0, 1], "angles": [[[90.0, 40.0]], [[92.0, 60.0]]], "validation": [0.5, 1.0]}
    assert table({"rows": {"a": found}})[1] == [["a", "91", "50", "60", "75.0 %"]]

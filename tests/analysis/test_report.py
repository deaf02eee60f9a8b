"""The report: self-contained, escaped, honest about what is missing; and the interval over seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from pages import Page, assert_self_contained, figures, record, words

from spikecredit.analysis.report import interval, t_quantile, write_report


def build(tmp_path, runs, **options):
    pytest.importorskip("matplotlib")
    path = write_report(tmp_path / "new" / "report.html", "A title", runs, **options)
    text = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"], "no temporary file is left"
    return text, Page(text)


def test_single_run(tmp_path):
    text, page = build(tmp_path, [record()], intro="First & foremost.\n\nSecond.")
    assert_self_contained(text, page)
    assert len(figures(text)) == 6 and len(page.text["figcaption"]) == 6
    for name in ("Learning curves", "One sample", "Firing", "Alignment", "Weights by the type"):
        assert f". {name}" in words(text)
    assert page.text["td"] == ["backprop", "90.00", "0.3000", "3", "2.50", "0", "12.0", "800"]
    assert page.text["p"] == ["First & foremost.", "Second."]
    assert "hidden:\n- 100\n- 50" in "".join(page.text["pre"]) and "torch: 2.13.0" in "".join(page.text["pre"])
    assert page.text["li"] == ["Dale's law: error carriers are exempt (feedback='exempt')."]


def test_same_records_give_the_same_file(tmp_path):
    assert build(tmp_path / "a", [record()])[0] == build(tmp_path / "b", [record()])[0]


def test_several_conditions(tmp_path):
    runs = [record(label, seed) for label in ("backprop", "sign symmetry") for seed in range(3)]
    runs = [replace(r, notes=["Only here."]) if r.label == "backprop" else r for r in runs]
    text, page = build(tmp_path, runs)
    assert_self_contained(text, page)
    assert len(figures(text)) == 3 + 2 * 5
    assert [tag for tag, _ in page.tags].count("details") == 2
    assert page.text["summary"] == ["backprop ", "sign symmetry "]
    low, high = interval([0.9, 0.91, 0.92])[1:3]
    assert page.text["td"][:4] == ["backprop", "3", "91.00", f"{100 * low:.2f} to {100 * high:.2f}"]
    assert "Only here. (backprop)" in words(text)
    assert text.count("torch: 2.13.0") == 1, "one environment is shown once"


def test_six_runs_stay_small(tmp_path):
    runs = [record(f"condition {i}", i, steps=25, neurons=(400, 400)) for i in range(6)]
    text, page = build(tmp_path, runs)
    assert_self_contained(text, page)
    assert len(text.encode()) < 1_500_000


def test_user_strings_are_escaped(tmp_path):
    nasty = '<b>bold</b><script>alert("1")</script>&amp;'
    run = record(nasty)
    run = replace(
        run, notes=[nasty], config={nasty: nasty}, environment={nasty: nasty}, raster={nasty: np.eye(5)},
        weights={nasty: (np.eye(3), None)},
        epochs=[e | {"layers": {nasty: {"error_angle": 3.0}}, "activity": {nasty: {"rate": 0.5}}} for e in run.epochs],
    )  # fmt: skip
    path = write_report(tmp_path / "r.html", nasty, [run, record("x")], table=[{nasty: nasty}], intro=nasty)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert_self_contained(text, page)
    assert "<script" not in text and "<b>bold" not in text
    assert page.text["td"] == [nasty] and page.text["h1"] == [nasty] and page.text["title"] == [nasty]


def test_missing_values_are_dashes_and_gaps(tmp_path):
    run = replace(record(), result=None, raster={}, sample=None, weights={}, notes=[])
    gone = dict.fromkeys(("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"))
    run = replace(run, epochs=[e | gone | {"layers": {}, "activity": {}, "spectrum": {}} for e in run.epochs])
    text, page = build(tmp_path, [run])
    assert page.text["td"] == ["backprop", *["–"] * 7]
    assert text.count(">not measured<") == 2 + 2 + 3
    assert len(figures(text)) == 3 and "Notes" not in text
    half = [record("a", 0), replace(record("a", 1), result={"test_accuracy": math.nan, "test_loss": None})]
    _, page = build(tmp_path / "half", half)
    assert page.text["td"] == ["a", "1 of 2", "90.00", "–", "–", "3, –", "–", "–", "–", "–"]


def test_a_given_table_is_shown_as_given(tmp_path):
    rows = [{"rule": "backprop", "angle": 0, "acc": 0.98765}, {"rule": "fa", "acc": math.nan, "kept": True}]
    _, page = build(tmp_path, [record()], table=rows)
    assert page.text["th"] == ["rule", "angle", "acc", "kept"]
    assert page.text["td"] == ["backprop", "0", "0.9877", "–", "fa", "–", "–", "yes"]


def test_no_runs_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report(tmp_path / "r.html", "t", [])


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, "t", [record()])
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def t_distribution(t, freedom, n=200_001):
    """P(T <= t) by Simpson's rule after t = sqrt(freedom) tan(a), which makes the density cos(a)**(freedom - 1)."""
    a = np.linspace(0, math.atan(t / math.sqrt(freedom)), n)
    weights = np.where(np.arange(n) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1
    area = float(np.cos(a) ** (freedom - 1) @ weights) * (a[1] - a[0]) / 3
    norm = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + norm * area


@pytest.mark.parametrize("freedom", [*range(1, 41), 60, 120, 1000])
def test_t_quantile_against_the_integral(freedom):
    assert t_distribution(t_quantile(freedom), freedom) == pytest.approx(0.975, abs=3e-6)


def test_interval_by_hand():
    # mean 3, s = sqrt(2.5), t(4) = 2.776: 2.776 * 1.58114 / 2.23607 = 1.963
    found = interval([1, 2, 3, 4, 5])
    assert found.n == 5 and found.mean == 3
    assert (found.low, found.high) == (pytest.approx(1.0368, abs=1e-3), pytest.approx(4.9632, abs=1e-3))
    pair = interval([0.9, None, 0.92, math.nan])  # s = 0.0141421, t(1) = 12.706: half width 0.12706
    assert pair.n == 2 and pair.high - pair.mean == pytest.approx(0.127062, abs=1e-5)


def test_interval_of_few():
    assert interval([0.5])[0] == 0.5 and math.isnan(interval([0.5]).low) and interval([0.5]).n == 1
    assert math.isnan(interval([]).mean) and interval([None]).n == 0
    assert interval([0.3, 0.3, 0.3])[:3] == pytest.approx((0.3, 0.3, 0.3))

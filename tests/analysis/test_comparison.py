"""The comparison's numbers by hand, its tables, and a page that holds with twelve conditions."""

import csv
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from pages import Page, assert_self_contained, figures, record, words

from spikecredit.analysis import comparison
from spikecredit.analysis.comparison import differences, hidden_error_angle, references, table
from spikecredit.analysis.report import RunRecord, interval

BP, FA = {"kind": "backprop"}, {"kind": "feedback_alignment", "gain": 1.0}
NONE, DALE = {"kind": "none"}, {"kind": "dale", "excitatory": 0.8}


def run(label: str, seed: int, accuracy: float | None, pathway: Any = FA, constraint: Any = NONE, **other: Any) -> Any:
    """A run of three layers; accuracy None: without a result."""
    made = record(label, seed)
    config = {"pathway": pathway, "constraint": constraint, "data": {"kind": "digits"}, "lr": 0.1, **other}
    layers = {
        f"layers.{i}": {"error_angle": 10.0 * i + seed, "weight_angle": 20.0 * i, "sign_agreement": i / 10}
        for i in (1, 3, 5)
    }
    epochs = [*made.epochs[:-1], made.epochs[-1] | {"layers": layers}]
    result = None if accuracy is None else {**(made.result or {}), "test_accuracy": accuracy}
    return replace(made, config={**config, "seed": seed}, epochs=epochs, result=result)


def group(label: str, accuracies: list[float | None], *choices: Any, **other: Any) -> dict[str, list[RunRecord]]:
    return {label: [run(label, seed, accuracy, *choices, **other) for seed, accuracy in enumerate(accuracies)]}


def summarise(conditions: dict[str, list[RunRecord]], failures: Any) -> list[dict[str, Any]]:
    """Backprop is what has its kind."""
    return comparison.summarise(conditions, failures, plain(conditions))


def plain(conditions: dict[str, list[RunRecord]]) -> list[str]:
    return [label for label, runs in conditions.items() if runs[0].config["pathway"] is BP]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_a_difference_is_paired_by_seed() -> None:
    # by hand: differences -0.10, -0.12, -0.08: mean -0.1, s = 0.02, half = 4.3027 x 0.02 / sqrt(3) = 0.04968
    conditions = group("BP", [0.90, 0.95, 0.99], BP) | group("FA", [0.80, 0.83, 0.91])
    bp, fa = summarise(conditions, {})
    assert fa["difference"]["mean"] == pytest.approx(-0.1)
    assert fa["difference"]["high"] - fa["difference"]["mean"] == pytest.approx(0.04968, abs=1e-5)
    unpaired = interval([0.80, 0.83, 0.91])  # the pairs, not the group's own spread
    assert unpaired.high - unpaired.mean > 2 * 0.04968
    assert bp["difference"] is None and bp["reference"] == "BP"


def test_pairs_are_matched_by_seed_not_by_place() -> None:
    runs = group("BP", [0.5, 0.6, 0.7], BP)["BP"]
    others = [run("FA", 2, 0.6), run("FA", 0, 0.4), run("FA", 1, None)]
    found = comparison.paired(others, runs)
    assert found.n == 2 and found.mean == pytest.approx(-0.1)
    assert found.high == pytest.approx(found.mean)


def test_the_reference_is_the_backprop_row_that_differs_least() -> None:
    conditions = (
        group("FA", [0.5]) | group("BP+dale", [0.5], BP, DALE) | group("BP", [0.5], BP)
        | group("FA+dale", [0.5], FA, DALE) | group("FA slow", [0.5], lr=0.01) | group("BP slow", [0.5], BP, lr=0.01)
        | group("other data", [0.5], data={"kind": "mnist"})
    )  # fmt: skip
    assert references(conditions, plain(conditions)) == {
        "FA": "BP", "BP+dale": "BP", "BP": "BP", "FA+dale": "BP", "FA slow": "BP slow", "BP slow": "BP slow",
        "other data": None,
    }  # fmt: skip
    only = group("BP+dale", [0.5], BP, DALE) | group("FA", [0.5])
    assert references(only, plain(only))["FA"] == "BP+dale"
    assert references(group("FA", [0.5]), []) == {"FA": None}


def test_layers_are_told_one_by_one_and_only_those_that_count() -> None:
    (row,) = summarise(group("FA", [0.5, 0.7]), {})
    assert row["error_angle"] == {"layers.1": 10.5, "layers.3": 30.5}  # not the last, whose error is the loss's own
    assert row["weight_angle"] == {"layers.3": 60.0, "layers.5": 100.0}  # not the first, whose feedback is not used
    assert table([row])[0]["signs agree (%)"] == "30 / 50"


def test_a_layer_without_an_angle_is_not_hidden_in_a_mean() -> None:
    conditions = group("FA", [0.5, 0.7])
    conditions["FA"][1].epochs[-1]["layers"]["layers.3"]["error_angle"] = None
    (row,) = summarise(conditions, {})
    assert math.isnan(row["error_angle"]["layers.3"]) and table([row])[0]["angle to true error (°)"] == "10 / –"
    assert csv_rows([row])[0]["error_angle"] == ""
    layers = {"a": {"error_angle": 80.0}, "b": {"error_angle": 60.0}, "c": {"error_angle": 0.0}}
    assert hidden_error_angle(layers) == 70.0
    assert math.isnan(hidden_error_angle({**layers, "b": {"error_angle": None}}))
    assert math.isnan(hidden_error_angle({"c": {"error_angle": 0.0}}))


def test_many_layers_are_told_by_their_range() -> None:
    values = {str(i): float(i) for i in range(6)}
    assert comparison._layers(values, 1) == "0 to 5"
    assert comparison._layers({**values, "x": math.nan}, 1) == "0 to 5, 1 of 7 –"
    assert comparison._layers({"x": math.nan}, 1) is None


def test_differences_name_dotted_keys() -> None:
    a = {"x": {"y": 1, "z": [1, 2]}, "same": None}
    b = {"x": {"y": 2, "z": [1, 2], "new": None}, "same": None}
    assert differences(a, b) == {"x.y": (1, 2), "x.new": ("–", None)}
    assert differences(a, a) == {}


# ---- tables ----------------------------------------------------------------------------------------------------------


def csv_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return list(csv.DictReader(comparison.csv_table(rows).splitlines()))


def test_tables_by_hand() -> None:
    conditions = group("BP", [0.9, 0.9], BP) | group("FA + dale", [0.8, None], FA, DALE) | group("KP", [None])
    rows = summarise(conditions, {("FA + dale", 1): "diverged"})
    first, second, third = table(rows)
    assert first["test accuracy (%)"] == "90.00 ± 0.00" and first["error (%)"] == "10.00"
    assert first["violations"] is None and second["violations"] == "0"
    assert second["seeds"] == "1 of 2" and second["difference"] == "−10.00" and third["seeds"] == "0 of 1"
    assert set(third.values()) == {"KP", "0 of 1", None}
    assert rows[1]["runs"]["1"]["failure"] == "diverged" and rows[1]["runs"]["0"]["failure"] is None
    lines = comparison.text_table(table(rows)).splitlines()
    assert [line.split()[0] for line in lines] == ["condition", "BP", "FA", "KP"]
    assert len({line.index("±") for line in lines[1:2]}) == 1 and lines[3].split()[-1] == "–"
    marked = comparison.markdown_table([{"a": "x|y", "b": None}])
    assert marked == "| a | b |\n| --- | --- |\n| x\\|y | – |\n"
    numbers = csv_rows(rows)
    assert float(numbers[1]["difference_mean"]) == pytest.approx(-0.1) and numbers[1]["difference_low"] == ""
    assert numbers[2]["test_accuracy_mean"] == "" and numbers[0]["reference"] == "BP"
    assert numbers[1]["constraint"] == '{"kind": "dale", "excitatory": 0.8}'


def test_reasons_are_told_once() -> None:
    failures = {("a", 1): "x", ("a", 0): "x", ("b", 0): "x", ("a", 2): "y"}
    assert comparison.reasons(failures) == [("a, seeds 0, 1", "x"), ("b, seed 0", "x"), ("a, seed 2", "y")]


# ---- the page --------------------------------------------------------------------------------------------------------


def page(tmp_path: Any, conditions: Any, failures: Any = None) -> tuple[str, Page]:
    pytest.importorskip("matplotlib")
    rows = summarise(conditions, failures or {})
    path = comparison.write_comparison(
        tmp_path / "r.html", "A title", "spikecredit compare <x>", conditions, failures or {}, rows
    )
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_twelve_conditions_on_one_page(tmp_path: Any) -> None:
    conditions: dict[str, list[RunRecord]] = {}
    for i in range(6):
        pathway = BP if i == 0 else {**FA, "gain": float(i)}
        for law in (NONE, DALE):
            label = f"pathway {i}" + (" + dale" if law is DALE else "")
            conditions |= group(label, [0.9 - i / 100, 0.91 - i / 90, 0.92], pathway, law)
    text, parsed = page(tmp_path, conditions)
    assert_self_contained(text, parsed)
    assert len(figures(text)) == 6 and len(text.encode()) < 1_500_000
    for name in ("Test accuracy", "Difference", "Learning curves", "Alignment of the delivered", "Firing rate"):
        assert f". {name}" in words(text)
    for figure in figures(text)[2:]:
        assert all(f">pathway {i} + dale<" in figure for i in range(6))  # a panel each
    assert "Reference: pathway 0." in words(text) and parsed.text["pre"][0] == "spikecredit compare <x>"
    assert text.count("torch: 2.13.0") == 1


def test_what_failed_is_on_the_page_and_what_never_ran_does_no_harm(tmp_path: Any) -> None:
    conditions = group("FA", [0.8]) | group("BP + own", [None], BP, DALE)
    conditions["BP + own"] = [replace(conditions["BP + own"][0], epochs=[], environment={})]
    text, parsed = page(tmp_path, conditions, {("BP + own", 0): "refused: <why>"})
    assert_self_contained(text, parsed)
    assert "BP + own, seed 0 : refused: &lt;why&gt;" in words(text) and len(figures(text)) == 5
    text, _ = page(tmp_path / "none", {"BP + own": conditions["BP + own"]}, {("BP + own", 0): "x"})
    assert figures(text) == [] and "Without a result" in text


def test_without_backprop_the_page_says_why_there_are_no_differences(tmp_path: Any) -> None:
    text, _ = page(tmp_path, group("FA", [0.8, 0.9]))
    assert "No condition is backprop: no differences." in words(text) and len(figures(text)) == 5


def test_configurations_say_what_is_shared_and_what_is_not(tmp_path: Any) -> None:
    conditions = group("BP", [0.9], BP, extra={"a": 1, "b": 2}) | group("FA", [0.9], FA, extra={"a": 1, "b": 3})
    _, parsed = page(tmp_path, conditions)
    assert "extra.b" in parsed.text["th"] and "extra.a" not in parsed.text["th"]
    shared, of_bp = parsed.text["pre"][1:3]
    assert "lr: 0.1" in shared and "extra" not in shared and re.search(r"b: 2", of_bp)

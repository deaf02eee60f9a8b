"""The gallery: every rule is in it, its numbers can be had again, and its page shows all of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gallery_report
from benchmarks.common import RESULTS
from benchmarks.gallery import FIGURES, LARGEST, RESULT, Entry, Run, save
from benchmarks.gallery_entries import ENTRIES
from spikecredit.cli_plasticity import choose
from spikecredit.plasticity import DATASETS, RULES, CalciumRule

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plasticity" / "gallery.md").read_text("utf-8")
RECORDED = json.loads((RESULTS / f"{RESULT}.json").read_text())["entries"]
BY_NAME = {entry.name: entry for entry in ENTRIES}
QUICK = ("pair", "box", "suppression", "triplet", "triplet_grouped", "triplet_hippocampus", "triplet_quadruplet",
         "calcium_trace", "dopamine", "reward", "benna_fusi", "cascade", "short_term", "voltage_clamp")  # fmt: skip


def test_every_rule_has_an_experiment_a_figure_and_a_place_on_the_page() -> None:
    assert {entry.rule for entry in ENTRIES} == set(RULES)
    assert set(RECORDED) == set(BY_NAME)
    for entry in ENTRIES:
        files = [FIGURES / f"plasticity_{entry.name}.{ending}" for ending in ("svg", "png")]
        (figure,) = [file for file in files if file.exists()]
        assert 1000 < figure.stat().st_size <= LARGEST
        assert f"(../generated/{figure.name})" in PAGE
        assert f"<!-- generated: plasticity_{entry.name}.md -->" in PAGE


def test_the_page_prints_the_commands_that_were_run() -> None:
    printed = {line.removeprefix("$ ") for line in re.findall(r"^\$ spikecredit plasticity .*$", PAGE, re.MULTILINE)}
    assert printed == {run.command for entry in ENTRIES for run in entry.runs if run.shown}
    for entry in ENTRIES:
        for run, recorded in zip(entry.runs, RECORDED[entry.name]["runs"], strict=True):
            assert run.command == recorded["command"]
            choose(run.rule, run.protocol, run.words)


@pytest.mark.parametrize("name", QUICK)
def test_numbers_can_be_had_again(name: str) -> None:
    found, _ = BY_NAME[name].measure()
    recorded = RECORDED[name]
    assert found["warnings"] == recorded["warnings"]
    for now, then in zip(found["facts"], recorded["facts"], strict=True):
        assert now["what"] == then["what"]
        assert now["found"] == pytest.approx(then["found"], rel=1e-6, abs=1e-9)
    for now, then in zip(found["runs"], recorded["runs"], strict=True):
        for a, b in zip(now["rows"], then["rows"], strict=True):
            assert a.pop("change") == pytest.approx(b.pop("change"), rel=1e-6, abs=1e-9)
            assert a == b
        if "comparison" in now:
            assert now["comparison"].pop("E") == pytest.approx(then["comparison"].pop("E"), rel=1e-6, abs=1e-9)
            assert now["comparison"] == then["comparison"]


def test_what_was_recorded_is_what_should_be() -> None:
    """Numbers beside closed forms and published ones, at the tolerance that each can have."""
    facts = {entry: {f["what"]: f for f in record["facts"]} for entry, record in RECORDED.items()}
    exact = ("pair", "dopamine", "reward", "scaling", "short_term")
    for entry in exact:
        for fact in facts[entry].values():
            assert fact["found"] == pytest.approx(fact["expected"], rel=1e-6), (entry, fact)
    for fact in facts["voltage"].values():
        assert fact["found"] == pytest.approx(fact["expected"], abs=0.1), fact
    for what, fact in facts["calcium"].items():
        if fact["source"] in ("closed form", "the authors' 1000 runs"):
            assert abs(fact["found"] - fact["expected"]) < 5.0, (what, fact)
    assert facts["inhibitory"].popitem()[1]["found"] == pytest.approx(6.25, rel=0.05)
    late = {what.split(":")[0]: f["found"] for what, f in facts["tagging"].items() if "late phase" in what}
    assert late["STET"] > 0.5 and late["SLFS"] < -0.2 and late["WTET"] == late["WLFS"] == 0


def test_coincident_jumps_count_once_each() -> None:
    """The closed form is within the noise of the simulation, and the earlier value of D is not."""
    facts = RECORDED["calcium"]["facts"]
    joint = {f["what"][: f["what"].index(",")]: f for f in facts if "both jumps" in f["what"]}
    assert list(joint) == ["P", "D", "D'"]
    for name, fact in joint.items():
        assert fact["expected"] == pytest.approx(100 * CalciumRule.preset(name).strength_after(0.0))
        assert abs(fact["found"] - fact["expected"]) < 5.0
    (old,) = [f for f in facts if f["what"] == "D, the same"]
    assert abs(old["found"] - old["expected"]) > 10.0


def test_numbers_from_memory_are_marked_in_every_table() -> None:
    tables = gallery_report.tables()
    for name, cls in RULES.items():
        for preset, row in cls.PRESETS.items():
            (line,) = [x for x in str(tables["plasticity_presets"]).splitlines() if f"`{name}/{preset}`" in x]
            assert (gallery_report.MEMORY in line) == (not row.verified)
    for name, data in DATASETS.items():
        (line,) = [x for x in str(tables["plasticity_data"]).splitlines() if x.startswith(f"| `{name}`")]
        assert (gallery_report.MEMORY in line) == (not data.verified)
    assert f"`wang2005`, {gallery_report.MEMORY}" in str(tables["plasticity_distances"])
    assert "wang2005, from memory" in (FIGURES / "plasticity_triplet_hippocampus.svg").read_text("utf-8")
    assert "bi_poo, from memory" in (FIGURES / "plasticity_pair.svg").read_text("utf-8")


def test_a_command_names_what_differs_from_the_defaults() -> None:
    run = Run("calcium/DP", "pairing", ("dt=-20,20",), "torch", 3, 1, "fino2010", ("c", "rho"), 0.5)
    assert run.command == (
        "spikecredit plasticity calcium/DP pairing dt=-20,20 --engine torch --replicates 3 --seed 1 --data fino2010 "
        "--record c,rho --every 0.5"
    )


def test_a_figure_is_the_same_bytes_each_time_and_png_where_svg_is_large(tmp_path: Path, monkeypatch) -> None:
    entry = Entry("x", "pair", "", (Run("pair/bi_poo", "pairing", ("dt=-10,10", "n=2")),))
    first = save(entry.measure()[1], "x", tmp_path / "a")
    again = save(entry.measure()[1], "x", tmp_path / "b")
    assert first.suffix == ".svg" and first.read_bytes() == again.read_bytes()
    monkeypatch.setattr("benchmarks.gallery.LARGEST", 100)
    assert save(entry.measure()[1], "x", tmp_path / "c").read_bytes()[1:4] == b"PNG"


def test_distances_are_counted_by_hand() -> None:
    found, _ = BY_NAME["triplet"].measure()
    result = BY_NAME["triplet"].runs[0].run()
    data = DATASETS["sjostrom2001"]
    gaps = [(row["change"] - p.change) / p.sem for p in data.points for row in result.rows if p.covers(row)]
    assert found["runs"][0]["comparison"]["E"] == pytest.approx(np.mean(np.square(gaps)))
    assert found["runs"][0]["comparison"]["within_2_sem"] == sum(abs(g) <= 2 for g in gaps)

"""A comparison: cells equal single runs, what is finished is kept, what fails is told, what changed is refused."""

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from spikecredit.analysis import comparison, report
from spikecredit.data import DATA, DataSource, ImageData
from spikecredit.pathways import PATHWAYS, Backprop, FeedbackAlignment
from spikecredit.training import checkpoint
from spikecredit.training.compare import Failures, Plan, compare, new_plan
from spikecredit.training.document import ConfigError
from spikecredit.training.loop import Interrupted, Trainer
from spikecredit.training.run import Run, RunError, config_hash

CPU = (torch.device("cpu"),)
LOADS: list[str] = []


@dataclass(frozen=True)
class Few(DataSource):
    """The first digits of each split."""

    train: int = 28

    def load(self) -> ImageData:
        LOADS.append(f"few {self.train}")
        return tiny.data(self.train)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration whose data source is registered; reports, which cost a second each, are not drawn."""
    monkeypatch.setitem(DATA, "few", Few)
    monkeypatch.setattr(report, "write_report", lambda path, *_: path)
    monkeypatch.setattr(comparison, "write_comparison", lambda path, *_: path)
    monkeypatch.chdir(tmp_path)
    LOADS.clear()
    path = tmp_path / "few.yaml"
    path.write_text(tiny.BASE + "data: {kind: few}\n")
    return path


def planned(source: Path, pathway: str | None, constraint: str | None = None, seeds: int = 2, **options: Any) -> Plan:
    return new_plan([source], pathway, constraint, seeds, options.get("overrides", ()), options.get("changes", ()))


def carried_out(plan: Plan, folder: Path) -> tuple[Failures, list[str]]:
    """The failures, and the lines that were told."""
    told: list[str] = []
    return compare(plan, folder, CPU, told.append, lambda images: None), told


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in tiny.TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def results(folder: Path) -> dict[str, Any]:
    return untimed(json.loads((folder / "results.json").read_text()))


def contents(folder: Path) -> dict[str, Any]:
    """Everything that a comparison leaves behind, but times and reports."""
    found: dict[str, Any] = {"results": results(folder)}
    for cell in sorted(folder.glob("*/seed-*")):
        name = str(cell.relative_to(folder))
        saved = checkpoint.latest(cell / "checkpoints", "last")
        tensors = {f"{group}/{key}": t.tolist() for group, some in saved.tensors.items() for key, t in some.items()}
        found[name] = ((cell / "config.yaml").read_text(), tiny.metrics(cell), tensors)
    return found


# ---- what a cell is --------------------------------------------------------------------------------------------------


def test_cells_are_the_runs_that_train_makes_and_the_table_holds_their_results(source: Path, tmp_path: Path) -> None:
    plan = planned(source, "BP,FA", "none,dale", changes=("FA:training.optimizer.lr=0.005",))
    failures, told = carried_out(plan, tmp_path / "all")
    assert failures == {} and len(list((tmp_path / "all").glob("*/seed-*"))) == 8
    found = {row["condition"]: row for row in results(tmp_path / "all")["conditions"]}
    for label, overrides in {
        "BP": ("pathway=backprop",),
        "FA + dale": ("pathway=feedback_alignment", "constraint=dale", "training.optimizer.lr=0.005"),
    }.items():
        accuracies = []
        for seed in (0, 1):
            whole = (*overrides, f"seed={seed}", "data={kind: few}")
            folder = tmp_path / f"{label}-{seed}"
            alone = tiny.trainer(*whole, run=tiny.new_run(folder, *whole))
            alone.fit()
            cell = tmp_path / "all" / label.replace(" ", "") / f"seed-{seed}"
            assert tiny.metrics(cell) == tiny.metrics(folder)
            assert (cell / "config.yaml").read_text() == (folder / "config.yaml").read_text()
            ours, theirs = (checkpoint.latest(f / "checkpoints", "best").tensors["model"] for f in (cell, folder))
            tiny.assert_same_weights(ours, theirs)
            assert found[label]["runs"][str(seed)]["result"] == tiny.metrics(folder)[-1]
            accuracies.append(alone.result["test_accuracy"])
        assert found[label]["test_accuracy"]["mean"] == sum(accuracies) / 2 and found[label]["finished"] == 2
    assert sum("%" in line and line.startswith("FA + dale") for line in told) == 2  # a line for each cell
    assert len((tmp_path / "all" / "table.md").read_text().splitlines()) == 2 + 4
    lines = list(csv.DictReader((tmp_path / "all" / "table.csv").read_text().splitlines()))
    assert [line["condition"] for line in lines] == ["BP", "FA", "BP + dale", "FA + dale"]
    assert float(lines[3]["test_accuracy_mean"]) == found["FA + dale"]["test_accuracy"]["mean"]


def test_the_difference_to_backprop_is_paired_by_seed(source: Path, tmp_path: Path) -> None:
    carried_out(planned(source, "BP,FA", seeds=3), tmp_path / "x")
    bp, fa = results(tmp_path / "x")["conditions"]
    pairs = [fa["runs"][s]["result"]["test_accuracy"] - bp["runs"][s]["result"]["test_accuracy"] for s in "012"]
    assert bp["difference"] is None and fa["reference"] == "BP"
    assert fa["difference"] == report.interval(pairs)._asdict()


@dataclass(frozen=True)
class Modified(Backprop):
    """Backprop with an option."""

    option: int = 0


def test_only_plain_backprop_is_a_reference(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PATHWAYS, "modified", Modified)
    carried_out(planned(source, "modified,BP,FA", seeds=1), tmp_path / "x")
    assert [row["reference"] for row in results(tmp_path / "x")["conditions"]] == ["BP", "BP", "BP"]
    carried_out(planned(source, "modified,FA", seeds=1), tmp_path / "y")
    assert [row["reference"] for row in results(tmp_path / "y")["conditions"]] == [None, None]


def test_data_is_loaded_once_for_cells_of_the_same_settings(source: Path, tmp_path: Path) -> None:
    plan = planned(source, "BP,FA,uSF", changes=("uSF:data.train=16", "uSF:seeds=1"))
    carried_out(plan, tmp_path / "x")
    assert sorted(LOADS) == ["few 16", "few 28"]
    carried_out(plan, tmp_path / "x")
    assert len(LOADS) == 2  # finished: nothing needs it


def test_each_row_may_have_seeds_of_its_own(source: Path, tmp_path: Path) -> None:
    _, told = carried_out(planned(source, "BP,FA", changes=("FA:seeds=1",)), tmp_path / "x")
    assert [line.split()[:2] for line in told if "%" in line and "°" not in line] == [
        ["BP", "0"], ["FA", "0"], ["BP", "1"],
    ]  # fmt: skip
    bp, fa = results(tmp_path / "x")["conditions"]
    assert (len(bp["runs"]), len(fa["runs"])) == (2, 1) and fa["test_accuracy"]["low"] is None


# ---- resuming --------------------------------------------------------------------------------------------------------


def killing(step: int) -> Callable[..., None]:
    """A train_batch that ends the program, as kill -9 would, at this step of this life of the comparison."""
    real, count = Trainer.train_batch, iter(range(10**6))

    def train_batch(self: Trainer, *batch: Any) -> None:
        if next(count) == step:
            raise SystemExit("killed")
        real(self, *batch)

    return train_batch


@pytest.mark.parametrize("stored", [False, True])
def test_a_killed_comparison_goes_on_bit_for_bit(
    stored: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(source, "FA,brSF", "none", overrides=("training.checkpoint_every=1",))
    carried_out(plan, tmp_path / "whole")
    steps = len(range(0, 28, 8)) * 2  # of one cell
    for last in (2, steps, 2 * steps - 1):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_batch", killing(last))
            with pytest.raises(SystemExit):
                carried_out(plan, tmp_path / "cut")
    again = Plan.open(tmp_path / "cut") if stored else plan
    assert again == plan
    failures, told = carried_out(again, tmp_path / "cut")
    assert failures == {} and "3 finished, 1 to train" in told[0]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_the_test_above_can_fail(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed cell that forgot its optimiser's state would be noticed."""
    plan = planned(source, "FA", "none", seeds=1, overrides=("training.checkpoint_every=1",))
    carried_out(plan, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_batch", killing(2))
        with pytest.raises(SystemExit):
            carried_out(plan, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "unpack_optimizer", lambda *_: None)
    carried_out(plan, tmp_path / "cut")
    assert contents(tmp_path / "cut") != contents(tmp_path / "whole")


def test_sigint_leaves_a_checkpoint_and_the_rest_for_later(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(source, "BP,FA")
    real = Trainer.train_batch

    def train_batch(self: Trainer, *batch: Any) -> None:
        real(self, *batch)
        if self.step == 3 and type(self.experiment.pathway) is FeedbackAlignment:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_batch", train_batch)
        with pytest.raises(Interrupted) as stop:
            carried_out(plan, tmp_path / "x")
    assert stop.value.signum == signal.SIGINT
    assert checkpoint.latest(tmp_path / "x" / "FA" / "seed-0" / "checkpoints", "last").step == 3
    assert [row["finished"] for row in results(tmp_path / "x")["conditions"]] == [1, 0]
    carried_out(plan, tmp_path / "x")
    carried_out(plan, tmp_path / "whole")
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_sigint_between_two_cells_stops_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: Trainer) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "finish", finish)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        with pytest.raises(Interrupted):
            carried_out(planned(source, "BP"), tmp_path / "x")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_comparison_may_grow_but_not_shrink(source: Path, tmp_path: Path) -> None:
    carried_out(planned(source, "BP", seeds=1), tmp_path / "x")
    before = (tmp_path / "x" / "BP" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns
    _, told = carried_out(planned(source, "FA,BP", seeds=2), tmp_path / "x")
    assert "1 finished, 3 to train" in told[0]
    assert (tmp_path / "x" / "BP" / "seed-0" / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"leaves out: FA/seed-0, FA/seed-1\. Give their pathways"):
        carried_out(planned(source, "BP"), tmp_path / "x")


def test_a_changed_configuration_is_refused_with_what_differs(source: Path, tmp_path: Path) -> None:
    carried_out(planned(source, "BP,FA", seeds=1), tmp_path / "x")
    before = contents(tmp_path / "x")
    source.write_text(source.read_text().replace("tau: 5.0", "tau: 6.0", 1))
    with pytest.raises(RunError) as caught:
        carried_out(planned(source, "BP,FA,uSF", seeds=1, changes=("FA:pathway.gain=2",)), tmp_path / "x")
    told = str(caught.value)
    assert f"{Path('x', 'BP', 'seed-0')}: neuron.tau is 5.0 there and 6.0 here" in told.replace(f"{tmp_path}/", "")
    assert "FA/seed-0: pathway.gain is 1.0 there and 2.0 here" in told and "uSF" not in told
    assert "delete the folders of those rows" in told
    assert contents(tmp_path / "x") == before and not (tmp_path / "x" / "uSF").exists()
    carried_out(Plan.open(tmp_path / "x"), tmp_path / "x")  # the stored one still is what was trained


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "is no comparison: "),
        ("{", "is damaged"),
        ('{"format": 1, "conditions": [{"label": 3}], "command": ""}', "is damaged"),
        ('{"format": 2, "conditions": [], "command": ""}', "is of another format than 1"),
    ],
)
def test_a_folder_without_a_sound_plan_cannot_be_resumed(text: str | None, told: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "compare.json").write_text(text)
    with pytest.raises(RunError, match=told):
        Plan.open(tmp_path)


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else than a comparison"):
        carried_out(planned(source, "BP"), tmp_path / "x")
    carried_out(planned(source, "BP", seeds=1), tmp_path / "y")
    config = tmp_path / "y" / "BP" / "seed-0" / "config.yaml"
    config.write_text(config.read_text().replace("epochs", "epoch"))
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        carried_out(planned(source, "BP", seeds=1), tmp_path / "y")


# ---- failures --------------------------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_known_before_anything_trains(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(source, "BP,FA", "dale(feedback=own)")
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_batch", killing(0))
        with pytest.raises(SystemExit):
            compare(plan, tmp_path / "x", CPU, told.append, lambda images: None)
    assert told[1].startswith("BP + dale(feedback=own), seeds 0, 1: refused: ") and "forward weights" in told[1]
    assert not (tmp_path / "x" / "BP+dale-feedback-own").exists()
    failures, _ = carried_out(plan, tmp_path / "x")
    assert failures.keys() == {("BP + dale(feedback=own)", 0), ("BP + dale(feedback=own)", 1)}
    bp, fa = results(tmp_path / "x")["conditions"]
    assert (bp["finished"], fa["finished"]) == (0, 2) and "refused" in bp["runs"]["0"]["failure"]
    assert fa["reference"] == "BP + dale(feedback=own)" and fa["difference"]["mean"] is None


def test_a_cell_that_diverges_is_told_and_the_rest_goes_on(source: Path, tmp_path: Path) -> None:
    plan = planned(source, "BP,FA", changes=("BP:training.optimizer.lr=1e30",))
    failures, told = carried_out(plan, tmp_path / "x")
    assert failures.keys() == {("BP", 0), ("BP", 1)} and "Try a smaller learning rate" in failures["BP", 0]
    assert any(line.startswith("BP, seed 0: step 1") for line in told)
    bp, fa = results(tmp_path / "x")["conditions"]
    assert bp["finished"] == 0 and bp["runs"]["1"]["failure"] == failures["BP", 1] and fa["finished"] == 2
    assert bp["test_accuracy"]["mean"] is None and fa["difference"]["n"] == 0
    assert "| BP | 0 of 2 | – |" in (tmp_path / "x" / "table.md").read_text()
    again, _ = carried_out(plan, tmp_path / "x")  # tried anew, from its last checkpoint
    assert again == failures


@dataclass(frozen=True)
class Broken(FeedbackAlignment):
    """A pathway with a bug that shows in training only."""

    def matrix(self, layer: Any) -> Any:
        raise KeyError("a bug")


def test_a_bug_in_one_pathway_costs_its_own_cells_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PATHWAYS, "broken", Broken)
    failures, _ = carried_out(planned(source, "broken,BP", seeds=1), tmp_path / "x")
    assert "KeyError: 'a bug' (traceback in " in failures["broken", 0]
    assert "in matrix" in (tmp_path / "x" / "broken" / "seed-0" / "failure.txt").read_text()
    monkeypatch.setattr(Broken, "matrix", FeedbackAlignment.matrix)
    assert carried_out(planned(source, "broken,BP", seeds=1), tmp_path / "x")[0] == {}
    assert not (tmp_path / "x" / "broken" / "seed-0" / "failure.txt").exists()


def test_two_processes_do_not_train_one_cell(source: Path, tmp_path: Path) -> None:
    import fcntl

    cell = tmp_path / "x" / "BP" / "seed-0"
    cell.mkdir(parents=True)
    Plan.save(plan := planned(source, "BP", seeds=1), tmp_path / "x")
    handle = os.open(cell, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    failures, _ = carried_out(plan, tmp_path / "x")
    assert "another process is training" in failures["BP", 0] and Run(cell).result() is None
    os.close(handle)
    assert carried_out(plan, tmp_path / "x")[0] == {}


def test_data_that_is_not_there_is_an_error_before_the_folder_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Few) -> ImageData:
        raise ValueError("no such folder")

    monkeypatch.setattr(Few, "load", load)
    with pytest.raises(RunError, match="data: no such folder"):
        carried_out(planned(source, "BP"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("always")
def test_a_warning_names_its_cell_and_comes_for_each(source: Path, tmp_path: Path) -> None:
    _, told = carried_out(planned(source, "BP,FA", seeds=1, overrides=("neuron.threshold=1e6",)), tmp_path / "x")
    for label in ("BP", "FA"):
        assert any(line.startswith(f"warning: {label}, seed 0: layer layers.2 is silent") for line in told)
    (bp, _) = results(tmp_path / "x")["conditions"]
    assert bp["error_angle"] == {"layers.1": None}  # no error, no angle


# ---- the page and the command ----------------------------------------------------------------------------------------


def test_the_page_is_written_at_the_end(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(DATA, "few", Few)
    monkeypatch.setattr(report, "write_report", lambda path, *_: path)
    pytest.importorskip("matplotlib")
    plan = planned(source, "BP,FA", "none,dale", seeds=2)
    _, told = carried_out(plan, tmp_path / "x")
    page = (tmp_path / "x" / "report.html").read_text()
    assert told[-1] == f"report: {tmp_path / 'x' / 'report.html'}"
    assert plan.command.replace("'", "&#x27;") in page and "FA + dale" in page and page.count("<svg") == 6
    assert config_hash({}) not in page and "torch:" in page and "carriers of their own" in page


def test_the_command_is_kept_and_the_device_and_jobs_with_it(source: Path, tmp_path: Path) -> None:
    plan = planned(source, "uSF(gain=2)", "none", seeds=1, overrides=("training.epochs=1",), changes=("none:seeds=1",))
    kept = plan.on("cpu", 3)
    kept.save(tmp_path / "x")
    assert Plan.open(tmp_path / "x") == kept and (kept.device, kept.jobs) == ("cpu", 3)
    assert kept.on(None, None) == kept and kept.on("cuda", 1).jobs == 1
    assert plan.command == (
        f"spikecredit compare {source} --pathway 'uSF(gain=2)' --constraint none --seeds 1 --set none:seeds=1 "
        "training.epochs=1"
    )

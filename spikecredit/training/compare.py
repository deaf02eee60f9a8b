"""The comparison: every cell of a matrix trained to its end, resumable, in this process or in several.

A cell is a run as `spikecredit train` makes it, in FOLDER/CONDITION/seed-N. What is finished is kept, what was
interrupted goes on from its checkpoint, and what fails is reported while the rest goes on. FOLDER itself holds
compare.json (the plan, from which it is resumed), results.json, table.md, table.csv and report.html.
"""

import json
import shlex
import signal
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spikecredit.analysis import comparison
from spikecredit.analysis.page import MISSING
from spikecredit.analysis.report import RunRecord
from spikecredit.pathways import Backprop
from spikecredit.rules import BPTT
from spikecredit.training.cell import Cell, Data, Progress, Tell, experiment_of, run_cell
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Interrupted, Trainer
from spikecredit.training.matrix import Condition, conditions
from spikecredit.training.processes import in_processes
from spikecredit.training.run import CONFIG, Run, RunError, finite_or_none, write_whole
from spikecredit.training.summary import notes

PLAN, FORMAT = "compare.json", 1

Failures = dict[tuple[str, int], str]


@dataclass(frozen=True)
class Plan:
    """What is compared, by which command, on which device and in how many processes."""

    conditions: Sequence[Condition]
    command: str
    device: str = "auto"
    jobs: int = 1

    def cells(self, folder: Path) -> list[Cell]:
        """All cells, seed by seed: after the first seed of each condition there is a whole table to look at."""
        return [
            Cell(c.label, seed, folder / c.folder / f"seed-{seed}", c.config(seed))
            for seed in sorted({seed for c in self.conditions for seed in c.seeds})
            for c in self.conditions
            if seed in c.seeds
        ]

    def on(self, device: str | None, jobs: int | None) -> "Plan":
        """The same matrix on another device, or in another number of processes; None leaves it."""
        return replace(self, device=device or self.device, jobs=jobs or self.jobs)

    def save(self, folder: Path) -> None:
        """Write compare.json."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PLAN, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def open(cls, folder: Path) -> "Plan":
        """The plan of an existing comparison.

        Raises:
            RunError: there is none, or it is damaged or of a newer format.
        """
        if not (folder / PLAN).is_file():
            raise RunError(f"{folder} is no comparison: {folder / PLAN} is missing")
        try:
            kept = json.loads((folder / PLAN).read_text())
            if kept.pop("format") != FORMAT:
                raise RunError(f"{folder / PLAN} is of another format than {FORMAT}; use the version that wrote it")
            rows = [Condition(**{**row, "seeds": tuple(row["seeds"])}) for row in kept.pop("conditions")]
            return cls(rows, **kept)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{folder / PLAN} is damaged ({error}); give the whole command with --run") from error


def new_plan(
    sources: Sequence[Path],
    pathway: str | None,
    constraint: str | None,
    seeds: int,
    overrides: Sequence[str],
    changes: Sequence[str],
    names: Sequence[str] = (),
) -> Plan:
    """The plan of a new comparison; the arguments and errors are those of `matrix.conditions`.

    names: how the command named the sources, if not by their paths.
    """
    words = ["spikecredit", "compare", *(names or map(str, sources))]
    for option, value in (("--pathway", pathway), ("--constraint", constraint), ("--seeds", str(seeds))):
        words += [] if value is None else [option, value]
    words += [word for change in changes for word in ("--set", change)]
    rows = conditions(sources, pathway, constraint, seeds, overrides, changes)
    return Plan(rows, shlex.join([*words, *overrides]))


# ---- before anything trains ------------------------------------------------------------------------------------------


def check_folder(plan: Plan, folder: Path) -> None:
    """Refuse a folder that holds something else, or cells that this plan would change or leave out.

    Raises:
        RunError: with every cell and every setting that differs. ConfigError: a cell's config.yaml is damaged.
    """
    if folder.exists() and not (folder / PLAN).exists() and any(folder.iterdir()):
        raise RunError(f"{folder} holds something else than a comparison; name another folder with --run")
    cells = plan.cells(folder)
    mine = {cell.folder for cell in cells}
    found = {path.parent for path in folder.glob(f"*/seed-*/{CONFIG}")}
    if found - mine:
        names = ", ".join(sorted(str(path.relative_to(folder)) for path in found - mine))
        raise RunError(
            f"{folder} holds cells that this matrix leaves out: {names}. Give their pathways, constraints and seeds "
            "too (finished cells are kept), or name another folder with --run"
        )
    problems = []
    for cell in cells:
        if cell.folder in found:
            kept = load_experiment(cell.folder / CONFIG).resolved
            pairs = comparison.differences(kept, cell.resolved).items()
            problems += [f"{cell.folder}: {key} is {was} there and {now} here" for key, (was, now) in pairs]
    if problems:
        more = f"\n... and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise RunError(
            "cells were started with another configuration:\n" + "\n".join(problems[:12]) + more + "\n"
            "Undo the change, delete the folders of those rows to train them anew, or name another folder with --run"
        )


def refusals(cells: Sequence[Cell], data: Data) -> Failures:
    """The cells whose parts do not go together, and why: each condition's network is built once.

    Raises:
        RunError: data cannot be loaded.
    """
    reasons: dict[str, str] = {}
    for label, resolved in {cell.label: cell.resolved for cell in cells}.items():
        experiment = experiment_of(resolved)
        images = data.of(experiment.data)
        try:
            Trainer(experiment, images)
        except (ValueError, NotImplementedError) as error:
            reasons[label] = f"refused: {error}"
        except Exception as error:  # nobody foresaw it, but it must not cost the other rows
            reasons[label] = f"cannot be built: {type(error).__name__}: {error}"
    return {cell.name: reasons[cell.label] for cell in cells if cell.label in reasons}


# ---- all cells -------------------------------------------------------------------------------------------------------


def compare(plan: Plan, folder: Path, devices: Sequence[torch.device], tell: Tell, progress: Progress) -> Failures:
    """Train what is left of a plan, tell each cell's result, and write the results.

    Args:
        devices: one; with several, the processes share them evenly.
        tell: takes lines for the user. progress: as in `run_cell`; used where one process does all.
    Returns:
        the cells without a result, and why.
    Raises:
        RunError, ConfigError: the folder does not suit the plan, or data cannot be loaded; nothing was trained.
        Interrupted: a signal came. Every cell in hand has a checkpoint; the tables are written, the page is not.
    """
    check_folder(plan, folder)
    cells = plan.cells(folder)
    waiting = [cell for cell in cells if not cell.finished()]
    alone = plan.jobs == 1
    data = Data(devices[0] if alone else torch.device("cpu"))
    failures = refusals(waiting, data)
    plan.save(folder)
    todo = [cell for cell in waiting if cell.name not in failures]
    lines = _Lines(cells)
    tell(
        f"{len(plan.conditions)} conditions, {len(cells)} cells in {folder}: {len(cells) - len(waiting)} finished, "
        f"{len(todo)} to train{f', {len(failures)} refused' if failures else ''}\n"
    )
    for who, reason in comparison.reasons(failures):
        tell(f"{who}: {reason}\n")
    tell(lines.head)
    for cell in cells:
        if cell not in waiting:
            tell(lines.line(cell, None))
    done = _in_this_process(todo, data, tell, progress) if alone else in_processes(todo, plan.jobs, devices, tell)
    del data  # other processes have their own
    with closing(done):
        for cell, failure in done:
            if failure is not None:
                failures[cell.name] = failure
            tell(lines.line(cell, failure))
            _write_tables(plan, folder, failures)
    rows = _write_tables(plan, folder, failures)
    tell(f"\n{comparison.text_table(comparison.table(rows))}\n")
    for who, reason in comparison.reasons(failures):
        tell(f"{who}: {reason}\n")
    tell(_page(plan, folder, failures, rows))
    return failures


def _in_this_process(
    cells: Sequence[Cell], data: Data, tell: Tell, progress: Progress
) -> Generator[tuple[Cell, str | None]]:
    for cell in cells:
        try:
            failure = run_cell(cell, data, tell, progress)
        except KeyboardInterrupt as stop:  # before or after the training itself, which catches the signal
            raise Interrupted(signal.SIGINT) from stop
        yield cell, failure


class _Lines:
    """The table that grows: a line per cell."""

    FORM = "{}  {:>4}  {:>13}  {:>24}  {:>17}  {:>17}  {:>13}  {:>10}  {:>9}"

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.width = max(len("condition"), *(len(cell.label) for cell in cells))
        self.head = self.FORM.format(
            "condition".ljust(self.width), "seed", "test accuracy", "angle to true error (°)", "B to W (°)",
            "signs agree (%)", "spikes/neuron", "violations", "time",
        )  # fmt: skip

    def line(self, cell: Cell, failure: str | None) -> str:
        if failure is not None:
            return f"{cell.label.ljust(self.width)}  {cell.seed:>4}  {failure}"
        (row,) = comparison.table(comparison.summarise({cell.label: [_record(cell)]}, {}, []))
        shown = [
            row[key] or MISSING
            for key in ("angle to true error (°)", "B to W (°)", "signs agree (%)", "spikes per neuron", "violations")
        ]
        accuracy, time = f"{row['test accuracy (%)'] or MISSING}%", f"{row['time (s)']} s"
        return self.FORM.format(cell.label.ljust(self.width), cell.seed, accuracy, *shown, time)


# ---- results ---------------------------------------------------------------------------------------------------------


def _record(cell: Cell) -> RunRecord:
    """What a cell's folder says, finished or not."""
    run = Run(cell.folder)
    lines = run.metrics()
    return RunRecord(
        label=cell.label,
        epochs=[line for line in lines if line["event"] == "epoch"],
        result=next((line for line in lines if line["event"] == "result"), None),
        config=cell.resolved,
        environment=(run.environments() or [{}])[-1],
        raster={},
        sample=None,
        weights={},
        notes=[],
    )


def _conditions(plan: Plan, folder: Path) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {condition.label: [] for condition in plan.conditions}
    for cell in plan.cells(folder):
        found[cell.label].append(_record(cell))
    return found


def _write_tables(plan: Plan, folder: Path, failures: Failures) -> list[dict[str, Any]]:
    """results.json, table.md and table.csv of what there is so far."""
    conditions = _conditions(plan, folder)
    experiments = {c.label: experiment_of(c.resolved) for c in plan.conditions}
    plain = [label for label, each in experiments.items() if each.pathway == Backprop() and each.rule == BPTT()]
    rows = comparison.summarise(conditions, failures, plain)
    runs = [run for group in conditions.values() for run in group if run.environment]
    machines = list({json.dumps(run.environment): run.environment for run in runs}.values())
    content = {"command": plan.command, "environments": machines, "conditions": rows}
    write_whole(folder / "results.json", json.dumps(finite_or_none(content), indent=1) + "\n")
    write_whole(folder / "table.md", comparison.markdown_table(comparison.table(rows)))
    write_whole(folder / "table.csv", comparison.csv_table(rows))
    return rows


def _page(plan: Plan, folder: Path, failures: Failures, rows: Sequence[dict[str, Any]]) -> str:
    """Write the page; where it is, or why there is none."""
    conditions = {}
    for label, runs in _conditions(plan, folder).items():
        validated = any(epoch["validation_accuracy"] is not None for run in runs for epoch in run.epochs)
        told = notes(experiment_of(runs[0].config), validated)
        conditions[label] = [replace(run, notes=told) for run in runs]
    try:
        path = comparison.write_comparison(
            folder / "report.html", f"Comparison: {folder.name}", plan.command, conditions, failures, rows
        )
    except ImportError as error:
        return f"no report: {error}"
    return f"report: {path}"

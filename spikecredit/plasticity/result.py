"""What an experiment gave: a table, and its distance to published data."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecredit.plasticity.datasets import NO_CHANGE, Dataset, Point, dataset, written
from spikecredit.plasticity.engines.stimulus import Outcome
from spikecredit.plasticity.language import nearest
from spikecredit.plasticity.protocols import Experiment, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spikecredit.plasticity.rule import Rule


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns flush right, two blanks between them."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join("  ".join(f"{cell:>{w}}" for cell, w in zip(line, widths, strict=True)) for line in lines)


def _write(path: Path | str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
    return target


def _headed(axes: Any) -> list[str]:
    return [f"{name} ({unit})" if unit else name for name, unit in axes.items()]


@dataclass(frozen=True)
class Comparison:
    """A model beside published data.

    Attributes:
        data: the data.
        points: those of them that the experiment measured.
        model: its changes there, (P,); where data were pooled over a range, the mean of the conditions inside.
    """

    data: Dataset
    points: tuple[Point, ...]
    model: np.ndarray

    @property
    def measured(self) -> np.ndarray:
        """The published means, (P,); NaN where only a sign is."""
        return np.array([point.change for point in self.points])

    @property
    def sem(self) -> np.ndarray:
        """Their standard errors, (P,); NaN where there is none."""
        return np.array([point.sem for point in self.points])

    @property
    def distance(self) -> np.ndarray:
        """(model - data) / SEM, (P,)."""
        return (self.model - self.measured) / self.sem

    @property
    def agrees(self) -> tuple[bool | None, ...]:
        """For points of which only the sign is known, whether the model has it; None for the others."""
        return tuple(point.agrees(float(m)) for point, m in zip(self.points, self.model, strict=True))

    @property
    def chi2(self) -> float:
        """Sum of the squared distances, over points with a standard error."""
        return float(np.nansum(self.distance**2)) if np.isfinite(self.sem).any() else float("nan")

    @property
    def E(self) -> float:  # noqa: N802  the paper's name
        """Mean of the squared distances: the E of Pfister & Gerstner 2006."""
        return self.chi2 / max(1, int(np.isfinite(self.sem).sum()))

    def table(self) -> str:
        """Every point, and the sums."""
        head = [*_headed(self.data.axes), "model", "data", "SEM", "(model - data)/SEM"]
        rows = [
            [*(written(point.at[axis]) for axis in self.data.axes), f"{m:+.4f}", point.text,
             f"{point.sem:.2f}" if np.isfinite(point.sem) else "none",
             f"{d:+.2f}" if np.isfinite(d) else {None: "", True: "agrees", False: "disagrees"}[agrees]]
            for point, m, d, agrees in zip(self.points, self.model, self.distance, self.agrees, strict=True)
        ]  # fmt: skip
        read = "" if self.data.verified else " (numbers from memory)"
        text = f"{self.data.name}: {self.data.source}{read}\n{_grid(head, rows)}\n"
        if np.isfinite(self.sem).any():
            text += f"E = {self.E:.3f}, the mean of the squares over {np.isfinite(self.sem).sum()} points; "
            text += f"chi2 = {self.chi2:.2f}"
        else:
            text += "no standard errors, so no distance"
        if signs := [agrees for agrees in self.agrees if agrees is not None]:
            text += f"; {sum(signs)} of {len(signs)} signs agree (up to {NO_CHANGE:.0%} is no change)"
        left = len(self.data.points) - len(self.points)
        return text + (f"; {left} of {len(self.data.points)} points were not measured here" if left else "")

    def to_csv(self, path: Path | str) -> Path:
        """Write one row per point."""
        signs = any(agrees is not None for agrees in self.agrees)
        rows = [
            [*(written(point.at[axis]) for axis in self.data.axes), float(m), point.change, point.sem, float(d),
             *([point.sign, agrees] if signs else [])]
            for point, m, d, agrees in zip(self.points, self.model, self.distance, self.agrees, strict=True)
        ]  # fmt: skip
        head = [*_headed(self.data.axes), "model", "data", "sem", "distance", *(["sign", "agrees"] if signs else [])]
        return _write(path, head, rows)


@dataclass(frozen=True)
class Result:
    """One rule under one protocol.

    Attributes:
        change: relative change of strength of each condition, (C,): 0.1 is 10 % more than before.
        outcome: all variables and recorded traces.
    """

    rule: "Rule"
    protocol: Protocol
    experiment: Experiment
    outcome: Outcome
    engine: str

    @cached_property
    def change(self) -> np.ndarray:
        return self.rule.change(self.outcome.before, self.outcome.after)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each condition with its change."""
        return [{**row, "change": float(c)} for row, c in zip(self.experiment.rows, self.change, strict=True)]

    def compare(self, data: Dataset | str) -> Comparison:
        """This beside published data, where both measured the same.

        Args:
            data: one of `DATASETS` or its name, or data of your own.
        Raises:
            ValueError: an unknown name, other axes, or no condition in common.
        """
        data = dataset(data) if isinstance(data, str) else data
        places = data.places(self.experiment.axes, self.experiment.rows)
        model = np.array([self.change[inside].mean() for _, inside in places])
        return Comparison(data, tuple(point for point, _ in places), model)

    def table(self) -> str:
        """The changes as text."""
        axes = self.experiment.axes
        rows = [
            [*(written(row[axis]) for axis in axes), f"{c:+.6f}", f"{100 * (1 + c):.1f} %"]
            for row, c in zip(self.experiment.rows, self.change, strict=True)
        ]
        return _grid([*_headed(axes), "change", "of before"], rows)

    def to_csv(self, path: Path | str) -> list[Path]:
        """Write one row per condition; recorded variables (SI units) go to a second file, NAME_traces.csv.

        Returns:
            the files.
        """
        axes, target = self.experiment.axes, Path(path)
        rows = [
            [*(row[axis] for axis in axes), float(c)]
            for row, c in zip(self.experiment.rows, self.change, strict=True)
        ]  # fmt: skip
        files = [_write(target, [*_headed(axes), "change"], rows)]
        if self.outcome.traces:
            names = list(self.outcome.traces)
            stacked = np.stack([self.outcome.traces[name] for name in names], axis=-1)
            _, conditions, replicates, _ = stacked.shape
            lines = (
                [*(row[axis] for axis in axes), r, float(t), *map(float, stacked[k, c, r])]
                for c, row in zip(range(conditions), self.experiment.rows, strict=True)
                for r in range(replicates)
                for k, t in enumerate(self.outcome.times)
            )
            head = [*_headed(axes), "replicate", "time (ms)", *names]
            files.append(_write(target.with_name(f"{target.stem}_traces.csv"), head, lines))
        return files

    def plot(
        self, path: Path | str | None = None, data: Dataset | Comparison | str | None = None, kind: str | None = None
    ) -> "Figure":
        """The figure that belongs to the protocol (`Protocol.plot`).

        Args:
            path: where to save it; its ending names the format. None: nowhere.
            data: published data to draw too.
            kind: another figure, a name in `plots.PLOTS`.
        Raises:
            ImportError: matplotlib is not installed.
            ValueError: an unknown kind, or data that do not fit.
        """
        from spikecredit.plasticity import plots

        name = kind or self.protocol.plot
        if name not in plots.PLOTS:
            raise ValueError(
                f"no figure {name!r}{nearest(name, list(plots.PLOTS))} (there are {', '.join(plots.PLOTS)})"
            )
        figure = plots.PLOTS[name](self, self.compare(data) if isinstance(data, Dataset | str) else data)
        if path is not None:
            plots.save(figure, path)
        return figure

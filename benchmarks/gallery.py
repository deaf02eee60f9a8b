"""The gallery of the plasticity laboratory: every rule in its experiment, with its figure.

    python -m benchmarks.gallery [--only NAME ...] [--png FOLDER]

Writes docs/generated/plasticity_NAME.svg and what was found to results/plasticity_gallery.json; then
`python -m benchmarks.tables` writes the tables. --png draws PNG too, to look at.
"""

import argparse
import json
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.common import RESULTS, write
from spikecredit.analysis import plots as style
from spikecredit.cli_plasticity import choose
from spikecredit.plasticity import CalciumRule, Comparison, Result, pieces
from spikecredit.training.run import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULT = "plasticity_gallery"
FIGURES = Path(__file__).parents[1] / "docs" / "generated"
LARGEST = 150_000
"""Bytes of an SVG; a larger figure becomes PNG."""


@dataclass(frozen=True)
class Run:
    """One command line of `spikecredit plasticity`.

    Args:
        rule: RULE or RULE/PRESET. protocol: its name. words: key=value.
        engine, replicates, seed, data, record, every: the options of the same names.
        start: initial values, SI; the command line has no option for them.
        shown: whether the gallery prints its command.
    """

    rule: str
    protocol: str
    words: tuple[str, ...] = ()
    engine: str = "reference"
    replicates: int = 1
    seed: int = 0
    data: str | None = None
    record: tuple[str, ...] = ()
    every: float | None = None
    start: tuple[tuple[str, float], ...] = ()
    shown: bool = True

    @property
    def command(self) -> str:
        """What a reader types."""
        options = {
            "--engine": self.engine if self.engine != "reference" else None,
            "--replicates": self.replicates if self.replicates > 1 else None,
            "--seed": self.seed or None,
            "--data": self.data,
            "--record": ",".join(self.record) or None,
            "--every": f"{self.every:g}" if self.every else None,
        }
        said = [f"{option} {value}" for option, value in options.items() if value is not None]
        return " ".join(["spikecredit plasticity", self.rule, self.protocol, *self.words, *said])

    def run(self) -> Result:
        """What the command runs, in Python."""
        rule, protocol = choose(self.rule, self.protocol, self.words)
        return protocol.run(
            rule, self.engine, replicates=self.replicates, seed=self.seed, start=dict(self.start),  # type: ignore[arg-type]
            record=self.record, every=self.every,
        )  # fmt: skip


@dataclass(frozen=True)
class Piecewise(Run):
    """A rule with calcium and noise, by `pieces.run`: fine steps only while calcium is above a threshold.

    Args:
        fine, coarse: ms.
    """

    fine: float = 0.25
    coarse: float = 500.0

    def run(self) -> Result:
        rule, protocol = choose(self.rule, self.protocol, self.words)
        assert isinstance(rule, CalciumRule)
        made = protocol.experiment()
        outcome = pieces.run(rule, made, self.fine, self.coarse, self.replicates, self.seed)
        return Result(rule, protocol, made, outcome, "reference, in pieces")


@dataclass(frozen=True)
class Fact:
    """A number that was found, beside the one that it should be.

    Args:
        what: in words, with unit. found: by simulation. expected: in closed form or published; None: neither.
        source: where the expected number is from.
    """

    what: str
    found: float
    expected: float | None = None
    source: str = "closed form"


@dataclass(frozen=True)
class Entry:
    """One experiment of the gallery.

    Args:
        name: of the figure. rule: its key in `RULES`. title: in words.
        runs: command lines; several are drawn in one figure.
        draw: the figure; by default the protocol's own of the first run.
        facts: what to say of the results.
        code: for experiments that no command line makes, the calls in Python that do.
    """

    name: str
    rule: str
    title: str
    runs: tuple[Run, ...] = ()
    draw: "Callable[[Sequence[Result]], Figure] | None" = None
    facts: Callable[[Sequence[Result]], Sequence[Fact]] = lambda results: ()
    code: str = ""

    def measure(self) -> tuple[dict[str, Any], "Figure"]:
        """Run it: what was found, as JSON takes it, and the figure."""
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            results = [run.run() for run in self.runs]
        facts = self.facts(results)
        seconds = time.perf_counter() - begun
        figure = self.draw(results) if self.draw else results[0].plot(data=self.runs[0].data)
        record: dict[str, Any] = {
            "seconds": seconds,
            "runs": [_recorded(run, result) for run, result in zip(self.runs, results, strict=True)],
            "facts": [vars(fact) for fact in facts],
            "warnings": list(dict.fromkeys(str(w.message) for w in said)),
        }
        return record, figure


def _recorded(run: Run, result: Result) -> dict[str, Any]:
    """Conditions, changes, and the distance to data."""
    found: dict[str, Any] = {"command": run.command, "rows": result.rows}
    if run.data:
        found["comparison"] = compared(result.compare(run.data))
    return found


def compared(comparison: Comparison) -> dict[str, Any]:
    """The distance to data, as JSON takes it."""
    barred = np.isfinite(comparison.sem)
    return {
        "data": comparison.data.name,
        "verified": comparison.data.verified,
        "points": int(barred.sum()),
        "without_sem": int((~barred).sum()),
        "within_2_sem": int((np.abs(comparison.distance[barred]) <= 2).sum()),
        "E": comparison.E if barred.any() else None,
    }


def save(figure: "Figure", name: str, folder: Path = FIGURES) -> Path:
    """Write a figure as SVG, or as PNG where that would be too large; the same figure gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    text = StringIO()
    with style._style():
        figure.savefig(text, format="svg", metadata={"Date": None})
        # matplotlib writes a millionth of a point; a hundredth is below any pixel
        short = re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", text.getvalue())
        if len(short) <= LARGEST:
            path = folder / f"plasticity_{name}.svg"
            path.write_text(short, encoding="utf-8")
        else:
            path = folder / f"plasticity_{name}.png"
            figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.gallery_entries import ENTRIES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], choices=[e.name for e in ENTRIES], metavar="NAME")
    parser.add_argument("--png", type=Path, default=None, metavar="FOLDER")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = RESULTS / f"{RESULT}.json"
    old: Mapping[str, Any] = json.loads(path.read_text())["entries"] if path.exists() else {}
    found: dict[str, Any] = {}
    commit = environment(torch.device("cpu"))["commit"]
    for entry in ENTRIES:
        if given.only and entry.name not in given.only:
            if entry.name in old:
                found[entry.name] = old[entry.name]
            continue
        record, figure = entry.measure()
        found[entry.name] = {"commit": commit, **record}
        print(f"{entry.name:<28} {record['seconds']:6.1f} s  {save(figure, entry.name).name}", flush=True)
        if given.png is not None:
            given.png.mkdir(parents=True, exist_ok=True)
            with style._style():
                figure.savefig(given.png / f"{entry.name}.png", dpi=70)
    write(RESULT, "python -m benchmarks.gallery", torch.device("cpu"), entries=found)


if __name__ == "__main__":
    main()

"""What plasticity in a hidden layer adds to a plastic readout: windows of brain regions, pathways, late errors.

    python -m benchmarks.plastic [--seeds 3] [--minutes M]

The digits inside the package, rate-coded over 50 steps of 1 ms, into 100 LIF neurons and a leaky readout; every change
of a weight is made by `Plastic` while the network runs, one epoch, 10 images at a time. The readout learns by
`DeltaRule`, the hidden layer by nothing or by `ErrorSTDP`. Where the error is late, silence follows the image until the
last error has come, and the trace of the readout's rule lasts as long as the error is late.

The rate of the hidden layer is chosen by the validation split with seed 0; the test split is read once for each seed,
at the end. Writes results/plastic.json row by row; call it again to go on. It stops after the row in which M minutes
are over.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikecredit as sc
from benchmarks.common import RESULTS, write
from spikecredit.analysis.report import interval
from spikecredit.data import ImageData, Split
from spikecredit.pathways import Pathway
from spikecredit.plasticity import DeltaRule, ErrorSTDP, Plastic
from spikecredit.training.run import environment

STEPS, BATCH, HIDDEN, READOUT = 50, 10, 100, 0.5
RATES = (0.001, 0.003)
"""Of the hidden layer, Hz, to choose from. 0.01 and more hurt in a first look."""

WINDOWS: dict[str, dict[str, float]] = {
    "causal pairs only": {"A_plus": 1.0, "A_minus": 0.0},
    "hippocampal culture": {"A_plus": 1.0, "A_minus": 0.273 / 0.777, "tau_plus": 16.8, "tau_minus": 33.7},
    "striatum, reversed": {"A_plus": -0.277 / 0.612, "A_minus": -1.0, "tau_plus": 40.0, "tau_minus": 30.0},
    "GABAergic, symmetric": {"A_plus": 1.0, "A_minus": -1.0, "tau_plus": 30.0, "tau_minus": 30.0},
}
"""Amplitudes in units of the largest. Culture: `PairSTDP` bi_poo. Striatum: the means of `DATASETS["fino2010"]`, the
widths of its boxes as time constants. GABAergic: the time constant of `InhibitorySTDP` gabaergic_sfc."""

PATHWAYS: dict[str, Pathway] = {
    "feedback alignment": sc.FeedbackAlignment(), "sign symmetry": sc.SignSymmetry(), "backprop": sc.Backprop(),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One row: the hidden layer's window (None: it does not learn), how errors come, how late, ms, and tau_c, ms."""

    window: str | None = "causal pairs only"
    pathway: str = "feedback alignment"
    late: int = 0
    tau_c: float = 50.0

    @property
    def name(self) -> str:
        if self.window is None:
            return f"readout alone, {self.late} ms"
        return f"{self.window}, {self.pathway}, {self.late} ms, tau_c {self.tau_c:g} ms"


CASES = (
    Case(None),
    *(Case(pathway=pathway) for pathway in PATHWAYS),
    *(Case(window) for window in list(WINDOWS)[1:]),
    Case(tau_c=200.0),
    Case(None, late=20), *(Case(late=20, tau_c=tau) for tau in (50.0, 200.0)),
    Case(None, late=100), *(Case(late=100, tau_c=tau) for tau in (200.0, 50.0)),
)  # fmt: skip


def encoded(split: Split, which: Tensor, generator: torch.Generator) -> Tensor:
    """Spikes of these images, (STEPS, B, 64)."""
    return sc.encode.rate(split.images[which].flatten(1).float() / 16, STEPS, generator=generator)


def trained(case: Case, data: ImageData, seed: int, rate: float | None) -> sc.Network:
    """The network after one epoch."""
    torch.manual_seed(seed)  # of the first weights: the network's own seed is that of its feedback
    net = sc.Network(
        sc.Linear(64, HIDDEN), sc.LIF(), sc.Linear(HIDDEN, 10), sc.LeakyReadout(), pathway=PATHWAYS[case.pathway],
        seed=seed,
    )  # fmt: skip
    rules: dict[str, Any] = {"layers.2": DeltaRule(tau_x=max(20.0, case.late), eta=READOUT)}
    if case.window is not None and rate is not None:
        rules["layers.0"] = ErrorSTDP(**WINDOWS[case.window], tau_c=case.tau_c, eta=rate)
    plastic = Plastic(net, rules, signed=True, delay=float(case.late))
    generator = torch.Generator().manual_seed(seed)
    for which in torch.randperm(len(data.train.labels), generator=generator).split(BATCH):
        x = encoded(data.train, which, generator)
        plastic(torch.cat([x, x.new_zeros(case.late, *x.shape[1:])]), data.train.labels[which])
    return net


def accuracy(net: sc.Network, split: Split, seed: int) -> float:
    """The share of images whose label has the largest mean output."""
    x = encoded(split, torch.arange(len(split.labels)), torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        return float((net(x).mean(0).argmax(-1) == split.labels).float().mean())


def row(case: Case, data: ImageData, seeds: int) -> dict[str, Any]:
    """Choose the rate with seed 0, then train the other seeds with it."""
    start = time.monotonic()
    rates = (None,) if case.window is None else RATES
    first = {rate: trained(case, data, 0, rate) for rate in rates}
    validation = {rate: accuracy(net, data.validation, 0) for rate, net in first.items()}
    best = max(rates, key=lambda rate: validation[rate])
    nets = [first[best], *(trained(case, data, seed, best) for seed in range(1, seeds))]
    return {
        "rate": best,
        "validation": {str(rate): value for rate, value in validation.items()},
        "test": [accuracy(net, data.test, seed) for seed, net in enumerate(nets)],
        "seconds": time.monotonic() - start,
        "environment": environment(torch.device("cpu")),
    }


# ---- what is shown ---------------------------------------------------------------------------------------------------


def gains(record: dict[str, Any], case: Case) -> list[float] | None:
    """Test accuracy beyond that of the readout alone, seed by seed, in points."""
    base = record["rows"].get(Case(None, late=case.late).name)
    if base is None or case.window is None:
        return None
    return [100 * (a - b) for a, b in zip(record["rows"][case.name]["test"], base["test"], strict=True)]


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each row, with 95 % intervals over seeds."""
    lines = []
    for case in CASES:
        found = record["rows"].get(case.name)
        if found is None:
            continue
        plus = gains(record, case)
        lines.append(
            [
                case.window or "none", "–" if case.window is None else case.pathway, f"{case.late} ms",
                "–" if case.window is None else f"{case.tau_c:g} ms",
                "–" if found["rate"] is None else f"{found['rate']:g}",
                _mean([100 * a for a in found["test"]]), "–" if plus is None else _mean(plus, "+"),
            ]
        )  # fmt: skip
    return [
        "window of the hidden layer", "errors by", "errors late", "tau_c", "rate (Hz)", "test accuracy (%)",
        "beyond the readout alone (points)",
    ], lines  # fmt: skip


def _mean(values: list[float], sign: str = "") -> str:
    found = interval(values)
    half = (found.high - found.low) / 2
    return f"{found.mean:{sign}.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}")


def plot(record: dict[str, Any], path: Path) -> None:
    """Points beyond the readout alone: a dot for each seed, a bar at the mean."""
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    shown = [(case, plus) for case in CASES if case.name in record["rows"] and (plus := gains(record, case))]
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 0.6 + 0.34 * len(shown)), layout="constrained")
        ax = figure.subplots()
        late = sorted({case.late for case in CASES})
        for y, (case, plus) in enumerate(shown):
            colour = plots.CONDITIONS[late.index(case.late)]
            ax.plot(plus, [y] * len(plus), "o", color=colour, markersize=5, alpha=0.6)
            ax.plot([statistics.mean(plus)] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2.5)
        names = [f"{c.window}, {c.pathway}; {c.late} ms late, τc {c.tau_c:g} ms" for c, _ in shown]
        ax.set_yticks(range(len(shown)), names)
        ax.invert_yaxis()
        ax.axvline(0, color=plots.FAINT, linestyle=":", linewidth=1.2)
        ax.set(xlabel="test accuracy beyond the plastic readout alone (points)")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # one small product after another: threads would wait for each other
    end, data = time.monotonic() + 60 * given.minutes, sc.data.Digits().load()
    file = RESULTS / "plastic.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    found = old["rows"] if old.get("seeds") == given.seeds else {}
    for case in CASES:
        if case.name in found:
            continue
        found[case.name] = row(case, data, given.seeds)
        write("plastic", "python -m benchmarks.plastic", torch.device("cpu"), seeds=given.seeds, rows=found)
        print(case.name, found[case.name]["test"], f"{found[case.name]['seconds']:.0f} s", sep="   ", flush=True)
        if time.monotonic() > end:
            return


if __name__ == "__main__":
    main()

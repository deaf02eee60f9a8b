"""Angles of each pathway's error to backprop's over training, layer by layer: the figure of Lillicrap et al. 2016 and
Xiao et al. 2019, from a spiking network.

    python -m benchmarks.angles [--seeds 5]

The demo's data, three hidden layers of LIF neurons, AdamW with one weight decay for all; the error on one probe batch
of the training split at steps spaced evenly on a log scale. Writes results/angles.json row by row; call it again to go
on.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, write
from spikecredit.analysis import alignment
from spikecredit.cli import CONFIGS
from spikecredit.data import ImageData
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import environment

BASE = (
    "network={kind: mlp, hidden: [128, 128, 128], initialisation: lecun}",
    "training.epochs=40",
    "training.measure=0",
    "training.optimizer={kind: adamw, lr: 0.002, weight_decay: 2}",
)
"""One decay for all: Kolen-Pollack needs one, and a start that fades lets the forward weights turn to a random B."""

PATHWAYS = {
    "feedback alignment": "feedback_alignment",
    "direct feedback alignment": "direct_feedback_alignment",
    "sign symmetry, uniform": "sign_symmetry",
    "sign symmetry, fixed": "{kind: sign_symmetry, magnitude: fixed}",
    "Kolen-Pollack": "kolen_pollack",
    "weight mirror": "weight_mirror",
}

PROBE = 256
POINTS = 24


def measured_at(steps: int) -> list[int]:
    """0 and whole numbers up to `steps`, evenly spaced in log."""
    return sorted({0, *(round(math.exp(math.log(steps) * i / (POINTS - 1))) for i in range(POINTS))})


def row(data: ImageData, pathway: str, seeds: int) -> dict[str, Any]:
    """Degrees between the delivered and the true error: [seed][hidden layer][point], and validation accuracies."""
    angles, accuracy = [], []
    for seed in range(seeds):
        words = (*BASE, f"pathway={pathway}", f"seed={seed}")
        trainer = Trainer(load_experiment(CONFIGS / "demo.yaml", words).value, data, log=lambda line: None)
        x, y = trainer.encode(data.train.images[:PROBE], "probe"), data.train.labels[:PROBE]
        wanted = measured_at(trainer.experiment.training.epochs * len(trainer.batches))
        found: list[list[float]] = []

        def look(trainer: Trainer = trainer, x: Any = x, y: Any = y, found: list[list[float]] = found) -> None:
            layers = alignment(trainer.net, x, y, trainer.experiment.loss)
            found.append([layer.error_angle for layer in layers.values()][:-1])

        look()
        for epoch in range(trainer.experiment.training.epochs):
            for images, labels, _ in trainer.batches.epoch(epoch):
                trainer.train_batch(images, labels)
                if trainer.step in wanted:
                    look()
        angles.append([list(layer) for layer in zip(*found, strict=True)])
        accuracy.append(trainer.evaluate(data.validation, "validation")[1])
    return {"steps": wanted, "angles": angles, "validation": accuracy, "environment": environment(torch.device("cpu"))}


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Mean angle in each hidden layer at the start and the end; the largest of any seed; accuracy."""
    rows = []
    for name, found in record["rows"].items():
        layers = list(zip(*found["angles"], strict=True))  # [layer][seed][point]
        start, end = (" / ".join(f"{statistics.mean(s[i] for s in layer):.0f}" for layer in layers) for i in (0, -1))
        worst = " / ".join(f"{max(s[-1] for s in layer):.0f}" for layer in layers)
        rows.append([name, start, end, worst, f"{100 * statistics.mean(found['validation']):.1f} %"])
    return ["pathway", "angle before (°)", "after (°)", "after, worst seed (°)", "validation accuracy"], rows


def plot(record: dict[str, Any], path: Path) -> None:
    """A panel for each hidden layer, from the input; lines are means over seeds, bands reach from least to largest."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        rows = record["rows"]
        count = len(next(iter(rows.values()))["angles"][0])
        figure = Figure(figsize=(plots.WIDE, 3.8), layout="constrained")
        panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
        for index, ax in enumerate(panels):
            ax.axhline(90, color="0.6", linewidth=0.8, linestyle=":")
            for (name, found), colour, marker in zip(rows.items(), plots.CONDITIONS, plots.MARKERS, strict=False):
                seeds = [seed[index] for seed in found["angles"]]
                x = found["steps"]
                low, middle, high = (
                    [f(point) for point in zip(*seeds, strict=True)] for f in (min, statistics.mean, max)
                )
                ax.plot(x, middle, marker, color=colour, linestyle="-", markersize=3.5, label=name)
                ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.set(xlabel="training step", title=f"hidden layer {index + 1}", ylim=(0, 105), yticks=range(0, 91, 30))
            ax.set_xscale("symlog", linthresh=1)
            ax.set_xticks([0, 1, 10, 100, 1000])
            ax.set_xlim(-0.3, 1.3 * x[-1])
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0].set_ylabel("angle to backprop's error (°)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)  # batches of 32: threads would wait for each other
    file = RESULTS / "angles.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    rows = old["rows"] if old.get("seeds") == seeds else {}
    data = load_experiment(CONFIGS / "demo.yaml", BASE).value.data.load()
    for name, pathway in PATHWAYS.items():
        if name not in rows:
            rows[name] = row(data, pathway, seeds)
            rows = {known: rows[known] for known in PATHWAYS if known in rows}
            write("angles", "python -m benchmarks.angles", torch.device("cpu"), seeds=seeds, rows=rows)
        print(*table({"rows": {name: rows[name]}})[1][0], sep="   ", flush=True)


if __name__ == "__main__":
    main()

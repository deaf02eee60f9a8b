"""A recurrent network of excitatory and inhibitory neurons under Dale's law, on MNIST row by row.

    python -m benchmarks.ei [--data ../shared/data] [--folder runs/ei] [--seeds 3]

Trains the configuration below on all 60,000 images (resumable), reads the test set once, after the last epoch, and
measures signs, spectrum, and excitation against inhibition before and after. Writes results/ei.json.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import train
from benchmarks.common import RESULTS, write
from spikecredit.analysis import balance, currents, sign_audit, spectrum
from spikecredit.cli import CONFIGS
from spikecredit.training import checkpoint
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import Run

CONFIG = "mnist_rows_ei_backprop"
LAYER = "layers.1"
"""The recurrent population."""

PROBE = 200
"""Test images on which currents are measured; their labels are not used."""


def measured(trainer: Trainer) -> dict[str, Any]:
    """What the network is like: balance of the population, spectrum of its recurrent synapses, signs."""
    trainer.net.eval()
    x = trainer.encode(trainer.data.test.images[:PROBE], "test", 0)
    recurrent = spectrum(trainer.net)[f"{LAYER}.recurrent"]
    signs = sign_audit(trainer.net).values()
    each = currents(trainer.net, x)[LAYER]
    return {
        "balance": asdict(balance(trainer.net, x)[LAYER]),
        "entropy": recurrent.entropy,
        "largest": recurrent.largest,
        "violations": sum(layer.violations for layer in signs),
        "weights": sum(layer.weights for layer in signs if layer.audited),
        # Over time: means over units and images, and the first image at the unit with the largest excitation there.
        "mean": {name: getattr(each, name).mean((1, 2)).tolist() for name in ("excitation", "inhibition")},
        "unit": {
            name: getattr(each, name)[:, 0, int(each.excitation[:, 0].sum(0).argmax())].tolist()
            for name in ("excitation", "inhibition")
        },
    }


def row(data: Path, folder: Path, seed: int) -> dict[str, Any]:
    """One seed, from wherever it stands."""
    path = str(data / "mnist")
    result = train(CONFIG, path, seed, folder, torch.device("cpu"))
    loaded = load_experiment(
        CONFIGS / f"{CONFIG}.yaml", (f"data.path={path}", "data.validation=0", f"seed={seed}")
    ).value
    trainer = Trainer(loaded, loaded.data.load())
    before = measured(trainer)
    saved = checkpoint.latest(Run(folder / f"{CONFIG}-seed{seed}").checkpoints, "last")
    trainer.net.load_state_dict(saved.tensors["model"])
    return {**result, "before": before, "after": measured(trainer)}


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each seed."""
    rows = []
    for found in record["rows"]:
        before, after = found["before"], found["after"]
        index, follows = (
            " to ".join(f"{each['balance'][key]:.2f}" for each in (before, after)) for key in ("index", "correlation")
        )
        rows.append(
            [
                str(found["seed"]), f"{100 * found['test_accuracy']:.2f} %",
                f"{after['violations']} of {after['weights']}", index, follows,
                f"{before['entropy']:.2f} to {after['entropy']:.2f}",
                f"{found['spikes_per_neuron']:.1f}", f"{found['seconds'] / 60:.0f}",
            ]
        )  # fmt: skip
    header = [
        "seed", "test accuracy", "violations of Dale's law", "(E - I) / (E + I), before to after training",
        "correlation of E and I", "entropy of the recurrent spectrum", "spikes per neuron and image", "minutes",
    ]  # fmt: skip
    return header, rows


def plot(record: dict[str, Any], path: Path) -> None:
    """Excitation, inhibition and their difference over the rows of an image, before and after training."""
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 3.8), layout="constrained")
        panels = figure.subplots(1, 3)
        found = record["rows"][0]
        shown = (
            ("mean", "before", "all neurons, before training"), ("mean", "after", "all neurons, after"),
            ("unit", "after", "one neuron, one image, after"),
        )  # fmt: skip
        for ax, (what, when, title) in zip(panels, shown, strict=True):
            traces = found[when][what]
            e, i = torch.tensor(traces["excitation"]), torch.tensor(traces["inhibition"])
            ax.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
            for y, label, colour in (
                (e, "excitation", plots.CONDITIONS[0]), (-i, "inhibition", plots.CONDITIONS[1]), (e - i, "sum", "0.25"),
            ):  # fmt: skip
                ax.plot(range(1, len(y) + 1), y, color=colour, label=label)
            ax.set(xlabel="time step (row of the image)", title=title)
        panels[0].set_ylabel("current (thresholds)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/ei"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)  # one small product after another: threads would wait for each other
    file = RESULTS / "ei.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for seed in range(given.seeds):
        if seed not in [found["seed"] for found in rows]:
            rows.append(row(given.data, given.folder, seed))
            write("ei", "python -m benchmarks.ei", torch.device("cpu"), rows=rows)
    accuracies = [100 * found["test_accuracy"] for found in rows]
    print(f"{statistics.mean(accuracies):.2f} % over {len(rows)} seeds, from {min(accuracies):.2f} %")


if __name__ == "__main__":
    main()

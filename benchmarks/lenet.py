"""Every pathway on MNIST and Fashion-MNIST, a LeNet of LIF neurons, five epochs on all 60,000 training images.

    python -m benchmarks.lenet [mnist fashion_mnist] [--data ../shared/data] [--folder runs] [--jobs 2] [--collect]

Calls `spikecredit compare` (resumable: call it again to go on) and copies what is finished to results/lenet-DATA.json.
The rows of BioTorch's table have three seeds, the others one. Settings of backprop's configuration were chosen
on the 5,000 images that it holds out (`data.validation`), which are given back here; a row's test images are read once,
after its last epoch. --collect trains nothing.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from spikecredit.cli import main as spikecredit

DATA = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
PUBLISHED = {
    "BP": "backprop", "FA": "feedback_alignment", "DFA": "direct_feedback_alignment", "uSF": "sign_symmetry",
    "frSF": "sign_symmetry_fixed", "brSF": "sign_symmetry_batch",
}  # fmt: skip
"""Rows with three seeds, and their rows in published.json."""

# Kolen-Pollack meets W only under a decay. On the validation split (two epochs, 10,000 training images, one seed)
# decays of 0.3 and 1 and plain Adam were alike for KP, plain Adam not worse: 1 was taken for the law, not for accuracy.
DECAY = "training.optimizer={kind: adamw, lr: 0.002, weight_decay: 1}"
ONCE: dict[str, tuple[str, ...]] = {
    "uSF-SN": (), "KP": (DECAY,), "WM": (), "DKP": (DECAY,), "sDFA": (), "DRTP": (), "IA": (), "SA": (), "AA": (),
    "antiparallel": (DECAY,),
}  # fmt: skip
"""Rows with one seed, and the settings that they need."""


PAGES = {
    "feedback_alignment": ("FA",),
    "sign_symmetry": ("uSF", "frSF", "brSF", "uSF-SN"),
    "direct_feedback_alignment": ("DFA", "sDFA", "DRTP", "DKP"),
    "kolen_pollack": ("KP",),
    "weight_mirror": ("WM",),
    "information_alignment": ("IA", "SA", "AA"),
    "antiparallel": ("antiparallel",),
}
"""The rows that the page of each pathway shows."""


def words(data: str, path: Path, folder: Path, jobs: int) -> list[str]:
    """The command line of one data set."""
    own = [f"--set={name}:{setting}" for name in ONCE for setting in ("seeds=1", *ONCE[name])]
    return [
        "compare", f"{data}_lenet_backprop", "--pathway", ",".join((*PUBLISHED, *ONCE)), "--seeds", "3", *own,
        "--jobs", str(jobs), f"data.path={path / data}", "data.validation=0", "--run", str(folder / f"lenet-{data}"),
    ]  # fmt: skip


def table(
    found: dict[str, Any], published: dict[str, Any], column: int, names: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Test errors of the finished rows, or of those named, beside the published ones."""
    rows = []
    for row in found["conditions"]:
        accuracy, difference, name = row["test_accuracy"], row["difference"], row["condition"]
        if not row["finished"] or (names and name not in names):
            continue
        theirs = published[PUBLISHED[name]][column] if name in PUBLISHED else None
        rows.append(
            [
                name,
                str(row["finished"]),
                f"{100 * (1 - accuracy['mean']):.2f}{_half(accuracy)}",
                "–" if theirs is None else f"{theirs:g}",
                "–" if difference is None else f"{-100 * difference['mean']:+.2f}{_half(difference)}",
                _layers(row["error_angle"], "{:.0f}"),
                _layers(row["sign_agreement"], "{:.0%}"),
                f"{row['spikes_per_neuron']:.2f}",
                f"{row['seconds'] / 60:.1f}",
            ]
        )
    header = [
        "pathway", "seeds", "test error (%)", "published, not spiking (%)", "more than BP (points)",
        "angle to true error (°)", "signs that agree", "spikes per neuron", "minutes",
    ]  # fmt: skip
    return header, rows


def _half(value: dict[str, Any]) -> str:
    """± half of the 95 % interval, where there are seeds enough."""
    return "" if value["low"] is None else f" ± {50 * (value['high'] - value['low']):.2f}"


def _layers(values: dict[str, float | None], form: str) -> str:
    """None: direct feedback has no matrix between two layers, and an error of rounding only has no angle."""
    return " / ".join("–" if value is None else form.format(value) for value in values.values()) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", default=list(DATA))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--collect", action="store_true")
    given = parser.parse_args()
    for data in given.only:
        if not given.collect:
            spikecredit(words(data, given.data, given.folder, given.jobs), standalone_mode=False)
        results = given.folder / f"lenet-{data}" / "results.json"
        if results.exists():
            shutil.copy(results, RESULTS / f"lenet-{data}.json")
            print(f"{data}: {sum(row['finished'] for row in json.loads(results.read_text())['conditions'])} cells")


if __name__ == "__main__":
    main()

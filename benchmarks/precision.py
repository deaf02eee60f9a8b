"""Does bf16 cost accuracy? MNIST in float32 and in bf16, the same seeds, on 5,000 images held out of the training set.

    python -m benchmarks.precision [--data ../shared/data] [--seeds 0 1 2] [--epochs 3] [--folder runs/precision]

Each run is resumable: call the same command again. The test set is not read. Writes results/precision.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, write
from spikecredit.cli import CONFIGS
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import Run, environment

CONFIG = "mnist_lenet_sign_symmetry"
PRECISIONS = ("float32", "bf16")


def train(precision: str, seed: int, epochs: int, path: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """One run to its end, from wherever it stands; accuracies on the validation split."""
    overrides = (
        f"data.path={path}", f"seed={seed}", f"training.precision={precision}", f"training.epochs={epochs}",
    )  # fmt: skip
    loaded = load_experiment(CONFIGS / f"{CONFIG}.yaml", overrides)
    run = Run(folder / f"{precision}-seed{seed}")
    fresh = not run.config.exists()
    if fresh:
        run.start(loaded.resolved)
    run.record_environment(environment(device))
    trainer = Trainer(loaded.value, loaded.value.data.load().to(device), run)
    if not fresh:
        trainer.restore()
    trainer.train()
    last = [line for line in run.metrics() if line["event"] == "epoch"]
    return {
        "config": CONFIG,
        "precision": precision,
        "seed": seed,
        "epochs": epochs,
        "validation_accuracy": last[-1]["validation_accuracy"],
        "seconds": sum(line["seconds"] for line in last),
        "environment": run.environments()[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    for seed in given.seeds:
        for precision in PRECISIONS:
            row = train(precision, seed, given.epochs, f"{given.data}/mnist", given.folder, device)
            print(f"{precision}, seed {seed}: validation accuracy {row['validation_accuracy']:.2%}", flush=True)
            file = RESULTS / "precision.json"
            known = json.loads(file.read_text())["rows"] if file.exists() else []
            others = [r for r in known if (r["precision"], r["seed"]) != (precision, seed)]
            rows = sorted([*others, row], key=lambda r: (PRECISIONS.index(r["precision"]), r["seed"]))
            write("precision", "python -m benchmarks.precision", device, rows=rows)


if __name__ == "__main__":
    main()

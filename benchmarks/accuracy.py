"""Train the shipped MNIST and Fashion-MNIST configurations on all 60,000 training images and read the test set once.

    python -m benchmarks.accuracy [--data ../shared/data] [--only mnist_lenet_backprop] [--seed 0] [--folder
    runs/accuracy]

Each run is resumable: call the same command again. Hyper-parameters were chosen on 5,000 images held out of the
training set (`data.validation=5000`, the default of the configurations); here those images are given back. Writes
results/accuracy.json.
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

DATA = ("mnist", "fashion_mnist")
PATHWAYS = ("backprop", "sign_symmetry", "feedback_alignment", "sign_symmetry_dale")


def train(
    name: str, path: str, seed: int, folder: Path, device: torch.device, epochs: int | None = None,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """One run to its end, from wherever it stands; for the configuration's epochs, or for others, with more overrides
    if need be."""
    overrides = (f"data.path={path}", "data.validation=0", f"seed={seed}", *more)
    overrides += () if epochs is None else (f"training.epochs={epochs}",)
    loaded = load_experiment(CONFIGS / f"{name}.yaml", overrides)
    run = Run(folder / f"{name}-seed{seed}")
    if run.result() is None:
        fresh = not run.config.exists()
        if fresh:
            run.start(loaded.resolved)
        run.record_environment(environment(device))
        data = loaded.value.data.load().to(device)
        trainer = Trainer(loaded.value, data, run)
        if not fresh:
            trainer.restore()
        trainer.fit()
    result = run.result()
    assert result is not None
    last = [line for line in run.metrics() if line["event"] == "epoch"][-1]
    return {
        "config": name,
        "seed": seed,
        **{
            k: result[k] for k in ("test_accuracy", "test_loss", "epochs", "seconds", "spikes_per_neuron", "violations")
        },
        "error_angles": {layer: value["error_angle"] for layer, value in last["layers"].items()},
        "environment": run.environments()[-1],
    }


def known() -> list[dict[str, Any]]:
    """The rows measured so far, by this process and others beside it."""
    file = RESULTS / "accuracy.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    order = [f"{data}_lenet_{pathway}" for data in DATA for pathway in PATHWAYS]
    names = arguments.only or order
    for name in names:
        print(f"{name}, seed {arguments.seed}", flush=True)
        path = f"{arguments.data}/{name.split('_lenet')[0]}"
        row = train(name, path, arguments.seed, arguments.folder, device)
        print(f"{name}: test accuracy {row['test_accuracy']:.2%}", flush=True)
        others = [r for r in known() if (r["config"], r["seed"]) != (name, arguments.seed)]
        rows = sorted([*others, row], key=lambda r: (order.index(r["config"]), r["seed"]))
        write("accuracy", "python -m benchmarks.accuracy", device, rows=rows)


if __name__ == "__main__":
    main()

"""Train MNIST networks under sign symmetry and Dale's law, and run them in Brian2 on test images: is every spike equal?

    python -m benchmarks.circuits [--data ../shared/data] [--samples 100] [--folder runs/circuits]

One epoch each, on all 60,000 images. Trained runs are kept: call the same command again. Writes results/circuits.json.
"""

import argparse
import json
from pathlib import Path

import torch
from click.testing import CliRunner

from benchmarks.accuracy import train
from benchmarks.common import write
from spikecredit.cli import main as spikecredit

CONFIG = "mnist_lenet_sign_symmetry_dale"
NETWORKS = {
    "LeNet, pixels as currents": ("network.pool=average",),
    "dense, pixels as spikes": (
        "network={kind: mlp, hidden: [400]}",
        "neuron={kind: lif, tau: 5.0}",
        "encoder={kind: rate, steps: 25}",
        "normalise=false",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/circuits"))
    given = parser.parse_args()
    rows = []
    for name, more in NETWORKS.items():
        folder = given.folder / name.split(",")[0].lower()
        more = ("training.precision=float32", *more)
        trained = train(CONFIG, f"{given.data}/mnist", 0, folder, torch.device("cpu"), 1, more)
        run = folder / f"{CONFIG}-seed0"
        words = ["simulate", str(run), "--samples", str(given.samples), "--checkpoint", "last"]
        done = CliRunner().invoke(spikecredit, words, catch_exceptions=False)
        print(f"{name}: test accuracy {trained['test_accuracy']:.2%}\n{done.output}", flush=True)
        found = json.loads((run / "brian2" / "simulation.json").read_text())
        whole = {"test_accuracy": trained["test_accuracy"], "violations": trained["violations"]}
        rows.append({"network": name, **whole, "exit": done.exit_code, **found})
    print(write("circuits", "python -m benchmarks.circuits", torch.device("cpu"), rows=rows))


if __name__ == "__main__":
    main()

"""Run the demo and keep its table.

    python -m benchmarks.demo

Writes results/demo.json.
"""

import json
import shutil
from pathlib import Path

import torch
from click.testing import CliRunner

from benchmarks.common import write
from spikecredit.cli import main as spikecredit


def main() -> None:
    folder = Path("runs/benchmark-demo")
    shutil.rmtree(folder, ignore_errors=True)
    done = CliRunner().invoke(spikecredit, ["demo", "--run", str(folder)], catch_exceptions=False)
    print(done.output)
    summary = json.loads((folder / "results.json").read_text())
    summary.pop("environment")
    print(write("demo", "spikecredit demo", torch.device("cpu"), **summary))


if __name__ == "__main__":
    main()

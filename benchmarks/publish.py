"""Keep a trained network: weights, configuration and a card with the measured numbers.

    python -m benchmarks.publish RUN NAME

Writes models/NAME: a run folder with the selected weights only, which `spikecredit evaluate models/NAME` reads. The
data's place on this machine is replaced by that of the shipped configuration.
"""

import argparse
import json
import shutil
from pathlib import Path

import yaml

from benchmarks.common import origin
from benchmarks.tables import ROOT
from spikecredit.cli import CONFIGS
from spikecredit.training import checkpoint
from spikecredit.training.experiment import load_experiment
from spikecredit.training.run import METRICS, Run, config_hash


def publish(source: Run, name: str, folder: Path) -> None:
    """One run to one model folder."""
    shipped = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    resolved = load_experiment(source.config, (f"data.path={shipped['data']['path']}",)).resolved
    selected = checkpoint.latest(source.checkpoints, "best")
    result, environment = source.result(), source.environments()[-1]
    assert result is not None, f"{source.folder} is not finished"
    shutil.rmtree(folder, ignore_errors=True)
    model = Run(folder)
    model.start(resolved)
    model.record_environment(environment)
    weights = {"model": selected.tensors["model"]}
    checkpoint.save(model.checkpoints, "best", selected.step, weights, {}, config_hash=config_hash(resolved))
    shutil.copy(source.folder / METRICS, folder / METRICS)
    (folder / "README.md").write_text(
        f"# {name}\n\n{(CONFIGS / f'{name}.yaml').read_text().splitlines()[0].lstrip('# ')}\n\n"
        f"Test accuracy {result['test_accuracy']:.2%} (one run, seed {resolved['seed']}, {result['epochs']} epochs on "
        "all 60,000 training images; read after the last epoch; docs/reproduce.md has the history), "
        f"{result['spikes_per_neuron']:.2f} spikes per neuron and image, {result['violations']} constraint "
        "violations.\n\n"
        f"{origin('python -m benchmarks.accuracy', environment)}\n\n"
        f"```console\n$ spikecredit evaluate models/{name} data.path=FOLDER_OR_HUB_NAME\n```\n"
    )
    print(json.dumps({"model": str(folder), "test_accuracy": result["test_accuracy"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    publish(Run.open(arguments.run), arguments.name, ROOT / "models" / arguments.name)


if __name__ == "__main__":
    main()

"""The shipped models load in this version, and give the accuracy that their page states."""

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from spikecredit.cli import main
from spikecredit.data import ImageData, Split
from spikecredit.training import checkpoint
from spikecredit.training.experiment import load_experiment
from spikecredit.training.run import Run

MODELS = sorted(path for path in (Path(__file__).resolve().parents[2] / "models").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_shipped_model_loads(folder: Path) -> None:
    run = Run.open(folder)
    saved = checkpoint.latest(run.checkpoints, "best")
    assert saved.config_hash == run.config_hash
    experiment = load_experiment(run.config).value
    some = Split(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    net = experiment.build(ImageData("none", some, some, some, 10, (0.5,), (0.25,)))
    net.materialise(torch.zeros(1, 1, 1, 28, 28))
    net.load_state_dict(saved.tensors["model"])
    assert net.violations() == 0


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_shipped_model_is_as_good_as_its_page_says(folder: Path, shared: Path) -> None:
    data = shared / ("fashion_mnist" if folder.name.startswith("fashion") else "mnist")
    told = CliRunner().invoke(main, ["evaluate", str(folder), f"data.path={data}", "--device", "cpu"])
    assert told.exit_code == 0, told.output
    texts = ((folder / "README.md").read_text(), told.output)
    stated, found = (float(re.search(r"accuracy (\d+\.\d+)%", text).group(1)) for text in texts)
    assert found == pytest.approx(stated, abs=0.021)  # another processor's rounding may flip an image or two
    assert "0 constraint violations" in told.output


def test_there_are_models() -> None:
    assert len(MODELS) >= 2

"""Every shipped configuration loads, builds its network for its data's shape, and has a finite gradient."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import spikecredit
from spikecredit.constraints import Unconstrained
from spikecredit.data import Digits, ImageData, Images, Split
from spikecredit.rules import RULES
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer

CONFIGS = sorted((Path(spikecredit.__file__).parent / "configs").glob("*.yaml"))
SHAPES = {"ylecun/mnist": (1, 28, 28), "zalando-datasets/fashion_mnist": (1, 28, 28), "uoft-cs/cifar10": (3, 32, 32)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two images: threads would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stand_in(source: object) -> ImageData:
    """Two random images of the shape that the source has; the digits themselves."""
    if isinstance(source, Digits):
        return source.load()
    assert isinstance(source, Images)
    channels, height, width = SHAPES[source.path]
    images = torch.randint(256, (2, channels, height, width), dtype=torch.uint8, generator=torch.manual_seed(0))
    few = Split(images, torch.tensor([3, 7]))
    return ImageData(source.path, few, few, few, 10, (0.5,) * channels, (0.25,) * channels)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_runs(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    assert first.startswith("# ") and len(first) > 20  # what `spikecredit list configs` shows
    experiment = load_experiment(path).value
    trainer = Trainer(experiment, stand_in(experiment.data))
    assert sum(p.numel() for p in trainer.net.parameters()) > 1000
    images, labels = (part[:2] for part in (trainer.data.train.images, trainer.data.train.labels))
    for index, augment in enumerate(experiment.augment):
        assert augment(images, torch.manual_seed(index)).shape == images.shape
    x = trainer.encode(images, "train", 0)
    assert experiment.rule.predict(trainer.net, x, trainer.forward).shape == (len(x), 2, 10)
    loss, out = experiment.rule.gradients(trainer.net, x, labels, experiment.loss, trainer.forward)
    assert out.shape == (len(x), 2, 10) and loss.isfinite()
    for name, p in trainer.net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    weights = {name: p for name, p in trainer.net.named_parameters() if p.ndim > 1}
    assert all(p.grad.any() for p in weights.values()), [name for name, p in weights.items() if not p.grad.any()]
    assert trainer.net.violations() == 0
    if "dale" in path.stem:
        assert not isinstance(experiment.constraint, Unconstrained)
    # Named by the rule, or by the pathway where the rule is backpropagation through time.
    rule = next(kind for kind, rule in RULES.items() if type(experiment.rule) is rule)
    name = type(experiment.pathway).__name__.lower() if rule == "bptt" else rule
    assert path.stem == "demo" or name in path.stem.replace("_", "")


def test_there_are_configurations() -> None:
    assert "demo" in [path.stem for path in CONFIGS] and len(CONFIGS) > 10

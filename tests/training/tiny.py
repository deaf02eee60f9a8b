"""Small experiments on slices of the embedded digits, for the tests of this folder and of the command line."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from spikecredit.data import Digits, ImageData, Split
from spikecredit.data.images import channel_statistics
from spikecredit.training.experiment import REGISTRIES, Experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import Run
from spikecredit.training.schema import Loaded, load

BASE = """
network: {kind: mlp, hidden: [12]}
neuron: {kind: lif, tau: 5.0}
readout: {kind: leaky_readout, tau: 5.0}
encoder: {kind: constant, steps: 4}
training: {epochs: 2, batch_size: 8, measure: 8, optimizer: {kind: adam, lr: 0.02}}
"""

TIMES = ("seconds", "samples_per_second")


@cache
def data(train: int = 28, validation: int = 12, test: int = 10) -> ImageData:
    """The first images of each split of the digits, with their own statistics."""
    full = Digits().load()
    parts = [
        Split(part.images[:n], part.labels[:n])
        for part, n in ((full.train, train), (full.validation, validation), (full.test, test))
    ]
    mean, std = channel_statistics(parts[0].images, full.scale)
    return ImageData("few digits", *parts, full.classes, mean, std, full.scale)


def configured(*overrides: str, base: str = BASE) -> Loaded[Experiment]:
    return load(Experiment, base, REGISTRIES, overrides, file="tiny.yaml")


def trainer(*overrides: str, run: Run | None = None, images: ImageData | None = None, **options: Any) -> Trainer:
    """A trainer that logs nothing."""
    loaded = configured(*overrides)
    options = {"log": lambda line: None} | options
    return Trainer(loaded.value, images or data(), run, **options)


def new_run(folder: Path, *overrides: str) -> Run:
    run = Run.prepare(folder)
    run.start(configured(*overrides).resolved)
    return run


def untimed(value: Any) -> Any:
    """A record without the fields that measure time."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.net.state_dict().items()}


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_same_optimizer(a: torch.optim.Optimizer, b: torch.optim.Optimizer) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["state"].keys() == second["state"].keys()
    for index, state in first["state"].items():
        for key, value in state.items():
            other = second["state"][index][key]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, (index, key)


class Stop(Exception):  # noqa: N818
    """What a crash is in these tests: nothing of the program expects it."""


def stopping_at(step: int) -> Callable[..., None]:
    """A progress callback that crashes after so many steps of this life of the run."""
    count = itertools.count(1)

    def progress(epoch: int, batch: int, batches: int, accuracy: Callable[[], float]) -> None:
        if next(count) == step:
            raise Stop

    return progress

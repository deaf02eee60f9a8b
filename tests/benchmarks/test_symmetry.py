"""benchmarks.symmetry: its settings are configurations, what it reads of a run, and how it writes it down."""

import re

import pytest
import tiny
import torch

from benchmarks import symmetry
from benchmarks.common import table
from spikecredit.cli import CONFIGS
from spikecredit.training.experiment import load_experiment

SETTINGS = {
    f"{section}, {row}, {name}": (*symmetry.BASE, *overrides)
    for section, rows in symmetry.ACCURACY.items()
    for row, settings in rows.items()
    for name, overrides in settings.items()
} | {f"signs, {row}": (*symmetry.BASE, *symmetry.LONG, *what[0]) for row, what in symmetry.SIGNS.items()}


def test_every_setting_is_a_configuration_of_its_own() -> None:
    experiments = {name: load_experiment(CONFIGS / "demo.yaml", s).value for name, s in SETTINGS.items()}
    sections = {name.split(",")[0] for name in experiments}
    for section in sections:
        own = [e for name, e in experiments.items() if name.startswith(section)]
        assert section == "signs" or len(set(own)) == len(own), section  # the weights' start differs as well
    signs = [e for name, e in experiments.items() if name.startswith("signs")]
    for experiment in signs:
        optimizer, pathway = experiment.training.optimizer, experiment.pathway
        momentum = getattr(optimizer, "momentum", 0.0)
        decay = optimizer.lr * optimizer.weight_decay / (1 - momentum)
        assert 0 in (decay, pathway.decay) or decay == pytest.approx(pathway.decay)


def test_the_better_setting_on_the_validation_split_is_kept() -> None:
    row = symmetry.accuracies(
        tiny.data(), {"none": ("training.optimizer.lr=1e-9", "training.epochs=1"), "some": ("training.epochs=1",)}, 2
    )
    assert row["setting"] in ("none", "some") and row["tried"] == 2 and len(row["test"]) == 2
    both = [symmetry.accuracies(tiny.data(), {"": o}, 2)["validation"] for o in (
        ("training.optimizer.lr=1e-9", "training.epochs=1"), ("training.epochs=1",),
    )]  # fmt: skip
    assert row["validation"] == max(both)


@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
def test_a_factor_scales_the_initial_weights() -> None:
    short = ("training.epochs=1", "training.optimizer={kind: sgd, lr: 1e-12}")
    a, b = (symmetry.trained(tiny.data(), short, 0, factor) for factor in (1.0, 0.1))
    for x, y in zip(a.net.synapses().values(), b.net.synapses().values(), strict=True):
        torch.testing.assert_close(y.weight, 0.1 * x.weight, rtol=1e-4, atol=1e-9)


@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
def test_weights_at_the_floor_are_those_that_the_constraint_holds_there() -> None:
    short = ("training.epochs=1", "training.optimizer={kind: sgd, lr: 3}")
    held, free = (symmetry.trained(tiny.data(), (*short, *freezing), 0) for freezing in (
        symmetry.FREEZES["frozen from the start"], ()))  # fmt: skip
    assert 0 < symmetry.held_at_floor(held) < 1 and symmetry.held_at_floor(free) == 0


def test_tables_say_where_they_are_from() -> None:
    environment = {"commit": "0123456789ab", "torch": "2.13", "processor": "a processor"}
    runs = {"setting": "lr 1", "validation": 0.5, "test": [0.25, 0.75], "tried": 2, "environment": environment}
    held = runs | {"setting": "", "tried": 1, "held": 0.125}
    start = {"start": 0.5, "end": 0.96, "lowest": 0.9, "validation": 0.8, "steps": 10, "environment": environment}
    found = {
        "command": "python -m benchmarks.symmetry",
        "sections": {
            "errors": {"rows": {"a row": runs}, "seeds": 2},
            "frozen": {"rows": {"a row": held}, "seeds": 2},
            "signs": {"rows": {"a row": start}, "seeds": 2},
        },
    }
    text = symmetry.render(found, "errors", table)
    assert text is not None
    assert "| a row | lr 1 | 50.00 % | 50.00 % (" in text
    assert "`python -m benchmarks.symmetry errors`, seeds 0 to 1, commit 0123456789ab" in text
    assert re.search(r"\| a row \| 50.00 % \| .* \| 12.50 % \|", str(symmetry.render(found, "frozen", table)))
    assert "| a row | 50.00 % | 96.00 % | 90.00 % | 80.00 % |" in str(symmetry.render(found, "signs", table))
    assert symmetry.render(found, "controls", table) is None

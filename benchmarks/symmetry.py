"""Partial sign agreement, antiparallel feedback, batch Manhattan, controls, coded errors and rules, on the digits.

    python -m benchmarks.symmetry [SECTION ...] [--seeds 3] [--minutes M] [--anew]

Where a row has several settings (rates, decays), the one with the best validation accuracy, averaged over the seeds, is
kept; the test split is read for that one only, at each seed's epoch of best validation accuracy. Writes
results/symmetry.json row by row; call it again to go on. It stops after the row in which M minutes are over.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.common import RESULTS, write
from spikecredit.analysis import angle
from spikecredit.analysis.report import interval
from spikecredit.cli import CONFIGS
from spikecredit.constraints import FrozenSigns
from spikecredit.data import ImageData
from spikecredit.pathways import MimicFeedbackAlignment
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import environment

NETWORK = "{kind: mlp, hidden: [128, 128, 128, 128], initialisation: lecun}"
BASE = (f"network={NETWORK}", "training.epochs=15", "training.measure=0")
SGD = "training.optimizer={{kind: sgd, lr: {lr}, momentum: 0.9, weight_decay: {decay}}}"
PLAIN = SGD.format(lr=0.3, decay=0)
ADAM = "training.optimizer={kind: adam, lr: 0.002}"
MANHATTAN = "training.optimizer={{kind: sgd, lr: {lr}, momentum: 0.9, batch_manhattan: true}}"
LONG = ("network={kind: mlp, hidden: [128, 128, 128], initialisation: lecun, norm: true}", "training.epochs=60",
        "training.schedule=flat")  # fmt: skip
MLP = "network={{kind: mlp, hidden: [{}], initialisation: lecun}}"

Settings = dict[str, tuple[str, ...]]


def one(*overrides: str) -> Settings:
    """A row without anything to choose."""
    return {"": overrides}


def antiparallel(rates: Sequence[float], decays: Sequence[float], optimizers: Settings) -> Settings:
    return {
        f"rate {rate:g}, decay {decay:g}{name}": (f"pathway={{kind: antiparallel, rate: {rate}, decay: {decay}}}", *o)
        for rate, decay, (name, o) in itertools.product(rates, decays, optimizers.items())
    }


def crossed(pathway: str, optimizers: Settings) -> Settings:
    return {name.removeprefix(", "): (f"pathway={pathway}", *o) for name, o in optimizers.items()}


DECAYS = {f", weight decay {decay:g}": (SGD.format(lr=0.3, decay=decay),) for decay in (0, 1e-3)}
GRADIENTS = {f"lr {lr:g}": (SGD.format(lr=lr, decay=0),) for lr in (0.1, 0.3)}
MANHATTANS = {f"lr {lr:g}": (MANHATTAN.format(lr=lr),) for lr in (1e-4, 3e-4, 1e-3)}
ADAMS = {f"lr {lr:g}": (f"training.optimizer={{kind: adam, lr: {lr}}}",) for lr in (1e-3, 3e-3)}
BOTH = {"SGD with momentum": PLAIN, "Adam": ADAM}
THREE = {"backprop": "backprop", "feedback alignment": "feedback_alignment", "sign symmetry": "sign_symmetry"}
NOISES = [(noise, drawn) for drawn in ("once", "batch") for noise in (1.0, 2.0, 4.0)]
FREEZES: Settings = {"signs free": ()} | {
    f"frozen {when}": (f"constraint={{kind: frozen_signs, after: {after}}}",)
    for after, when in {0: "from the start", 1: "after 1 epoch", 2: "after 2 epochs", 5: "after 5 epochs"}.items()
}
ERRORS = {"graded": "graded", "clipped at the mean size": "{kind: clip, limit: 1}", "sign only": "sign"}
ACCURACY: dict[str, dict[str, Settings]] = {
    "agreement": {
        f"agreement {a:g}, {name}": one(f"pathway={{kind: sign_symmetry, agreement: {a}}}", optimizer)
        for name, optimizer in BOTH.items()
        for a in (0.5, 0.6, 0.75, 0.9, 1.0)
    },
    "antiparallel": {
        **{f"{name}, SGD with momentum": crossed(kind, DECAYS) for name, kind in THREE.items()},
        "fixed random signs, SGD with momentum": crossed("{kind: sign_symmetry, agreement: 0.5}", DECAYS),
        "antiparallel, SGD with momentum": antiparallel((1, 10), (0, 3e-3, 1e-2), DECAYS),
        **{f"{name}, Adam": one(f"pathway={kind}", ADAM) for name, kind in THREE.items()},
        "antiparallel, Adam": antiparallel((0.1, 1), (0, 1e-2), {"": (ADAM,)}),
    },
    "manhattan": {
        f"{name}, {how}": crossed(kind, optimizers)
        for name, kind in THREE.items()
        for how, optimizers in (("gradient", GRADIENTS), ("its sign", MANHATTANS))
    },
    "controls": {
        "backprop": one(ADAM),
        **{
            f"noise {noise:g} rms(W), drawn {'once' if drawn == 'once' else 'for each batch'}": one(
                f"pathway={{kind: noisy_backprop, noise: {noise}, drawn: {drawn}}}", ADAM
            )
            for noise, drawn in NOISES
        },
        **{
            f"penalty {strength:g}": one(f"pathway={{kind: mimic_feedback_alignment, strength: {strength}}}", ADAM)
            for strength in (1e-3, 1e-2, 1e-1)
        },
        "feedback alignment": one("pathway=feedback_alignment", ADAM),
    },
    "errors": {
        f"{name}, {label}": crossed(f"{{kind: {kind}, error: {error}}}", ADAMS)
        for name, kind in THREE.items()
        for label, error in ERRORS.items()
    },
    "frozen": {
        f"{name}, {when}": one(f"pathway={THREE[name]}", *freezing, ADAM)
        for name in ("backprop", "sign symmetry")
        for when, freezing in FREEZES.items()
    },
    "initialisation": {
        f"{name}, {initialisation}, {how}": one(
            f"pathway={kind}", f"network.initialisation={initialisation}", optimizer
        )
        for how, optimizer in BOTH.items()
        for initialisation in ("torch", "lecun", "he")
        for name, kind in THREE.items()
    },
    "nudge": {
        f"{name}, nudge {nudge:g}": one(
            f"pathway={kind}", f"rule={{kind: bptt, nudge: {nudge}}}", MLP.format("128, 128"), ADAM
        )
        for name, kind in list(THREE.items())[:2]
        for nudge in (0, 1, 10, 100)
    },
    "perturbation": {
        f"{name}, {units} hidden units": {
            f"lr {lr:g}": (f"rule={rule}", MLP.format(units), f"training.optimizer={{kind: adam, lr: {lr}}}")
            for lr in rates
        }
        for units in (32, 256)
        for name, rule, rates in (
            ("backprop", "bptt", (3e-3, 1e-2)),
            ("1 draw", "node_perturbation", (3e-3, 1e-2, 3e-2)),
            ("10 draws", "{kind: node_perturbation, draws: 10}", (3e-3, 1e-2, 3e-2)),
        )
    },
}

ANTIPARALLEL = "pathway={{kind: antiparallel, rate: 10, decay: {}}}"
SIGNS: dict[str, tuple[tuple[str, ...], float]] = {
    "SGD, both decay alike": (
        (ANTIPARALLEL.format(3e-3), "training.optimizer={kind: sgd, momentum: 0, weight_decay: 0.03}"), 1.0,
    ),
    "SGD, neither decays": ((ANTIPARALLEL.format(0), "training.optimizer={kind: sgd, momentum: 0}"), 1.0),
    "SGD, neither decays, W starts at a tenth": (
        (ANTIPARALLEL.format(0), "training.optimizer={kind: sgd, momentum: 0}"), 0.1,
    ),
    "SGD, only C decays": ((ANTIPARALLEL.format(3e-3), "training.optimizer={kind: sgd, momentum: 0}"), 1.0),
    "SGD, only W decays": (
        (ANTIPARALLEL.format(0), "training.optimizer={kind: sgd, momentum: 0, weight_decay: 0.03}"), 1.0,
    ),
    "SGD with momentum, both decay alike": (
        (ANTIPARALLEL.format(3e-3), "training.optimizer={kind: sgd, lr: 0.01, weight_decay: 0.03}"), 1.0,
    ),
    "AdamW, both decay alike": (
        (ANTIPARALLEL.format(3e-3), "training.optimizer={kind: adamw, lr: 0.001, weight_decay: 3}"), 1.0,
    ),
    "Adam, neither decays": ((ANTIPARALLEL.format(0), "training.optimizer={kind: adam, lr: 0.001}"), 1.0),
    "batch Manhattan, both decay alike": (
        (ANTIPARALLEL.format(3e-3),
         "training.optimizer={kind: sgd, lr: 0.0001, momentum: 0, weight_decay: 30, batch_manhattan: true}"), 1.0,
    ),
}  # fmt: skip
"""How the sign of C follows that of W under other optimisers: overrides, and a factor on the initial weights."""


def trained(data: ImageData, overrides: Sequence[str], seed: int, factor: float = 1.0) -> Trainer:
    experiment = load_experiment(CONFIGS / "demo.yaml", (*BASE, *overrides, f"seed={seed}")).value
    trainer = Trainer(experiment, data, log=lambda line: None)
    with torch.no_grad():
        for layer in trainer.net.synapses().values():
            layer.weight.mul_(factor)
    trainer.train()
    return trainer


def accuracies(data: ImageData, settings: Settings, seeds: int) -> dict[str, Any]:
    """The setting with the best validation accuracy, and its accuracies on the test split."""
    best: tuple[float, str, list[Trainer]] | None = None
    for name, overrides in settings.items():
        trainers = [trained(data, overrides, seed) for seed in range(seeds)]
        mean = statistics.mean(t.best["validation_accuracy"] for t in trainers if t.best)
        if best is None or mean > best[0]:
            best = mean, name, trainers
    assert best is not None
    angles = [angle_to_feedback(trainer) for trainer in best[2]]  # before `finish` goes back to the best epoch
    held = statistics.mean(held_at_floor(trainer) for trainer in best[2])
    tests = [t.finish()["test_accuracy"] for t in best[2]]
    return {
        "setting": best[1], "validation": best[0], "test": tests, "tried": len(settings),
        "angle": statistics.mean(angles), "held": held,
    }  # fmt: skip


def held_at_floor(trainer: Trainer) -> float:
    """Share of the weights whose sign is frozen that are at the floor: those that would have another sign."""
    constraint = trainer.experiment.constraint
    if not isinstance(constraint, FrozenSigns):
        return 0.0
    weights = torch.cat([layer.weight.detach().flatten() for layer in trainer.net.synapses().values()])
    return float((weights.abs() <= 2 * constraint.floor).double().mean())


def angle_to_feedback(trainer: Trainer) -> float:
    """Mean angle between W and B over the layers that deliver errors; B0 instead of B where W is drawn to it."""
    layers = list(trainer.net.synapses().values())[1:]
    pathway = trainer.experiment.pathway
    mimics = isinstance(pathway, MimicFeedbackAlignment)
    return statistics.mean(
        angle(layer.feedback_weight if mimics else pathway.feedback(layer), layer.weight)  # type: ignore[arg-type]
        for layer in layers
    )


def signs(data: ImageData, overrides: tuple[str, ...], factor: float, seeds: int) -> dict[str, Any]:
    """Share of synapses with sign(B) = sign(W) in the layers that deliver errors, at the start and at the end."""
    runs = [trained(data, (*LONG, "training.measure=8", *overrides), seed, factor) for seed in range(seeds)]

    def agreement(epoch: int) -> float:
        layers = [list(t.history[epoch]["layers"].values())[1:] for t in runs]
        return statistics.mean(layer["sign_agreement"] for each in layers for layer in each)

    lowest = min(layer["sign_agreement"] for t in runs for layer in list(t.history[-1]["layers"].values())[1:])
    validation = statistics.mean(t.history[-1]["validation_accuracy"] for t in runs)
    return {
        "start": agreement(0),
        "end": agreement(-1),
        "lowest": lowest,
        "validation": validation,
        "steps": runs[0].step,
    }


def percent(value: float) -> str:
    return f"{value:.2%}".replace("%", " %")


def render(found: dict[str, Any], section: str, table: Callable[[list[str], list[list[str]]], str]) -> str | None:
    """One section as a table of Markdown with the line that says where it is from."""
    part = found["sections"].get(section)
    if part is None:
        return None
    if section == "signs":
        rows = [
            [name, *(percent(r[key]) for key in ("start", "end", "lowest", "validation"))]
            for name, r in part["rows"].items()
        ]
        body = table(
            ["optimiser and decay", "at the start", "after training", "lowest layer", "validation accuracy"], rows
        )
    else:
        chosen = any(r["tried"] > 1 for r in part["rows"].values())
        rows = []
        for name, r in part["rows"].items():
            low, high = interval(r["test"]).low, interval(r["test"]).high
            setting = [r["setting"] or "–"] if chosen else []
            span = f"{percent(statistics.mean(r['test']))} ({percent(low)} to {percent(high)})"
            turned = [f"{r['angle']:.0f}°"] if section == "controls" else []
            turned += [percent(r["held"])] if section == "frozen" else []
            rows.append([name, *setting, percent(r["validation"]), span, *turned])
        header = ["", *(["chosen on the validation split"] if chosen else []), "validation", "test (95 % t-interval)"]
        header += ["angle of W to B (penalty: to B₀)"] if section == "controls" else []
        header += ["weights at the floor after training"] if section == "frozen" else []
        body = table(header, rows)
    used = [row["environment"] for row in part["rows"].values()]
    commits = sorted({each["commit"] for each in used})
    return (
        f"{body}\n\n`{found['command']} {section}`, seeds 0 to {part['seeds'] - 1}, commit{'s' * (len(commits) > 1)} "
        f"{', '.join(commits)}, torch {used[0]['torch']}, {used[0]['processor']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join([*ACCURACY, "signs"]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--anew", action="store_true", help="measure rows that are there again")
    given = parser.parse_args()
    if unknown := set(given.sections) - {*ACCURACY, "signs"}:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join([*ACCURACY, 'signs'])}")
    torch.set_num_threads(1)
    device, start = torch.device("cpu"), time.monotonic()
    used = environment(device)  # before the results change
    data = load_experiment(CONFIGS / "demo.yaml").value.data.load()
    file = RESULTS / "symmetry.json"
    sections: dict[str, Any] = json.loads(file.read_text())["sections"] if file.exists() else {}
    for section in given.sections or [*ACCURACY, "signs"]:
        wanted: dict[str, Any] = SIGNS if section == "signs" else ACCURACY[section]
        old = sections.get(section, {})
        kept = {} if given.anew or old.get("seeds") != given.seeds else old["rows"]
        rows = {name: kept[name] for name in wanted if name in kept}
        for name, what in wanted.items():
            if name in rows:
                continue
            if time.monotonic() - start > 60 * given.minutes:
                return
            row = signs(data, *what, given.seeds) if section == "signs" else accuracies(data, what, given.seeds)
            rows[name] = {**row, "environment": used}
            print(section, name, row, flush=True)
            sections[section] = {"rows": {n: rows[n] for n in wanted if n in rows}, "seeds": given.seeds}
            write("symmetry", "python -m benchmarks.symmetry", device, sections=sections)


if __name__ == "__main__":
    main()

"""Equilibrium propagation: MNIST with all images, by rates, by spikes and in every way that there is; its step beside
one that asks autograd for every sweep; and how far each estimator is from the gradient.

    python -m benchmarks.equilibrium [mnist spikes ways learn bias speed] [--data ../shared/data] [--seeds 1]
        [--minutes M]

mnist, spikes, ways: trained on all 60,000 training images, resumable; the test split is read once, after the last
epoch. learn: how far what traces and what membranes of sigma-delta neurons learn is from the gradient, in a
convolutional network that was trained by rates on a third of the training images. bias: against autograd through 300
sweeps of a small network in float64. speed: free and nudged phases and the gradient of one batch, both by Jacobi sweeps
of the same number on the same network, interleaved. Writes results/equilibrium.json, each section by itself, a row as
soon as it is there.
"""

import argparse
import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikecredit as sc
from benchmarks.accuracy import train
from benchmarks.common import RESULTS, interleaved, write
from spikecredit import equilibrium as eq
from spikecredit.cli import CONFIGS
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer

SHAPES = {"784-512-10, batch 20": ((784, 512, 10), 20), "784-1024-10, batch 20": ((784, 1024, 10), 20)}
FREE, NUDGED, BETA = 30, 10, 0.2

EULER = "rule.relaxation={order: euler, free: 1, nudged: 20, epsilon: 0.3}"
SIGNS = "pathway={kind: sign_symmetry, threshold: 0.6}"
LAW = "constraint={kind: dale, sensory: exempt}"

WAYS: dict[str, tuple[str, ...]] = {
    "centred, β 0.2": (),
    "one_sided, β 0.2": ("rule.estimator={kind: one_sided, beta: 0.2}",),
    "random_sign, β 0.2": ("rule.estimator={kind: random_sign, beta: 0.2}",),
    "centred, logistic units": ("neuron=logistic",),
    "holomorphic, 4 points, β 0.2, logistic units": (
        "neuron=logistic", "rule.estimator={kind: holomorphic, beta: 0.2, n: 4}",
    ),
    "contrastive_hebbian": ("rule.estimator={kind: contrastive_hebbian}",),
    "contrastive_hebbian, gain 0.1": ("rule.estimator={kind: contrastive_hebbian}", "rule.energy.gain=0.1"),
    "contrastive_hebbian by Gibbs samples (Boltzmann machine), logistic units": (
        "neuron=logistic", "rule.estimator={kind: contrastive_hebbian}",
        "rule.relaxation={kind: gibbs, free: 20, nudged: 1, burn_in: 5}",
    ),
    "coupled, η 0.2": ("rule.estimator={kind: coupled, eta: 0.2}",),
    "centred, weights move within the phase (continual)": ("rule.continual=0.001",),
    "centred, predictive coding": ("rule.energy={kind: predictive}", EULER),
    "contrastive_hebbian, predictive coding": ("rule.energy={kind: predictive}", EULER,
                                               "rule.estimator={kind: contrastive_hebbian}"),
    "contrastive_hebbian, predictive coding, steps of 0.1": (
        "rule.energy={kind: predictive}", "rule.estimator={kind: contrastive_hebbian}",
        "rule.relaxation={order: euler, free: 1, nudged: 60, epsilon: 0.1}",
    ),
    "centred, sign symmetry, gain 0.1": (SIGNS, "rule.energy.gain=0.1"),
    "centred, feedback alignment, gain 0.1": ("pathway=feedback_alignment", "rule.energy.gain=0.1"),
    "centred, sign symmetry, Dale's law, gain 0.03": (SIGNS, LAW, "rule.energy.gain=0.03"),
    "centred, feedback alignment, Dale's law, gain 0.1": ("pathway=feedback_alignment", LAW, "rule.energy.gain=0.1"),
}  # fmt: skip
"""`mnist_equilibrium` for two epochs, but for what is named. The learning rate was chosen for the first of them."""

TRAINED: dict[str, dict[str, tuple[str, tuple[str, ...], int | None]]] = {
    "mnist": {f"{n} epochs": ("mnist_equilibrium", (), n) for n in (2, 20)},
    "spikes": {
        "sigma-delta, 500 units": ("mnist_equilibrium_spikes", (), None),
        "LIF neurons, 500": ("mnist_equilibrium_lif", (), None),
        "sigma-delta, convolutional 16-32": ("mnist_equilibrium_conv_spikes", (), None),
        "sigma-delta, convolutional 16-32, learns from traces, 16 + 12 steps": (
            "mnist_equilibrium_conv_spikes",
            (
                "rule.relaxation={kind: sigma_delta, free: 16, nudged: 12}",
                "rule.estimator.beta=0.5",
                "training.batch_size=50",
            ),
            10,
        ),
    },
    "ways": {name: ("mnist_equilibrium", more, 2) for name, more in WAYS.items()},
}
"""For each section and row: the configuration, its overrides, and the epochs."""

SECTIONS = (*TRAINED, "learn", "bias", "speed")
LEARNS = list(itertools.product(("traces", "membranes"), ((16, 12), (30, 20), (60, 40)), (0.2, 0.5)))
NUDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
ESTIMATORS: dict[str, Callable[[float], eq.Estimator]] = {
    "one_sided": eq.OneSided, "centred": eq.Centred, "holomorphic, N = 4": lambda beta: eq.Holomorphic(beta, 4),
    "holomorphic, N = 8": lambda beta: eq.Holomorphic(beta, 8),
}  # fmt: skip


def learn(data: Path) -> list[dict[str, Any]]:
    """The cosine of each layer's estimate with the gradient (rates, 640 sweeps a phase, beta 1e-4, float64) on 50
    training images, before training and after one epoch of 20,000 others; for LEARNS."""
    rates = "rule.relaxation={kind: sweeps, free: 20, nudged: 10}"
    more = (f"data.path={data / 'mnist'}", rates, "rule.estimator.beta=0.2", "training.epochs=1", "training.measure=0")
    experiment = load_experiment(CONFIGS / "mnist_equilibrium_conv_spikes.yaml", more).value
    images = experiment.data.load()
    part = replace(images.train, images=images.train.images[:20000], labels=images.train.labels[:20000])
    trainer = Trainer(experiment, replace(images, train=part), log=lambda line: None)
    x = trainer.encode(images.train.images[20000:20050], "raster")[0].double()
    y = images.train.labels[20000:20050].long()
    cosine = torch.nn.functional.cosine_similarity
    rows: list[dict[str, Any]] = []
    for trained in (False, True):
        if trained:
            trainer.train()
        net = copy.deepcopy(trainer.net).double()

        def found(relaxation: eq.Relaxation, beta: float, net: sc.Network = net) -> list[Tensor]:
            made, _ = eq.gradient(net, x, y, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(beta))
            return [w.flatten() for w, _ in made.values()]

        wanted = found(eq.Sweeps(640, 640), 1e-4)
        for what, (free, nudged), beta in LEARNS:
            made = found(eq.SigmaDelta(free, nudged, learn=what), beta)
            cosines = [float(cosine(a, b, dim=0)) for a, b in zip(made, wanted, strict=True)]
            row = {"learn": what, "free": free, "nudged": nudged, "beta": beta, "cosines": cosines}
            rows.append({"trained": trained, **row})
    return rows


def bias() -> list[dict[str, Any]]:
    """The relative error of the estimated gradient for each estimator, precision and nudge; and, for those without a
    nudge, its cosine."""
    sizes = (20, 30, 20, 10)
    g = torch.Generator().manual_seed(0)
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layer = sc.Linear(a, b).double()
        with torch.no_grad():
            layer.weight.copy_(
                (2 * torch.rand(b, a, generator=g, dtype=torch.float64) - 1) * 0.5 * (6 / (a + b)) ** 0.5
            )
        layers += [layer, sc.Logistic()]
    net = sc.Network(*layers, seed=0).double()
    x, y = torch.rand(8, 20, generator=g, dtype=torch.float64), torch.arange(8)
    state = eq.free_state(net, x, relaxation=eq.Sweeps(free=600))
    synapses, units = net.layers[0::2], net.layers[1::2]
    for _ in range(300):
        around = [x, *state]
        back = [around[i + 2] @ synapses[i + 1].weight for i in range(2)] + [torch.zeros(())]  # type: ignore[operator]
        state = [units[i](synapses[i](around[i]) + back[i]) for i in range(3)]
    cost = eq.SquaredError()(state[-1], y).mean()
    wanted = torch.cat([w.flatten() for w in torch.autograd.grad(cost, [layer.weight for layer in synapses])])

    def estimate(estimator: eq.Estimator, dtype: torch.dtype = torch.float64) -> Tensor:
        found, _ = eq.gradient(
            copy.deepcopy(net).to(dtype),
            x.to(dtype),
            y,
            eq.SquaredError(),
            relaxation=eq.Sweeps(600, 300),
            estimator=estimator,
        )
        return torch.cat([w.flatten() for w, _ in found.values()]).double()

    rows = []
    for name, make in ESTIMATORS.items():
        for dtype in (torch.float64, torch.float32):
            found = [estimate(make(beta), dtype) for beta in NUDGES]
            errors = [float((f - wanted).norm() / wanted.norm()) for f in found]
            rows.append({"estimator": name, "dtype": str(dtype).removeprefix("torch."), "errors": errors})
    held: list[tuple[str, eq.Estimator]] = [(f"coupled, η = {eta:g}", eq.Coupled(eta)) for eta in (0.01, 0.1, 0.5)]
    for name, estimator in [*held, ("contrastive_hebbian", eq.ContrastiveHebbian())]:
        cosine = float(torch.cosine_similarity(estimate(estimator), wanted, dim=0))
        rows.append({"estimator": name, "dtype": "float64", "cosine": cosine})
    return rows


def trained(section: str, data: Path, folder: Path, seeds: int, end: float) -> Iterator[list[dict[str, Any]]]:
    """The rows of a section after each new one, as long as there is time; those in the results file are kept."""
    device, file = torch.device("cpu"), RESULTS / "equilibrium.json"
    old = json.loads(file.read_text()).get(section, {}).get("rows", []) if file.exists() else []
    kept = {(row["name"], row["seed"]): row for row in old}
    rows: list[dict[str, Any]] = []
    for name, (config, more, epochs) in TRAINED[section].items():
        for seed in range(seeds):
            if (name, seed) in kept:
                rows.append(kept[name, seed])
                continue
            at = folder / section / name.replace(" ", "-").replace(",", "")
            row = train(config, str(data / "mnist"), seed, at, device, epochs, more)
            rows.append(row | {"seed": seed, "name": name})
            print(name, f"seed {seed}", f"{100 * (1 - row['test_accuracy']):.2f} %", sep="   ", flush=True)
            done = {(r["name"], r["seed"]) for r in rows}
            yield [*rows, *(r for key, r in kept.items() if key[0] in TRAINED[section] and key not in done)]
            if time.monotonic() > end:
                return


def by_autograd(layers: list[sc.Linear], x: Tensor, y: Tensor) -> list[Tensor]:
    """The same estimate with Phi written once and autograd asked for its slope at every sweep, as published code does:
    hard sigmoid hidden units, linear output, squared error, centred."""
    target = torch.nn.functional.one_hot(y, layers[-1].out_features).to(x.dtype)

    def phi(state: list[Tensor], beta: float) -> Tensor:
        around = [x, *state]
        total = sum(((layer(below)) * s).sum() for layer, below, s in zip(layers, around[:-1], state, strict=True))
        return total - beta * 0.5 * (state[-1] - target).square().sum()

    def settle(state: list[Tensor], beta: float, sweeps: int) -> list[Tensor]:
        for _ in range(sweeps):
            state = [s.detach().requires_grad_() for s in state]
            slopes = torch.autograd.grad(phi(state, beta), state)
            state = [s.clamp(0, 1) for s in slopes[:-1]] + [slopes[-1]]
        return [s.detach() for s in state]

    free = settle([x.new_zeros(len(x), layer.out_features) for layer in layers], 0.0, FREE)
    weights = [p for layer in layers for p in (layer.weight, layer.bias)]
    high, low = (
        torch.autograd.grad(phi(settle(free, beta, NUDGED), beta), weights) for beta in (BETA, -BETA)
    )  # the nudge knows no weight: its term has no part in these
    return [-(a - b) / (2 * BETA * len(x)) for a, b in zip(high, low, strict=True)]


def speed(repeats: int) -> list[dict[str, Any]]:
    """Both ways on each shape, and how far their gradients are apart."""
    rows = []
    for name, (sizes, batch) in SHAPES.items():
        torch.manual_seed(0)
        layers = [sc.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        units = [sc.HardSigmoid() for _ in layers[:-1]]
        net = sc.Network(*(m for pair in zip(layers, [*units, sc.Identity()], strict=True) for m in pair), seed=0)
        x, y = torch.rand(batch, sizes[0]), torch.randint(sizes[-1], (batch,))

        def ours(order: Any, mode: Any = None, net: sc.Network = net, x: Tensor = x, y: Tensor = y) -> list[Tensor]:
            relaxation = eq.Sweeps(FREE, NUDGED, order, compile=mode)
            found, _ = eq.gradient(net, x, y, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(BETA))
            return [t for pair in found.values() for t in pair]

        cases: dict[str, Callable[[], Any]] = {
            "autograd at every sweep": lambda layers=layers, x=x, y=y: by_autograd(layers, x, y),
            "explicit, jacobi": lambda ours=ours: ours("jacobi"),
            "explicit, checkerboard": lambda ours=ours: ours("checkerboard"),
            "explicit, checkerboard, compiled": lambda ours=ours: ours("checkerboard", "default"),
        }
        there, here = (torch.cat([t.flatten() for t in cases[c]()]) for c in list(cases)[:2])
        apart = float((here - there).norm() / there.norm())
        measured = interleaved(cases, repeats)
        base = measured["autograd at every sweep"]["median"]
        rows += [
            {"network": name, "case": case, **seconds, "ratio": base / seconds["median"], "apart": apart}
            for case, seconds in measured.items()
        ]
    return rows


def tables(record: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """A table for each section that was measured."""
    found = {}
    for section in TRAINED:
        if section in record:
            found[section] = (
                ["", "epochs", "seed", "test error (%)", "minutes"],
                [
                    [r["name"], str(r["epochs"]), str(r["seed"]), f"{100 * (1 - r['test_accuracy']):.2f}",
                     f"{r['seconds'] / 60:.1f}"]
                    for r in record[section]["rows"]
                ],
            )  # fmt: skip
    if "learn" in record:
        rows = record["learn"]["rows"]
        when = {kept: [r for r in rows if r["trained"] is kept] for kept in (False, True)}
        found["learn"] = (
            ["weights learn from", "free + nudged steps", "β", "cosines before training", "and after an epoch"],
            [
                [
                    first["learn"], f"{first['free']} + {first['nudged']}", f"{first['beta']:g}",
                    *(" / ".join(f"{c:.2f}" for c in r["cosines"]) for r in (first, then)),
                ]
                for first, then in zip(when[False], when[True], strict=True)
            ],
        )  # fmt: skip
    if "bias" in record:
        rows = record["bias"]["rows"]
        found["bias"] = (
            ["estimator", "precision", *(f"β = {beta:g}" for beta in NUDGES)],
            [[r["estimator"], r["dtype"], *(f"{e:.0e}" for e in r["errors"])] for r in rows if "errors" in r],
        )
        found["held"] = (
            ["estimator", "cosine with the gradient"],
            [[r["estimator"], f"{r['cosine']:.3f}"] for r in rows if "cosine" in r],
        )
    if "speed" in record:
        found["speed"] = (
            ["network", f"{FREE} free and 2 x {NUDGED} nudged sweeps", "median (quartiles)", "times as fast"],
            [
                [
                    r["network"], r["case"],
                    f"{r['median'] * 1e3:.2f} ms ({r['low'] * 1e3:.2f} to {r['high'] * 1e3:.2f})", f"{r['ratio']:.1f}",
                ]
                for r in record["speed"]["rows"]
            ],
        )  # fmt: skip
    return found


def save(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a section, which keeps the environment that it was measured in; the others stay as they are."""
    file = RESULTS / "equilibrium.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    sections = {key: old[key] for key in SECTIONS if key in old}
    write("equilibrium", f"python -m benchmarks.equilibrium {name}", torch.device("cpu"))
    made = json.loads(file.read_text())
    sections[name] = {"command": made["command"], "environment": made["environment"], "rows": rows}
    write("equilibrium", "python -m benchmarks.equilibrium", torch.device("cpu"), **sections)
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", default=list(SECTIONS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/equilibrium"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=51)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # the products are small: threads would wait for each other
    end = time.monotonic() + 60 * given.minutes
    for name in given.only:
        if name in TRAINED:
            for rows in trained(name, given.data, given.folder, given.seeds, end):
                save(name, rows)
        else:
            made = learn(given.data) if name == "learn" else bias() if name == "bias" else speed(given.repeats)
            for line in tables(save(name, made))[name][1]:
                print(*line, sep="   ", flush=True)


if __name__ == "__main__":
    main()

"""Equilibrium propagation: MNIST with all images, and its step beside one that asks autograd for every sweep.

    python -m benchmarks.equilibrium [mnist speed] [--data ../shared/data] [--folder runs/equilibrium] [--seeds 1]

mnist: the configuration `mnist_equilibrium` for 2 and for 20 epochs on all 60,000 training images, resumable; the test
split is read once, after the last epoch. speed: free and nudged phases and the gradient of one batch, both by Jacobi
sweeps of the same number on the same network, interleaved. Writes results/equilibrium.json, each section by itself.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikecredit as sc
from benchmarks.accuracy import train
from benchmarks.common import RESULTS, interleaved, write
from spikecredit import equilibrium as eq

CONFIG = "mnist_equilibrium"
SECTIONS = ("mnist", "speed")
SHAPES = {"784-512-10, batch 20": ((784, 512, 10), 20), "784-1024-10, batch 20": ((784, 1024, 10), 20)}
FREE, NUDGED, BETA = 30, 10, 0.2


def mnist(data: Path, folder: Path, seeds: int) -> list[dict[str, Any]]:
    """A row for each length of training and seed."""
    device = torch.device("cpu")
    rows = []
    for epochs in (2, 20):
        for seed in range(seeds):
            row = train(CONFIG, str(data / "mnist"), seed, folder / f"{epochs}-epochs", device, epochs)
            rows.append(row | {"seed": seed})
    return rows


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

        def ours(order: Any, net: sc.Network = net, x: Tensor = x, y: Tensor = y) -> list[Tensor]:
            relaxation = eq.Sweeps(FREE, NUDGED, order)
            found, _ = eq.gradient(net, x, y, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(BETA))
            return [t for pair in found.values() for t in pair]

        cases: dict[str, Callable[[], Any]] = {
            "autograd at every sweep": lambda layers=layers, x=x, y=y: by_autograd(layers, x, y),
            "explicit, jacobi": lambda ours=ours: ours("jacobi"),
            "explicit, checkerboard": lambda ours=ours: ours("checkerboard"),
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
    if "mnist" in record:
        found["mnist"] = (
            ["epochs", "seed", "test error (%)", "minutes"],
            [
                [str(r["epochs"]), str(r["seed"]), f"{100 * (1 - r['test_accuracy']):.2f}", f"{r['seconds'] / 60:.1f}"]
                for r in record["mnist"]["rows"]
            ],
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", default=list(SECTIONS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/equilibrium"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=51)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the products are small: threads would wait for each other
    file = RESULTS / "equilibrium.json"
    for name in given.only:
        rows = mnist(given.data, given.folder, given.seeds) if name == "mnist" else speed(given.repeats)
        old = json.loads(file.read_text()) if file.exists() else {}
        sections = {key: old[key] for key in SECTIONS if key in old}
        # Each section was measured by itself, and keeps the environment that it was measured in.
        write("equilibrium", f"python -m benchmarks.equilibrium {name}", torch.device("cpu"))
        made = json.loads(file.read_text())
        sections[name] = {"command": made["command"], "environment": made["environment"], "rows": rows}
        write("equilibrium", "python -m benchmarks.equilibrium", torch.device("cpu"), **sections)
        for row in tables(sections)[name][1]:
            print(*row, sep="   ", flush=True)


if __name__ == "__main__":
    main()

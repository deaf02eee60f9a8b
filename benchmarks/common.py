"""What the benchmarks share: interleaved timing, results with machine and commit, and tables of them."""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.training.run import environment, finite_or_none

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None) -> tuple[torch.device, int]:
    """Device and repeats of a timing, from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    return torch.device(given.device), given.repeats


def training_step(
    net: sc.Network, optimizer: torch.optim.Optimizer, x: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """One whole step as a function of nothing, for `interleaved`: gradients, optimiser, and what follows a step."""

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x).mean(0), labels).backward()
        optimizer.step()
        sc.after_step(net, optimizer)

    return step


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """That a call takes, the device's work included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(
    cases: dict[str, Callable[[], Any]], repeats: int, warmup: int = 3, device: str = "cpu", again: bool = False
) -> dict[str, dict[str, float]]:
    """Seconds per call of each case: median and quartiles, cases in turn, so that a noisy machine disturbs all
    alike, and in a new order each turn, so that none always comes after the one that leaves the caches worst.
    again: each call is timed right after one of its own that is not, as the steps of a training run follow each other:
    caches, allocator and interpreter are then as the case itself leaves them."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    order, shuffle = list(cases.items()), random.Random(0).shuffle
    for turn in range(warmup + repeats):
        shuffle(order)
        for name, call in order:
            if again:
                call()
            taken = seconds(call, device)
            if turn >= warmup:
                times[name].append(taken)
    result = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "low": low, "high": high}
    return result


def paired(case: Callable[[], Any], other: Callable[[], Any], pairs: int, device: str = "cpu") -> dict[str, float]:
    """Time of a call over that of another, one right after the other in an order drawn anew: median and quartiles over
    the pairs. For differences of a few percent, which medians of long turns do not resolve on a noisy machine.
    Before each timed call comes one of the same kind that is not, as `interleaved` does with `again`."""
    ratios, draw = [], random.Random(0)
    for _ in range(pairs):
        taken = {}
        for call in draw.sample((case, other), 2):
            call()
            taken[call] = seconds(call, device)
        ratios.append(taken[case] / taken[other])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": middle, "low": low, "high": high, "pairs": pairs}


def write(name: str, command: str, device: torch.device, **content: Any) -> Path:
    """Write benchmarks/results/NAME.json with the command, machine, versions and commit that gave it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"command": command, "environment": environment(device), **content}
    path.write_text(json.dumps(finite_or_none(record), indent=1) + "\n")
    return path


def load(name: str) -> dict[str, Any] | None:
    """The record of benchmarks/results/NAME.json, if there is one."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(header: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def origin(command: str, *environments: dict[str, Any], extra: str = "") -> str:
    """The line under a table: command, commit, machine, versions; one sentence for the commits of one machine."""
    commits: dict[str, set[str]] = {}
    for one in environments:
        about = (
            f"torch {one['torch']}, {one['threads']} threads of {one['cores']} cores "
            f"({one['processor']}), {one['device']}"
        )
        commits.setdefault(about, set()).add(one["commit"])
    return " ".join(
        f"`{command}`{extra}, commit{'s' if len(used) > 1 else ''} {', '.join(sorted(used))}, {about}."
        for about, used in sorted(commits.items())
    )

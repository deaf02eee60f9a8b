"""A section of `benchmarks.speed`: how cost grows with T, batch and width."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import speed_peers
from benchmarks.common import interleaved
from benchmarks.speed_networks import fc
from benchmarks.speed_steps import OURS, REFERENCE, competitors, training_step

GRID = {
    "steps": (4, 10, 25, 50, 100, 250, 500, 1000),
    "batch": (1, 4, 16, 64, 128, 256, 1024),
    "width": (100, 300, 1000, 3000, 10_000),
}
QUICK_GRID = {"steps": (2, 4), "batch": (1, 4), "width": (50, 100)}
SECONDS_PER_POINT = 20.0  # long steps are repeated less, never under MIN_REPEATS
MIN_REPEATS = 5


def scaling(device: torch.device, repeats: int, quick: bool) -> dict[str, Any]:
    """FC training step, Bernoulli spikes, one of T, batch and hidden width varied at a time, the others at 25, 128 and
    1000: ours (float32 and bf16) and snnTorch's loop."""
    rows = []
    base = {"steps": 3, "batch": 4, "width": 100} if quick else {"steps": 25, "batch": 128, "width": 1000}
    for axis, values in (QUICK_GRID if quick else GRID).items():
        for value in values:
            work = fc(**{**base, axis: value})
            chosen = competitors(work)
            x, labels = work.inputs("spikes", device), work.labels(device)
            steps = {}
            for name, precision in ((REFERENCE, "float32"), (OURS, "float32"), (OURS, "bf16")):
                if name in chosen:
                    net = chosen[name].prepare(work, device, precision)
                    steps[f"{name}, {precision}"] = training_step(net, x, labels, precision)
            for step in steps.values():
                step()  # the first call is slower than the rest
            once = sum(_seconds(step, device) for step in steps.values())
            fitting = max(2 if quick else MIN_REPEATS, min(repeats, int(SECONDS_PER_POINT / once)))
            for name, seconds in interleaved(steps, fitting, 1, device.type, again=True).items():
                competitor, precision = name.rsplit(", ", 1)
                rows.append(
                    {"axis": axis, "value": value, "competitor": competitor, "precision": precision, **seconds}
                    | {"repeats": fitting}
                )
                print(f"  {axis:<6}{value:>6}  {name:<32}{seconds['median'] * 1e3:10.2f} ms  (of {fitting})")
            del steps, x, net
    return {"base": base, "rows": rows, "absent": speed_peers.absent()}


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start

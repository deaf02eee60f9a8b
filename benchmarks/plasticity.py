"""One rule on a million synapses: synaptic updates per second in torch, Brian2 and NEST.

    python -m benchmarks.plasticity [--device cpu] [--repeats 7] [--nest PYTHON]

The triplet rule of visual cortex between 1,000 and 1,000 neurons that fire as Poisson processes at 10 Hz, steps of
1 ms, one thread each. A synaptic update is one synapse at one spike of either of its ends. torch and Brian2's numpy
target take turns in one process, the same spikes; then their weights are compared. cpp_standalone and NEST are programs
of their own: their simulated time runs once per repeat, without compilation and construction. NEST (PyPI:
nest-simulator) is skipped, and named, where PYTHON cannot import it; its synapses wait with postsynaptic spikes for the
next presynaptic one, and have a delay, so its weights are not compared. Writes results/plasticity-DEVICE.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import interleaved, write
from spikecredit.plasticity import TripletSTDP
from spikecredit.plasticity.engines.batched import Batch, State

N, RATE, STEPS = 1000, 10.0, 200
RULE = TripletSTDP.preset("visual_cortex_all_to_all")
NEST = Path(__file__).parent / "plasticity_nest.py"


def trains() -> tuple[np.ndarray, np.ndarray]:
    """Which neurons spike, (STEPS, N) each."""
    rng = np.random.default_rng(0)
    pre, post = (rng.random((STEPS, N)) < RATE / 1e3 for _ in range(2))
    return pre, post


class Torch:
    """The torch engine; each call simulates all steps, going on from the last."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.batch = Batch(RULE.equations(), 1, N, N, 1.0, dtype, device)
        self.spikes = [torch.as_tensor(s[:, None]).to(device) for s in trains()]
        self.state: State = self.batch.start()

    def __call__(self) -> None:
        for pre, post in zip(*self.spikes, strict=True):
            self.batch.step(self.state, pre, post)

    def weights(self) -> np.ndarray:
        return self.batch.strength(self.state)[0].cpu().double().numpy()


class Brian:
    """Brian2 with its numpy target; each call simulates all steps, going on from the last."""

    def __init__(self) -> None:
        import brian2 as b2

        b2.BrianLogger.log_level_error()
        b2.prefs.codegen.target = "numpy"
        self.network, self.synapses = brian_network(b2, repeats=100)
        self.period = STEPS * b2.ms

    def __call__(self) -> None:
        self.network.run(self.period, namespace={})

    def weights(self) -> np.ndarray:
        return np.array(self.synapses.w[:]).reshape(N, N).T


def brian_network(b2: Any, repeats: int) -> tuple[Any, Any]:
    """The network, with spike trains that repeat."""
    from spikecredit.plasticity.engines import brian

    clock = b2.Clock(1 * b2.ms, name="clock")
    groups = []
    for name, spikes in zip(("pre", "post"), trains(), strict=True):
        steps, neurons = np.nonzero(np.tile(spikes, (repeats, 1)))
        groups.append(b2.SpikeGeneratorGroup(N, neurons, steps * b2.ms, clock=clock, name=f"{name}_spikes"))
    written = brian.texts(RULE.equations())
    synapses = b2.Synapses(
        *groups, written["model"], on_pre=written["on_pre"], on_post=written["on_post"], clock=clock,
        namespace=brian.constants(RULE.equations()), name="synapses",
    )  # fmt: skip
    synapses.connect()
    synapses.w = 1.0
    return b2.Network(*groups, synapses), synapses


def standalone(repeats: int) -> list[float]:
    """Seconds of the compiled program for the steps of one call, `repeats` times."""
    import brian2 as b2

    times = []
    with tempfile.TemporaryDirectory() as folder:
        b2.set_device("cpp_standalone", build_on_run=False)
        network, _ = brian_network(b2, repeats=1)
        network.run(STEPS * b2.ms, namespace={})
        b2.get_device().build(directory=folder, run=False, with_output=False)
        for _ in range(repeats):
            b2.get_device().run(with_output=False)
            times.append(float(b2.get_device()._last_run_time))
        b2.get_device().reinit()
        b2.set_device("runtime")
    return times


def nest(python: str, repeats: int) -> dict[str, Any] | str:
    """Version and seconds of NEST for the steps of one call; or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trains.npz"
        pre, post = trains()
        np.savez(file, pre=pre, post=post)
        done = subprocess.run([python, str(NEST), str(file), str(repeats)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One line per simulator."""
    numpy_rate = next((r["rate"] for r in record["rows"] if r["name"] == "Brian2, numpy"), None)
    lines = [
        [
            r["name"],
            f"{r['median'] * 1e3 / STEPS:.3f} ({r['low'] * 1e3 / STEPS:.3f} to {r['high'] * 1e3 / STEPS:.3f})",
            f"{r['rate'] / 1e6:.1f}", f"{r['rate'] / numpy_rate:.1f}" if numpy_rate else "–",
            "–" if r.get("apart") is None else f"{r['apart']:.0e}",
        ]
        for r in record["rows"]
    ]  # fmt: skip
    return [
        "", "ms per step of 1 ms, median (quartiles)", "million updates / s", "times Brian2's numpy",
        "largest difference of a weight to float64",
    ], lines  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--nest", default=sys.executable, metavar="PYTHON")
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.set_num_threads(1)
    cases: dict[str, Any] = {
        "torch, float64": Torch(torch.float64, device), "torch, float32": Torch(torch.float32, device),
    }  # fmt: skip
    absent = []
    try:
        cases["Brian2, numpy"] = Brian()
    except ImportError as error:
        absent.append(f"Brian2: {error}")
    calls: dict[str, Callable[[], Any]] = dict(cases)
    measured = interleaved(calls, given.repeats, 1, device.type)
    pre, post = trains()
    updates = float(pre.sum() + post.sum()) * N
    wanted = cases["torch, float64"].weights()
    rows = [
        {"name": name, **seconds, "rate": updates / seconds["median"],
         "apart": None if name == "torch, float64" else float(np.abs(cases[name].weights() - wanted).max())}
        for name, seconds in measured.items()
    ]  # fmt: skip

    def add(name: str, times: list[float]) -> None:
        low, middle, high = statistics.quantiles(times, n=4)
        rows.append({"name": name, "median": middle, "low": low, "high": high, "rate": updates / middle})

    if "Brian2, numpy" in cases:
        add("Brian2, cpp_standalone", standalone(given.repeats))
    found = nest(given.nest, given.repeats)
    if isinstance(found, str):
        absent.append(f"NEST: {found}")
    else:
        add(f"NEST {found['version']}", found["seconds"])
    record = {"steps": STEPS, "synapses": N * N, "updates": updates, "rows": rows, "absent": absent}
    write(f"plasticity-{device.type}", f"python -m benchmarks.plasticity --device {device.type}", device, **record)
    for line in table(record)[1]:
        print(*line, sep="   ")
    for line in absent:
        print("absent:", line)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")

"""Peak memory of a training step on the CPU, in a process of its own.

    python -m benchmarks.speed_memory '{"network": "fc", "input": "spikes", "competitor": "spikecredit",
                                        "precision": "float32", "threads": 2, "quick": false}'

Prints the MiB by which the resident set grows, at its peak over three training steps (gradients and Adam's state
included), over what imports, model and data take. The same step comes first, with a model of its own, so that what is
loaded or compiled at the first call is not counted, and what malloc keeps of it is given back. The peak is VmHWM, set
back before the steps:
getrusage's ru_maxrss would be that of the parent process where it was larger (Linux keeps it across exec).

`needed` runs it with a malloc that gives every tensor back as soon as it is freed: what the step needs, to 1 %.
`resident_growth` runs it with malloc as it is, which keeps some: the same case differs by 15 % from process to process
(FC, November 2026), so that it is the median of three.
"""

import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.speed_networks import Work, works
from benchmarks.speed_steps import competitors, training_step

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
CPU = torch.device("cpu")
RETURN_AT_ONCE = "glibc.malloc.mmap_threshold=131072"
PROCESSES = 3


def resident(key: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB."""
    found = re.search(rf"{key}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{STATUS} has no {key}")
    return int(found[1]) / 1024


def growth(network: str, input: str, competitor: str, precision: str, threads: int, quick: bool) -> float:
    torch.set_num_threads(threads)
    work = works(CPU, quick)[network]
    one = competitors(work, compiled="compile" in competitor)[competitor]

    def step_of(work: Work):  # type: ignore[no-untyped-def]
        x = work.inputs(input, CPU, one.channels_last)  # type: ignore[arg-type]
        return training_step(one.prepare(work, CPU, precision), x, work.labels(CPU), precision)

    step_of(work)()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    step = step_of(work)
    CLEAR.write_text("5")  # VmHWM begins anew
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def needed(**case: object) -> float | None:
    """MiB that a training step needs; None where the system has no /proc/self/clear_refs."""
    return _in_a_process(case, {**os.environ, "GLIBC_TUNABLES": RETURN_AT_ONCE}) if CLEAR.exists() else None


def resident_growth(**case: object) -> float | None:
    """MiB by which the process grows, malloc's own reserves included; median of three processes."""
    if not CLEAR.exists():
        return None
    return statistics.median(_in_a_process(case, dict(os.environ)) for _ in range(PROCESSES))


def _in_a_process(case: dict[str, object], environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "benchmarks.speed_memory", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    print(growth(**json.loads(sys.argv[1])))

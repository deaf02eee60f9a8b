"""How fast, against what: training step, inference and peak memory of four networks, beside every peer and the bound.

    python -m benchmarks.speed [--device cuda] [--repeats 15] [--threads 2] [--only fc,conv] [--quick]

Sections: fc, conv, vgg, recurrent (spikecredit, the same network with ReLU, snnTorch, SpikingJelly, Norse; Bernoulli
spikes and constant images; float32 and bf16 autocast), kernel (the LIF alone against the memory's bandwidth), scaling
(T, batch and width); pathways have `benchmarks.pathways`. The cases of a section are interleaved in one process. Each
section is added to results/speed-DEVICE.json as soon as it is measured, with the machine, versions and commit that gave
it, so that `--only` renews single sections; run it on an idle machine. On a CPU the sections of `--tuned` (conv) run a
second time in a process whose malloc keeps freed memory: the same for all competitors, and set nowhere but there.

Peers: benchmarks/requirements-peers.txt says how to install them; those that are missing are skipped and named.
--compile adds torch.compile of every competitor, which Norse 1.1 and SpikingJelly 2.0 recommend; it takes minutes.
--quick runs everything in tiny sizes within a minute or two, to see that it runs, and writes to the temporary folder.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import speed_check, speed_kernel, speed_memory, speed_peers, speed_scaling, speed_steps
from benchmarks.common import RESULTS
from benchmarks.speed_networks import Input, works
from spikecredit.training.run import environment, finite_or_none

NETWORKS = ("fc", "conv", "vgg", "recurrent")
SECTIONS = (*NETWORKS, "kernel", "scaling")
# Freed memory is neither mapped afresh nor given back below 4 GiB. The older variables MALLOC_MMAP_THRESHOLD_ and
# MALLOC_TRIM_THRESHOLD_ did not have that effect with glibc 2.36: page faults per step show whether it is there.
TUNED_MALLOC = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
# What decides how fast float32 and bf16 are: bf16 matrix products need amx_bf16 (or at least avx512_bf16) to gain.
FLAGS = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_fp16", "asimd", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip
BUSY = 0.5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=_sections, default=list(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--tuned", type=_sections, default=["conv"], help="sections to run with tuned malloc too")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory, a process for each case")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, help="instead of results/speed-DEVICE.json")
    return parser.parse_args()


def _sections(text: str) -> list[str]:
    names = [name for name in text.split(",") if name not in ("", "none")]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return names


def cpu_flags() -> list[str]:
    """The instruction sets of FLAGS that this CPU has, in that order."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    found = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in FLAGS if flag in found]


def origin(given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What a figure of this run must name."""
    options = [f"--device {given.device}"] if given.device != "cpu" else []
    options += [f"--{name}" for name in ("quick", "compile") if getattr(given, name)]
    return {
        "command": " ".join(("python -m benchmarks.speed", *options)),
        **environment(device),
        "platform": platform.platform(),
        "cpu_flags": cpu_flags(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "peers": speed_peers.versions(),
        "malloc": os.environ.get("GLIBC_TUNABLES") or "default",
        "repeats": given.repeats,
        "load": speed_steps.load(),
        "date": time.strftime("%Y-%m-%d"),
        "spikingjelly_implementation": _spikingjelly_implementation(device),
    }


def _spikingjelly_implementation(device: torch.device) -> str | None:
    """Which of its kernels SpikingJelly chose on CUDA: native CUDA, Triton or torch."""
    if device.type == "cpu" or "spikingjelly" in speed_peers.absent():
        return None
    from spikingjelly.activation_based import functional

    return str(functional.neuron_implementation("lif", device))


def network(name: str, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One network's section: rows of each kind of input, and the proof that competitors do the same work."""
    work = works(device, given.quick)[name]
    rows = []
    for kind in work.kinds:
        print(f" {work.name}, T = {work.steps}, batch {work.batch}, input: {kind}")

        def memory(competitor: str, precision: str, kind: Input = kind) -> dict[str, float | None]:
            main_case = kind == "spikes" and precision == "float32"
            if given.no_memory or (given.quick and not (main_case and name == "fc" and competitor == speed_steps.OURS)):
                return {}
            if device.type != "cpu":
                one = speed_steps.competitors(work, given.compile)[competitor]
                return {"memory_mib": speed_steps.device_memory(work, kind, device, one, precision)}
            if "GLIBC_TUNABLES" in os.environ:  # what a step needs is the same under every malloc
                return {}
            case = {"network": name, "input": kind, "competitor": competitor, "precision": precision}
            case |= {"threads": given.threads, "quick": given.quick}
            found = {"memory_mib": speed_memory.needed(**case)}
            if main_case:  # three processes each: for the main case only
                found["resident_mib"] = speed_memory.resident_growth(**case)
            return found

        rows += speed_steps.measure(work, kind, device, given.repeats, memory, given.compile)
    described = {"name": work.name, "steps": work.steps, "batch": work.batch, "layers": [str(x) for x in work.layers]}
    return {"work": described, "rows": rows}


def measure(name: str, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    if name in NETWORKS:
        return network(name, given, device)
    section = {"kernel": speed_kernel.measure, "scaling": speed_scaling.scaling}
    return section[name](device, given.repeats, given.quick)


def save(path: Path, name: str, section: dict[str, Any]) -> None:
    """Merge one section into the record, which is whole on the disk before and after."""
    record = json.loads(path.read_text()) if path.exists() else {}
    sections = {**record.get("sections", {}), name: section}
    order = [label for one in SECTIONS for label in (one, tuned_label(one)) if label in sections]
    record = {
        "command": "python -m benchmarks.speed",
        "environment": section["environment"],
        "sections": {label: sections[label] for label in order},
    }
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(finite_or_none(record), indent=1) + "\n")
    temporary.replace(path)


def tuned_label(name: str) -> str:
    return f"{name}, tuned malloc"


def run_tuned(name: str, given: argparse.Namespace, path: Path) -> None:
    """The section again, in a process with tuned malloc; it writes to the same file."""
    command = [sys.executable, "-m", "benchmarks.speed", "--only", name, "--tuned", "none", "--output", str(path)]
    command += ["--repeats", str(given.repeats), "--threads", str(given.threads)]
    command += [f"--{option}" for option in ("quick", "compile") if getattr(given, option)]
    subprocess.run(command, env={**os.environ, "GLIBC_TUNABLES": TUNED_MALLOC}, check=True)


def main() -> None:
    given = parse()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with the processes it starts
    device = torch.device(given.device)
    torch.set_num_threads(given.threads)
    if given.quick:
        given.repeats = 2
    folder = Path(tempfile.gettempdir()) if given.quick else RESULTS
    path = given.output or folder / f"speed-{device.type}{'-quick' if given.quick else ''}.json"
    tuned = os.environ.get("GLIBC_TUNABLES") == TUNED_MALLOC
    about = origin(given, device)
    print(f"{about['processor']}, {about['device']}, {given.threads} threads; {' '.join(about['cpu_flags'])}")
    if device.type == "cpu" and "amx_bf16" not in about["cpu_flags"]:
        half = "avx512_bf16 only" if "avx512_bf16" in about["cpu_flags"] else "no bf16 instructions"
        print(f"This CPU has no AMX ({half}): bf16 gains far less here than on one that has it")
    for name, version in about["peers"].items():
        print(f"{name}: {version}" + (" (skipped)" if name in speed_peers.absent() else ""))
    if about["load"] > BUSY:
        print(f"The machine is busy (load {about['load']:.1f}): the figures will be upper bounds")
    same = speed_check.same_work()
    for row in same:
        spikes = f"{row['unequal_spikes']:.1%} of the spikes differ"
        print(f"Same work, {row['network']}: {row['peer']} and {row['equal_to']}, {spikes}")
    for name in given.only:
        print(f"{name}{', tuned malloc' if tuned else ''}")
        start = time.perf_counter()
        section = measure(name, given, device)
        ended = {"seconds": round(time.perf_counter() - start), "load_at_the_end": speed_steps.load()}
        section = {"environment": {**about, **ended}, "same_work": same, **section}
        save(path, tuned_label(name) if tuned else name, section)
        print(path)
        if device.type == "cpu" and not tuned and name in given.tuned and name in NETWORKS:
            run_tuned(name, given, path)


if __name__ == "__main__":
    main()

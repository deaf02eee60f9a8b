"""A run's folder: configuration, environment, metrics, checkpoints, report."""

import hashlib
import json
import math
import os
import platform
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from spikecredit.training import document

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"


class RunError(RuntimeError):
    """A run folder cannot be used as asked."""


def config_hash(resolved: dict[str, Any]) -> str:
    """SHA-256 of the resolved configuration, the same for equal experiments."""
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and commit: what a figure must name."""
    import numpy

    import spikecredit

    return {
        "spikecredit": spikecredit.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _commit() -> str | None:
    """The commit of the source tree that runs, with "+" if files differ from it, others than benchmarks' results; None
    outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changed = ["status", "--porcelain", "-uno", "--", ":!benchmarks/results"]
        dirty = subprocess.run(["git", "-C", root, *changed], capture_output=True, text=True).stdout
    except OSError:
        return None
    return commit.stdout.strip() + ("+" if dirty else "") if commit.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def free_folder(folder: Path) -> Path:
    """The folder itself if it does not exist, else the first of folder-2, folder-3, ... that does not."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def finite_or_none(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes null, in nested dicts and lists too."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or as it was before, whenever the process is killed."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


class Run:
    """The folder of one run.

    config.yaml (resolved, every default written out), environment.json (one entry for each start), metrics.jsonl (a
    line for each epoch, and the result), checkpoints/ (last and best), report.html.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"

    @classmethod
    def prepare(cls, folder: Path) -> "Run":
        """A new run, of which nothing is on the disk before `start`.

        Raises:
            RunError: the folder already holds one.
        """
        if (folder / CONFIG).exists():
            raise RunError(f"{folder} already holds a run: add --resume to go on with it, or name another with --run")
        return cls(folder)

    def start(self, resolved: dict[str, Any]) -> None:
        """Make the folder and write the resolved configuration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.config, document.write(resolved))

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run.

        Raises:
            RunError: there is none.
        """
        if not (folder / CONFIG).is_file():
            raise RunError(f"{folder} is no run folder: {folder / CONFIG} is missing")
        return cls(folder)

    @property
    def config(self) -> Path:
        return self.folder / CONFIG

    @cached_property
    def config_hash(self) -> str:
        """`config_hash` of the configuration as it was written when the run started.

        Not of what it resolves to today: a key that a later version adds, with its default, leaves old runs valid.
        """
        return config_hash(document.plain(document.read(self.config, None)))

    def record_environment(self, entry: dict[str, Any]) -> None:
        """Add the environment of one start of the run."""
        write_whole(self.folder / ENVIRONMENT, json.dumps([*self.environments(), entry], indent=1) + "\n")

    def environments(self) -> list[dict[str, Any]]:
        """One entry for each start of the run."""
        path = self.folder / ENVIRONMENT
        entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return entries

    def append(self, record: dict[str, Any]) -> None:
        """Add a line to the metrics, on the disk when this returns."""
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(finite_or_none(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics so far. A last line cut short by a crash is left out."""
        path = self.folder / METRICS
        records = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def cut_metrics(self, count: int) -> None:
        """Keep the first `count` lines: those written before the checkpoint from which the run goes on."""
        kept = self.metrics()[:count]
        write_whole(self.folder / METRICS, "".join(json.dumps(record) + "\n" for record in kept))

    def result(self) -> dict[str, Any] | None:
        """The line of the result; None if the run is not finished."""
        return next((r for r in self.metrics() if r["event"] == "result"), None)

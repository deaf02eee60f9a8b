"""Several processes: the same bits as one, clean ends by SIGINT and by kill -9, and a lost process costs one cell."""

import collections
import contextlib
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from spikecredit.analysis import comparison, report
from spikecredit.training import checkpoint, processes
from spikecredit.training.compare import Plan, compare, new_plan
from spikecredit.training.loop import Interrupted

CPU = (torch.device("cpu"),)
SPIKECREDIT = (sys.executable, "-c", "from spikecredit.cli import main; main()")
ONE = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LONG = ("training.epochs=5000", "training.checkpoint_every=5")  # nobody waits for its end


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that other processes can read: the data source is a real one."""
    monkeypatch.setattr(report, "write_report", lambda path, *_: path)
    monkeypatch.setattr(comparison, "write_comparison", lambda path, *_: path)
    path = tmp_path / "small.yaml"
    path.write_text(tiny.BASE.replace("epochs: 2, batch_size: 8", "epochs: 1, batch_size: 128") + "data: digits\n")
    return path


def carried_out(plan: Plan, folder: Path) -> dict[tuple[str, int], str]:
    return compare(plan, folder, CPU, lambda line: None, lambda images: None)


def cells(folder: Path) -> dict[str, object]:
    """Metrics without times, and every tensor of the last checkpoint but the process's own random state."""
    found: dict[str, object] = {}
    for cell in sorted(folder.glob("*/seed-*")):
        saved = checkpoint.latest(cell / "checkpoints", "last").tensors
        tensors = {f"{group}/{name}": t.tolist() for group, some in saved.items() for name, t in some.items()}
        tensors = {name: values for name, values in tensors.items() if not name.startswith("rng/")}
        found[str(cell.relative_to(folder))] = (tiny.metrics(cell), tensors)
    return found


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def training(cell: Path) -> list[int]:
    """Our children that have this cell's folder open, which is how they claim it."""
    found = []
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(OSError):
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            found += [int(pid)] if str(cell) in links else []
    return found


def test_two_processes_give_the_bits_of_one_and_a_killed_one_costs_its_cell(source: Path, tmp_path: Path) -> None:
    changes = ("brSF:training.epochs=25", "brSF:seeds=1")
    plan = new_plan([source], "brSF,BP", "none", 2, (), changes)
    assert carried_out(plan, tmp_path / "one") == {}
    victim, killed = tmp_path / "two" / "brSF" / "seed-0", []

    def tell(line: str) -> None:
        """At the first result kill the process that has the longest cell."""
        if line.startswith("BP ") and not killed:
            wait_for(lambda: bool(training(victim)))
            killed.extend(training(victim))
            os.kill(killed[0], signal.SIGKILL)

    failures = compare(plan.on(None, 2), tmp_path / "two", CPU, tell, lambda images: None)
    assert failures.keys() == {("brSF", 0)}
    assert "its process was killed by SIGKILL (out of memory?)" in failures["brSF", 0]
    assert carried_out(plan, tmp_path / "two") == {}
    assert cells(tmp_path / "two") == cells(tmp_path / "one")


def test_a_process_that_dies_idle_costs_no_cell(source: Path, tmp_path: Path) -> None:
    plan = new_plan([source], "BP", None, 1, (), ())
    (cell,) = plan.cells(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    worker, waiting = processes._Worker(process, ours, "cpu"), collections.deque([cell])
    workers = [worker]
    processes._give(waiting, worker, workers)
    assert workers == [] and list(waiting) == [cell] and process.exitcode == 0


def test_processes_share_devices_and_threads(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after one was lost and another took its place."""
    started: list[tuple[str, int]] = []
    others = []  # the ends of the pipes that processes would hold

    class Process:
        """Does nothing."""

        def join(self) -> None: ...

        kill = join

    def start(threads: int, device: str) -> processes._Worker:
        """The first one is dead; the others' cells end at once."""
        ours, theirs = multiprocessing.Pipe()
        if started:
            for _ in range(3):
                theirs.send(("end", None))
            others.append(theirs)
        else:
            theirs.close()
        started.append((device, threads))
        return processes._Worker(Process(), ours, device)  # type: ignore[arg-type]

    monkeypatch.setattr(processes, "_start", start)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    cells = new_plan([source], "BP", None, 3, (), ()).cells(tmp_path)
    two = [torch.device("cuda:0"), torch.device("cuda:1")]
    ended = list(processes.in_processes(cells, 2, two, lambda line: None))
    assert started == [("cuda:0", 4), ("cuda:1", 4), ("cuda:0", 4)]
    assert sorted(cell.seed for cell, _ in ended) == [0, 1, 2]


def assert_stopped(folder: Path) -> None:
    """Every cell has been let go of, unfinished, with a checkpoint."""
    plan = Plan.open(folder)
    assert plan.jobs == 2
    for cell in plan.cells(folder):
        handle = os.open(cell.folder, os.O_RDONLY)

        def free(handle: int = handle) -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_for(free)
        os.close(handle)
        assert checkpoint.latest(cell.folder / "checkpoints", "last").step > 9 and not cell.finished()


def both_train(folder: Path) -> bool:
    """Both cells are in the middle of their training."""
    paths = [folder / name / "seed-0" / "metrics.jsonl" for name in ("BP", "FA")]
    return all(path.exists() and path.read_text().count("\n") > 2 for path in paths)


def test_sigint_stops_all_processes_with_a_checkpoint(source: Path, tmp_path: Path) -> None:
    plan = new_plan([source], "BP,FA", None, 1, LONG, ()).on("cpu", 2)

    def interrupt() -> None:
        wait_for(lambda: both_train(tmp_path / "x"))
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    with pytest.raises(Interrupted) as stop:
        carried_out(plan, tmp_path / "x")
    user.join()
    assert stop.value.signum == signal.SIGINT and multiprocessing.active_children() == []
    assert_stopped(tmp_path / "x")


def test_when_the_parent_is_killed_its_processes_stop_with_a_checkpoint(source: Path, tmp_path: Path) -> None:
    """They must not train on beside those of the comparison that goes on."""
    words = (str(source), "--pathway", "BP,FA", "--seeds", "1", "--jobs", "2", *LONG, "--run", str(tmp_path / "x"))
    process = subprocess.Popen((*SPIKECREDIT, "compare", *words), env=ONE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: both_train(tmp_path / "x"))
    process.kill()
    _, told = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in told
    assert_stopped(tmp_path / "x")

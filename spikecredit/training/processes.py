"""Cells of a comparison in several processes: each trains one cell at a time, on its own device if there are several.

The processes are spawned, never forked: torch and CUDA do not survive a fork. A signal to the parent is handed on as
SIGTERM, upon which the trainer in the child writes a checkpoint and stops.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

import torch

from spikecredit.training.cell import Cell, Data, Tell, run_cell
from spikecredit.training.loop import Interrupted, stop_signals

POLL = 0.2
"""Seconds between two looks at whether a signal came."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    device: str
    cell: Cell | None = None


def in_processes(
    cells: Sequence[Cell], jobs: int, devices: Sequence[torch.device], tell: Tell
) -> Generator[tuple[Cell, str | None]]:
    """Train cells in `jobs` processes; yields each with None, or why it has no result, as they end.

    Each process gets an equal share of torch's threads, and computes what one process with as many threads would.

    Raises:
        Interrupted: a signal came; every cell in hand has a checkpoint.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = deque(cells)
    workers: list[_Worker] = []
    try:
        with stop_signals() as received:
            stopping = False
            while (waiting and not received) or any(worker.cell for worker in workers):
                if received and not stopping:
                    stopping = True
                    for worker in workers:
                        if worker.cell:
                            worker.process.terminate()
                busy = sum(worker.cell is not None for worker in workers)
                while not received and len(workers) < min(jobs, busy + len(waiting)):
                    used = [worker.device for worker in workers]
                    workers.append(_start(threads, min(map(str, devices), key=used.count)))
                for worker in list(workers):
                    if worker.cell is None and waiting and not received:
                        _give(waiting, worker, workers)
                for pipe in wait([worker.pipe for worker in workers if worker.cell], POLL):
                    worker = next(worker for worker in workers if worker.pipe is pipe)
                    yield from _hear(worker, workers, tell, stopping)
            if received:
                raise Interrupted(received[0])
    finally:
        for worker in workers:
            worker.pipe.close()  # an idle worker ends at the end of its pipe
            if worker.cell is not None:
                worker.process.kill()
            worker.process.join()


def _give(waiting: deque[Cell], worker: _Worker, workers: list[_Worker]) -> None:
    """Hand a worker the next cell. One that died while it was idle is dropped, and another is started for it."""
    try:
        worker.pipe.send(waiting[0])
    except OSError:
        workers.remove(worker)
        worker.process.join()
    else:
        worker.cell = waiting.popleft()


def _hear(worker: _Worker, workers: list[_Worker], tell: Tell, stopping: bool) -> Iterator[tuple[Cell, str | None]]:
    """One message of a worker: text for the user, or how its cell ended."""
    assert worker.cell is not None
    cell = worker.cell
    try:
        kind, text = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        workers.remove(worker)
        if stopping:  # SIGTERM found it before or after the training itself: the cell stands where its files say
            return
        code = worker.process.exitcode or 0
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        yield cell, f"its process {what} (out of memory?); the rest goes on, and this cell with --resume"
        return
    if kind == "tell":
        tell(text)
        return
    worker.cell = None
    if kind == "end":
        yield cell, text


def _start(threads: int, device: str) -> _Worker:
    """A process that waits for cells. It is born ignoring SIGINT, which a terminal sends to all: the parent hands on
    what it gets."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = context.Process(target=_work, args=(theirs, threads, device), daemon=True)
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Worker(process, ours, device)


def _work(pipe: Connection, threads: int, device: str) -> None:
    """A worker's life: cells from the pipe, and how each ended into it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    data, parent = Data(torch.device(device)), multiprocessing.parent_process()
    assert parent is not None

    def watch(*_: object) -> None:
        if os.getppid() != parent.pid:  # it was killed: somebody may go on with the cell, so stop as at a signal
            signal.raise_signal(signal.SIGTERM)

    def send(kind: str, text: str | None) -> None:
        with suppress(OSError):  # nobody listens any more
            pipe.send((kind, text))

    while True:
        try:
            cell = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            failure = run_cell(cell, data, lambda text: send("tell", text), lambda images: watch)
        except Interrupted:
            send("stopped", None)
        else:
            send("end", failure)

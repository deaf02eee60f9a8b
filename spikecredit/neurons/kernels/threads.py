"""The compiled loops' threads: as many as torch uses, each with a part of the neurons."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import torch

from spikecredit.neurons.kernels import passes

PARALLEL = {**passes.COMPILE, "parallel": True}

GRAIN = 1 << 14
"""Neuron-steps a thread must have to be worth waking (5 to 10 us of work)."""

_LOCK = threading.Lock()  # one parallel region at a time: not every threading layer of numba allows two
_first_process = os.getpid()


def run(serial: Any, parallel: Any, steps: int, n: int, *arguments: Any, line: int = 16) -> None:
    """Share the neurons among as many threads as torch uses, and leave torch's setting as it was."""
    share(serial, parallel, steps, n, line)(*arguments)


def share(serial: Any, parallel: Any, steps: int, n: int, line: int = 16) -> Callable[..., None]:
    """The same as a function of the arguments, for many calls of `steps` steps each. A thread has whole cache lines of
    neurons, or whatever `line` says."""
    threads = torch.get_num_threads()
    team = min(threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    wanted = min(team, steps * n // GRAIN)
    # a forked child of a process that used OpenMP may not use it again
    if wanted <= 1 or os.getpid() != _first_process:
        return lambda *arguments: serial(0, n, *arguments)
    chunk = (-(-n // wanted) + line - 1) // line * line
    parts = -(-n // chunk)

    def shared(*arguments: Any) -> None:
        with _LOCK:
            # the same team always, if only one of it has work: OpenMP would end and start threads when its size changes
            numba.set_num_threads(team)
            parallel(parts, chunk, n, *arguments)
        if torch.get_num_threads() != threads:  # numba's first parallel call sets OpenMP's number, which is torch's
            torch.set_num_threads(threads)

    return shared

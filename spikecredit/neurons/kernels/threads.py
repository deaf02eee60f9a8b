"""The compiled loops' threads: as many as torch uses, each with a part of the neurons."""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from spikecredit.neurons.kernels import passes

GRAIN = 1 << 14
"""Neuron-steps a thread must have to be worth waking (5 to 10 us of work)."""

_LOCK = threading.Lock()  # one parallel region at a time: not every threading layer of numba allows two
_first_process = os.getpid()
_addresses: dict[Any, int] = {}


def run(function: Any, steps: int, n: int, *arguments: Any, line: int = 16) -> None:
    """Share the neurons among as many threads as torch uses, and leave torch's setting as it was: in each
    function(start, stop, *arguments)."""
    share(function, steps, n, line)(*arguments)


def share(function: Any, steps: int, n: int, line: int = 16) -> Callable[..., None]:
    """The same as a function of the arguments, for many calls of `steps` steps each. A thread has whole cache lines of
    neurons, or whatever `line` says. MemoryError if a thread fails."""
    threads = torch.get_num_threads()
    team = min(threads, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    wanted = min(team, steps * n // GRAIN)
    compiled = hasattr(function, "overloads")  # not with NUMBA_DISABLE_JIT
    # a forked child of a process that used OpenMP may not use it again
    if wanted <= 1 or not compiled or os.getpid() != _first_process:
        return lambda *arguments: function(0, n, *arguments)
    chunk = (-(-n // wanted) + line - 1) // line * line
    parts = -(-n // chunk)

    def shared(*arguments: Any) -> None:
        address = _address(function, arguments)
        with _LOCK:
            # the same team always, if only one of it has work: OpenMP would end and start threads when its size changes
            numba.set_num_threads(team)
            failed = _in_parts(address, parts, chunk, n, *arguments)
        if torch.get_num_threads() != threads:  # numba's first parallel call sets OpenMP's number, which is torch's
            torch.set_num_threads(threads)
        if failed:  # all that these loops ask for, and may not get
            raise MemoryError(f"{failed} of {parts} threads got no memory to work in; give the batch in smaller parts")

    return shared


# A parallel loop takes a function by its address. One that takes the function itself takes its code, too, and numba
# optimises that again with each of the three functions that it makes of a parallel loop.


def _address(function: Any, arguments: tuple[Any, ...]) -> int:
    """Of a compiled function for arguments of these types."""
    known = function, *[(a.dtype, a.ndim, a.flags.num) if isinstance(a, np.ndarray) else type(a) for a in arguments]
    if known not in _addresses:
        kinds = (types.int64, types.int64, *map(numba.typeof, arguments))
        if kinds not in function.overloads:
            function.compile(kinds)
        made = function.overloads[kinds]
        _addresses[known] = made.library.get_pointer_to_function(made.fndesc.llvm_func_name)
    return _addresses[known]


@intrinsic
def _call(context, address, start, stop, arguments):
    """1 if the function of (start, stop, *arguments) at an address failed, and 0 if it returned its nothing."""
    kinds = (types.int64, types.int64, *arguments)

    def made(context, builder, signature, values):
        place, start, stop, packed = values
        kind = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(place, kind.as_pointer())
        values = (start, stop, *cgutils.unpack_tuple(builder, packed))
        status, _ = context.call_conv.call_function(builder, function, types.none, kinds, values)
        return builder.zext(status.is_error, context.get_value_type(types.int64))

    return types.int64(types.int64, types.int64, types.int64, arguments), made


@njit(**passes.COMPILE, parallel=True)
def _in_parts(address, parts, chunk, n, *arguments):
    failed = 0  # what a thread raises is lost
    # numba itself hands over the first argument of `_call`, which mypy cannot know (call-arg)
    for p in prange(parts):
        failed += _call(address, p * chunk, min((p + 1) * chunk, n), arguments)  # type: ignore[call-arg]
    return failed

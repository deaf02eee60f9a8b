"""The compiled loops of `events.py`."""

import numpy as np
from numba import njit
from torch import Tensor

from spikecredit.neurons.kernels import passes, threads

BLOCK = 1024
"""Outputs at a time: 4 KiB of sums in the first-level cache, and rows long enough for the prefetcher."""


@njit(**passes.COMPILE)
def _add(index, value, count, w, start, stop, total):
    """total += sum over k of value[k] w[index[k], start:stop]; eight rows at a time, as the sums' own loads and stores
    would else take as long as the rows'."""
    n = stop - start
    k = 0
    while k + 8 <= count:
        a, b, c, d = (
            w[index[k], start:stop], w[index[k + 1], start:stop], w[index[k + 2], start:stop],
            w[index[k + 3], start:stop],
        )  # fmt: skip
        e, f, g, h = (
            w[index[k + 4], start:stop], w[index[k + 5], start:stop], w[index[k + 6], start:stop],
            w[index[k + 7], start:stop],
        )  # fmt: skip
        p, q, r, s = value[k], value[k + 1], value[k + 2], value[k + 3]
        t, u, v, x = value[k + 4], value[k + 5], value[k + 6], value[k + 7]
        for j in range(n):
            total[j] += ((p * a[j] + q * b[j]) + (r * c[j] + s * d[j])) + (
                (t * e[j] + u * f[j]) + (v * g[j] + x * h[j])
            )
        k += 8
    while k < count:
        a, p = w[index[k], start:stop], value[k]
        for j in range(n):
            total[j] += p * a[j]
        k += 1


@njit(**passes.COMPILE)
def _gather(start, stop, x, w, y):
    inputs, outputs = x.shape[1], w.shape[1]
    index, value = np.empty(inputs + 1, np.int32), np.empty(inputs + 1, x.dtype)
    for row in range(start, stop):
        count = 0
        for j in range(inputs):  # without a branch, which would be mispredicted at every event
            v = x[row, j]
            index[count], value[count] = j, v
            count += v != 0
        for begin in range(0, outputs, BLOCK):
            end = min(begin + BLOCK, outputs)
            _add(index, value, count, w, begin, end, y[row, begin:end])


@njit(**passes.COMPILE)
def _census(x):
    events, ones = 0, 0
    for v in x:
        events += v != 0
        ones += v == 1
    return events, ones


def census(x: Tensor) -> tuple[int, int]:
    """How many entries of a contiguous x are not zero, and how many are one."""
    return _census(x.view(-1).numpy())


def gather(x: Tensor, w: Tensor, y: Tensor) -> None:
    """y += x w; x (n, m) with few entries that are not zero, w (m, k) and y (n, k), all contiguous."""
    threads.run(_gather, w.shape[1], len(x), x.numpy(), w.numpy(), y.numpy())

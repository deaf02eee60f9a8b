"""The compiled loop of `magnitudes.scale_`. One thread: waking a second costs about as much as it saves."""

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, error_model="numpy", cache=True, inline="always")
def _word(key, n):
    z = key + np.uint64(n + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, error_model="numpy", cache=True)
def _scale(key, table, values):
    last, whole = np.uint64(4095), len(values) // 5
    for n in range(whole):  # the rest apart: a branch in here takes half as long again
        z = _word(key, n)
        values[5 * n] *= table[z & last]
        values[5 * n + 1] *= table[(z >> np.uint64(12)) & last]
        values[5 * n + 2] *= table[(z >> np.uint64(24)) & last]
        values[5 * n + 3] *= table[(z >> np.uint64(36)) & last]
        values[5 * n + 4] *= table[(z >> np.uint64(48)) & last]
    z = _word(key, whole)
    for k in range(5 * whole, len(values)):
        values[k] *= table[z & last]
        z >>= np.uint64(12)


def scale(key: int, table: Any, values: Any) -> None:
    """values[5 n + j] *= table[12 bits of word n from bit 12 j on]; table of 4,096 entries, values contiguous."""
    _scale(np.uint64(key), table, values)

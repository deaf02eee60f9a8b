"""The compiled loop of `magnitudes.scale_`. One thread: waking a second costs about as much as it saves."""

from typing import Any

import numpy as np
from numba import njit

LAST = (1 << 16) - 1


@njit(nogil=True, error_model="numpy", cache=True)
def _scale(key, table, values):
    bits, whole = np.uint64(LAST), len(values) // 4
    for n in range(whole + (len(values) % 4 > 0)):
        z = key + np.uint64(n + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        if n < whole:
            values[4 * n] *= table[z & bits]
            values[4 * n + 1] *= table[(z >> np.uint64(16)) & bits]
            values[4 * n + 2] *= table[(z >> np.uint64(32)) & bits]
            values[4 * n + 3] *= table[z >> np.uint64(48)]
        else:
            for k in range(4 * n, len(values)):
                values[k] *= table[z & bits]
                z >>= np.uint64(16)


def scale(key: int, table: Any, values: Any) -> None:
    """values[4 n + j] *= table[16 bits of word n from bit 16 j on]; table of 65,536 entries, values contiguous."""
    _scale(np.uint64(key), table, values)

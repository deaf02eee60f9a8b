"""The compiled loop of `seeds.magnitudes`. One thread: it waits for the table, and waking a second costs as much."""

from typing import Any

import numpy as np
from numba import njit

LAST = (1 << 16) - 1


@njit(nogil=True, error_model="numpy", cache=True)
def _look_up(key, table, values):
    bits, whole = np.uint64(LAST), len(values) // 4
    for n in range(whole + (len(values) % 4 > 0)):
        z = key + np.uint64(n + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        if n < whole:
            values[4 * n] = table[z & bits]
            values[4 * n + 1] = table[(z >> np.uint64(16)) & bits]
            values[4 * n + 2] = table[(z >> np.uint64(32)) & bits]
            values[4 * n + 3] = table[z >> np.uint64(48)]
        else:
            for k in range(4 * n, len(values)):
                values[k] = table[z & bits]
                z >>= np.uint64(16)


def look_up(key: int, table: Any, values: Any) -> None:
    """values[4 n + j] = table[16 bits of word n from bit 16 j on]; table of 65,536 entries, values contiguous."""
    _look_up(np.uint64(key), table, values)

"""The compiled loops of `events.py` for spikes that are all 0 or 1: a sum is looked up for every four inputs.

Of four rows of W there are 16 sums, made once for many rows of x. A row of x then reads one sum where a matrix product
multiplies four rows: four times fewer additions, whatever the share of spikes (the method of four Russians: Arlazarov,
Dinic, Kronrod & Faradzev 1970). The sums of eight fours, for 64 outputs, fill the first-level cache.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from torch import Tensor

from spikecredit.neurons.kernels import passes
from spikecredit.neurons.kernels.cpu import PARALLEL, _run

TILE = 64
"""Outputs at a time."""

TABLES = 8
"""Fours at a time: a row of outputs is loaded and stored once for all of them."""

ROWS = 800
"""Rows of x between two makings of the same sums, so that their outputs stay in the second-level cache."""

INPUTS = 4 * TABLES
BYTES = 16 * TILE * 4
"""Of one table."""

# Numba itself hands the first argument, the typing context, to an intrinsic: a caller leaves it out, which mypy cannot
# know (call-arg below).
LINE = ir.VectorType(ir.FloatType(), TILE)
HALF = ir.VectorType(ir.FloatType(), TILE // 2)
"""Half a row: 16 sums of it are made in the vector registers."""


def _at(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    moved = builder.add(address, ir.Constant(ir.IntType(64), offset))
    return builder.inttoptr(moved, kind.as_pointer())


@intrinsic
def _look_up(context: Any, y: Any, tables: Any, codes: Any) -> Any:
    """y[0:TILE] += the sums that eight codes name. Written as vector instructions: numba's own loop keeps y in memory,
    as it cannot know that the tables lie elsewhere, and takes three times as long. All arguments are addresses."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        y, tables, codes = arguments
        total = builder.load(_at(builder, y, 0, LINE), align=4)
        for table in range(TABLES):
            code = builder.zext(builder.load(_at(builder, codes, table, ir.IntType(8))), ir.IntType(64))
            place = builder.add(tables, builder.mul(code, ir.Constant(ir.IntType(64), TILE * 4)))
            total = builder.fadd(total, builder.load(_at(builder, place, table * BYTES, LINE), align=32))
        builder.store(total, _at(builder, y, 0, LINE), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), made


@intrinsic
def _make(context: Any, table: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The 16 sums of four rows, bit k of a code for the k-th of them. All arguments are addresses."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, *rows = arguments
        for start in (0, TILE * 2):
            sums: list[Any] = [ir.Constant(HALF, [0.0] * (TILE // 2))]
            for row in rows:
                values = builder.load(_at(builder, row, start, HALF), align=4)
                sums += [values if code == 0 else builder.fadd(known, values) for code, known in enumerate(sums)]
            for code, total in enumerate(sums):
                builder.store(total, _at(builder, table, code * TILE * 4 + start, HALF), align=32)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), made


@njit(**passes.COMPILE)
def _tables(start, stop, codes, w, y):
    fours, (inputs, outputs) = codes.shape[1], w.shape
    room, zeros = np.empty(TABLES * 16 * TILE + 16, np.float32), np.zeros(TILE, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    tables = room[skip : skip + TABLES * 16 * TILE].reshape(TABLES, 16, TILE)
    line = 4 * outputs
    for first in range(start, stop, ROWS):
        last = min(first + ROWS, stop)
        for tile in range(0, outputs, TILE):
            begin = min(tile, outputs - TILE)  # the last tile begins within the one before
            for four in range(0, fours, TABLES):
                for table in range(TABLES):
                    a = b = c = d = zeros.ctypes.data
                    k = 4 * (four + table)
                    source = w.ctypes.data + k * line + 4 * begin
                    if k < inputs:
                        a = source
                    if k + 1 < inputs:
                        b = source + line
                    if k + 2 < inputs:
                        c = source + 2 * line
                    if k + 3 < inputs:
                        d = source + 3 * line
                    _make(tables.ctypes.data + table * BYTES, a, b, c, d)  # type: ignore[call-arg]
                tables[:, :, : tile - begin] = 0  # which had its sums already
                target, code = y.ctypes.data + 4 * begin, codes.ctypes.data + four
                for row in range(first, last):
                    _look_up(target + row * line, tables.ctypes.data, code + row * fours)  # type: ignore[call-arg]


@njit(**PARALLEL)
def _tables_parallel(parts, chunk, n, *arguments):
    for p in prange(parts):
        _tables(p * chunk, min((p + 1) * chunk, n), *arguments)


@njit(**passes.COMPILE)
def _code_rows(start, stop, x, codes, graded):
    inputs = x.shape[1]
    whole = inputs // 4
    for row in range(start, stop):
        other = False
        for four in range(whole):
            a, b, c, d = x[row, 4 * four], x[row, 4 * four + 1], x[row, 4 * four + 2], x[row, 4 * four + 3]
            codes[row, four] = np.uint8((a != 0) | ((b != 0) << 1) | ((c != 0) << 2) | ((d != 0) << 3))
            other |= ((a != 0) & (a != 1)) | ((b != 0) & (b != 1)) | ((c != 0) & (c != 1)) | ((d != 0) & (d != 1))
        for k in range(4 * whole, inputs):
            v = x[row, k]
            codes[row, whole] |= np.uint8((v != 0) << (k - 4 * whole))
            other |= (v != 0) & (v != 1)
        graded[row] = other


@njit(**PARALLEL)
def _code_rows_parallel(parts, chunk, n, *arguments):
    for p in prange(parts):
        _code_rows(p * chunk, min((p + 1) * chunk, n), *arguments)


@njit(**passes.COMPILE)
def _code_columns(start, stop, x, codes):
    rows = len(x)
    for begin in range(start, stop, TILE):
        end = min(begin + TILE, stop)
        for four in range(rows // 4):
            a, b, c, d = x[4 * four], x[4 * four + 1], x[4 * four + 2], x[4 * four + 3]
            for k in range(begin, end):
                codes[k, four] = np.uint8((a[k] != 0) | ((b[k] != 0) << 1) | ((c[k] != 0) << 2) | ((d[k] != 0) << 3))
        for row in range(rows // 4 * 4, rows):
            for k in range(begin, end):
                codes[k, row // 4] |= np.uint8((x[row, k] != 0) << (row % 4))


@njit(**PARALLEL)
def _code_columns_parallel(parts, chunk, n, *arguments):
    for p in prange(parts):
        _code_columns(p * chunk, min((p + 1) * chunk, n), *arguments)


def _empty(rows: int, inputs: int) -> Any:
    return np.zeros((rows, -(-inputs // INPUTS) * TABLES), np.uint8)


def code_rows(x: Tensor) -> Any:
    """Four entries of a row of x (n, m), contiguous, in the bits of one byte, (n, m / 4 and zeros up to a multiple of
    8); None if some entry is neither 0 nor 1."""
    codes, graded = _empty(*x.shape), np.empty(len(x), np.bool_)
    _run(_code_rows, _code_rows_parallel, x.shape[1], len(x), x.numpy(), codes, graded)
    return None if graded.any() else codes


def code_columns(x: Tensor) -> Any:
    """The same of four entries of a column, of spikes that are known to be 0 or 1: (m, n / 4 and zeros)."""
    codes = _empty(x.shape[1], x.shape[0])
    _run(_code_columns, _code_columns_parallel, len(x), x.shape[1], x.numpy(), codes)
    return codes


def add(codes: Any, w: Tensor, y: Tensor) -> None:
    """y += x w for the x (n, m) that the codes are of; w (m, k) and y (n, k), float32 and contiguous, k at least TILE.

    Raises:
        ValueError: anything else, as the loops go by addresses.
    """
    (rows, fours), (inputs, outputs) = codes.shape, w.shape
    fits = fours * 4 >= inputs and fours % TABLES == 0 and outputs >= TILE and y.shape == (rows, outputs)
    if not (fits and all(t.is_contiguous() and t.dtype == torch.float32 and t.device.type == "cpu" for t in (w, y))):
        raise ValueError(
            f"codes {codes.shape} times w {tuple(w.shape)} into y {tuple(y.shape)}: expected contiguous float32 on the "
            f"CPU, codes of w's rows, and at least {TILE} columns; got {w.dtype} and {y.dtype}"
        )
    _run(_tables, _tables_parallel, w.shape[1], len(codes), codes, w.numpy(), y.numpy())

"""The compiled loops of `events.py` for spikes that are all 0 or 1: a sum is looked up for every four inputs.

Of four rows of W there are 16 sums, made once for many rows of x. A row of x then reads one sum where a matrix product
multiplies four rows: four times fewer additions, whatever the share of spikes (the method of four Russians: Arlazarov,
Dinic, Kronrod & Faradzev 1970). The sums of eight fours, for 64 outputs, fill the first-level cache.
"""

import math
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional as F

from spikecredit.neurons.kernels import arrays, passes, threads
from spikecredit.neurons.kernels.lanes import integers, rounded, widened

Pair = tuple[int, int]

TILE, SMALL = 64, 16
"""Outputs at a time, and those in a layer of fewer."""

NUMBERS = (torch.float32, torch.bfloat16)

TABLES = 8
"""Fours at a time: a row of outputs is loaded and stored once for all of them."""

ROWS = 800
"""Rows of x between two makings of the same sums, so that their outputs stay in the second-level cache."""

# Numba itself hands the first argument, the typing context, to an intrinsic: a caller leaves it out, which mypy cannot
# know (call-arg below).


def at_address(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    """A pointer to what lies so many bytes behind an address, inside an intrinsic."""
    moved = builder.add(address, ir.Constant(ir.IntType(64), offset))
    return builder.inttoptr(moved, kind.as_pointer())


@intrinsic
def copy_bytes(context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy so many bytes from one address to another: numba's own loop goes byte by byte."""

    def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source, count = arguments
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, word])
        builder.call(memcpy, [builder.inttoptr(target, byte), builder.inttoptr(source, byte), count, ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), made


def _look_up(tile: int) -> Any:
    """An intrinsic: y[0:tile] += the sums that eight codes name, each `stride` bytes behind the one before."""
    vector, word = ir.VectorType(ir.FloatType(), tile), ir.IntType(64)

    @intrinsic
    def look_up(context: Any, y: Any, tables: Any, codes: Any, stride: Any) -> Any:
        """All arguments but the stride are addresses. Written as vector instructions: numba's own loop keeps y in
        memory, as it cannot know that the tables lie elsewhere, and takes three times as long."""

        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            y, tables, codes, stride = arguments
            total = builder.load(at_address(builder, y, 0, vector), align=4)
            for table in range(TABLES):
                code = builder.zext(builder.load(at_address(builder, codes, 0, ir.IntType(8))), word)
                codes = builder.add(codes, stride)
                place = at_address(
                    builder, builder.add(tables, builder.mul(code, word(tile * 4))), table * 64 * tile, vector
                )
                total = builder.fadd(total, builder.load(place, align=32))
            builder.store(total, at_address(builder, y, 0, vector), align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), made

    return look_up


def _make(tile: int) -> Any:
    """An intrinsic: the 16 sums of four rows, bit k of a code for the k-th of them."""
    piece = min(tile, 32)  # 16 sums of so many numbers are made in the vector registers
    vector = ir.VectorType(ir.FloatType(), piece)

    @intrinsic
    def make(context: Any, table: Any, w: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        """All arguments are addresses but w, of whose type the rows are."""
        size = w.dtype.bitwidth // 8

        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            table, _, *rows = arguments
            kind = vector if size == 4 else integers(0, piece, 16).type
            for start in range(0, tile, piece):
                sums: list[Any] = [ir.Constant(vector, [0.0] * piece)]
                for row in rows:
                    values = builder.load(at_address(builder, row, start * size, kind), align=size)
                    values = values if size == 4 else widened(builder, values)
                    sums += [values if code == 0 else builder.fadd(known, values) for code, known in enumerate(sums)]
                for code, total in enumerate(sums):
                    place = at_address(builder, table, (code * tile + start) * 4, vector)
                    builder.store(total, place, align=32)
            return context.get_dummy_value()

        return types.void(types.intp, w, *[types.intp] * 4), made

    return make


def _put(tile: int) -> Any:
    """An intrinsic: so many float32 at an address into y, from a place on."""
    vector = ir.VectorType(ir.FloatType(), tile)

    @intrinsic
    def put(context: Any, y: Any, place: Any, source: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array, place, source = arguments
            values, size = builder.load(at_address(builder, source, 0, vector), align=64), y.dtype.bitwidth // 8
            values = values if size == 4 else rounded(builder, values)
            data = builder.gep(context.make_array(y)(context, builder, array).data, [place])
            builder.store(values, builder.bitcast(data, values.type.as_pointer()), align=size)
            return context.get_dummy_value()

        return types.void(y, types.intp, types.intp), made

    return put


_look_up_wide, _look_up_small = _look_up(TILE), _look_up(SMALL)
_make_wide, _make_small = _make(TILE), _make(SMALL)
_put_wide, _put_small = _put(TILE), _put(SMALL)


@njit(**passes.COMPILE)
def _aligned(size):
    room = np.empty(size + 16, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + size]


@njit(**passes.COMPILE)
def _tables(start, stop, codes, w, bias, y):
    fours, (inputs, outputs) = codes.shape[1], w.shape
    tile = TILE if outputs >= TILE else SMALL
    tables, block = _aligned(TABLES * 16 * tile).reshape(TABLES, 16, tile), _aligned(ROWS * tile)
    zeros = np.zeros(tile, np.float32)
    line, (length, stride) = w.itemsize * outputs, codes.strides
    # an array lives until its last use: an address of the block taken here would outlive it
    for first in range(start, stop, ROWS):
        rows = min(first + ROWS, stop) - first
        for at in range(0, outputs, tile):
            begin = min(at, outputs - tile)  # the last tile begins within the one before
            for row in range(rows):
                copy_bytes(block.ctypes.data + 4 * tile * row, bias.ctypes.data + 4 * begin, 4 * tile)  # type: ignore[call-arg]
            for four in range(0, fours, TABLES):
                for table in range(TABLES):
                    a = b = c = d = zeros.ctypes.data
                    k = 4 * (four + table)
                    source = w.ctypes.data + k * line + w.itemsize * begin
                    if k < inputs:
                        a = source
                    if k + 1 < inputs:
                        b = source + line
                    if k + 2 < inputs:
                        c = source + 2 * line
                    if k + 3 < inputs:
                        d = source + 3 * line
                    if tile == TILE:
                        _make_wide(tables[table].ctypes.data, w, a, b, c, d)
                    else:
                        _make_small(tables[table].ctypes.data, w, a, b, c, d)
                code = codes.ctypes.data + first * length + four * stride
                if tile == TILE:
                    for row in range(rows):
                        _look_up_wide(
                            block.ctypes.data + 4 * tile * row, tables.ctypes.data, code + row * length, stride
                        )
                else:
                    for row in range(rows):
                        _look_up_small(
                            block.ctypes.data + 4 * tile * row, tables.ctypes.data, code + row * length, stride
                        )
            for row in range(rows):
                if tile == TILE:
                    _put_wide(y, (first + row) * outputs + begin, block.ctypes.data + 4 * tile * row)
                else:
                    _put_small(y, (first + row) * outputs + begin, block.ctypes.data + 4 * tile * row)


@njit(**passes.COMPILE)
def _code_rows(start, stop, x, one, codes, graded):
    inputs = x.shape[1]
    whole = inputs // 4
    for row in range(start, stop):
        other = False
        for four in range(whole):
            a, b, c, d = x[row, 4 * four], x[row, 4 * four + 1], x[row, 4 * four + 2], x[row, 4 * four + 3]
            codes[row, four] = np.uint8((a != 0) | ((b != 0) << 1) | ((c != 0) << 2) | ((d != 0) << 3))
            other |= (
                ((a != 0) & (a != one)) | ((b != 0) & (b != one)) | ((c != 0) & (c != one)) | ((d != 0) & (d != one))
            )
        for k in range(4 * whole, inputs):
            v = x[row, k]
            codes[row, whole] |= np.uint8((v != 0) << (k - 4 * whole))
            other |= (v != 0) & (v != one)
        graded[row] = other


@njit(**passes.COMPILE)
def _patches(start, stop, pixels, geometry, codes):
    height, width, fours = pixels.shape[1:]
    kernel, stride, padding, dilation, (rows, columns) = geometry
    runs, taps = (1, kernel[1]) if dilation[1] == 1 else (kernel[1], 1)  # neighbours in the kernel, that are in x too
    length, line = taps * fours, width * fours
    for row in range(start, stop):
        image, y = row // rows, row % rows * stride[0] - padding[0]
        for ky in range(kernel[0]):
            if not 0 <= y + ky * dilation[0] < height:
                continue
            source = pixels[image, y + ky * dilation[0]].ctypes.data
            for column in range(columns):
                for run in range(runs):
                    begin = (column * stride[1] - padding[1] + run * dilation[1]) * fours
                    first, last = max(0, -begin), min(length, line - begin)
                    if first < last:
                        target = codes[row * columns + column].ctypes.data + (ky * runs + run) * length
                        copy_bytes(target + first, source + begin + first, last - first)  # type: ignore[call-arg]


@njit(**passes.COMPILE)
def _transpose(start, stop, words, columns):
    ones, rows = np.uint64(0x0101010101010101), len(words)  # a word is eight codes
    for four in range(start, stop):
        a, out = words[4 * four], columns[four]
        b = words[4 * four + 1] if 4 * four + 1 < rows else np.zeros_like(a)
        c = words[4 * four + 2] if 4 * four + 2 < rows else np.zeros_like(a)
        d = words[4 * four + 3] if 4 * four + 3 < rows else np.zeros_like(a)
        for bit in range(4):
            k = np.uint64(bit)
            for i in range(len(a)):
                out[bit, i] = (
                    ((a[i] >> k) & ones)
                    | (((b[i] >> k) & ones) << np.uint64(1))
                    | (((c[i] >> k) & ones) << np.uint64(2))
                    | (((d[i] >> k) & ones) << np.uint64(3))
                )


@njit(**passes.COMPILE)
def _to_rows(start, stop, weight, rows):
    inputs, taps = weight.shape[1:]
    for begin in range(start, stop, 16):  # a line of the cache
        end = min(begin + 16, stop)
        for tap in range(taps):
            for k in range(inputs):
                for out in range(begin, end):
                    rows[tap, k, out] = weight[out, k, tap]


@njit(**passes.COMPILE)
def _from_rows(start, stop, rows, weight):
    taps, inputs = weight.shape[1:]
    fours = -(-inputs // 4)
    for begin in range(start, stop, 16):
        end = min(begin + 16, stop)
        for tap in range(taps):
            for k in range(inputs):
                source = rows[k % 4, tap * fours + k // 4]
                for out in range(begin, end):
                    weight[out, tap, k] = source[out]


def padded(fours: int) -> int:
    """Codes that stand for so many fours of entries, in whole groups of TABLES."""
    return -(-fours // TABLES) * TABLES


def code_rows(x: Tensor, width: int | None = None) -> Any:
    """Four entries of a row of x (n, m), contiguous, in the bits of one byte: (n, width), zeros after the m / 4 that
    there are; None if some entry is neither 0 nor 1. Without a width, what `product` takes."""
    fours = -(-x.shape[1] // 4)
    codes, graded = np.zeros((len(x), width or padded(fours)), np.uint8), np.empty(len(x), np.bool_)
    numbers = arrays.array(x, x)
    threads.run(_code_rows, x.shape[1], len(x), numbers, arrays.one(x), codes, graded)
    return None if graded.any() else codes


def code_patches(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, plane: Pair) -> Any:
    """The codes of a convolution's patches, as `product` takes them, (images and plane, kernel and fours of
    channels); None if some entry of x (images, channels, height, width) is neither 0 nor 1."""
    x = x.detach().permute(0, 2, 3, 1).contiguous()
    fours, aligned = -(-x.shape[3] // 4), x.shape[3] % 4 == 0  # if so, the fours of a whole image in one long row
    pixels = code_rows(x.flatten(1), math.prod(x.shape[1:3]) * fours) if aligned else code_rows(x.flatten(0, 2), fours)
    if pixels is None:
        return None
    codes = np.zeros((len(x) * plane[0] * plane[1], padded(kernel[0] * kernel[1] * fours)), np.uint8)
    work = plane[1] * codes.shape[1]
    threads.run(
        _patches, work, len(x) * plane[0],
        pixels.reshape(*x.shape[:3], fours), np.array([kernel, stride, padding, dilation, plane]), codes,
    )  # fmt: skip
    return codes


def transposed(codes: Any) -> Any:
    """The codes of the columns, from those of the rows (n, c): (4 c, n / 4 and zeros), where row k c + i is of the
    k-th entry of the i-th four."""
    fours = -(-len(codes) // 4)
    columns = np.zeros((padded(fours), 4, codes.shape[1] // 8), np.uint64)
    threads.run(_transpose, codes.shape[1], fours, codes.view(np.uint64), columns)
    return columns.view(np.uint8).reshape(len(columns), -1).T


def weight_rows(weight: Tensor) -> Tensor:
    """W (out, in, taps) as rows for `product`: (taps and fours of inputs, out), zeros after the last input."""
    outputs, inputs, taps = weight.shape
    rows = weight.new_zeros(taps, -(-inputs // 4) * 4, outputs)
    threads.run(_to_rows, inputs * taps, outputs, arrays.array(weight, weight), arrays.array(rows, rows))
    return rows.flatten(0, 1)


def weight_from_rows(total: Tensor, inputs: int, taps: int) -> Tensor:
    """What `product` made of transposed codes, (4 c, out), as (out, taps, inputs)."""
    outputs = total.shape[1]
    weight = total.new_empty(outputs, taps, inputs)
    threads.run(_from_rows, inputs * taps, outputs, total.unflatten(0, (4, -1)).numpy(), weight.numpy())
    return weight


def product(codes: Any, w: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """x w + bias (n, k) for the x (n, m) that the codes are of; w (m, k) contiguous, k at least 1. w and what comes
    back are float32 or bfloat16; sums are float32.

    Raises:
        ValueError: anything else, as the loops go by addresses.
    """
    (rows, fours), (inputs, outputs) = codes.shape, w.shape
    fits = fours * 4 >= inputs and fours % TABLES == 0 and outputs >= 1
    if not (fits and w.is_contiguous() and w.dtype in NUMBERS and dtype in NUMBERS and w.device.type == "cpu"):
        raise ValueError(
            f"codes {codes.shape} times w {tuple(w.shape)}: expected contiguous float32 or bfloat16 on the CPU, codes "
            f"of w's rows, and at least one column; got {w.dtype}, strides {w.stride()}, for a product in {dtype}"
        )
    bias = torch.zeros(outputs) if bias is None else bias.detach().float().contiguous()
    if outputs < SMALL:
        w, bias = (F.pad(v.detach(), (0, SMALL - outputs)) for v in (w, bias))
    y = torch.empty(rows, w.shape[1], dtype=dtype)
    threads.run(_tables, inputs, rows, codes, arrays.array(w, w), bias.numpy(), arrays.array(y, y).reshape(-1))
    return y[:, :outputs].contiguous()


def decoded(codes: Any, inputs: int) -> Tensor:
    """x (n, inputs), of which `code_rows` made the codes."""
    bits = torch.from_numpy(codes)[..., None] >> torch.arange(4, dtype=torch.uint8) & 1
    return bits.flatten(1)[:, :inputs].float()

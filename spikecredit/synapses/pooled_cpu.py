"""The compiled loops of `pooled.py`: the error that comes back through a maximum as single events.

Of the four outputs of a convolution below a window of 2 x 2 one has an error, and that is known before any product is
made. Both gradients are sums over these events e, at output (c, y, x), with the error g:

    dL/dW[c]               = sum over e of c       g x[patch of (y, x)]
    dL/dx[patch of (y, x)] += sum over e at (y, x)  g B[c]

Channels lie innermost, so that a kernel's row of a patch is one run of numbers in memory.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from spikecredit.neurons.kernels import passes, threads
from spikecredit.synapses.conv_events import Geometry, Pair
from spikecredit.synapses.tables_cpu import at_address, copy_bytes

LINE = 16
"""Numbers in a line of the cache."""

LINES = 5
"""Lines of a run that are summed at a time, in registers, at most."""


def _gather(lines: int) -> Any:
    """An intrinsic: total[0:lanes] += sum over k < count of value[k] source[offset[k]:][0:lanes], of so many lines."""
    vector, lane = ir.VectorType(ir.FloatType(), LINE), ir.IntType(32)

    @intrinsic
    def gather(context: Any, total: Any, source: Any, offset: Any, value: Any, count: Any) -> Any:
        """The first four are addresses, offsets in bytes. Vector instructions, for numba's own loop keeps the total in
        memory."""

        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            total, source, offset, value, count = arguments
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LINE}f32")
            undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(lane, LINE), [0] * LINE)
            places = [at_address(builder, total, 4 * LINE * line, vector) for line in range(lines)]
            sums = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
            with cgutils.for_range(builder, count) as loop:
                k = loop.index
                at, by = (builder.add(start, builder.shl(k, k.type(n))) for start, n in ((offset, 3), (value, 2)))
                place = builder.add(source, builder.load(at_address(builder, at, 0, ir.IntType(64))))
                number = builder.load(at_address(builder, by, 0, ir.FloatType()))
                factor = builder.shuffle_vector(builder.insert_element(undefined, number, lane(0)), undefined, first)
                for line, held in enumerate(sums):
                    numbers = builder.load(at_address(builder, place, 4 * LINE * line, vector), align=4)
                    builder.store(builder.call(fma, [factor, numbers, builder.load(held)]), held)
            for place, held in zip(places, sums, strict=True):
                builder.store(builder.load(held), place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 5), made

    return gather


_lines_1, _lines_2, _lines_3, _lines_4, _lines_5 = (_gather(lines) for lines in range(1, LINES + 1))


@njit(**passes.COMPILE)
def _add(total, source, offsets, values, count, lines):
    """The same for any number of lines, as numba cannot choose among intrinsics by a number."""
    if lines == 5:
        _lines_5(total, source, offsets, values, count)
    elif lines == 4:
        _lines_4(total, source, offsets, values, count)
    elif lines == 3:
        _lines_3(total, source, offsets, values, count)
    elif lines == 2:
        _lines_2(total, source, offsets, values, count)
    else:
        _lines_1(total, source, offsets, values, count)


@njit(**passes.COMPILE)
def _zeros(size):
    """From an address that is a multiple of 64."""
    room = np.zeros(size + LINE, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + size]


@njit(**passes.COMPILE)
def _copy_image(image, room, begin, line, depth, back):
    """An image into the middle of `room`, where a pixel's channels take `depth` numbers and padding is around it; or
    back from there."""
    # mypy cannot know that numba itself hands an intrinsic its first argument
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            outside, inside = image[y, x].ctypes.data, room.ctypes.data + 4 * (begin + y * line + x * depth)
            if back:
                copy_bytes(outside, inside, 4 * channels)  # type: ignore[call-arg]
            else:
                copy_bytes(inside, outside, 4 * channels)  # type: ignore[call-arg]


@njit(**passes.COMPILE)
def _list_by_channel(grad, at, patches, ends, offsets, errors):
    """The patch and the error of every event, for each channel: row c to ends[c]. grad and at: a row per place."""
    for c in range(len(ends)):
        end = np.uint64(0)
        for place in range(len(grad)):
            # written and, if it is no event, written over: a branch would be guessed wrongly now and then
            offsets[c, end], errors[c, end] = patches[at[place, c]], grad[place, c]
            end += np.uint64(grad[place, c] != 0)
        ends[c] = end


@njit(**passes.COMPILE)
def _list_by_position(grad, at, size, ends, offsets, errors):
    """The feedback weights and the error of every event, for each position: from the end of the one before to ends."""
    ends[:] = 0
    for place in range(len(grad)):
        for c in range(grad.shape[1]):
            ends[np.uint64(at[place, c]) + np.uint64(1)] += grad[place, c] != 0
    for k in range(len(ends) - 1):
        ends[k + 1] += ends[k]
    for place in range(len(grad)):
        for c in range(grad.shape[1]):
            if grad[place, c] != 0:
                position = np.uint64(at[place, c])
                k = ends[position]
                offsets[k], errors[k] = size * c, grad[place, c]
                ends[position] = k + 1


@njit(**passes.COMPILE)
def _backward(start, stop, x, grad, at, feedback, patches, geometry, g_x, g_rows):
    (images, height, width, _), (kernel, pieces, outputs, piece) = x.shape, feedback.shape
    (top, left), (depth, spread) = geometry
    parts, positions, events = len(g_rows), len(patches), grad.shape[1] * grad.shape[2]
    run, lines = pieces * piece, piece // LINE
    line, begin = (width + 2 * left) * depth, (top * (width + 2 * left) + left) * depth
    inside, error = _zeros((height + 2 * top) * line + run), _zeros((height + 2 * top) * line + run)
    ends_c, ends_p = np.empty(outputs, np.int64), np.empty(positions + 1, np.int64)
    offsets_c, errors_c = np.empty((outputs, events), np.int64), np.empty((outputs, events), np.float32)
    offsets_p, errors_p = np.empty(outputs * events, np.int64), np.empty(outputs * events, np.float32)
    for part in range(start, stop):
        for image in range(part * images // parts, (part + 1) * images // parts):
            errors, places = grad[image].reshape(events, outputs), at[image].reshape(events, outputs)
            if g_rows.shape[1]:
                _copy_image(x[image], inside, begin, line, depth, False)
                _list_by_channel(errors, places, patches, ends_c, offsets_c, errors_c)
            if len(g_x):
                error[:] = 0
                _list_by_position(errors, places, 4 * piece, ends_p, offsets_p, errors_p)
            for row in range(kernel):
                for k in range(pieces):
                    skip = 4 * (row * spread * line + k * piece)
                    for c in range(outputs if g_rows.shape[1] else 0):
                        _add(
                            g_rows[part, c, row, k].ctypes.data, inside.ctypes.data + skip,
                            offsets_c[c].ctypes.data, errors_c[c].ctypes.data, ends_c[c], lines,
                        )  # fmt: skip
                    for position in range(positions if len(g_x) else 0):
                        first = ends_p[position - 1] if position else 0
                        _add(
                            error.ctypes.data + skip + patches[position], feedback[row, k].ctypes.data,
                            offsets_p.ctypes.data + 8 * first, errors_p.ctypes.data + 4 * first,
                            ends_p[position] - first, lines,
                        )  # fmt: skip
            if len(g_x):
                _copy_image(g_x[image], error, begin, line, depth, True)


def _innermost(x: Tensor) -> Any:
    """A tensor (N, C, H, W) with the channels innermost in memory, as an array (N, H, W, C)."""
    return x.detach().permute(0, 2, 3, 1).contiguous().numpy()


def gradients(
    grad: Tensor,
    at: Tensor,
    x: Tensor,
    feedback: Tensor,
    geometry: Geometry,
    plane: Pair,
    wanted: tuple[bool, ...],
    g_x: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dW and dL/db of a convolution, from the error of the maxima behind it and where they lay; dL/dx into g_x.

    Args:
        grad, at: (N, C', H'', W''), what the pooling was given, and where in the plane (H', W') the maxima lay.
        x: (N, C, H, W); feedback B: (C', C, kh, kw); all float32.
        geometry: stride, padding, dilation and groups, which must be 1, as dilation along W.
        wanted: whether x, W and b need theirs; g_x: (N, C, H, W), channels last, if x does.
    """
    stride, padding, dilation, _ = geometry
    outputs, channels, kernel, columns = feedback.shape
    depth = -(-channels // LINE) * LINE  # whole lines, where that costs less than reading across their ends
    if columns * depth > 1.5 * LINE * -(-columns * channels // LINE):
        depth = channels
    every = -(-columns * depth // LINE)
    pieces = -(-every // LINES)
    run = pieces * -(-every // pieces) * LINE  # a kernel's row in pieces of one size, zeros behind
    rows = feedback.new_zeros(outputs, kernel, run)
    rows[:, :, : columns * depth].unflatten(2, (columns, depth))[..., :channels] = feedback.permute(0, 2, 3, 1)
    rows = rows.unflatten(2, (pieces, -1)).permute(1, 2, 0, 3).contiguous()
    position = np.arange(plane[0] * plane[1])
    across = x.shape[3] + 2 * padding[1]
    patches = 4 * depth * (position // plane[1] * stride[0] * across + position % plane[1] * stride[1])
    parts = min(torch.get_num_threads(), max(1, len(x)))
    shape = (outputs, kernel, pieces, run // pieces) if wanted[1] else (0, 0, 0, 0)
    g_rows = x.new_zeros(parts, *shape)
    error = np.empty((0, 0, 0, 0), np.float32) if g_x is None else g_x.permute(0, 2, 3, 1).numpy()
    threads.run(
        _backward, len(x) * rows.numel(), parts,
        _innermost(x), _innermost(grad), _innermost(at), rows.numpy(), patches,
        np.array([padding, (depth, dilation[0])]), error, g_rows.numpy(), line=1,
    )  # fmt: skip
    g_weight = None
    if wanted[1]:
        g_weight = g_rows.sum(0).flatten(2)[:, :, : columns * depth].unflatten(2, (columns, depth))[..., :channels]
        g_weight = g_weight.permute(0, 3, 1, 2)
    return g_weight, grad.sum((0, 2, 3)) if wanted[2] else None

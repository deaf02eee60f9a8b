"""The compiled loops of `pooled.py`: maxima over windows of a few pixels, whose channels lie innermost.

Torch's own loop makes vectors of the channels alone, and of a dozen channels none; it numbers the places with int64.
Here a vector that is longer than a pixel goes on into the next, which is written after it.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from spikecredit.neurons.kernels import arrays, passes, threads
from spikecredit.neurons.kernels.lanes import integers, widened

Pair = tuple[int, int]

LANES = 16
"""Channels at a time."""


def _maximum(lanes: int) -> Any:
    """An intrinsic for so many channels: out[place:] = max over the window's rows and columns of y[begin:], and in `at`
    (or None) where the first of the largest lies: at `first` in its plane, if it is the first of the window."""
    lane = ir.IntType(32)
    number, index = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(lane, lanes)

    @intrinsic
    def maximum(
        context: Any, y: Any, begin: Any, first: Any, rows: Any, columns: Any, width: Any, channels: Any, out: Any,
        at: Any, place: Any,
    ) -> Any:  # fmt: skip
        """Arrays, and places in them as counts of numbers. NaN is larger than all, as in torch."""
        kinds = (y, begin, first, rows, columns, width, channels, out, at, place)
        half, indexed = y.dtype == types.uint16, not isinstance(at, types.NoneType)

        def made(context: Any, b: Any, signature: Any, values: Any) -> Any:
            y_, begin, first, rows, columns, width, channels, out_, at_, place = values

            def pointer(array: Any, value: Any, where: Any, bits: int | None) -> Any:
                data = b.gep(context.make_array(array)(context, b, value).data, [where])
                kind = number if bits is None else ir.VectorType(ir.IntType(bits), lanes)
                return b.bitcast(data, kind.as_pointer())

            def every(value: Any) -> Any:
                nothing, first = ir.Constant(index, ir.Undefined), integers(0, lanes)
                return b.shuffle_vector(b.insert_element(nothing, b.trunc(value, lane), lane(0)), nothing, first)

            largest = cgutils.alloca_once_value(b, ir.Constant(number, [-math.inf] * lanes))
            found = cgutils.alloca_once_value(b, every(first))
            with cgutils.for_range(b, rows) as row, cgutils.for_range(b, columns) as column:
                pixel = b.add(b.mul(row.index, width), column.index)
                source = pointer(y, y_, b.add(begin, b.mul(pixel, channels)), 16 if half else None)
                numbers = b.load(source, align=2 if half else 4)
                if half:
                    numbers = widened(b, numbers)
                known = b.load(largest)
                larger = b.or_(b.fcmp_ordered(">", numbers, known), b.fcmp_unordered("uno", numbers, numbers))
                b.store(b.select(larger, numbers, known), largest)
                if indexed:
                    b.store(b.select(larger, every(b.add(first, pixel)), b.load(found)), found)
            result = b.load(largest)
            if half:
                words = b.lshr(b.bitcast(result, index), integers(16, lanes))
                b.store(b.trunc(words, integers(0, lanes, 16).type), pointer(out, out_, place, 16), align=2)
            else:
                b.store(result, pointer(out, out_, place, None), align=4)
            if indexed:
                size, result = at.dtype.bitwidth, b.load(found)
                if size < 32:
                    result = b.trunc(result, ir.VectorType(ir.IntType(size), lanes))
                b.store(result, pointer(at, at_, place, size), align=size // 8)
            return context.get_dummy_value()

        return types.void(*kinds), made

    return maximum


_some, _one = _maximum(LANES), _maximum(1)


@njit(**passes.COMPILE)
def _maxima(start, stop, y, window, plane, out, at):
    # mypy cannot know that numba itself hands an intrinsic its first argument (call-arg)
    images, height, width, channels = y.shape
    (tall, wide), stride, padding = window
    memory, beginning = y.reshape(-1), max(0, channels - LANES)  # of a pixel's last vector
    # The last line and the last image are done number by number: room for vectors that go on beyond a pixel's end.
    room = min(height * width, plane[1] + 1) * channels >= LANES
    for line in range(start, stop):
        image, i = divmod(line, plane[0])
        top = i * stride[0] - padding[0]
        rows, top = min(top + tall, height) - max(top, 0), max(top, 0)
        across = channels >= LANES or (room and line < stop - 1 and image < images - 1)
        for j in range(plane[1]):
            left = j * stride[1] - padding[1]
            columns, left = min(left + wide, width) - max(left, 0), max(left, 0)
            first, place = top * width + left, (line * plane[1] + j) * channels
            begin = (image * height * width + first) * channels
            if across:
                for c in range(0, channels, LANES):
                    c = min(c, beginning)
                    _some(memory, begin + c, first, rows, columns, width, channels, out, at, place + c)  # type: ignore[call-arg]
            else:
                for c in range(channels):
                    _one(memory, begin + c, first, rows, columns, width, channels, out, at, place + c)  # type: ignore[call-arg]


def memory(x: Tensor) -> Any:
    """A tensor (N, C, H, W) with the channels innermost, as an array (N, H, W, C)."""
    return arrays.array(x.detach().permute(0, 2, 3, 1), x)


def maxima(y: Tensor, window: tuple[Pair, Pair, Pair], out: Tensor, at: Tensor | None) -> None:
    """The maxima of y (N, C, H, W) into out (N, C, H', W'), and where in the plane (H, W) each comes from into `at`.

    Args:
        y, out: float32 or bfloat16, and as `at` (uint8, int16 or int32, or None) with the channels innermost.
        window: its kernel, stride and padding.
    """
    plane = out.shape[2], out.shape[3]
    places = None if at is None else memory(at).reshape(-1)
    threads.run(
        _maxima, plane[1] * y.shape[1] * math.prod(window[0]), len(y) * plane[0],
        memory(y), np.array(window), np.array(plane), memory(out).reshape(-1), places, line=1,
    )  # fmt: skip

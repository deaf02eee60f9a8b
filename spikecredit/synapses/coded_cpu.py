"""The compiled loops of `pooled.py` for a first layer on spikes: few channels in, all 0 or 1, and maxima behind.

A row of the kernel sees so few bits of x that all its sums fit into a table, and the bits, read as a number, say which.
Where the code of row r at a place p is n = sum over k of x[p + k] 2^k, a convolution is a sum of C kh numbers,

    y[c, p] = b[c] + sum over r of S[r, n_r(p), c]      S[r, n, c] = sum over k of bit_k(n) W[c, r, k]

and the maximum over a window is taken before any of them is written. The error g goes back the same way:

    G[r, n, c] = sum over the maxima at places p with n_r(p) = n of g[c, p]
    dL/dW[c, r, k] = sum over n of bit_k(n) G[r, n, c]
"""

import math
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from spikecredit.neurons.kernels import arrays, passes, threads
from spikecredit.neurons.kernels.lanes import integers, rounded, widened
from spikecredit.synapses.conv_events import Geometry, Pair
from spikecredit.synapses.maxima_cpu import LANES, memory
from spikecredit.synapses.tables_cpu import at_address

WORD = ir.IntType(64)
NUMBER, INDEX = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
BYTES = 6
"""Of one sum for 16 outputs: 2^6."""

PART = 2048
"""Images whose errors go into the same sums, at most: more would lose digits."""

# Numba itself hands the first argument, the typing context, to an intrinsic: a caller leaves it out, which mypy cannot
# know (call-arg below).


class _Window:
    """What both intrinsics do: the sums that the pixels of a window name, one after the other.

    Args:
        square: whether it has two rows and two columns.
        kinds, values: arrays of sums, codes and terms (how far the codes of each row of the kernel lie behind those of
            its first), and a tuple of integers: how many terms; bits of a code; the plane's width; from the codes of a
            pixel to those of the next below and beside; the window's first pixel and its codes, rows and columns.
    """

    def __init__(self, square: bool, context: Any, builder: Any, kinds: Any, values: Any) -> None:
        self.square, self.context, self.b = square, context, builder
        self.sums, self.codes, self.terms = (
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, WORD)
            for kind, value in zip(kinds[:3], values[:3], strict=True)
        )
        (
            self.count, self.bits, self.width, self.down, self.right,
            self.first, self.begin, self.rows, self.columns,
        ) = cgutils.unpack_tuple(builder, values[3])  # fmt: skip

    def pointer(self, kind: Any, array: Any, place: Any, bits: int | None) -> Any:
        """To 16 numbers of an array, or to integers of so many bits."""
        data = self.b.gep(self.context.make_array(kind)(self.context, self.b, array).data, [place])
        vector = NUMBER if bits is None else ir.VectorType(ir.IntType(bits), LANES)
        return self.b.bitcast(data, vector.as_pointer())

    def every(self, value: Any) -> Any:
        """A vector of one number, of 32 bits."""
        nothing, first = ir.Constant(INDEX, ir.Undefined), integers(0, LANES)
        lane = ir.IntType(32)
        return self.b.shuffle_vector(self.b.insert_element(nothing, self.b.trunc(value, lane), lane(0)), nothing, first)

    def pixel(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Its number in the plane, and the address of its codes."""
        b = self.b
        there = b.add(b.mul(row, self.down), b.mul(column, self.right))
        return b.add(self.first, b.add(b.mul(row, self.width), column)), b.add(b.add(self.codes, self.begin), there)

    def pixels(self, visit: Any) -> None:
        """visit(some pixels) until all have been: the four of a square at once, others one by one."""
        if self.square:
            visit([self.pixel(WORD(row), WORD(column)) for row in range(2) for column in range(2)])
            return
        with cgutils.for_range(self.b, self.rows) as row, cgutils.for_range(self.b, self.columns) as column:
            visit([self.pixel(row.index, column.index)])

    def sums_at(self, pixels: Any, visit: Any) -> None:
        """visit(which pixel, a pointer to the sum) for each row of the kernel."""
        b, size = self.b, self.b.add(self.bits, WORD(BYTES))
        with cgutils.for_range(b, self.count) as term:
            behind = b.load(at_address(b, b.add(self.terms, b.shl(term.index, WORD(3))), 0, WORD))
            row = b.add(self.sums, b.shl(term.index, size))
            for k, (_, codes) in enumerate(pixels):
                code = b.zext(b.load(at_address(b, b.add(codes, behind), 0, ir.IntType(8))), WORD)
                visit(k, at_address(b, b.add(row, b.shl(code, WORD(BYTES))), 0, NUMBER))


def _maximum(square: bool) -> Any:
    @intrinsic
    def maximum(
        context: Any, sums: Any, codes: Any, terms: Any, window: Any, bias: Any, out: Any, at: Any, place: Any
    ) -> Any:
        """out[place:] = the maximum of 16 outputs over a window (see `_Window`). `at`, if it is not empty, gets the
        places. NaN is larger than all, of several largest the first counts, as in torch."""
        kinds = (sums, codes, terms, window, bias, out, at, place)
        half, size = out.dtype == types.uint16, at.dtype.bitwidth

        def made(context: Any, b: Any, signature: Any, values: Any) -> Any:
            w = _Window(square, context, b, kinds, values)
            indexed = b.icmp_unsigned("!=", context.make_array(at)(context, b, values[6]).nitems, WORD(0))
            start = b.load(w.pointer(bias, values[4], WORD(0), None), align=4)
            largest = cgutils.alloca_once_value(b, ir.Constant(NUMBER, [-math.inf] * LANES))
            found = cgutils.alloca_once_value(b, w.every(w.first))

            def visit(pixels: Any) -> None:
                held = [cgutils.alloca_once(b, NUMBER) for _ in pixels]
                for y in held:
                    b.store(start, y)
                w.sums_at(pixels, lambda k, there: b.store(b.fadd(b.load(held[k]), b.load(there, align=64)), held[k]))
                for (number, _), y in zip(pixels, map(b.load, held), strict=True):
                    if half:  # numbers that are the same in bfloat16 are the same
                        y = widened(b, rounded(b, y))
                    known = b.load(largest)
                    larger = b.or_(b.fcmp_ordered(">", y, known), b.fcmp_unordered("uno", y, y))
                    b.store(b.select(larger, y, known), largest)
                    b.store(b.select(larger, w.every(number), b.load(found)), found)

            w.pixels(visit)
            result = b.load(largest)
            if half:
                words = b.lshr(b.bitcast(result, INDEX), integers(16, LANES))
                result = b.trunc(words, integers(0, LANES, 16).type)
            b.store(result, w.pointer(out, values[5], values[7], 16 if half else None), align=2 if half else 4)
            with b.if_then(indexed):
                result = b.load(found)
                if size < 32:
                    result = b.trunc(result, ir.VectorType(ir.IntType(size), LANES))
                b.store(result, w.pointer(at, values[6], values[7], size), align=size // 8)
            return context.get_dummy_value()

        return types.void(*kinds), made

    return maximum


def _scatter(square: bool) -> Any:
    @intrinsic
    def scatter(context: Any, sums: Any, codes: Any, terms: Any, window: Any, grad: Any, at: Any, place: Any) -> Any:
        """Add the errors grad[place:] of 16 outputs to the sums that their maxima, at `at`, were made of."""
        kinds = (sums, codes, terms, window, grad, at, place)
        half, size = grad.dtype == types.uint16, at.dtype.bitwidth

        def made(context: Any, b: Any, signature: Any, values: Any) -> Any:
            w = _Window(square, context, b, kinds, values)
            error = b.load(w.pointer(grad, values[4], values[6], 16 if half else None), align=2 if half else 4)
            if half:
                error = widened(b, error)
            where = b.load(w.pointer(at, values[5], values[6], size), align=size // 8)
            if size < 32:
                where = b.zext(where, INDEX)

            def visit(pixels: Any) -> None:
                nothing = ir.Constant(NUMBER, [0.0] * LANES)
                mine = [b.select(b.icmp_unsigned("==", where, w.every(number)), error, nothing) for number, _ in pixels]
                w.sums_at(pixels, lambda k, there: b.store(b.fadd(b.load(there, align=64), mine[k]), there, align=64))

            w.pixels(visit)
            return context.get_dummy_value()

        return types.void(*kinds), made

    return scatter


_maximum_any, _maximum_square = _maximum(False), _maximum(True)
_scatter_any, _scatter_square = _scatter(False), _scatter(True)


@njit(**passes.COMPILE)
def _code(x, one, bits, edge, seen, codes):
    """The codes of an image (C, H, W) at every place, padding and all; False if some entry is neither 0 nor 1."""
    channels, height, width = x.shape
    top, left = edge
    good = True
    for c in range(channels):
        for row in range(height):
            numbers, inside, found = x[c, row], seen[left : left + width], codes[c, row + top]
            for place in range(width):
                spike = numbers[place] == one
                good &= spike | (numbers[place] == 0)
                inside[place] = spike
            found[:] = 0
            for k in range(bits - 1, -1, -1):
                behind = seen[k : k + len(found)]  # slices, whose places are never negative, are done by vectors
                for place in range(len(found)):
                    found[place] = (found[place] << 1) | behind[place]
    return good


@njit(**passes.COMPILE)
def _span(number, kernel, stride, padding, size):
    """Where a window begins in one dimension of a plane, and how far it goes."""
    begin = number * stride - padding
    return max(begin, 0), min(begin + kernel, size) - max(begin, 0)


@njit(**passes.COMPILE)
def _maxima(start, stop, x, one, sizes, layout, terms, tables, begins, bias, outputs, out, at, failed):
    bits, top, left, channels, lines, line = sizes
    down, right, height, width, i_count, j_count, tall, wide, i_step, j_step, i_edge, j_edge = layout
    codes, seen = np.zeros((channels, lines, line), np.uint8), np.zeros(line + bits, np.uint8)
    spare, spare_at, end = np.zeros(LANES, out.dtype), np.zeros(LANES, at.dtype), len(terms)
    down *= line
    for image in range(start, stop):
        if not _code(x[image], one, bits, (top, left), seen, codes):
            failed[0] = 1
            return
        for k in range(len(begins)):
            some, start_k = tables[k], bias[k]
            to = image * i_count * j_count * outputs + begins[k]
            last = (image + 1) * i_count * j_count * outputs - LANES
            for i in range(i_count):
                y, rows = _span(i, tall, i_step, i_edge, height)
                for j in range(j_count):
                    z, columns = _span(j, wide, j_step, j_edge, width)
                    window = end, bits, width, down, right, y * width + z, y * down + z * right, rows, columns
                    if to > last:  # vectors go on into the next pixels, which are written later, but for the last
                        _maximum_any(some, codes, terms, window, start_k, spare, spare_at, 0)  # type: ignore[call-arg]
                        out[to : to + outputs] = spare[:outputs]
                        if len(at):
                            at[to : to + outputs] = spare_at[:outputs]
                    elif rows == 2 and columns == 2:
                        _maximum_square(some, codes, terms, window, start_k, out, at, to)  # type: ignore[call-arg]
                    else:
                        _maximum_any(some, codes, terms, window, start_k, out, at, to)  # type: ignore[call-arg]
                    to += outputs


@njit(**passes.COMPILE)
def _errors(start, stop, x, one, sizes, layout, terms, sums, begins, outputs, grad, at):
    bits, top, left, channels, lines, line = sizes
    down, right, height, width, i_count, j_count, tall, wide, i_step, j_step, i_edge, j_edge = layout
    codes, seen = np.zeros((channels, lines, line), np.uint8), np.zeros(line + bits, np.uint8)
    spare, spare_at, end = np.zeros(LANES, grad.dtype), np.zeros(LANES, at.dtype), len(terms)
    down *= line
    for part in range(start, stop):
        for image in range(part * len(x) // len(sums), (part + 1) * len(x) // len(sums)):
            _code(x[image], one, bits, (top, left), seen, codes)
            for k in range(len(begins)):
                some, of = sums[part, k], image * i_count * j_count * outputs + begins[k]
                last = (image + 1) * i_count * j_count * outputs - LANES
                for i in range(i_count):
                    y, rows = _span(i, tall, i_step, i_edge, height)
                    for j in range(j_count):
                        z, columns = _span(j, wide, j_step, j_edge, width)
                        window = end, bits, width, down, right, y * width + z, y * down + z * right, rows, columns
                        if of > last:
                            spare[:outputs], spare_at[:outputs] = grad[of : of + outputs], at[of : of + outputs]
                            _scatter_any(some, codes, terms, window, spare, spare_at, 0)  # type: ignore[call-arg]
                        elif rows == 2 and columns == 2:
                            _scatter_square(some, codes, terms, window, grad, at, of)  # type: ignore[call-arg]
                        else:
                            _scatter_any(some, codes, terms, window, grad, at, of)  # type: ignore[call-arg]
                        of += outputs


def _arguments(
    x: Tensor, size: Pair, geometry: Geometry, window: tuple[Pair, Pair, Pair], plane: Pair, pooled: Pair
) -> tuple[Any, ...]:
    """What both loops are given of x (N, C, H, W) and of the layer."""
    stride, padding, dilation, _ = geometry
    shape = x.shape[1], x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1] - size[1] + 1
    terms = [(c * shape[1] + row * dilation[0]) * shape[2] for c in range(shape[0]) for row in range(size[0])]
    sizes, layout = np.array([size[1], *padding, *shape]), np.array([*stride, *plane, *pooled, *sum(window, ())])
    return arrays.array(x.detach(), x), arrays.one(x), sizes, layout, np.array(terms)


def _begins(outputs: int) -> list[int]:
    """The first of each 16 outputs; the last 16 end where the outputs do, if there are so many."""
    return [min(first, max(outputs - LANES, 0)) for first in range(0, outputs, LANES)]


def _bits(count: int) -> Tensor:
    """(2^count, count): bit k of n."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).float()


def _exactly(equation: str, bits: Tensor, numbers: Tensor) -> Tensor:
    """An einsum in float32: autocast would round the numbers."""
    with torch.autocast("cpu", enabled=False):
        return torch.einsum(equation, bits, numbers)


def maxima(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    window: tuple[Pair, Pair, Pair],
    plane: Pair,
    out: Tensor,
    at: Tensor | None,
) -> bool:
    """The maxima of conv(x, W) + b into `out`, and where in its plane they lie into `at`; False if some entry of x is
    neither 0 nor 1, and nothing of both is to be used.

    Args:
        x: (N, C, H, W), float32 or bfloat16. W: (C', C, kh, kw), kw at most 8. b: (C').
        geometry: stride, padding, dilation, 1 along W, and groups, which must be 1; plane: (H', W') of the convolution.
        window: kernel, stride and padding of the maximum.
        out, at: (N, C', H'', W''), the channels innermost; float32 or bfloat16; uint8, int16, int32, or None.
    """
    outputs, size = len(weight), (weight.shape[2], weight.shape[3])
    begins, terms = _begins(outputs), x.shape[1] * size[0]
    rows = torch.nn.functional.pad(weight.detach().float().permute(1, 2, 3, 0), (0, max(0, LANES - outputs)))
    sums = _exactly("nk,crko->crno", _bits(size[1]), rows).flatten(0, 1)  # (terms, codes, outputs)
    start = rows.new_zeros(rows.shape[-1])
    if bias is not None:
        start[:outputs] = bias.detach()
    groups = [slice(begin, begin + LANES) for begin in begins]
    tables = torch.stack([sums[..., group] for group in groups])
    failed, places = np.zeros(1, np.int64), np.empty(0, np.uint8) if at is None else memory(at).reshape(-1)
    threads.run(
        _maxima, math.prod(plane) * terms * len(begins), len(x),
        *_arguments(x, size, geometry, window, plane, (out.shape[2], out.shape[3])),
        tables.flatten(1).numpy(), np.array(begins), torch.stack([start[group] for group in groups]).numpy(),
        outputs, memory(out).reshape(-1), places, failed, line=1,
    )  # fmt: skip
    return not failed[0]


def weight_gradient(
    grad: Tensor,
    at: Tensor,
    x: Tensor,
    size: Pair,
    geometry: Geometry,
    window: tuple[Pair, Pair, Pair],
    plane: Pair,
) -> Tensor:
    """dL/dW (C', C, kh, kw) in float32, from the error of the maxima, (N, C', H'', W''), and where they lie; the other
    arguments are those of `maxima`, which must have been able to code this x, and `size` that of the kernel."""
    outputs, begins, terms = grad.shape[1], _begins(grad.shape[1]), x.shape[1] * size[0]
    team = min(torch.get_num_threads(), len(x))
    parts = team * -(-len(x) // (team * PART))
    sums = torch.zeros(parts, len(begins), terms * 2 ** size[1] * LANES)
    grad, at = (v.contiguous(memory_format=torch.channels_last) for v in (grad, at))
    threads.run(
        _errors, math.prod(plane) * terms * len(begins) * -(-len(x) // parts), parts,
        *_arguments(x, size, geometry, window, plane, (grad.shape[2], grad.shape[3])),
        sums.numpy(), np.array(begins), outputs,
        memory(grad).reshape(-1), memory(at).reshape(-1), line=1,
    )  # fmt: skip
    total = sums.sum(0).view(len(begins), x.shape[1], size[0], 2 ** size[1], LANES)
    weight = _exactly("nk,gcrno->gocrk", _bits(size[1]), total)
    result = weight.new_empty(outputs, *weight.shape[2:])
    for begin, some in zip(begins, weight, strict=True):
        result[begin : begin + LANES] = some[: outputs - begin]
    return result

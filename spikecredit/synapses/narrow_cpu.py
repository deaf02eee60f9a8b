"""The compiled loops of `events.py` for layers of few outputs, as readouts are, on inputs of any values.

A matrix product's blocks are made for wide matrices. Here the outputs fill one vector, which a register holds while all
of x goes by once: y[r] += x[r, k] W[:, k] for sixteen rows r at a time, and dL/dW[:, k] += x[r, k] dL/dy[r] for sixteen
inputs k.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from spikecredit.neurons.kernels import passes, threads
from spikecredit.synapses.tables_cpu import at_address

LANES = 16
"""Outputs at most, and sums at a time."""

ROWS = 8
"""Rows of x at a time: where they are 4 KiB apart, so many fit in the first-level cache, which has eight ways."""

BLOCK = 16
"""Terms of a sum between its loads and stores, where x is read across its rows: so many streams through memory."""


def _sums(count: int) -> Any:
    """An intrinsic: total[i] += sum over k < terms of x[i across + k along] y[k], for i < count; total and y in rows of
    LANES, strides in bytes."""
    vector, lane, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32), ir.IntType(64)

    @intrinsic
    def sums(context: Any, total: Any, x: Any, across: Any, along: Any, y: Any, terms: Any) -> Any:
        """total, x and y are addresses. Written as vector instructions, for numba's own loop keeps totals in memory."""

        def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            total, x, across, along, y, terms = arguments
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
            undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
            places = [at_address(builder, total, 4 * LANES * i, vector) for i in range(count)]
            held = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
            with cgutils.for_range(builder, terms) as loop:
                row = builder.load(
                    at_address(builder, builder.add(y, builder.mul(loop.index, word(4 * LANES))), 0, vector)
                )
                begin = builder.add(x, builder.mul(loop.index, along))
                for i, value in enumerate(held):
                    where = builder.add(begin, builder.mul(across, word(i)))
                    number = builder.load(at_address(builder, where, 0, ir.FloatType()))
                    factor = builder.shuffle_vector(
                        builder.insert_element(undefined, number, lane(0)), undefined, first
                    )
                    builder.store(builder.call(fma, [factor, row, builder.load(value)]), value)
            for place, value in zip(places, held, strict=True):
                builder.store(builder.load(value), place, align=4)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 6), made

    return sums


_sixteen, _eight, _one = _sums(LANES), _sums(ROWS), _sums(1)


@njit(**passes.COMPILE)
def _multiply(start, stop, x, across, along, y, total, block):
    terms = len(y)
    for first in range(0, terms, block):
        count = min(block, terms - first)
        source, rows = x + first * along, y.ctypes.data + 4 * LANES * first
        if along == 4:
            for i in range(start, stop - ROWS + 1, ROWS):
                _eight(total[i].ctypes.data, source + i * across, across, along, rows, count)
        else:
            for i in range(start, stop - LANES + 1, LANES):
                _sixteen(total[i].ctypes.data, source + i * across, across, along, rows, count)
        for i in range(stop - (stop - start) % (ROWS if along == 4 else LANES), stop):
            _one(total[i].ctypes.data, source + i * across, across, along, rows, count)


def _rows(x: Tensor) -> Tensor:
    """x (n, m) as rows of LANES, with zeros behind, aligned as torch aligns memory."""
    rows = x.new_zeros(len(x), LANES)
    rows[:, : x.shape[1]] = x.detach()
    return rows


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b of x (n, in) and W (out, in), float32 and x contiguous, out at most LANES."""
    total = x.new_zeros(len(x), LANES)
    if bias is not None:
        total[:, : len(weight)] = bias.detach()
    threads.run(
        _multiply, weight.numel(), len(x),
        x.data_ptr(), 4 * x.shape[1], 4, _rows(weight.t()).numpy(), total.numpy(), x.shape[1],
    )  # fmt: skip
    return total[:, : len(weight)].contiguous()


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x of grad (n, out) and x (n, in), float32 and x contiguous, out at most LANES: (out, in)."""
    total = x.new_zeros(x.shape[1], LANES)
    threads.run(
        _multiply, grad.numel(), x.shape[1],
        x.data_ptr(), 4, 4 * x.shape[1], _rows(grad).numpy(), total.numpy(), BLOCK,
    )  # fmt: skip
    return total[:, : grad.shape[1]].t()

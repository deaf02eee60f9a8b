"""A plain LIF's group of neurons through several steps, in vector registers: the inner loops of `lif_cpu.py`.

`advance` and `retreat` say in NumPy what their intrinsics compute, operation by operation; the tests run them, too. A
sequence goes to them as (row of memory, where, time stride).
"""

import math
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from spikecredit.neurons.kernels import passes
from spikecredit.neurons.kernels.passes import I, R, U

GIVEN = 2
"""The kind of a surrogate whose values are in memory; 0 and 1 are those of `passes.SURROGATES`, computed on the way."""


# ---- a group of neurons through `count` steps


def advance(lanes, zero, count, j, x, state, beta, alpha, theta, less, spikes, history):
    """u = (1 - r) u beta + x - r less, with (1 - r) only if `zero`; i = alpha i + x in the place of x, if there is an
    alpha. state: (rows, where u is, where i is). Writes spikes and state, or without spikes only the history: u, and i
    as far behind it as in the state."""
    rows, u_at, i_at = state
    u, i = rows[u_at : u_at + lanes].copy(), rows[i_at : i_at + lanes].copy()
    one, nil = u.dtype.type(1), u.dtype.type(0)
    for t in range(count):
        current = _numbers(x, t, lanes)
        if alpha is not None:
            i = i * passes.part(alpha, j, j + lanes) + current
            current = i
        r = np.where(u > theta, one, nil)
        kept = (one - r) * u if zero else u
        u = kept * passes.part(beta, j, j + lanes) + current - r * less
        if spikes[0] is not None:
            fired = _at(spikes, t, lanes)
            fired[:] = np.where(u > theta, 0x3F80 if fired.dtype == np.uint16 else 1, 0)
        if history[0] is not None:
            _at(history, t, lanes)[:] = u
            if spikes[0] is None and alpha is not None:
                _at((history[0], history[1] + i_at - u_at, history[2]), t, lanes)[:] = i
    if spikes[0] is not None:
        rows[u_at : u_at + lanes] = u
        if alpha is not None:
            rows[i_at : i_at + lanes] = i


def retreat(
    lanes, kind, full, count, j, shape, psi, g, gu, past, n, adjoint, width, sums, beta, alpha, theta, less, zero,
    attached, out, total,
):  # fmt: skip
    """Back over `count` steps, from where the last one is: `Backend.backward`'s equations for u and i.

    past: u after each step, and i n behind it. adjoint: rows of `width`, for u, i and the pending reset. Written: out,
    or total, the sum over time. Only a `full` call takes a reset to zero or an attached one, and adds to the two sums:
    the gradients of beta and alpha."""
    c, ci, k = (adjoint[row * width + j :][:lanes] for row in (U, I, R))
    one, nil = c.dtype.type(1), c.dtype.type(0)
    factor = passes.part(beta, j, j + lanes)
    for t in range(count):
        u, before = _at(past, -t, lanes), _at(past, -t - 1, lanes)
        if kind == 0:
            d = abs(u - theta) * shape[0] + one
            derivative = one / (d * d)
        elif kind == 1:
            d = (u - theta) * (c.dtype.type(math.pi / 2) * shape[0])
            derivative = shape[0] / c.dtype.type(2) / (d * d + one)
        else:
            derivative = _at(psi, -t, lanes)
        error = _numbers(g, -t, lanes)
        c[:] += _at(gu, -t, lanes)
        live = c + (error + k if full else error) * derivative
        kept = live
        if full:
            kept = live * (one - np.where(before > theta, one, nil)) if zero else live
            sums[j : j + lanes] += kept * before
            k[:] = -live * (before * factor if zero else less) if attached else nil
        c[:] = kept * factor
        if alpha is not None:
            live = live + ci
            ci[:] = live * passes.part(alpha, j, j + lanes)
            if full:
                sums[width + j :][:lanes] += live * _at((past[0], past[1] + n, past[2]), -t - 1, lanes)
        if total is None:
            destination = _at(out, -t, lanes)
            passes.target(destination, live)[:] = live
            passes.commit(destination, live)
        else:
            total[j : j + lanes] += live


def _at(sequence, t, lanes):
    row, where, stride = sequence
    return row[where + t * stride :][:lanes]


def _numbers(sequence, t, lanes):
    """Part of a sequence that may be bfloat16 bits."""
    return passes.row(_at(sequence, t, lanes), np.empty(lanes, np.float32))


# ---- ... and as vector instructions


def integers(value: int, lanes: int, bits: int = 32) -> Any:
    """A vector of one integer."""
    return ir.Constant(ir.VectorType(ir.IntType(bits), lanes), [value] * lanes)


def widened(b: Any, halves: Any) -> Any:
    """bfloat16's bits as float32."""
    lanes = halves.type.count
    words = b.shl(b.zext(halves, integers(0, lanes).type), integers(16, lanes))
    return b.bitcast(words, ir.VectorType(ir.FloatType(), lanes))


def rounded(b: Any, numbers: Any) -> Any:
    """float32 as bfloat16's bits, as `passes.commit` rounds them."""
    lanes = numbers.type.count
    word, sixteen = b.bitcast(numbers, integers(0, lanes).type), integers(16, lanes)
    odd = b.and_(b.lshr(word, sixteen), integers(1, lanes))
    bits = b.lshr(b.add(b.add(word, integers(0x7FFF, lanes)), odd), sixteen)
    bits = b.trunc(bits, integers(0, lanes, 16).type)
    return b.select(b.fcmp_unordered("uno", numbers, numbers), integers(0x7FC0, lanes, 16), bits)


class _Vectors:
    """So many neurons at a time inside an intrinsic, in the type of theta, and its arguments by their names."""

    def __init__(self, context: Any, builder: Any, lanes: int, names: str, kinds: Any, values: Any) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.kinds = dict(zip(names.split(), kinds, strict=True))
        self.values = dict(zip(names.split(), values, strict=True))
        self.number = context.get_value_type(self.kinds["theta"])
        self.kind = ir.VectorType(self.number, lanes)
        self.size = self.kinds["theta"].bitwidth // 8
        self.one, self.nil = self.constant(1.0), self.constant(0.0)

    def constant(self, value: float) -> Any:
        return ir.Constant(self.kind, [value if self.size == 8 else float(np.float32(value))] * self.lanes)

    def given(self, name: str) -> bool:
        """Whether an argument, or a sequence's row, is not None."""
        kind = self.kinds[name]
        return not isinstance(kind[0] if isinstance(kind, types.Tuple) else kind, types.NoneType)

    def every(self, number: Any) -> Any:
        """A number for all of them; by name, or a value."""
        number, lane = self.values[number] if isinstance(number, str) else number, ir.IntType(32)
        nothing, first = ir.Constant(self.kind, ir.Undefined), integers(0, self.lanes)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, number, lane(0)), nothing, first)

    def factor(self, name: str) -> Any:
        """A number, or one for each neuron."""
        return self.load((name, self.values["j"])) if isinstance(self.kinds[name], types.Array) else self.every(name)

    def sequence(self, name: str, t: Any, back: bool = False) -> Any:
        """Where a sequence is `t` steps on, or back."""
        where, stride = (self.builder.extract_value(self.values[name], k) for k in (1, 2))
        way = self.builder.mul(t, stride)
        return name, self.builder.sub(where, way) if back else self.builder.add(where, way)

    def behind(self, place: Any, offset: Any) -> Any:
        return place[0], self.builder.add(place[1], offset)

    def pointer(self, place: Any, kind: Any) -> tuple[Any, Any]:
        """To vectors or numbers of this kind, or to their bits; and numba's type of what is in memory."""
        name, at = place
        array, value = self.kinds[name], self.values[name]
        if isinstance(array, types.Tuple):
            array, value = array[0], self.builder.extract_value(value, 0)
        if array.dtype == types.uint16:
            kind = integers(0, self.lanes, 16).type
        data = self.context.make_array(array)(self.context, self.builder, value).data
        return self.builder.bitcast(self.builder.gep(data, [at]), kind.as_pointer()), array.dtype

    def load(self, place: Any) -> Any:
        pointer, dtype = self.pointer(place, self.kind)
        if dtype != types.uint16:
            return self.builder.load(pointer, align=self.size)
        return widened(self.builder, self.builder.load(pointer, align=2))

    def store(self, value: Any, place: Any) -> None:
        """Rounds to bfloat16 as `passes.commit` does."""
        pointer, dtype = self.pointer(place, self.kind)
        bits = dtype == types.uint16
        self.builder.store(rounded(self.builder, value) if bits else value, pointer, align=2 if bits else self.size)

    def store_spikes(self, fired: Any, place: Any) -> None:
        pointer, dtype = self.pointer(place, self.kind)
        bits = dtype == types.uint16
        one, nil = (integers(spike, self.lanes, 16) for spike in (0x3F80, 0)) if bits else (self.one, self.nil)
        self.builder.store(self.builder.select(fired, one, nil), pointer, align=2 if bits else self.size)

    def absolute(self, value: Any) -> Any:
        name = f"llvm.fabs.v{self.lanes}f{8 * self.size}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(self.kind, [self.kind]), name)
        return self.builder.call(function, [value])

    def held(self, place: Any) -> Any:
        """What stays in registers from step to step."""
        return cgutils.alloca_once_value(self.builder, self.load(place))


ADVANCE = "count j x state beta alpha theta less spikes history"
RETREAT = "count j shape psi g gu past n adjoint width sums beta alpha theta less zero attached out total"


@cache
def _advance_lanes(lanes: int, zero: int) -> Any:
    @intrinsic
    def lanes_advance(
        context: Any, count: Any, j: Any, x: Any, state: Any, beta: Any, alpha: Any, theta: Any, less: Any, spikes: Any,
        history: Any,
    ) -> Any:  # fmt: skip
        kinds = (count, j, x, state, beta, alpha, theta, less, spikes, history)

        def made(context: Any, b: Any, signature: Any, values: Any) -> Any:
            v = _Vectors(context, b, lanes, ADVANCE, kinds, values)
            synapse, fires = v.given("alpha"), v.given("spikes")
            theta, less, beta = v.every("theta"), v.every("less"), v.factor("beta")
            places = [("state", b.extract_value(v.values["state"], k)) for k in (1, 2)]
            between = b.sub(places[1][1], places[0][1])
            u, i = (v.held(place) for place in places)
            alpha = v.factor("alpha") if synapse else None
            with cgutils.for_range(b, v.values["count"]) as loop:
                current = v.load(v.sequence("x", loop.index))
                if synapse:
                    current = b.fadd(b.fmul(b.load(i), alpha), current)
                    b.store(current, i)
                kept = b.load(u)
                r = b.fcmp_ordered(">", kept, theta)
                if zero:
                    kept = b.fmul(b.select(r, v.nil, v.one), kept)
                now = b.fadd(b.fmul(kept, beta), current)
                if not zero:
                    now = b.fsub(now, b.select(r, less, v.nil))
                b.store(now, u)
                if fires:
                    v.store_spikes(b.fcmp_ordered(">", now, theta), v.sequence("spikes", loop.index))
                if v.given("history"):
                    place = v.sequence("history", loop.index)
                    v.store(now, place)
                    if synapse and not fires:
                        v.store(current, v.behind(place, between))
            if fires:
                v.store(b.load(u), places[0])
                if synapse:
                    v.store(b.load(i), places[1])
            return context.get_dummy_value()

        return types.void(*kinds), made

    return lanes_advance


@cache
def _retreat_lanes(lanes: int, kind: int, full: int) -> Any:
    @intrinsic
    def lanes_retreat(
        context: Any, count: Any, j: Any, shape: Any, psi: Any, g: Any, gu: Any, past: Any, n: Any, adjoint: Any,
        width: Any, sums: Any, beta: Any, alpha: Any, theta: Any, less: Any, zero: Any, attached: Any, out: Any,
        total: Any,
    ) -> Any:  # fmt: skip
        kinds = (
            count, j, shape, psi, g, gu, past, n, adjoint, width, sums, beta, alpha, theta, less, zero, attached, out,
            total,
        )  # fmt: skip

        def made(context: Any, b: Any, signature: Any, values: Any) -> Any:
            v = _Vectors(context, b, lanes, RETREAT, kinds, values)
            synapse = v.given("alpha")
            j, width = v.values["j"], v.values["width"]
            beta, theta, less = v.factor("beta"), v.every("theta"), v.every("less")
            lost = b.select(v.values["zero"], v.one, v.nil)
            alpha = v.factor("alpha") if synapse else None
            parameter = v.pointer(("shape", ir.IntType(64)(0)), v.number)[0]
            first = v.every(b.load(parameter, align=v.size))
            scale, height = b.fmul(v.constant(math.pi / 2), first), b.fdiv(first, v.constant(2.0))
            places = {"c": ("adjoint", j)}
            if synapse:
                places["ci"] = "adjoint", b.add(j, b.mul(width, width.type(I)))
            if full:
                places |= {"k": ("adjoint", b.add(j, b.mul(width, width.type(R)))), "for beta": ("sums", j)}
            if full and synapse:
                places["for alpha"] = "sums", b.add(width, j)
            if v.given("total"):
                places["total"] = "total", j
            slots = {name: v.held(place) for name, place in places.items()}

            def add(name: str, value: Any) -> Any:
                total = b.fadd(b.load(slots[name]), value)
                b.store(total, slots[name])
                return total

            with cgutils.for_range(b, v.values["count"]) as loop:
                t = loop.index
                before = v.sequence("past", b.add(t, t.type(1)), back=True)
                if kind == GIVEN:
                    derivative = v.load(v.sequence("psi", t, back=True))
                else:
                    distance = b.fsub(v.load(v.sequence("past", t, back=True)), theta)
                    if kind == 0:
                        d = b.fadd(b.fmul(v.absolute(distance), first), v.one)
                        derivative = b.fdiv(v.one, b.fmul(d, d))
                    else:
                        d = b.fmul(distance, scale)
                        derivative = b.fdiv(height, b.fadd(b.fmul(d, d), v.one))
                error = v.load(v.sequence("g", t, back=True))
                live = b.fadd(b.load(slots["c"]), v.load(v.sequence("gu", t, back=True)))
                if full:
                    error = b.fadd(error, b.load(slots["k"]))
                live = kept = b.fadd(live, b.fmul(error, derivative))
                if full:
                    u = v.load(before)
                    r = b.fcmp_ordered(">", u, theta)
                    kept = b.fmul(live, b.fsub(v.one, b.select(r, lost, v.nil)))
                    add("for beta", b.fmul(kept, u))
                    away = b.fmul(b.fneg(live), b.select(v.values["zero"], b.fmul(u, beta), less))
                    b.store(b.select(v.values["attached"], away, v.nil), slots["k"])
                b.store(b.fmul(kept, beta), slots["c"])
                if synapse:
                    live = add("ci", live)
                    b.store(b.fmul(live, alpha), slots["ci"])
                    if full:
                        add("for alpha", b.fmul(live, v.load(v.behind(before, v.values["n"]))))
                if v.given("total"):
                    add("total", live)
                else:
                    v.store(live, v.sequence("out", t, back=True))
            for name, place in places.items():
                v.store(b.load(slots[name]), place)
            return context.get_dummy_value()

        return types.void(*kinds), made

    return lanes_retreat


@overload(advance, prefer_literal=True)
def _advance(lanes, zero, count, j, x, state, beta, alpha, theta, less, spikes, history):
    by = _advance_lanes(lanes.literal_value, zero.literal_value)
    return lambda lanes, zero, count, j, x, state, beta, alpha, theta, less, spikes, history: by(
        count, j, x, state, beta, alpha, theta, less, spikes, history
    )


@overload(retreat, prefer_literal=True)
def _retreat(lanes, kind, full, count, j, shape, psi, g, gu, past, n, adjoint, width, sums, beta, alpha, theta, less,
             zero, attached, out, total):  # fmt: skip
    by = _retreat_lanes(lanes.literal_value, kind.literal_value, full.literal_value)

    def call(lanes, kind, full, count, j, shape, psi, g, gu, past, n, adjoint, width, sums, beta, alpha, theta, less,
             zero, attached, out, total):  # fmt: skip
        by(count, j, shape, psi, g, gu, past, n, adjoint, width, sums, beta, alpha, theta, less, zero, attached, out,
           total)  # fmt: skip

    return call

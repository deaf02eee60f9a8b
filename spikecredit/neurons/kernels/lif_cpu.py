"""The plain LIF on the CPU, with or without a synaptic current: several steps at a time, in vector registers.

Where u, and i, are the whole state, a step is so little work that loading and storing them takes most of its time. Here
a group of neurons goes through several steps between its loads and stores, and what moves is x, spikes and errors.
That is written as LLVM's vectors in `lanes.py`, for the compiler makes none of such loops: it cannot know that the rows
do not overlap. Other neurons' loops are in `cpu.py`; `Backend` in `flat.py` states the equations of both.
"""

import numpy as np
from numba import njit

from spikecredit.neurons.kernels import lanes, passes
from spikecredit.neurons.kernels.passes import WIDTH

LANES = 32
"""Neurons at a time: four registers of AVX2, two of AVX-512."""

STEPS = 4
"""Steps at a time. As many rows of x, and of spikes, are streams to read ahead; with 8 it takes longer."""


# ---- the steps from `since` to `until` for the neurons from start to stop


@njit(**passes.COMPILE)
def _room(size, number):
    """Memory whose vectors lie within cache lines."""
    room = np.empty(size + 64, number.dtype)
    return room[(-room.ctypes.data % 64) // room.itemsize :][:size]


@njit(**passes.COMPILE)
def _on(sequence, j):
    row, where, stride = sequence
    return row, where + j, stride


def _ahead_by(zero):
    """`lanes.advance` for a block of n neurons."""

    @njit(**passes.COMPILE)
    def ahead(n, count, x, state, beta, alpha, theta, less, spikes, history):
        rows, u_at, i_at = state
        whole = n - n % LANES
        for j in range(0, whole, LANES):
            at = rows, u_at + j, i_at + j
            seen = _on(history, j)
            lanes.advance(LANES, zero, count, j, _on(x, j), at, beta, alpha, theta, less, _on(spikes, j), seen)
        for j in range(whole, n):
            at = rows, u_at + j, i_at + j
            seen = _on(history, j)
            lanes.advance(1, zero, count, j, _on(x, j), at, beta, alpha, theta, less, _on(spikes, j), seen)

    return ahead


_ahead_to_zero, _ahead_by_theta = _ahead_by(1), _ahead_by(0)


@njit(**passes.COMPILE)
def _ahead(zero, *arguments):
    if zero:
        _ahead_to_zero(*arguments)
    else:
        _ahead_by_theta(*arguments)


def _back(kind, full):
    """`lanes.retreat` for a block of n neurons."""

    @njit(**passes.COMPILE)
    def back(
        out, total, n, count, shape, psi, g, gu, past, adjoint, width, sums, beta, alpha, theta, less, zero, attached
    ):  # fmt: skip
        whole = n - n % LANES
        for j in range(0, whole, LANES):
            lanes.retreat(
                LANES, kind, full, count, j, shape, _on(psi, j), _on(g, j), _on(gu, j), _on(past, j), n, adjoint, width,
                sums, beta, alpha, theta, less, zero, attached, _on(out, j), total,
            )  # fmt: skip
        for j in range(whole, n):
            lanes.retreat(
                1, kind, full, count, j, shape, _on(psi, j), _on(g, j), _on(gu, j), _on(past, j), n, adjoint, width,
                sums, beta, alpha, theta, less, zero, attached, _on(out, j), total,
            )  # fmt: skip

    return back


_back_fast_sigmoid, _back_arctan, _back_full = _back(0, 0), _back(1, 0), _back(lanes.GIVEN, 1)


@njit(**passes.COMPILE)
def _behind(full, kind, *arguments):
    if full:
        _back_full(*arguments)
    elif kind == 0:
        _back_fast_sigmoid(*arguments)
    else:
        _back_arctan(*arguments)


@njit(**passes.COMPILE)
def forward(
    start, stop, since, until, state, x, stride, beta_, alpha_, theta, zero, subtract, spikes, s_stride, potentials,
    p_stride, checkpoints, every, last,
):  # fmt: skip
    width, fields = min(WIDTH, stop - start), len(state)
    rows, less = _room(fields * width, state).reshape((fields, width)), theta if subtract else state.dtype.type(0)
    kept = rows.reshape(-1), 0, (fields - 1) * width  # where u is, and i, if there is one
    for begin in range(start, stop, width):
        n = min(begin + width, stop) - begin
        beta, alpha = passes.part(beta_, begin, begin + n), passes.part(alpha_, begin, begin + n)
        for f in range(fields):
            passes.copy(state[f, begin : begin + n], rows[f, :n])
        t = since
        while t < until:
            if t and t % every == 0 and checkpoints.shape[0]:
                for f in range(fields):
                    passes.copy(rows[f, :n], checkpoints[t // every - 1, f, begin : begin + n])
            count = min(STEPS, until - t, every - t % every)
            current, fired = (x, t * stride + begin, stride), (spikes, t * s_stride + begin, s_stride)
            if len(potentials):
                seen = potentials, t * p_stride + begin, p_stride
                _ahead(zero, n, count, current, kept, beta, alpha, theta, less, fired, seen)
            else:
                _ahead(zero, n, count, current, kept, beta, alpha, theta, less, fired, (None, 0, 0))
            t += count
        for f in range(fields):
            passes.copy(rows[f, :n], last[f, begin : begin + n])


@njit(**passes.COMPILE)
def backward(
    start, stop, since, until, last, last_present, x, stride, state, beta_, alpha_, theta, zero, subtract, attached,
    kind, shape, checkpoints, every, memory, gs, gs_stride, gu, gu_stride, gx, gx_stride, gx_rows, constant, first,
    first_present, learned, steps,
):  # fmt: skip
    fields, width, most = len(state), min(WIDTH, stop - start), min(every, steps)
    full = zero or attached or len(learned) > 0 or kind >= lanes.GIVEN
    nil = state.dtype.type(0)
    less = theta if subtract else nil
    # the states of a segment: here, or where the steps are called one by one in `memory`, each block in a part of it
    called = len(memory) > 0
    states = memory if called else _room((most + 1) * fields * width, state)
    adjoint, sums = _room(4 * width, state).reshape((4, width)), _room(2 * width, state).reshape((2, width))
    psi, line = np.empty((STEPS if full else 0, width), state.dtype), _room(3 * width, state).reshape((3, width))
    every_adjoint, every_sum, every_psi = adjoint.reshape(-1), sums.reshape(-1), psi.reshape(-1)
    for begin in range(start, stop, width):
        n = min(begin + width, stop) - begin
        beta, alpha = passes.part(beta_, begin, begin + n), passes.part(alpha_, begin, begin + n)
        adjoint[:], sums[:] = nil, nil
        total, work, extra = line[0, :n], line[1, :n], line[2, :n]
        total[:] = nil
        passes.load(last, last_present, begin, adjoint, n)
        base, stride_of = begin if called else 0, fields * n
        past = states[(most + 1) * fields * base : (most + 1) * fields * (base + n)]
        for segment in range((until - 1) // every, since // every - 1, -1):
            t0, t1 = segment * every, min((segment + 1) * every, steps)
            if until >= t1:  # not in the middle of a segment: its states once more
                for f in range(fields):
                    source = checkpoints[segment - 1, f, begin : begin + n] if segment else state[f, begin : begin + n]
                    passes.copy(source, past[f * n : (f + 1) * n])
                for t in range(t0, t1, STEPS):
                    count, at = min(STEPS, t1 - t), (t - t0) * stride_of
                    current, seen = (x, t * stride + begin, stride), (past, at + stride_of, stride_of)
                    before = past, at, at + (fields - 1) * n
                    _ahead(zero, n, count, current, before, beta, alpha, theta, less, (None, 0, 0), seen)
            t = min(until, t1)
            while t > max(since, t0):  # and back in time
                count = min(STEPS, t - max(since, t0))
                at = t - 1
                seen, error = (past, (t - t0) * stride_of, stride_of), (gs, at * gs_stride + begin, gs_stride)
                given, hidden = (gu, at * gu_stride + begin, gu_stride), (every_psi, (count - 1) * width, width)
                if full:
                    for k in range(count):
                        u = past[(t - t0 - count + 1 + k) * stride_of :][:n]
                        passes.surrogate(kind, shape, u, theta, work, extra, psi[k, :n])
                rest = (
                    n, count, shape, hidden, error, given, seen, every_adjoint, width, every_sum, beta, alpha, theta,
                    less, zero, attached,
                )  # fmt: skip
                if constant:
                    _behind(full, kind, (None, 0, 0), total, *rest)
                else:
                    _behind(full, kind, (gx, at % gx_rows * gx_stride + begin, gx_stride), None, *rest)
                t -= count
        if constant:
            destination = gx[begin : begin + n]
            wanted = passes.target(destination, total)
            passes.copy(total, wanted)
            passes.commit(destination, wanted)
        if len(learned):
            for f in range(fields):
                passes.add(learned[f, begin : begin + n], sums[f, :n])
        passes.store(adjoint, first_present, first, begin, n)

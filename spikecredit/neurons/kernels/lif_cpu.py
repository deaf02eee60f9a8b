"""The plain LIF on the CPU, with or without a synaptic current: several steps at a time, in vector registers.

Where u, and i, are the whole state, a step is so little work that loading and storing them takes most of its time. Here
a group of neurons goes through several steps between its loads and stores, and what moves is x, spikes and errors.
That is written as LLVM's vectors in `lanes.py`, for the compiler makes none of such loops: it cannot know that the rows
do not overlap. Other neurons' loops are in `cpu.py`; `Backend` in `flat.py` states the equations of both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from spikecredit.neurons.kernels import arrays, lanes, passes, threads
from spikecredit.neurons.kernels.flat import Decays, Membrane, State
from spikecredit.neurons.kernels.passes import WIDTH, I, R, U

LANES = 32
"""Neurons at a time: four registers of AVX2, two of AVX-512."""

STEPS = 4
"""Steps at a time. As many rows of x, and of spikes, are streams to read ahead; with 8 it takes longer."""


# ---- the steps from `since` to `until` for the neurons from start to stop


@njit(**passes.COMPILE)
def _room(size, number):
    """Memory for such numbers, whose vectors lie within cache lines."""
    room = np.empty(size + 64, type(number))
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


# In what follows tensors are addresses, 0 for none: `one`, a spike in the type of x, says what lies there.


@njit(**passes.COMPILE)
def _read(address, stride, begin, row):
    """A block of a state, of stride 1, or 0 for one number."""
    if stride:
        passes.copy(passes.memory(address, begin + len(row), row[0])[begin:], row)
    else:
        row[:] = passes.memory(address, 1, row[0])[0]


@njit(**passes.COMPILE)
def _forward(
    start, stop, since, until, u, u_stride, i, i_stride, size, steps, one, x, stride, beta, alpha, theta, zero,
    subtract, spikes, potentials, checkpoints, every, last_u, last_i,
):  # fmt: skip
    nil, theta, beta, alpha = (
        passes.in_state(0.0, one), passes.in_state(theta, one), passes.in_state(beta, one), passes.in_state(alpha, one)
    )  # fmt: skip
    less, fields, width = theta if subtract else nil, 1 if alpha is None else 2, min(WIDTH, stop - start)
    inputs, fired = passes.memory(x, (steps - 1) * stride + size, one), passes.memory(spikes, steps * size, one)
    seen = passes.memory(potentials, steps * size if potentials else 0, nil)
    saved = passes.memory(checkpoints, (steps - 1) // every * fields * size if checkpoints else 0, nil)
    rows = _room(fields * width, nil)
    for begin in range(start, stop, width):
        n = min(begin + width, stop) - begin
        betas, alphas = passes.part(beta, begin, begin + n), passes.part(alpha, begin, begin + n)
        _read(u, u_stride, begin, rows[:n])
        if fields > 1:
            _read(i, i_stride, begin, rows[width:][:n])
        t = since
        while t < until:
            if t and t % every == 0 and checkpoints:
                for f in range(fields):
                    place = ((t // every - 1) * fields + f) * size + begin
                    passes.copy(rows[f * width :][:n], saved[place : place + n])
            count, at = min(STEPS, until - t, every - t % every), t * size + begin
            current, state = (inputs, t * stride + begin, stride), (rows, 0, (fields - 1) * width)
            if potentials:
                _ahead(
                    zero, n, count, current, state, betas, alphas, theta, less, (fired, at, size), (seen, at, size)
                )  # fmt: skip
            else:
                _ahead(
                    zero, n, count, current, state, betas, alphas, theta, less, (fired, at, size), (None, 0, 0)
                )  # fmt: skip
            t += count
        for f in range(fields):
            passes.copy(rows[f * width :][:n], passes.memory(last_i if f else last_u, size, nil)[begin : begin + n])


@njit(**passes.COMPILE)
def _backward(
    start, stop, since, until, last_u, last_i, last_r, u, u_stride, i, i_stride, size, steps, one, x, stride, beta,
    alpha, theta, zero, subtract, attached, kind, p0, p1, p2, p3, checkpoints, every, memory, gs, gs_stride,
    gu, gu_stride, gx, gx_rows, first_u, first_i, first_r, learned,
):  # fmt: skip
    nil, theta, beta, alpha = (
        passes.in_state(0.0, one), passes.in_state(theta, one), passes.in_state(beta, one), passes.in_state(alpha, one)
    )  # fmt: skip
    less, fields = theta if subtract else nil, 1 if alpha is None else 2
    width, most = min(WIDTH, stop - start), min(every, steps)
    full, constant = zero or attached or learned != 0 or kind >= lanes.GIVEN, gx_rows < steps and not memory
    shape, zeros, silence = _room(4, nil), _room(width, nil), _room(width, one)
    shape[0], shape[1], shape[2], shape[3], zeros[:], silence[:] = p0, p1, p2, p3, nil, 0
    inputs, out = passes.memory(x, (steps - 1) * stride + size, one), passes.memory(gx, gx_rows * size, one)
    saved = passes.memory(checkpoints, (steps - 1) // every * fields * size if checkpoints else 0, nil)
    by_spikes = passes.memory(gs, (steps - 1) * gs_stride + size, one) if gs else silence
    by_potentials = passes.memory(gu, (steps - 1) * gu_stride + size, nil) if gu else zeros
    # the states of a segment: here, or where the steps are called one by one in `memory`, each block in a part of it
    part = (most + 1) * fields
    states = passes.memory(memory, part * size, nil) if memory else _room(part * width, nil)
    adjoint, sums, total = _room(4 * width, nil), _room(2 * width, nil), _room(width, nil)
    psi, work, extra = _room(STEPS * width if full else 0, nil), _room(width, nil), _room(width, nil)
    for begin in range(start, stop, width):
        n = min(begin + width, stop) - begin
        betas, alphas = passes.part(beta, begin, begin + n), passes.part(alpha, begin, begin + n)
        adjoint[:], sums[:], total[:] = nil, nil, nil
        for row, last in ((U, last_u), (I, last_i), (R, last_r)):
            if last:
                _read(last, 1, begin, adjoint[row * width :][:n])
        step, base = fields * n, part * (begin if memory else 0)
        past = states[base : base + part * n]
        for segment in range((until - 1) // every, since // every - 1, -1):
            t0, t1 = segment * every, min((segment + 1) * every, steps)
            if until >= t1:  # not in the middle of a segment: its states once more
                if segment == 0:
                    _read(u, u_stride, begin, past[:n])
                    if fields > 1:
                        _read(i, i_stride, begin, past[n:][:n])
                else:
                    for f in range(fields):
                        place = ((segment - 1) * fields + f) * size + begin
                        passes.copy(saved[place : place + n], past[f * n : (f + 1) * n])
                for t in range(t0, t1, STEPS):
                    count, at = min(STEPS, t1 - t), (t - t0) * step
                    current, state = (inputs, t * stride + begin, stride), (past, at, at + (fields - 1) * n)
                    _ahead(
                        zero, n, count, current, state, betas, alphas, theta, less, (None, 0, 0),
                        (past, at + step, step),
                    )  # fmt: skip
            t = min(until, t1)
            while t > max(since, t0):  # and back in time
                count, at = min(STEPS, t - max(since, t0)), t - 1
                if full:
                    for k in range(count):
                        now = past[(t - t0 - k) * step :][:n]
                        passes.surrogate(kind, shape, now, theta, work, extra, psi[(count - 1 - k) * width :][:n])
                rest = (
                    n, count, shape, (psi, (count - 1) * width, width),
                    (by_spikes, at * gs_stride + begin if gs else 0, gs_stride),
                    (by_potentials, at * gu_stride + begin if gu else 0, gu_stride),
                    (past, (t - t0) * step, step), adjoint, width, sums, betas, alphas, theta, less, zero, attached,
                )  # fmt: skip
                if constant:
                    _behind(full, kind, (None, 0, 0), total, *rest)
                else:
                    _behind(full, kind, (out, at % gx_rows * size + begin, size), None, *rest)
                t -= count
        if constant:
            destination = out[begin : begin + n]
            wanted = passes.target(destination, total[:n])
            passes.copy(total[:n], wanted)
            passes.commit(destination, wanted)
        if learned:
            for f in range(fields):
                passes.add(passes.memory(learned, fields * size, nil)[f * size + begin :][:n], sums[f * width :][:n])
        for row, first in ((U, first_u), (I, first_i), (R, first_r)):
            if first:
                passes.copy(adjoint[row * width :][:n], passes.memory(first, size, nil)[begin : begin + n])


# ---- `forward_steps` and `backward_steps` of `cpu.py`, for a state of u, or of u and i


def _address(v: Tensor | None) -> int:
    return 0 if v is None else v.data_ptr()


def _state(state: State) -> tuple[int, int, int, int]:
    """Addresses and strides of u and i."""
    u, i = state[:2]
    return _address(u), 0 if u is None else u.stride(0), _address(i), 0 if i is None else i.stride(0)


def _membrane(decays: Decays, state: State, m: Membrane) -> tuple[Any, ...]:
    """beta, alpha, theta, zero, subtract; a decay is a number, or an array of one per neuron."""
    assert state.u is not None
    beta, *alpha = arrays.decays(decays[: 1 if state.i is None else 2], state.u)
    return beta, *(alpha or [None]), float(m.threshold), m.reset == "zero", m.reset == "subtract"


def forward_steps(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    spikes: Tensor,
    checkpoints: Tensor | None,
    every: int,
    last: State,
    potentials: Tensor | None,
    count: int,
) -> Callable[[int], None]:
    """In calls of `count` steps each."""
    steps, n = spikes.shape
    call = threads.share(_forward, count, n, LANES)
    before, after = _state(state), _state(last)
    others = (
        n, steps, arrays.one(x), x.data_ptr(), x.stride(0), *_membrane(decays, state, m), spikes.data_ptr(),
        _address(potentials), _address(checkpoints), every, _address(last.u), _address(last.i),
    )  # fmt: skip
    held = x, state, spikes, potentials, checkpoints, last  # as long as their addresses

    def run(t: int, held: Any = held) -> None:
        call(t, t + count, *(after if t else before), *others)

    return run


def backward_steps(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    checkpoints: Tensor | None,
    every: int,
    grad_spikes: Tensor | None,
    grad_last: State,
    grad_x: Tensor,
    grad_state: State,
    grad_decays: Decays,
    grad_potentials: Tensor | None,
    count: int,
) -> Callable[[int], None]:
    """In calls of `count` steps each, from the last one back."""
    assert state.u is not None
    u, (steps, n) = state.u, x.shape
    fields = 1 if state.i is None else 2
    wanted = [d for d in grad_decays[:fields] if isinstance(d, Tensor)]
    learned = u.new_zeros((fields, n)) if wanted else None
    # a segment's states, between the calls: what `_backward` calls `past`
    memory = u.new_empty((min(every, steps) + 1) * fields * n) if count < steps else None
    call = threads.share(_backward, count, n, LANES)
    given, carried = ([_address(v) for v in (s.u, s.i, s.r)] for s in (grad_last, grad_state))
    p0, p1, p2, p3 = map(float, (*m.shape, 0, 0, 0, 0)[:4])
    others = (
        *_state(state), n, steps, arrays.one(x), x.data_ptr(), x.stride(0),
        *_membrane(decays, state, m), not m.detach_reset and m.reset != "none", passes.SURROGATES.index(m.surrogate),
        p0, p1, p2, p3, _address(checkpoints), every, _address(memory),
        _address(grad_spikes), 0 if grad_spikes is None else grad_spikes.stride(0),
        _address(grad_potentials), 0 if grad_potentials is None else grad_potentials.stride(0),
        grad_x.data_ptr(), len(grad_x), *carried, _address(learned),
    )  # fmt: skip
    held = (  # as long as their addresses
        x, state, checkpoints, grad_spikes, grad_potentials, grad_last, grad_x, grad_state, memory,
    )  # fmt: skip

    def run(t: int, held: Any = held) -> None:
        call(t, t + count, *(given if t + count == steps else carried), *others)
        if t == 0 and learned is not None:
            for gradient, total in zip(grad_decays, learned, strict=False):
                if isinstance(gradient, Tensor):
                    gradient.copy_(total)

    return run

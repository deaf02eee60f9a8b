"""The CPU backend: the time loop in blocks of neurons that stay in cache, compiled by numba.

`Backend` in `flat.py` states the equations and the arguments. Here are the neurons with a pending reset in their state
(adaptation, refractory period), by the loops over one block that `passes.py` has; `lif_cpu.py` has the others.
"""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spikecredit.neurons.kernels import arrays, lif_cpu, passes, threads
from spikecredit.neurons.kernels.flat import SEGMENT, Decays, Membrane, State
from spikecredit.neurons.kernels.passes import WAIT, WIDTH, A, I, R, U

# ---- the steps from `since` to `until` for the neurons from start to stop


@njit(**passes.COMPILE)
def _advance(now, current, s, beta, alpha, rho, theta, b, zero, subtract, hold, synapse, adaptive, n):
    """One step of a block, in place; s: its spikes."""
    u, r, a, wait = now[U, :n], now[R, :n], now[A, :n], now[WAIT, :n]
    if synapse:
        passes.leak(now[I, :n], current, alpha)
        current = now[I, :n]
    passes.membrane(u, current, r, wait, beta, theta, zero, subtract)
    passes.spike(u, a, wait, theta, b, s)
    passes.after_spike(s, r, wait, hold)
    if adaptive:
        passes.leak(a, s, rho)


@njit(**passes.COMPILE)
def _forward(
    start, stop, since, until, state, x, stride, present, beta_, alpha_, rho_, theta, b, zero, subtract, hold,
    spikes, one, potentials, checkpoints, every, last,
):  # fmt: skip
    synapse, adaptive = I in present, A in present
    width = min(WIDTH, stop - start)
    rows, line = np.zeros((5, width), state.dtype), np.empty((2, width), state.dtype)
    nil = state.dtype.type(0)
    for begin in range(start, stop, width):
        end = min(begin + width, stop)
        n = end - begin
        s, scratch = line[0, :n], line[1, :n]
        beta, alpha = passes.part(beta_, begin, end), passes.part(alpha_, begin, end)
        rho = passes.part(rho_, begin, end)
        passes.load(state, present, begin, rows, n)
        for t in range(since, until):
            if t and t % every == 0 and checkpoints.shape[0]:
                passes.store(rows, present, checkpoints[t // every - 1], begin, n)
            current = passes.row(x[t * stride + begin : t * stride + end], scratch)
            _advance(rows, current, s, beta, alpha, rho, theta, b, zero, subtract, hold, synapse, adaptive, n)
            passes.fire(s, nil, spikes[t, begin:end], one)
            if potentials.shape[0]:
                passes.copy(rows[U, :n], potentials[t, begin:end])
        passes.store(rows, present, last, begin, n)


@njit(**passes.COMPILE)
def _backward(
    start, stop, since, until, last, last_present, x, stride, state, present, beta_, alpha_, rho_, theta, b, zero,
    subtract, hold, detached, kind, shape, checkpoints, every, memory, gs, gs_stride, gu, gu_stride, gx,
    first, first_present, learned, steps,
):  # fmt: skip
    synapse, adaptive = I in present, A in present
    constant = gx.shape[0] < steps and len(memory) == 0
    nil = state.dtype.type(0)
    width, most = min(WIDTH, stop - start), min(every, steps)
    # the states of a segment: here, or where the steps are called one by one in `memory`, each block in a part of it
    fields, kept = 5, len(memory) > 0
    states = memory if kept else np.empty((most + 1) * fields * width, state.dtype)
    adjoint, line = np.empty((4, width), state.dtype), np.empty((8, width), state.dtype)
    for begin in range(start, stop, width):
        end = min(begin + width, stop)
        n = end - begin
        c, ci, h, k = adjoint[U, :n], adjoint[I, :n], adjoint[A, :n], adjoint[R, :n]
        q, live, psi, v = line[0, :n], line[1, :n], line[2, :n], line[3, :n]
        gs_row, gx_row, total, s = line[4, :n], line[5, :n], line[6, :n], line[7, :n]
        beta, alpha = passes.part(beta_, begin, end), passes.part(alpha_, begin, end)
        rho = passes.part(rho_, begin, end)
        adjoint[:] = nil
        total[:] = nil
        passes.load(last, last_present, begin, adjoint, n)
        base = begin if kept else 0
        past = states[(most + 1) * fields * base : (most + 1) * fields * (base + n)].reshape((most + 1, fields, n))
        for segment in range((until - 1) // every, since // every - 1, -1):
            t0, t1 = segment * every, min((segment + 1) * every, steps)
            if until >= t1:  # not in the middle of a segment: its states once more
                past[0, :, :] = nil
                if segment:
                    passes.load(checkpoints[segment - 1], present, begin, past[0], n)
                else:
                    passes.load(state, present, begin, past[0], n)
                for t in range(t0, t1):
                    old, now = past[t - t0], past[t - t0 + 1]
                    for f in range(fields):
                        passes.copy(old[f, :n], now[f, :n])
                    current = passes.row(x[t * stride + begin : t * stride + end], v)
                    _advance(now, current, s, beta, alpha, rho, theta, b, zero, subtract, hold, synapse, adaptive, n)
            for t in range(min(until, t1) - 1, max(since, t0) - 1, -1):  # and back in time
                old, now = past[t - t0], past[t - t0 + 1]
                before, held, r = old[U, :n], old[WAIT, :n], old[R, :n]
                g = passes.row(gs[t * gs_stride + begin : t * gs_stride + end], gs_row)
                if len(gu):
                    passes.add(c, gu[t * gu_stride + begin : t * gu_stride + end])
                passes.distance(now[U, :n], old[A, :n], b, theta, v)
                passes.surrogate(kind, shape, v, nil, q, live, psi)
                destination = gx[t % gx.shape[0], begin:end]
                wanted = gx_row if constant else passes.target(destination, gx_row)
                out = live if synapse else wanted
                passes.through_spike(g, h, k, psi, held, q)
                passes.add(c, q)
                passes.live(c, held, out)
                if adaptive:
                    if len(learned):
                        passes.add_product(learned[2, begin:end], h, old[A, :n])
                    passes.relax(h, q, rho, b)
                passes.keep(out, r, q, zero)
                if len(learned):
                    passes.add_product(learned[0, begin:end], q, before)
                if detached:
                    k[:] = nil
                else:
                    passes.to_reset(k, out, before, beta, theta if subtract else nil, held, zero)
                passes.back_in_time(c, q, beta, held)
                if synapse:
                    passes.filter_back(ci, live, alpha, wanted)
                    if len(learned):
                        passes.add_product(learned[1, begin:end], wanted, old[I, :n])
                if constant:
                    passes.add(total, wanted)
                else:
                    passes.commit(destination, wanted)
        if constant:
            destination = gx[0, begin:end]
            wanted = passes.target(destination, gx_row)
            passes.copy(total, wanted)
            passes.commit(destination, wanted)
        passes.store(adjoint, first_present, first, begin, n)


@njit(**passes.COMPILE)
def _integrate(start, stop, x, stride, u0, beta_, potentials):
    width = min(WIDTH, stop - start)
    U, X = np.empty(width, u0.dtype), np.empty(width, u0.dtype)
    for begin in range(start, stop, width):
        end = min(begin + width, stop)
        u, beta = U[: end - begin], passes.part(beta_, begin, end)
        passes.copy(u0[begin:end], u)
        for t in range(potentials.shape[0]):
            passes.leak(u, passes.row(x[t * stride + begin : t * stride + end], X[: end - begin]), beta)
            passes.copy(u, potentials[t, begin:end])


@njit(**passes.COMPILE)
def _integrate_back(start, stop, grad, stride, steps, u0, beta_, potentials, gx, gu0, g_beta):
    constant = gx.shape[0] < steps
    width = min(WIDTH, stop - start)
    C, G, SUM = np.empty(width, u0.dtype), np.empty(width, u0.dtype), np.empty(width, u0.dtype)
    for begin in range(start, stop, width):
        end = min(begin + width, stop)
        n = end - begin
        c, g, total, beta = C[:n], G[:n], SUM[:n], passes.part(beta_, begin, end)
        c[:], total[:] = 0, 0
        for t in range(steps - 1, -1, -1):
            passes.copy(grad[t * stride + begin : t * stride + end], g)
            passes.add(g, c)
            if constant:
                passes.add(total, g)
            else:
                wanted = passes.target(gx[t, begin:end], g)
                passes.copy(g, wanted)
                passes.commit(gx[t, begin:end], wanted)
            if len(g_beta):
                passes.add_product(g_beta[begin:end], g, potentials[t - 1, begin:end] if t else u0[begin:end])
            for j in range(n):
                c[j] = g[j] * passes.at(beta, j)
        if constant:
            wanted = passes.target(gx[0, begin:end], total)
            passes.copy(total, wanted)
            passes.commit(gx[0, begin:end], wanted)
        passes.copy(c, gu0[begin:end])


# ---- the functions of a backend


def forward(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    spikes: Tensor,
    potentials: Tensor | None,
    checkpoints: Tensor | None,
    last: State,
) -> None:
    forward_steps(x, state, decays, m, spikes, checkpoints, SEGMENT, last, potentials, spikes.shape[0])(0)


def forward_steps(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    spikes: Tensor,
    checkpoints: Tensor | None,
    every: int,
    last: State,
    potentials: Tensor | None = None,
    count: int = 1,
) -> Callable[[int], None]:
    """... in calls of `count` steps. All is converted here, once: that can take longer than a step."""
    assert state.u is not None
    if state.r is None:
        return lif_cpu.forward_steps(x, state, decays, m, spikes, checkpoints, every, last, potentials, count)
    u, (steps, n) = state.u, spikes.shape
    (start, present), (end, _) = arrays.rows(state, u), arrays.rows(last, u)
    call = threads.share(_forward, count, n)
    others = (
        *arrays.sequence(x, u), present, *arrays.factors(decays, u), *arrays.numbers(m, u), arrays.array(spikes, u),
        arrays.one(x), arrays.matrix(potentials, u), arrays.blocks(checkpoints, u), every, end,
    )  # fmt: skip

    def run(t: int) -> None:
        call(t, t + count, end if t else start, *others)
        if t + count == steps:
            arrays.write(end, last)

    return run


def backward(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    checkpoints: Tensor | None,
    grad_spikes: Tensor | None,
    grad_potentials: Tensor | None,
    grad_last: State,
    grad_x: Tensor,
    grad_state: State,
    grad_decays: Decays,
) -> None:
    given = grad_potentials if grad_spikes is None else grad_spikes
    assert given is not None
    backward_steps(
        x, state, decays, m, checkpoints, SEGMENT, grad_spikes, grad_last, grad_x, grad_state, grad_decays,
        grad_potentials, given.shape[0],
    )(0)  # fmt: skip


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
    grad_potentials: Tensor | None = None,
    count: int = 1,
) -> Callable[[int], None]:
    """... in calls of `count` steps, from the last one back."""
    assert state.u is not None
    if state.r is None:
        return lif_cpu.backward_steps(
            x, state, decays, m, checkpoints, every, grad_spikes, grad_last, grad_x, grad_state, grad_decays,
            grad_potentials, count,
        )  # fmt: skip
    u, (steps, n) = state.u, x.shape
    shape = np.zeros(4, arrays.number_type(u.dtype))
    shape[: len(m.shape)] = m.shape
    wanted = [d for d in grad_decays if isinstance(d, Tensor)]
    learned = torch.zeros((3, n), dtype=u.dtype) if wanted else None
    (start, present), carried, given = (arrays.rows(v, u) for v in (state, grad_state, grad_last))
    # a segment's states, between the calls: what `_backward` calls `past`
    memory = u.new_empty((min(every, steps) + 1) * 5 * n if count < steps else 0)
    errors = x.new_zeros((1, n)).expand(x.shape) if grad_spikes is None else grad_spikes
    call = threads.share(_backward, count, n)
    others = (
        *arrays.sequence(x, u), start, present, *arrays.factors(decays, u), *arrays.numbers(m, u), m.detach_reset,
        passes.SURROGATES.index(m.surrogate), shape, arrays.blocks(checkpoints, u), every, arrays.array(memory, u),
        *arrays.sequence(errors, x), *arrays.sequence(grad_potentials, u), arrays.array(grad_x, u), *carried,
        arrays.matrix(learned, u), steps,
    )  # fmt: skip

    def run(t: int) -> None:
        call(t, t + count, *(given if t + count == steps else carried), *others)
        if t:
            return
        arrays.write(carried[0], grad_state)
        for gradient, total in zip(grad_decays, (None,) * 3 if learned is None else learned, strict=True):
            if isinstance(gradient, Tensor) and total is not None:
                gradient.copy_(total)

    return run


def leaky_forward(x: Tensor, u: Tensor, beta: Tensor | float, potentials: Tensor) -> None:
    (beta_,) = arrays.factors((beta,), u)
    threads.run(
        _integrate, *potentials.shape,
        *arrays.sequence(x, u), arrays.array(u, u), beta_, arrays.array(potentials, u),
    )  # fmt: skip


def leaky_backward(
    grad: Tensor,
    u: Tensor,
    beta: Tensor | float,
    potentials: Tensor | None,
    grad_x: Tensor,
    grad_u: Tensor,
    grad_beta: Tensor | None,
) -> None:
    if grad_beta is not None:
        grad_beta.zero_()
    threads.run(
        _integrate_back, *grad.shape,
        *arrays.sequence(grad, u), grad.shape[0], arrays.array(u, u), *arrays.factors((beta,), u),
        arrays.matrix(potentials, u), arrays.array(grad_x, u), arrays.array(grad_u, u), arrays.array(grad_beta, u),
    )  # fmt: skip

"""What a fast backend is given: the neuron's numbers, its state, and every tensor flat, one row of N neurons a step.

A backend is a module with the six functions of `Backend` here. It allocates nothing that outlives the call, or the
function that the call returns: it writes into what it is given.
`kernels/ops.py` flattens, allocates and registers; the backends know no shapes, layouts or autograd.

The equations are those of `reference.py`, in this order at every step, with i the synaptic current (x itself without a
synapse), a the adaptation and r the pending reset:

    i = alpha i + x
    held = wait > 0
    v = (1 - r) u beta + i          reset "zero"
    v = u beta + i - r theta        reset "subtract" (without "- r theta": "none")
    u = u where held, else v
    s = H(u - (a b + theta)), 0 where held
    r = r where held, else s;   wait = refractory - 1 where s, else max(wait - 1, 0);   a = a rho + s

Products and sums are rounded one by one (no fused multiply-add), so that spikes equal the reference's bit for bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SEGMENT = 32
"""K on the CPU: the state before every K-th step is kept, and the steps between are computed again backwards."""

SEGMENTS = {"cpu": SEGMENT, "triton": 16}  # with 32, a segment no longer fits into a GPU's registers


def segment_of(backend: str) -> int:
    """K of a backend."""
    return SEGMENTS[backend]


@dataclass(frozen=True)
class Membrane:
    """The numbers of a neuron that are one per layer; b is `adaptation`, `shape` the surrogate's parameters."""

    threshold: float
    adaptation: float
    reset: str
    refractory: int
    surrogate: str
    shape: tuple[float, ...]
    detach_reset: bool


class State(NamedTuple):
    """A state, or the gradient of one; each (N,) contiguous, in the state's dtype (float32 or float64), wait int32. On
    the CPU u and i of a state without a, r and wait may also be one number, of stride 0.

    u: potential. i: synaptic current; None: no synapse. a: adaptation; None: none.
    r: pending reset; None: that of a plain LIF, r = H(u - theta), which the kernel derives from u.
    wait: refractory steps to wait; None: no refractory period.
    r is given if a or wait is.
    """

    u: Tensor | None
    i: Tensor | None = None
    a: Tensor | None = None
    r: Tensor | None = None
    wait: Tensor | None = None


class Decays(NamedTuple):
    """beta (membrane), alpha (synapse), rho (adaptation): a number, a tensor of shape () or one value per neuron (N,).

    As gradients: (N,) each, to be summed by the caller; None where nobody asks.
    """

    beta: Tensor | float | None
    alpha: Tensor | float | None = None
    rho: Tensor | float | None = None


class Backend(Protocol):
    """The functions of a backend."""

    def forward(
        self,
        x: Tensor,
        state: State,
        decays: Decays,
        m: Membrane,
        spikes: Tensor,
        potentials: Tensor | None,
        checkpoints: Tensor | None,
        last: State,
    ) -> None:
        """Run T steps.

        Args:
            x: (T, N) of strides (any, 1), time stride 0 for a constant input; float32, float64 or bfloat16 (and
                float16, on CUDA).
            state: before the first step.
            spikes: (T, N), x's dtype, contiguous; written. potentials: (T, N), the state's dtype, or None; written.
            checkpoints: ((T - 1) // K, F, N), the state's dtype, contiguous, or None if nothing will ask for a
                gradient; entry c is written with the state before step (c + 1) K. Its F rows are u, then i if there is
                a synapse, then a (if there is adaptation), r and wait (as a float, if there is a refractory period).
            last: the state after the last step; every field that `state` has is written.
        """

    def forward_steps(
        self,
        x: Tensor,
        state: State,
        decays: Decays,
        m: Membrane,
        spikes: Tensor,
        checkpoints: Tensor | None,
        every: int,
        last: State,
    ) -> Callable[[int], None]:
        """`forward` with checkpoints at every `every`-th step, as a function that runs step t: to be called for
        t = 0 ... T - 1, each time after x[t] was written. `last` holds what it likes until step T - 1 was run.
        """

    def backward(
        self,
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
        """The adjoint, backwards in time, with three adjoint variables: g of u[t], h of a[t+1], k of r[t+1].

        L_s, L_u: gradients of spikes and potentials; psi: the surrogate's derivative at u[t] - A[t];
        b: `m.adaptation`; lost: theta (subtract), beta u[t-1] (zero), or 0 if the reset is detached or "none".

            q = (L_s[t] + h + k) psi, 0 where held
            g = g_next + q + L_u[t];  live = g, 0 where held
            h = rho h - b q
            g_next = live beta (1 - r[t], if "zero"), but g where held
            k = -live lost, but k where held (0 if detached)
            dL/di[t] = live + alpha dL/di[t+1];   dL/dx = dL/di

        At the end g_next, dL/di alpha, h and k are the gradients of the first state's u, i, a and r.
        dL/dbeta = sum_t live u[t-1] (1 - r[t], if "zero"); dL/drho = sum_t h a[t] with the h from before its update;
        dL/dalpha = sum_t dL/di[t] i[t-1].

        Args:
            x, state, decays, m, checkpoints: as in the forward pass; T is that of grad_spikes or grad_potentials, one
                of which is given.
            grad_spikes: (T, N) of strides (any, 1), or None, x's dtype. grad_potentials: likewise, the state's dtype.
            grad_last: gradient of the last state, fields None where there is none. Its r counts even if the reset is
                detached, unless a step inside the chunk comes after.
            grad_x: (T, N) contiguous, x's dtype, written; (1, N) for a constant input: the sum over time. On the CPU
                it may be grad_spikes itself, written over.
            grad_state: gradient of the first state; the fields that are not None are written. r may be asked of a plain
                LIF too (state.r None) when its reset is not detached: the caller turns it into a gradient of u.
            grad_decays: written where not None.
        """

    def backward_steps(
        self,
        x: Tensor,
        state: State,
        decays: Decays,
        m: Membrane,
        checkpoints: Tensor | None,
        every: int,
        grad_spikes: Tensor,
        grad_last: State,
        grad_x: Tensor,
        grad_state: State,
        grad_decays: Decays,
    ) -> Callable[[int], None]:
        """`backward` after `forward_steps`, as a function that goes back over step t: to be called for t = T - 1 ... 0,
        each time after grad_spikes[t] was written; row t mod L of grad_x, which is (L, N), is then there. grad_state
        has every field of `state`, and r if the reset is not detached; it holds what it likes until step 0. On the CPU
        grad_x may be x itself: with the step that ends a segment all of its x was read.
        """

    def leaky_forward(self, x: Tensor, u: Tensor, beta: Tensor | float, potentials: Tensor) -> None:
        """u[t] = beta u[t-1] + x[t]; x (T, N) of strides (any, 1), u (N,), potentials (T, N), the state's dtype."""

    def leaky_backward(
        self,
        grad: Tensor,
        u: Tensor,
        beta: Tensor | float,
        potentials: Tensor | None,
        grad_x: Tensor,
        grad_u: Tensor,
        grad_beta: Tensor | None,
    ) -> None:
        """g[t] = grad[t] + beta g[t+1]; dL/dx[t] = g[t], dL/dbeta = sum_t g[t] u[t-1].

        Args:
            grad: (T, N) of strides (any, 1), the state's dtype. u: before the first step.
            potentials: (T, N), given if grad_beta is asked for.
            grad_x: (T, N), or (1, N) for a constant input (the sum), x's dtype. grad_u, grad_beta: (N,). All written.
        """


def slice_strides(x: Tensor) -> tuple[int, ...]:
    """Strides of one time step of x (T, B, *N): x's own if they fill memory without gaps or overlaps, in any order of
    dimensions (channels last, for one); those of a contiguous tensor otherwise."""
    shape, strides = x.shape[1:], x.stride()[1:]
    if x.is_contiguous():
        return strides
    expected = 1
    for stride, size in sorted((st, size) for st, size in zip(strides, shape, strict=True) if size != 1):
        if stride != expected:
            return contiguous_strides(shape)
        expected *= size
    return tuple(strides)


def contiguous_strides(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides of a shape."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()


def flat(v: Tensor, strides: tuple[int, ...]) -> Tensor:
    """One time step v (B, *N) as (N,) in the order of `strides`; a copy only if v lies otherwise."""
    if v.stride() != strides and not _lies(v.shape, v.stride(), strides):
        v = torch.empty_strided(v.shape, strides, dtype=v.dtype, device=v.device).copy_(v)
    return v.as_strided((v.numel(),), (1,))


def flat_sequence(v: Tensor, strides: tuple[int, ...], steps: int) -> Tensor:
    """A sequence v (T, B, *N), or (1, B, *N) that stands for `steps` equal ones, as (steps, N) of strides (any, 1)."""
    n = math.prod(v.shape[1:])
    constant = v.shape[0] < steps or (steps > 1 and v.stride(0) == 0)
    if constant:
        v = v[:1]
    if v.stride()[1:] != strides and not _lies(v.shape[1:], v.stride()[1:], strides):
        v = torch.empty_strided(v.shape, (n, *strides), dtype=v.dtype, device=v.device).copy_(v)
    return v.as_strided((steps, n), (0 if constant else v.stride(0), 1))


def unflat(v: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """The inverse of `flat` and `flat_sequence`: (N,) as (B, *N), or (T, N) as (T, B, *N) for a shape with T."""
    return v.as_strided(shape, strides if v.ndim == 1 else (v.stride(0), *strides))


def _lies(shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(size == 1 or st == want for size, st, want in zip(shape, strides, wanted, strict=True))

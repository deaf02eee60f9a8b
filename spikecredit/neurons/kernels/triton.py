"""The flat backend (`flat.Backend`) in Triton; its device code is in `triton_kernels.py`.

Memory traffic per element in float32: forwards x and s, backwards x, grad_s and grad_x, 20 bytes; a checkpoint adds
8 / K bytes for every field of the state. Everything else stays in registers.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
from torch import Tensor

from spikecredit.neurons.kernels.flat import Decays, Membrane, State, segment_of
from spikecredit.neurons.kernels.triton_kernels import (
    backward_kernel,
    forward_kernel,
    leaky_backward_kernel,
    leaky_forward_kernel,
)

SEGMENT = segment_of("triton")
"""K. The backward pass reads K values of x and of grad_s at once and keeps K potentials in registers. At K = 16 a
multiprocessor of an H200 has 130 kB of loads in flight, 5 times what 4.8 TB/s and 700 ns need. K = 8 doubles the
checkpoints (an adaptive neuron in bfloat16, T = 25: 12.9 bytes per element instead of 11); K = 32 needs 200 registers
for one LIF neuron and compiles for 5 to 10 s."""

WARPS = 4
LANE_BYTES = 8
"""A lane takes 2 neurons of float32, with accesses of 8 bytes (4 in bfloat16); with 4 of them an adaptive neuron's
backward pass spills."""
LANE_VALUES = 3
"""... if the backward pass keeps at most so many values per neuron and step (then 80 to 240 registers, no spills); with
more, a lane takes 1 neuron (110 to 165 registers)."""
FEW = 2**16
"""Below so many neurons a lane takes one, so that there are programs enough for 132 multiprocessors."""

OPTIONS = {"num_warps": WARPS, "num_stages": 1, "enable_fp_fusion": False}
"""num_stages 1: the segments are read ahead by hand. No fusion: u must equal the reference's bit for bit."""


def forward(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    spikes: Tensor,
    potentials: Tensor | None,
    checkpoints: Tensor | None,
    last: State,
    every: int | None = None,
) -> None:
    steps, n = spikes.shape
    if n == 0:
        return
    k, block = every or _steps_at_once(steps), _block(n, state)
    numbers, kinds = _decays(decays)
    with _on(x):
        forward_kernel[(triton.cdiv(n, block),)](
            x, *state, *last, spikes, potentials, checkpoints, *numbers, m.threshold, m.adaptation,
            m.refractory, steps, n, x.stride(0), *kinds, m.reset, k, steps % k != 0, x.stride(0) == 0, block,
            **OPTIONS,
        )  # fmt: skip


def forward_steps(
    x: Tensor,
    state: State,
    decays: Decays,
    m: Membrane,
    spikes: Tensor,
    checkpoints: Tensor | None,
    every: int,
    last: State,
) -> Callable[[int], None]:
    def run(t: int) -> None:
        before = last if t else state
        if checkpoints is not None and t and t % every == 0:
            for row, field in zip(checkpoints[t // every - 1], _present(before), strict=True):
                row.copy_(field)
        forward(x[t : t + 1], before, decays, m, spikes[t : t + 1], None, None, last)

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
    given = grad_spikes if grad_spikes is not None else grad_potentials
    assert given is not None
    steps, n = given.shape
    if n == 0:
        return
    kept = (
        grad_spikes,
        grad_potentials,
        state.a,
        state.wait,
        grad_decays.alpha,
        state.r if m.reset == "zero" else None,
    )
    k, block = _steps_at_once(steps), _block(n, state, 1 + sum(v is not None for v in kept))
    numbers, kinds = _decays(decays)
    with _on(x):
        backward_kernel[(triton.cdiv(n, block),)](
            x, *state, checkpoints, grad_spikes, grad_potentials, *grad_last[:4], grad_x, *grad_state[:4], *grad_decays,
            *numbers, m.threshold, m.adaptation, *surrogate_numbers(m.surrogate, m.shape), m.refractory, steps, n,
            x.stride(0), _stride(grad_spikes), _stride(grad_potentials), *kinds, m.reset, m.surrogate,
            not m.detach_reset, k, steps % k != 0, grad_x.shape[0] == 1, block, **OPTIONS,
        )  # fmt: skip


def backward_steps(
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
    assert state.u is not None
    (steps, n), fields = x.shape, _present(state)
    most = min(every, steps)
    past = state.u.new_empty((most, len(fields), n))  # before each step of a segment
    spikes, end = x.new_empty((most, n)), State(*(None if v is None else torch.empty_like(v) for v in state))
    totals = Decays(*(torch.zeros_like(g) if isinstance(g, Tensor) else None for g in grad_decays))

    def at(rows: Tensor) -> State:
        given = iter(rows)
        u, i, a, r, wait = (None if v is None else next(given) for v in state)
        return State(u, i, a, r, None if wait is None else wait.to(torch.int32))

    def run(t: int) -> None:
        k = t % every
        if t == steps - 1 or k == every - 1:  # the last of its segment: its states once more
            first = list(checkpoints[t // every - 1]) if t >= every and checkpoints is not None else fields
            for row, field in zip(past[0], first, strict=True):
                row.copy_(field)
            if k:
                forward(x[t - k : t + 1], at(past[0]), decays, m, spikes[: k + 1], None, past[1:], end, every=1)
        after, row = grad_last if t == steps - 1 else grad_state, t % grad_x.shape[0]
        backward(
            x[t : t + 1], at(past[k]), decays, m, None, grad_spikes[t : t + 1], None, after, grad_x[row : row + 1],
            grad_state, grad_decays,
        )  # fmt: skip
        for total, part in zip(totals, grad_decays, strict=True):
            if isinstance(total, Tensor) and isinstance(part, Tensor):
                total.add_(part)
                if t == 0:
                    part.copy_(total)

    return run


def _present(state: State) -> list[Tensor]:
    return [v for v in state if v is not None]


def leaky_forward(x: Tensor, u: Tensor, beta: Tensor | float, potentials: Tensor) -> None:
    steps, n = potentials.shape
    if n == 0:
        return
    k, block = _steps_at_once(steps), _block(n, State(u))
    number, kind = _decay(beta)
    with _on(x):
        leaky_forward_kernel[(triton.cdiv(n, block),)](
            x, u, potentials, *number, steps, n, x.stride(0), kind, k, steps % k != 0, block, **OPTIONS
        )


def leaky_backward(
    grad: Tensor,
    u: Tensor,
    beta: Tensor | float,
    potentials: Tensor | None,
    grad_x: Tensor,
    grad_u: Tensor,
    grad_beta: Tensor | None,
) -> None:
    steps, n = grad.shape
    if n == 0:
        return
    k, block = _steps_at_once(steps), _block(n, State(u))
    number, kind = _decay(beta)
    with _on(grad):
        leaky_backward_kernel[(triton.cdiv(n, block),)](
            grad, u, potentials, grad_x, grad_u, grad_beta, *number, steps, n, grad.stride(0), kind, k, steps % k != 0,
            grad_x.shape[0] == 1, block, **OPTIONS,
        )  # fmt: skip


@lru_cache
def surrogate_numbers(surrogate: str, shape: tuple[float, ...]) -> tuple[float, float, float, float, float]:
    """The numbers of the surrogate's formula in `triton_kernels._psi`, worked out in float64; unused ones are 0."""
    numbers: tuple[float, ...]
    if surrogate == "arctan":
        (alpha,) = shape
        numbers = (math.pi / 2 * alpha, alpha / 2)
    elif surrogate == "triangle":
        gamma, width = shape
        numbers = (gamma / width / width, gamma / width)
    elif surrogate == "gaussian":
        numbers = _gaussian(*shape)
    elif surrogate == "multi_gaussian":
        sigma, h, s, gamma = shape
        (narrow, centre), (wide, side) = _gaussian(sigma), _gaussian(s * sigma)
        numbers = (narrow, gamma * (1 + h) * centre, wide, gamma * h * side, sigma)
    else:
        numbers = shape
    c0, c1, c2, c3, c4 = (*numbers, *(0.0,) * (5 - len(numbers)))
    return c0, c1, c2, c3, c4


def _gaussian(sigma: float) -> tuple[float, float]:
    """(c, d) with N(v; 0, sigma^2) = d exp(c v^2)."""
    return -0.5 / sigma**2, 1 / (sigma * math.sqrt(2 * math.pi))


def _decay(decay: Tensor | float | None) -> tuple[tuple[Tensor | None, float], int]:
    """A decay as the kernels take it: its tensor or None, its number, and its kind (see `triton_kernels._decay`)."""
    if isinstance(decay, Tensor):
        return (decay, 0.0), 2 if decay.ndim else 1
    return (None, 0.0 if decay is None else float(decay)), 0


def _decays(decays: Decays) -> tuple[tuple[Tensor | float | None, ...], tuple[int, ...]]:
    """Tensors, numbers and kinds of beta, alpha and rho."""
    pairs, kinds = zip(*(_decay(decay) for decay in decays), strict=True)
    tensors, numbers = zip(*pairs, strict=True)
    return (*tensors, *numbers), kinds


def _steps_at_once(steps: int) -> int:
    """K, or for a short sequence just enough, in steps of 4 so that not every length compiles a kernel of its own."""
    if steps > SEGMENT:
        return SEGMENT
    return steps if steps <= 4 else -(-steps // 4) * 4


def _stride(v: Tensor | None) -> int:
    return 0 if v is None else v.stride(0)


def _on(v: Tensor) -> AbstractContextManager[object]:
    """Launches go to v's device; CPU tensors only come with Triton's interpreter."""
    return torch.cuda.device(v.device) if v.is_cuda else nullcontext()


def _block(n: int, state: State, values: int = 0) -> int:
    """Neurons per program; `values` per neuron and step stay in registers."""
    assert state.u is not None
    lanes = 32 * WARPS
    return lanes if n < FEW or values > LANE_VALUES else lanes * LANE_BYTES // state.u.element_size()

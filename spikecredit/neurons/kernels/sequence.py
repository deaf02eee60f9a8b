"""Whole sequences of the neurons, on the backend that is asked for.

The backend "reference" is the plain loop, differentiated by autograd. The others are the operators of `ops.py`, one
autograd node each, that keep their input x and compute the potentials again in the backward pass.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.kernels.backends import KIND_OF, choose
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.ops import leaky, spiking
from spikecredit.neurons.kernels.reference import (
    ALIFParameters,
    ALIFState,
    LIFParameters,
    LIFState,
    alif_loop,
    leaky_loop,
    lif_loop,
)
from spikecredit.neurons.surrogate import Surrogate


def spiking_sequence(
    x: Tensor,
    state: State,
    decays: Decays,
    p: LIFParameters | ALIFParameters,
    steps: int | None = None,
    potentials: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None, State]:
    """A neuron's equations (`lif_step`, `alif_step`; with a synaptic current in front if the state has one).

    Args:
        x: (T, B, *N), or (1, B, *N) for a current that is constant over `steps` steps.
        state: before the first step, fields (B, *N) in the state's dtype; i with a synapse, a and r with adaptation.
        decays: beta, and alpha and rho where the state has i and a. p: the other constants.
        potentials: whether they are wanted. backend: see `choose`.
    Returns:
        spikes (T, B, *N) in x's dtype, potentials (T, B, *N) in the state's or None, the state after the last step.
    """
    surrogate = type(p.surrogate)
    chosen = choose(backend, x.device.type, surrogate)
    steps = x.shape[0] if steps is None else steps
    if state.wait is None and p.refractory > 1:
        state = state._replace(wait=torch.zeros_like(state.u, dtype=torch.int32))  # type: ignore[arg-type]
    if chosen == "reference":
        return _by_reference(x.expand(steps, *x.shape[1:]), state, decays, p, potentials)
    dtype = x.dtype
    if dtype == torch.float16 and chosen == "cpu":
        x = x.float()
    keep, numbers = operands(x, state, decays, p)
    spikes, u, *last = spiking(x, steps, *state, *numbers, potentials, keep, chosen)[:7]
    kept = (None if before is None else after for before, after in zip(state, last, strict=True))
    return spikes.to(dtype), u if potentials else None, State(*kept)


def _by_reference(
    x: Tensor, state: State, decays: Decays, p: LIFParameters | ALIFParameters, potentials: bool
) -> tuple[Tensor, Tensor | None, State]:
    assert state.u is not None
    current, i = x.to(state.u.dtype), None
    if isinstance(p, ALIFParameters):
        assert state.a is not None and state.r is not None
        spikes, u, after = alif_loop(current, ALIFState(state.u, state.a, state.r, state.wait), p)
        last = State(after.u, None, after.a, after.r, after.wait)
    else:
        if state.i is not None:
            assert decays.alpha is not None
            current = leaky_loop(current, state.i, decays.alpha)
            i = current[-1]
        spikes, u, then = lif_loop(current, LIFState(state.u, state.wait), p)
        last = State(then.u, i, wait=then.wait)
    return spikes.to(x.dtype), u if potentials else None, last


def leaky_sequence(
    x: Tensor, u: Tensor, beta: Tensor | float, steps: int | None = None, backend: str = "auto"
) -> Tensor:
    """Leaky integration u[t] = beta u[t-1] + x[t]: x (T, B, *N) or (1, B, *N), u (B, *N); returns u (T, B, *N)."""
    chosen = choose(backend, x.device.type, None)
    steps = x.shape[0] if steps is None else steps
    if chosen == "reference":
        return leaky_loop(x.expand(steps, *x.shape[1:]).to(u.dtype), u, beta)
    x = x.float() if x.dtype == torch.float16 and chosen == "cpu" else x
    (factor, number) = _split(beta, x)
    return leaky(x, steps, u, factor, number, chosen)


def operands(
    x: Tensor, state: State, decays: Decays, p: LIFParameters | ALIFParameters, others: tuple[Tensor, ...] = ()
) -> tuple[bool, tuple[Any, ...]]:
    """Whether anything asks for a gradient, and the neuron's constants as the operators take them."""
    given = (x, *state[:4], *decays, *others)
    keep = torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in given)
    (beta, b), (alpha, a), (rho, r) = (_split(decay, x) for decay in decays)
    adaptation = p.adaptation if isinstance(p, ALIFParameters) else 0.0
    return keep, (
        beta, alpha, rho, [b, a, r], p.threshold, adaptation, p.reset, p.refractory,
        KIND_OF[type(p.surrogate)], _parameters(p.surrogate), p.detach_reset,
    )  # fmt: skip


def _parameters(surrogate: Surrogate) -> list[float]:
    return [float(getattr(surrogate, field.name)) for field in fields(surrogate)]  # type: ignore[arg-type]


def _split(decay: Tensor | float | None, x: Tensor) -> tuple[Tensor | None, float]:
    """A decay factor as an operator takes it: a tensor, or a number."""
    if not isinstance(decay, Tensor):
        return None, 0.0 if decay is None else decay
    if decay.device != x.device:
        raise ValueError(f"the input is on {x.device}, the neuron's time constants on {decay.device}: net.to(x.device)")
    return decay, 0.0

"""The neurons' equations in plain torch, differentiated by autograd: the meaning that every fast backend must equal."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikecredit.neurons.neuron import Reset
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate, Triangle, spike


def leaky_loop(x: Tensor, u: Tensor, beta: Tensor | float) -> Tensor:
    """Leaky integration u[t] = beta u[t-1] + x[t]: x (T, B, *N), u before the first step (B, *N) -> u (T, B, *N)."""
    potentials = []
    for x_t in x:
        u = u * beta + x_t
        potentials.append(u)
    return torch.stack(potentials)


@dataclass(frozen=True)
class LIFParameters:
    """Constants of a LIF population; beta = exp(-dt / tau) is a number or a tensor of shape () or (*N)."""

    beta: Tensor | float
    threshold: float = 1.0
    reset: Reset = "subtract"
    surrogate: Surrogate = FastSigmoid()
    refractory: int = 0
    detach_reset: bool = True


class LIFState(NamedTuple):
    """Potential u (B, *N), and the number of refractory steps still to wait (None: nothing to wait)."""

    u: Tensor
    wait: Tensor | None = None


def lif_step(x: Tensor, state: LIFState, p: LIFParameters) -> tuple[Tensor, LIFState]:
    """One step of the leaky integrate-and-fire neuron.

    r[t] = H(u[t-1] - theta)
    reset "subtract":  u[t] = beta u[t-1] + x[t] - r[t] theta
    reset "zero":      u[t] = beta (1 - r[t]) u[t-1] + x[t]
    reset "none":      u[t] = beta u[t-1] + x[t]
    s[t] = H(u[t] - theta), strict >

    With refractory = k, the k - 1 steps after a spike hold the potential and lose the input (Brian2's `unless
    refractory`): u[t'] = u[t'-1], s[t'] = 0. The reset belongs to the first step that is not held.

    Args:
        x: input current, (B, *N), dimensionless.
        state: potential before the step, (B, *N), and the refractory steps still to wait.
        p: constants.
    Returns:
        spikes in {0, 1}, (B, *N); the state after the step.
    Raises:
        ValueError: x and u differ in shape.
    Source: snnTorch's `Leaky` (reset by the previous potential, after the decay), which it equals bit for bit.
    """
    u, wait = state
    if x.shape != u.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} but the potential {tuple(u.shape)}: both are (B, *N)")
    if wait is None and p.refractory > 1:
        wait = torch.zeros_like(u, dtype=torch.int32)
    r = spike(u - p.threshold, p.surrogate)
    if p.detach_reset:
        r = r.detach()
    if p.reset == "zero":
        new = (1 - r) * u * p.beta + x
    else:
        new = u * p.beta + x
        if p.reset == "subtract":
            new = new - r * p.threshold
    if wait is None:
        return spike(new - p.threshold, p.surrogate), LIFState(new)
    held = wait > 0
    new = torch.where(held, u, new)
    s = torch.where(held, torch.zeros_like(new), spike(new - p.threshold, p.surrogate))
    wait = torch.where(s > 0, p.refractory - 1, (wait - 1).clamp(min=0)).to(wait.dtype)
    return s, LIFState(new, wait)


def lif_loop(x: Tensor, state: LIFState, p: LIFParameters) -> tuple[Tensor, Tensor, LIFState]:
    """`lif_step` over time, differentiated by autograd: the meaning that every faster form must equal.

    Args:
        x: (T, B, *N). state, p: as in `lif_step`.
    Returns:
        spikes (T, B, *N), potentials (T, B, *N), the state after the last step.
    """
    spikes, potentials = [], []
    for x_t in x:
        s, state = lif_step(x_t, state, p)
        spikes.append(s)
        potentials.append(state.u)
    return torch.stack(spikes), torch.stack(potentials), state


@dataclass(frozen=True)
class ALIFParameters:
    """Constants of an ALIF population; beta = exp(-dt / tau), rho = exp(-dt / tau_adaptation)."""

    beta: Tensor | float
    rho: Tensor | float
    adaptation: float = 0.2
    threshold: float = 1.0
    reset: Reset = "subtract"
    surrogate: Surrogate = Triangle()
    refractory: int = 0
    detach_reset: bool = True


class ALIFState(NamedTuple):
    """Potential u, adaptation a, pending reset r (all (B, *N)), refractory steps to wait (or None)."""

    u: Tensor
    a: Tensor
    r: Tensor
    wait: Tensor | None = None


def alif_step(x: Tensor, state: ALIFState, p: ALIFParameters) -> tuple[Tensor, ALIFState]:
    """One step of the adaptive leaky integrate-and-fire neuron.

    A[t] = theta + b a[t];   u[t] = beta u[t-1] + x[t] - r[t] theta, with r[t] = s[t-1];   s[t] = H(u[t] - A[t])
    a[t+1] = rho a[t] + s[t]

    reset "zero" and "none", and the refractory period, are as in `lif_step`; the adaptation relaxes during
    refractoriness.

    Args:
        x: input current, (B, *N), dimensionless. state: before the step. p: constants; b is p.adaptation.
    Returns:
        spikes in {0, 1}, (B, *N); the state after the step.
    Source: Bellec et al. 2020, Methods (ALIF): A_j = v_th + beta a_j, a_j^{t+1} = rho a_j^t + z_j^t, reset by v_th.
    """
    u, a, r, wait = state
    if x.shape != u.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} but the potential {tuple(u.shape)}: both are (B, *N)")
    if wait is None and p.refractory > 1:
        wait = torch.zeros_like(u, dtype=torch.int32)
    if p.detach_reset:
        r = r.detach()
    if p.reset == "zero":
        new = (1 - r) * u * p.beta + x
    else:
        new = u * p.beta + x
        if p.reset == "subtract":
            new = new - r * p.threshold
    if wait is not None:
        held = wait > 0
        new = torch.where(held, u, new)
    s = spike(new - (a * p.adaptation + p.threshold), p.surrogate)
    if wait is None:
        return s, ALIFState(new, a * p.rho + s, s)
    s = torch.where(held, torch.zeros_like(s), s)
    wait = torch.where(s > 0, p.refractory - 1, (wait - 1).clamp(min=0)).to(wait.dtype)
    return s, ALIFState(new, a * p.rho + s, torch.where(held, r, s), wait)


def alif_loop(x: Tensor, state: ALIFState, p: ALIFParameters) -> tuple[Tensor, Tensor, ALIFState]:
    """`alif_step` over time, differentiated by autograd: spikes and potentials (T, B, *N), and the last state."""
    spikes, potentials = [], []
    for x_t in x:
        s, state = alif_step(x_t, state, p)
        spikes.append(s)
        potentials.append(state.u)
    return torch.stack(spikes), torch.stack(potentials), state

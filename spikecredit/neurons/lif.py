"""The leaky integrate-and-fire neuron: pure step, plain loop, whole sequence with explicit adjoint, and module."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.adjoint import lif_sequence
from spikecredit.neurons.neuron import (
    Neuron,
    Reset,
    as_current,
    at_rest,
    check_refractory,
    check_reset,
    check_threshold,
)
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate, spike


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


class LIF(Neuron):
    """Leaky integrate-and-fire neurons; the equations are those of `lif_step`.

    Args:
        tau: membrane time constant in ms; beta = exp(-dt / tau). A tensor of shape `shape` gives each neuron its own.
        threshold: theta, dimensionless.
        reset: "subtract" (theta, after a spike), "zero" or "none".
        surrogate: derivative that stands in for that of the step function.
        refractory: k; after a spike at t the input of t+1 ... t+k-1 is lost. 0 and 1: no refractory period.
        learn_tau: let the optimiser change tau (stored as log tau).
        shape: feature shape (*N) for one tau per neuron; None for one per layer.
        detach_reset: cut the gradient through the reset, as snnTorch does.
        dt: time step in ms.
    Raises:
        ValueError: a constant out of its range, or an input that is not (T, B, *N).
    """

    def __init__(
        self,
        tau: float | Tensor = 20.0,
        threshold: float = 1.0,
        reset: Reset = "subtract",
        surrogate: Surrogate = FastSigmoid(),
        refractory: int = 0,
        learn_tau: bool = False,
        shape: tuple[int, ...] | None = None,
        detach_reset: bool = True,
        dt: float = 1.0,
    ) -> None:
        super().__init__()
        check_reset(reset)
        check_refractory(refractory)
        check_threshold(threshold)
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt
        self.threshold = threshold
        self.reset: Reset = reset
        self.surrogate = surrogate
        self.refractory = refractory
        self.detach_reset = detach_reset

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.decay.tau

    def parameters_now(self) -> LIFParameters:
        """The constants of the equations at this moment (beta carries gradient when tau is learned)."""
        return LIFParameters(
            self.decay(), self.threshold, self.reset, self.surrogate, self.refractory, self.detach_reset
        )

    def run(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, Tensor, LIFState]:
        """As `stream`, and the potentials u (T, B, *N) too; both outputs carry gradient."""
        current = as_current(x, state, "LIF")
        p = self.parameters_now()
        u = at_rest(current, None if state is None else state.u)
        wait = None if state is None else state.wait
        spikes, potentials, wait = lif_sequence(current, u, wait, p)
        return spikes.to(x.dtype), potentials, LIFState(potentials[-1].clone(), wait)

    def stream(self, x: Tensor, state: LIFState | None = None) -> tuple[Tensor, LIFState]:
        spikes, _, state = self.run(x, state)
        return spikes, state

    def extra_repr(self) -> str:
        return (
            f"threshold={self.threshold}, reset={self.reset!r}, surrogate={self.surrogate}, "
            f"refractory={self.refractory}"
        )

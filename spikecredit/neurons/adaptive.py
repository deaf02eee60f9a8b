"""The adaptive LIF neuron (ALIF): every spike raises the threshold, which then relaxes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.adjoint import alif_sequence
from spikecredit.neurons.neuron import (
    Neuron,
    Reset,
    as_current,
    at_rest,
    check_refractory,
    check_reset,
    check_threshold,
)
from spikecredit.neurons.surrogate import Surrogate, Triangle, spike


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


class ALIF(Neuron):
    """Adaptive LIF neurons; the equations are those of `alif_step`.

    Args:
        tau_adaptation: time constant of the threshold's relaxation in ms; 200 ms as in Bellec et al. 2018.
        adaptation: b, the rise of the threshold a spike causes, in units of the threshold. Its default is our choice.
        learn_tau: learn both time constants.
        The others as in `LIF`.
    """

    def __init__(
        self,
        tau: float | Tensor = 20.0,
        tau_adaptation: float | Tensor = 200.0,
        adaptation: float = 0.2,
        threshold: float = 1.0,
        reset: Reset = "subtract",
        surrogate: Surrogate = Triangle(),
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
        if not 0 <= adaptation < math.inf:
            raise ValueError(f"adaptation must be >= 0 (0 is the plain LIF) and finite, got {adaptation!r}")
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt
        self.decay_adaptation = Decay(tau_adaptation, dt, learn_tau, shape, "tau_adaptation")
        self.adaptation = adaptation
        self.threshold = threshold
        self.reset: Reset = reset
        self.surrogate = surrogate
        self.refractory = refractory
        self.detach_reset = detach_reset

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.decay.tau

    @property
    def tau_adaptation(self) -> Tensor | float:
        """Time constant(s) of the threshold in ms, as they are now."""
        return self.decay_adaptation.tau

    def parameters_now(self) -> ALIFParameters:
        """The constants of the equations at this moment."""
        return ALIFParameters(
            self.decay(),
            self.decay_adaptation(),
            self.adaptation,
            self.threshold,
            self.reset,
            self.surrogate,
            self.refractory,
            self.detach_reset,
        )

    def run(self, x: Tensor, state: ALIFState | None = None) -> tuple[Tensor, Tensor, ALIFState]:
        """As `stream`, and the potentials u (T, B, *N) too; both outputs carry gradient."""
        current = as_current(x, state, "ALIF")
        u = at_rest(current, None if state is None else state.u)
        a = at_rest(current, None if state is None else state.a)
        r = at_rest(current, None if state is None else state.r)
        wait = None if state is None else state.wait
        spikes, potentials, a, r, wait = alif_sequence(current, u, a, r, wait, self.parameters_now())
        return spikes.to(x.dtype), potentials, ALIFState(potentials[-1].clone(), a, r, wait)

    def stream(self, x: Tensor, state: ALIFState | None = None) -> tuple[Tensor, ALIFState]:
        spikes, _, state = self.run(x, state)
        return spikes, state

    def extra_repr(self) -> str:
        return (
            f"adaptation={self.adaptation}, threshold={self.threshold}, reset={self.reset!r}, "
            f"surrogate={self.surrogate}, refractory={self.refractory}"
        )

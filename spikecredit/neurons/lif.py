"""The leaky integrate-and-fire neuron."""

from typing import Any

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.reference import LIFParameters, LIFState
from spikecredit.neurons.neuron import Reset
from spikecredit.neurons.spiking import SpikingNeuron
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate


class LIF(SpikingNeuron):
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
        backend: what runs the time loop: "reference" (plain torch), "cpu" (numba), "triton" (CUDA), or "auto" (the
            fastest that can; logged once). All compute the same.
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
        backend: Backend = "auto",
    ) -> None:
        super().__init__(threshold, reset, surrogate, refractory, detach_reset, backend)
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.decay.tau

    def parameters_now(self) -> LIFParameters:
        """The constants of the equations at this moment (beta carries gradient when tau is learned)."""
        return LIFParameters(
            self.decay(), self.threshold, self.reset, self.surrogate, self.refractory, self.detach_reset
        )

    def decays(self) -> Decays:
        return Decays(self.decay())

    def pack(self, state: Any) -> State:
        return State(state.u, wait=state.wait)

    def unpack(self, state: State) -> Any:
        assert state.u is not None
        return LIFState(state.u, state.wait)

    def rest(self, u: Tensor) -> State:
        return State(u)

    def extra_repr(self) -> str:
        return (
            f"threshold={self.threshold}, reset={self.reset!r}, surrogate={self.surrogate}, "
            f"refractory={self.refractory}"
        )

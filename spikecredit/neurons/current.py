"""The current-based LIF neuron: a synaptic current between input and membrane."""

from typing import Any, NamedTuple

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.reference import LIFState
from spikecredit.neurons.lif import LIF
from spikecredit.neurons.neuron import Reset
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate


class CurrentLIFState(NamedTuple):
    """Synaptic current i (B, *N), and the membrane's state."""

    i: Tensor
    membrane: LIFState


class CurrentLIF(LIF):
    """Current-based LIF: i[t] = alpha i[t-1] + x[t], then the LIF equations with i[t] as their input.

    alpha = exp(-dt / tau_synapse). Refractoriness holds the membrane; the synaptic current goes on.

    Args:
        tau: membrane time constant in ms. tau_synapse: synaptic time constant in ms.
        learn_tau: learn both time constants.
        The others as in `LIF`.
    Source: snnTorch's `Synaptic`, which it equals with reset "subtract" and "none". With "zero" that one also erases
    the input of the resetting step; here the equations stay those of `lif_step`, and refractory=2 has its spikes.
    """

    def __init__(
        self,
        tau: float | Tensor = 20.0,
        tau_synapse: float | Tensor = 5.0,
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
        super().__init__(tau, threshold, reset, surrogate, refractory, learn_tau, shape, detach_reset, dt, backend)
        self.decay_synapse = Decay(tau_synapse, dt, learn_tau, shape, "tau_synapse")

    @property
    def tau_synapse(self) -> Tensor | float:
        """Synaptic time constant(s) in ms, as they are now."""
        return self.decay_synapse.tau

    def decays(self) -> Decays:
        return Decays(self.decay(), self.decay_synapse())

    def pack(self, state: Any) -> State:
        return State(state.membrane.u, state.i, wait=state.membrane.wait)

    def unpack(self, state: State) -> Any:
        assert state.u is not None and state.i is not None
        return CurrentLIFState(state.i, LIFState(state.u, state.wait))

    def rest(self, u: Tensor) -> State:
        return State(u, u)

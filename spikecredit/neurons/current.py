"""The current-based LIF neuron: a synaptic current between input and membrane."""

from typing import Any, NamedTuple

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend
from spikecredit.neurons.kernels.reference import LIFState
from spikecredit.neurons.kernels.sequence import current_sequence
from spikecredit.neurons.lif import LIF
from spikecredit.neurons.neuron import Neuron, Reset, at_rest, check_current
from spikecredit.neurons.surrogate import FastSigmoid, Surrogate


class CurrentLIFState(NamedTuple):
    """Synaptic current i (B, *N), and the membrane's state."""

    i: Tensor
    membrane: LIFState


class CurrentLIF(Neuron):
    """Current-based LIF: i[t] = alpha i[t-1] + x[t], then the LIF equations with i[t] as their input.

    alpha = exp(-dt / tau_synapse). Refractoriness holds the membrane; the synaptic current goes on.

    Args:
        tau: membrane time constant in ms. tau_synapse: synaptic time constant in ms.
        learn_tau: learn both time constants.
        The others as in `LIF`.
    Source: snnTorch's `Synaptic`, which it equals with reset "subtract" and "none". With "zero" that one also erases
    the input of the resetting step; here the equations stay those of `lif_step`.
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
        super().__init__()
        self.decay_synapse = Decay(tau_synapse, dt, learn_tau, shape, "tau_synapse")
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt
        self.membrane = LIF(tau, threshold, reset, surrogate, refractory, learn_tau, shape, detach_reset, dt, backend)

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.membrane.tau

    @property
    def tau_synapse(self) -> Tensor | float:
        """Synaptic time constant(s) in ms, as they are now."""
        return self.decay_synapse.tau

    def __getattr__(self, name: str) -> Any:
        """The constants of the membrane are the neuron's own."""
        if name in ("threshold", "reset", "surrogate", "refractory", "detach_reset", "backend"):
            return getattr(self.membrane, name)
        return super().__getattr__(name)

    def run(
        self, x: Tensor, state: CurrentLIFState | None = None, steps: int | None = None
    ) -> tuple[Tensor, Tensor, CurrentLIFState]:
        """As `stream`, and the potentials u (T, B, *N) too; both outputs carry gradient."""
        spikes, potentials, state = self._sequence(x, state, steps, True)
        assert potentials is not None
        return spikes, potentials, state

    def stream(
        self, x: Tensor, state: CurrentLIFState | None = None, steps: int | None = None
    ) -> tuple[Tensor, CurrentLIFState]:
        spikes, _, state = self._sequence(x, state, steps, False)
        return spikes, state

    def _sequence(
        self, x: Tensor, state: CurrentLIFState | None, steps: int | None, potentials: bool
    ) -> tuple[Tensor, Tensor | None, CurrentLIFState]:
        check_current(x, None if state is None else (state.i, *state.membrane), "CurrentLIF", steps)
        if state is None:
            state = CurrentLIFState(at_rest(x, None), LIFState(at_rest(x, None)))
        p = self.membrane.parameters_now()
        spikes, u, i, membrane = current_sequence(
            x, state.i, state.membrane, self.decay_synapse(), p, steps, potentials, self.backend
        )
        return spikes, u, CurrentLIFState(i, membrane)

"""The adaptive LIF neuron (ALIF): every spike raises the threshold, which then relaxes."""

import math
from typing import Any

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.reference import ALIFParameters, ALIFState
from spikecredit.neurons.neuron import Reset
from spikecredit.neurons.spiking import SpikingNeuron
from spikecredit.neurons.surrogate import Surrogate, Triangle


class ALIF(SpikingNeuron):
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
        backend: Backend = "auto",
    ) -> None:
        super().__init__(threshold, reset, surrogate, refractory, detach_reset, backend)
        if not 0 <= adaptation < math.inf:
            raise ValueError(f"adaptation must be >= 0 (0 is the plain LIF) and finite, got {adaptation!r}")
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt
        self.decay_adaptation = Decay(tau_adaptation, dt, learn_tau, shape, "tau_adaptation")
        self.adaptation = adaptation

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

    def decays(self) -> Decays:
        return Decays(self.decay(), None, self.decay_adaptation())

    def pack(self, state: Any) -> State:
        return State(state.u, None, state.a, state.r, state.wait)

    def unpack(self, state: State) -> ALIFState:
        assert state.u is not None and state.a is not None and state.r is not None
        return ALIFState(state.u, state.a, state.r, state.wait)

    def rest(self, u: Tensor) -> State:
        return State(u, None, u, u)

    def extra_repr(self) -> str:
        return (
            f"adaptation={self.adaptation}, threshold={self.threshold}, reset={self.reset!r}, "
            f"surrogate={self.surrogate}, refractory={self.refractory}"
        )

"""The adaptive LIF neuron (ALIF): every spike raises the threshold, which then relaxes."""

import math

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend, check_backend
from spikecredit.neurons.kernels.reference import ALIFParameters, ALIFState
from spikecredit.neurons.kernels.sequence import alif_sequence
from spikecredit.neurons.neuron import (
    Neuron,
    Reset,
    at_rest,
    check_current,
    check_refractory,
    check_reset,
    check_threshold,
)
from spikecredit.neurons.surrogate import Surrogate, Triangle


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
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_backend(backend)
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
        self.backend: Backend = backend

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

    def run(
        self, x: Tensor, state: ALIFState | None = None, steps: int | None = None
    ) -> tuple[Tensor, Tensor, ALIFState]:
        """As `stream`, and the potentials u (T, B, *N) too; both outputs carry gradient."""
        spikes, potentials, state = self._sequence(x, state, steps, True)
        assert potentials is not None
        return spikes, potentials, state

    def stream(self, x: Tensor, state: ALIFState | None = None, steps: int | None = None) -> tuple[Tensor, ALIFState]:
        spikes, _, state = self._sequence(x, state, steps, False)
        return spikes, state

    def _sequence(
        self, x: Tensor, state: ALIFState | None, steps: int | None, potentials: bool
    ) -> tuple[Tensor, Tensor | None, ALIFState]:
        check_current(x, state, "ALIF", steps)
        state = ALIFState(at_rest(x, None), at_rest(x, None), at_rest(x, None)) if state is None else state
        return alif_sequence(x, state, self.parameters_now(), steps, potentials, self.backend)

    def extra_repr(self) -> str:
        return (
            f"adaptation={self.adaptation}, threshold={self.threshold}, reset={self.reset!r}, "
            f"surrogate={self.surrogate}, refractory={self.refractory}"
        )

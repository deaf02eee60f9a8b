"""The leaky readout: a membrane that never fires."""

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.backends import Backend, check_backend
from spikecredit.neurons.kernels.sequence import leaky_sequence
from spikecredit.neurons.neuron import Neuron, at_rest, check_current


class LeakyReadout(Neuron):
    """u[t] = beta u[t-1] + x[t], beta = exp(-dt / tau); the output is the potential u, in the dtype of the state.

    Args:
        tau: time constant in ms. learn_tau, shape, dt, backend: as in `LIF`.
    """

    spiking = False

    def __init__(
        self,
        tau: float | Tensor = 20.0,
        learn_tau: bool = False,
        shape: tuple[int, ...] | None = None,
        dt: float = 1.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.backend: Backend = backend
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.decay.tau

    def stream(self, x: Tensor, state: Tensor | None = None, steps: int | None = None) -> tuple[Tensor, Tensor]:
        check_current(x, state, "LeakyReadout", steps)
        u = leaky_sequence(x, at_rest(x, state), self.decay(), steps, self.backend)
        return u, u[-1].clone()

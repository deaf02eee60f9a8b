"""The leaky readout: a membrane that never fires."""

from torch import Tensor

from spikecredit.neurons.decay import Decay
from spikecredit.neurons.kernels.adjoint import leaky_sequence
from spikecredit.neurons.neuron import Neuron, as_current, at_rest


class LeakyReadout(Neuron):
    """u[t] = beta u[t-1] + x[t], beta = exp(-dt / tau); the output is the potential u, in the dtype of the state.

    Args:
        tau: time constant in ms. learn_tau, shape, dt: as in `LIF`.
    """

    spiking = False

    def __init__(
        self,
        tau: float | Tensor = 20.0,
        learn_tau: bool = False,
        shape: tuple[int, ...] | None = None,
        dt: float = 1.0,
    ) -> None:
        super().__init__()
        self.decay = Decay(tau, dt, learn_tau, shape)
        self.learn_tau, self.shape, self.dt = learn_tau, shape, dt

    @property
    def tau(self) -> Tensor | float:
        """Membrane time constant(s) in ms, as they are now."""
        return self.decay.tau

    def stream(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        current = as_current(x, state, "LeakyReadout")
        u = leaky_sequence(current, at_rest(current, state), self.decay())
        return u, u[-1].clone()

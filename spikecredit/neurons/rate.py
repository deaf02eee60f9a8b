"""Rate units: neurons without memory, as controls for spiking ones."""

from torch import Tensor

from spikecredit.neurons.neuron import Neuron


class RateUnit(Neuron):
    """A function of the current at each step; its state is always None."""

    spiking = False
    memoryless = True
    takes_steps = False

    def rate(self, x: Tensor) -> Tensor:
        """The unit's activation function, elementwise."""
        raise NotImplementedError

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        return self.stream(x, None, steps)[0]

    def stream(self, x: Tensor, state: None = None, steps: int | None = None) -> tuple[Tensor, None]:
        y = self.rate(x)
        return y if steps is None else y.expand(steps, *y.shape[1:]), None


class ReLU(RateUnit):
    """rho(x) = max(x, 0)."""

    def rate(self, x: Tensor) -> Tensor:
        return x.relu()


class HardSigmoid(RateUnit):
    """rho(x) = min(max(x, 0), 1), the activation of equilibrium propagation (Scellier & Bengio 2017)."""

    def rate(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

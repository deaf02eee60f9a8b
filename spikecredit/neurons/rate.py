"""Rate units: neurons without memory, as controls for spiking ones, and the units of equilibrium networks."""

import torch
from torch import Tensor

from spikecredit.neurons.neuron import Neuron


class RateUnit(Neuron):
    """A function of the current at each step; its state is always None."""

    spiking = False
    memoryless = True
    takes_steps = False
    holomorphic = False
    """Whether `rate` is the same formula for a complex current, analytic around the real line."""

    def rate(self, x: Tensor) -> Tensor:
        """The unit's activation function sigma, elementwise."""
        raise NotImplementedError

    def derivative(self, x: Tensor) -> Tensor:
        """sigma'(x), elementwise; at a kink the larger of both sides."""
        raise NotImplementedError

    def stored(self, s: Tensor) -> Tensor:
        """G(s) with G' = sigma^-1: what holding the activity s costs in an energy (Hopfield 1984)."""
        raise NotImplementedError

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        return self.stream(x, None, steps)[0]

    def stream(self, x: Tensor, state: None = None, steps: int | None = None) -> tuple[Tensor, None]:
        y = self.rate(x)
        return y if steps is None else y.expand(steps, *y.shape[1:]), None


class ReLU(RateUnit):
    """rho(x) = max(x, 0); G(s) = s^2 / 2 for s >= 0."""

    def rate(self, x: Tensor) -> Tensor:
        return x.relu()

    def derivative(self, x: Tensor) -> Tensor:
        return (x >= 0).to(x.dtype)

    def stored(self, s: Tensor) -> Tensor:
        return s.square() / 2


class HardSigmoid(RateUnit):
    """rho(x) = min(max(x, 0), 1), the activation of equilibrium propagation (Scellier & Bengio 2017); G(s) = s^2 / 2 in
    [0, 1]."""

    def rate(self, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    def derivative(self, x: Tensor) -> Tensor:
        return ((x >= 0) & (x <= 1)).to(x.dtype)

    def stored(self, s: Tensor) -> Tensor:
        return s.square() / 2


class Logistic(RateUnit):
    """rho(x) = 1 / (1 + exp(-slope (x - middle))); G(s) = (s ln s + (1 - s) ln(1 - s)) / slope + middle s.

    slope 4 and middle 1/2 is sigma(4x - 2), the smooth counterpart of `HardSigmoid` (code of Laborieux et al. 2021).

    Raises:
        ValueError: a slope that is not positive.
    """

    holomorphic = True

    def __init__(self, slope: float = 4.0, middle: float = 0.5) -> None:
        super().__init__()
        if not slope > 0:
            raise ValueError(f"slope must be positive, got {slope!r}")
        self.slope, self.middle = slope, middle

    def rate(self, x: Tensor) -> Tensor:
        # By tanh: torch's sigmoid rounds the last elements of a tensor in another way than the others.
        return torch.tanh(self.slope / 2 * (x - self.middle)) / 2 + 0.5

    def derivative(self, x: Tensor) -> Tensor:
        s = self.rate(x)
        return self.slope * s * (1 - s)

    def stored(self, s: Tensor) -> Tensor:
        return (torch.xlogy(s, s) + torch.xlogy(1 - s, 1 - s)) / self.slope + self.middle * s

    def extra_repr(self) -> str:
        return f"slope={self.slope}, middle={self.middle}"


class Tanh(RateUnit):
    """rho(x) = tanh(x); G(s) = s artanh(s) + ln(1 - s^2) / 2."""

    holomorphic = True

    def rate(self, x: Tensor) -> Tensor:
        return x.tanh()

    def derivative(self, x: Tensor) -> Tensor:
        return 1 - x.tanh().square()

    def stored(self, s: Tensor) -> Tensor:
        return ((1 + s) * torch.log1p(s) + (1 - s) * torch.log1p(-s)) / 2


class Identity(RateUnit):
    """rho(x) = x, a linear unit; G(s) = s^2 / 2. For the output of an equilibrium network."""

    holomorphic = True

    def rate(self, x: Tensor) -> Tensor:
        return x

    def derivative(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def stored(self, s: Tensor) -> Tensor:
        return s.square() / 2

"""What a feedback pathway is: the matrix B that carries the error back through a synapse.

With a_l = W_l x_{l-1} + b_l and delta_l = dL/da_l, backprop delivers W_l^T delta_l to layer l-1; a pathway delivers
B_l^T delta_l instead. The weight gradient delta_l x_{l-1}^T is the same for every pathway. B has W's own layout
(out, in, ...), so that B = W means backprop.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from spikecredit.pathways.error import ErrorSignal, Graded, Transmit
from spikecredit.pathways.magnitudes import Magnitude, scale_
from spikecredit.seeds import Noise, draw

Scale = Literal["fan_out", "biotorch", "xiao"]


class WeightedLayer(Protocol):
    """What a pathway needs of a synapse layer."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def feedback_weight(self) -> Tensor | None: ...
    @property
    def fan_in(self) -> int: ...
    @property
    def fan_out(self) -> int: ...
    @property
    def reparametrised(self) -> bool:
        """Whether the gradient of `weight` is not that of the W in use."""

    def effective_weight(self) -> Tensor: ...
    def constrain_feedback(self, feedback: Tensor) -> Tensor: ...
    def noise_source(self) -> torch.Generator | Noise: ...
    def fold(self, x: Tensor) -> Tensor:
        """x with its leading dimensions folded into one."""

    def through(self, x: Tensor, matrix: Tensor) -> Tensor:
        """M x for a folded x and a matrix M in W's layout; in a convolution, the convolution with M."""

    def noise_shape(self, samples: int, side: int) -> tuple[int, ...]:
        """Shape of so many samples of noise; in a convolution, images that make maps of side x side."""

    def respond(self, x: Tensor) -> Tensor:
        """The currents W x + b that noise of `noise_shape` makes, units in dimension 1."""

    def correlate(self, y: Tensor, x: Tensor) -> Tensor:
        """The mean of y x^T over samples (and positions), in W's layout, for currents of `respond`."""


@dataclass(frozen=True)
class Pathway(ABC):
    """Base class: hyper-parameters only. Tensors live in the layer, as its `feedback_weight`: a buffer, or a parameter
    where the pathway learns.

    Args:
        error: what of the error that B delivers reaches the units below: `Graded()`, `SignOnly()` or `Clipped()`.
    """

    error: ErrorSignal = field(default=Graded(), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.error, ErrorSignal):
            raise TypeError(f"error must be Graded(), SignOnly() or Clipped(limit=...), got {self.error!r}")

    transports_weights: ClassVar[bool] = False
    """True if the error travels back through the forward weights themselves, as in backprop."""

    learns: ClassVar[bool] = False
    """True if B is a parameter of the layer, which the optimiser moves."""

    direct: ClassVar[bool] = False
    """True if the error goes from the output straight to the neurons: a pathway of a whole network, see `direct.py`."""

    @property
    def redraws(self) -> bool:
        """Whether `matrix` or `learn` draw random numbers, for which the layer keeps a noise stream."""
        return False

    @property
    def tied(self) -> bool:
        """Whether B, a parameter, receives W's gradient in the same backward pass."""
        return False

    @property
    def local(self) -> bool:
        """Whether there is a `local_loss`."""
        return False

    def local_loss(self, layer: WeightedLayer, x: Tensor) -> Tensor:
        """A loss of this layer's own, of its input x; its gradient joins that of any loss of the layer's output."""
        raise NotImplementedError(f"{type(self).__name__} has no local loss")

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor | None:
        """The random tensor that the layer keeps for this pathway, in W's shape; None if there is none."""
        return None

    @abstractmethod
    def matrix(self, layer: WeightedLayer) -> Tensor:
        """B of this layer, in W's layout, before any constraint on the feedback synapses themselves."""

    @property
    def carries(self) -> bool:
        """Whether `carry` does anything; a recurrent layer, whose kernel does without it, refuses such a pathway."""
        return not isinstance(self.error, Graded)

    def carry(self, x: Tensor, layer: WeightedLayer) -> Tensor:
        """The layer's input x, unchanged. Backwards the error delivered to x passes through here."""
        return x if isinstance(self.error, Graded) or not x.requires_grad else Transmit.apply(x, self.error)

    def learn(self, layer: WeightedLayer) -> None:  # noqa: B027  (most pathways learn nothing)
        """Local learning of B, after each step of an optimiser that owns the layer's weight; W.grad is still there."""

    def feedback(self, layer: WeightedLayer) -> Tensor:
        """The effective B of this layer, in W's layout: the matrix that the error is multiplied with."""
        with torch.no_grad():
            return layer.constrain_feedback(self.matrix(layer)).detach()


def feedback_rms(layer: WeightedLayer, scale: str) -> float:
    """Root mean square s of the feedback weights.

    "fan_out": s = 1 / sqrt(fan_out): the feedback sums fan_out = out * kernel size terms for each input unit, so the
        variance of the error is kept from layer to layer.
    "biotorch": s = sqrt(2 / (fan_in + fan_out)), Xavier, as BioTorch's layers with init "xavier".
    "xiao": convolutions s = sqrt(2 / (kh kw C_out)); linear layers s = 1 / sqrt(fan_in), as Xiao et al. 2019's code.
    """
    if scale == "fan_out":
        return 1 / math.sqrt(layer.fan_out)
    if scale == "biotorch":
        return math.sqrt(2 / (layer.fan_in + layer.fan_out))
    if scale == "xiao":
        if layer.weight.ndim > 2:
            return math.sqrt(2 / (layer.weight.shape[0] * math.prod(layer.weight.shape[2:])))
        return 1 / math.sqrt(layer.fan_in)
    raise ValueError(f"scale must be 'fan_out', 'biotorch' or 'xiao', got {scale!r}")


def random_feedback(layer: WeightedLayer, scale: str, source: torch.Generator | Noise) -> Tensor:
    """A random matrix in W's shape, on W's device.

    "fan_out": N(0, s^2); "biotorch": uniform with standard deviation s (xavier_uniform);
    "xiao": N(0, s^2) for convolutions, U(-s, s) for linear layers (which has standard deviation s / sqrt(3): the
    published code is not matched in standard deviation, and we reproduce it).
    """
    law, size = _law(layer, scale)
    weight = layer.weight
    return draw(source, law, weight.shape, 0.0 if law == "normal" else -size, size, weight.dtype, weight.device)


def scale_by_magnitudes_(
    values: Tensor, layer: WeightedLayer, scale: str, gain: float, source: torch.Generator | Noise
) -> Tensor:
    """values times gain and the magnitudes of such a matrix, in place; faster, for what is drawn at every step."""
    law, size = _law(layer, scale)
    return scale_(values, law, size * gain, source)


def _law(layer: WeightedLayer, scale: str) -> tuple[Magnitude, float]:
    """The distribution, with its standard deviation if normal or its bound if uniform."""
    s = feedback_rms(layer, scale)
    if scale == "fan_out" or (scale == "xiao" and layer.weight.ndim > 2):
        return "normal", s
    return "uniform", s if scale == "xiao" else s * math.sqrt(3)


def check_scale(scale: str, allowed: tuple[str, ...], gain: float) -> None:
    """Refuse a scale that is none of `allowed`, or a gain that is not positive."""
    if scale not in allowed:
        raise ValueError(f"scale must be one of {', '.join(map(repr, allowed))}, got {scale!r}")
    if not gain > 0:
        raise ValueError(f"gain must be positive, got {gain!r}")

"""Controls: backprop made as imprecise as feedback alignment, and backprop made to look like it."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale, random_feedback
from spikecredit.seeds import draw


@dataclass(frozen=True)
class NoisyBackprop(Pathway):
    """B = W + noise rms(W) N with N ~ N(0, 1): the error goes through imprecise copies of the weights. A control.

    B follows W at every step. Its angle to W is arctan(noise) for a new N. A fixed N is feedback alignment besides:
    W turns towards it, and the angle falls in training.

    Args:
        noise: standard deviation in units of the root mean square of W. At 0 B = W.
        drawn: "once": N never changes. "batch": N is drawn anew at every forward pass.
    Source: a control of Moskovitz, Litwin-Kumar & Abbott 2018 (unverified: the body of the paper was not seen, and
        whether their noise was fixed is not known to us).
    """

    noise: float = 1.0
    drawn: Literal["once", "batch"] = "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a finite number, 0 or above, got {self.noise!r}")
        if self.drawn not in ("once", "batch"):
            raise ValueError(f"drawn must be 'once' or 'batch', got {self.drawn!r}")

    @property
    def redraws(self) -> bool:
        return self.drawn == "batch"

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor | None:
        if self.drawn == "batch":
            return None
        weight = layer.weight
        return draw(generator, "normal", weight.shape, 0.0, 1.0, weight.dtype, weight.device)

    def matrix(self, layer: WeightedLayer) -> Tensor:
        weight, noise = layer.effective_weight(), layer.feedback_weight
        if self.drawn == "batch":
            noise = draw(layer.noise_source(), "normal", weight.shape, 0.0, 1.0, weight.dtype, weight.device)
        assert noise is not None, "the layer was not bound to its pathway"
        return weight + noise * (self.noise * weight.square().mean().sqrt())


@dataclass(frozen=True)
class MimicFeedbackAlignment(Pathway):
    """B = W, exact errors, and the penalty strength / 2 |W - B0|^2 that turns W towards a fixed random B0. A control.

    Under feedback alignment W turns towards B. This pathway brings about the same alignment between W and the B that
    feedback alignment would have (same seed, scale and gain), but sends the error through W: what remains of the cost
    is that of where the weights are, not of how the error travels. The gradient gets strength (W - B0) once per forward
    and backward pass of the layer, before clipping, momentum and the rest, as if the penalty were part of the loss
    (whose reported value is without it). Under SGD, W - B0 decays by (1 - eta strength) per step besides learning, so
    that W settles where strength (W - B0) = -dL/dW and has forgotten its own start.

    A layer through which no error passes, such as the first, has no alignment to mimic and no penalty.

    Args:
        strength: of the penalty. At 0 it is backprop.
        scale, gain: of B0, as in `FeedbackAlignment`.
    Source: a control of Moskovitz, Litwin-Kumar & Abbott 2018 (unverified: the body of the paper was not seen; the form
        of the penalty is ours).
    """

    strength: float = 1e-3
    scale: Literal["fan_out", "biotorch", "xiao"] = "fan_out"
    gain: float = 1.0

    transports_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale, ("fan_out", "biotorch", "xiao"), self.gain)
        if not (self.strength >= 0 and math.isfinite(self.strength)):
            raise ValueError(f"strength must be a finite number, 0 or above, got {self.strength!r}")

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor:
        return random_feedback(layer, self.scale, generator).mul_(self.gain)

    def matrix(self, layer: WeightedLayer) -> Tensor:
        return layer.effective_weight()

    @property
    def carries(self) -> bool:
        return True

    def carry(self, x: Tensor, layer: WeightedLayer) -> Tensor:
        if not x.requires_grad:
            return x
        assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
        x = _Pull.apply(x, layer.effective_weight(), layer.feedback_weight, self.strength)
        return super().carry(x, layer)


class _Pull(torch.autograd.Function):
    """y = x; dL/dx = dL/dy, and W gets the gradient of strength / 2 |W - target|^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(weight, target)
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, target = ctx.saved_tensors
        pull = ctx.strength * (weight - target) if ctx.needs_input_grad[1] else None
        return grad, pull, None, None

"""Surrogate derivatives: what the backward pass uses in place of dH(v)/dv, with v = u - threshold.

The forward pass is always the Heaviside step H(v), 1 for v > 0 and 0 for v <= 0 (strict, snnTorch's convention).
Each class states its derivative; `derivative(v)` is elementwise, keeps the shape and dtype of v, and is a plain
torch expression, so that a new surrogate is one small frozen dataclass plus one entry in `SURROGATES`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Surrogate(ABC):
    """Base class: hyper-parameters only, no state."""

    @abstractmethod
    def derivative(self, v: Tensor) -> Tensor:
        """Surrogate of dH(v)/dv at v = u - threshold (dimensionless); same shape and dtype as v."""


def _require_positive(owner: object, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{type(owner).__name__}: {name} must be positive, got {value!r}")


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    """1 / (1 + slope |v|)^2, of height 1 at v = 0.

    Source: Zenke & Ganguli 2018 (SuperSpike); snnTorch's `fast_sigmoid`.
    """

    slope: float = 25.0

    def __post_init__(self) -> None:
        _require_positive(self, slope=self.slope)

    def derivative(self, v: Tensor) -> Tensor:
        root = (v.abs() * self.slope).add_(1)
        return root.mul_(root).reciprocal_()  # mul_, because square_ is pow_, several times slower


@dataclass(frozen=True)
class ArcTan(Surrogate):
    """(alpha / 2) / (1 + (pi/2 alpha v)^2), the derivative of arctan(pi/2 alpha v) / pi + 1/2.

    Source: Fang et al. 2021 (PLIF); snnTorch's `atan`.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _require_positive(self, alpha=self.alpha)

    def derivative(self, v: Tensor) -> Tensor:
        scaled = v * (math.pi / 2 * self.alpha)
        return scaled.mul_(scaled).add_(1).reciprocal_().mul_(self.alpha / 2)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """(gamma / width) max(0, 1 - |v| / width): the pseudo-derivative of Bellec et al.

    Bellec's width is the threshold itself, 1 in our units; gamma = 0.3 is theirs.
    Source: Bellec et al. 2018, 2020 (LSNN, e-prop).
    """

    gamma: float = 0.3
    width: float = 1.0

    def __post_init__(self) -> None:
        _require_positive(self, gamma=self.gamma, width=self.width)

    def derivative(self, v: Tensor) -> Tensor:
        return (1 - v.abs() / self.width).clamp_(min=0).mul_(self.gamma / self.width)


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """Normal density N(v; 0, sigma^2)."""

    sigma: float = 0.5

    def __post_init__(self) -> None:
        _require_positive(self, sigma=self.sigma)

    def derivative(self, v: Tensor) -> Tensor:
        return _normal_density(v, 0.0, self.sigma)


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """slope sigmoid(slope v) (1 - sigmoid(slope v)); snnTorch's `sigmoid`."""

    slope: float = 25.0

    def __post_init__(self) -> None:
        _require_positive(self, slope=self.slope)

    def derivative(self, v: Tensor) -> Tensor:
        s = torch.sigmoid(v * self.slope)
        return s * (1 - s) * self.slope


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """1 where |v| < width, else 0; the default width is infinite, the plain straight-through estimator.

    Source: Bengio, Leonard & Courville 2013; a finite width is the rectangular window of Wu et al. 2018 (STBP) without
    its 1/width normalisation.
    """

    width: float = math.inf

    def __post_init__(self) -> None:
        _require_positive(self, width=self.width)

    def derivative(self, v: Tensor) -> Tensor:
        return (v.abs() < self.width).to(v.dtype)


@dataclass(frozen=True)
class MultiGaussian(Surrogate):
    """gamma [(1 + h) N(v; 0, sigma^2) - h N(v; sigma, (s sigma)^2) - h N(v; -sigma, (s sigma)^2)].

    Slightly negative far from the threshold, which discourages potentials that neither fire nor could.
    Source: Yin, Corradi & Bohte 2021; their h = 0.15, s = 6, sigma = 0.5, gamma = 0.5.
    """

    sigma: float = 0.5
    h: float = 0.15
    s: float = 6.0
    gamma: float = 0.5

    def __post_init__(self) -> None:
        _require_positive(self, sigma=self.sigma, h=self.h, s=self.s, gamma=self.gamma)

    def derivative(self, v: Tensor) -> Tensor:
        wide = self.s * self.sigma
        centre = (1 + self.h) * _normal_density(v, 0.0, self.sigma)
        sides = _normal_density(v, self.sigma, wide) + _normal_density(v, -self.sigma, wide)
        return (centre - self.h * sides) * self.gamma


def _normal_density(v: Tensor, mean: float, sigma: float) -> Tensor:
    z = (v - mean) / sigma
    return torch.exp(-0.5 * z * z) / (sigma * math.sqrt(2 * math.pi))


SURROGATES: dict[str, type[Surrogate]] = {
    "fast_sigmoid": FastSigmoid,
    "arctan": ArcTan,
    "triangle": Triangle,
    "gaussian": Gaussian,
    "sigmoid": Sigmoid,
    "straight_through": StraightThrough,
    "multi_gaussian": MultiGaussian,
}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(v)
        ctx.surrogate = surrogate
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(v), None


def spike(v: Tensor, surrogate: Surrogate) -> Tensor:
    """H(v) in the forward pass, `surrogate.derivative(v)` in the backward pass; v = u - threshold, any shape."""
    return _Spike.apply(v, surrogate)

"""What of an error travels: its graded value, its sign, or its value up to a limit.

Applied to the error d = B^T delta that a synapse delivers, before it passes the neuron below. Sizes are relative to the
mean of |d| over all that one backward pass delivers there, so that f(c d) = c f(d) for every c > 0: what is lost is
information, not the size of the step.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ErrorSignal(ABC):
    """Base class: what the receiver gets of a delivered error, as a function of the whole tensor."""

    @abstractmethod
    def __call__(self, error: Tensor) -> Tensor:
        """The error received, in the shape of the one delivered."""


@dataclass(frozen=True)
class Graded(ErrorSignal):
    """f(d) = d: real numbers, as in backprop."""

    def __call__(self, error: Tensor) -> Tensor:
        return error


@dataclass(frozen=True)
class SignOnly(ErrorSignal):
    """f(d) = mean|d| sign(d), with sign(0) = 0: each unit learns in which direction, not how much."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.sign() * mean_size(error)


@dataclass(frozen=True)
class Clipped(ErrorSignal):
    """f(d) = d between -limit mean|d| and limit mean|d|, and these bounds beyond: no extreme values.

    Args:
        limit: in units of the mean size; towards 0 only the sign is left, a large one clips nothing.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        if not (self.limit > 0 and math.isfinite(self.limit)):
            raise ValueError(
                f"limit is a multiple of the mean size of the error, finite and above 0; got {self.limit!r}. "
                "For errors without a limit write error: graded"
            )

    def __call__(self, error: Tensor) -> Tensor:
        bound = self.limit * mean_size(error)
        return error.clamp(-bound, bound)


def mean_size(error: Tensor) -> Tensor:
    """The mean of |error|, summed in float32 at least."""
    exact = torch.promote_types(error.dtype, torch.float32)
    return error.abs().mean(dtype=exact).to(error.dtype)


class Transmit(torch.autograd.Function):
    """y = x; dL/dx = error(dL/dy)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: ErrorSignal) -> Tensor:
        ctx.error = error
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.error(grad), None


ERRORS: dict[str, type[ErrorSignal]] = {"graded": Graded, "sign": SignOnly, "clip": Clipped}

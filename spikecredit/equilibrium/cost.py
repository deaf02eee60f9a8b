"""Costs that nudge the output layer of an equilibrium network."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


class Cost(ABC):
    """A cost C(s_L, y) of each sample; y are class numbers (B,)."""

    @abstractmethod
    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        """C for each sample, (B,)."""

    @abstractmethod
    def force(self, out: Tensor, target: Tensor) -> Tensor:
        """-dC/ds_L, (B, classes); target: the unit vectors of the classes, made once by `one_hot`."""


@dataclass(frozen=True)
class SquaredError(Cost):
    """C = |s_L - e_y|^2 / 2 for the unit vector e_y of the class."""

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (out - one_hot(y, out)).square().sum(1)

    def force(self, out: Tensor, target: Tensor) -> Tensor:
        return target - out


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """C = -log softmax(s_L)_y."""

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y, reduction="none")

    def force(self, out: Tensor, target: Tensor) -> Tensor:
        return target - _softmax(out)


def one_hot(y: Tensor, out: Tensor) -> Tensor:
    """Unit vectors of the classes, in the dtype of `out`."""
    return F.one_hot(y, out.shape[1]).to(out.dtype)


def _softmax(out: Tensor) -> Tensor:
    if not out.is_complex():
        return out.softmax(1)
    powers = (out - out.real.max(1, keepdim=True).values).exp()  # holomorphic: no absolute values but in the shift
    return powers / powers.sum(1, keepdim=True)


COSTS: dict[str, type[Cost]] = {"squared_error": SquaredError, "cross_entropy": CrossEntropy}

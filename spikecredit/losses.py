"""Losses on a sequence of outputs: how (T, B, classes) and labels become one number, and a class."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


class Loss(ABC):
    """Base class: hyper-parameters only."""

    @abstractmethod
    def scores(self, out: Tensor) -> Tensor:
        """out (T, B, classes) -> scores (B, classes), of which the largest is the predicted class."""

    def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the scores over the batch; labels (B,) int64."""
        return F.cross_entropy(self.scores(out), labels)

    def of_samples(self, out: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, (B,): what the loss is the mean of."""
        return F.cross_entropy(self.scores(out), labels, reduction="none")


@dataclass(frozen=True)
class MeanPotential(Loss):
    """Cross-entropy of the readout's mean potential: scores = (1/T) sum_t u[t]. For `LeakyReadout`."""

    def scores(self, out: Tensor) -> Tensor:
        return out.float().mean(0) if out.element_size() < 4 else out.mean(0)


@dataclass(frozen=True)
class SpikeCount(Loss):
    """Cross-entropy of spike counts: scores = scale * sum_t s[t]. For a spiking readout, such as `LIF`.

    Args:
        scale: factor on the counts; counts are whole numbers up to T, so that a smaller one softens the softmax.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale!r}")

    def scores(self, out: Tensor) -> Tensor:
        return out.float().sum(0) * self.scale if out.element_size() < 4 else out.sum(0) * self.scale


@dataclass(frozen=True)
class PerStep(MeanPotential):
    """Mean over time of the cross-entropy at every step, L = (1/T) sum_t CE(u[t], y): every step has an error of its
    own.

    The predicted class is that of the mean potential.
    """

    def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
        steps = out.float() if out.element_size() < 4 else out
        return F.cross_entropy(steps.flatten(0, 1), labels.repeat(out.shape[0]))

    def of_samples(self, out: Tensor, labels: Tensor) -> Tensor:
        steps = out.float() if out.element_size() < 4 else out
        every = F.cross_entropy(steps.flatten(0, 1), labels.repeat(out.shape[0]), reduction="none")
        return every.unflatten(0, out.shape[:2]).mean(0)


@dataclass(frozen=True)
class SquaredError(MeanPotential):
    """L = |(1/T) sum_t u[t] - e_y|^2 / 2, a mean over the batch, for the unit vector e_y of the class.

    The usual cost of equilibrium propagation.
    """

    def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
        return self.of_samples(out, labels).mean()

    def of_samples(self, out: Tensor, labels: Tensor) -> Tensor:
        scores = self.scores(out)
        return 0.5 * (scores - F.one_hot(labels, scores.shape[1])).square().sum(1)


LOSSES: dict[str, type[Loss]] = {
    "mean_potential": MeanPotential,
    "spike_count": SpikeCount,
    "per_step": PerStep,
    "squared_error": SquaredError,
}

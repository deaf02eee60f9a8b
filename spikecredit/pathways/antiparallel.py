"""Antiparallel feedback: fibres that run back along each forward synapse and learn its sign from activity alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale, feedback_rms, random_feedback


@dataclass(frozen=True)
class Antiparallel(Pathway):
    """B = s sign(C), and after each optimiser step C <- (1 - decay) C + rate delta x^T, with delta = -dL/da.

    C (out, in, ...) is a slow correlation of what the forward synapse's two ends carry: its input x, and the teaching
    signal delta at its target (the direction in which the current a should change). delta x^T is summed over batch and
    time: it is -dL/dW, which is read from `weight.grad`. (So gradient clipping scales it.)

    Antiparallel means the opposite direction between the same two units, not the opposite sign: B has the sign of C,
    and C grows where W grows. With W <- (1 - eta mu) W - eta dL/dW, as under SGD without momentum,

        C - (rate / eta) W -> (1 - decay)^t (C0 - (rate / eta) W0)    if decay = eta mu,

    so B becomes sign symmetry's: Kolen and Pollack's argument, of whose B only the sign is used here. Without weight
    decay W keeps its random start, and signs agree where what was learned outweighs W0 and, in C, C0. Under optimisers
    whose steps are not proportional to the gradient (Adam, batch Manhattan) W and C are different averages of it.

    Needs: that the error neuron of the target reaches the source (B does), that both ends' signals meet at the synapse
    from it, and a sign per synapse. Reads no forward weight.

    Args:
        rate: of the correlation; only its ratio to the start counts, C0 ~ N(0, s^2).
        decay: share of C forgotten per step, 0 to 1. The sign of C is that of the last 1 / decay steps, roughly.
        scale, gain: of s, as in `FeedbackAlignment`. The start is that pathway's B under the same seed.
    Errors:
        ValueError, if a constraint reparametrises the weight: its gradient is then not delta x^T.
    Source: Kolen & Pollack 1994 for the decay; the reduction to signs, as a mechanism for sign symmetry, is ours.
    """

    rate: float = 1.0
    decay: float = 1e-3
    scale: Literal["fan_out", "biotorch", "xiao"] = "fan_out"
    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale, ("fan_out", "biotorch", "xiao"), self.gain)
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ValueError(f"rate must be a finite number above 0, got {self.rate!r}; for a B that never learns take "
                             "SignSymmetry(agreement=0.5)")  # fmt: skip
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is the share of the correlation forgotten per step, 0 to 1; got {self.decay!r}")

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor:
        if layer.reparametrised:
            raise ValueError(
                "Antiparallel learns from the gradient of the weight that the forward pass uses, but a constraint "
                "reparametrises this one: write Dale(mode='project')"
            )
        return random_feedback(layer, self.scale, generator)

    def matrix(self, layer: WeightedLayer) -> Tensor:
        return torch.sign(_correlation(layer)).mul_(feedback_rms(layer, self.scale) * self.gain)

    @torch.no_grad()
    def learn(self, layer: WeightedLayer) -> None:
        """One step of C. A weight without a gradient took no step, and nor does its C."""
        if layer.weight.grad is not None:
            _correlation(layer).mul_(1 - self.decay).sub_(layer.weight.grad, alpha=self.rate)


def _correlation(layer: WeightedLayer) -> Tensor:
    assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
    return layer.feedback_weight

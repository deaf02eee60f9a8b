"""Feedback alignment: the error travels through fixed random weights."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale, random_feedback


@dataclass(frozen=True)
class FeedbackAlignment(Pathway):
    """B is drawn once and never changes.

    Args:
        scale: "fan_out": N(0, 1/fan_out), which keeps the variance of the error; "biotorch", "xiao": the published
            code of those names (see `feedback_rms`, `random_feedback`).
        gain: factor on B.
    Source: Lillicrap, Cownden, Tweed & Akerman 2016.
    """

    scale: Literal["fan_out", "biotorch", "xiao"] = "fan_out"
    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.scale, ("fan_out", "biotorch", "xiao"), self.gain)

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor:
        return random_feedback(layer, self.scale, generator).mul_(self.gain)

    def matrix(self, layer: WeightedLayer) -> Tensor:
        assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
        return layer.feedback_weight

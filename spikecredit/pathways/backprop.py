"""Backpropagation: the error travels through the transposed forward weights."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spikecredit.pathways.pathway import Pathway, WeightedLayer


@dataclass(frozen=True)
class Backprop(Pathway):
    """B = W at every step: exact gradients of the surrogate network, and the weight transport that biology lacks."""

    transports_weights: ClassVar[bool] = True

    def matrix(self, layer: WeightedLayer) -> Tensor:
        return layer.effective_weight()

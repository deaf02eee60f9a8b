"""Multilayer perceptron: dense layers and neurons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spikecredit.architectures.architecture import Shape, copies
from spikecredit.architectures.dann import DANNArchitecture
from spikecredit.neurons import Neuron
from spikecredit.synapses import BatchNorm1d, Dropout, Flatten, RecurrentLinear


@dataclass(frozen=True)
class MLP(DANNArchitecture):
    """Flatten, then for each hidden size: Linear, [BatchNorm], neuron, [Dropout]; then Linear and readout.

    Args:
        hidden: sizes of the hidden layers.
        recurrent: make the hidden layers recurrent (`RecurrentLinear`).
        norm: batch normalisation over time before the neurons (not in recurrent layers).
        dropout: probability of dropping a hidden neuron for a whole sequence.
        dann: make all dense layers DANN layers; norm then keeps its scales >= 0.
    """

    hidden: tuple[int, ...] = (100,)
    recurrent: bool = False
    norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recurrent and self.dann is not None:
            raise ValueError("recurrent=True with dann: recurrent layers have no DANN form here; choose one")
        if self.recurrent and self.norm:
            raise ValueError(
                "norm=True has no place in a recurrent layer, whose current is made step by step: choose one"
            )

    def layers(self, shape: Shape, classes: int, neuron: Neuron, readout: Neuron) -> Sequence[nn.Module]:
        layers: list[nn.Module] = [Flatten()]
        width = math.prod(shape)
        for size in self.hidden:
            if self.recurrent:
                layers.append(RecurrentLinear(width, size, copies(neuron)))
            else:
                layers.append(self.dense(width, size, first=len(layers) == 1))
                if self.norm:
                    layers.append(BatchNorm1d(size, constraint=self.scale_constraint))
                layers.append(copies(neuron))
            if self.dropout:
                layers.append(Dropout(self.dropout))
            width = size
        return [*layers, self.dense(width, classes, first=len(layers) == 1), copies(readout)]

"""VGG: stages of 3x3 convolutions, each halved by a pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from spikecredit.architectures.architecture import Architecture, Pool, Shape, check_size, copies, pool_layer
from spikecredit.neurons import Neuron
from spikecredit.synapses import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
)


@dataclass(frozen=True)
class VGG(Architecture):
    """Stages of [Conv2d 3x3, BatchNorm, neuron], a pool after each stage, then dense layers and readout.

    Args:
        blocks: convolutions per stage. VGG-11 is (1, 1, 2, 2, 2), VGG-16 (2, 2, 3, 3, 3); any depth goes.
        width: channels of the first stage; they double from stage to stage up to 8 * width.
        hidden: sizes of the dense hidden layers after the convolutions.
        pool: "average", "max" or "soft" (`SoftPool2d`), over the currents of the stage's last convolution.
        norm: batch normalisation over time before the neurons.
        dropout: probability of dropping a neuron before each dense layer for a whole sequence.
        head: "flatten" or "average" (global average pooling) before the dense layers.
    Source: Simonyan & Zisserman 2015.
    """

    blocks: tuple[int, ...] = (1, 1, 2, 2, 2)
    width: int = 64
    hidden: tuple[int, ...] = ()
    pool: Pool = "average"
    norm: bool = True
    dropout: float = 0.0
    head: Literal["flatten", "average"] = "flatten"

    def layers(self, shape: Shape, classes: int, neuron: Neuron, readout: Neuron) -> Sequence[nn.Module]:
        depth, height, width = shape
        check_size(min(height, width), 2 ** len(self.blocks), self)
        pool = pool_layer(self.pool)
        layers: list[nn.Module] = []
        for stage, count in enumerate(self.blocks):
            channels = self.width * min(2**stage, 8)
            for index in range(count):
                layers.append(Conv2d(depth, channels, 3, padding=1, bias=not self.norm))
                if index == count - 1:
                    layers.append(pool(2))
                if self.norm:
                    layers.append(BatchNorm2d(channels))
                layers.append(copies(neuron))
                depth = channels
            height, width = height // 2, width // 2
        if self.head == "average":
            layers.append(GlobalAvgPool2d())
            size = depth
        else:
            layers.append(Flatten())
            size = depth * height * width
        for hidden in self.hidden:
            if self.dropout:
                layers.append(Dropout(self.dropout))
            layers.append(Linear(size, hidden, bias=not self.norm))
            if self.norm:
                layers.append(BatchNorm1d(hidden))
            layers.append(copies(neuron))
            size = hidden
        if self.dropout:
            layers.append(Dropout(self.dropout))
        return [*layers, Linear(size, classes), copies(readout)]

"""LeNet: two convolutions and dense layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spikecredit.architectures.architecture import Pool, Shape, check_size, copies, pool_layer
from spikecredit.architectures.dann import DANNArchitecture
from spikecredit.neurons import Neuron
from spikecredit.synapses import BatchNorm1d, BatchNorm2d, Dropout, Flatten


@dataclass(frozen=True)
class LeNet(DANNArchitecture):
    """For each channel count: Conv2d, pool 2, [BatchNorm], neuron; then dense layers and readout.

    The pool comes before the neuron, so that a network of average pools exchanges nothing but spikes.

    Args:
        channels: output channels of the convolutions.
        kernel: their kernel size; padding "same" keeps the map until the pool halves it.
        hidden: sizes of the dense hidden layers.
        pool: "average", "max" or "soft" (`SoftPool2d`) over the currents.
        norm: batch normalisation over time before the neurons.
        dropout: probability of dropping a neuron of the dense layers' input for a whole sequence.
        dann: make all convolutions and dense layers DANN layers; norm then keeps its scales >= 0.
    Source: LeCun, Bottou, Bengio & Haffner 1998.
    """

    channels: tuple[int, ...] = (6, 16)
    kernel: int = 5
    hidden: tuple[int, ...] = (120, 84)
    pool: Pool = "average"
    norm: bool = False
    dropout: float = 0.0

    def layers(self, shape: Shape, classes: int, neuron: Neuron, readout: Neuron) -> Sequence[nn.Module]:
        depth, height, width = shape
        check_size(min(height, width), 2 ** len(self.channels), self)
        pool = pool_layer(self.pool)
        layers: list[nn.Module] = []
        for channels in self.channels:
            layers += [self.convolution(depth, channels, self.kernel), pool(2)]
            if self.norm:
                layers.append(BatchNorm2d(channels, constraint=self.scale_constraint))
            layers.append(copies(neuron))
            depth, height, width = channels, height // 2, width // 2
        layers.append(Flatten())
        size = depth * height * width
        for hidden in self.hidden:
            if self.dropout:
                layers.append(Dropout(self.dropout))
            layers.append(self.dense(size, hidden))
            if self.norm:
                layers.append(BatchNorm1d(hidden, constraint=self.scale_constraint))
            layers.append(copies(neuron))
            size = hidden
        if self.dropout:
            layers.append(Dropout(self.dropout))
        return [*layers, self.dense(size, classes), copies(readout)]

"""What a ready network is: a small frozen object that builds a `Network` for given data."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from spikecredit.constraints import Constraint
from spikecredit.network import Network
from spikecredit.neurons import LIF, LeakyReadout, Neuron
from spikecredit.pathways import Pathway
from spikecredit.seeds import stream

Shape = tuple[int, int, int]


class Architecture(ABC):
    """Base class: the hyper-parameters of a family of networks."""

    @abstractmethod
    def layers(self, shape: Shape, classes: int, neuron: Neuron, readout: Neuron) -> Sequence[nn.Module]:
        """The layers in a row; `neuron` and `readout` are templates to copy."""

    def build(
        self,
        shape: Shape,
        classes: int,
        neuron: Neuron | None = None,
        readout: Neuron | None = None,
        pathway: Pathway | None = None,
        constraint: Constraint | None = None,
        last_layer: Literal["same", "backprop"] = "same",
        seed: int = 0,
    ) -> Network:
        """The network for images of one shape.

        Args:
            shape: (C, H, W) of the input. classes: number of outputs.
            neuron: hidden neurons, copied for every population; `LIF()` if None.
            readout: output neurons; `LeakyReadout()` if None.
            pathway, constraint, last_layer: as in `Network`.
            seed: opens the stream "init" of forward weights, and the network's own streams. torch's global generator is
                left as it was.
        Raises:
            ValueError: the images are too small for the layers.
        """
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(stream(seed, "init"))
            layers = self.layers(shape, classes, neuron or LIF(), readout or LeakyReadout())
            return Network(*layers, pathway=pathway, constraint=constraint, last_layer=last_layer, seed=seed)


def copies(neuron: Neuron) -> Neuron:
    """A copy of a template neuron: populations share constants, not parameters."""
    return copy.deepcopy(neuron)


def check_size(size: int, divisor: int, owner: Architecture) -> None:
    """Refuse images that the pools of an architecture would halve down to nothing."""
    if size < divisor:
        raise ValueError(
            f"{owner} halves the map down to nothing: images of side {size} are too small, give {divisor} or more"
        )

"""What a ready network is: a small frozen object that builds a `Network` for given data."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from spikecredit.constraints import Constraint
from spikecredit.network import Network
from spikecredit.neurons import LIF, LeakyReadout, Neuron
from spikecredit.pathways import Pathway
from spikecredit.seeds import stream
from spikecredit.synapses import AvgPool2d, MaxPool2d, SoftPool2d, Synapse

Shape = tuple[int, int, int]


Initialisation = Literal["torch", "lecun", "he"]

Pool = Literal["average", "max", "soft"]


@dataclass(frozen=True)
class Architecture(ABC):
    """Base class: the hyper-parameters of a family of networks.

    Args:
        initialisation: of every synapse's W and bias. "torch": as `torch.nn` does, both U(-k, k) with k^2 = 1 / fan_in,
            which makes the variance of W x a third of that of x. "lecun": W ~ N(0, 1 / fan_in), bias 0: W x has the
            mean square of x, as the feedback scale "fan_out" keeps that of the error. "he": N(0, 2 / fan_in), which
            keeps it through half-rectified units.
    Source of the last two: LeCun et al. 1998; He et al. 2015. Moskovitz, Litwin-Kumar & Abbott 2018 ask for forward and
        backward weights that preserve variance (unverified: the body of the paper was not seen).
    """

    initialisation: Initialisation = field(default="torch", kw_only=True)

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
            initialise(layers, self.initialisation)
            return Network(*layers, pathway=pathway, constraint=constraint, last_layer=last_layer, seed=seed)


@torch.no_grad()
def initialise(layers: Sequence[nn.Module], kind: Initialisation) -> None:
    """Draw the weights of all synapses anew, from torch's global generator; "torch" leaves them as they came."""
    if kind not in ("torch", "lecun", "he"):
        raise ValueError(f"initialisation must be 'torch', 'lecun' or 'he', got {kind!r}")
    if kind == "torch":
        return
    for layer in (module for each in layers for module in each.modules() if isinstance(module, Synapse)):
        layer.weight.normal_(0, math.sqrt((2 if kind == "he" else 1) / layer.fan_in))
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            bias.zero_()


def copies(neuron: Neuron) -> Neuron:
    """A copy of a template neuron: populations share constants, not parameters."""
    return copy.deepcopy(neuron)


def pool_layer(kind: Pool) -> Callable[[int], nn.Module]:
    """What makes a pooling layer of so large a window."""
    pools: dict[str, Callable[[int], nn.Module]] = {"average": AvgPool2d, "max": MaxPool2d, "soft": SoftPool2d}
    if kind not in pools:
        raise ValueError(f"pool must be 'average', 'max' or 'soft', got {kind!r}")
    return pools[kind]


def check_size(size: int, divisor: int, owner: Architecture) -> None:
    """Refuse images that the pools of an architecture would halve down to nothing."""
    if size < divisor:
        raise ValueError(
            f"{owner} halves the map down to nothing: images of side {size} are too small, give {divisor} or more"
        )

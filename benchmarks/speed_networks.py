"""The networks that `benchmarks.speed` measures: one description of each, from which every library builds the same.

FC and conv are those of snnTorch's tutorials 5 and 6, with the sizes that this project's earlier measurements used.
All neurons: beta = 0.95, threshold 1, reset by subtraction, the fast sigmoid of slope 25, or each peer's nearest form
(`speed_peers` says which).
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

import spikecredit as sc
from spikecredit.neurons import Neuron

BETA = 0.95
TAU = -1 / math.log(BETA)  # ms at dt = 1 ms
SLOPE = 25.0
Input = Literal["spikes", "sparse spikes", "constant"]
MNIST_LIT, MNIST_MEAN = 0.191, 0.131  # share of MNIST's training pixels above 0, and their mean


@dataclass(frozen=True)
class Conv:
    inputs: int
    outputs: int
    size: int
    padding: int = 0
    bias: bool = True


@dataclass(frozen=True)
class Pool:
    kind: Literal["max", "average"] = "max"


@dataclass(frozen=True)
class Norm:
    channels: int


@dataclass(frozen=True)
class Flatten:
    pass


@dataclass(frozen=True)
class Dense:
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Spike:
    """A population of LIF neurons."""


@dataclass(frozen=True)
class Recurrent:
    """Dense synapses, LIF neurons and dense synapses among them."""

    inputs: int
    outputs: int


Layer = Conv | Pool | Norm | Flatten | Dense | Spike | Recurrent


@dataclass(frozen=True)
class Work:
    """A network and what it is given; `shape` is one input at one step."""

    name: str
    layers: tuple[Layer, ...] = field(repr=False)
    shape: tuple[int, ...]
    steps: int
    batch: int
    classes: int = 10
    kinds: tuple[Input, ...] = ("spikes", "constant")

    @property
    def images(self) -> bool:
        return len(self.shape) == 3

    def inputs(self, kind: Input, device: torch.device, channels_last: bool = False) -> Tensor:
        """(T, B, *shape): Bernoulli spikes drawn at each step, or one image for all of them, of time stride 0.

        Pixels are uniform in (0, 1), so that every other input spikes; "sparse spikes": as bright as MNIST's.
        """
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self.batch, *self.shape, generator=generator)
        if kind == "sparse spikes":
            dimmest = 2 * MNIST_MEAN / MNIST_LIT - 1
            lit = torch.rand(images.shape, generator=generator) < MNIST_LIT
            images = lit * (dimmest + (1 - dimmest) * images)
        if kind != "constant":
            x = (torch.rand(self.steps, *images.shape, generator=generator) < images).float().to(device)
            if channels_last and self.images:
                x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
            return x
        if channels_last and self.images:
            images = images.contiguous(memory_format=torch.channels_last)
        return sc.encode.constant(images.to(device), self.steps)

    def labels(self, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.classes, (self.batch,), generator=generator).to(device)


def works(device: torch.device, quick: bool = False) -> dict[str, Work]:
    """The four networks by section; `quick` makes them small enough to see within seconds that everything runs."""
    found = {
        "fc": fc(),
        "conv": Work(
            "conv 12@5x5, 64@5x5, 10",
            (Conv(1, 12, 5), Pool(), Spike(), Conv(12, 64, 5), Pool(), Spike(), Flatten(), Dense(1024, 10), Spike()),
            (1, 28, 28), 25, 128,
        ),
        "vgg": Work("VGG-11, CIFAR", vgg11(), (3, 32, 32), 4, 128 if device.type == "cuda" else 16),
        "recurrent": Work(
            "recurrent 700-256-20", (Recurrent(700, 256), Dense(256, 20), Spike()), (700,), 100, 128, classes=20
        ),
    }  # fmt: skip
    return {name: replace(work, steps=3, batch=4) for name, work in found.items()} if quick else found


def fc(width: int = 1000, steps: int = 25, batch: int = 128) -> Work:
    layers = (Dense(784, width), Spike(), Dense(width, 10), Spike())
    return Work(f"FC 784-{width}-10", layers, (784,), steps, batch, kinds=("spikes", "sparse spikes", "constant"))


def vgg11() -> tuple[Layer, ...]:
    """The layers of `sc.VGG()` (VGG-11 with average pools and batch normalisation), LIF neurons at the output."""
    layers: list[Layer] = []
    inputs = 3
    for stage, count in enumerate((1, 1, 2, 2, 2)):
        outputs = 64 * min(2**stage, 8)
        for index in range(count):
            last = index == count - 1
            pool: tuple[Layer, ...] = (Pool("average"),) if last else ()
            layers += [Conv(inputs, outputs, 3, padding=1, bias=False), *pool, Norm(outputs), Spike()]
            inputs = outputs
    return (*layers, Flatten(), Dense(inputs, 10), Spike())


def ours(work: Work, neuron: Neuron | None = None, pathway: sc.pathways.Pathway | None = None) -> sc.Network:
    """The network in spikecredit; `neuron` in place of the LIF."""
    template = neuron or sc.LIF(TAU, surrogate=sc.FastSigmoid(SLOPE))
    layers: list[nn.Module] = []
    for layer in work.layers:
        match layer:
            case Conv(inputs, outputs, size, padding, bias):
                layers.append(sc.Conv2d(inputs, outputs, size, padding=padding, bias=bias))
            case Pool("max"):
                layers.append(sc.MaxPool2d(2))
            case Pool():
                layers.append(sc.AvgPool2d(2))
            case Norm(channels):
                layers.append(sc.BatchNorm2d(channels))
            case Flatten():
                layers.append(sc.Flatten())
            case Dense(inputs, outputs):
                layers.append(sc.Linear(inputs, outputs))
            case Recurrent(inputs, outputs):
                layers.append(sc.RecurrentLinear(inputs, outputs, copy.deepcopy(template)))
            case Spike():
                layers.append(copy.deepcopy(template))
    return sc.Network(*layers, pathway=pathway, seed=0)


class SteppedReLU(sc.ReLU):
    """ReLU that the network treats as it treats a LIF: computed at every step of a constant input too.

    With plain `sc.ReLU` nothing has memory and the network would run once instead of T times, which bounds nothing.
    """

    memoryless = False

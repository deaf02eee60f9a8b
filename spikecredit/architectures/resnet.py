"""Residual networks of spiking neurons: spike-element-wise and membrane shortcuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from spikecredit.architectures.architecture import Architecture, Shape, check_size, copies
from spikecredit.constraints import Population
from spikecredit.network import Taps, bind_all, stream_layers
from spikecredit.neurons import Neuron
from spikecredit.synapses import AvgPool2d, BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, Wiring


class Residual(nn.Module):
    """y = branch(s) + shortcut, where s = entry(x), and the shortcut is x itself or projection(s).

    Every neuron that adds to a channel of the stream has the stream's sign in that channel under Dale's law, because
    the layers after it read the sum: with an identity shortcut the populations before and after the block are one.

    Args:
        entry: layers before both ways (membrane shortcut: a neuron), may be empty.
        branch: layers of the residual branch.
        projection: layers of the shortcut; empty for the identity.
    Shapes:
        x (T, B, C, H, W) -> (T, B, C', H', W').
    """

    def __init__(
        self, entry: Sequence[nn.Module], branch: Sequence[nn.Module], projection: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.entry = nn.ModuleList(entry)
        self.branch = nn.ModuleList(branch)
        self.projection = nn.ModuleList(projection)

    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population | None:
        inner = bind_all(self.entry, source, f"{name}.entry", wiring)
        if not len(self.projection):
            bind_all(self.branch, inner, f"{name}.branch", wiring, source)
            return source
        target = bind_all(self.branch, inner, f"{name}.branch", wiring)
        bind_all(self.projection, inner, f"{name}.projection", wiring, target)
        return target

    takes_taps = True

    def forward(self, x: Tensor, taps: Taps | None = None) -> Tensor:
        return self.stream(x, taps=taps)[0]

    def stream(self, x: Tensor, state: Any = None, taps: Taps | None = None) -> tuple[Tensor, Any]:
        entry, branch, projection = (None, None, None) if state is None else state
        s, entry = stream_layers(self.entry, x, entry, taps)
        y, branch = stream_layers(self.branch, s, branch, taps)
        shortcut = x
        if len(self.projection):
            shortcut, projection = stream_layers(self.projection, s, projection, taps)
        return y + shortcut, (entry, branch, projection)


@dataclass(frozen=True)
class ResNet(Architecture):
    """A stem, stages of two-convolution blocks, global average pooling, Linear and readout.

    shortcut "spike" (SEW, addition): block = conv, norm, neuron, conv, norm, neuron, plus the block's input spikes;
        where the shape changes the shortcut is conv 1x1, norm, neuron.
    shortcut "membrane" (MS): block = neuron, conv, norm, neuron, conv, norm, plus the block's input current; where the
        shape changes the shortcut is conv 1x1, norm on the block's first spikes, so that only spikes cross synapses.

    Args:
        blocks: blocks per stage; ResNet-20 for CIFAR is (3, 3, 3), ResNet-18 (2, 2, 2, 2), ResNet-34 (3, 4, 6, 3).
        width: channels of the first stage; they double from stage to stage.
        stem: "cifar": conv 3x3; "imagenet": conv 7x7 stride 2 and average pool 2.
        shortcut: see above.
    Source: He et al. 2016; Fang et al. 2021 (SEW-ResNet); Hu et al. 2021 (MS-ResNet).
    """

    blocks: tuple[int, ...] = (3, 3, 3)
    width: int = 16
    stem: Literal["cifar", "imagenet"] = "cifar"
    shortcut: Literal["spike", "membrane"] = "spike"

    def layers(self, shape: Shape, classes: int, neuron: Neuron, readout: Neuron) -> Sequence[nn.Module]:
        depth = self.width
        if self.stem == "cifar":
            layers: list[nn.Module] = [Conv2d(shape[0], depth, 3, padding=1, bias=False)]
        else:
            check_size(min(shape[1:]), 3, self)
            layers = [Conv2d(shape[0], depth, 7, stride=2, padding=3, bias=False), AvgPool2d(2)]
        layers.append(BatchNorm2d(depth))
        if self.shortcut == "spike":
            layers.append(copies(neuron))
        for stage, count in enumerate(self.blocks):
            channels = self.width * 2**stage
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(self._block(depth, channels, stride, neuron))
                depth = channels
        if self.shortcut == "membrane":
            layers.append(copies(neuron))
        return [*layers, GlobalAvgPool2d(), Linear(depth, classes), copies(readout)]

    def _block(self, depth: int, channels: int, stride: int, neuron: Neuron) -> Residual:
        first = [Conv2d(depth, channels, 3, stride, padding=1, bias=False), BatchNorm2d(channels), copies(neuron)]
        second: list[nn.Module] = [Conv2d(channels, channels, 3, padding=1, bias=False), BatchNorm2d(channels)]
        projection: list[nn.Module] = []
        if stride != 1 or depth != channels:
            projection = [Conv2d(depth, channels, 1, stride, bias=False), BatchNorm2d(channels)]
        if self.shortcut == "membrane":
            return Residual([copies(neuron)], first + second, projection)
        second.append(copies(neuron))
        return Residual([], first + second, [*projection, copies(neuron)] if projection else [])

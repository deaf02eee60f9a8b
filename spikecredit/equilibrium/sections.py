"""An equilibrium network as sections, made of a network's own layers, and such a network on one batch."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.network import Network
from spikecredit.neurons.rate import RateUnit
from spikecredit.neurons.spiking import SpikingNeuron
from spikecredit.synapses import AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, SoftPool2d, conv_events
from spikecredit.synapses.conv_events import Geometry

State = list[Tensor]
"""Activities of the layers s_1 ... s_L, (B, *units) each: nothing else is needed to go on."""


class Section:
    """One synapse layer of the network, what lies around it, and the units behind it.

        current of s_l from below: P(W_l s_{l-1} + b_l)       P: average, maximum or soft pooling, or none

    The effective weights are those of the last `take`.
    """

    pool: nn.AvgPool2d | nn.MaxPool2d | SoftPool2d | None = None
    unit: RateUnit | None = None
    neuron: SpikingNeuron | None = None
    behind: str = ""
    """The name of what stands behind it, a unit or a neuron; its own, where nothing does."""

    def __init__(self, name: str, layer: Linear | Conv2d) -> None:
        self.name, self.layer, self.behind = name, layer, name
        self.weight = self.feedback = torch.empty(0)
        self.bias: Tensor | None = None

    @property
    def closed(self) -> bool:
        """Whether something behind it says what becomes of its current."""
        return self.unit is not None or self.neuron is not None

    def take(self, dtype: torch.dtype, first: bool) -> None:
        """The effective W, b and B as they are now; B is W itself where the error goes through the weights, and in the
        first layer, which sends nothing back."""
        self.weight = self.layer.effective_weight().detach().to(dtype)
        symmetric = first or self.layer.pathway.transports_weights
        self.feedback = self.weight if symmetric else self.layer.pathway.feedback(self.layer).detach().to(dtype)
        self.bias = None if self.layer.bias is None else self.layer.bias.detach().to(dtype)

    def rate(self, current: Tensor) -> Tensor:
        """sigma(current); linear units where no neurons follow."""
        return current if self.unit is None else self.unit.rate(current)

    def derivative(self, current: Tensor) -> Tensor:
        """sigma'(current)."""
        return torch.ones_like(current) if self.unit is None else self.unit.derivative(current)

    def up(self, below: Tensor) -> tuple[Tensor, Tensor | None]:
        """P(W s + b), and where the maxima were, or the slope of soft pooling."""
        raise NotImplementedError

    def down(self, above: Tensor, places: Tensor | None, below: Tensor) -> Tensor:
        """B^T P^T s: the current that the layer above sends back, in the shape of the state below. P^T: the adjoint
        of the slope of P, at `places`."""
        raise NotImplementedError

    def hebb(self, post: Tensor, pre: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        """sum over the batch of -dE/dW and -dE/db for these activities: local products; their real part, if complex."""
        raise NotImplementedError


class Dense(Section):
    """A section whose synapses are a matrix; maps below it are flattened."""

    def up(self, below: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.linear(below.flatten(1), self.weight, self.bias), None

    def down(self, above: Tensor, places: Tensor | None, below: Tensor) -> Tensor:
        return above.mm(self.feedback).view(below.shape)

    def hebb(self, post: Tensor, pre: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        return post.t().mm(pre.flatten(1)).real, post.sum(0).real


class Convolution(Section):
    """A section whose synapses are a convolution, with or without pooling.

    A convolution and the average over windows of its outputs are one convolution, with the average of the shifted
    kernels and the stride of the windows. Where that takes fewer products it is what runs: 2.8 times fewer for kernels
    of 5 x 5 and windows of 2 x 2.
    """

    layer: Conv2d
    _seen: tuple[tuple[Tensor, int, Tensor], ...] = ()
    """Weights, their version, and the kernel that they make with the average: of W and of B."""

    def up(self, below: Tensor) -> tuple[Tensor, Tensor | None]:
        images, geometry = self.layer.pad(below)
        if self._joined:
            return F.conv2d(images, self._kernel(self.weight), self.bias, *self._strided(geometry)), None
        y = F.conv2d(images, self.weight, self.bias, *geometry)
        if self.pool is None:
            return y, None
        if isinstance(self.pool, SoftPool2d):
            return self.pool.with_slope(y)
        kernel, stride, padding = self._window()
        if isinstance(self.pool, nn.MaxPool2d):
            return F.max_pool2d(y, kernel, stride, padding, return_indices=True)
        return _by_parts(lambda part: F.avg_pool2d(part, kernel, stride, padding), y), None

    def down(self, above: Tensor, places: Tensor | None, below: Tensor) -> Tensor:
        images, geometry = self.layer.pad(below)
        feedback = self.feedback
        if self._joined:
            feedback, geometry = self._kernel(feedback), self._strided(geometry)
        else:
            above = self._spread(above, places, images)

        def transposed(grad: Tensor) -> Tensor:
            g = conv_events.gradients(grad, images.real, feedback.real, geometry, (True, False, False))[0]
            assert g is not None
            return g

        return _by_parts(transposed, above)

    def hebb(self, post: Tensor, pre: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        images, geometry = self.layer.pad(pre)
        kernel = self.weight
        if self._joined:
            kernel, geometry, grad = self._kernel(kernel), self._strided(geometry), post
        else:
            grad = self._spread(post, places, images)

        def products(grad: Tensor, images: Tensor) -> Tensor:
            w = conv_events.gradients(grad, images, kernel.real, geometry, (False, True, False))[1]
            assert w is not None
            return w

        w = products(grad.real, images.real)
        if grad.is_complex():
            w -= products(grad.imag, images.imag)
        if self._joined:  # each weight is in the shifted kernels of one window
            w = F.avg_pool2d(w, self._window()[0], 1)
        return w, grad.real.sum((0, 2, 3))

    @property
    def _joined(self) -> bool:
        """Whether the convolution and its pooling run as one convolution."""
        if not isinstance(self.pool, nn.AvgPool2d) or self.layer.stride != (1, 1) or self.layer.dilation != (1, 1):
            return False
        window, stride, padding = self._window()
        wide = [k + n - 1 for k, n in zip(self.layer.kernel_size, window, strict=True)]
        fewer = math.prod(wide) < math.prod(self.layer.kernel_size) * math.prod(stride)
        return fewer and padding == [0, 0]

    def _strided(self, geometry: Geometry) -> Geometry:
        """The geometry of the one convolution."""
        vertical, horizontal = self._window()[1]
        return (vertical, horizontal), *geometry[1:]

    def _kernel(self, weight: Tensor) -> Tensor:
        """Its kernel: the mean of `weight` shifted to every place of a window. Computed once for each version of a
        weight, which may change in place."""
        if weight.requires_grad or weight.is_inference() or torch.compiler.is_compiling():
            return self._averaged(weight)
        for known, version, kernel in self._seen:
            if known is weight and version == weight._version:
                return kernel
        kernel = self._averaged(weight)
        self._seen = (*(seen for seen in self._seen[-1:] if seen[0] is not weight), (weight, weight._version, kernel))
        return kernel

    def _averaged(self, weight: Tensor) -> Tensor:
        (high, wide), _, _ = self._window()
        around = (wide - 1, wide - 1, high - 1, high - 1)
        return _by_parts(lambda part: F.avg_pool2d(F.pad(part, around), (high, wide), 1), weight)

    def _spread(self, above: Tensor, places: Tensor | None, images: Tensor) -> Tensor:
        """P^T s, at the size of the convolution's output."""
        if self.pool is None:
            return above
        stride, padding, dilation, _ = self.layer.pad(images[:1])[1]
        height, width = (
            (images.shape[2 + i] + 2 * padding[i] - dilation[i] * (self.weight.shape[2 + i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        )
        if isinstance(self.pool, SoftPool2d):
            assert places is not None
            return self.pool.spread(above, places, (height, width))
        size = (*above.shape[:2], height, width)
        if places is not None:
            flat = above.new_zeros((*above.shape[:2], height * width))
            # scatter_add: windows that overlap may share a maximum.
            return flat.scatter_add_(2, places.flatten(2), above.flatten(2)).view(size)
        window = self._window()

        def spread(part: Tensor) -> Tensor:
            last = part.is_contiguous(memory_format=torch.channels_last) and not part.is_contiguous()
            layout = torch.channels_last if last else torch.contiguous_format  # of the result too: no copy behind it
            maps = torch.empty(size, dtype=part.dtype, device=part.device, memory_format=layout)
            return torch.ops.aten.avg_pool2d_backward(part, maps, *window, False, True, None)

        return _by_parts(spread, above)

    def _window(self) -> list[list[int]]:
        """Kernel, stride and padding of the pooling."""
        assert isinstance(self.pool, nn.AvgPool2d | nn.MaxPool2d)
        numbers = self.pool.kernel_size, self.pool.stride, self.pool.padding
        return [[n, n] if isinstance(n, int) else list(n) for n in numbers]


def _by_parts(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """f(z) of a real linear f, which torch may know for real numbers only."""
    return torch.complex(f(z.real), f(z.imag)) if z.is_complex() else f(z)


def sections(net: Network) -> list[Section]:
    """The network's synapse layers in order, each with its pooling and its units.

    Raises:
        ValueError: a layer that has no place in a layered energy, with what to write.
    """
    found: list[Section] = []
    for index, layer in enumerate(net.layers):
        name = f"layers.{index}"
        if isinstance(layer, Linear | Conv2d) and type(layer) in (Linear, Conv2d):
            if isinstance(layer, Conv2d):
                _check_padding(layer, name)
            found.append(Convolution(name, layer) if isinstance(layer, Conv2d) else Dense(name, layer))
        elif isinstance(layer, Flatten) and (not found or found[-1].closed or index == 0):
            continue
        elif (
            isinstance(layer, AvgPool2d | MaxPool2d | SoftPool2d)
            and found
            and not found[-1].closed
            and found[-1].pool is None
        ):
            if not isinstance(found[-1].layer, Conv2d):
                raise ValueError(f"{name}: pooling follows a convolution, got {type(found[-1].layer).__name__}")
            _check_pool(layer, name)
            found[-1].pool = layer
        elif isinstance(layer, RateUnit) and found and not found[-1].closed:
            found[-1].unit, found[-1].behind = layer, name
        elif isinstance(layer, SpikingNeuron) and found and not found[-1].closed:
            found[-1].neuron, found[-1].behind = layer, name
        else:
            raise ValueError(
                f"{name}, {type(layer).__name__}, has no place in an equilibrium network: write Linear or Conv2d, then "
                "AvgPool2d, MaxPool2d or SoftPool2d if at all, then a rate unit such as sc.HardSigmoid() (none after "
                "the last synapse makes its units linear) or spiking neurons; Flatten after these or at the start"
            )
    for before, after in itertools.pairwise(found):
        if not before.closed:
            raise ValueError(
                f"{before.name} and {after.name} have no units between them: their states would be one. Put "
                "sc.HardSigmoid() there"
            )
    if not found:
        raise ValueError("an equilibrium network needs a synapse layer, got none")
    return found


def _check_padding(layer: Conv2d, name: str) -> None:
    wide = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    uneven = layer.padding == "same" and any(extra % 2 for extra in wide)
    if layer.padding_mode != "zeros" or uneven:
        raise ValueError(
            f"{name}: what comes back through a convolution has to fit what went in: pad with zeros, alike on both "
            f"sides; got {layer.padding_mode}, {layer.padding} for a kernel of {layer.kernel_size}"
        )


def _check_pool(pool: nn.AvgPool2d | nn.MaxPool2d | SoftPool2d, name: str) -> None:
    if isinstance(pool, SoftPool2d):
        return
    plain = getattr(pool, "count_include_pad", True) and getattr(pool, "divisor_override", None) is None
    dilation = getattr(pool, "dilation", 1)
    if not plain or pool.ceil_mode or dilation not in (1, (1, 1)):
        raise ValueError(f"{name}: {pool} has no adjoint here: leave ceil_mode, dilation and divisors as they are")


@dataclass
class Phase:
    """A network on one batch: its sections with their weights, and the current that the input makes."""

    parts: Sequence[Section]
    x: Tensor
    drive: Tensor
    places: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[Section], x: Tensor) -> "Phase":
        """Take the weights as they are, in x's dtype, and compute the input's current, which never changes."""
        for index, part in enumerate(parts):
            part.take(x.dtype, first=index == 0)
        drive, places = parts[0].up(x)
        return cls(parts, x, drive, [places, *[None] * (len(parts) - 1)])

    def to(self, dtype: torch.dtype) -> "Phase":
        """The same phase in a dtype: with the weights that were taken, as some pathways would draw another B."""
        parts = []
        for part in self.parts:
            same = copy.copy(part)
            same.weight = part.weight.to(dtype)
            same.feedback = same.weight if part.feedback is part.weight else part.feedback.to(dtype)
            same.bias = None if part.bias is None else part.bias.to(dtype)
            parts.append(same)
        x = self.x.to(dtype)
        drive, places = parts[0].up(x)
        return Phase(parts, x, drive, [places, *[None] * (len(parts) - 1)])

    def rest(self) -> State:
        """All activities 0."""
        state = [torch.zeros_like(self.drive)]
        for part in self.parts[1:]:
            state.append(torch.zeros_like(part.up(state[-1])[0]))
        return state

    def copies(self, count: int) -> "Phase":
        """The same batch `count` times in a row, for phases that relax side by side."""
        places = self.places[0]
        x, drive = (repeat(t, count) for t in (self.x, self.drive))
        return Phase(
            self.parts, x, drive, [None if places is None else repeat(places, count), *[None] * (len(self.parts) - 1)]
        )

    def below(self, index: int, state: State) -> Tensor:
        """P(W s_{l-1} + b) of layer `index`, from 0; remembers where the maxima are, or soft pooling's slope."""
        if index == 0:
            return self.drive
        current, self.places[index] = self.parts[index].up(state[index - 1])
        return current

    def above(self, index: int, state: State, sent: Tensor | None = None) -> Tensor:
        """B^T P^T s of the layer above layer `index`, which is not the last; or of what it sends instead of s."""
        part = self.parts[index + 1]
        chooses = isinstance(part.pool, MaxPool2d | SoftPool2d)  # an average has the same slope everywhere
        if self.places[index + 1] is None and chooses:  # not yet seen from below
            self.places[index + 1] = part.up(state[index])[1]
        return part.down(state[index + 1] if sent is None else sent, self.places[index + 1], state[index])

    def forget(self) -> None:
        """The state is another one: `above` has to find the maxima of all poolings anew, from what it is given."""
        self.places[1:] = [None] * (len(self.parts) - 1)


def repeat(t: Tensor, count: int) -> Tensor:
    """The batch `count` times in a row, in t's layout, which `Tensor.repeat` would not keep."""
    return torch.cat([t] * count)

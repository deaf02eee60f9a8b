"""The energy of an equilibrium network, and the vector field that it is the energy of, from a network's own layers."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.network import Network
from spikecredit.neurons.rate import RateUnit
from spikecredit.synapses import AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d
from spikecredit.synapses.conv import conv_gradients

State = list[Tensor]
"""Activities of the layers s_1 ... s_L, (B, *units) each: nothing else is needed to go on."""


class Section:
    """One synapse layer of the network, what lies around it, and the units behind it.

        current of s_l from below: P(W_l s_{l-1} + b_l)       P: average or maximum pooling, or none

    The effective weights are those of the last `take`.
    """

    pool: nn.AvgPool2d | nn.MaxPool2d | None = None
    unit: RateUnit | None = None

    def __init__(self, name: str, layer: Linear | Conv2d) -> None:
        self.name, self.layer = name, layer
        self.weight = self.feedback = torch.empty(0)
        self.bias: Tensor | None = None

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

    def up(self, below: Tensor) -> tuple[Tensor, Tensor | None]:
        """P(W s + b), and where the maxima were."""
        raise NotImplementedError

    def down(self, above: Tensor, places: Tensor | None, below: Tensor) -> Tensor:
        """B^T P^T s: the current that the layer above sends back, in the shape of the state below."""
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
    """A section whose synapses are a convolution, with or without pooling."""

    layer: Conv2d

    def up(self, below: Tensor) -> tuple[Tensor, Tensor | None]:
        images, geometry = self.layer.pad(below)
        y = F.conv2d(images, self.weight, self.bias, *geometry)
        if self.pool is None:
            return y, None
        kernel, stride, padding = self._window()
        if isinstance(self.pool, nn.MaxPool2d):
            return F.max_pool2d(y, kernel, stride, padding, return_indices=True)
        return _by_parts(lambda part: F.avg_pool2d(part, kernel, stride, padding), y), None

    def down(self, above: Tensor, places: Tensor | None, below: Tensor) -> Tensor:
        images, geometry = self.layer.pad(below)

        def transposed(grad: Tensor) -> Tensor:
            g = conv_gradients(grad, images.real, self.feedback.real, geometry, (True, False, False))[0]
            assert g is not None
            return g

        return _by_parts(transposed, self._spread(above, places, images))

    def hebb(self, post: Tensor, pre: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        images, geometry = self.layer.pad(pre)
        grad = self._spread(post, places, images)

        def products(grad: Tensor, images: Tensor) -> Tensor:
            w = conv_gradients(grad, images, self.weight.real, geometry, (False, True, False))[1]
            assert w is not None
            return w

        w = products(grad.real, images.real)
        if grad.is_complex():
            w -= products(grad.imag, images.imag)
        return w, grad.real.sum((0, 2, 3))

    def _spread(self, above: Tensor, places: Tensor | None, images: Tensor) -> Tensor:
        """P^T s, at the size of the convolution's output."""
        if self.pool is None:
            return above
        stride, padding, dilation, _ = self.layer.pad(images[:1])[1]
        height, width = (
            (images.shape[2 + i] + 2 * padding[i] - dilation[i] * (self.weight.shape[2 + i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        )
        size = (*above.shape[:2], height, width)
        if places is not None:
            flat = above.new_zeros((*above.shape[:2], height * width))
            # scatter_add: windows that overlap may share a maximum.
            return flat.scatter_add_(2, places.flatten(2), above.flatten(2)).view(size)
        window = self._window()
        return _by_parts(
            lambda part: torch.ops.aten.avg_pool2d_backward(part, part.new_empty(size), *window, False, True, None),
            above,
        )

    def _window(self) -> list[list[int]]:
        """Kernel, stride and padding of the pooling."""
        assert self.pool is not None
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
            if isinstance(layer, Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
                raise ValueError(
                    f"{name}: give the padding as numbers, of zeros; got {layer.padding_mode} {layer.padding}"
                )
            found.append(Convolution(name, layer) if isinstance(layer, Conv2d) else Dense(name, layer))
        elif isinstance(layer, Flatten) and (not found or found[-1].unit is not None or index == 0):
            continue
        elif isinstance(layer, AvgPool2d | MaxPool2d) and found and found[-1].unit is None and found[-1].pool is None:
            if not isinstance(found[-1].layer, Conv2d):
                raise ValueError(f"{name}: pooling follows a convolution, got {type(found[-1].layer).__name__}")
            _check_pool(layer, name)
            found[-1].pool = layer
        elif isinstance(layer, RateUnit) and found and found[-1].unit is None:
            found[-1].unit = layer
        else:
            raise ValueError(
                f"{name}, {type(layer).__name__}, has no place in an equilibrium network: write Linear or Conv2d, then "
                "AvgPool2d or MaxPool2d if at all, then a rate unit such as sc.HardSigmoid() (none after the last "
                "synapse makes its units linear); Flatten anywhere after rate units or at the start"
            )
    for before, after in itertools.pairwise(found):
        if before.unit is None:
            raise ValueError(
                f"{before.name} and {after.name} have no rate unit between them: their states would be one. Put "
                "sc.HardSigmoid() there"
            )
    if not found:
        raise ValueError("an equilibrium network needs a synapse layer, got none")
    return found


def _check_pool(pool: nn.AvgPool2d | nn.MaxPool2d, name: str) -> None:
    plain = getattr(pool, "count_include_pad", True) and getattr(pool, "divisor_override", None) is None
    dilation = getattr(pool, "dilation", 1)
    if not plain or pool.ceil_mode or dilation not in (1, (1, 1)):
        raise ValueError(f"{name}: {pool} has no adjoint here: leave ceil_mode, dilation and divisors as they are")


@dataclass(frozen=True)
class Hopfield:
    """The layered Hopfield energy in activities.

        E(s) = sum_l gain^(l-1) [ G_l(s_l) - s_l . P_l(W_l s_{l-1} + b_l) ],    G_l' = sigma_l^-1,  s_0 = x

    Its stationary points, at gain^(l-1) > 0, are those of

        s_l = sigma_l( P_l(W_l s_{l-1} + b_l) + gain B_{l+1}^T P_{l+1}^T s_{l+1} )

    with B = W. A pathway with B != W makes the right-hand side a vector field of no energy: then `value` is refused,
    and the learning rule is the directed one (`contrast.gradient`). A gain below 1 weakens what comes back from above:
    the network is nearly feedforward and settles in fewer sweeps, and the energy's gradient of layer l has a factor
    gain^(l-L), which `contrast.gradient` applies.

    Args:
        gain: gamma > 0 on what comes from above.
    Raises:
        ValueError: a gain that is not positive.
    Source: Hopfield 1984; Scellier & Bengio 2017; the gain is that of Xie & Seung 2003.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gain > 0 and math.isfinite(self.gain)):
            raise ValueError(f"gain is a positive number, 1 for symmetric coupling; got {self.gain!r}")

    @torch.no_grad()
    def value(self, net: Network, x: Tensor, state: State) -> Tensor:
        """E for each sample, (B,), at a state of the network on x (B, *in).

        Raises:
            ValueError: B != W somewhere, where there is no energy; units without a primitive.
        """
        total, below = x.new_zeros(()), x
        for index, (part, s) in enumerate(zip(sections(net), state, strict=True)):
            if index and not part.layer.pathway.transports_weights:
                raise ValueError(
                    f"{part.name} sends back through {part.layer.pathway}, not through its weights: such a network "
                    "follows a vector field that has no energy"
                )
            part.take(x.dtype, first=index == 0)
            stored = 0.5 * s.square() if part.unit is None else part.unit.stored(s)
            term = stored - s * part.up(below)[0]
            total = total + self.gain**index * term.flatten(1).sum(1)
            below = s
        return total

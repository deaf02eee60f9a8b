"""Layers without weights: pooling, flattening, dropout. Any number of leading dimensions."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.constraints import Population
from spikecredit.seeds import Noise, draw, stream
from spikecredit.synapses.synapse import Wiring


class AvgPool2d(nn.AvgPool2d):
    """Average pooling over (..., C, H, W); arguments as in `torch.nn.AvgPool2d`."""

    memoryless = True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class MaxPool2d(nn.MaxPool2d):
    """Maximum pooling over (..., C, H, W); arguments as in `torch.nn.MaxPool2d`. On spikes it is a logical OR."""

    memoryless = True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class SoftPool2d(nn.Module):
    """Soft maximum pooling over (..., C, H, W): in each window a mean, in which larger values weigh more.

        P(y) = sum_i p_i y_i,   p = softmax(y / T)        dP/dy_i = p_i (1 + (y_i - P) / T)

    T -> 0 is `MaxPool2d`, T -> infinity `AvgPool2d`. Windows lie side by side (stride = kernel_size, no padding); rows
    and columns left over are dropped. y may be complex: P is holomorphic where sum_i exp(y_i / T) is not 0. It is
    neither linear nor convex, and where a y_i is more than T below P it falls as y_i rises.

    Args:
        kernel_size: of the window, one number or (height, width). temperature: T.
    Raises:
        ValueError: a kernel or a temperature that is not positive; a map smaller than a window.
    Source: Stergiou, Poppe & Kalliatakis 2021 (T = 1); for holomorphic networks Laborieux & Zenke 2022.
    """

    memoryless = True

    def __init__(self, kernel_size: int | tuple[int, int], temperature: float = 1.0) -> None:
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if min(height, width) < 1:
            raise ValueError(f"kernel_size is the size of a window, at least 1; got {kernel_size!r}")
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature is positive and finite, got {temperature!r}; its limits are MaxPool2d and AvgPool2d"
            )
        self.kernel_size, self.temperature = (height, width), temperature

    def forward(self, x: Tensor) -> Tensor:
        windows, shares = self._shares(x)
        return (shares * windows).sum((-3, -1))

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P(x), (..., C, H', W'), and dP/dx, (..., C, H', kernel height, W', kernel width)."""
        windows, shares = self._shares(x)
        pooled = (shares * windows).sum((-3, -1), keepdim=True)
        return pooled[..., 0, :, 0], shares * (1 + (windows - pooled) / self.temperature)

    def spread(self, pooled: Tensor, slope: Tensor, size: tuple[int, int]) -> Tensor:
        """The adjoint of dP/dx on a tensor in the shape of P(x); `size` is that of the maps of x."""
        x = (pooled[..., :, None, :, None] * slope).flatten(-2).flatten(-3, -2)
        return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))

    def _shares(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The windows (..., C, H', kernel height, W', kernel width), and p in them."""
        (height, width), (kh, kw) = x.shape[-2:], self.kernel_size
        if height < kh or width < kw:
            raise ValueError(f"a window of {kh} x {kw} does not fit into a map of {height} x {width}")
        fitting = x[..., : height // kh * kh, : width // kw * kw]
        windows = fitting.unflatten(-1, (-1, kw)).unflatten(-3, (-1, kh))
        largest = windows.detach().real.amax((-3, -1), keepdim=True)  # cancels in p: no overflow
        powers = ((windows - largest) / self.temperature).exp()
        return windows, powers / powers.sum((-3, -1), keepdim=True)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, temperature={self.temperature}"


class GlobalAvgPool2d(nn.Module):
    """Mean over the map: (..., C, H, W) -> (..., C)."""

    memoryless = True

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class Flatten(nn.Module):
    """(..., C, H, W) -> (..., C H W); `dims` is how many trailing dimensions become one."""

    memoryless = True

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        if dims < 1:
            raise ValueError(f"dims is the number of trailing dimensions to flatten, at least 1; got {dims!r}")
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-self.dims)


class Dropout(nn.Module):
    """Dropout with one mask for the whole sequence: y[t] = m x[t] / (1 - p), m ~ Bernoulli(1 - p) of shape (B, *N).

    A mask drawn anew at every step would average out over time. When streaming, the mask is the state.

    Args:
        p: the probability of dropping a unit, 0 <= p < 1.
    Source: Lee, Sarwar & Roy 2020 (dropout in spiking networks).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p is a probability, 0 <= p < 1; got {p!r}")
        self.p = p
        self.noise = Noise()

    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population | None:
        self.noise = Noise(stream(wiring.seed, "noise", name))
        return source

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x)[0]

    def stream(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.training or self.p == 0:
            return x, state
        if state is None:
            mask = draw(self.noise, "bernoulli", x.shape[1:], 1 - self.p, 0.0, x.dtype, x.device)
            state = mask.div_(1 - self.p)
        return x * state, state

    def extra_repr(self) -> str:
        return f"p={self.p}"

"""Layers without weights: pooling, flattening, dropout. Any number of leading dimensions."""

from torch import Tensor, nn

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

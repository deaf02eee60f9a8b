"""Magnitudes that are drawn anew at every step: from a table of quantiles, since normal numbers cost more time than the
rest of a feedback weight."""

from functools import cache, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from spikecredit.seeds import Noise, count_draw, stream

Magnitude = Literal["normal", "uniform"]
BITS = 12
"""Of a magnitude: its table of float32 fits into the first cache, 16 KiB. With 16 bits the loop takes 1.5 times as
long."""
LEVELS = 1 << BITS
A_WORD = 64 // BITS
"""Magnitudes from each word of random bits."""


def scale_(values: Tensor, kind: Magnitude, high: float, source: torch.Generator | Noise) -> Tensor:
    """values *= M in place, where M = |N(0, high^2)| or, if kind is "uniform", U(0, high).

    For magnitudes that are drawn at every step: the same numbers on every device, and on a CPU 10 times as fast as
    torch's `normal_`. A magnitude is one of the law's 4,096 quantiles at (i + 1/2) / 4,096, all equally likely, so
    that 12 random bits are enough for it: no step of the distribution is larger than 2^-12, and the largest |N| is 3.8
    standard deviations. The normal's are divided by their root mean square, so that the second moment is high^2.
    Bits: word n of SplitMix64 (Steele, Lea & Flood 2014), five numbers a word in row-major order, low bits first.
    """
    if isinstance(source, Noise) and torch.compiler.is_compiling():
        _next_scaling(source.state, values, kind, high)
    elif isinstance(source, Noise):
        _scale(values, kind, high, stream(*count_draw(source.state)))
    else:
        _scale(values, kind, high, int(torch.randint(2**62, (), generator=source, device=source.device)))
    return values


@torch.library.custom_op("spikecredit::next_scaling", mutates_args=("state", "values"))
def _next_scaling(state: torch.Tensor, values: torch.Tensor, kind: str, high: float) -> None:
    _scale(values, kind, high, stream(*count_draw(state)))


def _scale(values: Tensor, kind: str, high: float, key: int) -> None:
    table, loops = _quantiles(kind, high, values.dtype), _loops()
    in_place = values.device.type == "cpu" and values.is_contiguous() and values.dtype in (torch.float32, torch.float64)
    if in_place and loops is not None:
        loops.scale(key, table.numpy(), values.view(-1).numpy())
        return
    words = splitmix64(key, -(-values.numel() // A_WORD), values.device)
    index = torch.stack([words >> BITS * j & (LEVELS - 1) for j in range(A_WORD)], 1).flatten()
    values.mul_(table.to(values.device)[index[: values.numel()]].view(values.shape))


def splitmix64(key: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The first `count` words of SplitMix64 with seed `key`, as signed integers of 64 bits."""
    z = torch.arange(1, count + 1, device=device) * _signed(0x9E3779B97F4A7C15) + _signed(key)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(z: Tensor, places: int) -> Tensor:
    """z >> places without the sign: torch's shift copies it."""
    return z >> places & ((1 << (64 - places)) - 1)


@cache
def _standard(kind: str) -> Tensor:
    middle = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    if kind == "uniform":
        return middle
    values = torch.erfinv(middle)
    return values / values.square().mean().sqrt()


@lru_cache(maxsize=32)
def _quantiles(kind: str, high: float, dtype: torch.dtype) -> Tensor:
    return (_standard(kind) * high).to(dtype)


@cache
def _loops() -> Any:
    """The compiled loop, or None without numba: the same numbers then come more slowly."""
    try:
        from spikecredit.pathways import magnitudes_cpu
    except ImportError:
        return None
    return magnitudes_cpu

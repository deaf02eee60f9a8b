"""Randomness: one integer seed opens named streams, so that a new consumer shifts nobody else's numbers."""

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor


def stream(seed: int, *names: str | int) -> int:
    """The seed of the stream `names` under `seed`: the first 63 bits of SHA-256("seed/name/name/...").

    Streams are independent of each other and of the order in which they are opened.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator at the start of the stream `names`."""
    return torch.Generator(device=device).manual_seed(stream(seed, *names))


class Noise(torch.nn.Module):
    """A layer's own stream of random numbers: draw number n comes from a generator seeded with (seed, n).

    Only the two numbers are state; they are saved with the layer, so that a resumed run goes on with the same draws.
    Without a seed, one is taken from torch's global generator at the first draw, not before: making a layer shifts
    nobody's numbers.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.state = torch.tensor([-1 if seed is None else seed, 0])  # on the host, wherever the layer goes

    @property
    def seed(self) -> int | None:
        """The stream's seed; None before the first draw of a stream that was given none."""
        seed = int(self.state[0])
        return None if seed < 0 else seed

    @property
    def count(self) -> int:
        """How many draws there were."""
        return int(self.state[1])

    def skip(self) -> None:
        """Leave one draw out."""
        self.state[1] += 1

    def get_extra_state(self) -> torch.Tensor:
        return self.state.clone()

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.state.copy_(state)


def draw(
    source: torch.Generator | Noise,
    kind: str,
    shape: torch.Size | tuple[int, ...],
    low: float,
    high: float,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Random numbers from a generator, or the next draw of a layer's own stream.

    Args:
        kind: "normal" (mean low, standard deviation high), "uniform" (from low to high) or "bernoulli" (probability
            low). A generator's numbers are drawn where it lives and moved; a stream's are drawn on `device`.
    """
    if isinstance(source, Noise):
        return _next_draw(source.state, kind, shape, low, high, dtype, device)
    return _draw(source, kind, shape, low, high, dtype).to(device)


def _draw(
    source: torch.Generator,
    kind: str,
    shape: Sequence[int],
    low: float,
    high: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    values = torch.empty(shape, dtype=dtype, device=source.device)
    if kind == "normal":
        return values.normal_(low, high, generator=source)
    if kind == "uniform":
        return values.uniform_(low, high, generator=source)
    return values.bernoulli_(low, generator=source)


# An operator, because a compiled program can hold no generator.
@torch.library.custom_op("spikecredit::next_draw", mutates_args=("state",))
def _next_draw(
    state: torch.Tensor,
    kind: str,
    shape: Sequence[int],
    low: float,
    high: float,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    return _draw(generator(*_next(state), device=device), kind, shape, low, high, dtype)


def _next(state: torch.Tensor) -> tuple[int, int]:
    if state[0] < 0:
        state[0] = torch.randint(2**62, ())
    state[1] += 1
    seed, count = state.tolist()
    return seed, count


@_next_draw.register_fake
def _(state, kind, shape, low, high, dtype, device):  # type: ignore[no-untyped-def]
    return torch.empty(shape, dtype=dtype, device=device)


# ---- magnitudes

Magnitude = Literal["normal", "uniform"]
LEVELS = 1 << 16


def scale_(values: Tensor, kind: Magnitude, high: float, source: torch.Generator | Noise) -> Tensor:
    """values *= M in place, where M = |N(0, high^2)| or, if kind is "uniform", U(0, high).

    For magnitudes that are drawn at every step: the same numbers on every device, and on a CPU 7 times as fast as
    torch's `normal_`. A magnitude is one of the law's 65,536 quantiles at (i + 1/2) / 65,536, all equally likely, so
    that 16 random bits are enough for it: no step of the distribution is larger than 2^-16, and the largest |N| is 4.5
    standard deviations. The normal's are divided by their root mean square, so that the second moment is high^2.
    Bits: word n of SplitMix64 (Steele, Lea & Flood 2014), four numbers a word in row-major order, low bits first.
    """
    if isinstance(source, Noise) and torch.compiler.is_compiling():
        _next_scaling(source.state, values, kind, high)
    elif isinstance(source, Noise):
        _scale(values, kind, high, stream(*_next(source.state)))
    else:
        _scale(values, kind, high, int(torch.randint(2**62, (), generator=source, device=source.device)))
    return values


@torch.library.custom_op("spikecredit::next_scaling", mutates_args=("state", "values"))
def _next_scaling(state: torch.Tensor, values: torch.Tensor, kind: str, high: float) -> None:
    _scale(values, kind, high, stream(*_next(state)))


def _scale(values: Tensor, kind: str, high: float, key: int) -> None:
    table, loops = _quantiles(kind, high, values.dtype), _loops()
    in_place = values.device.type == "cpu" and values.is_contiguous() and values.dtype in (torch.float32, torch.float64)
    if in_place and loops is not None:
        loops.scale(key, table.numpy(), values.view(-1).numpy())
        return
    words = splitmix64(key, -(-values.numel() // 4), values.device)
    index = torch.stack([words >> place & (LEVELS - 1) for place in (0, 16, 32, 48)], 1).flatten()
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
        from spikecredit import seeds_cpu
    except ImportError:
        return None
    return seeds_cpu

"""Randomness: one integer seed opens named streams, so that a new consumer shifts nobody else's numbers."""

import hashlib
from collections.abc import Sequence

import torch


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
    return _draw(generator(*count_draw(state), device=device), kind, shape, low, high, dtype)


def count_draw(state: torch.Tensor) -> tuple[int, int]:
    """(seed, n) of the next draw of the stream with this state, which is counted."""
    if state[0] < 0:
        state[0] = torch.randint(2**62, ())
    state[1] += 1
    seed, count = state.tolist()
    return seed, count


@_next_draw.register_fake
def _(state, kind, shape, low, high, dtype, device):  # type: ignore[no-untyped-def]
    return torch.empty(shape, dtype=dtype, device=device)

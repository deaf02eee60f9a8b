"""Randomness: one integer seed opens named streams, so that a new consumer shifts nobody else's numbers."""

import hashlib

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
        self.seed = seed
        self.count = 0

    def next(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator for the next draw."""
        if self.seed is None:
            self.seed = int(torch.randint(2**62, ()))
        self.count += 1
        return generator(self.seed, self.count, device=device)

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor([-1 if self.seed is None else self.seed, self.count], dtype=torch.int64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        seed, self.count = (int(value) for value in state)
        self.seed = None if seed < 0 else seed

"""What every neuron shares: the two methods, the state rule and the checks of its input."""

import math
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Reset = Literal["subtract", "zero", "none"]


class Neuron(nn.Module):
    """Current in, output out, time first: x is (T, B, *N), dimensionless.

    `neuron(x)` runs a whole sequence from rest; `neuron.stream(x, state)` runs any chunk of time and returns the state
    with which the next chunk goes on. The two are equal bit for bit however a sequence is split. A module holds no
    state of its own: there is nothing to reset.
    """

    spiking = True
    takes_steps = True
    """Whether `stream` and `forward` have the argument `steps`: a constant current is then given once."""

    @abstractmethod
    def stream(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        """Run one chunk of time.

        Args:
            x: input current, (T, B, *N).
            state: what the previous chunk returned; None at rest.
            steps: T of a current that does not change in time and is given once, x (1, B, *N). Its gradient is then
                summed over time where it arises; with an expanded x it takes T times the memory.
        Returns:
            output (T, B, *N) in x's dtype, and the state after the chunk.
        """

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        return self.stream(x, steps=steps)[0]


def check_reset(reset: str) -> None:
    """Refuse a reset that is none of `Reset`."""
    if reset not in get_args(Reset):
        raise ValueError(f"reset must be one of {', '.join(map(repr, get_args(Reset)))}, got {reset!r}")


def check_refractory(refractory: int) -> None:
    """Refuse what is not a whole number of steps."""
    if not isinstance(refractory, int) or isinstance(refractory, bool) or refractory < 0:
        raise ValueError(f"refractory is a whole number of steps >= 0, got {refractory!r}")


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is not positive and finite: an infinite one would subtract 0 * inf = NaN each step."""
    if not 0 < threshold < math.inf:
        raise ValueError(
            f"threshold must be positive and finite, got {threshold!r}; a neuron that never fires is LeakyReadout"
        )


def state_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, float32 otherwise: half precisions cannot hold a leaky sum over many steps."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_current(
    x: Tensor, state: Tensor | tuple[Tensor | None, ...] | None, owner: str, steps: int | None = None
) -> None:
    """Refuse an input or a state that no neuron can take."""
    if x.ndim < 2 or x.shape[0] == 0:
        raise ValueError(f"{owner} takes input of shape (T, B, *N) with T >= 1, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{owner} takes a floating-point current, got {x.dtype}; write x.float()")
    if steps is not None and (x.shape[0] != 1 or steps < 1):
        raise ValueError(
            f"{owner}: steps={steps} with an input of shape {tuple(x.shape)}: a current that is constant over "
            "steps >= 1 is given once, (1, B, *N)"
        )
    for part in state if isinstance(state, tuple) else (state,):
        if part is None:
            continue
        if part.shape != x.shape[1:]:
            raise ValueError(
                f"{owner}: the state has shape {tuple(part.shape)}, the input {tuple(x.shape)} needs "
                f"{tuple(x.shape[1:])}; pass state=None to start from rest"
            )
        if part.device != x.device:
            raise ValueError(f"{owner}: the state is on {part.device}, the input on {x.device}; move one of them")
        if part.is_floating_point() and part.dtype != state_dtype(x):
            raise ValueError(
                f"{owner}: the state is {part.dtype}, an input of {x.dtype} needs {state_dtype(x)}; convert one of them"
            )


def at_rest(x: Tensor, state: Tensor | None) -> Tensor:
    """The state, or zeros for one time step of x, in the dtype of the state; one number in memory until it is read."""
    return x.new_zeros((), dtype=state_dtype(x)).expand(x.shape[1:]) if state is None else state

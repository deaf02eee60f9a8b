"""The axonal delay."""

import torch
from torch import Tensor, nn


class Delay(nn.Module):
    """y[t] = x[t - steps], and 0 before: what the layers behind hear reaches them `steps` time steps late.

    The state is what is still on its way, the last `steps` inputs (steps, B, *N).

    Args:
        steps: whole number of time steps, 0 or more.
    Shapes:
        x (T, B, *N) -> (T, B, *N).
    Raises:
        ValueError: steps is no whole number >= 0, or a state that does not fit the input.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"steps is a whole number of time steps >= 0, got {steps!r}")
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x)[0]

    def stream(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim < 2:
            raise ValueError(f"Delay takes (T, B, *N), got {tuple(x.shape)}")
        shape = (self.steps, *x.shape[1:])
        if state is not None and state.shape != shape:
            raise ValueError(
                f"Delay: the state has shape {tuple(state.shape)}, the input {tuple(x.shape)} needs {shape}; pass "
                "state=None to start with an empty axon"
            )
        underway = torch.cat([x.new_zeros(shape) if state is None else state, x])
        return underway[: len(x)], underway[len(x) :].clone()

    def extra_repr(self) -> str:
        return f"steps={self.steps}"

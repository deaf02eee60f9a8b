"""Torch's tensors as the arguments of the CPU backend's compiled functions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.neurons.kernels.flat import Membrane, State


def array(v: Tensor | None, like: Tensor) -> Any:
    """A tensor's memory as an array; an empty one of `like`'s type for None."""
    if v is None:
        return np.empty(0, number_type(like.dtype))
    if v.dtype == torch.bfloat16:
        v = v.view(torch.uint16)
    return v.detach().numpy()


def sequence(v: Tensor | None, like: Tensor) -> tuple[Any, int]:
    """A sequence (T, N) of strides (any, 1) as one row of memory, and its time stride."""
    if v is None:
        return array(None, like), 0
    steps, n = v.shape
    stride = v.stride(0) if steps > 1 else 0
    return array(v.as_strided(((steps - 1) * stride + n,), (1,)), like), stride


def matrix(v: Tensor | None, u: Tensor) -> Any:
    """Two dimensions, in the state's dtype."""
    return np.empty((0, 0), number_type(u.dtype)) if v is None else v.detach().numpy()


def blocks(v: Tensor | None, u: Tensor) -> Any:
    """Three dimensions, in the state's dtype."""
    return np.empty((0, 0, 0), number_type(u.dtype)) if v is None else v.detach().numpy()


def number_type(dtype: torch.dtype) -> Any:
    """NumPy's type for a tensor's numbers; bfloat16 goes as its bits."""
    return {torch.float64: np.float64, torch.bfloat16: np.uint16, torch.int32: np.int32}.get(dtype, np.float32)


def factors(values: Sequence[Tensor | float | None], state: Tensor) -> tuple[Any, ...]:
    """As `decays`, in the state's type."""
    number = number_type(state.dtype)
    return tuple(v if isinstance(v, np.ndarray) else number(v) for v in decays(values, state))


def decays(values: Sequence[Tensor | float | None], state: Tensor) -> tuple[Any, ...]:
    """All decays as numbers, or all as arrays, so that few signatures are compiled."""
    number = number_type(state.dtype)
    values = [d if isinstance(d, Tensor) and d.ndim else 0.0 if d is None else float(d) for d in values]
    if not any(isinstance(d, Tensor) for d in values):
        return tuple(values)
    return tuple(
        d.detach().to(state.dtype).numpy() if isinstance(d, Tensor) else np.full(state.shape, d, number) for d in values
    )


def rows(state: State, u: Tensor) -> tuple[Any, Any]:
    """A state's fields as the rows of one array, and which fields they are."""
    present = _positions(tuple(f for f, v in enumerate(state) if v is not None))
    fields = [v if v.dtype == u.dtype else v.to(u.dtype) for v in state if v is not None]
    if len(fields) == 1:
        return fields[0][None].detach().numpy(), present  # the common case, without a copy
    stacked = torch.stack(fields) if fields else u.new_empty((0, u.numel()))
    return stacked.detach().numpy(), present


@lru_cache
def _positions(present: tuple[int, ...]) -> Any:
    return np.array(present, np.int64)


def write(values: Any, state: State) -> None:
    """What the kernel wrote into rows made by `rows`, back to the state's fields."""
    fields = [v for v in state if v is not None]
    if len(fields) > 1:
        for row, field in zip(values, fields, strict=True):
            field.copy_(torch.from_numpy(row))


def numbers(m: Membrane, u: Tensor) -> tuple[Any, ...]:
    """theta, b, zero, subtract, refractory - 1."""
    number = number_type(u.dtype)
    hold = number(max(m.refractory - 1, 0))
    return number(m.threshold), number(m.adaptation), m.reset == "zero", m.reset == "subtract", hold


_ONE = {torch.bfloat16: np.uint16(0x3F80), torch.float32: np.float32(1), torch.float64: np.float64(1)}


def one(x: Tensor) -> Any:
    """A spike, in x's dtype."""
    return _ONE[x.dtype]

"""Decay factors beta = exp(-dt / tau) of neurons: fixed or learned, one per layer or one per neuron."""

import math

import torch
from torch import Tensor, nn


def _at_least_float32(values: Tensor) -> Tensor:
    # exp(-1 / 20) in bfloat16 is the factor of 20.9 ms: a network in half precision keeps its factors in float32
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class Decay(nn.Module):
    """beta = exp(-dt / tau), in (0, 1) for every tau > 0.

    A fixed scalar tau stays a Python number, so that float64 networks get beta to the last bit. A learned one is
    stored as log(tau), which keeps tau positive under any optimiser; a fixed one per neuron is a buffer.

    Args:
        tau: time constant in ms; a number, or a tensor of shape `shape` for one value per neuron.
        dt: time step in ms.
        learn: whether the optimiser may change tau.
        shape: feature shape of the layer for one tau per neuron; None for one tau per layer.
        name: the name of the time constant in error messages.
    """

    log_tau: nn.Parameter | None
    taus: Tensor | None

    def __init__(
        self, tau: float | Tensor, dt: float, learn: bool, shape: tuple[int, ...] | None, name: str = "tau"
    ) -> None:
        super().__init__()
        if not dt > 0:
            raise ValueError(f"dt must be a positive number of ms, got {dt!r}")
        values = torch.as_tensor(tau, dtype=torch.get_default_dtype())
        if not bool(((values > 0) & values.isfinite()).all()):
            raise ValueError(f"{name} must be positive and finite (in ms), got {tau!r}; for no leak use {name}=1e9")
        if shape is not None:
            try:
                values = values.expand(shape).clone()
            except RuntimeError as error:
                raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {tuple(shape)}") from error
        elif values.ndim:
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} is one value per neuron: write shape={tuple(values.shape)} too"
            )
        self.dt = dt
        self.fixed = float(tau) if not learn and shape is None else None
        self.log_tau = nn.Parameter(values.log()) if learn else None
        self.register_buffer("taus", values if not learn and shape is not None else None)

    @property
    def tau(self) -> Tensor | float:
        """The time constant(s) in ms."""
        if self.log_tau is not None:
            return self._bounded_log_tau().exp()
        return self.taus if self.taus is not None else self.fixed  # type: ignore[return-value]  # one of the three is set

    def forward(self) -> Tensor | float:
        """beta: a number for a fixed scalar tau, else a tensor that carries gradient to log(tau)."""
        if self.fixed is not None:
            return math.exp(-self.dt / self.fixed)
        if self.taus is not None:
            return torch.exp(-self.dt / _at_least_float32(self.taus))
        # By way of 1 / tau: the derivative of dt / tau holds tau^2, which leaves float32's range first (0 * inf = NaN).
        return torch.exp(-self.dt * torch.exp(-self._bounded_log_tau()))

    def _bounded_log_tau(self) -> Tensor:
        # Beyond e^-80 ms and e^80 ms beta is 0 or 1 and its gradient 0; unbounded, exp would overflow and give NaN.
        assert self.log_tau is not None
        return _at_least_float32(self.log_tau).clamp(-80, 80)

    def extra_repr(self) -> str:
        return f"tau={self.fixed}" if self.fixed is not None else f"learned={self.log_tau is not None}"

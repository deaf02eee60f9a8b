"""Decay factors beta of neurons, fixed or learned, one per layer or one per neuron: by tau, or beta itself."""

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


class Factor(Decay):
    """beta itself, in [0, 1], for neurons that come from a program which keeps beta and not tau.

    exp(-dt / tau) with tau = -dt / log(beta) is not beta to the last bit, and with beta = 0 or 1 there is no tau. So a
    neuron that must equal one with a given beta holds this in the place of its `Decay`: `neuron.decay = Factor(0.95)`.
    A learned beta is the parameter itself, held to [0, 1] where it is used (the gradient is 0 beyond), not by log tau.

    Args:
        beta: a number, or a tensor that broadcasts against a time step (B, *N): one value, or one per neuron. A tensor
            keeps its dtype; a fixed single value becomes a Python number, which every dtype holds as well as it can.
        dt: time step in ms, for `tau` = -dt / log(beta) only.
        learn: whether the optimiser may change beta.
    Source: snnTorch's neurons, which clamp beta to [0, 1] at each step.
    """

    beta: Tensor | None

    def __init__(self, beta: float | Tensor, dt: float = 1.0, learn: bool = False) -> None:
        nn.Module.__init__(self)
        values = torch.as_tensor(beta, dtype=None if isinstance(beta, Tensor) else torch.get_default_dtype())
        if not values.is_floating_point() or not bool(values.isfinite().all()):
            raise ValueError(f"beta is the factor of one time step, a finite number in [0, 1], got {beta!r}")
        self.dt = dt
        single = values.numel() == 1 and not learn
        self.fixed = min(max(float(beta), 0.0), 1.0) if single else None
        self.log_tau, self.taus = None, None
        if learn:
            self.beta = nn.Parameter(values.detach().clone())
        else:
            self.register_buffer("beta", None if single else values.detach().clamp(0, 1))

    @property
    def tau(self) -> Tensor | float:
        """-dt / log(beta) in ms: 0 for beta = 0, infinite for beta = 1."""
        if self.fixed is None:
            return -self.dt / self.forward().log()  # type: ignore[union-attr]  # a tensor, where it is not fixed
        return -self.dt / math.log(self.fixed) if 0 < self.fixed < 1 else (0.0 if self.fixed == 0 else math.inf)

    def forward(self) -> Tensor | float:
        if self.fixed is not None:
            return self.fixed
        assert self.beta is not None
        beta = _at_least_float32(self.beta).clamp(0, 1)
        return beta.reshape(()) if beta.numel() == 1 else beta

    def extra_repr(self) -> str:
        return f"beta={self.fixed}" if self.fixed is not None else f"learned={isinstance(self.beta, nn.Parameter)}"

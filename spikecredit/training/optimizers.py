"""Optimisers and learning-rate schedules as configuration: torch.optim and `constraints.exponentiated` do the work."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.sgd import sgd

from spikecredit.constraints import EG, EGAdamW


class Optimizer(ABC):
    """Base class: the hyper-parameters of a `torch.optim` optimiser. `lr` is the rate before the schedule."""

    lr: float

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be a finite number above 0, got {self.lr!r}")

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""


@dataclass(frozen=True)
class Adam(Optimizer):
    """`torch.optim.Adam`; weight_decay is coupled (L2)."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr, self.betas, self.eps, self.weight_decay)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """`torch.optim.AdamW`; weight_decay is decoupled."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, self.lr, self.betas, self.eps, self.weight_decay)


@dataclass(frozen=True)
class SGD(Optimizer):
    """`torch.optim.SGD`; weight_decay is coupled (L2).

    Args:
        batch_manhattan: each gradient of a batch is replaced by its sign, -1, 0 or 1, before weight decay and momentum:
            without these every weight with a gradient moves by lr, whatever the gradient's size. Source: Liao, Leibo &
            Poggio 2016; the order is that of the code of Xiao et al. 2019 (read), which signs biases too.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    batch_manhattan: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum > 0:
            raise ValueError(f"nesterov: true needs a momentum above 0, got {self.momentum!r}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        kind = BatchManhattan if self.batch_manhattan else torch.optim.SGD
        return kind(parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov)


class BatchManhattan(torch.optim.SGD):
    """`torch.optim.SGD` on the signs of the gradients; `.grad` itself is left as it was.

    Does not call SGD's own `step`, which would run the hooks of `attach` a second time.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            options = {
                k: group[k] for k in ("foreach", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
            }
            moving = [p for p in group["params"] if p.grad is not None]
            velocities = [self.state[p].get("momentum_buffer") for p in moving]
            sgd(moving, [p.grad.sign() for p in moving], velocities, lr=group["lr"], **options)
            if group["momentum"]:
                for p, velocity in zip(moving, velocities, strict=True):
                    self.state[p]["momentum_buffer"] = velocity
        return loss


@dataclass(frozen=True)
class ExponentiatedGradient(Optimizer):
    """`spikecredit.EG`: synapses move by factors and never change sign; biases take the rate additive lr."""

    lr: float = 0.5
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    floor: float = 1e-8
    clamp: float = 1.0
    additive: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build([nn.Parameter(torch.zeros(1))])  # refuses what it cannot take

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return EG(
            parameters, self.lr, self.momentum, self.nesterov, self.weight_decay, self.floor, self.clamp, self.additive
        )


@dataclass(frozen=True)
class ExponentiatedAdamW(Optimizer):
    """`spikecredit.EGAdamW`: the same in the manner of AdamW; weight_decay is decoupled."""

    lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    floor: float = 1e-8
    clamp: float = 1.0
    additive: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build([nn.Parameter(torch.zeros(1))])

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return EGAdamW(
            parameters, self.lr, self.betas, self.eps, self.weight_decay, self.floor, self.clamp, self.additive
        )


class Schedule(ABC):
    """Base class: the learning rate as a pure function of the step, so that a resumed run has nothing to restore.

    factor = warm-up * shape; over the first `warmup` epochs the warm-up rises in equal steps from 1 / n to 1.
    """

    warmup: float

    def factor(self, step: int, steps: int, per_epoch: int) -> float:
        """What the base rate is multiplied with at a step (from 0) of a run of `steps`, `per_epoch` to an epoch."""
        warm = self.warmup * per_epoch
        rise = min(1.0, (step + 1) / warm) if warm > 0 else 1.0
        return rise * self.shape(step / max(1, steps), step / per_epoch)

    @abstractmethod
    def shape(self, progress: float, epoch: float) -> float:
        """The factor without warm-up at a fraction `progress` of the run, `epoch` epochs from its start."""


def _check_warmup(warmup: float) -> None:
    if warmup < 0:
        raise ValueError(f"warmup is a number of epochs >= 0, got {warmup!r}")


@dataclass(frozen=True)
class Flat(Schedule):
    """The base rate throughout."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)

    def shape(self, progress: float, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """floor + (1 - floor) (1 + cos(pi progress)) / 2, down to the fraction `floor` of the base rate."""

    warmup: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is a fraction of the base rate, 0 to 1; got {self.floor!r}")

    def shape(self, progress: float, epoch: float) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Step(Schedule):
    """The rate times `gamma` at each epoch in `milestones`."""

    milestones: tuple[int, ...] = (30, 60)
    gamma: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self.warmup)

    def shape(self, progress: float, epoch: float) -> float:
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam, "adamw": AdamW, "sgd": SGD, "eg": ExponentiatedGradient, "eg_adamw": ExponentiatedAdamW,
}  # fmt: skip
SCHEDULES: dict[str, type[Schedule]] = {"flat": Flat, "cosine": Cosine, "step": Step}

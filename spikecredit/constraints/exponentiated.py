"""Exponentiated gradient: synapses grow and shrink by factors, so that none ever changes its sign."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class _Multiplicative(torch.optim.Optimizer):
    """What both optimisers share: which tensors move by factors, and how far."""

    def __init__(self, params: Iterable[Any], lr: float, floor: float, clamp: float, additive: float, **own: Any):
        for name, value in (("lr", lr), ("floor", floor), ("clamp", clamp), ("additive", additive)):
            if not (math.isfinite(value) and (value > 0 or (value == 0 and name in ("lr", "additive")))):
                raise ValueError(
                    f"{name} must be a finite number{' above 0' * (name in ('floor', 'clamp'))}, got {value!r}"
                )
        super().__init__(params, {"lr": lr, "floor": floor, "clamp": clamp, "additive": additive, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch overloads it
        """One step; closure, if given, computes the loss and its gradients anew, and the loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        if p.ndim < 2:  # a bias, a time constant, a scale: no synapse, its sign is free
            p.add_(self.direction(p, p, group, group["lr"] * group["additive"]))
            return
        sign = p.sign()
        change = self.direction(p, sign, group, group["lr"]).mul_(sign)
        p.mul_(change.clamp_(-group["clamp"], group["clamp"]).exp_())
        floor = max(group["floor"], torch.finfo(p.dtype).tiny)
        p.copy_(torch.where(p.abs() < floor, sign.mul_(floor), p))

    @abstractmethod
    def direction(self, p: Tensor, toward: Tensor, group: dict[str, Any], lr: float) -> Tensor:
        """What plain descent would add to p, as a new tensor; `toward` is what weight decay pulls on."""


class EG(_Multiplicative):
    """Exponentiated gradient with momentum, an optimiser in the manner of `torch.optim.SGD`.

        W <- W exp(-lr sign(W) m),   m = momentum m + g,   g = dL/dW + weight_decay sign(W)

    |W| moves by factors. So no step changes a sign, under Dale's law none breaks it and nothing has to be projected,
    and weights that start log-normal stay so. One step of size lr changes log |W| by lr |dL/dW| whatever |W| is:
    learning rates do not carry over from SGD.

    Tensors with fewer than two dimensions (biases, time constants, scales of normalisation) are no synapses. They move
    by gradient descent with momentum, with the rate `additive` lr and weight_decay on themselves. (The published code
    moves everything by factors, and splits a bias into a positive and a negative part.)

    Args:
        params: parameters or groups, as in torch.
        lr: learning rate eta. momentum, nesterov, weight_decay: as in `torch.optim.SGD`.
        floor: smallest |W| that a step leaves, with W's sign. Without one float32 underflows to 0 after some thousand
            steps, and 0 has no sign and never moves again. The smallest normal number of the dtype where that is
            larger. A weight of exactly 0 stays 0.
        clamp: largest change of log |W| in one step: exp overflows at 89 in float32.
        additive: rate of tensors that are no synapses, as a share of lr.
    Errors:
        ValueError: a number out of its range.
    Source: Kivinen & Warmuth 1997; Cornford et al. 2024, whose code this agrees with (momentum, weight decay); floor
        and clamp are ours.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        floor: float = 1e-8,
        clamp: float = 1.0,
        additive: float = 0.1,
    ) -> None:
        if nesterov and not momentum > 0:
            raise ValueError(f"nesterov=True needs a momentum above 0, got {momentum!r}")
        own = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, lr, floor, clamp, additive, **own)

    def direction(self, p: Tensor, toward: Tensor, group: dict[str, Any], lr: float) -> Tensor:
        assert p.grad is not None
        g = p.grad.add(toward, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
        if group["momentum"]:
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(g)
            m = state["momentum_buffer"]
            g = g.add(m, alpha=group["momentum"]) if group["nesterov"] else m
        return g * -lr


class EGAdamW(_Multiplicative):
    """Exponentiated gradient in the manner of `torch.optim.AdamW`.

        W <- W (1 - lr weight_decay) exp(-lr sign(W) m' / (sqrt(v') + eps))

    with Adam's running means m of dL/dW and v of its square, and m', v' corrected for their start at 0. Args, and what
    moves otherwise, as in `EG`; betas and eps as in `torch.optim.AdamW`. While gradients keep their sign a step changes
    log |W| by lr, whatever their size.

    Source: Cornford et al. 2024, whose code this agrees with; floor and clamp are ours.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        floor: float = 1e-8,
        clamp: float = 1.0,
        additive: float = 0.1,
    ) -> None:
        own = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr, floor, clamp, additive, **own)

    def direction(self, p: Tensor, toward: Tensor, group: dict[str, Any], lr: float) -> Tensor:
        assert p.grad is not None
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(p.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        p.mul_(max(0.0, 1 - lr * group["weight_decay"]))
        root = square.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        return mean.div(root).mul_(-lr / (1 - beta1 ** state["step"]))

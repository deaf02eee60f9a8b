"""Time loops as single autograd nodes with the adjoint written out, in plain torch.

Forward performs the operations of the pure steps in their order, so that it equals them bit for bit; backward runs the
adjoint recursion backwards in time. Against autograd through the loop this saves the graph (about 10 nodes a step) and
keeps one tensor a sequence, the potential. `p` is the neuron's parameter record (beta, threshold, reset, ...).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _reduce(gradient: Tensor, like: Tensor) -> Tensor:
    return gradient.sum_to_size(like.shape) if gradient.shape != like.shape else gradient


def _beta_tensor(beta: Tensor | float) -> Tensor | None:
    return beta if isinstance(beta, Tensor) and beta.requires_grad else None


class _Leaky(torch.autograd.Function):
    """u[t] = beta u[t-1] + x[t]; adjoint g[t] = dL/du[t] + beta g[t+1], dL/dx = g, dL/dbeta = sum_t g[t] u[t-1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u0: Tensor, beta: Tensor | float, learned: Tensor | None) -> Tensor:
        u = torch.empty_like(x)
        previous = u0
        for x_t, u_t in zip(x, u, strict=True):
            torch.mul(previous, beta, out=u_t)
            u_t.add_(x_t)
            previous = u_t
        ctx.beta, ctx.learns = beta, learned is not None
        ctx.save_for_backward(*((u, u0) if learned is not None else ()))
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        beta = ctx.beta
        g = torch.empty_like(grad)
        carry = torch.zeros_like(grad[0])
        g_beta = torch.zeros_like(carry) if ctx.learns else None
        u, u0 = ctx.saved_tensors if ctx.learns else (None, None)
        for t in range(grad.shape[0] - 1, -1, -1):
            torch.add(grad[t], carry, out=g[t])
            if g_beta is not None and u is not None and u0 is not None:
                g_beta.addcmul_(g[t], u[t - 1] if t else u0)
            carry = g[t] * beta
        return g, carry, None, None if g_beta is None else _reduce(g_beta, beta)


def leaky_sequence(x: Tensor, u0: Tensor, beta: Tensor | float) -> Tensor:
    """Leaky integration u[t] = beta u[t-1] + x[t]; x (T, B, *N), u0 (B, *N); returns u (T, B, *N)."""
    fixed = beta.detach() if isinstance(beta, Tensor) else beta
    return _Leaky.apply(x, u0, fixed, _beta_tensor(beta))


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, u0: Tensor, wait: Tensor | None, p: Any, beta: Tensor | float, learned: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        u = torch.empty_like(x)
        s = torch.empty_like(x)
        held = torch.empty_like(x, dtype=torch.bool) if wait is not None else None
        previous = u0
        r = (u0 > p.threshold).to(x.dtype)
        for t, (x_t, u_t, s_t) in enumerate(zip(x, u, s, strict=True)):
            if p.reset == "zero":
                torch.mul((1 - r).mul_(previous), beta, out=u_t)
            else:
                torch.mul(previous, beta, out=u_t)
            u_t.add_(x_t)
            if p.reset == "subtract":
                u_t.sub_(r, alpha=p.threshold)
            if wait is not None and held is not None:
                torch.gt(wait, 0, out=held[t])
                torch.where(held[t], previous, u_t, out=u_t)
            torch.gt(u_t, p.threshold, out=s_t)
            r = s_t  # r[t+1] = H(u[t] - theta), which a held neuron keeps until its reset
            if wait is not None and held is not None:
                r = s_t.clone()
                s_t.masked_fill_(held[t], 0)
                wait = torch.where(s_t > 0, p.refractory - 1, (wait - 1).clamp_(min=0)).to(wait.dtype)
            previous = u_t
        ctx.save_for_backward(u, u0, held)
        ctx.p, ctx.beta, ctx.learns = p, beta, learned is not None
        ctx.set_materialize_grads(False)
        if wait is not None:
            ctx.mark_non_differentiable(wait)
        return s, u, wait

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_s: Tensor | None, grad_u: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """g[t] = dL/du[t] in total, backwards in time; psi[t] is the surrogate derivative at u[t] - theta.

        g[t] = dL/ds[t] psi[t] + dL/du[t] + J[t+1] g[t+1], with J[t+1] = du[t+1]/du[t]:
        beta (subtract, none) or beta (1 - r[t+1]) (zero); if the reset is not detached, minus theta psi[t] or
        beta u[t] psi[t]; 1 where step t+1 was held, and there dL/dx[t+1] = 0.
        """
        u, u0, held = ctx.saved_tensors
        p, beta = ctx.p, ctx.beta
        g_x = torch.empty_like(u)
        carry = torch.zeros_like(u0)
        g_beta = torch.zeros_like(u0) if ctx.learns else None
        psi_next: Tensor | None = None  # psi of the step in hand, computed as the previous potential of the step after
        for t in range(u.shape[0] - 1, -1, -1):
            g = carry
            if grad_s is not None:
                psi = psi_next if psi_next is not None else p.surrogate.derivative(u[t] - p.threshold)
                direct = psi * grad_s[t]
                g = g + (direct.masked_fill_(held[t], 0) if held is not None else direct)
            if grad_u is not None:
                g = g + grad_u[t]
            before = u[t - 1] if t else u0
            live = g if held is None else g.masked_fill(held[t], 0)
            g_x[t] = live
            if p.reset == "zero":
                kept = (before <= p.threshold).to(u.dtype)
                if g_beta is not None:
                    g_beta.addcmul_(live, before * kept)
                carry = live * kept * beta
            else:
                if g_beta is not None:
                    g_beta.addcmul_(live, before)
                carry = live * beta
            psi_next = None
            if not p.detach_reset and p.reset != "none":
                psi_next = p.surrogate.derivative(before - p.threshold)
                lost = before * beta if p.reset == "zero" else p.threshold
                carry = carry - live * psi_next * lost
            if held is not None:
                carry = torch.where(held[t], g, carry)
        return g_x, carry, None, None, None, None if g_beta is None else _reduce(g_beta, beta)


def lif_sequence(x: Tensor, u0: Tensor, wait: Tensor | None, p: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """The LIF equations of `lif_step` over a whole sequence.

    Args:
        x: (T, B, *N). u0: potential before the first step, (B, *N). wait: refractory steps to wait, (B, *N); None is 0.
        p: `LIFParameters`.
    Returns:
        spikes (T, B, *N), potentials (T, B, *N), refractory steps to wait after the last step.
    """
    if wait is None and p.refractory > 1:
        wait = torch.zeros_like(u0, dtype=torch.int32)
    fixed = p.beta.detach() if isinstance(p.beta, Tensor) else p.beta
    return _LIF.apply(x, u0, wait, p, fixed, _beta_tensor(p.beta))


class _ALIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        u0: Tensor,
        a0: Tensor,
        s0: Tensor,
        wait: Tensor | None,
        p: Any,
        beta: Tensor | float,
        rho: Tensor | float,
        learned_beta: Tensor | None,
        learned_rho: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        u, s = torch.empty_like(x), torch.empty_like(x)
        a = torch.empty_like(x)  # a[t], the adaptation with which step t compares
        held = torch.empty_like(x, dtype=torch.bool) if wait is not None else None
        r_all = torch.empty_like(x)  # r[t], the reset that step t applies
        previous, r, adaptation = u0, s0, a0
        for t in range(x.shape[0]):
            u_t, s_t = u[t], s[t]
            a[t].copy_(adaptation)
            r_all[t].copy_(r)
            if p.reset == "zero":
                torch.mul((1 - r).mul_(previous), beta, out=u_t)
            else:
                torch.mul(previous, beta, out=u_t)
            u_t.add_(x[t])
            if p.reset == "subtract":
                u_t.sub_(r, alpha=p.threshold)
            if wait is not None and held is not None:
                torch.gt(wait, 0, out=held[t])
                torch.where(held[t], previous, u_t, out=u_t)
            torch.gt(u_t, adaptation * p.adaptation + p.threshold, out=s_t)
            if wait is not None and held is not None:
                s_t.masked_fill_(held[t], 0)
                r = torch.where(held[t], r, s_t)  # a pending reset waits until the neuron is free
                wait = torch.where(s_t > 0, p.refractory - 1, (wait - 1).clamp_(min=0)).to(wait.dtype)
            else:
                r = s_t
            adaptation = adaptation * rho + s_t
            previous = u_t
        ctx.save_for_backward(u, u0, a, r_all, held)
        ctx.p, ctx.beta, ctx.rho = p, beta, rho
        ctx.learns = (learned_beta is not None, learned_rho is not None)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in (wait,) if t is not None))
        return s, u, adaptation, r.clone(), wait  # a view of s may not be an output of its own

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_s: Tensor | None,
        grad_u: Tensor | None,
        grad_a: Tensor | None,
        grad_r: Tensor | None,
        _: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Backwards in time with three adjoints: g of u[t], h of a[t+1], k of the pending reset r[t+1].

        total[t] = dL/ds[t] + h[t+1] + k[t+1];  g[t] = total[t] psi[t] + dL/du[t] + J[t+1] g[t+1];
        h[t] = rho h[t+1] - b total[t] psi[t];  k[t] = -theta g[t] (subtract) or -beta u[t-1] g[t] (zero), 0 if
        detached.
        """
        u, u0, a, r_all, held = ctx.saved_tensors
        p, beta, rho = ctx.p, ctx.beta, ctx.rho
        zeros = torch.zeros_like(u0)
        g_x = torch.empty_like(u)
        carry, h = zeros, zeros if grad_a is None else grad_a
        k = zeros if grad_r is None else grad_r  # the reset handed out carries gradient; one used here may be detached
        g_beta = zeros.clone() if ctx.learns[0] else None
        g_rho = zeros.clone() if ctx.learns[1] else None
        for t in range(u.shape[0] - 1, -1, -1):
            before = u[t - 1] if t else u0
            total = h + k
            # handed on unchanged while held
            pending = None if held is None or p.detach_reset else k.masked_fill(~held[t], 0)
            if grad_s is not None:
                total = total + grad_s[t]
            psi = p.surrogate.derivative(u[t] - (a[t] * p.adaptation + p.threshold))
            through = psi * total
            if held is not None:
                through.masked_fill_(held[t], 0)
            g = carry + through
            if grad_u is not None:
                g = g + grad_u[t]
            live = g if held is None else g.masked_fill(held[t], 0)
            g_x[t] = live
            if g_rho is not None:
                g_rho.addcmul_(h, a[t])
            h = h * rho - through * p.adaptation
            kept = 1 - r_all[t] if p.reset == "zero" else None
            source = before if kept is None else before * kept
            if g_beta is not None:
                g_beta.addcmul_(live, source)
            carry = live * beta if kept is None else live * kept * beta
            k = zeros
            if not p.detach_reset and p.reset != "none":
                k = -live * (before * beta if p.reset == "zero" else p.threshold)
            if held is not None:
                carry = torch.where(held[t], g, carry)
            if pending is not None:
                k = k + pending
        grad_s0 = None if p.detach_reset else k
        return (
            g_x, carry, h, grad_s0, None, None, None, None,
            None if g_beta is None else _reduce(g_beta, beta),
            None if g_rho is None else _reduce(g_rho, rho),
        )  # fmt: skip


def alif_sequence(
    x: Tensor, u0: Tensor, a0: Tensor, s0: Tensor, wait: Tensor | None, p: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The adaptive LIF equations of `alif_step` over a whole sequence.

    Args:
        x: (T, B, *N). u0, a0, s0, wait: the fields of `ALIFState` before the first step.
        p: `ALIFParameters`.
    Returns:
        spikes (T, B, *N), potentials (T, B, *N), and adaptation, pending reset and refractory wait after the last step.
    """
    if wait is None and p.refractory > 1:
        wait = torch.zeros_like(u0, dtype=torch.int32)
    beta = p.beta.detach() if isinstance(p.beta, Tensor) else p.beta
    rho = p.rho.detach() if isinstance(p.rho, Tensor) else p.rho
    return _ALIF.apply(x, u0, a0, s0, wait, p, beta, rho, _beta_tensor(p.beta), _beta_tensor(p.rho))

"""Products of dense layers with spikes that count the events: a row of W is read only where there is a spike.

y = x W^T needs out additions for each entry of x that is not zero, against in * out for the dense product of a row.
Below `DENSITY` that is faster on a CPU in float32, although the dense product runs at the processor's peak
(`python -m benchmarks.events`). The sums run in another order than a matrix product's: results differ by rounding.

Entries of x that are zero add nothing, where a dense product would add 0 * inf = NaN for a weight that is infinite.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

DENSITY = 0.25
"""Above this share of events the dense product is the faster one (benchmarks/results/events-cpu.json)."""

LEAST = 64
"""Rows, inputs and outputs of the smallest product for which counting pays."""

SAMPLE = 64
"""Rows that are looked at to estimate the density."""

CHUNK = 1600
"""Rows of the error that one pass of the weight gradient runs through, so that they stay in the caches."""


def sparse(x: Tensor, weight: Tensor) -> bool:
    """Whether x (..., in) has so few events that the product with W (out, in) is faster by events than dense.

    A function of the values alone, so that a run repeats itself; float32 on the CPU only, outside compiled programs.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    rows = x.numel() // max(1, x.shape[-1])
    if x.dtype != torch.float32 or weight.dtype != x.dtype or min(rows, *weight.shape) < LEAST or _kernel() is None:
        return False
    sample = x.detach().reshape(rows, -1)[:: max(1, rows // SAMPLE)]
    return int(torch.count_nonzero(sample)) < DENSITY * sample.numel()


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b by events; x (..., in), W (out, in), b (out,) -> (..., out). No autograd."""
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    shape = (len(rows), len(weight))
    y = x.new_zeros(shape) if bias is None else bias.detach().expand(shape).contiguous()
    _kernel().gather(rows, weight.detach().t().contiguous(), y)
    return y.unflatten(0, x.shape[:-1])


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """dL/dW = grad^T x by events; grad (N, out), x (N, in) -> (out, in). No autograd."""
    grad, total = grad.contiguous(), x.new_zeros(x.shape[1], grad.shape[1])
    for start in range(0, len(x), CHUNK):
        _kernel().gather(x[start : start + CHUNK].t().contiguous(), grad[start : start + CHUNK], total)
    return total.t()


class EventLinear(torch.autograd.Function):
    """y = x W^T + b by events; dL/dx = dL/dy W, dense. Twice differentiable, as the dense layer is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat, rows, g_weight = grad.flatten(0, -2), x.flatten(0, -2), None
        if needs_weight:  # with create_graph=True by torch's own product, which can be differentiated again
            g_weight = flat.t().mm(rows) if torch.is_grad_enabled() else weight_gradient(flat, rows)
        return grad.matmul(weight) if needs_x else None, g_weight, flat.sum(0) if needs_bias else None


@cache
def _kernel() -> Any:
    """The compiled loops, or None without numba: the dense product then serves (a backend's log line says why)."""
    try:
        from spikecredit.synapses import events_cpu
    except ImportError:
        return None
    return events_cpu

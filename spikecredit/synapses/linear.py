"""The dense layer, with a feedback pathway of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spikecredit.constraints import Constraint
from spikecredit.pathways import Pathway
from spikecredit.synapses import events
from spikecredit.synapses.synapse import Synapse, cast_for_autocast


class _FeedbackLinear(torch.autograd.Function):
    """y = x W^T + b; dL/dx = dL/dy B, dL/dW = dL/dy^T x, dL/db = sum dL/dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor) -> Tensor:
        y, ctx.way, kept = events.product(x, weight, bias, events.way(x, weight))
        ctx.save_for_backward(kept, feedback)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, feedback = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        flat, g_weight = grad.flatten(0, -2), None
        if needs_weight:
            g_weight = events.weight_gradient(flat, kept, feedback.shape[1], ctx.way)
        return (
            grad.matmul(feedback) if needs_x else None,
            g_weight,
            flat.sum(0) if needs_bias else None,
            None,
        )


class Linear(Synapse, nn.Linear):
    """y = x W^T + b over the last dimension; the error returns as delta B instead of delta W.

    Args:
        in_features, out_features, bias: as in `torch.nn.Linear`, whose initialisation it keeps.
        pathway, constraint: this layer's own; None for its network's.
    Shapes:
        x (..., in_features) -> (..., out_features), any number of leading dimensions; W and B (out, in).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        pathway: Pathway | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        self.set_up(pathway, constraint)

    def forward(self, x: Tensor) -> Tensor:
        self.check_source(x)
        carried = self.pathway.carry(x, self)
        return self.add_local_loss(self.apply_weights(carried, self.tied_weight(), self.feedback(carried)), x)

    def apply_weights(self, x: Tensor, weight: Tensor, feedback: Tensor | None) -> Tensor:
        """The layer with W and B already made, for use step by step within one sequence."""
        if self.training:
            self.check_projected()
        return self.product(x, weight, self.bias, feedback)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor | None) -> Tensor:
        """x W^T + b, whose error returns through B; through W where that is None."""
        if feedback is None:
            way = events.way(x, weight)
            if way == "dense":
                return F.linear(x, weight, bias)
            weight, bias = cast_for_autocast("cpu", weight, bias)  # type: ignore[assignment]  # no None comes back for a tensor
            return events.linear(x, weight, bias, way)
        if x.ndim == 1:
            return self.product(x[None], weight, bias, feedback)[0]
        return _FeedbackLinear.apply(*cast_for_autocast(x.device.type, x, weight, bias, feedback))

    def fold(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.in_features)

    def through(self, x: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(x, matrix)

    def noise_shape(self, samples: int, side: int) -> tuple[int, ...]:
        return samples, self.in_features

    def respond(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight(), self.bias)

    def correlate(self, y: Tensor, x: Tensor) -> Tensor:
        return y.t().mm(x) / len(x)

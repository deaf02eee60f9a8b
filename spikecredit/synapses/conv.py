"""The convolution, with a feedback pathway of its own."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spikecredit.constraints import Constraint
from spikecredit.pathways import Pathway
from spikecredit.synapses import conv_events
from spikecredit.synapses.conv_events import Geometry, Pair
from spikecredit.synapses.synapse import Synapse, cast_for_autocast


class _FeedbackConv2d(torch.autograd.Function):
    """y = conv(x, W) + b; dL/dx = conv_transpose(dL/dy, B), the gradients of W and b as ever."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        feedback: Tensor,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, feedback)
        ctx.geometry = geometry = stride, padding, dilation, groups
        y, ctx.way = conv_events.convolution(x, weight, bias, geometry, conv_events.way(x, weight, geometry))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *conv_events.gradients(grad, x, feedback, ctx.geometry, wanted, ctx.way), *[None] * 5


class Conv2d(Synapse, nn.Conv2d):
    """2-D convolution whose error returns through B instead of W.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            `torch.nn.Conv2d`, whose initialisation it keeps; padding may be "same" or "valid".
        pathway, constraint: this layer's own; None for its network's.
    Shapes:
        x (..., C_in, H, W) -> (..., C_out, H', W'), any number of leading dimensions;
        W and B (C_out, C_in / groups, kh, kw).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        pathway: Pathway | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        self.set_up(pathway, constraint)

    @property
    def fan_out(self) -> int:
        return self.weight.shape[0] // self.groups * self.weight[0, 0].numel()

    @property
    def units(self) -> tuple[int, int]:
        return self.in_channels, self.out_channels

    def lay_out(self, signs: Tensor, axis: int) -> Tensor:
        if axis == 0:
            return signs.view(-1, 1, 1, 1)
        # Input channel g * (C_in / groups) + i is column i of every output channel of group g.
        per_group = signs.view(self.groups, 1, -1, 1, 1)
        # Contiguous, for `load_state_dict` copies into it: an expanded view cannot be written to.
        return per_group.expand(-1, self.out_channels // self.groups, -1, -1, -1).flatten(0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        images, weight, feedback = self.operands(x)
        y = self.product(images, weight, self.bias, feedback)
        return self.add_local_loss(y.reshape(*x.shape[:-3], *y.shape[1:]), x)

    def product(self, images: Tensor, weight: Tensor, bias: Tensor | None, feedback: Tensor | None) -> Tensor:
        """conv(images, W) + b, whose error returns through B; through W where that is None."""
        images, geometry = self.pad(images)
        if feedback is None:
            if conv_events.way(images, weight, geometry) == "dense":
                return F.conv2d(images, weight, bias, *geometry)
            return conv_events.SpikeConv2d.apply(images, weight, bias, geometry)
        cast = cast_for_autocast(images.device.type, images, weight, bias, feedback)
        return _FeedbackConv2d.apply(*cast, *geometry)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """x with its leading dimensions folded into one, the effective W, and B; None for B where it is W."""
        if x.ndim < 3 or x.shape[-3] != self.in_channels:
            raise ValueError(f"{type(self).__name__} takes (..., {self.in_channels}, H, W), got {tuple(x.shape)}")
        self.check_source(x)
        if self.training:
            self.check_projected()
        x = self.pathway.carry(x, self)
        return x.reshape(-1, *x.shape[-3:]), self.tied_weight(), self.feedback(x)

    def pad(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """x with the padding that a symmetric pair of numbers cannot say, and the geometry that remains."""
        x, padding = self._padded(x)
        return x, (self.stride, padding, self.dilation, self.groups)  # type: ignore[return-value]  # nn.Conv2d made them pairs

    def fold(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *x.shape[-3:])

    def through(self, x: Tensor, matrix: Tensor) -> Tensor:
        images, geometry = self.pad(x)
        return F.conv2d(images, matrix, None, *geometry)

    def noise_shape(self, samples: int, side: int) -> tuple[int, ...]:
        windows = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        return samples, self.in_channels, *((side - 1) * s + d * (k - 1) + 1 for k, s, d in windows)

    def respond(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective_weight(), self.bias, self.stride, 0, self.dilation, self.groups)

    def correlate(self, y: Tensor, x: Tensor) -> Tensor:
        geometry: Any = self.stride, (0, 0), self.dilation, self.groups
        total = conv_events.gradients(y, x, self.weight, geometry, (False, True, False))[1]
        assert total is not None
        return total / y[:, 0].numel()

    def _padded(self, x: Tensor) -> tuple[Tensor, Pair]:
        """x with the padding that a symmetric pair of numbers cannot say, and the pair that remains."""
        if self.padding_mode != "zeros":
            return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0)
        if self.padding == "valid":
            return x, (0, 0)
        if self.padding != "same":
            return x, self.padding  # type: ignore[return-value]  # nn.Conv2d made it a pair
        left_right = self._reversed_padding_repeated_twice  # (w left, w right, h top, h bottom)
        if left_right[0] == left_right[1] and left_right[2] == left_right[3]:
            return x, (left_right[2], left_right[0])
        return F.pad(x, left_right), (0, 0)

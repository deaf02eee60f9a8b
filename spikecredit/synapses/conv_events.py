"""Convolutions of spikes by the tables of `events.py`: a product of W with patches of x, whose entries are 0 or 1.

The sums run in another order than a convolution's: results differ by rounding. The error's way back to x is dense.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.neurons.kernels import donated
from spikecredit.synapses import events
from spikecredit.synapses.events import Way

Pair = tuple[int, int]
Geometry = tuple[Pair, Pair, Pair, int]  # stride, padding, dilation, groups

CHANNELS = 12
"""Channels of the smallest input: tables are of four at a time."""


def way(x: Tensor, weight: Tensor, geometry: Geometry) -> Way:
    """The fastest way to the convolution of x (N, C, H, W) with W: by tables where all is 0 or 1, dense otherwise.

    A function of the values alone, as `events.way`.
    """
    if (
        events.multiplied(x, weight) != torch.float32  # in bfloat16 they take as long as dense ones
        or geometry[3] != 1
        or x.shape[1] < CHANNELS
        or len(weight) < events.TILE
    ):
        return "dense"
    rows, columns = plane(x, weight, geometry)
    least, work = events.LEAST["tables"]
    positions = len(x) * rows * columns
    if positions < least or positions * weight.numel() < work:
        return "dense"
    return "tables" if events.all_spikes(sample(x)) else "dense"


def sample(x: Tensor) -> Tensor:
    """Some lines of some images of x (N, C, H, W), a row for each image."""
    return x.detach()[:: max(1, len(x) // 8), :, :: max(1, x.shape[2] // 8)].flatten(1).contiguous()


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, way: Way = "dense"
) -> tuple[Tensor, Way]:
    """conv(x, W) + b in the layout that torch would give it. No autograd by tables.

    Returns:
        the convolution, and the way it took: dense where tables were asked for and some entry is neither 0 nor 1.
    """
    stride, padding, dilation, _ = geometry
    if way == "tables":
        tables, size = events.kernels()[1], plane(x, weight, geometry)
        codes = tables.code_patches(x, tuple(weight.shape[2:]), stride, padding, dilation, size)
        if codes is not None:
            y = tables.product(codes, tables.weight_rows(weight.flatten(2)), bias, weight.dtype)
            y = y.view(len(x), *size, len(weight)).permute(0, 3, 1, 2)
            return y if is_channels_last(x) or is_channels_last(weight) else y.contiguous(), way
    return F.conv2d(x, weight, bias, *geometry), "dense"


def weight_gradient(grad: Tensor, x: Tensor, size: Pair, geometry: Geometry) -> Tensor:
    """dL/dW of a convolution of spikes, by tables; grad (N, C', H', W'), x (N, C, H, W) of 0 and 1, a kernel of `size`.
    No autograd."""
    stride, padding, dilation, _ = geometry
    tables, channels = events.kernels()[1], x.shape[1]
    codes = tables.transposed(tables.code_patches(x, size, stride, padding, dilation, tuple(grad.shape[2:])))
    total = tables.product(codes, grad.detach().permute(0, 2, 3, 1).flatten(0, 2).contiguous())
    weight: Tensor = tables.weight_from_rows(total, channels, size[0] * size[1])
    return weight.unflatten(1, size).permute(0, 3, 1, 2)


def gradients(
    grad: Tensor, x: Tensor, feedback: Tensor, geometry: Geometry, wanted: tuple[bool, ...], way: Way = "dense"
) -> tuple[Tensor | None, ...]:
    """dL/dx = conv_transpose(grad, feedback), dL/dW and dL/db of a convolution; None for what is not wanted.

    The dense ones come from one call, since the weight gradient of a convolution does not depend on the weight.
    """
    if way == "tables" and wanted[1] and not donated.is_batched(grad):
        g_x, _, g_bias = gradients(grad, x, feedback, geometry, (wanted[0], False, wanted[2]))
        return g_x, weight_gradient(grad, x, (feedback.shape[2], feedback.shape[3]), geometry), g_bias
    stride, padding, dilation, groups = geometry
    bias_sizes, transposed, output_padding = [feedback.shape[0]], False, [0, 0]
    return torch.ops.aten.convolution_backward(
        grad, x, feedback, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, list(wanted)
    )


class SpikeConv2d(torch.autograd.Function):
    """y = conv(x, W) + b by tables; the gradients of an ordinary convolution. Twice differentiable, as that is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        y, ctx.way = convolution(x, weight, bias, geometry, "tables")
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # with create_graph=True by torch's own operator, which can be differentiated again
        way: Way = "dense" if torch.is_grad_enabled() else ctx.way
        return *gradients(grad, x, weight, ctx.geometry, ctx.needs_input_grad[:3], way), None


def plane(x: Tensor, weight: Tensor, geometry: Geometry) -> Pair:
    """Height and width of the convolution's output."""
    sizes = zip(x.shape[2:], weight.shape[2:], *geometry[:3], strict=True)
    rows, columns = [(size + 2 * p - d * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, p, d in sizes]
    return rows, columns


def is_channels_last(x: Tensor) -> bool:
    """Whether torch takes x for channels last: its rule for the strides, which also decides where sizes are 1.

    Source: c10/core/MemoryFormat.h, is_channels_last_strides_2d_s4.
    """
    least, strides = 0, x.stride()
    if strides[1] == 0:
        return False
    for axis in (1, 3, 2, 0):
        if x.shape[axis] == 0 or strides[axis] < least or (axis == 0 and least == strides[1]):
            return False
        least = strides[axis] * x.shape[axis]
    return True

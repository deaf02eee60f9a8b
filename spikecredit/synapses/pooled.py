"""A convolution and the pooling after it, a few images at a time: the same numbers in less memory and less time.

The output of a convolution on [T B] images is the largest tensor of a convolutional network. Made whole, its pages are
mapped and zeroed anew at every training step, and autograd keeps it for the backward pass of the pooling. Here it
exists for one chunk of images at a time, and neither pass keeps it.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spikecredit.synapses import conv_events, events
from spikecredit.synapses.conv import Conv2d
from spikecredit.synapses.conv_events import Geometry, is_channels_last, plane
from spikecredit.synapses.pool import AvgPool2d, MaxPool2d
from spikecredit.synapses.synapse import cast_for_autocast, is_watched

aten = torch.ops.aten

CHUNK = 8 * 2**20
"""Bytes of the convolution's output in one chunk. Measured on LeNet and VGG layers with 2 threads: within 8 % of the
best of 2 to 24 MiB, except in a first layer of 64 channels in bf16, where 2 MiB take 15 to 21 % less time."""

WEIGHTS_PER_CHUNK = 2
"""A chunk's output is at least so many times as large as the weight, which every chunk reads and whose gradient it
writes. Measured on 512 -> 512 channels of 4x4 pixels: 9 to 26 % slower at 0.4 times the weight, no slower at 1.8."""

FEWER = 3.5
"""Outputs of the convolution for each of the pooling, from which on the error goes back as events."""

ROW = 16
"""Numbers in a row of the kernel, channels included, from which on it does: they are summed by so many."""

EVENTS = 8
"""Outputs of the pooling in one plane, from which on it does: so many events share what is read for a channel."""

CODED, FEW = 1 << 19, 4
"""Outputs of a first layer on spikes, over all images, from which on its rows of bits are coded, and channels up to
which they are (`python -m benchmarks.events`)."""

SUMS = 1 << 16
"""Bytes of the tables that its codes name, for 16 outputs, at most: twice a first-level cache."""

INDEX_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


def fusable(conv: nn.Module, pool: nn.Module) -> bool:
    """Whether `conv_pool(conv, pool, x)` may stand for `pool(conv(x))`.

    It may not where somebody looks at what passes between the two (hooks, a loss of the layer's own), where either is
    of a type that computes something else, where torch compiles or transforms the code, which it does better with the
    parts, and on devices other than a CPU, whose allocators map no pages and for which no chunk was measured.
    """
    return (
        type(conv) is Conv2d
        and type(pool) in (MaxPool2d, AvgPool2d)
        and not getattr(pool, "return_indices", False)
        and not conv.pathway.local
        and conv.weight.device.type == "cpu"
        and not is_watched(conv, pool)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def conv_pool(conv: Conv2d, pool: MaxPool2d | AvgPool2d, x: Tensor) -> Tensor:
    """pool(conv(x)) as one node of autograd, in chunks of images; the error returns through B as from `conv`.

    On a CPU each chunk is computed with the channels innermost, whatever the layout of x: there max-pooling
    takes an eighth of the time (float32). What comes out has the layout that pool(conv(x)) would have. It can be
    differentiated once.

    Args:
        x: (..., C_in, H, W), any number of leading dimensions.
    Returns:
        (..., C_out, H', W')
    Raises:
        ValueError: `pool` returns indices, or x does not fit `conv`.
    """
    if isinstance(pool, MaxPool2d) and pool.return_indices:
        raise ValueError("conv_pool returns no indices; call pool(conv(x)), or MaxPool2d without return_indices")
    images, weight, feedback = conv.operands(x)
    images, geometry = conv.pad(images)
    y = _ConvPool.apply(images, weight, conv.bias, feedback, geometry, Pooling.of(pool), torch.is_grad_enabled())
    return y.reshape(*x.shape[:-3], *y.shape[1:])


@dataclass(frozen=True)
class Pooling:
    """A pooling operator: which, and its arguments after the input, in torch's order."""

    maximum: bool
    arguments: tuple[Any, ...]

    @classmethod
    def of(cls, pool: MaxPool2d | AvgPool2d) -> "Pooling":
        window = pool.kernel_size, pool.stride, pool.padding
        if isinstance(pool, MaxPool2d):
            return cls(True, (*window, pool.dilation, pool.ceil_mode))
        return cls(False, (*window, pool.ceil_mode, pool.count_include_pad, pool.divisor_override))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """The pooled y; for a maximum, also where in its plane of y each comes from, as int64."""
        if self.maximum:
            return aten.max_pool2d_with_indices(y, *self.arguments)
        return aten.avg_pool2d(y, *self.arguments), None

    def into(self, y: Tensor, pooled: Tensor, at: Tensor | None) -> None:
        """`forward`, written into `pooled` and `at`, which may be None or of smaller integers."""
        loops = _maxima_kernels() if self.maximum and self._is_compiled(y) else None
        if loops is None:
            result, places = self.forward(y)
            pooled.copy_(result)
            if at is not None and places is not None:
                at.copy_(places)
            return
        result = pooled if _is_innermost(pooled) else torch.empty_like(pooled, memory_format=torch.channels_last)
        loops.maxima(y, self.window(), result, at)
        if result is not pooled:
            pooled.copy_(result)

    def window(self) -> Any:
        """Kernel, stride and padding, each a pair."""
        return tuple((v, v) if isinstance(v, int) else tuple(v) for v in self.arguments[:3])

    def is_dilated(self) -> bool:
        """Whether a maximum's window has gaps."""
        return self.maximum and self.arguments[3] not in (1, (1, 1))

    def _is_compiled(self, y: Tensor) -> bool:
        """Whether there are loops for maxima of this y, channels innermost."""
        plain = not self.is_dilated() and y.dtype in (torch.float32, torch.bfloat16)
        return plain and math.prod(y.shape[2:]) < 2**31 and _is_innermost(y)

    def backward(self, grad: Tensor, indices: Tensor | None, g_y: Tensor) -> None:
        """Write dL/dy into g_y, which also stands for y: the operators ask y for its shape and layout only."""
        if indices is None:
            aten.avg_pool2d_backward.grad_input(grad, g_y, *self.arguments, grad_input=g_y)
        else:
            aten.max_pool2d_with_indices_backward.grad_input(grad, g_y, *self.arguments, indices.long(), grad_input=g_y)


class _ConvPool(torch.autograd.Function):
    """pool(conv(x, W) + b) with the gradients of `_FeedbackConv2d`; no feedback stands for B = W.

    Autograd keeps x, B and the indices of the maxima. Gradients of W and b are summed in float32 at least.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        feedback: Tensor | None,
        geometry: Geometry,
        pooling: Pooling,
        differentiable: bool,
    ) -> Tensor:
        device = x.device.type
        weight, bias, feedback = cast_for_autocast(device, weight, bias, weight if feedback is None else feedback)  # type: ignore[assignment]  # no None comes back for a tensor
        dtype = cast_for_autocast(device, x[:0])[0].dtype  # type: ignore[union-attr]
        channels_last = device == "cpu" and weight.dtype != torch.float64 and _is_ordinary(x, weight, geometry)
        as_computed = not channels_last or is_channels_last(x) or is_channels_last(weight)
        kernel = _channels_last(weight) if channels_last else weight
        size = _chunk_size(x, weight, geometry)
        indices, way = None, conv_events.way(x, weight, geometry) if channels_last else "dense"
        coded = _coded(x, weight, geometry, pooling) if channels_last and not ctx.needs_input_grad[0] else None
        ctx.coded, chunks = False, _chunks(len(x), size)
        if coded is not None:  # one image tells shapes and layouts
            chunks = [slice(0, 1), *chunks]
        for rows in chunks:
            y, way = conv_events.convolution(_images(x, rows, dtype, channels_last), kernel, bias, geometry, way)
            if rows is chunks[0]:
                pooled, at = pooling.forward(y[:1])  # for the shapes and layouts
                out = _like(pooled, len(x)) if as_computed else pooled.new_empty(len(x), *pooled.shape[1:])
                if at is not None and differentiable and any(ctx.needs_input_grad):
                    indices = _like(at, len(x), _index_type(y.shape[2] * y.shape[3]))
                ctx.shape, ctx.strides, ctx.pooled = y.shape[1:], y.stride(), pooled.shape[2:]
                layer = weight, bias, geometry, pooling.window(), (y.shape[2], y.shape[3])
                if coded is not None and _maxima_by_codes(coded, x, layer, chunks[1:], out, indices):
                    ctx.coded = True
                    break
            pooling.into(y, out[rows], None if indices is None else indices[rows])
        ctx.save_for_backward(x, feedback, indices)
        ctx.size, ctx.geometry, ctx.pooling, ctx.channels_last, ctx.way = size, geometry, pooling, channels_last, way
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, feedback, indices = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        g_x = torch.empty_like(x) if wanted[0] else None
        g_weight = g_bias = None
        if ctx.coded:
            size = feedback.shape[2], feedback.shape[3]
            if wanted[1]:
                window, plane = ctx.pooling.window(), tuple(ctx.shape[1:])
                g_weight = coded_kernels().weight_gradient(grad, indices, x, size, ctx.geometry, window, plane)
            if wanted[2]:
                g_bias = grad.sum((0, 2, 3), dtype=torch.float32)
            return None, g_weight, g_bias, None, None, None, None
        loops = _by_events(ctx, feedback)
        if loops is not None:
            feedback = feedback.float()
        kernel = _channels_last(feedback) if ctx.channels_last else feedback
        scratch = feedback.new_empty_strided((0 if loops else min(ctx.size, len(x)), *ctx.shape), ctx.strides)
        for rows in _chunks(len(x), ctx.size):
            images, at = _images(x, rows, feedback.dtype, ctx.channels_last), None if indices is None else indices[rows]
            if loops is not None:
                direct = g_x is not None and g_x.dtype == images.dtype and is_channels_last(g_x)
                g_images = None if g_x is None else g_x[rows] if direct else torch.empty_like(images)
                g_w, g_b = loops.gradients(
                    grad[rows].float(), at, images, kernel, ctx.geometry, tuple(ctx.shape[1:]), wanted, g_images
                )
            else:
                g_y = scratch[: len(images)]
                ctx.pooling.backward(grad[rows], at, g_y)
                g_images, g_w, g_b = conv_events.gradients(g_y, images, kernel, ctx.geometry, wanted, ctx.way)
            if g_x is not None and g_images is not None and g_images.data_ptr() != g_x[rows].data_ptr():
                g_x[rows] = g_images
            g_weight, g_bias = _plus(g_weight, g_w), _plus(g_bias, g_b)
        return g_x, g_weight, g_bias, None, None, None, None


def _coded(x: Tensor, weight: Tensor, geometry: Geometry, pooling: Pooling) -> Any:
    """The compiled loops for the maxima of a first layer on spikes, where they are faster; None elsewhere."""
    _, channels, rows, columns = weight.shape
    if not pooling.maximum or pooling.is_dilated() or geometry[3] != 1 or geometry[2][1] != 1:
        return None
    if channels > FEW or columns > 8:
        return None
    known = (torch.float32, torch.bfloat16)
    if x.dtype not in known or weight.dtype not in known or channels * rows * 2**columns * 64 > SUMS:
        return None
    if len(x) * len(weight) * math.prod(plane(x, weight, geometry)) < CODED:
        return None
    loops = coded_kernels()
    return loops if loops is not None and events.all_spikes(conv_events.sample(x)) else None


def _maxima_by_codes(
    loops: Any, x: Tensor, layer: tuple[Any, ...], chunks: list[slice], out: Tensor, at: Tensor | None
) -> bool:
    """`coded_cpu.maxima` into `out` of any layout; False if some entry of x is no spike."""
    if _is_innermost(out):
        chunks = [slice(None)]
    for rows in chunks:
        result = out[rows]
        if not _is_innermost(out):
            result = torch.empty_like(result, memory_format=torch.channels_last)
        if not loops.maxima(x[rows], *layer, result, None if at is None else at[rows]):
            return False
        if not _is_innermost(out):
            out[rows] = result
    return True


def _by_events(ctx: Any, feedback: Tensor) -> Any:
    """The compiled loops that take the error of a maximum as events, where they are faster; None elsewhere."""
    _, _, dilation, groups = ctx.geometry
    if not (ctx.pooling.maximum and ctx.channels_last and groups == 1 and dilation[1] == 1):
        return None
    if ctx.pooling.is_dilated():  # such a window may lie beside the plane, and its place too
        return None
    outputs, row = math.prod(ctx.pooled), feedback.shape[1] * feedback.shape[3]
    if outputs < EVENTS or math.prod(ctx.shape[1:]) < FEWER * outputs or row < ROW:
        return None
    return kernels() if feedback.dtype == torch.float32 or events.is_slow(feedback.dtype) else None


@cache
def kernels() -> Any:
    """None without numba: the dense gradients then serve (a backend's log line says why)."""
    try:
        from spikecredit.synapses import pooled_cpu
    except ImportError:
        return None
    return pooled_cpu


@cache
def coded_kernels() -> Any:
    """None without numba."""
    try:
        from spikecredit.synapses import coded_cpu
    except ImportError:
        return None
    return coded_cpu


@cache
def _maxima_kernels() -> Any:
    """None without numba: torch's operator then serves."""
    try:
        from spikecredit.synapses import maxima_cpu
    except ImportError:
        return None
    return maxima_cpu


def _is_ordinary(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether channels last is safe: input, kernel and output more than one pixel wide, padding less than the kernel.

    Otherwise channels-last convolutions of oneDNN 3.12 (torch 2.13) give wrong numbers now and then, or crash.
    """
    _, padding, dilation, _ = geometry
    return min(*x.shape[2:], *weight.shape[2:], *plane(x, weight, geometry)) > 1 and all(
        p <= d * (kernel - 1) for p, d, kernel in zip(padding, dilation, weight.shape[2:], strict=True)
    )


def _chunk_size(x: Tensor, weight: Tensor, geometry: Geometry) -> int:
    """How many images make a chunk, such that the chunks are of nearly one size."""
    image = len(weight) * math.prod(plane(x, weight, geometry)) * weight.element_size()
    most = max(CHUNK, WEIGHTS_PER_CHUNK * weight.nbytes) // max(image, 1)
    chunks = math.ceil(len(x) / max(most, 1))
    return math.ceil(len(x) / chunks) if chunks else 1


def _chunks(count: int, size: int) -> list[slice]:
    """The rows of each chunk; of no rows at all, one empty chunk."""
    return [slice(start, start + size) for start in range(0, max(count, 1), size)]


def _images(x: Tensor, rows: slice, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Some rows of x as the convolution takes them."""
    images = x[rows].to(dtype)
    return _channels_last(images) if channels_last else images


def _like(chunk: Tensor, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor for `count` rows in the layout of some of them."""
    return chunk.new_empty_strided((count, *chunk.shape[1:]), chunk.stride(), dtype=dtype)


def _index_type(count: int) -> torch.dtype:
    """The smallest integers that number so many things."""
    return next(dtype for dtype in INDEX_TYPES if count - 1 <= torch.iinfo(dtype).max)


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """The sum over chunks, in float32 at least; None where there is nothing to sum."""
    if part is None:
        return None
    return part.to(torch.promote_types(part.dtype, torch.float32)) if total is None else total.add_(part)


def _is_innermost(x: Tensor) -> bool:
    """Whether the channels lie innermost, without gaps."""
    return x.permute(0, 2, 3, 1).is_contiguous()


def _channels_last(x: Tensor) -> Tensor:
    """x with its channels innermost, and strides that say so even where there is one channel or one pixel."""
    _, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(x.shape, (channels * height * width, 1, width * channels, channels))

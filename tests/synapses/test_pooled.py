"""Convolution and pooling in chunks: the same numbers, gradients and layout as one after the other, less memory.

Where torch may sum in another order (float32, bf16), all numbers are small integers, so that every order gives one
sum: maxima that tie must then fall on the same pixel.
"""

import copy
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from feedback_oracles import conv_with_feedback
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc
from spikecredit.synapses import pooled
from spikecredit.synapses.pooled import conv_pool, fusable

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed

PATHWAYS = [None, sc.FeedbackAlignment(), sc.SignSymmetry("batch"), sc.SignSymmetry(scale="strict")]
CONSTRAINTS = [None, sc.Dale(), sc.Dale(mode="reparametrize"), sc.Dale(mode="reparametrize", magnitude="softplus")]
CHANNELS_LAST = torch.channels_last


def chunks_of(images):
    return mock.patch.object(pooled, "_chunk_size", lambda *_: images)


def one_after_the_other(conv, pool, x):
    return pool(conv(x))


def outcome(function, conv, pool, x, seed=0, autocast=False):
    """The output, and by name the gradients of a loss that weighs it with small integers."""
    conv, x = copy.deepcopy(conv), x.detach().requires_grad_(x.requires_grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = function(conv, pool, x)
    weights = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(seed))
    leaves = {name: t for name, t in [("x", x), *conv.named_parameters()] if t.requires_grad}
    if not leaves:
        return y, {}
    return y, dict(zip(leaves, torch.autograd.grad((y * weights).sum(), [*leaves.values()]), strict=True))


def assert_same(conv, pool, x, exact=False, autocast=False, **tolerance):
    y, gradients = outcome(conv_pool, conv, pool, x, autocast=autocast)
    wanted, wanted_gradients = outcome(one_after_the_other, conv, pool, x, autocast=autocast)
    torch.testing.assert_close(y, wanted, **(dict(rtol=0, atol=0) if exact else tolerance))
    if y[..., 0, 0, 0].numel() > 1:  # of one image alone, torch forgets the layout between convolution and pooling
        assert y.stride() == wanted.stride()
    assert y.requires_grad == wanted.requires_grad
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)
    return y


@st.composite
def convolutions(draw, pathways=PATHWAYS, constraints=CONSTRAINTS):
    groups = draw(st.sampled_from([1, 1, 2]))
    in_channels, out_channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = draw(st.one_of(pairs, st.integers(0, 2), st.sampled_from(["same", "valid"])))
    small = st.tuples(st.integers(1, 2), st.integers(1, 2))
    return sc.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=1 if padding == "same" else draw(small),
        padding=padding,
        dilation=draw(small),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
        pathway=draw(st.sampled_from(pathways)),
        constraint=draw(st.sampled_from(constraints)),
    ).train(draw(st.booleans()))


@st.composite
def pools(draw):
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3)))
    ceil = draw(st.booleans())
    if draw(st.booleans()):
        return sc.MaxPool2d(kernel, stride, padding, dilation=draw(st.integers(1, 2)), ceil_mode=ceil)
    divisor = draw(st.sampled_from([None, None, 3]))
    return sc.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()), divisor_override=divisor)


@st.composite
def inputs(draw, channels):
    leading = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = *leading, channels, *draw(st.tuples(st.integers(1, 12), st.integers(1, 9)))
    x = torch.randn(shape)
    layout = draw(st.sampled_from(["contiguous", "channels_last", "slice", "expanded", "swapped"]))
    if layout == "channels_last":
        x = x.reshape(-1, *shape[-3:]).to(memory_format=CHANNELS_LAST).reshape(shape)
    elif layout == "slice":
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    elif layout == "expanded":
        x = x.expand(2, *shape)
    elif layout == "swapped" and len(leading) > 1:
        x = x.transpose(0, 1)
    return x


def possible(conv, pool, x):
    """Whether torch takes the shapes, and no window lies wholly in the padding.

    Of such a window max-pooling gives -inf and an index outside the plane, at which its backward pass then writes.
    """
    try:
        with torch.no_grad():
            return bool(one_after_the_other(copy.deepcopy(conv), pool, x).isfinite().all())
    except RuntimeError:
        return False


@given(st.data())
def test_output_and_gradients_equal_those_of_one_after_the_other(data):
    conv = data.draw(convolutions()).double()
    if data.draw(st.booleans()):
        conv = conv.to(memory_format=CHANNELS_LAST)
    pool, x = data.draw(pools()), data.draw(inputs(conv.in_channels)).double()
    assume(possible(conv, pool, x))
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(data.draw(st.booleans(), label=name))
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x.requires_grad_(data.draw(st.booleans(), label="x")), rtol=1e-11, atol=1e-11)


@torch.no_grad()
def to_integers(conv, x):
    for tensor in (x, *conv.parameters()):
        tensor.copy_(torch.randint(-2, 3, tensor.shape))
    if conv.feedback_weight is not None:
        conv.feedback_weight.copy_(torch.randint(-2, 3, conv.feedback_weight.shape))
    return conv, x


@given(st.data(), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_sums_of_integers_are_equal_in_single_and_half_precision_whatever_the_layout(data, dtype, autocast):
    conv = data.draw(convolutions([None, sc.FeedbackAlignment()], [None]))
    if data.draw(st.booleans()):
        conv = conv.to(memory_format=CHANNELS_LAST)
    pool, x = data.draw(pools()), data.draw(inputs(conv.in_channels))
    if x.stride() != x.contiguous().stride() and 0 in x.stride():
        x = x.clone(memory_format=torch.preserve_format)  # an expanded tensor takes no values
    conv, x = to_integers(conv, x)
    if not autocast:
        conv, x = conv.to(dtype), x.to(dtype)
    assume(possible(conv, pool, x))
    half = autocast or dtype == torch.bfloat16
    tolerance = dict(rtol=2e-2, atol=2e-2) if half else dict(rtol=1e-5, atol=1e-5)
    exact = isinstance(pool, sc.MaxPool2d)
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x.requires_grad_(), exact, autocast, **tolerance)

"""Convolution and pooling in chunks: the same numbers, gradients and layout as one after the other, less memory.

Where torch may sum in another order (float32, bf16), all numbers are small integers, so that every order gives one
sum: maxima that tie must then fall on the same pixel.
"""

import copy
from unittest import mock

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import spikecredit as sc
from spikecredit.synapses import pooled
from spikecredit.synapses.pooled import conv_pool

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
    weights = torch.randint(-1, 2, y.shape, generator=torch.Generator().manual_seed(seed))
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
def pools(draw, divisors=(None, None, 3)):
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3)))
    ceil = draw(st.booleans())
    if draw(st.booleans()):
        return sc.MaxPool2d(kernel, stride, padding, dilation=draw(st.integers(1, 2)), ceil_mode=ceil)
    divisor = draw(st.sampled_from(divisors))
    return sc.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()), divisor_override=divisor)


@st.composite
def inputs(draw, channels):
    leading = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = *leading, channels, *draw(st.tuples(st.integers(1, 9), st.integers(1, 8)))
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


@given(st.data(), st.integers(0, 99))
def test_output_and_gradients_equal_those_of_one_after_the_other(data, seed):
    torch.manual_seed(seed)
    conv = data.draw(convolutions()).double()
    if data.draw(st.booleans(), label="channels last"):
        conv = conv.to(memory_format=CHANNELS_LAST)
    pool, x = data.draw(pools()), data.draw(inputs(conv.in_channels)).double()
    assume(possible(conv, pool, x))
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(data.draw(st.booleans(), label=name))
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x.requires_grad_(data.draw(st.booleans(), label="x")), rtol=1e-11, atol=1e-11)


def is_ordinary(conv, x):
    return pooled._is_ordinary(*operands(conv, x))


def operands(conv, x):
    """The images, the weight and the geometry, as the convolution takes them."""
    images, geometry = conv.pad(x.reshape(-1, *x.shape[-3:]))
    return images, conv.weight, geometry


def is_channels_last(x):
    return pooled._is_channels_last(x.reshape(-1, *x.shape[-3:]))


@torch.no_grad()
def to_integers(conv, x):
    for tensor in (x, *conv.parameters()):
        tensor.copy_(torch.randint(-1, 2, tensor.shape))
    if conv.feedback_weight is not None:
        conv.feedback_weight.copy_(torch.randint(-1, 2, conv.feedback_weight.shape))
    return conv, x


@given(st.data(), st.integers(0, 99), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_sums_of_integers_are_equal_in_single_and_half_precision(data, seed, dtype, autocast):
    torch.manual_seed(seed)
    conv = data.draw(convolutions([None, sc.FeedbackAlignment()], [None]))
    if data.draw(st.booleans(), label="channels last"):
        conv = conv.to(memory_format=CHANNELS_LAST)
    pool, x = data.draw(pools(divisors=[1, 2])), data.draw(inputs(conv.in_channels))
    if 0 in x.stride():
        x = x.clone()  # an expanded tensor takes no values
    conv, x = to_integers(conv, x)
    if not autocast:
        conv, x = conv.to(dtype), x.to(dtype)
    assume(possible(conv, pool, x))
    wrong_in_torch = not is_ordinary(conv, x) and (pooled._is_channels_last(conv.weight) or is_channels_last(x))
    assume(not wrong_in_torch)
    half = autocast or dtype == torch.bfloat16  # integers to 256 are exact
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x.requires_grad_(), True, autocast, rtol=2**-6 if half else 0, atol=0)


POOLS = [sc.MaxPool2d(2), sc.AvgPool2d(2), sc.MaxPool2d(3, 2, 1, ceil_mode=True), sc.AvgPool2d(3, 1, 1)]


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_gradients_are_those_of_finite_differences(pool):
    conv = sc.Conv2d(2, 2, 3, padding=1).double()
    x = torch.randn(5, 2, 5, 4, dtype=torch.float64, requires_grad=True)

    def function(x, weight, bias):
        return pooled._ConvPool.apply(x, weight, bias, None, conv.pad(x)[1], pooled.Pooling.of(pool), True)

    with chunks_of(2):
        assert torch.autograd.gradcheck(function, (x, conv.weight, conv.bias))


@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_the_error_travels_through_the_feedback_weights(pool):
    conv = sc.Conv2d(3, 4, 3, pathway=sc.FeedbackAlignment()).double()
    x = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    leaves = [x, conv.weight, conv.bias]

    def gradients(y):
        return torch.autograd.grad(y.square().sum(), leaves)

    with chunks_of(4):
        found = gradients(conv_pool(conv, pool, x))
    rule = gradients(pool(conv_with_feedback(x.flatten(0, 1), *conv.parameters(), conv.feedback_weight)))
    torch.testing.assert_close(found, rule, rtol=1e-11, atol=1e-11)
    backprop = gradients(pool(F.conv2d(x.flatten(0, 1), *conv.parameters())))
    assert not torch.allclose(found[0], backprop[0], rtol=0.1)
    torch.testing.assert_close(found[1:], backprop[1:], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("forgotten", ["earlier chunks", "the feedback", "the rest of the indices"])
def test_the_comparison_notices_what_is_forgotten(forgotten, monkeypatch):
    conv = sc.Conv2d(1, 2, 3, pathway=sc.FeedbackAlignment()).double()
    x = torch.randn(5, 1, 20, 20, dtype=torch.float64, requires_grad=True)
    with chunks_of(2):
        assert_same(conv, sc.MaxPool2d(2), x)
        if forgotten == "earlier chunks":
            monkeypatch.setattr(pooled, "_plus", lambda total, part: part)
        elif forgotten == "the feedback":
            monkeypatch.setattr(pooled, "cast_for_autocast", lambda device, x, *rest: (x, *rest[:1], *([x] * len(rest[1:]))))
        else:
            monkeypatch.setattr(pooled, "_index_type", lambda count: torch.uint8)
        with pytest.raises((AssertionError, RuntimeError)):
            assert_same(conv, sc.MaxPool2d(2), x)

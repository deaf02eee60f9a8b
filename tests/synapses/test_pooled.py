"""Convolution and pooling in chunks: the same numbers, gradients and layout as one after the other, less memory.

Where torch may sum in another order (float32, bf16), all numbers are small integers, so that every order gives one
sum: maxima that tie must then fall on the same pixel.
"""

import copy
import math
from unittest import mock

import pytest
import torch
from feedback_oracles import conv_with_feedback
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc
from spikecredit.synapses import conv_events, events, pooled
from spikecredit.synapses.pooled import conv_pool, fusable

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed

PATHWAYS = [None, sc.FeedbackAlignment(), sc.SignSymmetry("batch"), sc.SignSymmetry(scale="strict")]
CONSTRAINTS = [None, sc.Dale(), sc.Dale(mode="reparametrize"), sc.Dale(mode="reparametrize", magnitude="softplus")]
CHANNELS_LAST = torch.channels_last


def chunks_of(images):
    return mock.patch.object(pooled, "_chunk_size", return_value=images)


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
    if math.prod(y.shape[:-3]) > 1 and y.shape[-2:] != (1, 1) and is_ordinary(conv, x):
        # one pixel has no layout, and of one image torch forgets it between convolution and pooling
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
def pools(draw, divisors=(None, None, 3), kinds=(sc.MaxPool2d, sc.AvgPool2d)):
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3)))
    ceil = draw(st.booleans())
    if draw(st.sampled_from(kinds)) is sc.MaxPool2d:
        return sc.MaxPool2d(kernel, stride, padding, dilation=draw(st.integers(1, 2)), ceil_mode=ceil)
    divisor = draw(st.sampled_from(divisors))
    return sc.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()), divisor_override=divisor)


@st.composite
def inputs(draw, channels, least=1):
    leading = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = *leading, channels, *draw(st.tuples(st.integers(least, 9), st.integers(least, 8)))
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


def is_ordinary(conv, x):
    images, geometry = conv.pad(x.reshape(-1, *x.shape[-3:]))
    return pooled._is_ordinary(images, conv.weight, geometry)


def possible(conv, pool, x):
    """Whether torch takes the shapes, has no error of its own there, and no window lies wholly in the padding.

    Of such a window max-pooling gives -inf and an index outside the plane, at which its backward pass then writes.
    """
    try:
        images = conv.pad(x.reshape(-1, *x.shape[-3:]))[0]
        channels_last = conv_events.is_channels_last(images) or conv_events.is_channels_last(conv.weight)
        if x.dtype != torch.float64 and channels_last and not is_ordinary(conv, x):
            return False
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
    half = autocast or dtype == torch.bfloat16  # integers to 256 are exact
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x.requires_grad_(), True, autocast, rtol=2**-6 if half else 0, atol=0)


@pytest.fixture
def all_by_events(monkeypatch):
    """As if the error of every maximum were faster by events; the calls of the loops."""
    calls, gradients = [], pooled.kernels().gradients
    monkeypatch.setattr(pooled, "FEWER", 0)
    monkeypatch.setattr(pooled, "ROW", 1)
    monkeypatch.setattr(pooled, "EVENTS", 0)
    monkeypatch.setattr(events, "is_slow", lambda dtype: dtype == torch.bfloat16)  # as without AMX
    monkeypatch.setattr(pooled.kernels(), "gradients", lambda *a: calls.append(a) or gradients(*a))
    return calls


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(0, 99))
def test_the_error_of_a_maximum_by_events(all_by_events, data, seed):
    """In the numbers of the test above: every sum is exact, in whatever order, and so is what belongs to which."""
    torch.manual_seed(seed)
    conv = data.draw(convolutions([None, sc.FeedbackAlignment()], [None]))
    if data.draw(st.booleans(), label="wide"):
        other = data.draw(st.integers(15, 34)), data.draw(st.integers(15, 70))
        size, padding = conv.kernel_size, data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        conv = sc.Conv2d(*other, size, padding=padding, stride=conv.stride, pathway=sc.FeedbackAlignment())
    pool, x = data.draw(pools(kinds=[sc.MaxPool2d])), data.draw(inputs(conv.in_channels, least=5))
    if 0 in x.stride():
        x = x.clone()
    conv, x = to_integers(conv, x)
    assume(possible(conv, pool, x))
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(data.draw(st.booleans(), label=name))
    x.requires_grad_(not conv.weight.requires_grad or data.draw(st.booleans(), label="x"))
    autocast = data.draw(st.booleans(), label="autocast")
    all_by_events.clear()
    with chunks_of(data.draw(st.integers(1, 5), label="images in a chunk")):
        assert_same(conv, pool, x, True, autocast, rtol=2**-6 if autocast else 0, atol=0)
    images, geometry = conv.pad(x.reshape(-1, *x.shape[-3:]))
    able = geometry[2][1] == geometry[3] == pool.dilation == 1 and pooled._is_ordinary(images, conv.weight, geometry)
    assert bool(all_by_events) == able


@pytest.mark.parametrize(
    ("conv", "pool", "by_events"),
    [
        (sc.Conv2d(16, 20, 3, padding=1), sc.MaxPool2d(2), True),
        (sc.Conv2d(5, 20, 5, padding=(1, 2), stride=(2, 1)), sc.MaxPool2d(2), True),
        (sc.Conv2d(70, 9, 3, padding=(2, 1), stride=(1, 2), dilation=(2, 1)), sc.MaxPool2d(2), True),
        (sc.Conv2d(4, 3, 4), sc.MaxPool2d(2), True), (sc.Conv2d(3, 3, 5), sc.MaxPool2d(2), False),
        (sc.Conv2d(4, 3, 4), sc.MaxPool2d(3, 2), True), (sc.Conv2d(4, 3, 4), sc.MaxPool2d(3, 1), False),
        (sc.Conv2d(4, 3, 4), sc.AvgPool2d(2), False), (sc.Conv2d(4, 3, 4), sc.MaxPool2d(7), False),
        (sc.Conv2d(4, 3, 4), sc.MaxPool2d(2, dilation=2), False),
        (sc.Conv2d(8, 4, 4, groups=2), sc.MaxPool2d(2), False),
        (sc.Conv2d(4, 3, 4, dilation=2), sc.MaxPool2d(2), False),
        (sc.Conv2d(4, 3, 4).double(), sc.MaxPool2d(2), False),
    ],
)  # fmt: skip
def test_where_the_error_goes_by_events(conv, pool, by_events, monkeypatch):
    calls, gradients = [], pooled.kernels().gradients
    monkeypatch.setattr(pooled.kernels(), "gradients", lambda *a: calls.append(a) or gradients(*a))
    x = torch.randn(3, conv.in_channels, 21, 20, dtype=conv.weight.dtype, requires_grad=True)
    assert_same(conv, pool, x, rtol=1e-4, atol=1e-4)
    assert bool(calls) == by_events


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("layout", [CHANNELS_LAST, torch.contiguous_format])
def test_without_amx_the_error_of_bf16_goes_by_events_in_float32(amx, layout, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    calls, gradients = [], pooled.kernels().gradients
    monkeypatch.setattr(pooled.kernels(), "gradients", lambda *a: calls.append(a) or gradients(*a))
    conv, x = sc.Conv2d(6, 20, 3).to(memory_format=layout), torch.randn(5, 6, 16, 16).to(memory_format=layout)
    assert_same(conv, sc.MaxPool2d(2), x.requires_grad_(), autocast=True, rtol=0.05, atol=0.3)
    assert bool(calls) != amx
    if calls:
        grad, _, images, feedback = calls[0][:4]
        assert grad.dtype == images.dtype == feedback.dtype == torch.float32
    (found,) = torch.autograd.grad(conv_pool(conv.bfloat16(), sc.MaxPool2d(2), x.bfloat16()).sum(), conv.weight)
    assert found.dtype == torch.bfloat16


def test_without_numba_the_error_goes_as_ever(monkeypatch):
    monkeypatch.setattr(pooled, "kernels", lambda: None)
    assert_same(sc.Conv2d(4, 3, 4), sc.MaxPool2d(2), torch.randn(3, 4, 20, 20).requires_grad_(), rtol=1e-4, atol=1e-4)


def test_an_error_that_is_zero_or_no_number(all_by_events):
    """Zeros are left out, even where x is infinite; NaN goes through."""
    conv, pool, x = sc.Conv2d(2, 3, 3), sc.MaxPool2d(2), torch.rand(2, 2, 8, 8)
    x[0, 1, 0, 0] = torch.inf
    for error, finite in ((0.0, True), (torch.nan, False)):
        y = conv_pool(conv, pool, x)
        grad = torch.ones_like(y)
        grad[0, :, 0, 0] = error
        (found,) = torch.autograd.grad(y, conv.weight, grad)
        assert bool(found.isfinite().all()) == finite
    assert all_by_events


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_sum_of_events(threads, all_by_events):
    conv, pool, x = sc.Conv2d(3, 4, 3), sc.MaxPool2d(2), torch.randn(7, 3, 20, 20)
    conv, x = to_integers(conv, x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(conv, pool, x.requires_grad_(), True, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


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


class LooksAtY(pooled.Pooling):
    """What would go wrong if the backward pass of the pooling looked at y."""

    def backward(self, grad, indices, g_y):
        unknown = g_y.clone()
        super().backward(grad, indices, g_y)
        g_y += unknown


OTHER_FEEDBACK = mock.Mock(wraps=conv_events)
OTHER_FEEDBACK.gradients = lambda g, x, feedback, *rest: conv_events.gradients(g, x, -feedback, *rest)
WRONG = {
    "another feedback": ("conv_events", OTHER_FEEDBACK),
    "only the last chunk counts": ("_plus", lambda total, part: part),
    "indices overflow": ("_index_type", lambda count: torch.uint8),
    "the pooling looks at y": ("Pooling", LooksAtY),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_comparison_notices(mistake, monkeypatch):
    conv = sc.Conv2d(1, 2, 3, pathway=sc.FeedbackAlignment()).double()
    x = torch.randn(5, 1, 20, 20, dtype=torch.float64, requires_grad=True)
    with chunks_of(2):
        assert_same(conv, sc.MaxPool2d(2), x)
        monkeypatch.setattr(pooled, *WRONG[mistake])
        with pytest.raises(AssertionError):
            assert_same(conv, sc.MaxPool2d(2), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", POOLS, ids=repr)
def test_the_backward_pass_of_a_pooling_asks_for_the_layout_of_y_only(pool, dtype, memory_format):
    """It may be any memory, that of the gradient included."""
    y = torch.randn(3, 4, 7, 6).to(dtype, memory_format=memory_format).requires_grad_()
    pooling = pooled.Pooling.of(pool)
    z = pool(y)
    grad = torch.randn_like(z)
    (wanted,) = torch.autograd.grad(z, y, grad)
    for filling in (0, -1e30, torch.nan):
        scratch = torch.full_like(y, filling, requires_grad=False)
        pooling.backward(grad, pooling.forward(y.detach())[1], scratch)
        assert torch.equal(scratch, wanted)
        assert scratch.stride() == wanted.stride() == y.stride()


class Made(TorchDispatchMode):
    """Notes size and type of every tensor made, and which gradients the convolutions compute."""

    def __init__(self):
        super().__init__()
        self.sizes, self.types, self.masks = [], set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            self.masks.append(list(args[-1]))
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor)]
        self.sizes += [t.numel() for t in tensors]
        self.types |= {t.dtype for t in tensors}
        return out


@pytest.mark.parametrize("pool", POOLS[:2], ids=repr)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, CHANNELS_LAST])
def test_the_output_of_the_convolution_is_never_whole(pool, memory_format):
    conv = sc.Conv2d(1, 32, 3, pathway=sc.SignSymmetry()).to(memory_format=memory_format)
    x = torch.rand(4, 3, 1, 22, 22, requires_grad=True)
    whole, saved = 12 * 32 * 20 * 20, []
    with chunks_of(3):
        with Made() as made, torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            y = conv_pool(conv, pool, x)
        with made:
            y.sum().backward()
    assert max(made.sizes) == whole / 4  # a chunk of the convolution's output, and all of the pooling's
    assert made.masks == [[True, True, True]] * 4
    kept = {tuple(t.shape): t.dtype for t in saved}
    assert kept.pop((12, 1, 22, 22)) == torch.float32  # x
    assert kept.pop((32, 1, 3, 3)) == torch.float32  # B
    indices = {(12, 32, 10, 10): torch.int16} if isinstance(pool, sc.MaxPool2d) else {}
    assert kept == indices


@pytest.mark.parametrize(
    ("height", "dtype"),
    [(1, torch.uint8), (16, torch.uint8), (17, torch.int16), (2048, torch.int16), (2049, torch.int32)],
)
def test_indices_take_the_smallest_integers_that_hold_them(height, dtype):
    conv, saved = sc.Conv2d(1, 1, 1, bias=False).double(), []
    torch.nn.init.ones_(conv.weight)
    x = torch.rand(2, 1, height, 16, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.dtype) or t, lambda t: t):
        y = conv_pool(conv, sc.MaxPool2d((1, 16)), x)
    assert dtype in saved
    y.sum().backward()
    assert torch.equal(x.grad, (x == x.amax(-1, keepdim=True)).double())


@pytest.mark.parametrize("needed", ["x", "weight", "bias"])
def test_only_the_gradients_that_are_needed_are_computed(needed):
    conv = sc.Conv2d(1, 2, 3)
    x = torch.rand(5, 1, 6, 6)
    leaves = {"x": x, "weight": conv.weight, "bias": conv.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == needed)
    with chunks_of(2):
        y = conv_pool(conv, sc.MaxPool2d(2), x)
        with Made() as made:
            y.sum().backward()
    assert made.masks == [[name == needed for name in leaves]] * 3


def test_nothing_is_kept_where_no_gradient_is_wanted():
    conv, pool, x = sc.Conv2d(1, 2, 3), sc.MaxPool2d(2), torch.rand(2, 5, 1, 6, 6)
    wanted = pool(conv(x)).detach()
    for make in (torch.no_grad, torch.inference_mode):
        with make(), Made() as made, chunks_of(3):
            y = conv_pool(conv, pool, x)
        torch.testing.assert_close(y, wanted)
        assert not y.requires_grad
        assert torch.uint8 not in made.types  # no indices
    conv.requires_grad_(False)
    assert not conv_pool(conv, pool, x).requires_grad


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
@pytest.mark.parametrize("shape", [(0, 3, 2, 7, 7), (4, 0, 2, 7, 7), (0, 2, 7, 7)])
def test_an_empty_batch(shape, pathway):
    for pool in POOLS:
        for conv in (sc.Conv2d(2, 3, 3, pathway=pathway), sc.Conv2d(2, 3, 3, pathway=pathway).double()):
            x = torch.zeros(shape, dtype=conv.weight.dtype, requires_grad=True)
            y = conv_pool(conv, pool, x)
            assert y.shape == pool(conv(x)).shape
            y.sum().backward()
            assert x.grad.shape == x.shape
            assert torch.equal(conv.weight.grad, torch.zeros_like(conv.weight))


def test_gradients_of_half_precision_are_summed_in_single():
    """257 and 514 are no bf16 numbers; torch rounds the one gradient of all images."""
    conv = sc.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.ones_(conv.weight)
    x = torch.ones(257, 2, 1, 1, 1)
    for function, wanted in ((conv_pool, 514), (one_after_the_other, 512)):
        with torch.autocast("cpu", torch.bfloat16), chunks_of(100):
            y = function(conv, sc.MaxPool2d(1), x)
        assert y.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(y.float().sum(), conv.weight)
        assert gradient.dtype == torch.float32
        assert gradient.item() == wanted


def test_the_order_of_random_feedback_is_kept():
    """One draw per pass, whichever way."""
    conv, x = sc.Conv2d(1, 2, 3, pathway=sc.SignSymmetry("batch")), torch.rand(2, 1, 6, 6, requires_grad=True)
    twin, pool = copy.deepcopy(conv), sc.AvgPool2d(2)
    for function, other in ((conv_pool, one_after_the_other), (one_after_the_other, conv_pool)):
        found = [torch.autograd.grad(f(c, pool, x).sum(), x)[0] for f, c in ((function, conv), (other, twin))]
        torch.testing.assert_close(*found)


def test_constrained_weights_that_moved_are_noticed():
    conv = sc.Conv2d(3, 2, 3, constraint=sc.Dale())
    with torch.no_grad():
        conv.weight.neg_()
    with pytest.warns(sc.synapses.ConstraintWarning, match="moved without a projection"):
        conv_pool(conv, sc.MaxPool2d(2), torch.zeros(1, 3, 6, 6))


def test_what_it_cannot_do_is_refused():
    conv, x = sc.Conv2d(1, 2, 3), torch.rand(2, 1, 6, 6, requires_grad=True)
    with pytest.raises(ValueError, match="without return_indices"):
        conv_pool(conv, sc.MaxPool2d(2, return_indices=True), x)
    with pytest.raises(ValueError, match=r"takes \(\.\.\., 1, H, W\), got \(2, 3, 6, 6\)"):
        conv_pool(conv, sc.MaxPool2d(2), torch.zeros(2, 3, 6, 6))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        conv_pool(conv, sc.MaxPool2d(2), torch.zeros(2, 1, 2, 2))
    (gradient,) = torch.autograd.grad(conv_pool(conv, sc.MaxPool2d(2), x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@given(st.integers(0, 5000), st.integers(1, 600), st.integers(1, 64), st.integers(3, 40))
def test_chunks_are_of_nearly_one_size_and_hold_the_bytes_they_may(images, out_channels, in_channels, size):
    weight = torch.empty(out_channels, in_channels, 3, 3)
    x = torch.empty(1, in_channels, size, size).expand(images, -1, -1, -1)
    chunk = pooled._chunk_size(x, weight, ((1, 1), (0, 0), (1, 1), 1))
    chunks = pooled._chunks(images, chunk)
    assert [i for rows in chunks for i in range(images)[rows]] == list(range(images))
    image = out_channels * (size - 2) ** 2 * 4
    limit = max(pooled.CHUNK, pooled.WEIGHTS_PER_CHUNK * weight.nbytes)
    assert chunk == 1 or chunk * image <= limit
    if len(chunks) > 1:
        assert image > limit or math.ceil(images / (len(chunks) - 1)) * image > limit  # fewer would be too large
        assert chunk * len(chunks) - images < len(chunks)


class OwnConv(sc.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnPool(sc.MaxPool2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_fusable_are_our_own_layers_that_nobody_watches():
    assert fusable(sc.Conv2d(1, 2, 3), sc.MaxPool2d(2))
    assert fusable(sc.Conv2d(1, 2, 3, pathway=sc.FeedbackAlignment(), constraint=sc.Dale()), sc.AvgPool2d(2))
    for conv, pool in [
        (OwnConv(1, 2, 3), sc.MaxPool2d(2)),
        (sc.Conv2d(1, 2, 3), OwnPool(2)),
        (nn.Conv2d(1, 2, 3), sc.MaxPool2d(2)),
        (sc.Conv2d(1, 2, 3), nn.MaxPool2d(2)),
        (sc.Conv2d(1, 2, 3), sc.GlobalAvgPool2d()),
        (sc.MaxPool2d(2), sc.Conv2d(1, 2, 3)),
        (sc.Conv2d(1, 2, 3), sc.MaxPool2d(2, return_indices=True)),
        (sc.Conv2d(1, 2, 3).to("meta"), sc.MaxPool2d(2)),
    ]:
        assert not fusable(conv, pool), (conv, pool)


HOOKS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
]


@pytest.mark.parametrize("register", HOOKS)
def test_layers_with_hooks_are_not_fusable(register):
    conv, pool = sc.Conv2d(1, 2, 3), sc.MaxPool2d(2)
    everywhere = getattr(nn.modules.module, register.replace("register", "register_module"))
    for hook in (getattr(conv, register), getattr(pool, register), everywhere):
        handle = hook(lambda *_: None)
        assert not fusable(conv, pool), hook
        handle.remove()
        assert fusable(conv, pool)


def test_layers_that_are_wrapped_or_transformed_are_not_fusable(monkeypatch):
    conv, pool = sc.Conv2d(1, 2, 3), sc.MaxPool2d(2)
    conv.forward = conv.forward
    assert not fusable(conv, pool)
    del conv.forward
    seen = []
    torch.func.vmap(lambda x: seen.append(fusable(conv, pool)) or x)(torch.zeros(2))
    assert seen == [False]
    assert fusable(conv, pool)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not fusable(conv, pool)
    monkeypatch.undo()
    torch.nn.utils.parametrizations.weight_norm(conv)
    assert not fusable(conv, pool)

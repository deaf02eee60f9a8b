"""Convolutions of spikes by tables: equal to the dense ones, chosen where they pay, differentiable as those are."""

import pytest
import torch
from feedback_oracles import conv_with_feedback
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.synapses import conv_events, events

CHANNELS_LAST = torch.channels_last


def spikes(*shape, density=0.3, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density).float()


@pytest.fixture
def small(monkeypatch):
    """As if a few positions and any number of channels were worth it."""
    monkeypatch.setattr(events, "LEAST", {"events": (10**9, 1), "tables": (1, 1)})
    monkeypatch.setattr(conv_events, "CHANNELS", 1)


@settings(max_examples=40)
@given(st.data(), st.integers(0, 1000))
def test_tables_equal_the_float64_convolution(data, seed):
    torch.manual_seed(seed)
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    steps = st.tuples(st.integers(1, 2), st.integers(1, 3))
    size = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)), label="kernel")
    geometry = data.draw(steps), data.draw(pairs), data.draw(steps), 1
    images, channels = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 11))
    x = spikes(images, channels, *data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9))), seed=seed)
    weight, bias = torch.randn(data.draw(st.integers(64, 70)), channels, *size), None
    if data.draw(st.booleans()):
        bias = torch.randn(len(weight))
    for tensor in (x, weight):
        if data.draw(st.booleans(), label="channels last"):
            tensor.data = tensor.contiguous(memory_format=CHANNELS_LAST)
    assume(min(conv_events.plane(x, weight, geometry)) > 0)
    y, way = conv_events.convolution(x, weight, bias, geometry, "tables")
    dense = F.conv2d(x, weight, bias, *geometry)
    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    wanted = F.conv2d(*wide, *geometry)
    terms = F.conv2d(*[None if t is None else t.abs() for t in wide], *geometry)
    assert way == "tables" and bool(((y - wanted).abs() <= 1e-6 * terms).all())
    if min(*y.shape) > 1 and min(*x.shape) > 1:
        assert y.stride() == dense.stride()
    grad = torch.randn(y.shape).contiguous(
        memory_format=data.draw(st.sampled_from([CHANNELS_LAST, torch.preserve_format]))
    )
    found = conv_events.weight_gradient(grad, x, size, geometry)
    mask = (False, True, False)
    wanted = conv_events.gradients(grad.double(), wide[0], wide[1], geometry, mask)[1]
    terms = conv_events.gradients(grad.double().abs(), wide[0], wide[1], geometry, mask)[1]
    assert bool(((found - wanted).abs() <= 1e-6 * terms).all())


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0, float("nan"), float("inf"), 1e-30])
@pytest.mark.parametrize("channels", [8, 9])
def test_tables_are_of_zeros_and_ones_only(wrong, channels):
    weight, geometry = torch.randn(64, channels, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    for place in ((0, 0, 0, 0), (39, channels - 1, 8, 8), (20, 3, 5, 2)):
        x = spikes(40, channels, 9, 9)
        x[place] = wrong
        y, way = conv_events.convolution(x, weight, None, geometry, "tables")
        assert way == "dense" and torch.equal(y.nan_to_num(), F.conv2d(x, weight, None, *geometry).nan_to_num())


def gradients(function, x, parameters):
    given = x.clone().requires_grad_()
    y = function(given)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return y, *torch.autograd.grad((y * weights).sum(), [given, *parameters])


LAYERS = [
    {"padding": 1}, {"padding": "same", "bias": False}, {"padding": 1, "padding_mode": "reflect"}, {"stride": 2},
    {"padding": 1, "padding_mode": "circular"}, {"dilation": 2, "padding": 2},
]  # fmt: skip


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment(), sc.SignSymmetry()])
@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("pool", [None, sc.AvgPool2d(2), sc.MaxPool2d(2), sc.MaxPool2d(3, 1)], ids=repr)
def test_a_layer_gives_the_same_by_tables(pathway, options, pool, small, monkeypatch):
    torch.manual_seed(0)
    conv = sc.Conv2d(6, 64, 3, pathway=pathway, **options)
    net = sc.Network(conv) if pool is None else sc.Network(conv, pool)
    x, taken = spikes(2, 3, 6, 10, 10), []
    product = conv_events.convolution
    monkeypatch.setattr(conv_events, "convolution", lambda *a: taken.append(a[4]) or product(*a))
    found = gradients(net, x, conv.parameters())
    assert set(taken) == {"tables"}
    monkeypatch.setattr(events, "LEAST", {"tables": (10**9, 1)})
    dense = gradients(net, x, conv.parameters())
    assert found[0].stride() == dense[0].stride() and found[1].stride() == dense[1].stride()
    for a, b in zip(found, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)


def test_the_error_travels_through_the_feedback_weights(small):
    conv, x = sc.Conv2d(6, 64, 3, pathway=sc.FeedbackAlignment()), spikes(3, 6, 8, 8)
    assert conv_events.way(x, conv.weight, conv.pad(x)[1]) == "tables"
    found = gradients(conv, x, conv.parameters())
    wanted = gradients(lambda x: conv_with_feedback(x, *conv.parameters(), conv.feedback_weight), x, conv.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    backprop = gradients(lambda x: F.conv2d(x, *conv.parameters()), x, conv.parameters())
    assert not torch.allclose(found[1], backprop[1], rtol=0.1)


def shifted(grad, x, *rest, gradient=conv_events.weight_gradient):
    return gradient(grad, x.roll(1, 3), *rest)


@pytest.mark.parametrize("mistake", ["patches beside", "tables of other channels", "no bias"])
def test_a_mistake_would_be_noticed(mistake, small, monkeypatch):
    tables = events.kernels()[1]
    product = tables.product
    if mistake == "patches beside":
        monkeypatch.setattr(conv_events, "weight_gradient", shifted)
    elif mistake == "no bias":
        monkeypatch.setattr(tables, "product", lambda codes, w, bias=None, *dtype: product(codes, w, None, *dtype))
    else:
        monkeypatch.setattr(tables, "product", lambda codes, w, *bias: product(codes, w.roll(1, 0), *bias))
    with pytest.raises(AssertionError):
        test_a_layer_gives_the_same_by_tables(None, {"padding": 1}, None, None, monkeypatch)


@pytest.mark.parametrize(
    ("change", "way"),
    [
        (lambda x, w, g: (x, w, g), "tables"),
        (lambda x, w, g: (torch.zeros_like(x), w, g), "tables"),
        (lambda x, w, g: (torch.ones_like(x), w, g), "tables"),
        (lambda x, w, g: (x / 2, w, g), "dense"),
        (lambda x, w, g: (x.double(), w.double(), g), "dense"),
        (lambda x, w, g: (x.bfloat16(), w.bfloat16(), g), "dense"),
        (lambda x, w, g: (x[:, :4], w[:, :4], g), "dense"),  # few channels
        (lambda x, w, g: (x, w[:63], g), "dense"),  # few outputs
        (lambda x, w, g: (x[:2], w, g), "dense"),  # few positions
        (lambda x, w, g: (x, w[:, :12], (*g[:3], 2)), "dense"),
        (lambda x, w, g: (x[:, :, :3, :3], w, g), "dense"),
        (lambda x, w, g: (x[:0], w, g), "dense"),
    ],
)
def test_when_it_is_chosen(change, way):
    x, weight = spikes(64, 24, 16, 16), torch.randn(128, 24, 3, 3)
    assert conv_events.way(*change(x, weight, ((1, 1), (1, 1), (1, 1), 1))) == way


def test_autocast_compiler_and_transforms_keep_the_dense_convolution(small):
    conv, x = sc.Conv2d(6, 64, 3), spikes(3, 6, 8, 8)
    geometry = conv.pad(x)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert conv_events.way(x, conv.weight, geometry) == "dense"
        assert conv(x).dtype == torch.bfloat16
    per_image = torch.func.vmap(conv)(x[:, None])
    torch.testing.assert_close(per_image[:, 0], F.conv2d(x, conv.weight, conv.bias))


def test_without_numba_the_dense_convolution_serves(monkeypatch, small):
    monkeypatch.setattr(events, "kernels", lambda: None)
    conv, x = sc.Conv2d(6, 64, 3), spikes(3, 6, 8, 8)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias))


def test_second_derivatives(small):
    conv, x = sc.Conv2d(5, 64, 3), spikes(3, 5, 7, 7)

    def penalty(function):
        given = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(function(given).square().sum(), given, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [given, conv.weight])

    for a, b in zip(penalty(conv), penalty(lambda x: F.conv2d(x, conv.weight, conv.bias)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_one_graded_chunk_makes_the_gradient_dense(small):
    """Of an input in chunks: what an earlier chunk took is no promise for the backward pass."""
    torch.manual_seed(0)
    conv, pool, x = sc.Conv2d(6, 64, 3), sc.AvgPool2d(2), spikes(40, 6, 34, 34)
    x[39, 5, 33, 33] = 0.5
    found = gradients(lambda x: sc.synapses.pooled.conv_pool(conv, pool, x), x, conv.parameters())
    wanted = gradients(lambda x: pool(F.conv2d(x, conv.weight, conv.bias)), x, conv.parameters())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)

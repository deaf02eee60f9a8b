"""Layers without weights."""

import math

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc

LEADING = [(), (3,), (2, 3), (2, 1, 3)]


@pytest.mark.parametrize("leading", LEADING)
def test_pools_and_flatten_take_any_leading_dimensions(leading):
    x = torch.randn(*leading, 4, 7, 6)
    folded = x.reshape(-1, 4, 7, 6)
    pairs = [
        (sc.AvgPool2d(2), F.avg_pool2d(folded, 2)),
        (sc.AvgPool2d(3, 2, 1), F.avg_pool2d(folded, 3, 2, 1)),
        (sc.MaxPool2d(2), F.max_pool2d(folded, 2)),
        (sc.MaxPool2d((3, 2), stride=1), F.max_pool2d(folded, (3, 2), 1)),
        (sc.SoftPool2d((3, 2), 0.5), soft_pool(folded, 3, 2, 0.5)),
        (sc.GlobalAvgPool2d(), folded.mean((2, 3))),
        (sc.Flatten(), folded.reshape(-1, 4 * 42)),
        (sc.Flatten(2), folded.reshape(-1, 4, 42)),
    ]
    for layer, wanted in pairs:
        wanted = wanted.reshape(*leading, *wanted.shape[1:])
        assert layer(x).shape == wanted.shape
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-6 if isinstance(layer, sc.SoftPool2d) else 0)


def soft_pool(x, height, width, temperature):
    """sum_i softmax(y / T)_i y_i, window by window."""
    rows = []
    for i in range(0, x.shape[2] - height + 1, height):
        row = []
        for j in range(0, x.shape[3] - width + 1, width):
            window = x[:, :, i : i + height, j : j + width].flatten(2)
            row.append(((window / temperature).softmax(2) * window).sum(2))
        rows.append(torch.stack(row, 2))
    return torch.stack(rows, 2)


def test_soft_pooling_is_between_maximum_and_average():
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    cold, hot, between = (sc.SoftPool2d(2, t)(x) for t in (1e-4, 1e7, 1.0))
    torch.testing.assert_close(cold, sc.MaxPool2d(2)(x), rtol=0, atol=1e-3)
    torch.testing.assert_close(hot, sc.AvgPool2d(2)(x), rtol=0, atol=1e-6)
    assert ((hot < between) & (between < cold + 1e-3)).all()
    assert sc.SoftPool2d(2)(1e4 * x.float()).isfinite().all()  # exp alone would be infinite


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_slope_of_soft_pooling_and_its_adjoint(dtype):
    pool, x = sc.SoftPool2d((3, 2), 0.5), torch.randn(2, 3, 7, 5, dtype=dtype)
    pooled, slope = pool.with_slope(x)
    assert torch.equal(pooled, pool(x)) and slope.shape == (2, 3, 2, 3, 2, 2)
    assert torch.autograd.gradcheck(pool, x.requires_grad_())
    sent = torch.randn_like(pooled)
    (wanted,) = torch.autograd.grad(pool(x), x, sent)
    found = pool.spread(sent, slope.conj(), (7, 5))  # torch's is the adjoint of a complex Jacobian, ours its transpose
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    assert (slope.real < 0).any()  # it is not monotone


def test_soft_pooling_is_the_same_formula_for_complex_numbers():
    """Cauchy-Riemann: the derivative along the imaginary axis is i times the one along the real axis."""
    pool, x = sc.SoftPool2d(2, 0.7), torch.randn(1, 1, 4, 4, dtype=torch.complex128)
    torch.testing.assert_close(pool(x.real.to(x)).real, pool(x.real), rtol=0, atol=1e-14)
    towards, h = torch.randn(1, 1, 4, 4, dtype=torch.float64), 1e-6
    real, imaginary = ((pool(x + step * towards) - pool(x - step * towards)) / (2 * h) for step in (h, 1j * h))
    torch.testing.assert_close(imaginary, 1j * real, rtol=0, atol=1e-8)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        sc.Flatten(0)
    for kernel in (0, (2, 0)):
        with pytest.raises(ValueError, match="kernel_size is the size of a window"):
            sc.SoftPool2d(kernel)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature is positive and finite"):
            sc.SoftPool2d(2, temperature)
    with pytest.raises(ValueError, match="a window of 2 x 3 does not fit into a map of 5 x 2"):
        sc.SoftPool2d((2, 3))(torch.zeros(1, 5, 2))
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="0 <= p < 1; got"):
            sc.Dropout(p)


def dropout(seed=0, p=0.3):
    return sc.Network(sc.Dropout(p), seed=seed)


def test_one_mask_for_the_whole_sequence_and_its_mean():
    x = torch.ones(6, 50, 400)
    y = dropout()(x)
    assert torch.equal(y, y[:1].expand_as(y))
    assert torch.equal(y.unique(), torch.tensor([0.0, 1 / 0.7]))
    kept = float((y[0] > 0).float().mean())
    assert kept == pytest.approx(0.7, abs=5 * (0.21 / 20_000) ** 0.5)
    assert not torch.equal(y[0, 0], y[0, 1])  # each sample has its own


def test_masks_follow_the_networks_seed_and_are_fresh_for_each_sequence():
    x = torch.ones(2, 5, 40)
    net, same, other = dropout(), dropout(), dropout(seed=1)
    first, second = net(x), net(x)
    assert not torch.equal(first, second)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)
    assert not torch.equal(other(x), first)
    restored = dropout(seed=9)
    restored.load_state_dict(net.state_dict())
    assert torch.equal(restored(x), net(x))


def test_streaming_keeps_the_mask_in_the_state():
    x = torch.rand(6, 5, 40)
    whole, parts = dropout(), dropout()
    wanted = whole(x)
    head, state = parts.stream(x[:2])
    tail, state = parts.stream(x[2:], state)
    assert torch.equal(torch.cat([head, tail]), wanted)
    assert not torch.equal(parts.stream(x[2:])[0], tail)  # a new sequence, a new mask
    whole.eval()
    assert whole(x) is x
    assert whole.stream(x, [None])[0] is x
    assert dropout(p=0.0)(x) is x


def test_making_a_layer_shifts_nobodys_numbers_and_alone_it_follows_the_global_generator():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    layer = sc.Dropout()
    assert torch.equal(torch.rand(3), wanted)
    masks = []
    for seed in (1, 1, 2):
        layer = sc.Dropout()
        torch.manual_seed(seed)
        masks.append(layer(torch.ones(2, 5, 40)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    fresh = sc.Dropout()
    fresh.load_state_dict(sc.Dropout().state_dict())  # unseeded stays unseeded
    assert fresh.noise.seed is None

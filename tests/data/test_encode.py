"""Encoders against snnTorch, against their formulas, and their errors."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.data import encode
from spikecredit.seeds import generator


@pytest.fixture
def spikegen():
    return pytest.importorskip("snntorch.spikegen", reason="snntorch is not installed")


def grey(*shape, dtype=torch.float32):
    """Values of [0, 1] with both ends, the default threshold and values near it among them."""
    x = torch.rand(shape, generator=generator(1, "test"), dtype=dtype)
    x.view(-1)[:6] = torch.tensor([0.0, 1.0, 0.01, 0.0101, 0.009, 0.2])
    return x


def test_constant_is_a_view_with_time_stride_zero():
    x = grey(3, 2, 4).requires_grad_()
    y = encode.constant(x, 7)
    assert y.shape == (7, 3, 2, 4) and y.stride(0) == 0 and y.data_ptr() == x.data_ptr()
    y.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 7.0))


@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), gain=st.floats(0.1, 3), seed=st.integers(0, 10**6))
def test_rate_has_the_mean_of_its_formula(p, gain, seed):
    n = 20_000
    y = encode.rate(torch.full((n,), p), 1, gain, torch.Generator().manual_seed(seed))
    expected = min(max(np.float32(gain) * np.float32(p), 0), 1)
    # six standard deviations of a binomial mean, and its resolution
    assert abs(y.mean().item() - expected) <= 6 * np.sqrt(expected * (1 - expected) / n) + 1e-4
    assert set(y.unique().tolist()) <= {0.0, 1.0}


def test_rate_is_exact_at_the_ends_independent_over_time_and_keeps_the_dtype():
    x = torch.tensor([0.0, 1.0, 0.5], dtype=torch.bfloat16).expand(500, 3)
    y = encode.rate(x, 40, generator=torch.Generator().manual_seed(0))
    assert y.dtype == torch.bfloat16 and y.shape == (40, 500, 3)
    assert not y[..., 0].any() and y[..., 1].all()
    half = y[..., 2].float()
    correlation = torch.corrcoef(half)  # between time steps, over 500 pixels
    assert (correlation - torch.eye(40)).abs().max() < 0.25
    low = encode.rate(torch.full((1,), 2**-9, dtype=torch.bfloat16).expand(10**6), 1, generator=generator(0, "low"))
    assert abs(low.float().mean().item() - 2**-9) < 6 * 2**-4.5 / 1000  # bfloat16 noise would be far off


def test_rate_follows_its_generator():
    x = grey(20, 20)
    a, b, c = (encode.rate(x, 5, generator=generator(s, "encoder")) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    ("steps", "tau", "threshold"), [(25, 5.0, 0.01), (10, 1.0, 0.2), (40, 30.0, 0.1), (1, 5.0, 0.01)]
)
def test_latency_equals_snntorch(spikegen, steps, tau, threshold, linear, dtype):
    x = grey(5, 3, 8, 8, dtype=dtype)
    theirs = spikegen.latency(x, steps, threshold=threshold, tau=tau, linear=linear, clip=True, bypass=True)
    ours = encode.latency(x, steps, tau, threshold, linear)
    assert torch.equal(ours.float(), theirs) and ours.dtype == dtype
    assert steps == 1 or 0 < ours.sum() < x.numel()  # some pixels fire, those below threshold do not


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("steps", "threshold"), [(25, 0.01), (100, 0.3)])
def test_latency_fitted_equals_snntorch_normalised(spikegen, steps, threshold, linear):
    x = grey(4, 1, 8, 8)
    theirs = spikegen.latency(x, steps, threshold=threshold, normalize=True, linear=linear, clip=True)
    assert torch.equal(encode.latency(x, steps, None, threshold, linear), theirs)


def test_latency_fitted_does_not_depend_on_the_rest_of_the_batch():
    x = grey(4, 9)
    together = encode.latency(x, 25, None)
    alone = torch.cat([encode.latency(x[i : i + 1], 25, None) for i in range(4)], 1)
    assert torch.equal(together, alone)


@settings(max_examples=60, deadline=None)
@given(
    x=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    tau=st.one_of(st.none(), st.floats(0.1, 50)),
    threshold=st.floats(0.01, 0.9),
    linear=st.booleans(),
)
def test_latency_is_at_most_one_spike_and_earlier_for_brighter(x, tau, threshold, linear):
    value = torch.tensor(x).sort(descending=True).values
    y = encode.latency(value, 30, tau, threshold, linear)
    assert y.shape == (30, len(x)) and set(y.unique().tolist()) <= {0.0, 1.0}
    fires = y.sum(0)
    assert fires.max() <= 1 and not fires[value < threshold].any()
    assert (fires.diff() <= 0).all()  # sorted by brightness: once a pixel is too dark, all darker ones are
    assert (y.argmax(0)[fires == 1].diff() >= 0).all()


def test_latency_follows_the_formula_in_half_precision():
    x = torch.tensor([1.0, 0.5, 0.25], dtype=torch.bfloat16)
    time = 20 * np.log(np.array([1.0, 0.5, 0.25]) / (np.array([1.0, 0.5, 0.25]) - 0.2))
    y = encode.latency(x, 60, 20.0, 0.2)
    assert y.dtype == torch.bfloat16 and y.argmax(0).tolist() == np.round(time).tolist() == [4, 10, 32]


@pytest.mark.parametrize("off_spikes", [False, True])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_delta_equals_snntorch(spikegen, threshold, off_spikes):
    x = torch.randn(12, 3, 7, generator=generator(3, "delta"))
    ours = encode.delta(x, threshold, off_spikes)
    assert torch.equal(ours, spikegen.delta(x, threshold, off_spike=off_spikes))
    assert set(ours.unique().tolist()) == ({-1.0, 0.0, 1.0} if off_spikes else {0.0, 1.0})


def test_delta_counts_a_change_of_exactly_the_threshold():
    x = torch.tensor([0.0, 0.5, 0.25, 1.0, 0.5])[:, None]
    assert encode.delta(x, 0.5, True)[:, 0].tolist() == [0, 1, 0, 1, -1]


@pytest.mark.parametrize(
    ("kind", "changed", "x"),
    [
        ("constant", {"steps": 3}, grey(2, 3)),
        ("rate", {"steps": 3}, grey(2, 3)),
        ("rate", {"gain": 0.1}, grey(20, 30)),
        ("latency", {"steps": 3}, grey(2, 3)),
        ("latency", {"tau": 20.0}, grey(2, 30)),
        ("latency", {"tau": None}, grey(2, 30)),
        ("latency", {"threshold": 0.5}, grey(2, 30)),
        ("latency", {"linear": True}, grey(2, 30)),
        ("delta", {"threshold": 0.7}, grey(9, 2, 30)),
        ("delta", {"off_spikes": True}, grey(9, 2, 30)),
        ("rows", {"repeats": 2}, grey(2, 1, 4, 3)),
    ],
)
def test_every_option_changes_the_result(kind, changed, x):
    config = encode.ENCODERS[kind]
    a = config()(x, generator(0, "encoder"))
    b = config(**changed)(x, generator(0, "encoder"))
    assert a.shape != b.shape or not torch.equal(a, b)
    assert config() == config() != config(**changed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config(), next(iter(changed)), 1)


def test_configs_equal_their_functions():
    x, g = grey(4, 1, 5, 5), generator
    assert torch.equal(encode.Constant(6)(x), encode.constant(x, 6))
    assert torch.equal(encode.Rate(6, 0.7)(x, g(0, "e")), encode.rate(x, 6, 0.7, g(0, "e")))
    assert torch.equal(encode.Latency(30, 4.0, 0.2, True)(x), encode.latency(x, 30, 4.0, 0.2, True))
    sequence = grey(5, 2, 1, 4, 4)
    assert torch.equal(encode.Delta(0.3, True)(sequence), encode.delta(sequence, 0.3, True))
    assert {k: e.needs_unit_range for k, e in encode.ENCODERS.items()} == {
        "constant": False, "rate": True, "latency": True, "delta": False, "rows": False,
    }  # fmt: skip
    assert [k for k, e in encode.ENCODERS.items() if e.needs_sequence] == ["delta"]


@pytest.mark.parametrize("config", [encode.Rate(), encode.Latency()])
def test_a_wrong_range_is_refused_with_what_was_found(config):
    with pytest.raises(ValueError, match=r"lies in \[-0.5, 2\], expected \[0, 1\].*normalise=False"):
        config(torch.tensor([[-0.5, 0.3, 2.0]]))


@pytest.mark.parametrize("config", [encode.Constant(), encode.Rate(), encode.Latency(), encode.Delta()])
def test_nan_and_bytes_are_refused(config):
    x = grey(3, 2, 4)
    x[1, 1, 2] = float("nan")
    with pytest.raises(ValueError, match="contains NaN"):
        config(x)
    with pytest.raises(ValueError, match=r"dtype torch.uint8.*data\.normalise"):
        config(torch.zeros(3, 2, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    "x", [grey(4, 1, 8, 8), grey(4, 64), encode.constant(grey(4, 1, 8, 8), 5), encode.constant(grey(4, 8), 5)]
)
def test_delta_refuses_still_images(x):
    with pytest.raises(ValueError, match=r"still images of shape .*Constant, Rate or Latency"):
        encode.Delta()(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: encode.Constant(steps=0), "steps=0"),
        (lambda: encode.Rate(steps=2.5), "steps=2.5"),
        (lambda: encode.Rate(gain=0.0), "gain=0.0"),
        (lambda: encode.Latency(tau=-1.0), "tau=-1.0"),
        (lambda: encode.Latency(threshold=1.0), "threshold=1.0"),
        (lambda: encode.Latency(steps=-1), "steps=-1"),
        (lambda: encode.Delta(threshold=float("inf")), "threshold=inf"),
        (lambda: encode.delta(torch.tensor(1.0)), "expected"),
        (lambda: encode.Rows(repeats=0), "repeats=0"),
        (lambda: encode.rows(torch.zeros(2, 28, 28)), r"takes images \(B, C, H, W\), got \(2, 28, 28\)"),
        (lambda: encode.on_off(torch.zeros(3)), r"takes \(B, C, ...\), got \(3,\)"),
    ],
)
def test_wrong_options_are_refused_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("repeats", [1, 3])
def test_rows_come_from_top_to_bottom(repeats):
    x = grey(2, 3, 5, 4)
    y = encode.rows(x, repeats)
    assert y.shape == (5 * repeats, 2, 3, 1, 4)
    for t in range(5 * repeats):
        assert torch.equal(y[t], x[:, :, t // repeats : t // repeats + 1])
    assert torch.equal(encode.Rows(repeats)(x), y)
    assert encode.Rows(repeats).shape((3, 5, 4)) == tuple(y.shape[2:])
    assert encode.Constant().shape((3, 5, 4)) == (3, 5, 4)


def test_on_and_off_channels_are_what_is_above_and_below_zero():
    x = torch.randn(4, 2, 3, 3)
    y = encode.on_off(x)
    assert y.shape == (4, 4, 3, 3)
    assert bool((y >= 0).all())
    assert torch.equal(y[:, :2] - y[:, 2:], x)
    assert not (y[:, :2] * y[:, 2:]).any()

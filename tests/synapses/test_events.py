"""Products by events: equal to the dense ones, chosen where they pay, differentiable as the dense layer is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.synapses import events


def spikes(*shape, density=0.1, seed=0, graded=False):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(*shape, generator=generator) < density).float()
    return x * torch.randn(*shape, generator=generator) if graded else x


@pytest.fixture
def always(monkeypatch):
    """Every float32 product by events, however small or dense."""
    monkeypatch.setattr(events, "DENSITY", 2.0)
    monkeypatch.setattr(events, "LEAST", 1)


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    inputs=st.integers(1, 70),
    outputs=st.sampled_from([1, 7, 64, 1030]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    graded=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_products_equal_the_float64_ones(rows, inputs, outputs, density, graded, bias, seed):
    torch.manual_seed(seed)
    x, w = spikes(rows, inputs, density=density, seed=seed, graded=graded), torch.randn(outputs, inputs)
    b = torch.randn(outputs) if bias else None
    wanted = F.linear(x.double(), w.double(), None if b is None else b.double())
    terms = F.linear(x.double().abs(), w.double().abs(), None if b is None else b.double().abs())  # rounding's scale
    assert bool(((events.product(x, w, b).double() - wanted).abs() <= 1e-6 * terms).all())
    grad = torch.randn(rows, outputs)
    wanted, terms = grad.double().t() @ x.double(), grad.double().abs().t() @ x.double().abs()
    assert bool(((events.weight_gradient(grad, x).double() - wanted).abs() <= 1e-6 * terms).all())


def test_more_rows_than_a_chunk():
    x, grad = spikes(2 * events.CHUNK + 5, 8, density=0.3), torch.randn(2 * events.CHUNK + 5, 6)
    assert relative(events.weight_gradient(grad, x), grad.double().t() @ x.double()) < 1e-6


def gradients(layer, x, weights):
    x = x.clone().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment(), sc.SignSymmetry()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_the_same_by_events(pathway, bias, monkeypatch):
    layer = sc.Linear(90, 70, bias=bias, pathway=pathway)
    x, weights = spikes(5, 16, 90), torch.randn(5, 16, 70)
    counted = []
    product = events.product
    monkeypatch.setattr(events, "product", lambda *a: counted.append(1) or product(*a))
    found = gradients(layer, x, weights)
    assert counted == [1]
    monkeypatch.setattr(events, "DENSITY", 0.0)
    dense = gradients(layer, x, weights)
    assert counted == [1]
    for a, b in zip(found, dense, strict=True):
        assert a.shape == b.shape
        assert relative(a, b) < 1e-6


def test_a_wrong_weight_gradient_would_be_noticed(monkeypatch):
    """The mutation: events of the rows shifted by one."""
    gradient = events.weight_gradient
    monkeypatch.setattr(events, "weight_gradient", lambda grad, x: gradient(grad, x.roll(1, 0)))
    with pytest.raises(AssertionError):
        test_a_layer_gives_the_same_by_events(None, True, monkeypatch)


@pytest.mark.parametrize(
    ("change", "by_events"),
    [
        (lambda x, w: (x, w), True),
        (lambda x, w: (1 - x, w), False),  # dense
        (lambda x, w: (x.double(), w.double()), False),
        (lambda x, w: (x[:10], w), False),  # small
        (lambda x, w: (x, w[:10]), False),
        (lambda x, w: (x.bfloat16(), w.bfloat16()), False),
    ],
)
def test_when_it_is_chosen(change, by_events):
    x, w = change(spikes(100, 80), torch.randn(70, 80))
    assert events.sparse(x, w) is by_events


def test_autocast_keeps_its_own_products():
    layer, x = sc.Linear(80, 70), spikes(100, 80)
    with torch.autocast("cpu", torch.bfloat16):
        assert not events.sparse(x, layer.weight)
        assert layer(x).dtype == torch.bfloat16


def test_without_numba_the_dense_product_serves(monkeypatch):
    monkeypatch.setattr(events, "_kernel", lambda: None)
    layer, x = sc.Linear(80, 70), spikes(100, 80)
    assert not events.sparse(x, layer.weight)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_step_that_runs_again_repeats_itself():
    torch.manual_seed(0)
    layer, x, weights = sc.Linear(300, 200), spikes(20, 64, 300), torch.randn(20, 64, 200)
    first = gradients(layer, x, weights)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        second = gradients(layer, x, weights)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first[0], second[0])  # each sum belongs to one thread
    assert torch.equal(first[2], second[2])


def test_second_derivatives(always):
    layer, x = sc.Linear(6, 5), spikes(4, 3, 6, density=0.5, graded=True)

    def penalty():
        y = layer(given)
        (g,) = torch.autograd.grad(y.square().sum(), given, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [given, layer.weight])

    given = x.clone().requires_grad_()
    found = penalty()
    events.DENSITY = 0.0  # the fixture puts it back
    for a, b in zip(found, penalty(), strict=True):
        assert relative(a, b) < 1e-5


def test_strange_layouts(always):
    layer = sc.Linear(7, 9)
    x = spikes(7, 3, 4, density=0.5).permute(1, 2, 0)
    weights = torch.randn(9, 3, 4).permute(1, 2, 0)
    found = gradients(layer, x, weights)
    events.DENSITY = 0.0
    for a, b in zip(found, gradients(layer, x, weights), strict=True):
        assert relative(a, b) < 1e-6
    empty = layer(x[:0])
    assert empty.shape == (0, 4, 9)


def test_nan_and_infinity_in_the_events_go_through(always):
    x, layer = spikes(4, 6, density=0.5), sc.Linear(6, 5)
    x[1, 2], x[3, 0] = float("nan"), float("inf")
    assert torch.equal(layer(x).isnan(), F.linear(x, layer.weight, layer.bias).isnan())
    assert torch.equal(layer(x).isinf(), F.linear(x, layer.weight, layer.bias).isinf())

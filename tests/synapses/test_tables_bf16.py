"""Dense layers on spikes in bfloat16, by tables where the processor has no AMX: products, gradients, and the choice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.synapses import events

HALF = torch.bfloat16


@pytest.fixture
def small(monkeypatch):
    """As if little work were worth it, on a processor without AMX."""
    monkeypatch.setattr(events, "SIDE", 8)
    monkeypatch.setattr(events, "LEAST_IN_BF16", (1, 1))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def spikes(*shape, density=0.5, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < density).float()


@settings(max_examples=60)
@given(
    rows=st.integers(1, 90),
    inputs=st.integers(1, 70),
    outputs=st.sampled_from([1, 7, 16, 17, 40, 64, 70, 130]),
    dtype=st.sampled_from([torch.float32, HALF]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_products_are_the_exact_ones_rounded_once(rows, inputs, outputs, dtype, bias, seed):
    """Weights are integers: every order of the sums in float32 gives one sum, of which bfloat16 is the nearest."""
    generator = torch.Generator().manual_seed(seed)
    x = spikes(rows, inputs, seed=seed)
    w = torch.randint(-99, 100, (outputs, inputs), generator=generator).to(HALF)
    b = torch.randint(-99, 100, (outputs,), generator=generator).to(HALF) if bias else None
    y, way, kept = events.product(x.to(dtype), w, b, "tables")
    exact = F.linear(x.double(), w.double(), None if b is None else b.double())
    assert way == "tables"
    assert y.dtype == HALF
    assert torch.equal(y, exact.to(HALF))
    grad = torch.randint(-99, 100, (rows, outputs), generator=generator).to(HALF)
    found = events.weight_gradient(grad, kept, inputs, "tables")
    assert torch.equal(found.double(), grad.double().t() @ x.double())


@pytest.mark.parametrize("value", [0.5, -1.0, -0.0, 2.0, torch.nan])
def test_what_is_no_spike_goes_the_dense_way(value):
    x, w = spikes(70, 20).to(HALF), torch.randn(30, 20).to(HALF)
    x[50, 7] = value
    y, way, kept = events.product(x, w, None, "tables")
    assert way == "dense"
    torch.testing.assert_close(y, F.linear(x, w), rtol=0, atol=0, equal_nan=True)
    assert kept.dtype == HALF


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment(), sc.SignSymmetry()])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("graded", [False, True])
def test_a_layer_under_autocast(pathway, dtype, graded, small, monkeypatch):
    """Output, gradients and their types are those of the dense way; `graded`: one entry that is no spike, unseen by the
    sample."""
    torch.manual_seed(0)
    layer, x, errors = sc.Linear(80, 70, pathway=pathway), spikes(5, 40, 80).to(dtype), torch.randn(5, 40, 70)
    if graded:
        x[3, 1, 5] = 0.5
    ways, product = [], events.product

    def noted(*arguments):
        found = product(*arguments)
        ways.append((arguments[3], found[1]))
        return found

    def outcome():
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", HALF):
            y = layer(given)
        (y.float() * errors).sum().backward()
        found = y.detach(), given.grad, layer.weight.grad, layer.bias.grad
        layer.zero_grad()
        return found

    monkeypatch.setattr(events, "product", noted)
    monkeypatch.setattr(events, "SAMPLE", 2)  # rows 0 and 100
    found = outcome()
    assert ways == [("tables", "dense" if graded else "tables")]
    monkeypatch.setattr(events, "way", lambda *_: "dense")
    for one, other in zip(found, outcome(), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-6, atol=2**-6 * float(other.abs().max()))


def test_a_layer_in_bfloat16_keeps_codes(small):
    layer, x = sc.Linear(80, 70).to(HALF), spikes(40, 80).to(HALF).requires_grad_()
    y = layer(x)
    assert y.grad_fn._raw_saved_tensors[0].data.dtype == torch.uint8
    torch.testing.assert_close(y.grad_fn.saved_tensors[0], x, rtol=0, atol=0)  # of the same type
    (g,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(g.float().square().sum(), layer.weight)
    other = layer.weight.detach().clone().requires_grad_()
    y = F.linear(x, other, layer.bias)
    (g,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(g.float().square().sum(), other)
    torch.testing.assert_close(second, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("change", "way"),
    [
        (lambda x, w: (x, w), "tables"),
        (lambda x, w: (x.float(), w), "dense"),
        (lambda x, w: (x.double(), w.double()), "dense"),
        (lambda x, w: (x.half(), w.half()), "dense"),
        (lambda x, w: (x / 2, w), "dense"),
        (lambda x, w: (x, w[:7]), "dense"),
        (lambda x, w: (x[:, :7], w[:, :7]), "dense"),
        (lambda x, w: (torch.zeros_like(x), w), "tables"),
    ],
)
def test_when_they_are_chosen(change, way, small):
    x, w = change(spikes(100, 80).to(HALF), torch.randn(70, 80).to(HALF))
    assert events.way(x, w) == way


def test_with_amx_products_are_torchs(small, monkeypatch):
    x, w = spikes(100, 80).to(HALF), torch.randn(70, 80).to(HALF)
    assert events.way(x, w) == "tables"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert events.way(x, w) == "dense"


@pytest.mark.parametrize(
    ("rows", "outputs", "way"), [(3200, 1000, "tables"), (2047, 1000, "dense"), (3200, 300, "dense")]
)
def test_where_they_would_not_pay_the_product_is_dense(rows, outputs, way, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert events.way(spikes(rows, 784).to(HALF), torch.empty(outputs, 784, dtype=HALF)) == way


def test_autocast_decides_the_type(small):
    """Spikes and weights in float32, or in two types, are multiplied in bfloat16; float64 stays."""
    x, w = spikes(100, 80), torch.randn(70, 80)
    with torch.autocast("cpu", HALF):
        assert events.multiplied(x, w) == events.multiplied(x.to(HALF), w) == HALF
        assert events.multiplied(x.double(), w.double()) is None
    with torch.autocast("cpu", torch.float16):
        assert events.multiplied(x, w) is None
    assert events.multiplied(x, w) == torch.float32
    assert events.multiplied(x.to(HALF), w) is None

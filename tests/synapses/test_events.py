"""Products by events and by tables: equal to the dense ones, chosen where they pay, differentiable as the dense is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import spikecredit as sc
from spikecredit.synapses import events


def spikes(*shape, density=0.1, seed=0, graded=False):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(*shape, generator=generator) < density).float()
    return x * torch.randn(*shape, generator=generator) if graded else x


SMALL = {"events": (1, 1), "tables": (64, 1)}


@pytest.fixture
def small(monkeypatch):
    """As if a few rows were worth it."""
    monkeypatch.setattr(events, "SIDE", 64)
    monkeypatch.setattr(events, "LEAST", SMALL)


@pytest.fixture
def always(monkeypatch):
    """Every float32 product by events, however small or dense."""
    monkeypatch.setattr(events, "DENSITY", 2.0)
    monkeypatch.setattr(events, "TABLES_FROM", 2.0)
    monkeypatch.setattr(events, "SIDE", 1)
    monkeypatch.setattr(events, "LEAST", SMALL)


def relative(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    inputs=st.integers(1, 70),
    outputs=st.sampled_from([1, 7, 16, 17, 40, 64, 1030]),
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
    grad = torch.randn(rows, outputs)
    backwards = grad.double().t() @ x.double(), grad.double().abs().t() @ x.double().abs()
    for way in ["dense", "events"] + ["tables"] * (not graded) + ["narrow"] * (outputs <= 16):
        y, took, kept = events.product(x, w, b, way)
        assert took == way and bool(((y.double() - wanted).abs() <= 1e-6 * terms).all())
        assert kept.nbytes <= (rows * (inputs / 4 + 8) if way == "tables" else x.nbytes)
        found = events.weight_gradient(grad, kept, inputs, way).double()
        assert found.shape == w.shape and bool(((found - backwards[0]).abs() <= 1e-6 * backwards[1]).all())
        if way == "tables":
            assert torch.equal(events.kernels()[1].decoded(kept.numpy(), inputs), x)


def test_more_rows_than_a_chunk():
    x, grad = spikes(2 * events.CHUNK + 5, 70, density=0.3), torch.randn(2 * events.CHUNK + 5, 66)
    for way in ("events", "tables"):
        weight = torch.randn(66, 70)
        y, _, kept = events.product(x, weight, None, way)
        assert relative(y, x.double() @ weight.double().t()) < 1e-6
        assert relative(events.weight_gradient(grad, kept, 70, way), grad.double().t() @ x.double()) < 1e-6


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0, float("nan"), float("inf"), 1e-30])
def test_tables_are_of_zeros_and_ones_only(wrong):
    """One other entry among many, which no sample need see: the dense product serves."""
    x, w = spikes(300, 81, density=0.5), torch.randn(70, 81)
    for place in ((0, 0), (299, 80), (150, 80), (7, 13)):
        graded = x.clone()
        graded[place] = wrong
        y, took, kept = events.product(graded, w, None, "tables")
        assert took == "dense" and torch.equal(y.nan_to_num(), F.linear(graded, w).nan_to_num())
        assert kept.data_ptr() == graded.data_ptr()
        y, took, kept = events.product(graded, w[:16], None, "tables")
        assert took == "narrow" and torch.allclose(y, F.linear(graded, w[:16]), 1e-4, 1e-4, equal_nan=True)


def test_what_goes_by_addresses_checks_what_it_is_given():
    tables = events.kernels()[1]
    x, w = spikes(100, 80), torch.randn(80, 70)
    codes = tables.code_rows(x)
    assert relative(tables.product(codes, w), x @ w) < 1e-6
    for wrong in (w[:, :0].contiguous(), torch.randn(70, 80).t(), w.double(), torch.randn(200, 70), w.to("meta")):
        with pytest.raises(ValueError, match="at least one column"):
            tables.product(codes, wrong)


def gradients(run, layer, x, weights):
    x = x.clone().requires_grad_()
    y = run(x)
    return y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment(), sc.SignSymmetry()])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("density", "way"), [(0.05, "events"), (0.5, "tables")])
def test_a_layer_gives_the_same_by_every_way(pathway, bias, density, way, monkeypatch, small):
    layer = sc.Linear(90, 70, bias=bias, pathway=pathway)
    x, weights = spikes(5, 16, 90, density=density), torch.randn(5, 16, 70)
    taken = []
    gradient = events.weight_gradient
    monkeypatch.setattr(events, "weight_gradient", lambda *a: taken.append(a[-1]) or gradient(*a))
    found = gradients(layer, layer, x, weights)
    assert taken == [way]
    monkeypatch.setattr(events, "LEAST", {})
    dense = gradients(layer, layer, x, weights)
    assert "events" not in taken[1:] and "tables" not in taken[1:]
    for a, b in zip(found, dense, strict=True):
        assert a.shape == b.shape
        assert relative(a, b) < 1e-6


def test_a_readout_gives_the_same_by_the_narrow_way(monkeypatch):
    layer = sc.Linear(1003, 11, pathway=sc.FeedbackAlignment())
    x, weights = torch.randn(9, 57, 1003), torch.randn(9, 57, 11)
    assert events.way(x, layer.weight) == "narrow"
    found = gradients(layer, layer, x, weights)
    monkeypatch.setattr(events, "NARROW", 0)
    assert events.way(x, layer.weight) == "dense"
    for a, b in zip(found, gradients(layer, layer, x, weights), strict=True):
        assert a.shape == b.shape and relative(a, b) < 3e-6  # sums of 1003 terms


def test_a_number_that_is_none_stays_in_its_row_and_column():
    x, grad, layer = torch.randn(600, 1000), torch.randn(600, 10), sc.Linear(1000, 10)
    x[5, 999], x[599, 3] = float("nan"), float("inf")
    assert events.way(x, layer.weight) == "narrow"
    y = layer(x)
    assert y[5].isnan().all() and y[599].isinf().all() and y.isfinite().all(1).sum() == 598
    g = events.weight_gradient(grad, x, 1000, "narrow")
    assert g[:, 999].isnan().all() and g[:, 3].isinf().all() and g.isfinite().all(0).sum() == 998


def test_a_wrong_weight_gradient_would_be_noticed(monkeypatch, small):
    """The mutation: events of the rows shifted by one."""
    gradient = events.weight_gradient
    monkeypatch.setattr(events, "weight_gradient", lambda grad, kept, *way: gradient(grad, kept.roll(1, 0), *way))
    with pytest.raises(AssertionError):
        test_a_layer_gives_the_same_by_every_way(None, True, 0.5, "tables", monkeypatch, None)


@pytest.mark.parametrize(
    ("change", "way"),
    [
        (lambda x, w: (x, w), "events"),
        (lambda x, w: (x / 2, w), "events"),
        (lambda x, w: (1 - x, w), "tables"),
        (lambda x, w: (torch.ones_like(x), w), "tables"),
        (lambda x, w: (torch.zeros_like(x), w), "events"),
        (lambda x, w: ((1 - x) / 2, w), "dense"),
        (lambda x, w: (x.double(), w.double()), "dense"),
        (lambda x, w: (x[:60], w), "events"),
        (lambda x, w: (1 - x[:60], w), "dense"),  # few rows
        (lambda x, w: (1 - x, w[:10]), "dense"),
        (lambda x, w: (spikes(12500, 80), w[:63]), "tables"),
        (lambda x, w: (spikes(12500, 80), w[:10]), "tables"),
        (lambda x, w: (spikes(12500, 80).mul(2), w[:10]), "narrow"),
        (lambda x, w: (spikes(12500, 80).mul(2), w[:63]), "dense"),
        (lambda x, w: (spikes(12499, 80), w[:63]), "dense"),
        (lambda x, w: (spikes(12499, 80), w[:10]), "narrow"),
        (lambda x, w: (torch.randn(6250, 80), w[:16]), "narrow"),
        (lambda x, w: (torch.randn(80, 6250).t(), w[:16]), "dense"),
        (lambda x, w: (torch.randn(6249, 80), w[:16]), "dense"),
        (lambda x, w: (torch.randn(6250, 80), w[:17]), "dense"),
        (lambda x, w: (x.bfloat16(), w.bfloat16()), "dense"),
    ],
)
def test_when_it_is_chosen(change, way, small):
    x, w = change(spikes(100, 80, density=0.05), torch.randn(70, 80))
    assert events.way(x, w) == way


@pytest.mark.parametrize(
    ("shape", "density", "way"),
    [
        ((3200, 784, 1000), 0.05, "events"), ((3200, 784, 1000), 0.5, "tables"), ((500, 784, 1000), 0.5, "dense"),
        ((600, 200, 200), 0.5, "dense"), ((600, 200, 200), 0.05, "events"), ((127, 1000, 1000), 0.05, "dense"),
        ((200, 100, 100), 0.05, "dense"), ((100_000, 127, 128), 0.5, "dense"),
    ],
)  # fmt: skip
def test_where_it_would_not_pay_the_product_is_dense(shape, density, way):
    rows, inputs, outputs = shape
    assert events.way(spikes(rows, inputs, density=density), torch.empty(outputs, inputs)) == way


def test_autocast_keeps_its_own_products(small):
    layer, x = sc.Linear(80, 70), spikes(100, 80)
    with torch.autocast("cpu", torch.bfloat16):
        assert events.way(x, layer.weight) == "dense"
        assert layer(x).dtype == torch.bfloat16


def test_without_numba_the_dense_product_serves(monkeypatch, small):
    monkeypatch.setattr(events, "kernels", lambda: None)
    layer, x = sc.Linear(80, 70), spikes(100, 80)
    assert events.way(x, layer.weight) == "dense"
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_a_step_that_runs_again_repeats_itself(density, small):
    torch.manual_seed(0)
    layer, x, weights = sc.Linear(300, 200), spikes(20, 64, 300, density=density), torch.randn(20, 64, 200)
    first = gradients(layer, layer, x, weights)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        second = gradients(layer, layer, x, weights)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first[0], second[0])  # each sum belongs to one thread
    assert torch.equal(first[2], second[2])


def test_transforms_of_torch_func_keep_the_dense_product(small):
    layer, x = sc.Linear(80, 70), spikes(3, 100, 80, density=0.5)
    assert events.way(x[0], layer.weight) == "tables"
    torch.testing.assert_close(torch.func.vmap(layer)(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("shape", [(700, 1000, 10), (700, 90, 70)])
def test_a_batch_of_gradients_takes_the_dense_products(shape, small):
    rows, inputs, outputs = shape
    layer, x = sc.Linear(inputs, outputs), spikes(rows, inputs, density=0.5)
    assert events.way(x, layer.weight) in ("narrow", "tables")
    y, errors = layer(x), torch.randn(3, rows, outputs)
    (found,) = torch.autograd.grad(y, layer.weight, errors, is_grads_batched=True)
    torch.testing.assert_close(found, errors.transpose(1, 2) @ x, rtol=1e-4, atol=1e-3)


def test_the_smallest_convolution_by_tables_fills_a_tile():
    assert events.TILE == events.kernels()[1].TILE


def test_second_derivatives(always):
    layer, x = sc.Linear(6, 5), spikes(4, 3, 6, density=0.5, graded=True)

    def penalty():
        y = layer(given)
        (g,) = torch.autograd.grad(y.square().sum(), given, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [given, layer.weight])

    given = x.clone().requires_grad_()
    found = penalty()
    events.DENSITY = 0.0  # graded, so that tables do not serve; the fixture puts it back
    for a, b in zip(found, penalty(), strict=True):
        assert relative(a, b) < 1e-5


def test_strange_layouts(always):
    layer = sc.Linear(7, 9)
    x = spikes(7, 3, 4, density=0.5).permute(1, 2, 0)
    weights = torch.randn(9, 3, 4).permute(1, 2, 0)
    found = gradients(layer, layer, x, weights)
    events.DENSITY = 0.0
    for a, b in zip(found, gradients(layer, layer, x, weights), strict=True):
        assert relative(a, b) < 1e-6
    empty = layer(x[:0])
    assert empty.shape == (0, 4, 9)


def test_nan_and_infinity_in_the_events_go_through(always):
    x, layer = spikes(4, 6, density=0.5), sc.Linear(6, 5)
    x[1, 2], x[3, 0] = float("nan"), float("inf")
    assert torch.equal(layer(x).isnan(), F.linear(x, layer.weight, layer.bias).isnan())
    assert torch.equal(layer(x).isinf(), F.linear(x, layer.weight, layer.bias).isinf())


def second_derivatives(run, layer, x):
    """Of both gradients, so that x itself is needed again."""
    given = x.clone().requires_grad_()
    g, g_weight = torch.autograd.grad(run(given).square().sum(), [given, layer.weight], create_graph=True)
    return torch.autograd.grad(g.square().sum() + g_weight.square().sum(), [given, *layer.parameters()])


def test_second_derivatives_by_tables(small):
    layer, x = sc.Linear(70, 66), spikes(4, 20, 70, density=0.5)
    assert events.way(x, layer.weight) == "tables"
    dense = second_derivatives(lambda given: F.linear(given, layer.weight, layer.bias), layer, x)
    for a, b in zip(second_derivatives(layer, layer, x), dense, strict=True):
        assert relative(a, b) < 1e-5


def test_a_weight_that_is_infinite_is_not_added_where_nothing_spikes(small):
    x, layer = spikes(100, 80, density=0.5), sc.Linear(80, 70)
    with torch.no_grad():
        layer.weight[3, 5] = float("inf")
        y = layer(x)
    assert torch.equal(y[:, 3].isinf(), x[:, 5] == 1) and not y.isnan().any()


def references(alias):
    """How many tensors share this one's memory, itself left out."""
    return torch._C._storage_Use_Count(alias.untyped_storage()._cdata) - 2


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
@pytest.mark.parametrize(("wrong", "kept"), [(1.0, 0), (0.5, 1)])
def test_of_spikes_codes_are_kept(pathway, wrong, kept, small):
    """The memory of x is free after the forward pass, unless an entry is neither 0 nor 1."""
    layer, source = sc.Linear(80, 70, pathway=pathway), spikes(100, 80, density=0.5).requires_grad_()
    x = source * 1.0
    with torch.no_grad():
        x[7, 3] = wrong
    alias = x.detach()
    y = layer(x)
    del x
    assert references(alias) == kept
    first = torch.autograd.grad(y.sum(), [source, layer.weight], retain_graph=True)
    second = torch.autograd.grad(y.sum(), [source, layer.weight])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert relative(first[1], alias.double().sum(0).expand(70, 80)) < 1e-6
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), layer.weight)


def test_hooks_on_saved_tensors_get_x_itself(small):
    layer, x, held = sc.Linear(80, 70), spikes(100, 80, density=0.5), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: held.append(v) or v, lambda v: v):
        y = layer(x)
    assert any(v is x for v in held)
    (found,) = torch.autograd.grad(y.sum(), layer.weight)
    assert relative(found, x.sum(0).expand(70, 80)) < 1e-6


def test_checkpoints_of_torch(small):
    layer, x, weights = sc.Linear(80, 70), spikes(5, 20, 80, density=0.5), torch.randn(5, 20, 70)
    found = gradients(lambda given: checkpoint(layer, given, use_reentrant=False), layer, x, weights)
    for a, b in zip(found, gradients(layer, layer, x, weights), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("outputs", [3, 20, 64])
def test_a_layer_of_few_outputs_gives_the_same_by_tables(outputs, monkeypatch):
    layer = sc.Linear(1003, outputs, pathway=sc.FeedbackAlignment())
    x, weights = spikes(20, 57, 1003, density=0.1), torch.randn(20, 57, outputs)
    assert events.way(x, layer.weight) == "tables"
    found = gradients(layer, layer, x, weights)
    monkeypatch.setattr(events, "kernels", lambda: None)
    assert events.way(x, layer.weight) == "dense"
    for a, b in zip(found, gradients(layer, layer, x, weights), strict=True):
        assert a.shape == b.shape and relative(a, b) < 3e-6

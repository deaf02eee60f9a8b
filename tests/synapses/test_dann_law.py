"""DANN layers under Dale's law, what they refuse, and that they are layers like the others. Equation: test_dann.py."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.constraints import Unconstrained
from spikecredit.synapses import ConstraintWarning
from spikecredit.synapses.dann import inhibitory_units
from spikecredit.synapses.pooled import fusable

# ---- Dale's law ------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.integers(1, 6),
)
@settings(max_examples=25, deadline=None)
def test_no_step_of_any_optimiser_breaks_the_law(kind, inputs, outputs, n_i, divisive, convolution, steps):
    torch.manual_seed(inputs + 100 * outputs)
    layer = (
        sc.DANNConv2d(inputs, outputs, 2, inhibitory=n_i, divisive=divisive)
        if convolution
        else sc.DANNLinear(inputs, outputs, n_i, divisive=divisive)
    )
    optimizer = OPTIMIZERS[kind](layer.parameters())
    sc.attach(layer, optimizer)
    x = torch.rand(4, inputs, *((3, 3) if convolution else ()))
    for _ in range(steps):
        optimizer.zero_grad()
        y = layer(x)
        F.mse_loss(y, torch.randn_like(y)).backward()
        optimizer.step()
        constrained = layer.weight, layer.weight_ix, layer.weight_ei, *([layer.gain] if divisive else [])
        assert all((p >= 0).all() for p in constrained)
        assert layer.violations() == 0


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_without_projection_the_law_breaks_is_counted_and_warned_of(kind):
    torch.manual_seed(0)
    layer = sc.DANNLinear(10, 8, 2)
    optimizer = OPTIMIZERS[kind](layer.parameters())
    x = torch.rand(16, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstraintWarning)
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(layer(x), torch.randn(16, 8)).backward()
            optimizer.step()
    assert layer.violations() > 0
    fresh = copy.deepcopy(layer)
    fresh._warned = False
    with torch.no_grad():
        fresh.weight.sub_(0.1)
    with pytest.warns(ConstraintWarning, match="Dale's law .W_EX, W_IX, W_EI and g must be 0 or above"):
        fresh(x)
    sc.after_step(fresh, torch.optim.SGD(fresh.parameters(), 0.1))
    assert fresh.violations() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh(x)


@pytest.mark.parametrize("name", ["weight", "weight_ix", "weight_ei", "gain"])
def test_each_of_the_four_is_counted_warned_of_and_projected(name):
    layer = sc.DANNLinear(5, 4, 2)
    layer(torch.rand(2, 5))  # from here on it is known what moved
    with torch.no_grad():
        getattr(layer, name).view(-1)[1] = -0.5
        layer.alpha.fill_(-1.0)  # the exponent is free
    assert layer.violations() == 1
    with pytest.warns(ConstraintWarning):
        layer(torch.rand(2, 5))
    sc.after_step(layer, torch.optim.SGD([getattr(layer, name)], 0.1))  # an optimiser that owns this one only
    assert layer.violations() == 0 and (layer.alpha == -1).all()


def test_after_step_leaves_layers_of_others_alone():
    net = torch.nn.ModuleList([sc.DANNLinear(3, 4, 1), sc.DANNLinear(4, 2, 1)])
    with torch.no_grad():
        for layer in net:
            layer.weight_ei[0] = -1.0
    sc.after_step(net, torch.optim.SGD(net[0].parameters(), 0.1))
    assert [layer.violations() for layer in net] == [0, 1]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", [sc.Dale(), sc.Dale(mode="reparametrize"), sc.FrozenSigns()])
def test_other_constraints_are_refused(constraint):
    with pytest.raises(ValueError, match=r"obeys Dale's law by itself.*Write constraint=None"):
        sc.Network(sc.Linear(3, 4), sc.ReLU(), sc.DANNLinear(4, 2), constraint=constraint)
    sc.Network(sc.Linear(3, 4), sc.ReLU(), sc.DANNLinear(4, 2), constraint=Unconstrained())


def test_convert_refuses_before_it_changes_anything():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), sc.DANNLinear(4, 2))
    with pytest.raises(ValueError, match="obeys Dale's law by itself"):
        sc.convert(model, constraint=sc.Dale())
    assert type(model[0]) is torch.nn.Linear
    before = [p.clone() for p in model.parameters()]
    sc.convert(model, pathway=sc.FeedbackAlignment())
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert model[2].feedback_weight is not None


@pytest.mark.parametrize("pathway", [sc.KolenPollack(), sc.LocalAlignment(rule="kolen_pollack")])
def test_tied_feedback_is_refused(pathway):
    with pytest.raises(ValueError, match=r"made from three.*SignSymmetry"):
        sc.DANNLinear(3, 4, pathway=pathway)


def test_negative_inputs_are_refused():
    for layer, shape in ((sc.DANNLinear(3, 4), (2, 3)), (sc.DANNConv2d(3, 4, 1), (2, 3, 2, 2))):
        with pytest.raises(ValueError, match="normalise: false"):
            layer(-torch.ones(shape))
        layer(torch.ones(shape))


def test_the_number_of_inhibitory_units():
    assert [inhibitory_units(n, 50) for n in (3, 0.1, 0.001, 1.0, 200)] == [3, 5, 1, 50, 200]
    assert inhibitory_units(0.1, 60, 4) == 8 and inhibitory_units(8, 60, 4) == 8
    for wrong, error in ((0, ValueError), (-1, ValueError), (0.0, ValueError), (1.5, ValueError), (True, TypeError)):
        with pytest.raises(error, match="inhibitory"):
            sc.DANNLinear(3, 4, wrong)
    with pytest.raises(ValueError, match="a multiple of 2"):
        sc.DANNConv2d(4, 4, 1, groups=2, inhibitory=3)
    with pytest.raises(ValueError, match="initialisation must be"):
        sc.DANNLinear(3, 4, initialisation="he")
    assert "inhibitory=2" in repr(sc.DANNLinear(3, 20)) and "divisive=False" in repr(
        sc.DANNLinear(3, 9, divisive=False)
    )


# ---- a layer like the others -----------------------------------------------------------------------------------------


def small(**options):
    torch.manual_seed(0)
    layers = sc.DANNConv2d(1, 4, 3), sc.AvgPool2d(2), sc.LIF(5.0), sc.Flatten(), sc.DANNLinear(36, 10)
    return sc.Network(*layers, sc.LeakyReadout(5.0), seed=1, **options)


def test_the_state_comes_back():
    net, other = small(), small()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    other.load_state_dict(net.state_dict())
    x = torch.rand(4, 2, 1, 8, 8)
    assert torch.equal(net(x), other(x))
    assert {"layers.4.weight_ix", "layers.4.weight_ei", "layers.4.alpha", "layers.4.gain"} <= set(net.state_dict())


def test_a_network_leaves_the_weights_as_they_came():
    layer = sc.DANNLinear(5, 4, 2, pathway=sc.FeedbackAlignment())
    before = {name: p.clone() for name, p in layer.named_parameters()}
    sc.Network(layer, seed=0)
    sc.Network(layer, seed=1)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


def test_a_constant_input_passes_once_and_means_the_same():
    net = small(pathway=sc.SignSymmetry())
    x = torch.rand(1, 3, 1, 8, 8).expand(6, -1, -1, -1, -1)
    torch.testing.assert_close(net(x), net(x.contiguous()), rtol=1e-5, atol=1e-5)


def test_it_is_not_fused_with_a_pool():
    assert fusable(sc.Conv2d(1, 4, 3), sc.MaxPool2d(2)) and not fusable(sc.DANNConv2d(1, 4, 3), sc.MaxPool2d(2))


@pytest.mark.parametrize("pathway", [sc.Backprop(), sc.FeedbackAlignment()])
def test_autocast_to_bf16(pathway):
    net = small(pathway=pathway)
    x = torch.rand(4, 2, 1, 8, 8)
    layer = net.layers[4]
    full, exact = layer(torch.ones(3, 36)).detach(), layer.effective_weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.effective_weight(), exact)  # a difference of rounded numbers would not be it
        half = layer(torch.ones(3, 36))
        assert half.dtype == torch.bfloat16
        net(x).float().square().sum().backward()
    assert (half.float() - full).abs().max() < 0.03 * full.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("pathway", [sc.Backprop(), sc.SignSymmetry()])
def test_it_compiles_as_one_graph(pathway):
    torch._dynamo.reset()
    net = small(pathway=pathway)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.rand(4, 2, 1, 8, 8)
    for run in (net, compiled):
        run(x).mean(0).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q[1].grad, rtol=1e-5, atol=1e-6, msg=name)


def test_no_bias_and_no_batch_dimension():
    layer = sc.DANNLinear(5, 4, 2, bias=False, pathway=sc.FeedbackAlignment())
    x = torch.rand(5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (5,) and layer.bias is None

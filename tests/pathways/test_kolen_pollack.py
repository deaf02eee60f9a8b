"""Kolen-Pollack: B receives W's increments, so that W - B follows a law that the optimiser alone decides."""

import copy
import math

import numpy as np
import pytest
import torch
from feedback_oracles import relative, spiking_gradients
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.synapses import LearningWarning, synapse
from spikecredit.synapses.pooled import conv_pool, fusable
from spikecredit.synapses.synapse import _Tie

KP = sc.KolenPollack()


def parameters(layer):
    """The weights in one group with B, as the optimiser of a whole network has them."""
    return [layer.weight, layer.feedback_weight]


def trained(make_optimizer, steps, every=1, change=None):
    """|W - B| / |W_0 - B_0| at every step of a dense layer under random errors, and the layer."""
    torch.manual_seed(0)
    layer = sc.Linear(30, 40, bias=False, pathway=KP).double()
    with torch.no_grad():
        for tensor in parameters(layer):
            tensor.copy_(torch.randn(40, 30, dtype=torch.float64))
    if change is not None:
        change(layer)
    optimizer = make_optimizer(parameters(layer))
    first, ratios = torch.dist(layer.weight, layer.feedback_weight).detach(), []
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randn(8, 30, dtype=torch.float64)).backward(torch.randn(8, 40, dtype=torch.float64))
        optimizer.step()
        ratios.append(float(torch.dist(layer.weight, layer.feedback_weight).detach() / first))
    return np.array(ratios), layer


def law_error(ratios, factor):
    wanted = factor ** np.arange(1, len(ratios) + 1)
    return np.abs(ratios / wanted - 1).max()


def sgd(decay=0.1, **options):
    return lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=decay, **options)


def test_under_sgd_the_difference_shrinks_by_a_constant_factor():
    """Known answer 8: lambda = 0.01, relative error <= 1e-11 at t = 1000; by then W and B are one."""
    ratios, layer = trained(sgd(), 1000)
    assert law_error(ratios, 0.99) <= 1e-11
    assert angle(layer.weight, layer.feedback_weight) < 0.01
    _, halfway = trained(sgd(), 500)
    assert 0.1 < angle(halfway.weight, halfway.feedback_weight) < 1


def test_without_decay_the_difference_stays():
    ratios, _ = trained(sgd(decay=0.0), 300)
    assert np.abs(ratios - 1).max() < 1e-12


def test_adamw_is_exact_and_adam_with_l2_is_not():
    """Known answer 8: 0.99^400 = 0.01795 by decoupled decay; coupled decay gets its own step size in W and in B."""
    exact, _ = trained(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=1.0), 400)
    assert exact[-1] == pytest.approx(0.01795, abs=5e-6)
    assert law_error(exact, 0.99) < 1e-11
    coupled, _ = trained(lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1.0), 400)
    assert law_error(coupled, 0.99) > 0.1


@pytest.mark.parametrize(("mu", "nesterov"), [(0.9, False), (0.5, False), (0.9, True)])
def test_momentum_with_coupled_decay_is_the_heavy_ball(mu, nesterov):
    ratios, _ = trained(sgd(decay=0.3, momentum=mu, nesterov=nesterov), 200)
    difference, velocity, wanted = 1.0, 0.0, []
    for _ in range(200):  # scalar: every entry of W - B obeys it, whatever the errors were
        gradient = 0.3 * difference
        velocity = mu * velocity + gradient
        difference -= 0.1 * (gradient + mu * velocity if nesterov else velocity)
        wanted.append(difference)
    np.testing.assert_allclose(ratios, np.abs(wanted), rtol=0, atol=1e-13)
    assert law_error(ratios, 0.97) > 0.1


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.floats(0.0, 0.9),
    st.integers(0, 99),
)
def test_the_law_holds_for_any_shape_and_decay(sizes, leading, decay, seed):
    torch.manual_seed(seed)
    layer = sc.Linear(*sizes, pathway=KP).double()
    optimizer = torch.optim.SGD(parameters(layer), lr=1.0, weight_decay=decay)
    first = (layer.weight - layer.feedback_weight).detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        layer(torch.randn(*leading, sizes[0], dtype=torch.float64)).square().sum().mul(0.01).backward()
        optimizer.step()
    difference = (layer.weight - layer.feedback_weight).detach()
    torch.testing.assert_close(difference, (1 - decay) ** 4 * first, rtol=1e-9, atol=1e-12)


def missing(ctx, grad):
    return grad, None


def transposed(ctx, grad):
    return grad, grad.flatten().view(grad.shape[::-1]).t().contiguous()


def halved(ctx, grad):
    return grad, grad / 2


@pytest.mark.filterwarnings("ignore::spikecredit.synapses.LearningWarning")  # noticed even earlier
@pytest.mark.parametrize("wrong", [missing, transposed, halved])
def test_the_law_notices_another_gradient_of_b(wrong, monkeypatch):
    monkeypatch.setattr(_Tie, "backward", staticmethod(wrong))
    ratios, _ = trained(sgd(), 50)
    assert law_error(ratios, 0.99) > 1e-2


# ---- B gets the gradient of W, in every layer ------------------------------------------------------------------------


def assert_tied(*layers):
    for layer in layers:
        w, b = layer.weight.grad, layer.feedback_weight.grad
        assert w is not None and b is not None and w.abs().max() > 0
        assert torch.equal(w, b)
        assert w.data_ptr() != b.data_ptr()  # clipping in place must not scale one tensor twice
        assert w.dtype == b.dtype == layer.weight.dtype


def test_a_spiking_network_has_the_gradients_of_the_written_out_rule():
    torch.manual_seed(0)
    lif = sc.LIF(tau=10.0, surrogate=sc.FastSigmoid(5.0))
    layers = sc.Linear(12, 20), lif, sc.Linear(20, 15), copy.deepcopy(lif), sc.Linear(15, 5), sc.LeakyReadout(tau=10.0)
    net = sc.Network(*layers, pathway=KP, seed=3).double()
    x, labels = 2 * torch.rand(25, 4, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    sc.losses.MeanPotential()(net(x), labels).backward()
    synapses = list(net.synapses().values())
    names = "weight", "bias", "feedback_weight"
    tensors = [[getattr(layer, name).detach().numpy() for layer in synapses] for name in names]
    g_weights, g_biases, spikes = spiking_gradients(x.numpy(), labels.numpy(), *tensors, math.exp(-0.1), 5.0)
    assert min(spikes) > 50
    for layer, g_weight, g_bias in zip(synapses, g_weights, g_biases, strict=True):
        assert relative(layer.weight.grad, torch.from_numpy(g_weight)) < 1e-12
        assert relative(layer.feedback_weight.grad, torch.from_numpy(g_weight)) < 1e-12
        assert relative(layer.bias.grad, torch.from_numpy(g_bias)) < 1e-12


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1, "bias": False},
    {"groups": 2, "dilation": 2},
    {"padding": "same", "kernel_size": (4, 2)},
    {"padding": 1, "padding_mode": "circular"},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions(geometry, memory_format):
    layer = sc.Conv2d(4, 6, pathway=KP, **{"kernel_size": 3, **geometry}).to(memory_format=memory_format)
    x = torch.randn(2, 3, 4, 9, 9)
    layer(x).square().sum().backward()
    assert_tied(layer)
    twin = sc.Conv2d(4, 6, pathway=sc.FeedbackAlignment(), **{"kernel_size": 3, **geometry})
    twin.load_state_dict(layer.state_dict())
    twin(x).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)


def test_a_convolution_and_its_pooling_in_one():
    conv, pool = sc.Conv2d(3, 4, 3, pathway=KP), sc.MaxPool2d(2)
    assert fusable(conv, pool)
    conv_pool(conv, pool, torch.randn(7, 3, 9, 9)).square().sum().backward()
    assert_tied(conv)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_recurrent_synapses_fused_and_step_by_step(backend):
    layer = sc.RecurrentLinear(6, 20, sc.LIF(tau=8.0, backend=backend), pathway=KP).double()
    layer(2 * torch.rand(10, 4, 6, dtype=torch.float64)).sum().backward()
    assert_tied(layer.input, layer.recurrent)


@pytest.mark.parametrize("convolution", [False, True])
def test_half_precision(convolution):
    layer, x = sc.Linear(40, 30, pathway=KP), torch.randn(8, 40)
    if convolution:
        layer, x = sc.Conv2d(4, 6, 3, pathway=KP), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert_tied(layer)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled():
    conv = sc.Conv2d(1, 4, 3), sc.BatchNorm2d(4), sc.MaxPool2d(2), sc.LIF(5.0), sc.Flatten()
    net = sc.Network(*conv, sc.Linear(36, 5), sc.LeakyReadout(5.0), pathway=KP, seed=1)
    twin = copy.deepcopy(net)
    x = 2 * torch.rand(6, 4, 1, 8, 8)
    torch.compile(twin, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    net(x).square().sum().backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    assert_tied(*twin.synapses().values())


def test_frozen_parts_get_no_gradient():
    layer, x = sc.Linear(6, 5, pathway=KP), torch.randn(3, 6, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.feedback_weight.grad is None and layer.bias.grad is not None
    layer.weight.requires_grad_()
    layer.feedback_weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.feedback_weight.grad is None


def test_gradients_accumulate_alike():
    layer = sc.Linear(6, 5, pathway=KP)
    for _ in range(3):
        layer(torch.randn(3, 6)).square().sum().backward()
    assert_tied(layer)


# ---- Dale's law ------------------------------------------------------------------------------------------------------


def dale_run(steps=60, momentum=0.0, **options):
    """By how much an entry of |W - B| exceeds 1 - lambda times what it was a step before, at most, and the network."""
    torch.manual_seed(0)
    layers = sc.Linear(8, 12), sc.ReLU(), sc.Linear(12, 12), sc.ReLU(), sc.Linear(12, 5)
    net = sc.Network(*layers, pathway=KP, constraint=sc.Dale(**options), seed=0).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=momentum, weight_decay=0.02)
    sc.attach(net, optimizer)
    inner, excess = list(net.synapses().values())[1:], -1.0

    def difference():
        return torch.cat([(layer.weight - layer.feedback_weight).detach().abs().flatten() for layer in inner])

    before = difference()
    assert net.violations() == 0
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = torch.randn(1, 16, 8, dtype=torch.float64), torch.arange(16) % 5
        sc.losses.MeanPotential()(net(x), y).backward()
        optimizer.step()
        assert net.violations() == 0
        after = difference()
        excess, before = max(excess, float((after - 0.99 * before).max())), after
    return excess, net


def test_projection_treats_w_and_b_alike():
    excess, net = dale_run()
    assert excess < 1e-15
    assert (net.layers[2].weight == 0).any()  # something was projected
    for layer in list(net.synapses().values())[1:]:
        assert (layer.feedback_weight * layer.presynaptic_sign >= 0).all()
    free = net.layers[0]  # sensory input is exempt
    assert (free.feedback_weight < 0).any() and (free.feedback_weight > 0).any()


def test_projection_holds_under_momentum():
    dale_run(momentum=0.9)


def test_projecting_w_alone_is_noticed(monkeypatch):
    monkeypatch.setattr(synapse.Synapse, "_feedback_side", lambda self: None)
    excess, _ = dale_run()
    assert excess > 1e-3


def test_feedback_of_the_errors_own_neurons_follows_its_rows():
    _, net = dale_run(feedback="own")
    for layer in list(net.synapses().values())[1:]:
        assert (layer.feedback_weight * layer.postsynaptic_sign >= 0).all()
        assert torch.equal(layer.pathway.feedback(layer), layer.feedback_weight)
    with torch.no_grad():
        layer.feedback_weight.neg_()
    assert net.violations() == int((layer.feedback_weight != 0).sum())


@pytest.mark.parametrize("magnitude", ["abs", "exp", "softplus"])
def test_a_reparametrised_weight_is_refused(magnitude):
    dale = sc.Dale(mode="reparametrize", magnitude=magnitude)
    with pytest.raises(ValueError, match=r"layers\.Linear1: KolenPollack.*no such parameter.*mode='project'"):
        sc.Network(sc.Linear(4, 4), sc.Linear(4, 4), pathway=KP, constraint=dale)
    sc.Network(sc.Linear(4, 4), pathway=KP, constraint=dale)  # the first layer is exempt, and so a plain weight


# ---- who owns B ------------------------------------------------------------------------------------------------------


def two_layers(**options):
    return sc.Network(sc.Linear(6, 8), sc.ReLU(), sc.Linear(8, 4), pathway=KP, seed=0, **options)


def step(net, optimizer):
    optimizer.zero_grad()
    net(torch.randn(1, 5, 6)).square().sum().backward()
    optimizer.step()


def test_an_optimiser_without_b_is_refused_after_its_step_and_warned_of_before():
    layers = sc.Linear(6, 8), sc.ReLU(), sc.Linear(8, 4)
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.1)  # made too early
    net = sc.Network(*layers, pathway=KP, seed=0)
    step(net, optimizer)
    with pytest.raises(ValueError, match=r"layers\.0: KolenPollack.*has only the weight.*net\.parameters\(\)"):
        sc.after_step(net, optimizer)
    with pytest.warns(LearningWarning, match=r"weight of Linear moved, and B did not") as caught:
        step(net, optimizer)
    assert len(caught) == 2  # once for each layer
    step(net, optimizer)


def test_w_and_b_share_a_group():
    net = two_layers()
    learned = [layer.feedback_weight for layer in net.synapses().values()]
    others = [p for p in net.parameters() if all(p is not b for b in learned)]
    optimizer = torch.optim.SGD([{"params": others}, {"params": learned, "weight_decay": 0.0}], lr=0.1)
    with pytest.raises(ValueError, match="different parameter groups"):
        sc.after_step(net, optimizer)
    sc.after_step(net, torch.optim.SGD(net.parameters(), lr=0.1))


def test_a_layer_bound_alone_keeps_its_parameter_in_a_network():
    layer = sc.Linear(6, 4, pathway=KP)
    own, optimizer = layer.feedback_weight, torch.optim.SGD(layer.parameters(), lr=0.1)
    net = sc.Network(layer, pathway=sc.Backprop(), seed=1)
    assert layer.feedback_weight is own
    assert torch.equal(own, sc.Network(sc.Linear(6, 4), pathway=KP, seed=1).layers[0].feedback_weight)
    step(net, optimizer)
    sc.after_step(net, optimizer)


def test_the_last_layer_by_backprop_keeps_no_feedback():
    net = two_layers(last_layer="backprop")
    assert net.layers[2].feedback_weight is None
    assert [name for name, _ in net.named_parameters() if "feedback" in name] == ["layers.0.feedback_weight"]


def test_scale_and_gain_are_those_of_the_initial_feedback():
    def initial(kind, **options):
        return sc.Network(sc.Linear(20, 30), pathway=kind(**options), seed=4).layers[0].feedback_weight

    for options in ({}, {"scale": "xiao"}, {"scale": "biotorch", "gain": 0.5}, {"gain": 3.0}):
        assert torch.equal(initial(sc.KolenPollack, **options), initial(sc.FeedbackAlignment, **options))
    assert torch.equal(initial(sc.KolenPollack, gain=3.0), 3 * initial(sc.KolenPollack))


def test_the_reported_alignment_is_that_of_w_and_b():
    net = two_layers()
    x, y = torch.randn(3, 5, 6), torch.arange(5) % 4
    before = {name: p.clone() for name, p in net.named_parameters()}
    for layer, reported in zip(net.synapses().values(), sc.analysis.alignment(net, x, y).values(), strict=True):
        assert reported.weight_angle == angle(layer.weight, layer.feedback_weight) != 0
        assert reported.feedback_norm == pytest.approx(float(layer.feedback_weight.detach().norm()))
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in net.named_parameters())


def test_feedback_alignment_becomes_backprop():
    """The error that Kolen-Pollack delivers turns into the true one; that of feedback alignment does not."""
    angles = {}
    for pathway in (KP, sc.FeedbackAlignment()):
        torch.manual_seed(0)
        net = sc.Network(sc.Linear(10, 20), sc.ReLU(), sc.Linear(20, 5), sc.LeakyReadout(), pathway=pathway, seed=0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.1)
        x, y = torch.randn(4, 32, 10), torch.arange(32) % 5
        for _ in range(400):
            optimizer.zero_grad()
            F.cross_entropy(net(x).mean(0), y).backward()
            optimizer.step()
        angles[type(pathway)] = sc.analysis.alignment(net, x, y)["layers.0"].error_angle
    assert angles[sc.KolenPollack] < 20 < 30 < angles[sc.FeedbackAlignment]

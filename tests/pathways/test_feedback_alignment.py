"""Feedback alignment: the delivered error uses B and nothing else changes."""

import itertools
import math

import numpy as np
import pytest
import torch
from feedback_oracles import conv_with_feedback, linear_with_feedback, relative, spiking_gradients, use
from torch import nn
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.synapses.conv import _FeedbackConv2d
from spikecredit.synapses.linear import _FeedbackLinear

FA = sc.FeedbackAlignment()
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def gradients(output, *tensors):
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum() + output.square().sum(), tensors)


def spiking_net(sizes=(12, 20, 15, 5), tau=10.0, **options):
    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [sc.Linear(a, b), sc.LIF(tau=tau, surrogate=sc.FastSigmoid(5.0))]
    return sc.Network(*layers, sc.Linear(*sizes[-2:]), sc.LeakyReadout(tau=tau), seed=3, **options).double()


def hand_rule_error(net, feedbacks=None):
    """Largest relative difference of the network's gradients from the written-out rule; all layers must spike."""
    x, labels = 2 * torch.rand(25, 4, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    sc.losses.MeanPotential()(net(x), labels).backward()
    synapses = list(net.synapses().values())
    feedbacks = feedbacks or [layer.pathway.feedback(layer) for layer in synapses]
    g_weights, g_biases, spikes = spiking_gradients(
        x.numpy(),
        labels.numpy(),
        [layer.weight.detach().numpy() for layer in synapses],
        [layer.bias.detach().numpy() for layer in synapses],
        [b.detach().numpy() for b in feedbacks],
        math.exp(-1 / 10.0),
        5.0,
    )
    assert min(spikes) > 50
    found = [layer.weight.grad for layer in synapses] + [layer.bias.grad for layer in synapses]
    wanted = map(torch.from_numpy, g_weights + g_biases)
    return max(itertools.starmap(relative, zip(found, wanted, strict=True)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tied_feedback_is_backprop_in_a_dense_network(dtype):
    ours = [sc.Linear(7, 9, pathway=FA), sc.Linear(9, 4, pathway=FA, bias=False)]
    for layer in ours:
        layer.to(dtype)
        use(layer, layer.weight)
    x = torch.randn(5, 3, 7, dtype=dtype, requires_grad=True)
    leaves = [x, ours[0].weight, ours[0].bias, ours[1].weight]
    hidden = F.linear(x, ours[0].weight, ours[0].bias).tanh()
    wanted = gradients(F.linear(hidden, ours[1].weight), *leaves)
    found = gradients(ours[1](ours[0](x).tanh()), *leaves)
    assert all(relative(f, w) <= TOLERANCE[dtype] for f, w in zip(found, wanted, strict=True))


GEOMETRIES = [
    {},
    {"stride": 2},
    {"stride": (2, 3), "padding": (2, 1)},
    {"padding": "same"},
    {"padding": "same", "kernel_size": (4, 2)},  # even: one side gets more
    {"padding": "same", "kernel_size": (4, 3), "dilation": (1, 2)},
    {"padding": "valid", "dilation": 2},
    {"groups": 2, "padding": 1},
    {"groups": 4, "stride": 2, "dilation": (2, 1)},
    {"padding": 2, "padding_mode": "circular"},
    {"padding": (1, 2), "padding_mode": "reflect", "stride": 2},
    {"padding": "same", "kernel_size": 4, "padding_mode": "replicate"},
    {"padding": "same", "kernel_size": 4, "padding_mode": "circular", "groups": 2},
    {"bias": False, "padding": 1},
]


def tied_conv_error(geometry, dtype=torch.float64):
    """Largest relative difference of FA with B = W from torch's convolution: output, and all gradients."""
    geometry = {"kernel_size": 3, **geometry}
    layer = sc.Conv2d(4, 8, pathway=FA, **geometry).to(dtype)
    use(layer, layer.weight)
    plain = nn.Conv2d(4, 8, **geometry).to(dtype)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in ("weight", "bias")})
    x = torch.randn(2, 4, 11, 10, dtype=dtype, requires_grad=True)
    y, wanted = layer(x), plain(x)
    both = zip(
        [y, *gradients(y, x, *layer.parameters())], [wanted, *gradients(wanted, x, *plain.parameters())], strict=True
    )
    return max(relative(f, w) for f, w in both)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_tied_feedback_is_backprop_in_a_convolution(geometry, dtype):
    assert tied_conv_error(geometry, dtype) <= TOLERANCE[dtype]


@pytest.mark.parametrize("ignored", ["dilation", "groups", "stride"])
def test_the_convolution_check_notices_ignored_geometry(ignored, monkeypatch):
    right = _FeedbackConv2d.backward
    neutral = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}

    def wrong(ctx, grad):
        names = ("stride", "padding", "dilation", "groups")
        ctx.geometry = tuple({**dict(zip(names, ctx.geometry, strict=True)), ignored: neutral[ignored]}.values())
        return right(ctx, grad)

    geometry = {"dilation": {"dilation": 2}, "groups": {"groups": 2}, "stride": {"stride": 2}}[ignored]
    assert tied_conv_error(geometry) < 1e-12
    monkeypatch.setattr(_FeedbackConv2d, "backward", staticmethod(wrong))
    try:
        error = tied_conv_error(geometry)
    except RuntimeError:  # shapes that do not fit: noticed too
        error = math.inf
    assert error > 1e-3


@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2}], ids=str)
def test_random_feedback_of_a_convolution(geometry):
    layer = sc.Conv2d(4, 6, 3, pathway=FA, **geometry).double()
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64, requires_grad=True)
    leaves = x, layer.weight, layer.bias
    wanted = conv_with_feedback(x, layer.weight, layer.bias, layer.feedback_weight, **geometry)
    found = gradients(layer(x), *leaves)
    assert all(relative(f, w) < 1e-12 for f, w in zip(found, gradients(wanted, *leaves), strict=True))
    true = gradients(F.conv2d(x, layer.weight, layer.bias, **geometry), *leaves)
    assert relative(found[0], true[0]) > 0.1  # the error differs from the true one
    assert relative(found[1], true[1]) < 1e-12  # the weight gradient does not


def test_random_feedback_of_a_dense_layer():
    layer = sc.Linear(6, 5, pathway=FA).double()
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    leaves = x, layer.weight, layer.bias
    wanted = gradients(linear_with_feedback(x, layer.weight, layer.bias, layer.feedback_weight), *leaves)
    found = gradients(layer(x), *leaves)
    assert all(relative(f, w) < 1e-12 for f, w in zip(found, wanted, strict=True))


def test_spiking_network_with_tied_feedback_is_bptt():
    """Three layers of weights, T = 25."""
    ours, plain = spiking_net(pathway=FA), spiking_net()
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if "feedback" not in k})
    for layer in ours.synapses().values():
        use(layer, layer.weight)
    x, labels = 2 * torch.rand(25, 4, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    assert ours.layers[:4][1](ours.layers[0](x)).sum() > 50
    for net in (ours, plain):
        sc.losses.MeanPotential()(net(x), labels).backward()
    for f, w in zip(ours.parameters(), plain.parameters(), strict=True):
        assert relative(f.grad, w.grad) <= 1e-12


@pytest.mark.parametrize(
    "pathway",
    [sc.Backprop(), FA, sc.SignSymmetry(), sc.SignSymmetry("fixed"), sc.SignSymmetry(scale="strict")],
    ids=repr,
)
def test_spiking_gradients_are_the_written_out_rule(pathway):
    assert hand_rule_error(spiking_net(pathway=pathway)) < 1e-12


def test_the_written_out_rule_notices_a_weight_gradient_made_with_feedback(monkeypatch):
    def wrong(ctx, grad):
        _, feedback = ctx.saved_tensors
        return grad.matmul(feedback), feedback * grad.mean(), grad.flatten(0, -2).sum(0), None

    net = spiking_net(pathway=FA)
    monkeypatch.setattr(_FeedbackLinear, "backward", staticmethod(wrong))
    assert hand_rule_error(net) > 1e-2


def test_the_written_out_rule_notices_feedback_through_the_weights():
    net = spiking_net(pathway=FA)
    assert hand_rule_error(net, [layer.weight for layer in net.synapses().values()]) > 1e-2


def test_feedback_is_independent_of_the_weights():
    n = 10_000
    layer = sc.Linear(100, n // 100, pathway=FA)
    assert abs(angle(layer.pathway.feedback(layer), layer.weight) - 90) < 5 * 57.3 / math.sqrt(n)


def test_feedback_never_changes():
    net = spiking_net(pathway=FA)
    before = [layer.feedback_weight.clone() for layer in net.synapses().values()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        net(torch.rand(5, 2, 12, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(b, s.feedback_weight) for b, s in zip(before, net.synapses().values(), strict=True))


def test_no_feedback_leaves_hidden_layers_frozen():
    net = spiking_net(pathway=FA)
    for layer in net.synapses().values():
        use(layer, torch.zeros_like(layer.weight))
    out = net(2 * torch.rand(10, 2, 12, dtype=torch.float64))
    out.square().sum().backward()
    first, second, last = net.synapses().values()
    assert not first.weight.grad.any()
    assert not second.weight.grad.any()
    assert last.weight.grad.any()


def test_opposite_and_permuted_feedback():
    layer = sc.Linear(100, 100, pathway=FA)
    use(layer, -layer.weight)
    assert angle(layer.pathway.feedback(layer), layer.weight) == 180
    use(layer, layer.weight.flatten()[torch.randperm(10_000)].view(100, 100))
    assert abs(angle(layer.pathway.feedback(layer), layer.weight) - 90) < 5 * 57.3 / 100


def test_linear_regression_aligns_its_weights_with_the_feedback():
    """The experiment of Lillicrap et al. 2016: 30-20-10 linear, small weights; W turns to B and the error vanishes."""
    generator = np.random.default_rng(0)
    target = torch.from_numpy(generator.uniform(-1, 1, (10, 30)))
    net = sc.Network(sc.Linear(30, 20, bias=False), sc.Linear(20, 10, bias=False), pathway=FA, seed=0).double()
    with torch.no_grad():
        for layer in net.synapses().values():
            layer.weight.uniform_(-0.01, 0.01)
            layer.feedback_weight.uniform_(-0.5, 0.5)
    last = net.layers[1]
    before = angle(last.feedback_weight, last.weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(400):
        x = torch.from_numpy(generator.normal(size=(1, 32, 30)))
        loss = (net(x) - x @ target.T).square().sum(-1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 75
    assert angle(last.feedback_weight, last.weight) < 45
    assert loss < 1e-3 * target.square().sum()

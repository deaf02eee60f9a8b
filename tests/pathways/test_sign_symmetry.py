"""Sign symmetry: closed-form angles, exact equalities, and the stream of magnitudes drawn anew."""

import copy

import pytest
import torch
from feedback_oracles import relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle


def layer_with(pathway, weight):
    torch.manual_seed(0)
    layer = sc.Linear(weight.shape[1], weight.shape[0], bias=False, pathway=pathway).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def large(kind):
    g = torch.Generator().manual_seed(1)
    shape = 1000, 1000
    if kind == "gaussian":
        return torch.randn(shape, generator=g)
    uniform = torch.rand(shape, generator=g)
    return 2 * uniform - 1 if kind == "uniform" else -torch.log1p(-uniform)  # exponential: magnitudes under Dale's law


# cos = E|W| / rms for constant magnitudes, E|W| E|M| / (rms W rms M) for random ones: 2/pi for two Gaussians, 3/4 for
# two uniforms, sqrt(2/pi), sqrt(3)/2 and 1/sqrt(2) for a constant with a Gaussian, a uniform, an exponential.
@pytest.mark.parametrize(
    ("pathway", "kind", "degrees"),
    [
        (sc.SignSymmetry(), "gaussian", 37.07),
        (sc.SignSymmetry(), "uniform", 30.00),
        (sc.SignSymmetry(), "exponential", 45.00),
        (sc.SignSymmetry("fixed"), "gaussian", 50.46),
        (sc.SignSymmetry("fixed", "xiao"), "uniform", 41.41),
        (sc.SignSymmetry("fixed", "biotorch"), "uniform", 41.41),
        (sc.SignSymmetry("batch"), "gaussian", 50.46),
        (sc.SignSymmetry(scale="strict"), "gaussian", 37.07),
    ],
)
def test_closed_form_angles(pathway, kind, degrees):
    layer = layer_with(pathway, large(kind))
    assert angle(layer.pathway.feedback(layer), layer.weight) == pytest.approx(degrees, abs=0.2)


@pytest.mark.parametrize("magnitude", ["uniform", "fixed", "batch"])
def test_strict_feedback_has_the_norm_of_the_weights(magnitude):
    layer = layer_with(sc.SignSymmetry(magnitude, "strict"), large("gaussian").double()[:300])
    for weight in (layer.weight.detach().clone(), 5 * large("exponential").double()[:300]):
        with torch.no_grad():
            layer.weight.copy_(weight)  # followed at every step
        assert float(layer.feedback().norm() / weight.norm()) == pytest.approx(1, abs=1e-7)
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer.feedback().any()  # and no NaN


def deep(depth, pathway, c):
    """A linear chain in which every |W| = c, and the gradients of its weights."""
    g = torch.Generator().manual_seed(2)
    layers = [sc.Linear(12, 12, bias=False) for _ in range(depth)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(c * torch.randn(12, 12, generator=g).sign())
    net = sc.Network(*layers, pathway=pathway, seed=0).double()
    x = torch.randn(3, 4, 12, generator=g).double()
    net(x).tanh().sum().backward()
    return [layer.weight.grad for layer in layers]


def test_constant_weights_of_the_same_scale_are_backprop():
    c = 12**-0.5  # fan_out scale of 12 units
    for f, w in zip(deep(4, sc.SignSymmetry(), c), deep(4, None, c), strict=True):
        assert relative(f, w) < 1e-7  # c rounded to float32 in the weights
    for f, w in zip(deep(4, sc.SignSymmetry(scale="strict"), 0.3), deep(4, None, 0.3), strict=True):
        assert relative(f, w) < 1e-12


def test_a_wrong_scale_compounds_over_depth_without_turning_the_error():
    c, gain = 0.25, 1.5
    ratio = gain * 12**-0.5 / c
    found, true = deep(4, sc.SignSymmetry(gain=gain), c), deep(4, None, c)
    for above, (f, w) in enumerate(zip(reversed(found), reversed(true), strict=True)):
        assert relative(f, ratio**above * w) < 1e-12
        assert angle(f, w) < 1e-5


def test_signs_follow_the_weights_and_zero_gets_no_feedback():
    weight = torch.tensor([[1.0, -2.0, 0.0], [-3.0, 0.0, 4.0]])
    for pathway in (sc.SignSymmetry(), sc.SignSymmetry("fixed"), sc.SignSymmetry("batch")):
        layer = layer_with(pathway, weight)
        assert torch.equal(layer.feedback().sign(), weight.sign())
        with torch.no_grad():
            layer.weight.neg_()
        assert torch.equal(layer.feedback().sign(), -weight.sign())


def test_fixed_magnitudes_are_fixed_and_kept_as_magnitudes():
    layer = layer_with(sc.SignSymmetry("fixed"), large("gaussian")[:20, :30])
    before = layer.feedback()
    assert torch.equal(layer.feedback(), before)
    assert (layer.feedback_weight >= 0).all()
    # The reported matrix is the effective one: |M| alone would be near 90 degrees.
    assert angle(layer.pathway.feedback(layer), layer.weight) < 60
    assert angle(layer.feedback_weight, layer.weight) > 80


def batch_net(seed=5):
    torch.manual_seed(0)
    layers = [sc.Linear(8, 8, bias=False), sc.Linear(8, 8, bias=False)]
    return sc.Network(*layers, pathway=sc.SignSymmetry("batch"), seed=seed)


def delivered(net):
    """B of the last layer as the error sees it: the input error for each unit error."""
    x = torch.eye(8)[None].requires_grad_()
    y = net.layers[1](x)
    return torch.autograd.grad(y, x, torch.eye(8)[None])[0][0]


def test_batch_magnitudes_are_drawn_at_every_forward_pass_from_the_seed():
    net, same, other = batch_net(), batch_net(), batch_net(seed=6)
    draws = [delivered(net) for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    assert all(torch.equal(d, delivered(same)) for d in draws)
    assert not torch.equal(draws[0], delivered(other))
    assert torch.equal(draws[0].sign(), net.layers[1].weight.sign())


def test_one_backward_pass_uses_the_draw_of_its_own_forward_pass():
    net = batch_net()
    x = torch.eye(8)[None].requires_grad_()
    first = net.layers[1](x)
    net.layers[1](x)  # draws again
    twin = batch_net()
    assert torch.equal(torch.autograd.grad(first, x, torch.eye(8)[None])[0][0], delivered(twin))


def test_the_noise_counter_travels_with_the_state():
    net = batch_net()
    for _ in range(3):
        delivered(net)
    restored = batch_net(seed=99)
    restored.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    draw = delivered(net)
    assert torch.equal(draw, delivered(restored))
    assert torch.equal(draw, delivered(copied))
    assert not torch.equal(draw, delivered(batch_net()))


def test_evaluation_draws_nothing():
    net = batch_net()
    with torch.no_grad():
        net(torch.ones(2, 3, 8))
    assert [layer.noise.count for layer in net.layers] == [0, 0]
    net(torch.ones(2, 3, 8))
    assert [layer.noise.count for layer in net.layers] == [1, 1]


@pytest.mark.parametrize("magnitude", ["uniform", "fixed"])
def test_dale_makes_uniform_feedback_rank_one(magnitude):
    """The documented degeneracy: under Dale's law every unit gets the same error up to sign, with a softmax none."""
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(6, 30), sc.LIF(), sc.Linear(30, 10), pathway=sc.SignSymmetry(magnitude), constraint=sc.Dale(), seed=1
    )
    feedback = net.layers[2].pathway.feedback(net.layers[2]).double()
    assert torch.linalg.matrix_rank(feedback) == (1 if magnitude == "uniform" else 10)
    error = F.one_hot(torch.arange(10), 10).double() - 0.1
    vanishes = (error @ feedback).abs().max() < 1e-6
    assert bool(vanishes) == (magnitude == "uniform")

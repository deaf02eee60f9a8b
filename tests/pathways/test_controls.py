"""The controls: feedback that is W with noise, and weights that are drawn to feedback alignment's B."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from feedback_oracles import relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle

# ---- noise -----------------------------------------------------------------------------------------------------------


def wide(pathway, n=600):
    torch.manual_seed(0)
    return sc.Linear(n, n, bias=False, pathway=pathway)


@pytest.mark.parametrize("drawn", ["once", "batch"])
@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_angle_and_norm_are_those_of_independent_noise(noise, drawn):
    layer = wide(sc.NoisyBackprop(noise, drawn))
    for scale in (1.0, 7.0):  # in units of W, whatever W is
        with torch.no_grad():
            layer.weight.mul_(scale)
        feedback = layer.pathway.feedback(layer)
        assert angle(feedback, layer.weight) == pytest.approx(math.degrees(math.atan(noise)), abs=0.3)
        assert float(feedback.norm() / layer.weight.detach().norm()) == pytest.approx(math.hypot(1, noise), rel=0.01)


def net_of(pathway, constraint=None, seed=1, first=None):
    torch.manual_seed(0)
    layers = (
        first or sc.Linear(8, 12),
        sc.LIF(5.0),
        sc.Linear(12, 9),
        sc.LIF(5.0),
        sc.Linear(9, 4),
        sc.LeakyReadout(5.0),
    )
    return sc.Network(*layers, pathway=pathway, constraint=constraint, seed=seed).double()


def gradients(net):
    x = 3 * torch.rand(6, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(net(x).mean(0), torch.arange(3))
    return torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize("constraint", [None, sc.Dale(mode="reparametrize")], ids=repr)
@pytest.mark.parametrize("pathway", [sc.NoisyBackprop(0.0), sc.NoisyBackprop(0.0, "batch")], ids=repr)
def test_without_noise_it_is_backprop(pathway, constraint):
    found, wanted = gradients(net_of(pathway, constraint)), gradients(net_of(None, constraint))
    assert all(relative(f, w) < 1e-12 for f, w in zip(found, wanted, strict=True))


def test_noise_is_drawn_once_or_at_every_pass():
    for drawn in ("once", "batch"):
        layer = wide(sc.NoisyBackprop(1.0, drawn), 20)
        feedback = layer.feedback()
        assert torch.equal(layer.feedback(), feedback) == (drawn == "once")
        with torch.no_grad():
            assert layer.feedback() is None
    net, twin = (net_of(sc.NoisyBackprop(1.0, "batch")) for _ in range(2))
    first = gradients(net)
    twin.load_state_dict(net.state_dict())  # the stream's place is in the state
    copied = copy.deepcopy(net)
    second = gradients(net)
    assert not torch.equal(first[0], second[0])
    for other in (twin, copied):
        assert all(map(torch.equal, second, gradients(other)))


def test_fixed_noise_is_in_the_state():
    net, other = net_of(sc.NoisyBackprop()), net_of(sc.NoisyBackprop(), seed=2)
    assert not torch.equal(gradients(net)[0], gradients(other)[0])
    other.load_state_dict(net.state_dict())
    assert all(map(torch.equal, gradients(net), gradients(other)))


def test_weights_of_zero_deliver_nothing():
    layer = wide(sc.NoisyBackprop(3.0), 5)
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer.feedback().any()


# ---- mimicry ---------------------------------------------------------------------------------------------------------

MIMIC = sc.MimicFeedbackAlignment(strength=0.3)


def penalised(net, strength):
    """Gradients of the loss plus the penalty on every synapse that passes errors on, by autograd."""
    x = 3 * torch.rand(6, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(net(x).mean(0), torch.arange(3))
    targets = net_of(sc.FeedbackAlignment(), net.constraint).synapses().values()
    for layer, other in list(zip(net.synapses().values(), targets, strict=True))[1:]:
        loss = loss + strength / 2 * (layer.effective_weight() - other.feedback_weight).square().sum()
    return torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize("constraint", [None, sc.Dale(), sc.Dale(mode="reparametrize", magnitude="exp")], ids=repr)
def test_the_gradient_is_that_of_the_loss_with_the_penalty(constraint):
    """Towards the B of feedback alignment under the same seed; not in the first layer, which passes nothing on."""
    found, wanted = gradients(net_of(MIMIC, constraint)), penalised(net_of(None, constraint), 0.3)
    assert all(relative(f, w) < 1e-12 for f, w in zip(found, wanted, strict=True))
    assert relative(found[2], gradients(net_of(None, constraint))[2]) > 1e-2
    assert torch.equal(found[0], gradients(net_of(None, constraint))[0])


def test_without_strength_it_is_backprop_and_the_error_always_is():
    found, wanted = gradients(net_of(sc.MimicFeedbackAlignment(0.0))), gradients(net_of(None))
    assert all(relative(f, w) < 1e-12 for f, w in zip(found, wanted, strict=True))
    layer = net_of(MIMIC).layers[2]
    assert torch.equal(layer.pathway.feedback(layer), layer.weight)
    assert layer.feedback() is None


def test_a_penalty_towards_the_wrong_matrix_is_noticed():
    net = net_of(MIMIC)
    with torch.no_grad():
        net.layers[2].feedback_weight.copy_(net.layers[2].feedback_weight.flip(0))
    assert relative(gradients(net)[2], penalised(net_of(None), 0.3)[2]) > 1e-2


def test_one_step_of_sgd_forgets_its_own_share():
    """Without an error W - B0 shrinks by 1 - eta strength; W turns to B0 as it would under feedback alignment."""
    net = net_of(sc.MimicFeedbackAlignment(strength=0.5, gain=2.0))
    layer = net.layers[2]
    start = layer.weight.detach() - layer.feedback_weight
    before = angle(layer.weight, layer.feedback_weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        (0 * net(torch.rand(2, 3, 8, dtype=torch.float64))).sum().backward()
        optimizer.step()
    left = layer.weight.detach() - layer.feedback_weight
    np.testing.assert_allclose(left.numpy(), 0.95**40 * start.numpy(), rtol=1e-9)
    assert before > 75
    assert angle(layer.weight, layer.feedback_weight) < 20


def test_convolutions_with_their_pool_and_frozen_weights():
    def made(pathway, frozen=False):
        torch.manual_seed(0)
        layers = sc.Conv2d(1, 3, 3), sc.LIF(5.0), sc.Conv2d(3, 4, 3), sc.MaxPool2d(2)
        net = sc.Network(*layers, pathway=pathway, seed=1)
        layers[2].weight.requires_grad_(not frozen)
        net(4 * torch.rand(3, 2, 1, 8, 8)).square().sum().backward()
        return layers

    found, plain, frozen = made(MIMIC), made(None), made(MIMIC, frozen=True)
    pull = 0.3 * (found[2].weight.detach() - found[2].feedback_weight)
    torch.testing.assert_close(found[2].weight.grad, plain[2].weight.grad + pull)
    torch.testing.assert_close(found[0].weight.grad, plain[0].weight.grad)
    assert frozen[2].weight.grad is None
    torch.testing.assert_close(frozen[0].weight.grad, plain[0].weight.grad)


def test_the_target_is_saved_and_never_trained():
    net, other = net_of(MIMIC), net_of(MIMIC, seed=5)
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in net_of(None).parameters())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    before = [layer.feedback_weight.clone() for layer in net.synapses().values()]
    for parameter, gradient in zip(net.parameters(), gradients(net), strict=True):
        parameter.grad = gradient
    optimizer.step()
    assert all(torch.equal(b, s.feedback_weight) for b, s in zip(before, net.synapses().values(), strict=True))
    other.load_state_dict(net.state_dict())
    for each in (other, copy.deepcopy(net)):
        assert all(map(torch.equal, gradients(net), gradients(each)))


@pytest.mark.parametrize("pathway", [MIMIC, sc.NoisyBackprop(), sc.NoisyBackprop(drawn="batch")], ids=repr)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_they_compile_to_one_graph(pathway):
    torch._dynamo.reset()
    net = net_of(pathway)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = 3 * torch.rand(6, 3, 8, dtype=torch.float64)
    for call in (net, compiled):
        call(x).square().sum().backward()
    assert all(relative(p.grad, q.grad) < 1e-9 for p, q in zip(net.parameters(), twin.parameters(), strict=True))


def test_every_field_counts():
    base = gradients(net_of(MIMIC))
    for other in (
        sc.MimicFeedbackAlignment(0.2), sc.MimicFeedbackAlignment(0.3, "biotorch"),
        sc.MimicFeedbackAlignment(0.3, gain=3.0), sc.MimicFeedbackAlignment(0.3, error=sc.SignOnly()),
    ):  # fmt: skip
        assert not all(map(torch.equal, base, gradients(net_of(other))))
    noisy = [gradients(net_of(p)) for p in (sc.NoisyBackprop(), sc.NoisyBackprop(0.5), sc.NoisyBackprop(drawn="batch"))]
    assert not any(torch.equal(a[0], b[0]) for a, b in itertools.combinations(noisy, 2))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="noise must be a finite number, 0 or above, got -1"):
        sc.NoisyBackprop(-1.0)
    with pytest.raises(ValueError, match="drawn must be 'once' or 'batch', got 'always'"):
        sc.NoisyBackprop(drawn="always")
    for strength in (-0.1, math.nan):
        with pytest.raises(ValueError, match="strength must be a finite number, 0 or above"):
            sc.MimicFeedbackAlignment(strength)
    with pytest.raises(ValueError, match="scale must be one of"):
        sc.MimicFeedbackAlignment(scale="strict")
    with pytest.raises(ValueError, match="the recurrent kernel delivers errors as they are"):
        sc.Network(sc.RecurrentLinear(3, 4), pathway=MIMIC)
    with pytest.raises(ValueError, match="travels through the forward weights"):
        net_of(MIMIC, sc.Dale(feedback="own"))

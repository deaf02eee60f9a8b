"""Plumbing: who owns which tensor, before and after binding."""

import copy
import dataclasses
import warnings

import pytest
import torch

import spikecredit as sc
from spikecredit.synapses import learned_feedback

PATHWAYS = [sc.Backprop(), sc.FeedbackAlignment(), sc.SignSymmetry("fixed"), sc.SignSymmetry("batch")]
LEARNED = [sc.KolenPollack(), sc.WeightMirror(), sc.LocalAlignment()]


@pytest.mark.parametrize("pathway", PATHWAYS, ids=repr)
@pytest.mark.parametrize("constraint", [None, sc.Dale(), sc.Dale(mode="reparametrize", magnitude="exp")], ids=repr)
def test_an_optimiser_made_before_binding_still_owns_the_weights(pathway, constraint):
    """BioTorch's constrain_weights replaced the parameter at every forward pass, so that training stood still."""
    torch.manual_seed(0)
    layer = sc.Linear(5, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    weight = layer.weight
    net = sc.Network(sc.Linear(3, 5), layer, pathway=pathway, constraint=constraint, seed=0)
    assert layer.weight is weight
    before = weight.detach().clone()
    net(torch.randn(2, 3, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    assert layer.weight is weight


@pytest.mark.parametrize("pathway", PATHWAYS, ids=repr)
def test_feedback_is_saved_but_never_trained(pathway):
    layer = sc.Linear(5, 4, pathway=pathway, constraint=sc.Dale())
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    kept = pathway in (sc.FeedbackAlignment(), sc.SignSymmetry("fixed"))
    assert ("feedback_weight" in layer.state_dict()) == kept
    assert "presynaptic_sign" in layer.state_dict()
    if kept:
        assert not layer.feedback_weight.requires_grad
        layer(torch.randn(3, 5)).sum().backward()
        assert layer.feedback_weight.grad is None
        assert layer.double().feedback_weight.dtype == torch.float64  # moves with the layer
        assert layer.presynaptic_sign.dtype == torch.int8


@pytest.mark.parametrize("pathway", LEARNED, ids=repr)
def test_learned_feedback_is_saved_and_a_parameter_where_the_optimiser_moves_it(pathway):
    layer = sc.Linear(5, 4, pathway=pathway, constraint=sc.Dale())
    assert "feedback_weight" in layer.state_dict()
    assert layer.double().feedback_weight.dtype == torch.float64
    is_parameter = "feedback_weight" in dict(layer.named_parameters())
    assert is_parameter == pathway.learns == (not isinstance(pathway, sc.WeightMirror))
    net = sc.Network(layer, sc.Linear(4, 3, pathway=sc.FeedbackAlignment()), pathway=pathway)
    assert learned_feedback(net) == ([layer.feedback_weight] if is_parameter else [])
    assert sum(p.numel() for p in net.parameters()) == 20 + 4 + 12 + 3 + 20 * is_parameter


@pytest.mark.parametrize("pathway", LEARNED, ids=repr)
def test_a_state_dict_restores_learning(pathway):
    """Weights, B, optimiser and noise: the restored network takes the same further steps."""

    def make(seed):
        torch.manual_seed(seed)
        layers = sc.Conv2d(2, 3, 3), sc.MaxPool2d(2), sc.LIF(5.0), sc.Flatten(), sc.Linear(12, 4), sc.LeakyReadout()
        net = sc.Network(*layers, pathway=pathway, seed=seed)
        return net, torch.optim.AdamW(net.parameters(), lr=0.01)

    def step(net, optimizer, seed):
        x = 3 * torch.rand(4, 5, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        sc.losses.MeanPotential()(net(x), torch.arange(5) % 4).backward()
        optimizer.step()
        sc.after_step(net, optimizer)

    net, optimizer = make(0)
    for seed in range(3):
        step(net, optimizer, seed)
    restored, other = make(1)
    restored.load_state_dict(net.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copied = copy.deepcopy(net)
    third = torch.optim.AdamW(copied.parameters(), lr=0.01)
    third.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for seed in range(3, 6):
        for each in ((net, optimizer), (restored, other), (copied, third)):
            step(*each, seed)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name]), name
        assert torch.equal(tensor, copied.state_dict()[name]), name
        assert ("weight" not in name) or not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("pathway", LEARNED, ids=repr)
def test_learning_warns_nobody_whose_loop_is_right(pathway):
    """Copies, restored states, evaluation and weights that nobody moves."""
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(5, 6), sc.ReLU(), sc.Linear(6, 4), pathway=pathway, seed=0)
    x = torch.randn(1, 3, 5)
    with torch.no_grad():
        for layer in net.synapses().values():
            layer.weight.mul_(2)  # an initialisation by hand
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sc.attach(net, optimizer)
    for _ in range(3):
        net(x).square().sum().backward()
        optimizer.step()
    saved = copy.deepcopy(net.state_dict())
    copy.deepcopy(net)(x)
    net(x)
    net.load_state_dict(saved)
    net(x)
    net.eval()(x)


@pytest.mark.parametrize("pathway", [*PATHWAYS, *LEARNED], ids=repr)
def test_the_settings_are_left_alone(pathway):
    constraint = sc.Dale()
    before = dataclasses.asdict(pathway), dataclasses.asdict(constraint)
    net = sc.Network(sc.Linear(5, 5), sc.Conv2d(5, 4, 1), pathway=pathway, constraint=constraint, seed=0)
    net.layers[0](torch.ones(2, 2, 5)).sum().backward()
    assert (dataclasses.asdict(pathway), dataclasses.asdict(constraint)) == before
    assert all(layer.pathway is pathway for layer in net.layers)


@pytest.mark.parametrize("pathway", [*PATHWAYS, *LEARNED], ids=repr)
def test_a_deep_copy_is_equal_and_independent(pathway):
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(5, 6), sc.LIF(tau=5.0), sc.Linear(6, 4), pathway=pathway, constraint=sc.Dale(), seed=0)
    twin = copy.deepcopy(net)
    x = 3 * torch.rand(6, 2, 5)
    for each in (net, twin):
        each(x).square().sum().backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
        assert a is not b
    kept = {k: v.clone() for k, v in twin.state_dict().items()}
    with torch.no_grad():
        for tensor in (*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())):
            tensor.zero_()
    net(x)
    assert all(torch.equal(v, kept[k]) for k, v in twin.state_dict().items())


def test_a_layer_alone_draws_from_the_global_generator():
    def make(seed):
        torch.manual_seed(seed)
        return sc.Linear(20, 20, pathway=sc.FeedbackAlignment(), constraint=sc.Dale())

    a, b, c = make(0), make(0), make(1)
    assert torch.equal(a.feedback_weight, b.feedback_weight)
    assert torch.equal(a.presynaptic_sign, b.presynaptic_sign)
    assert not torch.equal(a.feedback_weight, c.feedback_weight)
    assert a.violations() == 0


def test_frozen_feedback_reads_the_weights_of_its_own_forward_pass():
    layer = sc.Linear(3, 3, bias=False, pathway=sc.SignSymmetry())
    x = torch.eye(3, requires_grad=True)
    y, signs = layer(x), layer.weight.sign()
    with torch.no_grad(), warnings.catch_warnings():
        layer.weight.neg_()  # the step of another optimiser between forward and backward
    y.backward(torch.eye(3))
    assert torch.equal(x.grad.sign(), signs)

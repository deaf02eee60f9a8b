"""Backpropagation through time as a rule: plain, and with the delivered error in the potential."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spikecredit as sc
from spikecredit.architectures import Residual
from spikecredit.losses import MeanPotential, PerStep
from spikecredit.pathways import PATHWAYS
from spikecredit.rules import BPTT, bptt, currents

LABELS = torch.tensor([0, 2, 1, 2])


def network(**choices: Any) -> sc.Network:
    torch.manual_seed(0)
    layers = [
        sc.Linear(5, 8), sc.LIF(tau=5.0, threshold=0.3), sc.Linear(8, 6), sc.LIF(tau=5.0, threshold=0.1),
        sc.Linear(6, 3), sc.LeakyReadout(tau=5.0),
    ]  # fmt: skip
    return sc.Network(*layers, seed=0, **choices).double()


def batch(steps: int = 4, *shape: int) -> Tensor:
    torch.manual_seed(1)
    return 2 * torch.randn(steps, len(LABELS), *(shape or (5,)), dtype=torch.float64)


def taught(rule: sc.rules.Rule, net: sc.Network, x: Tensor, **options: Any) -> dict[str, Tensor]:
    net.zero_grad()
    rule.gradients(net, x, LABELS, **options)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], rtol: float = 1e-12) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=rtol * float(b[name].abs().max()), msg=name)


# ---- the equations ---------------------------------------------------------------------------------------------------


def by_hand(net: sc.Network, x: np.ndarray, nudge: float) -> dict[str, np.ndarray]:
    """Linear, ReLU, Linear, LeakyReadout under the mean potential's cross-entropy, in NumPy."""
    first, second = net.layers[0], net.layers[2]
    w1, b1, w2, b2 = (p.detach().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    feedback = second.pathway.feedback(second).numpy()
    beta, (steps, count) = np.exp(-1 / 5.0), x.shape[:2]

    def present(a1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        h = np.maximum(a1, 0)
        a2, u = h @ w2.T + b2, np.zeros((count, 3))
        total = 0.0
        for t in range(steps):
            u = beta * u + a2[t]
            total = total + u
        p = np.exp(total / steps)
        e = (p / p.sum(1, keepdims=True) - np.eye(3)[LABELS]) / count
        later, d2 = 0.0, np.zeros_like(a2)
        for t in reversed(range(steps)):
            later = beta * later + e / steps
            d2[t] = later
        return h, d2, (d2 @ feedback) * (a1 > 0)

    a1 = x @ w1.T + b1
    if nudge:
        a1 = a1 - nudge * count * present(a1)[2]
    h, d2, d1 = present(a1)
    return {
        "layers.0.weight": np.einsum("tbi,tbj->ij", d1, x),
        "layers.0.bias": d1.sum((0, 1)),
        "layers.2.weight": np.einsum("tbi,tbj->ij", d2, h),
        "layers.2.bias": d2.sum((0, 1)),
    }


@pytest.mark.parametrize("nudge", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("pathway", [sc.Backprop(), sc.FeedbackAlignment()], ids=repr)
def test_the_rule_by_hand(pathway: sc.pathways.Pathway, nudge: float) -> None:
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(5, 8), sc.ReLU(), sc.Linear(8, 3), sc.LeakyReadout(tau=5.0), pathway=pathway).double()
    x = batch()
    found = taught(BPTT(nudge), net, x)
    expected = {name: torch.from_numpy(value) for name, value in by_hand(net, x.numpy(), nudge).items()}
    assert_close(found, expected)
    if nudge:
        with pytest.raises(AssertionError):  # the nudge is no rounding error
            assert_close(found, taught(BPTT(), net, x), rtol=1e-4)


def test_spiking_neurons_are_nudged_at_every_step() -> None:
    net, x = network(), batch()
    first, one, second, two, last, readout = net.layers
    loss = PerStep()
    i1 = first(x).detach().requires_grad_()
    i2 = second(one(i1))
    d1, d2 = torch.autograd.grad(loss(readout(last(two(i2))), LABELS), (i1, i2))
    i2 = second(one(first(x) - 0.5 * 4 * d1)) - 0.5 * 4 * d2
    net.zero_grad()
    value = loss(readout(last(two(i2))), LABELS)
    value.backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    assert_close(taught(BPTT(0.5), net, x, loss=loss), expected)
    assert float(BPTT(0.5).gradients(net, x, LABELS, loss)[0]) == pytest.approx(value.item(), rel=1e-12)


def first_order(net: sc.Network, x: Tensor, nudge: float) -> Tensor:
    """The change of each sample's loss over what it is to first order, which must tend to 1."""
    loss = MeanPotential()
    errors = bptt.delivered(net, x, LABELS, loss)
    foreseen = -nudge * sum((d.square().sum(0).flatten(1).sum(1) for d in errors if d is not None), torch.zeros(4))
    before, after = loss.of_samples(net(x), LABELS), loss.of_samples(BPTT(nudge).gradients(net, x, LABELS)[1], LABELS)
    return (after - before).detach() / foreseen


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_nudge_by_true_errors_lowers_every_loss_by_its_square(recurrent: bool) -> None:
    torch.manual_seed(0)
    middle = sc.RecurrentLinear(8, 6, sc.ReLU()) if recurrent else sc.Linear(8, 6)
    rest = [] if recurrent else [sc.HardSigmoid()]
    net = sc.Network(sc.Linear(5, 8), sc.ReLU(), middle, *rest, sc.Linear(6, 3), sc.LeakyReadout()).double()
    assert (first_order(net, batch(), 1e-6) - 1).abs().max() < 1e-4


def test_the_check_of_the_first_order_notices_errors_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(5, 8), sc.ReLU(), sc.Linear(8, 3), sc.LeakyReadout()).double()
    real = bptt.delivered
    before = bptt.delivered(net, batch(), LABELS, MeanPotential())
    monkeypatch.setattr(bptt, "delivered", lambda *a: [d / 4 for d in real(*a) if d is not None])
    after = BPTT(1e-6).gradients(net, batch(), LABELS)[1]
    loss = MeanPotential()
    change = loss.of_samples(after, LABELS) - loss.of_samples(net(batch()), LABELS)
    foreseen = -1e-6 * before[0].square().sum((0, 2))
    assert (change.detach() / foreseen - 0.25).abs().max() < 1e-4


def test_the_readout_is_not_nudged() -> None:
    for net in (network(), sc.Network(sc.Linear(5, 8), sc.LIF(), sc.RecurrentLinear(8, 3))):
        readout = net.layers[-1]
        assert currents.populations(net)[-1] is readout
        assert currents.hidden(net) == {*currents.populations(net)} - {readout}


# ---- without a nudge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PATHWAYS)
def test_without_a_nudge_it_is_backward_bit_for_bit(kind: str) -> None:
    net = network(pathway=PATHWAYS[kind]())
    x = batch()
    net.materialise(x)
    twin = copy.deepcopy(net)
    found = taught(BPTT(), net, x)
    loss = MeanPotential()(twin(x), LABELS)
    loss.backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    value, out = BPTT().gradients(net, x, LABELS)
    if not net.synapses()["layers.0"].pathway.redraws:
        assert torch.equal(value, loss.detach())
    assert not value.requires_grad and not out.requires_grad


def test_targets_go_where_they_are_needed() -> None:
    net = network(pathway=sc.DirectFeedbackAlignment(signal="target"))
    x = batch()
    found = taught(BPTT(), net, x)
    twin = network(pathway=sc.DirectFeedbackAlignment(signal="target"))
    MeanPotential()(twin(x, target=LABELS), LABELS).backward()
    assert_close(found, {name: p.grad for name, p in twin.named_parameters()})
    taught(BPTT(0.1), net, x)


def test_gradients_are_added() -> None:
    net, x = network(), batch()
    once = taught(BPTT(), net, x)
    BPTT().gradients(net, x, LABELS)
    assert all(torch.equal(p.grad, 2 * once[name]) for name, p in net.named_parameters())


# ---- under every pathway, in every network ---------------------------------------------------------------------------


def residual(**choices: Any) -> sc.Network:
    def block() -> list[torch.nn.Module]:
        return [sc.Conv2d(3, 3, 3, padding=1, bias=False), sc.BatchNorm2d(3), sc.LIF(tau=5.0, threshold=0.3)]

    torch.manual_seed(0)
    return sc.Network(
        sc.Conv2d(1, 3, 3, padding=1), sc.MaxPool2d(2), sc.LIF(tau=5.0, threshold=0.3), Residual([], block(), []),
        Residual([], block(), block()), sc.GlobalAvgPool2d(), sc.Linear(3, 3), sc.LeakyReadout(tau=5.0), seed=0,
        **choices,
    ).double()  # fmt: skip


def recurrent(**choices: Any) -> sc.Network:
    torch.manual_seed(0)
    layer = sc.RecurrentLinear(5, 8, sc.ALIF(tau=5.0, threshold=0.3))
    return sc.Network(layer, sc.Dropout(0.3), sc.Linear(8, 3), sc.LeakyReadout(tau=5.0), seed=0, **choices).double()


SHAPES: dict[Any, tuple[int, ...]] = {network: (5,), residual: (1, 6, 6), recurrent: (5,)}


@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("kind", PATHWAYS)
def test_a_vanishing_nudge_changes_nothing_and_one_that_does_not_does(kind: str, build: Any) -> None:
    if (kind, build) == ("mimic_feedback_alignment", recurrent):
        pytest.skip("refused by recurrent layers")
    x = batch(4, *SHAPES[build])
    plain, tiny, large = (build(pathway=PATHWAYS[kind]()) for _ in range(3))
    for net in (plain, tiny, large):
        net.materialise(x)
    expected = taught(BPTT(), plain, x)
    assert_close(taught(BPTT(1e-13), tiny, x), expected, rtol=1e-9)
    with pytest.raises(AssertionError):
        assert_close(taught(BPTT(3.0), large, x), expected, rtol=1e-6)
    for other in (tiny, large):  # masks drawn, feedback drawn, running statistics: of one presentation
        kept = other.state_dict()
        for name, value in plain.state_dict().items():
            assert value.allclose(kept[name]) if value.is_floating_point() else value.equal(kept[name]), name


def test_the_two_presentations_see_one_mask_and_one_feedback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above notices what does not go back."""
    for parts in ("statistics", "streams"):
        with monkeypatch.context() as m:
            if parts == "streams":
                m.setattr(currents, "Noise", type(None))
                build: Any = recurrent
            else:
                m.setattr(currents, "_statistics", lambda module: [])
                build = residual
            with pytest.raises(AssertionError):
                test_a_vanishing_nudge_changes_nothing_and_one_that_does_not_does("backprop", build)


@pytest.mark.parametrize("first", [sc.LIF(tau=5.0, threshold=0.3), sc.ReLU()], ids=["memory", "none"])
def test_a_constant_input_is_nudged_step_by_step(first: sc.neurons.Neuron) -> None:
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(5, 8), first, sc.RecurrentLinear(8, 6, sc.LIF(threshold=0.1)), sc.Linear(6, 3), sc.LeakyReadout()
    ).double()
    x = sc.encode.constant(batch()[0], steps=6)
    assert x.stride(0) == 0
    assert_close(taught(BPTT(0.5), net, x), taught(BPTT(0.5), net, x.contiguous()), rtol=1e-10)
    errors = bptt.delivered(net, currents.steps_apart(net, x), LABELS, MeanPotential())
    assert [tuple(d.shape) for d in errors if d is not None] == [(6, 4, 8), (6, 4, 6)]


def test_running_statistics_of_a_constant_input_count_its_steps() -> None:
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(5, 8), sc.ReLU(), sc.Linear(8, 6), sc.BatchNorm1d(6), sc.LIF(), sc.Linear(6, 3)).double()
    twin, x = copy.deepcopy(net), sc.encode.constant(batch()[0], steps=6)
    twin(x)
    BPTT(0.5).gradients(net, x, LABELS)
    torch.testing.assert_close(net.layers[3].running_var, twin.layers[3].running_var, rtol=1e-10, atol=0)


def test_frozen_layers_are_left_as_they_are() -> None:
    net, x = network(), batch()
    for layer in (net.layers[0], net.layers[2]):
        layer.requires_grad_(False)
    assert bptt.delivered(net, x, LABELS, MeanPotential()) == [None, None]
    assert taught(BPTT(1.0), net, x).keys() == {"layers.4.weight", "layers.4.bias"}


# ---- nothing stays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [BPTT(0.5), sc.rules.NodePerturbation()], ids=repr)
@pytest.mark.parametrize("build", [network, recurrent], ids=lambda build: build.__name__)
def test_evaluation_is_untouched(build: Any, rule: sc.rules.Rule) -> None:
    net, x = build(), batch()
    before = net.eval()(x)
    rule.gradients(net.train(), x, LABELS)
    assert torch.equal(net.eval()(x), before)
    for module in net.modules():
        assert "stream" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks


def test_a_failure_leaves_nothing_behind() -> None:
    net, x = recurrent(), batch()
    with pytest.raises(ZeroDivisionError):
        BPTT(0.5).gradients(net, x, LABELS, forward=lambda x: 1 / 0)
    assert not net.layers[0].input._forward_hooks
    inner = net.layers[3].stream
    net.layers[3].stream = inner  # somebody watches
    BPTT(0.5).gradients(net, x, LABELS)
    assert net.layers[3].stream is inner


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_wrong_values_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="nudge must be a finite number, 0"):
        BPTT(value)

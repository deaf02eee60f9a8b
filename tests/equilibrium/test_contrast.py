"""Estimators of the gradient against autograd through the sweeps, at the tolerances of the reference."""

import math

import pytest
import torch
from relaxing import SIZES, batch, convolutional, dense, estimate, flat, relative, true_gradient
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.equilibrium import (
    Centred,
    ContrastiveHebbian,
    Coupled,
    CrossEntropy,
    Holomorphic,
    Hopfield,
    Nudge,
    OneSided,
    Phase,
    Predictive,
    RandomSign,
    SquaredError,
    Sweeps,
    free_state,
    gradient,
    sections,
    settle,
)
from spikecredit.equilibrium.contrast import nudged_states

SMOOTH = [sc.Logistic, sc.Tanh]


@pytest.mark.parametrize("unit", [*SMOOTH, sc.HardSigmoid])
@pytest.mark.parametrize("order", ["checkerboard", "jacobi"])
@pytest.mark.parametrize("cost", [SquaredError(), CrossEntropy()])
def test_the_centred_estimate_is_the_gradient(unit, order, cost):
    net, (x, y) = dense(unit), batch()
    found = estimate(net, x, y, Centred(1e-3), order, cost=cost)
    assert relative(found, true_gradient(net, x, y, cost)) < 1e-4


@pytest.mark.parametrize(
    "pool",
    [lambda: sc.AvgPool2d(2), lambda: sc.MaxPool2d(2), lambda: sc.SoftPool2d(2, 0.3), lambda: sc.AvgPool2d(3, 2, 1)],
)
def test_convolutions_and_pools_have_their_gradient(pool):
    net, (x, y) = convolutional(pool), batch((2, 12, 12))
    found = estimate(net, x, y, Centred(1e-3))
    assert relative(found, true_gradient(net, x, y)) < 1e-4


def test_linear_outputs_have_their_gradient():
    net, (x, y) = dense(last=False), batch()
    assert relative(estimate(net, x, y, Centred(1e-3)), true_gradient(net, x, y)) < 1e-4


@pytest.mark.parametrize("unit", SMOOTH)
@pytest.mark.parametrize(
    ("estimator", "slope", "strengths"), [(OneSided, 1, (1e-2, 1e-3)), (Centred, 2, (3e-2, 3e-3))], ids=["one", "two"]
)
def test_the_order_of_the_bias(unit, estimator, slope, strengths):
    net, (x, y) = dense(unit), batch()
    wanted = true_gradient(net, x, y)
    errors = [relative(estimate(net, x, y, estimator(beta)), wanted) for beta in strengths]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(slope, abs=0.1)


def test_a_random_sign_is_one_side_or_the_other_and_its_mean_is_centred():
    net, (x, y) = dense(), batch()
    sides = {}
    for seed in range(20):
        found, _ = gradient(
            net, x, y, SquaredError(), relaxation=Sweeps(600, 300), estimator=RandomSign(0.1),
            random=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        found = flat([t for pair in found.values() for t in pair])
        sides.setdefault(round(float(found.sum()), 9), found)
    assert len(sides) == 2
    one_sided, centred = (estimate(net, x, y, e) for e in (OneSided(0.1), Centred(0.1)))
    assert min(relative(found, one_sided) for found in sides.values()) < 1e-12
    assert relative(sum(sides.values()) / 2, centred) < 1e-9


def test_holomorphic_estimates_converge_exponentially_and_two_points_are_centred():
    net, (x, y) = dense(), batch()
    wanted = true_gradient(net, x, y)
    errors = {n: relative(estimate(net, x, y, Holomorphic(0.1, n)), wanted) for n in (2, 4, 8, 16)}
    assert errors[8] < 1e-5 and errors[16] < 1e-9
    assert errors[2] > 30 * errors[4] > 900 * errors[8]
    assert relative(estimate(net, x, y, Holomorphic(0.1, 2)), estimate(net, x, y, Centred(0.1))) < 1e-12


@pytest.mark.parametrize("pool", [lambda: sc.AvgPool2d(2), lambda: sc.SoftPool2d(2), lambda: sc.SoftPool2d(2, 0.3)])
def test_holomorphic_estimates_of_convolutions(pool):
    net, (x, y) = convolutional(pool), batch((2, 12, 12))
    wanted = true_gradient(net, x, y)
    errors = [relative(estimate(net, x, y, Holomorphic(0.1, n)), wanted) for n in (2, 4, 8)]
    assert errors[2] < 1e-5 < errors[1] < errors[0]


def test_a_nudge_outside_the_activation_is_no_gradient(monkeypatch):
    """The regression guard: s = sigma(Ws) - beta dC/ds keeps a large error at any beta."""
    inside = Hopfield.target

    def outside(self, phase, index, state, force=None):
        target = inside(self, phase, index, state, None)
        return target if force is None else target + force

    net, (x, y) = dense(), batch()
    wanted = true_gradient(net, x, y)
    monkeypatch.setattr(Hopfield, "target", outside)
    assert relative(estimate(net, x, y, Centred(1e-3)), wanted) > 0.1


@pytest.mark.parametrize("gain", [0.3, 0.1])
def test_a_gain_keeps_the_estimate_exact(gain):
    net, (x, y) = dense(), batch()
    found = estimate(net, x, y, Centred(1e-3), gain=gain)
    assert relative(found, true_gradient(net, x, y, gain=gain)) < 1e-4
    settled = [estimate(net, x, y, Centred(1e-3), gain=gain, free=n) for n in (4, 600)]
    assert relative(settled[0], settled[1]) < 1e-2  # nearly feedforward: few sweeps are enough


def turned(net, degrees):
    """Feedback alignment whose B stands at an angle to W, with W's norm."""
    g, angle = torch.Generator().manual_seed(7), math.radians(degrees)
    for part in sections(net)[1:]:
        weight = part.layer.weight.detach()
        other = torch.randn(weight.shape, generator=g, dtype=torch.float64)
        other -= (other * weight).sum() / weight.square().sum() * weight
        mixed = math.cos(angle) * weight / weight.norm() + math.sin(angle) * other / other.norm()
        part.layer.feedback_weight.copy_(mixed * weight.norm())
    return net


def test_a_vector_field_estimates_the_forward_gradient_and_loses_it_with_the_angle():
    x, y = batch()
    cosines = []
    for degrees in (0, 15, 30, 45, 60, 90):
        net = turned(dense(pathway=sc.FeedbackAlignment()), degrees)
        found, wanted = estimate(net, x, y, Centred(1e-3)), true_gradient(net, x, y)
        if degrees == 0:
            assert relative(found, wanted) < 1e-4
        hidden = 20 * 30 + 30 + 30 * 20 + 20  # the last layer's gradient hears little of the feedback
        found, wanted = found[:hidden], wanted[:hidden]
        cosines.append(float(found @ wanted / found.norm() / wanted.norm()))
    assert cosines == sorted(cosines, reverse=True) and cosines[0] > 0.9999 and -0.2 < cosines[-1] < 0.9


@pytest.mark.parametrize("order", ["checkerboard", "jacobi", "euler"])
def test_the_state_settles_where_b_and_not_w_sends_it(order):
    net, (x, _) = turned(dense(pathway=sc.FeedbackAlignment()), 60), batch()
    low, middle, high = (layer for layer in net.layers if isinstance(layer, sc.Linear))
    one, two, three = free_state(net, x, Hopfield(0.8), Sweeps(600, 1, order))
    wanted = [
        one - torch.sigmoid(4 * (F.linear(x, low.weight, low.bias) + 0.8 * two @ middle.feedback_weight) - 2),
        two - torch.sigmoid(4 * (F.linear(one, middle.weight, middle.bias) + 0.8 * three @ high.feedback_weight) - 2),
        three - torch.sigmoid(4 * F.linear(two, high.weight, high.bias) - 2),
    ]
    assert max(float(w.detach().abs().max()) for w in wanted) < 1e-12


def test_both_directions_of_the_directed_rule_add_up_to_the_tied_gradient():
    """d/dW of s_l^T W s_{l-1} in both ends: pre^0 (post+ - post-) + (pre+ - pre-) post^0, each over 2 beta."""
    net, (x, y) = dense(), batch()
    beta = 1e-3
    relaxation = Sweeps(600, 300)
    with torch.no_grad():
        phase = Phase.of(sections(net), x)
        free = relaxation.settle(Hopfield(), phase)
        column = torch.full((len(x), 1), beta, dtype=torch.float64)
        nudges = [Nudge(SquaredError(), y, sign * column) for sign in (1, -1)]
        high, low = (relaxation.run(Hopfield(), phase, 300, free, nudge) for nudge in nudges)
    around = [[x, *state] for state in (free, high, low)]
    forward = [(around[1][i + 1] - around[2][i + 1]).T @ around[0][i] for i in range(3)]
    reverse = [around[0][i + 1].T @ (around[1][i] - around[2][i]) for i in range(3)]
    found = flat([-(f + r) / (2 * beta * len(x)) for f, r in zip(forward, reverse, strict=True)])
    tied, _ = gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=Centred(beta))
    assert relative(found, flat([w for w, _ in tied.values()])) < 1e-4
    directed, _ = gradient(
        turned(dense(pathway=sc.FeedbackAlignment()), 0), x, y, SquaredError(), relaxation=relaxation,
        estimator=Centred(beta),
    )  # fmt: skip
    assert relative(flat([w for w, _ in directed.values()]), flat([-f / (2 * beta * len(x)) for f in forward])) < 1e-12


def forward_gradient(net, x, y):
    """Backpropagation through the network as a feed-forward one, written out."""
    below, parts = x, sections(net)
    for part in parts:
        current = F.linear(below.flatten(1), part.layer.weight, part.layer.bias)
        below = current if part.unit is None else part.unit(current[None])[0]
    weights = [w for part in parts for w in (part.layer.weight, part.layer.bias)]
    return flat(torch.autograd.grad(SquaredError()(below, y).mean(), weights))


def predictive(net, x, y, estimator):
    relaxation = Sweeps(1, 3000, "euler", 0.2)
    found, settled = gradient(net, x, y, SquaredError(), Predictive(), relaxation, estimator)
    torch.testing.assert_close(settled.activities[-1], net(x[None])[0].detach(), rtol=1e-12, atol=1e-12)
    return flat([t for pair in found.values() for t in pair])


@pytest.mark.parametrize("unit", SMOOTH)
def test_predictive_coding_is_backpropagation_for_a_small_nudge(unit):
    net, (x, y) = dense(unit, last=False), batch()
    wanted = forward_gradient(net, x, y)
    errors = {e: relative(predictive(net, x, y, e), wanted) for e in (Centred(0.1), Centred(1e-3), OneSided(1e-3))}
    assert errors[Centred(1e-3)] < 1e-4 < errors[OneSided(1e-3)] < 1e-2 < errors[Centred(0.1)]
    clamped = predictive(net, x, y, ContrastiveHebbian())
    assert 0.5 < float(torch.cosine_similarity(clamped, wanted, dim=0)) < 0.99  # held at the target: no gradient


def test_contrastive_hebbian_learning_with_weak_feedback_is_backpropagation():
    """Xie & Seung 2003: the output held at its target, factors gamma^(l-L), linear output."""
    net, (x, y) = dense(last=False), batch()
    wanted = forward_gradient(net, x, y)
    errors = [relative(estimate(net, x, y, ContrastiveHebbian(), gain=g), wanted) for g in (0.3, 0.1, 0.01, 0.001)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 1e-2 < errors[1] and errors[3] < 1e-3
    cosine = torch.cosine_similarity(estimate(net, x, y, ContrastiveHebbian()), wanted, dim=0)
    assert float(cosine) < 0.9  # symmetric: no gradient of this


def test_coupled_learning_holds_the_output_a_part_of_the_way():
    """eta = 1 is contrastive Hebbian; with a linear output and a small gain, eta -> 0 is the gradient too."""
    net, (x, y) = dense(last=False), batch()
    whole, held = (estimate(net, x, y, e) for e in (Coupled(1.0), ContrastiveHebbian()))
    assert relative(whole, held) < 1e-12
    assert relative(estimate(net, x, y, Coupled(0.01), gain=1e-3), forward_gradient(net, x, y)) < 1e-3
    estimator, relaxation = Coupled(0.3), Sweeps(300, 300)
    settled = settle(net, x, relaxation=relaxation)
    _, states, weights = nudged_states(settled, y, SquaredError(), estimator)
    target = torch.eye(10, dtype=torch.float64)[y]
    wanted = settled.activities[-1] + 0.3 * (target - settled.activities[-1])
    torch.testing.assert_close(states[-1][:8], wanted, rtol=1e-12, atol=0)
    assert torch.equal(states[-1][8:], settled.activities[-1])
    assert weights.flatten().tolist() == [1 / 0.3] * 8 + [-1 / 0.3] * 8


def test_in_float32_the_best_nudge_is_larger():
    net, (x, y) = dense(), batch()
    wanted = true_gradient(net, x, y)
    net = net.float()
    errors = {beta: relative(estimate(net, x.float(), y, Centred(beta)).double(), wanted) for beta in (1e-2, 1e-5)}
    assert errors[1e-2] < 1e-3 < errors[1e-5]


def test_too_few_sweeps_leave_an_error_that_centring_cannot_remove():
    net, (x, y) = dense(gain=0.7), batch()
    wanted = true_gradient(net, x, y)
    errors = [relative(estimate(net, x, y, Centred(1e-3), nudged=n), wanted) for n in (1, 3, 10, 40)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1 and errors[-1] < 1e-3


def test_the_weights_of_an_estimator_are_a_derivative():
    """sum c = 0 and sum c beta = 1: exact for what is constant or linear in beta."""
    for estimator in (OneSided(0.3), RandomSign(0.3), Centred(0.2), Holomorphic(0.4, 2), Holomorphic(0.4, 7)):
        nodes = estimator.nodes(torch.Generator().manual_seed(0))
        assert abs(sum(node.weight for node in nodes)) < 1e-12
        assert abs(sum(node.weight * node.beta for node in nodes) - 1) < 1e-12
    for estimator in (ContrastiveHebbian(), Coupled(0.3)):
        assert sum(node.weight for node in estimator.nodes()) == 0
        assert sum(node.weight * node.held for node in estimator.nodes()) == 1
    for eta in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta is a part of the way"):
            Coupled(eta)


def test_the_batch_is_left_alone_and_no_graph_is_kept():
    net, (x, y) = dense(), batch()
    before = [p.clone() for p in net.parameters()]
    found, state = gradient(net, x, y, SquaredError())
    assert all(map(torch.equal, before, net.parameters()))
    assert not any(t.requires_grad for pair in found.values() for t in pair)
    assert not any(t.requires_grad for t in state.activities)
    assert list(found) == [f"layers.{2 * i}" for i in range(len(SIZES) - 1)]
    assert all(p.grad is None for p in net.parameters())


def test_samples_do_not_hear_each_other():
    net, (x, y) = dense(), batch()
    whole = estimate(net, x, y, Centred(0.1))
    alone = [estimate(net, x[i : i + 1], y[i : i + 1], Centred(0.1)) for i in range(len(x))]
    assert relative(sum(alone) / len(x), whole) < 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dense(sc.HardSigmoid), "needs units that are functions of a complex current"),
        (lambda: convolutional(lambda: sc.MaxPool2d(2)), "knows no maximum"),
    ],
)
def test_a_holomorphic_estimator_refuses_what_is_not(make, message):
    net = make()
    shape = (20,) if isinstance(net.layers[0], sc.Linear) else (2, 12, 12)
    with pytest.raises(ValueError, match=message):
        gradient(net, *batch(shape), SquaredError(), estimator=Holomorphic())


@pytest.mark.parametrize("estimator", [OneSided, RandomSign, Centred, Holomorphic])
@pytest.mark.parametrize("beta", [0.0, -0.1, math.inf, math.nan])
def test_a_nudge_that_is_none_is_refused(estimator, beta):
    with pytest.raises(ValueError, match="beta is the strength of the nudge"):
        estimator(beta)
    with pytest.raises(ValueError, match="at least 2"):
        Holomorphic(0.1, 1)
    assert Hopfield().gain == 1


def test_free_and_nudged_phases_see_one_b_where_a_pathway_draws_it_anew():
    """With batch magnitudes every look at B is another draw: complex phases take the weights of the free one."""
    net, (x, y) = dense(pathway=sc.SignSymmetry(magnitude="batch")), batch()
    settled = settle(net, x, relaxation=Sweeps(200, 200))
    feedback = settled.phase.parts[1].feedback
    phase, _, _ = nudged_states(settled, y, SquaredError(), Holomorphic(0.1, 4))
    assert torch.equal(phase.parts[1].feedback.real, feedback) and phase.parts[1].feedback.is_complex()
    assert not torch.equal(settle(net, x).phase.parts[1].feedback, feedback)  # the next look

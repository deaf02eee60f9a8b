"""Jacobian homeostasis: its loss against the whole Jacobian, its gradients, and what descending it does."""

import importlib
import math

import pytest
import torch
from relaxing import batch, dense, estimate, flat, relative, true_gradient
from torch.autograd.functional import jacobian

import spikecredit as sc
from spikecredit.equilibrium import (
    Centred,
    Holomorphic,
    Hopfield,
    Phase,
    Potential,
    Predictive,
    SigmaDelta,
    Spikes,
    SquaredError,
    Sweeps,
    add_homeostasis,
    gradient,
    homeostasis,
    sections,
    settle,
)
from spikecredit.losses import SquaredError as SquaredErrorLoss
from spikecredit.rules import EquilibriumPropagation

module = importlib.import_module("spikecredit.equilibrium.homeostasis")  # the package's name is the function's
SIZES = (6, 5, 4, 3)
UNITS = 12
PATHWAYS = [sc.FeedbackAlignment(), sc.KolenPollack()]


def small(unit=sc.Logistic, pathway=PATHWAYS[0], sizes=SIZES):
    net = dense(unit, gain=1.0, pathway=pathway, sizes=sizes)
    return net, torch.rand(4, sizes[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def aligned(net, gain=1.0):
    """gain B = W."""
    with torch.no_grad():
        for part in sections(net)[1:]:
            part.layer.feedback_weight.copy_(part.layer.weight / gain)
    return net


def over_a_basis(monkeypatch, settled, balanced=True, transposed=True):
    """The loss and its gradients, summed over an orthonormal basis of noise: a batch of copies of one sample."""
    shapes = [a.shape[1:] for a in settled.activities]
    count = sum(s.numel() for s in shapes)
    settled = settle_copies(settled, count)
    basis = torch.linalg.qr(torch.randn(count, count, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    columns = iter(basis[0].split([s.numel() for s in shapes], 1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_noise", lambda like, random: next(columns).reshape(like.shape).clone())
        loss, found = homeostasis(settled, None, balanced, transposed)
    return count * loss, [None if t is None else count * t for pair in zip(*found.values(), strict=True) for t in pair]


def settle_copies(settled, count):
    phase = settled.phase.copies(count)
    return type(settled)(phase, settled.energy, settled.relaxation, settled.relaxation.repeat(
        settled.state, count, phase.x.dtype))  # fmt: skip


def whole(settled, balanced, leaves):
    """The Jacobian of all units by all units, of a batch of one, for weights in the place of the layers'."""
    parts, energy, state = settled.phase.parts, settled.energy, settled.activities
    sizes = [a.numel() for a in state]
    for part, w, b in zip(parts, *leaves, strict=True):
        part.weight, part.feedback = w, b
    with torch.no_grad():
        phase = Phase(parts, settled.phase.x, parts[0].up(settled.phase.x)[0], [None] * len(parts))
        held = [part.rate(c) for part, c in zip(parts, currents(energy, phase, state), strict=True)] if balanced else []
        roots = flat([(4 * r * (1 - r)).sqrt() for r in held]) if balanced else torch.ones(sum(sizes))

    def targets(flat_state):
        at = [t.view(a.shape) for t, a in zip(flat_state.split(sizes), state, strict=True)]
        phase = Phase(parts, settled.phase.x, parts[0].up(settled.phase.x)[0], [None] * len(parts))
        return flat(
            currents(energy, phase, at) if balanced else [energy.target(phase, i, at) for i in range(len(parts))]
        )

    return roots[:, None] * jacobian(targets, flat(state), create_graph=True) * roots


def currents(energy, phase, state):
    return [energy.current(phase, i, state) for i in range(len(state))]


NETS = {
    "dense": lambda: small(),
    "convolution": lambda: mapped(lambda: sc.AvgPool2d(2)),
    "maximum": lambda: mapped(lambda: sc.MaxPool2d(2)),
    "soft": lambda: mapped(lambda: sc.SoftPool2d(2, 0.3)),
}


def mapped(pool, pathway=PATHWAYS[1]):
    torch.manual_seed(0)
    net = sc.Network(
        sc.Conv2d(1, 2, 3, padding=1), pool(), sc.Logistic(), sc.Conv2d(2, 2, 3, padding=1), pool(), sc.Logistic(),
        sc.Flatten(), sc.Linear(2, 3), sc.Logistic(), pathway=pathway, seed=0,
    ).double()  # fmt: skip
    return net, torch.rand(1, 1, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize(("balanced", "transposed"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("energy", [Hopfield(), Hopfield(0.6), Potential(0.6), Predictive()])
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_over_a_basis_loss_and_gradients_are_those_of_half_the_squared_asymmetry(
    make, energy, balanced, transposed, monkeypatch
):
    net, x = make()
    relaxation = Sweeps(60, 1, "euler")
    settled = settle(net, x[:1], energy, relaxation)
    loss, found = over_a_basis(monkeypatch, settled, balanced, transposed)
    settled = settle(net, x[:1], energy, relaxation)
    learns = net.pathway.learns
    leaves = [[getattr(p, name).clone() for p in settled.phase.parts] for name in ("weight", "feedback")]
    for tensor in leaves[0] + leaves[1] * learns:
        tensor.requires_grad_()
    j = whole(settled, balanced and isinstance(energy, Hopfield), leaves)
    wanted = (j - j.T).square().sum() / 2
    assert float(wanted.detach()) > 1e-3 and float(loss) == pytest.approx(float(wanted.detach()), rel=1e-10)
    slopes = torch.autograd.grad(wanted, leaves[0] + leaves[1][1:] * learns, allow_unused=True, materialize_grads=True)
    found = [t for t in found if t is not None]
    assert len(found) == len(slopes)
    for got, slope in zip(found, slopes, strict=True):
        torch.testing.assert_close(got, slope, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("balanced", "transposed"), [(True, True), (True, False), (False, True), (False, False)])
def test_its_mean_over_noise_is_that_and_the_noise_is_the_one_given(balanced, transposed, monkeypatch):
    net, x = small()
    settled = settle(net, x[:1], relaxation=Sweeps(100))
    wanted, _ = over_a_basis(monkeypatch, settled, balanced, transposed)
    settled = settle_copies(settle(net, x[:1], relaxation=Sweeps(100)), 200)
    g = torch.Generator().manual_seed(0)
    found = torch.stack([homeostasis(settled, g, balanced, transposed)[0] for _ in range(100)])
    assert abs(float(found.mean() - wanted)) < 4 * float(found.std()) / 10 < 0.1 * float(wanted)
    again = homeostasis(settled, torch.Generator().manual_seed(0), balanced, transposed)[0]
    assert again == found[0] and again != found[1]


@pytest.mark.parametrize("energy", [Hopfield(), Hopfield(0.6), Potential(), Predictive()])
def test_where_b_is_w_there_is_nothing_to_do_but_with_slopes_on_one_side(energy, monkeypatch):
    net, x = small()
    settled = settle(aligned(net, energy.gain), x[:1], energy, Sweeps(200, 1, "euler"))
    loss, found = over_a_basis(monkeypatch, settled)
    assert abs(float(loss)) < 1e-12 and all(float(w.abs().max()) < 1e-12 for w in found[:3])
    loss, found = homeostasis(settled)  # for any noise, not in the mean only
    assert float(loss) < 1e-20 and max(float(w.abs().max()) for w, _ in found.values()) < 1e-12
    published = homeostasis(settled, transposed=False)[1]  # there only the mean of its gradient is 0
    assert max(float(w.abs().max()) for w, _ in published.values()) > 1e-3
    if isinstance(energy, Hopfield):
        loss, found = over_a_basis(monkeypatch, settled, balanced=False)
        assert float(loss) > 1e-3 and float(found[1].abs().max()) > 1e-3


def descend(net, x, balanced, steps=150, rate=0.3):
    g, losses = torch.Generator().manual_seed(3), []
    for _ in range(steps):
        loss, found = homeostasis(settle(net, x, relaxation=Sweeps(40)), g, balanced)
        losses.append(float(loss))
        with torch.no_grad():
            for part in sections(net):
                w, b = found[part.name]
                part.layer.weight -= rate * w
                if b is not None:
                    part.layer.feedback_weight -= rate * b
    return sum(losses[-10:]) / sum(losses[:10])


def cosines(net, x, y):
    """Of the estimate with the true gradient, in the weights below the last layer."""
    found, wanted = estimate(net, x, y, Centred(1e-3)), true_gradient(net, x, y)
    sizes = [part.layer.weight.numel() + part.layer.bias.numel() for part in sections(net)]
    pairs = zip(found.split(sizes)[:-1], wanted.split(sizes)[:-1], strict=True)
    return [float(a @ b / a.norm() / b.norm()) for a, b in pairs]


@pytest.mark.parametrize("pathway", PATHWAYS)
def test_descending_it_makes_feedback_symmetric_and_the_estimate_the_gradient(pathway):
    x, y = batch(n=32)
    net, other = (dense(pathway=pathway, sizes=(20, 12, 10, 10)) for _ in range(2))
    before, shrunk = cosines(net, x[:8], y[:8]), descend(net, x, balanced=True)
    after = cosines(net, x[:8], y[:8])
    assert shrunk < 0.05 and max(before) < 0.5 and min(after) > 0.99
    if pathway.learns:  # a fixed B has no way to meet W where units are nearly silent
        for part in sections(net)[1:]:
            w, b = part.layer.weight.detach(), part.layer.feedback_weight.detach()
            assert relative(b, w) < 0.1
    # That of the targets shrinks too, by smaller slopes and weights, and helps less.
    assert descend(other, x, balanced=False) < 0.2
    assert min(cosines(other, x[:8], y[:8])) < min(after) - 0.1


@pytest.mark.parametrize("pathway", [*PATHWAYS, sc.SignSymmetry(magnitude="batch")])
def test_the_rule_adds_its_gradients_to_those_of_the_contrast(pathway):
    net, (x, y) = dense(pathway=pathway), batch()
    grads = []
    for strength in (0.0, 0.3):
        net.zero_grad()
        torch.manual_seed(0)
        noise = torch.Generator().manual_seed(4)
        net = dense(pathway=pathway)
        EquilibriumPropagation(homeostasis=strength).gradients(net, x[None], y, SquaredErrorLoss(), noise=noise)
        grads.append([p.grad for p in net.parameters()])
    fresh = dense(pathway=pathway)
    _, found = homeostasis(settle(fresh, x), torch.Generator().manual_seed(4))
    for name, parameter, old, new in zip(dict(fresh.named_parameters()), fresh.parameters(), *grads, strict=True):
        layer, kind = name.rsplit(".", 1)
        w, b = found[layer]
        wanted = {"weight": w, "feedback_weight": b, "bias": None}[kind]
        wanted = torch.zeros_like(parameter) if wanted is None else wanted
        torch.testing.assert_close(new - old, 0.3 * wanted, rtol=1e-9, atol=1e-14)
        assert kind == "bias" or layer == "layers.0" or wanted.any()


def test_a_parametrised_weight_gets_it_by_the_chain_rule_and_a_layer_by_backprop_gives_it_both_ways():
    x, _ = batch()
    constraint = sc.Dale(mode="reparametrize", magnitude="exp", sensory="exempt")
    layers = [sc.Linear(20, 12), sc.Logistic(), sc.Linear(12, 8), sc.Logistic(), sc.Linear(8, 10)]
    net = sc.Network(*layers, pathway=sc.FeedbackAlignment(), constraint=constraint, seed=0).double()
    settled = settle(net, x)
    found = homeostasis(settled, torch.Generator().manual_seed(0))[1]["layers.2"][0]
    add_homeostasis(settled, 2.0, torch.Generator().manual_seed(0))
    effective = net.layers[2].effective_weight().detach()  # |W| = exp(p): dW/dp = W
    torch.testing.assert_close(net.layers[2].weight.grad, 2 * found * effective, rtol=1e-12, atol=0)
    last = sc.Linear(8, 10, pathway=sc.Backprop())
    net = sc.Network(*layers[:-1], last, pathway=sc.FeedbackAlignment(), seed=0).double()
    _, found = homeostasis(settle(net, x, relaxation=Sweeps(200)), torch.Generator().manual_seed(0))
    assert found["layers.4"][1] is None and found["layers.2"][0].any()


@pytest.mark.parametrize("relaxation", [Sweeps(60), SigmaDelta(60)])
def test_what_it_is_given_stays_as_it_is(relaxation):
    net, (x, y) = dense(pathway=PATHWAYS[1]), batch()
    _, settled = gradient(net, x, y, SquaredError(), relaxation=relaxation)
    before = [t.clone() for t in (*settled.activities, *net.parameters())]
    first = homeostasis(settled, torch.Generator().manual_seed(0))[0]
    assert first == homeostasis(settled, torch.Generator().manual_seed(0))[0] and not first.requires_grad
    assert all(map(torch.equal, before, (*settled.activities, *net.parameters())))
    assert all(p.grad is None for p in net.parameters())
    assert not any(part.weight.requires_grad for part in settled.phase.parts)


def test_the_slope_of_soft_pooling_is_not_the_one_that_the_free_phase_left():
    """That one is a number; J has its derivative."""
    net, x = NETS["soft"]()
    settled = settle(net, x, relaxation=Sweeps(60))
    found = [homeostasis(s, torch.Generator().manual_seed(0))[0] for s in (settled, settle_copies(settled, 1))]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-12)


def test_a_holomorphic_estimate_before_it_changes_nothing():
    net, (x, y) = dense(pathway=PATHWAYS[1]), batch()
    found = []
    for estimator in (Centred(0.1), Holomorphic(0.1, 4)):
        _, settled = gradient(net, x, y, SquaredError(), estimator=estimator)
        loss, grads = homeostasis(settled, torch.Generator().manual_seed(0))
        found.append(flat([loss, *(t for pair in grads.values() for t in pair if t is not None)]))
    assert relative(*found) < 1e-12


def test_what_has_nothing_to_make_symmetric_is_refused():
    rule = EquilibriumPropagation(homeostasis=0.1)
    with pytest.raises(ValueError, match="here the error goes through the weights themselves"):
        rule.check(dense())
    rule.check(dense(pathway=PATHWAYS[0]))
    EquilibriumPropagation().check(dense())
    with pytest.raises(ValueError, match=r"layers.0 drives LIF, which fires"):
        EquilibriumPropagation(relaxation=Spikes(), homeostasis=0.1).check(dense(sc.LIF, pathway=PATHWAYS[0]))
    for wrong in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="homeostasis is the strength of a loss"):
            EquilibriumPropagation(homeostasis=wrong)

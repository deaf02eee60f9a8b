"""Angles and errors on cases made by hand."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import alignment, angle


@pytest.mark.parametrize("degrees", [1e-6, 1e-3, 1.0, 60.0, 90.0, 179.0, 180 - 1e-6])
def test_angles_are_accurate_everywhere(degrees):
    """arccos of a rounded cosine cannot tell angles below 1e-6 degrees in float64 apart; nor 0.02 in float32."""
    radians = math.radians(degrees)
    a = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    b = 5 * torch.tensor([math.cos(radians), math.sin(radians), 0.0], dtype=torch.float64)
    assert angle(a, b) == pytest.approx(degrees, rel=1e-9)
    assert angle(b, a) == pytest.approx(degrees, rel=1e-9)


def test_angles_at_the_ends_and_without_direction():
    a = torch.randn(7, 5)
    assert angle(a, 3 * a) == pytest.approx(0, abs=1e-5)
    assert angle(a, a) == 0
    assert angle(a, -a) == 180
    assert angle(a.t(), a.t().contiguous()) == 0
    for nothing in (torch.zeros(7, 5), torch.full((7, 5), 1e-14), torch.full((7, 5), math.nan)):
        assert math.isnan(angle(a, nothing))
        assert math.isnan(angle(nothing, a))
    assert angle(torch.full((3,), 1e-3), torch.full((3,), 1e5)) == pytest.approx(0, abs=1e-5)  # above the floor


def arccos(a, b):
    a, b = a.double().flatten(), b.double().flatten()
    return math.degrees(math.acos(float(a @ b / a.norm() / b.norm())))


def test_a_linear_network_by_hand():
    """delta_2 = e, delta_1 = e B_2 for what is delivered and e W_2 for the truth."""
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(4, 6), sc.Linear(6, 3), pathway=sc.FeedbackAlignment(), seed=0).double()
    x, y = torch.randn(5, 8, 4, dtype=torch.float64), torch.arange(8) % 3
    second = net.layers[1]
    out = net(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(F.cross_entropy(out.mean(0), y), out)
    delivered, true = e @ second.feedback_weight, e @ second.weight.detach()
    found = alignment(net, x, y)
    assert list(found) == ["layers.0", "layers.1"]
    assert found["layers.0"].error_angle == pytest.approx(arccos(delivered, true), rel=1e-9)
    assert found["layers.0"].error_norm == pytest.approx(float(delivered.norm()), rel=1e-9)
    assert found["layers.0"].true_error_norm == pytest.approx(float(true.norm()), rel=1e-9)
    assert found["layers.1"].error_angle == 0
    assert found["layers.1"].error_norm == found["layers.1"].true_error_norm
    for name, layer in net.synapses().items():
        weight = layer.weight.detach()
        assert found[name].weight_angle == pytest.approx(arccos(layer.feedback_weight, weight), rel=1e-9)
        assert found[name].weight_norm == pytest.approx(float(weight.norm()))
        assert found[name].feedback_norm == pytest.approx(float(layer.feedback_weight.norm()))
        agreement = float(((layer.feedback_weight > 0) == (weight > 0)).double().mean())
        assert found[name].sign_agreement == pytest.approx(agreement)


def spiking(pathway, constraint=None, **options):
    torch.manual_seed(0)
    layers = (
        sc.Linear(6, 20), sc.BatchNorm1d(20), sc.LIF(tau=5.0), sc.Dropout(0.2),
        sc.RecurrentLinear(20, 20, sc.LIF(tau=5.0)), sc.Linear(20, 4), sc.LeakyReadout(tau=5.0),
    )  # fmt: skip
    return sc.Network(*layers, pathway=pathway, constraint=constraint, seed=1, **options)


X, Y = 3 * torch.rand(12, 5, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])


def test_backprop_is_aligned_with_itself():
    for layer in alignment(spiking(None), X, Y).values():
        assert layer.error_angle == layer.weight_angle == 0
        assert layer.sign_agreement == 1
        assert layer.error_norm == layer.true_error_norm > 0


def test_sign_symmetry_reports_the_effective_feedback():
    found = alignment(spiking(sc.SignSymmetry("fixed"), sc.Dale()), X, Y)
    for name in ("layers.0", "layers.4.input", "layers.4.recurrent", "layers.5"):
        assert found[name].sign_agreement == 1  # |M| sign(W), though |M| is what is stored
        assert found[name].weight_angle < 75
    assert 0 < found["layers.0"].error_angle < 80
    assert found["layers.4.recurrent"].error_angle == found["layers.4.input"].error_angle


def test_without_feedback_there_is_no_angle():
    net = spiking(sc.FeedbackAlignment())
    with torch.no_grad():
        net.layers[5].feedback_weight.zero_()
    found = alignment(net, X, Y)
    assert math.isnan(found["layers.0"].error_angle)
    assert found["layers.0"].error_norm == 0 < found["layers.0"].true_error_norm
    assert math.isnan(found["layers.5"].weight_angle)
    assert found["layers.5"].error_angle == 0
    with torch.no_grad():
        net.layers[5].weight.zero_()
    assert math.isnan(alignment(net, X, Y)["layers.5"].sign_agreement)


@pytest.mark.parametrize(
    "pathway",
    [sc.FeedbackAlignment(), sc.SignSymmetry("batch"), sc.DirectFeedbackAlignment("target"), sc.DirectKolenPollack()],
    ids=repr,
)
def test_measuring_changes_nothing(pathway):
    net = spiking(pathway, sc.Dale())
    sc.losses.MeanPotential()(net(X, target=Y) if net.needs_target else net(X), Y).backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    state = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    found = alignment(net, X, Y)
    assert torch.equal(torch.rand(1), wanted)
    assert all(map(torch.equal, gradients, (p.grad for p in net.parameters())))
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert repr(alignment(net, X, Y)) == repr(found)
    assert all(layer.pathway is pathway for layer in net.synapses().values())
    with torch.no_grad():
        assert repr(alignment(net, X, Y)) == repr(found)


def test_a_constant_input_is_measured_step_by_step():
    """The network computes its first layer once for all steps; the report must not depend on that."""
    net = spiking(sc.FeedbackAlignment())
    constant = X[:1].expand(12, -1, -1)
    assert repr(alignment(net, constant, Y)) == repr(alignment(net, constant.clone(), Y))


def test_frozen_layers_and_other_losses():
    net = spiking(sc.FeedbackAlignment())
    whole = alignment(net, X, Y, sc.losses.PerStep())
    assert whole["layers.5"].error_norm != alignment(net, X, Y)["layers.5"].error_norm
    net.layers[0].requires_grad_(False)
    net.layers[1].requires_grad_(False)
    found = alignment(net, X, Y, sc.losses.PerStep())
    assert math.isnan(found["layers.0"].error_angle)  # no error is delivered to a layer that does not learn
    assert found["layers.5"] == whole["layers.5"]


def test_activations_in_place_hide_no_error():
    torch.manual_seed(0)
    conv, dense = sc.Conv2d(1, 3, 3), sc.Linear(12, 4)
    x, y = torch.randn(3, 5, 1, 4, 4), torch.arange(5) % 4
    found = [
        alignment(
            sc.Network(conv, torch.nn.ReLU(inplace), sc.Flatten(), dense, pathway=sc.FeedbackAlignment(), seed=0), x, y
        )
        for inplace in (False, True)
    ]
    assert repr(found[0]) == repr(found[1]) and 0 < found[1]["layers.0"].error_angle < 180


def test_errors_of_a_layer_at_two_places_are_one_vector():
    torch.manual_seed(0)
    twice = sc.Linear(4, 4)
    net = sc.Network(twice, sc.ReLU(), twice, pathway=sc.FeedbackAlignment(), seed=0).double()
    x, y = torch.randn(3, 5, 4, dtype=torch.float64), torch.arange(5) % 4
    out = net(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(F.cross_entropy(out.mean(0), y), out)
    slope = (twice(x) > 0).double()
    delivered, true = (torch.cat([e @ m * slope, e], 2) for m in (twice.feedback_weight, twice.weight.detach()))
    found = alignment(net, x, y, over_time=True)["layers.0"]
    assert found.error_angle == pytest.approx(arccos(delivered, true), rel=1e-9)
    assert found.error_norm == pytest.approx(float(delivered.norm()))
    assert found.error_angle_over_time == pytest.approx([arccos(a, b) for a, b in zip(delivered, true, strict=True)])


def test_direct_feedback_by_hand():
    """delta_1 = e B phi'(a_1) for what is delivered, e W_2 phi'(a_1) for the truth; no B has the layout of W."""
    torch.manual_seed(0)
    layers = sc.Linear(4, 6), sc.ReLU(), sc.Linear(6, 3)
    net = sc.Network(*layers, pathway=sc.DirectFeedbackAlignment(), seed=0).double()
    x, y = torch.randn(5, 8, 4, dtype=torch.float64), torch.arange(8) % 3
    out = net(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(sc.losses.PerStep()(out, y), out)
    slope = (net.layers[0](x) > 0).double()
    delivered, true = e @ net.broadcast.get_buffer("layers/1") * slope, e @ net.layers[2].weight.detach() * slope
    found = alignment(net, x, y, sc.losses.PerStep(), over_time=True)
    first, last = found.values()
    assert first.error_angle == pytest.approx(arccos(delivered, true), rel=1e-9)
    assert first.error_norm == pytest.approx(float(delivered.norm()), rel=1e-9)
    assert first.true_error_norm == pytest.approx(float(true.norm()), rel=1e-9)
    assert first.error_angle_over_time == pytest.approx([arccos(a, b) for a, b in zip(delivered, true, strict=True)])
    ratios = [float(a.norm() / b.norm()) for a, b in zip(delivered, true, strict=True)]
    assert first.error_ratio_over_time == pytest.approx(ratios)
    assert last.error_angle == 0
    assert last.error_angle_over_time == (0.0,) * 5
    assert last.error_ratio_over_time == (1.0,) * 5
    for layer in found.values():
        assert all(map(math.isnan, (layer.weight_angle, layer.feedback_norm, layer.sign_agreement)))
        assert layer.weight_norm > 0


@pytest.mark.parametrize("pathway", [sc.FeedbackAlignment(), sc.DirectFeedbackAlignment()], ids=repr)
def test_each_step_may_be_looked_at(pathway):
    """In a recurrent network too, where steps differ; by default it is not done."""
    net = spiking(pathway)
    whole = alignment(net, X, Y, over_time=True)
    for name, layer in whole.items():
        assert len(layer.error_angle_over_time) == len(layer.error_ratio_over_time) == 12, name
    first = whole["layers.0"]
    assert len(set(first.error_angle_over_time)) > 6
    assert min(first.error_angle_over_time) < first.error_angle < max(first.error_angle_over_time)
    without = alignment(net, X, Y)
    assert without["layers.0"].error_angle_over_time == without["layers.0"].error_ratio_over_time == ()
    assert without["layers.0"].error_angle == first.error_angle
    with torch.no_grad():
        net.layers[5].weight.zero_()
    assert all(map(math.isnan, alignment(net, X, Y, over_time=True)["layers.0"].error_ratio_over_time))


def test_the_truth_of_a_recurrent_layer_under_direct_feedback_is_backprop_through_it():
    found = alignment(spiking(sc.DirectFeedbackAlignment()), X, Y)
    wanted = alignment(spiking(None), X, Y)
    for name, layer in wanted.items():
        assert found[name].true_error_norm == layer.true_error_norm, name
        assert math.isnan(found[name].sign_agreement)

"""Scales of the feedback weights, and what every pathway has in common."""

import math

import pytest
import torch

import spikecredit as sc
from spikecredit.pathways import PATHWAYS
from spikecredit.pathways.pathway import feedback_rms


def published(scale, shape, groups=1):
    """The formulas of the published code, from the weight's shape (out, in, kh, kw) or (out, in)."""
    kernel = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * kernel, shape[0] * kernel // groups
    if scale == "fan_out":
        return 1 / math.sqrt(fan_out)
    if scale == "biotorch":
        return math.sqrt(2 / (fan_in + fan_out))
    return math.sqrt(2 / (kernel * shape[0])) if len(shape) == 4 else 1 / math.sqrt(fan_in)


LAYERS = [
    lambda pathway: sc.Linear(300, 200, pathway=pathway),
    lambda pathway: sc.Conv2d(30, 70, (3, 5), pathway=pathway),
    lambda pathway: sc.Conv2d(60, 80, 3, groups=2, pathway=pathway),
]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("scale", ["fan_out", "biotorch", "xiao"])
def test_scales_are_the_published_formulas(scale, make):
    torch.manual_seed(0)
    uniform = make(sc.SignSymmetry(scale=scale, gain=3.0))
    s = published(scale, uniform.weight.shape, getattr(uniform, "groups", 1))
    assert feedback_rms(uniform, scale) == pytest.approx(s, rel=1e-12)
    torch.testing.assert_close(uniform.feedback(), 3 * s * uniform.weight.sign())
    # Xiao's dense layers draw U(-s, s), which is not matched in standard deviation: their comment says so.
    dense_xiao = scale == "xiao" and uniform.weight.ndim == 2
    rms = s / math.sqrt(3) if dense_xiao else s
    for pathway in (sc.FeedbackAlignment(scale, gain=2.0), sc.SignSymmetry("fixed", scale, gain=2.0)):
        feedback = make(pathway).feedback()
        assert float(feedback.square().mean().sqrt()) == pytest.approx(2 * rms, rel=0.02)
        assert abs(float(feedback.mean())) < 0.1 * rms
        if scale == "fan_out" or (scale == "xiao" and not dense_xiao):
            assert feedback.abs().max() > 3.5 * 2 * rms  # normal
        else:
            assert feedback.abs().max() == pytest.approx(2 * rms * math.sqrt(3), rel=1e-3)  # uniform


def test_fan_out_keeps_the_variance_of_the_error():
    torch.manual_seed(0)
    x = torch.randn(64, 100, requires_grad=True)
    y = sc.Linear(100, 1000, pathway=sc.FeedbackAlignment())(x)
    y.backward(torch.randn_like(y))
    assert float(x.grad.std()) == pytest.approx(1, rel=0.05)
    x = torch.randn(4, 8, 20, 20, requires_grad=True)
    y = sc.Conv2d(8, 64, 3, padding=1, groups=2, pathway=sc.FeedbackAlignment())(x)
    y.backward(torch.randn_like(y))
    assert float(x.grad[..., 1:-1, 1:-1].std()) == pytest.approx(1, rel=0.1)


def test_feedback_draws_only_from_its_own_stream():
    """What the pathway draws depends on the network's seed and the layer, on nothing else."""

    def feedback(seed, *between, before=0):
        torch.manual_seed(before)
        net = sc.Network(sc.Linear(9, 9), *between, sc.Linear(9, 9), pathway=sc.FeedbackAlignment(), seed=seed)
        return [layer.feedback_weight for layer in net.synapses().values()]

    a = feedback(1)
    assert all(map(torch.equal, a, feedback(1, before=5)))
    assert all(map(torch.equal, a, feedback(1, sc.BatchNorm1d(9), sc.LIF(), sc.Dropout(0.5))))
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[0], feedback(2)[0])


@pytest.mark.parametrize("kind", [sc.FeedbackAlignment, sc.SignSymmetry])
def test_wrong_values_are_refused(kind):
    with pytest.raises(ValueError, match="scale must be one of 'fan_out', 'biotorch', 'xiao'"):
        kind(scale="kaiming")
    with pytest.raises(ValueError, match="gain must be positive, got 0"):
        kind(gain=0)
    with pytest.raises(ValueError, match="magnitude must be"):
        sc.SignSymmetry(magnitude="fix")
    with pytest.raises(ValueError, match="scale must be"):
        feedback_rms(sc.Linear(2, 2), "strict")


@pytest.mark.parametrize("kind", PATHWAYS.values())
def test_pathways_are_values(kind):
    assert kind() == kind()
    assert len({kind(), kind()}) == 1
    with pytest.raises(AttributeError):
        kind().gain = 2.0


def test_backprop_feedback_is_the_effective_weight():
    plain = sc.Linear(5, 4)
    assert torch.equal(plain.pathway.feedback(plain), plain.weight)
    assert plain.feedback() is None  # autograd does it
    dale = sc.Linear(5, 4, constraint=sc.Dale(mode="reparametrize", magnitude="exp"))
    assert torch.equal(sc.Backprop().feedback(dale), dale.effective_weight())

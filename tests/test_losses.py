"""Losses against their formulas in NumPy."""

import numpy as np
import pytest
import torch

from spikecredit.losses import LOSSES, MeanPotential, PerStep, SpikeCount


def cross_entropy(scores, labels):
    scores = scores - scores.max(-1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels].mean()


ORACLES = [
    (MeanPotential(), lambda u, y: cross_entropy(u.mean(0), y)),
    (SpikeCount(), lambda u, y: cross_entropy(u.sum(0), y)),
    (SpikeCount(scale=0.25), lambda u, y: cross_entropy(0.25 * u.sum(0), y)),
    (PerStep(), lambda u, y: np.mean([cross_entropy(step, y) for step in u])),
]


@pytest.mark.parametrize(("loss", "oracle"), ORACLES, ids=lambda v: repr(v) if hasattr(v, "scores") else "")
def test_formulas(loss, oracle):
    rng = np.random.default_rng(0)
    out, labels = rng.normal(size=(7, 5, 4)), np.array([0, 3, 1, 1, 2])
    found = loss(torch.from_numpy(out), torch.from_numpy(labels))
    assert float(found) == pytest.approx(oracle(out, labels), rel=1e-12)


def test_predictions():
    out = torch.tensor([[[3.0, 0.0, 1.0]], [[-5.0, 0.0, 1.0]]])
    for loss in (MeanPotential(), PerStep(), SpikeCount(2.0)):
        assert int(loss.scores(out).argmax(1)) == 2
    assert torch.equal(MeanPotential().scores(out), torch.tensor([[-1.0, 0.0, 1.0]]))
    assert torch.equal(SpikeCount(2.0).scores(out), torch.tensor([[-4.0, 0.0, 4.0]]))


def test_every_step_has_an_error_of_its_own():
    out = torch.randn(3, 2, 4, requires_grad=True)
    labels = torch.tensor([1, 2])
    (mean,) = torch.autograd.grad(MeanPotential()(out, labels), out)
    (steps,) = torch.autograd.grad(PerStep()(out, labels), out)
    assert torch.equal(mean[0], mean[2])
    assert not torch.allclose(steps[0], steps[2])


@pytest.mark.parametrize("loss", [kind() for kind in LOSSES.values()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(loss, dtype):
    torch.manual_seed(0)
    out = torch.randn(300, 4, 5).to(dtype).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3])
    value = loss(out, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(out.float(), labels))
    value.backward()
    assert out.grad.dtype == dtype


@pytest.mark.parametrize("loss", [kind() for kind in LOSSES.values()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_samples_loss_is_its_own_and_the_loss_their_mean(loss, dtype):
    out, labels = torch.randn(6, 4, 5, dtype=torch.float64).to(dtype), torch.tensor([0, 1, 2, 3])
    each = loss.of_samples(out, labels)
    assert each.shape == (4,)
    torch.testing.assert_close(each.mean(), loss(out, labels), rtol=1e-6, atol=0)
    alone = torch.stack([loss(out[:, b : b + 1], labels[b : b + 1]) for b in range(4)])
    torch.testing.assert_close(each, alone, rtol=1e-6, atol=0)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        SpikeCount(0)

"""Batch normalisation over time: torch's own on the folded tensor, and the correction for a constant input."""

import pytest
import torch
from torch import nn

import spikecredit as sc


@pytest.mark.parametrize("constraint", [None, sc.Dale(mode="reparametrize", magnitude="softplus")], ids=repr)
@pytest.mark.parametrize("maps", [True, False])
def test_equals_torch_on_the_folded_tensor(maps, constraint):
    torch.manual_seed(0)
    make, plain = (sc.BatchNorm2d, nn.BatchNorm2d) if maps else (sc.BatchNorm1d, nn.BatchNorm1d)
    ours, plain = make(4, eps=1e-3, momentum=0.3, constraint=constraint), plain(4, eps=1e-3, momentum=0.3)
    ours, plain = ours.double(), plain.double()
    shape = (5, 3, 4, 6, 7) if maps else (5, 3, 4)
    for step in range(6):
        if step == 4:
            ours.eval(), plain.eval()
        x = 3 * torch.randn(shape, dtype=torch.float64) + 2
        leaves = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, wanted = ours(leaves[0]), plain(leaves[1].flatten(0, 1)).unflatten(0, (5, 3))
        error = torch.randn_like(y)
        y.backward(error)
        wanted.backward(error)
        torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)  # 1 = softplus(log(e - 1)) in float32
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.running_mean, plain.running_mean)
        torch.testing.assert_close(ours.running_var, plain.running_var)
        if constraint is None:
            torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("steps", [2, 7])
@pytest.mark.parametrize("training", [True, False])
def test_repeats_equal_the_computation_of_every_step(steps, training):
    torch.manual_seed(0)
    once, every = sc.BatchNorm1d(3).double().train(training), sc.BatchNorm1d(3).double().train(training)
    for _ in range(3):
        x = torch.randn(1, 4, 3, dtype=torch.float64)
        leaf = x.clone().requires_grad_()
        y = once(leaf, repeats=steps).expand(steps, -1, -1)
        error = torch.randn_like(y)
        y.backward(error)
        full = x.expand(steps, -1, -1).clone().requires_grad_()
        wanted = every(full)
        wanted.backward(error)
        torch.testing.assert_close(y, wanted)
        torch.testing.assert_close(leaf.grad, full.grad.sum(0, keepdim=True))
        torch.testing.assert_close(once.running_var, every.running_var, rtol=1e-12, atol=0)
        torch.testing.assert_close(once.running_mean, every.running_mean)
    naive = sc.BatchNorm1d(3).double()
    naive(x)
    if training:
        assert not torch.allclose(naive.running_var, once.running_var, rtol=1e-3)


def test_wrong_channels_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"BatchNorm2d\(3\) takes \(\.\.\., 3, H, W\), got \(2, 2, 4, 5, 5\)"):
        sc.BatchNorm2d(3)(torch.zeros(2, 2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"BatchNorm1d\(3\) takes \(\.\.\., 3\), got \(2, 2, 4\)"):
        sc.BatchNorm1d(3)(torch.zeros(2, 2, 4))

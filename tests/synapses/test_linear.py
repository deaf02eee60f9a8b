"""The dense layer: shapes, what is computed in the backward pass, half precision."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc


class Recorder(TorchDispatchMode):
    """Notes every operation under it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((func.overloadpacket._qualified_op_name, args))
        return func(*args, **(kwargs or {}))

    def named(self, name):
        return [args for called, args in self.calls if called == f"aten::{name}"]


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6), (2, 3, 4, 6), (2, 2, 2, 2, 6)])
@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_any_number_of_leading_dimensions(shape, pathway):
    torch.manual_seed(0)
    layer = sc.Linear(6, 5, pathway=pathway).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(x, layer.weight, layer.bias))
    error = torch.randn_like(y)
    y.backward(error)
    feedback = layer.weight if pathway is None else layer.feedback_weight
    torch.testing.assert_close(x.grad, error @ feedback)
    flat = error.reshape(-1, 5)
    torch.testing.assert_close(layer.weight.grad, flat.T @ x.detach().reshape(-1, 6))
    torch.testing.assert_close(layer.bias.grad, flat.sum(0))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_error_of_the_first_layers_input_is_not_computed(wanted):
    x = torch.randn(7, 6, requires_grad=wanted)
    y = sc.Linear(6, 5, pathway=sc.FeedbackAlignment())(x)
    with Recorder() as recorder:
        y.backward(torch.ones_like(y))
    assert len(recorder.named("mm")) == (2 if wanted else 1)


@pytest.mark.parametrize("pathway", [sc.FeedbackAlignment(), sc.SignSymmetry(), sc.SignSymmetry("batch")], ids=repr)
@pytest.mark.parametrize("convolution", [False, True])
def test_autocast(convolution, pathway):
    torch.manual_seed(0)
    if convolution:
        layer, plain, x = sc.Conv2d(4, 6, 3, pathway=pathway), nn.Conv2d(4, 6, 3), torch.randn(2, 4, 9, 9)
    else:
        layer, plain, x = sc.Linear(40, 30, pathway=pathway), nn.Linear(40, 30), torch.randn(8, 40)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k in ("weight", "bias")})
    if layer.noise is not None:  # the same draw twice
        layer.noise_source = lambda: torch.Generator().manual_seed(3)

    def run(autocast):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(leaf)
        y.float().square().sum().backward()
        return y, [leaf.grad, layer.weight.grad, layer.bias.grad]

    y, found = run(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, plain(x))
    _, wanted = run(False)
    for f, w in zip(found, wanted, strict=True):
        assert f.dtype == torch.float32
        assert float((f - w).norm() / w.norm()) < 0.02


def test_frozen_parts_get_no_gradient():
    layer = sc.Linear(6, 5, pathway=sc.FeedbackAlignment())
    layer.weight.requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    assert x.grad is not None


def test_the_second_derivative_is_refused_rather_than_wrong():
    x = torch.randn(3, 6, requires_grad=True)
    y = sc.Linear(6, 5, pathway=sc.FeedbackAlignment())(x).square().sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_initialisation_is_that_of_torch():
    torch.manual_seed(0)
    ours = sc.Linear(6, 5, pathway=sc.FeedbackAlignment())
    torch.manual_seed(0)
    plain = nn.Linear(6, 5)
    assert torch.equal(ours.weight, plain.weight)
    assert torch.equal(ours.bias, plain.bias)

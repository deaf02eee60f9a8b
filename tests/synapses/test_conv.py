"""The convolution: shapes, memory formats, what is computed in the backward pass. Gradients: tests/pathways."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_any_number_of_leading_dimensions(leading, memory_format, pathway):
    torch.manual_seed(0)
    layer = sc.Conv2d(3, 4, 3, stride=2, padding=1, pathway=pathway).to(memory_format=memory_format)
    x = torch.randn(*leading, 3, 8, 8, requires_grad=True)
    y = layer(x)
    wanted = nn.functional.conv2d(x.reshape(-1, 3, 8, 8), layer.weight, layer.bias, 2, 1)
    torch.testing.assert_close(y, wanted.reshape(*leading, 4, 4, 4))
    y.sum().backward()
    assert x.grad.shape == x.shape


class Masks(TorchDispatchMode):
    """Notes which gradients each convolution's backward pass computes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.convolution_backward:
            self.seen.append(list(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_only_the_gradients_that_are_needed_are_computed(wanted, bias):
    x = torch.randn(2, 3, 6, 6, requires_grad=wanted)
    y = sc.Conv2d(3, 4, 3, bias=bias, pathway=sc.SignSymmetry())(x)
    with Masks() as masks:
        y.sum().backward()
    assert masks.seen == [[wanted, True, bias]]


def test_wrong_shapes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"takes \(\.\.\., 3, H, W\), got \(2, 4, 8, 8\)"):
        sc.Conv2d(3, 4, 3)(torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match=r"got \(8, 8\)"):
        sc.Conv2d(3, 4, 3)(torch.zeros(8, 8))


def test_initialisation_is_that_of_torch():
    torch.manual_seed(0)
    ours = sc.Conv2d(4, 6, (3, 2), groups=2, pathway=sc.FeedbackAlignment())
    torch.manual_seed(0)
    assert torch.equal(ours.weight, nn.Conv2d(4, 6, (3, 2), groups=2).weight)
    assert ours.fan_in == 2 * 6
    assert ours.fan_out == 3 * 6
    assert ours.units == (4, 6)

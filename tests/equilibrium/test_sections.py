"""A convolution and its average pooling as one convolution: equal to the two, as torch runs them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relaxing import convolutional, relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.equilibrium import sections

SIDES = st.tuples(st.integers(1, 5), st.integers(1, 5))
WINDOWS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(SIDES, WINDOWS, WINDOWS, st.integers(0, 2), st.sampled_from([1, 2]), st.integers(0, 2**31), st.booleans())
def test_one_convolution_is_the_convolution_and_its_average(kernel, window, stride, padding, groups, seed, complex_):
    g = torch.Generator().manual_seed(seed)
    conv = sc.Conv2d(4, 6, kernel, padding=padding, groups=groups)
    net = sc.Network(conv, sc.AvgPool2d(window, stride), sc.Logistic(), seed=0).double()
    (part,) = sections(net)
    dtype = torch.complex128 if complex_ else torch.float64
    part.take(dtype, first=False)
    x = torch.rand(3, 4, 11, 12, generator=g, dtype=dtype)
    w, b = (p.detach().requires_grad_() for p in (conv.weight, conv.bias))

    def two(x, w):
        return F.avg_pool2d(F.conv2d(x, w, b, 1, padding, 1, groups), window, stride)

    real = x.real.clone().requires_grad_()
    wanted = two(real, w)
    found, places = part.up(x)
    assert places is None and relative(found.real, wanted) < 1e-12
    s = torch.rand(found.shape, generator=g, dtype=dtype)
    back, slope, moved = torch.autograd.grad((wanted * s.real).sum(), (real, w, b))
    assert relative(part.down(s, None, x).real, back) < 1e-12
    if complex_:  # -dE/dW is the product without conjugation
        slope = slope - torch.autograd.grad((two(x.imag, w) * s.imag).sum(), w)[0]
        assert relative(part.down(s, None, x).imag, torch.autograd.grad((two(real, w) * s.imag).sum(), real)[0]) < 1e-12
    products = part.hebb(s, x, None)
    assert relative(products[0], slope) < 1e-12 and relative(products[1], moved) < 1e-12


def test_a_weight_that_changes_in_place_has_another_kernel():
    """Continual learning moves weights within a phase; feedback weights have a kernel of their own."""
    net = convolutional(lambda: sc.AvgPool2d(2))
    part = sections(net)[0]
    part.take(torch.float64, first=False)
    part.feedback = -part.weight
    x = torch.rand(2, 2, 12, 12, dtype=torch.float64)
    for _ in range(3):
        up, down = part.up(x)[0], part.down(part.up(x)[0], None, x)
        plain = F.avg_pool2d(F.conv2d(x, part.weight, part.bias, 1, 1), 2)
        torch.testing.assert_close(up, plain, rtol=1e-12, atol=1e-14)
        wanted = F.conv_transpose2d(F.interpolate(up, scale_factor=2) / 4, part.feedback, None, 1, 1)
        torch.testing.assert_close(down, wanted, rtol=1e-12, atol=1e-14)
        part.weight.mul_(1.5)
        part.feedback.sub_(0.1)


@pytest.mark.parametrize(
    ("pool", "conv", "joined"),
    [
        (sc.AvgPool2d(2), {}, True),
        (sc.AvgPool2d(2, 1), {}, False),  # more products than the two
        (sc.AvgPool2d(3, 2, 1), {}, False),  # padded between the two
        (sc.AvgPool2d(2), {"dilation": 2}, False),
        (sc.AvgPool2d(2), {"stride": 2}, False),
        (sc.MaxPool2d(2), {}, False),
    ],
)
def test_only_where_it_takes_fewer_products(pool, conv, joined):
    (part,) = sections(sc.Network(sc.Conv2d(2, 3, 5, padding=2, **conv), pool, sc.Logistic(), seed=0))
    assert part._joined is joined

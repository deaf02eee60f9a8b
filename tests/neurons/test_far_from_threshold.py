"""The compiled derivative of a surrogate in float32, from next to the threshold to the end of the range."""

import pytest
import torch

import spikecredit as sc
from spikecredit.neurons.kernels import backends


@pytest.mark.parametrize("surrogate", [sc.FastSigmoid(25.0), sc.FastSigmoid(1.0), sc.ArcTan(2.0)], ids=str)
@pytest.mark.parametrize("n", [32, 7])  # in vectors, and one by one
def test_it_errs_by_rounding_only(surrogate, n):
    """dL/dx of a single step is the derivative at u = x, from 1e-30 to where its square leaves float32."""
    far = torch.logspace(-30, 17, 20 * n, dtype=torch.float64).view(20, n)
    for x in (1.0 + far, 1.0 - far):
        given = x.float().requires_grad_()
        spikes = sc.LIF(surrogate=surrogate, backend="cpu")(given[None])
        (found,) = torch.autograd.grad(spikes.sum(), given)
        wanted = surrogate.derivative(given.detach().double() - 1.0)
        assert backends.choose("auto", "cpu", type(surrogate)) == "cpu"
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("surrogate", [sc.FastSigmoid(25.0), sc.ArcTan(2.0)], ids=str)
def test_beyond_float32s_range_it_is_nothing(surrogate):
    """And of NaN it is NaN."""
    given = torch.tensor(
        [[1e19, -1e19, 3e38, -3e38, torch.inf, -torch.inf, torch.nan] + [0.0] * 25], requires_grad=True
    )
    (found,) = torch.autograd.grad(sc.LIF(surrogate=surrogate, backend="cpu")(given[None]).sum(), given)
    assert (found[0, :6].abs() < 2e-35).all()
    assert found[0, 6].isnan()
    assert (found[0, 7:] > 0).all()

"""Small equilibrium networks in float64, and the true gradient by autograd through the sweeps."""

import itertools
import math

import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.equilibrium import Hopfield, SquaredError, Sweeps, free_state, gradient, sections

SIZES = (20, 30, 20, 10)
LONG = {"free": 600, "nudged": 300}


def dense(unit=sc.Logistic, gain=0.5, pathway=None, sizes=SIZES, seed=0, last=True):
    """Glorot weights times `gain`, the set-up of the reference's measurements."""
    g = torch.Generator().manual_seed(seed)
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layer = sc.Linear(a, b)
        with torch.no_grad():
            layer.weight.copy_((2 * torch.rand(b, a, generator=g) - 1) * gain * math.sqrt(6 / (a + b)))
            layer.bias.copy_(0.1 * torch.randn(b, generator=g))
        layers += [layer, unit()] if last or i < len(sizes) - 2 else [layer]
    return sc.Network(*layers, pathway=pathway, seed=0).double()


def convolutional(pool, unit=sc.Logistic, seed=0, padding=1):
    torch.manual_seed(seed)
    return sc.Network(
        sc.Conv2d(2, 4, 3, padding=padding), pool(), unit(), sc.Conv2d(4, 3, 3), pool(), unit(), sc.Flatten(),
        sc.Linear(12, 10), unit(), seed=0,
    ).double()  # fmt: skip


def batch(shape=(20,), n=8):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, *shape, generator=g, dtype=torch.float64), torch.arange(n) % 10


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def true_gradient(net, x, y, cost=SquaredError(), gain=1.0, sweeps=300):
    """dC/dW through `sweeps` Jacobi sweeps at the fixed point, written out with torch's own layers."""
    state = free_state(net, x, Hopfield(gain), Sweeps(free=600, order="jacobi"))
    parts = sections(net)
    for _ in range(sweeps):
        around, new = [x, *state], []
        for i, part in enumerate(parts):
            current = _up(part, around[i])
            if i + 1 < len(parts):
                current = current + gain * _down(parts[i + 1], around[i + 2], around[i + 1])
            new.append(part.rate(current))
        state = new
    weights = [w for part in parts for w in (part.layer.weight, part.layer.bias)]
    return flat(torch.autograd.grad(cost(state[-1], y).mean(), weights))


def _up(part, below):
    if isinstance(part.layer, sc.Linear):  # not the layer itself, whose backward pass is its pathway's
        return F.linear(below.flatten(1), part.layer.weight, part.layer.bias)
    y = part.layer(below)
    return y if part.pool is None else part.pool(y)


def _down(part, above, below):
    """The adjoint of `_up` by autograd; B in the place of W under a pathway of its own, as a constant."""
    if not part.layer.pathway.transports_weights:
        return above @ part.layer.pathway.feedback(part.layer).detach()
    at = below if below.requires_grad else below.detach().requires_grad_()  # the adjoint's slope depends on it
    (back,) = torch.autograd.grad(_up(part, at), at, above, create_graph=True)
    return back.view(below.shape)


def estimate(net, x, y, estimator, order="checkerboard", gain=1.0, cost=SquaredError(), **sweeps):
    relaxation = Sweeps(order=order, **(LONG | sweeps))
    found, _ = gradient(net, x, y, cost, Hopfield(gain), relaxation, estimator)
    return flat([tensor for pair in found.values() for tensor in pair])


def relative(found, wanted):
    return float(((found - wanted).norm() / wanted.norm()).detach())

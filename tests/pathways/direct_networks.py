"""Networks under direct feedback, for its tests, and how their gradients are compared with equations in NumPy."""

import itertools
import math

import torch
from feedback_oracles import relative

import spikecredit as sc

DFA, DKP = sc.DirectFeedbackAlignment, sc.DirectKolenPollack
BETA, SLOPE = math.exp(-1 / 10), 5.0
LABELS = torch.tensor([0, 1, 2, 3])
EVERY = [
    DFA(),
    DFA("sign"),
    DFA("target"),
    DFA(when="sequence"),
    DFA("sign", "sequence"),
    DFA(shared=True, scale="nokland", gain=3.0),
    DKP(),
]


def lif():
    return sc.LIF(tau=10.0, surrogate=sc.FastSigmoid(SLOPE))


def dense(pathway, sizes=(12, 20, 15, 5), seed=3):
    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [sc.Linear(a, b), lif()]
    return sc.Network(*layers, sc.Linear(*sizes[-2:]), sc.LeakyReadout(tau=10.0), pathway=pathway, seed=seed).double()


def residual(pathway):
    block = sc.architectures.Residual([], [sc.Conv2d(3, 3, 3, padding=1), lif()], [])
    layers = sc.Conv2d(2, 3, 3, padding=1), lif(), block, sc.AvgPool2d(2), sc.Flatten(), sc.Linear(12, 5)
    return sc.Network(*layers, sc.LeakyReadout(tau=10.0), pathway=pathway, seed=3).double()


def louder(net):
    """Larger weights, so that deep layers fire."""
    with torch.no_grad():
        for layer in net.synapses().values():
            layer.weight.mul_(3)
    return net


def loss_of(net, x, labels=LABELS):
    out = net(x, target=labels) if net.needs_target else net(x)
    return sc.losses.MeanPotential()(out, labels)


def feedbacks(net):
    """B of every population, (n_out, *N), in order; of a shared matrix each takes the first columns."""
    if net.pathway.shares:
        shared = net.broadcast.get_buffer("shared")
        return [shared[:, : layer.out_features] for layer in list(net.synapses().values())[:-1]]
    return [getattr(net.broadcast, key).detach() for key in net.broadcast.streams]


def numpy(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def parameters(net):
    synapses = list(net.synapses().values())
    return [s.weight for s in synapses], [s.bias for s in synapses]


def differences(found, wanted):
    """The largest relative difference; where a layer hands on nothing, the size of what should not be there."""
    pairs = [(f.grad, torch.from_numpy(w)) for f, w in zip(found, wanted, strict=True)]
    return max(relative(f, w) if w.any() else float(f.abs().max()) for f, w in pairs)

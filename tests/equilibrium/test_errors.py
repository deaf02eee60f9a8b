"""True and delivered errors, and early inference as backpropagation."""

import math

import pytest
import torch
from relaxing import batch, convolutional, dense, flat, relative, true_gradient

import spikecredit as sc
from spikecredit.equilibrium import (
    Centred,
    CrossEntropy,
    Hopfield,
    OneSided,
    Potential,
    Predictive,
    SigmaDelta,
    Spikes,
    SquaredError,
    Sweeps,
    backpropagated_errors,
    delivered_errors,
    early_inference,
    sections,
    settle,
    true_errors,
)

LONG = Sweeps(600, 300)
EULER = Sweeps(3000, 3000, "euler", 0.2)


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
@pytest.mark.parametrize("gain", [1.0, 0.4])
@pytest.mark.parametrize("cost", [SquaredError(), CrossEntropy()])
def test_true_errors_are_the_slopes_of_the_bias(pathway, gain, cost):
    """A bias is a current: dC/db_l is the sum of delta_l, here against autograd through 300 sweeps."""
    net, (x, y) = dense(pathway=pathway), batch()
    settled = settle(net, x, Hopfield(gain), LONG)
    errors = true_errors(settled, y, cost, tolerance=1e-10)
    wanted = true_gradient(net, x, y, cost, gain)
    shapes = [t.numel() for part in sections(net) for t in (part.layer.weight, part.layer.bias)]
    biases = [t for t in wanted.split(shapes)][1::2]
    for error, bias in zip(errors, biases, strict=True):
        assert relative(error.mean(0), bias) < 1e-5


@pytest.mark.parametrize(
    ("make", "shape"), [(dense, (20,)), (lambda: convolutional(lambda: sc.MaxPool2d(2)), (2, 12, 12))]
)
def test_symmetric_networks_deliver_the_true_error(make, shape):
    net, (x, y) = make(), batch(shape)
    settled = settle(net, x, relaxation=LONG)
    for wanted, found in zip(
        true_errors(settled, y, SquaredError(), tolerance=1e-9),
        delivered_errors(settled, y, SquaredError(), Centred(1e-3)), strict=True,
    ):  # fmt: skip
        assert relative(found, wanted) < 1e-4


@pytest.mark.parametrize("energy", [Potential(), Predictive()])
def test_other_energies_too(energy):
    net, (x, y) = dense(sc.Tanh), batch()
    settled = settle(net, x, energy, EULER)
    wanted = true_errors(settled, y, SquaredError(), tolerance=1e-9)
    found = delivered_errors(settled, y, SquaredError(), Centred(1e-3))
    assert all(relative(a, b) < 1e-4 for a, b in zip(found, wanted, strict=True))


def test_predictive_coding_has_the_errors_of_backpropagation():
    net, (x, y) = dense(sc.Tanh), batch()
    wanted = true_errors(settle(net, x, Predictive(), EULER), y, SquaredError())
    currents = []
    below = x
    for layer in (net.layers[0], net.layers[2], net.layers[4]):
        currents.append(below @ layer.weight.T + layer.bias)
        below = currents[-1].tanh()
    slopes = torch.autograd.grad(SquaredError()(below, y).sum(), currents)
    assert all(relative(a, b) < 1e-5 for a, b in zip(wanted, slopes, strict=True))


def test_where_rates_are_told_by_spikes_the_true_error_is_that_of_the_rates():
    net, (x, y) = dense(), batch()
    wanted = true_errors(settle(net, x, relaxation=LONG), y, SquaredError())
    found = true_errors(settle(net, x, relaxation=SigmaDelta(5, 5)), y, SquaredError())  # traces far from their rates
    assert all(relative(a, b) < 1e-3 for a, b in zip(found, wanted, strict=True))


def test_without_a_derivative_or_a_fixed_point_there_is_none():
    x, y = batch()
    assert true_errors(settle(dense(sc.LIF), x, relaxation=Spikes(20, 10)), y, SquaredError()) is None
    assert true_errors(settle(dense(sc.HardSigmoid), x, relaxation=SigmaDelta(20, 10)), y, SquaredError()) is not None
    net = dense(sc.ReLU, gain=8.0)  # errors that grow on their way around
    assert true_errors(settle(net, x, relaxation=Sweeps(3, 1)), y, SquaredError(), sweeps=60) is None


@pytest.mark.parametrize("unit", [sc.Logistic, sc.Tanh])
@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_early_inference_is_backpropagation(unit, pathway):
    """In sweep L - l + 1 layer l moves by its backpropagated error; before that it stands still."""
    net, (x, y) = dense(unit, pathway=pathway), batch()
    settled = settle(net, x, relaxation=LONG)
    wanted = backpropagated_errors(settled, y, SquaredError())
    swept = early_inference(settled, y, SquaredError(), 400, beta=1e-6)
    for index, error in enumerate(wanted):
        arrival = len(wanted) - index - 1
        assert relative(swept[arrival][index], error) < 1e-4
        assert all(not before[index].any() for before in swept[:arrival])
        assert float(error.abs().max()) > 1e-6
    true = true_errors(settled, y, SquaredError())
    assert all(relative(a, b) > 1e-2 for a, b in zip(wanted[:-1], true[:-1], strict=True))  # what goes around counts
    if pathway is None:
        assert all(relative(a, b) < 1e-3 for a, b in zip(swept[-1], true, strict=True))


def test_backpropagated_errors_are_those_of_one_pass_down():
    net, (x, y) = dense(sc.Tanh), batch()
    settled = settle(net, x, relaxation=LONG)
    one, two, three = settled.activities
    output = (1 - three**2) * (three - torch.eye(10, dtype=torch.float64)[y])
    hidden = (1 - two**2) * (output @ net.layers[4].weight)
    first = (1 - one**2) * (hidden @ net.layers[2].weight)
    found = backpropagated_errors(settled, y, SquaredError())
    assert all(relative(a, b) < 1e-9 for a, b in zip(found, (first, hidden, output), strict=True))
    with pytest.raises(ValueError, match="hopfield"):
        backpropagated_errors(settle(net, x, Predictive(), EULER), y, SquaredError())


def test_one_side_is_off_by_more():
    net, (x, y) = dense(), batch()
    settled = settle(net, x, relaxation=LONG)
    wanted = flat(true_errors(settled, y, SquaredError()))
    errors = [
        relative(flat(delivered_errors(settled, y, SquaredError(), e)), wanted) for e in (OneSided(0.1), Centred(0.1))
    ]
    assert errors[0] > 2 * errors[1] > 0 and math.isfinite(errors[0])

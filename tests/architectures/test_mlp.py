"""Multilayer perceptrons: layers and parameter counts."""

import pytest

import spikecredit as sc


def kinds(architecture, shape=(1, 4, 4), classes=3):
    return [type(layer).__name__ for layer in architecture.build(shape, classes).layers]


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_layers():
    assert kinds(sc.MLP()) == ["Flatten", "Linear", "LIF", "Linear", "LeakyReadout"]
    assert kinds(sc.MLP(())) == ["Flatten", "Linear", "LeakyReadout"]
    assert kinds(sc.MLP((5,), norm=True, dropout=0.5))[1:5] == ["Linear", "BatchNorm1d", "LIF", "Dropout"]
    assert kinds(sc.MLP((5, 5), recurrent=True))[1:3] == ["RecurrentLinear", "RecurrentLinear"]


def test_parameter_counts():
    assert parameters(sc.MLP((500,)).build((1, 28, 28), 10)) == 784 * 500 + 500 + 500 * 10 + 10
    assert parameters(sc.MLP((50,), recurrent=True).build((1, 4, 4), 3)) == 16 * 50 + 50 + 50 * 50 + 50 * 3 + 3
    assert parameters(sc.MLP((50,), norm=True).build((1, 4, 4), 3)) == 16 * 50 + 50 + 2 * 50 + 50 * 3 + 3


def test_a_recurrent_layer_takes_no_normalisation():
    with pytest.raises(ValueError, match="no place in a recurrent layer"):
        sc.MLP(recurrent=True, norm=True)

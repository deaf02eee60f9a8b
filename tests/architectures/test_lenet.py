"""LeNet: layers, order and parameter counts."""

import pytest

import spikecredit as sc


def test_the_pool_comes_before_the_neuron():
    net = sc.LeNet(norm=True, dropout=0.5).build((1, 28, 28), 10)
    names = [type(layer).__name__ for layer in net.layers]
    assert names[:4] == ["Conv2d", "AvgPool2d", "BatchNorm2d", "LIF"]
    assert names[8:13] == ["Flatten", "Dropout", "Linear", "BatchNorm1d", "LIF"]
    assert names[-3:] == ["Dropout", "Linear", "LeakyReadout"]
    for pool, kind in (("max", sc.MaxPool2d), ("soft", sc.SoftPool2d)):
        assert isinstance(sc.LeNet(pool=pool).build((1, 8, 8), 2).layers[1], kind)
    with pytest.raises(ValueError, match="'average', 'max' or 'soft', got 'mean'"):
        sc.LeNet(pool="mean").build((1, 8, 8), 2)


def test_parameter_counts():
    """5x5 kernels that keep the map: LeNet-5 of 28x28 has 16 maps of 7x7 before 120, 84, 10 units."""
    net = sc.LeNet().build((1, 28, 28), 10)
    wanted = (25 * 6 + 6) + (25 * 6 * 16 + 16) + (784 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert sum(p.numel() for p in net.parameters()) == wanted == 107_786
    net = sc.LeNet((3, 3), kernel=3).build((1, 9, 9), 2)
    assert [tuple(net.layers[i].weight.shape) for i in (0, 3)] == [(3, 1, 3, 3), (3, 3, 3, 3)]

"""VGG: parameter counts from Simonyan & Zisserman's table of channels."""

import pytest

import spikecredit as sc

TABLE = {
    (1, 1, 2, 2, 2): [64, 128, 256, 256, 512, 512, 512, 512],  # VGG-11
    (2, 2, 3, 3, 3): [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],  # VGG-16
}


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("blocks", TABLE)
def test_parameter_counts(blocks):
    channels = TABLE[blocks]
    inputs = [3, *channels[:-1]]
    wanted = sum(9 * a * b + 2 * b for a, b in zip(inputs, channels, strict=True)) + 512 * 10 + 10
    net = sc.VGG(blocks).build((3, 32, 32), 10)
    assert parameters(net) == wanted
    assert [layer.out_channels for layer in net.layers if isinstance(layer, sc.Conv2d)] == channels


def test_heads_and_hidden_layers():
    flat = sc.VGG((1, 1), width=4, hidden=(7,)).build((3, 8, 12), 5)
    linears = [layer for layer in flat.layers if isinstance(layer, sc.Linear)]
    assert [tuple(layer.weight.shape) for layer in linears] == [(7, 8 * 2 * 3), (5, 7)]
    average = sc.VGG((1, 1), width=4, head="average").build((3, 8, 12), 5)
    assert average.layers[-2].weight.shape == (5, 8)
    plain = sc.VGG((1,), width=4, norm=False).build((1, 8, 8), 5)
    assert plain.layers[0].bias is not None
    assert not any(isinstance(layer, sc.BatchNorm2d) for layer in plain.layers)


def test_one_pool_a_stage_before_its_last_neuron():
    names = [type(layer).__name__ for layer in sc.VGG((2, 1), width=4, pool="max").build((1, 8, 8), 5).layers]
    stage = ["Conv2d", "BatchNorm2d", "LIF", "Conv2d", "MaxPool2d", "BatchNorm2d", "LIF"]
    assert names[:7] == stage
    assert names[7:9] == ["Conv2d", "MaxPool2d"]

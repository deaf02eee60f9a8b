"""Residual networks: published sizes, and the two shortcuts by hand."""

import pytest
import torch

import spikecredit as sc
from spikecredit.architectures import Residual


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("shortcut", ["spike", "membrane"])
def test_resnet_20_has_the_published_size(shortcut):
    """0.27 million (He et al. 2016, table 6): 269,722 with parameter-free shortcuts; ours are two 1x1 convolutions."""
    net = sc.ResNet(shortcut=shortcut).build((3, 32, 32), 10)
    assert parameters(net) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert len([s for s in net.synapses() if "projection" not in s]) == 20
    assert net.eval()(torch.zeros(1, 1, 3, 32, 32)).shape == (1, 1, 10)


def test_resnet_18_has_the_size_of_torchvisions():
    net = sc.ResNet((2, 2, 2, 2), width=64, stem="imagenet").build((3, 64, 64), 1000)
    assert parameters(net) == 11_689_512


def through(x, layers):
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("shortcut", ["spike", "membrane"])
def test_blocks_are_the_published_ones(shortcut):
    net = sc.ResNet((1, 1), width=6, shortcut=shortcut).build((3, 8, 8), 5, sc.LIF(tau=10.0), seed=0).eval()
    same, changed = (layer for layer in net.layers if isinstance(layer, Residual))
    x = (torch.rand(6, 2, 6, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float() * 2
    for block in (same, changed):
        conv1, norm1, neuron1, conv2, norm2, *rest = block.branch
        if shortcut == "spike":
            s = x
            branch = rest[0](norm2(conv2(neuron1(norm1(conv1(s))))))
        else:
            s = block.entry[0](x)
            branch = norm2(conv2(neuron1(norm1(conv1(s)))))
            assert not rest
        way = x if block is same else through(s, block.projection)
        assert way.shape == branch.shape
        torch.testing.assert_close(block(x), branch + way)
        assert branch.any()
    assert isinstance(changed.projection[0], sc.Conv2d)
    assert changed.projection[0].kernel_size == (1, 1)
    assert isinstance(changed.projection[-1], sc.LIF) == (shortcut == "spike")


def test_stems():
    net = sc.ResNet((1,), width=6, stem="imagenet", shortcut="membrane").build((3, 32, 32), 5).eval()
    names = [type(layer).__name__ for layer in net.layers]
    assert names == [
        "Conv2d", "AvgPool2d", "BatchNorm2d", "Residual", "LIF", "GlobalAvgPool2d", "Linear", "LeakyReadout"
    ]  # fmt: skip
    seen = []
    net.layers[3].register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[-2:])))
    net(torch.zeros(1, 1, 3, 32, 32))
    assert seen == [(8, 8)]

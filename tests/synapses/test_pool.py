"""Layers without weights."""

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc

LEADING = [(), (3,), (2, 3), (2, 1, 3)]


@pytest.mark.parametrize("leading", LEADING)
def test_pools_and_flatten_take_any_leading_dimensions(leading):
    x = torch.randn(*leading, 4, 7, 6)
    folded = x.reshape(-1, 4, 7, 6)
    pairs = [
        (sc.AvgPool2d(2), F.avg_pool2d(folded, 2)),
        (sc.AvgPool2d(3, 2, 1), F.avg_pool2d(folded, 3, 2, 1)),
        (sc.MaxPool2d(2), F.max_pool2d(folded, 2)),
        (sc.MaxPool2d((3, 2), stride=1), F.max_pool2d(folded, (3, 2), 1)),
        (sc.GlobalAvgPool2d(), folded.mean((2, 3))),
        (sc.Flatten(), folded.reshape(-1, 4 * 42)),
        (sc.Flatten(2), folded.reshape(-1, 4, 42)),
    ]
    for layer, wanted in pairs:
        assert torch.equal(layer(x), wanted.reshape(*leading, *wanted.shape[1:])), layer


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        sc.Flatten(0)
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="0 <= p < 1; got"):
            sc.Dropout(p)


def dropout(seed=0, p=0.3):
    return sc.Network(sc.Dropout(p), seed=seed)


def test_one_mask_for_the_whole_sequence_and_its_mean():
    x = torch.ones(6, 50, 400)
    y = dropout()(x)
    assert torch.equal(y, y[:1].expand_as(y))
    assert torch.equal(y.unique(), torch.tensor([0.0, 1 / 0.7]))
    kept = float((y[0] > 0).float().mean())
    assert kept == pytest.approx(0.7, abs=5 * (0.21 / 20_000) ** 0.5)
    assert not torch.equal(y[0, 0], y[0, 1])  # each sample has its own


def test_masks_follow_the_networks_seed_and_are_fresh_for_each_sequence():
    x = torch.ones(2, 5, 40)
    net, same, other = dropout(), dropout(), dropout(seed=1)
    first, second = net(x), net(x)
    assert not torch.equal(first, second)
    assert torch.equal(same(x), first)
    assert torch.equal(same(x), second)
    assert not torch.equal(other(x), first)
    restored = dropout(seed=9)
    restored.load_state_dict(net.state_dict())
    assert torch.equal(restored(x), net(x))


def test_streaming_keeps_the_mask_in_the_state():
    x = torch.rand(6, 5, 40)
    whole, parts = dropout(), dropout()
    wanted = whole(x)
    head, state = parts.stream(x[:2])
    tail, state = parts.stream(x[2:], state)
    assert torch.equal(torch.cat([head, tail]), wanted)
    assert not torch.equal(parts.stream(x[2:])[0], tail)  # a new sequence, a new mask
    whole.eval()
    assert whole(x) is x
    assert whole.stream(x, [None])[0] is x
    assert dropout(p=0.0)(x) is x


def test_making_a_layer_shifts_nobodys_numbers_and_alone_it_follows_the_global_generator():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    layer = sc.Dropout()
    assert torch.equal(torch.rand(3), wanted)
    masks = []
    for seed in (1, 1, 2):
        layer = sc.Dropout()
        torch.manual_seed(seed)
        masks.append(layer(torch.ones(2, 5, 40)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    fresh = sc.Dropout()
    fresh.load_state_dict(sc.Dropout().state_dict())  # unseeded stays unseeded
    assert fresh.noise.seed is None

"""Batches are a function of (seed, epoch, index): permutations, resume, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.data import Batches, Split


def numbered(n):
    """A split whose images and labels both tell their place."""
    places = torch.arange(n)
    return Split((places % 256).to(torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous(), places)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    shuffle=st.booleans(),
    cut=st.floats(0, 1),
)
def test_an_epoch_is_a_permutation_and_resumes_exactly(n, size, seed, epoch, shuffle, cut):
    batches = Batches(numbered(n), size, seed, shuffle)
    whole = list(batches.epoch(epoch))
    assert [index for *_, index in whole] == list(range(len(batches)))
    labels = torch.cat([labels for _, labels, _ in whole])
    assert labels.sort().values.tolist() == list(range(n))
    assert shuffle or labels.tolist() == list(range(n))
    assert all(torch.equal(images[:, 0, 0, 0].long(), labels) for images, labels, _ in whole)
    assert all(len(labels) == size for _, labels, _ in whole[:-1])

    start = round(cut * len(batches))
    resumed = list(Batches(numbered(n), size, seed, shuffle).epoch(epoch, start))
    assert len(resumed) == len(whole) - start
    for (a, b, i), (c, d, j) in zip(whole[start:], resumed, strict=True):
        assert i == j and torch.equal(a, c) and torch.equal(b, d)


def test_seed_and_epoch_change_the_order_and_nothing_else_does():
    orders = [Batches(numbered(50), 7, seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    torch.manual_seed(3)  # the global generator is not consulted
    assert Batches(numbered(50), 20, 0).order(0).tolist() == orders[0]


def test_drop_last_leaves_out_only_a_smaller_batch():
    assert [len(labels) for _, labels, _ in Batches(numbered(10), 4, 0).epoch(0)] == [4, 4, 2]
    assert [len(labels) for _, labels, _ in Batches(numbered(10), 4, 0, drop_last=True).epoch(0)] == [4, 4]
    assert len(Batches(numbered(8), 4, 0, drop_last=True)) == len(Batches(numbered(8), 4, 0)) == 2


def test_a_start_beyond_the_epoch_is_refused_at_once():
    batches = Batches(numbered(10), 4, 0)
    assert list(batches.epoch(0, 3)) == []
    for start in (4, -1):
        with pytest.raises(ValueError, match=f"start={start}, expected a batch number from 0 to 3"):
            batches.epoch(0, start)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size=0"):
        Batches(numbered(10), 0, 0)
    with pytest.raises(ValueError, match=r"10 images and batch_size is 11.*batch_size=10"):
        Batches(numbered(10), 11, 0, drop_last=True)


def test_no_images_give_no_batches():
    empty = Split(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    assert len(Batches(empty, 4, 0)) == 0 and list(Batches(empty, 4, 0).epoch(0)) == []

"""Augmentations against a loop over images that draws the same numbers."""

import numpy as np
import pytest
import torch

from spikecredit.data.augment import AUGMENTATIONS, Flip, PadCrop
from spikecredit.seeds import generator


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.integers(1, 256, (40, 3, 7, 9), np.uint8))  # no zeros: those mark the border


@pytest.mark.parametrize("padding", [1, 4])
def test_pad_crop_equals_a_loop(images, padding):
    got = PadCrop(padding)(images, generator(0, "augment"))
    corners = torch.randint(2 * padding + 1, (2, 40, 1), generator=generator(0, "augment"))[..., 0]
    for image, out, y, x in zip(images.numpy(), got.numpy(), *corners.tolist(), strict=True):
        padded = np.zeros((3, 7 + 2 * padding, 9 + 2 * padding), np.uint8)
        padded[:, padding : padding + 7, padding : padding + 9] = image
        assert np.array_equal(out, padded[:, y : y + 7, x : x + 9])
    assert got.dtype == torch.uint8 and got.shape == images.shape


def test_pad_crop_is_uniform_over_all_shifts():
    images = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 1
    counts = PadCrop(1)(images, generator(0, "augment")).sum(0).flatten()  # where the single pixel went
    assert counts.sum() == 9000 and (counts - 1000).abs().max() < 6 * (9000 / 9 * 8 / 9) ** 0.5


@pytest.mark.parametrize("p", [0.5, 0.2, 1.0])
def test_flip_equals_a_loop(images, p):
    got = Flip(p)(images, generator(0, "augment"))
    flips = torch.rand(40, generator=generator(0, "augment")) < p
    for image, out, flipped in zip(images.numpy(), got.numpy(), flips, strict=True):
        assert np.array_equal(out, image[:, :, ::-1] if flipped else image)
    assert flips.sum() > 0 and (p == 1.0 or flips.sum() < 40)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_the_input_stays_and_the_generator_decides(images, kind):
    before = images.clone()
    a, b, c = (AUGMENTATIONS[kind]()(images, generator(s, "augment")) for s in (0, 0, 1))
    assert torch.equal(images, before) and torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("wrong", [torch.zeros(2, 1, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)])
def test_only_batches_of_bytes_are_taken(kind, wrong):
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        AUGMENTATIONS[kind]()(wrong, generator(0, "augment"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PadCrop(0), "padding=0"),
        (lambda: PadCrop(1.5), "padding=1.5"),
        (lambda: Flip(0.0), "p=0.0"),
        (lambda: Flip(1.5), "p=1.5"),
    ],
)
def test_wrong_options_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()

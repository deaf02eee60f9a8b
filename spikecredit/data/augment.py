"""Random changes to training images: whole batches at once, on the images' device, still in uint8.

The generator may live on another device than the images. Drawn on the CPU, the same seed gives the same images on every
machine.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


def _check(images: Tensor, name: str) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"{name}: got {images.dtype} of shape {tuple(images.shape)}, expected uint8 of shape (B, C, H, W). "
            "Augment before normalising and encoding."
        )


class Augmentation(ABC):
    """A random map from images to images of the same shape."""

    @abstractmethod
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (B, C, H, W) -> uint8 (B, C, H, W); the input is left as it is."""


@dataclass(frozen=True)
class PadCrop(Augmentation):
    """Shift every image by its own whole number of pixels, uniform in [-padding, padding] on each axis.

    Zeros (black) enter at the border: padding on all sides, then a crop of the original size at a random place.

    Source: C.-Y. Lee et al., Deeply-supervised nets, AISTATS 2015 (CIFAR-10, padding 4).
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 1:
            raise ValueError(f"PadCrop: padding={self.padding!r}, expected a whole number of pixels, at least 1.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        _check(images, "PadCrop")
        b, c, h, w = images.shape
        p, device = self.padding, images.device
        corner = torch.randint(2 * p + 1, (2, b, 1), generator=generator, device=generator.device).to(device)
        rows = corner[0] + torch.arange(h, device=device)  # (B, H)
        columns = corner[1] + torch.arange(w, device=device)  # (B, W)
        batch = torch.arange(b, device=device).view(b, 1, 1, 1)
        channels = torch.arange(c, device=device).view(1, c, 1, 1)
        return pad(images, (p, p, p, p))[batch, channels, rows.view(b, 1, h, 1), columns.view(b, 1, 1, w)]


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror every image left-right with probability p. Not for digits and letters."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"Flip: p={self.p!r}, expected a probability above 0 and at most 1; leave Flip out for 0.")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        _check(images, "Flip")
        mirrored = (torch.rand(len(images), generator=generator, device=generator.device) < self.p).to(images.device)
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


AUGMENTATIONS: dict[str, type[Augmentation]] = {"pad_crop": PadCrop, "flip": Flip}

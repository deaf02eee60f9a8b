"""Image data sets in memory: what they are, where they come from, and how they are split.

`Digits` needs no file from outside, `Images` reads parquet folders, Hugging Face hub names and its own cache folders.
Images stay uint8 until a batch is normalised, on the device that trains.
"""

import functools
import hashlib
import json
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.data import cache as folders
from spikecredit.data import decode, sources
from spikecredit.seeds import generator

log = logging.getLogger(__name__)

CHUNK = 2**24  # pixels widened at a time for the statistics: 64 MB as int32


@dataclass(frozen=True, eq=False)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.labels.dtype != torch.int64:
            raise ValueError(
                f"Split: got images {self.images.dtype} {tuple(self.images.shape)} and labels {self.labels.dtype}; "
                "expected uint8 (N, C, H, W) and int64 (N,)."
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"Split: {len(self.images)} images but labels of shape {tuple(self.labels.shape)}.")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """The same split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in three parts, with the statistics of its training part.

    Attributes:
        mean, std: of each channel over the training split, of pixels divided by `scale`; population formula, exact
            integer sums rounded once to float64.
        scale: the pixel value that stands for 1: 255, or 16 for the digits.
        class_names: one a class, or empty where the source names none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: int = 255
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)

    def normalise(self, images: Tensor, normalise: bool = True) -> Tensor:
        """(x / scale - mean) / std per channel; with normalise=False x / scale, which lies in [0, 1].

        Args:
            images: uint8 (..., C, H, W), on any device.
        Returns:
            float32 of the same shape; equal to the float64 formula to a few float32 roundings.
        Raises:
            ValueError: not uint8 (already normalised?), another number of channels, or a channel whose std is 0.
        """
        if images.dtype != torch.uint8 or images.ndim < 3 or images.shape[-3] != len(self.mean):
            raise ValueError(
                f"normalise: got {images.dtype} of shape {tuple(images.shape)}; expected raw images, uint8 of shape "
                f"(..., {len(self.mean)}, H, W). Normalise once, straight from the split."
            )
        if not normalise:
            return images.float() / self.scale
        if 0.0 in self.std:
            raise ValueError(
                f"normalise: channel {self.std.index(0.0)} is constant in the training split of {self.name!r}, its "
                "standard deviation is 0. Write normalise=False or use more training images."
            )
        gain, offset = _affine(self.mean, self.std, self.scale, images.device)
        return images.float().mul_(gain).add_(offset)


@functools.lru_cache(maxsize=16)
def _affine(mean: tuple[float, ...], std: tuple[float, ...], scale: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # Cached: a copy from host to device for every batch would make the host wait.
    pairs = [(1 / (scale * s), -m / s) for m, s in zip(mean, std, strict=True)]
    gain, offset = torch.tensor(pairs, dtype=torch.float32, device=device).T[..., None, None]
    return gain, offset


def channel_statistics(images: Tensor, scale: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel of uint8 (N, C, H, W), in units of `scale`."""
    c = images.shape[1]
    total, squares = torch.zeros(c, dtype=torch.int64), torch.zeros(c, dtype=torch.int64)
    for chunk in images.split(max(1, CHUNK // images[0].numel())):
        wide = chunk.to(torch.int32)
        total += wide.sum((0, 2, 3), dtype=torch.int64)
        squares += (wide * wide).sum((0, 2, 3), dtype=torch.int64)
    n = images.numel() // c
    pairs = list(zip(total.tolist(), squares.tolist(), strict=True))  # Python's integers from here on: nothing cancels
    mean = tuple(s / (n * scale) for s, _ in pairs)
    std = tuple(math.sqrt((n * q - s * s) / (n * scale) ** 2) for s, q in pairs)
    return mean, std


class DataSource(ABC):
    """What is shown: a small configuration that loads its data when asked."""

    @abstractmethod
    def load(self) -> ImageData:
        """Read, decode and split the data; on the CPU."""


@dataclass(frozen=True)
class Digits(DataSource):
    """The 1,797 handwritten 8x8 digits inside the package: train 1,150, validation 287, test 360, always the same.

    Source: E. Alpaydin and C. Kaynak, UCI Optical Recognition of Handwritten Digits, 1998, CC BY 4.0; see digits.md.
    """

    def load(self) -> ImageData:
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
            images = torch.from_numpy(file["images"])[:, None]
            labels = torch.from_numpy(file["labels"]).long()
            order = [torch.from_numpy(file[part]).long() for part in ("train", "validation", "test")]
        train, validation, test = (Split(images[places], labels[places]) for places in order)
        mean, std = channel_statistics(train.images, scale=16)
        return ImageData("digits", train, validation, test, 10, mean, std, scale=16)


@dataclass(frozen=True)
class Images(DataSource):
    """Images from a folder of parquet files, a Hugging Face hub name, or a cache folder of decoded images.

    The first load decodes train and test and caches the pixels; later loads need neither datasets, pyarrow nor PIL. A
    changed folder (names, sizes, times of its files) or a damaged cache is decoded again. A cached hub name is not
    looked up again: delete its cache folder to get a newer version.

    Args:
        path: a folder with train*.parquet and test*.parquet (or those in its data/), a hub name such as
            'ylecun/mnist', or a folder with the index.json of a cache.
        validation: images taken off the training split: a number, or a fraction below 1.
        train_split, test_split: names of the splits in the source.
        image_column, label_column: None finds image or img; label, labels or fine_label.
        limit: keep only this many training images (the validation split is taken first and stays whole).
        split_seed: opens the stream (split_seed, "validation") that draws the validation images.
        cache: where cache folders are made; None is $SPIKECREDIT_CACHE, else ~/.cache/spikecredit.
    Raises:
        ValueError: at construction or load; says what was given, what was expected and what to write.
    """

    path: str
    validation: float | int = 5000
    train_split: str = "train"
    test_split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    limit: int | None = None
    split_seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        fraction = isinstance(self.validation, float)
        if isinstance(self.validation, bool) or self.validation < 0 or (fraction and not self.validation < 1):
            raise ValueError(
                f"validation={self.validation!r}, expected a whole number of images or a fraction from 0.0 to below 1."
            )
        if self.limit is not None and (isinstance(self.limit, bool) or self.limit < 1):
            raise ValueError(
                f"limit={self.limit!r}, expected a number of training images, at least 1, or None for all."
            )
        if self.train_split == self.test_split:
            raise ValueError(
                f"train_split and test_split are both {self.train_split!r}; expected two splits: testing on training "
                "images measures memory. Use validation=... for a part of the training split."
            )

    def load(self) -> ImageData:
        decoded = self._decoded()
        images, labels = map(torch.from_numpy, decoded.splits[self.train_split])
        count = round(self.validation * len(labels)) if isinstance(self.validation, float) else self.validation
        rest = len(labels) - count
        if rest < (self.limit or 1):
            raise ValueError(
                f"{self.path!r}: {len(labels)} images in {self.train_split!r}, of which validation={self.validation} "
                f"leaves {max(rest, 0)} for training; expected at least {self.limit or 1}. "
                "Write a smaller validation or limit."
            )
        # The training part keeps the drawn order, so that `limit` takes a fair sample even of files sorted by class.
        order = torch.randperm(len(labels), generator=generator(self.split_seed, "validation"))
        places = order[count:][: self.limit], order[:count]
        train, validation = (Split(images[p], labels[p]) for p in places)
        test = Split(*map(torch.from_numpy, decoded.splits[self.test_split]))
        mean, std = channel_statistics(train.images, scale=255)
        return ImageData(
            decoded.name, train, validation, test, decoded.classes, mean, std, class_names=decoded.class_names
        )

    def _decoded(self) -> decode.Decoded:
        folder = Path(self.path).expanduser()
        if (folder / folders.INDEX).is_file():
            return self._fitting(folders.read(folder), folder)
        local = folder.is_dir()
        target = self._target(folder.resolve() if local else None)
        source: dict[str, Any] | None = None
        files: dict[str, list[Path]] = {}
        if local:
            files = sources.folder_splits(folder)
            for split in (self.train_split, self.test_split):
                if split not in files:
                    raise sources.missing_split(split, list(files), self.path)
            files = {split: files[split] for split in (self.train_split, self.test_split)}
            source = sources.folder_source(files)
        elif not sources.is_hub_name(self.path):
            raise ValueError(sources.no_such_folder(folder, self._target(folder.resolve())))
        if target.exists():
            try:
                found = folders.read(target)
                if source is None or found.source == source:
                    return found
                log.info("%s has changed; decoding it again", self.path)
            except folders.CacheError as error:
                log.warning("%s Decoding %s again.", error, self.path)
        if local:
            rows = {split: sources.folder_rows(part) for split, part in files.items()}
        else:
            parts, source = sources.hub_rows(self.path, [self.train_split, self.test_split])
            rows = dict(zip((self.train_split, self.test_split), parts, strict=True))
        name = folder.resolve().name if local else self.path
        decoded = decode.decode(name, rows, self.image_column, self.label_column, source or {})
        folders.write(target, decoded)
        return decoded

    def _target(self, folder: Path | None) -> Path:
        """The cache folder of this source: everything that changes what is decoded is in its name."""
        root = self.cache or os.environ.get("SPIKECREDIT_CACHE") or "~/.cache/spikecredit"
        origin = self.path if folder is None else str(folder)
        key = [origin, self.train_split, self.test_split, self.image_column, self.label_column]
        readable = re.sub(r"[^\w.-]+", "-", self.path if folder is None else folder.name).strip("-.")
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
        return Path(root).expanduser() / f"{readable}-{digest}"

    def _fitting(self, decoded: decode.Decoded, folder: Path) -> decode.Decoded:
        """Refuse options that a cache folder, already decoded, cannot follow any more."""
        for split in (self.train_split, self.test_split):
            if split not in decoded.splits:
                raise sources.missing_split(split, list(decoded.splits), str(folder))
        for given, column in zip((self.image_column, self.label_column), decoded.columns, strict=True):
            if given not in (None, column):
                raise ValueError(
                    f"{str(folder)!r} was decoded from column {column!r}, not {given!r}. "
                    "Write the original data set as path to decode another column."
                )
        return decoded


DATA: dict[str, type[DataSource]] = {"digits": Digits, "images": Images}

"""A map from (seed, epoch, index) to the batch, so that training resumes in the middle of an epoch exactly."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spikecredit.data.images import Split
from spikecredit.seeds import generator


class Batches:
    """The batches of a split. Holds no position: every batch is a function of (seed, epoch, index).

    Args:
        split: images and labels, on any device; batches come on that device.
        batch_size: B; the last batch of an epoch may be smaller.
        seed: opens the stream (seed, "data", epoch) that orders an epoch. Drawn on the CPU: equal on every device.
        shuffle: False keeps the split's own order.
        drop_last: leave out the last batch where it is smaller.
    Raises:
        ValueError: batch_size < 1; drop_last with a split smaller than one batch.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, shuffle: bool = True, drop_last: bool = False) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}, expected a whole number of images, at least 1.")
        if drop_last and len(split) < batch_size:
            raise ValueError(
                f"drop_last leaves no batch: the split has {len(split)} images and batch_size is {batch_size}. "
                f"Write batch_size={max(1, len(split))} or drop_last=False."
            )
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Tensor:
        """The places of an epoch's images in the split, int64 (N,), on the CPU."""
        if not self.shuffle:
            return torch.arange(len(self.split))
        return torch.randperm(len(self.split), generator=generator(self.seed, "data", epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Batches `start`, `start + 1`, ... of an epoch: (images uint8 (B, C, H, W), labels int64 (B,), index).

        `index` is the batch's number in the epoch: after it, save `start = index + 1`.

        Raises:
            ValueError: start outside [0, len(self)]; at len(self) the epoch is over and the iterator is empty.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start}, expected a batch number from 0 to {len(self)} (an epoch's end).")
        return self._iterate(epoch, start)  # a generator of its own, so that the check above is immediate

    def _iterate(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor, int]]:
        order = self.order(epoch).to(self.split.images.device)
        for index in range(start, len(self)):
            places = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield self.split.images.index_select(0, places), self.split.labels.index_select(0, places), index

"""The data room: images, encoders, augmentation, batches. Importing it needs torch and numpy only."""

from spikecredit.data import augment, encode
from spikecredit.data.augment import AUGMENTATIONS, Augmentation, Flip, PadCrop
from spikecredit.data.batches import Batches
from spikecredit.data.encode import ENCODERS, Encoder
from spikecredit.data.images import DATA, DataSource, Digits, ImageData, Images, Split

__all__ = [
    "AUGMENTATIONS",
    "DATA",
    "ENCODERS",
    "Augmentation",
    "Batches",
    "DataSource",
    "Digits",
    "Encoder",
    "Flip",
    "ImageData",
    "Images",
    "PadCrop",
    "Split",
    "augment",
    "encode",
]

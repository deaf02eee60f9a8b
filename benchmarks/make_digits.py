"""Make spikecredit/data/digits.npz, the 8x8 handwritten digits that travel inside the package.

Run once, from the repository root, in any environment with numpy and scikit-learn (spikecredit itself needs neither
scikit-learn nor this script):

    python benchmarks/make_digits.py

Source: `sklearn.datasets.load_digits`, the test set of the UCI Optical Recognition of Handwritten Digits (1,797 images
of 8x8 pixels, values 0..16). The split is stored as index arrays in the file, so that no later numpy can change it.

Method of the split: PCG64(SEED) permutes the images within each class; image number r of a class of n gets the position
(r + 1/2) / n; all images are sorted by position (ties by class). Every prefix of that order is stratified to within one
image a class. The first 1,150 are train, the next 287 validation, the last 360 test.
"""

import hashlib
from pathlib import Path

import numpy as np

SEED = 0
SIZES = {"train": 1150, "validation": 287, "test": 360}  # 64 %, 16 %, 20 % of 1,797
TARGET = Path(__file__).resolve().parents[1] / "spikecredit" / "data" / "digits.npz"


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of the samples in which every prefix has each class in proportion, to within one sample."""
    generator = np.random.Generator(np.random.PCG64(seed))
    position = np.empty(len(labels))
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        position[generator.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def main() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    assert np.array_equal(images, bunch.images) and images.shape == (1797, 8, 8) and images.max() == 16
    labels = bunch.target.astype(np.uint8)
    bounds = np.cumsum(list(SIZES.values()))
    parts = np.split(stratified_order(labels, SEED).astype(np.int16), bounds[:-1])
    np.savez_compressed(TARGET, images=images, labels=labels, **dict(zip(SIZES, parts, strict=True)))
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes, sha256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()

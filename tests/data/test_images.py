"""Data sets as the training loop sees them: digits, parquet folders, splits, statistics, normalisation."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikecredit.data.images as module
from spikecredit.data import DATA, Digits, ImageData, Images, Split, cache
from spikecredit.data.decode import Decoded


def numbers(part):
    """Every image as a tuple: a split as a set."""
    return [image.flatten().tolist() for image in part.images]


def test_digits_are_the_published_ones_in_the_fixed_split():
    data = Digits().load()
    assert data.shape == (1, 8, 8) and data.classes == 10 and data.scale == 16
    parts = [data.train, data.validation, data.test]
    assert [len(part) for part in parts] == [1150, 287, 360]
    images, labels = (torch.cat([getattr(p, f) for p in parts]) for f in ("images", "labels"))
    assert images.max() == 16 and images.sum(dtype=torch.int64) == 561_718  # of sklearn.datasets.load_digits
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for part in parts:
        counts = part.labels.bincount(minlength=10)
        assert (counts - labels.bincount() * len(part) / 1797).abs().max() < 1.5
    assert data.train.labels[:12].tolist() == [
        3,
        1,
        5,
        4,
        6,
        9,
        7,
        0,
        2,
        8,
        3,
        1,
    ]  # a changed split would make results incomparable


def test_the_digits_file_is_the_documented_one():
    folder = Path(module.__file__).parent
    digest = hashlib.sha256((folder / "digits.npz").read_bytes()).hexdigest()
    assert f"`{digest}`" in (folder / "digits.md").read_text(encoding="utf-8")
    with np.load(folder / "digits.npz", allow_pickle=False) as file:
        order = np.concatenate([file[part] for part in ("train", "validation", "test")])
    assert np.array_equal(np.sort(order), np.arange(1797))


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_and_normalisation_equal_float64(rng, channels, monkeypatch):
    pixels = rng.integers(0, 256, (41, channels, 5, 6), np.uint8)
    pixels[:, 0] //= 3
    monkeypatch.setattr(module, "CHUNK", 10 * pixels[0].size)  # several chunks, the last one smaller
    mean, std = module.channel_statistics(torch.from_numpy(pixels), 255)
    x = pixels.astype(np.float64) / 255
    np.testing.assert_allclose(mean, x.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std, x.std((0, 2, 3)), rtol=1e-13)
    part = Split(torch.from_numpy(pixels), torch.zeros(41, dtype=torch.int64))
    data = ImageData("x", part, part, part, 1, mean, std)
    y = data.normalise(part.images)
    column = (1, channels, 1, 1)
    expected = (x - np.reshape(mean, column)) / np.reshape(std, column)
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y, expected, atol=2e-6)
    np.testing.assert_allclose(y.double().mean((0, 2, 3)), 0, atol=1e-6)
    unit = data.normalise(part.images, normalise=False)
    np.testing.assert_allclose(unit, x, atol=1e-7)
    assert unit.min() >= 0 and unit.max() <= 1
    assert torch.equal(data.normalise(part.images[3]), y[3])


def test_digits_normalise_by_sixteen_with_training_statistics_only():
    data = Digits().load()
    train = data.train.images.double() / 16
    assert data.mean == pytest.approx((train.mean().item(),), rel=1e-12)
    assert data.std == pytest.approx((train.std(correction=0).item(),), rel=1e-12)
    assert data.normalise(data.test.images, normalise=False).max() == 1


def test_normalise_refuses_what_it_would_spoil():
    data = Digits().load()
    for wrong in (data.normalise(data.train.images[:2]), data.train.images[:2].expand(2, 3, 8, 8), torch.tensor(1)):
        with pytest.raises(ValueError, match=r"expected raw images, uint8 of shape \(\.\.\., 1, H, W\)"):
            data.normalise(wrong)
    black = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    flat = ImageData("flat", black, black, black, 1, *module.channel_statistics(black.images, 255))
    with pytest.raises(ValueError, match="channel 0 is constant in the training split of 'flat'"):
        flat.normalise(black.images)
    assert flat.normalise(black.images, normalise=False).sum() == 0


def test_to_moves_every_part():
    data = Digits().load().to("meta")
    assert {getattr(data, part).images.device.type for part in ("train", "validation", "test")} == {"meta"}
    assert data.test.labels.device.type == "meta" and data.normalise(data.test.images).shape == (360, 1, 8, 8)


def test_split_refuses_other_types_and_lengths():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    for wrong in ((images.float(), labels), (images[0], labels), (images, labels.int())):
        with pytest.raises(ValueError, match=r"expected uint8 \(N, C, H, W\) and int64"):
            Split(*wrong)
    with pytest.raises(ValueError, match="3 images but labels"):
        Split(images, labels[:2])


@pytest.fixture
def load(tiny, tmp_path):
    return lambda **options: Images(str(tiny[0]), cache=str(tmp_path / "cache"), **options).load()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache folder with 30 training images."""
    rng = np.random.default_rng(0)
    splits = {s: (rng.integers(0, 256, (n, 1, 2, 2), np.uint8), np.arange(n)) for s, n in (("train", 30), ("test", 5))}
    folder = tmp_path_factory.mktemp("cache") / "small"
    cache.write(folder, Decoded("small", (), 30, ("image", "label"), splits, {}))
    return str(folder)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 29), seed=st.integers(0, 100))
def test_validation_is_a_part_of_training_and_nothing_is_lost(made, count, seed):
    whole = Images(made, 0).load().train
    data = Images(made, count, split_seed=seed).load()
    assert (len(data.train), len(data.validation)) == (30 - count, count)
    assert sorted(numbers(data.train) + numbers(data.validation)) == sorted(numbers(whole))
    again = Images(made, count, split_seed=seed).load()
    assert torch.equal(again.validation.images, data.validation.images)


def test_a_folder_loads_with_its_labels_test_split_and_name(load, tiny):
    _, arrays = tiny
    data = load(validation=10)
    assert (data.name, data.classes, data.shape, data.scale) == ("tiny", 3, (1, 6, 5), 255)
    assert np.array_equal(data.test.images, arrays["test"][0]) and np.array_equal(data.test.labels, arrays["test"][1])
    pairs = {tuple(image.flatten()): label for image, label in zip(*arrays["train"], strict=True)}
    for part in (data.train, data.validation):
        assert all(pairs[tuple(image)] == label for image, label in zip(numbers(part), part.labels, strict=True))
    assert data.mean == pytest.approx([data.train.images.double().mean().item() / 255], rel=1e-12)


def test_limit_takes_the_first_training_images_and_leaves_validation(load):
    whole, limited = load(validation=10), load(validation=10, limit=8)
    assert torch.equal(limited.train.images, whole.train.images[:8])
    assert torch.equal(limited.validation.images, whole.validation.images)
    assert limited.mean != whole.mean  # statistics are of what is trained on


def test_split_seed_and_fraction(load):
    assert not torch.equal(load(validation=10).validation.images, load(validation=10, split_seed=1).validation.images)
    assert torch.equal(load(validation=0.2).validation.images, load(validation=6).validation.images)
    assert len(load(validation=0.0).validation) == 0


def test_too_large_a_validation_or_limit_is_refused(load):
    with pytest.raises(ValueError, match=r"30 images in 'train', of which validation=5000 leaves 0 for training"):
        load()
    with pytest.raises(ValueError, match=r"validation=10 leaves 20 for training; expected at least 21"):
        load(validation=10, limit=21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.0}, "validation=1.0"),
        ({"validation": -1}, "validation=-1"),
        ({"validation": True}, "validation=True"),
        ({"limit": 0}, "limit=0"),
        ({"test_split": "train"}, "train_split and test_split are both 'train'"),
    ],
)
def test_wrong_options_are_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        Images("anywhere", **options)


def test_the_registry_has_every_kind():
    assert {"digits": Digits, "images": Images} == DATA
    assert Images("a", 5) == Images("a", 5) != Images("a", 6)


def test_importing_the_room_imports_no_image_library():
    code = "import sys, spikecredit.data; print({'datasets', 'pyarrow', 'PIL', 'pandas'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "set()", run.stderr


def test_real_mnist(shared, tmp_path):
    """All 70,000 images, decoded once; the published statistics of the training set."""
    config = Images(str(shared / "mnist"), 0, cache=str(tmp_path))
    data = config.load()
    assert (len(data.train), len(data.test), data.shape, data.classes) == (60_000, 10_000, (1, 28, 28), 10)
    assert (round(data.mean[0], 4), round(data.std[0], 4)) == (0.1307, 0.3081)
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    again = config.load()  # from the cache
    assert torch.equal(again.train.images, data.train.images) and torch.equal(again.test.images, data.test.images)


def test_real_cifar10(shared, tmp_path):
    """The first 500 test images as both splits' rows: colour, WebP, against PIL through an independent road."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(shared / "cifar10" / "test.parquet").slice(0, 500)
    for split in ("train", "test"):
        (tmp_path / "cifar").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "cifar" / f"{split}.parquet")
    data = Images(str(tmp_path / "cifar"), 100, cache=str(tmp_path / "cache")).load()
    assert data.shape == (3, 32, 32) and data.classes == 10 and data.class_names[0] == "airplane"
    for i in (0, 499):
        expected = np.asarray(Image.open(io.BytesIO(table["image"][i]["bytes"].as_py())))
        assert np.array_equal(data.test.images[i].permute(1, 2, 0), expected)
    assert data.test.labels.tolist() == table["label"].to_pylist()

"""Small parquet folders in the layouts that occur, and the real ones where they are present."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shared():
    """The folder of real data beside the repository; tests that need it are skipped elsewhere."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data (MNIST, CIFAR-10 as parquet) is not at ../shared/data")
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def _encoded(array, kind="PNG", **options):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def _write_parquet(file, images, labels, key=None, columns=("image", "label"), raw=False):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.binary() if raw else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = images if raw else [{"bytes": data, "path": None} for data in images]
    arrays = {columns[0]: pa.array(rows, kind), columns[1]: pa.array(labels)}
    table = pa.table(dict(sorted(arrays.items(), reverse=len(images) % 2)))  # the order of columns must not matter
    if key is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": key}})})
    pq.write_table(table, file)


@pytest.fixture
def encoded():
    """uint8 (H, W) or (H, W, 3) -> the bytes of an image file."""
    return _encoded


@pytest.fixture
def write_parquet():
    """(file, image bytes, labels, key): `key` is the features dict of the `huggingface` key; None leaves it out."""
    return _write_parquet


@pytest.fixture
def tiny(tmp_path, rng):
    """A grey folder: 30 train (in two files) and 7 test images of 6x5, labels 0..2. Returns (folder, arrays)."""
    folder = tmp_path / "tiny"
    train, test = (rng.integers(0, 256, (n, 6, 5), np.uint8) for n in (30, 7))
    labels = {"train": rng.integers(0, 3, 30), "test": np.array([0, 1, 2, 0, 1, 2, 0])}
    for i in range(2):
        part = slice(15 * i, 15 * i + 15)
        _write_parquet(
            folder / f"train-{i:05d}-of-00002.parquet", [_encoded(a) for a in train[part]], labels["train"][part]
        )
    _write_parquet(folder / "test.parquet", [_encoded(a) for a in test], labels["test"])
    return folder, {"train": (train[:, None], labels["train"]), "test": (test[:, None], labels["test"])}

"""Decoded images on disk: round trip, use without any image library, damage, change, concurrent writers."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spikecredit.data import Images, cache
from spikecredit.data.decode import Decoded

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"datasets", "pyarrow", "PIL", "pandas"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from spikecredit.data import Images
config = Images(sys.argv[1], 10, cache=sys.argv[2])
data = config.load()
print(data.test.images.sum().item(), data.train.labels.tolist(), data.name, data.classes)
"""


@pytest.fixture
def decoded(rng):
    pixels = {s: rng.integers(0, 256, (n, 2, 4, 3), np.uint8) for s, n in (("train", 50), ("test", 9))}
    splits = {s: (a, rng.integers(0, 5, len(a))) for s, a in pixels.items()}
    return Decoded("noise", tuple("abcde"), 5, ("image", "label"), splits, {"kind": "folder", "files": [["f", 1, 2]]})


def equal(a, b):
    same = all(np.array_equal(x, y) for s in a.splits for x, y in zip(a.splits[s], b.splits[s], strict=True))
    facts = [(d.name, d.class_names, d.classes, d.columns, d.source, list(d.splits)) for d in (a, b)]
    return same and facts[0] == facts[1]


def test_round_trip_in_several_shards(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_BYTES", 24 * 20)
    cache.write(tmp_path / "deep" / "noise", decoded)
    files = sorted(file.name for file in (tmp_path / "deep" / "noise").iterdir())
    assert files == ["0-00000.npz", "0-00001.npz", "0-00002.npz", "1-00000.npz", "index.json"]
    assert equal(cache.read(tmp_path / "deep" / "noise"), decoded)
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["noise"]  # no temporary folder is left


def test_shards_stay_below_20_megabytes_even_for_noise(tmp_path, rng):
    noise = rng.integers(0, 256, (7000, 3, 32, 32), np.uint8)
    cache.write(tmp_path / "noise", Decoded("n", (), 1, ("i", "l"), {"s": (noise, np.zeros(7000, np.int64))}, {}))
    sizes = [file.stat().st_size for file in (tmp_path / "noise").glob("*.npz")]
    assert len(sizes) == 2 and 15e6 < max(sizes) < 20e6


def test_a_cache_is_read_without_any_image_library(tiny, tmp_path):
    folder, _ = tiny
    data = Images(str(folder), 10, cache=str(tmp_path / "cache")).load()
    (made,) = (tmp_path / "cache").iterdir()
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    expected = f"{data.test.images.sum().item()} {data.train.labels.tolist()} tiny 3"
    for path in (folder, made):  # the source with its cache, and the cache folder alone
        command = [sys.executable, "-c", BLOCKED, str(path), str(tmp_path / "cache")]
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert run.stdout.strip() == expected, run.stderr
    command[-1] = str(tmp_path / "other")  # the blocker blocks: without a cache, decoding asks for its library
    command[-2] = str(folder)
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "Decoding images needs pyarrow: pip install 'spikecredit[vision]'" in run.stderr


@pytest.mark.parametrize("damage", ["flip", "swap", "cut", "gone", "index", "index-cut", "format"])
def test_damage_is_named_and_repaired_only_from_the_source(tiny, tmp_path, caplog, damage):
    config = Images(str(tiny[0]), 10, cache=str(tmp_path / "cache"))
    first = config.load()
    (made,) = (tmp_path / "cache").iterdir()
    index, shard = made / "index.json", made / "1-00000.npz"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    named = index if "index" in damage or damage == "format" else shard
    if damage == "flip":
        shard.write_bytes(data)
    elif damage == "swap":  # a sound archive with other pixels: only the SHA-256 can tell
        np.savez_compressed(shard, images=255 - first.test.images.numpy(), labels=first.test.labels.numpy())
    elif damage == "cut":
        shard.write_bytes(data[:-20])
    elif damage == "gone":
        shard.unlink()
    elif damage == "index":
        index.write_text(index.read_text().replace('"classes": 3', '"classes": 4'))
    elif damage == "index-cut":
        index.write_text(index.read_text()[:-30])
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 99}))

    with pytest.raises(cache.CacheError, match=named.name):
        Images(str(made), 10).load()
    with caplog.at_level(logging.WARNING):
        again = config.load()
    assert named.name in caplog.text and "Decoding" in caplog.text
    assert again.test.images.equal(first.test.images) and again.classes == 3
    assert Images(str(made), 10).load().test.images.equal(first.test.images)  # it is whole again
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [made.name]


def test_a_changed_source_is_decoded_again(tiny, tmp_path, rng, encoded, write_parquet):
    folder, _ = tiny
    config = Images(str(folder), 10, cache=str(tmp_path / "cache"))
    config.load()
    (made,) = (tmp_path / "cache").iterdir()
    before = (made / "index.json").stat().st_mtime_ns
    config.load()
    assert (made / "index.json").stat().st_mtime_ns == before  # an unchanged source is not
    pixels = rng.integers(0, 256, (7, 6, 5), np.uint8)
    write_parquet(folder / "test.parquet", [encoded(a) for a in pixels], [0] * 7)
    assert np.array_equal(config.load().test.images, pixels[:, None])


def test_a_lost_source_points_to_its_cache(tiny, tmp_path):
    config = Images(str(tiny[0]), 10, cache=str(tmp_path / "cache"))
    config.load()
    tiny[0].rename(tmp_path / "moved")
    (made,) = (tmp_path / "cache").iterdir()
    with pytest.raises(ValueError, match=f"decoded images are still in '{made}'"):
        config.load()


def test_options_a_cache_folder_cannot_follow_are_refused(tiny, tmp_path):
    Images(str(tiny[0]), 10, cache=str(tmp_path / "cache")).load()
    (made,) = map(str, (tmp_path / "cache").iterdir())
    with pytest.raises(ValueError, match="decoded from column 'label', not 'labels'"):
        Images(made, 10, label_column="labels").load()
    with pytest.raises(ValueError, match="no split 'valid'; it has 'train', 'test'"):
        Images(made, 10, test_split="valid").load()
    assert len(Images(made, 10, image_column="image").load().train) == 20


def test_the_place_follows_the_environment_and_can_be_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKECREDIT_CACHE", str(tmp_path / "from environment"))
    Images(str(tiny[0]), 10).load()
    assert len(list((tmp_path / "from environment").iterdir())) == 1
    monkeypatch.delenv("SPIKECREDIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Images(str(tiny[0]), 10).load()
    assert len(list((tmp_path / "home" / ".cache" / "spikecredit").iterdir())) == 1
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cache=\.\.\. or the environment variable SPIKECREDIT_CACHE"):
        Images(str(tiny[0]), 10, cache=str(tmp_path / "file")).load()


def test_concurrent_writers_leave_one_whole_folder(tmp_path, decoded):
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(cache.write, tmp_path / "noise", decoded) for _ in range(15)]:
            done.result()
    assert equal(cache.read(tmp_path / "noise"), decoded)
    assert [entry.name for entry in tmp_path.iterdir()] == ["noise"]


def test_a_failed_write_leaves_the_old_folder(tmp_path, decoded, monkeypatch):
    cache.write(tmp_path / "noise", decoded)
    monkeypatch.setattr(cache, "_checksum", lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.write(tmp_path / "noise", decoded)
    monkeypatch.undo()
    assert equal(cache.read(tmp_path / "noise"), decoded)
    assert [entry.name for entry in tmp_path.iterdir()] == ["noise"]

"""Decoded images on disk: a folder of .npz shards and an index.json that is readable with numpy alone.

The folder is complete or absent: it is written beside its place and renamed. Every shard has its SHA-256 in the index,
the index has its own, so that a damaged file is found and named instead of trained on. Shards stay under 20 MB: such a
folder can be carried to another machine with whatever is at hand, and `Images(path=folder)` reads it there.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from spikecredit.data.decode import Decoded

FORMAT = 1
INDEX = "index.json"
SHARD_BYTES = 18_000_000  # of pixels, before compression: incompressible ones too stay under 20 MB


class CacheError(ValueError):
    """A cache folder that cannot be trusted; the message names the file."""


def _sync(path: Path) -> None:
    # Without fsync a crash soon after the rename can leave the new name on an empty file.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(index: dict[str, Any]) -> str:
    body = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def write(folder: Path, decoded: Decoded) -> None:
    """Write `decoded` as the cache folder `folder`, replacing what is there; atomic, and safe beside other writers.

    Raises:
        OSError: the place cannot be written; the message names it and the ways to choose another.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"Cannot write the decoded images to {str(folder)!r}: {error}. "
            "Choose another place with cache=... or the environment variable SPIKECREDIT_CACHE."
        ) from error
    try:
        (temporary / "new").mkdir()
        _fill(temporary / "new", decoded)
        _replace(temporary, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder: Path, decoded: Decoded) -> None:
    shape = next(iter(decoded.splits.values()))[0].shape[1:]
    rows = max(1, SHARD_BYTES // int(np.prod(shape)))
    splits: dict[str, list[dict[str, Any]]] = {}
    for number, (split, (images, labels)) in enumerate(decoded.splits.items()):
        splits[split] = []
        for k, start in enumerate(range(0, len(labels), rows)):
            part = slice(start, start + rows)
            file = folder / f"{number}-{k:05d}.npz"  # numbers: a split's name need not be a file name
            np.savez_compressed(file, images=images[part], labels=labels[part])
            _sync(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            splits[split].append({"file": file.name, "rows": len(labels[part]), "sha256": digest})
    index: dict[str, Any] = {
        "format": FORMAT,
        "name": decoded.name,
        "classes": decoded.classes,
        "class_names": list(decoded.class_names),
        "columns": list(decoded.columns),
        "shape": list(shape),
        "source": decoded.source,
        "splits": splits,
    }
    index["sha256"] = _checksum(index)
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    _sync(folder / INDEX)
    _sync(folder)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename temporary/new to folder. A full folder cannot be renamed over, so an old one is moved aside first."""
    for attempt in range(10):
        with contextlib.suppress(FileNotFoundError):
            folder.rename(temporary / f"old{attempt}")
        try:
            (temporary / "new").rename(folder)
            return
        except OSError:  # another writer put its folder there between the two renames
            if attempt == 9:
                raise


def read(folder: Path) -> Decoded:
    """Read a cache folder, checking every byte.

    Raises:
        CacheError: a file is missing, damaged or of another format; the message names it.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise CacheError(f"{str(folder / INDEX)!r} has format {index['format']}, expected {FORMAT}.")
        if index["sha256"] != _checksum(index):
            raise CacheError(f"{str(folder / INDEX)!r} is damaged: its checksum does not fit.")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise CacheError(f"{str(folder / INDEX)!r} is not the index of a cache folder: {error!r}") from error
    shape = tuple(index["shape"])
    splits = {}
    for split, shards in index["splits"].items():
        images = np.empty((sum(shard["rows"] for shard in shards), *shape), np.uint8)
        labels = np.empty(len(images), np.int64)
        start = 0
        for shard in shards:
            part = slice(start, start := start + shard["rows"])
            images[part], labels[part] = _read_shard(folder / shard["file"], shard["sha256"])
        splits[split] = images, labels
    columns = (index["columns"][0], index["columns"][1])
    return Decoded(index["name"], tuple(index["class_names"]), index["classes"], columns, splits, index["source"])


def _read_shard(file: Path, sha256: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        data = file.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CacheError(f"{str(file)!r} is damaged: SHA-256 {found}, expected {sha256}.")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CacheError(f"{str(file)!r} cannot be read: {error!r}") from error

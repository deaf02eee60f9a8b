"""Where images come from: folders of parquet files and Hugging Face hub names, as streams of encoded rows.

A local folder is read by pyarrow alone: nothing goes online and no second copy is written. Only a hub name uses the
network, through `datasets`, with Hugging Face's own settings (HF_HOME, HF_HUB_OFFLINE, ...). Both are imported when
used.
"""

import contextlib
import difflib
import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 1024  # rows read at a time: bounds the memory held beside the result

# train.parquet, train-00000-of-00005.parquet, train_3.parquet, train-00000-of-00001-<16 hex digits>.parquet
_STEM = re.compile(r"(?P<split>.+?)(?:[-_.]?\d+(?:-of-\d+)?)?(?:-[0-9a-f]{16})?")


@dataclass(frozen=True)
class Rows:
    """One split, not decoded yet."""

    where: str  # for messages
    columns: tuple[str, ...]
    count: int
    names: dict[str, tuple[str, ...]]  # column -> names of its classes, where the data set declares them
    batches: Callable[[list[str]], Iterator[Any]]  # columns -> pyarrow record batches or tables


def need(module: str) -> Any:
    """Import an optional part, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Decoding images needs {module.partition('.')[0]}: pip install 'spikecredit[vision]'. "
            "A data set that was decoded before is read from its cache folder without it."
        ) from error


def nearest(word: str, words: list[str] | tuple[str, ...]) -> str:
    """' Did you mean ...?' or nothing."""
    found = difflib.get_close_matches(word, words, n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def folder_splits(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of a folder (or of its subfolder data/) by split."""
    splits: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):
        for file in sorted(place.glob("*.parquet")):
            match = _STEM.fullmatch(file.stem)
            splits.setdefault(match["split"] if match else file.stem, []).append(file)
        if splits:
            return splits
    below = sorted({str(file.parent.relative_to(folder)) for file in folder.glob("*/*.parquet")})
    raise ValueError(
        f"No parquet files in {str(folder)!r}; expected train*.parquet and test*.parquet."
        + (f" Its subfolders have some: {', '.join(below)}. Write the path of one of them." if below else "")
    )


def missing_split(split: str, found: list[str], where: str) -> ValueError:
    """The error for a split that is not there: names those that are."""
    return ValueError(
        f"{where!r} has no split {split!r}; it has {', '.join(map(repr, found)) or 'none'}."
        f"{nearest(split, found)} Write train_split=... or test_split=... with one of them."
    )


def _declared_names(metadata: dict[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """Class names from the `huggingface` key of a parquet schema; files written without datasets have no such key."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {column: tuple(f["names"]) for column, f in features.items() if f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def folder_rows(files: list[Path]) -> Rows:
    """The rows of parquet files, in the order of the files' names."""
    parquet = need("pyarrow.parquet")

    def batches(columns: list[str]) -> Iterator[Any]:
        for file in files:
            with parquet.ParquetFile(file) as opened:
                for column in columns:
                    find_column(tuple(opened.schema_arrow.names), column, (), "column", str(file))
                yield from opened.iter_batches(BATCH, columns=columns)

    schemas, count = [], 0
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                schemas.append(opened.schema_arrow)
                count += opened.metadata.num_rows
        except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
            raise ValueError(f"{str(file)!r} is not a readable parquet file: {error}") from error
    where = str(files[0].parent / (files[0].name if len(files) == 1 else f"{files[0].name} ... {files[-1].name}"))
    return Rows(where, tuple(schemas[0].names), count, _declared_names(schemas[0].metadata), batches)


def folder_source(files: dict[str, list[Path]]) -> dict[str, Any]:
    """What tells a changed folder: names, sizes and modification times (nanoseconds) of its files."""
    listing = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for s in sorted(files) for file in files[s]]
    return {"kind": "folder", "files": listing}


@contextlib.contextmanager
def _quiet(*modules: Any) -> Iterator[None]:
    """No progress bars inside; the user's own setting is put back."""
    were = [not module.are_progress_bars_disabled() for module in modules]
    try:
        for module in modules:
            module.disable_progress_bars()
        yield
    finally:
        for module, was in zip(modules, were, strict=True):
            if was:
                module.enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the hub raises dozens of kinds, from requests, huggingface_hub and datasets
        folders = [entry.name for entry in Path().iterdir() if entry.is_dir()]
        raise ValueError(
            f"{name!r} is not a local folder, and reading it as a Hugging Face hub name failed: "
            f"{type(error).__name__}: {error} Expected a folder of parquet files or a name such as 'ylecun/mnist'."
            f"{nearest(name, folders)}"
        ) from error


def hub_rows(name: str, splits: list[str]) -> tuple[list[Rows], dict[str, Any]]:
    """Splits of a hub data set, read with `datasets.load_dataset(name, split=...)`, and their fingerprints."""
    datasets, hub = need("datasets"), need("huggingface_hub.utils")
    rows, prints = [], {}
    with _quiet(datasets, hub), _hub_errors(name):
        found = datasets.get_dataset_split_names(name)
    for split in splits:
        if split not in found:
            raise missing_split(split, found, name)
    with _quiet(datasets, hub), _hub_errors(name):
        loaded = [datasets.load_dataset(name, split=split) for split in splits]
    for split, data in zip(splits, loaded, strict=True):
        names = {c: tuple(f.names) for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
        raw = data
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                raw = raw.cast_column(column, datasets.Image(decode=False))  # {bytes, path}: PIL decodes below

        def batches(columns: list[str], raw: Any = raw) -> Iterator[Any]:
            return raw.select_columns(columns).with_format("arrow").iter(BATCH)

        rows.append(Rows(f"{name}[{split}]", tuple(data.column_names), len(data), names, batches))
        prints[split] = data._fingerprint
    return rows, {"kind": "hub", "fingerprints": prints}


def find_column(columns: tuple[str, ...], wanted: str | None, usual: tuple[str, ...], what: str, where: str) -> str:
    """The wanted column, or the single usual one."""
    listing = ", ".join(map(repr, columns))
    if wanted is not None:
        if wanted not in columns:
            raise ValueError(f"{where!r} has no column {wanted!r}; it has {listing}.{nearest(wanted, columns)}")
        return wanted
    found = [column for column in usual if column in columns]
    if len(found) != 1:
        raise ValueError(
            f"{where!r}: cannot tell the {what} column: of {', '.join(map(repr, usual))} it has "
            f"{' and '.join(map(repr, found)) or 'none'}; its columns are {listing}. Write {what}_column=... with one."
        )
    return found[0]


def is_hub_name(path: str) -> bool:
    """Whether a path that is no folder may name a data set of the hub."""
    # With a parent folder of that name on this disk, 'data/mnits' is a slip of the pen, not a user of the hub.
    plausible = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path) is not None
    return plausible and not ("/" in path and Path(path).parent.is_dir()) and not Path(path).exists()


def no_such_folder(folder: Path, cached: Path) -> str:
    """The error for a path that is neither a folder nor a hub name; `cached` is where its cache folder would be."""
    if folder.is_file():
        return f"{str(folder)!r} is a file; expected a folder of parquet files. Write {str(folder.parent)!r}."
    parent = folder.parent
    siblings = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    close = nearest(folder.name, siblings)
    kept = f" Its decoded images are still in {str(cached)!r}: write that as path." if cached.exists() else ""
    there = f" ({str(parent)!r} has {', '.join(siblings[:12])})" if siblings else ""
    return (
        f"There is no folder {str(folder)!r}{there}.{close}{kept} "
        "Expected a folder with train*.parquet and test*.parquet, a cache folder, or a hub name such as 'ylecun/mnist'."
    )

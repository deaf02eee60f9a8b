"""Encoded images and labels of a source -> arrays of pixels and class numbers."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spikecredit.data.sources import Rows, find_column, need

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Images uint8 (N, C, H, W) and labels int64 (N,) of every split, and where they came from."""

    name: str
    class_names: tuple[str, ...]  # empty where the data set declares none
    classes: int
    columns: tuple[str, str]
    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    source: dict[str, Any]


def _pixels(data: bytes | None, path: str | None, where: str) -> np.ndarray:
    """One encoded image -> uint8 (C, H, W)."""
    pil = need("PIL.Image")
    if data is None and path is None:
        raise ValueError(f"{where} is empty (null). Remove such rows first.")
    try:
        with pil.open(io.BytesIO(data) if data is not None else path) as image:
            opaque = "transparency" not in image.info
            if image.mode == "1":
                image = image.convert("L")
            elif image.mode == "P" and opaque:
                image = image.convert("RGB")
            mode, array = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for broken PNG chunks
        raise ValueError(f"{where} cannot be decoded: {error}") from error
    if mode not in ("L", "RGB"):
        raise ValueError(f"{where} has PIL mode {mode!r}; expected grey ('L') or 'RGB'. Convert the images first.")
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _encoded(column: Any, where: str) -> Iterator[tuple[bytes | None, str | None]]:
    """(bytes, path) of every image in an arrow column; either may be None."""
    types = need("pyarrow").types
    for chunk in getattr(column, "chunks", [column]):
        if types.is_struct(chunk.type) and "bytes" in (fields := [field.name for field in chunk.type]):
            flat = dict(zip(fields, chunk.flatten(), strict=True))
            paths = flat["path"].to_pylist() if "path" in flat else [None] * len(chunk)
            yield from zip(flat["bytes"].to_pylist(), paths, strict=True)
        elif types.is_binary(chunk.type) or types.is_large_binary(chunk.type):
            yield from ((data, None) for data in chunk.to_pylist())
        else:
            raise ValueError(
                f"{where}: the image column has type {chunk.type}; expected encoded images: "
                "struct<bytes: binary, path: string> (what datasets.Image writes) or binary."
            )


def decode_rows(rows: Rows, image_column: str, label_column: str) -> tuple[np.ndarray, list[Any]]:
    """All images of a split, uint8 (N, C, H, W), and its labels as they are stored (int or str).

    Raises:
        ValueError: no rows; an image that is broken, neither grey nor RGB, or of another size than the first; a label
            that is missing or neither a whole number nor text. The message has the row's index.
    """
    images: np.ndarray | None = None
    labels: list[Any] = []
    for batch in rows.batches([image_column, label_column]):
        # iter_batches keeps the file's order of columns, so they are asked for by name
        encoded = _encoded(batch.column(image_column), rows.where)
        for i, (data, path) in enumerate(encoded, start=len(labels)):
            array = _pixels(data, path, f"{rows.where}: image {i}")
            if images is None:
                images = np.empty((rows.count, *array.shape), np.uint8)
            if array.shape != images.shape[1:]:
                first, other = ("x".join(map(str, shape)) for shape in (images.shape[1:], array.shape))
                raise ValueError(
                    f"{rows.where}: image {i} is {other} (C x H x W) but image 0 is {first}; expected one size. "
                    "Resize or convert the images before, for example with datasets.Dataset.map."
                )
            images[i] = array
        labels += batch.column(label_column).to_pylist()
    if images is None:
        raise ValueError(f"{rows.where} has no rows; expected images.")
    wrong = next((i for i, label in enumerate(labels) if not isinstance(label, int | str)), None)
    if wrong is not None:
        raise ValueError(f"{rows.where}: label {wrong} is {labels[wrong]!r}; expected a whole number or text.")
    return images, labels


def number_labels(
    splits: dict[str, list[Any]], declared: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], int, tuple[str, ...]]:
    """Labels of every split -> int64, the number of classes, and the classes' names (empty where they have none).

    Text is numbered in sorted order over all splits. Numbers stay: classes = those declared, otherwise the highest + 1.
    """
    values = {label for labels in splits.values() for label in labels}
    if all(isinstance(label, str) for label in values):
        names = tuple(sorted(values))
        number = {label: i for i, label in enumerate(names)}
        return {s: np.array([number[v] for v in labels], np.int64) for s, labels in splits.items()}, len(names), names
    if any(isinstance(label, str) for label in values):
        raise ValueError("Some labels are text and some are numbers; expected one kind in all splits.")
    low, high = min(values), max(values)
    if low < 0 or (declared and high >= len(declared)):
        raise ValueError(
            f"Labels run from {low} to {high}; expected 0 to {len(declared) - 1 if declared else 'classes - 1'}. "
            "Label -1 usually marks a split without public labels: choose another test_split."
        )
    return {s: np.array(labels, np.int64) for s, labels in splits.items()}, len(declared) or high + 1, declared


def decode(
    name: str, rows: dict[str, Rows], image_column: str | None, label_column: str | None, source: dict[str, Any]
) -> Decoded:
    """Decode every split. Raises ValueError where the splits disagree on size, columns or classes."""
    images, labels, declared, chosen = {}, {}, set(), set()
    for split, part in rows.items():
        image = find_column(part.columns, image_column, IMAGE_COLUMNS, "image", part.where)
        label = find_column(part.columns, label_column, LABEL_COLUMNS, "label", part.where)
        images[split], labels[split] = decode_rows(part, image, label)
        declared.add(part.names.get(label, ()))
        chosen.add((image, label))
    for what, found in (("columns", chosen), ("class names", declared)):
        if len(found) != 1:
            raise ValueError(f"{name!r}: the splits {', '.join(rows)} have different {what}: {sorted(found)}.")
    shapes = {split: array.shape[1:] for split, array in images.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"{name!r}: the splits have images of different sizes (C, H, W): {shapes}; expected one size.")
    numbers, classes, names = number_labels(labels, declared.pop())
    splits = {split: (images[split], numbers[split]) for split in rows}
    return Decoded(name, names, classes, chosen.pop(), splits, source)

"""Pixels, columns and labels of what is found in the wild, and the errors for what cannot be used."""

import numpy as np
import pytest

from spikecredit.data import decode, sources

CLASSES = {"image": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}


@pytest.fixture
def grey(rng, encoded):
    return [encoded(a) for a in rng.integers(0, 256, (4, 6, 5), np.uint8)]


def load(folder, image_column=None, label_column=None):
    files = sources.folder_splits(folder)
    rows = {split: sources.folder_rows(part) for split, part in files.items()}
    return decode.decode("x", rows, image_column, label_column, {})


@pytest.mark.parametrize("key", [None, {}, CLASSES])
@pytest.mark.parametrize("raw", [False, True])
def test_grey_with_and_without_the_huggingface_key(tmp_path, rng, encoded, write_parquet, key, raw):
    pixels = rng.integers(0, 256, (4, 6, 5), np.uint8)
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", [encoded(a) for a in pixels], [1, 0, 1, 1], key, raw=raw)
    found = load(tmp_path)
    images, labels = found.splits["test"]
    assert np.array_equal(images, pixels[:, None]) and labels.tolist() == [1, 0, 1, 1] and labels.dtype == np.int64
    assert (found.classes, found.class_names) == (2, ("no", "yes") if key else ())


def test_colour_webp_is_lossless_and_channels_come_first(tmp_path, rng, encoded, write_parquet):
    pixels = rng.integers(0, 256, (3, 6, 5, 3), np.uint8)
    write_parquet(
        tmp_path / "train.parquet", [encoded(a, "WEBP", lossless=True, exact=True) for a in pixels], [0, 1, 2]
    )
    assert np.array_equal(load(tmp_path).splits["train"][0], pixels.transpose(0, 3, 1, 2))


def test_black_and_white_and_palette_files_become_grey_and_colour(tmp_path, rng, write_parquet):
    import io

    from PIL import Image

    binary = rng.integers(0, 2, (6, 5), np.uint8) * 255
    colour = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).quantize(8)
    for name, image, expected in [
        ("a", Image.fromarray(binary).convert("1"), binary[None]),
        ("b", colour, np.asarray(colour.convert("RGB")).transpose(2, 0, 1)),
    ]:
        image.save(buffer := io.BytesIO(), "PNG")
        write_parquet(tmp_path / name / "train.parquet", [buffer.getvalue()], [0])
        assert np.array_equal(load(tmp_path / name).splits["train"][0][0], expected)


def test_text_labels_are_numbered_in_sorted_order_over_all_splits(tmp_path, grey, write_parquet):
    write_parquet(tmp_path / "train.parquet", grey, ["dog", "cat", "dog", "emu"])
    write_parquet(tmp_path / "test.parquet", grey[:2], ["ant", "emu"])
    found = load(tmp_path)
    assert found.class_names == ("ant", "cat", "dog", "emu") and found.classes == 4
    assert found.splits["train"][1].tolist() == [2, 1, 2, 3] and found.splits["test"][1].tolist() == [0, 3]


@pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "labels")])
def test_usual_columns_are_found(tmp_path, grey, write_parquet, columns):
    write_parquet(tmp_path / "train.parquet", grey, [0, 1, 2, 0], columns=columns)
    assert load(tmp_path).columns == columns


def test_columns_that_are_unusual_or_ambiguous_must_be_named(tmp_path, grey, write_parquet):
    import pyarrow.parquet as pq

    write_parquet(tmp_path / "train.parquet", grey, [0, 1, 2, 0], columns=("picture", "label"))
    with pytest.raises(ValueError, match=r"cannot tell the image column.*none; its columns are.*'picture'.*image_col"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"no column 'pictures'; it has .*Did you mean 'picture'"):
        load(tmp_path, "pictures")
    assert load(tmp_path, "picture").splits["train"][1].tolist() == [0, 1, 2, 0]
    table = pq.read_table(tmp_path / "train.parquet")
    pq.write_table(table.append_column("labels", table["label"]), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"cannot tell the label column.*it has 'label' and 'labels'"):
        load(tmp_path, "picture")
    assert load(tmp_path, "picture", "labels").columns == ("picture", "labels")


def test_sizes_must_agree_and_the_message_has_the_index(tmp_path, rng, grey, encoded, write_parquet):
    wide = encoded(rng.integers(0, 256, (6, 7), np.uint8))
    write_parquet(tmp_path / "train.parquet", [*grey, wide], [0] * 5)
    with pytest.raises(ValueError, match=r"image 4 is 1x6x7 \(C x H x W\) but image 0 is 1x6x5"):
        load(tmp_path)
    write_parquet(tmp_path / "train.parquet", grey, [0] * 4)
    write_parquet(tmp_path / "test.parquet", [wide], [0])
    with pytest.raises(ValueError, match=r"different sizes .*\(1, 6, 7\)"):
        load(tmp_path)


def test_unusable_images_are_named(tmp_path, rng, grey, encoded, write_parquet):
    clear = encoded(rng.integers(0, 256, (6, 5, 4), np.uint8))
    for image, message in [
        (clear, r"image 4 has PIL mode 'RGBA'; expected grey"),
        (b"no image", "image 4 cannot be decoded"),
        (grey[0][:40], "image 4 cannot be decoded"),
        (None, "image 4 is empty"),
    ]:
        write_parquet(tmp_path / "train.parquet", [*grey, image], [0] * 5)
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    write_parquet(tmp_path / "train.parquet", [], np.array([], np.int64))
    with pytest.raises(ValueError, match=r"has no rows"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "key", "message"),
    [
        ([0, 1, None, 1], None, "label 2 is None"),
        ([0.0, 1.0, 2.0, 0.5], None, "label 0 is 0.0; expected a whole number or text"),
        ([0, -1, 1, 1], None, "Labels run from -1 to 1; expected 0 to classes - 1"),
        ([0, 1, 2, 1], CLASSES, "Labels run from 0 to 2; expected 0 to 1"),
    ],
)
def test_unusable_labels_are_named(tmp_path, grey, write_parquet, labels, key, message):
    write_parquet(tmp_path / "train.parquet", grey, labels, key)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_splits_must_agree_on_columns_and_kinds(tmp_path, grey, write_parquet):
    write_parquet(tmp_path / "train.parquet", grey, [0, 1, 0, 1], CLASSES)
    write_parquet(tmp_path / "test.parquet", grey, ["no", "yes", "no", "yes"], CLASSES)
    with pytest.raises(ValueError, match="Some labels are text and some are numbers"):
        load(tmp_path)
    write_parquet(tmp_path / "test.parquet", grey, [0, 1, 0, 1], CLASSES, columns=("img", "label"))
    with pytest.raises(ValueError, match="different columns"):
        load(tmp_path)
    other = CLASSES | {"label": {"names": ["yes", "no"], "_type": "ClassLabel"}}
    write_parquet(tmp_path / "test.parquet", grey, [0, 1, 0, 1], other)
    with pytest.raises(ValueError, match="different class names"):
        load(tmp_path)


def test_images_that_are_not_encoded_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [[[0, 1], [2, 3]]], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"image column has type list.*expected encoded images"):
        load(tmp_path)

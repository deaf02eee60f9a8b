"""Finding splits and columns, hub names, and the errors for what is not there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spikecredit.data import Images, sources


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train", "train"),
        ("train-00000-of-00005", "train"),
        ("train_3", "train"),
        ("train-00000-of-00001-a09b74b3ef9c3b56", "train"),
        ("test_clean", "test_clean"),
        ("train1K", "train1K"),
    ],
)
def test_the_split_is_in_the_file_name(tmp_path, stem, split):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{stem}.parquet").touch()
    assert list(sources.folder_splits(tmp_path)) == [split]


def test_files_of_a_split_are_read_in_order(tiny):
    folder, arrays = tiny
    files = sources.folder_splits(folder)["train"]
    assert [file.name[:11] for file in files] == ["train-00000", "train-00001"]
    rows = sources.folder_rows(files)
    labels = [value for batch in rows.batches(["label"]) for value in batch.column("label").to_pylist()]
    assert rows.count == 30 and labels == arrays["train"][1].tolist()


def test_a_missing_split_names_those_that_exist(tiny):
    with pytest.raises(ValueError, match=r"no split 'tests'; it has 'test', 'train'. Did you mean 'test'"):
        Images(str(tiny[0]), test_split="tests").load()


def test_folders_without_parquet_say_where_there_is_some(tmp_path, tiny):
    with pytest.raises(ValueError, match=r"No parquet files in .*Its subfolders have some: tiny"):
        Images(str(tmp_path)).load()


def test_a_broken_parquet_file_is_named(tiny):
    (tiny[0] / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"test.parquet' is not a readable parquet file"):
        Images(str(tiny[0])).load()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{0}/tinny", r"There is no folder '.*tinny'.*Did you mean 'tiny'\?.*train\*\.parquet"),
        ("./tinny", r"There is no folder 'tinny'.*Did you mean 'tiny'"),
        ("~/no such place/at all", r"There is no folder .*hub name such as"),
        ("{0}/tiny/test.parquet", r"is a file; expected a folder .*Write '.*tiny'"),
    ],
)
def test_a_path_to_nothing_names_the_nearest_folder(tmp_path, tiny, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Images(path.format(tmp_path), cache=str(tmp_path / "cache")).load()


def test_only_names_without_a_local_parent_are_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert sources.is_hub_name("ylecun/mnist") and sources.is_hub_name("mnist")
    for path in ("data/mnist", "data", "../mnist", "/mnist", "a/b/c", "~/mnist", "", "two words"):
        assert not sources.is_hub_name(path), path


@pytest.fixture
def hub(monkeypatch, rng):
    """`datasets` with one hub data set, acme/tiny, in memory. Returns its arrays and a record of what was asked."""
    datasets = pytest.importorskip("datasets")
    names = ["cat", "dog", "emu"]
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=names)})
    arrays = {s: (rng.integers(0, 256, (n, 5, 4, 3), np.uint8), rng.integers(0, 3, n)) for s, n in (("a", 9), ("b", 4))}
    asked = []

    def split_names(name):
        asked.append(name)
        if name != "acme/tiny":
            raise ConnectionError("no such data set.")
        return list(arrays)

    def load_dataset(name, split):
        images, labels = arrays[split]
        return datasets.Dataset.from_dict({"img": list(images), "fine_label": labels.tolist()}, features=features)

    monkeypatch.setattr(datasets, "get_dataset_split_names", split_names)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return arrays, asked


def test_a_hub_name_is_read_through_datasets_and_then_from_the_cache(hub, tmp_path):
    arrays, asked = hub
    config = Images("acme/tiny", 0, train_split="a", test_split="b", cache=str(tmp_path))
    data = config.load()
    assert (data.name, data.classes, data.class_names) == ("acme/tiny", 3, ("cat", "dog", "emu"))
    assert np.array_equal(data.test.images, arrays["b"][0].transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == arrays["b"][1].tolist()
    assert config.load().test.images.equal(data.test.images) and asked == ["acme/tiny"]
    with pytest.raises(ValueError, match="'acme/tiny' has no split 'train'; it has 'a', 'b'"):
        Images("acme/tiny", 0, cache=str(tmp_path)).load()


def test_a_hub_name_that_fails_gives_the_reason_and_the_nearest_folder(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(ValueError, match=r"reading it as a .*ConnectionError: no such data set.*mean 'mnist'"):
        Images("mnits", cache=str(tmp_path)).load()


def test_progress_bars_are_off_inside_and_as_they_were_after(hub):
    import datasets

    assert not datasets.are_progress_bars_disabled()
    with sources._quiet(datasets):
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()


def test_the_real_load_dataset_reads_offline(tiny, tmp_path):
    """hub_rows on the real `datasets`, offline: a folder stands in for the hub, in another process for its HF_HOME."""
    pytest.importorskip("datasets")
    code = (
        "import sys; from spikecredit.data import decode, sources\n"
        "rows, source = sources.hub_rows(sys.argv[1], ['train', 'test'])\n"
        "found = decode.decode('tiny', dict(zip(['train', 'test'], rows)), None, None, source)\n"
        "print(found.splits['train'][0].sum(), found.splits['test'][1].tolist(), len(source['fingerprints']))\n"
    )
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tiny[0])], env=env, capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == f"{tiny[1]['train'][0].sum()} {tiny[1]['test'][1].tolist()} 2", run.stderr
    assert run.stderr == ""  # no progress bars, no warnings

"""Run folders: what is written comes back, what a crash left is cut, and nothing that exists is overwritten."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

import spikecredit
from spikecredit.training import run as module
from spikecredit.training.checkpoint import CheckpointError
from spikecredit.training.run import Run, RunError, config_hash, environment, finite_or_none, free_folder
from spikecredit.training.schema import load

EVERYTHING = (
    "network={kind: lenet, channels: [3], hidden: [8], dropout: 0.1}",
    "neuron={kind: alif, surrogate: {kind: arctan}}",
    "pathway={kind: sign_symmetry, magnitude: fixed, gain: 1e-3}",
    "constraint={kind: dale, mode: reparametrize}",
    "data={kind: images, path: 'no', validation: 0.1, cache: '1e-3'}",
    "augment=[flip]",
    "training.optimizer={kind: adamw, eps: 1e-12}",
    "training.clip_norm=1e16",
)


@pytest.mark.parametrize("overrides", [(), EVERYTHING])
def test_config_yaml_is_resolved_and_builds_the_same_experiment(overrides: tuple[str, ...], tmp_path: Path) -> None:
    first = tiny.configured(*overrides)
    run = Run.prepare(tmp_path / "a" / "run")
    assert not (tmp_path / "a").exists()  # nothing before start
    run.start(first.resolved)
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.yaml"]
    assert yaml.safe_load(run.config.read_text()) == first.resolved  # every default, for other readers too
    again = load(type(first.value), run.config, tiny.REGISTRIES)
    assert again.resolved == first.resolved and config_hash(again.resolved) == config_hash(first.resolved)


def test_the_hash_is_that_of_the_content() -> None:
    one = tiny.configured()
    assert config_hash(one.resolved) == config_hash(tiny.configured("training.epochs=2").resolved)
    assert config_hash(one.resolved) == config_hash(dict(reversed(one.resolved.items())))
    assert config_hash(one.resolved) != config_hash(tiny.configured("seed=1").resolved)


def test_a_run_is_prepared_once_and_opened_if_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is no run folder: .*config\.yaml is missing"):
        Run.open(tmp_path)
    Run.prepare(tmp_path / "run").start({"seed": 1})
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(
        RunError, match="already holds a run: add --resume to go on with it, or name another with --run"
    ):
        Run.prepare(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    assert Run.open(tmp_path / "run").checkpoints == tmp_path / "run" / "checkpoints"


def test_free_folder_takes_the_first_free_number(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "demo") == tmp_path / "demo"
    for name in ("demo", "demo-2", "demo-4"):
        (tmp_path / name).mkdir()
    assert free_folder(tmp_path / "demo") == tmp_path / "demo-3"


# ---- metrics ---------------------------------------------------------------------------------------------------------


def filled(folder: Path, count: int = 3) -> Run:
    run = Run(folder)
    folder.mkdir()
    for number in range(count):
        run.append({"event": "epoch", "epoch": number, "loss": 0.1 + number / 3})
    return run


def test_metrics_come_back_to_the_bit_and_nan_is_null(tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    run.append({"event": "epoch", "a": {"b": [math.nan, 1.0, -math.inf]}, "c": (1, None, "x"), "d": True})
    assert run.metrics()[1]["loss"] == 0.1 + 1 / 3
    assert run.metrics()[3] == {"event": "epoch", "a": {"b": [None, 1.0, None]}, "c": [1, None, "x"], "d": True}
    assert "NaN" not in (run.folder / "metrics.jsonl").read_text()
    assert finite_or_none({"x": [math.inf]}) == {"x": [None]}


@pytest.mark.parametrize("cut", [1, 5, 20, -1])
def test_a_last_line_that_a_crash_cut_short_is_left_out_and_written_over(cut: int, tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    path = run.folder / "metrics.jsonl"
    whole = path.read_text()
    last = whole.splitlines(keepends=True)[-1]
    path.write_text(whole[: -len(last)] + last[:cut])
    kept = 3 if cut == -1 else 2  # without its newline the line is whole
    assert len(run.metrics()) == kept and run.result() is None
    run.cut_metrics(2)
    run.append({"event": "result", "loss": 1.0})
    assert [line["event"] for line in run.metrics()] == ["epoch", "epoch", "result"]
    assert run.result() == {"event": "result", "loss": 1.0}
    assert path.read_text().endswith("\n") and len(path.read_text().splitlines()) == 3


def test_cut_metrics_keeps_the_first_lines_as_they_were(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", 5)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    run.cut_metrics(3)
    assert (run.folder / "metrics.jsonl").read_text().splitlines() == lines[:3]
    run.cut_metrics(10)
    assert len(run.metrics()) == 3
    run.cut_metrics(0)
    assert run.metrics() == []
    assert [p.name for p in run.folder.iterdir()] == ["metrics.jsonl"]  # no temporary file stays
    assert Run(tmp_path / "none").metrics() == []


def test_an_appended_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").read_text())
        real(handle)

    monkeypatch.setattr(module.os, "fsync", fsync)
    filled(tmp_path / "run", 1)
    assert len(synced) == 1 and json.loads(synced[0])["epoch"] == 0  # flushed to the file before it was synced


# ---- environment -----------------------------------------------------------------------------------------------------


def test_environment_names_what_a_figure_needs(tmp_path: Path) -> None:
    found = environment(torch.device("cpu"))
    assert found["spikecredit"] == spikecredit.__version__ and found["torch"] == torch.__version__
    assert found["device"] == "cpu" and found["threads"] == torch.get_num_threads() and found["processor"]
    json.dumps(found)
    run = filled(tmp_path / "run", 0)
    assert run.environments() == []
    for number in range(2):
        run.record_environment({"number": number})
    assert run.environments() == [{"number": 0}, {"number": 1}]


def test_a_crash_while_the_environment_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filled(tmp_path / "run", 0)
    run.record_environment({"number": 0})

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run.record_environment({"number": 1})
    assert run.environments() == [{"number": 0}]


def test_the_commit_is_git_s_with_a_plus_for_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "spikecredit" / "training"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "run.py"))
    assert module._commit() is None  # outside a checkout

    def git(*words: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    assert module._commit() is None  # no commit yet
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "file").write_text("a")
    (results / "x.json").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    commit = git("rev-parse", "--short=12", "HEAD").strip()
    assert module._commit() == commit
    (results / "x.json").write_text("2")  # what a benchmark writes row by row is not the source
    assert module._commit() == commit
    (tmp_path / "file").write_text("b")
    assert module._commit() == f"{commit}+"

    def no_git(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(module.subprocess, "run", no_git)
    assert module._commit() is None


def test_the_processor_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "processor", lambda: "a processor")

    def missing(self: Path, *_: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(module.Path, "read_text", missing)
    assert module._processor() == "a processor"


def test_a_default_that_a_later_version_adds_leaves_old_runs_theirs(tmp_path: Path) -> None:
    run = tiny.new_run(tmp_path / "old", "training.epochs=1")
    kept = [line for line in run.config.read_text().splitlines() if "compile" not in line]
    run.config.write_text("\n".join(kept))  # as if written before `training.compile` was there
    trainer = tiny.trainer("training.epochs=1", run=run)
    trainer.fit()
    again = tiny.trainer("training.epochs=1", run=Run.open(run.folder))
    again.restore()
    assert again.epoch == 1
    run.config.write_text("\n".join(kept).replace("epochs: 1", "epochs: 2"))
    with pytest.raises(CheckpointError, match="another configuration"):
        tiny.trainer("training.epochs=2", run=Run.open(run.folder)).restore()

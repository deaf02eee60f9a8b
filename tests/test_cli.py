"""The command line: what a user types, what comes back, with which exit status, and what is on the disk then."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

import spikecredit
from spikecredit import cli
from spikecredit.analysis import comparison, report
from spikecredit.data import DATA, DataSource, Digits, ImageData, Split
from spikecredit.training import checkpoint, demo, doctor, loop

CONFIG = """# A small network on a few digits.
network: {kind: mlp, hidden: [12]}
neuron: {kind: lif, tau: 5.0}
readout: {kind: leaky_readout, tau: 5.0}
data: {kind: few, train: 40}
encoder: {kind: constant, steps: 4}
training: {epochs: 2, batch_size: 8, measure: 8, optimizer: {kind: adam, lr: 0.02}}
"""


@dataclass(frozen=True)
class Few(DataSource):
    """The first digits of each split."""

    train: int = 40

    def load(self) -> ImageData:
        full = Digits().load()
        parts = {name: getattr(full, name) for name in ("train", "validation", "test")}
        sizes = {"train": self.train, "validation": 12, "test": 10}
        few = {name: Split(part.images[: sizes[name]], part.labels[: sizes[name]]) for name, part in parts.items()}
        return replace(full, name="few digits", **few)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks here are tiny, and the processes below are compared with this one bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with small.yaml, whose data source is registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATA, "few", Few)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def quick(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`here`, without drawing: a report costs a second."""
    monkeypatch.setattr(report, "write_report", lambda path, *_: path)
    return here


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback is never an answer
    return result


def refused(*words: str, code: int = 2) -> str:
    """The message of a command that ends with this status."""
    result = run(*words)
    assert result.exit_code == code, result.output
    return result.stderr


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what measures time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_second")} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics(first) == metrics(second)
    a, b = (checkpoint.latest(folder / "checkpoints", "last") for folder in (first, second))
    for group in ("model", "optimizer", "sums"):
        assert a.tensors[group].keys() == b.tensors[group].keys()
        assert all(torch.equal(a.tensors[group][name], b.tensors[group][name]) for name in a.tensors[group])


# ---- train -----------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_and_evaluate_reads_it(here: Path) -> None:
    result = run("train", "small.yaml", "training.epochs=3", "seed=4")
    assert result.exit_code == 0, result.output
    folder = here / "runs" / "small"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "report.html"}
    lines = metrics(folder)
    assert [line["event"] for line in lines] == ["epoch"] * 4 + ["result"]
    assert json.loads((folder / "environment.json").read_text())[0]["torch"] == torch.__version__
    plain = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert len(plain) == 3 and plain[0].startswith("epoch   1/3   loss ")  # no terminal: a line per epoch, no bar
    assert result.stderr == "" and "\r" not in result.output
    accuracy = f"accuracy {lines[-1]['test_accuracy']:.2%}, loss {lines[-1]['test_loss']:.4f}"
    assert accuracy in result.stdout and "report: runs/small/report.html" in result.stdout
    assert "<html" in (folder / "report.html").read_text()
    again = run("evaluate", "runs/small")
    assert accuracy in again.stdout and "on test (10 images)" in again.stdout
    assert re.search(r"layers\.2 +\d+\.\d\d% of steps +\d+\.\d\d% silent +12 neurons", again.stdout)
    best = lines[lines[-1]["selected_epoch"]]
    told = f"accuracy {best['validation_accuracy']:.2%}, loss {best['validation_loss']:.4f}"
    assert told in run("evaluate", "runs/small", "--split", "validation").stdout
    told = f"accuracy {lines[3]['validation_accuracy']:.2%}, loss {lines[3]['validation_loss']:.4f}"
    assert told in run("evaluate", "runs/small", "--split", "validation", "--checkpoint", "last").stdout


def test_a_shipped_configuration_goes_by_its_name(quick: Path) -> None:
    words = ("data={kind: few, train: 16}", "network.hidden=[8]", "training.epochs=1", "--device", "cpu")
    result = run("train", "demo", *words)
    assert result.exit_code == 0 and (quick / "runs" / "demo" / "config.yaml").is_file(), result.output
    assert run("train", "demo.yaml", *words, "--run", "elsewhere/x").exit_code == 0
    assert metrics(quick / "elsewhere" / "x") == metrics(quick / "runs" / "demo")


def test_the_data_is_what_the_configuration_names(quick: Path) -> None:
    run("train", "small.yaml", "--run", "a")
    run("train", "small.yaml", "--run", "b", "data.train=24")
    assert metrics(quick / "a")[1]["step"] == 5 and metrics(quick / "b")[1]["step"] == 3


def test_an_existing_run_is_refused_before_anything_is_touched(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train", "small.yaml").exit_code == 0
    before = {path: path.read_bytes() for path in (quick / "runs").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(Few, "load", never)
        told = refused("train", "small.yaml")
        assert "runs/small already holds a run: add --resume to go on with it, or name another with --run" in told
        assert "runs/small is a run folder: add --resume" in refused("train", "runs/small")
        assert "is finished: see runs/small/report.html" in refused("train", "runs/small", "--resume")
        assert "is finished" in refused("train", "small.yaml", "--resume")
        assert "another configuration than small.yaml seed=9" in refused("train", "small.yaml", "seed=9", "--resume")
        assert "seed=9 would change it" in refused("train", "runs/small", "seed=9", "--resume")
        assert "leave out --run other" in refused("train", "runs/small", "--resume", "--run", "other")
        assert "runs/none is no run folder" in refused("train", "small.yaml", "--resume", "--run", "runs/none")
    assert before == {path: path.read_bytes() for path in (quick / "runs").rglob("*") if path.is_file()}
    assert sorted(path.name for path in (quick / "runs").iterdir()) == ["small"]


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("touched too early")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("small.yaml", "trainng.epochs=3"),
            "override 'trainng.epochs=3': unknown key 'trainng'; did you mean 'traini",
        ),
        (("broken.yaml",), "broken.yaml:3: neuron.tua: unknown key 'tua'; did you mean 'tau'? (of kind 'lif')"),
        (("small.yaml", "pathway=bakprop"), "unknown kind 'bakprop'; did you mean 'backprop'?"),
        (("small.yaml", "training.epochs=0"), "epochs must be at least 1"),
        (("small.yaml", "encoder=delta"), "Delta encodes changes over time"),
        (("smal.yaml",), "no configuration 'smal.yaml'; did you mean 'small.yaml'?"),
        (("dmeo",), "no configuration 'dmeo'; did you mean 'demo'?"),
        (("nowhere/x.yaml",), "no configuration 'nowhere/x.yaml'"),
    ],
)
def test_a_typo_is_found_before_data_device_or_folder_are_touched(
    words: tuple[str, ...], told: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "broken.yaml").write_text("# x\nneuron:\n  tua: 3\ndata: few\n")
    monkeypatch.setattr(Few, "load", never)
    monkeypatch.setattr(cli, "pick_device", never)
    assert told in refused("train", *words)
    assert {path.name for path in here.iterdir()} == {"small.yaml", "broken.yaml"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--device", "cdua"), "--device cdua: expected auto, cpu, cuda or cuda:N; did you mean 'cuda'?"),
        (("--device", "gpu"), "--device gpu: expected auto, cpu, cuda or cuda:N; write --device cuda"),
        (("--device", "cuda:99"), "--device cuda:99: torch"),
        (("--sede", "3"), "--sede"),
        (("--resum",), "Did you mean one of: '--resume', '--run'?"),
        (("network={kind: vgg}",), "images of side 8 are too small"),
        (
            ("pathway=backprop", "constraint={kind: dale, feedback: own}"),
            "backprop's error travels through the forward",
        ),
        (("data={kind: images, path: ./nothing}",), "data: There is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(words: tuple[str, ...], told: str, here: Path) -> None:
    assert told in refused("train", "small.yaml", *words)
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


def test_auto_takes_cuda_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.pick_device("auto") == cli.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(cli.Failure, match="sees no CUDA device here; use --device cpu"):
        cli.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cli.pick_device("auto") == torch.device("cuda") and cli.pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(cli.Failure, match="sees 2 CUDA device here; use --device cuda"):
        cli.pick_device("cuda:2")


def test_a_run_that_diverges_ends_with_1_and_its_last_checkpoint_loads(quick: Path) -> None:
    told = refused("train", "small.yaml", "training.optimizer.lr=1e30", code=1)
    assert "first in layers" in told and "Try a smaller learning rate" in told
    assert "Traceback" not in told
    assert checkpoint.latest(quick / "runs" / "small" / "checkpoints", "last").step == 0
    assert run("evaluate", "runs/small").exit_code == 0


def test_a_crashed_run_goes_on_by_folder_and_by_configuration(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("small.yaml", "training.checkpoint_every=1")
    assert run("train", *words, "--run", "whole").exit_code == 0
    real = loop.Trainer.train_batch
    for folder, again in (("a", ("a",)), ("b", (*words, "--run", "b"))):
        steps: list[int] = []

        def train_batch(self: loop.Trainer, *batch: Any, steps: list[int] = steps) -> None:
            steps.append(self.step)
            if len(steps) == 8:
                raise OSError("the disk went away")
            real(self, *batch)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "train_batch", train_batch)
            assert "the disk went away" in refused("train", *words, "--run", folder, code=1)
        result = run("train", *again, "--resume")
        assert result.exit_code == 0 and "resumed at epoch 2, batch 2, step 7" in result.stdout
        assert_same_run(quick / folder, quick / "whole")
        assert len(json.loads((quick / folder / "environment.json").read_text())) == 2


def full(self: loop.Trainer) -> None:
    raise OSError("no space")


def test_a_resumed_run_with_missing_values_has_a_report(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent layer's angles are NaN, which is null in the metrics and None after a resume."""
    words = ("small.yaml", "neuron={kind: lif, threshold: 1000000.0}", "training.epochs=1")
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")  # as outside of these tests: shown, not raised
        patch.setattr(loop.Trainer, "finish", full)
        assert "warning: layer layers.2 is silent" in refused("train", *words, code=1)
    assert metrics(here / "runs" / "small")[0]["layers"]["layers.1"]["error_angle"] is None
    assert run("train", "runs/small", "--resume").exit_code == 0
    assert (here / "runs" / "small" / "report.html").is_file()


def test_without_matplotlib_a_run_ends_well(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise ImportError("a report needs matplotlib: pip install 'spikecredit[plot]'")

    monkeypatch.setattr(report, "write_report", missing)
    result = run("train", "small.yaml", "training.epochs=1")
    assert result.exit_code == 0 and "no report: a report needs matplotlib" in result.stdout
    assert metrics(here / "runs" / "small")[-1]["event"] == "result"


def test_tensorboard_events_are_written(quick: Path) -> None:
    pytest.importorskip("tensorboard")
    assert run("train", "small.yaml", "training.epochs=1", "--tensorboard").exit_code == 0
    (events,) = (quick / "runs" / "small" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"validation_accuracy" in content and b"layers/layers.1/error_angle" in content
    run("train", "small.yaml", "training.epochs=1", "--run", "without")
    assert not (quick / "without" / "tensorboard").exists()


def test_tensorboard_that_is_missing_is_told_before_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install 'spikecredit[tensorboard]'" in refused("train", "small.yaml", "--tensorboard")
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


# ---- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_for_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    update = cli.progress_bar(1000)
    assert update is not None
    for epoch, first in ((1, 5), (2, 1)):  # the first epoch was resumed at its fifth batch
        for batch in range(first, 21):
            update(epoch, batch, 20, lambda: 0.875)
    shown = screen.getvalue()
    assert "epoch 1" in shown and "epoch 2" in shown and "20/20" in shown and "4/20" in shown
    assert "accuracy 87.50%" in shown and re.search(r"\d+ samples/s", shown)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert cli.progress_bar(1000) is None


# ---- signals, in processes of their own ------------------------------------------------------------------------------

LONGER = ("training.epochs=4", "training.batch_size=8", "training.checkpoint_every=20", "network.hidden=[32]")
SPIKECREDIT = (sys.executable, "-c", "from spikecredit.cli import main; main()")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the interrupted ones must equal."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda path, *_: path)
        assert run("train", "demo", *LONGER, "--run", str(folder)).exit_code == 0
    return folder


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_at_a_random_moment_a_run_goes_on_equal(
    number: signal.Signals, code: int, quick: Path, uninterrupted: Path
) -> None:
    words = (*SPIKECREDIT, "train", "demo", *LONGER, "--run", "run", "--device", "cpu")
    one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = quick / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("\n")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.5))
    sent = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code, told
    if number != signal.SIGKILL:
        assert time.monotonic() - sent < 5
        assert f"stopped by {number.name}; a checkpoint is written; go on with --resume" in told
        stopped = checkpoint.latest(quick / "run" / "checkpoints", "last").step
        assert 0 < stopped < 4 * 144
    result = run("train", "run", "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert_same_run(quick / "run", uninterrupted)


# ---- demo ------------------------------------------------------------------------------------------------------------


def test_demo_compares_its_rows_and_keeps_old_reports(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "configs").mkdir()
    (here / "configs" / "demo.yaml").write_text(CONFIG)
    monkeypatch.setattr(cli, "CONFIGS", here / "configs")
    result = run("demo", "--seeds", "2")
    assert result.exit_code == 0, result.output
    rows = {
        label: line for label, _ in demo.ROWS for line in result.stdout.splitlines() if line.startswith(label + "  ")
    }
    assert (
        len(rows) == 5
        and "seeds 0 to 1" in result.stdout
        and "few digits: 40 training, 12 validation, 10" in result.stdout
    )
    assert re.search(r"\d+\.\d% ± \d+\.\d +0° +\d+\.\d\d +– +\d+\.\d s$", rows["backprop"])
    assert re.search(r" [1-9]\d*° ", rows["feedback alignment"])
    assert re.search(r" 0 +\d+\.\d s$", rows["sign symmetry + Dale's law"])  # violations
    assert re.search(r" [1-9]\d*° +\d+\.\d\d +–", rows[demo.EQUILIBRIUM])  # an angle, and spikes
    assert "report: runs/demo/report.html" in result.stdout and (here / "runs/demo/report.html").is_file()
    kept = json.loads((here / "runs/demo/results.json").read_text())
    assert len(kept["results"]) == 10 and len(kept["rows"]) == 5
    monkeypatch.setattr(report, "write_report", lambda path, *_: path)
    single = run("demo", "--seeds", "1")
    assert single.exit_code == 0 and "runs/demo-2/report.html" in single.stdout and "±" not in single.stdout
    assert "seed 0," in single.stdout
    assert "--seeds must be at least 1, got 0" in refused("demo", "--seeds", "0")


# ---- compare ---------------------------------------------------------------------------------------------------------

PAIR = ("compare", "small.yaml", "--pathway", "BP,FA", "--seeds", "1", "training.epochs=1")


@pytest.fixture
def quicker(quick: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`quick`, without the page of a comparison either."""
    monkeypatch.setattr(comparison, "write_comparison", lambda path, *_: path)
    return quick


def test_compare_tells_its_table_keeps_what_is_finished_and_resumes(quicker: Path) -> None:
    first = run(*PAIR, "--device", "cpu")
    assert first.exit_code == 0, first.output
    folder = quicker / "runs" / "compare-small"
    assert {path.name for path in folder.iterdir()} == {
        "BP", "FA", "compare.json", "results.json", "table.md", "table.csv",
    }  # fmt: skip
    assert "2 conditions, 2 cells in runs/compare-small: 0 finished, 2 to train" in first.stdout
    assert re.search(r"^FA +0 +\d+\.\d\d% .* s$", first.stdout, re.MULTILINE)
    assert first.stdout.rstrip().endswith("report: runs/compare-small/report.html") and first.stderr == ""
    names = {path.name for path in (folder / "FA" / "seed-0").iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints"}  # and a report, if one is drawn
    before = (folder / "results.json").read_bytes()
    for words in (PAIR, ("compare", "--resume", "runs/compare-small")):
        again = run(*words)
        assert again.exit_code == 0 and "2 finished, 0 to train" in again.stdout
        assert (folder / "results.json").read_bytes() == before
    assert run("evaluate", "runs/compare-small/FA/seed-0").exit_code == 0


def test_compare_ends_with_1_if_a_cell_failed(quicker: Path) -> None:
    result = run(*PAIR, "--constraint", "dale(feedback=own)", "--run", "x")
    assert result.exit_code == 1 and "BP + dale(feedback=own), seed 0: refused: " in result.stdout
    assert re.search(r"^FA \+ dale\(feedback=own\) +0 +\d", result.stdout, re.MULTILINE)
    assert "Traceback" not in result.output


def test_compare_takes_configurations_as_rows(quicker: Path) -> None:
    (quicker / "small_fa.yaml").write_text(CONFIG + "pathway: feedback_alignment\n")
    result = run("compare", "small*.yaml", "--seeds", "1", "training.epochs=1", "--set", "small:neuron.tau=4.0")
    assert result.exit_code == 0, result.output
    kept = json.loads((quicker / "runs" / "compare-configurations" / "results.json").read_text())
    rows = kept["conditions"]
    assert kept["command"].startswith("spikecredit compare 'small*.yaml' --seeds 1 --set small:neuron.tau=4.0")
    assert [(row["condition"], row["reference"]) for row in rows] == [("small", "small"), ("small_fa", "small")]


def test_patterns_and_names_find_configurations(quicker: Path) -> None:
    assert [path.stem for path in cli.find_configs(("mnist_lenet_*",))[0]] == sorted(
        path.stem for path in cli.CONFIGS.glob("mnist_lenet_*.yaml")
    )
    assert cli.find_configs(("small.yaml", "a.b=1", "sma*.yaml", "demo")) == (
        [Path("small.yaml"), cli.CONFIGS / "demo.yaml"], ["a.b=1"],
    )  # fmt: skip


def test_compare_stopped_by_sigint_ends_with_130_and_says_how_to_go_on(
    quicker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.Trainer.train_batch

    def train_batch(self: loop.Trainer, *batch: Any) -> None:
        real(self, *batch)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_batch", train_batch)
        told = refused(*PAIR, "--run", "my runs/x", code=130)
    assert "stopped by SIGINT; go on with: spikecredit compare --resume 'my runs/x'" in told
    assert run("compare", "--resume", "my runs/x").exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("small.yaml", "--pathway", "bakprop"), "unknown kind 'bakprop'; did you mean 'backprop'?"),
        (("small.yaml", "--constraint", "dal"), "unknown kind 'dal'; did you mean 'dale'?"),
        (("small.yaml", "--pathway", "BP", "trainng.epochs=3"), "did you mean 'training'?"),
        (("smal.yaml",), "did you mean 'small.yaml'?"),
        (("smll*.yaml",), "no configuration matches 'smll*.yaml'"),
        (("--pathway", "BP"), "name a configuration to compare"),
        (("small.yaml", "--seeds", "0"), "--seeds must be at least 1"),
        (("small.yaml", "--jobs", "0"), "--jobs"),
        (("small.yaml", "--device", "cdua"), "did you mean 'cuda'?"),
        (("--resume", "nothing"), "nothing is no comparison"),
        (("--resume", "x", "small.yaml", "--pathway", "BP"), "leave out --pathway, CONFIG, or give the whole command"),
        (("small.yaml", "data={kind: images, path: ./nothing}"), "data: There is no folder"),
    ],
)
def test_compare_refuses_mistakes_and_leaves_no_folder(words: tuple[str, ...], told: str, here: Path) -> None:
    assert told in refused("compare", *words)
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


def test_several_jobs_share_the_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = [torch.device("cuda:0"), torch.device("cuda:1")]
    assert cli.pick_devices("auto", 4) == cli.pick_devices("cuda", 2) == both
    assert cli.pick_devices("cuda:1", 4) == [both[1]] and cli.pick_devices("cpu", 4) == [torch.device("cpu")]
    assert cli.pick_devices("cuda", 1) == [torch.device("cuda")]


# ---- evaluate, list, doctor, and wrong words -------------------------------------------------------------------------


def test_evaluate_refuses_what_it_cannot_judge(quick: Path) -> None:
    assert "is no run folder" in refused("evaluate", "nothing")
    run("train", "small.yaml")
    config = quick / "runs" / "small" / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    assert "was written under another configuration than" in refused("evaluate", "runs/small")
    config.write_text(config.read_text().replace("seed: 1", "sede: 1"))
    assert "did you mean 'seed'?" in refused("evaluate", "runs/small")
    assert "'best', 'last'" in refused("evaluate", "runs/small", "--checkpoint", "bset")
    assert "did you mean" in refused("evaluate", "runs/small", "--splt", "test").lower()


def test_evaluate_takes_other_data_and_nothing_else(quick: Path) -> None:
    run("train", "small.yaml")
    plain, other = run("evaluate", "runs/small"), run("evaluate", "runs/small", "data.train=32")
    assert plain.exit_code == other.exit_code == 0
    assert "on test (10 images)" in other.stdout
    assert "only data.KEY=VALUE may change" in refused("evaluate", "runs/small", "network.hidden=[3]")


def test_evaluate_refuses_an_empty_split(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", "small.yaml")
    real = Few.load

    def load(self: Few) -> ImageData:
        data = real(self)
        return replace(data, validation=Split(data.validation.images[:0], data.validation.labels[:0]))

    monkeypatch.setattr(Few, "load", load)
    assert "the validation split of few digits is empty" in refused("evaluate", "runs/small", "--split", "validation")


WORDS = (
    "architectures", "neurons", "surrogates", "pathways", "errors", "constraints", "data", "encoders", "augmentations",
    "optimizers", "schedules", "losses", "rules", "estimators", "energies", "relaxations",
)  # fmt: skip


def test_list_names_every_room() -> None:
    lines = run("list").stdout.splitlines()
    laboratory = {"plasticity", "protocols", "datasets", "regions"}
    assert {line.split()[0] for line in lines} == {*WORDS, *laboratory, "short-names", "configs"}
    pathways = next(line.split() for line in lines if line.startswith("pathways"))
    assert {"backprop,", "feedback_alignment,", "sign_symmetry,"} <= set(pathways)


@pytest.mark.parametrize("word", WORDS)
def test_list_shows_each_kind_with_its_defaults_and_first_sentence(word: str) -> None:
    lines = run("list", word).stdout.splitlines()
    kinds = cli.registries()[word]
    assert [line.split(":")[0] for line in lines[::2]] == list(kinds)
    for head, sentence, cls in zip(lines[::2], lines[1::2], kinds.values(), strict=True):
        assert f": {cls.__name__}(" in head and head.endswith(")") and "*args" not in head
        assert len(sentence.strip()) > 10


def test_list_short_names_offers_those_of_the_registry() -> None:
    named = dict(line.split(maxsplit=1) for line in run("list", "short-names").stdout.splitlines())
    assert named["frSF"] == "sign_symmetry(magnitude=fixed)" and named["BP"] == "backprop"
    assert all(choice.partition("(")[0] in cli.registries()["pathways"] for choice in named.values())


def test_list_configs_and_a_wrong_word() -> None:
    lines = run("list", "configs").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in cli.CONFIGS.glob("*.yaml"))
    assert all(len(line.split()) > 3 for line in lines)  # each says what it is
    assert "nothing to list under 'pathwasy'; did you mean 'pathways'?" in refused("list", "pathwasy")


@pytest.mark.parametrize(("worst", "code"), [("ok", 0), ("note", 0), ("fail", 1)])
def test_doctor_prints_its_findings_and_fails_if_one_does(
    worst: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: iter([(worst, "a finding"), ("ok", "another")]))
    result = run("doctor")
    assert result.exit_code == code
    assert result.stdout.splitlines() == [f"{worst:<5} a finding", "ok    another"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trian", "x"), "no verb 'trian'; did you mean 'train'?"),
        (("evalute",), "no verb 'evalute'; did you mean 'evaluate'?"),
        (("--hlep",), "No such option"),
        (("demo", "--sede", "3"), "Did you mean '--seeds'?"),
        (("demo", "--seeds", "x"), "'x' is not a valid integer"),
        (("demo", "--device", "cpp"), "did you mean 'cpu'?"),
        (("train",), "Missing argument 'CONFIG'"),
    ],
)
def test_wrong_words_get_a_suggestion(words: tuple[str, ...], told: str, here: Path) -> None:
    assert told in refused(*words)
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


def test_version_and_help() -> None:
    assert run("--version").stdout.strip().endswith(spikecredit.__version__)
    text = run("-h").stdout
    verbs = ("demo", "train", "compare", "evaluate", "simulate", "plasticity", "list", "doctor")
    assert all(verb in text for verb in verbs)
    for verb in verbs:
        assert (found := run(verb, "-h")).exit_code == 0, found.output


def test_warnings_are_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    cli._show_warning("a layer is silent", UserWarning, "file.py", 3)
    assert capsys.readouterr() == ("", "warning: a layer is silent\n")


def test_a_real_process_prints_no_traceback(here: Path) -> None:
    done = subprocess.run([*SPIKECREDIT, "train", "small.yaml"], capture_output=True, text=True, cwd=here, timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "small.yaml:5: data.kind: unknown kind 'few'" in done.stderr  # registered in this process only


def test_every_option_and_verb_has_help() -> None:
    for command in cli.main.commands.values():
        assert command.help
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help or isinstance(option.type, click.Choice)

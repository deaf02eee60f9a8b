"""The loop, stopped at every step by a crash or a signal, goes on bit for bit."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import tiny
import torch

from spikecredit.data import Split
from spikecredit.seeds import Noise
from spikecredit.training import checkpoint, loop
from spikecredit.training.loop import Interrupted, Trainer
from spikecredit.training.run import Run

STEPS = 8  # of a tiny run: 28 images in batches of 8, the last one smaller, twice


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)


def assert_same_run(first: Run, second: Run) -> None:
    """Metrics, and every tensor and number of the last and the best checkpoint, but for times."""
    assert tiny.metrics(first.folder) == tiny.metrics(second.folder)
    for kind in ("last", "best"):
        a, b = (checkpoint.latest(run.checkpoints, kind) for run in (first, second))
        assert tiny.untimed(a.state) == tiny.untimed(b.state)
        assert a.step == b.step and a.tensors.keys() == b.tensors.keys() == {"model", "optimizer", "rng", "sums"}
        for group in a.tensors:
            tiny.assert_same_weights(a.tensors[group], b.tensors[group])


def life(run: Run, overrides: tuple[str, ...], restore: bool, **options: Any) -> Trainer:
    """One process's life of a run: a fresh trainer, after somebody used every global generator."""
    if restore:
        seed_everything(random.randrange(1000))
    trainer = tiny.trainer(*overrides, run=run, **options)
    if restore:
        trainer.restore()
    return trainer


def uninterrupted(folder: Path, overrides: tuple[str, ...]) -> tuple[Run, Trainer]:
    seed_everything(0)
    run = tiny.new_run(folder, *overrides)
    trainer = life(run, overrides, restore=False)
    trainer.fit()
    return run, trainer


# ---- exact resume ----------------------------------------------------------------------------------------------------

RESUMED: dict[str, tuple[str, ...]] = {
    "backprop, Adam": (),
    "random encoder": ("encoder={kind: rate, steps: 4}", "normalise=false"),
    "redrawn feedback, dropout, AdamW": (
        "pathway={kind: sign_symmetry, magnitude: batch}", "network.dropout=0.3", "network.hidden=[12, 8]",
        "training.optimizer={kind: adamw, lr: 0.01}",
    ),
    "feedback alignment, projected Dale, momentum": (
        "pathway=feedback_alignment", "constraint=dale", "training.schedule={kind: cosine, warmup: 1.0}",
        "training.optimizer={kind: sgd, lr: 0.1, nesterov: true}", "training.clip_norm=0.5",
    ),
    "fixed signs, reparametrised Dale, bf16": (
        "pathway={kind: sign_symmetry, magnitude: fixed}", "network.hidden=[12, 8]", "training.precision=bf16",
        "constraint={kind: dale, mode: reparametrize, magnitude: softplus}", "training.patience=1",
    ),
    "direct feedback of targets, convolutions": (
        "network={kind: lenet, channels: [3, 4], kernel: 3, hidden: [8], norm: true, dropout: 0.2}",
        "pathway={kind: direct_feedback_alignment, signal: target}",
    ),
    "direct Kolen-Pollack, recurrent, AdamW": (
        "network={kind: mlp, hidden: [8, 8], recurrent: true}", "pathway=direct_kolen_pollack",
        "training.optimizer={kind: adamw, lr: 0.01}", "training.clip_norm=0.5",
    ),
    "convolutions, batch norm, augmentation, learned tau": (
        "network={kind: lenet, channels: [3, 4], kernel: 3, hidden: [8], norm: true, dropout: 0.2}",
        "augment=[{kind: pad_crop, padding: 1}, flip]", "neuron.learn_tau=true",
        "pathway={kind: sign_symmetry, magnitude: batch}",
    ),
    "Kolen-Pollack, projected Dale, clipped": (
        "pathway=kolen_pollack", "constraint=dale", "training.clip_norm=0.5", "network.hidden=[12, 8]",
        "training.optimizer={kind: adamw, lr: 0.01}",
    ),
    "weight mirror of convolutions, every other step": (
        "network={kind: lenet, channels: [3, 4], kernel: 3, hidden: [8]}",
        "pathway={kind: weight_mirror, every: 2, samples: 8, initial: 2}",
    ),
    "signs frozen after an epoch, convolutions, norm": (
        "network={kind: lenet, channels: [3, 4], kernel: 3, hidden: [8], norm: true}", "pathway=sign_symmetry",
        "constraint={kind: frozen_signs, after: 1}", "training.optimizer={kind: sgd, lr: 0.3}",
    ),
    "signs frozen from the start, Kolen-Pollack": (
        "pathway=kolen_pollack", "constraint=frozen_signs", "training.optimizer={kind: adamw, lr: 0.05}",
    ),
    "rows with ON and OFF channels, two kinds of neurons, sparse, all under Dale, recurrent": (
        "encoder=rows", "on_off=true", "network.recurrent=true", "neuron=ei_neurons",
        "constraint={kind: dale, sensory: excitatory, connection: {ee: 0.3, ei: 0.6, ie: 0.6, ii: 0.6}}",
    ),
    "DANN layers": (
        "network={kind: mlp, hidden: [12, 8], dann: {}}", "normalise=false", "pathway=sign_symmetry",
        "training.optimizer={kind: sgd, lr: 0.1}", "training.clip_norm=0.5",
    ),
    "exponentiated gradient, Dale": (
        "constraint={kind: dale, initialisation: log_normal}", "training.optimizer={kind: eg, lr: 0.3}",
    ),
    "exponentiated AdamW, Dale, recurrent": (
        "network.recurrent=true", "constraint=dale", "training.optimizer={kind: eg_adamw, weight_decay: 0.01}",
    ),
    "local alignment, recurrent": ("network.recurrent=true", "pathway=local_alignment"),
    "node perturbation, recurrent, dropout": (
        "rule={kind: node_perturbation, draws: 2}", "network.recurrent=true", "network.dropout=0.3",
    ),
    "nudged, convolutions, batch norm, dropout": (
        "network={kind: lenet, channels: [3, 4], kernel: 3, hidden: [8], norm: true, dropout: 0.2}",
        "rule={kind: bptt, nudge: 0.5}", "pathway={kind: sign_symmetry, magnitude: batch}",
    ),
    "recurrent": ("network.recurrent=true", "loss=per_step", "training.schedule={kind: step, milestones: [1]}"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
def test_resumed_from_every_step_it_is_the_same_run(name: str, tmp_path: Path) -> None:
    overrides = (*RESUMED[name], "training.checkpoint_every=1")
    reference, done = uninterrupted(tmp_path / "reference", overrides)
    seed_everything(0)
    run = tiny.new_run(tmp_path / "run", *overrides)
    lives = 0
    while True:  # each life takes two steps and saves the first: every step is a place to resume from
        trainer = life(run, overrides, restore=lives > 0, progress=tiny.stopping_at(2))
        assert trainer.step == lives
        lives += 1
        try:
            result = trainer.fit()
        except tiny.Stop:
            continue
        break
    assert lives == done.step  # patience may have ended it
    assert tiny.untimed(result) == tiny.untimed(done.result)
    tiny.assert_same_weights(tiny.weights(trainer), tiny.weights(done))
    tiny.assert_same_optimizer(trainer.optimizer, done.optimizer)
    assert_same_run(reference, run)


@pytest.mark.parametrize("stop", range(1, STEPS + 1))
def test_killed_at_any_step_it_goes_on_from_the_checkpoint_before(stop: int, tmp_path: Path) -> None:
    overrides = ("training.checkpoint_every=3",)
    reference, _ = uninterrupted(tmp_path / "reference", overrides)
    seed_everything(0)
    run = tiny.new_run(tmp_path / "run", *overrides)
    with pytest.raises(tiny.Stop):
        life(run, overrides, restore=False, progress=tiny.stopping_at(stop)).fit()
    trainer = life(run, overrides, restore=True)
    # Saved at 3 and 6 by number, and at 4 by the end of the epoch; step `stop` itself was not reached by any save.
    assert trainer.step == max(saved for saved in (0, 3, 4, 6) if saved < stop)
    trainer.fit()
    assert_same_run(reference, run)


@pytest.mark.parametrize("forgotten", ["optimizer", "weights", "sums", "noise"])
def test_the_resume_test_can_fail(forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*RESUMED["redrawn feedback, dropout, AdamW"], "training.checkpoint_every=1")
    reference, _ = uninterrupted(tmp_path / "reference", overrides)
    seed_everything(0)
    run = tiny.new_run(tmp_path / "run", *overrides)
    with pytest.raises(tiny.Stop):
        life(run, overrides, restore=False, progress=tiny.stopping_at(3)).fit()
    trainer = tiny.trainer(*overrides, run=run)
    if forgotten == "optimizer":
        monkeypatch.setattr(checkpoint, "unpack_optimizer", lambda *_: None)
    trainer.restore()
    if forgotten == "weights":
        trainer.net.load_state_dict(tiny.trainer(*overrides).net.state_dict())
    if forgotten == "sums":
        trainer.sums.zero_()
    if forgotten == "noise":
        drawing = (m for m in trainer.net.modules() if isinstance(m, Noise) and m.count)  # not the first layer's
        next(drawing).state[1] = 0
    trainer.fit()
    with pytest.raises(AssertionError):
        assert_same_run(reference, run)


def test_killed_before_its_first_checkpoint_it_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, _ = uninterrupted(tmp_path / "reference", ())
    seed_everything(0)
    run = tiny.new_run(tmp_path / "run")
    with monkeypatch.context() as patch:  # the first line is written, the checkpoint is not
        patch.setattr(checkpoint, "save", crash)
        with pytest.raises(tiny.Stop):
            life(run, (), restore=False).fit()
    assert len(run.metrics()) == 1
    trainer = tiny.trainer(run=run)
    trainer.restore()
    assert trainer.step == 0 and not run.metrics()
    seed_everything(0)
    trainer.fit()
    assert_same_run(reference, run)


def crash(*_: Any, **__: Any) -> None:
    raise tiny.Stop


def test_lost_checkpoints_are_an_error_and_cut_no_metrics(tmp_path: Path) -> None:
    run, _ = uninterrupted(tmp_path / "run", ())
    before = run.metrics()
    run.checkpoints.rename(tmp_path / "elsewhere")
    with pytest.raises(checkpoint.CheckpointError, match="no such folder"):
        tiny.trainer(run=run).restore()
    assert run.metrics() == before


def test_killed_between_its_two_saves_the_best_is_not_that_of_another_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 7):  # two saves at each of three ends of an epoch, if each is the best so far
        run = tiny.new_run(tmp_path / str(number))
        trainer = tiny.trainer(run=run)
        monkeypatch.setattr(trainer, "evaluate", rising(trainer))
        real, count = checkpoint.save, [0]

        def save(*args: Any, real: Any = real, count: list[int] = count, number: int = number, **keys: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                raise tiny.Stop
            return real(*args, **keys)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", save)
            with pytest.raises(tiny.Stop):
                trainer.fit()
        again = tiny.trainer(run=run)
        monkeypatch.setattr(again, "evaluate", rising(again))
        again.restore()
        result = again.fit()
        assert result["selected_epoch"] == 2
        best = checkpoint.latest(run.checkpoints, "best")
        assert best.step == STEPS and best.state["epoch"] == 2


def rising(trainer: Trainer) -> Callable[[Split, str], tuple[float, float]]:
    return lambda split, name: (0.0, trainer.epoch / 10)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run, _ = uninterrupted(tmp_path / "run", ())
    with pytest.raises(checkpoint.CheckpointError, match="another configuration than this experiment"):
        tiny.trainer("training.epochs=3", run=run).restore()
    run.config.write_text(run.config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(checkpoint.CheckpointError, match="written under another configuration"):
        tiny.trainer("seed=1", run=Run.open(run.folder)).restore()


def test_time_goes_on_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    def tick(*_: Any) -> None:
        clock[0] += 1.0
        if clock[0] == 3.0:
            raise tiny.Stop

    run = tiny.new_run(tmp_path / "run", "training.checkpoint_every=1")
    with pytest.raises(tiny.Stop):
        tiny.trainer("training.checkpoint_every=1", run=run, progress=tick).fit()
    clock[0] = 1000.0  # another process's clock
    trainer = tiny.trainer("training.checkpoint_every=1", run=run, progress=tick)
    trainer.restore()
    result = trainer.fit()
    # The save after a step holds the time at the end of that step, one tick before: each resume forgets that tick.
    assert [line["seconds"] for line in run.metrics()[:-1]] == [0.0, 3.0, 4.0]
    assert result["seconds"] == 7.0 and result["samples_per_second"] == 2 * 28 / 7.0


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [1, 3, 4, 8])  # 4 and 8 end an epoch
def test_a_signal_saves_and_stops_and_the_run_goes_on_equal(number: signal.Signals, stop: int, tmp_path: Path) -> None:
    reference, _ = uninterrupted(tmp_path / "reference", ())
    seed_everything(0)
    run = tiny.new_run(tmp_path / "run")
    before, steps = signal.getsignal(number), [0]

    def send(*_: Any) -> None:
        steps[0] += 1
        if steps[0] == stop:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) == before  # a second signal has its usual effect

    with pytest.raises(Interrupted, match=f"{number.name}; a checkpoint is written") as caught:
        life(run, (), restore=False, progress=send).fit()
    assert caught.value.signum == number and signal.getsignal(number) == before
    assert checkpoint.latest(run.checkpoints, "last").step == stop
    life(run, (), restore=True).fit()
    assert_same_run(reference, run)


def test_a_signal_during_an_epochs_end_lets_it_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.new_run(tmp_path / "run")
    trainer = tiny.trainer(run=run)
    real = trainer.measure

    def measure() -> dict[str, Any]:
        if trainer.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real()

    monkeypatch.setattr(trainer, "measure", measure)
    with pytest.raises(Interrupted):
        trainer.fit()
    assert [line["epoch"] for line in run.metrics()] == [0, 1]
    assert checkpoint.latest(run.checkpoints, "last").state["epoch"] == 1

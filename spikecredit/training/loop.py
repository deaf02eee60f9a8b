"""The training loop: one experiment, from its first batch to its result, resumable bit for bit.

Every random choice is a function of (seed, stream, step), so that a checkpoint holds weights, optimiser, counters and
the sums of the epoch in hand, and of generators' inner states only the global ones (torch, numpy, python).
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from spikecredit.analysis.activity import LayerActivity, activity, first_non_finite, spikes_per_neuron, warn_of_extremes
from spikecredit.analysis.alignment import LayerAlignment, alignment, of_rule
from spikecredit.analysis.spectrum import spectrum
from spikecredit.data import Batches, ImageData, Split
from spikecredit.data.encode import on_off
from spikecredit.network import after_step, start_epoch
from spikecredit.seeds import generator
from spikecredit.synapses import learned_feedback
from spikecredit.training import checkpoint
from spikecredit.training.experiment import Experiment, load_experiment
from spikecredit.training.run import Run

CHECK_EVERY = 50
"""Steps between looks at the loss on CUDA, where each look makes the host wait; on the CPU every step is checked."""

RECORDED = 64
"""Samples of which every step is kept, where a rule has steps of its own."""

EVALUATION_BATCH = 500


class Diverged(RuntimeError):  # noqa: N818  (says what happened)
    """Loss, gradients or weights are NaN or infinite."""


class Interrupted(Exception):  # noqa: N818  (no error: somebody asked for it)
    """A signal ended the run after a checkpoint was written."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; a checkpoint is written")
        self.signum = signum


class Trainer:
    """One run in progress.

    Args:
        experiment: what to train. data: its data, on the device.
        run: the folder to write to; None keeps nothing (no checkpoints, no metrics on disk).
        log: takes one line per epoch. progress: called after every step with (epoch, batch, batches, accuracy).
        writer: a TensorBoard `SummaryWriter`, or None.
    Raises:
        ValueError: the experiment does not fit the data, or its parts do not fit each other.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: ImageData,
        run: Run | None = None,
        log: Callable[[str], None] = print,
        progress: Callable[[int, int, int, Callable[[], float]], None] | None = None,
        writer: Any = None,
    ) -> None:
        self.experiment, self.data, self.run = experiment, data, run
        self.log, self.progress, self.writer = log, progress, writer
        self.device = data.train.images.device
        training = experiment.training
        if training.patience is not None and not len(data.validation):
            raise ValueError(
                f"training.patience={training.patience} waits for a better validation accuracy, but the validation "
                f"split of {data.name} is empty: write training.patience=null, or give data.validation some images"
            )
        self.net = experiment.build(data).to(self.device)
        experiment.rule.check(self.net)
        # All parameters must be there before the optimiser is made and before a checkpoint is read.
        self.net.materialise(torch.zeros(1, 1, *experiment.input_shape(data.shape), device=self.device))
        # Pooling and convolution run faster channels last (benchmarks/layout.py).
        self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.run_net: Callable[..., Tensor] = self.net
        if training.compile is not None:
            self.run_net = torch.compile(self.net, mode=training.compile)
        self.optimizer = training.optimizer.build(self.net.parameters())
        self.learned = {id(p) for p in learned_feedback(self.net)}
        self.batches = Batches(data.train, training.batch_size, experiment.seed)
        self.step = self.epoch = self.batch = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, correct, images of this epoch
        self.seconds = 0.0  # spent on this epoch so far, in earlier lives of the run too
        self.best: dict[str, Any] | None = None
        self.epochs_since_best = 0
        self.warned: set[str] = set()
        self.history: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None

    # ---- one batch

    def encode(self, images: Tensor, *stream: str | int) -> Tensor:
        """uint8 images (B, C, H, W) -> input sequence (T, B, C, H, W)."""
        x = self.data.normalise(images, self.experiment.normalise)
        x = on_off(x) if self.experiment.on_off else x
        return self.experiment.encoder(x, generator(self.experiment.seed, "encoder", *stream, device=self.device))

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        bf16 = self.experiment.training.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.run_net(x) if target is None else self.run_net(x, target=target)

    def train_batch(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimiser."""
        experiment, training = self.experiment, self.experiment.training
        for index, augment in enumerate(experiment.augment):
            images = augment(images, generator(experiment.seed, "augment", index, self.step, device=self.device))
        x = self.encode(images, "train", self.step)
        steps = training.epochs * len(self.batches)
        lr = training.optimizer.lr * training.schedule.factor(self.step, steps, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        rule = experiment.rule
        noise = generator(experiment.seed, "rule", self.step, device=self.device) if rule.random else None
        loss, out = rule.gradients(self.net, x, labels, experiment.loss, self.forward, noise)
        # Over the weights only: learned feedback has their gradients over again. It is scaled by the same factor.
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None and id(p) not in self.learned]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.device.type == "cpu" or self.step % CHECK_EVERY == 0:
            self.check_finite(loss, norm, x)
        if training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.net.parameters(), training.clip_norm, norm)
        self.optimizer.step()
        after_step(self.net, self.optimizer)
        with torch.no_grad():
            correct = (experiment.loss.scores(out).argmax(1) == labels).sum()
            self.sums += torch.stack([loss * len(labels), correct, correct.new_tensor(len(labels))]).double()
        self.step += 1
        self.batch += 1

    def check_finite(self, loss: Tensor, norm: Tensor, x: Tensor) -> None:
        """Stop before the optimiser spreads a NaN or an infinity.

        Weights too: a NaN in a hidden layer need not reach the loss or a gradient, for NaN > threshold is no spike.
        """
        weights = torch.nn.utils.get_total_norm(self.net.parameters())
        if all(math.isfinite(float(number)) for number in (loss, norm, weights)):
            return
        where = first_non_finite(self.net, x)
        if where is None:
            bad = [n for n, p in self.net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            largest = max(self.net.named_parameters(), key=lambda named: float(named[1].detach().abs().max()))[0]
            where = f"the gradient of {bad[-1]}" if bad else "the loss" if math.isfinite(float(weights)) else largest
        raise self.diverged(
            f"loss {float(loss):g}, gradient norm {float(norm):g}, weight norm {float(weights):g}; first in {where}"
        )

    def diverged(self, what: str) -> Diverged:
        """The error for a NaN or an infinity, with advice."""
        lower = self.experiment.training.optimizer.lr / 10
        return Diverged(
            f"step {self.step} (epoch {self.epoch + 1}): {what}. Try a smaller learning rate "
            f"(training.optimizer.lr={lower:g}), training.clip_norm=1, a wider surrogate, or a smaller pathway.gain. "
            "The last checkpoint is untouched."
        )

    # ---- whole sets

    @torch.no_grad()
    def evaluate(self, split: Split, name: str) -> tuple[float, float]:
        """(mean loss, accuracy) on a split, in evaluation mode."""
        self.net.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        for images, labels, index in Batches(split, EVALUATION_BATCH, 0, shuffle=False).epoch(0):
            out = self.experiment.rule.predict(self.net, self.encode(images, name, index), self.forward)
            loss = self.experiment.loss(out, labels)
            correct = (self.experiment.loss.scores(out).argmax(1) == labels).sum()
            total += torch.stack([loss * len(labels), correct]).double()
        self.net.train()
        loss_sum, correct_sum = total.tolist()
        return loss_sum / len(split), correct_sum / len(split)

    def firing(self, x: Tensor) -> dict[str, LayerActivity]:
        """How each layer of neurons fires on x (T, B, *in); of rules that say themselves what neurons do, on the first
        `RECORDED` samples, as they keep every step."""
        return activity(self.net, x, self.experiment.rule.recorded(self.net, x[:, :RECORDED]))

    def measure(self) -> dict[str, Any]:
        """Alignment and activity on the probe batch, the first images of the validation split (training, if empty), and
        the spectrum of the weights.

        In training mode, in which errors are delivered; both work on copies, so nothing of the run changes. Where the
        rule delivers none along the pathway, they are `Rule.errors`, or NaN.
        """
        count = self.experiment.training.measure
        if not count:
            return {"layers": {}, "activity": {}, "spectrum": {}, "violations": self.net.violations()}
        split = self.data.validation if len(self.data.validation) else self.data.train
        x, y = self.encode(split.images[:count], "probe"), split.labels[:count]
        layers = alignment(self.net, x, y, self.experiment.loss)
        firing = self.firing(x)
        warn_of_extremes(firing, self.warned)
        if not self.experiment.rule.delivers_errors:
            layers = of_rule(layers, self.experiment.rule.errors(self.net, x, y, self.experiment.loss))
        return {
            "layers": {name: _recorded(layer) for name, layer in layers.items()},
            "activity": {name: asdict(layer) for name, layer in firing.items()},
            "spectrum": {
                name: {"entropy": of.entropy, "largest": of.largest, "dead": of.dead}
                for name, of in spectrum(self.net).items()
            },
            "violations": self.net.violations(),
        }

    # ---- the loop

    def fit(self) -> dict[str, Any]:
        """Train to the end, evaluate the selected weights on the test split once, return the result.

        Raises:
            Interrupted: a signal came; the checkpoint is written. Diverged: NaN or infinity.
        """
        with _tf32(self.experiment.training.precision == "tf32"):
            self.train()
            return self.finish()

    def train(self) -> None:
        """All epochs that are left."""
        training = self.experiment.training
        with stop_signals() as received:
            if not self.history:
                self.end_of_epoch(None, 0.0)
            while self.epoch < training.epochs and not self.stopped_early():
                if self.batch == 0:
                    start_epoch(self.net, self.epoch)
                start = time.perf_counter() - self.seconds
                for images, labels, index in self.batches.epoch(self.epoch, self.batch):
                    self.train_batch(images, labels)
                    self.seconds = time.perf_counter() - start
                    if self.progress is not None:
                        self.progress(self.epoch + 1, index + 1, len(self.batches), self.accuracy)
                    if training.checkpoint_every and self.step % training.checkpoint_every == 0:
                        self.save("last")
                    if received:
                        self.save("last")
                        raise Interrupted(received[0])
                self.epoch, self.batch = self.epoch + 1, 0
                sums = self.sums.tolist()  # waits for the device, so that its work is in the time
                elapsed, self.seconds = time.perf_counter() - start, 0.0
                self.sums.zero_()
                self.end_of_epoch((sums[0] / sums[2], sums[1] / sums[2]), elapsed)
                if received:
                    raise Interrupted(received[0])

    def accuracy(self) -> float:
        """Training accuracy over the epoch so far."""
        return float(self.sums[1] / self.sums[2].clamp_min(1))

    def stopped_early(self) -> bool:
        patience = self.experiment.training.patience
        return patience is not None and self.epochs_since_best >= patience

    def end_of_epoch(self, trained: tuple[float, float] | None, seconds: float) -> None:
        """Validate, measure, record, and save."""
        validation = self.evaluate(self.data.validation, "validation") if len(self.data.validation) else (None, None)
        record = {
            "event": "epoch",
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.optimizer.param_groups[0]["lr"] if trained else None,
            "train_loss": trained[0] if trained else None,
            "train_accuracy": trained[1] if trained else None,
            "validation_loss": validation[0],
            "validation_accuracy": validation[1],
            "seconds": seconds,
            **self.measure(),
        }
        improved = self.best is None or validation[1] is None or validation[1] > self.best["validation_accuracy"]
        self.epochs_since_best = 0 if improved else self.epochs_since_best + 1
        if improved:
            self.best = {"epoch": self.epoch, "validation_accuracy": validation[1]}
        self.history.append(record)
        if self.run is not None:
            self.run.append(record)
        if self.writer is not None:
            for name, value in scalars(record):
                self.writer.add_scalar(name, value, self.step)
            self.writer.flush()
        # The best first: killed in between, the run goes on before this epoch's end and saves it again. The other way
        # round it would go on after it, with the weights of an older best.
        if improved:
            self.save("best")
        self.save("last")
        if trained:
            held_out = "" if validation[1] is None else f"   validation {validation[1]:7.2%}"
            rate = len(self.data.train) / seconds if seconds else 0.0
            self.log(
                f"epoch {self.epoch:3d}/{self.experiment.training.epochs}   loss {trained[0]:.4f}   "
                f"train {trained[1]:7.2%}{held_out}   {seconds:.1f} s   {rate:.0f} samples/s"
            )

    def finish(self) -> dict[str, Any]:
        """The result: the test split, read once, under the weights with the best validation accuracy."""
        if self.run is not None:
            selected = checkpoint.latest(self.run.checkpoints, "best")
            self.net.load_state_dict(selected.tensors["model"])
        elif self._best_weights is not None:
            self.net.load_state_dict(self._best_weights)
        loss, accuracy = self.evaluate(self.data.test, "test")
        self.net.eval()
        x = self.encode(self.data.test.images[:EVALUATION_BATCH], "test", 0)
        firing = self.firing(x)
        self.net.train()
        trained = sum(record["seconds"] for record in self.history)
        self.result = {
            "event": "result",
            "test_accuracy": accuracy,
            "test_loss": loss,
            "selected_epoch": self.best["epoch"] if self.best else self.epoch,
            "epochs": self.epoch,
            "seconds": trained,
            "samples_per_second": len(self.data.train) * self.epoch / trained if trained else None,
            "spikes_per_neuron": spikes_per_neuron(firing),
            "violations": self.net.violations(),
        }
        if self.run is not None:
            self.run.append(self.result)
        return self.result

    # ---- saving

    _best_weights: dict[str, Tensor] | None = None

    def save(self, kind: str) -> None:
        """Write a checkpoint of this moment.

        Raises:
            Diverged: a weight is NaN or infinite; nothing is written. (On CUDA `check_finite` sees some steps only.)
        """
        bad = [name for name, p in self.net.named_parameters() if not bool(p.isfinite().all())]
        if bad:
            raise self.diverged(f"NaN or infinity in {', '.join(bad)}")
        if self.run is None:
            if kind == "best":
                self._best_weights = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
            return
        optimizer, optimizer_state = checkpoint.pack_optimizer(self.optimizer)
        rng, rng_state = checkpoint.pack_rng(self.device)
        tensors = {"model": self.net.state_dict(), "optimizer": optimizer, "rng": rng, "sums": {"sums": self.sums}}
        state = {
            "optimizer": optimizer_state,
            "rng": rng_state,
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "best": self.best,
            "epochs_since_best": self.epochs_since_best,
            "warned": sorted(self.warned),
            "metrics": len(self.history),
        }
        keep = 2 if kind == "last" else 1
        checkpoint.save(self.run.checkpoints, kind, self.step, tensors, state, keep, config_hash=self.run.config_hash)

    def restore(self) -> None:
        """Go on from the newest valid checkpoint of the run; from the start, if it was killed before the first one.

        Raises:
            CheckpointError: there is none, or it belongs to another configuration.
        """
        assert self.run is not None
        if repr(load_experiment(self.run.config).value) != repr(self.experiment):
            raise checkpoint.CheckpointError(
                f"{self.run.folder} belongs to another configuration than this experiment: load that of its "
                f"{self.run.config.name}, or start a new run"
            )
        checkpoint.sweep(self.run.checkpoints)
        if len(self.run.metrics()) <= 1 and not any(self.run.checkpoints.glob("last-*")):
            self.run.cut_metrics(0)
            return
        saved = checkpoint.latest(self.run.checkpoints, "last")
        if saved.config_hash != self.run.config_hash:
            raise checkpoint.CheckpointError(
                f"{saved.path} was written under another configuration than {self.run.config}: restore that file, or "
                "start a new run with --run"
            )
        state = saved.state
        self.net.load_state_dict(saved.tensors["model"])
        checkpoint.unpack_optimizer(self.optimizer, saved.tensors["optimizer"], state["optimizer"])
        checkpoint.unpack_rng(saved.tensors["rng"], state["rng"], self.device)
        self.sums.copy_(saved.tensors["sums"]["sums"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.seconds = state["seconds"]
        self.best, self.epochs_since_best = state["best"], state["epochs_since_best"]
        self.warned = set(state["warned"])
        self.run.cut_metrics(state["metrics"])
        self.history = self.run.metrics()[: state["metrics"]]


def _recorded(layer: LayerAlignment) -> dict[str, Any]:
    """A layer's numbers, without what was not measured."""
    return {name: value for name, value in asdict(layer).items() if value != ()}


def scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested record with their slash-joined names."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("epoch", "step"):
            yield f"{prefix}{name}", float(value)


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """TF32 for matrix products while a run asks for it; the process's own choice comes back."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying at once; a second one has its usual effect."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(signum: int, frame: object) -> None:
        received.append(signum)
        signal.signal(signum, before[signum])

    before: dict[int, Any] = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for s in before:
        signal.signal(s, handle)
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)

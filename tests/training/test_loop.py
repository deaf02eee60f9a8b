"""The loop: NaN found, the best epoch selected, the test split read once, no option dead (see test_loop_resume.py)."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from spikecredit.analysis import spectrum
from spikecredit.analysis.activity import ActivityWarning
from spikecredit.data import ImageData, Split
from spikecredit.losses import MeanPotential
from spikecredit.rules import NodePerturbation
from spikecredit.training import checkpoint, loop
from spikecredit.training.loop import Diverged, Trainer, scalars
from spikecredit.training.schema import Schema

STEPS = 8  # of a tiny run: 28 images in batches of 8, the last one smaller, twice


# ---- NaN and infinity ------------------------------------------------------------------------------------------------


def after(step: int, act: Callable[[], None]) -> Callable[..., None]:
    """A progress callback that acts once, after a step."""
    count = [0]

    def progress(*_: Any) -> None:
        count[0] += 1
        if count[0] == step:
            act()

    return progress


def break_weight(trainer: Trainer, value: float) -> Callable[[], None]:
    def act() -> None:
        with torch.no_grad():
            trainer.net.layers[1].weight[0] = value

    return act


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_weight_stops_the_run_and_leaves_the_last_checkpoint(value: float, tmp_path: Path) -> None:
    run = tiny.new_run(tmp_path / "run", "training.checkpoint_every=1")
    trainer = tiny.trainer("training.checkpoint_every=1", run=run)
    trainer.progress = after(3, break_weight(trainer, value))
    with pytest.raises(Diverged, match=r"NaN or infinity in layers\.1\.weight.*optimizer\.lr=0\.002.*untouched"):
        trainer.fit()  # the save after the same step refuses
    saved = checkpoint.latest(run.checkpoints, "last")
    assert saved.step == 2 and all(t.isfinite().all() for t in saved.tensors["model"].values())
    again = tiny.trainer("training.checkpoint_every=1", run=run)
    again.restore()
    again.fit()


def test_a_nan_that_spikes_hide_is_found() -> None:
    overrides = ("neuron.surrogate=straight_through",)
    trainer = tiny.trainer(*overrides)
    break_weight(trainer, math.nan)()
    trainer.epoch = 0
    images, labels, _ = next(trainer.batches.epoch(0))
    x = trainer.encode(images, "train", 0)
    loss = trainer.experiment.loss(trainer.net(x), labels)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.net.parameters() if p.grad is not None])
    assert loss.isfinite() and norm.isfinite()  # hidden indeed: NaN > threshold is no spike, and |NaN| < width is false
    trainer = tiny.trainer(*overrides)
    trainer.progress = after(2, break_weight(trainer, math.nan))
    with pytest.raises(Diverged, match=r"step 2 \(epoch 1\): loss \d.*weight norm nan; first in layers\.1\. Try"):
        trainer.fit()


def test_a_learning_rate_without_measure_diverges() -> None:
    with pytest.raises(Diverged, match=r"step 1 .*weight norm inf; first in layers.*optimizer\.lr=1e\+29"):
        tiny.trainer("training.optimizer.lr=1e30").fit()


def test_a_broken_gradient_and_a_broken_loss_are_named() -> None:
    trainer = tiny.trainer()
    trainer.net.layers[3].weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(Diverged, match=r"gradient norm nan.*first in the gradient of layers\.3\.weight"):
        trainer.fit()

    @dataclass(frozen=True)
    class Broken(MeanPotential):
        def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
            return super().__call__(out, labels) + math.inf

    experiment = replace(tiny.configured().value, loss=Broken())
    with pytest.raises(Diverged, match=r"loss inf, gradient norm .*first in the loss"):
        Trainer(experiment, tiny.data(), log=lambda line: None).train_batch(*next(trainer.batches.epoch(0))[:2])


def test_on_cuda_some_steps_are_looked_at_and_every_save(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny.trainer()
    looked = []
    monkeypatch.setattr(trainer, "check_finite", lambda *_: looked.append(trainer.step))
    monkeypatch.setattr(loop, "CHECK_EVERY", 3)
    real, trainer.device = trainer.device, torch.device("cuda")
    batches = list(trainer.batches.epoch(0))
    monkeypatch.setattr(loop, "generator", lambda *names, device: torch.Generator())
    monkeypatch.setattr(trainer, "forward", trainer.net)
    for images, labels, _ in batches:
        trainer.train_batch(images, labels)
    trainer.device = real
    assert looked == [0, 3]
    break_weight(trainer, math.nan)()
    with pytest.raises(Diverged, match="NaN or infinity in"):
        trainer.save("last")


# ---- silent and firing layers ----------------------------------------------------------------------------------------


def test_a_silent_layer_is_warned_about_once_in_all_lives(tmp_path: Path) -> None:
    overrides = ("neuron.threshold=1000000.0", "training.checkpoint_every=1")
    run = tiny.new_run(tmp_path / "run", *overrides)
    with pytest.warns(ActivityWarning, match=r"layer layers\.2 is silent") as caught, pytest.raises(tiny.Stop):
        tiny.trainer(*overrides, run=run, progress=tiny.stopping_at(6)).fit()  # two epochs' ends
    assert len(caught) == 1
    trainer = tiny.trainer(*overrides, run=run)
    trainer.restore()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = trainer.fit()
    assert result["spikes_per_neuron"] == 0.0


def test_a_layer_that_fires_at_every_step_is_warned_about_once() -> None:
    trainer = tiny.trainer("neuron.reset=none")
    with torch.no_grad():
        trainer.net.layers[1].bias += 1000.0
    with pytest.warns(ActivityWarning, match=r"layer layers\.2 fires at every step") as caught:
        trainer.fit()
    assert len(caught) == 1


# ---- early stopping, selection, and the test split -------------------------------------------------------------------


def scripted(
    trainer: Trainer, accuracies: list[float], names: list[str]
) -> Callable[[Split, str], tuple[float, float]]:
    def evaluate(split: Split, name: str) -> tuple[float, float]:
        names.append(name)
        return (1.0, accuracies[trainer.epoch]) if name == "validation" else (2.0, 0.5)

    return evaluate


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("patience", "accuracies", "epochs", "selected"),
    [
        (None, [0.1, 0.5, 0.4, 0.5, 0.3], 4, 1),  # the first of equals
        (1, [0.1, 0.5, 0.5, 0.9, 0.9], 2, 1),
        (2, [0.1, 0.5, 0.4, 0.6, 0.5], 4, 3),  # a better one in time
        (2, [0.3, 0.2, 0.1, 0.9, 0.9], 2, 0),  # the untrained network was best
    ],
)
def test_patience_and_selection(
    patience: int | None, accuracies: list[float], epochs: int, selected: int, kept: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    overrides = ("training.epochs=4", f"training.patience={'null' if patience is None else patience}")
    trainer = tiny.trainer(*overrides, run=tiny.new_run(tmp_path / "run", *overrides) if kept else None)
    names: list[str] = []
    at_end: list[dict[str, Tensor]] = []
    monkeypatch.setattr(trainer, "evaluate", scripted(trainer, accuracies, names))
    real = trainer.end_of_epoch

    def end_of_epoch(*args: Any) -> None:
        at_end.append(tiny.weights(trainer))
        real(*args)

    monkeypatch.setattr(trainer, "end_of_epoch", end_of_epoch)
    result = trainer.fit()
    assert (result["epochs"], result["selected_epoch"]) == (epochs, selected)
    assert names == ["validation"] * (epochs + 1) + ["test"]  # once, and only at the end
    tiny.assert_same_weights(tiny.weights(trainer), at_end[selected])
    assert not torch.equal(at_end[0]["layers.1.weight"], at_end[-1]["layers.1.weight"])


def without_validation() -> ImageData:
    few = tiny.data()
    return replace(few, validation=Split(few.validation.images[:0], few.validation.labels[:0]))


def test_without_validation_the_last_epoch_is_taken_and_patience_refused(tmp_path: Path) -> None:
    trainer = tiny.trainer(images=without_validation(), run=tiny.new_run(tmp_path / "run"))
    result = trainer.fit()
    assert result["selected_epoch"] == 2
    assert all(line["validation_accuracy"] is None for line in trainer.history)
    tiny.assert_same_weights(
        tiny.weights(trainer), checkpoint.latest(tmp_path / "run" / "checkpoints", "last").tensors["model"]
    )
    with pytest.raises(ValueError, match=r"training\.patience=2 waits .*empty: write training\.patience=null"):
        tiny.trainer("training.patience=2", images=without_validation())


def test_the_result_is_that_of_the_test_split_by_hand() -> None:
    trainer = tiny.trainer("network.dropout=0.5")
    result = trainer.fit()
    net = trainer.net.eval()
    test = tiny.data().test
    with torch.no_grad():
        out = net(tiny.data().normalise(test.images).expand(4, *test.images.shape)).mean(0)
    assert result["test_accuracy"] == float((out.argmax(1) == test.labels).double().mean())
    assert result["test_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(out, test.labels)), rel=1e-6)


def test_evaluation_in_several_batches_is_evaluation_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny.trainer()
    whole = trainer.evaluate(tiny.data().test, "test")
    monkeypatch.setattr(loop, "EVALUATION_BATCH", 3)
    assert trainer.evaluate(tiny.data().test, "test") == pytest.approx(whole, rel=1e-6)


def test_training_figures_are_means_over_the_epochs_images() -> None:
    trainer = tiny.trainer("training.epochs=1", "training.optimizer.lr=1e-12")
    expected = trainer.evaluate(tiny.data().train, "train")  # weights hardly move
    trainer.fit()
    assert trainer.history[1]["train_loss"] == pytest.approx(expected[0], rel=1e-5)
    assert trainer.history[1]["train_accuracy"] == expected[1]


# ---- what each option does -------------------------------------------------------------------------------------------


def test_bf16_trains() -> None:
    dtypes = []
    trainer = tiny.trainer("training.precision=bf16", "training.epochs=6")
    trainer.net.layers[1].register_forward_hook(lambda module, inputs, out: dtypes.append(out.dtype))
    trainer.fit()
    assert torch.bfloat16 in dtypes and all(p.dtype == torch.float32 for p in trainer.net.parameters())
    assert trainer.history[-1]["train_loss"] < 0.8 * trainer.history[1]["train_loss"]


@pytest.mark.parametrize("pathway", ["{kind: direct_feedback_alignment, signal: target}", "direct_kolen_pollack"])
def test_direct_feedback_trains_from_weights_made_before_the_optimiser(pathway: str) -> None:
    trainer = tiny.trainer(f"pathway={pathway}", "training.epochs=6")
    assert trainer.net.broadcast is not None and trainer.net.broadcast.ready
    owned = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    learned = [p for p in trainer.net.broadcast.parameters() if id(p) in owned]
    assert len(learned) == ("kolen" in pathway)
    trainer.fit()
    assert trainer.history[-1]["train_loss"] < 0.95 * trainer.history[1]["train_loss"]
    first, last = trainer.history[-1]["layers"].values()
    assert 0 < first["error_angle"] < 180 and last["error_angle"] == 0
    assert math.isnan(first["weight_angle"]) and not any("over_time" in name for name in first)


def test_the_spectrum_of_the_weights_is_recorded_over_training() -> None:
    trainer = tiny.trainer("training.epochs=2", "constraint=dale", "training.optimizer={kind: sgd, lr: 1.0}")
    trainer.fit()
    recorded = [line["spectrum"] for line in trainer.history]
    assert len(recorded) == 3 and recorded[0] != recorded[-1]
    found = spectrum(trainer.net)
    assert recorded[-1].keys() == found.keys() and len(found) == 2
    for name, of in found.items():
        assert recorded[-1][name] == {"entropy": of.entropy, "largest": of.largest, "dead": of.dead}
    last = list(found)[-1]
    dead = [line[last]["dead"] for line in recorded]
    assert dead[0] == 0 < dead[-1] < 1  # projection kills some


def test_tf32_while_the_run_lasts() -> None:
    before, seen = torch.get_float32_matmul_precision(), set()
    trainer = tiny.trainer("training.precision=tf32", "training.epochs=1")
    trainer.net.layers[1].register_forward_hook(lambda *_: seen.add(torch.get_float32_matmul_precision()))
    trainer.fit()
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == before == "highest"


# Dynamo itself makes an instance of an autograd function; torch's compiler uses what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_trains_as_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str | None] = []
    compile_ = torch.compile

    def eager(net: torch.nn.Module, mode: str | None = None) -> Any:
        modes.append(mode)
        return compile_(net, backend="aot_eager")  # torch's own compiler takes long, and is not ours to test

    monkeypatch.setattr(torch, "compile", eager)
    plain, compiled = tiny.trainer(ONE_EPOCH), tiny.trainer(ONE_EPOCH, "training.compile=reduce-overhead")
    torch._dynamo.utils.counters.clear()
    for trainer in (plain, compiled):
        trainer.fit()
    assert modes == ["reduce-overhead"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]
    for name, weight in plain.net.state_dict().items():
        torch.testing.assert_close(compiled.net.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_clip_norm_limits_the_norm_and_keeps_the_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {"null": [], "0.01": []}
    for clip, gradients in seen.items():
        trainer = tiny.trainer(f"training.clip_norm={clip}")
        trainer.optimizer.register_step_pre_hook(
            lambda *_, t=trainer, g=gradients: g.append(torch.cat([p.grad.flatten() for p in t.net.parameters()]))
        )
        trainer.fit()
    assert all(float(g.norm()) <= 0.01 * (1 + 1e-5) for g in seen["0.01"])
    assert all(float(g.norm()) > 0.01 for g in seen["null"])
    cosine = torch.nn.functional.cosine_similarity(seen["null"][0], seen["0.01"][0], dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-6)


CLIPPED = ("pathway=kolen_pollack", "training.clip_norm=0.01")


def clipped_gradients(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, Tensor]:
    """The gradients of the first step, as the optimiser gets them."""
    trainer, seen = tiny.trainer(*overrides), {}

    def look(*_: Any) -> None:
        if not seen:
            seen.update({name: p.grad.clone() for name, p in trainer.net.named_parameters() if p.grad is not None})

    trainer.optimizer.register_step_pre_hook(look)
    trainer.fit()
    return seen


def without_feedback(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if "feedback" not in name}


def test_learned_feedback_is_clipped_by_the_norm_of_the_weights_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = clipped_gradients(monkeypatch, *CLIPPED)
    fixed = clipped_gradients(monkeypatch, "pathway=feedback_alignment", CLIPPED[1])
    assert len(learned) == len(fixed) + 2
    tiny.assert_same_weights(without_feedback(learned), fixed)  # a first step like that of the same feedback, fixed
    norm = torch.nn.utils.get_total_norm(without_feedback(learned).values())
    assert float(norm) == pytest.approx(0.01, rel=1e-5)
    for layer in ("layers.1", "layers.3"):
        assert torch.equal(learned[f"{layer}.weight"], learned[f"{layer}.feedback_weight"])


def test_the_check_of_clipping_notices_b_in_the_norm_and_b_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learned_feedback", lambda net: [])
        norm = torch.nn.utils.get_total_norm(without_feedback(clipped_gradients(patch, *CLIPPED)).values())
        assert float(norm) < 0.0095
    right = torch.nn.utils.clip_grads_with_norm_

    def weights_only(parameters: Any, *args: Any) -> None:
        every = list(parameters)
        right([p for p in every if p.shape != every[2].shape or p is every[0]], *args)  # not B of the first layer

    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", weights_only)
    gradients = clipped_gradients(monkeypatch, *CLIPPED)
    assert not torch.equal(gradients["layers.1.weight"], gradients["layers.1.feedback_weight"])


def test_kolen_pollack_keeps_its_law_under_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """|W - B| = (1 - lr weight_decay)^t |W_0 - B_0| in a whole run."""
    sgd = "training.optimizer={kind: sgd, lr: 0.1, momentum: 0.0, weight_decay: 0.5}"
    trainer = tiny.trainer(*CLIPPED, sgd, "training.schedule=flat")
    layers = list(trainer.net.synapses().values())
    first = [torch.dist(layer.weight, layer.feedback_weight).item() for layer in layers]
    last: list[float] = []
    trainer.progress = lambda *_: last.__setitem__(
        slice(None), [torch.dist(layer.weight, layer.feedback_weight).item() for layer in layers]
    )
    trainer.fit()
    for a, b in zip(first, last, strict=True):
        assert b / a == pytest.approx(0.95**STEPS, rel=1e-5)


def outcome(*overrides: str) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights before the selection, and everything recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ActivityWarning)
        trainer = tiny.trainer(*overrides)
        last: dict[str, Tensor] = {}
        trainer.progress = lambda *_: last.update(tiny.weights(trainer))
        trainer.fit()
    return last, tiny.untimed(trainer.history)


FLAT = "training.schedule=flat"
SGD = "training.optimizer={kind: sgd, lr: 0.5, momentum: 0.5}"
EG = "training.optimizer=eg"
EG_ADAMW = "training.optimizer=eg_adamw"
COUNT = ("readout={kind: lif, tau: 5.0, threshold: 0.2}", "loss={kind: spike_count, scale: 0.5}")
ONE_EPOCH = "training.epochs=1"
EQUILIBRIUM = (
    "rule=equilibrium", "neuron=hard_sigmoid", "readout=identity", "encoder={kind: constant, steps: 1}",
    "loss=squared_error",
)  # fmt: skip
OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "Experiment.network": ((), "network.hidden=[13]"),
    "Experiment.neuron": ((), "neuron.tau=6"),
    "Experiment.readout": ((), "readout.tau=6"),
    "Experiment.pathway": ((), "pathway=feedback_alignment"),
    "Experiment.constraint": ((), "constraint=dale"),
    "Experiment.last_layer": (("pathway=feedback_alignment",), "last_layer=backprop"),
    "Experiment.encoder": ((), "encoder.steps=5"),
    "Experiment.normalise": ((), "normalise=false"),
    "Experiment.on_off": ((), "on_off=true"),
    "Experiment.augment": ((), "augment=[{kind: pad_crop, padding: 1}]"),
    "Experiment.loss": ((), "loss=per_step"),
    "Experiment.rule": ((), "rule={kind: bptt, nudge: 0.5}"),
    "EquilibriumPropagation.estimator": (EQUILIBRIUM, "rule.estimator={kind: one_sided, beta: 0.9}"),
    "EquilibriumPropagation.energy": (EQUILIBRIUM, "rule.energy={gain: 0.3}"),
    "EquilibriumPropagation.relaxation": (EQUILIBRIUM, "rule.relaxation={nudged: 1}"),
    "EquilibriumPropagation.continual": (EQUILIBRIUM, "rule.continual=0.1"),
    "EquilibriumPropagation.homeostasis": ((*EQUILIBRIUM, "pathway=feedback_alignment"), "rule.homeostasis=0.5"),
    "Experiment.training": ((), "training={epochs: 3}"),
    "Experiment.seed": ((), "seed=1"),
    "Training.epochs": ((FLAT,), "training.epochs=3"),
    "Training.batch_size": ((), "training.batch_size=7"),
    "Training.optimizer": ((), SGD),
    "Training.schedule": ((), FLAT),
    "Training.clip_norm": ((), "training.clip_norm=0.01"),
    "Training.precision": ((), "training.precision=bf16"),
    "Training.patience": (("training.optimizer.lr=1e-12",), "training.patience=1"),
    "Training.measure": ((), "training.measure=0"),
    "Adam.lr": ((), "training.optimizer.lr=0.03"),
    "Adam.betas": ((), "training.optimizer.betas=[0.8, 0.999]"),
    "Adam.eps": ((), "training.optimizer.eps=0.1"),
    "Adam.weight_decay": ((), "training.optimizer.weight_decay=0.1"),
    "AdamW.lr": (("training.optimizer={kind: adamw}",), "training.optimizer.lr=0.03"),
    "AdamW.betas": (("training.optimizer={kind: adamw}",), "training.optimizer.betas=[0.9, 0.9]"),
    "AdamW.eps": (("training.optimizer={kind: adamw}",), "training.optimizer.eps=0.1"),
    "AdamW.weight_decay": (("training.optimizer={kind: adamw}",), "training.optimizer.weight_decay=0.5"),
    "SGD.lr": ((SGD,), "training.optimizer.lr=0.1"),
    "SGD.momentum": ((SGD,), "training.optimizer.momentum=0.9"),
    "SGD.nesterov": ((SGD,), "training.optimizer.nesterov=true"),
    "SGD.weight_decay": ((SGD,), "training.optimizer.weight_decay=0.1"),
    "SGD.batch_manhattan": ((SGD,), "training.optimizer.batch_manhattan=true"),
    "ExponentiatedGradient.lr": ((EG,), "training.optimizer.lr=0.1"),
    "ExponentiatedGradient.momentum": ((EG,), "training.optimizer.momentum=0.5"),
    "ExponentiatedGradient.nesterov": ((EG,), "training.optimizer.nesterov=true"),
    "ExponentiatedGradient.weight_decay": ((EG,), "training.optimizer.weight_decay=0.1"),
    "ExponentiatedGradient.floor": ((EG,), "training.optimizer.floor=0.05"),
    "ExponentiatedGradient.clamp": ((EG,), "training.optimizer.clamp=0.001"),
    "ExponentiatedGradient.additive": ((EG,), "training.optimizer.additive=1.0"),
    "ExponentiatedAdamW.lr": ((EG_ADAMW,), "training.optimizer.lr=0.1"),
    "ExponentiatedAdamW.betas": ((EG_ADAMW,), "training.optimizer.betas=[0.8, 0.999]"),
    "ExponentiatedAdamW.eps": ((EG_ADAMW,), "training.optimizer.eps=0.1"),
    "ExponentiatedAdamW.weight_decay": ((EG_ADAMW,), "training.optimizer.weight_decay=0.5"),
    "ExponentiatedAdamW.floor": ((EG_ADAMW,), "training.optimizer.floor=0.05"),
    "ExponentiatedAdamW.clamp": ((EG_ADAMW,), "training.optimizer.clamp=0.001"),
    "ExponentiatedAdamW.additive": ((EG_ADAMW,), "training.optimizer.additive=1.0"),
    "Flat.warmup": ((FLAT,), "training.schedule.warmup=0.5"),
    "Cosine.warmup": ((), "training.schedule.warmup=0.5"),
    "Cosine.floor": ((), "training.schedule.floor=0.5"),
    "Step.milestones": (("training.schedule={kind: step}",), "training.schedule.milestones=[1]"),
    "Step.gamma": (("training.schedule={kind: step, milestones: [1]}",), "training.schedule.gamma=0.5"),
    "Step.warmup": (("training.schedule={kind: step}",), "training.schedule.warmup=0.5"),
    "SpikeCount.scale": (COUNT, "loss.scale=1.0"),
    "BPTT.nudge": ((), "rule.nudge=0.5"),
    "NodePerturbation.noise": (("rule=node_perturbation",), "rule.noise=0.2"),
    "NodePerturbation.draws": (("rule=node_perturbation",), "rule.draws=2"),
}
"""Field -> (what else must be set, a value that is not the default). Each must change what is trained or recorded."""

ELSEWHERE = {
    "Training.compile": "test_a_compiled_network_trains_as_the_plain_one",
    "Experiment.data": "test_cli.py: what is loaded",
    "Training.checkpoint_every": "test_a_checkpoint_every_so_many_steps",
}


@pytest.mark.parametrize("field", OPTIONS)
def test_no_option_is_dead(field: str) -> None:
    base, change = OPTIONS[field]
    before, after = outcome(*base), outcome(*base, change)
    same_weights = before[0].keys() == after[0].keys() and all(
        torch.equal(before[0][name], after[0][name]) for name in before[0]
    )
    assert not (same_weights and before[1] == after[1])
    if field not in ("Training.patience", "Training.measure"):
        assert not same_weights  # these are about more than records


def test_every_field_is_in_the_table_above() -> None:
    from spikecredit.losses import Loss
    from spikecredit.rules import Rule
    from spikecredit.training.experiment import REGISTRIES, Experiment, Training
    from spikecredit.training.optimizers import Optimizer, Schedule

    described = Schema(Experiment, REGISTRIES)
    classes = [
        Experiment,
        Training,
        *(c for base in (Optimizer, Schedule, Loss, Rule) for c in REGISTRIES[base].values()),
    ]
    fields = {f"{cls.__name__}.{name}" for cls in classes for name in described.fields(cls)}
    assert fields == OPTIONS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize(("every", "saved"), [(0, [0, 4, 8]), (3, [0, 3, 4, 6, 8]), (1, [*range(9)])])
def test_a_checkpoint_every_so_many_steps(
    every: int, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(checkpoint, "save", lambda root, kind, step, *_, **__: steps.append((kind, step)))
    overrides = (f"training.checkpoint_every={every}",)
    trainer = tiny.trainer(*overrides, run=tiny.new_run(tmp_path / "run", *overrides))
    monkeypatch.setattr(trainer, "finish", dict)
    trainer.fit()
    assert sorted({step for kind, step in steps if kind == "last"}) == saved


@pytest.mark.parametrize(
    "schedule", ["flat", "{kind: cosine, warmup: 1.0, floor: 0.1}", "{kind: step, milestones: [1]}"]
)
def test_every_step_has_its_schedules_rate(schedule: str) -> None:
    trainer = tiny.trainer(f"training.schedule={schedule}")
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
    trainer.fit()
    factor = trainer.experiment.training.schedule.factor
    assert rates == [0.02 * factor(step, STEPS, 4) for step in range(STEPS)]
    assert trainer.history[1]["lr"] == rates[3] and trainer.history[2]["lr"] == rates[7]


# ---- what is reported ------------------------------------------------------------------------------------------------


def test_progress_and_log(tmp_path: Path) -> None:
    lines: list[str] = []
    seen: list[tuple[int, int, int, float]] = []
    trainer = tiny.trainer(log=lines.append, progress=lambda e, b, n, accuracy: seen.append((e, b, n, accuracy())))
    trainer.fit()
    assert [row[:3] for row in seen] == [(e, b, 4) for e in (1, 2) for b in (1, 2, 3, 4)]
    assert seen[3][3] == pytest.approx(trainer.history[1]["train_accuracy"])
    assert len(lines) == 2 and lines[0].startswith("epoch   1/2   loss ") and "validation" in lines[0]
    lines.clear()
    tiny.trainer(log=lines.append, images=without_validation()).fit()
    assert "validation" not in lines[0]


def test_the_writer_gets_every_number() -> None:
    class Writer:
        def __init__(self) -> None:
            self.got: dict[tuple[str, int], float] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.got[name, step] = value

        def flush(self) -> None: ...

    writer = Writer()
    trainer = tiny.trainer(writer=writer)
    trainer.fit()
    assert writer.got["train_loss", 4] == trainer.history[1]["train_loss"]
    assert writer.got["layers/layers.1/error_norm", 8] == trainer.history[2]["layers"]["layers.1"]["error_norm"]
    assert ("train_loss", 0) not in writer.got and ("event", 0) not in writer.got
    assert dict(scalars({"a": {"b": 1}, "c": None, "d": "x", "epoch": 3})) == {"a/b": 1.0}


def test_every_step_of_a_run_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, ...]] = []
    real = loop.generator

    def generator(seed: int, *names: str | int, device: Any) -> torch.Generator:
        opened.append(names)
        return real(seed, *names, device=device)

    monkeypatch.setattr(loop, "generator", generator)
    tiny.trainer("augment=[{kind: pad_crop, padding: 1}, flip]").fit()
    for stream in (("augment", 0), ("augment", 1), ("encoder", "train")):
        drawn = [names for names in opened if names[:2] == stream]
        assert len(drawn) == len(set(drawn)) == STEPS  # a stream opened twice would repeat its numbers in each epoch


def test_measuring_changes_nothing() -> None:
    base = ("network.dropout=0.3", "pathway={kind: sign_symmetry, magnitude: batch}")
    first, second = outcome(*base)[0], outcome(*base, "training.measure=0")[0]
    tiny.assert_same_weights(first, second)


def test_two_trainers_of_one_seed_agree_and_leave_the_global_generators_alone() -> None:
    state = torch.get_rng_state()
    tiny.assert_same_weights(outcome()[0], outcome()[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_works_in_a_thread_where_signals_cannot_be_caught() -> None:
    import threading

    results: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: results.append(tiny.trainer().fit()))
    thread.start()
    thread.join()
    assert results[0]["epochs"] == 2


def test_clipping_leaves_the_feedback_weights_of_direct_kolen_pollack_out_of_the_norm() -> None:
    trainer = tiny.trainer("pathway={kind: direct_kolen_pollack}")
    broadcast = trainer.net.broadcast
    assert broadcast is not None
    assert trainer.learned == {id(p) for p in broadcast.parameters()}


def test_a_rule_is_refused_before_anything_trains() -> None:
    with pytest.raises(ValueError, match=r"layers\.1 has the pathway SignSymmetry\(.* leave the pathway at Backprop"):
        tiny.trainer("rule=node_perturbation", "pathway=sign_symmetry")
    with pytest.raises(ValueError, match="takes its mean and variance from the batch"):
        tiny.trainer("rule=node_perturbation", "network.norm=true")


def test_a_rule_without_errors_has_no_angles_and_is_trained_with() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ActivityWarning)
        trainer = tiny.trainer("rule={kind: node_perturbation, draws: 4}", "training.optimizer.lr=0.01")
        trainer.fit()
    for layer in trainer.history[-1]["layers"].values():
        assert layer["true_error_norm"] > 0 and layer["weight_norm"] > 0
        assert all(math.isnan(layer[name]) for name in ("error_angle", "error_norm", "weight_angle", "sign_agreement"))
    assert trainer.history[-1]["train_loss"] < trainer.history[1]["train_loss"]


def test_every_step_has_noise_of_its_own_for_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    kept = NodePerturbation.gradients

    def watch(self: NodePerturbation, *arguments: Any) -> Any:
        seeds.append(arguments[-1].initial_seed())
        return kept(self, *arguments)

    monkeypatch.setattr(NodePerturbation, "gradients", watch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ActivityWarning)
        trainer = tiny.trainer("rule=node_perturbation", "training.epochs=1")
        trainer.train()
    assert len(set(seeds)) == len(seeds) == trainer.step

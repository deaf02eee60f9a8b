"""Experiments: what is refused, what a configuration builds, and that a seed fixes it."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch

import spikecredit
from spikecredit.constraints import Dale
from spikecredit.data.encode import ENCODERS, Constant, Delta, Latency, Rate
from spikecredit.pathways import FeedbackAlignment
from spikecredit.rules import BPTT
from spikecredit.training.document import ConfigError
from spikecredit.training.experiment import REGISTRIES, Experiment, Training, load_experiment
from spikecredit.training.optimizers import SGD
from spikecredit.training.schema import load

DEMO = Path(spikecredit.__file__).parent / "configs" / "demo.yaml"


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Training(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: Training(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: Training(checkpoint_every=-1), "checkpoint_every must be at least 0, got -1"),
        (lambda: Training(measure=-1), "measure must be at least 0, got -1"),
        (lambda: Training(clip_norm=0.0), "clip_norm must be positive, or null for no clipping; got 0.0"),
        (lambda: Training(clip_norm=1.0, optimizer=SGD(batch_manhattan=True)), "clip_norm=1.0 changes nothing where"),
        (lambda: Training(patience=0), "patience must be at least 1 epoch, or null to train all epochs; got 0"),
        (lambda: Experiment(encoder=Rate()), "Rate reads pixels as values between 0 and 1: write normalise: false"),
        (lambda: Experiment(encoder=Latency()), "Latency reads pixels"),
        (lambda: Experiment(encoder=Delta()), "Delta encodes changes over time, but Digits shows still images"),
        (
            lambda: Experiment(rule=BPTT(0.1), training=Training(compile="default")),
            r"BPTT\(nudge=0.1\) changes what neurons receive .* write training.compile: null",
        ),
        (lambda: Experiment(encoder=Delta(), normalise=False), "write encoder: constant, rate, latency or rows"),
        (lambda: Experiment(on_off=True, normalise=False), "never below it: write normalise: true"),
        (lambda: Experiment(constraint=Dale(sensory="excitatory")), "write on_off: true, or normalise: false"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(build: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build()


def test_a_refusal_has_its_place() -> None:
    with pytest.raises(ConfigError, match=r"tiny\.yaml:6: training: epochs must be at least 1.*'training\.epochs=0'"):
        tiny.configured("training.epochs=0")
    with pytest.raises(ConfigError, match=r"Rate reads pixels.*'encoder=rate'"):
        tiny.configured("encoder=rate")


def kinds() -> list[tuple[type, str]]:
    return [(base, kind) for base, entries in REGISTRIES.items() for kind in entries]


@pytest.mark.parametrize(("base", "kind"), kinds(), ids=lambda value: getattr(value, "__name__", value))
def test_every_kind_can_be_written_and_comes_back(base: type, kind: str) -> None:
    overrides = ("path=here",) if kind == "images" else ()
    first = load(base, f"kind: {kind}", REGISTRIES, overrides, file="x")
    assert type(first.value) is REGISTRIES[base][kind]
    again = load(base, first.resolved, REGISTRIES)
    assert again.resolved == first.resolved
    if is_dataclass(first.value):
        assert again.value == first.value


def test_the_documented_encoders_are_those_that_still_images_allow() -> None:
    allowed = [kind for kind, cls in ENCODERS.items() if not cls.needs_sequence]
    assert allowed == ["constant", "rate", "latency", "rows"]


def test_load_experiment_reads_a_file_with_overrides() -> None:
    loaded = load_experiment(DEMO, ("training.epochs=3", "pathway=feedback_alignment", "seed=7"))
    assert loaded.value.training.epochs == 3 and loaded.value.seed == 7
    assert loaded.value.pathway == FeedbackAlignment() and loaded.value.encoder == Constant(10)
    assert loaded.resolved["training"]["epochs"] == 3
    with pytest.raises(ConfigError, match=r"override 'trainng\.epochs=3': unknown key .*did you mean 'training'"):
        load_experiment(DEMO, ("trainng.epochs=3",))


def test_every_choice_reaches_the_network() -> None:
    experiment = tiny.configured(
        "pathway=feedback_alignment", "constraint=dale", "last_layer=backprop", "neuron.tau=7", "readout.tau=9"
    ).value
    net = experiment.build(tiny.data())
    first, last = net.synapses().values()
    assert type(first.pathway).__name__ == "FeedbackAlignment" and type(last.pathway).__name__ == "Backprop"
    assert type(net.constraint).__name__ == "Dale" and last.presynaptic_sign is not None
    assert (net.layers[2].tau, net.layers[4].tau) == (7.0, 9.0)
    assert first.weight.shape == (12, 64) and last.weight.shape == (10, 12)


def test_a_seed_fixes_the_network_whatever_was_drawn_before() -> None:
    experiment = tiny.configured("pathway=feedback_alignment", "constraint=dale").value
    first = experiment.build(tiny.data()).state_dict()
    torch.rand(5)
    tiny.assert_same_weights(first, experiment.build(tiny.data()).state_dict())
    other = replace(experiment, seed=1).build(tiny.data()).state_dict()
    drawn = [name for name in first if first[name].is_floating_point() and first[name].ndim > 1]
    assert drawn and all(not torch.equal(first[name], other[name]) for name in drawn)


def test_the_defaults_are_a_complete_experiment() -> None:
    assert {f.name for f in fields(Experiment)} == set(load(Experiment, "", REGISTRIES, file="x").resolved)

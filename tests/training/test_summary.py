"""The record that a report shows: the right spikes, weights, signs and sentences."""

import pytest
import tiny
import torch

from spikecredit.training.summary import notes, run_record

DALE = ("pathway=feedback_alignment", "constraint=dale")


def test_a_record_shows_the_trained_network() -> None:
    trainer = tiny.trainer(*DALE, "network.dropout=0.5")
    trainer.fit()
    before = tiny.weights(trainer)
    record = run_record(trainer, "label", {"seed": 0}, {"torch": "x"})
    assert (record.label, record.config, record.environment) == ("label", {"seed": 0}, {"torch": "x"})
    assert [line["epoch"] for line in record.epochs] == [0, 1, 2] and record.result == trainer.result
    assert record.sample is not None and (record.sample == tiny.data().test.images[0].numpy()).all()
    tiny.assert_same_weights(before, tiny.weights(trainer))  # showing changes nothing
    assert trainer.net.training


def test_the_raster_is_one_test_image_through_the_network_without_dropout() -> None:
    trainer = tiny.trainer("network.dropout=0.5")
    trainer.fit()
    record = run_record(trainer, "x", {}, {})
    net = trainer.net.eval()
    x = trainer.encode(tiny.data().test.images[:1], "raster")
    with torch.no_grad():
        spikes = net.layers[2](net.layers[1](net.layers[0](x)))[:, 0]
        potential = net(x)[:, 0]
    assert list(record.raster) == ["layers.2", "layers.5"]
    assert (record.raster["layers.2"] == spikes.numpy()).all()
    assert record.raster["layers.5"] == pytest.approx(potential.numpy(), abs=1e-5)


def test_weights_are_effective_with_the_signs_of_their_units() -> None:
    trainer = tiny.trainer(*DALE, "constraint.mode=reparametrize")
    record = run_record(trainer, "x", {}, {})
    (first, exempt), (last, signs) = record.weights.values()
    assert exempt is None and (first == trainer.net.layers[1].weight.detach().numpy()).all()
    assert signs is not None and signs.shape == (12,) and (last * signs >= 0).all() and (last < 0).any()
    assert not (trainer.net.layers[3].weight.detach().numpy() == last).all()  # the parameter is not the weight


@pytest.mark.parametrize(
    ("overrides", "told", "untold"),
    [
        ((), ["best validation accuracy; the test split was read once"], ["Dale", "pathway"]),
        (DALE, ["carriers of their own", "and its reset is detached."], ["(feedback='own')"]),
        ((*DALE, "constraint.feedback=own"), ["carried by the same neurons"], ["exempt')"]),
        (("pathway=feedback_alignment", "neuron.detach_reset=false"), ["own leak and its reset."], ["detached"]),
        (("pathway=feedback_alignment",), ["carries errors from layer to layer"], ["straight"]),
        (("pathway=direct_feedback_alignment",), ["carries the output's error straight to"], ["from layer to layer"]),
        (("constraint=frozen_signs",), ["frozen from the start; biases"], ["Dale", "free training"]),
        (("constraint={kind: frozen_signs, after: 1}",), ["frozen after 1 epoch of free training"], ["the start"]),
        (("pathway=feedback_alignment", "neuron=relu"), ["run back through time."], ["leak", "reset"]),
    ],
)
def test_the_notes_say_what_holds_and_nothing_else(
    overrides: tuple[str, ...], told: list[str], untold: list[str]
) -> None:
    text = "\n".join(notes(tiny.trainer(*overrides).experiment, validated=True))
    assert all(part in text for part in told), text
    assert not any(part in text for part in untold), text


def test_without_a_validation_split_the_last_epoch_is_the_one_selected() -> None:
    assert "Selected: the last epoch;" in notes(tiny.configured().value, validated=False)[0]

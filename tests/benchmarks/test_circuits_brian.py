"""benchmarks.circuits_brian and circuits_train: what they measure, in small, and how it is shown."""

from pathlib import Path

import brian2 as b2
import numpy as np
import pytest
import torch

from benchmarks import circuits_brian, circuits_report, circuits_train
from benchmarks.common import table
from spikecredit.circuits import from_brian


@pytest.fixture(autouse=True)
def settings() -> None:
    circuits_brian.setup()


def test_brians_examples_have_the_same_spikes_and_bits_in_torch() -> None:
    network = circuits_brian.curve(40)
    rows = [circuits_brian.compared("IF curve", network, "neurons", ["v"], 600)]
    assert circuits_brian.curve_error(network, 0.06) < 1
    more, refused = circuits_brian.stdp_rows(0.1, inputs=900)
    for row in rows + more:
        assert row["spikes"] > 0 and row["differing_spikes"] == row["differing_potentials"] == 0
    assert refused.startswith("synapses: event-driven equations of ['x', 'y'] are not supported")
    assert [row["potentials"] for row in rows + more] == [40, 2, 2]
    record = {
        "rows": rows + more, "curve_error": 0.9, "chaos_steps": 3000,
        "chaos": [{"move": 0.0, "first": None, "share": 0.0}, {"move": 1e-6, "first": 30, "share": 0.97}],
        "regimes": [{"name": "regular", "g": 3.0, "drive": 2.0, "neurons": 500, "rate": 99.0, "theory": 98.0,
                     "irregularity": 0.1, "synchrony": 12.0, "milliseconds": 300}],
    }  # fmt: skip
    text = table(*circuits_report.examples_table(record)) + circuits_report.examples_note(record)
    text += table(*circuits_report.chaos_table(record))
    assert "| one unit in the last place | none | 0% |" in text and "| 0.001 mV | at 3.0 ms | 97% |" in text
    assert "| IF curve | 40 | 0 | 60 ms |" in text and "0 of 40" in text
    text = table(*circuits_report.regimes_table(record)) + circuits_report.regimes_note(record)
    assert "| 300 ms | 99.0 Hz | 98.0 Hz | 0.10 | 12 |" in text


def test_a_difference_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = circuits_brian.curve(40)

    def moved(network: b2.Network):
        circuit = from_brian(network)
        circuit.plan.initial["neurons.v"][:] = 1e-3
        return circuit

    monkeypatch.setattr(circuits_brian, "from_brian", moved)
    row = circuits_brian.compared("IF curve", network, "neurons", ["v"], 600)
    assert row["differing_spikes"] > 0 and row["differing_potentials"] > 0


def test_a_larger_move_is_seen_earlier() -> None:
    ulp, small, large = circuits_brian.chaos(from_brian(circuits_brian.curve(40)), (0.0, 1e-12, 1e-3), 300)
    assert ulp["first"] is None and ulp["share"] == small["share"] == 0 < large["share"]


def test_a_regime_is_measured() -> None:
    scale = {"excitatory": 80, "connection": 0.5, "weight": 1.0}
    row = circuits_brian.regime("regular", 3.0, 2.0, 150, scale)
    assert row["neurons"] == 100 and row["rate"] > 50 and row["irregularity"] < 0.5 and row["milliseconds"] == 50


def test_the_circuit_learns_keeps_its_signs_and_fires_in_brian_as_in_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits_train, "BATCH", 4)
    network = circuits_train.circuit()
    module = from_brian(network)
    history = circuits_train.train(module, 2)
    assert len(history) == 2 and sum(circuits_train.signs(module).values()) == 0
    module.write_back(network)
    theirs = circuits_train.in_brian(network, 2)
    x, labels = circuits_train.samples("test", circuits_train.TEST)
    with torch.no_grad():
        ours = module(circuits_train.STEPS, {"input": x[:, :2]}).spikes["neurons"]
    np.testing.assert_array_equal(ours.numpy().astype(bool), theirs)
    assert set(labels.tolist()) == {0, 1} and theirs.sum() > 100
    with torch.no_grad():
        module.weight("inhibit", "w")[0] = 1.0
    assert circuits_train.signs(module) == {"excite": 0, "feed": 0, "inhibit": 1}
    rasters = [circuits_train.shown(theirs[:, k]) for k in (0, 1)]
    each = {"accuracy": 0.99, "brian_accuracy": 1.0, "differing": 0, "spikes": 300, "rate": 15.0}
    record = {
        "before": each, "after": each, "rasters": {"before": rasters, "after": rasters}, "brian_samples": 20, "seed": 0,
        "iterations": 2, "batch": 32, "seconds": 3.0, "test": 200, "wrong_signs": circuits_train.signs(module),
    }  # fmt: skip
    text = table(*circuits_report.training_table(record)) + circuits_report.training_note(record)
    assert "99.0% | 100% of 20 | 0 of 300 | 15.0 Hz" in text and "weights of the wrong sign after training: 1" in text
    circuits_report.plot(record, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("<path") > 9

"""benchmarks.ei: what it measures of a network, and how it writes and draws it."""

from pathlib import Path

import pytest
import tiny

from benchmarks import ei
from benchmarks.common import table
from spikecredit.cli import CONFIGS
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer


@pytest.mark.filterwarnings("ignore::spikecredit.analysis.activity.ActivityWarning")
def test_a_record_is_measured_written_and_drawn(tmp_path: Path) -> None:
    experiment = load_experiment(CONFIGS / f"{ei.CONFIG}.yaml", ("network.hidden=[20]",)).value
    trainer = Trainer(experiment, tiny.data())
    found = ei.measured(trainer)
    steps = trainer.data.shape[1]
    assert found["violations"] == 0 and found["weights"] == 20 * 20 + 20 * 10  # the input synapses are exempt
    for what in ("mean", "unit"):
        assert len(found[what]["excitation"]) == len(found[what]["inhibition"]) == steps
        assert min(found[what]["excitation"] + found[what]["inhibition"]) >= 0
    row = {
        "seed": 4, "test_accuracy": 0.961, "spikes_per_neuron": 5.0, "seconds": 90.0, "before": found, "after": found,
    }  # fmt: skip
    text = table(*ei.table({"rows": [row]}))
    assert "96.10 %" in text and "0 of 600" in text
    ei.plot({"rows": [row]}, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count("<path") > 9

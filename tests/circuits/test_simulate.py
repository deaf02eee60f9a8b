"""`spikecredit simulate`: a trained run in Brian2 on test images."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from circuit_cases import case
from click.testing import CliRunner, Result

import spikecredit as sc
from spikecredit import cli
from spikecredit.circuits import plots, simulate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a few digits, under Dale's law and sign symmetry."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = ("constraint={kind: dale, excitatory: 0.8}", "pathway={kind: sign_symmetry}", "training.epochs=1")
    trainer = tiny.trainer(*words, run=tiny.new_run(folder, *words))
    trainer.fit()
    return folder


def run(*words: str) -> Result:
    result = CliRunner().invoke(cli.main, ["simulate", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_run_is_simulated_and_everything_is_on_the_disk(trained: Path):
    result = run(str(trained), "--samples", "5", "--engine", "brian2")
    assert result.exit_code == 0, result.output
    found = json.loads((trained / "brian2" / "simulation.json").read_text())
    assert found["samples"] == 5 and found["steps"] == 4 and found["neurons"] == 22
    assert found["differing_spikes"] == {"lif1": 0} and found["differing_potentials"] == {"lif1": 0, "readout1": 0}
    assert found["changed"]["lif1"]["spikes"] > 0
    assert 0 < found["changed"]["lif1"]["distance"] < 1
    assert found["accuracy"]["brian2"] == found["accuracy"]["torch"] == found["accuracy"]["network"]
    assert all(value > 0 for value in found["seconds"].values())
    spikes = found["changed"]["lif1"]["spikes"]
    for told in (f"accuracy: {found['accuracy']['brian2']:.2%} in Brian2", f"differing spikes: 0 of {spikes}\n",
                 "differing potentials: 0\n", "nearest decision: ", "on 5 test images in brian2"):  # fmt: skip
        assert told in result.stdout
    for name in ("raster.png", "voltages.png"):
        assert (trained / "brian2" / name).read_bytes().startswith(b"\x89PNG")


def test_the_folder_can_be_chosen_and_a_difference_ends_with_status_1(trained, tmp_path, monkeypatch):
    honest = simulate.to_brian

    def with_a_slip(circuit, x):
        export = honest(circuit, x)
        export.groups["lif1"].beta[3] = 0.5
        return export

    monkeypatch.setattr(simulate, "to_brian", with_a_slip)
    result = run(str(trained), "--samples", "4", "--out", str(tmp_path / "here"))
    assert result.exit_code == 1
    found = json.loads((tmp_path / "here" / "simulation.json").read_text())
    assert found["differing_potentials"]["lif1"] > 0
    assert f"differing potentials: {sum(found['differing_potentials'].values())}" in result.stdout


def test_samples_in_several_parts_are_the_same_samples(trained):
    net, x, _ = case("maximum", samples=3)
    labels, loss = torch.tensor([0, 1, 2]), sc.losses.MeanPotential()
    whole = simulate.simulate(net, x, labels, loss)
    parts = simulate.simulate(net, x, labels, loss, most_synapses=2 * whole.synapses)  # two samples, then one
    assert whole.exact and parts.exact
    assert whole.accuracy == parts.accuracy
    assert {k: v.spikes for k, v in whole.changed.items()} == {k: v.spikes for k, v in parts.changed.items()}
    assert torch.equal(whole.first.output, parts.first.output)
    figure = plots.voltages(whole.circuit, whole.first)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["lif1", "pool1", "readout1"]
    assert figure.axes[0].get_xlim() == (-0.5, 29.5)


def test_what_cannot_be_simulated_is_refused_with_what_to_write(trained, tmp_path):
    def refused(*words: str) -> str:
        result = run(*words)
        assert result.exit_code == 2 and not (tmp_path / "out").exists()
        return result.stderr

    assert "'nest' is not 'brian2'" in refused(str(trained), "--engine", "nest")
    assert "the test split has" in refused(str(trained), "--samples", "100000")
    assert "is no run folder" in refused(str(tmp_path))
    assert "only data.KEY=VALUE may change" in refused(str(trained), "neuron.tau=3")
    words = ("neuron={kind: relu}", "training.epochs=1")
    rates = tmp_path / "rates"
    tiny.trainer(*words, run=tiny.new_run(rates, *words)).fit()
    told = refused(str(rates), "--samples", "2", "--out", str(tmp_path / "out"))
    assert "cannot be simulated: layers[2], ReLU: ReLU hands on a rate" in told and "take LIF" in told


def test_a_rule_without_a_forward_pass_is_refused():
    trainer = tiny.trainer()

    class Settles(sc.rules.BPTT):
        def predict(self, net, x, forward=None):
            return x

    object.__setattr__(trainer.experiment, "rule", Settles())
    with pytest.raises(ValueError, match="under Settles the network's answer is the state it settles to"):
        simulate.of_trainer(trainer, tiny.data().test.images, tiny.data().test.labels, 10)

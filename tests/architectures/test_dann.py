"""Architectures of DANN layers, in Python and in a configuration."""

import pytest
import torch

import spikecredit as sc
from spikecredit.architectures import DANNArchitecture
from spikecredit.training.document import ConfigError
from spikecredit.training.experiment import load_experiment


@pytest.mark.parametrize("architecture", [sc.MLP, sc.LeNet])
def test_every_synapse_layer_is_one(architecture):
    for dann in (sc.DANN(), sc.DANN(inhibitory=7, divisive=False, corrections=False, initialisation="li")):
        net = architecture(hidden=(30, 20), norm=True, dann=dann).build((1, 16, 16), 10)
        for layer in net.synapses().values():
            assert isinstance(layer, sc.DANNLinear | sc.DANNConv2d)
            wanted = max(1, round(0.1 * layer.units[1])) if dann.inhibitory == 0.1 else 7
            assert layer.inhibitory == wanted
            assert (layer.divisive, layer.corrections) == (dann.divisive, dann.corrections)
            assert layer.initialisation.removesuffix("_first") == dann.initialisation
        assert net(torch.rand(2, 3, 1, 16, 16)).shape == (2, 3, 10)
    plain = architecture(hidden=(30, 20)).build((1, 16, 16), 10)
    assert all(type(layer) in (sc.Linear, sc.Conv2d) for layer in plain.synapses().values())


def test_the_layer_that_reads_pixels_starts_as_the_papers_first():
    def starts(hidden):
        net = sc.MLP(hidden, dann=sc.DANN()).build((1, 4, 4), 3)
        return [layer.initialisation for layer in net.synapses().values()]

    assert starts((5, 5)) == ["cornford_first", "cornford", "cornford"]
    assert starts(()) == ["cornford_first"]


def test_scales_of_normalisation_stay_positive():
    net = sc.MLP((6,), norm=True, dann=sc.DANN()).build((1, 4, 4), 3)
    norm = net.layers[2]
    with torch.no_grad():
        norm.weight[0] = -1.0
    assert net.violations() == 1
    sc.after_step(net, torch.optim.SGD(net.parameters(), 0.1))
    assert net.violations() == 0
    assert isinstance(sc.MLP((6,), norm=True).build((1, 4, 4), 3).layers[2].constraint, sc.Unconstrained)


def test_what_does_not_go_together_is_refused():
    for options, message in (({"initialisation": "he"}, "both signs"), ({"recurrent": True}, "no DANN form")):
        with pytest.raises(ValueError, match=message):
            sc.MLP(dann=sc.DANN(), **options)
    with pytest.raises(ValueError, match="both signs"):
        sc.LeNet(dann=sc.DANN(), initialisation="lecun")


CONFIG = "network: {kind: %s, hidden: [20], dann: {inhibitory: %s}}\nnormalise: %s\n"


def written(tmp_path, *values):
    path = tmp_path / "dann.yaml"
    path.write_text(CONFIG % values)
    return path


@pytest.mark.parametrize(("inhibitory", "units"), [("4", 4), ("0.2", 4)])
@pytest.mark.parametrize("kind", ["mlp", "lenet"])
def test_a_configuration_says_it(tmp_path, kind, inhibitory, units):
    loaded = load_experiment(written(tmp_path, kind, inhibitory, "false"))
    assert isinstance(loaded.value.network, DANNArchitecture)
    assert load_experiment(loaded.resolved).value.network == loaded.value.network
    net = loaded.value.network.build((1, 8, 8), 10)
    assert next(layer for layer in net.synapses().values() if layer.units[1] == 20).inhibitory == units


def test_normalised_images_are_refused_in_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="normalise: false"):
        load_experiment(written(tmp_path, "mlp", "4", "true"))

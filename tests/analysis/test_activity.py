"""Activity on spike trains known beforehand."""

import copy
import math

import pytest
import torch
from torch import nn

import spikecredit as sc
from spikecredit.analysis import LayerActivity, activity, record
from spikecredit.analysis.activity import ActivityWarning, first_non_finite, warn_of_extremes


def relay():
    """LIF without memory (tau near 0): spikes where the input is above 1."""
    return sc.Network(sc.LIF(tau=1e-3, reset="none"))


def test_known_spikes():
    x = torch.zeros(4, 2, 3)
    x[0, :, 0] = 2  # neuron 0: one spike in each of two samples
    x[:, 1, 1] = 2  # neuron 1: four spikes in one sample; neuron 2: none
    found = activity(relay(), x)
    assert found == {
        "layers.0": LayerActivity(
            spikes=pytest.approx(6 / 6), rate=pytest.approx(6 / 24), silent=pytest.approx(1 / 3), neurons=3
        )
    }
    assert torch.equal(record(relay(), x)["layers.0"], (x > 1).float())


def net():
    torch.manual_seed(0)
    layers = (
        sc.Linear(5, 8), sc.BatchNorm1d(8), sc.LIF(tau=5.0), sc.Dropout(0.3), sc.Linear(8, 8), sc.ReLU(),
        sc.RecurrentLinear(8, 6, sc.LIF(tau=5.0)), sc.Linear(6, 6), sc.CurrentLIF(), sc.Linear(6, 3), sc.LeakyReadout(),
    )  # fmt: skip
    return sc.Network(*layers, pathway=sc.SignSymmetry("batch"), seed=0)


def test_every_layer_of_neurons_is_recorded_once_and_spiking_ones_are_measured():
    model = net().eval()
    x = 3 * torch.rand(7, 4, 5)
    outputs = record(model, x)
    assert list(outputs) == ["layers.2", "layers.5", "layers.6.neuron", "layers.8", "layers.10"]
    assert [tuple(o.shape) for o in outputs.values()] == [(7, 4, n) for n in (8, 8, 6, 6, 3)]
    assert torch.equal(outputs["layers.10"], model(x))
    current = model.layers[4](outputs["layers.2"])
    torch.testing.assert_close(outputs["layers.5"], current.relu())
    assert list(activity(model, x)) == ["layers.2", "layers.6.neuron", "layers.8"]
    assert not outputs["layers.5"].requires_grad


def test_neurons_in_residual_blocks_are_recorded():
    model = sc.ResNet((1, 1), width=4).build((1, 4, 4), 3)
    outputs = record(model, torch.rand(3, 2, 1, 4, 4))
    assert sum("branch" in name for name in outputs) == 4
    assert all(o.shape[:2] == (3, 2) for o in outputs.values())


def test_measuring_changes_nothing():
    model = net()
    x = torch.rand(7, 4, 5)
    before = copy.deepcopy(model.state_dict())
    activity(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "stream" not in model.layers[2].__dict__
    assert model.training


def test_extremes_are_warned_of_once_each():
    fine, silent, busy = (LayerActivity(5 * r, r, float(r == 0), neurons=4) for r in (0.2, 0.0, 1.0))
    already = set()
    warn_of_extremes({"a": fine}, already)
    with pytest.warns(ActivityWarning, match=r"layer b is silent: .* Try a larger tau"):
        warn_of_extremes({"a": fine, "b": silent}, already)
    with pytest.warns(ActivityWarning, match=r"layer c fires at every step: .* Try a smaller tau"):
        warn_of_extremes({"b": silent, "c": busy}, already)
    warn_of_extremes({"b": silent, "c": busy}, already)
    assert already == {"b", "c"}


def test_the_first_non_finite_layer_is_named():
    model = net().eval()
    x = torch.rand(7, 4, 5)
    assert first_non_finite(model, x) is None
    assert first_non_finite(model, torch.full_like(x, math.inf)) == "layers.0"
    with torch.no_grad():
        model.layers[7].bias[2] = math.nan
        model.layers[9].bias[0] = math.inf
    assert first_non_finite(model, x) == "layers.7"
    assert not any(m._forward_hooks for m in model.modules())
    with torch.no_grad():
        model.layers[6].input.weight[0, 0] = math.nan
    assert first_non_finite(model, x) == "layers.6.input"


def test_the_search_executes_in_order_not_by_name():
    class Backwards(nn.Module):
        memoryless = True

        def __init__(self):
            super().__init__()
            self.late, self.early = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.late(self.early(x))

    model = sc.Network(Backwards())
    with torch.no_grad():
        model.layers[0].late.bias[0] = math.nan
        model.layers[0].early.bias[0] = math.nan
    assert first_non_finite(model, torch.rand(2, 2, 5)) == "layers.0.early"

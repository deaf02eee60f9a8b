"""No constraint: everything is allowed and nothing is touched."""

import torch

import spikecredit as sc
from spikecredit.constraints import CONSTRAINTS, Population


def test_unconstrained_touches_nothing():
    torch.manual_seed(0)
    layer = sc.Linear(5, 4, constraint=sc.Unconstrained())
    before = layer.weight.detach().clone()
    layer.constraint.initialise(layer, torch.Generator())
    layer.project()
    assert torch.equal(layer.weight, before)
    assert layer.effective_weight() is layer.weight
    assert layer.violations() == 0
    assert layer.presynaptic_sign is None and layer.frozen_sign is None
    sc.start_epoch(layer, 5)
    assert torch.equal(layer.weight, before)
    assert sc.Unconstrained().signs(Population("x", 3), 0) is None
    matrix = torch.randn(4, 5)
    assert sc.Unconstrained().constrain_feedback(matrix, layer) is matrix
    assert not sc.Unconstrained().needs_projection
    assert not sc.Unconstrained().freezes
    assert not sc.Unconstrained().constrains_feedback


def test_constraints_are_values():
    for kind in CONSTRAINTS.values():
        assert kind() == kind()
        assert len({kind(), kind()}) == 1
    assert repr(sc.Unconstrained()) == "Unconstrained()"
    assert sc.Unconstrained() != sc.Dale()

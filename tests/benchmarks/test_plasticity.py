"""benchmarks.plasticity: the same spikes and weights everywhere, and a table that says who is absent."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import plasticity
from benchmarks.common import table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plasticity, "N", 30)
    monkeypatch.setattr(plasticity, "STEPS", 40)
    monkeypatch.setattr(plasticity, "RATE", 50.0)


def test_torch_and_brian2_change_the_same_weights() -> None:
    pytest.importorskip("brian2")
    pre, post = plasticity.trains()
    assert pre.shape == (40, 30) and pre.sum() > 20 and post.sum() > 20
    ours, theirs = plasticity.Torch(torch.float64, torch.device("cpu")), plasticity.Brian()
    for _ in range(2):
        ours()
        theirs()
    np.testing.assert_allclose(ours.weights(), theirs.weights(), rtol=0, atol=1e-12)
    assert np.ptp(ours.weights()) > 1e-3


def test_an_interpreter_without_nest_is_named() -> None:
    assert "nest" in str(plasticity.nest(sys.executable, 1))


def test_the_table_is_that_of_the_result() -> None:
    found = json.loads((Path(plasticity.__file__).parent / "results" / "plasticity-cpu.json").read_text())
    text = table(*plasticity.table(found))
    assert all(row["name"] in text for row in found["rows"])
    base = next(row for row in found["rows"] if row["name"] == "Brian2, numpy")
    torch_row = next(row for row in found["rows"] if row["name"] == "torch, float64")
    assert f"{torch_row['rate'] / base['rate']:.1f}" in text
    assert base["apart"] < 1e-12

"""benchmarks.plastic: what a row measures, and how rows are shown."""

from pathlib import Path

import pytest
import torch

import spikecredit as sc
from benchmarks import plastic
from benchmarks.common import table
from spikecredit.data import ImageData, Split


@pytest.fixture(scope="module")
def digits() -> ImageData:
    whole = sc.data.Digits().load()
    parts = [Split(p.images[:40], p.labels[:40]) for p in (whole.train, whole.validation, whole.test)]
    return ImageData("digits", *parts, 10, whole.mean, whole.std, scale=16)


def changes(case: plastic.Case, data: ImageData, rate: float | None = 0.003) -> list[float]:
    """How far each dense layer's weights moved; both networks begin with the same ones."""
    torch.manual_seed(1)
    start = sc.Network(
        sc.Linear(64, plastic.HIDDEN), sc.LIF(), sc.Linear(plastic.HIDDEN, 10), sc.LeakyReadout(),
        pathway=plastic.PATHWAYS[case.pathway], seed=1,
    )  # fmt: skip
    net = plastic.trained(case, data, 1, rate)
    return [float((net.layers[k].weight - start.layers[k].weight).detach().abs().max()) for k in (0, 2)]


def test_the_hidden_layer_moves_where_it_has_a_window_only(digits: ImageData) -> None:
    hidden, readout = changes(plastic.Case(None), digits, None)
    assert hidden == 0 < readout
    assert all(move > 1e-4 for move in changes(plastic.Case(), digits))


def test_a_late_error_comes_after_the_image(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = plastic.Plastic.__call__

    def spy(self: plastic.Plastic, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return real(self, x, labels)

    monkeypatch.setattr(plastic.Plastic, "__call__", spy)
    plastic.trained(plastic.Case(late=20), digits, 0, 0.001)
    assert len(seen) == 4 and all(x.shape == (70, 10, 64) and x[50:].sum() == 0 < x[49].sum() for x in seen)


def test_a_row_chooses_by_validation_and_is_written_and_drawn(digits: ImageData, tmp_path: Path) -> None:
    case = plastic.CASES[1]
    rows = {each.name: plastic.row(each, digits, 2) for each in (plastic.CASES[0], case)}
    found = rows[case.name]
    assert found["validation"][str(found["rate"])] == max(found["validation"].values())
    assert set(found["validation"]) == {str(rate) for rate in plastic.RATES} and len(found["test"]) == 2
    record = {"rows": {case.name: found | {"test": [0.92, 0.9]}, plastic.CASES[0].name: rows[plastic.CASES[0].name]}}
    record["rows"][plastic.CASES[0].name]["test"] = [0.9, 0.9]
    assert plastic.gains(record, case) == pytest.approx([2, 0]) and plastic.gains(record, plastic.CASES[0]) is None
    text = table(*plastic.table(record))
    assert "| causal pairs only | feedback alignment | 0 ms | 50 ms |" in text and "+1.0 ± 12.7" in text
    plastic.plot(record, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("<path") > 5
    assert len({case.name for case in plastic.CASES}) == len(plastic.CASES)

"""benchmarks.snntorch: the tutorials' networks, moved over by one call, give identical outputs."""

import pytest
import torch

from benchmarks import snntorch
from benchmarks.common import table


def test_the_tutorials_networks_are_those_of_the_tutorials() -> None:
    dense, conv = snntorch.cases(batch=2)
    assert [tuple(p.shape) for p in dense.theirs.parameters()] == [(1000, 784), (1000,), (10, 1000), (10,)]
    assert [tuple(p.shape) for p in conv.theirs.parameters() if p.ndim > 1] == [
        (12, 1, 5, 5),
        (64, 12, 5, 5),
        (10, 1024),
    ]
    assert (dense.steps, conv.steps) == (25, 50)
    assert float(dense.theirs.lif1.beta) == pytest.approx(0.95) and float(conv.theirs[2].beta) == 0.5
    share, mean = float((dense.images > 0).float().mean()), float(dense.images.mean())
    assert share == pytest.approx(0.19, abs=0.03) and mean == pytest.approx(0.13, abs=0.03)


@pytest.mark.parametrize("which", [0, 1])
def test_outputs_are_identical(which: int) -> None:
    case = snntorch.cases(batch=3, steps=(25, 8))[which]
    before = [p.detach().clone() for p in case.ours.parameters()]
    exact = snntorch.compared_exactly(case, torch.zeros(3, dtype=torch.int64))
    assert all(torch.equal(p, old) for p, old in zip(case.ours.parameters(), before, strict=True))
    assert exact["spikes"] > 10 and exact["largest"] > 1
    assert (exact["different"], exact["different_spikes"], exact["largest_difference"]) == (0, 0, 0.0)
    assert exact["gradient_difference"] < 1e-4


def test_a_record_is_measured_and_written() -> None:
    row = snntorch.measured(snntorch.cases(batch=2, steps=(2, 2))[1], repeats=2)
    header, rows = snntorch.table({"rows": [row]})
    assert len(header) == len(rows[0]) and "0 of" in table(header, rows)

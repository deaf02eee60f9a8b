"""The table of pathways on images: the command that fills it, and what it shows."""

from pathlib import Path

from benchmarks import lenet
from benchmarks.tables import PUBLISHED


def condition(name: str, **changes: object) -> dict[str, object]:
    found = {
        "condition": name,
        "finished": 3,
        "test_accuracy": {"mean": 0.99, "low": 0.98, "high": 1.0, "n": 3},
        "difference": {"mean": -0.005, "low": None, "high": None, "n": 1},
        "error_angle": {"a": 90.0, "b": None},
        "sign_agreement": {"a": 0.5, "b": 1.0},
        "spikes_per_neuron": 0.5,
        "seconds": 60.0,
    }
    return found | changes


def test_a_row_stands_beside_the_published_error() -> None:
    found = {"conditions": [condition("DFA"), condition("KP", difference=None), condition("BP", finished=0)]}
    header, rows = lenet.table(found, PUBLISHED["rows"], 0)
    assert rows == [
        ["DFA", "3", "1.00 ± 1.00", "1.61", "+0.50", "90 / –", "50% / 100%", "0.50", "1.0"],
        ["KP", "3", "1.00 ± 1.00", "–", "–", "90 / –", "50% / 100%", "0.50", "1.0"],
    ]
    assert len(header) == len(rows[0])
    assert [row[0] for row in lenet.table(found, PUBLISHED["rows"], 0, ("KP",))[1]] == ["KP"]


def test_the_published_rows_have_three_seeds_and_the_others_one() -> None:
    command = lenet.words("mnist", Path("data"), Path("runs"), 2)
    assert command[:4] == ["compare", "mnist_lenet_backprop", "--pathway", ",".join([*lenet.PUBLISHED, *lenet.ONCE])]
    assert "--seeds" in command and "data.path=data/mnist" in command
    for name in lenet.ONCE:
        assert f"--set={name}:seeds=1" in command
    assert set(lenet.PUBLISHED.values()) == set(PUBLISHED["rows"])

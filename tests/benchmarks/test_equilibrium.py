"""benchmarks.equilibrium: both ways of its speed give one gradient, and its tables show what was measured."""

import torch

import spikecredit as sc
from benchmarks import equilibrium
from spikecredit import equilibrium as eq


def test_the_way_by_autograd_is_the_same_estimate() -> None:
    torch.manual_seed(0)
    layers = [sc.Linear(12, 9), sc.Linear(9, 7), sc.Linear(7, 4)]
    net = sc.Network(
        layers[0], sc.HardSigmoid(), layers[1], sc.HardSigmoid(), layers[2], sc.Identity(), seed=0
    ).double()  # fmt: skip
    x, y = torch.rand(6, 12, dtype=torch.float64), torch.randint(4, (6,))
    there = equilibrium.by_autograd(layers, x, y)
    relaxation = eq.Sweeps(equilibrium.FREE, equilibrium.NUDGED, "jacobi")
    here, _ = eq.gradient(
        net, x, y, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(equilibrium.BETA)
    )  # fmt: skip
    for a, b in zip(there, [t for pair in here.values() for t in pair], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert there[0].any()


def test_tables_show_the_sections_that_were_measured() -> None:
    times = {"median": 0.002, "low": 0.001, "high": 0.003}
    record = {
        "mnist": {"rows": [{"name": "2 epochs", "epochs": 2, "seed": 0, "test_accuracy": 0.975, "seconds": 90.0}]},
        "learn": {
            "rows": [
                {"learn": "traces", "free": 16, "nudged": 12, "beta": 0.5, "trained": t, "cosines": [c, -0.251]}
                for t, c in ((False, 0.9), (True, 0.1))
            ]
        },
        "speed": {"rows": [{"network": "a", "case": "b", **times, "ratio": 9.87}]},
    }
    made = equilibrium.tables(record)
    assert made["mnist"][1] == [["2 epochs", "2", "0", "2.50", "1.5"]]
    assert made["learn"][1] == [["traces", "16 + 12", "0.5", "0.90 / -0.25", "0.10 / -0.25"]]
    assert made["speed"][1] == [["a", "b", "2.00 ms (1.00 to 3.00)", "9.9"]]
    assert equilibrium.tables({}) == {}

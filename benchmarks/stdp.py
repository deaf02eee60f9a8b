"""The STDP reading of equilibrium propagation, as curves: the window of one pair of spikes, and the one that emerges.

    python -m benchmarks.stdp

Seed 0. Writes results/stdp.json, from which `benchmarks.tables` draws the figure of docs/equilibrium/stdp.md.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import write
from spikecredit.equilibrium.stdp import PairSTDP, emergent_window

TAUS = ((20.0, 20.0), (17.0, 34.0))
"""tau_pre, tau_post, ms: equal ones, and those in the proportion measured by Bi & Poo (unverified)."""

TRIALS = 400_000


def simulated(rule: PairSTDP, delta: float, dt: float = 0.1, length: float = 600.0) -> float:
    """int x dy of one pair of spikes, delta ms apart, by the traces."""
    pre, post = torch.zeros(2, round(length / dt), 1, dtype=torch.float64)
    middle = round(length / dt / 3)
    pre[middle], post[middle + round(delta / dt)] = 1, 1
    return float(rule.integral(pre, post, dt)[0])


def measure() -> list[dict[str, Any]]:
    """A curve each: simulated pairs beside the closed form, and the emergent one with its standard errors."""
    deltas = [float(d) for d in range(-60, 61, 5)]
    curves: list[dict[str, Any]] = []
    for taus in TAUS:
        rule = PairSTDP(*taus)
        curves.append(
            {
                "taus": taus,
                "delta": deltas,
                "simulated": [simulated(rule, d) for d in deltas],
                "window": rule.window(torch.tensor(deltas, dtype=torch.float64)).tolist(),
            }
        )
    centres, means, errors = emergent_window(TRIALS, random=torch.Generator().manual_seed(0))
    curves.append({"delta": centres.tolist(), "mean": means.tolist(), "error": errors.tolist()})
    return curves


def plot(record: dict[str, Any], path: Path) -> None:
    """Left: points simulated, lines in closed form. Right: the emergent curve."""
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        *pairs, emergent = record["rows"]
        for curve, colour in zip(pairs, plots.CONDITIONS, strict=False):
            rule = PairSTDP(*curve["taus"])
            for side in (torch.linspace(-60, -0.01, 200), torch.linspace(0.01, 60, 200)):
                left.plot(side.tolist(), rule.window(side.double()).tolist(), color=colour)
            left.plot(
                curve["delta"], curve["simulated"], "o", color=colour, markersize=4,
                label=f"τ pre {rule.tau_pre:g} ms, post {rule.tau_post:g} ms",
            )  # fmt: skip
        left.set(
            title="∫ x dy of one pair: simulated, and W", xlabel="t post − t pre (ms)", ylabel="change of the weight"
        )
        left.legend()
        right.errorbar(
            emergent["delta"], emergent["mean"], [1.96 * e for e in emergent["error"]], fmt="o-", markersize=4,
            color=plots.CONDITIONS[0],
        )  # fmt: skip
        right.set(
            title="learning from d(post)/dt alone", xlabel="nearest post spike − pre spike (ms)",
            ylabel="mean change of the weight",
        )  # fmt: skip
        for ax in (left, right):
            ax.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
            ax.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = measure()
    print(write("stdp", "python -m benchmarks.stdp", torch.device("cpu"), rows=rows))


if __name__ == "__main__":
    main()

"""The STDP reading of equilibrium propagation, as curves: the window of one pair of spikes, and the one that emerges;
how near what spike traces learn comes to the gradient; and how errors arrive in a nudged phase.

    python -m benchmarks.stdp

Seed 0 for the curves, seeds 0 to 4 for the gradients. Writes results/stdp.json, from which `benchmarks.tables` draws
the figures of docs/equilibrium.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikecredit as sc
from benchmarks.common import write
from spikecredit import equilibrium as eq
from spikecredit.analysis.alignment import angle
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


TRACES = (3, 10, 30, 100, 300)
DURATIONS = (1, 2, 5, 10, 20, 40)
NUDGES = (0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = 5
SWEEPS = 40


def random_network(sizes: tuple[int, ...], seed: int, unit: Any, bias: float) -> tuple[sc.Network, Tensor, Tensor]:
    """Glorot weights times 0.7 in float64, and a batch of 16."""
    g = torch.Generator().manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layer = sc.Linear(a, b).double()
        drawn = 2 * torch.rand(b, a, generator=g, dtype=torch.float64) - 1
        with torch.no_grad():
            layer.weight.copy_(0.7 * math.sqrt(6 / (a + b)) * drawn)
            layer.bias.fill_(bias)
        layers += [layer, unit()]
    x = torch.rand(16, sizes[0], generator=g, dtype=torch.float64)
    return sc.Network(*layers, seed=0).double(), x, torch.arange(16) % sizes[-1]


def learned(relaxation: eq.Relaxation, beta: float) -> list[list[float]]:
    """For each seed and layer: the cosine of what the traces learn with the gradient at a small nudge of the rates."""
    found = []
    for seed in range(SEEDS):
        net, x, y = random_network((40, 60, 10), seed, sc.HardSigmoid, 0.3)
        true, _ = eq.gradient(net, x, y, eq.SquaredError(), relaxation=eq.Sweeps(2000, 2000),
                              estimator=eq.Centred(0.01))  # fmt: skip
        ours, _ = eq.gradient(net, x, y, eq.SquaredError(), relaxation=relaxation, estimator=eq.Centred(beta))
        found.append([float(torch.cosine_similarity(ours[k][0].flatten(), true[k][0].flatten(), 0)) for k in true])
    return found


def constant(tau: float, steps: int) -> eq.SigmaDelta:
    """Traces of one time constant; a long free phase, and a nudged one of `steps`."""
    return eq.SigmaDelta(round(20 * tau), steps, epsilon=0.2, epsilon_decay=0.0, lam=1 / tau, lam_decay=0.0)


def gradients() -> dict[str, Any]:
    """Cosines over the time constant of the trace, over the duration of the nudged phase in units of it, over beta."""
    return {
        "tau": {tau: learned(constant(tau, 20 * tau), 0.2) for tau in TRACES},
        "duration": {times: learned(constant(30, times * 30), 0.2) for times in DURATIONS},
        "beta": {beta: learned(constant(30, 600), beta) for beta in NUDGES},
        "schedule": {steps: learned(eq.SigmaDelta(steps, steps), 0.2) for steps in (10, 20, 50, 100)},
    }


def inference() -> dict[str, Any]:
    """In a network of four hidden layers: for each layer and sweep of the nudged phase, the angle of its change to the
    backpropagated error and to the true one, through the fixed point."""
    net, x, y = random_network((50, 100, 100, 100, 100, 10), 0, sc.Tanh, 0.0)
    settled = eq.settle(net, x, relaxation=eq.Sweeps(free=2000))
    once = eq.backpropagated_errors(settled, y, eq.SquaredError())
    true = eq.true_errors(settled, y, eq.SquaredError(), sweeps=5000)
    assert true is not None
    swept = eq.early_inference(settled, y, eq.SquaredError(), SWEEPS, beta=1e-5)
    return {
        "backpropagated": [[_number(angle(s[i], once[i])) for s in swept] for i in range(len(once))],
        "true": [[_number(angle(s[i], true[i])) for s in swept] for i in range(len(once))],
        "between": [angle(a, b) for a, b in zip(once, true, strict=True)],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def plot_gradients(record: dict[str, Any], path: Path) -> None:
    """Cosines over time constant, duration and nudge, a line for each layer, mean and range over seeds."""
    with _figure(path, 3) as panels:
        titles = {"tau": "time constant of the trace (steps)", "duration": "nudged phase (time constants)",
                  "beta": "nudge β"}  # fmt: skip
        for ax, (name, label) in zip(panels, titles.items(), strict=True):
            values = record["gradient"][name]
            at = [float(value) for value in values]
            for layer in range(2):
                seeds = [[found[layer] for found in values[value]] for value in values]
                line = ax.plot(at, [statistics.mean(v) for v in seeds], "o-", markersize=4, label=f"layer {layer + 1}")
                ax.fill_between(at, [min(v) for v in seeds], [max(v) for v in seeds], alpha=0.2,
                                color=line[0].get_color())  # fmt: skip
            ax.set(xlabel=label, xscale="log", ylim=(min(0.5, ax.get_ylim()[0]), 1.01))
            ax.set_xticks(at, [f"{value:g}" for value in at])
            ax.minorticks_off()
            ax.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
        panels[0].set_ylabel("cosine with the gradient")
        panels[0].legend()


def plot_inference(record: dict[str, Any], path: Path) -> None:
    """Angles over sweeps, a line for each layer."""
    with _figure(path, 2) as panels:
        for ax, name, title in zip(
            panels, ("backpropagated", "true"), ("to the backpropagated error", "to the true error, through the loop"),
            strict=True,
        ):  # fmt: skip
            layers = record["inference"][name]
            for index, angles in enumerate(layers):
                ax.plot(range(1, len(angles) + 1), [math.nan if a is None else a for a in angles], "o-", markersize=3,
                        label=f"layer {index + 1}")  # fmt: skip
            ax.set(title=title, xlabel="sweep of the nudged phase", ylim=(-2, None))
        panels[0].set_ylabel("angle of the layer's change (°)")
        panels[0].legend()


@contextmanager
def _figure(path: Path, count: int) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 3.8), layout="constrained")
        yield figure.subplots(1, count)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def plot(record: dict[str, Any], path: Path) -> None:
    """Left: points simulated, lines in closed form. Right: the emergent curve."""
    from spikecredit.analysis import plots

    with _figure(path, 2) as (left, right):
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


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    found = {"rows": measure(), "inference": inference(), "gradient": gradients()}
    print(write("stdp", "python -m benchmarks.stdp", torch.device("cpu"), **found))


if __name__ == "__main__":
    main()

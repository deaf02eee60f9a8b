"""The demo: the same network under four kinds of feedback, and without any backward pass, side by side, in memory."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import spikecredit
from spikecredit import equilibrium as eq
from spikecredit.analysis import plots
from spikecredit.analysis.comparison import hidden_error_angle
from spikecredit.analysis.report import interval
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer
from spikecredit.training.run import config_hash, environment, finite_or_none, free_folder
from spikecredit.training.summary import report_line, run_record

EQUILIBRIUM = "equilibrium, by spikes"
"""The row without a backward pass."""

ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("backprop", ("pathway={kind: backprop}",)),
    ("feedback alignment", ("pathway={kind: feedback_alignment}",)),
    ("sign symmetry", ("pathway={kind: sign_symmetry}",)),
    (
        "sign symmetry + Dale's law",
        ("pathway={kind: sign_symmetry, threshold: 0.6}", "constraint={kind: dale, excitatory: 0.8}"),
    ),
    (
        EQUILIBRIUM,
        (
            "network.dropout=0", "normalise=false", "neuron={kind: hard_sigmoid}", "readout={kind: hard_sigmoid}",
            "rule={kind: equilibrium, estimator: {kind: centred, beta: 0.5}, "
            "relaxation: {kind: sigma_delta, free: 30, nudged: 20}}",
            "encoder={kind: constant, steps: 1}", "loss={kind: squared_error}",
        ),
    ),
)  # fmt: skip
"""Label of each row, and what it changes in the configuration."""

LINE = "{:<28}{:>20}{:>21}{:>15}{:>17}{:>9}"

HOW_TO_READ = (
    "accuracy: mean and 95 % t-interval over the seeds. angle: between the error that reaches the hidden layer and\n"
    "backprop's at the same weights, after training; in the last row that through the fixed point, by implicit\n"
    "differentiation. spikes/neuron: per image. time: training, all seeds together."
)

INTRO = (
    "The same network of leaky integrate-and-fire neurons learns handwritten digits under four kinds of feedback. "
    "Backprop sends the error back through the forward weights; feedback alignment through fixed random ones; sign "
    "symmetry through weights that share only their signs. Under Dale's law each hidden neuron excites or inhibits all "
    "its targets, for life. In the last row there is no backward pass: a network of the same size settles by "
    "sigma-delta spikes, its output is pushed, and each synapse learns from the spikes at its two ends (equilibrium "
    "propagation)."
)

TRACE = 10
"""Steps, of the traces from which the window is measured."""

WINDOW = (
    "What a synapse of the trained network learns from one pair of spikes. 64 test images, from rest, the output "
    "pushed towards the label; traces of {trace} steps. Points: the window, at each difference in time by itself, that "
    "best explains the change (presynaptic trace times the change of the postsynaptic one) of the synapses from 40 "
    "hidden neurons to the output; it leaves {unexplained:.1%} unexplained. Lines: the closed form of pair STDP."
)


def run_demo(config: Path, seeds: int, folder: Path, device: torch.device, tell: Callable[[str], None]) -> None:
    """Train every row with seeds 0, 1, ..., tell the table line by line, and write results.json and the report.

    Args:
        config: the configuration that the rows change. folder: of the results; a new one beside it if it exists.
    Raises:
        what loading the configuration, the data and training raise.
    """
    base = load_experiment(config)
    data = base.value.data.load().to(device)
    out = free_folder(folder)
    out.mkdir(parents=True)
    # Matrices this small are faster on one thread, and several times so where others use the cores too.
    torch.set_num_threads(1)
    env = environment(device)
    seed_text = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    tell(
        f"spikecredit {spikecredit.__version__} on {env['device']}, {seed_text}, configuration "
        f"{config_hash(base.resolved)[:12]}\n{data.name}: {len(data.train)} training, {len(data.validation)} "
        f"validation, {len(data.test)} test images; accuracy is on the test images, of the epoch best on validation\n"
    )
    tell(LINE.format("pathway", "test accuracy", "angle to true error", "spikes/neuron", "Dale violations", "time"))
    records, rows, more = [], [], []
    for label, changes in ROWS:
        results, angles = [], []
        for seed in range(seeds):
            loaded = load_experiment(config, (*changes, f"seed={seed}"))
            trainer = Trainer(loaded.value, data, log=lambda line: None)
            results.append(trainer.fit())
            angles.append(hidden_error_angle(trainer.history[-1]["layers"]))
            records.append(run_record(trainer, label, loaded.resolved, env))
        rows.append(row(label, results, angles, dale="constraint=" in "".join(changes)))
        if label == EQUILIBRIUM:
            more = windows(trainer)
        tell(LINE.format(*rows[-1].values()))
    summary = {"environment": env, "seeds": seeds, "rows": rows, "results": [record.result for record in records]}
    (out / "results.json").write_text(json.dumps(finite_or_none(summary), indent=1) + "\n")
    report = report_line(out / "report.html", "spikecredit demo", records, rows, INTRO, more)
    tell(f"\n{HOW_TO_READ}\n{report}")


def windows(trainer: Trainer) -> list[tuple[Any, str, str]]:
    """The STDP window of a network trained by spikes, measured: a figure with title and caption; none where matplotlib
    or spikes are missing."""
    images, labels = trainer.data.test.images[:64], trainer.data.test.labels[:64]
    x, lam = trainer.encode(images, "raster")[0], 1 - math.exp(-1 / TRACE)
    relaxation = eq.SigmaDelta(1, 30 * TRACE, epsilon=0.2, epsilon_decay=0.0, lam=lam, lam_decay=0.0)
    phase, energy = eq.Phase.of(eq.sections(trainer.net), x), eq.Hopfield()
    nudge = eq.Nudge(eq.SquaredError(), labels, torch.full((len(x), 1), 0.5, device=x.device))
    state = relaxation.start(energy, phase)
    busy = torch.arange(40)
    spikes, traces = [], [state.trace]
    with torch.no_grad():
        for _ in range(relaxation.nudged):
            after = relaxation.run(energy, phase, 1, state, nudge)
            spikes.append(relaxation.told(state, after))
            traces.append(after.trace)
            state = after
    (pre, post), (x_pre, y_post) = (
        [torch.stack(layer).double()[..., busy[: layer[0].shape[1]]] for layer in zip(*both, strict=True)]
        for both in (spikes, traces)
    )
    middle, moved = (x_pre[1:] + x_pre[:-1]) / 2, y_post[1:] - y_post[:-1]
    change = torch.einsum("tbi,tbj->bij", moved, middle)
    left = y_post[-1][:, :, None] * x_pre[-1][:, None, :]
    try:
        lags, fitted, unexplained = eq.fitted_window(pre, post, change, left, 5 * TRACE)
        closed = eq.PairSTDP(TRACE, TRACE).window(lags.double()) * lam**2 / (1 - lam)
        figure = plots.stdp_window(lags, fitted, closed)
    except (ImportError, ValueError):  # a network that hardly fires has no window; the report says it is not there
        return []
    return [(figure, "Spike-timing-dependent plasticity", WINDOW.format(trace=TRACE, unexplained=unexplained))]


def row(label: str, results: list[dict[str, Any]], angles: list[float], dale: bool) -> dict[str, str]:
    """One row of the table: means over seeds."""
    found = interval([r["test_accuracy"] for r in results])
    accuracy = f"{found.mean:.1%}" + ("" if math.isnan(found.high) else f" ± {100 * (found.high - found.mean):.1f}")
    return {
        "pathway": label,
        "test accuracy": accuracy,
        "angle to true error": f"{statistics.fmean(angles):.0f}°",
        "spikes/neuron": f"{statistics.fmean(r['spikes_per_neuron'] for r in results):.2f}",
        "Dale violations": str(sum(r["violations"] for r in results)) if dale else "–",
        "time": f"{sum(r['seconds'] for r in results):.1f} s",
    }

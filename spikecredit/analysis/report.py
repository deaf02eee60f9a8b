"""The report: one HTML file with everything in it, to be read offline and kept beside the run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecredit.analysis import plots
from spikecredit.analysis.page import Figures, Table, cell_text, html_table, section, write_page, yaml_block

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RunRecord:
    """What the report shows of one run. Runs with the same label are seeds of one condition."""

    label: str
    epochs: list[dict[str, Any]]  # lines of metrics.jsonl with event "epoch", epoch 0 = before training
    result: dict[str, Any] | None  # the line with event "result"; None: the run has not ended
    config: dict[str, Any]  # resolved, nested
    environment: dict[str, Any]  # versions, device, threads, commit
    raster: dict[str, np.ndarray]  # layer name -> (T, *N) spikes of one sample, in order
    sample: np.ndarray | None  # the image shown, (C, H, W)
    # synapse name -> (effective weights (out, in, ...), presynaptic signs that broadcast to them; None if under no law)
    weights: dict[str, tuple[np.ndarray, np.ndarray | None]]
    notes: list[str]  # sentences to state


class Interval(NamedTuple):
    """Mean of n values and the ends of its 95% interval; NaN ends if n < 2."""

    mean: float
    low: float
    high: float
    n: int


# 97.5% quantiles of Student's t for 1 to 30 degrees of freedom (Fisher & Yates' table; tested against the integral).
T_QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t; above 30 degrees of freedom by its expansion (Abramowitz & Stegun 26.7.5)."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = 1.959964
    second, third = (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + (z**3 + z) / 4 / freedom + second / freedom**2 + third / freedom**3


def interval(values: Sequence[float | None]) -> Interval:
    """Mean and 95% t-interval over seeds. None and NaN are left out, and n counts what is left."""
    kept = [float(v) for v in values if v is not None and not math.isnan(v)]
    n = len(kept)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(kept) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = t_quantile(n - 1) * math.sqrt(math.fsum((v - mean) ** 2 for v in kept) / (n - 1) / n)
    return Interval(mean, mean - half, mean + half, n)


def write_report(
    path: Path,
    title: str,
    runs: Sequence[RunRecord],
    table: Table | None = None,
    intro: str = "",
    more: Sequence[tuple["Figure", str, str]] = (),
) -> Path:
    """Write the report of one run, or of several compared by their labels.

    The file appears whole or not at all, and is the same for the same records.

    Args:
        path: its folder is made if need be.
        runs: those with the same label are seeds of one condition.
        table: rows to show, column -> value, instead of the summary made from the results.
        intro: a paragraph below the heading; blank lines part paragraphs.
        more: figures of the comparison beside those of every report, each with its title and caption.
    Returns:
        path.
    Raises:
        ValueError: no runs. ImportError: no matplotlib.
    """
    if not runs:
        raise ValueError("a report needs at least one run, got none")
    conditions: dict[str, list[RunRecord]] = {}
    for run in runs:
        conditions.setdefault(run.label, []).append(run)
    page = Figures()
    parts = [section("Summary", html_table(_summary(conditions) if table is None else table)), notes(conditions)]
    if len(runs) == 1:
        parts.append(section("Figures", *_run_figures(page, runs[0], curves=True)))
        parts.append(section("Configuration", yaml_block(runs[0].config)))
    else:
        parts.append(section("Comparison", *_comparison(page, conditions), *(page.figure(*one) for one in more)))
        parts.append("<section><h2>Conditions</h2>")
        for i, (label, group) in enumerate(conditions.items()):
            of = f"first of {len(group)} seeds" if len(group) > 1 else "one seed"
            parts.append(f"<details{'' if i else ' open'}><summary>{escape(label)} <small>{of}</small></summary>")
            parts += _run_figures(page, group[0], curves=False)
            parts.append(f"<h3>Configuration</h3>{yaml_block(group[0].config)}</details>")
        parts.append("</section>")
    parts.append(section("Environment", *environments(runs)))
    return write_page(Path(path), title, intro, parts)


def _comparison(page: Figures, conditions: Mapping[str, Sequence[RunRecord]]) -> Iterator[str]:
    epochs = {label: [run.epochs for run in group] for label, group in conditions.items()}
    tested = {label: [_accuracy(run) for run in group] for label, group in conditions.items()}
    yield page.figure(
        plots.accuracy_points({label: (values, interval(values)) for label, values in tested.items()}),
        "Test accuracy",
        "Coloured points are single seeds. The black diamond is their mean and the black line its 95% t-interval over "
        "the n seeds that gave a value; with one seed there is neither.",
    )
    yield page.figure(
        plots.curves(epochs),
        "Learning curves",
        "Accuracy in percent and loss by epoch. Thick lines with markers are means over the seeds of a condition, thin "
        "lines single seeds. A gap is a value not measured or not finite; a mean has one wherever a seed has.",
    )
    yield page.figure(
        plots.first_layer_angle(epochs),
        "Error angle in the first layer, by condition",
        "Angle between the error that the pathway delivers to the first synapse layer and that of backprop at the same "
        "weights and input. 0° is backprop itself, where conditions may coincide; at 90° (dotted) the delivered error "
        "tells nothing of the true one. Means over seeds are thick.",
    )


def _run_figures(page: Figures, run: RunRecord, curves: bool) -> Iterator[str]:
    selected = (run.result or {}).get("selected_epoch")
    depth = max(len(run.raster), len(run.weights))  # one colour for a layer's synapses and for the neurons behind them
    if curves:
        kept = f" The dotted line marks epoch {selected}, whose weights were kept." if selected is not None else ""
        yield page.figure(
            plots.curves({run.label: [run.epochs]}, selected),
            "Learning curves",
            "Accuracy in percent and loss by epoch, on the training part (dashed, squares) and the validation part "
            f"(solid, circles).{kept} A gap is a value that was not measured or not finite.",
        )
    if run.raster:
        yield page.figure(
            plots.raster(run.raster, run.sample, depth),
            "One sample on its way through the layers",
            "The input image, and the layers in order from above. A mark is a spike; time runs to the right in steps, "
            f"neurons are stacked. Of layers with more than {plots.MAX_NEURONS} neurons evenly spaced ones are "
            "shown. A readout does not spike: its lines are potentials in units of the threshold.",
        )
    yield page.figure(
        plots.firing(run.epochs, depth),
        "Firing by layer",
        "Left: mean spikes per neuron and time step (1 = a spike at every step). Right: percentage of neurons that did "
        "not fire once on the batch measured. Dark to light is the order of layers from input to output.",
    )
    yield page.figure(
        plots.angles(run.epochs, depth),
        "Alignment by layer",
        "Left: angle between the delivered error and the true one, that of backprop at the same weights and input. "
        "Middle: angle between effective feedback B and weights W. 0° is backprop itself, where layers coincide; 90° "
        "(dotted) is no relation. Right: percentage of entries in which B and W have the same sign (50% is chance).",
    )
    if any(epoch.get("spectrum") for epoch in run.epochs):  # runs of earlier versions have none
        yield page.figure(
            plots.spectra(run.epochs, depth),
            "Spectrum and dead synapses by layer",
            "Left: normalised entropy of the squared singular values of the effective weights; 1 if all are equal, 0 "
            "for rank one. Right: percentage of weights below a millionth of their layer's root mean square.",
        )
    if run.weights:
        yield page.figure(
            plots.weight_signs(run.weights),
            "Weights by the type of the presynaptic unit",
            "Effective weights as a percentage of their layer's weights, per bin; those of exactly 0 are not in the "
            "bars but stated above. Under Dale's law orange lies right of 0 only, blue left only.",
        )


def _accuracy(run: RunRecord) -> float:
    value = (run.result or {}).get("test_accuracy")
    return math.nan if value is None else float(value)


def _summary(conditions: Mapping[str, Sequence[RunRecord]]) -> list[dict[str, Any]]:
    """A row per condition: means over its seeds, and the interval of the test accuracy."""
    rows, several = [], any(len(group) > 1 for group in conditions.values())
    for label, group in conditions.items():
        results = [run.result or {} for run in group]
        accuracy = interval([_accuracy(run) for run in group])
        row: dict[str, Any] = {"condition": label}
        if several:
            row["seeds"] = accuracy.n if accuracy.n == len(group) else f"{accuracy.n} of {len(group)}"
        row["test accuracy (%)"] = None if accuracy.n == 0 else f"{100 * accuracy.mean:.2f}"
        if several:
            row["95% interval"] = f"{100 * accuracy.low:.2f} to {100 * accuracy.high:.2f}" if accuracy.n > 1 else None
        row["test loss"] = _mean(results, "test_loss", ".4f")
        row["epoch kept"] = ", ".join(cell_text(result.get("selected_epoch"))[0] for result in results)
        row["spikes per neuron"] = _mean(results, "spikes_per_neuron", ".2f")
        wrong = [result.get("violations") for result in results]
        row["wrong signs"] = None if None in wrong else sum(wrong)
        row["time (s)"] = _mean(results, "seconds", ".1f")
        row["samples per second"] = _mean(results, "samples_per_second", ".0f")
        rows.append(row)
    return rows


def _mean(results: Sequence[Mapping[str, Any]], key: str, form: str) -> str | None:
    """None where any seed has no value: one that diverged must not improve the mean by dropping out."""
    known = interval([result.get(key) for result in results])
    return format(known.mean, form) if known.n == len(results) else None


def notes(conditions: Mapping[str, Sequence[RunRecord]]) -> str:
    """Every note once, with the conditions that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for label, group in conditions.items():
        for note in dict.fromkeys(note for run in group for note in run.notes):
            about.setdefault(note, []).append(label)
    items = []
    for note, labels in about.items():
        where = "" if len(labels) == len(conditions) else f" <small>({escape(', '.join(labels))})</small>"
        items.append(f"<li>{escape(note)}{where}</li>")
    return section("Notes", f"<ul>{''.join(items)}</ul>") if items else ""


def environments(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Each distinct environment once, with the conditions run in it where there are several."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(yaml_block(run.environment), []).append(run.label)
    for text, labels in found.items():
        yield (f"<h3>{escape(', '.join(dict.fromkeys(labels)))}</h3>" if len(found) > 1 else "") + text

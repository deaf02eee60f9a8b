"""The report: one HTML file with everything in it, to be read offline and kept beside the run."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikecredit.analysis import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"  # the typographer's sign for no value; a 0 would be a measurement


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


Table = Sequence[Mapping[str, Any]]  # rows, column -> value


def write_report(
    path: Path, title: str, runs: Sequence[RunRecord], table: Table | None = None, intro: str = ""
) -> Path:
    """Write the report of one run, or of several compared by their labels.

    The file appears whole or not at all, and is the same for the same records.

    Args:
        path: its folder is made if need be.
        runs: those with the same label are seeds of one condition.
        table: rows to show, column -> value, instead of the summary made from the results.
        intro: a paragraph below the heading; blank lines part paragraphs.
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
    page = _Page()
    parts = [f"<header><h1>{escape(title)}</h1>{_paragraphs(intro)}</header>", "<main>"]
    parts += [_section("Summary", _table(_summary(conditions) if table is None else table)), _notes(conditions)]
    if len(runs) == 1:
        parts.append(_section("Figures", *_run_figures(page, runs[0], curves=True)))
        parts.append(_section("Configuration", _yaml(runs[0].config)))
    else:
        parts.append(_section("Comparison", *_comparison(page, conditions)))
        parts.append("<section><h2>Conditions</h2>")
        for i, (label, group) in enumerate(conditions.items()):
            of = f"first of {len(group)} seeds" if len(group) > 1 else "one seed"
            parts.append(f"<details{'' if i else ' open'}><summary>{escape(label)} <small>{of}</small></summary>")
            parts += _run_figures(page, group[0], curves=False)
            parts.append(f"<h3>Configuration</h3>{_yaml(group[0].config)}</details>")
        parts.append("</section>")
    parts += [_section("Environment", *_environments(runs)), "</main>"]
    text = TEMPLATE.format(title=escape(title), style=STYLE, body="\n".join(parts))
    return _write(Path(path), text)


class _Page:
    """Gives every figure of the page ids of its own."""

    def __init__(self) -> None:
        self.count = 0

    def figure(self, figure: "Figure", name: str, caption: str) -> str:
        self.count += 1
        drawn = plots.svg(figure, label=f"{name}. {caption}", prefix=f"f{self.count}-")
        return (
            f'<figure><div class="plot">{drawn}</div>'
            f"<figcaption><b>Figure {self.count}. {escape(name)}.</b> {escape(caption)}</figcaption></figure>"
        )


def _comparison(page: _Page, conditions: Mapping[str, Sequence[RunRecord]]) -> Iterator[str]:
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


def _run_figures(page: _Page, run: RunRecord, curves: bool) -> Iterator[str]:
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
        row["epoch kept"] = ", ".join(_cell(result.get("selected_epoch"))[0] for result in results)
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


def _cell(value: Any) -> tuple[str, bool]:
    """Text of a table cell, and whether it is a number."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return MISSING, True
    if isinstance(value, bool | np.bool_):
        return ("yes" if value else "no"), False
    if isinstance(value, float | np.floating):
        return f"{value:.4g}", True
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_cell(v)[0]}" for k, v in value.items()), False
    text = str(value)
    return text, text[:1].isdigit() or text[:1] in "-−+±"  # numbers formatted by the caller


def _table(rows: Table) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    right = [all(line[i][1] for line in cells) for i in range(len(columns))]
    marks = [' class="number"' if r else "" for r in right]
    head = "".join(f'<th scope="col"{m}>{escape(str(c))}</th>' for c, m in zip(columns, marks, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{m}>{escape(c)}</td>' for (c, _), m in zip(line, marks, strict=True))}</tr>"
        for line in cells
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _notes(conditions: Mapping[str, Sequence[RunRecord]]) -> str:
    """Every note once, with the conditions that it is about unless it is about all."""
    about: dict[str, list[str]] = {}
    for label, group in conditions.items():
        for note in dict.fromkeys(note for run in group for note in run.notes):
            about.setdefault(note, []).append(label)
    items = []
    for note, labels in about.items():
        where = "" if len(labels) == len(conditions) else f" <small>({escape(', '.join(labels))})</small>"
        items.append(f"<li>{escape(note)}{where}</li>")
    return _section("Notes", f"<ul>{''.join(items)}</ul>") if items else ""


def _environments(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Each distinct environment once, with the conditions run in it where there are several."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(_yaml(run.environment), []).append(run.label)
    for text, labels in found.items():
        yield (f"<h3>{escape(', '.join(dict.fromkeys(labels)))}</h3>" if len(found) > 1 else "") + text


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    plain = json.loads(json.dumps(value, default=str))  # tuples and paths have no YAML of their own
    return f"<pre>{escape(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))}</pre>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part.strip())


def _section(heading: str, *parts: str) -> str:
    return f"<section><h2>{heading}</h2>{''.join(parts)}</section>"


def _write(path: Path, text: str) -> Path:
    """Atomically: a temporary file beside, then one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1c1c1c; font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid #d5d5d5; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
header p, figcaption { max-width: 95ch; margin: .5rem 0; }
small { color: #595959; font-size: .85em; font-weight: normal; }
.wide, .plot, pre { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.2rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e6e6; }
th { border-bottom-color: #777; vertical-align: bottom; }
.number { text-align: right; } td { white-space: nowrap; }
figure { margin: 1.6rem 0 2.2rem; }
figure svg { display: block; width: 100%; min-width: 640px; height: auto; }
figcaption { font-size: .9rem; color: #3a3a3a; }
details { border: 1px solid #d5d5d5; border-radius: 6px; margin: .7rem 0; padding: .5rem 1rem; }
summary { cursor: pointer; font-weight: 600; }
pre { background: #f5f5f5; border-radius: 6px; padding: .8rem 1rem; font-size: .82rem; line-height: 1.4; }
"""

# The policy forbids the page every request, in case a label ever found a way to ask for one.
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

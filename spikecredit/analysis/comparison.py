"""Conditions side by side: means and intervals over seeds, differences paired by seed, a table and a page.

A condition is a list of runs that differ by their seed; a comparison is a mapping from label to condition, in order.
"""

import csv
import io
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from spikecredit.analysis import plots
from spikecredit.analysis.page import MISSING, Figures, html_table, section, write_page, yaml_block
from spikecredit.analysis.report import Interval, RunRecord, environments, interval, notes

Conditions = Mapping[str, Sequence[RunRecord]]
Failures = Mapping[tuple[str, int], str]  # (label, seed) -> why there is no result

HIDDEN, USED = slice(None, -1), slice(1, None)
"""Of the synapse layers: those whose error came through a pathway, and those whose feedback delivers an error to a
layer below. (The last layer gets its error from the loss; the first one's feedback would lead to the input.)"""

PER_LAYER = {"error_angle": HIDDEN, "weight_angle": USED, "sign_agreement": USED}
"""What is told of the layers after training, and of which."""

INTRO = (
    "Every condition is trained from the same seeds. Conditions of one network and one constraint start from the same "
    "forward weights and see the same images in the same order, whatever their pathway. Under another constraint the "
    "weights start from the same draw, brought to the constraint."
)

HOW_TO_READ = (
    "Accuracy on the test images: mean ± half of the 95 % t-interval over the seeds that gave a result. Difference: to "
    "the reference, in percentage points, paired by seed, with its own t-interval. Angle to true error: of the error "
    "that reaches each hidden layer and backprop's at the same weights. B to W: angle of the feedback weights in use "
    "and the forward weights, and how many of their signs agree. Layers in order from the input, after the last epoch, "
    "means over seeds. Spikes per neuron and image. Violations of the constraint, all seeds together. Time: training "
    "only, mean."
)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def hidden_error_angle(layers: Mapping[str, Any]) -> float:
    """Mean angle to the true error over the layers that get it through a pathway (all but the last), in degrees; NaN
    where there is none, or where a layer has none: a pooled angle must not hide a layer that receives nothing."""
    angles = [_number(layer["error_angle"]) for layer in list(layers.values())[HIDDEN]]
    return math.fsum(angles) / len(angles) if angles else math.nan


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two resolved configurations differ, with both values; a dash where a key is missing."""
    flat_a, flat_b = _flat(a), _flat(b)
    pairs = {key: (flat_a.get(key, MISSING), flat_b.get(key, MISSING)) for key in [*flat_a, *flat_b]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}").items()}
    return {prefix.lstrip("."): value}


def references(conditions: Conditions, backprop: Collection[str]) -> dict[str, str | None]:
    """For each condition the one of `backprop` (labels) to compare with: on the same data, and with the fewest other
    settings that differ besides pathway and constraint; without a constraint if there is one such."""
    configs = {label: runs[0].config for label, runs in conditions.items()}

    def distance(label: str, other: str) -> tuple[int, bool]:
        changed = [key.split(".")[0] for key in differences(configs[label], configs[other])]
        others = [key for key in changed if key not in ("pathway", "constraint", "seed")]
        return len(others), configs[other]["constraint"]["kind"] != "none"

    found: dict[str, str | None] = {}
    for label, config in configs.items():
        same_data = [other for other in backprop if configs[other]["data"] == config["data"]]
        found[label] = min(same_data, key=lambda other: distance(label, other), default=None)
    return found


def summarise(conditions: Conditions, failures: Failures, backprop: Collection[str]) -> list[dict[str, Any]]:
    """One record per condition, plain numbers: what results.json holds and the tables show. NaN where nothing is.

    backprop: labels of the conditions that are backprop, with which others may be compared.
    """
    found = references(conditions, backprop)
    rows = []
    for label, runs in conditions.items():
        results = [run.result for run in runs if run.result is not None]
        last = [run.epochs[-1]["layers"] for run in runs if run.result is not None]
        config, constrained = runs[0].config, runs[0].config["constraint"]["kind"] != "none"
        reference = found[label]
        violations = sum(result["violations"] for result in results) if constrained and results else None
        rows.append(
            {
                "condition": label,
                "pathway": config["pathway"],
                "constraint": config["constraint"],
                "seeds": [run.config["seed"] for run in runs],
                "finished": len(results),
                "test_accuracy": interval([result["test_accuracy"] for result in results])._asdict(),
                "reference": reference,
                "difference": None if reference in (None, label) else paired(runs, conditions[reference])._asdict(),
                **{key: _over_seeds(last, key, which) for key, which in PER_LAYER.items()},
                "spikes_per_neuron": interval([result["spikes_per_neuron"] for result in results]).mean,
                "violations": violations,
                "seconds": interval([result["seconds"] for result in results]).mean,
                "runs": {str(run.config["seed"]): _run(run, failures.get((label, run.config["seed"]))) for run in runs},
            }
        )
    return rows


def _run(run: RunRecord, failure: str | None) -> dict[str, Any]:
    layers = run.epochs[-1]["layers"] if run.epochs else {}
    return {
        "result": run.result,
        **{key: _over_seeds([layers], key, which) for key, which in PER_LAYER.items()},
        "failure": failure,
    }


def paired(runs: Sequence[RunRecord], others: Sequence[RunRecord]) -> Interval:
    """Interval of the difference of test accuracy, run minus other, over the seeds that both have a result of."""
    theirs, ours = _accuracies(others), _accuracies(runs)
    return interval([value - theirs[seed] for seed, value in ours.items() if seed in theirs])


def _accuracies(runs: Sequence[RunRecord]) -> dict[int, float]:
    return {run.config["seed"]: run.result["test_accuracy"] for run in runs if run.result is not None}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _over_seeds(layers: Sequence[Mapping[str, Any]], key: str, which: slice) -> dict[str, float]:
    """Layer -> mean over seeds; NaN where any seed has none."""
    names = list(dict.fromkeys(name for one in layers for name in one))[which]
    return {
        name: math.fsum(_number(one.get(name, {}).get(key)) for one in layers) / len(layers)
        for name in names
    }  # fmt: skip


def reasons(failures: Failures) -> list[tuple[str, str]]:
    """("condition, seeds 0, 1", why they have no result), each reason once."""
    about: dict[tuple[str, str], list[int]] = {}
    for (label, seed), reason in failures.items():
        about.setdefault((label, reason), []).append(seed)
    return [
        (f"{label}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}", reason)
        for (label, reason), seeds in about.items()
    ]


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str | None]]:
    """The summary as text, column -> cell; None where there is no value."""
    shown = []
    for row in rows:
        accuracy, difference = row["test_accuracy"], row["difference"]
        total = len(row["seeds"])
        shown.append(
            {
                "condition": row["condition"],
                "seeds": str(total) if row["finished"] == total else f"{row['finished']} of {total}",
                "test accuracy (%)": _plus_minus(accuracy),
                "error (%)": _text(100 - 100 * accuracy["mean"], ".2f"),
                "difference": None if difference is None else _plus_minus(difference, "+.2f"),
                "angle to true error (°)": _layers(row["error_angle"], 1),
                "B to W (°)": _layers(row["weight_angle"], 1),
                "signs agree (%)": _layers(row["sign_agreement"], 100),
                "spikes per neuron": _text(row["spikes_per_neuron"], ".2f"),
                "violations": None if row["violations"] is None else str(row["violations"]),
                "time (s)": _text(row["seconds"], ".1f"),
            }
        )
    return shown


def _text(value: float, form: str) -> str | None:
    return format(value, form).replace("-", "−") if math.isfinite(value) else None


def _plus_minus(found: Mapping[str, float], form: str = ".2f") -> str | None:
    """A fraction in percent, with half of its interval if it has one."""
    mean = _text(100 * found["mean"], form)
    half = 100 * (found["high"] - found["mean"])
    return mean if mean is None or not math.isfinite(half) else f"{mean} ± {half:.2f}"


def _layers(values: Mapping[str, float], scale: float) -> str | None:
    """A number for each layer; their range where there are more than four."""
    known = [scale * value for value in values.values() if math.isfinite(value)]
    if not known:
        return None
    if len(values) <= 4:
        return " / ".join(_text(scale * value, ".0f") or MISSING for value in values.values())
    missing = f", {len(values) - len(known)} of {len(values)} {MISSING}" if len(known) < len(values) else ""
    return f"{min(known):.0f} to {max(known):.0f}{missing}"


def text_table(shown: Sequence[Mapping[str, str | None]]) -> str:
    """A table for the terminal, columns aligned."""
    return "\n".join(_aligned(shown))


def _aligned(shown: Sequence[Mapping[str, str | None]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in shown for key in row))
    lines = [columns, *([row.get(column) or MISSING for column in columns] for row in shown)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        first, *rest = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *rest]).rstrip()


def markdown_table(shown: Sequence[Mapping[str, str | None]]) -> str:
    """The same as Markdown."""
    columns = list(dict.fromkeys(key for row in shown for key in row))
    lines = [columns, ["---"] * len(columns), *([row.get(column) or MISSING for column in columns] for row in shown)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as numbers, a row per condition; angles and signs are means over layers. Empty: no value."""
    lines = []
    for row in rows:
        numbers: dict[str, Any] = {"condition": row["condition"]}
        for choice in ("pathway", "constraint"):
            numbers[choice] = json.dumps(row[choice])
        numbers |= {"seeds": len(row["seeds"]), "finished": row["finished"]}
        for name in ("test_accuracy", "difference"):
            found = row[name] or {"mean": math.nan, "low": math.nan, "high": math.nan}
            numbers |= {f"{name}_{end}": found[end] for end in ("mean", "low", "high")}
        numbers["reference"] = row["reference"]
        for name in PER_LAYER:
            values = list(row[name].values())
            numbers[name] = math.fsum(values) / len(values) if values else math.nan
        numbers |= {name: row[name] for name in ("spikes_per_neuron", "violations", "seconds")}
        lines.append(
            {k: "" if v is None or (isinstance(v, float) and math.isnan(v)) else v for k, v in numbers.items()}
        )
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


# ---- the page --------------------------------------------------------------------------------------------------------


def write_comparison(
    path: Path, title: str, command: str, conditions: Conditions, failures: Failures, rows: Sequence[Mapping[str, Any]]
) -> Path:
    """Write the page: table, figures, configurations and machine, in one file with everything in it.

    Args:
        path: its folder is made if need be. command: that gave the results. rows: of `summarise`.
    Raises:
        ImportError: no matplotlib.
    """
    finished = {label: [run for run in runs if run.result is not None] for label, runs in conditions.items()}
    finished = {label: runs for label, runs in finished.items() if runs}
    named = {row["condition"]: row["reference"] for row in rows}
    told = sorted({reference for reference in named.values() if reference is not None}, key=list(named).index)
    reading = HOW_TO_READ + (
        f" Reference: {', '.join(told)}." if told else " No condition is backprop: no differences."
    )
    parts = [f"<pre>{escape(command)}</pre>"]
    summary = f'<div class="dense">{html_table(table(rows))}</div><p>{escape(reading)}</p>'
    parts.append(section("Summary", summary, _failed(failures)))
    parts.append(notes(finished))
    if finished:
        parts.append(section("Comparison", *_figures(Figures(), finished, rows, told)))
    parts.append(section("Configurations", *_configurations(conditions)))
    parts.append(section("Environment", *environments([run for runs in finished.values() for run in runs])))
    return write_page(path, title, INTRO, parts)


def _failed(failures: Failures) -> str:
    items = [f"<li><b>{escape(who)}</b>: {escape(reason)}</li>" for who, reason in reasons(failures)]
    return f"<h3>Without a result</h3><ul>{''.join(items)}</ul>" if items else ""


def _figures(
    page: Figures, finished: Conditions, rows: Sequence[Mapping[str, Any]], told: Sequence[str]
) -> Iterator[str]:
    epochs = {label: [run.epochs for run in runs] for label, runs in finished.items()}
    points = "Coloured points are single seeds. The black diamond is their mean and the black line its 95% t-interval. "
    tested = {label: list(_accuracies(runs).values()) for label, runs in finished.items()}
    yield page.figure(
        plots.accuracy_points({label: (values, interval(values)) for label, values in tested.items()}),
        "Test accuracy",
        points + "With one seed there is neither.",
    )
    against = {row["condition"]: row["reference"] for row in rows if row["difference"] and row["difference"]["n"]}
    if against:
        drawn = {}
        for label, reference in against.items():
            theirs, ours = _accuracies(finished[reference]), _accuracies(finished[label])
            values = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
            drawn[label] = (values, interval(values))
        yield page.figure(
            plots.difference_points(drawn, list(finished)),
            "Difference to the reference",
            points + "A pair has the same seed: the same training images in the same order, and the same initial "
            "weights where networks and constraints are the same. Left of the dotted line is worse than the reference.",
        )
    behind = told[0] if told and told[0] in epochs else None
    grey = f" Grey: the mean of {behind}." if behind and len(epochs) > 1 else ""
    thick = " Thick lines are means over seeds, thin lines single seeds."
    yield page.figure(
        plots.accuracy_panels(epochs, behind),
        "Learning curves",
        f"Accuracy in percent on the training part (dashed, while it trains) and on the validation part.{grey}{thick}",
    )
    yield page.figure(
        plots.layer_panels(epochs, "layers", "error_angle", "error (°)", HIDDEN, 1.0),
        "Alignment of the delivered error",
        "Angle between the error that reaches a hidden layer and that of backprop at the same weights and input. 0° is "
        f"backprop itself; at 90° (dotted) it tells nothing of the true one. Dark to light: input to output.{thick}",
    )
    yield page.figure(
        plots.layer_panels(epochs, "layers", "weight_angle", "B to W (°)", USED, 1.0),
        "Alignment of the feedback weights",
        "Angle between effective feedback B and weights W, of the layers whose B delivers an error. Not measured: the "
        f"pathway has no B of W's shape.{thick}",
    )
    yield page.figure(
        plots.layer_panels(epochs, "activity", "rate", "spikes per step", slice(None), 1.0),
        "Firing rate by layer",
        f"Mean spikes per neuron and time step on the images measured (1 = a spike at every step).{thick}",
    )


def _configurations(conditions: Conditions) -> Iterator[str]:
    """What all have in common, and each condition's own choices."""
    configs = {label: {**runs[0].config, "seed": None} for label, runs in conditions.items()}
    first = next(iter(configs.values()))
    changed = {key for config in configs.values() for key in differences(first, config)}
    own = [key for key in first if any(config[key] != first[key] for config in configs.values())]
    lines = []
    for label, config in configs.items():
        line: dict[str, Any] = {"condition": label}
        line["seeds"] = ", ".join(str(run.config["seed"]) for run in conditions[label])
        line |= {key: config[key] for key in ("pathway", "constraint") if key in own}
        flat = _flat(config)
        rest = {k: flat.get(k, MISSING) for k in sorted(changed) if k.split(".")[0] not in ("pathway", "constraint")}
        lines.append(line | rest)
    yield f'<div class="dense wrap">{html_table(lines)}</div>'
    shared = {key: value for key, value in first.items() if key not in own and key != "seed"}
    partly = {key: first[key] for key in own if key not in ("pathway", "constraint")}
    yield f"<h3>The same for all</h3>{yaml_block(shared)}"
    if partly:
        label = next(iter(configs))
        yield f"<h3>Of {escape(label)}; the others differ as above</h3>{yaml_block(partly)}"

"""The record of `benchmarks.speed` as Markdown tables and as a plot; both take the parsed results/speed-DEVICE.json."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.speed_steps import BOUND, OURS, REFERENCE

Record = dict[str, Any]
AXES = {"steps": "time steps T", "batch": "batch", "width": "hidden neurons"}
MORE = {"resident_mib": "resident, MiB", "page_faults": "page faults per step"}  # columns where they were measured
WHAT = {
    "spikes": "Bernoulli spikes at every step, of uniformly distributed pixels (half of the inputs spike)",
    "sparse spikes": "Bernoulli spikes at every step, of pixels as bright as MNIST's (13 % of the inputs spike)",
    "constant": "a constant image (direct coding)",
}


def render(record: Record) -> str:
    """Every section that was measured, each with the machine, versions and commit that gave it."""
    parts = []
    for name, section in record["sections"].items():
        body = {"kernel": _kernel, "scaling": _scaling}.get(name, _network)(section)
        parts.append(f"## {_title(name, section)}\n\n{body}\n\n{_origin(section)}")
    return "\n\n".join(parts) + "\n"


def plot(record: Record, path: Path) -> None:
    """Time of a training step against T, batch and width, with quartiles; in the style of the project's reports."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from spikecredit.analysis import plots

    rows = record["sections"]["scaling"]["rows"]
    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 3.6), layout="constrained")
        panels = figure.subplots(1, len(AXES), squeeze=False)[0]
        for ax, (axis, label) in zip(panels, AXES.items(), strict=True):
            lines = _series(row for row in rows if row["axis"] == axis)
            for (name, points), colour, marker in zip(lines.items(), plots.CONDITIONS, plots.MARKERS, strict=False):
                x = [row["value"] for row in points]
                ax.plot(x, [1e3 * row["median"] for row in points], marker, color=colour, linestyle="-", markersize=4,
                        label=name)  # fmt: skip
                low, high = ([1e3 * row[key] for row in points] for key in ("low", "high"))
                ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            ax.set(xscale="log", yscale="log", xlabel=label, title="training step (ms)")
            values = sorted({row["value"] for points in lines.values() for row in points})
            ax.set_xticks(values, [str(value) for value in values])
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # the style draws no formulas, as powers would be
            for which in (ax.xaxis, ax.yaxis):
                which.set_minor_formatter(NullFormatter())
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _series(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = row["competitor"] + ("" if row["precision"] == "float32" else f", {row['precision']}")
        found.setdefault(name, []).append(row)
    return {name: sorted(points, key=lambda row: row["value"]) for name, points in found.items()}


def _title(name: str, section: Record) -> str:
    fixed = {"kernel": "The LIF kernel alone", "scaling": "How cost grows"}
    if name in fixed:
        return fixed[name]
    work, tuned = section["work"], ", tuned malloc" if section["environment"]["malloc"] != "default" else ""
    return f"{work['name']}, T = {work['steps']}, batch {work['batch']}{tuned}"


def _network(section: Record) -> str:
    parts = []
    for kind, what in WHAT.items():
        rows = [row for row in section["rows"] if row["input"] == kind]
        if not rows:
            continue
        columns = ["", "precision", "training step, ms (quartiles)", "x", "of ReLU's", "inference, ms", "x",
                   "peak memory, MiB"]  # fmt: skip
        more = {key: head for key, head in MORE.items() if any(row.get(key) is not None for row in rows)}
        body = [_network_row(row, rows, more) for row in rows if "error" not in row]
        failed = [f"{row['competitor']}, {row['precision']}: {row['error']}" for row in rows if "error" in row]
        text = f"Input: {what}.\n\n" + table([*columns, *more.values()], body)
        parts.append(text + "".join(f"\n\nDid not run: {each}." for each in failed))
    return "\n\n".join(parts) + (
        f'\n\nx: speed relative to "{REFERENCE}" in float32, same process. of ReLU\'s: time over that of the same '
        "network with ReLU in place of LIF, same layout and precision; with quartiles where single steps of the two "
        "were timed in turn, without the others in between. Each timed step follows one of its own that is not. "
        "peak memory: what a training step needs beyond "
        "model and data, gradients and Adam's state included; resident: with what malloc keeps of freed memory."
    )


def of_bound(row: dict[str, Any], rows: list[dict[str, Any]], quartiles: bool = False) -> str:
    """Our step over that of the same network with ReLU: in pairs, or in older records the ratio of two medians."""
    if paired := row.get("of_bound"):
        spread = f" ({paired['low']:.2f}–{paired['high']:.2f})" if quartiles else ""
        return f"{paired['median']:.2f}{spread}"
    same = row["competitor"].replace(OURS, BOUND, 1), row["input"], row["precision"]
    for other in rows:
        if (other["competitor"], other["input"], other["precision"]) == same and "train" in other and other is not row:
            return f"{row['train']['median'] / other['train']['median']:.2f}"
    return "–"


def _network_row(row: dict[str, Any], rows: list[dict[str, Any]], more: dict[str, str]) -> list[str]:
    name, precision = row["competitor"], row["precision"]
    return [
        f"**{name}**" if name.startswith(OURS) else name,
        precision,
        _time(row["train"]),
        _number(row.get("train_x")),
        of_bound(row, rows, quartiles=True) if name.startswith(OURS) else "–",
        f"{row['inference']['median'] * 1e3:.1f}",
        _number(row.get("inference_x")),
        _number(row.get("memory_mib"), 0),
        *("–" if row.get(key) is None else f"{row[key]:,.0f}" for key in more),
    ]


def _kernel(section: Record) -> str:
    rows = [
        [
            f"{row['label']} {row['shape']}",
            row["dtype"],
            row["case"],
            _time(row, 3),
            _number(row.get("bound")),
            f"{row['bytes_per_element']}" if "bytes_per_element" in row else "–",
            f"{row['bandwidth']:.0%}" if "bandwidth" in row else "–",
        ]
        for row in section["rows"]
        if "error" not in row
    ]
    columns = ["shape [T, B, N]", "dtype", "forward + backward", "ms (quartiles)", "of the bound", "bytes per element",
               "of the copy's bandwidth"]  # fmt: skip
    return table(columns, rows) + (
        "\n\nThe bound is three copies of the tensor (24 bytes per element in float32). Bytes: what the kernel has to "
        "read and write by our own count."
    )


def _scaling(section: Record) -> str:
    parts = []
    for axis, label in AXES.items():
        lines = _series(row for row in section["rows"] if row["axis"] == axis)
        if not lines:
            continue
        values = [row["value"] for row in next(iter(lines.values()))]
        rows = []
        for i, value in enumerate(values):
            base = lines[REFERENCE][i]["median"] if REFERENCE in lines else math.nan
            rows.append([f"{value:,}", *(_cell(base, points[i], name) for name, points in lines.items())])
        text = table([label, *(f"{name}, ms" for name in lines)], rows)
        growth = "; ".join(f"{name} {_exponent(points):.2f}" for name, points in lines.items())
        parts.append(f"{text}\n\nExponent of growth from {values[_middle(values)]:,} to {values[-1]:,}: {growth}.")
    others = ", ".join(f"{AXES[axis]} {value:,}" for axis, value in section["base"].items())
    return "\n\n".join(parts) + f"\n\nFC 784-width-10, Bernoulli spikes, training step; what is not varied: {others}."


def _cell(base: float, row: dict[str, Any], name: str) -> str:
    times = "" if name == REFERENCE or math.isnan(base) else f" ({base / row['median']:.1f} x)"
    return f"{row['median'] * 1e3:.2f}{times}"


def _middle(values: list[Any]) -> int:
    return (len(values) - 1) // 2


def _exponent(points: list[dict[str, Any]]) -> float:
    """d log(time) / d log(value) over the upper half, where fixed costs are small."""
    first, last = points[_middle(points)], points[-1]
    return math.log(last["median"] / first["median"]) / math.log(last["value"] / first["value"])


def _origin(section: Record) -> str:
    """The line under a table: command, commit, machine, versions."""
    e = section["environment"]
    peers = ", ".join(f"{name} {version}" for name, version in e["peers"].items())
    malloc = "default malloc" if e["malloc"] == "default" else f"malloc: `{e['malloc']}`"
    return (
        f"`{e['command']}`, commit {e['commit']}, torch {e['torch']}; {peers}; {e['threads']} threads of {e['cores']} "
        f"cores ({e['processor']}: {' '.join(e['cpu_flags'])}), {e['device']}, {malloc}, {e['repeats']} repeats, load "
        f"before the start {e['load']:.1f}, {e['date']}."
    )


def _time(seconds: dict[str, Any], digits: int = 1) -> str:
    middle, low, high = (f"{seconds[key] * 1e3:.{digits}f}" for key in ("median", "low", "high"))
    return f"{middle} ({low} to {high})"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])

"""Figures of the plasticity laboratory: a result in, one matplotlib figure out. matplotlib is imported only then.

Each protocol names its figure (`Protocol.plot`, a key of `PLOTS`); `Result.plot` draws it. Points with bars are
published means and standard errors.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecredit.analysis import plots
from spikecredit.plasticity.datasets import Point, written
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.protocols import order
from spikecredit.plasticity.result import Comparison, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANGE = "change of strength (%)"
NAMES = {
    "dt": "lag, t post - t pre", "rate": "rate", "T": "interval T between the pairs", "delay": "delay of the reward",
    "voltage": "potential of the clamped cell", "n_post": "postsynaptic spikes", "rate_post": "rate in the burst",
    "trains": "trains",
}  # fmt: skip
"""What axes of experiments are called in figures."""
LINES_SHOWN = 8
"""More conditions or replicates than this hide each other."""
SHOWN_IN = {"volt": (1e3, "mV"), "amp": (1e12, "pA"), "siemens": (1e9, "nS"), "second": (1e3, "ms")}
"""Base units with the factor and unit in which cells are described."""


def save(figure: "Figure", path: Path | str) -> Path:
    """Write a figure; the ending of the path names the format."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with plots._style():
        figure.savefig(target, dpi=130)
    return target


def title(result: Result) -> str:
    """Rule, preset, whether its numbers are from memory, and engine."""
    name = result.rule.published
    preset = "" if name is None else f", {_marked(name, result.rule.PRESETS[name].verified)}"
    return f"{type(result.rule).__name__}{preset} ({result.engine})"


def _marked(name: str, verified: bool) -> str:
    """A name, and whether its numbers were read in their source."""
    return name if verified else f"{name}, from memory"


def _label(axes: Mapping[str, str], name: str) -> str:
    return f"{NAMES.get(name, name)} ({axes[name]})" if axes[name] else NAMES.get(name, name)


def _values(row: Mapping[str, Any], axes: Mapping[str, str], without: str = "") -> str:
    """The condition in words: dt = 10 ms, rate = 1 Hz."""
    return ", ".join(f"{n} = {written(row[n])} {unit}".rstrip() for n, unit in axes.items() if n != without)


def _place(at: Any) -> tuple[float, float]:
    """(middle, half of the width) of a point's place."""
    return ((at[0] + at[1]) / 2, (at[1] - at[0]) / 2) if isinstance(at, tuple) else (at, 0.0)


def _data(ax: "Axes", points: Sequence[tuple[float, Point]], half: Sequence[float], look: Any, label: str) -> None:
    """Published means with SEM; a horizontal line where lags were pooled; open where there is no SEM."""
    colour, marker = look
    for barred in (True, False):
        chosen = [k for k, (_, p) in enumerate(points) if p.sign is None and np.isfinite(p.sem) == barred]
        if not chosen:
            continue
        ax.errorbar(
            [points[k][0] for k in chosen],
            [100 * points[k][1].change for k in chosen],
            yerr=[100 * points[k][1].sem for k in chosen] if barred else None,
            xerr=[half[k] for k in chosen] if any(half[k] for k in chosen) else None,
            fmt=marker, color=colour, markersize=6, capsize=3, elinewidth=1.2, zorder=3,
            markerfacecolor=colour if barred else "white", label=label,
        )  # fmt: skip
        label = ""


def _data_name(data: Comparison) -> str:
    return _marked(data.data.name, data.data.verified)


def _zero(ax: "Axes") -> None:
    ax.axhline(0, color=plots.FAINT, linestyle=":", linewidth=1.2)


def _legend(figure: "Figure", ax: "Axes") -> None:
    """Above the panels, if there is anything to tell apart."""
    if len(ax.get_legend_handles_labels()[1]) > 1:
        plots._legend_above(figure, ax)


# ---- change over one axis --------------------------------------------------------------------------------------------


def sweep(result: Result, data: Comparison | None = None, x: str | None = None) -> "Figure":
    """Change of strength over the axis with most values, a line for each condition of the others.

    Args:
        x: another axis.
    Raises:
        ValueError: an axis that the experiment lacks.
    """
    axes, rows = result.experiment.axes, result.rows
    if x is None:
        x = max(axes, key=lambda name: len({row[name] for row in rows}))
    elif x not in axes:
        raise ValueError(f"the experiment varies {', '.join(axes)}, not {x!r}")
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault(_values(row, axes, without=x), []).append(row)
    with plots._style():
        figure, grid = plots._figure(3.8)
        ax, drawn = grid.flat[0], set()
        _zero(ax)
        for label, (colour, line, marker), some in plots._looks(series):
            own = [p for p in data.points if _values_match(p, some[0], x)] if data else []
            drawn |= {id(p) for p in own}
            ordered = sorted(some, key=lambda row: row[x])
            name = f"model, {label}" if own and label else label or ("model" if data else "")
            for part in _parts(ordered, x):
                few = len(ordered) <= 25 and not own
                ax.plot(
                    [row[x] for row in part], [100 * row["change"] for row in part], color=colour, linestyle=line,
                    marker="." if few or len(part) == 1 else "", label=name,
                )  # fmt: skip
                name = ""
            if own and data:
                _points_at(ax, own, x, (colour, marker), ", ".join(filter(None, (_data_name(data), label))))
        rest = [p for p in data.points if id(p) not in drawn] if data else []
        if rest and data:
            _points_at(ax, rest, x, (plots.INK, "o"), _data_name(data))
        ax.set(xlabel=_label(axes, x), ylabel=CHANGE, title=title(result))
        _legend(figure, ax)
    return figure


def _points_at(ax: "Axes", points: Sequence[Point], x: str, look: Any, label: str) -> None:
    places = [_place(p.at[x]) for p in points]
    _data(ax, [(at, p) for (at, _), p in zip(places, points, strict=True)], [half for _, half in places], look, label)


def _values_match(point: Point, row: Mapping[str, Any], x: str) -> bool:
    """Whether a point belongs to a line: its other places are the line's."""
    others = {axis: place for axis, place in point.at.items() if axis != x}
    return Point(others, 0.0).covers(row)


def _parts(rows: Sequence[Mapping[str, Any]], x: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The line in pieces: over lags it is cut before 0, where windows of spike timing jump."""
    cut = next((k for k, row in enumerate(rows) if row[x] >= 0), 0) if x in ("dt", "T") else 0
    yield from (part for part in (rows[:cut], rows[cut:]) if part)


def window(result: Result, data: Comparison | None = None) -> "Figure":
    """The window of spike-timing-dependent plasticity: change over the lag. Lag 0 is pre before post."""
    figure = sweep(result, data, x="dt")
    figure.axes[0].axvline(0, color=plots.FAINT, linestyle=":", linewidth=1.2)
    return figure


def frequency(result: Result, data: Comparison | None = None) -> "Figure":
    """Change over the rate of pairs, a line for each lag."""
    return sweep(result, data, x="rate")


def clamp(result: Result, data: Comparison | None = None) -> "Figure":
    """Change over the potential at which the cell is held."""
    return sweep(result, data, x="voltage")


def bars(result: Result, data: Comparison | None = None) -> "Figure":
    """A bar for each condition; triplets in two colours."""
    axes, rows = result.experiment.axes, result.rows
    triplets = set(axes) == {"dt1", "dt2"}
    kinds = [order([row["dt1"], row["dt2"]]) if triplets else "" for row in rows]
    with plots._style():
        figure, grid = plots._figure(3.8)
        ax = grid.flat[0]
        for k, kind in enumerate(dict.fromkeys(kinds)):
            at = [c for c, name in enumerate(kinds) if name == kind]
            heights = [100 * rows[c]["change"] for c in at]
            label = f"model, {kind}" if data and kind else kind or ("model" if data else "")
            ax.bar(at, heights, 0.62, color=plots.CONDITIONS[k], alpha=0.75, label=label)
        if data:
            found = [(float(c), p) for p in data.points for c, row in enumerate(rows) if p.covers(row)]
            _data(ax, found, [0.0] * len(found), (plots.INK, "o"), _data_name(data))
        ax.axhline(0, color=plots.FAINT, linewidth=0.8)
        names = [", ".join(written(row[name]) for name in axes) for row in rows]
        ax.set_xticks(range(len(rows)), names, rotation=0 if len(rows) <= 12 else 90)
        ax.grid(axis="x", visible=False)
        what = "lags t post - t pre with the first and the last spike (ms)" if triplets else ", ".join(
            f"{n} ({u})" if u else n for n, u in axes.items()
        )  # fmt: skip
        ax.set(xlabel=what, ylabel=CHANGE, title=title(result))
        _legend(figure, ax)
    return figure


# ---- over time -------------------------------------------------------------------------------------------------------


def thresholds(equations: Equations) -> dict[str, dict[str, float]]:
    """For each variable the parameters with which the model compares it, and their values in SI units: calcium with the
    thresholds of potentiation and depression, for example."""
    found: dict[str, dict[str, float]] = {}
    texts = [e for line in equations.lines.values() for e in (line.slope, line.value) if e is not None]
    texts += [s.value for block in equations.blocks.values() for s in block]
    for node in (node for text in texts for node in ast.walk(text.tree)):
        match node:
            case ast.Compare(left=ast.Name(id=left), comparators=[ast.Name(id=right)]):
                for name, parameter in ((left, right), (right, left)):
                    if name in equations.lines and parameter in equations.values:
                        found.setdefault(name, {})[parameter] = float(equations.values[parameter])
    return found


def course(result: Result, data: Comparison | None = None) -> "Figure":
    """Recorded variables over time, a panel each, a line for each condition (thin ones for its replicates); dashed: the
    thresholds with which the model compares a variable.

    Raises:
        ValueError: nothing was recorded.
    """
    traces, times = result.outcome.traces, result.outcome.times
    if not traces:
        raise ValueError("no variable was recorded: write record=('w',), every=10.0 when you run the protocol")
    equations, axes = result.rule.equations(), result.experiment.axes
    compared = thresholds(equations)
    divisor, unit = next((d, u) for d, u, least in ((3.6e6, "h", 7.2e6), (1e3, "s", 2e3), (1.0, "ms", 0.0))
                         if times[-1] >= least)  # fmt: skip
    rows = result.experiment.rows
    shown = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), LINES_SHOWN)).round().astype(int))
    with plots._style():
        figure, grid = plots._figure(0.7 + 2.3 * len(traces), len(traces))
        for ax, (name, values) in zip(grid[:, 0], traces.items(), strict=True):
            base = str(equations.units[name])
            factor, word = SHOWN_IN.get(base, (1.0, "" if base == "1" else base))
            labels = {_values(rows[c], axes): values[:, c] * factor for c in shown}
            for label, (colour, line, _), curve in plots._looks(labels):
                if curve.shape[1] > 1:
                    thin = curve[:, :LINES_SHOWN]
                    ax.plot(times / divisor, thin, color=colour, linestyle=line, linewidth=0.6, alpha=0.5)
                ax.plot(times / divisor, curve.mean(1), color=colour, linestyle=line, label=label)
            for threshold, level in compared.get(name, {}).items():
                ax.axhline(level * factor, color=plots.FAINT, linestyle=(0, (4, 3)), linewidth=1.0)
                ax.annotate(
                    threshold, (1.0, level * factor), xycoords=("axes fraction", "data"), xytext=(3, 0),
                    textcoords="offset points", va="center", fontsize=8.5, color=plots.FAINT,
                )  # fmt: skip
            ax.set(ylabel=f"{name} ({word})" if word else name, xlim=(0, times[-1] / divisor))
            ax.tick_params(labelbottom=ax is grid[-1, 0])
        few = "" if len(shown) == len(rows) else f"; {len(shown)} of {len(rows)} conditions"
        grid[0, 0].set_title(title(result) + few)
        grid[-1, 0].set_xlabel(f"time ({unit})")
        _legend(figure, grid[0, 0])
    return figure


def weights(result: Result, data: Comparison | None = None) -> "Figure":
    """Weights of all conditions and replicates: their histogram over time as a heat map, and first and last beside it.

    Raises:
        ValueError: the weight was not recorded.
    """
    name = result.rule.equations().weight
    if name not in result.outcome.traces:
        raise ValueError(f"the weight was not recorded: write record=({name!r},), every=10.0 when you run the protocol")
    values = result.outcome.traces[name]
    return histogram(result.outcome.times, values.reshape(len(values), -1), title(result))


def histogram(times: Any, values: Any, name: str = "", bins: int = 50) -> "Figure":
    """Histograms of many weights over time: a heat map, and the first and last of them beside it.

    Args:
        times: (K,) ms, ascending. values: (K, N). name: the title. bins: of the weight axis.
    """
    times, values = np.asarray(times, dtype=float), np.asarray(values, dtype=float)
    low, high = float(values.min()), float(values.max())
    margin = 0.02 * ((high - low) or abs(high) or 1.0)
    edges = np.linspace(low - margin, high + margin, bins + 1)
    share = 100 * np.stack([np.histogram(row, edges)[0] for row in values]) / values.shape[1]
    middles = (times[1:] + times[:-1]) / 2e3
    sides = np.concatenate([times[:1] / 1e3, middles, times[-1:] / 1e3])  # each column around its moment
    with plots._style():
        figure, _ = plots._figure(3.8, 0)
        heat, ends = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
        drawn = heat.pcolormesh(sides, edges, share.T, cmap="viridis", vmin=0, rasterized=True)
        heat.grid(visible=False)
        heat.set(xlabel="time (s)", ylabel="weight", title=name)
        figure.colorbar(drawn, ax=heat, label="share of weights (%)", pad=0.01)
        for k, (label, colour) in enumerate((("first", plots.BACK), ("last", plots.CONDITIONS[0]))):
            ends.stairs(share[-k], edges, orientation="horizontal", fill=True, color=colour, alpha=0.7, label=label)
        ends.set(xlabel="share of weights (%)")
        ends.legend()
    return figure


def memory(times: Any, signal_to_noise: Mapping[str, Any], slope: float | None = None) -> "Figure":
    """The signal-to-noise ratio of a memory over its age, both axes logarithmic.

    Args:
        times: (K,) s, positive. signal_to_noise: label to (K,); values that are not positive are gaps.
        slope: draw t**slope through the middle of the first curve, for comparison.
    """
    times = np.asarray(times, dtype=float)
    with plots._style():
        figure, grid = plots._figure(3.8)
        ax = grid.flat[0]
        for label, (colour, line, _), values in plots._looks(signal_to_noise):
            known = np.where(np.asarray(values, dtype=float) > 0, values, np.nan)
            ax.plot(times, known, color=colour, linestyle=line, label=label)
            if slope is not None and np.isfinite(known).any():
                at = np.flatnonzero(np.isfinite(known))[np.isfinite(known).sum() // 2]
                guide = known[at] * (times / times[at]) ** slope
                ax.plot(times, guide, color=plots.FAINT, linestyle="--", linewidth=1.0, label=f"t^{slope:g}", zorder=1)
                slope = None
        ax.set(xscale="log", yscale="log", xlabel="age of the memory (s)", ylabel="signal / noise")
        for axis in (ax.xaxis, ax.yaxis):  # the style draws no formulas, which powers of ten would be
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")
        _legend(figure, ax)
    return figure


PLOTS: dict[str, Callable[[Result, Comparison | None], "Figure"]] = {
    "sweep": sweep, "window": window, "frequency": frequency, "clamp": clamp, "bars": bars, "course": course,
    "weights": weights,
}  # fmt: skip
"""By the names that `Protocol.plot` and `Result.plot(kind=...)` take."""

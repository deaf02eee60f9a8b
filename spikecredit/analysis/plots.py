"""Figures: plain numbers in, one matplotlib figure out. matplotlib is imported only when one is drawn.

No figure touches pyplot's global state, and `svg` gives the same text for the same numbers. None and NaN are gaps in a
curve, never 0.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epoch = Mapping[str, Any]
"""One line of metrics.jsonl with event "epoch"."""
Panel = tuple[str, str, float]  # key, title, factor
Seeds = Sequence[Sequence[Epoch]]
"""The epochs of every seed of one condition."""

WIDE = 10.8
"""Inches: the width of the report's column, so that letters keep their size on the page."""
MAX_NEURONS = 200
"""More rows than this fall on the same pixels of a raster."""
MAX_LABEL = 44

# Okabe & Ito 2008, without yellow (too light on white): distinct under every common colour blindness.
CONDITIONS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>PX"  # 9 of them for 7 colours: a pair repeats only after 63 conditions
EXCITATORY, INHIBITORY, UNSIGNED = "#D55E00", "#0072B2", "#777777"
SPLITS = {"train": ("#E69F00", "--", "s"), "validation": ("#0072B2", "-", "o")}
INK, FAINT = "#222222", "#666666"


def curves(runs: Mapping[str, Seeds], selected: int | None = None) -> "Figure":
    """Accuracy (%) and loss over epochs.

    One condition: training and validation in one panel each. Several: a panel for each, a colour per condition. With
    several seeds the thick line is their mean, the thin ones are single seeds.

    Args:
        runs: label -> epochs of each seed.
        selected: the epoch whose weights were kept, marked by a vertical line.
    """
    seeds = [epochs for condition in runs.values() for epochs in condition]
    splits = [s for s in SPLITS if any(_has(e, f"{s}_accuracy") or _has(e, f"{s}_loss") for e in seeds)] or ["train"]
    rows = len(splits) if len(runs) > 1 else 1
    with _style():
        figure, grid = _figure(WIDE, 0.4 + 2.8 * rows, rows, 2)
        for column, (metric, name, scale) in enumerate((("accuracy", "accuracy (%)", 100.0), ("loss", "loss", 1.0))):
            for i, split in enumerate(splits):
                ax = grid[i % rows, column]
                look = [(split, *SPLITS[split], seeds)]
                if len(runs) > 1:
                    look = [(label, colour, "-", marker, group) for label, colour, marker, group in _coloured(runs)]
                for label, colour, line, marker, group in look:
                    _mean_line(ax, group, (f"{split}_{metric}",), scale, label, colour, line, marker)
                _finish(ax, f"{split} {name}" if len(runs) > 1 else name)
            if selected is not None:
                grid[0, column].axvline(selected, color=FAINT, linestyle=":", linewidth=1.2, label="epoch kept")
        _legend_above(figure, grid.flat[0])
    return figure


def accuracy_points(conditions: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    """Test accuracy by condition: one point per seed in colour; the mean and its 95% interval in black below them.

    Args:
        conditions: label -> accuracies of the seeds, fractions; and (mean, low, high) as `report.interval` gives them.
    """
    with _style():
        figure, grid = _figure(WIDE, 0.8 + 0.5 * len(conditions), 1, 1)
        ax, ticks = grid.flat[0], []
        for row, (label, colour, marker, (values, (mean, low, high, *_))) in enumerate(_coloured(conditions)):
            percent = [100 * v for v in values if math.isfinite(v)]
            ax.plot(percent, np.full(len(percent), row - 0.14), marker, color=colour, markersize=6, alpha=0.8)
            ax.plot([100 * low, 100 * high], [row + 0.16] * 2, color=INK, linewidth=1.6)
            ax.plot([100 * mean], [row + 0.16], "D", color=INK, markersize=4.5)
            ticks.append(f"{label} (n = {len(percent)})")
        ax.set_yticks(range(len(ticks)), ticks)
        ax.set_ylim(len(ticks) - 0.5, -0.5)
        ax.set_xlabel("test accuracy (%)")
        ax.grid(axis="y", visible=False)
        left, right = ax.get_xlim()
        ax.set_xlim(max(left, -1.0), min(right, 101.0))  # a t-interval may leave what an accuracy can be
    return figure


def raster(layers: Mapping[str, Any], sample: Any = None) -> "Figure":
    """One sample on its way through the layers: time against neurons, the input image beside.

    Args:
        layers: layer name -> (T, *N) spikes, in order. Values that are not all 0 or 1, as a readout's, are drawn as
            potentials.
        sample: (C, H, W), or None.
    """
    from matplotlib.gridspec import GridSpec

    with _style():
        heights = [0.6 + 0.9 * min(1.0, np.asarray(v)[0].size / 100) for v in layers.values()] or [1.0]
        figure, _ = _figure(WIDE, 0.9 + sum(heights) + 0.35 * len(heights), 0, 0)
        grid = GridSpec(len(heights), 2, figure=figure, width_ratios=[1, 5.2], height_ratios=heights)
        if sample is not None:
            _image(figure.add_subplot(grid[:2, 0]), np.asarray(sample))
        colours, column = layer_colours(layers), slice(None) if sample is None else 1
        for row, (name, values) in enumerate(layers.items()):
            ax = figure.add_subplot(grid[row, column])
            flat = np.asarray(values, dtype=float).reshape(len(values), -1)
            if np.isin(flat, (0, 1)).all():
                _spikes(ax, flat, name, colours[name])
            else:
                _potentials(ax, flat, name)
            ax.set_xlim(-0.5, len(flat) - 0.5)
            _integers(ax)
            if row == len(layers) - 1:
                ax.set_xlabel("time (steps)")
            else:
                ax.tick_params(labelbottom=False)
    return figure


def firing(epochs: Sequence[Epoch]) -> "Figure":
    """Firing rate and fraction of silent neurons of every layer of neurons over epochs."""
    panels = [("rate", "spikes per neuron and step", 1.0), ("silent", "neurons that never fired (%)", 100.0)]
    return _by_layer(epochs, "activity", panels, lambda ax, _: ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0])))


def angles(epochs: Sequence[Epoch]) -> "Figure":
    """Three measures of the feedback of every synapse layer over epochs.

    The angle of the delivered error to the true one, that of the effective feedback B to the weights W (degrees), and
    the share of entries whose signs agree (%).
    """
    panels = [
        ("error_angle", "delivered to true error (°)", 1.0),
        ("weight_angle", "feedback B to weights W (°)", 1.0),
        ("sign_agreement", "sign(B) = sign(W) (%)", 100.0),
    ]

    def scale(ax: "Axes", key: str) -> None:
        if key == "sign_agreement":
            ax.set_ylim(-4, 104)
        else:
            _degrees(ax)

    return _by_layer(epochs, "layers", panels, scale)


def first_layer_angle(runs: Mapping[str, Seeds]) -> "Figure":
    """Angle (degrees) of the delivered to the true error in the first synapse layer, where errors come last."""
    with _style():
        figure, grid = _figure(WIDE, 3.2, 1, 1)
        for label, colour, marker, condition in _coloured(runs):
            name = next(iter(_layer_names([e for epochs in condition for e in epochs], "layers")), "")
            _mean_line(grid.flat[0], condition, ("layers", name, "error_angle"), 1.0, label, colour, "-", marker)
        _finish(grid.flat[0], "delivered to true error (°)")
        _degrees(grid.flat[0])
        _legend_above(figure, grid.flat[0])
    return figure


def weight_signs(weights: Mapping[str, tuple[Any, Any]]) -> "Figure":
    """Histogram of every synapse layer's effective weights by the type of their presynaptic unit.

    Args:
        weights: synapse name -> (weights (out, in, ...), presynaptic signs that broadcast to them, or None).
    """
    columns = min(3, max(1, len(weights)))
    rows = max(1, math.ceil(len(weights) / columns))
    with _style():
        figure, grid = _figure(WIDE, 0.6 + 2.3 * rows, rows, columns)
        for ax in grid.flat[len(weights) :]:
            ax.set_axis_off()
        used: dict[str, Any] = {}
        for ax, (name, (weight, signs)) in zip(grid.flat, weights.items(), strict=False):
            used |= _histogram(ax, name, np.asarray(weight, dtype=float), signs)
        for ax in grid[:, 0]:
            ax.set_ylabel("share of weights (%)")
        figure.legend(used.values(), used.keys(), loc="outside upper left", ncols=3)
    return figure


def layer_colours(names: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """A colour per layer by its depth, dark to light: an order that the eye sees, unlike the colours of conditions."""
    import matplotlib

    ramp = matplotlib.colormaps["viridis"]
    return {name: ramp(0.74 * i / max(1, len(names) - 1)) for i, name in enumerate(names)}


def svg(figure: "Figure", label: str = "", prefix: str = "") -> str:
    """The figure as one <svg> element to stand in a page: scales with its container, and draws nothing from outside.

    Args:
        label: what a screen reader says. prefix: goes before every id; give each figure of a page its own.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|\s(?:width|height)=\"[\d.]+pt\"", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)[)\"]", text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", text)
    # matplotlib writes a millionth of a point; a hundredth is below any pixel and halves the page
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", m[0]), text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1).strip()


@contextmanager
def _style() -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'spikecredit[plot]'") from error
    # the style file may not set the salt of ids, by matplotlib's own rule
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, Path(__file__).with_name("style.mplstyle")):
        yield


def _figure(width: float, height: float, rows: int, columns: int) -> tuple["Figure", np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False) if rows else np.empty((0, 0))


def _values(epochs: Sequence[Epoch], keys: Sequence[str]) -> dict[int, float]:
    """epoch -> the number under nested keys; NaN where it is None or missing."""
    found = {}
    for epoch in epochs:
        value: Any = epoch
        for key in keys:
            value = (value or {}).get(key)
        found[int(epoch["epoch"])] = math.nan if value is None else float(value)
    return found


def _has(epochs: Sequence[Epoch], key: str) -> bool:
    return any(math.isfinite(v) for v in _values(epochs, (key,)).values())


def _layer_names(epochs: Sequence[Epoch], group: str) -> list[str]:
    return list(dict.fromkeys(name for epoch in epochs for name in epoch.get(group) or {}))


def _coloured(conditions: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    for i, (label, value) in enumerate(conditions.items()):
        yield _short(label), CONDITIONS[i % len(CONDITIONS)], MARKERS[i % len(MARKERS)], value


def _short(name: str) -> str:
    return name if len(name) <= MAX_LABEL else name[: MAX_LABEL // 2 - 1] + "…" + name[-MAX_LABEL // 2 :]


def _mean_line(
    ax: "Axes", seeds: Seeds, keys: Sequence[str], scale: float, label: str, colour: Any, line: str, marker: str
) -> None:
    """The mean over seeds, thick, and single seeds, thin. The mean has a gap where any seed has: a seed that diverged
    must not improve it by dropping out."""
    series = [_values(epochs, keys) for epochs in seeds]
    x = sorted({epoch for one in series for epoch in one})
    table = scale * np.array([[one.get(epoch, math.nan) for epoch in x] for one in series]).reshape(len(series), len(x))
    if len(series) > 1:
        ax.plot(x, table.T, color=colour, linewidth=0.7, alpha=0.5, linestyle=line)
    size = 4 if len(x) <= 40 else 1.5  # never none: a point between two gaps is seen by its marker only
    ax.plot(x, table.mean(0), color=colour, linestyle=line, marker=marker, markersize=size, label=_short(label))


def _by_layer(
    epochs: Sequence[Epoch], group: str, panels: Sequence[Panel], scale: Callable[["Axes", str], object]
) -> "Figure":
    names = _layer_names(epochs, group)
    with _style():
        figure, grid = _figure(WIDE, 3.2, 1, len(panels))
        for ax, (key, title, factor) in zip(grid.flat, panels, strict=True):
            for i, (name, colour) in enumerate(layer_colours(names).items()):
                _mean_line(ax, [epochs], (group, name, key), factor, name, colour, "-", MARKERS[i % len(MARKERS)])
            _finish(ax, title)
            scale(ax, key)
        _legend_above(figure, grid.flat[0])
    return figure


def _finish(ax: "Axes", title: str) -> None:
    ax.set_title(title)
    ax.set_xlabel("epoch (0 = before training)")
    _integers(ax)
    if not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in ax.get_lines()):
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=FAINT)


def _integers(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _degrees(ax: "Axes") -> None:
    """A scale from 0 to 90 degrees, or to 180 if anything points away; 90 is where learning stops."""
    ys = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines()]
    top = 180 if any((y > 94).any() for y in ys) else 90
    ax.set_yticks(range(0, top + 1, 30))
    ax.set_ylim(-0.04 * top, 1.05 * top)
    ax.axhline(90, color=FAINT, linestyle=":", linewidth=1.2)


def _legend_above(figure: "Figure", ax: "Axes") -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        columns = max(1, min(6, 150 // (8 + max(map(len, labels)))))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _spikes(ax: "Axes", spikes: np.ndarray, name: str, colour: Any) -> None:
    """Spikes (T, N) as one path of short vertical strokes: a hundred bytes less per spike than markers."""
    n = spikes.shape[1]
    shown = np.unique(np.linspace(0, n - 1, min(n, MAX_NEURONS)).round().astype(int))
    t, row = np.nonzero(spikes[:, shown])
    stroke = np.array([-0.42, 0.42, math.nan])
    which = "" if len(shown) == n else f", {len(shown)} shown, evenly spaced"
    ax.plot(np.repeat(t, 3), (row[:, None] + stroke).ravel(), color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.set_title(f"{_short(name)}: {n} neurons{which}; {spikes.sum(0).mean():.2f} spikes per neuron")
    ax.set_ylabel("neuron")
    ax.set_ylim(-1, len(shown))
    ticks = np.unique(np.linspace(0, len(shown) - 1, min(3, len(shown))).round().astype(int))
    ax.set_yticks(ticks, [str(shown[tick]) for tick in ticks])
    ax.grid(visible=False)


def _potentials(ax: "Axes", values: np.ndarray, name: str) -> None:
    best = int(values.mean(0).argmax())
    ax.plot(values, color="#9a9a9a", linewidth=0.9)
    ax.plot(values[:, best], color=INK, linewidth=1.8)
    ax.set_title(f"{_short(name)}: potentials of {values.shape[1]} units; unit {best}, dark, has the highest mean")
    ax.set_ylabel("potential")


def _image(ax: "Axes", sample: np.ndarray) -> None:
    """(C, H, W); three channels are a colour picture, any other number is shown as its mean."""
    channels = len(sample)
    picture = sample.transpose(1, 2, 0) if channels == 3 else sample.mean(0)
    low, high = float(picture.min()), float(picture.max())
    ax.imshow((picture - low) / ((high - low) or 1), cmap="gray", vmin=0, vmax=1, interpolation="none")
    mean = f", mean of {channels} channels" if channels not in (1, 3) else ""
    ax.set_title(f"input, {sample.shape[1]} x {sample.shape[2]}{mean}")
    ax.set_axis_off()


def _histogram(ax: "Axes", name: str, weight: np.ndarray, signs: Any) -> dict[str, Any]:
    """Draw one layer; returns the legend's handles by label."""
    finite = np.isfinite(weight)
    top = float(np.abs(weight[finite]).max(initial=0.0)) or 1.0
    edges = np.linspace(-top, top, 61)  # an edge at 0: no bin mixes the signs
    facts = [f"{100 * np.mean(weight == 0):.1f}% exactly 0"]
    if signs is None:
        groups = [("no sign constraint", UNSIGNED, finite)]
    else:
        sign = np.broadcast_to(np.asarray(signs), weight.shape)
        groups = [
            ("from excitatory units", EXCITATORY, finite & (sign > 0)),
            ("from inhibitory units", INHIBITORY, finite & (sign < 0)),
        ]
        facts.append(f"{int((weight * sign < 0).sum())} of the wrong sign")
    if not finite.all():
        facts.append(f"{int((~finite).sum())} not finite")
    handles = {}
    for label, colour, chosen in groups:
        counts, _ = np.histogram(weight[chosen & (weight != 0)], edges)
        share = 100 * counts / max(1, weight.size)
        handles[label] = ax.stairs(share, edges, fill=True, color=colour, alpha=0.8, label=label)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_title(_short(name), pad=18)
    ax.text(0, 1.03, ", ".join(facts), transform=ax.transAxes, fontsize=8.5, color=FAINT)
    ax.set_xlabel("weight")
    return handles

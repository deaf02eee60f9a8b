"""Figures: plain numbers in, one matplotlib figure out. matplotlib is imported only when one is drawn.

No figure touches pyplot's global state; `svg` gives the same text for the same numbers. None and NaN are gaps, never 0.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epoch = Mapping[str, Any]  # one line of metrics.jsonl with event "epoch"
Seeds = Sequence[Sequence[Epoch]]  # the epochs of every seed of one condition
Look = tuple[Any, str, str]  # colour, line style, marker

WIDE = 10.8  # inches, the report's column: letters keep their size on the page
MAX_NEURONS = 200  # more rows than this fall on the same pixels of a raster
MAX_LABEL = 44  # letters, about 40% of the column

# Okabe & Ito 2008, without yellow (too light on white): distinct under every common colour blindness.
CONDITIONS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>PX"  # 9 of them for 7 colours: a pair repeats only after 63 conditions
LINES = ("-", "--", ":")  # the next one each time the colours begin again
EXCITATORY, INHIBITORY, UNSIGNED, INK, FAINT, BACK = "#D55E00", "#0072B2", "#777777", "#222222", "#666666", "#b5b5b5"
SPLITS = {"train": ("#E69F00", "--", "s"), "validation": ("#0072B2", "-", "o")}


def curves(runs: Mapping[str, Seeds], selected: int | None = None) -> "Figure":
    """Accuracy (%) and loss over epochs, from label -> epochs of each seed; `selected`, the epoch kept, is marked.

    One condition: training and validation in one panel each. Several: a panel for each, a colour per condition. With
    several seeds the thick line is their mean, the thin ones are single seeds.
    """
    seeds, splits = [epochs for condition in runs.values() for epochs in condition], _splits(runs)
    rows = len(splits) if len(runs) > 1 else 1
    with _style():
        figure, grid = _figure(0.4 + 2.8 * rows, rows, 2)
        for column, (metric, name, scale) in enumerate((("accuracy", "accuracy (%)", 100.0), ("loss", "loss", 1.0))):
            for i, split in enumerate(splits):
                ax = grid[i % rows, column]
                for label, look, group in _looks(runs) if len(runs) > 1 else [(split, SPLITS[split], seeds)]:
                    _mean_line(ax, group, (f"{split}_{metric}",), scale, label, look)
                _finish(ax, f"{split} {name}" if len(runs) > 1 else name)
            if selected is not None:
                grid[0, column].axvline(selected, color=FAINT, linestyle=":", linewidth=1.2, label="epoch kept")
        _legend_above(figure, grid.flat[0])
    return figure


Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> (values of the seeds, (mean, low, high, ...))


def accuracy_points(conditions: Points) -> "Figure":
    """Test accuracy from label -> (fractions of the seeds, (mean, low, high) as `report.interval` gives them).

    One point per seed in colour; the mean and its interval in black below them.
    """
    figure = _points(conditions, "test accuracy (%)")
    ax = figure.axes[0]
    ax.set_xlim(max(ax.get_xlim()[0], -1), min(ax.get_xlim()[1], 101))  # an interval may leave what is possible
    return figure


def difference_points(conditions: Points, labels: Sequence[str]) -> "Figure":
    """As `accuracy_points`, of differences of test accuracy, in percentage points; colours in the order of `labels`."""
    figure = _points(conditions, "difference of test accuracy (percentage points)", labels)
    figure.axes[0].axvline(0, color=FAINT, linestyle=":", linewidth=1.2)
    return figure


def _points(conditions: Points, title: str, labels: Sequence[str] = ()) -> "Figure":
    looks = {label: look for _, look, label in _looks({label: label for label in labels or conditions})}
    with _style():
        figure, grid = _figure(0.8 + 0.5 * len(conditions))
        ax, ticks = grid.flat[0], []
        for row, (label, (values, (mean, low, high, *_))) in enumerate(conditions.items()):
            colour, _, marker = looks[label]
            percent = [100 * v for v in values if math.isfinite(v)]
            heights = row - 0.14 + 0.05 * (np.arange(len(percent)) % 3 - 1)  # equal values stay visible
            ax.plot(percent, heights, marker, color=colour, markersize=6, alpha=0.8)
            if math.isfinite(low):  # one seed is not drawn twice
                ax.plot([100 * low, 100 * high], [row + 0.2] * 2, color=INK, linewidth=1.6)
                ax.plot([100 * mean], [row + 0.2], "D", color=INK, markersize=4.5)
            ticks.append(f"{_short(label)} (n = {len(percent)})")
        ax.set_yticks(range(len(ticks)), ticks)
        ax.set(ylim=(len(ticks) - 0.5, -0.5), xlabel=title)
        ax.grid(axis="y", visible=False)
    return figure


def accuracy_panels(runs: Mapping[str, Seeds], background: str | None = None) -> "Figure":
    """Accuracy (%) over epochs, one panel per condition: training and validation, with the means of the condition
    `background` in grey behind the others. The axes leave out epoch 0, whose accuracy is chance."""
    behind, splits = runs.get(background or "", []), _splits(runs)

    def draw(ax: "Axes", label: str, seeds: Seeds) -> None:
        for split, (colour, line, marker) in ((split, SPLITS[split]) for split in splits):
            if label != background and behind:
                _mean_line(ax, [_mean_epochs(behind, f"{split}_accuracy")], ("mean",), 100.0, "", (BACK, line, ""))
            _mean_line(ax, seeds, (f"{split}_accuracy",), 100.0, split, (colour, line, marker))

    return _panels(runs, "accuracy (%)", draw, first=1)


def layer_panels(runs: Mapping[str, Seeds], group: str, key: str, title: str, layers: slice, scale: float) -> "Figure":
    """A measurement of every layer over epochs, one panel per condition.

    Args:
        group, key: "layers" or "activity", and which of its numbers; multiplied by `scale`.
        title: of the vertical axis; one that ends in "(°)" is an angle. layers: which of them, in order.
    """

    def draw(ax: "Axes", label: str, seeds: Seeds) -> None:
        names = _layer_names([epoch for epochs in seeds for epoch in epochs], group)
        colours = layer_colours(names)
        for name in names[layers]:
            look = (colours[name], "-", MARKERS[names.index(name) % len(MARKERS)])
            _mean_line(ax, seeds, (group, name, key), scale, name, look)

    return _panels(runs, title, draw)


def _panels(
    runs: Mapping[str, Seeds], title: str, draw: Callable[["Axes", str, Seeds], None], first: int = 0
) -> "Figure":
    """One small panel per condition, all with the same axes: as legible with many conditions as with few."""
    across, width = (4, 30) if max(map(len, runs), default=0) <= 30 else (3, 40)
    across = max(1, min(across, len(runs)))
    down = max(1, math.ceil(len(runs) / across))
    with _style():
        figure, grid = _figure(0.5 + 1.9 * down, down, across)
        axes = list(grid.flat)[: len(runs)]
        for ax in list(grid.flat)[len(runs) :]:
            ax.set_axis_off()
        shown: dict[str, Any] = {}
        for i, (ax, (label, seeds)) in enumerate(zip(axes, runs.items(), strict=True)):
            draw(ax, label, seeds)
            _finish(ax, _short(label, width))
            ax.set(xlabel="epoch" if i + across >= len(runs) else "", ylabel=title if i % across == 0 else "")
            shown |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        _same_axes(axes, title.endswith("(°)"), first)
        figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=6)
    return figure


def _same_axes(axes: Sequence["Axes"], degrees: bool, first: int) -> None:
    """The same limits for all panels, from what is drawn at epochs from `first` on (from all, if there are none)."""
    drawn = [np.asarray(line.get_xydata(), dtype=float) for ax in axes for line in ax.get_lines()]
    points = np.concatenate([np.empty((0, 2)), *drawn])
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return
    later = points[points[:, 0] >= first]
    (left, _), (right, _) = points.min(0), points.max(0)
    low, high = (later if len(later) else points)[:, 1].min(), (later if len(later) else points)[:, 1].max()
    margin = 0.06 * ((high - low) or 1.0)
    for ax in axes:
        ax.set_xlim(left - 0.05 * ((right - left) or 1), right + 0.05 * ((right - left) or 1))
        if degrees:
            _degrees(ax, high)
        else:
            ax.set_ylim(low - margin, high + margin)


def _mean_epochs(seeds: Seeds, key: str) -> list[dict[str, Any]]:
    """The mean over seeds as epochs of one run, under "mean"."""
    series = [_values(epochs, (key,)) for epochs in seeds]
    return [
        {"epoch": epoch, "mean": float(np.mean([one.get(epoch, math.nan) for one in series]))}
        for epoch in sorted({epoch for one in series for epoch in one})
    ]


def raster(layers: Mapping[str, Any], sample: Any = None, depth: int = 0) -> "Figure":
    """One sample (C, H, W) on its way through the layers, name -> (T, *N) in order: time against neurons.

    Values that are not all 0 or 1, as a readout's, are drawn as potentials. depth: as in `layer_colours`.
    """
    with _style():
        heights = [0.7 + 1.3 * min(1.0, np.asarray(v)[0].size / MAX_NEURONS) for v in layers.values()] or [1.0]
        figure, _ = _figure(0.9 + sum(heights) + 0.35 * len(heights), 0)
        grid = figure.add_gridspec(len(heights), 2, width_ratios=[1, 5.2], height_ratios=heights)
        if sample is not None:
            _image(figure.add_subplot(grid[:2, 0]), np.asarray(sample))
        colours, column = layer_colours(layers, depth), slice(None) if sample is None else 1
        for row, (name, values) in enumerate(layers.items()):
            ax = figure.add_subplot(grid[row, column])
            flat = np.asarray(values, dtype=float).reshape(len(values), -1)
            draw = _spikes if np.isin(flat, (0, 1)).all() else _potentials
            draw(ax, flat, name, colours[name])
            last = row == len(layers) - 1
            ax.set(xlim=(-0.5, len(flat) - 0.5), xlabel="time (steps)" if last else "")
            ax.tick_params(labelbottom=last)
            _integers(ax)
    return figure


def firing(epochs: Sequence[Epoch], depth: int = 0) -> "Figure":
    """Firing rate and share of silent neurons of every layer of neurons over epochs; depth as in `layer_colours`."""
    panels = [("rate", "spikes per neuron and step", 1.0), ("silent", "neurons that never fired (%)", 100.0)]
    return _by_layer(epochs, "activity", panels, depth)


def angles(epochs: Sequence[Epoch], depth: int = 0) -> "Figure":
    """The feedback of every synapse layer over epochs: the angle of the delivered to the true error, that of the
    effective feedback B to the weights W (degrees), and the share of entries whose signs agree (%)."""
    panels = [
        ("error_angle", "delivered to true error (°)", 1.0),
        ("weight_angle", "feedback B to weights W (°)", 1.0),
        ("sign_agreement", "sign(B) = sign(W) (%)", 100.0),
    ]
    return _by_layer(epochs, "layers", panels, depth)


def spectra(epochs: Sequence[Epoch], depth: int = 0) -> "Figure":
    """The effective weights of every synapse layer over epochs: entropy of the spectrum, and share of dead synapses."""
    panels = [("entropy", "entropy of the spectrum (1: all equal)", 1.0), ("dead", "dead synapses (%)", 100.0)]
    return _by_layer(epochs, "spectrum", panels, depth)


def first_layer_angle(runs: Mapping[str, Seeds]) -> "Figure":
    """Angle (degrees) of the delivered to the true error in the first synapse layer, where errors come last."""
    with _style():
        figure, grid = _figure(3.2)
        for label, look, condition in _looks(runs):
            name = next(iter(_layer_names([e for epochs in condition for e in epochs], "layers")), "")
            _mean_line(grid.flat[0], condition, ("layers", name, "error_angle"), 1.0, label, look)
        _finish(grid.flat[0], "delivered to true error (°)")
        _degrees(grid.flat[0])
        _legend_above(figure, grid.flat[0])
    return figure


def stdp_window(lags: Any, fitted: Any, closed: Any) -> "Figure":
    """Change of a weight per pair of spikes over t_post - t_pre in steps: points fitted, a line in closed form."""
    lags = np.asarray(lags)
    with _style():
        figure, grid = _figure(3.2)
        ax = grid.flat[0]
        for side in (lags < 0, lags > 0):
            ax.plot(lags[side], np.asarray(closed)[side], color=CONDITIONS[1], label=None if side[0] else "closed form")
        ax.plot(lags, np.asarray(fitted), "o", color=CONDITIONS[0], markersize=3, label="fitted to the changes")
        ax.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
        ax.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
        ax.set_ylabel("change of the weight per pair")
        ax.set_xlabel("t post - t pre (steps)")
        ax.legend()
    return figure


def weight_signs(weights: Mapping[str, tuple[Any, Any]]) -> "Figure":
    """Histograms of effective weights by the type of their presynaptic unit.

    From synapse name -> (weights (out, in, ...), presynaptic signs that broadcast to them, or None).
    """
    rows, columns = max(1, math.ceil(len(weights) / 3)), min(3, max(1, len(weights)))
    with _style():
        figure, grid = _figure(0.6 + 2.3 * rows, rows, columns)
        for ax in grid.flat[len(weights) :]:
            ax.set_axis_off()
        used: dict[str, Any] = {}
        for ax, (name, (weight, signs)) in zip(grid.flat, weights.items(), strict=False):
            used |= _histogram(ax, name, np.asarray(weight, dtype=float), signs)
        for ax in grid[:, 0]:
            ax.set_ylabel("share of weights (%)")
        figure.legend(used.values(), used.keys(), loc="outside upper left", ncols=3)
    return figure


def layer_colours(names: Iterable[str], depth: int = 0) -> dict[str, Any]:
    """A colour per layer, dark to light: an order that the eye sees, unlike the colours of conditions.

    depth: layers that the whole ramp spans, if more than the names; equal depths make figures of one network agree.
    """
    import matplotlib

    names, ramp = list(names), matplotlib.colormaps["viridis"]
    return {name: ramp(0.74 * i / max(1, len(names) - 1, depth - 1)) for i, name in enumerate(names)}


def svg(figure: "Figure", label: str = "", prefix: str = "") -> str:
    """The figure as one <svg> element to stand in a page; it scales with its container and draws nothing from outside.

    label: what a screen reader says. prefix: goes before every id; give each figure of a page its own.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))

    def tidy(match: re.Match[str]) -> str:
        """One tag; text between tags is the user's and is left alone."""
        tag = re.sub(r' (?:width|height)="[\d.]+pt"', "", match[0]) if match[0].startswith("<svg") else match[0]
        tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", tag)
        tag = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}", tag).replace("'DejaVu Sans'", "system-ui, sans-serif")
        # matplotlib writes a millionth of a point; a hundredth is below any pixel and halves the page
        return re.sub(r' d="[^"]*"', lambda m: re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", m[0]), tag)

    return re.sub(r"<[^>]*>", tidy, text).replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1).strip()


@contextmanager
def _style() -> Iterator[None]:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'spikecredit[plot]'") from error
    # the style file may not set the salt of ids, by matplotlib's own rule
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, Path(__file__).with_name("style.mplstyle")):
        yield


def _figure(height: float, rows: int = 1, columns: int = 1) -> tuple["Figure", np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, height), layout="constrained")
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


def _splits(runs: Mapping[str, Seeds]) -> list[str]:
    """Those of `SPLITS` in which anything was measured."""
    epochs = [epoch for seeds in runs.values() for one in seeds for epoch in one]
    measured = {key.split("_")[0] for epoch in epochs for key in epoch if epoch[key] is not None}
    return [split for split in SPLITS if split in measured] or ["train"]


def _layer_names(epochs: Sequence[Epoch], group: str) -> list[str]:
    return list(dict.fromkeys(name for epoch in epochs for name in epoch.get(group) or {}))


def _looks(conditions: Mapping[str, Any]) -> Iterator[tuple[str, Look, Any]]:
    for i, (label, value) in enumerate(conditions.items()):
        lap, place = divmod(i, len(CONDITIONS))
        yield _short(label), (CONDITIONS[place], LINES[lap % len(LINES)], MARKERS[i % len(MARKERS)]), value


def _short(name: str, letters: int = MAX_LABEL) -> str:
    return name if len(name) <= letters else name[: letters // 2 - 1] + "…" + name[-letters // 2 :]


def _mean_line(ax: "Axes", seeds: Seeds, keys: Sequence[str], scale: float, label: str, look: Look) -> None:
    """The mean over seeds, thick, with a gap where any seed has one: none improves it by diverging. Seeds are thin."""
    colour, line, marker = look
    series = [_values(epochs, keys) for epochs in seeds]
    x = sorted({epoch for one in series for epoch in one})
    table = scale * np.array([[one.get(epoch, math.nan) for epoch in x] for one in series]).reshape(len(series), len(x))
    if len(series) > 1:
        ax.plot(x, table.T, color=colour, linewidth=0.7, alpha=0.5, linestyle=line)
    ax.dataLim.update_from_data_x(np.array(x, dtype=float), ignore=False)  # an epoch without a value keeps its place
    size = 4 if len(x) <= 40 else 1.5  # never none: a point between two gaps is seen by its marker only
    ax.plot(x, table.mean(0), color=colour, linestyle=line, marker=marker, markersize=size, label=_short(label))


def _by_layer(epochs: Sequence[Epoch], group: str, panels: Sequence[tuple[str, str, float]], depth: int) -> "Figure":
    with _style():
        figure, grid = _figure(3.2, 1, len(panels))
        colours = layer_colours(_layer_names(epochs, group), depth)
        for ax, (key, title, factor) in zip(grid.flat, panels, strict=True):
            for i, (name, colour) in enumerate(colours.items()):
                _mean_line(ax, [epochs], (group, name, key), factor, name, (colour, "-", MARKERS[i % len(MARKERS)]))
            _finish(ax, title)
            if title.endswith("(°)"):
                _degrees(ax)
            else:
                ax.set_ylim(*((-4, 104) if key == "sign_agreement" else (min(0.0, ax.get_ylim()[0]), None)))
        _legend_above(figure, grid.flat[0])
    return figure


def _finish(ax: "Axes", title: str) -> None:
    ax.set(title=title, xlabel="epoch (0 = before training)")
    _integers(ax)
    if not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in ax.get_lines()):
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center", color=FAINT)


def _integers(ax: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _degrees(ax: "Axes", high: float = 90.0) -> None:
    """From 0 to 90 degrees, or as far beyond as the lines or `high` go; at 90 an error tells nothing of the true
    one."""
    ys = np.concatenate([[90.0, high], *(np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines())])
    top = min(180, 30 * math.ceil(np.nanmax(ys) / 30 - 0.1))
    ax.set(yticks=range(0, top + 1, 30), ylim=(-0.04 * top, 1.06 * top))
    ax.axhline(90, color=FAINT, linestyle=":", linewidth=1.2)


def _legend_above(figure: "Figure", ax: "Axes") -> None:
    handles, labels = ax.get_legend_handles_labels()
    columns = max(1, min(6, 150 // (8 + max(map(len, labels), default=0))))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)
    figure.set_figheight(
        figure.get_figheight() + 0.2 * (len(labels) // columns)
    )  # many names leave the panels their room


def _spikes(ax: "Axes", spikes: np.ndarray, name: str, colour: Any) -> None:
    """Spikes (T, N) as one path of strokes, neighbours that fire together joined: markers take ten times the bytes."""
    steps, n = spikes.shape
    shown = np.unique(np.linspace(0, n - 1, min(n, MAX_NEURONS)).round().astype(int))
    change = np.diff(spikes[:, shown], axis=1, prepend=0, append=0)  # +1 where a stroke begins, -1 after its end
    (t, first), (_, end) = np.nonzero(change > 0), np.nonzero(change < 0)
    y = np.stack([first - 0.5, end - 0.5, np.full(len(t), math.nan)], axis=1)
    width = min(5.0, max(0.8, 220 / steps))  # points: some 40% of the space between two steps
    ax.plot(np.repeat(t, 3), y.ravel(), color=colour, linewidth=width, solid_capstyle="butt")
    which = "" if len(shown) == n else f", {len(shown)} shown, evenly spaced"
    ax.set_title(f"{_short(name)}: {n} neurons{which}; {spikes.sum(0).mean():.2f} spikes per neuron")
    ax.set(ylabel="neuron", ylim=(-1, len(shown)))
    ticks = np.unique(np.linspace(0, len(shown) - 1, min(3, len(shown))).round().astype(int))
    ax.set_yticks(ticks, [str(shown[tick]) for tick in ticks])
    ax.grid(visible=False)


def _potentials(ax: "Axes", values: np.ndarray, name: str, colour: Any) -> None:
    best = int(values.mean(0).argmax())
    ax.plot(values, color="#9a9a9a", linewidth=0.9)
    ax.plot(values[:, best], color=colour, linewidth=1.8)
    title = f"{_short(name)}: potentials of {values.shape[1]} units; unit {best}, thick, has the highest mean"
    ax.set(title=title, ylabel="potential")


def _image(ax: "Axes", sample: np.ndarray) -> None:
    """(C, H, W); three channels are a colour picture, any other number is shown as its mean."""
    picture = sample.transpose(1, 2, 0) if len(sample) == 3 else sample.mean(0)
    low, high = float(picture.min()), float(picture.max())
    ax.imshow((picture - low) / ((high - low) or 1), cmap="gray", vmin=0, vmax=1, interpolation="none")
    ax.set_title(f"input, {' x '.join(map(str, picture.shape[:2]))}")
    ax.set_axis_off()


def _histogram(ax: "Axes", name: str, weight: np.ndarray, signs: Any) -> dict[str, Any]:
    """One layer; returns the legend's handles by label."""
    finite = np.isfinite(weight)
    top = float(np.abs(weight[finite]).max(initial=0.0)) or 1.0
    edges = np.linspace(-top, top, 61)  # an edge at 0: no bin mixes the signs
    facts = [f"{100 * np.mean(weight == 0):.1f}% exactly 0"]
    groups = [("units without a sign", UNSIGNED, finite)]
    if signs is not None:
        sign = np.broadcast_to(np.asarray(signs), weight.shape)
        groups = [("from excitatory units", EXCITATORY, finite & (sign > 0))]
        groups += [("from inhibitory units", INHIBITORY, finite & (sign < 0))]
        facts.append(f"{int((weight * sign < 0).sum())} of the wrong sign")
    facts += [] if finite.all() else [f"{int((~finite).sum())} not finite"]
    handles: dict[str, Any] = {}
    for label, colour, chosen in groups:
        share = 100 * np.histogram(weight[chosen & (weight != 0)], edges)[0] / max(1, weight.size)
        handles[label] = ax.stairs(share, edges, fill=True, color=colour, alpha=0.8)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set_title(_short(name), pad=18)
    ax.text(0, 1.03, ", ".join(facts), transform=ax.transAxes, fontsize=8.5, color=FAINT)
    ax.set_xlabel("weight")
    ax.locator_params(axis="x", nbins=5)  # more would touch one another
    return handles

"""Figures of the gallery that show several runs, or what no protocol's own figure shows."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.common import RESULTS
from spikecredit.analysis import plots as style
from spikecredit.plasticity import (
    BCM,
    BennaFusi,
    CalciumRule,
    Cascade,
    NMDARecruitment,
    Oja,
    Result,
    TsodyksMarkram,
    plots,
)
from spikecredit.plasticity.datasets import Place, dataset
from spikecredit.plasticity.rate import learn_linear

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Label to x and y."""


def panels(
    parts: Mapping[str, Lines], xlabel: str, ylabel: str, marks: Callable[[Any, str], None] | None = None,
    columns: int = 0, height: float = 3.8, sharey: bool = True, marker: str = "",
) -> "Figure":  # fmt: skip
    """A panel for each part, a line for each label; the same label has one look in all panels.

    Args:
        parts: title to lines. marks: what else to draw in a panel, by its title.
    """
    columns = columns or len(parts)
    rows = -(-len(parts) // columns)
    labels = dict.fromkeys(label for lines in parts.values() for label in lines)
    looks = dict(zip(labels, (look for _, look, _ in style._looks(labels)), strict=True))
    with style._style():
        figure, grid = style._figure(height, rows, columns)
        for ax, (title, lines) in zip(grid.flat, parts.items(), strict=False):
            for label, (x, y) in lines.items():
                colour, dash, _ = looks[label]
                ax.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
            if marks is not None:
                marks(ax, title)
            ax.set(title=title)
        for row in grid:
            row[0].set_ylabel(ylabel)
        for ax in grid[-1]:
            ax.set_xlabel(xlabel)
        if sharey:
            low, high = zip(*(ax.get_ylim() for ax in grid.flat), strict=True)
            for ax in grid.flat:
                ax.set_ylim(min(low), max(high))
        plots._legend(figure, grid.flat[0])
    return figure


def of(result: Result, x: str, **fixed: float) -> tuple[list[float], list[float]]:
    """Change in per cent over an axis, where the others have these values."""
    rows = [row for row in result.rows if all(row[name] == value for name, value in fixed.items())]
    rows.sort(key=lambda row: row[x])
    return [row[x] for row in rows], [100 * row["change"] for row in rows]


def points(ax: Any, name: str, x: str, **fixed: float) -> None:
    """Published means and standard errors; pooled ones with the range over which they were pooled."""
    data = dataset(name)
    chosen = [p for p in data.points if all(p.at[axis] == value for axis, value in fixed.items())]
    places: list[Place] = [p.at[x] for p in chosen]
    middles, halves = zip(*map(plots._place, places), strict=True)
    label = plots._marked(data.name, data.verified)
    plots._data(ax, list(zip(middles, chosen, strict=True)), list(halves), (style.INK, "o"), label)


def by_lag(labels: Sequence[str], data: str | None = None) -> Callable[[Sequence[Result]], "Figure"]:
    """Change over the rate: a panel for +10 ms and one for -10 ms, a line for each run."""

    def draw(results: Sequence[Result]) -> "Figure":
        parts = {
            f"{lag:+g} ms": {label: of(r, "rate", dt=lag) for label, r in zip(labels, results, strict=True)}
            for lag in (10.0, -10.0)
        }

        def marks(ax: Any, title: str) -> None:
            plots._zero(ax)
            if data:
                points(ax, data, "rate", dt=float(title.split()[0]))

        return panels(parts, "rate of pairs (Hz)", plots.CHANGE, marks, marker="." if data is None else "")

    return draw


def overlay(
    x: str, xlabel: str, labels: Sequence[str], data: str | None = None, closed: Lines | None = None,
    ylabel: str = plots.CHANGE, at: float | None = None,
) -> Callable[[Sequence[Result]], "Figure"]:  # fmt: skip
    """All runs in one panel over one axis; dashed: a closed form; dotted: zero, and a place of interest."""

    def draw(results: Sequence[Result]) -> "Figure":
        lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        for label, result in zip(labels, results, strict=True):
            places, values = of(result, x)
            if x == "dt" and min(places) < 0 <= max(places):  # windows jump at 0
                cut = next(k for k, place in enumerate(places) if place >= 0)
                places, values = [*places[:cut], np.nan, *places[cut:]], [*values[:cut], np.nan, *values[cut:]]
            lines[label] = places, values

        def marks(ax: Any, title: str) -> None:
            plots._zero(ax)
            if at is not None:
                ax.axvline(at, color=style.FAINT, linestyle=":", linewidth=1.2)
            for dash, (label, (places, values)) in zip(("--", ":"), (closed or {}).items(), strict=False):
                ax.plot(places, values, color=style.FAINT, linestyle=dash, linewidth=1.4, label=label)
            if data:
                points(ax, data, x)

        few = max(len(xs) for xs, _ in lines.values()) <= 25
        title = (
            plots.title(results[0]) if len(results) == 1 else f"{type(results[0].rule).__name__} ({results[0].engine})"
        )
        return panels({title: lines}, xlabel, ylabel, marks, marker="." if few else "")

    return draw


# ---- one rule each ---------------------------------------------------------------------------------------------------


def competition() -> dict[str, Any]:
    """What `python -m benchmarks.plasticity_competition` found."""
    found: dict[str, Any] = json.loads((RESULTS / "plasticity_competition.json").read_text())
    return found


def draw_competition(results: Sequence[Result]) -> "Figure":
    """Histograms of 1000 weights: additive at each input rate, multiplicative at the lowest."""
    found = competition()
    parts: dict[str, Any] = {f"additive, inputs of {row['rate_hz']:g} Hz": row for row in found["additive"]}
    parts[f"multiplicative, inputs of {found['multiplicative']['rate_hz']:g} Hz"] = found["multiplicative"]
    columns = -(-len(parts) // 2)
    with style._style():
        figure, grid = style._figure(5.0, 2, columns)
        for ax in grid.flat[len(parts) :]:
            ax.remove()
        for ax, (title, row) in zip(grid.flat, parts.items(), strict=False):
            share = 100 * np.array(row["histogram"])
            colour = style.CONDITIONS[0 if title.startswith("a") else 1]
            ax.stairs(share, np.linspace(0, 1, len(share) + 1), fill=True, color=colour, alpha=0.75)
            ax.set(title=title, xlabel="weight / upper bound", xlim=(0, 1))
            if "fixed_point" in row:
                ax.axvline(row["fixed_point"], color=style.INK, linestyle="--", linewidth=1.2)
        for row in grid:
            row[0].set_ylabel("share of weights (%)")
    return figure


SHAPES = ("DP", "DPD", "DPD'", "P", "D", "D'")
LAGS = tuple(float(d) for d in range(-60, 61, 10))


def draw_calcium(results: Sequence[Result]) -> "Figure":
    lags = np.arange(-60, 60.1, 0.5)
    parts: dict[str, Lines] = {
        name: {"closed form": (lags, [100 * (CalciumRule.preset(name).strength_after(d) - 1) for d in lags])}
        for name in SHAPES
    }

    def marks(ax: Any, title: str) -> None:
        plots._zero(ax)
        simulated = results[SHAPES.index(title)]
        label = f"{simulated.outcome.before.shape[1]} synapses with noise"
        ax.plot(*of(simulated, "dt"), "o", color=style.CONDITIONS[4], markersize=4, label=label)

    return panels(parts, "lag, t post - t pre (ms)", plots.CHANGE, marks, columns=3, height=5.4)


def draw_nmda(results: Sequence[Result]) -> "Figure":
    """Left: what lets calcium in. Right: the change by pairs, over how many inputs fire together."""
    rule = NMDARecruitment.preset("shouval_2002")
    v = np.linspace(-80, 40, 121)
    with style._style():
        figure, grid = style._figure(3.8, 1, 2)
        left, right = grid[0]
        left.plot(v, rule.unblocked(v), color=style.CONDITIONS[0])
        left.set(title="receptors that magnesium does not block", xlabel="potential (mV)", ylabel="B(V)")
        plots._zero(right)
        looks = style._looks({"the whole back-propagating spike": 0, "distal: a fifth of that spike": 1, "AP5": 2})
        for k, (label, (colour, dash, _), _) in enumerate(looks):
            group = results[k * len(COACTIVE) : (k + 1) * len(COACTIVE)]
            heights = [100 * r.change[0] for r in group]
            right.plot(COACTIVE, heights, color=colour, linestyle=dash, marker=".", label=label)
        right.set(
            title="Shouval et al. 2002, from memory: pairs at +10 ms",
            xlabel="inputs that fire together",
            ylabel=plots.CHANGE,
        )
        plots._legend(figure, right)
    return figure


COACTIVE = (1, 5, 10, 20, 30, 40)


@cache
def oja() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(time in s, weight vectors (T, 2, 2), first eigenvector): two neurons that see the same correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.6], [0.0, 0.8]], dtype=torch.float64)
    inputs = 10 * torch.randn(40000, 2, generator=generator, dtype=torch.float64) @ mix
    weights = torch.tensor([[0.3, -0.1], [1.2, -1.5]], dtype=torch.float64)
    seen = [weights.numpy().copy()]
    for block in inputs.split(200):
        weights, _ = learn_linear(Oja(eta=2e-3), block, weights)
        seen.append(weights.numpy().copy())
    _, vectors = np.linalg.eigh((inputs.T @ inputs / len(inputs)).numpy())
    return np.arange(len(seen)) * 0.2, np.array(seen), vectors[:, -1]


def draw_oja(results: Sequence[Result]) -> "Figure":
    times, weights, first = oja()
    length = np.linalg.norm(weights, axis=2)
    angle = np.degrees(np.arccos(np.clip(np.abs(weights @ first) / length, 0, 1)))
    names = ("starts short", "starts long")
    with style._style():
        figure, (axes,) = style._figure(3.8, 1, 2)
        for ax, values, title, wanted in (
            (axes[0], length, "length of the weight vector", 1.0),
            (axes[1], angle, "angle to the first eigenvector (°)", 0.0),
        ):
            for k, (label, (colour, dash, _), _) in enumerate(style._looks(dict.fromkeys(names))):
                ax.plot(times, values[:, k], color=colour, linestyle=dash, label=label)
            ax.axhline(wanted, color=style.FAINT, linestyle=":", linewidth=1.2)
            ax.set(title=title, xlabel="time (s)")
        plots._legend(figure, axes[0])
    return figure


def bcm_curve(rule: BCM, x: float, rates: Sequence[float] | np.ndarray) -> np.ndarray:
    """dw/dt in 1/s at a constant presynaptic rate, threshold at theta_0."""
    y = np.asarray(rates, dtype=float)
    return rule.eta * x * y * (y - rule.theta_0)


def draw_benna_fusi(results: Sequence[Result]) -> "Figure":
    """The memory of one event among others: u1, in units of the noise that one event a second makes."""
    times = np.geomspace(0.3, 3e4, 200)
    shown = {f"{m} beakers, slowest {2.0 ** (2 * m - 1):g} s": BennaFusi(m=m, beta=2.0 ** (2 * m - 1), leak=True)
             for m in (2, 4, 6)}  # fmt: skip
    # events of random sign, one a second: the variance is the sum of the squared responses
    noise = {k: np.sqrt((rule.response(np.arange(1.0, 3e4)) ** 2).sum()) for k, rule in shown.items()}
    curves = {k: np.sqrt(1000) * rule.response(times) / noise[k] for k, rule in shown.items()}
    curves = {k: np.where(v > 1e-2, v, np.nan) for k, v in reversed(curves.items())}
    figure = plots.memory(times, curves, slope=-0.5)
    with style._style():
        figure.axes[0].set_title("BennaFusi, C and g from memory: one event among others, one a second, 1000 synapses")
    return figure


def draw_cascade(results: Sequence[Result]) -> "Figure":
    events = np.unique(np.geomspace(1, 1e4, 60).astype(int))
    curves = {f"{n} levels": Cascade(n=n).signal_to_noise(events, 10_000) for n in (10, 6, 3)}
    figure = plots.memory(events, {k: np.where(v > 1e-2, v, np.nan) for k, v in curves.items()}, slope=-0.75)
    with style._style():
        figure.axes[0].set_title("Cascade, p and q from memory: 10,000 synapses")
    figure.axes[0].set_xlabel("age of the memory (candidate events)")
    return figure


def trains(rate: float) -> np.ndarray:
    """Ten spikes at a rate, and one more 500 ms later, ms."""
    regular = np.arange(10) * 1e3 / rate
    return np.append(regular, regular[-1] + 500.0)


def draw_short_term(results: Sequence[Result]) -> "Figure":
    parts: dict[str, Lines] = {}
    for preset in ("depressing", "facilitating", "maass_linear"):
        rule = TsodyksMarkram.preset(preset)
        parts[preset] = {f"{r:g} Hz": (np.arange(1, 12), rule.releases(trains(r)) / rule.U) for r in (5.0, 20.0, 50.0)}
    return panels(parts, "spike (the last comes 500 ms later)", "release / first release", sharey=False, marker="o")


def steady_release(rule: TsodyksMarkram, rate: float) -> float:
    """The release at each spike of a long regular train without facilitation."""
    spent = np.exp(-1e3 / (rate * rule.tau_rec))
    return float(rule.U * (1 - spent) / (1 - (1 - rule.U) * spent))


def slope_of(curve: np.ndarray, times: np.ndarray) -> float:
    """Of a line through a curve on log axes."""
    return float(np.polyfit(np.log(times), np.log(curve), 1)[0])


def draw_hetero(results: Sequence[Result]) -> "Figure":
    parts = {}
    for c, row in enumerate(results[0].rows):
        lines = {
            f"starts at {start:g}": (r.outcome.times / 1e3, r.outcome.traces["w"][:, c, 0])
            for start, r in zip((0.8, 0.2), results, strict=True)
        }
        lines["reference of the upper one"] = (
            results[0].outcome.times / 1e3,
            results[0].outcome.traces["w_ref"][:, c, 0],
        )
        parts[f"zenke, from memory: postsynaptic spikes at {row['rate']:g} Hz"] = lines
    return panels(parts, "time (s)", "weight")


def course(results: Sequence[Result]) -> "Figure":
    """What was recorded, over time."""
    return results[0].plot(kind="course")

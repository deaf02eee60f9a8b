"""Figures: what is drawn is what was computed and published, and each protocol has its figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikecredit.plasticity import (
    DATASETS,
    PROTOCOLS,
    Burst,
    CustomRule,
    Equations,
    FrequencySweep,
    Pairing,
    Quadruplet,
    Result,
    Tetanus,
    Triplet,
    TripletSTDP,
    VoltageClamp,
    plots,
)
from spikecredit.plasticity.protocols import Protocol

pytest.importorskip("matplotlib")
RULE = TripletSTDP(tau_x=100.0)


def lines(figure: Any) -> dict[str, np.ndarray]:
    """The named curves of the first panel."""
    return {
        str(line.get_label()): np.asarray(line.get_xydata(), dtype=float)
        for line in figure.axes[0].get_lines()
        if not str(line.get_label()).startswith("_")
    }


def bars_of(figure: Any) -> list[tuple[float, float, float]]:
    """(x, low, high) of every vertical error bar of the first panel."""
    found = []
    for container in figure.axes[0].containers:
        if hasattr(container, "has_yerr") and container.has_yerr:
            for segment in container.lines[2][-1].get_segments():
                (x, low), (_, high) = segment
                found.append((float(x), float(low), float(high)))
    return found


def test_every_protocol_names_a_figure_and_every_figure_is_reached() -> None:
    assert {protocol.plot for protocol in PROTOCOLS.values()} | {"weights"} == set(plots.PLOTS)


def test_the_window_is_the_change_over_the_lag_in_two_pieces() -> None:
    result = Pairing(dt=(20.0, -10.0, 0.0, -30.0, 5.0), n=3).run(RULE)
    figure = result.plot()
    ax = figure.axes[0]
    pieces = [np.asarray(line.get_xydata()) for line in ax.get_lines() if len(line.get_xdata()) in (2, 3)
              and line.get_linestyle() == "-"]  # fmt: skip
    change = {row["dt"]: 100 * row["change"] for row in result.rows}
    assert [list(piece[:, 0]) for piece in pieces] == [[-30, -10], [0, 5, 20]]
    for piece in pieces:
        np.testing.assert_allclose(piece[:, 1], [change[x] for x in piece[:, 0]])
    assert ax.get_xlabel() == "lag, t post - t pre (ms)" and ax.get_ylabel() == "change of strength (%)"


def test_the_frequency_curve_has_a_line_for_each_lag_and_all_published_bars() -> None:
    result = FrequencySweep().run(TripletSTDP.preset("visual_cortex_nearest"))
    figure = result.plot(data="sjostrom2001")
    drawn = lines(figure)
    for lag in (10.0, -10.0):
        wanted = [(row["rate"], 100 * row["change"]) for row in result.rows if row["dt"] == lag]
        np.testing.assert_allclose(drawn[f"model, dt = {lag:g} ms"], wanted)
    wanted_bars = sorted(
        (p.at["rate"], 100 * (p.change - p.sem), 100 * (p.change + p.sem)) for p in DATASETS["sjostrom2001"].points
    )
    np.testing.assert_allclose(sorted(bars_of(figure)), wanted_bars)
    assert "visual_cortex_nearest" in figure.axes[0].get_title(loc="left")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(labels) == {f"{who}, dt = {d} ms" for who in ("model", "sjostrom2001") for d in (10, -10)}


def test_data_of_lags_that_the_lines_lack_are_not_drawn_as_theirs() -> None:
    result = FrequencySweep(dt=(10.0,)).run(RULE)
    figure = result.plot(data="sjostrom2001")
    assert len(bars_of(figure)) == 5 and {high for _, _, high in bars_of(figure)}.isdisjoint({-21.0})


def test_pooled_and_single_cell_data_are_told_apart() -> None:
    result = Pairing(dt=tuple(range(-40, 41, 10)), n=2).run(RULE)
    pooled = result.plot(data="fino2010").axes[0].containers[0]
    assert pooled.has_xerr and pooled.has_yerr
    (low, _), (high, _) = pooled.lines[2][0].get_segments()[0]
    assert (low, high) == (-30.0, 0.0)
    single = result.plot(data="pawlak2008").axes[0].containers[0]
    assert not single.has_xerr and not single.has_yerr and single.lines[0].get_markerfacecolor() == "white"


def test_triplet_bars_stand_at_their_change_beside_the_data() -> None:
    result = Triplet().run(TripletSTDP.preset("hippocampus_nearest"))
    figure = result.plot(data="wang2005")
    ax = figure.axes[0]
    heights = {round(patch.get_x() + patch.get_width() / 2): patch.get_height() for patch in ax.patches}
    np.testing.assert_allclose([heights[c] for c in range(8)], 100 * result.change)
    assert [text.get_text() for text in ax.get_xticklabels()][:2] == ["5, -5", "10, -10"]
    assert len(bars_of(figure)) == 8
    assert len({patch.get_facecolor() for patch in ax.patches}) == 2


def test_quadruplets_bursts_and_clamps_choose_their_axis() -> None:
    def label(protocol: Protocol, rule: Any = RULE) -> str:
        return str(protocol.run(rule).plot().axes[0].get_xlabel())

    held = CustomRule(text=Equations(model="w : 1", on_pre="w += 0.1", start={"w": 1.0}))
    assert label(Quadruplet(n=2)) == "interval T between the pairs (ms)"
    assert label(VoltageClamp(n=2), held) == "potential of the clamped cell (mV)"
    assert label(Burst(n=2, rate=1.0)) == "postsynaptic spikes"
    figure = Burst(dt=(-10.0, 5.0, 10.0, 20.0), n_post=(1, 2), n=2, rate=1.0).run(RULE).plot()
    assert set(lines(figure)) == {"n_post = 1, rate_post = 50 Hz", "n_post = 2, rate_post = 50 Hz"}
    with pytest.raises(ValueError, match="varies dt, not 'rate'"):
        plots.sweep(Pairing(n=2).run(RULE), x="rate")


def calcium() -> CustomRule:
    return CustomRule(
        text=Equations(
            model="""
            drho/dt = (gamma_p*(1 - rho)*int(c > theta_p) - gamma_d*rho*int(theta_d < c))/tau : 1
            dc/dt = -c/tau_c : 1
            """,
            on_pre="c += 1", on_post="c += 2", weight="rho", start={"rho": 0.5},
            parameters={"tau": (10.0, "second"), "tau_c": (20.0, "ms"), "theta_p": (1.3, "1"), "theta_d": (1.0, "1"),
                        "gamma_p": (300.0, "1"), "gamma_d": (200.0, "1")},
        )
    )  # fmt: skip


def test_thresholds_are_found_in_the_equations() -> None:
    assert plots.thresholds(calcium().equations()) == {"c": {"theta_p": 1.3, "theta_d": 1.0}}
    assert plots.thresholds(RULE.equations()) == {}


def test_the_course_has_a_panel_for_each_variable_and_the_thresholds_of_calcium() -> None:
    result = Pairing(dt=(-10.0, 10.0), n=3, rate=10.0).run(calcium(), record=("rho", "c"), every=5.0)
    figure = result.plot(kind="course")
    top, low = figure.axes
    assert (top.get_ylabel(), low.get_ylabel(), low.get_xlabel()) == ("rho", "c", "time (ms)")
    for ax, name in ((top, "rho"), (low, "c")):
        for c in range(2):
            np.testing.assert_allclose(ax.get_lines()[c].get_ydata(), result.outcome.traces[name][:, c, 0])
    levels = [line.get_ydata()[0] for line in low.get_lines() if line.get_linestyle() == "--"]
    assert sorted(levels) == [1.0, 1.3]
    assert {text.get_text() for text in low.texts} == {"theta_p", "theta_d"}
    assert not [line for line in top.get_lines() if line.get_linestyle() == "--"]


def test_hours_and_seconds_are_shown_as_such_and_many_conditions_are_thinned() -> None:
    long = Tetanus(seconds=0.02, trains=(8,), gap=1200.0).run(RULE, record=("w",), every=60_000.0)
    assert long.plot().axes[0].get_xlabel() == "time (h)"
    many = Pairing(n=4).run(RULE, record=("w",), every=100.0)
    figure = many.plot(kind="course")
    assert figure.axes[0].get_xlabel() == "time (s)" and len(figure.axes[0].get_lines()) == plots.LINES_SHOWN
    assert "8 of 41 conditions" in figure.axes[0].get_title(loc="left")


def test_what_was_not_recorded_cannot_be_drawn() -> None:
    result = Tetanus(seconds=0.1, trains=(1,)).run(RULE, record=("r1",), every=10.0)
    with pytest.raises(ValueError, match=r"the weight was not recorded: write record=\('w',\)"):
        result.plot(kind="weights")
    with pytest.raises(ValueError, match="no variable was recorded"):
        Tetanus(seconds=0.1, trains=(1,)).run(RULE).plot()


def test_the_histogram_counts_all_weights_at_every_moment() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.uniform(0, 1, 400), rng.uniform(0.4, 0.6, 400), np.full(400, 0.5)])
    figure = plots.histogram([0.0, 1000.0, 2000.0], values, "weights", bins=20)
    heat = np.asarray(figure.axes[0].collections[0].get_array()).reshape(20, 3)
    np.testing.assert_allclose(heat.sum(0), 100)
    assert heat[:, 2].max() == pytest.approx(100) and heat[:, 0].max() < 15
    first, last = figure.axes[1].patches
    np.testing.assert_allclose(first.get_data().values, heat[:, 0])
    np.testing.assert_allclose(last.get_data().values, heat[:, 2])


def test_weights_pool_conditions_and_replicates() -> None:
    result = Pairing(dt=(-10.0, 10.0), n=3).run(
        RULE, replicates=4, record=("w",), every=500.0, start={"w": np.linspace(0.5, 1.5, 8).reshape(2, 4)}
    )
    heat = result.plot(kind="weights").axes[0].collections[0].get_array()
    share = np.asarray(heat).reshape(50, -1)
    assert set(np.unique(share[:, 0])) == {0.0, 12.5}  # 8 weights, each in a bin of its own


def test_memory_is_drawn_on_log_axes_with_a_guide() -> None:
    t = np.logspace(0, 4, 41)
    figure = plots.memory(t, {"a": 10 * t**-0.5, "b": np.where(t < 100, 1.0, -1.0)}, slope=-0.5)
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    curve, guide, gap = ax.get_lines()
    np.testing.assert_allclose(guide.get_ydata(), curve.get_ydata())  # the guide lies on a curve of its own slope
    assert np.isnan(gap.get_ydata()[t >= 100]).all() and np.isfinite(gap.get_ydata()[t < 100]).all()
    figure.canvas.draw()
    assert {text.get_text() for text in ax.get_xticklabels()} >= {"1", "100", "10000"}  # numbers, not formulas


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_figure_is_saved_in_the_format_of_its_name(ending: str, tmp_path: Path) -> None:
    result: Result = Pairing(dt=(-10.0, 10.0), n=2).run(RULE)
    path = tmp_path / "new" / f"figure.{ending}"
    result.plot(path)
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(magic)

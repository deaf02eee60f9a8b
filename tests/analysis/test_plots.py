"""Figures: what they draw for known numbers, and that their SVG is well formed, reproducible and self-contained."""

import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from spikecredit.analysis import plots

pytest.importorskip("matplotlib")


def epoch(number, **values):
    line = {"event": "epoch", "epoch": number, "layers": {}, "activity": {}, "violations": 0}
    metrics = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return line | dict.fromkeys(metrics) | values


def lines(ax, marked=True):
    """The curves of a panel; thin single seeds have no marker."""
    return [line for line in ax.get_lines() if (line.get_marker() not in ("None", None)) == marked]


def texts(figure):
    return " ".join(element.text or "" for element in ElementTree.fromstring(plots.svg(figure)).iter())


RUN = [
    epoch(0, validation_loss=2.0, validation_accuracy=0.1),
    epoch(1, train_loss=1.0, train_accuracy=0.5, validation_loss=None, validation_accuracy=math.nan),
    epoch(2, train_loss=0.5, train_accuracy=0.75, validation_loss=0.25, validation_accuracy=1.0),
]


def test_curves_put_null_and_nan_as_gaps():
    accuracy, loss = plots.curves({"run": [RUN]}, selected=2).axes
    train, validation = lines(accuracy)
    np.testing.assert_array_equal(train.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(train.get_ydata(), [math.nan, 50, 75])
    np.testing.assert_array_equal(validation.get_ydata(), [10, math.nan, 100])
    np.testing.assert_array_equal(lines(loss)[1].get_ydata(), [2, math.nan, 0.25])
    assert accuracy.get_xlim()[0] < 0, "the epoch before training keeps its place though training has no value there"


def test_curves_mean_has_a_gap_where_a_seed_diverged():
    other = [epoch(e, train_loss=v) for e, v in ((0, None), (1, 3.0), (2, math.nan))]
    _, loss = plots.curves({"run": [RUN, other]}).axes
    np.testing.assert_array_equal(lines(loss)[0].get_ydata(), [math.nan, 2.0, math.nan])
    thin = lines(loss, marked=False)[:2]
    np.testing.assert_array_equal([line.get_ydata() for line in thin], [[math.nan, 1, 0.5], [math.nan, 3, math.nan]])


def test_curves_of_several_conditions_have_a_panel_per_split_and_a_colour_per_condition():
    figure = plots.curves({"a": [RUN], "b": [RUN]})
    assert [ax.get_title("left") for ax in figure.axes] == [
        "train accuracy (%)", "train loss", "validation accuracy (%)", "validation loss",
    ]  # fmt: skip
    for ax in figure.axes:
        assert [line.get_color() for line in lines(ax)] == list(plots.CONDITIONS[:2])


def test_curves_without_validation_draw_training_only():
    run = [epoch(0), epoch(1, train_loss=1.0, train_accuracy=0.5)]
    assert len(plots.curves({"a": [run], "b": [run]}).axes) == 2
    assert "not measured" in texts(plots.curves({"a": [[epoch(0)]]}))
    assert "not measured" in texts(plots.curves({"a": [[]]}))


def test_accuracy_points():
    ax = plots.accuracy_points({"a": ([0.5, 0.7, math.nan], (0.6, 0.4, 1.9, 2)), "b": ([], [math.nan] * 3)}).axes[0]
    seeds, bar, mean = lines(ax)[0], lines(ax, marked=False)[0], lines(ax)[1]
    np.testing.assert_allclose(seeds.get_xdata(), [50, 70])
    np.testing.assert_allclose(bar.get_xdata(), [40, 190])
    np.testing.assert_allclose(mean.get_xdata(), [60])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a (n = 2)", "b (n = 0)"]
    assert ax.get_xlim()[1] <= 101


def test_difference_points_keep_the_colours_of_the_conditions():
    ax = plots.difference_points({"b": ([-0.1, 0.2], (0.05, -1.9, 2.0, 2))}, ["a", "b"]).axes[0]
    (seeds, zero), bar = (
        [line for line in ax.get_lines() if len(line.get_xdata()) == 2][::2],
        lines(ax, marked=False)[0],
    )
    np.testing.assert_allclose(seeds.get_xdata(), [-10, 20])
    assert seeds.get_color() == plots.CONDITIONS[1]
    np.testing.assert_allclose(bar.get_xdata(), [-190, 200])
    assert list(zero.get_xdata()) == [0, 0]


def test_panels_share_their_axes_and_show_the_background_in_the_others():
    other = [epoch(0, validation_accuracy=0.2), epoch(1, validation_accuracy=0.9), epoch(2, validation_accuracy=0.95)]
    figure = plots.accuracy_panels({"a": [RUN], "b": [other, RUN]}, "b")
    a, b = figure.axes[:2]
    assert [ax.get_title("left") for ax in (a, b)] == ["a", "b"] and a.get_ylim() == b.get_ylim()
    assert a.get_ylim()[0] > 20, "chance, at epoch 0, is left out"
    grey = [line for line in a.get_lines() if line.get_color() == plots.BACK and np.isfinite(line.get_ydata()).any()]
    np.testing.assert_allclose(grey[-1].get_ydata(), [15, math.nan, 97.5])  # a gap where a seed has one
    assert not [line for line in b.get_lines() if line.get_color() == plots.BACK]


def test_layer_panels_draw_the_layers_asked_for():
    run = [measured(0, 89.0, 0.5), measured(1, 130.0, 0.25)]
    figure = plots.layer_panels({"x": [run], "y": [run[:1]]}, "layers", "error_angle", "(°)", slice(1, None), 1.0)
    first, second = figure.axes[:2]
    assert [line.get_label() for line in lines(first)] == ["two"]
    np.testing.assert_array_equal(lines(first)[0].get_ydata(), [89, 130])
    assert max(first.get_yticks()) == max(second.get_yticks()) == 150 and first.get_xlim() == second.get_xlim()
    rates = plots.layer_panels({"x": [run]}, "activity", "rate", "rate", slice(None), 1.0)
    np.testing.assert_array_equal(lines(rates.axes[0])[0].get_ydata(), [0.5, 0.25])
    assert "not measured" in texts(plots.layer_panels({"x": [[epoch(0)]]}, "layers", "error_angle", "(°)", slice(1), 1))


def test_long_names_get_wider_panels():
    five = {letter: [RUN] for letter in "vwxyz"}
    assert len(plots.accuracy_panels(five).axes) == 8
    assert len(plots.accuracy_panels({"a" * 35: [RUN]} | five).axes) == 6
    assert len(plots.accuracy_panels({"a": [RUN], "b": [RUN]}).axes) == 2
    assert plots.accuracy_panels({"a" * 60: [RUN]}).axes[0].get_title("left").count("a") == 39


def strokes(line):
    """The (time, neuron) pairs that a layer's path covers."""
    x, y = line.get_xdata().reshape(-1, 3), line.get_ydata().reshape(-1, 3)
    return {
        (int(t[0]), n) for t, (low, high, _) in zip(x, y, strict=True) for n in range(int(low + 0.5), int(high + 0.5))
    }


def test_raster_draws_every_spike_once():
    spikes = (np.random.default_rng(0).random((7, 3, 4, 2)) < 0.4).astype(np.float32)
    axes = plots.raster({"conv": spikes}, np.zeros((1, 4, 4))).axes
    assert strokes(axes[1].get_lines()[0]) == set(zip(*map(list, np.nonzero(spikes.reshape(7, -1))), strict=True))
    assert f"24 neurons; {spikes.sum(0).mean():.2f} spikes per neuron" in axes[1].get_title("left")


def test_raster_subsamples_evenly_and_says_so():
    spikes = np.zeros((3, 1000))
    spikes[1, ::5] = 1
    ax = plots.raster({"large": spikes}).axes[0]
    assert "1000 neurons, 200 shown, evenly spaced; 0.20 spikes per neuron" in ax.get_title("left")
    chosen = np.linspace(0, 999, 200).round().astype(int)
    assert strokes(ax.get_lines()[0]) == {(1, row) for row, n in enumerate(chosen) if n % 5 == 0}
    assert [label.get_text() for label in ax.get_yticklabels()][-1] == "999"


def test_raster_draws_potentials_of_a_readout():
    potentials = np.array([[0.0, 0.1], [0.2, 0.9]])
    (ax,) = plots.raster({"readout": potentials}).axes
    assert "unit 1, thick" in ax.get_title("left")
    np.testing.assert_array_equal(ax.get_lines()[-1].get_ydata(), [0.1, 0.9])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_raster_shows_the_sample(channels):
    sample = np.arange(channels * 16, dtype=np.uint8).reshape(channels, 4, 4)
    image = plots.raster({"a": np.zeros((2, 5))}, sample).axes[0].get_images()[0].get_array()
    assert image.shape == ((4, 4, 3) if channels == 3 else (4, 4))
    assert (image.min(), image.max()) == (0, 1)


def measured(number, error, rate):
    layer = {"error_angle": error, "weight_angle": 0.0, "sign_agreement": 1.0}
    neurons = {"rate": rate, "silent": 0.25, "spikes": 1.0}
    return epoch(number, layers={"one": layer, "two": layer}, activity={"spiking": neurons})


def test_angles_and_firing():
    run = [measured(0, 89.0, 0.5), measured(1, None, math.nan), epoch(2), measured(3, 130.0, 0.25)]
    error, weight, signs = plots.angles(run).axes
    np.testing.assert_array_equal(lines(error)[0].get_ydata(), [89, math.nan, math.nan, 130])
    np.testing.assert_array_equal(lines(weight)[1].get_ydata(), [0, 0, math.nan, 0])  # backprop's zeros are drawn
    np.testing.assert_array_equal(lines(signs)[0].get_ydata(), [100, 100, math.nan, 100])
    assert max(error.get_yticks()) == 150 and max(weight.get_yticks()) == 90
    rate, silent = plots.firing(run).axes
    np.testing.assert_array_equal(lines(rate)[0].get_ydata(), [0.5, math.nan, math.nan, 0.25])
    np.testing.assert_array_equal(lines(silent)[0].get_ydata(), [25, 25, math.nan, 25])
    (first,) = plots.first_layer_angle({"a": [run, run]}).axes
    np.testing.assert_array_equal(lines(first)[0].get_ydata(), [89, math.nan, math.nan, 130])


def test_spectra_show_entropy_and_dead_synapses_in_percent():
    entropies = {0: 0.9, 1: None, 2: 0.5}
    run = [epoch(e, spectrum={"a": {"entropy": x, "largest": 0.1, "dead": 0.25}}) for e, x in entropies.items()]
    entropy, dead = plots.spectra(run).axes
    np.testing.assert_array_equal(lines(entropy)[0].get_ydata(), [0.9, math.nan, 0.5])
    np.testing.assert_array_equal(lines(dead)[0].get_ydata(), [25, 25, 25])


def test_layers_keep_their_colour_across_figures_of_one_depth():
    assert plots.layer_colours(["n1", "n2"], 3)["n2"] == plots.layer_colours(["s1", "s2", "s3"], 3)["s2"]
    assert len(set(plots.layer_colours([str(i) for i in range(30)]).values())) == 30


def test_weight_signs_counts():
    weight = np.array([[0.5, -0.5, 0.0], [-0.25, -1.0, 0.75]])  # column 0 excitatory with one wrong, 1 and 2 inhibitory
    figure = plots.weight_signs({"dale": (weight, np.array([[1, -1, -1]], dtype=np.int8)), "free": (weight, None)})
    said = texts(figure)
    assert "16.7% exactly 0, 2 of the wrong sign" in said and "units without a sign" in said
    dale, free = (ax for ax in figure.axes if ax.patches)
    shares = [patch.get_data().values.sum() for patch in dale.patches]
    np.testing.assert_allclose(shares, [100 * 2 / 6, 100 * 3 / 6])
    np.testing.assert_allclose(free.patches[0].get_data().values.sum(), 100 * 5 / 6)
    excitatory, edges, _ = dale.patches[0].get_data()
    assert excitatory[edges[1:] <= 1e-12].sum() == pytest.approx(100 / 6), "the wrong one lies left of 0"


def test_weight_signs_of_degenerate_layers():
    odd = {"zero": (np.zeros((2, 2, 3, 3)), np.ones((1, 2, 1, 1))), "nan": (np.array([[math.nan, 1.0]]), None)}
    said = texts(plots.weight_signs(odd))
    assert "100.0% exactly 0, 0 of the wrong sign" in said and "1 not finite" in said


def test_svg_is_reproducible_and_self_contained():
    label = '$x$ <b> & " onload="alert(1) id="x"'

    def draw(prefix):
        return plots.svg(plots.raster({label: np.eye(4)}, np.eye(4)[None]), label, prefix)

    text = draw("p-")
    assert text == draw("p-"), "no date, no random ids"
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == label and root.get("role") == "img" and root.get("width") is None
    assert label in texts(plots.raster({label: np.eye(4)})), "a label is text: no mathematics, no markup"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) and all(i.startswith("p-") for i in ids)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key.endswith("href"):
                assert value.startswith("data:") or value.removeprefix("#") in ids
            if value.startswith("url("):
                assert value[5:-1] in ids


def test_the_readers_matplotlibrc_changes_nothing():
    import matplotlib

    plain = plots.svg(plots.curves({"a": [RUN]}))
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        assert plots.svg(plots.curves({"a": [RUN]})) == plain
        assert matplotlib.rcParams["font.size"] == 30, "nor do we change the reader's"


def test_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys, spikecredit.analysis.report; assert 'matplotlib' not in sys.modules and 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = (
        "import sys; sys.modules['matplotlib'] = None; from spikecredit.analysis import plots\n"
        "try: plots.curves({})\nexcept ImportError as e: assert 'spikecredit[plot]' in str(e), e\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Tables and figures of what benchmarks.circuits_brian and benchmarks.circuits_train measured."""

from pathlib import Path
from typing import Any

import numpy as np

READOUT = 10
"""Neurons of each of the two readout populations."""


def examples_table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each example."""
    header = [
        "example", "neurons", "synapses", "simulated", "spikes", "differing spikes", "differing potentials",
        "Brian2 (numpy)", "torch",
    ]  # fmt: skip
    rows = [
        [
            row["name"], str(row["neurons"]), str(row["synapses"]), f"{row['steps'] / 10:.0f} ms", str(row["spikes"]),
            str(row["differing_spikes"]), f"{row['differing_potentials']} of {row['potentials']}",
            f"{row['brian_seconds']:.1f} s", f"{row['torch_seconds']:.1f} s",
        ]
        for row in record["rows"]
    ]  # fmt: skip
    return header, rows


def regimes_table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each of Brunel's regimes."""
    header = [
        "regime", "g", "drive", "neurons", "measured for", "rate", "mean-field theory", "CV of intervals",
        "variance / mean of spikes per ms",
    ]  # fmt: skip
    rows = [
        [
            row["name"], f"{row['g']:g}", f"{row['drive']:g}", str(row["neurons"]), f"{row['milliseconds']} ms",
            f"{row['rate']:.1f} Hz",
            f"{row['theory']:.1f} Hz", f"{row['irregularity']:.2f}", f"{row['synchrony']:.0f}",
        ]
        for row in record["regimes"]
    ]  # fmt: skip
    return header, rows


def training_table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Before and after."""
    header = [
        "training", "accuracy on unseen samples, torch", "accuracy in Brian2",
        "differing spikes, torch and Brian2", "rate",
    ]  # fmt: skip
    return header, [
        [
            when, f"{found['accuracy']:.1%}", f"{found['brian_accuracy']:.0%} of {record['brian_samples']}",
            f"{found['differing']} of {found['spikes']}", f"{found['rate']:.1f} Hz",
        ]
        for when, found in ((when, record[when]) for when in ("before", "after"))
    ]  # fmt: skip


def plot(record: dict[str, Any], path: Path) -> None:
    """Rasters of Brian2 before and after training, for one sample of each class."""
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 4.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey=True)
        kinds = (
            ("for the pattern", 0, READOUT, plots.CONDITIONS[0]),
            ("for its reverse", READOUT, 2 * READOUT, plots.CONDITIONS[1]),
            ("other excitatory", 2 * READOUT, 80, "0.45"), ("inhibitory", 80, 100, plots.CONDITIONS[3]),
        )  # fmt: skip
        for row, when in zip(panels, ("before", "after"), strict=True):
            for ax, found, title in zip(row, record["rasters"][when], ("pattern", "pattern backwards"), strict=True):
                steps, neurons = np.array(found["steps"]), np.array(found["neurons"])
                for label, low, high, colour in kinds:
                    which = (neurons >= low) & (neurons < high)
                    ax.plot(
                        steps[which] * 0.5,
                        neurons[which],
                        "|",
                        color=colour,
                        markersize=3.5,
                        label=label,
                        markeredgewidth=1.1,
                    )
                ax.axvspan(50, 100, color="0.93", zorder=0)
                ax.set(title=f"{title}, {when} training", xlim=(0, 100), ylim=(-1, 100))
        for ax in panels[1]:
            ax.set_xlabel("time (ms)")
        for ax in panels[:, 0]:
            ax.set_ylabel("neuron")
        handles, labels = panels[1][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def examples_note(record: dict[str, Any]) -> str:
    """What the table of examples does not say."""
    return (
        "Potentials: every variable of every neuron, compared bit for bit once in 100 ms. The f-I curve is at most "
        f"{record['curve_error']:.2f} spikes from the closed form. Times: beside other jobs on the same "
        "cores, upper bounds."
    )


def chaos_table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each perturbation of CUBA."""
    third = record["chaos_steps"] / 30
    rows = [
        [
            f"{1000 * found['move']:g} mV" if found["move"] else "one unit in the last place",
            "none" if found["first"] is None else f"at {found['first'] / 10:.1f} ms",
            f"{found['share']:.0%}",
        ]
        for found in record["chaos"]
    ]
    return [
        "all potentials moved by",
        "first spike that differs",
        f"spikes that differ in the last {third:.0f} ms",
    ], rows


def regimes_note(record: dict[str, Any]) -> str:
    """What the table of regimes does not say."""
    return "In Brian2; without the first 100 ms. CV: of neurons with at least four spikes."


def training_note(record: dict[str, Any]) -> str:
    """What the table of the trained circuit does not say."""
    wrong = sum(record["wrong_signs"].values())
    return (
        f"Seed {record['seed']}; {record['iterations']} batches of {record['batch']} samples in "
        f"{record['seconds']:.0f} s; {record['test']} unseen samples, the first {record['brian_samples']} of them in "
        f"Brian2; weights of the wrong sign after training: {wrong}."
    )

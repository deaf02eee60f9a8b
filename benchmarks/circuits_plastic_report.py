"""Table and figure of what benchmarks.circuits_plastic measured."""

from pathlib import Path
from typing import Any

from benchmarks import common


def table(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A line for each network and rule."""
    header = [
        "network", "rule", "accuracy before", "after", "size of weights, first / second layer", "Dale violations",
        "outputs that differ in Brian2", "largest difference of weights", "an image in Brian2", "in torch",
    ]  # fmt: skip
    rows = []
    for row in record["rows"]:
        engines = row["engines"]
        rows.append(
            [
                row["network"], row["rule"], f"{row['before']:.1%}", f"{row['after']:.1%}",
                " / ".join(f"{change:+.1%}" for change in row["change"]),
                str(row["violations"]) if "Dale" in row["network"] else "–",
                str(engines["differing_outputs"]), f"{engines['largest_difference_of_weights']:.0e}",
                f"{engines['seconds_per_image']['brian2']:.2f} s",
                f"{1e3 * engines['seconds_per_image']['torch']:.0f} ms",
            ]
        )  # fmt: skip
    return header, rows


def note(record: dict[str, Any]) -> str:
    """What the table does not say."""
    images = record["rows"][0]["engines"]["images"]
    return (
        f"{record['shown']} training images of {record['steps']} ms each, one after another, no labels; a weight of "
        f"{record['scale']:g} is 1 for the rule. Accuracy: 360 test images. Size: change of the sum of |W|. Brian2: "
        f"the first {images} images, weights carried on; outputs differ if more than 1e-9 apart. The presets "
        "were fitted to pairings at given frequencies, not to such networks; the scale is ours. One seed. Times: "
        "beside other jobs on the same cores, upper bounds, with Brian2's making of all objects."
    )


def tables() -> dict[str, str | None]:
    """For benchmarks.tables: the file's name and its text."""
    found = common.load("circuits-plastic")
    if found is None:
        return {"circuits_plastic": None}
    about = common.origin(found["command"], found["environment"])
    return {"circuits_plastic": f"{common.table(*table(found))}\n\n{note(found)} {about}"}


def plot(record: dict[str, Any], path: Path) -> None:
    """Test accuracy while images are shown, a panel for each network."""
    import matplotlib
    from matplotlib.figure import Figure

    from spikecredit.analysis import plots

    style = Path(plots.__file__).with_name("style.mplstyle")
    networks = list(dict.fromkeys(row["network"] for row in record["rows"]))
    with matplotlib.rc_context({"svg.hashsalt": "spikecredit"}, style):
        figure = Figure(figsize=(plots.WIDE, 3.4), layout="constrained")
        panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
        for ax, network in zip(panels, networks, strict=True):
            rows = [row for row in record["rows"] if row["network"] == network]
            for row, colour in zip(rows, plots.CONDITIONS, strict=False):
                n = len(row["curve"]) - 1
                shown = [k * record["shown"] / n for k in range(n + 1)]
                ax.plot(shown, row["curve"], "o-", color=colour, markersize=3, label=row["rule"].partition(" (")[0])
            ax.set(title=network, xlabel="images shown", ylim=(0, 1))
        panels[0].set_ylabel("test accuracy")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)

"""Write every table of README.md and docs/generated/ from benchmarks/results/*.json; no number is typed by hand.

    python -m benchmarks.tables [--check]

--check writes nothing and fails if a file would change.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import gallery_report
from benchmarks.common import load, origin, table

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "generated"

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text())
LABELS = {
    "backprop": "backprop",
    "sign_symmetry": "sign symmetry",
    "sign_symmetry_fixed": "sign symmetry, fixed magnitudes",
    "sign_symmetry_batch": "sign symmetry, magnitudes of the batch",
    "feedback_alignment": "feedback alignment",
    "direct_feedback_alignment": "direct feedback alignment",
    "sign_symmetry_dale": "sign symmetry + Dale's law",
}


def demo_table() -> str | None:
    found = load("demo")
    if found is None:
        return None
    header = list(found["rows"][0])
    body = table(header, [[str(row[key]) for key in header] for row in found["rows"]])
    note = (
        f"Mean and 95 % t-interval over seeds 0 to {found['seeds'] - 1}; angle at the hidden layer after training; "
        "spikes per image; time of training, all seeds together. "
    )
    return f"{body}\n\n{note}{origin(found['command'], found['environment'])}"


def accuracy_table(name: str = "accuracy") -> str | None:
    found = load(name)
    if found is None:
        return None
    rows = []
    for row in found["rows"]:
        data, pathway = re.fullmatch(r"(\w+)_lenet_(\w+)", row["config"]).groups()  # type: ignore[union-attr]
        published = PUBLISHED["rows"].get(pathway, {})
        column = PUBLISHED["columns"].index(data)
        hidden = list(row["error_angles"].values())[:-1]
        rows.append(
            [
                {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[data],
                LABELS[pathway],
                f"{row['test_accuracy']:.2%}",
                f"{1 - row['test_accuracy']:.2%}",
                f"{published[column]} %" if published else "–",
                " / ".join(f"{angle:.0f}°" for angle in hidden),
                f"{row['spikes_per_neuron']:.2f}",
                str(row["violations"]) if "dale" in pathway else "–",
                f"{row['seconds'] / row['epochs']:.0f} s",
                str(row["seed"]),
                row["environment"]["commit"],
            ]
        )
    header = [
        "data", "pathway", "test accuracy", "test error", "published error (not spiking)", "angles to true error",
        "spikes/neuron", "Dale violations", "time/epoch", "seed", "commit",
    ]  # fmt: skip
    about = origin(found["command"], *(row["environment"] for row in found["rows"]))
    note = (
        "Angles: hidden layers from the input, after training. Time: beside other jobs on the same cores, an upper "
        f"bound. Published: {PUBLISHED['what']}; {PUBLISHED['source']}. "
    )
    return f"{table(header, rows)}\n\n{note}{about}"


def published_table() -> str:
    rows = [[LABELS[name], *map(str, values)] for name, values in PUBLISHED["rows"].items()]
    return f"{table(['pathway', *PUBLISHED['titles']], rows)}\n\nSource: {PUBLISHED['source']}; {PUBLISHED['what']}."


def ratio_table(name: str, columns: list[str]) -> str | None:
    parts = []
    for device in ("cpu", "cuda"):
        found = load(f"{name}-{device}")
        if found is None:
            continue
        rows = [
            [
                *(str(row[c]) for c in columns),
                f"{row['median'] * 1e3:.2f} ms ({row['low'] * 1e3:.2f} to {row['high'] * 1e3:.2f})",
                f"{row['ratio']:.2f}",
            ]
            for row in found["rows"]
        ]
        parts.append(
            table([*columns, "median (quartiles)", "ratio"], rows)
            + f"\n\n{origin(found['command'], found['environment'])}"
        )
    return "\n\n".join(parts) or None


def lenet_tables() -> dict[str, str | None]:
    """Every pathway beside the published errors: a table for each data set, and the rows of each pathway's page."""
    from benchmarks import lenet

    tables: dict[str, str | None] = {}
    pages: dict[str, list[str]] = {page: [] for page in lenet.PAGES}
    source = f"Published: {PUBLISHED['what']}; {PUBLISHED['source']}."
    for data, title in lenet.DATA.items():
        found = load(f"lenet-{data}")
        if found is None:
            continue
        column = PUBLISHED["columns"].index(data)
        about = origin(found["command"], *found["environments"])
        tables[f"lenet_{data}"] = "\n\n".join([table(*lenet.table(found, PUBLISHED["rows"], column)), source, about])
        for page, names in lenet.PAGES.items():
            header, rows = lenet.table(found, PUBLISHED["rows"], column, names)
            if rows:
                pages[page] += [f"{title}:", table(header, rows), about]
    tables["lenet_summary"] = lenet_summary()
    return tables | {f"lenet_{page}": "\n\n".join([*parts, source]) for page, parts in pages.items() if parts}


def lenet_summary() -> str | None:
    """A row for each pathway: its test errors on all data sets, each beside the published one."""
    from benchmarks import lenet

    rows: dict[str, list[str]] = {}
    header, environments = ["pathway"], []
    for data, title in lenet.DATA.items():
        found = load(f"lenet-{data}")
        if found is None:
            continue
        for row in lenet.table(found, PUBLISHED["rows"], PUBLISHED["columns"].index(data))[1]:
            name, seeds, error, published = row[:4]
            cells = rows.setdefault(name, [name] + ["–"] * (len(header) - 1))
            cells += [f"{error} ({seeds} seed{'s' * (seeds != '1')})", published]
        header += [f"{title}, test error (%)", "published (%)"]
        rows = {name: cells + ["–"] * (len(header) - len(cells)) for name, cells in rows.items()}
        environments += found["environments"]
    note = f"Mean ± half of the 95 % t-interval. Published: {PUBLISHED['what']}; {PUBLISHED['source']}."
    if not rows:
        return None
    return f"{table(header, list(rows.values()))}\n\n{note}\n\n{origin('python -m benchmarks.lenet', *environments)}"


def precision_table() -> str | None:
    found = load("precision")
    if found is None:
        return None
    rows, means = [], {}
    for precision in ("float32", "bf16"):
        runs = [row for row in found["rows"] if row["precision"] == precision]
        values = [100 * row["validation_accuracy"] for row in runs]
        means[precision] = sum(values) / len(values)
        seeds = ", ".join(f"{value:.2f}" for value in values)
        rows.append([precision, str(len(values)), f"{means[precision]:.2f} %", seeds])
    body = table(["precision", "seeds", "validation accuracy", "each"], rows)
    first = found["rows"][0]
    note = (
        f"`{first['config']}`, {first['epochs']} epochs, 5,000 images held out of the training set; bf16 minus "
        f"float32: {means['bf16'] - means['float32']:+.2f} points. "
    )
    return f"{body}\n\n{note}{origin(found['command'], first['environment'])}"


def speed_tables() -> str | None:
    """Every section of benchmarks.speed, as sections of a section of the page."""
    found = load("speed-cpu")
    if found is None:
        return None
    from benchmarks.speed_report import render

    return re.sub("^## ", "### ", render(found), flags=re.MULTILINE).rstrip()


def events_tables() -> dict[str, str | None]:
    """Dense layers by events and by tables beside the matrix product, at each density and size."""
    from benchmarks import events

    if (found := load("events-cpu")) is None:
        return {}
    about = origin(found["command"], found["environment"])
    return {
        name: f"{table(header, rows)}\n\n{note} {about}" for name, (header, rows, note) in events.tables(found).items()
    }


def symmetry_tables() -> dict[str, str | None]:
    """The tables of `benchmarks.symmetry`, one for each section that was measured."""
    from benchmarks.symmetry import render

    found = load("symmetry")
    sections = [] if found is None else list(found["sections"])
    return {f"symmetry_{name}": render(found, name, table) for name in sections}


def angles_table() -> str | None:
    """Angles to backprop's error before and after training, for each pathway."""
    from benchmarks import angles

    found = load("angles")
    if found is None:
        return None
    return f"{table(*angles.table(found))}\n\n{_seeded(found)}"


def _seeded(found: dict[str, Any]) -> str:
    """The line under a table whose rows have several seeds each, and environments of their own."""
    seeds = f", seeds 0 to {found['seeds'] - 1}"
    return origin(found["command"], *(row["environment"] for row in found["rows"].values()), extra=seeds)


def ei_table() -> str | None:
    """The network of excitatory and inhibitory neurons: a line for each seed."""
    from benchmarks import ei

    found = load("ei")
    if found is None:
        return None
    return f"{table(*ei.table(found))}\n\n{origin(found['command'], found['environment'])}"


def snntorch_table() -> str | None:
    """snnTorch's tutorial networks, moved over: what differs, and the times of both."""
    from benchmarks import snntorch

    found = load("snntorch")
    if found is None:
        return None
    about = f"snnTorch {found['snntorch']}; medians of {found['repeats']} turns of each, float32. "
    return f"{table(*snntorch.table(found))}\n\n{about}{origin(found['command'], found['environment'])}"


def dale_tables() -> dict[str, str | None]:
    """Every way to keep Dale's law: modes by pathways for each network and data set, and the rows of each page."""
    from benchmarks import dale

    tables: dict[str, str | None] = {}
    pages: dict[str, list[str]] = {page: [] for page in dale.PAGES}
    for network in dale.NETWORKS:
        for data, title in (("mnist", "MNIST"), ("fashion_mnist", "Fashion-MNIST")):
            found = load(f"dale-{network}-{data}")
            if found is None:
                continue
            tables[f"dale_{network}_{data}"] = f"{table(*dale.matrix(found))}\n\n{_seeded(found)}"
            for page, modes in dale.PAGES.items():
                if any(key.endswith(f", {mode}") for key in found["rows"] for mode in modes[1:]):
                    shown = table(*dale.table(found, modes))
                    pages[page] += [f"{title}, {dale.TITLES[network]}:", shown, _seeded(found)]
    return tables | {f"dale_{page}": "\n\n".join(parts) or None for page, parts in pages.items()}


def equilibrium_tables() -> dict[str, str | None]:
    """Equilibrium propagation on MNIST, and its speed."""
    from benchmarks import equilibrium

    record = load("equilibrium") or {}
    tables: dict[str, str | None] = {}
    for name, made in equilibrium.tables(record).items():
        section = record["bias" if name == "held" else name]
        measured = [row["environment"] for row in section["rows"] if "environment" in row] or [section["environment"]]
        tables[f"equilibrium_{name}"] = f"{table(*made)}\n\n{origin(section['command'], *measured)}"
    return tables


SHOWN = {"spikes": "spikes, 50 %", "sparse spikes": "spikes, 13 %", "constant": "constant image"}


def speed_summary() -> str | None:
    """Our best layout of each case beside snnTorch's loop, the fastest peer, the leanest peer and the bound."""
    found = load("speed-cpu")
    if found is None:
        return None
    from benchmarks.speed_report import of_bound
    from benchmarks.speed_steps import OURS

    rows = []
    for label, section in found["sections"].items():
        if "work" not in section or "tuned" in label:
            continue
        for kind in dict.fromkeys(row["input"] for row in section["rows"]):
            runs = [r for r in section["rows"] if r["input"] == kind and "error" not in r]
            for precision in ("float32", "bf16"):
                ours = min(_of(runs, OURS, precision), key=_milliseconds)
                peers = [r for r in runs if r["library"] != "spikecredit"]
                fastest = min((r for r in peers if r["precision"] == precision), key=_milliseconds)
                lean = [r["memory_mib"] for r in peers if r["precision"] == precision and r.get("memory_mib")]
                mine = ours.get("memory_mib")
                rows.append(
                    [
                        section["work"]["name"], SHOWN[kind], precision,
                        f"{_milliseconds(ours):.1f} ms", f"{ours['train_x']:.2f} x",
                        f"{_milliseconds(fastest) / _milliseconds(ours):.2f} x ({fastest['competitor']})",
                        of_bound(ours, runs),
                        f"{mine:.0f} / {min(lean):.0f} MiB" if mine and lean else "–",
                    ]
                )  # fmt: skip
    header = ["network", "input", "precision", "training step", "snnTorch's loop in float32, over ours",
              "fastest peer in this precision, over ours", "ours over the same network with ReLU",
              "peak memory, ours / leanest peer"]  # fmt: skip
    first = next(iter(found["sections"].values()))["environment"]
    used = sorted({s["environment"]["commit"] for s in found["sections"].values()})
    commits = f"commit{'s' if len(used) > 1 else ''} {', '.join(used)}"
    about = f"{first['processor']}, {' '.join(first['cpu_flags'])}; {first['threads']} threads"
    return f"{table(header, rows)}\n\n`{found['command']}` on a CPU ({about}), default malloc, {commits}."


def _of(rows: list[dict[str, Any]], competitor: str, precision: str) -> list[dict[str, Any]]:
    found = [r for r in rows if r["competitor"].startswith(competitor) and r["precision"] == precision]
    return [r for r in found if "compile" not in r["competitor"]]


def _milliseconds(row: dict[str, Any]) -> float:
    return 1e3 * row["train"]["median"]


def circuits_tables() -> dict[str, str | None]:
    """Brian2's circuits in torch: examples, regimes, training."""
    from benchmarks import circuits_report as report

    found, trained = load("circuits-brian"), load("circuits-train")
    tables: dict[str, str | None] = {"circuits_examples": None, "circuits_regimes": None, "circuits_training": None}
    tables["circuits_chaos"] = None
    if found is not None:
        about = origin(found["command"], found["environment"], extra=f", Brian2 {found['brian2']}")
        tables["circuits_examples"] = f"{table(*report.examples_table(found))}\n\n{report.examples_note(found)} {about}"
        tables["circuits_chaos"] = f"{table(*report.chaos_table(found))}\n\n{about}"
        tables["circuits_regimes"] = f"{table(*report.regimes_table(found))}\n\n{report.regimes_note(found)} {about}"
    if trained is not None:
        about = origin(trained["command"], trained["environment"])
        tables["circuits_training"] = (
            f"{table(*report.training_table(trained))}\n\n{report.training_note(trained)} {about}"
        )
    return tables


def drawn(plot: Callable[[dict[str, Any], Path], None], name: str) -> str:
    """The figure of results/NAME.json as SVG text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figure.svg"
        plot(load(name) or {}, path)
        return path.read_text()


def circuits_table() -> str | None:
    """Networks in Brian2: what is equal, and how long an image takes."""
    found = load("circuits")
    if not found:
        return None
    rows = []
    for r in found["rows"]:
        changed = r["changed"].values()
        spikes, itself = (sum(each[key] for each in changed) for key in ("spikes", "by_precision"))
        seconds = r["seconds"]
        rows.append(
            [
                r["network"],
                f"{r['neurons']:,} / {r['synapses']:,}",
                f"{r['accuracy']['brian2']:.0%} / {r['accuracy']['torch']:.0%}",
                f"{sum(r['differing_spikes'].values())} of {spikes:,}",
                str(sum(r["differing_potentials"].values())),
                f"{min(each['distance'] for each in changed):.0e}",
                str(itself),
                f"{seconds['build'] + seconds['run']:.2f} s",
                f"{1e3 * seconds['torch']:.1f} ms",
            ]
        )
    header = ["network", "neurons / synapses", "accuracy, Brian2 / torch", "differing spikes", "differing potentials"]
    header += ["nearest decision", "spikes that float32 changes", "an image in Brian2", "in torch"]
    command = origin(found["command"], found["environment"])
    samples = found["rows"][0]["samples"]
    return (
        f"{table(header, rows)}\n\n{samples} test images; whole test set: "
        + ", ".join(f"{r['test_accuracy']:.2%} ({r['network'].split(',')[0]})" for r in found["rows"])
        + f". Brian2's time includes making the synapses. Times are upper bounds: other jobs ran beside. {command}"
    )


def plastic_table() -> str | None:
    """Plasticity in a hidden layer beyond that of the readout."""
    from benchmarks import plastic

    found = load("plastic")
    return f"{table(*plastic.table(found))}\n\n{_seeded(found)}" if found else None


def plots() -> dict[str, tuple[str, Callable[[dict[str, Any], Path], None]]]:
    """Figures: the results that each shows, and who draws it."""
    from benchmarks import angles, circuits_plastic_report, circuits_report, ei, plastic, speed_report, stdp

    return {
        "speed": ("speed-cpu", speed_report.plot),
        "angles": ("angles", angles.plot),
        "ei": ("ei", ei.plot),
        "circuits_train": ("circuits-train", circuits_report.plot),
        "circuits_plastic": ("circuits-plastic", circuits_plastic_report.plot),
        "stdp": ("stdp", stdp.plot),
        "stdp_gradient": ("stdp", stdp.plot_gradients),
        "early_inference": ("stdp", stdp.plot_inference),
        "plastic": ("plastic", plastic.plot),
    }


def outputs() -> dict[Path, str]:
    """Every file and its text."""
    from benchmarks import circuits_plastic_report

    tables = {
        "demo": demo_table(),
        "accuracy": accuracy_table(),
        "accuracy_narrow": accuracy_table("accuracy_narrow"),
        "pathways": ratio_table("pathways", ["network", "what", "pathway"]),
        "constraints": ratio_table("constraints", ["network", "constraint"]),
        "layout": ratio_table("layout", ["case"]),
        "ei": ei_table(),
        "published": published_table(),
        "speed": speed_tables(),
        "speed_summary": speed_summary(),
        "precision": precision_table(),
        **events_tables(),
        "angles": angles_table(),
        "circuits": circuits_table(),
        "snntorch": snntorch_table(),
        "plastic": plastic_table(),
        **lenet_tables(),
        **dale_tables(),
        **equilibrium_tables(),
        **symmetry_tables(),
        **circuits_tables(),
        **circuits_plastic_report.tables(),
        **gallery_report.tables(),
    }
    readme = (ROOT / "README.md").read_text()
    for name, text in tables.items():
        pattern = re.compile(rf"(<!-- {name}: begin [^>]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
        readme = pattern.sub(
            lambda m, text=text: m[1] + (f"{text}\n" if text else "Not measured yet.\n") + m[2], readme
        )
    files = {GENERATED / f"{name}.md": text + "\n" for name, text in tables.items() if text}
    for name, (result, plot) in plots().items():
        if load(result) is not None:
            files[GENERATED / f"{name}.svg"] = drawn(plot, result)
    return {ROOT / "README.md": readme, **files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    changed = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if check and changed:
        sys.exit(f"stale: {', '.join(str(p.relative_to(ROOT)) for p in changed)}; run python -m benchmarks.tables")
    if not check:
        GENERATED.mkdir(parents=True, exist_ok=True)
        for path, text in outputs().items():
            path.write_text(text)


if __name__ == "__main__":
    main()

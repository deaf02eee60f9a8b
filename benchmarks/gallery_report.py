"""Tables of the gallery: facts of every experiment, distances to data, and all presets; for `benchmarks.tables`."""

from collections.abc import Mapping
from typing import Any

from benchmarks.common import load, origin, table
from benchmarks.gallery import RESULT, Entry
from benchmarks.gallery_entries import ENTRIES
from spikecredit.plasticity import DATASETS, RULES
from spikecredit.plasticity.datasets import headed

MEMORY = "**from memory**"


def tables() -> dict[str, str | None]:
    """Every table by its name in docs/generated."""
    found: Mapping[str, Any] = load(RESULT) or {"entries": {}}
    made: dict[str, str | None] = {"plasticity_presets": presets(), "plasticity_data": datasets()}
    measured = [entry for entry in ENTRIES if entry.name in found["entries"]]
    made["plasticity_distances"] = distances(found, measured) if measured else None
    made["plasticity_speed"] = speed()
    return made | {f"plasticity_{entry.name}": facts(found, entry) for entry in measured}


def speed() -> str | None:
    """A million synapses in each simulator."""
    from benchmarks import plasticity

    found = load("plasticity-cpu")
    if found is None:
        return None
    absent = f" Absent: {'; '.join(found['absent'])}." if found["absent"] else ""
    return f"{table(*plasticity.table(found))}\n\n{origin(found['command'], found['environment'])}{absent}"


def _number(value: float | None) -> str:
    """Four digits: enough to see a difference, few enough to read."""
    if value is None:
        return "–"
    return "0" if abs(value) < 5e-13 else f"{value:.4g}"


def short(values: Mapping[str, Any], cls: type) -> str:
    """A preset's values; those that it leaves at the rule's default are said to be so."""
    if not values:
        return "the rule's defaults"
    units = getattr(cls, "UNITS", {})
    parts = []
    for name, value in values.items():
        text = f"{value:.5g}" if isinstance(value, float) else str(value)
        unit = units.get(name, "")
        parts.append(f"`{name}` {text}{' ' + unit if unit and value is not None else ''}")
    return ", ".join(parts)


def presets() -> str:
    """Every published set: values, source, whether read there, cells, and what it was fitted to."""
    rows = []
    for name, cls in RULES.items():
        for preset, row in cls.PRESETS.items():
            fitted = ", ".join(row.protocols) or "–"
            if row.grouped is not None:
                fitted += ", in groups" if row.grouped else ", contiguous"
            if row.longest is not None:
                fitted += f", up to {row.longest:g} s"
            rows.append([
                f"`{name}/{preset}`", short(row.values, cls), row.source, "read" if row.verified else MEMORY,
                row.region or "–", fitted, row.note or "–",
            ])  # fmt: skip
    header = ["preset", "values", "source", "numbers", "cells", "fitted to", "note"]
    without = ", ".join(f"`{name}`" for name, cls in RULES.items() if not cls.PRESETS)
    return f"{table(header, rows)}\n\nWithout a published set (their default numbers are ours): {without}."


def datasets() -> str:
    """Every published data set."""
    rows = [
        [f"`{name}`", f"{len(data.points)} over {headed(data.axes)}", data.region, ", ".join(data.protocols),
         data.source, "read" if data.verified else MEMORY, data.note or "–"]
        for name, data in DATASETS.items()
    ]  # fmt: skip
    return table(["data", "points", "cells", "protocols", "source", "numbers", "note"], rows)


def distances(found: Mapping[str, Any], entries: list[Entry]) -> str:
    """Every comparison of the gallery with data."""
    rows = []
    for entry in entries:
        for run, recorded in zip(entry.runs, found["entries"][entry.name]["runs"], strict=True):
            if "comparison" not in recorded:
                continue
            c = recorded["comparison"]
            rule, _, preset = run.rule.partition("/")
            rows.append([
                f"`{run.rule}`", RULES[rule].PRESETS[preset].region, f"`{' '.join([run.protocol, *run.words])}`",
                f"`{c['data']}`" if c["verified"] else f"`{c['data']}`, {MEMORY}", _number(c["E"]),
                f"{c['within_2_sem']} of {c['points']}",
            ])  # fmt: skip
    note = "E is the mean of ((model - data)/SEM)² (Pfister & Gerstner 2006); points without a SEM are left out."
    return f"{table(['preset', 'cells', 'protocol', 'data', 'E', 'within 2 SEM'], rows)}\n\n{note} {_about(found)}"


def facts(found: Mapping[str, Any], entry: Entry) -> str:
    """What one experiment gave."""
    record = found["entries"][entry.name]
    parts = []
    if record["facts"]:
        rows = [
            [f["what"], _number(f["found"]), _number(f["expected"]), f["source"] if f["expected"] is not None else "–"]
            for f in record["facts"]
        ]
        if any(f["expected"] is not None for f in record["facts"]):
            parts.append(table(["measured", "found", "expected", "by"], rows))
        else:
            parts.append(table(["measured", "found"], [row[:2] for row in rows]))
    for run in record["runs"]:
        if "comparison" in run:
            c = run["comparison"]
            memory = "" if c["verified"] else f" ({MEMORY})"
            parts.append(
                f"`{run['command'].split()[2]}` beside `{c['data']}`{memory}: E = {_number(c['E'])}; "
                f"{c['within_2_sem']} of {c['points']} points within 2 SEM."
            )
    parts += [f"The laboratory warns: {_plain(text)}." for text in record["warnings"]]
    parts.append(f"{record['seconds']:.1f} s, commit {record['commit']}.")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    return text.replace("_", "\\_").rstrip(".")


def _about(found: Mapping[str, Any]) -> str:
    commits = sorted({entry["commit"] for entry in found["entries"].values()})
    return origin(found["command"], *({**found["environment"], "commit": commit} for commit in commits))

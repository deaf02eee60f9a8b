"""The verb `plasticity`: a rule under a protocol, as a table, files and figures; and what `list` says of both."""

import inspect
import math
import re
import warnings
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import click

from spikecredit.training.document import ConfigError, nearest
from spikecredit.verbs import Failure

if TYPE_CHECKING:
    from spikecredit.plasticity import Dataset, Protocol, Result, Rule
    from spikecredit.plasticity.regions import Study

READINGS = 1000
"""How often recorded variables are read unless --every says otherwise."""
RANGE = re.compile(r"(-?[\d.]+):(-?[\d.]+):(-?[\d.]+)")
ENGINES = ("reference", "torch", "brian")


@click.command()
@click.argument("rule", metavar="RULE[/PRESET]")
@click.argument("protocol", metavar="[PROTOCOL]", required=False)
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--engine", type=click.Choice(ENGINES), default="reference", show_default=True, help="What runs it.")
@click.option("--dt", type=float, default=None, metavar="MS", help="Step of the engine; by default the rule's own.")
@click.option("--replicates", type=click.IntRange(1), default=1, show_default=True, help="Synapses per condition.")
@click.option("--seed", default=0, show_default=True, help="Of the rule's noise.")
@click.option("--data", default=None, metavar="NAME", help="Published data to compare with: spikecredit list datasets.")
@click.option("--record", default=None, metavar="NAMES", help="Variables to record, between commas.")
@click.option("--every", type=float, default=None, metavar="MS", help="Between two readings; by default a thousandth.")
@click.option("--device", default=None, help="cpu, cuda or cuda:N, for --engine torch.")
@click.option("--out", default=None, metavar="FOLDER", help="By default runs/plasticity-RULE-PRESET-PROTOCOL.")
def plasticity(
    rule: str,
    protocol: str | None,
    words: tuple[str, ...],
    engine: str,
    dt: float | None,
    replicates: int,
    seed: int,
    data: str | None,
    record: str | None,
    every: float | None,
    device: str | None,
    out: str | None,
) -> None:
    """Run a plasticity RULE under PROTOCOL: its changes as a table, as CSV, and as the figure of the protocol.

    KEY=VALUE sets a field of the protocol or, if it has none of that name, of the rule; protocol.KEY and rule.KEY say
    which. Lists are written 10,20 or -50:50:5. `spikecredit list plasticity` and `list protocols` name all fields. The
    name of a brain region alone runs its rule, protocol and data: `spikecredit list regions`.

    \b
    spikecredit plasticity triplet/visual_cortex_nearest frequency --data sjostrom2001
    spikecredit plasticity triplet pairing dt=-50:50:5 n=100
    spikecredit plasticity striatum
    """
    if protocol is None:
        first = study(rule)
        out = out or f"runs/plasticity-{rule}"
        rule, protocol, words = first.rule, first.protocol, first.words
        data, replicates = data or first.data, max(replicates, first.replicates)
        click.echo(f"{first.command}\n")
    from spikecredit.circuits.objects import brian2
    from spikecredit.plasticity.datasets import dataset

    if engine == "brian":
        try:
            brian2()  # its import takes warnings over, and would do so from us below
        except ImportError as error:
            raise Failure(str(error)) from error
    if device is not None and engine != "torch":
        raise Failure(f"--device {device} is for --engine torch; the {engine} engine runs on the CPU")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries among themselves
        try:
            chosen, experiment = choose(rule, protocol, words)
            published = dataset(data) if data is not None else None
            if published is not None:  # before the run, which may be long
                made = experiment.experiment()
                published.places(made.axes, made.rows)
            options: dict[str, Any] = {} if device is None else {"device": device}
            options |= reading(chosen, experiment, record, every, dt)
            result = experiment.run(chosen, engine, dt, replicates, seed, **options)  # type: ignore[arg-type]
            told = [*heading(result), result.table()]
            if published is not None:
                told.append("\n" + result.compare(published).table())
            elif known := fitting(result):
                told.append(f"\npublished data of these conditions: --data {' or --data '.join(known)}")
            folder = Path(out or f"runs/plasticity-{rule.replace('/', '-')}-{protocol}")
            told.append(f"\nwritten: {', '.join(map(str, write(result, folder, published)))}")
        except (ValueError, ImportError, OSError, ArithmeticError, RuntimeError) as error:
            raise Failure(" ".join(str(error).split("\n"))) from error
        finally:
            for message in dict.fromkeys(str(each.message) for each in found):
                click.echo(f"warning: {message}", err=True)
    click.echo("\n".join(told))


# ---- words to objects ------------------------------------------------------------------------------------------------


def study(region: str) -> "Study":
    """The first study of a region.

    Raises:
        Failure: a name that is no region, or a region without numbers.
    """
    from spikecredit.plasticity import REGIONS, RULES

    if region not in REGIONS:
        if region.partition("/")[0] in RULES:
            raise Failure(f"{region} needs a PROTOCOL, such as pairing: spikecredit list protocols")
        raise Failure(f"no region or rule {region!r}{nearest(region, [*REGIONS, *RULES])}")
    found = REGIONS[region]
    if not found.studies:
        raise Failure(
            f"{region} has no rule to run: {found.evidence} Its data: --data {' or --data '.join(found.data)}, with a "
            "rule of yours"
        )
    return found.studies[0]


def choose(rule: str, protocol: str, words: tuple[str, ...] = ()) -> tuple["Rule", "Protocol"]:
    """The rule and the protocol that the words of a command line name.

    Raises:
        Failure: an unknown name or key, or a value that does not fit.
    """
    from spikecredit.plasticity import PROTOCOLS, REGIONS, RULES

    name, slash, preset = rule.partition("/")
    if name in REGIONS:
        raise Failure(f"{name} is a region, which runs alone: spikecredit plasticity {name}; its rules: list regions")
    if name not in RULES:
        raise Failure(f"no rule {name!r}{nearest(name, list(RULES))}")
    if protocol not in PROTOCOLS:
        raise Failure(f"no protocol {protocol!r}{nearest(protocol, list(PROTOCOLS))}")
    kind = RULES[name]
    if slash and preset not in kind.PRESETS:
        raise Failure(f"{name} has no preset {preset!r}{nearest(preset, list(kind.PRESETS))}")
    sides: dict[str, type] = {"protocol": PROTOCOLS[protocol], "rule": kind}
    given: dict[str, list[str]] = {side: [] for side in sides}
    fields = {side: _fields(cls) for side, cls in sides.items()}
    for word in words:
        key, equals, text = word.partition("=")
        side, _, own = key.rpartition(".")
        if not equals or not key:
            raise Failure(f"{word!r}: expected key=value, such as n=60")
        known = [side] if side in sides else [s for s in sides if key in fields[s]] if not side else []
        if not known or own not in fields[known[0]]:
            names = fields[side] if side in sides else [n for s in sides for n in fields[s]]
            who = {"rule": f"the rule {name}", "protocol": f"the protocol {protocol}"}.get(
                side, f"neither {protocol} nor {name}"
            )
            has = "has no" if side in sides else "has"
            raise Failure(f"{word!r}: {who} {has} {own if side in sides else key!r}{nearest(own, list(names))}")
        given[known[0]].append(f"{own}={_listed(text, fields[known[0]][own])}")
    if slash and given["rule"]:
        values = " ".join(f"{k}={v}" for k, v in kind.PRESETS[preset].values.items())
        raise Failure(
            f"{rule} was fitted as a whole, and cannot be mixed with {' '.join(given['rule'])}: for a set of your own "
            f"leave out /{preset} and give its values too: {values}"
        )
    return (kind.preset(preset) if slash else _build(kind, given["rule"])), _build(sides["protocol"], given["protocol"])


def _fields(cls: type) -> dict[str, Any]:
    from spikecredit.training.schema import Schema

    return {name: field.type for name, field in Schema(cls, {}).fields(cls).items()}


def _build(cls: type, overrides: list[str]) -> Any:
    from spikecredit.training.schema import load

    try:
        return load(cls, {}, {}, overrides).value
    except ConfigError as error:
        raise Failure("; ".join(reason.removeprefix("configuration: ") for reason in error.errors)) from error


def _listed(text: str, annotation: Any) -> str:
    """The text of a list without its brackets as YAML, and ranges written out, where a list is expected."""
    options = (annotation, *get_args(annotation))
    if not any(get_origin(t) is tuple for t in options) or text.startswith("[") or text in ("null", "~"):
        return text
    if (found := RANGE.fullmatch(text)) is None:
        return f"[{text}]"
    low, high, step = map(float, found.groups())
    if not step or (high - low) / step < 0:
        raise Failure(f"{text!r} is a range from:to:step, and {step:g} does not lead from {low:g} to {high:g}")
    return f"[{', '.join(f'{low + k * step:g}' for k in range(math.floor((high - low) / step + 1e-9) + 1))}]"


def reading(
    rule: "Rule", protocol: "Protocol", record: str | None, every: float | None, dt: float | None
) -> dict[str, Any]:
    """What to record: what is asked for; the weight, where the figure is its course."""
    names = tuple(name.strip() for name in record.split(",")) if record else ()
    if not names and protocol.plot == "course":
        names = (rule.equations().weight,)
    if not names:
        if every is not None:
            raise Failure("--every needs --record, the variables to read")
        return {}
    step = dt if dt is not None else rule.DT
    per = step * max(1, math.ceil(protocol.experiment().duration / READINGS / step))
    return {"record": names, "every": every if every is not None else per}


# ---- what comes back -------------------------------------------------------------------------------------------------


def heading(result: "Result") -> list[str]:
    """Rule, parameters' origin, protocol, engine."""
    preset = result.rule.published
    origin = "parameters of your own"
    if preset is not None:
        row = result.rule.PRESETS[preset]
        memory, region = "" if row.verified else ", from memory", f"; {row.region}" if row.region else ""
        origin = f"{preset}: {row.source}{memory}{region}"
    seconds = result.experiment.duration / 1e3
    return [
        f"{type(result.rule).__name__} ({origin})",
        f"{result.protocol.kind}, {seconds:g} s, {result.engine} engine\n",
    ]


def fitting(result: "Result") -> list[str]:
    """The names of published data that measured conditions of this experiment under this protocol."""
    from spikecredit.plasticity import DATASETS

    made, names = result.experiment, []
    for name, data in DATASETS.items():
        with suppress(ValueError):
            if result.protocol.kind in data.protocols and data.places(made.axes, made.rows):
                names.append(name)
    return names


def write(result: "Result", folder: Path, data: "Dataset | None") -> list[Path]:
    """The changes, traces and comparison as CSV; the protocol's figure, and those of what was recorded.

    Without matplotlib there are no figures, and a warning says so.
    """
    files = result.to_csv(folder / "changes.csv")
    if data is not None:
        files.append(result.compare(data).to_csv(folder / f"{data.name}.csv"))
    figures = {"changes": result.protocol.plot}
    if result.outcome.traces and result.protocol.plot != "course":
        figures["traces"] = "course"
    if result.rule.equations().weight in result.outcome.traces and result.outcome.before.shape[1] > 1:
        figures["weights"] = "weights"
    try:
        for name, kind in figures.items():
            result.plot(folder / f"{name}.png", data if name == "changes" else None, kind)
            files.append(folder / f"{name}.png")
    except ImportError as error:
        warnings.warn(str(error), stacklevel=2)
    return files


def catalogue() -> dict[str, dict[str, list[str]]]:
    """What `list` says of the laboratory: word, then name, then its lines."""
    from spikecredit.plasticity import DATASETS, PROTOCOLS, REGIONS, RULES
    from spikecredit.plasticity.datasets import headed

    found: dict[str, dict[str, list[str]]] = {"plasticity": {}, "protocols": {}, "datasets": {}, "regions": {}}
    for word, classes in (("plasticity", RULES), ("protocols", PROTOCOLS)):
        for name, cls in classes.items():
            found[word][name] = [f"{name}: {cls.__name__}{_signature(cls)}", f"    {_sentence(cls)}"]
    for name, rule in RULES.items():
        for preset, row in rule.PRESETS.items():
            about = "; ".join(part for part in (row.source, row.region) if part)
            status = "verified" if row.verified else "from memory"
            found["plasticity"][name].append(f"    {name}/{preset:<34} {status:<12} {about}")
    for name, data in DATASETS.items():
        status = "verified" if data.verified else "from memory"
        about = f"{len(data.points)} points over {headed(data.axes)}; {data.region}; for {' or '.join(data.protocols)}"
        note = [f"    {data.note}"] if data.note else []
        found["datasets"][name] = [f"{name}: {about}", f"    {status}: {data.source}", *note]
    for name, region in REGIONS.items():
        runs = [f"    {each.command}" for each in region.studies] or [f"    data: {', '.join(region.data)}"]
        found["regions"][name] = [f"{name}: {region.title} ({region.status})", f"    {region.evidence}", *runs]
    return found


def _signature(cls: type) -> str:
    from spikecredit.training.schema import Schema

    shown = []
    for name, field in Schema(cls, {}).fields(cls).items():
        text = repr(field.default)
        if is_dataclass(field.default):  # a rule's cell, whose constants are in its own docstring
            text = f"{type(field.default).__name__}()"
        elif len(text) > 60:  # a window has dozens of lags
            text = f"({', '.join(map(repr, field.default[:2]))}, ..., {field.default[-1]!r})"
        shown.append(name if field.required else f"{name}={text}")
    return f"({', '.join(shown)})"


def _sentence(cls: type) -> str:
    """The first sentence of a class's description; it may go over several lines."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())

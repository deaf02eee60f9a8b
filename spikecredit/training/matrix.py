"""The matrix of a comparison: configurations x pathways x constraints x seeds, from words to checked configurations.

A pathway or constraint is written as its kind, `sign_symmetry`; with options, `sign_symmetry(magnitude=fixed)`; as in
YAML, `{kind: sign_symmetry, magnitude: fixed}`; a pathway also by the field's short name, `frSF`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikecredit.constraints import CONSTRAINTS
from spikecredit.pathways import PATHWAYS
from spikecredit.training.document import ConfigError, Node, nearest, read
from spikecredit.training.experiment import load_experiment
from spikecredit.training.run import config_hash

_SHORT_NAMES: dict[str, dict[str, Any]] = {
    "BP": {"kind": "backprop"},
    "FA": {"kind": "feedback_alignment"},
    "uSF": {"kind": "sign_symmetry", "magnitude": "uniform"},
    "frSF": {"kind": "sign_symmetry", "magnitude": "fixed"},
    "brSF": {"kind": "sign_symmetry", "magnitude": "batch"},
    "uSF-SN": {"kind": "sign_symmetry", "magnitude": "uniform", "scale": "strict"},
    "DFA": {"kind": "direct_feedback_alignment"},
    "sDFA": {"kind": "direct_feedback_alignment", "signal": "sign"},
    "DRTP": {"kind": "direct_feedback_alignment", "signal": "target"},
    "KP": {"kind": "kolen_pollack"},
    "DKP": {"kind": "direct_kolen_pollack"},
    "WM": {"kind": "weight_mirror"},
    "IA": {"kind": "local_alignment", "rule": "information"},
    "SA": {"kind": "local_alignment", "rule": "symmetric"},
    "AA": {"kind": "local_alignment", "rule": "activation"},
}
"""The field's short names of pathways. Those of kinds that are not in the registry are not offered."""

_NAME = re.compile(r"([\w-]+)\s*(?:\((.*)\))?", re.DOTALL)
_CHANGE = re.compile(r"(?P<name>.*?):(?P<override>[A-Za-z_][\w.]*=.*)", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def short_names() -> dict[str, str]:
    """The field's short names of pathways, and what each stands for, as it is written after --pathway."""
    return {name: _label(choice) for name, choice in _offered().items()}


def _offered() -> dict[str, dict[str, Any]]:
    return {name: choice for name, choice in _SHORT_NAMES.items() if choice["kind"] in PATHWAYS}


def _label(mapping: Mapping[str, Any]) -> str:
    """`kind(option=value, ...)`."""
    given = ", ".join(f"{key}={_flow(value)}" for key, value in mapping.items() if key != "kind")
    return f"{mapping['kind']}({given})" if given else str(mapping["kind"])


@dataclass(frozen=True)
class Condition:
    """One row of the table.

    label: its name. folder: of its cells, seed-0, seed-1, ... seeds: which. resolved: the configuration, of seed 0.
    """

    label: str
    folder: str
    seeds: tuple[int, ...]
    resolved: dict[str, Any]

    def config(self, seed: int) -> dict[str, Any]:
        """The resolved configuration of one cell."""
        return {**self.resolved, "seed": seed}


# ---- words to choices ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A pathway or a constraint as it was written, what the table calls it, and its YAML mapping."""

    written: str
    label: str
    mapping: Mapping[str, Any]


def split(text: str) -> list[str]:
    """The parts between the commas that stand in no bracket and no quotes.

    Raises:
        ValueError: a bracket or quote has no partner, or a part is empty.
    """
    parts, closing, quote = [""], [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _BRACKETS:
            closing.append(_BRACKETS[letter])
        elif closing and letter == closing[-1]:
            closing.pop()
        elif letter in _BRACKETS.values():
            raise ValueError(f"{letter!r} without its partner")
        elif letter == "," and not closing:
            parts.append("")
            continue
        parts[-1] += letter
    if quote or closing:
        raise ValueError(f"{quote or closing[-1]!r} is missing")
    parts = [part.strip() for part in parts]
    if "" in parts:
        raise ValueError("a name is missing between two commas" if len(parts) > 1 else "no name is given")
    return parts


def choices(option: str, text: str) -> list[Choice]:
    """What `--pathway` or `--constraint` names.

    Args:
        option: "pathway" or "constraint". text: the kinds, short names or mappings between commas.
    Raises:
        ConfigError: what cannot be read, or is no kind; the options are checked when a configuration is loaded.
    """
    try:
        return [_choice(option, part) for part in split(text)]
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError([f"--{option} {text!r}: {error}"]) from error


def _choice(option: str, text: str) -> Choice:
    kinds, short = (PATHWAYS, _offered()) if option == "pathway" else (CONSTRAINTS, {})
    where = f"--{option} {text!r}"
    if text.startswith("{"):
        mapping = _plain(read(text, where))
        kind = mapping.pop("kind", None) if isinstance(mapping, dict) else None
        if kind is None:
            raise ConfigError([f"{where}: expected a mapping with a kind, such as {{kind: {next(iter(kinds))}}}"])
        name, options = str(kind), mapping
    else:
        match = _NAME.fullmatch(text)
        if match is None:
            raise ConfigError([f"{where}: expected a kind, as {next(iter(kinds))}, or a kind(option=value, ...)"])
        name, options = match[1], _options(match[2] or "", where)
    if name not in kinds and name not in short:
        raise ConfigError([f"{where}: unknown kind {name!r}{nearest(name, [*kinds, *short])}"])
    return Choice(text, _label({"kind": name, **options}), {**short.get(name, {"kind": name}), **options})


def _options(text: str, where: str) -> dict[str, Any]:
    """`a=1, b=x` as a mapping; the values are YAML."""
    pairs = [part.partition("=") for part in split(text)] if text.strip() else []
    if any(not equals for _, equals, _ in pairs):
        raise ConfigError([f"{where}: options are written (name=value, name=value)"])
    return {key.strip(): _plain(read(value.strip(), where)) for key, _, value in pairs}


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    return [_plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def _flow(value: Any) -> str:
    """A value as YAML in one line; JSON is YAML."""
    return value if isinstance(value, str) else json.dumps(value)


# ---- choices to conditions -------------------------------------------------------------------------------------------


def conditions(
    sources: Sequence[Path],
    pathway: str | None,
    constraint: str | None,
    seeds: int,
    overrides: Sequence[str],
    changes: Sequence[str],
) -> list[Condition]:
    """Every combination, with its configuration checked; in the order source, constraint, pathway.

    Later wins: the source, pathway and constraint, `overrides`, then `changes` of the rows they name.

    Args:
        sources: configuration files. pathway, constraint: as in `choices`; None leaves that of the file.
        seeds: every row has the seeds 0, 1, ..., seeds - 1.
        overrides: `key=value` for all rows.
        changes: `NAME:key=value` for the rows that NAME names: by their label, or all with the pathway, constraint or
            configuration of that name. `NAME:seeds=2` changes the number of seeds.
    Raises:
        ConfigError: with every reason.
    """
    if seeds < 1:
        raise ConfigError([f"--seeds must be at least 1, got {seeds}"])
    given = {"pathway": pathway, "constraint": constraint}
    chosen = {option: [None] if text is None else choices(option, text) for option, text in given.items()}
    fixed = ["seed", *(option for option, text in given.items() if text is not None)]
    errors: list[str] = []
    named, used = [_change(change, errors) for change in changes], set()
    written = [f"--set {change!r}" for change in changes] + [f"override {override!r}" for override in overrides]
    for place, override in zip(written, [*(override for _, override in named), *overrides], strict=True):
        key = override.partition("=")[0].strip().removesuffix(".kind")
        if key in fixed:
            option = "seeds" if key == "seed" else key
            errors.append(f"{place}: --{option} chooses the {key} of each row; write it there")
    found: list[Condition] = []
    labels: list[str] = []
    for source in sources:
        alone = sum(other.stem == source.stem for other in sources) == 1
        stem = source.stem if alone else str(source.with_suffix(""))
        for law in chosen["constraint"]:
            for way in chosen["pathway"]:
                label = _row(stem, way, law, len(sources) > 1)
                labels.append(label)
                parts = [part for part in (way, law) if part is not None]
                names = {label, stem} | {part.label for part in parts} | {part.written for part in parts}
                own = [(index, override) for index, (name, override) in enumerate(named) if name in names]
                used |= {index for index, _ in own}
                found += _condition(label, source, (way, law), seeds, overrides, [o for _, o in own], errors)
    for index, (name, override) in enumerate(named):
        if index not in used and name:
            errors.append(f"--set {name}:{override}: no row is called {name!r}{nearest(name, labels)}")
    errors += _twins(found)
    if errors:
        raise ConfigError(list(dict.fromkeys(errors)))
    return _with_folders(found)


def _change(text: str, errors: list[str]) -> tuple[str, str]:
    match = _CHANGE.fullmatch(text)
    if match is None:
        errors.append(f"--set {text!r}: expected NAME:key=value, such as FA:training.optimizer.lr=0.001")
        return "", ""
    return match["name"].strip(), match["override"]


def _row(stem: str, way: Choice | None, law: Choice | None, several: bool) -> str:
    name = stem if way is None else f"{stem} / {way.label}" if several else way.label
    return name if law is None or law.mapping == {"kind": "none"} else f"{name} + {law.label}"


def _condition(
    label: str,
    source: Path,
    parts: tuple[Choice | None, Choice | None],
    seeds: int,
    overrides: Sequence[str],
    own: Sequence[str],
    errors: list[str],
) -> list[Condition]:
    """One condition, or none after saying why."""
    options = ("pathway", "constraint")
    written = {
        f"{option}={json.dumps(part.mapping)}": f"--{option} {part.written!r}"
        for option, part in zip(options, parts, strict=True)
        if part is not None
    }
    for change in own:
        key, _, value = change.partition("=")
        if key == "seeds" and not re.fullmatch(r"[1-9]\d*", value):
            errors.append(f"--set {change!r} for {label}: expected a number of seeds, at least 1")
        elif key == "seeds":
            seeds = int(value)
    settings = [change for change in own if not change.startswith("seeds=")]
    try:
        resolved = load_experiment(source, (*written, *overrides, *settings, "seed=0")).resolved
    except ConfigError as error:
        for text in error.errors:
            for override, option in written.items():
                text = text.replace(f"override {override!r}", option)
            errors.append(text)
        return []
    return [Condition(label, "", tuple(range(seeds)), resolved)]


def _twins(found: Sequence[Condition]) -> list[str]:
    """Rows that would be the same experiment twice."""
    first: dict[str, str] = {}
    errors = []
    for condition in found:
        other = first.setdefault(config_hash(condition.resolved), condition.label)
        if other is not condition.label:
            errors.append(f"{condition.label} and {other} have the same configuration; leave one out")
    return errors


def _with_folders(found: Sequence[Condition]) -> list[Condition]:
    """Each with a folder name that needs no quotes; rows whose names would be equal get a piece of their hash."""
    plain = [re.sub(r"[^\w.+]+", "-", condition.label).strip("-.") for condition in found]
    plain = [re.sub(r"-?\+-?", "+", name) for name in plain]
    lower = [name.lower() for name in plain]  # file systems that ignore case
    return [
        Condition(
            condition.label,
            name if lower.count(name.lower()) == 1 else f"{name}-{config_hash(condition.resolved)[:8]}",
            condition.seeds,
            condition.resolved,
        )
        for name, condition in zip(plain, found, strict=True)
    ]

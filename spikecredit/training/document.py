"""YAML text as a tree of values that know their place; what is no configuration is refused with file and line.

`yaml.SafeLoader` does the parsing. Added here: limits on size, aliases and depth; duplicate keys, foreign tags, dates
and base-8 numbers are errors; overrides `a.b=value` are put into the tree; the nearest name to a mistyped one is found.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000  # refuse what cannot be a configuration before parsing it
MAX_ALIASES = 100
MAX_VALUES = 100_000  # after aliases are expanded: 100 aliases of aliases can still multiply to 10^10 values
NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?(Infinity|\.inf)|NaN|\.nan")
_ODD_INTEGER = re.compile(r"[-+]?(0[0-7_]+|[\d_]+(:\d+)+)")  # YAML 1.1: 010 is 8 and 1:30 is 90


class ConfigError(ValueError):
    """A configuration cannot be used. `errors` lists every reason with its place; the message has one per line."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


def edits(a: str, b: str) -> int:
    """Letters to delete, insert, replace or swap with their neighbour to turn a into b (optimal string alignment)."""
    before, last = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def nearest(name: str, names: Sequence[str]) -> str:
    """`; did you mean 'tau'?` if one of `names` is near `name`, otherwise `; known: a, b, c`.

    Near is at most one edit per three letters (and always one: short names have typos too); then difflib's similarity,
    without case, for larger slips such as a forgotten suffix.
    """
    best = min(names, key=lambda known: edits(name, known), default=None)
    if best is None:
        return "; none is known"
    if edits(name, best) <= max(1, len(best) // 3):
        return f"; did you mean {best!r}?"
    lower = {known.lower(): known for known in names}
    similar = get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return f"; did you mean {lower[similar[0]]!r}?" if similar else f"; known: {', '.join(names)}"


# ---- YAML to a tree of values with places ----------------------------------------------------------------------------


@dataclass
class Node:
    """A value, where it was given (`file:line` or `override '...'`), and as what text."""

    value: Any  # None, bool, int, float, str, list[Node] or dict[str, Node]; anything else fits no annotation
    where: str
    text: str = ""


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that counts aliases and reads 1e-3 (YAML 1.2) and JSON's NaN and Infinity as numbers."""

        aliases = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.aliases += 1
                if self.aliases > MAX_ALIASES:
                    problem = f"more than {MAX_ALIASES} aliases (*name); write the values out"
                    raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
            return super().compose_node(parent, index)

    _add_numbers(Loader)
    return Loader


def _add_numbers(cls: Any) -> None:
    number = re.compile(f"({NUMBER.pattern})$")
    cls.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789NI"))


def write(values: Mapping[str, Any]) -> str:
    """YAML text of plain values that `read` gives back equal: text that looks like a number, as 1e-3, is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _add_numbers(Dumper)
    return yaml.dump(dict(values), Dumper=Dumper, sort_keys=False)


class _Tree:
    """One YAML document as a tree of Node; `errors` collects what YAML allows and a configuration does not."""

    def __init__(self, text: str, file: str, fixed_place: str = "") -> None:
        self.file, self.fixed_place = file, fixed_place
        self.errors: list[str] = []
        self.budget = MAX_VALUES
        self.loader = _loader()(text)
        node = self.loader.get_single_node()
        self.root = Node(None, fixed_place or f"{file}:1") if node is None else self.node(node, self.place(node), ())

    def place(self, node: Any) -> str:
        return self.fixed_place or f"{self.file}:{node.start_mark.line + 1}"

    def node(self, node: Any, where: str, parents: tuple[int, ...]) -> Node:
        self.budget -= 1
        if self.budget < 0 or id(node) in parents:
            reason = f"expands to more than {MAX_VALUES} values" if self.budget < 0 else "contains itself"
            raise ConfigError([f"{where}: an alias (*name) {reason}; write the values out"])
        tag, value, parents = node.tag.removeprefix("tag:yaml.org,2002:"), node.value, (*parents, id(node))
        if tag == "map" and node.id == "mapping":
            return Node(self.mapping(node, parents), where)
        if tag == "seq" and node.id == "sequence":
            return Node([self.node(item, self.place(item), parents) for item in value], where)
        if node.id != "scalar" or tag not in ("null", "bool", "int", "float", "str", "timestamp"):
            self.errors.append(f"{where}: tag {node.tag!r} is not allowed; use mappings, lists, numbers and text only")
        elif tag == "timestamp" or (tag == "int" and _ODD_INTEGER.fullmatch(value)):
            reading = "a date; quote it" if tag == "timestamp" else "a number in base 8 or 60; write it in base 10"
            self.errors.append(f"{where}: YAML reads {value!r} as {reading}")
        else:
            try:
                return Node(self.loader.construct_object(node), where, value)
            except ValueError as error:  # such as `!!int x`
                self.errors.append(f"{where}: {error}")
        return Node(None, where)

    def mapping(self, node: Any, parents: tuple[int, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key, value in node.value:
            where = self.place(key)
            if key.id != "scalar":
                self.errors.append(f"{where}: a key must be text, not a list or mapping")
            elif key.value in found:
                first = found[key.value].where
                self.errors.append(f"{where}: key {key.value!r} is given twice (first at {first}); remove one")
            else:  # the key's text, not its value: `on:` and `1:` are names here, never true and one
                found[key.value] = self.node(value, where, parents)
        return found


def _parse(text: str, file: str, fixed_place: str = "") -> Node:
    """The tree of one YAML document. Errors: ConfigError (size, syntax, duplicate keys, foreign tags)."""
    import yaml

    if len(text) > MAX_BYTES:
        raise ConfigError([f"{file}: more than {MAX_BYTES} bytes is no configuration"])
    try:
        tree = _Tree(text, file, fixed_place)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and not fixed_place else ""
        told = "; ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([f"{file}{line}: not YAML: {told}"]) from error
    except yaml.reader.ReaderError as error:
        line = "" if fixed_place else f":{text.count(chr(10), 0, error.position) + 1}"
        raise ConfigError([f"{file}{line}: not YAML: the character {chr(error.character)!r} is not allowed"]) from error
    except RecursionError as error:
        raise ConfigError([f"{file}: nested too deeply"]) from error
    if tree.errors:
        raise ConfigError(tree.errors)
    return tree.root


def _wrap(value: Any, where: str) -> Node:
    """A plain Python value as a tree, for configurations that were resolved before."""
    if isinstance(value, Mapping):
        return Node({str(key): _wrap(item, where) for key, item in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([_wrap(item, where) for item in value], where)
    return Node(value, where, str(value))


def read(source: Path | str | Mapping[str, Any], file: str | None) -> Node:
    """The tree of a YAML file; of YAML text, if `file` gives it a name; or of a mapping."""
    if isinstance(source, Mapping):
        return _wrap(source, file or "configuration")
    if file is not None:
        return _parse(str(source), file)
    path = Path(source)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        return _parse(data.decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        if not path.parent.is_dir():
            raise ConfigError([f"{path}: no such folder: {path.parent}"]) from error
        names = sorted(name for name in os.listdir(path.parent) if name.endswith((".yaml", ".yml")))
        raise ConfigError([f"{path}: no such file{nearest(path.name, names)}"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: not UTF-8 text"]) from error


def apply_override(root: Node, override: str) -> None:
    """Put one `a.b=value` into the tree."""
    where = f"override {override!r}"
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError([f"{where}: expected key=value, such as neuron.tau=10"])
    new, here = _parse(text, where, where), root
    for depth, key in enumerate(keys):
        if here.value is None:
            here.value = {}
        elif isinstance(here.value, str):  # the shorthand `pathway: backprop`
            here.value = {"kind": Node(here.value, here.where, here.text)}
        elif isinstance(here.value, list):
            if not key.isdecimal() or int(key) >= len(here.value):
                raise ConfigError([f"{where}: {key!r} is no place in {got(here)} at {here.where}; places start at 0"])
        elif not isinstance(here.value, dict):
            path = ".".join(keys[:depth])
            raise ConfigError([f"{where}: {path!r} is {got(here)} at {here.where}, which has no {key!r}"])
        index: Any = int(key) if isinstance(here.value, list) else key
        if depth == len(keys) - 1:
            here.value[index] = new
        elif isinstance(here.value, dict):
            here = here.value.setdefault(key, Node({}, where))
        else:
            here = here.value[index]


def plain(node: Node) -> Any:
    """The tree's values, without their places."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    return [plain(item) for item in node.value] if isinstance(node.value, list) else node.value


def got(node: Node) -> str:
    """A node's value in words, for messages."""
    value, word = node.value, "true" if node.value else "false"
    if isinstance(value, bool):
        return word if node.text.lower() == word else f"{word} (YAML's {node.text!r}; quote it to make it text)"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return "nothing (null)" if value is None else f"text {value!r}" if isinstance(value, str) else f"{value!r}"

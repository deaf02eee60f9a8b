"""A constructor's signature is its configuration: YAML in, a constructed object and its resolved configuration out.

`load(Experiment, "mnist.yaml", registries, ["neuron.tau=10"])` reads the annotations and defaults of the constructors
of `Experiment` and of every class it names, checks the file against them, and calls them. No schema is written by hand,
so none can drift. A mistyped key is an error with file, line and nearest name, and all errors of a file come at once.

The rules, complete:

* A mapping's keys are the constructor's parameters. Names that start with `_` are left out. A parameter that YAML
  cannot express (tensor, generator, callable) is left out if it has a default; of a union, what YAML can express stays.
* YAML can express None, bool, int, float, str, Path, Literal, list, Sequence, tuple, dict[str, X], frozen dataclasses
  and every class that is in a registry.
* A registry maps kinds to classes: `pathway: {kind: sign_symmetry, magnitude: uniform}`, or short `pathway: backprop`.
* Without `kind`: if the parameter's default is an object, its kind is used, and keys not given take the defaults of
  *its constructor* (not the default object's values); if the registry has one entry, that one; otherwise an error.
* An override `a.b=value` replaces or adds one value (parsed as YAML); `layers.0.tau=5` reaches into a list.
  `pathway=backprop` replaces the whole mapping, `pathway.kind=backprop` the kind only: the other keys must suit it.
* Nothing is converted but an integer where a number is expected and `1e-3`, which YAML 1.1 calls text. No `<<` merges.
"""

import inspect
import os
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

T = TypeVar("T")
Registries = Mapping[type, Mapping[str, type]]

MAX_BYTES = 1_000_000  # refuse what cannot be a configuration before parsing it
MAX_ALIASES = 100
MAX_VALUES = 100_000  # after aliases are expanded: 100 aliases of aliases can still multiply to 10^10 values
_BAD: Any = object()  # stands for a value whose error was reported
_NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)([eE][-+]?\d+)?|[-+]?(Infinity|\.inf)|NaN|\.nan")
_ODD_INTEGER = re.compile(r"[-+]?(0[0-7_]+|[\d_]+(:\d+)+)")  # YAML 1.1: 010 is 8 and 1:30 is 90


class ConfigError(ValueError):
    """A configuration cannot be used. `errors` lists every reason with its place; the message has one per line."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = list(errors)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What `load` returns: the object, and the plain nested dict with defaults and kinds that builds an equal one."""

    value: T
    resolved: dict[str, Any]


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
class _Node:
    """A value, where it was given (`file:line` or `override '...'`), and as what text."""

    value: Any  # None, bool, int, float, str, list[_Node] or dict[str, _Node]; anything else fits no annotation
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

    number = re.compile(f"({_NUMBER.pattern})$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789NI"))
    return Loader


class _Tree:
    """One YAML document as a tree of _Node; `errors` collects what YAML allows and a configuration does not."""

    def __init__(self, text: str, file: str, fixed_place: str = "") -> None:
        self.file, self.fixed_place = file, fixed_place
        self.errors: list[str] = []
        self.budget = MAX_VALUES
        self.loader = _loader()(text)
        node = self.loader.get_single_node()
        self.root = _Node(None, fixed_place or f"{file}:1") if node is None else self.node(node, self.place(node), ())

    def place(self, node: Any) -> str:
        return self.fixed_place or f"{self.file}:{node.start_mark.line + 1}"

    def node(self, node: Any, where: str, parents: tuple[int, ...]) -> _Node:
        self.budget -= 1
        if self.budget < 0 or id(node) in parents:
            reason = f"expands to more than {MAX_VALUES} values" if self.budget < 0 else "contains itself"
            raise ConfigError([f"{where}: an alias (*name) {reason}; write the values out"])
        tag, value, parents = node.tag.removeprefix("tag:yaml.org,2002:"), node.value, (*parents, id(node))
        if tag == "map" and node.id == "mapping":
            return _Node(self.mapping(node, parents), where)
        if tag == "seq" and node.id == "sequence":
            return _Node([self.node(item, self.place(item), parents) for item in value], where)
        if node.id != "scalar" or tag not in ("null", "bool", "int", "float", "str", "timestamp"):
            self.errors.append(f"{where}: tag {node.tag!r} is not allowed; use mappings, lists, numbers and text only")
        elif tag == "timestamp" or (tag == "int" and _ODD_INTEGER.fullmatch(value)):
            reading = "a date; quote it" if tag == "timestamp" else "a number in base 8 or 60; write it in base 10"
            self.errors.append(f"{where}: YAML reads {value!r} as {reading}")
        else:
            try:
                return _Node(self.loader.construct_object(node), where, value)
            except ValueError as error:  # such as `!!int x`
                self.errors.append(f"{where}: {error}")
        return _Node(None, where)

    def mapping(self, node: Any, parents: tuple[int, ...]) -> dict[str, _Node]:
        found: dict[str, _Node] = {}
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


def _parse(text: str, file: str, fixed_place: str = "") -> _Node:
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


def _wrap(value: Any, where: str) -> _Node:
    """A plain Python value as a tree, for configurations that were resolved before."""
    if isinstance(value, Mapping):
        return _Node({str(key): _wrap(item, where) for key, item in value.items()}, where)
    if isinstance(value, list | tuple):
        return _Node([_wrap(item, where) for item in value], where)
    return _Node(value, where, str(value))


def _read(source: Path | str | Mapping[str, Any], file: str | None) -> _Node:
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


def _override(root: _Node, override: str) -> None:
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
            here.value = {"kind": _Node(here.value, here.where, here.text)}
        elif isinstance(here.value, list):
            if not key.isdecimal() or int(key) >= len(here.value):
                raise ConfigError([f"{where}: {key!r} is no place in {_got(here)} at {here.where}; places start at 0"])
        elif not isinstance(here.value, dict):
            path = ".".join(keys[:depth])
            raise ConfigError([f"{where}: {path!r} is {_got(here)} at {here.where}, which has no {key!r}"])
        index: Any = int(key) if isinstance(here.value, list) else key
        if depth == len(keys) - 1:
            here.value[index] = new
        elif isinstance(here.value, dict):
            here = here.value.setdefault(key, _Node({}, where))
        else:
            here = here.value[index]


# ---- constructors to a schema ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """One parameter of a constructor: the part of its annotation that YAML can express, and its default if any."""

    type: Any
    required: bool
    default: Any = None


class Schema:
    """The configurations that constructors accept, derived from their signatures.

    Errors: TypeError, when a class cannot be described: *args or **kwargs, a parameter without annotation, a required
    parameter that YAML cannot express, a parameter called `kind`, a default object that cannot be written down.
    """

    def __init__(self, cls: type, registries: Registries) -> None:
        self.registries = registries
        self._fields: dict[type, dict[str, Field]] = {}
        self._names = {entry: name for entries in registries.values() for name, entry in entries.items()}
        waiting = list(self.kinds(cls).values()) or [cls]
        while waiting:  # every class that can be reached: a bad signature shows at once, not in one user's file
            reached = waiting.pop()
            if reached not in self._fields:
                for field in self.fields(reached).values():
                    waiting += self.classes(field.type)
        for owner in list(self._fields):
            for name, field in self._fields[owner].items():
                self.plain(field.default, field.type, f"{owner.__name__}({name}=)")

    def kinds(self, cls: Any) -> Mapping[str, type]:
        """The registry that `cls` stands for; a registered class itself is a registry of one; {} for a plain class."""
        if cls in self.registries:
            return self.registries[cls]
        return {self._names[cls]: cls} if cls in self._names else {}

    def classes(self, t: Any) -> Iterator[type]:
        """The classes that a configuration of annotation `t` can construct."""
        if isinstance(t, type) and (self.kinds(t) or is_dataclass(t)):
            yield from self.kinds(t).values() or (t,)
        elif get_origin(t) is not Literal:
            for part in get_args(t):
                yield from self.classes(part)

    def fields(self, cls: type) -> dict[str, Field]:
        """The configurable parameters of a class, in order."""
        if cls in self._fields:
            return self._fields[cls]
        init: Any = cls.__init__  # type: ignore[misc]
        bare = init in (object.__init__, torch.nn.Module.__init__)  # no constructor of its own: no parameters
        parameters = [] if bare else list(inspect.signature(init).parameters.values())[1:]
        own = dataclass_fields(cls) if is_dataclass(cls) else ()
        try:  # an inherited dataclass field must be resolved in its own module, which its __init__ does not know
            hints = get_type_hints(init) | (get_type_hints(cls) if own else {})
        except NameError as error:
            raise TypeError(f"{cls.__name__}: an annotation of its constructor cannot be resolved: {error}") from error
        factories = {f.name: f.default_factory for f in own if f.default_factory is not MISSING}
        found: dict[str, Field] = {}
        for p in parameters:
            label, required = f"{cls.__name__}({p.name}=)", p.default is p.empty
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
                raise TypeError(f"{cls.__name__}: parameter {str(p)!r} cannot be given by name; name each parameter")
            if p.name == "kind" and self.kinds(cls):
                raise TypeError(f"{label}: 'kind' chooses the class in a configuration; rename the parameter")
            if p.name not in hints and not p.name.startswith("_"):
                raise TypeError(f"{label} has no annotation; its configuration cannot be checked")
            kept = None if p.name.startswith("_") else self._expressible(hints[p.name])
            if kept is None and required:
                raise TypeError(f"{label} is required, but YAML cannot express {hints.get(p.name)}; give it a default")
            if kept is not None:
                default = factories[p.name]() if p.name in factories else None if required else p.default
                found[p.name] = Field(kept, required, default)
        self._fields[cls] = found
        return found

    def _expressible(self, t: Any) -> Any:
        """The part of an annotation that YAML can express, or None."""
        origin, parts = get_origin(t), get_args(t)
        if t in _WORDS or origin is Literal or (origin is None and (self.kinds(t) or _frozen(t))):
            return t
        if origin not in (Union, types.UnionType, tuple, list, Sequence, dict, Mapping):
            return None
        inner = [self._expressible(part) for part in parts if part is not ...]
        if origin in (Union, types.UnionType):
            kept = [part for part in inner if part is not None]
            return Union[tuple(kept)] if set(kept) - {types.NoneType} else None  # noqa: UP007 (parts are computed)
        if not inner or None in inner:
            return None
        if origin is tuple:
            return tuple[(*inner, ...)] if ... in parts else tuple[tuple(inner)]  # type: ignore[misc, valid-type]
        if origin is Sequence:
            return tuple[inner[0], ...]  # type: ignore[valid-type]
        if origin is list:
            return list[inner[0]]  # type: ignore[valid-type]
        return dict[str, inner[1]] if parts[0] is str else None  # type: ignore[valid-type]

    def plain(self, value: Any, t: Any, label: str) -> Any:
        """A default as plain data, or _BAD if YAML cannot express it (left out, it applies again when reloaded)."""
        options = get_args(t) or (t,)
        if type(value) is int and float in options and int not in options:
            return float(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, list | tuple | dict):
            inner: Any = Union[tuple(o for o in options if o is not ...)]  # noqa: UP007 (parts are computed)
            items = [self.plain(i, inner, label) for i in (value.values() if isinstance(value, dict) else value)]
            plain = dict(zip(value, items, strict=True)) if isinstance(value, dict) else items
            return _BAD if any(item is _BAD for item in items) else plain
        cls = type(value)
        if cls not in self.classes(t):
            if isinstance(value, tuple(self.registries)):
                raise TypeError(f"{label} defaults to a {cls.__name__}, which is in no registry; add it")
            return _BAD
        written = {"kind": self._names[cls]} if cls in self._names else {}
        for name, field in self.fields(cls).items():
            here, item = f"{label} defaults to {cls.__name__}, whose {name!r}", getattr(value, name, _BAD)
            plain = self.plain(item, field.type, here)
            if plain is not _BAD:
                written[name] = plain
            elif item is _BAD or field.required or item is not field.default:
                raise TypeError(f"{here} cannot be written down; keep the constructor's argument as attribute {name!r}")
        return written


def _frozen(t: Any) -> bool:
    return isinstance(t, type) and is_dataclass(t) and t.__dataclass_params__.frozen  # type: ignore[attr-defined]


# ---- checking and building -------------------------------------------------------------------------------------------

_WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
_WORDS[types.NoneType] = "null"
_FAILED = (_BAD, _BAD)


def _got(node: _Node) -> str:
    value, word = node.value, "true" if node.value else "false"
    if isinstance(value, bool):
        return word if node.text.lower() == word else f"{word} (YAML's {node.text!r}; quote it to make it text)"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return "nothing (null)" if value is None else f"text {value!r}" if isinstance(value, str) else f"{value!r}"


class _Builder:
    """Walks tree and schema together; collects every error, and constructs what has none."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.errors: list[str] = []
        self.cause: Exception | None = None

    def bad(self, node: _Node, path: str, message: str) -> tuple[Any, Any]:
        """Report an error. An override names its own path."""
        path = path.lstrip(".")
        overridden = node.where.removeprefix("override ")[1:].split("=")[0]
        named = not path or f"{overridden}.".startswith(f"{path}.")
        self.errors.append(f"{node.where}: {message}" if named else f"{node.where}: {path}: {message}")
        return _FAILED

    def expected(self, t: Any) -> str:
        """An annotation in words."""
        origin, parts, kinds = get_origin(t), get_args(t), self.schema.kinds(t)
        if origin in (Literal, Union):
            return " or ".join(map(repr if origin is Literal else self.expected, parts))
        if origin is tuple and ... not in parts:
            return f"a list of {len(parts)} ({', '.join(map(self.expected, parts))})"
        if origin is not None:
            return f"a {'mapping' if origin is dict else 'list'} (each {self.expected(parts[origin is dict])})"
        if t in _WORDS:
            return _WORDS[t]
        return f"a kind ({', '.join(kinds)})" if kinds else f"a mapping ({t.__name__})"

    def value(self, node: _Node, t: Any, path: str, default: Any = None) -> tuple[Any, Any]:
        """(value, resolved) of one node, or _FAILED after reporting why."""
        origin, parts, given = get_origin(t), get_args(t), node.value
        if origin is Union:
            return self._union(node, t, path, default)
        if origin is Literal:
            if any(type(given) is type(choice) and given == choice for choice in parts):
                return given, given
            hint = nearest(node.text, [str(choice) for choice in parts])
            return self.bad(node, path, f"expected {self.expected(t)}, got {_got(node)}{hint}")
        if t in _WORDS:
            if t is float and isinstance(given, str) and _NUMBER.fullmatch(given):
                given = float(given.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
            if t is float and type(given) is int:
                given = float(given)
            if type(given) is t or (t is Path and isinstance(given, str)):
                return t(given) if t is Path else given, given
            hint = f"; write {given:.0f}" if t is int and isinstance(given, float) and given.is_integer() else ""
            return self.bad(node, path, f"expected {self.expected(t)}, got {_got(node)}{hint}")
        if origin is dict and isinstance(given, dict):
            every = {key: self.value(child, parts[1], f"{path}.{key}") for key, child in given.items()}
            if any(pair is _FAILED for pair in every.values()):
                return _FAILED
            return {key: pair[0] for key, pair in every.items()}, {key: pair[1] for key, pair in every.items()}
        if origin in (tuple, list) and isinstance(given, list):
            inner = parts if origin is tuple and ... not in parts else parts[:1] * len(given)
            if len(inner) == len(given):
                each = [self.value(n, i, f"{path}.{k}") for k, (n, i) in enumerate(zip(given, inner, strict=True))]
                if any(pair is _FAILED for pair in each):
                    return _FAILED
                return origin(pair[0] for pair in each), [pair[1] for pair in each]
        if origin is None and (isinstance(given, dict) or (isinstance(given, str) and self.schema.kinds(t))):
            return self.object(node, t, path, default)
        return self.bad(node, path, f"expected {self.expected(t)}, got {_got(node)}")

    def _union(self, node: _Node, t: Any, path: str, default: Any) -> tuple[Any, Any]:
        """The first member that fits, exact scalars first; else the errors of the one member of the given shape."""
        before, alike = self.errors, []
        for part in sorted(get_args(t), key=lambda part: part is not type(node.value)):
            self.errors = []
            pair = self.value(node, part, path, default)
            told, self.errors = self.errors, before
            if pair is not _FAILED:
                return pair
            origin, is_class = get_origin(part), part not in _WORDS and get_origin(part) is None
            shape: dict[type, bool] = {dict: is_class or origin is dict, list: origin in (list, tuple)}
            if shape.get(type(node.value), bool(self.schema.kinds(part)) or origin is Literal):
                alike.append(told)
        if len(alike) != 1 or node.value is None:
            return self.bad(node, path, f"expected {self.expected(t)}, got {_got(node)}")
        self.errors += alike[0]
        return _FAILED

    def object(self, node: _Node, t: Any, path: str, default: Any) -> tuple[Any, Any]:
        """Choose the class of a mapping (or of the shorthand `pathway: backprop`), check its keys, construct it."""
        kinds, cls, kind = self.schema.kinds(t), t, None
        given: dict[str, _Node] = dict(node.value) if isinstance(node.value, dict) else {"kind": node}
        if kinds:
            chooser = given.pop("kind", None)
            kind = next((k for k, c in kinds.items() if c is type(default) or len(kinds) == 1), None)
            if chooser is not None:
                kind, place = chooser.value, path if chooser is node else f"{path}.kind"
                if not isinstance(kind, str):
                    return self.bad(chooser, place, f"expected one of {', '.join(kinds)}, got {_got(chooser)}")
                if kind not in kinds:
                    return self.bad(chooser, place, f"unknown kind {kind!r}{nearest(kind, list(kinds))}")
            if kind is None:
                for key in given:  # `kind` under another spelling is the likelier slip
                    if edits(key, "kind") == 1:
                        return self.bad(given[key], f"{path}.{key}", f"unknown key {key!r}; did you mean 'kind'?")
                return self.bad(node, path, f"missing key 'kind'; known: {', '.join(kinds)}")
            cls = kinds[kind]
        fields, names = self.schema.fields(cls), [*self.schema.fields(cls), *(["kind"] if kinds else [])]
        pairs: dict[str, tuple[Any, Any]] = {}
        hints: list[str] = []
        for key, child in given.items():
            if key in fields:
                pairs[key] = self.value(child, fields[key].type, f"{path}.{key}", fields[key].default)
            else:
                hints.append(nearest(key, names))
                of = f" (of kind {kind!r})" if len(kinds) > 1 else ""
                self.bad(child, f"{path}.{key}", f"unknown key {key!r}{hints[-1]}{of}")
        for name, field in fields.items():
            if name not in given and field.required:
                hints.append("")
                if f"; did you mean {name!r}?" not in hints:  # one slip is one error
                    self.bad(node, path, f"missing key {name!r}: {self.expected(field.type)}")
        if hints or any(pair is _FAILED for pair in pairs.values()):
            return _FAILED
        plain = {name: self.schema.plain(f.default, f.type, name) for name, f in fields.items() if name not in pairs}
        resolved = {name: pairs[name][1] if name in pairs else plain[name] for name in fields}
        resolved = {name: value for name, value in resolved.items() if value is not _BAD}
        resolved = {"kind": kind} | resolved if kinds else resolved
        try:
            return cls(**{name: pair[0] for name, pair in pairs.items()}), resolved
        except (ValueError, TypeError, NotImplementedError) as error:
            self.cause = self.cause or error
            places = sorted({n.where for n in given.values() if n.where.startswith("override ")} - {node.where})
            return self.bad(node, path, f"{error} (with {', '.join(places)})" if places else str(error))


def load(
    cls: type[T],
    source: Path | str | Mapping[str, Any],
    registries: Registries,
    overrides: Sequence[str] = (),
    *,
    file: str | None = None,
) -> Loaded[T]:
    """Construct `cls` from a configuration.

    Args:
        cls: the class to construct, or a registry's base (the configuration then has a `kind`).
        source: path of a YAML file; or YAML text if `file` gives it a name; or a mapping, such as `Loaded.resolved`.
        registries: for each base class, its kinds: {Pathway: {"backprop": Backprop, ...}, ...}.
        overrides: dotted `key=value`, applied in order.
        file: what error messages call the text.
    Returns:
        Loaded(value, resolved); loading `resolved` gives an equal object.
    Raises:
        ConfigError: the configuration is wrong; `.errors` has every reason with its place.
        TypeError: the classes cannot be described (see Schema).
    """
    builder = _Builder(Schema(cls, registries))
    root = _read(source, file)
    wrong: list[str] = []
    for override in overrides:
        try:
            _override(root, override)
        except ConfigError as error:
            wrong += error.errors
    if root.value is None:
        root.value = {}  # an empty file is a configuration of defaults
    value, resolved = builder.value(root, cls, "")
    if builder.errors or wrong:
        raise ConfigError([*builder.errors, *wrong]) from builder.cause
    return Loaded(value, resolved)

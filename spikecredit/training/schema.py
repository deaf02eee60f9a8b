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
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from spikecredit.training.document import NUMBER, ConfigError, Node, apply_override, edits, got, nearest, read

T = TypeVar("T")
Registries = Mapping[type, Mapping[str, type]]

_BAD: Any = object()  # stands for a value whose error was reported


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What `load` returns: the object, and the plain nested dict with defaults and kinds that builds an equal one."""

    value: T
    resolved: dict[str, Any]


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


class _Builder:
    """Walks tree and schema together; collects every error, and constructs what has none."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.errors: list[str] = []
        self.cause: Exception | None = None

    def bad(self, node: Node, path: str, message: str) -> tuple[Any, Any]:
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

    def value(self, node: Node, t: Any, path: str, default: Any = None) -> tuple[Any, Any]:
        """(value, resolved) of one node, or _FAILED after reporting why."""
        origin, parts, given = get_origin(t), get_args(t), node.value
        if origin is Union:
            return self._union(node, t, path, default)
        if origin is Literal:
            if any(type(given) is type(choice) and given == choice for choice in parts):
                return given, given
            hint = nearest(node.text, [str(choice) for choice in parts])
            return self.bad(node, path, f"expected {self.expected(t)}, got {got(node)}{hint}")
        if t in _WORDS:
            if t is float and isinstance(given, str) and NUMBER.fullmatch(given):
                given = float(given.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
            if t is float and type(given) is int:
                given = float(given)
            if type(given) is t or (t is Path and isinstance(given, str)):
                return t(given) if t is Path else given, given
            hint = f"; write {given:.0f}" if t is int and isinstance(given, float) and given.is_integer() else ""
            return self.bad(node, path, f"expected {self.expected(t)}, got {got(node)}{hint}")
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
        return self.bad(node, path, f"expected {self.expected(t)}, got {got(node)}")

    def _union(self, node: Node, t: Any, path: str, default: Any) -> tuple[Any, Any]:
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
            return self.bad(node, path, f"expected {self.expected(t)}, got {got(node)}")
        self.errors += alike[0]
        return _FAILED

    def object(self, node: Node, t: Any, path: str, default: Any) -> tuple[Any, Any]:
        """Choose the class of a mapping (or of the shorthand `pathway: backprop`), check its keys, construct it."""
        kinds, cls, kind = self.schema.kinds(t), t, None
        given: dict[str, Node] = dict(node.value) if isinstance(node.value, dict) else {"kind": node}
        if kinds:
            chooser = given.pop("kind", None)
            kind = next((k for k, c in kinds.items() if c is type(default) or len(kinds) == 1), None)
            if chooser is not None:
                kind, place = chooser.value, path if chooser is node else f"{path}.kind"
                if not isinstance(kind, str):
                    return self.bad(chooser, place, f"expected one of {', '.join(kinds)}, got {got(chooser)}")
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
    root = read(source, file)
    wrong: list[str] = []
    for override in overrides:
        try:
            apply_override(root, override)
        except ConfigError as error:
            wrong += error.errors
    if root.value is None:
        root.value = {}  # an empty file is a configuration of defaults
    value, resolved = builder.value(root, cls, "")
    if builder.errors or wrong:
        raise ConfigError([*builder.errors, *wrong]) from builder.cause
    return Loaded(value, resolved)

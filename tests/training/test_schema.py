"""Configurations: every typo found, with its place and the right name; every error at once; every default written."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikecredit.training import document, experiment, schema
from spikecredit.training.document import ConfigError, edits
from spikecredit.training.schema import Schema, load

# ---- a toy experiment ------------------------------------------------------------------------------------------------


class Surrogate: ...


class FastSigmoid(Surrogate):  # a plain class
    def __init__(self, slope: float = 10.0) -> None:
        self.slope = slope


@dataclass(frozen=True)
class ArcTan(Surrogate):
    alpha: float = 2.0


class Pathway: ...


@dataclass(frozen=True)
class Backprop(Pathway): ...


@dataclass(frozen=True)
class SignSymmetry(Pathway):
    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"
    scale: float | None = None


class Neuron(nn.Module): ...


class LIF(Neuron):  # an nn.Module, with an object as default
    def __init__(
        self,
        tau: float | torch.Tensor = 20,
        surrogate: Surrogate = FastSigmoid(25.0),
        reset: Literal["subtract", "zero", "none"] = "subtract",
        generator: torch.Generator | None = None,
        _cache: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not torch.is_tensor(tau) and tau <= 0:
            raise ValueError(f"tau must be positive, got {tau}; give a time constant in ms")
        self.tau, self.surrogate, self.reset = tau, surrogate, reset


class LeakyReadout(Neuron):
    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau


class Data: ...


@dataclass(frozen=True)
class Digits(Data):
    folder: Path = Path("data")
    size: tuple[int, int] = (8, 8)


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Experiment:
    seed: int
    neuron: Neuron = field(default_factory=LIF)
    pathway: Pathway | None = Backprop()
    layers: tuple[Neuron, ...] = ()
    hidden: Sequence[int] = (100,)
    data: Data = Digits()
    optimizer: Optimizer = Optimizer()
    rate: float | Literal["auto"] = "auto"
    width: int | tuple[int, int] = 3
    weights: dict[str, float] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    name: str = "toy"
    bias: bool = True
    hook: Callable[[], None] | None = None


REGISTRIES: dict[type, dict[str, type]] = {
    Surrogate: {"fast_sigmoid": FastSigmoid, "arctan": ArcTan},
    Pathway: {"backprop": Backprop, "sign_symmetry": SignSymmetry},
    Neuron: {"lif": LIF, "leaky_readout": LeakyReadout},
    Data: {"digits": Digits},
}


def read(text: str, *overrides: str) -> schema.Loaded[Experiment]:
    return load(Experiment, text, REGISTRIES, overrides, file="toy.yaml")


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors


# ---- what is accepted ------------------------------------------------------------------------------------------------


def test_defaults_kinds_and_plain_dataclasses_are_resolved() -> None:
    assert read("seed: 3").resolved == {
        "seed": 3,
        "neuron": {
            "kind": "lif", "tau": 20.0, "surrogate": {"kind": "fast_sigmoid", "slope": 25.0}, "reset": "subtract",
        },
        "pathway": {"kind": "backprop"},
        "layers": [],
        "hidden": [100],
        "data": {"kind": "digits", "folder": "data", "size": [8, 8]},
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]},
        "rate": "auto",
        "width": 3,
        "weights": {},
        "tags": [],
        "name": "toy",
        "bias": True,
    }  # fmt: skip


FULL = """
seed: 3
neuron: {tau: 1e-2, surrogate: arctan, reset: none}     # the default's kind
pathway: {kind: sign_symmetry, magnitude: fixed}
layers: [lif, {kind: leaky_readout, tau: 5}]
hidden: [100, 50]
data: {size: [28, 28], folder: images}                  # the only kind
optimizer: {lr: 1e-4}
rate: 2e3
width: [3, 5]
weights: {"on": 1, 7: .5, inf: .inf}
tags: ["no", 'x']
bias: off
"""


def test_every_field_reaches_its_constructor() -> None:
    value = read(FULL).value
    assert value.seed == 3 and isinstance(value.seed, int)
    assert isinstance(value.neuron, LIF) and value.neuron.tau == 0.01 and value.neuron.reset == "none"
    assert value.neuron.surrogate == ArcTan() and value.pathway == SignSymmetry("fixed")
    assert [type(n) for n in value.layers] == [LIF, LeakyReadout] and isinstance(value.layers, tuple)
    assert value.layers[1].tau == 5.0 and isinstance(value.layers[1].tau, float)
    assert value.hidden == (100, 50) and value.data == Digits(Path("images"), (28, 28))
    assert value.optimizer == Optimizer(1e-4) and value.rate == 2000.0 and value.width == (3, 5)
    assert value.weights == {"on": 1.0, "7": 0.5, "inf": math.inf} and value.tags == ["no", "x"] and value.bias is False


@pytest.mark.parametrize("text", ["seed: 3", FULL])
def test_resolved_builds_the_same_again(text: str) -> None:
    first = read(text)
    as_json, as_yaml = json.dumps(first.resolved), yaml.safe_dump(first.resolved)
    for again in [load(Experiment, first.resolved, REGISTRIES), read(as_json), read(as_yaml)]:
        assert again.resolved == first.resolved
        assert again.value.optimizer == first.value.optimizer and again.value.hidden == first.value.hidden
        assert vars(again.value.neuron)["tau"] == vars(first.value.neuron)["tau"]


@given(st.floats(allow_nan=False), st.text(), st.integers())
def test_any_number_and_text_survives(number: float, text: str, integer: int) -> None:
    first = load(Experiment, {"seed": integer, "name": text, "weights": {text: number}}, REGISTRIES)
    assert load(Experiment, first.resolved, REGISTRIES).value.weights == {text: number}
    if text.isprintable():
        again = read(json.dumps(first.resolved, ensure_ascii=False))
        assert (again.value.seed, again.value.name, again.value.weights) == (integer, text, {text: number})


def test_keys_not_given_take_the_constructors_default_and_not_the_default_objects() -> None:
    assert read("seed: 1").resolved["neuron"]["surrogate"] == {"kind": "fast_sigmoid", "slope": 25.0}
    assert read("seed: 1\nneuron: {surrogate: {}}").resolved["neuron"]["surrogate"]["slope"] == 10.0


def test_a_registry_base_can_be_loaded_itself_and_shorthand_too() -> None:
    assert load(Pathway, "kind: sign_symmetry\nscale: 2", REGISTRIES, file="x").value == SignSymmetry(scale=2.0)
    assert load(Pathway, "backprop", REGISTRIES, file="x").resolved == {"kind": "backprop"}
    assert load(Digits, "", REGISTRIES, file="x").resolved["kind"] == "digits"


def test_overrides() -> None:
    got = read(
        "seed: 1\npathway: sign_symmetry\nlayers: [lif]\nhidden: [1]\ndata: {size: [2, 2]}",
        "seed=3", "neuron.tau=7", "pathway.magnitude=batch", "layers.0.tau=1e1", "hidden=[100,50]", "name=a=b",
        "optimizer={lr: 1}", "data.size.1=9",
    ).resolved  # fmt: skip
    assert (got["seed"], got["neuron"]["tau"], got["pathway"]["magnitude"]) == (3, 7.0, "batch")
    assert (got["layers"][0]["tau"], got["hidden"], got["name"], got["optimizer"]["lr"]) == (
        10.0,
        [100, 50],
        "a=b",
        1.0,
    )
    assert got["data"]["size"] == [2, 9]
    assert read("seed: 1\npathway: {kind: sign_symmetry, scale: 2}", "pathway=backprop").value.pathway == Backprop()
    assert read("seed: 1", "pathway=null").value.pathway is None
    assert read("seed: 1\npathway: null", "pathway.kind=backprop").value.pathway == Backprop()
    assert read("", "seed=1").value.seed == 1


# ---- what is refused -------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, str]] = [
    ("", "toy.yaml:1: missing key 'seed': an integer"),
    (
        "# x\nseed: 1\nneuron:\n  tua: 3",
        "toy.yaml:4: neuron.tua: unknown key 'tua'; did you mean 'tau'? (of kind 'lif')",
    ),
    ("sede: 1", "toy.yaml:1: sede: unknown key 'sede'; did you mean 'seed'?"),
    (
        "seed: 1\npathway: {zzzzz: 1}",
        "toy.yaml:2: pathway.zzzzz: unknown key 'zzzzz'; known: kind (of kind 'backprop')",
    ),
    (
        "seed: 1\npathway: {kind: sign_symetry}",
        "pathway.kind: unknown kind 'sign_symetry'; did you mean 'sign_symmetry'?",
    ),
    ("seed: 1\npathway: bakprop", "toy.yaml:2: pathway: unknown kind 'bakprop'; did you mean 'backprop'?"),
    ("seed: 1\npathway: {kind: no}", "pathway.kind: expected one of backprop, sign_symmetry, got false (YAML's 'no'; "),
    ("seed: 1\nlayers:\n- {tau: 3}", "toy.yaml:3: layers.0: missing key 'kind'; known: lif, leaky_readout"),
    ("seed: 1\nlayers:\n- {knd: lif}", "toy.yaml:3: layers.0.knd: unknown key 'knd'; did you mean 'kind'?"),
    ("seed: 1\nlayers: [leaky_readout]", "toy.yaml:2: layers.0: missing key 'tau': a number"),
    (
        "seed: 1\nneuron: {reset: zreo}",
        "expected 'subtract' or 'zero' or 'none', got text 'zreo'; did you mean 'zero'?",
    ),
    ("seed: 1\nneuron: {reset: no}", "got false (YAML's 'no'; quote it to make it text); did you mean 'none'?"),
    (
        "seed: 1\nneuron: {reset: off}",
        "got false (YAML's 'off'; quote it to make it text); known: subtract, zero, none",
    ),
    ("seed: 1\nseed: 2", "toy.yaml:2: key 'seed' is given twice (first at toy.yaml:1); remove one"),
    ("seed: 1\noptimizer: {lr: 1,\n  lr: 2}", "toy.yaml:3: key 'lr' is given twice (first at toy.yaml:2); remove one"),
    ("seed: true", "toy.yaml:1: seed: expected an integer, got true"),
    ("seed: 3.0", "toy.yaml:1: seed: expected an integer, got 3.0; write 3"),
    ("seed: 1e3", "toy.yaml:1: seed: expected an integer, got 1000.0; write 1000"),
    ("seed: '3'", "toy.yaml:1: seed: expected an integer, got text '3'"),
    ("seed: 010", "toy.yaml:1: YAML reads '010' as a number in base 8 or 60; write it in base 10"),
    ("seed: 1\nname: 2026-01-01", "toy.yaml:2: YAML reads '2026-01-01' as a date; quote it"),
    ("seed: 1\nname: no", "toy.yaml:2: name: expected text, got false (YAML's 'no'; quote it to make it text)"),
    ("seed: 1\nbias: 1", "toy.yaml:2: bias: expected true or false, got 1"),
    (
        "seed: 1\noptimizer: {lr: on}",
        "optimizer.lr: expected a number, got true (YAML's 'on'; quote it to make it text)",
    ),
    ("seed: 1\noptimizer: {lr: fast}", "toy.yaml:2: optimizer.lr: expected a number, got text 'fast'"),
    ("seed: 1\noptimizer: adam", "toy.yaml:2: optimizer: expected a mapping (Optimizer), got text 'adam'"),
    ("seed: 1\noptimizer: {betas: [1]}", "expected a list of 2 (a number, a number), got a list of 1"),
    ("seed: 1\nneuron: null", "toy.yaml:2: neuron: expected a kind (lif, leaky_readout), got nothing (null)"),
    ("seed: 1\nhidden: 3", "toy.yaml:2: hidden: expected a list (each an integer), got 3"),
    ("seed: 1\nhidden:\n- 3\n- x", "toy.yaml:4: hidden.1: expected an integer, got text 'x'"),
    ("seed: 1\nrate: atuo", "toy.yaml:2: rate: expected 'auto', got text 'atuo'; did you mean 'auto'?"),
    ("seed: 1\nrate: null", "toy.yaml:2: rate: expected a number or 'auto', got nothing (null)"),
    ("seed: 1\nwidth: x", "expected an integer or a list of 2 (an integer, an integer), got text 'x'"),
    ("seed: 1\nwidth: [1, x]", "toy.yaml:2: width.1: expected an integer, got text 'x'"),
    ("seed: 1\npathway: {scale: x, kind: sign_symmetry}", "pathway.scale: expected a number or null, got text 'x'"),
    ("seed: 1\nweights: [1]", "toy.yaml:2: weights: expected a mapping (each a number), got a list of 1"),
    ("seed: 1\nneuron:\n  tau: -1", "toy.yaml:2: neuron: tau must be positive, got -1.0; give a time constant in ms"),
    ("seed: 1\nneuron: {generator: 3}", "unknown key 'generator'; known: tau, surrogate, reset, kind (of kind 'lif')"),
    ("seed: 1\nneuron: {_cache: {}}", "unknown key '_cache'; known: tau, surrogate, reset, kind (of kind 'lif')"),
    ("- 1", "toy.yaml:1: expected a mapping (Experiment), got a list of 1"),
    ("seed", "toy.yaml:1: expected a mapping (Experiment), got text 'seed'"),
    ("seed: [1\n", "toy.yaml:2: not YAML: while parsing a flow sequence; expected ',' or ']'"),
    ("a: 1\n b: 2", "toy.yaml:2: not YAML: mapping values are not allowed here"),
    ("a: 1\n---\nb: 2", "toy.yaml:2: not YAML: expected a single document"),
    ("seed: 1\nname: \x07", "toy.yaml:2: not YAML: the character '\\x07' is not allowed"),
    ("seed: !!int x", "toy.yaml:1: invalid literal for int()"),
    ("seed: !!python/object/apply:os.system [ls]", "python/object/apply:os.system' is not allowed"),
    ("seed: !!binary aGk=", "binary' is not allowed"),
    ("? [a]\n: 1", "toy.yaml:1: a key must be text"),
    ("a: &a [*a]", "contains itself"),
    ("a: &a 1\nb: [" + "*a," * 101 + "]", "toy.yaml:2: not YAML: more than 100 aliases"),
    (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 10)),
        "more than 100000 values",
    ),
    ("[" * 100_000, "toy.yaml: nested too deeply"),
    ("seed: " + "1" * 200_000 + "x", "toy.yaml:1: seed: expected an integer, got text '111"),  # in linear time
    ("#" * 1_000_001, "toy.yaml: more than 1000000 bytes"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=range(len(WRONG)))
def test_wrong_files(text: str, told: str) -> None:
    found = errors(text)
    assert len(found) == 1 and told in found[0], found


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("nueron.tau=3", ": unknown key 'nueron'; did you mean 'neuron'?"),
        ("neuron.surrogate.slop=3", ": unknown key 'slop'; did you mean 'slope'? (of kind 'fast_sigmoid')"),
        ("neuron.surrogate={slop: 3}", ": neuron.surrogate.slop: unknown key 'slop'; did you mean 'slope'?"),
        ("pathway.kind=bakprop", ": unknown kind 'bakprop'; did you mean 'backprop'?"),
        ("neuron.tau=-1", ": tau must be positive"),
        ("seed.x=3", ": 'seed' is 1 at toy.yaml:1, which has no 'x'"),
        ("layers.1.tau=3", ": '1' is no place in a list of 1 at toy.yaml:2"),
        ("seed", ": expected key=value, such as neuron.tau=10"),
        ("a..b=3", ": expected key=value"),
        ("seed=[", ": not YAML"),
        ("seed=x", ": expected an integer, got text 'x'"),
    ],
)
def test_wrong_overrides_are_named(override: str, told: str) -> None:
    (error,) = errors("seed: 1\nlayers: [lif]", override)
    assert error.startswith(f"override {override!r}{told}"), error


def test_a_constructors_refusal_names_the_override_behind_it() -> None:
    (error,) = errors("seed: 1\nneuron:\n  reset: zero", "neuron.tau=-1")
    assert error.startswith("toy.yaml:2: neuron: tau must be positive") and "(with override 'neuron.tau=-1')" in error
    with pytest.raises(ConfigError) as caught:
        read("seed: 1\nneuron: {tau: -1}")
    assert isinstance(caught.value.__cause__, ValueError)


def test_all_errors_come_together() -> None:
    text = "seed: x\nneuron:\n  tua: 1\n  reset: zer\nlayers:\n- lif\n- {kind: lif, tau: -1}\nnaem: y\n"
    found = errors(text, "optimizer.lr=fast", "x")
    assert [error.split(": ")[0] for error in found] == [
        "toy.yaml:1", "toy.yaml:3", "toy.yaml:4", "toy.yaml:7", "toy.yaml:8",
        "override 'optimizer.lr=fast'", "override 'x'",
    ]  # fmt: skip


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "mnist.yaml").write_text("seed: 1\nnaem: x")
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1\nname: \xe9")
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfseed: 1")
    assert load(Experiment, tmp_path / "bom.yaml", REGISTRIES).value.seed == 1
    for name, told in [
        ("mnits.yaml", r"mnits.yaml: no such file; did you mean 'mnist.yaml'\?"),
        ("latin.yaml", ":2: not UTF-8"),
        ("x/y.yaml", "no such folder"),
        (".", "cannot be read: Is a directory"),
        ("mnist.yaml", r"mnist\.yaml:2: naem: unknown key 'naem'; did you mean 'name'"),
    ]:
        with pytest.raises(ConfigError, match=told):
            load(Experiment, str(tmp_path / name), REGISTRIES)


# ---- every typo ------------------------------------------------------------------------------------------------------


def places(
    cls: type, registries: Mapping[type, Mapping[str, type]]
) -> Iterator[tuple[dict[str, Any], list[str], list[str]]]:
    """(document, path of a mapping in it, its valid keys), for every class that a configuration can construct."""
    described, seen = Schema(cls, registries), set()

    def walk(here: type, path: list[str], document: Callable[[dict], dict]) -> Iterator[Any]:
        if here in seen:
            return
        seen.add(here)
        kinds = {c: k for entries in registries.values() for k, c in entries.items()}
        kind = {"kind": kinds[here]} if here in kinds else {}
        fields = described.fields(here)
        yield document(kind), path, [*fields, *kind]
        for name, f in fields.items():
            for inner in described.classes(f.type):
                many = schema.get_origin(f.type) in (list, tuple)

                def nest(child: dict, name: str = name, many: bool = many) -> dict:
                    return document({**kind, name: [child] if many else child})

                yield from walk(inner, [*path, name, *(["0"] if many else [])], nest)

    yield from walk(cls, [], lambda child: child)


def typos(name: str) -> set[str]:
    """Every one-edit typo: a letter deleted, doubled, swapped with its neighbour, or replaced by another."""
    letters = "abcdefghijklmnopqrstuvwxyz_"
    found = {name[:i] + name[i + 1 :] for i in range(len(name))} | {
        name[:i] + name[i] + name[i:] for i in range(len(name))
    }
    found |= {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    found |= {name[:i] + letter + name[i + 1 :] for i in range(len(name)) for letter in letters}
    return found - {name, ""}


def check_every_typo(cls: type, registries: Mapping[type, Mapping[str, type]], share: float = 1.0) -> int:
    """Each typo of each key of each mapping gives file, line, path and the right name. Returns how many were tried.

    Left out: a typo that is another valid key, and one that is as near to another valid key as to the meant one. Of the
    others a share is tried, always the same.
    """
    tried, draw = 0, random.Random(0)
    for whole, path, names in places(cls, registries):
        for name in names:
            tries = [typo for typo in sorted(typos(name)) if draw.random() < share]
            others = [other for other in names if other != name]
            wrong = [t for t in tries if all(edits(t, other) > edits(t, name) for other in others)]
            if not wrong:
                continue
            node = json.loads(json.dumps(whole))  # all typos of one key stand in one file, a line each
            here = node
            for part in path:
                here = here[int(part)] if part.isdecimal() else here[part]
            if name == "kind" and len(wrong) and "kind" in here:
                here.pop("kind")
                wrong_files = [[typo] for typo in wrong]  # without its kind, a mapping is checked no further
            else:
                wrong_files = [wrong]
            for keys in wrong_files:
                for typo in keys:
                    here[typo] = 1
                text = "# a comment\n" + yaml.safe_dump(node, sort_keys=False)
                lines = text.splitlines()
                with pytest.raises(ConfigError) as caught:
                    load(cls, text, registries, file="exp.yaml")
                for typo in keys:
                    line = next(
                        i for i, row in enumerate(lines, 1) if row.strip(" -").split(": ")[0].strip("'\"") == typo
                    )
                    dotted = ".".join([*path, typo])
                    expected = f"exp.yaml:{line}: {dotted}: unknown key {typo!r}; did you mean {name!r}?"
                    assert any(e.startswith(expected) for e in caught.value.errors), (expected, caught.value.errors)
                    del here[typo]
                    tried += 1
    return tried


def test_every_one_edit_typo_gets_the_right_suggestion_and_place() -> None:
    assert {tuple(path) for _, path, _ in places(Experiment, REGISTRIES)} >= {(), ("neuron",), ("neuron", "surrogate")}
    assert check_every_typo(Experiment, REGISTRIES) > 3000


def test_one_edit_typos_of_the_real_experiment_get_the_right_suggestion_and_place() -> None:
    reached = {tuple(path) for _, path, _ in places(experiment.Experiment, experiment.REGISTRIES)}
    assert reached >= {(), ("training",), ("training", "optimizer"), ("neuron", "surrogate"), ("augment", "0")}
    assert check_every_typo(experiment.Experiment, experiment.REGISTRIES, share=0.07) > 1500


def test_every_typo_of_a_kind_and_of_a_literal_gets_the_right_suggestion() -> None:
    for names, text in [
        (["backprop", "sign_symmetry"], "pathway: {}"),
        (["subtract", "zero", "none"], "neuron: {{reset: {}}}"),
    ]:
        for name in names:
            for typo in typos(name):
                told = errors("seed: 1\n" + (text.format(json.dumps(typo))))[0]
                assert told.startswith("toy.yaml:2: ") and f"; did you mean {name!r}?" in told, told


def test_the_typo_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "edits", lambda a, b: 0 if a == b else abs(len(a) - len(b)) + (a[:1] != b[:1]))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_every_typo(Experiment, REGISTRIES)


# ---- signatures that cannot be configured ----------------------------------------------------------------------------


class Loose:
    def __init__(self, **options: int) -> None: ...


class Positional:
    def __init__(self, a: int, /) -> None: ...


class Bare:
    def __init__(self, a=1) -> None: ...  # type: ignore[no-untyped-def]


class NeedsTensor:
    def __init__(self, a: torch.Tensor) -> None: ...


class Unresolved:
    def __init__(self, a: "Nowhere" = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Forgetful(Surrogate):
    def __init__(self, slope: float = 1.0) -> None: ...


class HasForgetful:
    def __init__(self, s: Surrogate = Forgetful()) -> None: ...


class Kinded(Surrogate):
    def __init__(self, kind: str = "x") -> None: ...


class Reaches:
    def __init__(self, s: Surrogate) -> None: ...


class Nothing(nn.Module): ...


@pytest.mark.parametrize(
    ("cls", "extra", "told"),
    [
        (Loose, None, r"Loose: parameter '\*\*options: int' cannot be given by name"),
        (Positional, None, "parameter 'a: int' cannot be given by name"),
        (Bare, None, r"Bare\(a=\) has no annotation"),
        (NeedsTensor, None, r"NeedsTensor\(a=\) is required, but YAML cannot express.*Tensor"),
        (Unresolved, None, "Unresolved: an annotation of its constructor cannot be resolved: name 'Nowhere'"),
        (HasForgetful, Forgetful, "defaults to Forgetful, whose 'slope' cannot be written down"),
        (HasForgetful, None, "defaults to a Forgetful, which is in no registry; add it"),
        (Reaches, Kinded, r"Kinded\(kind=\): 'kind' chooses the class"),
        (Reaches, Loose, "Loose: parameter"),  # a bad class anywhere in reach shows at once
    ],
)
def test_bad_signatures_are_programming_errors(cls: type, extra: type | None, told: str) -> None:
    kinds: dict[str, type] = {"arctan": ArcTan} | ({"extra": extra} if extra else {})
    registries: dict[type, dict[str, type]] = {Surrogate: kinds}
    with pytest.raises(TypeError, match=told):
        load(cls, "", registries, file="x")


def test_a_class_without_constructor_has_no_keys() -> None:
    registries: dict[type, dict[str, type]] = {nn.Module: {"nothing": Nothing}}
    assert load(nn.Module, "nothing", registries, file="x").resolved == {"kind": "nothing"}


def test_importing_the_schema_imports_neither_yaml_nor_pydantic() -> None:
    code = "import sys, spikecredit.training.schema; print([m for m in ('yaml', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]", done.stderr

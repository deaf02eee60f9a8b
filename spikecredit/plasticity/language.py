"""The language of rules: Brian2's equations and statements, read, checked for units, and compiled.

    dx/dt = -x / tau_plus : 1          a differential equation and the unit of x
    w = 1 + (b - 1)*int(rho > 0.5) : 1 a subexpression
    w : 1                              a value that only events change

    x += 1                             a statement: =, +=, -=, *=, /= ; a name that no line has is local to the block

Expressions have + - * / **, comparisons, `and`, `or`, `not`, the functions of `FUNCTIONS`, Brian2's units (`5*mV`) and
`xi` (`xi_a`, `xi_b` for several), which is white noise with the unit second**-0.5; statements may draw `rand()`.
Everything else is refused.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.plasticity.units import NUMBER, SECOND, UNITS, Unit, exponent, parse_unit

BOOLEAN = Unit(0.0)
"""What comparisons are; `int(...)` makes a number of it."""
NOISE = SECOND ** Fraction(-1, 2)
LINE = re.compile(
    r"^(?:d(?P<slope>[A-Za-z]\w*)/dt|(?P<name>[A-Za-z]\w*))\s*(?:=(?P<expression>[^:]+))?:(?P<unit>[^(]+|.*?)"
    r"(?:\((?P<flags>[^()]*)\))?$"
)
ASSIGN = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
FLAGS = ("event-driven", "clock-driven", "constant")


class RuleError(ValueError):
    """A rule that cannot be run; the message says which line, what is wrong, and what to write."""


def nearest(name: str, known: Iterator[str] | list[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    lower = {k.lower(): k for k in known}
    similar = get_close_matches(name.lower(), list(lower), n=1)
    return f"; did you mean {lower[similar[0]]!r}?" if similar else ""


# ---- expressions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expression:
    """One expression: its text as given, its tree, the names that it reads, and its code."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    code: CodeType

    def __call__(self, values: Mapping[str, Any], functions: dict[str, Any]) -> Any:
        """Its value.

        Args:
            values: what the names stand for.
            functions: `NUMPY` or `torch_functions(dtype)`.
        """
        return eval(self.code, functions, values)


def expression(text: str) -> Expression:
    """Read an expression.

    Raises:
        RuleError: no expression, or one with something that the language lacks.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise RuleError(f"{text.strip()!r} is no expression: {error.msg}") from None
    names = frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)) - (frozenset(FUNCTIONS) - {DRAW})
    python = ast.fix_missing_locations(ast.Expression(_python(tree)))
    return Expression(text.strip(), tree, names, compile(python, "<rule>", "eval"))


def _python(node: ast.expr) -> ast.expr:
    """The tree with `and`, `or` and `not` as operators that work on arrays; units become numbers."""
    match node:
        case ast.Constant(value=bool() | int() | float()):
            return node
        case ast.Name():
            return node
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ast.Compare(_python(operand), [ast.Eq()], [ast.Constant(False)])
        case ast.UnaryOp(op=(ast.USub() | ast.UAdd()) as op, operand=operand):
            return ast.UnaryOp(op, _python(operand))
        case ast.BinOp(left=left, op=(ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()) as op, right=right):
            return ast.BinOp(_python(left), op, _python(right))
        case ast.BoolOp(op=op, values=values):
            joined = _python(values[0])
            for value in values[1:]:
                joined = ast.BinOp(joined, ast.BitAnd() if isinstance(op, ast.And) else ast.BitOr(), _python(value))
            return joined
        case ast.Compare(left=left, ops=[op], comparators=[right]) if not isinstance(
            op, (ast.In, ast.NotIn, ast.Is, ast.IsNot)
        ):
            return ast.Compare(_python(left), [op], [_python(right)])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            if len(args) != FUNCTIONS[name]:
                raise RuleError(f"{name} takes {FUNCTIONS[name]} value(s), got {ast.unparse(node)!r}")
            return ast.Call(ast.Name(name, ast.Load()), [_python(a) for a in args], [])
        case ast.Call(func=ast.Name(id=name)):
            raise RuleError(
                f"unknown function {name!r} in {ast.unparse(node)!r}{nearest(name, list(FUNCTIONS))} "
                f"(there are {', '.join(FUNCTIONS)})"
            )
    raise RuleError(
        f"{ast.unparse(node)!r} is beyond the language of rules: write + - * / **, single comparisons, and, or, not, "
        f"and {', '.join(FUNCTIONS)}"
    )


FUNCTIONS = {
    "exp": 1, "log": 1, "sqrt": 1, "abs": 1, "sin": 1, "cos": 1, "tanh": 1, "floor": 1, "sign": 1, "int": 1, "clip": 3,
    "rand": 0,
}  # fmt: skip
"""Brian2's names, and how many values each takes. `int` makes 0 and 1 of a comparison; `rand()` is a number of [0, 1),
another for every synapse and event, in statements only."""
DRAW = "rand"
"""It stays among the names that an expression reads: what reads it is the synapse's own."""


def _numpy_clip(x: Any, low: Any, high: Any) -> Any:
    return np.minimum(np.maximum(x, low), high)


def _torch_clip(x: Any, low: Any, high: Any) -> Any:
    if not any(isinstance(v, Tensor) for v in (x, low, high)):
        return min(max(x, low), high)
    return torch.minimum(torch.maximum(*_tensors(x, low)), _tensors(x, high)[1])


def _tensors(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of the dtype and device of the first that is one."""
    like = x if isinstance(x, Tensor) else y
    found = [torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (x, y)]
    return found[0], found[1]


def _torch(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """The function for tensors, and for the plain numbers that parameters are."""
    return lambda x: function(x) if isinstance(x, Tensor) else float(function(torch.tensor(x, dtype=torch.float64)))


_BUILTINS = {"__import__": __import__}  # NumPy imports parts of itself late, in the frame that calls it
_SCALES = {name: unit.scale for name, unit in UNITS.items()}
NUMPY: dict[str, Any] = {
    "__builtins__": _BUILTINS, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs, "sin": np.sin,
    "cos": np.cos, "tanh": np.tanh, "floor": np.floor, "sign": np.sign, "int": lambda x: x * 1.0,
    "clip": _numpy_clip, **_SCALES,
}  # fmt: skip


@cache
def torch_functions(dtype: torch.dtype) -> dict[str, Any]:
    """What names of functions and units mean on tensors of a dtype."""
    return {
        "__builtins__": _BUILTINS,
        **{n: _torch(getattr(torch, n)) for n in FUNCTIONS if n not in ("int", "clip", DRAW)},
        # 0.1 * (a tensor of booleans) would be float32 whatever the rest is
        "int": lambda x: x.to(dtype) if isinstance(x, Tensor) else float(x), "clip": _torch_clip, **_SCALES,
    }  # fmt: skip


def dimension(node: ast.expr, units: Mapping[str, Unit]) -> Unit:
    """The unit of an expression, by Brian2's rules: terms of a sum, and both sides of a comparison, must agree.

    Raises:
        RuleError: an unknown name, or units that do not fit; it names the two terms.
    """

    def plain(part: ast.expr, where: str) -> Unit:
        unit = dimension(part, units)
        if unit is BOOLEAN or not unit.plain:
            kind = "a condition" if unit is BOOLEAN else f"in {unit}"
            raise RuleError(f"{where} takes a number without unit, but {ast.unparse(part)!r} is {kind}")
        return NUMBER

    def alike(left: ast.expr, right: ast.expr, verb: str) -> Unit:
        a, b = dimension(left, units), dimension(right, units)
        if a is BOOLEAN or b is BOOLEAN:
            raise RuleError(f"{ast.unparse(left)!r} {verb} {ast.unparse(right)!r}: write int(...) around conditions")
        if not a.same(b):
            raise RuleError(f"units differ: {ast.unparse(left)!r} is in {a}, {ast.unparse(right)!r} in {b}")
        return a

    match node:
        case ast.Constant(value=bool()):
            return BOOLEAN
        case ast.Constant():
            return NUMBER
        case ast.Name(id=name):
            if name in units:
                return units[name]
            if name in UNITS:
                return UNITS[name]
            if name == "xi" or name.startswith("xi_"):
                return NOISE
            raise RuleError(
                f"{name!r} is neither a variable, a parameter, a signal nor a unit{nearest(name, [*units, *UNITS])}"
            )
        case ast.UnaryOp(op=ast.Not()) | ast.BoolOp():
            return BOOLEAN
        case ast.UnaryOp(operand=operand):
            return dimension(operand, units)
        case ast.Compare(left=left, comparators=[right]):
            alike(left, right, "compared with")
            return BOOLEAN
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return alike(left, right, "and")
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base = dimension(left, units)
            if base.plain:
                plain(right, "a power")
                return NUMBER
            try:
                return base ** exponent(right)
            except ValueError as error:
                raise RuleError(str(error)) from None
        case ast.BinOp(left=left, op=op, right=right):
            a, b = dimension(left, units), dimension(right, units)
            if a is BOOLEAN or b is BOOLEAN:
                raise RuleError(f"{ast.unparse(node)!r}: write int(...) around conditions")
            return a / b if isinstance(op, ast.Div) else a * b
        case ast.Call(args=[]):
            return NUMBER
        case ast.Call(func=ast.Name(id="int"), args=[part]):
            found = dimension(part, units)
            return NUMBER if found is BOOLEAN else plain(part, "int")
        case ast.Call(func=ast.Name(id="clip"), args=[x, low, high]):
            alike(x, low, "clipped at")
            return alike(x, high, "clipped at")
        case ast.Call(func=ast.Name(id="sqrt"), args=[x]):
            return dimension(x, units) ** Fraction(1, 2)
        case ast.Call(func=ast.Name(id="abs" | "floor"), args=[x]):
            return dimension(x, units)
        case ast.Call(func=ast.Name(id="sign"), args=[x]):
            dimension(x, units)
            return NUMBER
        case ast.Call(func=ast.Name(id=name), args=[x]):
            return plain(x, name)
    raise RuleError(f"{ast.unparse(node)!r} is beyond the language of rules")  # pragma: no cover  `_python` refuses it


# ---- lines -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a model: a differential equation, a subexpression, or a value that only events change."""

    name: str
    unit: Unit
    slope: Expression | None = None
    value: Expression | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """`target = value`; of `x += a` the value is `x + (a)` and `added` is `a`, of `x -= a` it is `-(a)`."""

    target: str
    value: Expression
    text: str
    added: Expression | None = None

    @property
    def adds(self) -> bool:
        """Whether it is `+=` or `-=`."""
        return self.added is not None


def model_lines(text: str) -> list[Line]:
    """The lines of a model.

    Raises:
        RuleError: a line that is no equation, with the line.
    """
    lines = []
    for line in _lines(text):
        found = LINE.match(line)
        if not found:
            raise RuleError(
                f"{line!r} is no equation: write 'dx/dt = -x/tau : 1', 'y = 2*x : 1' or 'w : 1', each with its unit"
            )
        flags = tuple(flag.strip() for flag in (found["flags"] or "").split(",") if flag.strip())
        for flag in flags:
            if flag not in FLAGS:
                raise RuleError(f"{line!r}: unknown flag {flag!r}; there are {', '.join(FLAGS)}")
        try:
            unit = parse_unit(found["unit"])
            if unit.scale != 1.0:
                raise ValueError(f"{found['unit'].strip()!r} has a power of ten: Brian2 wants the base unit {unit}")
            body = expression(found["expression"]) if found["expression"] else None
        except ValueError as error:
            raise RuleError(f"{line!r}: {error}") from None
        if found["slope"] and body is None:
            raise RuleError(f"{line!r}: a differential equation needs its right side")
        name = found["slope"] or found["name"]
        lines.append(Line(name, unit, body if found["slope"] else None, None if found["slope"] else body, flags))
    return lines


def statements(text: str) -> list[Statement]:
    """The statements of a block, in order.

    Raises:
        RuleError: a line that is no assignment, with the line.
    """
    found = []
    for line in _lines(text):
        try:
            tree = ast.parse(line).body
        except SyntaxError as error:
            raise RuleError(f"{line!r} is no statement: {error.msg}") from None
        match tree:
            case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
                found.append(Statement(name, expression(ast.unparse(value)), line))
            case [ast.AugAssign(target=ast.Name(id=name), op=op, value=value)] if type(op) in ASSIGN:
                whole = f"{name} {ASSIGN[type(op)]} ({ast.unparse(value)})"
                term = ast.unparse(value)
                added = {ast.Add: term, ast.Sub: f"-({term})"}.get(type(op))
                found.append(Statement(name, expression(whole), line, expression(added) if added else None))
            case _:
                raise RuleError(f"{line!r} is no statement: write one assignment a line, x = ..., x += ..., x *= ...")
    return found


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        bare = line.partition("#")[0].strip()
        if bare:
            yield bare

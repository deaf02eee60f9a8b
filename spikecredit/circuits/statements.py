"""Brian2's statements in torch: the same arithmetic in the same order, so that results are the same bits.

Brian2 turns equations, thresholds and resets into statements such as `_v = v * _lio_1` with `_lio_1 = exp(-dt / tau)`,
and its numpy target executes those. We execute the same statements: what holds no state is computed by numpy, as
there, and what holds state by torch, one rounding for one operation, as there.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.errors import CircuitError

BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip

EXACT = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq)
"""What torch rounds as numpy does, and what state may therefore go through; also a square, and `FUNCTIONS`."""

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "tanh": torch.tanh, "abs": torch.abs,
}  # fmt: skip
"""Functions of state. exp, log and tanh may differ from numpy's in the last bit."""


@dataclass
class Scope:
    """What statements read and write in one time step.

    Args:
        state: every variable that changes, (B, N), by "group.variable", and every weight, by "synapses.variable".
        t: the time in seconds. draws: numbers that somebody else drew in this step, by the name of the function.
        local: results of earlier statements of this block.
    """

    state: dict[str, Tensor]
    t: float = 0.0
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def operand(value: Any) -> Tensor | float:
        """A number or an array as torch needs it: numpy's own scalars would turn tensors into arrays."""
        if isinstance(value, (Tensor, float)) and not isinstance(value, np.float64):
            return value
        if np.ndim(value) == 0:
            return bool(value) if isinstance(value, (bool, np.bool_)) else float(value)
        return torch.as_tensor(value, dtype=torch.bool if value.dtype == bool else torch.float64)


@dataclass(frozen=True)
class Node:
    """A part of an expression: a number known now, one that follows from t, or a tensor."""

    read: Callable[[Scope], Any]
    kind: str
    """"constant", "time" or "tensor"."""

    @property
    def value(self) -> Any:
        """The number of a constant."""
        return self.read(Scope({}))


def constant(value: Any) -> Node:
    """A number, or an array with one for each neuron or synapse."""
    return Node(lambda scope: value, "constant")


def variable(key: str) -> Node:
    """Something that changes."""
    return Node(lambda scope: scope.state[key], "tensor")


TIME = Node(lambda scope: np.float64(scope.t), "time")


def _local(name: str, kind: str) -> Node:
    return Node(lambda scope: scope.local[name], kind)


def _apply(call: Callable[..., Any], *parts: Node) -> Node:
    """The node of call(*parts): computed now if all parts are known now."""
    if all(part.kind == "constant" for part in parts):
        with np.errstate(all="ignore"):  # a branch that is never taken may divide by zero, as in Brian2
            return constant(call(*(part.value for part in parts)))
    if all(part.kind != "tensor" for part in parts):
        return Node(lambda scope: call(*(part.read(scope) for part in parts)), "time")
    reads = [_operand(part) for part in parts]
    if len(reads) == 2:
        first, second = reads
        return Node(lambda scope: call(first(scope), second(scope)), "tensor")
    return Node(lambda scope: call(*(read(scope) for read in reads)), "tensor")


def _operand(part: Node) -> Callable[[Scope], Any]:
    """What reads a part for torch: what can be done once is done now, because steps are many."""
    if part.kind == "tensor":
        return part.read
    if part.kind == "constant":
        known = Scope.operand(part.value)
        return lambda scope: known
    return lambda scope: scope.operand(part.read(scope))


def _divide(a: Any, b: Any) -> Any:
    if isinstance(b, Tensor) and not isinstance(a, Tensor):  # torch would multiply by the reciprocal: two roundings
        return torch.true_divide(torch.tensor(a, dtype=b.dtype), b)
    return a / b


def _both(a: Any, b: Any) -> Any:
    return a & b if isinstance(a, Tensor | np.ndarray) or isinstance(b, Tensor | np.ndarray) else a and b


def _either(a: Any, b: Any) -> Any:
    return a | b if isinstance(a, Tensor | np.ndarray) or isinstance(b, Tensor | np.ndarray) else a or b


def _not(a: Any) -> Any:
    return ~a if isinstance(a, Tensor | np.ndarray) else not a


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return torch.where(condition, *(torch.as_tensor(part, dtype=torch.float64) for part in (yes, no)))


class Expression:
    """One expression of Brian2 as a `Node`.

    Args:
        names: what every name stands for. functions: numpy's versions of functions of constants, by name.
        owner: for errors, whose expression it is.
    """

    def __init__(self, names: Mapping[str, Node], functions: Mapping[str, Callable[..., Any]], owner: str) -> None:
        self.names, self.functions, self.owner = names, functions, owner

    def read(self, text: str) -> Node:
        """The node of this text.

        Raises:
            CircuitError: something that state cannot go through.
        """
        self.text = text
        return self.visit(ast.parse(text.strip(), mode="eval").body)

    def refuse(self, what: str) -> CircuitError:
        return CircuitError(
            f"{self.owner}: `{self.text}` holds {what}. State variables may go through +, -, *, /, squares, "
            f"comparisons and {', '.join(FUNCTIONS)}"
        )

    def visit(self, node: ast.expr) -> Node:
        match node:
            case ast.Constant(value=bool() as value):
                return constant(value)
            case ast.Constant(value=int() | float() as value):
                return constant(np.float64(value) if isinstance(value, float) else value)
            case ast.Name(id=name) if name in ("inf", "True", "False"):
                return constant({"inf": np.inf, "True": True, "False": False}[name])
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _apply(operator.neg, self.visit(operand))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.visit(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _apply(_not, self.visit(operand))
            case ast.BoolOp(op=op, values=[first, *rest]):
                both, result = isinstance(op, ast.And), self.visit(first)
                for part in rest:
                    result = _apply(_both if both else _either, result, self.visit(part))
                return result
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(op, self.visit(left), self.visit(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.binary(op, self.visit(left), self.visit(right))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.call(name, [self.visit(part) for part in arguments])
        raise self.refuse(f"`{ast.unparse(node)}`")

    def binary(self, op: ast.AST, a: Node, b: Node) -> Node:
        if "tensor" in (a.kind, b.kind) and not isinstance(op, EXACT):
            square = isinstance(op, ast.Pow) and b.kind == "constant" and np.ndim(b.value) == 0 and b.value == 2
            if not square:
                raise self.refuse(f"the operation {type(op).__name__} of a state variable")
            return _apply(torch.square, a)
        return _apply(_divide if isinstance(op, ast.Div) else BINARY[type(op)], a, b)

    def call(self, name: str, arguments: list[Node]) -> Node:
        if name in self.names and not arguments:  # numbers that somebody draws
            return self.names[name]
        if all(part.kind != "tensor" for part in arguments):
            if name not in self.functions:
                raise self.refuse(f"the function {name}()")
            return _apply(self.functions[name], *arguments)
        if name in ("int", "where"):
            return _apply(self.integer if name == "int" else _where, *arguments)
        if name not in FUNCTIONS:
            raise self.refuse(f"the function {name}() of a state variable")
        return _apply(FUNCTIONS[name], *arguments)

    def integer(self, value: Tensor) -> Tensor:
        if value.dtype != torch.bool:
            raise self.refuse("int() of a state variable that is no truth value")
        return value.to(torch.float64)


@dataclass(frozen=True)
class Line:
    """One statement: key, the variable it writes ("group.variable"), or None with a local name; what it writes."""

    name: str
    key: str | None
    node: Node
    mask: str | None
    """The truth value that must hold for a neuron to be written: "group.not_refractory"."""


@dataclass(frozen=True)
class Program:
    """Statements in their order."""

    lines: tuple[Line, ...]

    def run(self, scope: Scope) -> None:
        """Execute them all."""
        scope.local.clear()
        for line in self.lines:
            value = line.node.read(scope)
            if line.key is None:
                scope.local[line.name] = value
                continue
            old = scope.state[line.key]
            new = torch.as_tensor(scope.operand(value), dtype=old.dtype).expand_as(old)
            scope.state[line.key] = torch.where(scope.state[line.mask], new, old) if line.mask else new

    @property
    def keys(self) -> tuple[str, ...]:
        """The variables that are written."""
        return tuple(dict.fromkeys(line.key for line in self.lines if line.key is not None))


OPERATIONS = {"+=": ast.Add(), "-=": ast.Sub(), "*=": ast.Mult(), "/=": ast.Div()}


def program(
    statements: list[Any],
    names: Mapping[str, Node],
    functions: Mapping[str, Callable[..., Any]],
    keys: Mapping[str, tuple[str, str | None]],
    owner: str,
) -> Program:
    """Brian2's `Statement`s, scalar ones first, as a `Program`.

    Args:
        names: what the names stand for before the first statement.
        keys: for the names of variables that are written, their key and mask.
        owner: for errors, whose statements they are.
    """
    known, lines = dict(names), []
    for statement in statements:
        expression = Expression(known, functions, owner)
        node = expression.read(chosen(statement))
        if statement.op in OPERATIONS:
            node = expression.binary(OPERATIONS[statement.op], known[statement.var], node)
        elif statement.op not in ("=", ":="):
            raise CircuitError(
                f"{owner}: `{statement.var} {statement.op} {statement.expr}` is no assignment known here"
            )
        key, mask = keys.get(statement.var, (None, None))
        if key is None and node.kind == "constant":
            known[statement.var] = node
            continue
        lines.append(Line(statement.var, key, node, mask))
        if key is None:
            known[statement.var] = _local(statement.var, node.kind)
    return Program(tuple(lines))


def chosen(statement: Any) -> str:
    """The text that Brian2's numpy target executes: with one truth value, often an either-or of two simpler ones."""
    names = statement.used_boolean_variables
    if (
        names is not None
        and len(names) == 1
        and np.issubdtype(statement.dtype, np.floating)
        and statement.complexity_std > sum(statement.complexities.values())
    ):
        simplified = statement.boolean_simplified_expressions
        yes, no = simplified[((names[0], True),)], simplified[((names[0], False),)]
        return f"where({names[0]}, {yes}, {no})"
    return str(statement.expr)

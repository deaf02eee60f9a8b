"""A rule as equations: read once, checked once, run by every engine."""

import ast
import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from spikecredit.plasticity.language import (
    DRAW,
    FUNCTIONS,
    NUMPY,
    Expression,
    Line,
    RuleError,
    Statement,
    dimension,
    expression,
    model_lines,
    nearest,
    statements,
)
from spikecredit.plasticity.units import SECOND, UNITS, Unit, parse_unit

Place = Literal["pre", "post", "shared", "synapse"]
EVENTS = ("pre", "post", "reward")
"""What can happen at a moment, in the order in which it is handled: a pairing at lag 0 is pre before post, as in Brian2
(its `pre` pathway has order -1, its `post` pathway +1)."""
RESERVED = {"t", "dt", "i", "j", "N", "lastspike", "xi", "int", "and", "or", "not", "e", "pi", "inf"}


@dataclass(frozen=True)
class Equations:
    """A plasticity rule in Brian2's syntax (`spikecredit.plasticity.language`).

    Values are in the units that the texts give; inside the engines everything is SI.

    Args:
        model: one equation a line: `dx/dt = ... : unit`, `y = ... : unit`, `w : 1`. A differential equation that is
            linear in its own variable, with constants (dx/dt = -x/tau), is solved exactly.
        on_pre, on_post, on_reward: statements at a presynaptic spike, a postsynaptic one and a reward. At one moment
            all of pre come before all of post, and those before reward. A name on the right side is the value before
            the statement; so a trace that must not see its own spike is read before it is incremented.
        parameters: constants, name to (value, unit): {"tau_plus": (16.8, "ms"), "A_plus": (0.005, "1")}.
        start: values before the experiment, in the base unit of the model; 0 where absent.
        bounds: name to (lowest, highest), numbers or names of parameters; a variable is clipped after every block that
            changes it, and after every step of its equation.
        signals: what arrives at every step from outside, name to (unit, "pre", "post" or "shared"): {"u": ("mV",
            "post")}. Only rules with signals need a protocol that records them.
        delay: a presynaptic spike acts so many ms later.
        weight: the variable that is the synapse's strength.
        method: how the reference engine integrates what is not exact: "rk4" between events at their exact times, or
            "euler" on a grid, for rules whose published numbers were made by that.
    Raises:
        RuleError: an unknown name, units that differ, a line beyond the language, a trace that is incremented, read and
            never decayed; the message says where and what to write.
    """

    model: str
    on_pre: str = ""
    on_post: str = ""
    on_reward: str = ""
    parameters: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float | str, float | str]] = field(default_factory=dict)
    signals: Mapping[str, tuple[str, Place]] = field(default_factory=dict)
    delay: float = 0.0
    weight: str = "w"
    method: Literal["rk4", "euler"] = "rk4"

    def __post_init__(self) -> None:
        self._names()
        self._units()
        self._decay()
        if self.method not in ("rk4", "euler"):
            raise RuleError(f"method must be 'rk4' or 'euler', got {self.method!r}")
        if not (self.delay >= 0 and math.isfinite(self.delay)):
            raise RuleError(f"delay is a time in ms, not negative, got {self.delay!r}")
        for name, flags in ((line.name, line.flags) for line in self.lines.values()):
            if "event-driven" in flags and name not in self.exact:
                raise RuleError(
                    f"{name!r} is flagged event-driven, but its equation is not linear in itself with constants only: "
                    "drop the flag"
                )
            if "event-driven" in flags and name in self.watched:
                raise RuleError(
                    f"{name!r} is flagged event-driven, but a continuous equation reads it: drop the flag, and it is "
                    "clock-driven"
                )

    # ---- what the texts say ------------------------------------------------------------------------------------------

    @cached_property
    def lines(self) -> dict[str, Line]:
        """The model's equations by name."""
        found: dict[str, Line] = {}
        for line in model_lines(self.model):
            if line.name in found:
                raise RuleError(f"{line.name!r} has two equations in the model")
            found[line.name] = line
        return found

    @cached_property
    def variables(self) -> dict[str, Line]:
        """What has a state: differential equations, and values that only events change."""
        return {name: line for name, line in self.lines.items() if line.value is None}

    @cached_property
    def differential(self) -> dict[str, Expression]:
        """The slope of every variable that has one, with subexpressions written out."""
        return {n: self.inline(line.slope) for n, line in self.variables.items() if line.slope is not None}

    @cached_property
    def subexpressions(self) -> dict[str, Expression]:
        """Every subexpression, with those that it reads written out."""
        return {n: self.inline(line.value, {n}) for n, line in self.lines.items() if line.value is not None}

    @cached_property
    def blocks(self) -> dict[str, list[Statement]]:
        """The statements of each event, subexpressions written out, clipping to bounds appended."""
        found = {}
        for event in EVENTS:
            block = [
                Statement(s.target, self.inline(s.value), s.text, self.inline(s.added) if s.added else None)
                for s in statements(getattr(self, f"on_{event}"))
            ]
            found[event] = block + [self.clipped(name) for name in self.bounds if name in {s.target for s in block}]
        return found

    @cached_property
    def values(self) -> dict[str, float]:
        """The parameters as numbers in SI units."""
        return {name: value * parse_unit(unit).scale for name, (value, unit) in self.parameters.items()}

    def clipped(self, name: str) -> Statement:
        """The statement that keeps a variable within its bounds."""
        low, high = self.bounds[name]
        text = f"{name} = clip({name}, {low}, {high})"
        return Statement(name, expression(text.partition("=")[2]), text)

    def inline(self, given: Expression | None, seen: Iterable[str] = ()) -> Expression:
        """An expression with all subexpressions of the model written out."""
        assert given is not None
        text, seen = given, set(seen)
        while found := [n for n in sorted(text.names) if n in self.lines and self.lines[n].value is not None]:
            name = found[0]
            if name in seen:
                raise RuleError(f"subexpression {name!r} reads itself")
            value = self.lines[name].value
            assert value is not None
            text = _replaced(text, name, self.inline(value, seen | {name}))
        return text

    # ---- what follows from it ----------------------------------------------------------------------------------------

    @cached_property
    def exact(self) -> dict[str, tuple[float, float]]:
        """Variables whose slope is a x + b with constants: name to (a, b) in 1/s and unit/s."""
        found = {}
        for name, slope in self.differential.items():
            if slope.names - {name} - set(self.values) - set(UNITS):
                continue
            if not _linear(slope.tree, name):
                continue
            at = [float(slope({**self.values, name: float(x)}, NUMPY)) for x in (0, 1, 2)]
            if math.isclose(at[2] - at[1], at[1] - at[0], rel_tol=1e-12, abs_tol=1e-300):
                found[name] = (at[1] - at[0], at[0])
        return found

    @cached_property
    def continuous(self) -> dict[str, Expression]:
        """The slopes that must be integrated step by step."""
        return {name: slope for name, slope in self.differential.items() if name not in self.exact}

    @cached_property
    def watched(self) -> frozenset[str]:
        """Variables that a continuous equation reads."""
        return frozenset().union(*(slope.names for slope in self.continuous.values())) & frozenset(self.variables)

    @cached_property
    def noisy(self) -> bool:
        """Whether an equation has white noise."""
        return any(_noise(slope) for slope in self.differential.values())

    @cached_property
    def noise(self) -> dict[str, tuple[str, ...]]:
        """The names of white noise in each slope."""
        return {name: tuple(sorted(_noise(slope))) for name, slope in self.continuous.items() if _noise(slope)}

    @cached_property
    def event_driven(self) -> bool:
        """Whether everything is solved exactly between events, so that no step is needed."""
        return not self.continuous and not self.signals

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each variable lives: with the presynaptic neuron if all synapses of that neuron must agree on it, so
        with the postsynaptic one, shared by all if only rewards touch it, or with each synapse."""
        changed: dict[str, set[str]] = {name: set() for name in self.variables}
        for event, block in self.blocks.items():
            for s in block:
                if s.target in changed:
                    changed[s.target].add(event)
        own = {"pre": "pre", "post": "post", "reward": "shared"}
        places: dict[str, Place] = {}
        for name in self.variables:
            reads = self.differential[name].names if name in self.differential else frozenset()
            sources = {own[e] for e in changed[name]} | {self.signals[n][1] for n in reads if n in self.signals}
            drawn = name in self.noise or DRAW in self._reads(name)
            alone = len(sources) == 1 and not drawn and name != self.weight
            places[name] = sources.pop() if alone else "synapse"  # type: ignore[assignment]
        while True:  # whoever reads something that lives elsewhere lives with each synapse
            moved = [
                name
                for name, place in places.items()
                if place != "synapse" and any(places[n] != place for n in self._reads(name) if n in places)
            ]
            moved += [
                name for name, place in places.items() if place != "synapse"
                if any(self.signals[n][1] != place for n in self._reads(name) if n in self.signals)
            ]  # fmt: skip
            if not moved:
                return places
            for name in moved:
                places[name] = "synapse"

    def _reads(self, name: str) -> set[str]:
        """All names that a variable's equation and statements read, through local names too."""
        reads = set(self.differential[name].names) if name in self.differential else set()
        for block in self.blocks.values():
            local: dict[str, set[str]] = {}
            for s in block:
                names = set().union(*(local.get(n, {n}) for n in s.value.names))
                if s.target == name:
                    reads |= names
                elif s.target not in self.lines:
                    local[s.target] = names
        return reads

    # ---- checks ------------------------------------------------------------------------------------------------------

    def _names(self) -> None:
        taken: dict[str, str] = {}
        kinds = {"a variable": self.lines, "a parameter": self.parameters, "a signal": self.signals}
        for kind, names in kinds.items():
            for name in names:
                if name in RESERVED or name in UNITS or name in FUNCTIONS or name.startswith("xi_"):
                    raise RuleError(f"{name!r} is {kind}, but the name means something else in Brian2: choose another")
                if name.endswith(("_pre", "_post")) and kind != "a parameter":
                    raise RuleError(
                        f"{name!r}: Brian2 keeps the endings _pre and _post of variables for itself: choose another "
                        "name"
                    )
                if name in taken:
                    raise RuleError(f"{name!r} is both {taken[name]} and {kind}")
                taken[name] = kind
        if self.weight not in self.lines:
            raise RuleError(
                f"the weight {self.weight!r} is not in the model{nearest(self.weight, list(self.lines))}; "
                "add a line such as 'w : 1', or name it: weight=..."
            )
        for where, given in (("start", self.start), ("bounds", self.bounds)):
            for name in given:
                if name not in self.variables:
                    raise RuleError(
                        f"{where} has {name!r}, which is no variable of the model"
                        f"{nearest(name, list(self.variables))} (there are {', '.join(self.variables)})"
                    )
        for name, (value, unit) in self.parameters.items():
            try:
                parse_unit(unit)
            except ValueError as error:
                raise RuleError(f"parameter {name!r}: {error}") from None
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise RuleError(f"parameter {name!r} must be a number and a unit, got {value!r}")

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The unit of every variable, parameter and signal."""
        return (
            {name: line.unit for name, line in self.lines.items()}
            | {name: parse_unit(unit) for name, (_, unit) in self.parameters.items()}
            | {name: parse_unit(unit) for name, (unit, _) in self.signals.items()}
        )

    def _units(self) -> None:
        for name, line in self.lines.items():
            wanted = line.unit / SECOND if line.slope is not None else line.unit
            what = f"d{name}/dt" if line.slope is not None else name
            body = line.slope or line.value
            if body is not None and DRAW in body.names:
                raise RuleError(f"{what} = {body.text}: rand() belongs into statements; noise in an equation is xi")
            if body is not None:
                self._fits(f"{what} = {body.text}", body, wanted, self.units)
        for event in EVENTS:
            known = dict(self.units)
            for s in statements(getattr(self, f"on_{event}")):
                where = f"{s.text!r} in on_{event}"
                if s.target in self.parameters or s.target in self.signals or s.target in self.subexpressions:
                    raise RuleError(f"{where}: {s.target!r} is not a variable, and cannot be changed")
                if s.target in known or s.adds or s.target in s.value.names:
                    if s.target not in known:
                        raise RuleError(
                            f"{where}: unknown trace {s.target!r}{nearest(s.target, list(self.variables))}; add its "
                            f"equation to the model, such as 'd{s.target}/dt = -{s.target}/tau : 1'"
                        )
                    self._fits(where, s.value, known[s.target], known)
                else:
                    known[s.target] = self._dimension(where, s.value, known)
        for name in self.bounds:
            self._fits(f"bounds of {name!r}", self.clipped(name).value, self.units[name], self.units)

    def _dimension(self, where: str, body: Expression, units: Mapping[str, Unit]) -> Unit:
        try:
            return dimension(body.tree, units)
        except RuleError as error:
            raise RuleError(f"{where}: {error}") from None

    def _fits(self, where: str, body: Expression, wanted: Unit, units: Mapping[str, Unit]) -> None:
        found = self._dimension(where, body, units)
        if not found.same(wanted) or found.scale == 0:
            given = "a condition: write int(...)" if found.scale == 0 else f"in {found}"
            raise RuleError(f"{where}: the right side is {given}, but it must be in {wanted}")

    def _decay(self) -> None:
        """A trace that grows for ever is the most frequent slip: its ODE was forgotten."""
        for name, line in self.variables.items():
            changes = [s for block in self.blocks.values() for s in block if s.target == name]
            changes = [s for s in changes if not s.text.startswith(f"{name} = clip({name}, ")]
            if line.slope is not None or name == self.weight or name in self.bounds or not changes:
                continue
            read = any(name in self._reads(other) for other in self.variables if other != name)
            if read and all(s.adds for s in changes):
                raise RuleError(
                    f"trace {name!r} is incremented ({changes[0].text!r}) and read, but never decays: write "
                    f"'d{name}/dt = -{name}/tau_{name} : {line.unit}' in the model (with 0*{name}/second for a counter "
                    "on purpose)"
                )

    # ---- running -----------------------------------------------------------------------------------------------------

    def initial(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The value of every variable before the experiment, SI; those given replace the rule's own.

        Raises:
            ValueError: a name that is no variable, such as a weight that is computed from others.
        """
        for name in given or {}:
            if name not in self.variables:
                raise ValueError(
                    f"start has {name!r}, which is no variable of the rule{nearest(name, list(self.variables))} (there "
                    f"are {', '.join(self.variables)}; a value that is computed from others follows from their start)"
                )
        return {**{name: float(self.start.get(name, 0.0)) for name in self.variables}, **(given or {})}

    def decay(self, seconds: float) -> dict[str, tuple[float, float]]:
        """What `seconds` without events do to each exact variable: x becomes factor x + shift."""
        found = {}
        for name, (a, b) in self.exact.items():
            factor = math.exp(a * seconds)
            found[name] = (factor, b / a * (factor - 1) if a else b * seconds)
        return found

    def strength(self, state: Mapping[str, Any], functions: dict[str, Any] | None = None) -> Any:
        """The weight: a variable, or the value of its subexpression."""
        if self.weight in self.variables:
            return state[self.weight]
        return self.subexpressions[self.weight]({**self.values, **state}, functions or NUMPY)


def _replaced(text: Expression, name: str, value: Expression) -> Expression:
    """The expression with `name` written out."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return value.tree if node.id == name else node

    return expression(ast.unparse(ast.fix_missing_locations(Put().visit(copy.deepcopy(text.tree)))))


def _noise(text: Expression) -> set[str]:
    return {n for n in text.names if n == "xi" or n.startswith("xi_")}


def _linear(node: ast.expr, name: str) -> bool:
    """Whether a variable appears in sums and products only: no function, comparison, power or divisor reads it."""
    for part in ast.walk(node):
        closed: tuple[ast.expr, ...] = ()
        match part:
            case ast.Call() | ast.Compare() | ast.BoolOp() | ast.BinOp(op=ast.Pow()):
                closed = (part,)
            case ast.BinOp(op=ast.Div(), right=right):
                closed = (right,)
        if any(isinstance(n, ast.Name) and n.id == name for c in closed for n in ast.walk(c)):
            return False
    return True

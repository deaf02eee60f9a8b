"""Units in rules: a number, its power of ten, and its dimension. Inside the engines everything is SI.

The names are Brian2's: `ms`, `mV`, `Hz`, `second`, `1/mV`, `volt**-2`, `1` for a number without dimension. The engines
and Brian2 then compute with the same numbers, and the texts of a rule pass Brian2's own check unchanged.
"""

import ast
from dataclasses import dataclass
from fractions import Fraction

BASE = ("kilogram", "metre", "second", "amp")


@dataclass(frozen=True)
class Unit:
    """`scale` SI units of dimension kg^a metre^b second^c amp^d."""

    scale: float
    powers: tuple[Fraction, ...] = (Fraction(0),) * 4

    def __mul__(self, other: "Unit") -> "Unit":
        return Unit(self.scale * other.scale, tuple(a + b for a, b in zip(self.powers, other.powers, strict=True)))

    def __truediv__(self, other: "Unit") -> "Unit":
        return self * other ** Fraction(-1)

    def __pow__(self, power: Fraction) -> "Unit":
        return Unit(self.scale ** float(power), tuple(a * power for a in self.powers))

    def same(self, other: "Unit") -> bool:
        """Whether both have one dimension, whatever their scales."""
        return self.powers == other.powers

    @property
    def plain(self) -> bool:
        """Whether it is a number without dimension."""
        return not any(self.powers)

    def __str__(self) -> str:
        named = next((name for name, unit in DIMENSIONS.items() if unit.same(self)), None)
        if named:
            return named
        terms = [(name, p) for name, p in zip(BASE, self.powers, strict=True) if p]
        # Brian2 reads no brackets in the unit of an equation
        return "*".join(name if p == 1 else f"{name}**{p if p.denominator == 1 else float(p)}" for name, p in terms)


def _unit(*powers: int) -> Unit:
    return Unit(1.0, tuple(Fraction(p) for p in powers))


NUMBER = _unit(0, 0, 0, 0)
SECOND = _unit(0, 0, 1, 0)
DIMENSIONS = {
    "1": NUMBER, "second": SECOND, "volt": _unit(1, 2, -3, -1), "amp": _unit(0, 0, 0, 1), "hertz": _unit(0, 0, -1, 0),
    "siemens": _unit(-1, -2, 3, 2), "farad": _unit(-1, -2, 4, 2), "ohm": _unit(1, 2, -3, -2),
    "coulomb": _unit(0, 0, 1, 1), "metre": _unit(0, 1, 0, 0),
}  # fmt: skip
_SHORT = {"s": "second", "V": "volt", "A": "amp", "Hz": "hertz", "S": "siemens", "F": "farad", "ohm": "ohm"}
_PREFIX = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6}
UNITS = {name: unit for name, unit in DIMENSIONS.items() if name != "1"} | {
    "Hz": DIMENSIONS["hertz"],
    **{
        prefix + short: Unit(scale, DIMENSIONS[name].powers)
        for short, name in _SHORT.items()
        for prefix, scale in _PREFIX.items()
    },
}
"""The units that a rule may name, with Brian2's names. A bare `s`, `V` or `A` is none, in Brian2 neither: write `second`,
`volt`, `amp`."""


def parse_unit(text: str) -> Unit:
    """The unit that a text such as `1/mV`, `mV**-2`, `volt/second` or `1` names.

    Raises:
        ValueError: an unknown unit, or something that is not a product of powers of units.
    """

    def read(node: ast.expr) -> Unit:
        match node:
            case ast.Constant(value=1):
                return NUMBER
            case ast.Name(id=name) if name in UNITS:
                return UNITS[name]
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return read(left) * read(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return read(left) / read(right)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return read(left) ** exponent(right)
        raise ValueError(
            f"{text!r} is no unit: {ast.unparse(node)!r} is unknown; write units such as ms, second, mV, volt, Hz, nS, "
            "their products and powers (1/mV, volt/second), or 1 for a number"
        )

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f"{text!r} is no unit: write for example ms, 1/mV, volt/second, or 1 for a number") from None
    return read(tree.body)


def exponent(node: ast.expr) -> Fraction:
    """The number that a power is: an integer, a decimal, a fraction of them, perhaps with a sign.

    Raises:
        ValueError: anything else, as a dimension to the power of a variable would change with it.
    """
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(value).limit_denominator(1000)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -exponent(operand)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return exponent(left) / exponent(right)
    raise ValueError(f"a quantity with a unit can be raised to a number only, got the power {ast.unparse(node)!r}")

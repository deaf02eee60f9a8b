"""Units by name: scales, dimensions, and what is refused."""

from fractions import Fraction

import pytest

from spikecredit.plasticity.units import UNITS, parse_unit


@pytest.mark.parametrize(
    ("text", "scale", "dimension"),
    [
        ("1", 1.0, "1"), ("ms", 1e-3, "second"), ("mV", 1e-3, "volt"), ("1/mV", 1e3, "volt**-1"),
        ("Hz", 1.0, "1/second"),
        ("nS*mV", 1e-12, "amp"), ("mV**2", 1e-6, "volt**2"), ("mV**-2", 1e6, "1/volt**2"), ("pF/nS", 1e-3, "second"),
        ("Mohm*pA", 1e-6, "volt"), ("second**-0.5", 1.0, "hertz**(1/2)"), ("volt/second", 1.0, "volt*hertz"),
    ],
)  # fmt: skip
def test_scale_and_dimension(text: str, scale: float, dimension: str) -> None:
    unit = parse_unit(text)
    assert unit.scale == pytest.approx(scale, rel=1e-12)
    assert unit.same(parse_unit(dimension))


def test_agrees_with_brian2_on_every_unit() -> None:
    b2 = pytest.importorskip("brian2")
    from brian2.units import allunits

    for name, unit in UNITS.items():
        theirs = getattr(allunits, name, None) or getattr(b2, name)
        assert float(theirs) == pytest.approx(unit.scale, rel=1e-12), name
        dims = [theirs.dim.get_dimension(d) for d in ("kg", "metre", "second", "ampere")]
        assert [Fraction(d) for d in dims] == list(unit.powers), name


def test_names_a_dimension_in_words() -> None:
    assert str(parse_unit("mV")) == "volt" and str(parse_unit("1")) == "1" and str(parse_unit("1/ms")) == "hertz"
    assert str(parse_unit("volt**2")) == "kilogram**2*metre**4*second**-6*amp**-2"


@pytest.mark.parametrize("text", ["parsec", "ms +", "2*ms", "mV**tau", "ms + mV", ""])
def test_refuses_what_is_no_unit(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no unit|raised to a number only"):
        parse_unit(text)

"""Units without a name of their own, as Brian2 reads them."""

from fractions import Fraction

import pytest

from spikecredit.plasticity.units import UNITS


@pytest.mark.parametrize("power", [Fraction(2), Fraction(-1), Fraction(1, 2)])
def test_written_for_brian(power):
    brian2 = pytest.importorskip("brian2")
    unit = UNITS["volt"] ** power
    read = brian2.Equations(f"x : {unit}")["x"].dim
    assert read == (brian2.volt ** float(power)).dim

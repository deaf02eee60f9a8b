"""The language of rules: what expressions mean on numbers, arrays and tensors, their units, and every refusal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikecredit.plasticity.language import (
    FUNCTIONS,
    NUMPY,
    RuleError,
    dimension,
    expression,
    model_lines,
    statements,
    torch_functions,
)
from spikecredit.plasticity.units import NUMBER, parse_unit

TORCH = torch_functions(torch.float64)

MEANINGS = [
    ("a + b*2 - a/b", lambda a, b: a + b * 2 - a / b),
    ("-a**2 + exp(-b)", lambda a, b: -(a**2) + math.exp(-b)),
    ("int(a > b)*a + int(not a > b)*b", max),
    ("int(a > 0 and b > 0)", lambda a, b: float(a > 0 and b > 0)),
    ("int(a > 1 or b > 1)", lambda a, b: float(a > 1 or b > 1)),
    ("clip(a, -0.5, b)", lambda a, b: min(max(a, -0.5), b)),
    ("sqrt(abs(a)) + tanh(b) + sin(a)*cos(b) + log(b) + floor(a) + sign(a)",
     lambda a, b: math.sqrt(abs(a)) + math.tanh(b) + math.sin(a) * math.cos(b) + math.log(b) + math.floor(a)
     + float(np.sign(a))),
    ("a*mV/volt", lambda a, b: a * 1e-3),
]  # fmt: skip


@pytest.mark.parametrize("case", MEANINGS, ids=[text for text, _ in MEANINGS])
@given(a=st.floats(-3, 3), b=st.floats(0.1, 3))
def test_means_the_same_on_numbers_arrays_and_tensors(case: tuple, a: float, b: float) -> None:
    text, oracle = case
    body, wanted = expression(text), oracle(a, b)
    assert float(body({"a": a, "b": b}, NUMPY)) == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    array = body({"a": np.array([a]), "b": b}, NUMPY)
    tensor = body({"a": torch.tensor([a], dtype=torch.float64), "b": b}, TORCH)
    assert float(np.squeeze(array)) == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert float(torch.as_tensor(tensor)) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_clips_a_tensor_at_tensors() -> None:
    x, low = torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0, 1.0, 1.0])
    found = expression("clip(x, low, 3)")({"x": x, "low": low}, TORCH)
    assert found.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("u - 5*mV", "volt"), ("u/tau", "volt/second"), ("sqrt(u*u)", "volt"), ("u**2/mV", "volt"), ("abs(u)", "volt"),
        ("clip(u, 0*mV, 1*volt)", "volt"), ("exp(-tau/ms)", "1"), ("int(u > 3*mV)", "1"), ("xi", "second**-0.5"),
        ("sign(u)", "1"), ("-u", "volt"), ("u*int(u > 0*mV and tau > 1*ms)", "volt"), ("u**(1/2)", "volt**0.5"),
    ],
)  # fmt: skip
def test_units_of_expressions(text: str, unit: str) -> None:
    units = {"u": parse_unit("mV"), "tau": parse_unit("ms")}
    assert dimension(expression(text).tree, units).same(parse_unit(unit))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("u + tau", "'u' is in volt, 'tau' in second"), ("u > 1", "'u' is in volt, '1' in 1"),
        ("exp(u)", "exp takes a number without unit, but 'u' is in volt"), ("2**u", "a power takes a number"),
        ("u**n", "raised to a number only"), ("(u > 5*mV)*2", r"write int\(\.\.\.\) around conditions"),
        ("clip(u, 0, 1)", "units differ"), ("v", "'v' is neither a variable"), ("taw", "did you mean 'tau'"),
        ("(u > u) + 1", r"write int\(\.\.\.\)"), ("tanh(u > u)", "'u > u' is a condition"),
    ],
)  # fmt: skip
def test_refuses_units_that_do_not_fit(text: str, said: str) -> None:
    units = {"u": parse_unit("mV"), "tau": parse_unit("ms"), "n": NUMBER}
    with pytest.raises(RuleError, match=said):
        dimension(expression(text).tree, units)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.b", "beyond the language"), ("[a]", "beyond the language"), ("a if b else c", "beyond the language"),
        ("lambda: 1", "beyond the language"), ("__import__('os')", "unknown function"), ("a[0]", "beyond the language"),
        ("a +", "is no expression"), ("ex(a)", "did you mean 'exp'"), ("exp(a, b)", r"exp takes 1 value\(s\)"),
        ("a < b < c", "beyond the language"), ("'text'", "beyond the language"), ("exp(x=a)", "unknown|beyond"),
        ("a is b", "beyond the language"), ("a % b", "beyond the language"), ("(a := 1)", "beyond the language"),
    ],
)  # fmt: skip
def test_refuses_what_the_language_lacks(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        expression(text)


def test_reads_a_model() -> None:
    lines = model_lines("""
        dx/dt = -x/tau : 1 (event-driven)  # a trace
        y = 2*x : 1

        v : volt (constant)
    """)
    assert [(x.name, str(x.unit), x.flags) for x in lines] == [
        ("x", "1", ("event-driven",)), ("y", "1", ()), ("v", "volt", ("constant",)),
    ]  # fmt: skip
    assert lines[0].slope is not None and lines[0].slope.text == "-x/tau" and lines[1].value is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dx/dt = -x/tau", "is no equation"), ("x + 1", "is no equation"), ("x : parsec", "'parsec' is unknown"),
        ("x : mV", "wants the base unit volt"), ("x : 1 (fast)", "unknown flag 'fast'"), ("dx/dt : 1", "right side"),
        ("x = a. : 1", "is no expression"), ("x : 1 : 2", "is no"),
    ],
)  # fmt: skip
def test_refuses_lines_that_are_no_equations(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        model_lines(text)


def test_reads_statements() -> None:
    found = statements("x += 1  # count\nw = w - A*x\ny *= 2\nz /= 3\nx -= a - b")
    assert [s.target for s in found] == ["x", "w", "y", "z", "x"] and [s.adds for s in found] == [1, 0, 0, 0, 1]
    assert float(found[4].value({"x": 1.0, "a": 5.0, "b": 2.0}, NUMPY)) == -2  # x - (a - b)
    assert float(found[3].value({"z": 6.0}, NUMPY)) == 2


@pytest.mark.parametrize("text", ["x", "x = y = 1", "x, y = 1, 2", "x **= 2", "if x:", "x[0] = 1", "x = 1; y = 2"])
def test_refuses_lines_that_are_no_assignments(text: str) -> None:
    with pytest.raises(RuleError, match="is no statement"):
        statements(text)


def test_every_function_has_a_meaning_in_both() -> None:
    assert set(FUNCTIONS) - {"rand"} <= set(NUMPY) & set(TORCH)  # an engine draws by its own generator

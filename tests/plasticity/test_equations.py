"""A rule as equations: what follows from its texts, and the sentence that each mistake is met with."""

from dataclasses import replace

import pytest
from plasticity_cases import CONTINUOUS, MS, SIGNAL, TRACES

from spikecredit.plasticity import Equations, RuleError

TAU = {"tau": MS}


def test_finds_what_is_exact_and_what_must_be_integrated() -> None:
    assert TRACES.event_driven and not TRACES.continuous
    assert TRACES.exact["x"] == (-50.0, 0.0)
    assert TRACES.exact["z"] == pytest.approx((-50.0, 15.0))
    assert CONTINUOUS.exact.keys() == {"c", "d", "x"} and CONTINUOUS.continuous.keys() == {"w"}
    assert CONTINUOUS.watched == {"c", "d", "w"}
    assert SIGNAL.exact.keys() == {"a"} and SIGNAL.continuous.keys() == {"m", "b"} and not SIGNAL.event_driven


def test_a_decay_that_is_not_linear_is_no_decay() -> None:
    square = Equations("w : 1\ndx/dt = -x*x/tau : 1", "w += x\nx = 1", parameters=TAU)
    assert square.continuous.keys() == {"x"}
    step = Equations("w : 1\ndx/dt = -int(x > 1.5)/tau : 1", "w += x\nx = 1", parameters=TAU)
    assert step.continuous.keys() == {"x"}


def test_a_threshold_between_the_probed_points_is_no_decay() -> None:
    kinked = Equations("w : 1\ndx/dt = -clip(x, -0.5, 5)/tau : 1", "w += x\nx = 1", parameters=TAU)
    assert kinked.continuous.keys() == {"x"}


def test_finds_where_each_variable_lives() -> None:
    assert TRACES.places == {"w": "synapse", "x": "pre", "y": "post", "z": "post"}
    assert CONTINUOUS.places == {"c": "synapse", "d": "shared", "w": "synapse", "x": "pre"}
    assert SIGNAL.places == {"w": "synapse", "m": "post", "a": "pre", "b": "synapse"}


def test_a_trace_that_reads_the_other_side_lives_at_the_synapse() -> None:
    local = Equations(
        "w : 1\ndx/dt = -x/tau : 1\ndy/dt = -y/tau : 1\ndp/dt = -p/tau : 1\ndq/dt = -q/tau : 1",
        "p += q\nh = y\nx += h\nq += 1", "w += x + p\ny += 1", parameters=TAU,
    )  # fmt: skip
    assert local.places == {"w": "synapse", "x": "synapse", "y": "post", "p": "pre", "q": "pre"}


def test_noise_lives_at_the_synapse() -> None:
    noisy = Equations("w : 1\ndx/dt = -x/tau + xi/tau**0.5 : 1", "w += x\nx += 1", parameters=TAU)
    assert noisy.places["x"] == "synapse" and noisy.noisy and noisy.noise == {"x": ("xi",)}


def test_writes_subexpressions_out() -> None:
    nested = Equations("a = 2*w : 1\nb = a + w : 1\nw : 1", "w += b", start={"w": 3.0})
    assert nested.subexpressions["b"]({"w": 3.0}, {}) == 9
    assert nested.blocks["pre"][0].value({"w": 3.0}, {}) == 12
    assert replace(nested, weight="b").strength({"w": 2.0}) == 6


def test_parameters_become_si() -> None:
    rule = Equations("w : 1", "w += A*u0", parameters={"A": (14e-5, "1/mV"), "u0": (2.0, "mV")})
    assert rule.values == pytest.approx({"A": 0.14, "u0": 2e-3}, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "w : 1", "on_pre": "w += x"}, "'x' is neither a variable, a parameter"),
        ({"model": "w : 1\ndtrace/dt = -trace/tau : 1", "on_pre": "w += trase", "parameters": TAU}, "'trace'"),
        ({"model": "w : 1", "on_pre": "x += 1"}, "unknown trace 'x'.*dx/dt = -x/tau : 1"),
        ({"model": "w : 1\nx : 1", "on_pre": "x += 1", "on_post": "w += x"}, "decays: write 'dx/dt = -x/tau_x : 1'"),
        ({"model": "w : 1\nx : 1", "on_pre": "x += 1", "on_post": "h = 2*x\nw += h"}, "never decays"),
        ({"model": "w : 1\ndx/dt = -x/tau : volt", "on_pre": "w += x", "parameters": TAU}, "'w' is in 1, 'x' in volt"),
        ({"model": "w : 1\ndx/dt = -x : 1"}, "right side is in 1, but it must be in hertz"),
        ({"model": "w : 1\ny = w > 1 : 1"}, r"a condition: write int"),
        ({"model": "w : 1", "on_pre": "w = 3*mV"}, "must be in 1"),
        ({"model": "w : 1\nw : 1"}, "two equations"),
        ({"model": "a = b : 1\nb = a : 1\nw : 1", "on_pre": "w += a"}, "reads itself"),
        ({"model": "v : 1"}, "the weight 'w' is not in the model"),
        ({"model": "w : 1", "weight": "W"}, "did you mean 'w'"),
        ({"model": "w : 1", "start": {"v": 1.0}}, "start has 'v'"),
        ({"model": "w : 1", "bounds": {"v": (0, 1)}}, "bounds has 'v'"),
        ({"model": "w : 1", "bounds": {"w": (0, "w_max")}}, "bounds of 'w'.*'w_max' is neither"),
        ({"model": "w : 1", "parameters": {"w": (1.0, "1")}}, "both a variable and a parameter"),
        ({"model": "w : 1", "parameters": {"mV": (1.0, "1")}}, "means something else in Brian2"),
        ({"model": "w : 1\nt : 1"}, "means something else in Brian2"),
        ({"model": "w : 1", "parameters": {"tau": (1.0, "parsec")}}, "parameter 'tau': 'parsec' is no unit"),
        ({"model": "w : 1", "parameters": {"tau": ("fast", "ms")}}, "must be a number and a unit, got 'fast'"),
        ({"model": "w : 1", "parameters": {"tau": (float("nan"), "ms")}}, "must be a number"),
        ({"model": "w : 1", "on_pre": "A += 1", "parameters": {"A": (1.0, "1")}}, "is not a variable, and cannot"),
        ({"model": "w : 1\ny = 2*w : 1", "on_pre": "y = 1"}, "is not a variable, and cannot be changed"),
        ({"model": "w : 1", "delay": -1.0}, "delay is a time in ms"),
        ({"model": "w : 1", "method": "heun"}, "method must be"),
        ({"model": "w : 1\ndx/dt = -x*x/tau : 1 (event-driven)", "parameters": TAU}, "not linear in itself"),
        ({"model": "dw/dt = x/tau : 1\ndx/dt = -x/tau : 1 (event-driven)", "parameters": TAU}, "continuous equation"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_met_with_a_sentence(given: dict, said: str) -> None:
    with pytest.raises(RuleError, match=said):
        Equations(**given)


def test_a_counter_on_purpose_is_allowed() -> None:
    Equations("w : 1\ndx/dt = 0*x/second : 1", "x += 1", "w += x")
    Equations("w : 1\nx : 1", "x += 1", "w += x\nx = 0")  # and one that an event resets
    Equations("w : 1\nx : 1", "x += 1", "w += x", bounds={"x": (0, 1)})  # or that is bounded

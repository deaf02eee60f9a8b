"""The three engines against each other, against exact solutions, and under what they refuse."""

import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plasticity_cases import CONTINUOUS, MS, SIGNAL, TRACES, trains

from spikecredit.plasticity import Equations
from spikecredit.plasticity.engines import ENGINES, Stimulus
from spikecredit.plasticity.engines.batched import Batch
from spikecredit.plasticity.engines.brian import texts

RUN: dict[str, Any] = {name: engine() for name, engine in ENGINES.items()}


def oracle(stimulus: Stimulus, c: int) -> float:
    """`TRACES` by hand: sums over spikes, written without a state between events."""
    pre, post = [float(t) + 2.0 for t in stimulus.pre[c] if t + 2.0 <= stimulus.duration], list(stimulus.post[c])
    w = 1.0
    for t, kind in sorted([(t, 0) for t in pre] + [(t, 1) for t in post]):
        x = sum(np.exp(-(t - s) / 20) for s in pre if (s < t or (s == t and kind == 1)))
        y = sum(np.exp(-(t - s) / 35) for s in post if s < t)
        z = 0.3
        for k, s in enumerate(post):
            if s < t:
                z = 0.5 * z + 0.1
                until = min([*(p for p in post[k + 1 :] if p < t), t])
                z = 0.3 + (z - 0.3) * np.exp(-(until - s) / 20)
        w = w - 0.1 * y * (1 + z) if kind == 0 else w + 0.2 * x * y
        w = min(max(w, 0.0), 2.0)
    return w


@pytest.mark.parametrize("seed", range(5))
def test_reference_equals_sums_over_spikes(seed: int) -> None:
    stimulus = trains(seed)
    wanted = [oracle(stimulus, c) for c in range(3)]
    assert min(wanted) > 0 or max(wanted) < 2  # not all at a bound
    np.testing.assert_allclose(RUN["reference"](TRACES, stimulus).after[:, 0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["torch", "brian"])
@pytest.mark.parametrize("seed", range(2))
def test_exact_traces_agree(engine: str, seed: int) -> None:
    stimulus = trains(seed)
    found, wanted = RUN[engine](TRACES, stimulus), RUN["reference"](TRACES, stimulus)
    np.testing.assert_allclose(found.after, wanted.after, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.before, np.ones((3, 1)))


@pytest.mark.parametrize("rule", [CONTINUOUS, SIGNAL], ids=["continuous", "signal"])
def test_the_clocked_engines_take_the_same_steps(rule: Equations) -> None:
    stimulus = trains(1)
    ours, theirs = RUN["torch"](rule, stimulus), RUN["brian"](rule, stimulus)
    np.testing.assert_allclose(ours.after, theirs.after, rtol=0, atol=1e-12)
    assert np.abs(ours.after - ours.before).max() > 0.01
    for name, value in theirs.state.items():
        np.testing.assert_allclose(ours.state[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_a_rule_by_euler_is_the_same_in_the_reference() -> None:
    stimulus = trains(2)
    for rule in (SIGNAL, replace(CONTINUOUS, method="euler")):
        ours, wanted = RUN["torch"](rule, stimulus), RUN["reference"](rule, stimulus)
        for name, value in wanted.state.items():
            np.testing.assert_allclose(ours.state[name], value, rtol=0, atol=1e-12, err_msg=name)


def test_continuous_terms_converge_to_the_reference_with_the_step() -> None:
    stimulus, rule = trains(3), replace(CONTINUOUS, bounds={})
    wanted = RUN["reference"](rule, stimulus).after
    finer = RUN["reference"](rule, stimulus, dt=0.25).after
    assert np.abs(finer - wanted).max() < 1e-8  # its own step is no matter
    errors = [np.abs(RUN["torch"](rule, stimulus, dt=dt).after - wanted).max() for dt in (1.0, 0.5, 0.25)]
    assert errors[0] > 1e-6
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.2  # first order


def test_spikes_off_the_grid_are_rounded_with_a_warning_and_cost_the_order_of_the_step() -> None:
    rng = np.random.default_rng(0)
    pre, post = (tuple(np.arange(20) * 50 + rng.uniform(0, 40, 20) for _ in range(40)) for _ in range(2))
    stimulus = Stimulus(pre, post, 1000.0)
    rule = Equations(
        "w : 1\ndx/dt = -x/tau : 1\ndy/dt = -y/tau : 1", "w -= y\nx += 1", "w += x\ny += 1", parameters={"tau": MS}
    )
    wanted, errors = RUN["reference"](rule, stimulus).after, []
    for dt in (0.1, 0.01):
        with pytest.warns(UserWarning, match=rf"not on the grid of dt = {dt} ms: rounded by up to 0\.0"):
            errors.append(np.abs(RUN["torch"](rule, stimulus, dt=dt).after - wanted).mean())
    assert 5 < errors[0] / errors[1] < 20


def test_signals_may_be_read_by_a_rule_without_continuous_equations() -> None:
    rule = Equations("w : 1\nm = u/mV : 1", "w += m", signals={"u": ("mV", "post")})
    stimulus = replace(trains(4), post=tuple(np.empty(0) for _ in range(3)))
    wanted = [sum(stimulus.signals["u"][int(t), c] for t in stimulus.pre[c]) for c in range(3)]
    for name, run in RUN.items():
        np.testing.assert_allclose(run(rule, stimulus).after[:, 0], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


def test_noise_has_the_statistics_of_its_equation_in_every_engine() -> None:
    """An Ornstein-Uhlenbeck process: mean and variance at time t are known."""
    rule = Equations(
        "dw/dt = (m - w)/tau + sigma*xi*sqrt(2/tau) : 1",
        parameters={"tau": MS, "m": (0.2, "1"), "sigma": (0.5, "1")}, start={"w": 1.0},
    )  # fmt: skip
    stimulus = Stimulus((np.empty(0),), (np.empty(0),), 30.0)
    mean, variance = 0.2 + 0.8 * np.exp(-1.5), 0.25 * (1 - np.exp(-3.0))
    seen = []
    for name, run in RUN.items():
        found = run(rule, stimulus, dt=0.1, replicates=4000, seed=1).after[0]
        assert abs(found.mean() - mean) < 4 * np.sqrt(variance / 4000), name
        assert abs(found.var() - variance) < 5 * variance * np.sqrt(2 / 4000), name
        again = run(rule, stimulus, dt=0.1, replicates=4000, seed=1).after[0]
        np.testing.assert_array_equal(found, again, err_msg=name)
        assert not np.array_equal(found, run(rule, stimulus, dt=0.1, replicates=4000, seed=2).after[0]), name
        seen.append(found)
    assert len({float(s[0]) for s in seen}) == 3  # three generators, one law


@pytest.mark.parametrize("engine", list(RUN))
def test_start_and_replicates_are_for_each_condition(engine: str) -> None:
    start = {"w": np.array([[0.5, 1.0], [1.5, 0.2], [1.0, 1.0]])}
    found = RUN[engine](TRACES, trains(0), replicates=2, start=start)
    np.testing.assert_array_equal(found.before, start["w"])
    for c, r in ((0, 0), (1, 1), (2, 0)):
        alone = RUN["reference"](TRACES, trains(0), start={"w": start["w"][c, r]})
        assert found.after[c, r] == pytest.approx(alone.after[c, 0], abs=1e-12)


def test_recording_reads_the_same_in_all_engines() -> None:
    stimulus, rule = trains(1), replace(CONTINUOUS, method="euler")
    found = {name: run(rule, stimulus, record=("w", "c", "g"), every=10.0) for name, run in RUN.items()}
    for name, outcome in found.items():
        np.testing.assert_allclose(outcome.times, np.arange(41) * 10.0, atol=1e-9, err_msg=name)
        for variable in ("w", "c", "g"):
            np.testing.assert_allclose(
                outcome.traces[variable], found["reference"].traces[variable], rtol=0, atol=1e-12, err_msg=name
            )
    np.testing.assert_allclose(
        found["torch"].traces["g"], 2 * found["torch"].traces["c"] + found["torch"].traces["w"], atol=1e-12
    )


def test_a_reading_comes_before_the_events_of_its_moment() -> None:
    rule = Equations("w : 1", "w += 1")
    stimulus = Stimulus((np.array([10.0]),), (np.empty(0),), 20.0)
    for name, run in RUN.items():
        assert run(rule, stimulus, record=("w",), every=10.0).traces["w"].ravel().tolist() == [0, 0, 1], name


def test_at_one_moment_pre_comes_before_post_and_reward_last() -> None:
    rule = Equations("w : 1", "w = 2*w + 1", "w = 3*w", "w = w + 5")
    stimulus = Stimulus((np.array([10.0]),), (np.array([10.0]),), 20.0, (np.array([10.0]),))
    for name, run in RUN.items():
        assert run(rule, stimulus, start={"w": 1.0}).after.item() == (2 * 1 + 1) * 3 + 5, name


def test_cpp_standalone_agrees() -> None:
    """Where a compiler is there: this machine's CI has one."""
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    stimulus = trains(1)
    found = RUN["brian"](CONTINUOUS, stimulus, target="cpp_standalone")
    np.testing.assert_allclose(found.after, RUN["torch"](CONTINUOUS, stimulus).after, rtol=0, atol=1e-12)


def test_brian2_gets_the_texts_as_they_are() -> None:
    written = texts(CONTINUOUS)
    assert "dx/dt = -x/tau : 1 (event-driven)" in written["model"].splitlines()
    assert "dc/dt = -c/tau : 1 (clock-driven)" in written["model"].splitlines()  # the weight's equation reads it
    assert "g = 2*c + w : 1" in written["model"].splitlines()


# ---- many synapses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [TRACES, CONTINUOUS], ids=["traces", "continuous"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_population_is_its_synapses_one_by_one(rule: Equations, copies: int) -> None:
    """n_post x n_pre synapses with shared traces, by rows and columns or by masks, equal independent synapses."""
    n_post, n_pre, steps = 3, 4, 200
    g = torch.Generator().manual_seed(0)
    pre, post = (torch.rand(steps, copies, n, generator=g) < 0.06 for n in (n_pre, n_post))
    reward = torch.rand(steps, copies, generator=g) < 0.02
    batch, single = Batch(rule, copies, n_post, n_pre), Batch(rule, copies * n_post * n_pre)
    state, alone = batch.start({"w": 0.7}), single.start({"w": 0.7})
    for k in range(steps):
        batch.step(state, pre[k], post[k], reward[k])
        each_pre = pre[k][:, None, :].expand(copies, n_post, n_pre).reshape(-1, 1)
        each_post = post[k][:, :, None].expand(copies, n_post, n_pre).reshape(-1, 1)
        single.step(alone, each_pre, each_post, reward[k][:, None].expand(copies, n_post * n_pre).reshape(-1))
    assert batch.strength(state).std() > 1e-3
    torch.testing.assert_close(
        batch.strength(state), single.strength(alone).reshape(copies, n_post, n_pre), rtol=0, atol=1e-12
    )
    assert state["x"].shape == (copies, 1, n_pre)


def test_a_population_in_float32_keeps_its_precision() -> None:
    batch = Batch(TRACES, n_post=2, n_pre=2, dtype=torch.float32)
    state = batch.start()
    batch.step(state, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool))
    assert {v.dtype for v in state.values()} == {torch.float32}


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", list(RUN))
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dt": 0.0}, "dt is a step in ms"), ({"record": ("q",), "every": 1.0}, "cannot record 'q'"),
        ({"record": ("w",)}, "record needs every="),
    ],
)  # fmt: skip
def test_engines_refuse(engine: str, change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RUN[engine](TRACES, trains(0), **change)


@pytest.mark.parametrize("engine", list(RUN))
def test_a_start_that_no_variable_takes_is_refused(engine: str) -> None:
    derived = Equations("w = 2*rho : 1\nrho : 1", "rho += 1")
    with pytest.raises(ValueError, match=r"start has 'w', which is no variable of the rule \(there are rho"):
        RUN[engine](derived, Stimulus((np.array([1.0]),), (np.array([2.0]),), 10.0), start={"w": 1.0})


@pytest.mark.parametrize("engine", list(RUN))
def test_a_missing_signal_is_named(engine: str) -> None:
    bare = Stimulus((np.array([1.0]),), (np.array([2.0]),), 10.0)
    with pytest.raises(ValueError, match="reads the signal 'u', which this experiment does not deliver"):
        RUN[engine](SIGNAL, bare)
    with pytest.raises(ValueError, match=r"sampled every 1 ms, and the engine steps by 0\.5 ms"):
        RUN[engine](SIGNAL, trains(0), dt=0.5)


def test_experiments_refuse() -> None:
    some = (np.array([1.0]),)
    with pytest.raises(ValueError, match="1 conditions of pre, but 2 of post"):
        Stimulus(some, some * 2, 10.0)
    with pytest.raises(ValueError, match="a post event at 11 ms lies outside"):
        Stimulus(some, (np.array([11.0]),), 10.0)
    with pytest.raises(ValueError, match="signals need dt"):
        Stimulus(some, some, 10.0, signals={"u": np.zeros((11, 1))})
    with pytest.raises(ValueError, match=r"has shape \(3, 1\), expected \(steps \+ 1, conditions\) = \(11, 1\)"):
        Stimulus(some, some, 10.0, signals={"u": np.zeros((3, 1))}, dt=1.0)
    close = Stimulus((np.array([1.0, 1.2]),), some, 10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="two pre events fall into one step of 1 ms"):
            RUN["torch"](TRACES, close)
    RUN["reference"](TRACES, close)  # which has no step


def test_a_constant_is_clipped_too() -> None:
    rule = Equations("w : 1", "w = clip(0.5, 0, w_max)", parameters={"w_max": (0.2, "1")})
    stimulus = Stimulus((np.array([1.0]),), (np.empty(0),), 5.0)
    assert [run(rule, stimulus).after.item() for run in RUN.values()] == [0.2] * 3

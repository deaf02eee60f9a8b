"""Protocols of trains: which spikes they are, their statistics, and what they refuse."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from spikecredit.plasticity import (
    Burst,
    CustomRule,
    Equations,
    Experiment,
    LowFrequency,
    PoissonPair,
    RewardAfter,
    Rule,
    Tetanus,
    ThetaBurst,
    TripletSTDP,
    VoltageClamp,
)
from spikecredit.plasticity.protocols import GAP


def test_bursts_begin_at_their_lag() -> None:
    made = Burst(dt=(10.0, -30.0), n_post=(1, 3), rate_post=(50.0,), n=2, rate=1.0).experiment()
    assert made.rows == [
        {"dt": 10.0, "n_post": 1, "rate_post": 50.0}, {"dt": -30.0, "n_post": 1, "rate_post": 50.0},
        {"dt": 10.0, "n_post": 3, "rate_post": 50.0}, {"dt": -30.0, "n_post": 3, "rate_post": 50.0},
    ]  # fmt: skip
    first = GAP + 30.0
    for pre in made.pre:
        np.testing.assert_allclose(pre, [first, first + 1000])
    np.testing.assert_allclose(made.post[0], [first + 10, first + 1010])
    np.testing.assert_allclose(made.post[3] - first, [-30, -10, 10, 970, 990, 1010])


def test_theta_bursts_count_and_pause_as_published() -> None:
    made = ThetaBurst().experiment()
    pre = (made.pre[0] - GAP).reshape(3, 10, 4)  # trains, bursts, pulses
    np.testing.assert_allclose(np.diff(pre, axis=2), 10)
    np.testing.assert_allclose(np.diff(pre[:, :, 0], axis=1), 200)
    np.testing.assert_allclose(np.diff(pre[:, 0, 0]), 10_000)
    np.testing.assert_allclose(made.post[0] - made.pre[0], 5)
    assert len(ThetaBurst(lag=None).experiment().post[0]) == 0


def test_strong_and_weak_tetanus_and_strong_low_frequency() -> None:
    strong = Tetanus().experiment().pre[0] - GAP
    assert len(strong) == 300
    np.testing.assert_allclose(np.diff(strong.reshape(3, 100), axis=1), 10)
    np.testing.assert_allclose(np.diff(strong.reshape(3, 100)[:, 0]), 600_000)
    assert len(Tetanus(seconds=0.2, trains=(1,)).experiment().pre[0]) == 20
    low = LowFrequency(rates=(1 / 1.15,), pulses=3, intra=20.0).experiment().pre[0] - GAP
    assert len(low) == 2700
    np.testing.assert_allclose(low[:4], [0, 50, 100, 1150])
    plain = LowFrequency().experiment()
    assert len(plain.pre[0]) == 900 and len(plain.post[0]) == 0
    assert plain.duration == pytest.approx(899e3 + 2 * GAP)


def test_the_grouped_are_those_with_pauses() -> None:
    assert ThetaBurst().grouped and Tetanus().grouped and LowFrequency(pulses=3).grouped
    assert not Tetanus(trains=(1,)).grouped and not LowFrequency().grouped and not Burst().grouped


def test_a_clamp_holds_each_condition_at_its_potential() -> None:
    made = VoltageClamp(potentials=(-60.0, -20.0), n=3, rate=10.0, rest=200.0).experiment()
    assert made.voltage is not None
    np.testing.assert_array_equal(made.voltage, [-60, -20])
    np.testing.assert_allclose(made.pre[1], [200, 300, 400])
    assert made.duration == pytest.approx(600) and not len(made.post[0]) and made.axes == {"voltage": "mV"}


class TestPoisson:
    def test_rates_and_their_spread_are_those_of_random_trains(self) -> None:
        """4 standard deviations of the binomial law; and the counts in windows vary as they should."""
        made = PoissonPair(rates=(5.0, 40.0), rate_pre=20.0, seconds=400.0, seed=3).experiment()
        for trains, rates in ((made.pre, (20.0, 20.0)), (made.post, (5.0, 40.0))):
            for train, rate in zip(trains, rates, strict=True):
                wanted, p = rate * 400.0, rate * 1e-3
                assert abs(len(train) - wanted) < 4 * math.sqrt(wanted * (1 - p))
                counts = np.histogram(train, np.arange(0, 400e3, 1e3))[0]
                assert counts.var() / counts.mean() == pytest.approx(1 - p, abs=0.3)
                np.testing.assert_allclose((train - made.pre[0][0]) % 1.0, 0, atol=1e-6)

    def test_copied_spikes_come_at_the_lag(self) -> None:
        made = PoissonPair(rates=(20.0,), seconds=200.0, correlation=1.0, lag=7.0).experiment()
        np.testing.assert_allclose(made.post[0] - made.pre[0], 7.0)
        half = PoissonPair(rates=(20.0,), seconds=200.0, correlation=0.5, lag=-4.0).experiment()
        copied = np.isin(np.rint(half.post[0]), np.rint(half.pre[0] - 4.0)).mean()
        assert copied == pytest.approx(0.5, abs=0.05)
        none = PoissonPair(rates=(20.0,), seconds=200.0, lag=-4.0).experiment()
        assert np.isin(np.rint(none.post[0]), np.rint(none.pre[0] - 4.0)).mean() < 0.06

    def test_the_seed_is_its_own(self) -> None:
        a, b, c = (PoissonPair(rates=(20.0,), seconds=5.0, seed=seed).experiment().pre[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert len(a) != len(c) or not np.array_equal(a, c)

    def test_a_finer_grid_stays_on_it(self) -> None:
        made = PoissonPair(rates=(100.0,), seconds=2.0, grid=0.1, correlation=0.5, lag=0.3).experiment()
        for train in (made.pre[0], made.post[0]):
            np.testing.assert_allclose(train / 0.1, np.rint(train / 0.1), atol=1e-6)
            assert np.diff(train).min() > 0.09


def test_reward_comes_after_the_last_pair_and_a_trace_tells_its_delay() -> None:
    made = RewardAfter(delays=(0.0, 2.0), n=2, tail=1.0).experiment()
    np.testing.assert_allclose([r[0] for r in made.reward], [GAP + 1010, GAP + 3010])
    assert made.duration == pytest.approx(GAP + 4010)
    before = RewardAfter(delays=(-1.0,), n=1).experiment()
    np.testing.assert_allclose([before.reward[0][0], before.pre[0][0]], [GAP, GAP + 990])
    eligible = Equations(
        model="w : 1\ndc/dt = -c/tau : 1", on_post="c += 1", on_reward="w += c",
        parameters={"tau": (1.0, "second")}, start={"w": 1.0},
    )  # fmt: skip
    found = RewardAfter(delays=(0.0, 0.5, 3.0)).run(CustomRule(text=eligible)).change
    np.testing.assert_allclose(found, np.exp([0.0, -0.5, -3.0]), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Burst(n_post=(0,)), "n_post is a number of spikes per burst"),
        (lambda: Burst(n_post=(3,), rate_post=(1.0,), rate=1.0), "bursts overlap"),
        (lambda: ThetaBurst(pulses=30), "bursts overlap: each lasts 290 ms, and the next begins after 200 ms"),
        (lambda: ThetaBurst(gap=1.0), "trains overlap"),
        (lambda: ThetaBurst(lag=math.nan).experiment(), "lag is in ms, or null"),
        (lambda: Tetanus(gap=0.5), "trains overlap"),
        (lambda: Tetanus(seconds=0.001), "has no spike"),
        (lambda: Tetanus(trains=(0,)), "trains is a number of trains"),
        (lambda: LowFrequency(rates=(10.0,), pulses=3), "bursts overlap"),
        (lambda: VoltageClamp(n=0), "n is a number of spikes"),
        (lambda: VoltageClamp(potentials=-40.0), "potentials is a list of values in mV"),  # type: ignore[arg-type]
        (lambda: PoissonPair(rates=(600.0,)), "600 Hz is too fast for one spike per grid = 1 ms"),
        (lambda: PoissonPair(correlation=1.5), "correlation is a share from 0 to 1"),
        (lambda: PoissonPair(lag=0.5), "lag must be a multiple of grid = 1 ms"),
        (lambda: PoissonPair(rates=(1e-9,), seconds=1.0).experiment(), "no condition has a spike"),
        (lambda: RewardAfter(delays=()), "delays is a list of values in s"),
        (lambda: RewardAfter(tail=0.0), "tail is in s, positive"),
    ],
)
def test_mistakes_are_met_with_a_sentence(make: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the text is compared below, without a pattern's escapes
        make()
    assert told in str(error.value)


@dataclass(frozen=True)
class Held(Rule):
    """dw/dt = x (u - theta): the trace of presynaptic spikes times the potential above a threshold."""

    theta: float = -40.0
    UNITS: ClassVar[Mapping[str, str]] = {"theta": "mV"}

    def equations(self) -> Equations:
        return Equations(
            model="dw/dt = x*(u - theta)/(1*mV*second) : 1\ndx/dt = -x/(10*ms) : 1", on_pre="x += 1",
            parameters=self.constants(), signals={"u": ("mV", "post")}, start={"w": 1.0},
        )  # fmt: skip

    def signals(self, experiment: Experiment, dt: float) -> Mapping[str, np.ndarray]:
        assert experiment.voltage is not None
        return {"u": np.tile(experiment.voltage, (round(experiment.duration / dt) + 1, 1))}


def test_a_clamped_cell_reaches_the_rule_on_every_engine() -> None:
    """n spikes of a trace with tau = 10 ms: n tau (u - theta); by Euler's sum n dt / (1 - exp(-dt/tau)) for n tau."""
    protocol = VoltageClamp(potentials=(-60.0, -40.0, -15.0), n=3, rate=20.0, rest=500.0)
    dt, above = 0.5, np.array([-20.0, 0.0, 25.0])
    wanted = 3 * dt * 1e-3 / (1 - math.exp(-dt / 10.0)) * above
    found = {engine: protocol.run(Held(), engine, dt=dt).change for engine in ("reference", "torch", "brian")}
    np.testing.assert_allclose(found["reference"], wanted, atol=1e-9)
    np.testing.assert_allclose(found["torch"], found["reference"], atol=1e-12)
    np.testing.assert_allclose(found["brian"], found["reference"], atol=1e-12)
    assert wanted[2] == pytest.approx(3 * 0.01 * 25, rel=0.03)


def test_rewards_reach_the_rule_on_every_engine() -> None:
    eligible = CustomRule(
        text=Equations(model="w : 1\ndc/dt = -c/(1*second) : 1", on_post="c += 1", on_reward="w += c", start={"w": 1.0})
    )
    protocol = RewardAfter(delays=(-0.1, 0.25, 0.5), n=2, rate=10.0, tail=0.1)
    passed = np.array([-0.1, 0.25, 0.5])
    wanted = np.where(passed < 0, 1.0, np.exp(-passed) * (1 + math.exp(-0.1)))
    for engine in ("reference", "torch", "brian"):
        np.testing.assert_allclose(protocol.run(eligible, engine).change, wanted, atol=1e-9)  # type: ignore[arg-type]


def test_three_engines_agree_on_trains() -> None:
    rule = TripletSTDP(tau_y=40.0)
    for protocol in (
        Burst(dt=(10.0, -15.0), n_post=(2,), n=2, rate=2.0), PoissonPair(rates=(30.0,), seconds=1.0, correlation=0.3),
        Tetanus(seconds=0.1, trains=(1, 2), gap=0.5),
    ):  # fmt: skip
        wanted = protocol.run(rule).change
        assert abs(wanted).max() > 1e-3
        np.testing.assert_allclose(protocol.run(rule, "torch").change, wanted, atol=1e-12)
        np.testing.assert_allclose(protocol.run(rule, "brian").change, wanted, atol=1e-12)

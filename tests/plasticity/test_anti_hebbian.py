"""Parallel fibres: the window in closed form, the engines, and the negative image that the rule makes in a fish."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import AntiHebbian, Pairing
from spikecredit.plasticity.engines import ENGINES, Stimulus, reference
from spikecredit.plasticity.engines.batched import Batch

TIMES = st.lists(st.floats(0, 300), max_size=8, unique=True).map(sorted)
RULE = AntiHebbian(0.01, 0.002, 30.0)


def change(rule: AntiHebbian, pre: list[float], post: list[float]) -> float:
    made = reference.run(rule.equations(), Stimulus((np.array(pre),), (np.array(post),), 300.0))
    return float(made.after[0, 0] - made.before[0, 0])


def wanted(pre: list[float], post: list[float]) -> float:
    """The sum over all pairs, with the window as two exponentials of time constants peak/ln 2 and half of it."""
    tau = 30 / math.log(2)
    pairs = [(j - i) for i in pre for j in post if j >= i]
    return 0.002 * len(pre) - 0.01 * sum(4 * (math.exp(-d / tau) - math.exp(-2 * d / tau)) for d in pairs)


@given(pre=TIMES, post=TIMES)
@settings(max_examples=80, deadline=None)
def test_it_is_the_sum_over_all_pairs(pre: list[float], post: list[float]) -> None:
    assert change(RULE, pre, post) == pytest.approx(wanted(pre, post), abs=1e-12)


def test_the_window_of_one_pair() -> None:
    lags = (-40.0, -1.0, 0.0, 1.0, 10.0, 30.0, 60.0, 150.0)
    for name in ENGINES:
        found = Pairing(dt=lags, n=1).run(RULE, name).change  # type: ignore[arg-type]
        for lag, value in zip(lags, found, strict=True):
            assert value == pytest.approx(0.002 - 0.01 * RULE.window(lag), abs=1e-9)
    assert RULE.window(30.0) == pytest.approx(1) and RULE.window(-1.0) == RULE.window(0.0) == 0
    assert RULE.window(29.0) < 1 > RULE.window(31.0)
    assert RULE.window(30 * math.log2(1 / (0.5 - math.sqrt(0.125)))) == pytest.approx(0.5)
    lag = np.linspace(0, 3000, 300_001)
    area = np.trapezoid([RULE.window(d) for d in lag], lag)
    assert area == pytest.approx(RULE.area, rel=1e-6)
    assert RULE.balance * RULE.area * 1e-3 == pytest.approx(0.2)


def test_engines_agree() -> None:
    rng = np.random.default_rng(0)
    trains = [tuple(rng.choice(500, 20, replace=False).astype(float) for _ in range(3)) for _ in range(2)]
    made = [engine()(RULE.equations(), Stimulus(*trains, 500.0), dt=1.0).after for engine in ENGINES.values()]
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], rtol=0, atol=1e-9)
    assert np.abs(made[0] - 1).min() > 1e-3


def test_presets_say_what_is_known_and_a_window_without_a_peak_is_refused() -> None:
    fish = AntiHebbian.preset("ell")
    assert fish.window(50.0) == pytest.approx(0.5, abs=0.005)
    assert AntiHebbian.preset("purkinje").peak == 120.0
    assert not any(preset.verified for preset in AntiHebbian.PRESETS.values())
    with pytest.raises(ValueError, match="peak is a lag in ms, positive and finite, got 0"):
        replace(fish, peak=0.0).equations()
    assert change(AntiHebbian(A=3.0, B=0.0), [50.0], [68.0]) == -1  # not below 0


PERIOD, FIBRES, NEURONS = 150, 101, 100


def broad_spikes(rule: AntiHebbian, cycles: int, seed: int = 0) -> np.ndarray:
    """An electric fish: every 150 ms a discharge sends a spike down delay lines of 0 to 100 ms, and brings the cell a
    predictable bump of input around 60 ms later; broad spikes are drawn with a probability linear in the potential, of
    which inhibition takes what the fibres bring at the start.

    Returns:
        broad spikes per neuron and ms, averaged over blocks of 50 discharges, (blocks, PERIOD).
    """
    batch = Batch(rule.equations(), 1, NEURONS, FIBRES)
    state = batch.start()
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.exp(-torch.arange(0.0, 40.0) / 10).double()
    response = torch.zeros(FIBRES, PERIOD, dtype=torch.float64)  # of the potential to each fibre, which wraps around
    for i in range(FIBRES):
        response[i, (i + torch.arange(40)) % PERIOD] = kernel
    bump = 2.5 * torch.exp(-((torch.arange(PERIOD).double() - 60) ** 2) / (2 * 15.0**2))
    counts = np.zeros((cycles // 50, PERIOD))
    for cycle in range(cycles):
        for t in range(PERIOD):
            v = (state["w"][0] - 1) @ response[:, t] + bump[t]
            chance = (rule.balance * 1e-3 * (1 + 0.6 * v)).clamp(0, 1)
            post = torch.rand(NEURONS, generator=generator, dtype=torch.float64) < chance
            pre = torch.arange(FIBRES) == t
            batch.step(state, pre[None] if t < FIBRES else None, post[None] if bool(post.any()) else None)
            counts[cycle // 50, t] += float(post.double().mean()) / 50
    return counts


def test_the_negative_image_of_a_predictable_input() -> None:
    """The response to the bump, 2.5 times the balance of the rule at first, falls to it; so do all other times."""
    rule = AntiHebbian(A=0.5, B=0.05, peak=18.0)
    rigid = replace(rule, A=0.5e-9, B=0.05e-9)  # of the same balance

    def rates(which: AntiHebbian, cycles: int) -> np.ndarray:  # in bins of 10 ms, in units of the balance
        return broad_spikes(which, cycles).reshape(-1, PERIOD // 10, 10).mean(2) / (rule.balance * 1e-3)

    assert rates(rigid, 50)[0, 5:7].min() > 2.1
    assert np.abs(rates(rule, 250)[-2:].mean(0) - 1).max() < 0.3

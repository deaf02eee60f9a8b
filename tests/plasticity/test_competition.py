"""The competition experiment on less: 500 inputs, a fast rule. The whole one: benchmarks/plasticity_competition."""

import pytest
import torch

from benchmarks.plasticity_competition import simulate, summary
from spikecredit.plasticity import PairSTDP


def test_additive_weights_spread_and_the_correlated_half_wins():
    rule = PairSTDP(0.05, 0.0525, w_max=0.03)
    weights, _ = simulate(rule, (10.0,), 15, shared=(0.1,), inputs=500)
    correlated, others = weights[0, :250], weights[0, 250:]
    assert correlated.mean() > others.mean() + 0.25
    assert weights.std() > 0.28


def test_multiplicative_weights_stay_together_at_their_fixed_point():
    rule = PairSTDP(0.03, 1.05 * 0.03, mu_plus=1.0, mu_minus=1.0, w_max=0.03)
    weights, _ = simulate(rule, (10.0,), 15, inputs=500)
    found = summary(weights[0])
    assert found["mean"] == pytest.approx(1 / 2.05, rel=0.05)
    assert found["sd"] < 0.1 and found["below_0.1"] == found["above_0.9"] == 0
    counts = torch.tensor(found["histogram"])
    peak = int(counts.argmax())
    assert 8 <= peak <= 11  # one peak, falling to both sides
    assert counts[peak - 4] < 0.2 * counts[peak] and counts[peak + 4] < 0.2 * counts[peak]

"""The suppression model against the sum over all pairs that the paper writes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import SuppressionSTDP
from spikecredit.plasticity.engines import Stimulus, reference

TIMES = st.lists(st.floats(0, 300), min_size=1, max_size=8, unique=True).map(sorted)
RULE = SuppressionSTDP(0.02, 0.01, 13.3, 34.5, 28.0, 88.0)


def change(rule, pre, post):
    made = reference.run(rule.equations(), Stimulus((np.array(pre),), (np.array(post),), 300.0))
    return float(made.after[0, 0] - made.before[0, 0])


def efficacies(times, tau):
    return [1.0 if k == 0 else 1 - math.exp(-(t - times[k - 1]) / tau) for k, t in enumerate(times)]


@given(pre=TIMES, post=TIMES)
@settings(max_examples=80, deadline=None)
def test_it_is_the_sum_over_all_pairs(pre, post):
    wanted = 0.0
    for i, e_i in zip(pre, efficacies(pre, 28.0), strict=True):
        for j, e_j in zip(post, efficacies(post, 88.0), strict=True):
            d = j - i
            wanted += e_i * e_j * (0.02 * math.exp(-d / 13.3) if d >= 0 else -0.01 * math.exp(d / 34.5))
    assert change(RULE, pre, post) == pytest.approx(wanted, abs=1e-12)


def test_the_first_pair_counts_in_full_and_later_spikes_less():
    assert change(RULE, [50.0], [60.0]) == pytest.approx(0.02 * math.exp(-10 / 13.3), abs=1e-15)
    second = change(RULE, [50.0], [55.0, 60.0]) - change(RULE, [50.0], [55.0])
    assert second == pytest.approx(0.02 * math.exp(-10 / 13.3) * (1 - math.exp(-5 / 88)), abs=1e-15)


def test_the_first_spike_of_a_triplet_decides():
    assert change(RULE, [50.0, 60.0], [55.0]) > 0 > change(RULE, [55.0], [50.0, 60.0])


def test_the_preset_is_marked_as_from_memory():
    assert not SuppressionSTDP.PRESETS["visual_cortex"].verified

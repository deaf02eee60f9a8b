"""Inhibition finds its rate, scaling keeps ratios, a burst pulls weights to their reference."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikecredit.plasticity import HeterosynapticSTDP, InhibitorySTDP, SynapticScaling
from spikecredit.plasticity.engines import Stimulus, reference
from spikecredit.plasticity.engines.batched import Batch

NONE = np.empty(0)


def run(rule, pre, post, duration, dt=1.0, **start):
    stimulus = Stimulus((np.array(pre),), (np.array(post),), duration)
    return reference.run(rule.equations(), stimulus, dt=dt, start=start)


def test_pairs_potentiate_in_either_order_and_lone_presynaptic_spikes_depress():
    rule = InhibitorySTDP(eta=0.1)
    assert rule.alpha == pytest.approx(0.25) and InhibitorySTDP.preset("nest_default").alpha == pytest.approx(0.12)
    for pre, post in (([50.0], [57.0]), ([57.0], [50.0])):
        w = float(run(rule, pre, post, 100.0).after[0, 0])
        assert w == pytest.approx(1 + 0.1 * (math.exp(-7 / 20) - 0.25), abs=1e-12)
    assert float(run(rule, [50.0], NONE, 100.0).after[0, 0]) == pytest.approx(1 - 0.1 * 0.25)
    assert float(run(replace(rule, eta=10.0), [50.0], NONE, 100.0).after[0, 0]) == 0.0


@pytest.mark.parametrize("rate", [2.0, 6.25, 15.0])
def test_the_mean_drift_has_the_sign_of_the_rates_distance_to_the_target(rate):
    """d<w>/dt = eta rho_pre (2 rho_post tau - alpha) for independent Poisson trains."""
    batch = Batch(InhibitorySTDP(eta=1e-3).equations(), 1, 60, 60)
    state = batch.start()
    generator = torch.Generator().manual_seed(0)
    steps, rho = 10000, 20.0
    for _ in range(steps):
        pre = torch.rand(1, 60, generator=generator) < rho * 1e-3
        post = torch.rand(1, 60, generator=generator) < rate * 1e-3
        batch.step(state, pre, post)
    drift = float((state["w"] - 1).mean()) / (steps * 1e-3)
    wanted = 1e-3 * rho * (2 * rate * 0.02 - 0.25)
    assert drift == pytest.approx(wanted, rel=0.1, abs=2e-4)
    if rate != 6.25:
        assert np.sign(drift) == np.sign(rate - 6.25)


def test_inhibition_brings_a_neuron_to_its_target_rate_from_both_sides():
    """800 excitatory and 200 plastic inhibitory inputs of a leaky integrator, from no inhibition and from too much."""
    generator = torch.Generator().manual_seed(0)
    rule = InhibitorySTDP(eta=1e-3)
    batch = Batch(rule.equations(), 2, 1, 200, dtype=torch.float64)
    state = batch.start({"w": torch.tensor([0.0, 0.04]).reshape(2, 1, 1)})
    seconds, v, count, early = 40, torch.zeros(2, dtype=torch.float64), torch.zeros(2), torch.zeros(2)
    decay = math.exp(-1 / 20)
    for second in range(seconds):
        excitation = 0.01 * torch.poisson(torch.full((1000, 2), 8.0), generator=generator).double()
        inhibition = torch.rand(1000, 2, 200, generator=generator) < 0.01
        for k in range(1000):
            pre = inhibition[k]
            v = v * decay + excitation[k] - (state["w"][:, 0] * pre).sum(1)
            spike = v > 1
            batch.step(state, pre, spike[:, None] if spike.any() else None)
            v = torch.where(spike, 0.0, v)
            count += spike * (second >= seconds // 2)
            early += spike * (second < 1)
    assert early[0] > 30 and early[1] < 2  # Hz in the first second
    for rate in (count / (seconds / 2)).tolist():
        assert rate == pytest.approx(rule.alpha / (2 * 0.02), rel=0.15)


def test_scaling_is_its_closed_form_and_keeps_ratios():
    rule = SynapticScaling(beta=0.1, nu_0=5.0, tau_nu=300.0, nu_start=2.0)
    post = np.array([20.0, 60.0, 65.0, 300.0, 410.0])
    made = reference.run(
        rule.equations(), Stimulus((NONE,), (post,), 1000.0), replicates=3, start={"w": np.array([0.2, 1.0, 7.0])}
    )
    nu = 2 * math.exp(-1000 / 300) + sum(math.exp(-(1000 - t) / 300) / 0.3 for t in post)
    assert float(made.state["nu"][0, 0]) == pytest.approx(nu, rel=1e-12)
    factor = math.exp(0.1 * (5.0 - len(post) + (nu - 2.0) * 0.3))
    np.testing.assert_allclose(made.after[0], factor * np.array([0.2, 1.0, 7.0]), rtol=1e-9)
    np.testing.assert_allclose(made.after[0] / made.after[0, 1], [0.2, 1.0, 7.0], rtol=1e-9)


def test_scaling_in_torch_keeps_ratios():
    batch = Batch(SynapticScaling(beta=1.0).equations(), 1, 3, 4)
    first = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    state = batch.start({"w": first[None]})
    for k in range(500):
        batch.step(state, post=torch.tensor([[k % 10 == 0, k % 50 == 0, False]]))
    ratio = state["w"][0] / first
    torch.testing.assert_close(ratio, ratio[:, :1].expand(3, 4), rtol=1e-9, atol=0)
    assert ratio[0, 0] < 1 < ratio[1, 0] < ratio[2, 0]  # 100, 20 and 0 Hz, with 5 wanted


@pytest.mark.parametrize("start", [0.3, 0.7])
def test_a_burst_without_input_pulls_the_weight_to_its_reference_from_both_sides(start):
    rule = HeterosynapticSTDP()
    post = np.arange(50.0, 450.0, 20.0)  # 20 spikes at 50 Hz
    w, z = start, 0.0
    for k in range(len(post)):
        z *= math.exp(-1) if k else 0.0
        w -= 0.05 * (w - 0.5) * z**3
        z += 1
    made = run(rule, NONE, post, 500.0, w=start)
    assert float(made.after[0, 0]) == pytest.approx(w, abs=1e-5)  # the reference itself creeps with 20 minutes
    assert abs(w - 0.5) < 0.95 * abs(start - 0.5)


def test_heterosynaptic_events_are_the_equation():
    rule = HeterosynapticSTDP(tau_cons=1e12)
    made = run(rule, [50.0, 130.0], [60.0, 100.0], 200.0)
    w = 0.5 + 2e-5  # the first presynaptic spike: transmitter only
    w += 1e-3 * math.exp(-10 / 20) * 0.0  # no slow trace yet
    z = math.exp(-40 / 20)
    w += 1e-3 * math.exp(-50 / 20) * math.exp(-40 / 100) - 0.05 * (w - 0.5) * z**3
    w += 2e-5 - 1e-3 * (z + 1) * math.exp(-30 / 20)
    assert float(made.after[0, 0]) == pytest.approx(w, abs=1e-12)


@pytest.mark.parametrize(("start", "well"), [(0.2, 0.0), (0.3, 0.5)])
def test_the_reference_has_two_wells(start, well):
    """Without spikes w stays, and w_ref follows it; the cubic alone would fall to 0 below w_high/2, else to w_high."""
    rule = HeterosynapticSTDP(w_start=start, tau_cons=1.0)
    made = run(rule, NONE, NONE, 5000.0, dt=10.0)
    moved = float(made.state["w_ref"][0, 0]) - start
    assert float(made.after[0, 0]) == start
    assert np.sign(moved) == np.sign(well - start)


def test_numbers_from_memory_are_marked():
    assert not HeterosynapticSTDP.PRESETS["zenke"].verified

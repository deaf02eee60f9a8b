"""The STDP identity: windows in closed form, trains against the integral of the traces, and what telescopes."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relaxing import batch, dense, flat

from spikecredit.equilibrium import Hopfield, Nudge, OneSided, Phase, SquaredError, Sweeps, gradient, sections
from spikecredit.equilibrium.stdp import PairSTDP, directed_change, emergent_window, fitted_window


def pair(delta, steps=4000, dt=0.1):
    """One presynaptic and one postsynaptic spike, delta ms apart."""
    pre, post = torch.zeros(2, steps, 1, dtype=torch.float64)
    pre[steps // 4], post[steps // 4 + round(delta / dt)] = 1, 1
    return pre, post


@pytest.mark.parametrize("taus", [(20.0, 20.0), (17.0, 34.0), (10.0, 5.0)])
@pytest.mark.parametrize("delta", [-40.0, -10.0, -2.0, 0.0, 2.0, 10.0, 40.0])
def test_one_pair_moves_the_weight_by_the_window(taus, delta):
    rule = PairSTDP(*taus)
    tau_pre, tau_post = taus
    if delta == 0:
        wanted = (tau_post - tau_pre) / (tau_pre + tau_post) / 2
    elif delta > 0:
        wanted = math.exp(-delta / tau_pre) * tau_post / (tau_pre + tau_post)
    else:
        wanted = -math.exp(delta / tau_post) * tau_pre / (tau_pre + tau_post)
    assert float(rule.window(torch.tensor(delta, dtype=torch.float64))) == pytest.approx(wanted, abs=1e-15)
    spikes = pair(delta)
    assert float(rule.change(*spikes, 0.1)) == pytest.approx(wanted, rel=1e-9)
    assert float(rule.integral(*spikes, 0.1)[0]) == pytest.approx(wanted, rel=1e-6)


def by_fine_grid(delta, tau_pre, tau_post, dt=0.001, length=600.0):
    """int x dy of the written-out traces by the trapezoid rule on a grid."""
    t = torch.arange(0, length, dt, dtype=torch.float64)
    x = torch.where(t >= 200, torch.exp(-(t - 200) / tau_pre), 0.0)
    y = torch.where(t >= 200 + delta, torch.exp(-(t - 200 - delta) / tau_post), 0.0)
    return float(((x[1:] + x[:-1]) / 2 * (y[1:] - y[:-1])).sum())


@pytest.mark.parametrize("taus", [(20.0, 20.0), (17.0, 34.0)])
@pytest.mark.parametrize("delta", [-10.0, 5.0, 30.0])
def test_the_window_is_the_integral_of_the_traces(taus, delta):
    wanted = by_fine_grid(delta, *taus)
    assert float(PairSTDP(*taus).window(torch.tensor(delta))) == pytest.approx(wanted, rel=1e-3)


@given(st.floats(2, 60), st.floats(2, 60), st.integers(0, 2**31))
def test_on_random_trains_the_integral_is_pair_stdp(tau_pre, tau_post, seed):
    g, rule = torch.Generator().manual_seed(seed), PairSTDP(tau_pre, tau_post)
    pre = (torch.rand(300, 2, 3, generator=g) < 0.1).double()
    post = (torch.rand(300, 2, 4, generator=g) < 0.2).double()
    change = rule.change(pre, post)
    integral, left = rule.integral(pre, post)
    assert change.shape == (2, 4, 3)
    torch.testing.assert_close(integral, change + rule.depression * left, rtol=1e-9, atol=1e-9)
    # Every pair by itself.
    s, z = pre[:, 1, 2].nonzero().flatten(), post[:, 1, 3].nonzero().flatten()
    pairs = rule.window((z[:, None] - s[None, :]).double()).sum()
    torch.testing.assert_close(change[1, 3, 2], pairs, rtol=1e-9, atol=1e-9)


@given(st.floats(2, 60), st.floats(2, 60), st.integers(0, 2**31))
def test_both_directions_are_an_endpoint_effect(tau_pre, tau_post, seed):
    g = torch.Generator().manual_seed(seed)
    pre, post = (torch.rand(2, 200, 3, generator=g) < 0.15).double()
    there, left = PairSTDP(tau_pre, tau_post).integral(pre, post)
    back, _ = PairSTDP(tau_post, tau_pre).integral(post, pre)
    torch.testing.assert_close(there + back.T, left, rtol=1e-10, atol=1e-10)
    delta = torch.linspace(-50, 50, 21, dtype=torch.float64)
    both = PairSTDP(tau_pre, tau_post).window(delta) + PairSTDP(tau_post, tau_pre).window(-delta)
    assert both.abs().max() < 1e-15


def test_the_area_of_the_window_is_zero():
    rule = PairSTDP(17.0, 34.0)
    assert rule.potentiation * 17 == pytest.approx(rule.depression * 34)
    delta = torch.arange(-1000, 1000, 0.01, dtype=torch.float64) + 0.005
    assert abs(float(rule.window(delta).sum()) * 0.01) < 1e-4


def test_stationary_independent_trains_do_not_drift():
    """5 s at 20 and 30 Hz, 2000 synapses; the same trains with ties given to one side do drift."""
    g, rule = torch.Generator().manual_seed(0), PairSTDP(20.0, 30.0)
    pre = (torch.rand(5000, 2000, 1, generator=g) < 0.02).double()
    post = (torch.rand(5000, 2000, 1, generator=g) < 0.03).double()
    change = rule.change(pre, post).flatten()
    error = float(change.std()) / math.sqrt(len(change))
    assert abs(float(change.mean())) < 4 * error
    ties = (pre * post).sum(0).flatten()  # post before pre: a tie is a depression alone, not a half of both
    one_sided = change - (rule.potentiation / 2 + rule.depression / 2) * ties
    assert float(one_sided.mean()) == pytest.approx(-1.5, abs=4 * 0.09)  # theory: -1.50
    assert abs(float(one_sided.mean())) > 8 * error


def test_along_a_nudged_phase_it_is_the_contrast_of_equilibrium_propagation():
    net, (x, y) = dense(), batch()
    relaxation, beta = Sweeps(600, 20), 0.1
    found, settled = gradient(net, x, y, SquaredError(), relaxation=relaxation, estimator=OneSided(beta))
    phase = Phase.of(sections(net), x)
    nudge = Nudge(SquaredError(), y, torch.full((len(x), 1), beta, dtype=torch.float64))
    states = [settled.state]
    with torch.no_grad():
        for _ in range(20):
            states.append(relaxation.run(Hopfield(), phase, 1, states[-1], nudge))
    layers = [torch.stack([x] * 21), *(torch.stack(layer) for layer in zip(*states, strict=True))]
    changes = []
    for pre, post in itertools.pairwise(layers):
        both = directed_change(pre, post) + directed_change(post, pre).T
        ends = post[-1].T @ pre[-1] - post[0].T @ pre[0]
        torch.testing.assert_close(both, ends, rtol=1e-12, atol=1e-12)
        changes.append(-both / (beta * len(x)))
    torch.testing.assert_close(flat(changes), flat([w for w, _ in found.values()]), rtol=1e-9, atol=1e-12)


def test_the_curve_of_bengio_et_al_emerges():
    wanted = [-0.485, -0.465, -0.445, -0.381, -0.243, -0.076, 0.079, 0.246, 0.391, 0.444, 0.460, 0.474]
    centres, means, errors = emergent_window(200_000, random=torch.Generator().manual_seed(0))
    assert centres.tolist() == [-55.0 + 10 * k for k in range(12)]
    for mean, error, value in zip(means.tolist(), errors.tolist(), wanted, strict=True):
        assert abs(mean - value) < 5 * error + 0.006  # the reference has errors of its own
    assert (means[:6] < 0).all() and (means[6:] > 0).all()


def test_the_window_can_be_read_off_the_changes_alone():
    """Nothing of its shape assumed: random trains, changes by the traces, and least squares find W and A-."""
    g, rule = torch.Generator().manual_seed(0), PairSTDP(8.0, 4.0)
    pre = (torch.rand(150, 10, 6, generator=g) < 0.1).double()
    post = (torch.rand(150, 10, 5, generator=g) < 0.1).double()
    pre[:, 0, 0] = 0  # a silent end has no pairs
    integral, left = rule.integral(pre, post)
    lags, found, unexplained = fitted_window(pre, post, integral, left, reach=50)
    torch.testing.assert_close(found, rule.window(lags.double()), rtol=0, atol=1e-3)
    assert unexplained < 1e-3
    other = PairSTDP(4.0, 8.0).integral(pre, post)
    assert not torch.allclose(fitted_window(pre, post, *other, reach=50)[1], found, atol=1e-2)
    with pytest.raises(ValueError, match="at least as many synapses"):
        fitted_window(pre[:, :1], post[:, :1], integral[:1], left[:1], reach=50)


def test_bad_constants_and_spikes_are_refused():
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="time constant in ms"):
            PairSTDP(wrong)
    with pytest.raises(ValueError, match="same time and batch"):
        PairSTDP().change(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="dt is the duration"):
        PairSTDP().integral(torch.zeros(3, 2), torch.zeros(3, 2), 0.0)

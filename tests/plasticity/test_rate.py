"""Rules of rates: fixed points, the first principal component, telescoping."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikecredit.plasticity import BCM, Oja, RateDerivative
from spikecredit.plasticity.engines import ENGINES, Stimulus
from spikecredit.plasticity.protocols import Experiment
from spikecredit.plasticity.rate import learn_linear, smoothed

RULES = [BCM(), Oja(), RateDerivative()]


def experiment(pre, post, duration=400.0):
    return Experiment({}, [{}], [np.array(pre)], [np.array(post)], duration)


def stimulus(rule, made, dt):
    return Stimulus(tuple(made.pre), tuple(made.post), made.duration, signals=rule.signals(made, dt), dt=dt)


def test_smoothed_rates_hold_one_spike_each():
    rates = smoothed([np.array([20.0, 50.0]), np.empty(0)], 1000.0, 0.1, 50.0)
    assert rates.shape == (10001, 2) and (rates[:, 1] == 0).all()
    assert rates[:, 0].sum() * 1e-4 == pytest.approx(2.0, rel=2e-3)
    assert rates[200, 0] == 20.0 and rates[300, 0] == pytest.approx(20 * math.exp(-10 / 50))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_engines_agree_on_rates_and_with_the_equation(rule):
    made = experiment([20.0, 50.0, 60.0, 200.0], [30.0, 55.0, 56.0, 180.0, 300.0])
    given_ = stimulus(rule, made, 1.0)
    found = {n: float(e()(rule.equations(), given_, dt=1.0).after[0, 0]) for n, e in ENGINES.items()}
    x, y = (s[:, 0] for s in rule.rates(made, 1.0))
    w, theta = 1.0, 10.0
    for k in range(len(x)):
        match rule:
            case BCM():
                change = 1e-5 * x[k] * y[k] * (y[k] - theta)
                theta += 1e-3 * (y[k] ** 2 / 10 - theta) / 1.0
            case Oja():
                change = 1e-4 * (x[k] * y[k] - y[k] ** 2 * w)
            case _:
                change = 1e-3 * x[k] * (y[k] - y[max(0, k - 1)]) / 1e-3
        w += 1e-3 * change
    assert w != 1.0
    for name, value in found.items():
        assert value == pytest.approx(w, abs=1e-9), name


# ---- BCM -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.3, 3.0])
def test_bcm_settles_at_the_rate_where_the_threshold_is_the_rate(start):
    rule = BCM(eta=4e-3, y_0=10.0, tau_theta=50.0, theta_0=5.0)  # eta x^2 y_0 tau = 0.2: theta is fast
    w, y = learn_linear(rule, torch.full((5000, 1), 10.0, dtype=torch.float64), torch.tensor([[start]]).double())
    assert float(y[-1]) == pytest.approx(10.0, rel=1e-6) and float(w) == pytest.approx(1.0, rel=1e-6)


def test_bcm_leaves_its_fixed_point_when_the_threshold_is_slow():
    """The border eta x^2 y_0 tau_theta = 1."""
    distance = {}
    for product in (0.5, 2.0):
        rule = BCM(eta=product / (100 * 10 * 0.1), y_0=10.0, tau_theta=100.0, theta_0=10.0)
        _, y = learn_linear(rule, torch.full((4000, 1), 10.0, dtype=torch.float64), torch.tensor([[1.02]]).double())
        distance[product] = float((y[-1000:] - 10).abs().max())
    assert distance[0.5] < 1e-3 and distance[2.0] > 1.0


def test_a_bcm_neuron_selects_one_of_two_orthogonal_patterns():
    """Two patterns in turn at random: the neuron ends with y = 2 y_0 for one and 0 for the other, either one."""
    rng = np.random.default_rng(0)
    patterns = torch.tensor([[20.0, 0.0], [0.0, 20.0]], dtype=torch.float64)
    inputs = patterns[torch.tensor(rng.integers(0, 2, 15000))]
    start = torch.tensor([[0.5, 0.45], [0.45, 0.5]], dtype=torch.float64)
    rule = BCM(eta=5e-4, y_0=10.0, tau_theta=100.0, theta_0=10.0)
    w, _ = learn_linear(rule, inputs, start)
    response = (w @ patterns.T).numpy()  # (neurons, patterns)
    np.testing.assert_allclose(response, [[20, 0], [0, 20]], atol=1.5)


# ---- Oja -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_oja_finds_the_first_eigenvector_with_length_one(sign):
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(6, 6)) * np.array([3.0, 1.0, 0.8, 0.5, 0.3, 0.2])
    moment = mix @ mix.T
    values, vectors = np.linalg.eigh(moment)
    first = vectors[:, -1]
    start = sign * 0.1 * first + 0.2 * vectors[:, -2]
    inputs = np.linalg.cholesky(moment).T * math.sqrt(6)  # six inputs whose mean of x x^T is that matrix
    w, _ = learn_linear(Oja(eta=2 / values[-1]), torch.tensor(np.tile(inputs, (1500, 1))), torch.tensor(start[None]))
    assert float(w.norm()) == pytest.approx(1.0, abs=1e-3)
    assert sign * float(w[0] @ torch.tensor(first)) == pytest.approx(1.0, abs=1e-3)


# ---- the derivative of the rate --------------------------------------------------------------------------------------


@given(path=st.lists(st.floats(-50, 50), min_size=2, max_size=40), x=st.floats(0.5, 40))
@settings(max_examples=40, deadline=None)
def test_constant_input_leaves_the_difference_of_the_ends_whatever_the_path(path, x):
    rule, y = RateDerivative(), np.array(path)
    signals = {"x": np.full((len(y), 1), x), "dy": (np.diff(y, prepend=y[0]) / 1e-3)[:, None]}
    made = ENGINES["reference"]()(
        rule.equations(), Stimulus((np.empty(0),), (np.empty(0),), len(y) - 1.0, signals=signals, dt=1.0), dt=1.0
    )
    assert float(made.after[0, 0]) - 1 == pytest.approx(1e-3 * x * (y[-1] - y[0]), abs=1e-12)


def test_a_pulse_before_a_bump_potentiates_and_one_after_it_depresses():
    times = np.arange(4001) * 0.1
    bump = 20 * np.exp(-(((times - 200) / 20) ** 2))
    found = {}
    for lag in (-60, -30, -15, 15, 30, 60):  # t_post - t_pre
        pulse = 40.0 * (np.abs(times - (200 - lag)) < 2.01)
        signals = {"x": pulse[:, None], "dy": (np.diff(bump, prepend=bump[0]) / 1e-4)[:, None]}
        given_ = Stimulus((np.empty(0),), (np.empty(0),), 400.0, signals=signals, dt=0.1)
        found[lag] = float(ENGINES["reference"]()(RateDerivative().equations(), given_, dt=0.1).after[0, 0]) - 1
    for lag, change in found.items():
        assert np.sign(change) == np.sign(lag)
        assert change == pytest.approx(-found[-lag], rel=0.05)  # a backward difference looks half a step back
    assert abs(found[15]) > abs(found[60])


def test_learn_linear_refuses_rules_of_other_signals():
    with pytest.raises(ValueError, match="delivers the signals x and y, but RateDerivative reads x, dy"):
        learn_linear(RateDerivative(), torch.ones(2, 1), torch.ones(1, 1))

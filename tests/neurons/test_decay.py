"""Decay factors: exact, positive under any optimiser, and not rounded with a network in half precision."""

import math

import pytest
import torch
from neuron_oracles import close

from spikecredit.neurons import LIF, LeakyReadout
from spikecredit.neurons.decay import Decay, Factor

TAUS = [3.0, 20.0, 250.0]


def test_a_fixed_scalar_is_a_python_number():
    decay = Decay(20.0, 0.5, False, None)
    assert decay() == math.exp(-0.5 / 20)
    assert decay.tau == 20.0
    assert not decay.state_dict()
    assert Decay(torch.tensor(20.0), 1.0, False, None)() == math.exp(-1 / 20)


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("shape", [None, (3,), (2, 3)])
def test_values(learn, shape):
    tau = 20.0 if shape is None else torch.tensor(TAUS)
    decay = Decay(tau, 2.0, learn, shape)
    expected = torch.as_tensor(tau, dtype=torch.float64).expand(shape or ())
    close(torch.as_tensor(decay.tau).detach(), expected, 1e-6)
    close(torch.as_tensor(decay()).detach(), torch.exp(-2.0 / expected), 1e-6)
    assert [p.shape for p in decay.parameters()] == ([torch.Size(shape or ())] if learn else [])
    assert list(decay.buffers()) == [] if learn or shape is None else [decay.taus]


def test_one_number_for_every_neuron():
    decay = Decay(7.0, 1.0, True, (2, 3))
    assert decay.log_tau.shape == (2, 3)
    with torch.no_grad():
        decay.log_tau[0, 0] = 0.0  # its own memory, not an expanded view
    assert float(decay.tau[1, 1].detach()) == pytest.approx(7.0)


def test_gradient_to_log_tau():
    # d exp(-dt / tau) / d log tau = beta dt / tau
    decay = Decay(torch.tensor(TAUS), 2.0, True, (3,)).double()
    (g,) = torch.autograd.grad(decay().sum(), decay.log_tau)
    tau = decay.tau.detach()
    close(g, torch.exp(-2 / tau) * 2 / tau)


@pytest.mark.parametrize("rate", [1e2, -1e2, 1e3])
@pytest.mark.parametrize("shape", [None, (3,)])
def test_stays_positive_and_finite_after_an_absurd_step(shape, rate):
    readout = LeakyReadout(learn_tau=True, shape=shape)
    decay = readout.decay
    optimizer = torch.optim.SGD(readout.parameters(), lr=abs(rate))
    for _ in range(3):
        optimizer.zero_grad()
        (math.copysign(1, rate) * readout(torch.full((5, 2, 3), 3.0)).mean()).backward()
        optimizer.step()
    assert (decay.log_tau - math.log(20.0)).abs().min() > 10
    assert (decay().detach() >= 0).all()
    assert (decay().detach() <= 1).all()
    assert decay.log_tau.grad.isfinite().all()
    assert decay.log_tau.isfinite().all()


@pytest.mark.parametrize("log_tau", [-1e4, -80.0, -50.0, 50.0, 80.0, 1e4])
def test_extreme_time_constants_have_a_gradient(log_tau):
    # tau^2 under- and overflows in float32 here: d exp(-dt / tau) must not become 0 * inf
    decay = Decay(20.0, 1.0, True, None)
    with torch.no_grad():
        decay.log_tau.fill_(log_tau)
    (g,) = torch.autograd.grad(decay(), decay.log_tau)
    assert decay.tau > 0
    assert g.isfinite()
    assert float(decay().detach()) == (1.0 if log_tau > 0 else 0.0)


@pytest.mark.parametrize("learn", [False, True])
def test_a_network_in_bfloat16_keeps_its_factors_in_float32(learn):
    # tau itself is rounded with the network (20 ms is 20 in bfloat16), but exp(-1 / 20) in bfloat16 would be off by
    # 2e-3, which is a time constant of 20.9 ms.
    tau = torch.tensor([16.0, 20.0, 64.0])
    neuron = LIF(tau, shape=(3,), learn_tau=learn).to(torch.bfloat16)
    beta = neuron.decay()
    assert beta.dtype == torch.float32
    rounded = torch.exp(neuron.decay.log_tau.float()) if learn else neuron.decay.taus.float()
    close(beta, torch.exp(-1 / rounded), 1e-6)
    x = torch.full((50, 2, 3), 0.125, dtype=torch.bfloat16)
    spikes = neuron(x)
    spikes.sum().backward() if learn else None
    assert spikes.dtype == torch.bfloat16
    assert not learn or neuron.decay.log_tau.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0]), torch.tensor([math.nan])])
@pytest.mark.parametrize("learn", [False, True])
def test_impossible_time_constants(tau, learn):
    shape = tuple(tau.shape) if isinstance(tau, torch.Tensor) else None
    with pytest.raises(ValueError, match=r"tau_x must be positive and finite .* got .*for no leak use tau_x=1e9"):
        Decay(tau, 1.0, learn, shape, "tau_x")


def test_no_leak():
    assert Decay(1e9, 1.0, False, None)() == pytest.approx(1.0, abs=1.1e-9)  # what the message above promises


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan])
def test_impossible_time_steps(dt):
    with pytest.raises(ValueError, match=r"dt must be a positive number of ms, got"):
        Decay(20.0, dt, False, None)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"tau has shape \(3,\), expected \(4,\)"):
        Decay(torch.tensor(TAUS), 1.0, False, (4,))
    with pytest.raises(ValueError, match=r"one value per neuron: write shape=\(3,\) too"):
        Decay(torch.tensor(TAUS), 1.0, True, None)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.95, 1.0, torch.tensor(0.9), torch.tensor([0.7])])
def test_a_factor_is_beta_itself(beta):
    factor = Factor(beta)
    assert factor() == float(beta) and isinstance(factor(), float)
    assert not factor.state_dict() and not list(factor.parameters())
    assert factor.tau == pytest.approx(-1 / math.log(float(beta)) if 0 < beta < 1 else float(beta and math.inf))


def test_a_factor_per_neuron_and_a_learned_one():
    values = torch.tensor([0.0, 0.25, 0.9, 1.0], dtype=torch.float64)
    fixed = Factor(values, dt=2.0)
    assert torch.equal(fixed(), values) and list(fixed.state_dict()) == ["beta"]
    close(fixed.tau[1:3], -2 / values[1:3].log())
    learned = Factor(torch.tensor([-0.5, 0.5, 1.5]), learn=True)
    assert torch.equal(learned().detach(), torch.tensor([0.0, 0.5, 1.0]))
    learned().sum().backward()
    assert torch.equal(learned.beta.grad, torch.tensor([0.0, 1.0, 0.0]))
    assert learned.beta.detach()[0] == -0.5  # clamped where it is used only
    assert Factor(0.5, learn=True)().shape == ()


@pytest.mark.parametrize("beta", [math.nan, math.inf, torch.tensor([1])])
def test_what_is_no_factor_is_refused(beta):
    with pytest.raises(ValueError, match="factor of one time step"):
        Factor(beta)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_neurons_run_on_a_factor(backend):
    x = 2 * torch.rand(9, 2, 3)
    for beta in (0.0, 0.37, 1.0, torch.tensor([0.1, 0.5, 0.99])):
        neuron = LIF(reset="none", backend=backend)
        neuron.decay = Factor(beta)
        u = torch.zeros(2, 3)
        for x_t, u_t in zip(x, neuron.run(x)[1], strict=True):
            u = u * beta + x_t
            assert torch.equal(u_t, u)

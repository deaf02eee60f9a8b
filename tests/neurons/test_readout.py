"""The leaky readout against its closed form u[t] = beta^(t+1) u0 + sum_k beta^(t-k) x[k]."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_oracles import close, randn

from spikecredit.neurons import LeakyReadout

T, B, N = 12, 2, 3


def closed_form(x, u0, beta):
    t = np.arange(len(x))
    kernel = np.where(t[:, None] >= t, np.power.outer(beta, t[:, None] - t.astype(float)), 0.0)  # (N, T, T)
    past = np.power.outer(beta, t + 1.0).T[:, None]  # (T, 1, N)
    return np.einsum("ntk,kbn->tbn", kernel, x) + past * u0


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("per_neuron", [False, True])
def test_equals_the_closed_form(learn, per_neuron):
    tau = torch.tensor([2.0, 8.0, 32.0]) if per_neuron else 7.0
    neuron = LeakyReadout(tau, learn, (N,) if per_neuron else None, dt=0.5).double()
    x, u0 = randn(T, B, N, seed=1), randn(B, N, seed=2)
    u, state = neuron.stream(x, u0)
    beta = np.exp(-0.5 / np.broadcast_to(np.asarray(tau, dtype=np.float64), (N,)))
    close(u.detach(), closed_form(x.numpy(), u0.numpy(), beta), 1e-6 if learn or per_neuron else 1e-13)
    assert torch.equal(state, u[-1])
    assert torch.equal(neuron(x), neuron.stream(x)[0])


@pytest.mark.parametrize("shape", [None, (N,)])
def test_gradcheck(shape):
    neuron = LeakyReadout(5.0, True, shape).double()
    x, u0 = randn(T, B, N, seed=1).requires_grad_(), randn(B, N, seed=2).requires_grad_()

    def run(x, u0, log_tau):
        return torch.func.functional_call(neuron, {"decay.log_tau": log_tau}, (x,)), neuron.stream(x, u0)[0]

    log_tau = neuron.decay.log_tau.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, u0, log_tau))


def test_gradient_is_the_reversed_filter():
    x = randn(T, B, N, seed=1).requires_grad_()
    beta = math.exp(-1 / 20)
    (g,) = torch.autograd.grad(LeakyReadout(20.0)(x).sum(), x)  # a gradient of zero stride
    expected = [sum(beta**k for k in range(T - t)) for t in range(T)]
    close(g, torch.tensor(expected, dtype=torch.float64)[:, None, None].expand(T, B, N))


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, 11)), seed=st.integers(0, 10**6), learn=st.booleans())
def test_streaming_is_equal_however_time_is_split(cuts, seed, learn):
    neuron = LeakyReadout(5.0, learn).double()
    x = randn(T, B, N, seed=seed).requires_grad_()
    whole, state = neuron.stream(x)
    parts, state2 = [], None
    for start, stop in pairwise([0, *sorted(cuts), T]):
        out, state2 = neuron.stream(x[start:stop], state2)
        parts.append(out)
    parts = torch.cat(parts)
    assert torch.equal(whole, parts)
    assert torch.equal(state, state2)
    g, leaves = randn(T, B, N, seed=seed + 1), [x, *neuron.parameters()]
    for got, expected in zip(
        torch.autograd.grad((parts * g).sum(), leaves), torch.autograd.grad((whole * g).sum(), leaves), strict=True
    ):
        close(got, expected)


def test_half_precision_is_summed_and_returned_in_float32():
    x = (0.01 + 0.01 * randn(500, 2, 3, seed=1)).bfloat16().requires_grad_()
    neuron = LeakyReadout(200.0)
    u, state = neuron.stream(x)
    assert u.dtype == state.dtype == torch.float32
    assert torch.equal(u, neuron(x.detach().float()))
    u.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_a_constant_input_may_have_time_stride_zero():
    image = randn(3, 4, seed=1).requires_grad_()
    x, g = image.expand(30, 3, 4), randn(30, 3, 4, seed=2)
    u, materialised = LeakyReadout()(x), LeakyReadout()(x.contiguous())
    assert torch.equal(u, materialised)
    close(torch.autograd.grad((u * g).sum(), image)[0], torch.autograd.grad((materialised * g).sum(), image)[0])


def test_a_module_holds_parameters_and_nothing_else():
    x = randn(T, B, N, seed=1, dtype=torch.float32)
    for neuron, keys in ((LeakyReadout(), []), (LeakyReadout(learn_tau=True), ["decay.log_tau"])):
        first = neuron(x)
        assert torch.equal(neuron(x), first)
        assert torch.equal(copy.deepcopy(neuron)(x), first)
        assert list(neuron.state_dict()) == keys
        assert not neuron.spiking
    assert not torch.equal(LeakyReadout(tau=5.0)(x), LeakyReadout()(x))
    assert torch.equal(LeakyReadout(dt=4.0)(x), LeakyReadout(tau=5.0)(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeakyReadout(tau=-1.0), r"tau must be positive and finite .* got -1\.0"),
        (lambda: LeakyReadout()(torch.zeros(3, 2, 2, dtype=torch.int32)), r"LeakyReadout takes a floating-point"),
        (lambda: LeakyReadout()(torch.zeros(0, 2, 2)), r"LeakyReadout takes input of shape \(T, B, \*N\) with T >= 1"),
        (
            lambda: LeakyReadout().stream(torch.zeros(3, 2, 2), torch.zeros(2, 1)),
            r"LeakyReadout: the state has .*\(2, 1\)",
        ),
    ],
)
def test_errors_say_what_was_given_and_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()

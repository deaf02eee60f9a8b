"""The adaptive LIF neuron against a NumPy oracle, the plain LIF, and the closed form of its threshold."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_oracles import RESETS, alif_oracle, close, mutant, randn, run_alif

from spikecredit.neurons import (
    ALIF,
    LIF,
    ALIFParameters,
    ALIFState,
    ArcTan,
    Triangle,
    alif_loop,
    alif_step,
)
from spikecredit.neurons.kernels import reference

T, B, N = 40, 2, 5


def sequence(x, state, p):
    return run_alif(x, state, p)


def check_forward(loop, reset, refractory):
    x, u0 = 0.5 + 0.6 * randn(T, B, N, seed=1), 0.5 + randn(B, N, seed=2)
    a0, r0 = randn(B, N, seed=3).abs(), (randn(B, N, seed=4) > 0).double()
    s, u, a = alif_oracle(x.numpy(), [v.numpy() for v in (u0, a0, r0)], 0.85, 0.9, 0.8, 0.4, reset, refractory)
    wait = torch.zeros(B, N, dtype=torch.int32) if refractory > 1 else None
    p = ALIFParameters(0.85, 0.9, 0.4, 0.8, reset, refractory=refractory)
    spikes, potentials, state = loop(x, ALIFState(u0, a0, r0, wait), p)
    close(spikes, s)
    close(potentials, u)
    close(state.a, a[-1])
    assert 0.05 < s.mean() < 0.95
    assert torch.equal(state.u, potentials[-1])


@pytest.mark.parametrize("loop", [alif_loop, sequence])
@pytest.mark.parametrize("refractory", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("reset", RESETS)
def test_equals_the_numpy_oracle(loop, reset, refractory):
    check_forward(loop, reset, refractory)


MUTANTS = {
    "the threshold sees this step's spike": ("a * p.rho + s, s)", "(a + s) * p.rho, s)", ("subtract", 0)),
    "reset by the raised threshold": (
        "new - r * p.threshold", "new - r * (p.threshold + p.adaptation * a)", ("subtract", 0)),
    "a pending reset is forgotten": ("torch.where(held, r, s), wait", "s, wait", ("subtract", 3)),
    "the adaptation stands still while refractory": (
        "ALIFState(new, a * p.rho + s, torch", "ALIFState(new, torch.where(held, a, a * p.rho + s), torch",
        ("none", 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_step_is_noticed(name):
    old, new, case = MUTANTS[name]
    with pytest.raises(AssertionError):
        check_forward(mutant(reference, old, new).alif_loop, *case)


@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("detach", [True, False])
def test_without_adaptation_it_is_the_plain_neuron(reset, refractory, detach):
    x = (0.2 + 0.5 * randn(T, B, N, seed=1, dtype=torch.float32)).requires_grad_()
    alif = ALIF(9.0, adaptation=0.0, reset=reset, refractory=refractory, surrogate=ArcTan(), detach_reset=detach)
    plain = LIF(9.0, reset=reset, refractory=refractory, surrogate=ArcTan(), detach_reset=detach)
    (s, u, _), (s2, u2, _) = alif.run(x), plain.run(x)
    assert torch.equal(s, s2)
    assert torch.equal(u, u2)
    assert s.sum() > 5
    g, h = randn(T, B, N, seed=3), randn(T, B, N, seed=4)
    ours, other = (torch.autograd.grad((a * g + b * h).sum(), x)[0] for a, b in ((s, u), (s2, u2)))
    # the two add the same terms in another order
    close(ours, other, 1e-5)


@pytest.mark.parametrize("refractory", [0, 4])
def test_adaptation_after_n_spikes_is_a_geometric_sum(refractory):
    # A current that always fires: a after n spikes k steps apart is rho^(k-1) (1 + rho^k + ... ), and the threshold
    # theta + b a is what the potential meets.
    period, n = max(1, refractory), 6
    neuron = ALIF(tau_adaptation=50.0, adaptation=0.3, refractory=refractory).double()
    rho = math.exp(-1 / 50)
    s, _, state = neuron.run(torch.full((n * period, 1, 1), 50.0, dtype=torch.float64))
    assert s.sum() == n
    close(state.a.flatten(), [rho ** (period - 1) * sum(rho ** (k * period) for k in range(n))])
    # with no leak of a after the last spike, a potential just above or below the threshold decides
    threshold = 1.0 + 0.3 * float(state.a)
    for margin, fires in ((1e-9, 1), (-1e-9, 0)):
        start = ALIFState(torch.zeros(1, 1, dtype=torch.float64), state.a, torch.zeros(1, 1, dtype=torch.float64))
        spike, _ = neuron.stream(torch.full((1, 1, 1), threshold + margin, dtype=torch.float64), start)
        assert spike.item() == fires


def test_adaptation_lowers_the_rate_over_time():
    s = ALIF(adaptation=0.5)(torch.full((400, 1, 1), 0.3)).flatten()
    assert s[:50].sum() > 2 * s[-50:].sum() > 0


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("shape", [None, (N,)])
@pytest.mark.parametrize("refractory", [0, 3])
def test_module_equals_the_oracle_and_the_loop(learn, shape, refractory):
    tau, slow = (9.0, 60.0) if shape is None else (torch.linspace(3, 20, N), torch.linspace(40, 300, N))
    neuron = ALIF(
        tau, slow, 0.3, 0.8, refractory=refractory, learn_tau=learn, shape=shape, detach_reset=False, dt=0.5
    ).double()
    x = (0.3 + 0.5 * randn(T, B, N, seed=1)).requires_grad_()
    s, u, state = neuron.run(x)
    rest = np.zeros((B, N))
    beta, rho = (np.exp(-0.5 / np.asarray(v, dtype=np.float64)) for v in (tau, slow))
    expected = alif_oracle(x.detach().numpy(), (rest, rest, rest), beta, rho, 0.8, 0.3, "subtract", refractory)
    tolerance = 1e-12 if not learn and shape is None else 1e-5  # float32 holds those time constants
    close(s, expected[0])
    close(u.detach(), expected[1], tolerance)
    close(state.a.detach(), expected[2][-1], tolerance)

    wait = torch.zeros(B, N, dtype=torch.int32) if refractory else None
    zeros = torch.zeros(B, N, dtype=torch.float64)
    s2, u2, state2 = alif_loop(x, ALIFState(zeros, zeros, zeros, wait), neuron.parameters_now())
    assert torch.equal(s, s2)
    assert torch.equal(u, u2)
    assert torch.equal(state.a, state2.a)
    leaves, seeds = [x, *neuron.parameters()], [randn(T, B, N, seed=3), randn(T, B, N, seed=4)]
    assert len(leaves) == (3 if learn else 1)
    for got, other in zip(
        torch.autograd.grad([s, u], leaves, seeds), torch.autograd.grad([s2, u2], leaves, seeds), strict=True
    ):
        close(got, other)


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 19)),
    reset=st.sampled_from(RESETS),
    refractory=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    detach=st.booleans(),
)
def test_streaming_is_equal_however_time_is_split(cuts, reset, refractory, seed, detach):
    neuron = ALIF(5.0, 30.0, 0.4, reset=reset, refractory=refractory, learn_tau=True, detach_reset=detach).double()
    x = (0.4 + 0.6 * randn(20, 2, 3, seed=seed)).requires_grad_()
    whole, state = neuron.stream(x)
    parts, state2 = [], None
    for start, stop in pairwise([0, *sorted(cuts), 20]):
        out, state2 = neuron.stream(x[start:stop], state2)
        parts.append(out)
    parts = torch.cat(parts)
    assert torch.equal(whole, parts)
    for field, other in zip(state, state2, strict=True):
        assert (field is None and other is None) or torch.equal(field, other)
    g, leaves = randn(20, 2, 3, seed=seed + 1), [x, *neuron.parameters()]
    ours = torch.autograd.grad((parts * g).sum() + (state2.u + 2 * state2.a).sum(), leaves)
    expected = torch.autograd.grad((whole * g).sum() + (state.u + 2 * state.a).sum(), leaves)
    for got, other in zip(ours, expected, strict=True):
        close(got, other)


def test_half_precision_keeps_its_state_in_float32():
    x = (0.1 + 0.1 * randn(300, 2, 8, seed=1)).bfloat16()
    neuron = ALIF(50.0)
    s, state = neuron.stream(x)
    whole, state2 = neuron.stream(x.float())
    assert s.dtype == torch.bfloat16
    assert state.u.dtype == state.a.dtype == state.r.dtype == torch.float32
    assert torch.equal(s.float(), whole)
    assert torch.equal(state.a, state2.a)
    assert s.sum() > 50
    halves = neuron.stream(x[150:], neuron.stream(x[:150])[1])[0]
    assert torch.equal(halves, s[150:])


def test_a_constant_input_may_have_time_stride_zero():
    image = (0.4 * randn(3, 4, seed=1).abs()).requires_grad_()
    neuron = ALIF()
    x = image.expand(30, 3, 4)
    s, materialised = neuron(x), neuron(x.contiguous())
    assert torch.equal(s, materialised)
    assert s.sum() > 5
    g = randn(30, 3, 4, seed=2)
    close(torch.autograd.grad((s * g).sum(), image)[0], torch.autograd.grad((materialised * g).sum(), image)[0])


CHANGES = {
    "tau": 5.0, "tau_adaptation": 20.0, "adaptation": 0.5, "threshold": 0.7, "reset": "zero",
    "surrogate": Triangle(0.5), "refractory": 3, "detach_reset": False, "dt": 3.0,
}  # fmt: skip


def trace(neuron, x):
    x = x.clone().requires_grad_()
    s, u, _ = neuron.run(x)
    return torch.cat([s, u, torch.autograd.grad(s.sum(), x)[0]])


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_counts(name):
    x = 0.3 + 0.4 * randn(30, 2, 3, seed=1)
    assert not torch.equal(trace(ALIF(**{name: CHANGES[name]}), x), trace(ALIF(), x))


def test_a_module_holds_parameters_and_nothing_else():
    x = 0.4 + 0.5 * randn(20, 2, 3, seed=1, dtype=torch.float32)
    for neuron, keys in (
        (ALIF(refractory=2), []),
        (ALIF(learn_tau=True), ["decay.log_tau", "decay_adaptation.log_tau"]),
    ):
        first = neuron(x)
        assert torch.equal(neuron(x), first)
        assert torch.equal(copy.deepcopy(neuron)(x), first)
        assert list(neuron.state_dict()) == keys
        fresh = copy.deepcopy(neuron)
        fresh.load_state_dict(neuron.state_dict())
        assert torch.equal(fresh(x), first)


def test_a_pure_step_with_a_refractory_period_starts_free():
    x, zero = torch.full((9, 1, 1), 9.0), torch.zeros(1, 1)
    p, start = ALIFParameters(0.9, 0.9, refractory=3), ALIFState(zero, zero, zero)
    for spikes in (alif_loop(x, start, p)[0], sequence(x, start, p)[0], ALIF(refractory=3).run(x, start)[0]):
        assert spikes.flatten().tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]


X, Z = torch.zeros(4, 2, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ALIF(reset="soft"), r"reset must be one of 'subtract', 'zero', 'none', got 'soft'"),
        (lambda: ALIF(refractory=-1), r"refractory is a whole number of steps >= 0, got -1"),
        (lambda: ALIF(threshold=-1.0), r"threshold must be positive.* got -1\.0"),
        (lambda: ALIF(threshold=math.inf), r"threshold must be positive and finite, got inf"),
        (lambda: ALIF(adaptation=-0.1), r"adaptation must be >= 0 \(0 is the plain LIF\).*, got -0\.1"),
        (lambda: ALIF(adaptation=math.nan), r"adaptation must be >= 0 .* got nan"),
        (lambda: ALIF(adaptation=math.inf), r"adaptation must be >= 0 .* got inf"),
        (lambda: ALIF(tau_adaptation=-3.0), r"tau_adaptation must be positive and finite .* got -3\.0"),
        (lambda: ALIF()(X.int()), r"ALIF takes a floating-point current, got torch\.int32"),
        (lambda: ALIF()(X[:0]), r"ALIF takes input of shape \(T, B, \*N\) with T >= 1"),
        # an adaptation or a reset of one row would otherwise be broadcast over the batch
        (lambda: ALIF().stream(X, ALIFState(Z, Z[:1], Z)), r"ALIF: the state has shape \(1, 3\), .* needs \(2, 3\)"),
        (lambda: ALIF().stream(X, ALIFState(Z, Z, Z[:1])), r"ALIF: the state has shape \(1, 3\), .* needs \(2, 3\)"),
        (lambda: ALIF().stream(X, ALIFState(Z[:1], Z, Z)), r"ALIF: the state has shape \(1, 3\), .* needs \(2, 3\)"),
        (
            lambda: alif_step(X[0], ALIFState(Z[:1], Z, Z), ALIFParameters(0.9, 0.9)),
            r"x has shape \(2, 3\) but .* \(1, 3\)",
        ),
    ],
)
def test_errors_say_what_was_given_and_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()

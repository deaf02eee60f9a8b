"""The LIF neuron against a NumPy oracle, snnTorch, and its own contract (streaming, dtypes, errors, no state)."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_oracles import FORMULAS, RESETS, close, lif_oracle, mutant, randn, run_lif, uncompiled
from torch import nn

from spikecredit.neurons import LIF, ArcTan, FastSigmoid, LIFParameters, LIFState, Sigmoid, lif_loop, lif_step
from spikecredit.neurons.kernels import backends, reference

REFRACTORY = (0, 1, 2, 3, 4)
T, B, N = 40, 2, 5


def check_forward(loop, reset, refractory):
    """loop(x, state, p) -> spikes, potentials, ...; compared with NumPy, from initial potentials around theta."""
    # multiples of 1/8 and beta = 1/2 are exact, so that potentials meet the threshold itself and `>` is told from `>=`
    x = (randn(T, B, N, seed=1) * 6).round() / 8 + 0.5
    u0 = (randn(B, N, seed=2) * 8).round() / 8 + 0.75
    x[0], u0[0] = 0.5, 0.0
    x[1, 0] = 0.5  # u = 3/4 = theta at the second step
    for beta, theta in ((0.5, 0.75), (0.9, 1.0)):
        s, u = lif_oracle(x.numpy(), u0.numpy(), beta, theta, reset, refractory)
        wait = torch.zeros(B, N, dtype=torch.int32) if refractory > 1 else None
        p = LIFParameters(beta, theta, reset, refractory=refractory)
        spikes, potentials, *_ = loop(x, LIFState(u0, wait), p)
        close(spikes, s)
        close(potentials, u)
        assert 0.05 < s.mean() < 0.95


def sequence(x, state, p):
    return run_lif(x, state, p)


@pytest.mark.parametrize("loop", [lif_loop, sequence])
@pytest.mark.parametrize("refractory", REFRACTORY)
@pytest.mark.parametrize("reset", RESETS)
def test_equals_the_numpy_oracle(loop, reset, refractory):
    check_forward(loop, reset, refractory)


STEP_MUTANTS = {
    "reset before the decay": (
        "new = u * p.beta + x\n        if p.reset == \"subtract\":\n            new = new - r * p.threshold",
        "new = (u - r * p.threshold) * p.beta + x if p.reset == \"subtract\" else u * p.beta + x",
        ("subtract", 0),
    ),
    "no (1 - r) in reset to zero": ("(1 - r) * u * p.beta + x", "u * p.beta + x", ("zero", 0)),
    "one refractory step too many": ("p.refractory - 1, (wait", "p.refractory, (wait", ("subtract", 3)),
    "the potential leaks while refractory": (
        "torch.where(held, u, new)", "torch.where(held, u * p.beta, new)", ("none", 3)),
}  # fmt: skip
SEQUENCE_MUTANTS = {
    ">= instead of >": ("np.where(u > theta, 0x3F80", "np.where(u >= theta, 0x3F80", ("none", 0)),
    ">= instead of > in the reset": ("r = np.where(u > theta", "r = np.where(u >= theta", ("subtract", 0)),
    "a held neuron forgets its reset": ("r[j] = r[j] if wait[j] > nil else s[j]", "r[j] = s[j]", ("subtract", 3)),
    "no (1 - r) in reset to zero": ("kept = (one - r) * u if zero else u", "kept = u", ("zero", 0)),
    "... of a neuron with a refractory period": (
        "(one - r[j]) * u[j] * at(beta, j)",
        "u[j] * at(beta, j)",
        ("zero", 3),
    ),
    "the potential leaks while refractory": ("u[j] = u[j] if wait[j] > nil else v", "u[j] = v", ("none", 3)),
}


@pytest.mark.parametrize("name", STEP_MUTANTS)
def test_a_wrong_step_is_noticed(name):
    old, new, case = STEP_MUTANTS[name]
    with pytest.raises(AssertionError):
        check_forward(mutant(reference, old, new).lif_loop, *case)


@pytest.mark.parametrize("name", SEQUENCE_MUTANTS)
def test_a_wrong_sequence_is_noticed(name, monkeypatch):
    old, new, case = SEQUENCE_MUTANTS[name]
    check_forward(sequence, *case)
    monkeypatch.setattr(backends, "module", lambda backend: uncompiled(old, new))
    with pytest.raises(AssertionError):
        check_forward(sequence, *case)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("refractory", REFRACTORY)
def test_interval_between_spikes_is_the_refractory_period(reset, refractory):
    # a current that fires a free neuron at every step
    spikes = LIF(reset=reset, refractory=refractory)(torch.full((25, 1, 1), 5.0)).flatten()
    assert set(spikes.nonzero().flatten().diff().tolist()) == {max(1, refractory)}
    assert spikes[0] == 1


def test_input_of_the_refractory_steps_is_lost_and_the_potential_held():
    x = torch.zeros(6, 1, 1)
    x[0], x[1], x[2] = 1.5, 9.0, -9.0
    neuron = LIF(tau=20.0, refractory=3)
    s, u, _ = neuron.run(x)
    beta = math.exp(-1 / 20)
    after = 1.5 * beta - 1
    assert s.flatten().tolist() == [1, 0, 0, 0, 0, 0]
    close(u.flatten(), [1.5, 1.5, 1.5, after, after * beta, after * beta**2], 1e-6)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("tau", [7.0, torch.linspace(2.0, 30.0, N)], ids=["layer", "neuron"])
def test_module_equals_the_oracle_and_the_loop(reset, refractory, learn, tau):
    shape = (N,) if isinstance(tau, torch.Tensor) else None
    neuron = LIF(
        tau, 0.8, reset, refractory=refractory, learn_tau=learn, shape=shape, detach_reset=False, dt=0.5
    ).double()
    x = (0.3 + 0.5 * randn(T, B, N, seed=1)).requires_grad_()
    u0 = randn(B, N, seed=2).requires_grad_()
    s, u, state = neuron.run(x, LIFState(u0))
    # float32 holds the time constants of a learned or per-neuron tau, and log tau once more rounds
    beta = np.exp(-0.5 / np.asarray(tau, dtype=np.float64))
    expected = lif_oracle(x.detach().numpy(), u0.detach().numpy(), beta, 0.8, reset, refractory)
    close(s, expected[0])
    close(u.detach(), expected[1], 1e-12 if not learn and shape is None else 1e-6)
    assert torch.equal(state.u, u[-1])
    assert (state.wait is None) == (refractory == 0)

    leaves = [x, u0, *neuron.parameters()]
    wait = torch.zeros(B, N, dtype=torch.int32) if refractory else None
    s2, u2, _ = lif_loop(x, LIFState(u0, wait), neuron.parameters_now())
    assert torch.equal(s, s2)
    assert torch.equal(u, u2)
    seeds = [randn(T, B, N, seed=3), randn(T, B, N, seed=4)]
    for got, other in zip(
        torch.autograd.grad([s, u], leaves, seeds), torch.autograd.grad([s2, u2], leaves, seeds), strict=True
    ):
        close(got, other)


def split(neuron, x, cuts, state=None):
    outputs = []
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        out, state = neuron.stream(x[start:stop], state)
        outputs.append(out)
    return torch.cat(outputs), state


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 19)),
    reset=st.sampled_from(RESETS),
    refractory=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    detach=st.booleans(),
)
def test_streaming_is_equal_however_time_is_split(cuts, reset, refractory, seed, detach):
    neuron = LIF(5.0, reset=reset, refractory=refractory, learn_tau=True, detach_reset=detach).double()
    x = (0.3 + 0.6 * randn(20, 2, 3, seed=seed)).requires_grad_()
    whole, state = neuron.stream(x)
    parts, state2 = split(neuron, x, sorted(cuts))
    assert torch.equal(whole, parts)
    assert torch.equal(state.u, state2.u)
    assert torch.equal(whole, neuron(x))
    assert state.wait is None if refractory <= 1 else torch.equal(state.wait, state2.wait)
    g, leaves = randn(20, 2, 3, seed=seed + 1), [x, *neuron.parameters()]
    ours = torch.autograd.grad((parts * g).sum() + state2.u.sum(), leaves)
    for got, expected in zip(ours, torch.autograd.grad((whole * g).sum() + state.u.sum(), leaves), strict=True):
        close(got, expected)


def theirs(layer, currents):
    """snnTorch's loop over time, from rest."""
    mem, spikes, potentials = torch.zeros_like(currents[0]), [], []
    for current in currents:
        s, mem = layer(current, mem)
        spikes.append(s)
        potentials.append(mem)
    return torch.stack(spikes), torch.stack(potentials)


# a slope of 4: snnTorch multiplies by it in the float32 of its gradient, which is exact for a power of two
SNNTORCH = [(FastSigmoid(25.0), "fast_sigmoid", 25), (ArcTan(2.0), "atan", 2.0), (Sigmoid(4.0), "sigmoid", 4)]


@pytest.mark.parametrize(("surrogate", "name", "value"), SNNTORCH, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("reset", RESETS)
def test_equals_snntorchs_leaky_in_float64(reset, surrogate, name, value):
    snn = pytest.importorskip("snntorch", reason="snntorch is not installed")
    neuron = LIF(8.0, 1.0, reset, surrogate)
    beta = torch.tensor(math.exp(-1 / 8), dtype=torch.float64)  # a plain number would become float32 there
    layer = snn.Leaky(beta, spike_grad=getattr(snn.surrogate, name)(value), reset_mechanism=reset)
    x = (0.2 + 0.5 * randn(60, 3, 4, seed=1)).requires_grad_()
    s, u, _ = neuron.run(x)
    s2, u2 = theirs(layer, x)
    assert torch.equal(s, s2.double())
    assert torch.equal(u, u2)
    assert 0.05 < s.mean() < 0.9
    g, h = randn(60, 3, 4, seed=2).float(), randn(60, 3, 4, seed=3)  # its spikes are float32, so is their gradient
    (ours,) = torch.autograd.grad((s * g.double()).sum() + (u * h).sum(), x)
    (other,) = torch.autograd.grad((s2 * g).sum() + (u2 * h).sum(), x)
    close(ours, other)


@pytest.mark.parametrize("reset", RESETS)
def test_a_network_equals_snntorchs_in_float32(reset):
    snn = pytest.importorskip("snntorch", reason="snntorch is not installed")
    beta = math.exp(-1 / 20)
    torch.manual_seed(0)
    first, second = nn.Linear(12, 30), nn.Linear(30, 4)
    with torch.no_grad():
        second.weight.mul_(3)
    weights = [*first.parameters(), *second.parameters()]
    layers = [
        snn.Leaky(beta, spike_grad=snn.surrogate.fast_sigmoid(25), reset_mechanism=reset, threshold=0.5)
        for _ in range(2)
    ]
    neurons = [LIF(20.0, 0.5, reset, FastSigmoid(25.0)) for _ in range(2)]
    x = randn(40, 6, 12, seed=1, dtype=torch.float32) / 3
    # a matrix product over (T B) rows rounds otherwise than one over B: each step has its own, on both sides
    each = lambda layer, steps: torch.stack([layer(step) for step in steps])  # noqa: E731
    hidden, hidden2 = neurons[0](each(first, x)), theirs(layers[0], each(first, x))[0]
    out, u, _ = neurons[1].run(each(second, hidden))
    out2, u2 = theirs(layers[1], each(second, hidden2))
    assert torch.equal(hidden, hidden2)
    assert torch.equal(out, out2)
    assert torch.equal(u, u2)
    assert 0.05 < hidden.mean() < 0.9
    assert 0.05 < out.mean() < 0.9
    target = torch.arange(6) % 4
    ours = torch.autograd.grad(nn.functional.cross_entropy(out.mean(0) + u.mean(0), target), weights)
    other = torch.autograd.grad(nn.functional.cross_entropy(out2.mean(0) + u2.mean(0), target), weights)
    for got, expected in zip(ours, other, strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_state_in_float32(dtype):
    x = (0.06 + 0.1 * randn(500, 2, 8, seed=1)).to(dtype).requires_grad_()
    neuron = LIF(50.0)
    s, state = neuron.stream(x)
    whole = neuron.stream(x.detach().float())
    assert s.dtype == dtype
    assert state.u.dtype == torch.float32
    assert torch.equal(s.float(), whole[0])
    assert torch.equal(state.u, whole[1].u)
    assert s.sum() > 50
    s.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()
    # what this guards against: a state in half precision drifts away
    drifting, _, _ = lif_loop(x.detach(), LIFState(torch.zeros(2, 8, dtype=dtype)), neuron.parameters_now())
    assert not torch.equal(drifting, s)


@pytest.mark.parametrize("refractory", [0, 3])
def test_a_constant_input_may_have_time_stride_zero(refractory):
    image = (0.3 * randn(3, 4, seed=1).abs()).requires_grad_()
    neuron = LIF(refractory=refractory)
    x = image.expand(30, 3, 4)
    assert x.stride(0) == 0
    s, materialised = neuron(x), neuron(x.contiguous())
    assert torch.equal(s, materialised)
    assert s.sum() > 5
    assert s.is_contiguous()
    g = randn(30, 3, 4, seed=2)
    close(torch.autograd.grad((s * g).sum(), image)[0], torch.autograd.grad((materialised * g).sum(), image)[0])
    with torch.no_grad():
        before = image.clone()
        neuron(x)
        assert torch.equal(image, before)  # the kernel writes in place, never into its input


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_any_feature_shape(shape):
    x = 0.3 + 0.5 * randn(15, 2, *shape, seed=1)
    assert torch.equal(LIF()(x), LIF()(x.reshape(15, 2, -1)).reshape(x.shape))
    mixed = x.transpose(0, 1).contiguous().transpose(0, 1)  # (T, B, *N), batch first in memory
    assert not mixed.is_contiguous()
    assert torch.equal(LIF()(mixed), LIF()(x))


# One value that differs from the default for every argument of the constructor: none of them is dead.
CHANGES = {
    "tau": 5.0, "threshold": 0.7, "reset": "zero", "surrogate": ArcTan(), "refractory": 3,
    "detach_reset": False, "dt": 3.0,
}  # fmt: skip


def trace(neuron, x):
    x = x.clone().requires_grad_()
    s, u, _ = neuron.run(x)
    return torch.cat([s, u, torch.autograd.grad(s.sum(), x)[0]])


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_counts(name):
    x = 0.2 + 0.3 * randn(30, 2, 3, seed=1)
    assert not torch.equal(trace(LIF(**{name: CHANGES[name]}), x), trace(LIF(), x))


def test_a_module_holds_parameters_and_nothing_else():
    x = 0.3 + 0.5 * randn(20, 2, 3, seed=1, dtype=torch.float32)
    for neuron, keys in (
        (LIF(refractory=2), []),
        (LIF(learn_tau=True), ["decay.log_tau"]),
        (LIF(torch.tensor([3.0, 9.0, 20.0]), shape=(3,), learn_tau=True), ["decay.log_tau"]),
        (LIF(torch.tensor([3.0, 9.0, 20.0]), shape=(3,)), ["decay.taus"]),
    ):
        first = neuron(x)
        assert torch.equal(neuron(x), first)
        assert torch.equal(copy.deepcopy(neuron)(x), first)
        assert list(neuron.state_dict()) == keys
        fresh = copy.deepcopy(neuron)
        for value in fresh.state_dict().values():
            value.mul_(0.3)
        assert not keys or not torch.equal(fresh(x), first)
        fresh.load_state_dict(neuron.state_dict())
        assert torch.equal(fresh(x), first)


def test_a_pure_step_with_a_refractory_period_starts_free():
    # LIFState(u) alone means that nothing is left to wait, not that there is no refractory period
    x = torch.full((9, 1, 1), 5.0)
    p = LIFParameters(0.9, refractory=3)
    start = LIFState(torch.zeros(1, 1))
    for spikes in (lif_loop(x, start, p)[0], run_lif(x, start, p)[0], LIF(refractory=3).run(x, start)[0]):
        assert spikes.flatten().tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]


X = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LIF(reset="soft"), r"reset must be one of 'subtract', 'zero', 'none', got 'soft'"),
        (lambda: LIF(refractory=-1), r"refractory is a whole number of steps >= 0, got -1"),
        (lambda: LIF(refractory=2.0), r"refractory is a whole number of steps >= 0, got 2\.0"),
        (lambda: LIF(refractory=True), r"refractory .* got True"),
        (lambda: LIF(threshold=0.0), r"threshold must be positive.* got 0\.0"),
        (lambda: LIF(threshold=math.nan), r"threshold must be positive.* got nan"),
        (lambda: LIF(threshold=math.inf), r"threshold must be positive and finite, got inf.*LeakyReadout"),
        (lambda: LIF(tau=0.0), r"tau must be positive and finite .* got 0\.0"),
        (lambda: LIF(dt=0.0), r"dt must be a positive number of ms, got 0\.0"),
        (lambda: LIF(torch.ones(3)), r"write shape=\(3,\) too"),
        (lambda: LIF()(X.long()), r"LIF takes a floating-point current, got torch\.int64; write x\.float\(\)"),
        (lambda: LIF()(X[:0]), r"LIF takes input of shape \(T, B, \*N\) with T >= 1, got \(0, 2, 3\)"),
        (lambda: LIF()(X[0, 0]), r"LIF takes input of shape \(T, B, \*N\) with T >= 1, got \(3,\)"),
        (lambda: LIF().stream(X, LIFState(X[0], torch.zeros(1, 3))), r"LIF: the state has shape \(1, 3\), .* \(2, 3\)"),
        (lambda: LIF().stream(X, LIFState(torch.zeros(2, 4))), r"LIF: the state has shape \(2, 4\), .* needs \(2, 3\)"),
        (
            lambda: lif_step(X[0], LIFState(torch.zeros(2, 1)), LIFParameters(0.9)),
            r"x has shape \(2, 3\) but .* \(2, 1\)",
        ),
    ],
)
def test_errors_say_what_was_given_and_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()


small = {"max_examples": 25, "deadline": None}


@settings(**small)
@given(seed=st.integers(0, 10**6), scale=st.floats(0, 100), reset=st.sampled_from(RESETS), refractory=st.integers(0, 4))
def test_spikes_are_zero_or_one(seed, scale, reset, refractory):
    s, u, _ = LIF(reset=reset, refractory=refractory).run(scale * randn(15, 2, 3, seed=seed, dtype=torch.float32))
    assert set(s.unique().tolist()) <= {0.0, 1.0}
    assert u.isfinite().all()
    assert torch.equal(s > 0, (u > 1.0) & (s > 0))  # never a spike below the threshold
    if refractory > 1:  # never two within the period
        assert s.unfold(0, refractory, 1).sum(-1).max() <= 1


@settings(**small)
@given(seed=st.integers(0, 10**6), reset=st.sampled_from(RESETS), refractory=st.integers(0, 3))
def test_below_the_threshold_potentials_superpose(seed, reset, refractory):
    beta = math.exp(-1 / 20)
    # |x| <= (1 - beta) / 2 each: the potential of the sum stays below 1
    x, y = (torch.rand(2, 60, 2, 3, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1) * (1 - beta) / 2.01
    neuron = LIF(20.0, reset=reset, refractory=refractory)
    (s, u, _), (_, ux, _), (_, uy, _) = neuron.run(x + y), neuron.run(x), neuron.run(y)
    assert s.sum() == 0
    close(u, ux + uy)


@settings(**small)
@given(tau=st.floats(1.0, 100.0), reset=st.sampled_from(["subtract", "zero"]), refractory=st.integers(0, 4))
def test_more_current_more_spikes(tau, reset, refractory):
    currents = torch.linspace(0, 3, 120, dtype=torch.float64)[None]
    counts = LIF(tau, reset=reset, refractory=refractory)(currents.expand(100, 1, 120)).sum(0)[0]
    # From zero the time to the next spike only shrinks. With subtraction the long-run rate is monotone (a contracting
    # map of the circle), and a finite count differs from it by its last spike.
    assert (counts.diff() >= (0 if reset == "zero" else -1)).all()
    assert counts[0] == 0
    assert counts[-1] >= 100 / max(1, refractory) - 1


def test_parameters_reach_the_surrogate_of_every_formula():
    # LIF passes its surrogate on: the gradient of one step is the formula itself
    x = randn(1, 1, 9, seed=3).requires_grad_()
    for surrogate, formula in FORMULAS.items():
        (g,) = torch.autograd.grad(LIF(surrogate=surrogate)(x).sum(), x)
        close(g, formula(x.detach().numpy() - 1))

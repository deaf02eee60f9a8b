"""The current-based LIF neuron: a leaky current before the LIF equations; snnTorch's `Synaptic`."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_oracles import RESETS, close, lif_oracle, randn

from spikecredit.neurons import ArcTan, CurrentLIF, CurrentLIFState, FastSigmoid, LIFState

T, B, N = 40, 2, 5


@pytest.mark.parametrize("refractory", [0, 1, 3])
@pytest.mark.parametrize("reset", RESETS)
def test_equals_the_numpy_oracle(reset, refractory):
    x = (0.1 + 0.3 * randn(T, B, N, seed=1)).numpy()
    alpha, beta = math.exp(-0.5 / 4.0), math.exp(-0.5 / 9.0)
    # the current in closed form: i[t] = sum_k alpha^(t-k) x[k]
    current = sum_over_past(alpha, x)
    s, u = lif_oracle(current, x[0] * 0, beta, 0.8, reset, refractory)
    neuron = CurrentLIF(9.0, 4.0, 0.8, reset, refractory=refractory, dt=0.5)
    spikes, potentials, state = neuron.run(torch.from_numpy(x))
    close(spikes, s)
    close(potentials, u)
    close(state.i, current[-1])
    assert 0.05 < s.mean() < 0.9


def sum_over_past(alpha, x):
    t = torch.arange(len(x), dtype=torch.float64)
    kernel = torch.where(t[:, None] >= t, alpha ** (t[:, None] - t), 0.0)
    return torch.einsum("tk,kbn->tbn", kernel, torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(
    ("surrogate", "name", "value"),
    [(FastSigmoid(25.0), "fast_sigmoid", 25), (ArcTan(2.0), "atan", 2.0)],
    ids=["fast", "atan"],
)
def test_equals_snntorchs_synaptic(reset, surrogate, name, value):
    snn = pytest.importorskip("snntorch", reason="snntorch is not installed")
    alpha, beta = (torch.tensor(math.exp(-1 / tau), dtype=torch.float64) for tau in (5.0, 20.0))
    layer = snn.Synaptic(alpha, beta, spike_grad=getattr(snn.surrogate, name)(value), reset_mechanism=reset)
    x = (0.1 + 0.3 * randn(T, B, N, seed=1)).requires_grad_()
    syn, mem, spikes, potentials = torch.zeros_like(x[0]), torch.zeros_like(x[0]), [], []
    for current in x:
        s, syn, mem = layer(current, syn, mem)
        spikes.append(s)
        potentials.append(mem)
    s2, u2 = torch.stack(spikes), torch.stack(potentials)
    s, u, _ = CurrentLIF(20.0, 5.0, reset=reset, surrogate=surrogate).run(x)
    if reset == "zero":
        # there `Synaptic`, unlike `Leaky`, also erases the input of the resetting step: not DESIGN's equation
        after_spike = torch.cat([torch.zeros_like(s2[:1]), s2[:-1]]) > 0
        assert after_spike.any()
        assert (u2[after_spike] == 0).all()
        assert not torch.equal(u, u2)
        return
    assert torch.equal(s, s2.double())
    assert torch.equal(u, u2)
    assert s.sum() > 20
    g, h = randn(T, B, N, seed=2).float(), randn(T, B, N, seed=3)
    (ours,) = torch.autograd.grad((s * g.double()).sum() + (u * h).sum(), x)
    (theirs,) = torch.autograd.grad((s2 * g).sum() + (u2 * h).sum(), x)
    close(ours, theirs)


def test_the_current_goes_on_while_the_membrane_is_refractory():
    neuron = CurrentLIF(20.0, 5.0, refractory=5)
    x = torch.zeros(4, 1, 1)
    x[0] = 3.0
    s, u, state = neuron.run(x)
    assert s.flatten().tolist() == [1, 0, 0, 0]
    assert u.flatten().tolist() == [3.0] * 4
    assert float(state.i) == pytest.approx(3.0 * math.exp(-3 / 5), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 19)),
    reset=st.sampled_from(RESETS),
    refractory=st.integers(0, 4),
    seed=st.integers(0, 10**6),
)
def test_streaming_is_equal_however_time_is_split(cuts, reset, refractory, seed):
    neuron = CurrentLIF(8.0, 3.0, reset=reset, refractory=refractory, learn_tau=True).double()
    x = (0.2 + 0.4 * randn(20, 2, 3, seed=seed)).requires_grad_()
    whole, state = neuron.stream(x)
    parts, state2 = [], None
    for start, stop in pairwise([0, *sorted(cuts), 20]):
        out, state2 = neuron.stream(x[start:stop], state2)
        parts.append(out)
    parts = torch.cat(parts)
    assert torch.equal(whole, parts)
    assert torch.equal(state.i, state2.i)
    assert torch.equal(state.membrane.u, state2.membrane.u)
    assert refractory <= 1 or torch.equal(state.membrane.wait, state2.membrane.wait)
    g, leaves = randn(20, 2, 3, seed=seed + 1), [x, *neuron.parameters()]
    assert len(leaves) == 3
    ours = torch.autograd.grad((parts * g).sum() + state2.i.sum(), leaves)
    for got, expected in zip(ours, torch.autograd.grad((whole * g).sum() + state.i.sum(), leaves), strict=True):
        close(got, expected)


def test_half_precision_keeps_its_state_in_float32():
    x = (0.02 + 0.05 * randn(400, 2, 8, seed=1)).bfloat16().requires_grad_()
    neuron = CurrentLIF(50.0)
    s, state = neuron.stream(x)
    assert s.dtype == torch.bfloat16
    assert state.i.dtype == state.membrane.u.dtype == torch.float32
    assert torch.equal(s.float(), neuron(x.detach().float()))
    assert s.sum() > 50
    s.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_a_constant_input_may_have_time_stride_zero():
    image = (0.1 * randn(3, 4, seed=1).abs()).requires_grad_()
    neuron = CurrentLIF()
    x = image.expand(30, 3, 4)
    s, materialised = neuron(x), neuron(x.contiguous())
    assert torch.equal(s, materialised)
    assert s.sum() > 5
    g = randn(30, 3, 4, seed=2)
    close(torch.autograd.grad((s * g).sum(), image)[0], torch.autograd.grad((materialised * g).sum(), image)[0])


CHANGES = {
    "tau": 5.0, "tau_synapse": 9.0, "threshold": 0.7, "reset": "zero", "surrogate": ArcTan(), "refractory": 3,
    "detach_reset": False, "dt": 3.0,
}  # fmt: skip


def trace(neuron, x):
    x = x.clone().requires_grad_()
    s, u, _ = neuron.run(x)
    return torch.cat([s, u, torch.autograd.grad(s.sum(), x)[0]])


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_counts(name):
    x = 0.1 + 0.3 * randn(30, 2, 3, seed=1)
    assert not torch.equal(trace(CurrentLIF(**{name: CHANGES[name]}), x), trace(CurrentLIF(), x))


def test_a_module_holds_parameters_and_nothing_else():
    x = 0.1 + 0.3 * randn(20, 2, 3, seed=1, dtype=torch.float32)
    taus = torch.tensor([3.0, 5.0, 20.0])
    for neuron, keys in (
        (CurrentLIF(), []),
        (CurrentLIF(learn_tau=True), ["decay.log_tau", "decay_synapse.log_tau"]),
        (CurrentLIF(taus, taus, shape=(3,)), ["decay.taus", "decay_synapse.taus"]),
    ):
        first = neuron(x)
        assert torch.equal(neuron(x), first)
        assert torch.equal(copy.deepcopy(neuron)(x), first)
        assert list(neuron.state_dict()) == keys


X = torch.zeros(4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CurrentLIF(reset="soft"), r"reset must be one of"),
        (lambda: CurrentLIF(tau_synapse=0.0), r"tau_synapse must be positive and finite .* got 0\.0"),
        (lambda: CurrentLIF(tau=0.0), r"tau must be positive and finite"),
        (lambda: CurrentLIF()(X.long()), r"CurrentLIF takes a floating-point current"),
        (lambda: CurrentLIF()(X[:0]), r"CurrentLIF takes input of shape"),
        (
            lambda: CurrentLIF().stream(X, CurrentLIFState(X[0, :1], LIFState(X[0]))),
            r"CurrentLIF: the state has .*\(1, 3\)",
        ),
        (lambda: CurrentLIF().stream(X, CurrentLIFState(X[0], LIFState(X[0, :1]))), r"the state has shape \(1, 3\)"),
    ],
)
def test_errors_say_what_was_given_and_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()

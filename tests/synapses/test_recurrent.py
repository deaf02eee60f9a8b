"""The recurrent layer against an explicit loop."""

import numpy as np
import pytest
import torch
from neuron_oracles import uncompiled
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.neurons import LIFParameters, LIFState, lif_step
from spikecredit.neurons.kernels import backends, cpu, recurrent


def loop(layer, x, carry):
    """I[t] = W x[t] + b + V s[t-1], one step at a time; `carry(x, weight, feedback)` is the matrix product."""
    neuron = layer.neuron
    p = LIFParameters(neuron.decay(), neuron.threshold, surrogate=neuron.surrogate)
    size = layer.input.out_features
    s = x.new_zeros(x.shape[1], size)
    state = LIFState(x.new_zeros(x.shape[1], size))
    out = []
    for x_t in x:
        current = carry(x_t, layer.input) + layer.input.bias + carry(s, layer.recurrent)
        s, state = lif_step(current, state, p)
        out.append(s)
    return torch.stack(out)


def true(x, synapse):
    return F.linear(x, synapse.weight)


def carried(x, synapse):
    """The value of x W^T whose error returns through B."""
    feedback = F.linear(x, synapse.pathway.feedback(synapse))
    return F.linear(x.detach(), synapse.weight) + feedback - feedback.detach()


def make(pathway=None, seed=0):
    torch.manual_seed(seed)
    layer = sc.RecurrentLinear(6, 20, sc.LIF(tau=8.0, surrogate=sc.FastSigmoid(5.0)), pathway=pathway).double()
    with torch.no_grad():
        layer.recurrent.weight.mul_(3)
    return layer, 2 * torch.rand(15, 4, 6, dtype=torch.float64)


def gradients(layer, out):
    target = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return torch.autograd.grad((out * target).sum(), list(layer.parameters()))


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment(), sc.SignSymmetry()], ids=repr)
def test_equals_the_loop(pathway):
    layer, x = make(pathway)
    out, wanted = layer(x), loop(layer, x, true if pathway is None else carried)
    assert 0.02 < float(out.detach().mean()) < 0.5
    assert torch.equal(out, wanted)
    for f, w in zip(gradients(layer, out), gradients(layer, wanted), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-10, atol=1e-12)
    if pathway is not None:
        shortcut = gradients(layer, loop(layer, x, true))
        assert not torch.allclose(gradients(layer, layer(x))[2], shortcut[2], rtol=1e-2)


def test_tied_feedback_is_bptt():
    layer, x = make(sc.FeedbackAlignment())
    with torch.no_grad():
        for synapse in (layer.input, layer.recurrent):
            synapse.feedback_weight.copy_(synapse.weight)
    for f, w in zip(gradients(layer, layer(x)), gradients(layer, loop(layer, x, true)), strict=True):
        assert float((f - w).abs().max() / w.abs().max()) < 1e-12


@pytest.mark.parametrize("cut", [1, 7, 14])
def test_streaming_equals_the_whole_sequence(cut):
    layer, x = make()
    head, state = layer.stream(x[:cut])
    tail, _ = layer.stream(x[cut:], state)
    assert torch.equal(torch.cat([head, tail]), layer(x))
    assert not torch.equal(layer.stream(x[cut:])[0], tail)  # the state matters


def test_one_draw_of_feedback_serves_a_whole_sequence():
    layer, x = make(sc.SignSymmetry("batch"))
    layer(x)
    assert layer.recurrent.noise.count == 1


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()], ids=repr)
def test_learns(pathway):
    torch.manual_seed(0)
    net = sc.Network(
        sc.RecurrentLinear(10, 40, sc.LIF(tau=10.0)),
        sc.Linear(40, 4),
        sc.LeakyReadout(tau=10.0),
        pathway=pathway,
        seed=0,
    )
    x, y = (torch.rand(12, 16, 10) < 0.3).float() * 2, torch.arange(16) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(net(x).mean(0), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


NEURONS = {
    "lif": {"reset": "subtract"},
    "lif, attached reset": {"detach_reset": False, "reset": "zero"},
    "lif, refractory": {"refractory": 3},
    "lif, refractory, attached": {"refractory": 3, "detach_reset": False},
    "alif": {"kind": sc.ALIF, "adaptation": 0.4},
    "alif, attached": {"kind": sc.ALIF, "adaptation": 0.4, "detach_reset": False, "refractory": 2},
    "current": {"kind": sc.CurrentLIF, "tau_synapse": 3.0},
}


@pytest.fixture
def short(monkeypatch):
    """Several segments in few steps."""
    monkeypatch.setattr(recurrent, "SEGMENT", 4)


def both(name, pathway=None, learn=True):
    """The same layer twice: as one operator, and step by step through the plain loop."""
    options = dict(NEURONS[name])
    kind = options.pop("kind", sc.LIF)
    layers = []
    for backend in ("auto", "reference"):
        torch.manual_seed(3)
        neuron = kind(tau=8.0, surrogate=sc.FastSigmoid(5.0), learn_tau=learn, backend=backend, **options)
        layer = sc.RecurrentLinear(6, 20, neuron, pathway=pathway).double()
        with torch.no_grad():
            layer.recurrent.weight.mul_(3)
        layers.append(layer)
    return layers


def compare(name, pathway=None, learn=True, device="cpu"):
    fused, plain = (layer.to(device) for layer in both(name, pathway, learn))
    x = 2 * torch.rand(15, 4, 6, dtype=torch.float64).to(device)
    results = []
    for layer in (fused, plain):
        given = x.clone().requires_grad_()
        head, state = layer.stream(given[:6])  # the state carries gradient from one chunk to the next
        tail, state = layer.stream(given[6:], state)
        out = torch.cat([head, tail])
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=device).view_as(out)
        loss = (out * weights).sum() + state[1].sum()
        results.append((out, torch.autograd.grad(loss, [given, *layer.parameters()])))
    (out, ours), (wanted, theirs) = results
    assert 0.02 < float(wanted.detach().mean()) < 0.6
    assert torch.equal(out, wanted)
    for f, w in zip(ours, theirs, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()], ids=repr)
@pytest.mark.parametrize("name", NEURONS)
def test_one_operator_equals_step_by_step(name, pathway, short):
    compare(name, pathway)


@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
@pytest.mark.parametrize("name", NEURONS)
def test_the_triton_backend_does_too(name, short, monkeypatch):
    pytest.importorskip("triton")
    from test_triton import DEVICE, backend

    monkeypatch.setattr(backends, "module", lambda name: backend)
    monkeypatch.setattr(backends, "_FOR", {"cpu": "triton", "cuda": "triton"})
    monkeypatch.setattr(backends, "_chosen", {})
    with np.errstate(all="ignore"):
        compare(name, learn=name != "lif", device=DEVICE)


MUTANTS = {
    "every step begins at the first state": ("*(after if t else before)", "*before"),
    "the error ends after a step": ("given if t + count == steps else carried", "given"),
    "checkpoints are one step late": ("place = ((segment - 1) * fields", "place = (max(segment - 2, 0) * fields"),
    "a segment's states are those of the one after": ("if until >= t1:", "if until == steps:"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_step_is_noticed(name, short, monkeypatch):
    right, wrong = uncompiled(), uncompiled(*MUTANTS[name])
    monkeypatch.setattr(backends, "module", lambda backend: right)
    compare("lif")
    monkeypatch.setattr(backends, "module", lambda backend: wrong)
    with pytest.raises(AssertionError), np.errstate(all="ignore"):  # one reads memory that nobody wrote
        compare("lif")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["lif", "alif, attached"])
def test_blocks_and_threads_do_not_mix(name, threads, short, monkeypatch):
    monkeypatch.setattr("spikecredit.neurons.kernels.threads.GRAIN", 100)
    fused, plain = both(name)
    x = 2 * torch.rand(9, cpu.WIDTH // 9, 6, dtype=torch.float64)
    torch.set_num_threads(threads)
    try:
        out = fused(x)
        ours = gradients(fused, out)
    finally:
        torch.set_num_threads(1)
    wanted = plain(x)
    assert out.shape[1:].numel() > 2 * cpu.WIDTH
    assert torch.equal(out, wanted)
    for f, w in zip(ours, gradients(plain, wanted), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [None, 9])
def test_a_second_backward_pass_finds_what_the_first_did(steps, short):
    """What is saved is not written; `steps` of a constant input, or of nine different ones."""
    layer, _ = both("lif, refractory, attached")
    out = layer(2 * torch.rand(1 if steps else 9, 4, 6, dtype=torch.float64), steps=steps)
    first, second = (torch.autograd.grad(out.square().sum(), list(layer.parameters()), retain_graph=True) for _ in "12")
    assert all(torch.equal(f, s) for f, s in zip(first, second, strict=True))


def test_the_input_is_not_kept():
    """The currents are, and a second sequence would cost as much memory again."""
    layer, x = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        out = layer(x)
    sequences = {v.data_ptr() for v in kept if v.shape == out.shape}
    assert len(sequences) == 2  # currents and spikes


def test_the_potential_handed_out_carries_gradient():
    for name in ("lif, attached reset", "alif, attached", "current"):
        fused, plain = both(name)
        x = 2 * torch.rand(5, 4, 6, dtype=torch.float64)
        grads = []
        for layer in (fused, plain):
            (state, _) = layer.stream(x)[1]
            parts = [v for v in (state[:3] if name.startswith("alif") else (state[0],))]
            loss = sum((part**2).sum() for part in parts)
            grads.append(torch.autograd.grad(loss, list(layer.parameters())))
        for f, w in zip(*grads, strict=True):
            torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-11)


def test_a_constant_input_is_summed_over_time(short):
    fused, _ = both("lif")
    x = 2 * torch.rand(1, 4, 6, dtype=torch.float64)
    once, every = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, wanted = fused(once, steps=9), fused(every.expand(9, 4, 6).contiguous())
    assert torch.equal(out, wanted)
    for result in (out, wanted):
        (result * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    torch.testing.assert_close(once.grad, every.grad, rtol=1e-10, atol=1e-12)
    net = sc.Network(sc.RecurrentLinear(6, 20), sc.Linear(20, 3), sc.LeakyReadout()).double()
    assert torch.equal(net(x.expand(9, 4, 6)), net(x.expand(9, 4, 6).contiguous()))


def test_half_precision_under_autocast():
    layer = sc.RecurrentLinear(6, 20, sc.LIF(tau=8.0), pathway=sc.SignSymmetry())
    x = 3 * torch.rand(10, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert out.mean() > 0.05
    out.float().sum().backward()
    assert layer.recurrent.weight.grad.dtype == torch.float32
    assert layer.recurrent.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_second_bias_adds_to_the_first_from_the_first_step_on(backend):
    layer, x = make()
    twice = sc.RecurrentLinear(6, 20, layer.neuron, recurrent_bias=True).double()
    twice.neuron.backend = backend
    assert layer.recurrent.bias is None and twice.recurrent.bias.any()
    with torch.no_grad():
        for name in ("input", "recurrent"):
            getattr(twice, name).weight.copy_(getattr(layer, name).weight)
        twice.input.bias.copy_(torch.round(64 * layer.input.bias) / 64)
        twice.recurrent.bias.copy_(torch.round(64 * twice.recurrent.bias) / 64)
        layer.input.bias.copy_(twice.input.bias + twice.recurrent.bias)
    out = twice(x)
    assert torch.equal(out, layer(x))
    out.sum().backward()
    assert twice.input.bias.grad.any()
    torch.testing.assert_close(twice.recurrent.bias.grad, twice.input.bias.grad)

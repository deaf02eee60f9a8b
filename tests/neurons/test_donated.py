"""A gradient is written over where nobody else holds it, and never where somebody does."""

import numpy as np
import pytest
import torch
from neuron_oracles import randn
from torch.utils.checkpoint import checkpoint

import spikecredit as sc
from spikecredit.neurons.kernels import donated, recurrent

SHAPE = (7, 3, 4)


class Watch(torch.autograd.Function):
    """The identity; notes where the gradient that comes through lies, and hands on one of its own memory."""

    @staticmethod
    def forward(ctx, x, notes):
        ctx.notes = notes
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.notes.append(grad.data_ptr())
        return grad.clone(), None


class Emit(torch.autograd.Function):
    """The identity; makes the gradient and notes where it lies."""

    @staticmethod
    def forward(ctx, x, make, notes):
        ctx.make, ctx.notes = make, notes
        return x.clone()

    @staticmethod
    def backward(ctx, _):
        grad = ctx.make()
        ctx.notes.append(grad.data_ptr())
        return grad, None, None


def is_written_over(neuron, x, make):
    notes = []
    out = neuron(Watch.apply(x.requires_grad_(), notes))
    Emit.apply(out, make, notes).sum().backward()
    assert len(notes) == 2
    return notes[0] == notes[1]


def test_it_is_written_over_where_it_lies_as_the_currents_do():
    x, grad = randn(*SHAPE), randn(*SHAPE, seed=1)
    assert is_written_over(sc.LIF(), x.clone(), grad.clone)
    assert is_written_over(sc.ALIF(detach_reset=False), x.clone(), grad.clone)
    assert is_written_over(sc.LIF(), x.clone(), lambda: grad.flatten(0, 1).clone().unflatten(0, SHAPE[:2]))
    assert not is_written_over(sc.LIF(), x.clone(), lambda: grad.mT.contiguous().mT)
    assert not is_written_over(sc.LIF(), x.clone(), lambda: grad[:1].clone().expand(SHAPE))
    assert not is_written_over(sc.LIF(backend="reference"), x.clone(), grad.clone)


NEURONS = {
    "lif": lambda: sc.LIF(tau=5.0),
    "lif, to zero": lambda: sc.LIF(tau=5.0, reset="zero", learn_tau=True),
    "lif, attached": lambda: sc.LIF(tau=5.0, detach_reset=False, refractory=2),
    "alif": lambda: sc.ALIF(tau=5.0, detach_reset=False),
    "current": lambda: sc.CurrentLIF(tau=5.0, learn_tau=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", list(NEURONS))
def test_the_gradients_are_the_same_bit_for_bit(name, dtype, monkeypatch):
    x = (1.5 * randn(70, 3, 5, 4, 4)).to(dtype).to(memory_format=torch.preserve_format).transpose(2, 4)
    weights = randn(*x.shape, seed=1).to(dtype)
    results, asked = [], []
    is_free = donated.is_free
    for answer in (lambda counts: asked.append(is_free(counts)) or asked[-1], lambda counts: False):
        monkeypatch.setattr(donated, "is_free", answer)
        torch.manual_seed(0)
        neuron, given = NEURONS[name](), x.clone().requires_grad_()
        (neuron(given) * weights).sum().backward()
        results.append([given.grad, *(p.grad for p in neuron.parameters())])
    assert asked == [True] and results[0][0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def by_hook(s, w, held):
    s.register_hook(lambda g: held.extend([g, g.clone()]) and None)
    return (s * w).sum()


def by_node_prehook(s, w, held):
    s.grad_fn.register_prehook(lambda g: held.extend([g[0], g[0].clone()]) and None)
    return (s * w).sum()


def by_view_in_a_hook(s, w, held):
    s.register_hook(lambda g: held.extend([g[1:].view(-1), g[1:].clone().view(-1)]) and None)
    return (s * w).sum()


def by_numpy_in_a_hook(s, w, held):
    s.register_hook(lambda g: held.extend([g.numpy(), g.numpy().copy()]) and None)
    return (s * w).sum()


def by_detached_alias(s, w, held):
    s.register_hook(lambda g: held.extend([g.detach(), g.clone()]) and None)
    return (s * w).sum()


def by_dlpack(s, w, held):
    s.register_hook(lambda g: held.extend([torch.from_dlpack(torch.utils.dlpack.to_dlpack(g)), g.clone()]) and None)
    return (s * w).sum()


def by_multi_grad_hook(s, w, held):
    torch.autograd.graph.register_multi_grad_hook([s], lambda g: held.extend([g[0], g[0].clone()]))
    return (s * w).sum()


def by_another_branch(s, w, held):
    other = torch.zeros_like(s).requires_grad_()
    other.register_hook(lambda g: held.append(g.clone()))
    held.append(other)
    return ((s + other) * w).sum()


def by_a_function_that_keeps_it(s, w, held):
    return Emit.apply(s, lambda: held.extend([w, w.clone()]) or w, []).sum()


def by_a_function_that_keeps_what_it_is_a_view_of(s, w, held):
    return Emit.apply(s, lambda: held.extend([w, w.clone()]) or w.view(-1).view(w.shape), []).sum()


def by_a_hook_on_a_view(s, w, held):
    flat = s.flatten(0, 1)
    flat.register_hook(lambda g: held.extend([g, g.clone()]) and None)
    return (flat * w.flatten(0, 1)).sum()


def by_a_function_with_numpy_memory(s, w, held):
    memory = w.numpy().copy()
    return Emit.apply(s, lambda: held.extend([memory, memory.copy()]) or torch.from_numpy(memory), []).sum()


HOLDERS = {name: function for name, function in globals().items() if name.startswith("by_")}


def same(a, b):
    a, b = (getattr(v, "grad", None) if getattr(v, "requires_grad", False) else v for v in (a, b))
    return np.array_equal(np.asarray(a), np.asarray(b))


def held_and_gradient(holder, x, w):
    """Whether what was held stayed, and the gradient of x."""
    held, given = [], x.clone().requires_grad_()
    loss = holder(sc.LIF()(given * 1.0), w.clone(), held)
    loss.backward()
    first, second = held
    return same(first, second), given.grad


@pytest.mark.parametrize("name", list(HOLDERS))
def test_a_gradient_that_is_held_stays(name, monkeypatch):
    x, w = 1.5 * randn(*SHAPE), randn(*SHAPE, seed=1)
    stayed, gradient = held_and_gradient(HOLDERS[name], x, w)
    monkeypatch.setattr(donated, "is_free", lambda counts: False)
    assert stayed and torch.equal(gradient, held_and_gradient(HOLDERS[name], x, w)[1])


def test_without_counting_the_holders_would_lose_it(monkeypatch):
    """The mutation: each gradient is taken for free."""
    monkeypatch.setattr(donated, "is_free", lambda counts: True)
    x, w = 1.5 * randn(*SHAPE), randn(*SHAPE, seed=1)
    lost = [name for name, holder in HOLDERS.items() if not held_and_gradient(holder, x, w)[0]]
    assert len(lost) >= len(HOLDERS) - 1  # another branch may have taken its gradient before


def test_what_the_caller_gives_or_asks_for_stays():
    x, w = (1.5 * randn(*SHAPE)).requires_grad_(), randn(*SHAPE, seed=1)
    before = w.clone()
    sc.LIF()(x).backward(w)
    assert torch.equal(w, before)
    sc.LIF()(x).view(-1).backward(w.view(-1))
    assert torch.equal(w, before)
    s = sc.LIF()(x)
    of_spikes, of_x = torch.autograd.grad((s * w).sum(), [s, x])
    assert torch.equal(of_spikes, w) and not torch.equal(of_x, w)
    s = sc.LIF()(x)
    s.retain_grad()
    (s * w).sum().backward()
    assert torch.equal(s.grad, w)


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_what_a_modules_hook_sees_stays(register):
    neuron, x, w, held = sc.LIF(), (1.5 * randn(*SHAPE)).requires_grad_(), randn(*SHAPE, seed=1), []
    getattr(neuron, register)(lambda module, *grads: held.append(grads[-1][0]))
    (neuron(x) * w).sum().backward()
    assert torch.equal(held[0], w)


def test_a_gradient_of_several_consumers_is_their_sum():
    x, w = (1.5 * randn(*SHAPE)).requires_grad_(), randn(*SHAPE, seed=1)
    s = sc.LIF()(x)
    (twice,) = torch.autograd.grad((s * w).sum() + (s * w).sum(), x)
    (once,) = torch.autograd.grad((2 * sc.LIF()(x) * w).sum(), x)
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("level", range(5))
def test_where_a_holder_does_not_show_nothing_is_free(level, monkeypatch):
    count = donated.count

    def blind(grads):
        counts = list(count(grads))
        counts[level] = min(counts[level], 1)
        return tuple(counts)

    monkeypatch.setattr(donated, "count", blind)
    monkeypatch.setattr(donated, "_least", donated._least.__wrapped__)
    assert donated._least() is None
    assert not donated.is_free((1, 1, 1, 0, 0))


def test_where_torch_does_not_tell_nothing_is_free(monkeypatch):
    monkeypatch.setattr(donated, "KNOWN", False)
    assert donated.count((torch.ones(3),)) is None
    assert not donated.is_last_pass() and not donated.is_private()
    assert not is_written_over(sc.LIF(), randn(*SHAPE), randn(*SHAPE).clone)


def test_where_nothing_is_counted_nothing_is_probed(monkeypatch):
    """On CUDA, say, where a probe could fall into the capture of a graph."""
    monkeypatch.setattr(donated, "_least", lambda: pytest.fail("probed"))
    assert not donated.is_free(None)


def test_modes_of_the_callers_thread_do_not_reach_the_count(monkeypatch):
    fresh = donated._least.__wrapped__
    with torch.device("meta"), torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda v: v, lambda v: v):
        assert fresh() == donated._least() is not None
    with torch.inference_mode():
        assert fresh() == donated._least()


# ---- what a recurrent layer keeps for itself


def layer_and_input():
    torch.manual_seed(0)
    layer = sc.RecurrentLinear(6, 20, sc.LIF(tau=8.0)).double()
    return layer, 2 * randn(40, 3, 6).abs()


def recurrent_gradients(layer, x, **options):
    given = x.clone().requires_grad_()
    out = layer(given)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    return out.detach(), torch.autograd.grad(loss, [given, *layer.parameters()], **options)


def test_errors_over_the_currents_are_the_same(monkeypatch):
    layer, x = layer_and_input()
    made, allocate = [], recurrent._gradients

    def spy(*arguments):
        made.append(arguments[-1])
        return allocate(*arguments)

    monkeypatch.setattr(recurrent, "_gradients", spy)
    out, found = recurrent_gradients(layer, x)
    again, kept = recurrent_gradients(layer, x, retain_graph=True)
    assert made == [True, False]  # for one pass they go over the currents, and for several they do not
    assert torch.equal(out, again) and all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


def test_two_passes_through_one_graph_find_the_same():
    layer, x = layer_and_input()
    loss = (layer(x) * randn(40, 3, 20)).sum()
    first = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_currents_that_somebody_reads_are_not_written_over():
    layer, x = layer_and_input()
    seen = []
    layer.input.register_forward_hook(lambda module, given, currents: seen.append(currents))
    recurrent_gradients(layer, x)
    assert torch.equal(seen[0], torch.nn.functional.linear(x, layer.input.weight, layer.input.bias))


def test_saved_tensors_that_a_hook_keeps_are_not_written_over():
    layer, x = layer_and_input()
    held, copies = [], []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda v: held.append(v) or copies.append(v.clone()) or v, lambda v: v
    ):
        recurrent_gradients(layer, x)
    assert held and all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_torch_find_the_same(reentrant):
    layer, x = layer_and_input()
    net = sc.Network(layer, sc.Linear(20, 30), sc.LIF(), seed=0).double()
    results = []
    for run in (net, lambda given: checkpoint(net, given, use_reentrant=reentrant)):
        given = x.clone().requires_grad_()
        (run(given) * randn(40, 3, 30)).sum().backward()
        results.append([given.grad, *(p.grad.clone() for p in net.parameters())])
        net.zero_grad()
    assert results[0][0].abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

"""Exponentiated gradient against its equations, and what it must never do: change a sign, lose one, or overflow."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import spikecredit as sc
from spikecredit.training.experiment import Experiment, Training
from spikecredit.training.optimizers import ExponentiatedAdamW, ExponentiatedGradient

KINDS = {
    "plain": lambda p, lr, **o: sc.EG(p, lr, **o),
    "momentum": lambda p, lr, **o: sc.EG(p, lr, momentum=0.9, **o),
    "nesterov": lambda p, lr, **o: sc.EG(p, lr, momentum=0.9, nesterov=True, **o),
    "adamw": lambda p, lr, **o: sc.EGAdamW(p, lr, **o),
}
SIGNS = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])


def weights(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, dtype=dtype, generator=generator).add_(0.1).mul_(SIGNS.to(dtype))


def gradient(t, shape=(2, 3), dtype=torch.float64):
    return torch.sin(torch.arange(math.prod(shape), dtype=dtype).view(shape) * 2 + t)


def trained(optimizer, w, steps=6, bias=None):
    w = nn.Parameter(w.clone())
    given_ = [w] if bias is None else [w, bias]
    built = optimizer(given_)
    for t in range(steps):
        for p in given_:
            p.grad = gradient(t, p.shape, p.dtype)
        built.step()
    return w.detach()


@pytest.mark.parametrize("kind", ["plain", "momentum", "adamw"])
def test_one_step_changes_the_logarithm_by_the_signed_gradient(kind):
    """Known answer 16: log(W'/W) = -lr sign(W) g. Adam's first step is the sign of g, up to eps."""
    w = weights()
    found = (trained(lambda p: KINDS[kind](p, 0.1), w, steps=1) / w).log()
    g = gradient(0)
    wanted = -0.1 * w.sign() * (g / (g.abs() + 1e-8) if kind == "adamw" else g)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def by_hand(w, lr, momentum, nesterov, decay, steps=6, signed=True):
    m = torch.zeros_like(w)
    for t in range(steps):
        g = gradient(t) + decay * w.sign()
        m = momentum * m + g
        d = g + momentum * m if nesterov else m
        w = w * torch.exp(-lr * (w.sign() if signed else 1) * d)
    return w


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_momentum_and_decay_are_those_of_sgd_in_the_logarithm(momentum, nesterov):
    w = weights()
    found = trained(lambda p: sc.EG(p, 0.05, momentum, nesterov, weight_decay=0.2), w)
    torch.testing.assert_close(found, by_hand(w, 0.05, momentum, nesterov, 0.2), rtol=1e-12, atol=0)
    for wrong in (by_hand(w, 0.05, momentum, nesterov, 0.0), by_hand(w, 0.05, momentum, nesterov, 0.2, signed=False)):
        assert not torch.allclose(found, wrong, rtol=1e-3)


def test_adamw_by_hand():
    lr, (b1, b2), eps, decay = 0.05, (0.8, 0.95), 1e-3, 0.1
    start = w = weights()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(6):
        g = gradient(t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        adam = (m / (1 - b1 ** (t + 1))) / ((v / (1 - b2 ** (t + 1))).sqrt() + eps)
        w = w * (1 - lr * decay) * torch.exp(-lr * w.sign() * adam)
    found = trained(lambda p: sc.EGAdamW(p, lr, (b1, b2), eps, decay), start)
    torch.testing.assert_close(found, w, rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_no_synapse_descends_as_under_torch_at_its_own_rate(decay):
    pairs = [
        (lambda p: sc.EG(p, 0.5, 0.9, weight_decay=decay), lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=decay)),
        (lambda p: sc.EGAdamW(p, 0.5, weight_decay=decay), lambda p: torch.optim.AdamW(p, 0.05, weight_decay=decay)),
    ]
    for ours, torchs in pairs:
        a, b = (nn.Parameter(torch.tensor([0.0, 1.0, -0.01], dtype=torch.float64)) for _ in range(2))
        trained(ours, weights(), bias=a)
        trained(torchs, weights(), bias=b)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
        assert bool((a.sign() != torch.tensor([0.0, 1.0, -1.0])).any())  # its sign is free


@given(
    kind=st.sampled_from(sorted(KINDS)),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    lr=st.floats(1e-4, 1e3),
    scale=st.floats(1e-6, 1e4),
    decay=st.sampled_from([0.0, 0.01]),
    steps=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_no_step_changes_or_loses_a_sign(kind, shape, dtype, lr, scale, decay, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(shape, generator=generator).to(dtype)
    start.view(-1)[0] = 0  # stays what it is
    w = nn.Parameter(start.clone())
    # Adam's eps and squares underflow in float16, ours as torch's: 0 / 0.
    optimizer = KINDS["plain" if (kind, dtype) == ("adamw", torch.float16) else kind]([w], lr, weight_decay=decay)
    for _ in range(steps):
        w.grad = (torch.randn(shape, generator=generator) * scale).to(dtype)
        optimizer.step()
    assert torch.equal(w.sign(), start.sign())
    assert w.isfinite().all() or dtype == torch.float16  # 20 factors of e leave float16's range


def pushed_down(optimizer, steps):
    """Weights of float32 whose gradient always makes them smaller."""
    w = nn.Parameter(torch.full((2, 2), 0.03))
    built = optimizer([w])
    for _ in range(steps):
        w.grad = torch.ones(2, 2)
        built.step()
    return w.detach()


def test_the_floor_keeps_what_would_underflow():
    """Known answer 16: without a floor float32 underflows to 0, which has no sign and never moves again."""
    kept = pushed_down(lambda p: sc.EG(p, 0.5), 300)
    assert torch.equal(kept, torch.full((2, 2), 1e-8))
    without = 0.03 * torch.exp(torch.tensor(-0.5)) ** 300
    assert without == 0
    back = nn.Parameter(kept.clone())
    optimizer = sc.EG([back], 0.5)
    for _ in range(40):
        back.grad = -torch.ones(2, 2)
        optimizer.step()
    assert bool((back > 1).all())


def test_the_clamp_keeps_what_would_overflow():
    """Known answer 16: a rate of 50 gives NaN without it."""
    w = nn.Parameter(torch.tensor([[0.1, -0.1]]))
    optimizer = sc.EG([w], 50.0)
    w.grad = torch.tensor([[-3.0, -3.0]])
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[0.1 * math.e, -0.1 / math.e]]))
    assert (0.1 * torch.exp(torch.tensor(150.0))).isinf()


@pytest.mark.parametrize("kind", KINDS)
def test_dales_law_needs_no_projection(kind):
    """300 steps with large gradients; SGD on the same network breaks the law in the same loop."""
    broken = []
    for make in (lambda p: KINDS[kind](p, 0.3), lambda p: torch.optim.SGD(p, 0.3)):
        torch.manual_seed(0)
        layers = sc.Linear(12, 16), sc.LIF(5.0), sc.Linear(16, 8), sc.LIF(5.0), sc.Linear(8, 4), sc.LeakyReadout()
        net = sc.Network(*layers, constraint=sc.Dale(), seed=0).eval()  # in training mode it would warn
        optimizer, count = make(net.parameters()), 0
        x, y = torch.rand(5, 8, 12), torch.randint(4, (8,))
        for _ in range(300):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x).mean(0), y).backward()
            optimizer.step()
            count += net.violations()
        broken.append(count)
    assert broken[0] == 0 < broken[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_continues_the_run(kind):
    w = nn.Parameter(weights())
    optimizer = KINDS[kind]([w], 0.1)
    for t in range(4):
        if t == 2:
            other = nn.Parameter(w.detach().clone())
            resumed = KINDS[kind]([other], 0.1)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        w.grad = gradient(t)
        optimizer.step()
        if t >= 2:
            other.grad = gradient(t)
            resumed.step()
    assert torch.equal(w, other)


def test_closure_and_hooks():
    w = nn.Parameter(weights())
    optimizer, calls = sc.EG([w], 0.1), []
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = w.sum()
        loss.backward()
        return float(loss.detach())

    before = float(w.detach().sum())
    assert optimizer.step(closure) == pytest.approx(before)
    assert calls == ["after"]
    assert float(w.detach().sum()) < before


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda p: sc.EG(p, -1.0), "lr must be a finite number"),
        (lambda p: sc.EG(p, 0.1, floor=0.0), "floor must be a finite number above 0, got 0.0"),
        (lambda p: sc.EGAdamW(p, 0.1, clamp=math.inf), "clamp must be a finite number above 0, got inf"),
        (lambda p: sc.EG(p, 0.1, nesterov=True), "needs a momentum above 0"),
        (lambda p: ExponentiatedAdamW(floor=-1.0), "floor must be"),
        (lambda p: ExponentiatedGradient(momentum=0.0, nesterov=True), "needs a momentum above 0"),
    ],
)
def test_what_cannot_be_is_refused(build, told):
    with pytest.raises(ValueError, match=told):
        build([nn.Parameter(torch.zeros(2, 2))])


@pytest.mark.parametrize("optimizer", [ExponentiatedGradient(), ExponentiatedAdamW()])
def test_learned_feedback_and_parameters_that_are_no_weights_are_refused(optimizer):
    with pytest.raises(ValueError, match="moves B by increments"):
        Experiment(pathway=sc.KolenPollack(), training=Training(optimizer=optimizer))
    with pytest.raises(ValueError, match="freeze the sign of that parameter"):
        Experiment(constraint=sc.Dale(mode="reparametrize"), training=Training(optimizer=optimizer))
    net = sc.Network(sc.Linear(4, 3), sc.LIF(), sc.Linear(3, 2), pathway=sc.KolenPollack(), seed=0)
    built = optimizer.build(net.parameters())
    with pytest.raises(ValueError, match="never makes"):
        sc.after_step(net, built)

"""Antiparallel feedback: the correlation is delta x^T, its sign comes to be that of W, and when it does not."""

import copy
import math

import numpy as np
import pytest
import tiny
import torch
from feedback_oracles import relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.pathways.pathway import feedback_rms

RULE = sc.Antiparallel(rate=2.0, decay=0.1)


def softmax_error(a, labels):
    """dL/da of the mean cross-entropy, (T, B, classes) with the potentials averaged over T."""
    p = np.exp(a.mean(0))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return np.broadcast_to(p / len(labels) / len(a), a.shape)


def test_the_correlation_is_the_written_out_rule():
    """C <- (1 - decay) C + rate sum over time and batch of delta x^T, delta = -dL/da, through a rate network."""
    torch.manual_seed(0)
    layers = sc.Linear(5, 7), sc.ReLU(), sc.Linear(7, 3)
    net = sc.Network(*layers, pathway=RULE, seed=1).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    c1, c2 = (layer.feedback_weight.numpy().copy() for layer in (layers[0], layers[2]))
    for step in range(3):
        x, labels = torch.randn(4, 6, 5, dtype=torch.float64), np.arange(6) % 3
        w1, b1, w2, b2 = (p.detach().numpy().copy() for p in net.parameters())
        hidden = x.numpy() @ w1.T + b1
        active = np.maximum(hidden, 0)
        delta2 = -softmax_error(active @ w2.T + b2, labels)
        delta1 = (delta2 @ (np.sign(c2) * feedback_rms(layers[2], "fan_out"))) * (hidden > 0)
        c1 = 0.9 * c1 + 2.0 * np.einsum("tbo,tbi->oi", delta1, x.numpy())
        c2 = 0.9 * c2 + 2.0 * np.einsum("tbo,tbi->oi", delta2, active)
        optimizer.zero_grad()
        F.cross_entropy(net(x).mean(0), torch.from_numpy(labels)).backward()
        optimizer.step()
        sc.after_step(net, optimizer)
        for layer, c in ((layers[0], c1), (layers[2], c2)):
            np.testing.assert_allclose(layer.feedback_weight.numpy(), c, rtol=1e-11, atol=1e-15, err_msg=f"{step}")


def test_a_convolution_correlates_over_all_positions():
    layer = sc.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, pathway=RULE).double()
    before = layer.feedback_weight.clone()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    y = layer(x)
    delta = torch.randn_like(y)
    y.backward(-delta)
    layer.pathway.learn(layer)
    patches = F.unfold(x, 3, padding=1, stride=2).unflatten(1, (2, 2, 3, 3))  # (B, group, in, kh, kw, positions)
    product = torch.einsum("bgop,bgikhp->goikh", delta.flatten(2).unflatten(1, (2, 3)), patches).flatten(0, 1)
    assert relative(layer.feedback_weight, 0.9 * before + 2.0 * product) < 1e-12


def test_feedback_is_the_sign_at_the_pathways_scale():
    for scale, gain in (("fan_out", 1.0), ("biotorch", 3.0), ("xiao", 0.5)):
        layer = sc.Conv2d(4, 6, 3, pathway=sc.Antiparallel(scale=scale, gain=gain))
        wanted = layer.feedback_weight.sign() * (feedback_rms(layer, scale) * gain)
        assert torch.equal(layer.feedback(), wanted)


def test_it_starts_as_fixed_random_signs():
    def feedback(pathway):
        torch.manual_seed(0)
        return sc.Network(sc.Linear(9, 8), sc.Linear(8, 7), pathway=pathway, seed=4).layers[1].feedback()

    assert torch.equal(feedback(sc.Antiparallel()), feedback(sc.SignSymmetry(agreement=0.5)))


def converge(momentum=0.0, make=torch.optim.SGD, steps=60):
    """Largest difference of C - (rate / eta) W from (1 - decay)^t of its start, relative to W's share."""
    torch.manual_seed(0)
    eta, mu = 0.2, 0.15
    pathway = sc.Antiparallel(rate=0.5, decay=eta * mu)
    net = sc.Network(sc.Linear(6, 9), sc.ReLU(), sc.Linear(9, 3), pathway=pathway, seed=1).double()
    options = {"momentum": momentum} if momentum else {}
    optimizer = make(net.parameters(), lr=eta, weight_decay=mu, **options)
    sc.attach(net, optimizer)

    def difference():
        return [s.feedback_weight - 0.5 / eta * s.weight.detach() for s in net.synapses().values()]

    start = difference()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(2, 8, 6, dtype=torch.float64)).mean(0), torch.arange(8) % 3).backward()
        optimizer.step()
    wanted = [(1 - eta * mu) ** steps * s for s in start]
    return max(
        float((d - w).abs().max() / s.weight.detach().abs().max())
        for d, w, s in zip(difference(), wanted, net.synapses().values(), strict=True)
    )


def test_under_sgd_with_the_same_decay_it_is_kolen_and_pollack():
    assert converge() < 1e-12


@pytest.mark.parametrize("other", ["momentum", "adam"])
def test_the_relation_holds_for_no_other_optimiser(other):
    assert (converge(momentum=0.5) if other == "momentum" else converge(make=torch.optim.Adam)) > 1e-2


# ---- sign agreement on a spiking network -----------------------------------------------------------------------------

CENTRES = torch.randn(5, 20, generator=torch.Generator().manual_seed(9))


def classify(pathway, weight_decay, steps=600, lr=0.5):
    """Five noisy patterns; (agreement at the start, and at the end, accuracy).

    Agreement in the two layers that deliver errors, over the synapses that had a gradient in the last quarter: where
    neither end is active W and C only decay, each with the sign it had.
    """
    torch.manual_seed(0)
    layers = sc.Linear(20, 40), sc.LIF(5.0), sc.Linear(40, 30), sc.LIF(5.0), sc.Linear(30, 5), sc.LeakyReadout(5.0)
    net = sc.Network(*layers, pathway=pathway, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, weight_decay=weight_decay)
    sc.attach(net, optimizer)
    g = torch.Generator().manual_seed(1)
    upper = [layers[2], layers[4]]
    used = [torch.zeros_like(layer.weight, dtype=torch.bool) for layer in upper]

    def batch(size):
        labels = torch.randint(5, (size,), generator=g)
        x = CENTRES[labels] + 0.7 * torch.randn(size, 20, generator=g)
        return x.expand(4, size, 20), labels

    def agreement():
        agree = [layer.feedback().sign() == layer.weight.sign() for layer in upper]
        return [float(a[u if u.any() else ...].double().mean()) for a, u in zip(agree, used, strict=True)]

    first = agreement()
    for step in range(steps):
        x, labels = batch(32)
        optimizer.zero_grad()
        F.cross_entropy(net(x).mean(0), labels).backward()
        optimizer.step()
        if step >= steps * 3 // 4:
            for u, layer in zip(used, upper, strict=True):
                u |= layer.weight.grad != 0
    x, labels = batch(500)
    return first, agreement(), float((net(x).mean(0).argmax(1) == labels).double().mean())


MATCHED = sc.Antiparallel(rate=10.0, decay=0.01)


def test_signs_come_to_agree_on_a_spiking_network():
    first, last, accuracy = classify(MATCHED, weight_decay=0.02)  # 0.5 * 0.02: the decay of C
    assert all(0.4 < a < 0.6 for a in first)
    assert min(last) >= 0.95
    assert accuracy > 0.95


def test_an_inverted_correlation_is_noticed(monkeypatch):
    def learn(self, layer):
        with torch.no_grad():
            layer.feedback_weight.mul_(1 - self.decay).add_(layer.weight.grad, alpha=self.rate)

    # Feedback so weak that the hidden layers stay as they are: errors of the wrong sign would silence them.
    weak = sc.Antiparallel(rate=10.0, decay=0.0, gain=1e-3)
    (_, first), (_, last), _ = classify(weak, weight_decay=0.0, steps=200)
    assert last > first + 0.2
    monkeypatch.setattr(sc.Antiparallel, "learn", learn)
    (_, first), (_, last), _ = classify(weak, weight_decay=0.0, steps=200)
    assert last < first - 0.2


def test_without_weight_decay_the_start_of_w_stays():
    _, last, _ = classify(sc.Antiparallel(rate=10.0, decay=0.0), weight_decay=0.0)
    assert 0.5 < min(last) < 0.8


# ---- plumbing --------------------------------------------------------------------------------------------------------


def stepped(pathway, steps=3, clip=None, constraint=None, recurrent=False):
    torch.manual_seed(0)
    first = sc.RecurrentLinear(6, 8, sc.LIF(5.0)) if recurrent else sc.Linear(6, 8)
    net = sc.Network(first, sc.LIF(5.0), sc.Linear(8, 4), pathway=pathway, constraint=constraint, seed=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sc.attach(net, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        x = 3 * torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(step))
        net(x).square().sum().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    return net


def correlations(net):
    return [layer.feedback_weight for layer in net.synapses().values()]


def test_every_field_counts():
    base = [layer.feedback() for layer in stepped(RULE, steps=6).synapses().values()]
    for other in (
        sc.Antiparallel(rate=0.1, decay=0.1),
        sc.Antiparallel(rate=2.0, decay=0.9),
        sc.Antiparallel(rate=2.0, decay=0.1, gain=2.0),
        sc.Antiparallel(rate=2.0, decay=0.1, scale="biotorch"),
    ):
        found = [layer.feedback() for layer in stepped(other, steps=6).synapses().values()]
        assert not all(torch.equal(a, b) for a, b in zip(base, found, strict=True)), other


def test_clipping_scales_what_it_learns():
    once, clipped = stepped(RULE, steps=1), stepped(RULE, steps=1, clip=0.1)
    for a, b, c in zip(correlations(stepped(RULE, steps=0)), correlations(once), correlations(clipped), strict=True):
        learned, less = b - 0.9 * a, c - 0.9 * a  # 2 d and 2 k d, for the one factor k of the clipping
        factor = float(less.norm() / learned.norm())
        assert 0 < factor < 0.01
        torch.testing.assert_close(less, factor * learned, rtol=0, atol=1e-3 * factor * float(learned.abs().max()))


def test_recurrent_synapses_learn_too():
    before, after = correlations(stepped(RULE, 0, recurrent=True)), correlations(stepped(RULE, 1, recurrent=True))
    assert len(before) == 3
    assert all(not torch.equal(0.9 * b, a) for b, a in zip(before, after, strict=True))


def test_what_takes_no_step_learns_nothing():
    net = stepped(RULE, steps=0)
    frozen, last = net.layers[0], net.layers[2]
    before = [c.clone() for c in correlations(net)]
    optimizer = torch.optim.SGD(last.parameters(), lr=0.1)
    sc.attach(net, optimizer)
    optimizer.step()  # no gradient yet
    assert all(map(torch.equal, before, correlations(net)))
    net(3 * torch.rand(5, 3, 6)).square().sum().backward()
    optimizer.step()
    assert torch.equal(frozen.feedback_weight, before[0])  # of another optimiser, or of none
    assert not torch.equal(last.feedback_weight, before[1])


def test_the_correlation_travels_with_the_state():
    net, other = stepped(RULE), stepped(RULE, steps=0)
    other.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    for a, b, c in zip(*map(correlations, (net, other, copied)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a.data_ptr() != c.data_ptr()
        assert not a.requires_grad


def test_a_resumed_run_has_the_same_correlation(tmp_path):
    overrides = ("pathway={kind: antiparallel, rate: 30.0}", "network.hidden=[12, 8]", "training.checkpoint_every=1",
                 "training.optimizer={kind: sgd, lr: 0.1, momentum: 0.5}")  # fmt: skip
    done = tiny.trainer(*overrides)
    done.fit()
    run = tiny.new_run(tmp_path / "run", *overrides)
    with pytest.raises(tiny.Stop):
        tiny.trainer(*overrides, run=run, progress=tiny.stopping_at(4)).fit()
    resumed = tiny.trainer(*overrides, run=run)
    resumed.restore()
    resumed.fit()
    for a, b in zip(done.net.synapses().values(), resumed.net.synapses().values(), strict=True):
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.feedback_weight, b.feedback_weight)


@pytest.mark.parametrize("constraint", [sc.Dale(), sc.Dale(feedback="own"), sc.Dale(mode="reparametrize")], ids=repr)
def test_dale(constraint):
    if constraint.mode == "reparametrize":
        with pytest.raises(ValueError, match=r"a constraint reparametrises this one: write Dale\(mode='project'\)"):
            stepped(RULE, constraint=constraint)
        return
    net = stepped(RULE, constraint=constraint)
    assert net.violations() == 0
    last = net.layers[2]
    if constraint.feedback == "own":
        assert torch.equal(last.feedback().sign(), last.postsynaptic_sign.expand_as(last.weight).float())
    else:
        assert torch.equal(last.feedback().sign(), last.feedback_weight.sign())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_to_one_graph_that_sees_what_was_learned():
    torch._dynamo.reset()
    net = stepped(RULE)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = 3 * torch.rand(5, 3, 6)
    for each, call in ((net, net), (twin, compiled)):
        for _ in range(2):
            each.zero_grad()
            call(x).square().sum().backward()
            for layer in each.synapses().values():
                layer.pathway.learn(layer)
    for a, b in zip(correlations(net), correlations(twin), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rate": 0.0}, r"rate must be a finite number above 0, got 0.0; .* SignSymmetry\(agreement=0.5\)"),
        ({"rate": math.inf}, "rate must be"),
        ({"decay": 1.0}, "decay is the share of the correlation forgotten per step, 0 to 1; got 1.0"),
        ({"decay": -0.1}, "decay is"),
        ({"scale": "strict"}, "scale must be one of 'fan_out', 'biotorch', 'xiao', got 'strict'"),
        ({"gain": 0.0}, "gain must be positive"),
    ],
)
def test_wrong_values_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        sc.Antiparallel(**wrong)

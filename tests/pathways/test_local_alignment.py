"""Local alignment losses: each primitive's gradient in closed form, and what the rules make of B."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.pathways import local_alignment
from spikecredit.pathways.local_alignment import PRIMITIVES, RULES
from spikecredit.synapses import LearningWarning

COEFFICIENTS = {"decay": 0.3, "amp": 0.7, "self_": 0.5, "sparse": 0.9, "null": 1.1}


def only(name, value=None, **options):
    return sc.LocalAlignment("none", **{name: COEFFICIENTS[name] if value is None else value}, **options)


def closed_form(name, w, b, x):
    """dP/dB and dP/dW of one primitive, P summed over units and averaged over the rows of x (N, in); W, B (out, in)."""
    n, (y, z) = len(x), (x @ w.T, x @ b.T)  # W x and B x
    moment = {
        "decay": (2 * b, 2 * w),
        "amp": (-(y.T @ x) / n, -(z.T @ x) / n),
        "self_": (-w, -b),
        "sparse": (2 * z.T @ x / n, 2 * y.T @ x / n),
        "null": (2 * y.T @ (y @ b) / n, 2 * (y @ b @ b.T).T @ x / n),
    }
    return moment[name]


def dense(pathway, dtype=torch.float64):
    torch.manual_seed(0)
    layer = sc.Linear(7, 5, pathway=pathway).to(dtype)
    return layer, torch.randn(4, 3, 7, dtype=dtype)


def gradients(layer, x, error=0.0):
    """Gradients of W and B of a backward pass whose own loss has the gradient `error` everywhere."""
    y = layer(x)
    y.backward(torch.full_like(y, error))
    return layer.weight.grad, layer.feedback_weight.grad


def primitive_error(name):
    """Largest error of the primitive's gradients, of B alone and of B and W."""
    worst = 0.0
    for forward in (False, True):
        layer, x = dense(only(name, update_forward=forward))
        rows = [t.detach() for t in (layer.weight, layer.feedback_weight, x.view(12, 7))]
        wanted_b, wanted_w = (COEFFICIENTS[name] * g for g in closed_form(name, *rows))
        w, b = gradients(layer, x)
        worst = max(worst, float((b - wanted_b).abs().max()))
        worst = max(worst, float((w - (wanted_w if forward else 0)).abs().max()))
        assert (w.abs().max() > 0.01) == forward
    return worst


@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_primitive_has_its_gradient(name):
    assert primitive_error(name) < 1e-13


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_closed_forms_notice_a_wrong_factor(name, monkeypatch):
    right = local_alignment._dot
    monkeypatch.setattr(local_alignment, "_dot", lambda a, b: right(a, b) / 2)
    assert primitive_error(name) > 0.01


def test_the_closed_forms_notice_the_reversed_reconstruction(monkeypatch):
    """W^T B x for B^T W x: an option of the published code, and not ours."""
    right = local_alignment.local_loss
    monkeypatch.setattr(local_alignment, "local_loss", lambda layer, x, w, b, c: right(layer, x, b, w, c))
    assert primitive_error("null") > 0.01


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": 2},  # the last row and column are reached by no window
    {"groups": 2, "dilation": 2},
    {"kernel_size": (4, 2), "padding": "same", "bias": False},
    {"padding": 1, "padding_mode": "circular"},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_convolutions_are_dense_layers_with_shared_weights(name, geometry):
    """The closed form of the dense matrix that a convolution stands for, brought back to the kernel by autograd."""
    torch.manual_seed(0)
    layer = sc.Conv2d(4, 6, pathway=only(name, update_forward=True), **{"kernel_size": 3, **geometry}).double()
    x = torch.randn(3, 2, 4, 6, 6, dtype=torch.float64)
    w, b = gradients(layer, x)
    basis = torch.eye(4 * 36, dtype=torch.float64).view(-1, 4, 6, 6)

    if name in ("decay", "self_"):  # sums over the weights themselves, each counted once
        w_, b_ = layer.weight.detach(), layer.feedback_weight.detach()
        wanted = (2 * w_, 2 * b_) if name == "decay" else (-b_, -w_)
        torch.testing.assert_close((w, b), tuple(COEFFICIENTS[name] * g for g in wanted))
        return

    def unrolled(kernel):
        images, shape = layer.pad(basis)
        return F.conv2d(images, kernel, None, *shape).flatten(1).t()  # (out, in)

    leaves = [t.detach().clone().requires_grad_() for t in (layer.weight, layer.feedback_weight)]
    matrices = [unrolled(kernel) for kernel in leaves]
    g_b, g_w = closed_form(name, *(m.detach() for m in matrices), x.view(6, -1))
    wanted = torch.autograd.grad(matrices, leaves, [g_w, g_b])
    torch.testing.assert_close(w, COEFFICIENTS[name] * wanted[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(b, COEFFICIENTS[name] * wanted[1], rtol=1e-10, atol=1e-12)


# ---- how the local loss joins the backward pass ----------------------------------------------------------------------


def test_the_local_gradient_adds_to_that_of_the_loss_and_does_not_scale_with_it():
    pathway = sc.LocalAlignment("information", update_forward=True)
    layer, x = dense(pathway)
    alone = [g.clone() for g in gradients(layer, x)]
    for error in (1.0, 1e6):
        layer.zero_grad()
        w, b = gradients(layer, x, error)
        delivered = torch.full((12, 5), error, dtype=torch.float64).T @ x.view(12, 7)
        torch.testing.assert_close(w, delivered + alone[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b, alone[1])


def test_the_error_below_is_that_of_b_alone():
    layer, x = dense(sc.LocalAlignment("information"))
    x.requires_grad_()
    y = layer(x)
    error = torch.randn_like(y)
    y.backward(error)
    torch.testing.assert_close(x.grad, (error @ layer.feedback_weight).detach(), rtol=1e-12, atol=1e-12)


def test_all_layers_of_a_network_have_one():
    torch.manual_seed(0)
    layers = sc.Conv2d(2, 3, 3), sc.MaxPool2d(2), sc.LIF(5.0), sc.Flatten(), sc.Linear(27, 6), sc.LIF(5.0)
    net = sc.Network(*layers, sc.Linear(6, 4), sc.LeakyReadout(), pathway=sc.LocalAlignment(), seed=0)
    net(2 * torch.rand(5, 3, 2, 8, 8)).sum().backward()
    for layer in net.synapses().values():
        assert layer.feedback_weight.grad.abs().max() > 0
    with torch.no_grad():
        net(torch.rand(5, 3, 2, 8, 8))  # no graph, no loss


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_recurrent_synapses_hear_the_spikes_before(backend):
    torch.manual_seed(0)
    pathway = sc.LocalAlignment("none", amp=1.0, null=0.5)
    layer = sc.RecurrentLinear(6, 8, sc.LIF(tau=5.0, backend=backend), pathway=pathway).double()
    x = 3 * torch.rand(9, 2, 6, dtype=torch.float64)
    head, state = layer.stream(x[:4])
    tail, _ = layer.stream(x[4:], state)
    (head.sum() + tail.sum()).backward()
    before = torch.cat([torch.zeros_like(head[:1]), head, tail]).detach()
    heard = before[:4].view(-1, 8), before[4:9].view(-1, 8)  # one chunk, one mean
    assert all(0.05 < h[2:].mean() < 0.9 for h in heard)
    v, b = layer.recurrent.weight.detach(), layer.recurrent.feedback_weight.detach()
    wanted = sum(closed_form("amp", v, b, h)[0] + 0.5 * closed_form("null", v, b, h)[0] for h in heard)
    torch.testing.assert_close(layer.recurrent.feedback_weight.grad, wanted, rtol=1e-10, atol=1e-12)
    assert layer.input.feedback_weight.grad.abs().max() > 0


@pytest.mark.parametrize("convolution", [False, True])
def test_half_precision(convolution):
    torch.manual_seed(0)
    pathway = sc.LocalAlignment("information")
    layer, x = sc.Linear(40, 30, pathway=pathway), torch.randn(16, 40)
    if convolution:
        layer, x = sc.Conv2d(4, 6, 3, pathway=pathway), torch.randn(8, 4, 9, 9)
    _, exact = gradients(layer, x)
    exact = exact.clone()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    found = layer.feedback_weight.grad
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < 0.02


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled():
    layers = sc.Conv2d(1, 4, 3), sc.MaxPool2d(2), sc.LIF(5.0), sc.Flatten(), sc.Linear(36, 5), sc.LeakyReadout(5.0)
    net = sc.Network(*layers, pathway=sc.LocalAlignment(), seed=1)
    twin = copy.deepcopy(net)
    x = 2 * torch.rand(6, 4, 1, 8, 8)
    torch.compile(twin, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    net(x).square().sum().backward()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
        assert a.grad.abs().max() > 0


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_the_rules_have_the_published_coefficients():
    """The defaults of the published code's params.py: alpha, beta, gamma there."""
    assert sc.LocalAlignment("mirror").coefficients == {"decay": 1e-3, "amp": 1e-3}
    assert sc.LocalAlignment("symmetric").coefficients == {"decay": 1e-3, "self_": 2e-3}
    assert sc.LocalAlignment("activation").coefficients == {"sparse": 1e-3, "amp": 2e-3}
    assert sc.LocalAlignment().coefficients == {"amp": 2e-3, "null": 1e-3, "decay": 1e-3}
    assert sc.LocalAlignment("kolen_pollack").coefficients == {"decay": 1e-3}
    assert sc.LocalAlignment("mirror", amp=0.5, null=0.0).coefficients == {"decay": 1e-3, "amp": 0.5, "null": 0.0}


def descended(pathway, steps=300, lr=100.0):
    """W and B after gradient descent of B on the local loss alone, for whitened input."""
    torch.manual_seed(0)
    layer = sc.Linear(20, 12, pathway=pathway).double()
    x = torch.linalg.qr(torch.randn(200, 20, dtype=torch.float64))[0] * math.sqrt(200)  # E x x^T = 1
    optimizer = torch.optim.SGD([layer.feedback_weight], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(x).backward(torch.zeros(200, 12, dtype=torch.float64))
        optimizer.step()
    return layer.weight.detach(), layer.feedback_weight.detach()


@pytest.mark.parametrize(("rule", "size"), [("symmetric", 1.0), ("activation", 1.0), ("mirror", 0.5)])
def test_b_goes_where_the_gradient_vanishes(rule, size):
    """Whitened input: symmetric and activation make B = W, the mirror B = amp / (2 decay) W."""
    w, b = descended(sc.LocalAlignment(rule))
    torch.testing.assert_close(b, size * w, rtol=1e-9, atol=1e-12)


def test_information_alignment_ends_near_a_pseudo_inverse():
    """0 = -amp W C + 2 null W C W^T B + 2 decay B: B = (amp / 2) (null W C W^T + decay)^-1 W C."""
    w, b = descended(sc.LocalAlignment("information"))
    wanted = torch.linalg.solve(w @ w.T + torch.eye(12, dtype=w.dtype), w)  # 2e-3 / 2 over 1e-3, 1e-3
    torch.testing.assert_close(b, wanted, rtol=1e-9, atol=1e-12)


def test_kolen_pollack_as_a_local_loss_is_kolen_pollack():
    """Tied gradients and decay lambda (|W|^2 + |B|^2) = a weight decay of 2 lambda of the optimiser."""
    ours, theirs = sc.LocalAlignment("kolen_pollack", decay=0.05), sc.KolenPollack()
    nets = []
    for pathway, decay in ((ours, 0.0), (theirs, 0.1)):
        torch.manual_seed(0)
        layers = [sc.Linear(6, 10), sc.LIF(5.0), sc.Linear(10, 4), sc.LeakyReadout(5.0)]
        net = sc.Network(*layers, pathway=pathway, seed=2).double()
        weights = [p for name, p in net.named_parameters() if "bias" not in name]
        optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": decay}, {"params": [layers[0].bias, layers[2].bias]}], lr=0.1
        )
        sc.attach(net, optimizer)
        for _ in range(30):
            optimizer.zero_grad()
            x = 2 * torch.rand(5, 8, 6, dtype=torch.float64)
            sc.losses.MeanPotential()(net(x), torch.arange(8) % 4).backward()
            optimizer.step()
        nets.append(net)
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_kolen_pollack_as_a_local_loss_refuses_a_reparametrised_weight_and_others_do_not():
    dale = sc.Dale(mode="reparametrize", magnitude="exp")
    with pytest.raises(ValueError, match=r"kolen_pollack.*no such parameter"):
        sc.Linear(4, 4, pathway=sc.LocalAlignment("kolen_pollack"), constraint=dale)
    layer = sc.Linear(7, 5, pathway=only("self_", update_forward=True), constraint=dale).double()
    _, b = gradients(layer, torch.randn(4, 7, dtype=torch.float64))
    torch.testing.assert_close(b, -0.5 * layer.effective_weight().detach())


def test_feedback_of_the_errors_own_neurons_keeps_its_signs():
    torch.manual_seed(0)
    layers = sc.Linear(6, 10), sc.LIF(5.0), sc.Linear(10, 4), sc.LeakyReadout(5.0)
    net = sc.Network(*layers, pathway=sc.LocalAlignment("symmetric", self_=1.0), constraint=sc.Dale(feedback="own"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    sc.attach(net, optimizer)
    last = net.layers[2]
    for _ in range(10):
        optimizer.zero_grad()
        net(torch.rand(4, 3, 6)).sum().backward()
        optimizer.step()
        assert net.violations() == 0
        assert torch.equal(last.pathway.feedback(last), last.feedback_weight)
    assert (last.feedback_weight == 0).any()  # where W and the row differ in sign
    free = sc.Linear(6, 10, pathway=sc.LocalAlignment(), constraint=sc.Dale())
    assert (free.feedback_weight * free.presynaptic_sign < 0).any()  # exempt: carriers of their own


def trained_angle(pathway):
    """The angle between W and B of the last layer after training on a small task."""
    torch.manual_seed(0)
    layers = sc.Linear(10, 20), sc.LIF(5.0), sc.Linear(20, 5), sc.LeakyReadout(5.0)
    net = sc.Network(*layers, pathway=pathway, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    sc.attach(net, optimizer)
    last, x, y = net.layers[2], 2 * torch.rand(5, 40, 10), torch.arange(40) % 5
    assert angle(last.feedback_weight, last.weight) > 75
    for _ in range(100):
        optimizer.zero_grad()
        sc.losses.MeanPotential()(net(x), y).backward()
        optimizer.step()
    return angle(last.feedback_weight, last.weight)


def test_every_rule_brings_b_closer_to_w_than_feedback_alignment_brings_w_to_b():
    fixed = trained_angle(sc.FeedbackAlignment())
    for rule in ("mirror", "symmetric", "activation", "information", "kolen_pollack"):
        times = 500 if rule == "activation" else 100  # it follows the input's variance only, which few spikes have
        strong = {name: times * coefficient for name, coefficient in RULES[rule].items()}
        assert trained_angle(sc.LocalAlignment(rule, **strong)) < fixed - 3, rule


def test_an_optimiser_without_b_is_warned_of():
    layer = sc.Linear(4, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    net = sc.Network(layer, pathway=sc.LocalAlignment())
    net(torch.randn(2, 3, 4)).square().sum().backward()
    optimizer.step()
    sc.after_step(net, optimizer)
    with pytest.warns(LearningWarning, match="LocalAlignment"):
        net(torch.randn(2, 3, 4))


OPTIONS = {
    "rule": "mirror", "decay": 0.5, "amp": 0.5, "self_": 0.5, "sparse": 0.5, "null": 0.5, "update_forward": True,
    "scale": "xiao", "gain": 2.0,
}  # fmt: skip


def outcome(**options):
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(7, 5), pathway=sc.LocalAlignment(**options), seed=0)
    gradients(net.layers[0], torch.randn(4, 3, 7))
    return torch.cat([p.grad.flatten() for p in net.parameters()])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_result(name):
    assert not torch.equal(outcome(), outcome(**{name: OPTIONS[name]}))
    assert OPTIONS.keys() == vars(sc.LocalAlignment()).keys() - {"error"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "weight_mirror"}, "rule must be one of 'mirror', 'symmetric', .*, got 'weight_mirror'"),
        ({"amp": -1.0}, "amp is a coefficient >= 0, got -1.0"),
        ({"null": math.inf}, "null is a coefficient >= 0, got inf"),
        ({"rule": "none"}, "rule='none' needs a coefficient: write decay=, amp="),
        ({"scale": "strict"}, "scale must be one of"),
        ({"gain": 0.0}, "gain must be positive"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sc.LocalAlignment(**options)

"""DANN layers: the paper's equation, its initialisation and corrections, and what the error sees."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis.alignment import angle
from spikecredit.pathways import PATHWAYS
from spikecredit.synapses.dann import DANNSynapse

EPSILON = 1e-8  # of the paper's code


def close(a, b, tolerance=1e-12):
    """Relative to the largest entry."""
    assert a.shape == b.shape
    a, b = a.detach(), b.detach()
    assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()), float((a - b).abs().max() / b.abs().max())


def perturbed(layer, seed=0):
    """In float64, with parameters that are nowhere equal and no longer those of the start."""
    torch.manual_seed(seed)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5 + torch.rand_like(parameter)).add_(0.1 * torch.rand_like(parameter))
    return layer


def block_diagonal(layer):
    """W_EI (n_e, n_i) of a layer, with zeros between groups, as a function of the stored one."""
    blocks = layer["weight_ei"].unflatten(0, (layer["groups"], -1))
    return torch.block_diag(*blocks)


def paper(p, x, mix, detach_gain=False):
    """z = (g / gamma) (W_EX x - W_EI W_IX x) + b, written out; mix(W, x) is W x, or the convolution."""
    tail = (1,) * (p["weight"].ndim - 2)
    w_ei = block_diagonal(p)
    act = "oi,...ihw->...ohw" if tail else "oi,...i->...o"
    excitation, inhibitory = mix(p["weight"], x), mix(p["weight_ix"], x)
    z = excitation - torch.einsum(act, w_ei, inhibitory)
    if p["alpha"] is not None:
        heard = mix(p["weight_ix"], x.detach()) if detach_gain else inhibitory
        gamma = torch.einsum(act, p["alpha"].exp() * w_ei, heard) + EPSILON
        z = p["gain"].view(-1, *tail) / gamma * z
    return z + p["bias"].view(-1, *tail)


def leaves(layer):
    names = ("weight", "weight_ix", "weight_ei", "alpha", "gain", "bias")
    p = {n: getattr(layer, n) for n in names}
    return {n: v if v is None else v.detach().clone().requires_grad_() for n, v in p.items()} | {"groups": layer.groups}


def product(layer):
    if isinstance(layer, sc.DANNLinear):
        return lambda w, x: torch.einsum("oi,...i->...o", w, x)

    def convolve(w, x):
        padding = layer.padding
        if layer.padding_mode != "zeros":
            x, padding = F.pad(x, (1, 1, 1, 1), mode=layer.padding_mode), 0
        return F.conv2d(x, w, None, layer.stride, padding, layer.dilation, layer.groups)

    return convolve


LAYERS = {
    "dense": (lambda **o: sc.DANNLinear(7, 9, 3, **o), (4, 7)),
    "dense, one inhibitory": (lambda **o: sc.DANNLinear(7, 9, 1, **o), (4, 7)),
    "convolution": (lambda **o: sc.DANNConv2d(2, 6, 3, 2, 1, inhibitory=3, **o), (3, 2, 6, 6)),
    "same": (lambda **o: sc.DANNConv2d(2, 6, (5, 3), padding="same", inhibitory=2, **o), (3, 2, 5, 5)),
    "groups, dilation": (lambda **o: sc.DANNConv2d(4, 6, 3, dilation=2, groups=2, inhibitory=4, **o), (2, 4, 6, 6)),
    "circular": (lambda **o: sc.DANNConv2d(2, 4, 3, padding=1, padding_mode="circular", **o), (2, 2, 4, 4)),
}
FACTORS = {"weight_ix": lambda n, d: math.sqrt(n), "weight_ei": lambda n, d: d, "alpha": lambda n, d: math.sqrt(n) * d}


def check_equation(name, divisive=True, corrections=False, pathway=None):
    """Forward and all gradients against the equation written out, under plain autograd."""
    make, shape = LAYERS[name]
    layer = perturbed(make(divisive=divisive, corrections=corrections, pathway=pathway))
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    p, ours = leaves(layer), layer(x)
    twin = x.detach().clone().requires_grad_()
    theirs = paper(p, twin, product(layer), detach_gain=pathway is not None)
    close(ours, theirs)
    delta = torch.randn_like(theirs)
    ours.backward(delta)
    theirs.backward(delta)
    n_e, d = layer.weight.shape[0] // layer.groups, layer.weight[0].numel()
    for key, leaf in p.items():
        if isinstance(leaf, torch.Tensor):
            factor = FACTORS[key](n_e, d) if corrections and key in FACTORS else 1
            close(getattr(layer, key).grad, leaf.grad / factor, 1e-11)
    if pathway is None:
        close(x.grad, twin.grad, 1e-11)
    return layer, x, delta, twin


@pytest.mark.parametrize("divisive", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_papers_equation_forwards_and_backwards(name, divisive):
    check_equation(name, divisive)


@pytest.mark.parametrize("name", LAYERS)
def test_corrections_divide_three_gradients_and_no_other(name):
    check_equation(name, corrections=True)
    check_equation(name, divisive=False, corrections=True)


@pytest.mark.parametrize(("n_e", "d"), [(9, 7), (4, 16)])
def test_the_ratio_of_corrected_to_raw_gradients(n_e, d):
    torch.manual_seed(0)
    raw = sc.DANNLinear(d, n_e, 2, corrections=False).double()
    corrected = sc.DANNLinear(d, n_e, 2).double()
    corrected.load_state_dict(raw.state_dict())
    x = torch.rand(5, d, dtype=torch.float64)
    for layer in (raw, corrected):
        layer(x).square().sum().backward()
    ratios = {"weight_ix": 1 / math.sqrt(n_e), "weight_ei": 1 / d, "alpha": 1 / (math.sqrt(n_e) * d)}
    for name in ("weight", "gain", "bias", *ratios):
        a, b = (getattr(layer, name).grad for layer in (corrected, raw))
        torch.testing.assert_close(a, b * ratios.get(name, 1), rtol=1e-13, atol=0)


def test_corrections_survive_a_copy():
    layer = sc.DANNLinear(6, 4, 2)
    twin = copy.deepcopy(layer)
    for each in (layer, twin):
        each(torch.ones(3, 6)).square().sum().backward()
    assert torch.equal(twin.weight_ei.grad, layer.weight_ei.grad) and layer.weight_ei.grad.any()


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_i", [1, 4])
def test_without_division_it_is_the_dense_layer_of_the_effective_weight(n_i):
    layer = perturbed(sc.DANNLinear(30, 20, n_i, divisive=False))
    x = torch.rand(5, 30, dtype=torch.float64)
    close(layer(x), F.linear(x, layer.weight - layer.weight_ei @ layer.weight_ix, layer.bias))
    close(layer.effective_weight(), layer.weight - layer.weight_ei @ layer.weight_ix)


def test_one_inhibitory_unit_subtracts_the_mean_at_the_start():
    for layer in (sc.DANNLinear(50, 40, 1), sc.DANNConv2d(3, 40, 5, inhibitory=1)):
        assert layer.double().reset_parameters() is None
        assert layer.effective_weight().mean(0).abs().max() < 1e-15
        assert layer.effective_weight().std() > 0.05


@pytest.mark.parametrize("n_i", [1, 5, 50])
def test_li_subtracts_the_mean_exactly_whatever_the_number_of_inhibitory_units(n_i):
    torch.manual_seed(0)
    for layer in (
        sc.DANNLinear(500, 500, n_i, initialisation="li", divisive=False).double(),
        sc.DANNLinear(500, 500, n_i, initialisation="li").double(),
    ):
        layer.reset_parameters()
        assert layer.effective_weight().mean(0).abs().max() < 1e-15
        assert (layer.weight_ei.sum(1) - 1).abs().max() < 1e-12
        assert n_i == 1 or layer.weight_ei.std() > 0.01 / n_i
        x = torch.randn(1000, 500, dtype=torch.float64).relu()
        z = layer(x).detach()
        assert abs(float(z.std()) - 1) < 0.05 and abs(float(z.mean())) < 1e-12


def test_li_subtracts_the_mean_of_each_group():
    layer = sc.DANNConv2d(4, 30, 3, groups=2, inhibitory=6, initialisation="li").double()
    layer.reset_parameters()
    assert layer.effective_weight().unflatten(0, (2, 15)).mean(1).abs().max() < 1e-15


@pytest.mark.parametrize("n_i", [1, 50])
def test_statistics_at_the_start(n_i):
    """E[gamma] = 1, z-hat of mean 0 and standard deviation sqrt(pi / (2 pi - 1)), for x half-rectified N(0, 1)."""
    torch.manual_seed(1)
    layer = sc.DANNLinear(500, 500, n_i).double()
    layer.reset_parameters()
    x = torch.randn(2000, 500, dtype=torch.float64).relu()
    gamma = ((x @ layer.weight_ix.t()) @ (layer.alpha.exp() * layer.weight_ei).t()).detach()
    assert abs(float(gamma.mean()) - 1) < 0.05
    z_hat = (x @ layer.effective_weight().t()).detach()
    assert abs(float(z_hat.std()) / math.sqrt(math.pi / (2 * math.pi - 1)) - 1) < 0.05
    assert abs(float(z_hat.mean())) < (1e-12 if n_i == 1 else 0.1)
    assert (layer.gain == 1).all() and not layer.bias.any()
    close(layer(x), layer(3 * x), 1e-6)  # the division takes the input's scale out


def test_sizes_of_the_starts():
    torch.manual_seed(0)
    d = 400
    sigma = math.sqrt(2 * math.pi / (d * (2 * math.pi - 1)))
    scale = math.sqrt((2 * math.pi - 1) / d)
    for layer, expected in (
        (sc.DANNLinear(d, 300, 30), sigma),
        (sc.DANNLinear(d, 300, 30, initialisation="cornford_first"), math.sqrt(1 / (2 * d))),
        (sc.DANNConv2d(16, 300, 5, inhibitory=30), sigma),
        (sc.DANNConv2d(32, 300, 5, groups=2, inhibitory=30), sigma),
    ):
        for w in (layer.weight.detach(), layer.weight_ix.detach()):  # exponential: mean = standard deviation = sigma
            assert abs(float(w.mean()) / expected - 1) < 0.03 and abs(float(w.std()) / expected - 1) < 0.05
            assert w.min() >= 0
        assert torch.allclose(layer.alpha.exp(), torch.tensor(scale))
        assert torch.allclose(layer.weight_ei, torch.tensor(layer.groups / 30))


# ---- what the error sees ---------------------------------------------------------------------------------------------


def deliver(layer, signal, matrix, shape):
    """M^T signal, by autograd of the plain product."""
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    product(layer)(matrix, x).backward(signal)
    return x.grad


def gain_of(layer, x):
    """g / gamma, by the definition."""
    tail = (1,) * (layer.weight.ndim - 2)
    p = leaves(layer)
    act = "oi,...ihw->...ohw" if tail else "oi,...i->...o"
    gamma = torch.einsum(act, p["alpha"].exp() * block_diagonal(p), product(layer)(p["weight_ix"], x)) + EPSILON
    return (p["gain"].view(-1, *tail) / gamma).detach()


def check_delivered(name, pathway, corrections=True):
    """Parameters get the true gradients; x gets B^T (g / gamma delta), with no path through gamma."""
    layer, x, delta, _ = check_equation(name, corrections=corrections, pathway=pathway)
    effective = (layer.weight - torch.einsum("oi,i...->o...", block_diagonal(leaves(layer)), layer.weight_ix)).detach()
    B = layer.pathway.feedback(layer)
    if isinstance(pathway, sc.SignSymmetry):
        close(B, effective.sign() / math.sqrt(layer.fan_out))
    close(x.grad, deliver(layer, gain_of(layer, x.detach()) * delta, B, x.shape), 1e-11)


@pytest.mark.parametrize("pathway", [sc.FeedbackAlignment(), sc.SignSymmetry()], ids=["fa", "ss"])
@pytest.mark.parametrize("name", LAYERS)
def test_other_pathways_deliver_through_b_and_take_the_gain_as_constant(name, pathway):
    check_delivered(name, pathway)


def test_without_the_cut_backprop_would_deliver_more():
    """With B = W the delivered error is still not backprop's: the path through gamma is missing."""
    make, shape = LAYERS["dense"]
    layer = perturbed(make(pathway=sc.FeedbackAlignment()))
    layer.feedback_weight.copy_(layer.effective_weight())
    exact = perturbed(make())
    grads = []
    for each in (layer, exact):
        x = torch.linspace(0.1, 1, 28, dtype=torch.float64).reshape(shape).requires_grad_()
        each(x).square().sum().backward()
        grads.append(x.grad)
    assert (grads[0] - grads[1]).norm() > 0.1 * grads[1].norm()


def test_direct_feedback_reaches_the_neurons_and_the_weights_learn_by_it():
    torch.manual_seed(0)
    layers = sc.DANNLinear(6, 8, 2), sc.ReLU(), sc.DANNLinear(8, 3, 1)
    net = sc.Network(*layers, pathway=sc.DirectFeedbackAlignment(), seed=0).double()
    x = torch.rand(1, 5, 6, dtype=torch.float64)
    net.materialise(x)
    out = net(x)
    error = torch.randn_like(out)
    out.backward(error)
    (B,) = (b for b in net.broadcast.buffers() if b.ndim > 1)
    p = leaves(net.layers[0])
    z = paper(p, x, product(net.layers[0]))
    z.backward(error @ B * (z > 0))
    for key, factor in (("weight", 1), ("weight_ei", 6), ("weight_ix", math.sqrt(8)), ("gain", 1)):
        close(getattr(net.layers[0], key).grad, p[key].grad / factor, 1e-10)


@pytest.mark.parametrize("kind", PATHWAYS)
def test_every_pathway_trains_spiking_networks_or_is_refused(kind):
    torch.manual_seed(0)
    pathway = PATHWAYS[kind]()

    def build():
        layers = sc.DANNConv2d(1, 6, 3), sc.MaxPool2d(2), sc.LIF(5.0), sc.Flatten(), sc.DANNLinear(54, 20), sc.LIF(5.0)
        return sc.Network(*layers, sc.DANNLinear(20, 3), sc.LeakyReadout(5.0), pathway=pathway, seed=0)

    if kind == "kolen_pollack":
        with pytest.raises(ValueError, match="made from three"):
            build()
        return
    net, x = build(), sc.encode.constant(torch.rand(8, 1, 8, 8), 5)
    y = torch.arange(8) % 3
    net.materialise(x)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    sc.attach(net, optimizer)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x).mean(0), y)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and net.violations() == 0
    assert set(sc.analysis.alignment(net, x, y)) == set(net.synapses())


def test_the_mirror_learns_the_effective_weight():
    torch.manual_seed(0)
    layer = sc.DANNLinear(40, 30, 3, pathway=sc.WeightMirror(response="current", samples=400, initial=100))
    assert angle(layer.feedback_weight, layer.effective_weight()) < 15
    assert angle(layer.feedback_weight, layer.weight) > 30


def test_a_silent_input_delivers_a_finite_error():
    layer = sc.DANNLinear(6, 4, 2).double()
    x = torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)
    z = layer(x)
    assert torch.equal(z, layer.bias.expand(3, 4))
    z.backward(torch.ones_like(z))
    close(x.grad, layer.effective_weight().sum(0).expand(3, 6).detach(), 1e-9)  # gamma = 1: gain g = 1
    assert all(p.grad.isfinite().all() for p in layer.parameters())


# ---- mutants: the checks above must notice them ----------------------------------------------------------------------


def flip_inhibition(monkeypatch):
    def wrong(self):
        return self.weight + self.weight_ei @ self.weight_ix

    monkeypatch.setattr(DANNSynapse, "effective_weight", wrong)


def leave_out_corrections(monkeypatch):
    monkeypatch.setattr(DANNSynapse, "_corrected", lambda self, parameter, divisor: parameter)


def forget_the_exponential(monkeypatch):
    normalise = DANNSynapse.normalise

    def wrong(self, current, inhibitory):
        return normalise(self, current, inhibitory / self.alpha.exp() * self.alpha.abs())

    monkeypatch.setattr(DANNSynapse, "normalise", wrong)


def leave_the_gain_open(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "detach", lambda self: self)


def test_the_checks_notice_a_mutant(monkeypatch):
    pathway = sc.FeedbackAlignment()
    for mutate, check in (
        (flip_inhibition, lambda: check_equation("dense")),
        (leave_out_corrections, lambda: check_equation("dense", corrections=True)),
        (forget_the_exponential, lambda: check_equation("dense")),
        (leave_the_gain_open, lambda: check_open_gain(pathway)),
    ):
        check()
        with monkeypatch.context() as patch:
            mutate(patch)
            with pytest.raises(AssertionError):
                check()


def check_open_gain(pathway):
    """The delivered error alone, with what it should be computed before anything is changed."""
    layer = perturbed(sc.DANNLinear(7, 9, 3))
    layer.feedback_weight = torch.randn(9, 7, dtype=torch.float64)
    layer.pathway = pathway
    x = torch.rand(4, 7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        gain = gain_of(layer, x)
    layer(x).sum().backward()
    close(x.grad, gain @ layer.feedback_weight)

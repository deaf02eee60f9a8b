"""Errors that lose their size or their extremes on the way: formulas, where they are applied, and with what."""

import copy
import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.pathways import PATHWAYS
from spikecredit.pathways.error import Transmit

SIGN, CLIP = sc.SignOnly(), sc.Clipped(1.5)
errors = pytest.mark.parametrize("error", [SIGN, CLIP], ids=repr)
layered = [kind for kind in PATHWAYS.values() if kind is not sc.MimicFeedbackAlignment and not kind.direct]


def written_out(error, d):
    size = np.abs(d).mean()
    return np.sign(d) * size if error == SIGN else np.clip(d, -error.limit * size, error.limit * size)


def test_known_answers():
    d = torch.tensor([[4.0, -1.0, 0.0], [-2.0, 0.5, -4.5]])  # mean size 2
    assert torch.equal(sc.Graded()(d), d)
    assert SIGN(d).tolist() == [[2.0, -2.0, 0.0], [-2.0, 2.0, -2.0]]
    assert CLIP(d).tolist() == [[3.0, -1.0, 0.0], [-2.0, 0.5, -3.0]]
    assert sc.Clipped(10.0)(d).tolist() == d.tolist()


numbers = nps.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3, allow_subnormal=False))


@given(numbers, st.floats(1e-6, 1e6), st.floats(0.01, 10.0))
def test_what_is_lost_is_information_not_size(values, scale, limit):
    d = torch.from_numpy(values)
    for error in (SIGN, sc.Clipped(limit)):
        received = error(d)
        torch.testing.assert_close(error(scale * d), scale * received, rtol=1e-9, atol=1e-12 * scale)
        assert ((received == 0) | (received.sign() == d.sign())).all()
        np.testing.assert_allclose(received.numpy(), written_out(error, values), rtol=1e-12, atol=1e-300)
    assert (sc.Clipped(limit)(d).abs() <= d.abs()).all()
    if values.any():
        torch.testing.assert_close(SIGN(d).abs().sum() / (d != 0).sum(), d.abs().mean())


@errors
@pytest.mark.parametrize("kind", layered)
@pytest.mark.parametrize("convolution", [False, True])
def test_the_delivered_error_and_nothing_else_passes_through_it(kind, convolution, error):
    def gradients(pathway):
        torch.manual_seed(0)
        layer = sc.Conv2d(3, 4, 3, padding=1, pathway=pathway) if convolution else sc.Linear(6, 5, pathway=pathway)
        layer.double()
        x = torch.randn(4, 3, 5, 5) if convolution else torch.randn(2, 4, 6)
        x = x.double().requires_grad_()
        y = layer(x)
        return torch.autograd.grad(y, [x, *layer.parameters()], torch.randn_like(y))

    d, *weights = gradients(kind())
    received, *others = gradients(kind(error=error))
    np.testing.assert_allclose(received.numpy(), written_out(error, d.numpy()), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(received, d)
    for a, b in zip(weights, others, strict=True):
        assert torch.equal(a, b)


def two_layers(error):
    """Gradient of the first weights of a rate network, found and written out with the error applied to B^T delta."""
    torch.manual_seed(0)
    layers = sc.Linear(5, 8), sc.ReLU(), sc.Linear(8, 3)
    net = sc.Network(*layers, pathway=sc.FeedbackAlignment(error=error), seed=1).double()
    x, target = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 6, 3, dtype=torch.float64)
    ((net(x) - target).square().sum() / 2).backward()
    w1, b1, w2, b2 = (p.detach().numpy() for p in net.parameters())
    hidden = x.numpy() @ w1.T + b1
    delta = np.maximum(hidden, 0) @ w2.T + b2 - target.numpy()
    delivered = written_out(error, delta @ layers[2].feedback().numpy()) * (hidden > 0)
    return layers[0].weight.grad.numpy(), np.einsum("tbo,tbi->oi", delivered, x.numpy())


@errors
def test_hidden_gradients_are_the_written_out_rule(error):
    found, wanted = two_layers(error)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_an_error_coded_before_the_feedback_weights_is_noticed(monkeypatch):
    """The check above sees the difference between f(B^T delta) and B^T f(delta)."""

    class Coded(sc.Linear):
        def forward(self, x):
            y = self.apply_weights(x, self.effective_weight(), self.feedback())
            return Transmit.apply(y, self.pathway.error)

    monkeypatch.setattr(sc, "Linear", Coded)
    found, wanted = two_layers(SIGN)
    assert np.abs(found - wanted).max() > 0.1 * np.abs(wanted).max()


@errors
@pytest.mark.parametrize("pool", [sc.AvgPool2d, sc.MaxPool2d])
def test_the_pooled_convolution_codes_whole_errors_not_chunks(error, pool, monkeypatch):
    monkeypatch.setattr("spikecredit.synapses.pooled.CHUNK", 1)  # one image at a time

    def gradients(watched):
        torch.manual_seed(0)
        layers = sc.Conv2d(1, 3, 3, padding=1), sc.LIF(5.0), sc.Conv2d(3, 4, 3, padding=1), pool(2)
        net = sc.Network(*layers, pathway=sc.FeedbackAlignment(error=error), seed=1)
        if watched:  # the two layers one after the other
            layers[2].register_forward_hook(lambda *_: None)
        out = net(4 * torch.rand(3, 5, 1, 6, 6))
        (out * torch.randn(out.shape)).sum().backward()
        return layers[0].weight.grad

    torch.testing.assert_close(gradients(False), gradients(True), rtol=1e-4, atol=1e-6)


def test_graded_errors_and_inputs_without_gradient_cost_nothing():
    x = torch.randn(2, 3, requires_grad=True)
    layer = sc.Linear(3, 3, pathway=sc.FeedbackAlignment())
    assert layer.pathway.carry(x, layer) is x
    layer = sc.Linear(3, 3, pathway=sc.FeedbackAlignment(error=SIGN))
    assert layer.pathway.carry(x.detach(), layer) is not x
    assert layer.pathway.carry(x.detach(), layer).grad_fn is None


def test_a_recurrent_layer_refuses_what_its_kernel_cannot_do():
    with pytest.raises(
        ValueError, match=r"RecurrentLinear0: the recurrent kernel delivers errors as they are, without"
    ):
        sc.Network(sc.RecurrentLinear(3, 4), pathway=sc.SignSymmetry(error=SIGN))
    own = sc.RecurrentLinear(3, 4, pathway=sc.FeedbackAlignment())
    sc.Network(own, sc.Linear(4, 3), pathway=sc.SignSymmetry(error=SIGN))


def spiking(pathway):
    torch.manual_seed(0)
    layers = sc.Conv2d(1, 4, 3), sc.LIF(5.0), sc.MaxPool2d(2), sc.Flatten(), sc.Linear(36, 10), sc.LIF(5.0)
    return sc.Network(*layers, sc.Linear(10, 5), sc.LeakyReadout(5.0), pathway=pathway, seed=1)


@errors
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_to_one_graph_and_survives_copies(error):
    torch._dynamo.reset()
    net = spiking(sc.SignSymmetry(error=error))
    twin = copy.deepcopy(net)
    x = 4 * torch.rand(4, 3, 1, 8, 8)
    for call in (net, torch.compile(twin, fullgraph=True, backend="aot_eager")):
        call(x).mean(0).square().sum().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5 * float(p.grad.abs().max()))


@errors
def test_half_precision_and_channels_last(error):
    net = spiking(sc.SignSymmetry(error=error)).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(net(4 * torch.rand(4, 3, 1, 8, 8)).float().mean(0), torch.arange(3)).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_a_mean_of_many_small_half_precision_errors_is_exact():
    d = torch.full((4096,), 2.0**-10, dtype=torch.bfloat16)  # a running bf16 sum would stop growing at 2^-2
    assert torch.equal(SIGN(d), d)


def test_a_configuration_names_it():
    for text, wanted in (
        ("sign", SIGN), ("graded", sc.Graded()), ("{kind: clip, limit: 2}", sc.Clipped(2.0)), ("clip", sc.Clipped()),
    ):  # fmt: skip
        loaded = tiny.configured(f"pathway={{kind: backprop, error: {text}}}")
        assert loaded.value.pathway == sc.Backprop(error=wanted)


def test_wrong_values_are_refused():
    for kind in PATHWAYS.values():
        with pytest.raises(
            TypeError, match=r"error must be Graded\(\), SignOnly\(\) or Clipped\(limit=...\), got 'sign'"
        ):
            kind(error="sign")
    for limit in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"limit is a multiple of the mean size .* write error: graded"):
            sc.Clipped(limit)


@pytest.mark.parametrize("kind", [kind for kind in PATHWAYS.values() if kind.direct])
def test_direct_pathways_have_no_errors_to_code(kind):
    with pytest.raises(ValueError, match="no error travels through synapses"):
        kind(error=SIGN)

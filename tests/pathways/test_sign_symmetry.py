"""Sign symmetry: closed-form angles, exact equalities, and the stream of magnitudes drawn anew."""

import copy
import math

import pytest
import torch
from feedback_oracles import relative, use
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.pathways import sign_symmetry
from spikecredit.pathways.pathway import feedback_rms, random_feedback
from spikecredit.seeds import draw, generator


def layer_with(pathway, weight):
    torch.manual_seed(0)
    layer = sc.Linear(weight.shape[1], weight.shape[0], bias=False, pathway=pathway).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def large(kind):
    g = torch.Generator().manual_seed(1)
    shape = 1000, 1000
    if kind == "gaussian":
        return torch.randn(shape, generator=g)
    uniform = torch.rand(shape, generator=g)
    return 2 * uniform - 1 if kind == "uniform" else -torch.log1p(-uniform)  # exponential: magnitudes under Dale's law


# cos = E|W| / rms for constant magnitudes, E|W| E|M| / (rms W rms M) for random ones: 2/pi for two Gaussians, 3/4 for
# two uniforms, sqrt(2/pi), sqrt(3)/2 and 1/sqrt(2) for a constant with a Gaussian, a uniform, an exponential.
@pytest.mark.parametrize(
    ("pathway", "kind", "degrees"),
    [
        (sc.SignSymmetry(), "gaussian", 37.07),
        (sc.SignSymmetry(), "uniform", 30.00),
        (sc.SignSymmetry(), "exponential", 45.00),
        (sc.SignSymmetry("fixed"), "gaussian", 50.46),
        (sc.SignSymmetry("fixed", "xiao"), "uniform", 41.41),
        (sc.SignSymmetry("fixed", "biotorch"), "uniform", 41.41),
        (sc.SignSymmetry("batch"), "gaussian", 50.46),
        (sc.SignSymmetry(scale="strict"), "gaussian", 37.07),
    ],
)
def test_closed_form_angles(pathway, kind, degrees):
    layer = layer_with(pathway, large(kind))
    assert angle(layer.pathway.feedback(layer), layer.weight) == pytest.approx(degrees, abs=0.2)


@pytest.mark.parametrize("magnitude", ["uniform", "fixed", "batch"])
def test_strict_feedback_has_the_norm_of_the_weights(magnitude):
    layer = layer_with(sc.SignSymmetry(magnitude, "strict"), large("gaussian").double()[:300])
    for weight in (layer.weight.detach().clone(), 5 * large("exponential").double()[:300]):
        with torch.no_grad():
            layer.weight.copy_(weight)  # followed at every step
        assert float(layer.feedback().norm() / weight.norm()) == pytest.approx(1, abs=1e-7)
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer.feedback().any()  # and no NaN


def deep(depth, pathway, c):
    """A linear chain in which every |W| = c, and the gradients of its weights."""
    g = torch.Generator().manual_seed(2)
    layers = [sc.Linear(12, 12, bias=False) for _ in range(depth)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(c * torch.randn(12, 12, generator=g).sign())
    net = sc.Network(*layers, pathway=pathway, seed=0).double()
    x = torch.randn(3, 4, 12, generator=g).double()
    net(x).tanh().sum().backward()
    return [layer.weight.grad for layer in layers]


def test_constant_weights_of_the_same_scale_are_backprop():
    c = 12**-0.5  # fan_out scale of 12 units
    for f, w in zip(deep(4, sc.SignSymmetry(), c), deep(4, None, c), strict=True):
        assert relative(f, w) < 1e-7  # c rounded to float32 in the weights
    for f, w in zip(deep(4, sc.SignSymmetry(scale="strict"), 0.3), deep(4, None, 0.3), strict=True):
        assert relative(f, w) < 1e-12


def test_a_wrong_scale_compounds_over_depth_without_turning_the_error():
    c, gain = 0.25, 1.5
    ratio = gain * 12**-0.5 / c
    found, true = deep(4, sc.SignSymmetry(gain=gain), c), deep(4, None, c)
    for above, (f, w) in enumerate(zip(reversed(found), reversed(true), strict=True)):
        assert relative(f, ratio**above * w) < 1e-12
        assert angle(f, w) < 1e-5


def test_signs_follow_the_weights_and_zero_gets_no_feedback():
    weight = torch.tensor([[1.0, -2.0, 0.0], [-3.0, 0.0, 4.0]])
    for pathway in (sc.SignSymmetry(), sc.SignSymmetry("fixed"), sc.SignSymmetry("batch")):
        layer = layer_with(pathway, weight)
        assert torch.equal(layer.feedback().sign(), weight.sign())
        with torch.no_grad():
            layer.weight.neg_()
        assert torch.equal(layer.feedback().sign(), -weight.sign())


def test_fixed_magnitudes_are_fixed_and_kept_as_magnitudes():
    layer = layer_with(sc.SignSymmetry("fixed"), large("gaussian")[:20, :30])
    before = layer.feedback()
    assert torch.equal(layer.feedback(), before)
    assert (layer.feedback_weight >= 0).all()
    # The reported matrix is the effective one: |M| alone would be near 90 degrees.
    assert angle(layer.pathway.feedback(layer), layer.weight) < 60
    assert angle(layer.feedback_weight, layer.weight) > 80


def batch_net(seed=5):
    torch.manual_seed(0)
    layers = [sc.Linear(8, 8, bias=False), sc.Linear(8, 8, bias=False)]
    return sc.Network(*layers, pathway=sc.SignSymmetry("batch"), seed=seed)


def delivered(net):
    """B of the last layer as the error sees it: the input error for each unit error."""
    x = torch.eye(8)[None].requires_grad_()
    y = net.layers[1](x)
    return torch.autograd.grad(y, x, torch.eye(8)[None])[0][0]


def test_batch_magnitudes_are_drawn_at_every_forward_pass_from_the_seed():
    net, same, other = batch_net(), batch_net(), batch_net(seed=6)
    draws = [delivered(net) for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    assert all(torch.equal(d, delivered(same)) for d in draws)
    assert not torch.equal(draws[0], delivered(other))
    assert torch.equal(draws[0].sign(), net.layers[1].weight.sign())


def test_one_backward_pass_uses_the_draw_of_its_own_forward_pass():
    net = batch_net()
    x = torch.eye(8)[None].requires_grad_()
    first = net.layers[1](x)
    net.layers[1](x)  # draws again
    twin = batch_net()
    assert torch.equal(torch.autograd.grad(first, x, torch.eye(8)[None])[0][0], delivered(twin))


def test_the_noise_counter_travels_with_the_state():
    net = batch_net()
    for _ in range(3):
        delivered(net)
    restored = batch_net(seed=99)
    restored.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    draw = delivered(net)
    assert torch.equal(draw, delivered(restored))
    assert torch.equal(draw, delivered(copied))
    assert not torch.equal(draw, delivered(batch_net()))


def test_evaluation_draws_nothing():
    net = batch_net()
    with torch.no_grad():
        net(torch.ones(2, 3, 8))
    assert [layer.noise.count for layer in net.layers] == [0, 0]
    net(torch.ones(2, 3, 8))
    assert [layer.noise.count for layer in net.layers] == [0, 1]  # the first delivers to nobody


@pytest.mark.parametrize("magnitude", ["uniform", "fixed"])
def test_dale_makes_uniform_feedback_rank_one(magnitude):
    """The documented degeneracy: under Dale's law every unit gets the same error up to sign, with a softmax none."""
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(6, 30), sc.LIF(), sc.Linear(30, 10), pathway=sc.SignSymmetry(magnitude), constraint=sc.Dale(), seed=1
    )
    feedback = net.layers[2].pathway.feedback(net.layers[2]).double()
    assert torch.linalg.matrix_rank(feedback) == (1 if magnitude == "uniform" else 10)
    error = F.one_hot(torch.arange(10), 10).double() - 0.1
    vanishes = (error @ feedback).abs().max() < 1e-6
    assert bool(vanishes) == (magnitude == "uniform")


# ---- partial agreement -----------------------------------------------------------------------------------------------

MAGNITUDES = ["uniform", "fixed", "batch"]


def agreement_of(layer):
    return float((layer.pathway.feedback(layer).sign() == layer.weight.sign()).double().mean())


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("agreement", [0.5, 0.6, 0.75, 0.95, 1.0])
def test_so_many_signs_agree_at_initialisation(agreement, magnitude):
    """A share 2a - 1 follows W, half of the rest agrees by chance: a in all, with variance a (1 - a) / n."""
    layer = layer_with(sc.SignSymmetry(magnitude, agreement=agreement), large("gaussian")[:500])
    deviation = math.sqrt(agreement * (1 - agreement) / layer.weight.numel())
    assert abs(agreement_of(layer) - agreement) <= 5 * deviation


# An entry that follows contributes as under full symmetry, the others cancel: cos = (2a - 1) cos of full symmetry.
@pytest.mark.parametrize("agreement", [0.6, 0.8, 1.0])
@pytest.mark.parametrize(
    ("pathway", "kind", "cosine"),
    [
        (sc.SignSymmetry, "gaussian", math.sqrt(2 / math.pi)),
        (sc.SignSymmetry, "uniform", math.sqrt(3) / 2),
        (lambda agreement: sc.SignSymmetry("fixed", agreement=agreement), "gaussian", 2 / math.pi),
        (lambda agreement: sc.SignSymmetry("batch", "biotorch", agreement=agreement), "uniform", 3 / 4),
        (lambda agreement: sc.SignSymmetry(scale="strict", agreement=agreement), "gaussian", math.sqrt(2 / math.pi)),
    ],
)
def test_closed_form_angles_at_partial_agreement(pathway, kind, cosine, agreement):
    layer = layer_with(pathway(agreement=agreement), large(kind))
    wanted = math.degrees(math.acos((2 * agreement - 1) * cosine))
    assert angle(layer.pathway.feedback(layer), layer.weight) == pytest.approx(wanted, abs=0.2)


def test_an_inverted_mask_fails_the_checks_above(monkeypatch):
    def inverted(source, kind, shape, probability, *rest):
        return draw(source, kind, shape, 1 - probability, *rest)

    monkeypatch.setattr(sign_symmetry, "draw", inverted)
    layer = layer_with(sc.SignSymmetry(agreement=0.95), large("gaussian")[:500])
    assert abs(agreement_of(layer) - 0.95) > 0.3


@pytest.mark.parametrize("scale", ["fan_out", "biotorch", "xiao"])
@pytest.mark.parametrize(
    "make", [lambda p: sc.Linear(9, 7, pathway=p), lambda p: sc.Conv2d(4, 6, 3, groups=2, pathway=p)]
)
def test_at_one_half_it_is_feedback_alignment(make, scale):
    """With fixed magnitudes the same B bit for bit; with uniform ones its signs."""

    def bound(pathway):
        torch.manual_seed(3)
        return make(pathway)

    b = bound(sc.FeedbackAlignment(scale, gain=2.0)).feedback()
    for magnitude in MAGNITUDES:
        layer = bound(sc.SignSymmetry(magnitude, scale, 2.0, agreement=0.5))
        for _ in range(2):
            feedback = layer.feedback()
            assert torch.equal(feedback.sign(), b.sign())
            if magnitude == "fixed":
                assert torch.equal(feedback, b)
            if magnitude == "uniform":
                assert torch.equal(feedback.abs(), torch.full_like(b, feedback_rms(layer, scale) * 2.0))
            with torch.no_grad():
                layer.weight.normal_()  # B does not change with W


@pytest.mark.parametrize("scale", ["fan_out", "biotorch", "xiao", "strict"])
def test_full_agreement_draws_what_it_always_drew(scale):
    """One draw for fixed magnitudes, none otherwise; nothing else is kept."""
    layer = sc.Conv2d(4, 6, 3)
    for magnitude in MAGNITUDES:
        ours, plain = generator(1, "feedback"), generator(1, "feedback")
        kept = sc.SignSymmetry(magnitude, scale, 3.0).create(layer, ours)
        if magnitude == "fixed":
            drawn = random_feedback(layer, "fan_out" if scale == "strict" else scale, plain).abs()
            assert torch.equal(kept, drawn if scale == "strict" else 3.0 * drawn)
        else:
            assert kept is None
        assert torch.equal(ours.get_state(), plain.get_state())


@given(st.floats(0.5, 0.999), st.sampled_from(MAGNITUDES), st.integers(0, 2**30))
def test_an_entry_follows_always_or_never(agreement, magnitude, seed):
    torch.manual_seed(seed)
    layer = sc.Linear(12, 11, bias=False, pathway=sc.SignSymmetry(magnitude, agreement=agreement))
    with torch.no_grad():
        layer.weight[0, 0] = 0
    before = layer.feedback().sign()
    with torch.no_grad():
        layer.weight.neg_()
    after = layer.feedback().sign()
    follows = layer.feedback_weight[:11] == 0
    assert torch.equal(after[follows], layer.weight.sign()[follows])
    assert torch.equal(before[follows], -after[follows])
    assert torch.equal(before[~follows], after[~follows])
    assert after[~follows].all()


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_signs_mask_and_magnitudes_are_in_the_state(magnitude):
    def make(seed):
        layers = sc.Conv2d(2, 4, 3, padding="same"), sc.LIF(5.0), sc.Flatten(), sc.Linear(36, 5)
        return sc.Network(*layers, pathway=sc.SignSymmetry(magnitude, agreement=0.8), seed=seed)

    net, other = make(1), make(2)
    assert not torch.equal(net.layers[0].feedback_weight, other.layers[0].feedback_weight)
    other.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    for a, b, c in zip(*(each.synapses().values() for each in (net, other, copied)), strict=True):
        feedback = a.feedback()
        assert torch.equal(b.feedback().sign(), feedback.sign())
        assert torch.equal(c.feedback(), feedback)
        shares = 2 if magnitude == "fixed" else 1
        assert a.feedback_weight.shape == (shares * a.weight.shape[0], *a.weight.shape[1:])
    moved = copied.double().to(memory_format=torch.channels_last)
    for a, b in zip(net.synapses().values(), moved.synapses().values(), strict=True):
        assert b.feedback().dtype == torch.float64
        assert torch.equal(b.feedback().sign(), a.feedback().sign())


def test_partial_agreement_lifts_the_rank_under_dale():
    torch.manual_seed(0)
    layers = sc.Linear(6, 30), sc.LIF(), sc.Linear(30, 10)
    net = sc.Network(*layers, pathway=sc.SignSymmetry(agreement=0.9), constraint=sc.Dale(), seed=1)
    assert torch.linalg.matrix_rank(net.layers[2].feedback().double()) == 10


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_partial_agreement_and_a_threshold_compile_to_one_graph(magnitude):
    torch._dynamo.reset()
    net = sc.Network(
        sc.Conv2d(2, 4, 3), sc.LIF(5.0), sc.Flatten(), sc.Linear(36, 5),
        pathway=sc.SignSymmetry(magnitude, agreement=0.8, threshold=0.6), seed=1,
    )  # fmt: skip
    twin = copy.deepcopy(net)
    x = 3 * torch.rand(4, 2, 2, 5, 5)
    for each in (net, torch.compile(twin, fullgraph=True, backend="aot_eager")):
        each(x).square().sum().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5)


def test_the_delivered_error_is_that_of_the_kept_signs():
    """Against feedback alignment given the same matrix."""
    torch.manual_seed(0)
    layer = sc.Linear(8, 6, pathway=sc.SignSymmetry("fixed", agreement=0.7)).double()
    twin = sc.Linear(8, 6, pathway=sc.FeedbackAlignment()).double()
    use(twin, layer.feedback())
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    delta = torch.randn(3, 6, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(each(x), x, delta)[0] for each in (layer, twin))
    assert torch.equal(found, wanted)


def test_an_agreement_outside_its_range_is_refused():
    for wrong in (0.49, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"agreement is a share of entries, from 0\.5 .* to 1; got"):
            sc.SignSymmetry(agreement=wrong)


def test_a_layer_whose_input_wants_no_error_makes_no_feedback_weights():
    net = sc.Network(
        sc.Conv2d(1, 2, 3), sc.LIF(), sc.Flatten(), sc.Linear(32, 4), sc.LIF(), sc.Linear(4, 2),
        pathway=sc.SignSymmetry(magnitude="batch"), seed=0,
    )  # fmt: skip
    x = torch.rand(3, 2, 1, 6, 6)
    net(x).sum().backward()
    first, *others = net.synapses().values()
    assert first.noise.count == 0 and [layer.noise.count for layer in others] == [1, 1]
    weights = [layer.weight.grad.clone() for layer in net.synapses().values()]
    net.zero_grad()
    for layer in others:  # the same draws again
        layer.noise.state[1] -= 1
    net(x.requires_grad_()).sum().backward()
    assert first.noise.count == 1 and x.grad.any()
    for layer, gradient in zip(net.synapses().values(), weights, strict=True):
        assert torch.allclose(layer.weight.grad, gradient, atol=1e-6)


@pytest.mark.parametrize("scale", ["fan_out", "biotorch", "xiao", "strict"])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_gain_is_a_factor_of_every_feedback_weight(magnitude, scale):
    found = []
    for gain in (1.0, 3.0):
        torch.manual_seed(0)
        layers = sc.Linear(6, 20), sc.LIF(), sc.Linear(20, 5)
        net = sc.Network(*layers, pathway=sc.SignSymmetry(magnitude, scale, gain), seed=0)
        found.append(net.layers[2].pathway.feedback(net.layers[2]))
    torch.testing.assert_close(found[1], 3 * found[0])


# ---- threshold -------------------------------------------------------------------------------------------------------


def threshold_cosine(t):
    """E[|W|; |W| > t] / sqrt(P(|W| > t)) for a Gaussian of variance 1, and for an exponential of mean square 1."""
    gaussian = math.sqrt(2 / math.pi) * math.exp(-t * t / 2) / math.sqrt(math.erfc(t / math.sqrt(2)))
    u = t * math.sqrt(2)  # in means
    return {"gaussian": gaussian, "exponential": (u + 1) * math.exp(-u / 2) / math.sqrt(2)}


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.61, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["gaussian", "exponential"])
@pytest.mark.parametrize("scale", ["fan_out", "strict"])
def test_closed_form_angles_with_a_threshold(threshold, kind, scale):
    layer = layer_with(sc.SignSymmetry(scale=scale, threshold=threshold), 0.05 * large(kind))
    wanted = math.degrees(math.acos(threshold_cosine(threshold)[kind]))
    assert angle(layer.pathway.feedback(layer), layer.weight) == pytest.approx(wanted, abs=0.2)


def test_the_best_threshold_of_gaussian_weights_is_the_one_that_the_docstring_names():
    best = max(range(1, 200), key=lambda t: threshold_cosine(t / 100)["gaussian"]) / 100
    assert best == pytest.approx(0.61, abs=0.011)
    assert math.degrees(math.acos(threshold_cosine(best)["gaussian"])) == pytest.approx(25.9, abs=0.05)
    assert "0.61: 25.9 degrees" in " ".join(sc.SignSymmetry.__doc__.split())


@given(st.floats(0, 3), st.sampled_from(["uniform", "fixed", "batch"]), st.integers(0, 2**31), st.booleans())
def test_a_threshold_silences_the_weak_and_nothing_else(threshold, magnitude, seed, convolution):
    torch.manual_seed(seed)
    shape = (5, 4, 3, 3) if convolution else (9, 7)
    make = {True: lambda p: sc.Conv2d(4, 5, 3, bias=False, pathway=p), False: lambda p: sc.Linear(7, 9, False, p)}
    plain, cut = (make[convolution](sc.SignSymmetry(magnitude, threshold=t)).double() for t in (0.0, threshold))
    weight = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        plain.weight.copy_(weight)
        cut.weight.copy_(weight)
        if magnitude == "fixed":
            cut.feedback_weight.copy_(plain.feedback_weight)
    strong = weight.abs() >= threshold * weight.square().mean().sqrt()
    found = cut.feedback()
    assert torch.equal(found != 0, strong)
    assert torch.equal(found.sign()[strong], weight.sign()[strong])
    if magnitude != "batch":
        assert torch.equal(found[strong], plain.feedback()[strong])


def test_the_delivered_error_has_the_threshold_and_follows_the_weights():
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(8, 8, bias=False), sc.Linear(8, 8, bias=False), pathway=sc.SignSymmetry(threshold=1.0), seed=1
    )
    weight = net.layers[1].weight
    for scale in (1.0, torch.linspace(0.1, 5, 64).reshape(8, 8)):  # relative to the layer's own root mean square
        with torch.no_grad():
            weight.mul_(scale)
        strong = weight.abs() > weight.square().mean().sqrt()
        assert 0 < strong.sum() < 64
        assert torch.equal(delivered(net) != 0, strong)


def test_a_threshold_spares_what_does_not_follow():
    torch.manual_seed(0)
    layer = sc.Linear(40, 50, bias=False, pathway=sc.SignSymmetry("uniform", agreement=0.75, threshold=1e9))
    found = layer.feedback()
    assert torch.equal(found != 0, layer.feedback_weight != 0)  # only the random signs are left
    assert 0.4 < (found != 0).float().mean() < 0.6


def test_under_dale_signs_tell_nothing_and_a_threshold_lifts_the_rank():
    torch.manual_seed(0)
    layers = sc.Linear(30, 40), sc.LIF(), sc.Linear(40, 20, bias=False)
    for threshold, rank in ((0.0, 1), (0.6, 20)):
        net = sc.Network(*layers, pathway=sc.SignSymmetry(threshold=threshold), constraint=sc.Dale(), seed=1)
        B = net.layers[2].pathway.feedback(net.layers[2])
        assert torch.linalg.matrix_rank(B) == rank


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan])
def test_a_threshold_outside_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match="threshold is a number of root mean squares of the weights, 0 or above; got"):
        sc.SignSymmetry(threshold=wrong)


def test_weights_of_zero_get_no_feedback_and_no_nan():
    layer = sc.Linear(4, 3, bias=False, pathway=sc.SignSymmetry(threshold=0.6))
    with torch.no_grad():
        layer.weight.zero_()
    assert not layer.feedback().any()

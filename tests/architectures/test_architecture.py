"""What all ready networks share: shapes, streams, seeds, active neurons."""

from dataclasses import replace

import pytest
import torch

import spikecredit as sc
from spikecredit.analysis import activity
from spikecredit.architectures import ARCHITECTURES

CASES = {
    "mlp": sc.MLP((30, 20), norm=True, dropout=0.1),
    "recurrent": sc.MLP((30, 20), recurrent=True),
    "lenet": sc.LeNet((4, 6), hidden=(20,), norm=True, dropout=0.1),
    "lenet max": sc.LeNet((4, 6), 3, hidden=(20,), pool="max", norm=True),
    "lenet soft": sc.LeNet((4, 6), 3, hidden=(20,), pool="soft"),
    "vgg": sc.VGG((1, 2), width=6, hidden=(20,), dropout=0.1),
    "vgg max": sc.VGG((1, 1), width=6, pool="max", head="average"),
    "resnet spike": sc.ResNet((1, 2), width=6),
    "resnet membrane": sc.ResNet((1, 2), width=6, shortcut="membrane"),
    "resnet imagenet": sc.ResNet((1, 1), width=6, stem="imagenet"),
}
SHAPE = 2, 8, 8
both = pytest.mark.parametrize("architecture", CASES.values(), ids=CASES)


def build(architecture, **options):
    options = {"neuron": sc.LIF(tau=30.0, threshold=0.5), "pathway": sc.FeedbackAlignment(), "seed": 1, **options}
    return architecture.build(SHAPE, 5, **options)


@both
def test_streams_equal_sequences_and_every_neuron_layer_is_active(architecture):
    net = build(architecture).double()
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.rand(4, *SHAPE, generator=g, dtype=torch.float64) + 0.5 * torch.rand(7, 4, *SHAPE, generator=g)
    with torch.no_grad():
        for _ in range(10):  # running statistics
            net(x)
        net.eval()
        rates = activity(net, x)
        assert rates
        assert all(layer.rate > 0.005 for layer in rates.values()), rates
        whole = net(x)
        head, state = net.stream(x[:3])
        tail, state = net.stream(x[3:], state)
    assert whole.shape == (7, 4, 5)
    torch.testing.assert_close(torch.cat([head, tail]), whole, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("pathway", [sc.SignSymmetry(), sc.SignSymmetry("batch", "strict")], ids=repr)
def test_every_parameter_gets_a_gradient_under_dale(architecture, pathway):
    net = build(architecture, pathway=pathway, constraint=sc.Dale(feedback="own"), last_layer="same")
    x = 3 * torch.rand(5, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    sc.attach(net, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        sc.losses.MeanPotential()(net(x), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    assert net.violations() == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    weights = [layer.weight.grad for layer in net.synapses().values()]
    assert all(g.any() for g in weights)


@both
def test_seeds_govern_everything_and_the_global_generator_is_left_alone(architecture):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    a = build(architecture)
    assert torch.equal(torch.rand(3), wanted)
    b, c = build(architecture), build(architecture, seed=2)
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    for name, layer in c.synapses().items():
        assert not torch.equal(layer.weight, a.synapses()[name].weight)
        assert not torch.equal(layer.feedback_weight, a.synapses()[name].feedback_weight)


@pytest.mark.parametrize("kind", [sc.MLP, sc.LeNet])
def test_dropout_and_normalisation_shift_nobodys_numbers(kind):
    """Weights, feedback and signs are those of the network without: experiments differ in one thing."""

    def tensors(**options):
        net = build(kind(hidden=(20, 15), **options), constraint=sc.Dale())
        return [t for s in net.synapses().values() for t in (s.weight, s.feedback_weight, s.presynaptic_sign)]

    plain = tensors()
    for other in (tensors(dropout=0.5), tensors(norm=True), tensors(norm=True, dropout=0.5)):
        for a, b in zip(plain, other, strict=True):
            assert a is b is None or torch.equal(a, b)


def test_the_pathway_shifts_no_forward_weights_and_no_signs():
    nets = [
        build(sc.LeNet(), constraint=sc.Dale(), pathway=p) for p in (None, sc.FeedbackAlignment(), sc.SignSymmetry())
    ]
    for layers in zip(*(net.synapses().values() for net in nets), strict=True):
        for layer in layers[1:]:
            assert (layer.presynaptic_sign is None) == (layers[0].presynaptic_sign is None)
            assert torch.equal(layer.weight, layers[0].weight)  # under Dale's law the signs show in it


def test_populations_share_constants_not_modules():
    neuron = sc.LIF(tau=7.0, learn_tau=True)
    net = build(sc.MLP((4, 4)), neuron=neuron, readout=sc.LeakyReadout(tau=3.0))
    first, second = net.layers[2], net.layers[4]
    assert first is not second is not neuron
    assert float(first.decay.tau.detach()) == pytest.approx(7.0)
    assert len({id(p) for p in net.parameters()}) == len(list(net.parameters())) == 3 * 2 + 2
    assert float(net.layers[-1].decay.tau) == pytest.approx(3.0)


def test_defaults():
    net = sc.MLP().build((1, 8, 8), 10)
    assert isinstance(net.layers[2], sc.LIF)
    assert isinstance(net.layers[-1], sc.LeakyReadout)
    assert net.pathway == sc.Backprop()
    assert net.constraint == sc.Unconstrained()
    assert all(kind() == kind() for kind in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("architecture", "shape", "least"),
    [
        (sc.LeNet(), (1, 3, 9), 4),
        (sc.VGG(), (3, 31, 40), 32),
        (sc.ResNet(stem="imagenet"), (3, 2, 2), 3),
    ],
    ids=repr,
)
def test_images_that_are_too_small_are_refused(architecture, shape, least):
    with pytest.raises(ValueError, match=f"images of side {min(shape[1:])} are too small, give {least} or more"):
        architecture.build(shape, 10)
    net = architecture.build((shape[0], least, least), 10).eval()
    assert net(torch.zeros(2, 1, shape[0], least, least)).shape == (2, 1, 10)


# ---- initialisation --------------------------------------------------------------------------------------------------


class Identity(sc.ReLU):
    """A unit that passes its current on."""

    def forward(self, x, steps=None):
        return x

    stream = None


def mean_squares(initialisation, unit):
    """Mean square of the currents of each layer of a deep network, in units of that of the input."""
    net = sc.MLP((400,) * 5, initialisation=initialisation).build((1, 20, 20), 400, unit, unit, seed=0)
    x = torch.randn(1, 200, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    found = []
    for layer in net.synapses().values():
        layer.register_forward_hook(lambda _, __, y: found.append(float(y.detach().square().mean())))
    net(x)
    return found


@pytest.mark.parametrize(
    ("initialisation", "unit", "factor"),
    [("lecun", Identity(), 1), ("he", sc.ReLU(), 1), ("he", Identity(), 2), ("lecun", sc.ReLU(), 1 / 2)],
)
def test_lecun_keeps_the_mean_square_through_layers_and_he_through_half_rectified_units(initialisation, unit, factor):
    """Each layer multiplies it by var(W) fan_in, and half-rectification halves it."""
    found = mean_squares(initialisation, unit)
    first = 2 if initialisation == "he" else 1
    assert found == pytest.approx([first * factor**depth for depth in range(6)], rel=0.25)


def test_torchs_own_initialisation_lets_the_mean_square_shrink():
    wanted = [(1 + 1 / 400) / 3]  # a third of the input's, and the biases' 1 / (3 fan_in)
    for _ in range(5):
        wanted.append((wanted[-1] + 1 / 400) / 3)
    assert mean_squares("torch", Identity()) == pytest.approx(wanted, rel=0.1)


@both
@pytest.mark.parametrize("initialisation", ["lecun", "he"])
def test_initialisation_reaches_every_synapse_before_dale(architecture, initialisation):
    changed = replace(architecture, initialisation=initialisation)
    net, plain = (build(each) for each in (changed, architecture))
    pairs = list(zip(net.synapses().values(), plain.synapses().values(), strict=True))
    for layer, other in pairs:
        assert not torch.equal(layer.weight, other.weight)
        assert layer.bias is None or not layer.bias.any()
        assert torch.equal(layer.feedback_weight, other.feedback_weight)
    gain = 2 if initialisation == "he" else 1
    scaled = torch.cat([layer.weight.detach().flatten() * (layer.fan_in / gain) ** 0.5 for layer, _ in pairs])
    assert float(scaled.mean()) == pytest.approx(0, abs=5 / len(scaled) ** 0.5)
    assert float(scaled.square().mean()) == pytest.approx(1, abs=5 * (2 / len(scaled)) ** 0.5)
    again, other = build(changed), build(changed, seed=2)
    for a, b, c in zip(*(n.synapses().values() for n in (net, again, other)), strict=True):
        assert torch.equal(a.weight, b.weight)
        assert not torch.equal(a.weight, c.weight)
    dale = build(changed, constraint=sc.Dale())
    assert dale.violations() == 0
    for a, b in zip(net.synapses().values(), dale.synapses().values(), strict=True):
        torch.testing.assert_close(b.weight.square().mean(), a.weight.square().mean())  # "balanced" keeps it


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match="initialisation must be 'torch', 'lecun' or 'he', got 'xavier'"):
        build(sc.MLP(initialisation="xavier"))

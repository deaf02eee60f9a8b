"""Conversion under Dale's law: no weight breaks it, and every unit has one sign wherever it projects."""

import copy
import importlib
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_models import MODELS, ResNet, batch, layers, plain, violations

import spikecredit as sc
from spikecredit.synapses import ConstraintWarning

conversion = importlib.import_module("spikecredit.convert")  # `spikecredit.convert` itself is the function

# Torch says once that an even kernel with padding "same" copies its input.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

FA = sc.FeedbackAlignment()


def train(model, make, steps=5, attach=True):
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    if attach:
        sc.attach(model, optimizer)
    x, y = batch(make)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("make", MODELS)
def test_no_weight_breaks_dales_law(make):
    model = make()
    parameters = list(model.parameters())
    sc.convert(model, pathway=sc.SignSymmetry(magnitude="fixed"), constraint=sc.Dale(), last_layer="backprop")
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert violations(model) == 0
    names = list(layers(model))
    assert [name for name, m in layers(model).items() if m.presynaptic_sign is None] == names[:1]
    train(model, make)
    assert violations(model) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstraintWarning)
        train(model, make, attach=False)
    assert violations(model) > 0  # the control: without projection the law is broken


def readers(model, x):
    """The layers that read one tensor, for each tensor that several read."""
    seen = {}
    hooks = [
        layer.register_forward_pre_hook(lambda m, inputs: seen.setdefault(id(inputs[0]), [inputs[0]]).append(m))
        for layer in layers(model).values()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return [found for _, *found in seen.values() if len(found) > 1]


def one_sign_each(*readers):
    """Whether every unit excites all its targets or inhibits all of them, counted over all layers that read it."""
    outgoing = torch.cat([layer.weight.transpose(0, 1).flatten(1) for layer in readers], 1)
    return bool(((outgoing >= 0).all(1) | (outgoing <= 0).all(1)).all())


def units(signs):
    return signs[0].flatten() if signs.ndim > 1 else signs


def test_layers_that_read_one_population_agree(monkeypatch):
    """A residual block's convolution and its downsampling; and, through identities, all of a stage and the head."""
    dale = sc.Dale(excitatory=0.5)

    def agree(model):
        (shared,) = readers(model, batch(ResNet)[0])
        assert len(shared) == 2
        return one_sign_each(*shared) and one_sign_each(model.layer2[1].conv1, model.fc)

    model = sc.convert(ResNet(), constraint=dale)
    assert agree(model)
    train(model, ResNet)
    assert agree(model)
    model = ResNet()
    sc.convert(model.layer2, constraint=dale, sensory=[], seed=1)  # part by part, too
    sc.convert(model.fc, constraint=dale, sensory=[], seed=2)
    assert one_sign_each(model.layer2[1].conv1, model.fc)
    sc.convert(model, constraint=dale)
    assert agree(model)
    population = conversion.Population
    monkeypatch.setattr(conversion, "Population", lambda key, n, count=iter(range(99)): population(str(next(count)), n))
    assert not agree(sc.convert(ResNet(), constraint=dale))  # a population for each layer would break the law


def test_sensory_layers_are_named_or_the_first():
    def exempt(**options):
        model = sc.convert(plain(), constraint=sc.Dale(), **options)
        return [name for name, m in layers(model).items() if m.presynaptic_sign is None]

    assert exempt() == ["0"]
    assert exempt(sensory=[]) == []
    assert exempt(sensory=["2", "9"]) == ["2", "9"]
    for wrong in ("9", ["8"], ["nine"]):
        with pytest.raises(ValueError, match=r"sensory must be a list of layers out of '0', '2', '4', '7', '9', got "):
            sc.convert(plain(), constraint=sc.Dale(), sensory=wrong)


NORMS = [
    (nn.BatchNorm1d(6), (5, 6)), (nn.BatchNorm1d(6, momentum=None), (5, 6, 3)), (nn.BatchNorm2d(6), (5, 6, 3, 3)),
    (nn.BatchNorm2d(6, track_running_stats=False), (5, 6, 3, 3)), (nn.BatchNorm3d(6), (5, 6, 2, 2, 2)),
    (nn.LayerNorm(6), (5, 6)), (nn.LayerNorm((6, 3)), (5, 6, 3)), (nn.GroupNorm(2, 6), (5, 6, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("norm", "shape"), NORMS, ids=repr)
def test_the_scales_of_normalisations_are_constrained(norm, shape):
    norm = copy.deepcopy(norm)
    torch.nn.init.uniform_(norm.weight, 0, 1)
    model = nn.Sequential(norm, nn.Linear(shape[-1], 2))
    given, kind, keys = copy.deepcopy(model), type(norm), set(model.state_dict())
    sc.convert(model, constraint=sc.Dale(initialisation="column_ei"))
    assert isinstance(norm, kind) and type(norm) is not kind and model[0] is norm
    x = torch.randn(shape)
    for training in (True, True, False):
        assert torch.equal(model[0].train(training)(x), given[0].train(training)(x))
    for name, value in given[0].state_dict().items():
        assert torch.equal(model[0].state_dict()[name], value)
    assert set(model.state_dict()) - keys == {"0.presynaptic_sign"}
    optimizer = torch.optim.SGD(model.parameters(), 10.0)
    model.train()
    (-model(x).square().sum() + norm.weight.sum()).backward()
    optimizer.step()
    norm.weight.data[:2] = -1
    assert norm.violations() > 0
    with pytest.warns(ConstraintWarning, match="break Dale"):
        norm(x)
    sc.after_step(model, optimizer)
    assert norm.violations() == 0
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, norm.weight.numel()).view_as(norm.weight))
    sc.convert(model, constraint=sc.Dale(initialisation="column_ei"))  # as it is already: projected, not made anew
    assert norm.violations() == 0 and (norm.weight == 0).any()
    with torch.no_grad():
        norm.weight.neg_()
    sc.convert(model, constraint=sc.Dale())
    assert norm.violations() == 0 and norm.weight.max() == 2
    sc.convert(model)
    assert norm.presynaptic_sign is None


def test_scales_without_a_constraint_and_norms_without_a_scale_are_left():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)
    )
    sc.convert(model, pathway=FA)
    assert [type(m) for m in model] == [sc.Linear, nn.BatchNorm1d, sc.Linear, nn.LayerNorm]
    sc.convert(model, pathway=FA, constraint=sc.Dale())
    assert [type(m) for m in model] == [sc.Linear, conversion.BatchNorm1d, sc.Linear, nn.LayerNorm]


def test_weights_that_obey_already_stay():
    model = sc.convert(ResNet(), pathway=FA, constraint=sc.Dale(), seed=1)
    train(model, ResNet)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    sc.convert(model, pathway=sc.SignSymmetry(), constraint=sc.Dale(), seed=2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {m.pathway for m in layers(model).values()} == {sc.SignSymmetry()}
    model.fc = nn.Linear(12, 7)  # a new head on a trained model
    sc.convert(model, pathway=FA, constraint=sc.Dale(), seed=3)
    assert torch.equal(units(model.layer2[1].conv1.presynaptic_sign), model.fc.presynaptic_sign)
    assert torch.equal(model.conv1.weight, before["conv1.weight"])
    with torch.no_grad():
        model.layer1[0].conv1.weight.add_(0.05)
    assert violations(model) > 0
    moved = model.layer1[0].conv1.weight.clone()
    sc.convert(model, pathway=FA, constraint=sc.Dale())
    projected = model.layer1[0].conv1.weight
    assert violations(model) == 0 and torch.equal(projected[projected != 0], moved[projected != 0])
    sc.convert(model, pathway=FA, constraint=sc.Dale(excitatory=0.2))
    assert violations(model) == 0
    assert not torch.equal(model.layer1[0].conv1.weight, moved)

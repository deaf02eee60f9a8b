"""Conversion: the same object with errors that return through B; nothing else about the model changes."""

import copy
import functools
import importlib
import logging
import pickle
import warnings

import numpy as np
import pytest
import torch
from feedback_oracles import conv_with_feedback, linear_with_feedback, relative, spiking_gradients, use
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune
from torch_models import MODELS, ResNet, Spiking, batch, gradients, layers, plain, violations

import spikecredit as sc
from spikecredit.synapses import Synapse

# Torch says once that an even kernel with padding "same" copies its input.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

conversion = importlib.import_module("spikecredit.convert")  # `spikecredit.convert` itself is the function

FA = sc.FeedbackAlignment()


def oracle(model, feedbacks):
    """A copy of a model of torch whose layers are written as autograd's own operations on W and B."""
    twin = copy.deepcopy(model)

    def conv(layer, b, x):
        pads = layer._reversed_padding_repeated_twice
        if layer.padding_mode == "circular":
            x, padding = F.pad(x, pads, mode="circular"), 0
        elif layer.padding == "same":
            x, padding = F.pad(x, pads), 0
        else:
            padding = layer.padding
        return conv_with_feedback(
            x, layer.weight, layer.bias, b, stride=layer.stride, padding=padding, groups=layer.groups
        )

    for name, layer in layers(twin).items():
        b = feedbacks[name]
        if isinstance(layer, nn.Linear):
            layer.forward = lambda x, layer=layer, b=b: linear_with_feedback(x, layer.weight, layer.bias, b)
        else:
            layer.forward = functools.partial(conv, layer, b)
    return twin


def worst(found, wanted):
    assert found.keys() == wanted.keys()
    scale = max(float(w.abs().max()) for w in wanted.values())  # a bias before a normalisation has no gradient
    return max(float((found[name] - w).abs().max()) for name, w in wanted.items()) / scale


def distance_from_the_rule(make):
    """Of a converted model's gradients, from those of the equations, in float64."""
    model = make().double()
    given = copy.deepcopy(model)
    x, y = batch(make, torch.float64)
    feedbacks = {name: torch.randn_like(layer.weight) / 3 for name, layer in layers(model).items()}
    sc.convert(model, pathway=FA)
    for name, layer in layers(model).items():
        if getattr(layer, "feedback_weight", None) is not None:
            use(layer, feedbacks[name])
    return worst(gradients(model, x, y), gradients(oracle(given, feedbacks), x, y))


# What is computed


@pytest.mark.parametrize("make", MODELS)
def test_outputs_are_the_same_bit_for_bit(make):
    model = make()
    x, _ = batch(make)
    for given in (x, x[:1]) if make is Spiking else (x, x[:1], x.contiguous(memory_format=torch.channels_last)):
        for training in (True, False):
            before, after = (copy.deepcopy(model).train(training) for _ in range(2))
            wanted, out = before(given), sc.convert(after, pathway=FA)(given)
            assert torch.equal(out, wanted) and out.stride() == wanted.stride()
            buffers = after.state_dict()
            assert all(torch.equal(buffers[name], b) for name, b in before.state_dict().items())  # statistics too
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sc.convert(copy.deepcopy(model), pathway=FA)(x), copy.deepcopy(model)(x))
    single = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0), nn.Linear(144, 2))
    wanted = single(x0 := torch.rand(3, 8, 8))
    assert torch.equal(sc.convert(single, pathway=FA)(x0), wanted)


@pytest.mark.parametrize("make", MODELS)
def test_tied_feedback_and_backprop_give_autograds_gradients(make):
    model = make().double()
    x, y = batch(make, torch.float64)
    wanted = gradients(copy.deepcopy(model), x, y)
    exact = sc.convert(copy.deepcopy(model))
    assert worst(gradients(exact, x, y), wanted) == 0
    sc.convert(model, pathway=FA)
    for layer in layers(model).values():
        use(layer, layer.weight)
    assert worst(gradients(model, x, y), wanted) <= 1e-12


@pytest.mark.parametrize("make", MODELS)
def test_errors_return_through_b_in_every_layer(make):
    assert distance_from_the_rule(make) <= 1e-12


@pytest.mark.filterwarnings("ignore:convert left these modules")
def test_a_layer_that_is_left_out_is_found(monkeypatch):
    """The tests above can fail: conversion without convolutions, without Linear, and without one single layer."""
    for kind in (nn.Conv2d, nn.Linear):
        rest = {k: v for k, v in conversion.WEIGHTED.items() if k is not kind}
        with monkeypatch.context() as patched:
            patched.setattr(conversion, "WEIGHTED", rest)
            assert distance_from_the_rule(plain) > 1e-2
    bind, skipped = Synapse.bind, []

    def skip(self, source, name, wiring, target=None):
        if name.startswith("layer2.0.downsample.0"):
            skipped.append(name)
            wiring = sc.synapses.Wiring(sc.Backprop())
        return bind(self, source, name, wiring, target)

    with monkeypatch.context() as patched:
        patched.setattr(Synapse, "bind", skip)
        assert distance_from_the_rule(ResNet) > 1e-2
    assert len(skipped) == 1


def test_a_model_of_snntorch_equals_the_equations_in_numpy():
    model = sc.convert(Spiking().double(), pathway=FA)
    x, y = 2 * torch.rand(25, 4, 12, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    found = gradients(model, x, y)
    synapses = list(layers(model).values())
    g_weights, g_biases, spikes = spiking_gradients(
        x.numpy(),
        y.numpy(),
        [layer.weight.detach().numpy() for layer in synapses],
        [layer.bias.detach().numpy() for layer in synapses],
        [layer.pathway.feedback(layer).numpy() for layer in synapses],
        0.875,
        5.0,
    )
    assert min(spikes) > 50
    for i, (weight, bias) in enumerate(zip(g_weights, g_biases, strict=True)):
        assert relative(found[f"linears.{i}.weight"], torch.from_numpy(np.asarray(weight))) <= 1e-12
        assert relative(found[f"linears.{i}.bias"], torch.from_numpy(np.asarray(bias))) <= 1e-12


def test_recurrent_layers_inside_snntorchs_neurons_are_converted():
    snn = pytest.importorskip("snntorch")
    model = nn.ModuleDict({"fc": nn.Linear(3, 6), "lif": snn.RLeaky(0.9, linear_features=6), "out": nn.Linear(6, 2)})
    sc.convert(model, pathway=FA, constraint=sc.Dale())
    v = model["lif"].recurrent
    assert v.pathway == FA and v.feedback_weight.shape == (6, 6)
    assert torch.equal(v.presynaptic_sign, model["out"].presynaptic_sign)  # the same neurons send through both
    spikes, potential = model["lif"].init_rleaky()
    for step in torch.rand(4, 5, 3):
        spikes, potential = model["lif"](model["fc"](step), spikes, potential)
    potential.square().sum().backward()
    assert v.weight.grad.abs().max() > 0


def test_batch_magnitudes_are_drawn_at_every_step_of_a_loop():
    model = sc.convert(Spiking(), pathway=sc.SignSymmetry(magnitude="batch"))
    x, y = batch(Spiking)
    gradients(model, x, y)
    assert [layer.noise.count for layer in model.linears] == [0, len(x), len(x)]  # the first delivers to nobody
    with torch.no_grad():
        model(x)
    assert [layer.noise.count for layer in model.linears] == [0, len(x), len(x)]


def test_a_converted_model_is_one_graph_for_the_compiler():
    model = sc.convert(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)), FA, sc.Dale()
    )
    x, y = batch(plain)
    wanted = gradients(copy.deepcopy(model), x, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        F.cross_entropy(compiled(x), y).backward()
    found = {name.removeprefix("_orig_mod."): p.grad for name, p in compiled.named_parameters()}
    assert worst(found, wanted) < 1e-5


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_model_compiled_before_follows_the_conversion():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    compiled = torch.compile(model, backend="aot_eager")
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    found = []
    for pathway in (None, FA, sc.SignSymmetry(), None):
        sc.convert(model, pathway=pathway)
        wanted = gradients(model, x, y)
        gradients(compiled, x, y)
        found.append(model[0].weight.grad.clone())
        assert worst({name: p.grad for name, p in model.named_parameters()}, wanted) < 1e-12
    assert torch.equal(found[0], found[3])
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])


# What stays


def test_everything_but_the_class_stays():
    model = ResNet().double().eval()
    model.layer1[0].conv1.weight.requires_grad_(False)
    model.layer1[1].conv1.train()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    keys, flags = list(model.state_dict()), [m.training for m in model.modules()]
    versions = [p._version for p in parameters.values()]
    seen = []
    model.fc.register_forward_hook(lambda *_: seen.append("forward"))
    model.conv1.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.fc.register_full_backward_hook(lambda *_: seen.append("backward"))
    fc = model.fc
    assert sc.convert(model, pathway=FA, last_layer="same") is model
    assert all(after is modules[name] for name, after in model.named_modules())
    assert all(after is parameters[name] for name, after in model.named_parameters())
    assert len(parameters) == len(list(model.parameters())) and model.fc is fc is model.head[0]
    assert versions == [p._version for p in parameters.values()]
    assert flags == [m.training for m in model.modules()]
    assert not model.layer1[0].conv1.weight.requires_grad
    assert [key for key in model.state_dict() if not key.endswith("feedback_weight")] == keys
    assert len(model.state_dict()) == len(keys) + len(layers(model))
    assert {type(layer) for layer in layers(model).values()} == {sc.Linear, sc.Conv2d}
    assert {type(m) for m in model.modules() if "BatchNorm" in type(m).__name__} == {nn.BatchNorm2d}
    assert {layer.feedback_weight.dtype for layer in layers(model).values()} == {torch.float64}
    x, y = batch(ResNet, torch.float64)
    F.cross_entropy(model(x), y).backward()
    assert seen == ["before", "forward", "backward"]


def test_an_optimiser_made_before_trains_the_model():
    model = ResNet()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-2)
    sc.convert(model, pathway=FA)
    before = {name: t.clone() for name, t in model.state_dict().items() if t.is_floating_point()}
    x, y = batch(ResNet)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    for name, value in model.state_dict().items():
        if name in before:
            assert torch.equal(value, before[name]) == name.endswith("feedback_weight"), name


def test_shared_modules_and_tied_weights_stay_so():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.again = self.a
            self.b = nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.again(self.a(x).tanh()).tanh())

    model = Tied().double()
    x, y = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    given = copy.deepcopy(model)
    sc.convert(model, pathway=FA)
    assert model.again is model.a and model.b.weight is model.a.weight and len(list(model.parameters())) == 3
    assert not torch.equal(model.a.feedback_weight, model.b.feedback_weight)
    feedbacks = {name: getattr(model, name).feedback_weight for name in ("a", "b")}
    assert worst(gradients(model, x, y), gradients(oracle(given, feedbacks), x, y)) <= 1e-12
    sc.convert(model, constraint=sc.Dale(), sensory=[])
    assert torch.equal(model.a.presynaptic_sign, model.b.presynaptic_sign) and violations(model) == 0


def test_copies_and_pickles_have_the_same_gradients():
    model = sc.convert(ResNet(), pathway=FA, constraint=sc.Dale())
    x, y = batch(ResNet)
    wanted = gradients(copy.deepcopy(model), x, y)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = gradients(twin, x, y)
        assert all(torch.equal(found[name], g) for name, g in wanted.items())


def test_state_dicts_go_both_ways():
    model, other = ResNet(), ResNet()
    old = pickle.loads(pickle.dumps(model.state_dict()))
    sc.convert(other, pathway=FA)
    result = other.load_state_dict(old, strict=False)
    assert result.unexpected_keys == []
    assert set(result.missing_keys) == {f"{name}.feedback_weight" for name in layers(other)}
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(old)
    x, y = batch(ResNet)
    assert torch.equal(other(x), copy.deepcopy(model)(x))
    third = sc.convert(ResNet(), pathway=FA)
    third.load_state_dict(pickle.loads(pickle.dumps(other.state_dict())))
    found, wanted = gradients(third, x, y), gradients(other, x, y)
    assert all(torch.equal(found[name], g) for name, g in wanted.items())
    result = ResNet().load_state_dict(other.state_dict(), strict=False)
    assert result.missing_keys == [] and len(result.unexpected_keys) == len(layers(other))


# Choices


def test_each_option_changes_the_result():
    def feedbacks(model):
        return {name: layer.pathway.feedback(layer) for name, layer in layers(model).items()}

    def made(**options):
        torch.manual_seed(0)
        return feedbacks(sc.convert(plain(), **options))

    first = made(pathway=FA, seed=1)
    assert all(torch.equal(b, first[name]) for name, b in made(pathway=FA, seed=1).items())
    assert not any(torch.equal(b, first[name]) for name, b in made(pathway=FA, seed=2).items())
    assert not any(torch.equal(b, first[name]) for name, b in made(pathway=FA).items())
    model = sc.convert(plain(), pathway=FA, last_layer="backprop")
    assert [m.pathway for m in layers(model).values()] == [FA] * 4 + [sc.Backprop()]
    torch.manual_seed(5)
    drawn = sc.convert(nn.Linear(3, 3), pathway=FA).feedback_weight
    torch.manual_seed(5)
    assert torch.equal(sc.convert(nn.Linear(3, 3), pathway=FA).feedback_weight, drawn)


def test_a_layer_draws_by_its_name_whatever_the_others_are():
    long = sc.convert(nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), pathway=FA, seed=3)
    short = sc.convert(nn.ModuleDict({"b": nn.Linear(4, 4)}), pathway=FA, seed=3)
    assert torch.equal(long["b"].feedback_weight, short["b"].feedback_weight)
    assert not torch.equal(long["a"].feedback_weight, long["b"].feedback_weight)


def test_layers_of_ours_keep_their_own_choices():
    own = sc.Linear(4, 4, pathway=sc.SignSymmetry(), constraint=sc.Unconstrained())
    rest = sc.Linear(4, 4)
    model = sc.convert(nn.Sequential(nn.Linear(4, 4), own, rest, sc.BatchNorm1d(4), nn.Linear(4, 4)), FA, sc.Dale())
    assert [m.pathway for m in layers(model).values()] == [FA, sc.SignSymmetry(), FA, FA]
    assert own.presynaptic_sign is None and rest.presynaptic_sign is not None
    assert (model[3].presynaptic_sign == 1).all()


def test_a_second_call_binds_anew():
    model = ResNet()
    x, y = batch(ResNet)
    plain_gradients = gradients(copy.deepcopy(model), x, y)
    sc.convert(model, pathway=FA, last_layer="backprop", seed=1)
    first = {name: p for name, p in model.named_parameters()}
    sc.convert(model, pathway=sc.SignSymmetry(magnitude="batch"), seed=1)
    assert {m.pathway for m in layers(model).values()} == {sc.SignSymmetry(magnitude="batch")}
    assert not any("feedback_weight" in key for key in model.state_dict())
    assert all(p is first[name] for name, p in model.named_parameters())
    sc.convert(model)
    assert not any("noise" in key for key in model.state_dict())
    assert worst(gradients(model, x, y), plain_gradients) == 0


# What is refused, and what is said


def with_hook(layer, how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how(layer)
    return layer


class MyLinear(nn.Linear):
    pass


def monkeypatched():
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: MyLinear(2, 2), "is a MyLinear, a subclass of nn.Linear"),
        (lambda: nn.LazyConv2d(2, 3), "is a LazyConv2d, a subclass of nn.Conv2d.*by one forward pass"),
        (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "ParametrizedLinear.*remove_parametrizations"),
        (lambda: with_hook(nn.Linear(2, 2), torch.nn.utils.weight_norm), "other parameters.*remove_weight_norm"),
        (lambda: prune.l1_unstructured(nn.Conv2d(2, 2, 1), "weight", 0.5), "other parameters.*prune.remove"),
        (monkeypatched, "has a forward of its own in the place of nn.Linear's"),
        (lambda: nn.Linear(2, 2, device="meta"), "on the meta device"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "weights of torch.complex64"),
        (lambda: nn.MultiheadAttention(2, 1), r"1\.out_proj is a NonDynamicallyQuantizableLinear"),
        (lambda: sc.Network(sc.Linear(2, 2)), "1 is a spikecredit.Network.*when it is made"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_changes(layer, why):
    model = nn.Sequential(nn.Linear(2, 2), layer())
    kept, kinds = model[0].weight.clone(), [type(m) for m in model.modules()]
    with pytest.raises(TypeError, match=f"1.*{why}" if "1" not in why[:2] else why):
        sc.convert(model, pathway=FA, constraint=sc.Dale())
    assert [type(m) for m in model.modules()] == kinds and torch.equal(model[0].weight, kept)


def test_after_the_advice_it_works():
    model = nn.Sequential(nn.LazyLinear(3), parametrizations.weight_norm(nn.Linear(3, 2)))
    model(torch.rand(1, 4))
    parametrize.remove_parametrizations(model[1], "weight")
    sc.convert(model, pathway=FA)
    assert [type(m) for m in model] == [sc.Linear, sc.Linear]


def test_wrong_arguments_are_refused():
    class Direct(sc.FeedbackAlignment):
        direct = True

    for error, match, options in (
        (TypeError, r"<class .*FeedbackAlignment'>: write FeedbackAlignment\(\)", {"pathway": sc.FeedbackAlignment}),
        (TypeError, "pathway is 'fa': write a Pathway", {"pathway": "fa"}),
        (TypeError, r"constraint is FeedbackAlignment.*: write a Constraint", {"constraint": FA}),
        (ValueError, "last_layer must be 'same' or 'backprop', got 'bp'", {"last_layer": "bp"}),
        (ValueError, r"functions of the parameters.*mode='project'", {"constraint": sc.Dale(mode="reparametrize")}),
        (ValueError, "feedback synapses the sign", {"pathway": FA, "constraint": sc.Dale(feedback="own")}),
        (ValueError, "pathway is .*direct feedback goes to the neurons", {"pathway": Direct()}),
    ):  # fmt: skip
        model = plain()
        with pytest.raises(error, match=match):
            sc.convert(model, **options)
        assert type(model[0]) is nn.Conv2d
    for nothing in (nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Conv1d(2, 2, 1)):
        with pytest.raises(
            ValueError, match=r"no nn.Linear and no nn.Conv2d to convert in this model of (Flatten|Conv1d)"
        ):
            sc.convert(nothing, pathway=FA)


def test_a_model_is_converted_before_it_is_wrapped_for_several_processes():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrap = nn.parallel.DistributedDataParallel
        with pytest.raises(
            TypeError, match=r"the model is wrapped in DistributedDataParallel.*convert first, then wrap"
        ):
            sc.convert(wrap(plain()), pathway=FA)
        model = sc.convert(plain(), pathway=FA)
        x, y = batch(plain)
        wanted = gradients(copy.deepcopy(model), x, y)
        F.cross_entropy(wrap(model)(x), y).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert worst({name: p.grad for name, p in model.named_parameters()}, wanted) < 1e-6


def test_other_modules_with_weights_are_named():
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.LSTM(4, 4), nn.PReLU())
    with pytest.warns(UserWarning, match=r"under backprop: 2 \(Conv1d\), 3 \(LSTM\)\. It converts"):
        sc.convert(model, pathway=FA)
    with pytest.warns(UserWarning, match=r"under backprop and no constraint: 2 \(Conv1d\), 3 \(LSTM\), 4 \(PReLU\)\."):
        sc.convert(model, pathway=FA, constraint=sc.Dale())


def test_what_was_converted_is_logged(caplog):
    with caplog.at_level(logging.INFO, "spikecredit"):
        sc.convert(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)), FA, sc.Dale())
    assert caplog.messages == [f"{FA}, {sc.Dale()}: 0, 2, 1"]

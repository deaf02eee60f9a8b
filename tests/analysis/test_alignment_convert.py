"""Angles and errors of converted models, against errors computed by hand, call by call."""

import copy
import importlib
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_models import FastSigmoid, ResNet, Spiking, batch

import spikecredit as sc
from spikecredit.analysis import alignment, angle
from spikecredit.synapses import Synapse, synapses_of

module = importlib.import_module("spikecredit.analysis.alignment")  # `spikecredit.analysis.alignment` is the function

FA = sc.FeedbackAlignment()


def arccos(a, b):
    a, b = (torch.cat([each.double().flatten() for each in calls]) for calls in (a, b))
    return math.degrees(math.acos(float(a @ b / a.norm() / b.norm())))


def norm(calls):
    return math.sqrt(sum(float(call.double().square().sum()) for call in calls))


def handed_back(op, x, weight, bias, matrix):
    """op with W forwards. To x the gradient returns through B: x - x.detach() is 0, and its gradient is one."""
    return op(x.detach(), weight, bias) + op(x - x.detach(), matrix, None)


def assert_measured(found, delivered, true, model, over_time=False):
    """delivered, true: by layer name the errors of its calls."""
    for name, layer in synapses_of(model).items():
        weight, matrix = layer.weight.detach(), layer.feedback_weight
        assert found[name].error_angle == pytest.approx(arccos(delivered[name], true[name]), abs=2e-6), name
        assert found[name].error_norm == pytest.approx(norm(delivered[name]), rel=1e-9)
        assert found[name].true_error_norm == pytest.approx(norm(true[name]), rel=1e-9)
        assert found[name].weight_angle == pytest.approx(arccos([matrix], [weight]), abs=2e-6)
        assert found[name].weight_norm == pytest.approx(float(weight.norm()))
        assert found[name].feedback_norm == pytest.approx(float(matrix.norm()))
        assert found[name].sign_agreement == pytest.approx(float(((matrix > 0) == (weight > 0)).double().mean()))
        if over_time:
            pairs = list(zip(delivered[name], true[name], strict=True))
            measured = [pair for pair in pairs if min(norm([e]) for e in pair) > 1e-9]
            angles = [a for a in found[name].error_angle_over_time if not math.isnan(a)]
            assert len(found[name].error_angle_over_time) == len(pairs) and len(measured) > len(pairs) / 2
            assert angles == pytest.approx([arccos([a], [b]) for a, b in measured], abs=2e-6)


# ---- known answers ---------------------------------------------------------------------------------------------------


def test_a_perceptron_by_hand():
    """delta_3 = e, delta_2 = (delta_3 M_3) [a_2 > 0], delta_1 = (delta_2 M_2) [a_1 > 0], with M = B, then M = W."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)).double()
    sc.convert(model, pathway=FA, seed=0)
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.arange(8) % 4
    a1 = model[0](x).detach()
    a2 = model[2](a1.relu()).detach()
    out = model(x).detach()
    e = (out.softmax(1) - F.one_hot(y, 4)) / 8
    errors = {}
    for kind in ("feedback_weight", "weight"):
        m2, m3 = (getattr(model[i], kind).detach() for i in (2, 4))
        d2 = (e @ m3) * (a2 > 0)
        errors[kind] = {"0": [(d2 @ m2) * (a1 > 0)], "2": [d2], "4": [e]}
    found = alignment(model, x, y, F.cross_entropy)
    assert list(found) == ["0", "2", "4"]
    assert_measured(found, errors["feedback_weight"], errors["weight"], model)
    assert 1 < found["0"].error_angle < 179 and found["4"].error_angle == 0
    assert found["0"].error_angle_over_time == ()


def test_a_convolutional_network_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, 2, 1, 1, 2), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(54, 3),
    ).double()  # fmt: skip
    sc.convert(model, pathway=FA, seed=0)
    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    errors = []
    for kind in ("feedback_weight", "weight"):
        m2, m5 = (getattr(model[i], kind).detach() for i in (2, 5))
        a0 = model[0](x).detach().requires_grad_()
        a2 = handed_back(lambda x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), a0.relu(), model[2].weight, model[2].bias, m2)
        a5 = handed_back(F.linear, a2.relu().flatten(1), model[5].weight, model[5].bias, m5)
        gradients = torch.autograd.grad(F.cross_entropy(a5, y), (a0, a2, a5))
        errors.append({name: [g] for name, g in zip("025", gradients, strict=True)})
    found = alignment(model, x, y, F.cross_entropy)
    assert_measured(found, *errors, model)
    assert 1 < found["0"].error_angle < 179 and 1 < found["2"].error_angle < 179


class Loop(nn.Module):
    """Leaky neurons by hand, in a loop over time; the middle layer is called twice per step, and hears itself."""

    def __init__(self, op=None):
        super().__init__()
        self.first, self.shared, self.recurrent = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3, bias=False)
        self.op = op

    def forward(self, x):
        op = self.op or (lambda layer, x: layer(x))
        u, v, total, heard = 0.0, 0.0, 0.0, torch.zeros(x.shape[1], 8, dtype=x.dtype)
        for step in x:
            u = 0.8 * u + op(self.first, step) + op(self.shared, heard)
            spikes = FastSigmoid.apply(u - 0.5)
            v = 0.8 * v + op(self.shared, spikes)
            heard = FastSigmoid.apply(v - 0.3)
            total = total + op(self.recurrent, heard)
        return total


def test_a_loop_over_time_by_hand():
    """Every call of a layer has an error of its own; together, in order, they are the layer's."""
    torch.manual_seed(0)
    model = sc.convert(Loop().double(), pathway=FA, seed=0)
    x, y = 3 * torch.rand(7, 4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    names = {layer: name for name, layer in synapses_of(model).items()}
    errors = []
    for kind in ("feedback_weight", "weight"):
        currents = {name: [] for name in names.values()}

        def op(layer, x, kind=kind, currents=currents):
            a = handed_back(F.linear, x, layer.weight, layer.bias, getattr(layer, kind).detach())
            currents[names[layer]].append(a)
            return a

        model.op = op
        loss = F.cross_entropy(model(x), y)
        gradients = {n: torch.autograd.grad(loss, a, retain_graph=True, allow_unused=True) for n, a in currents.items()}
        errors.append({
            n: [torch.zeros_like(a) if g is None else g for g, a in zip(gradients[n], currents[n], strict=True)]
            for n in gradients
        })  # fmt: skip
    model.op = None
    found = alignment(model, x, y, F.cross_entropy, over_time=True)
    assert {n: len(calls) for n, calls in errors[0].items()} == {"first": 7, "shared": 14, "recurrent": 7}
    assert_measured(found, *errors, model, over_time=True)
    assert found["first"].error_angle > 1 and found["shared"].error_angle > 1
    assert found["recurrent"].error_angle == 0  # the name is the user's: this is no RecurrentLinear
    flat = alignment(model, x, y, F.cross_entropy)
    assert flat["shared"].error_angle == found["shared"].error_angle and flat["shared"].error_angle_over_time == ()


@pytest.mark.parametrize("make", [ResNet, Spiking, Loop])
def test_feedback_by_the_weights_has_no_angle(make):
    """B = W: 0 degrees everywhere, whatever the model."""
    torch.manual_seed(0)
    model = sc.convert(make().double(), pathway=FA, seed=0)
    x, y = batch(make, torch.float64) if make is not Loop else (3 * torch.rand(7, 4, 5).double(), torch.arange(4) % 3)
    assert max(layer.error_angle for layer in alignment(model, x, y, F.cross_entropy).values()) > 10
    for layer in synapses_of(model).values():
        layer.feedback_weight.copy_(layer.weight.detach())
    for name, layer in alignment(model, x, y, F.cross_entropy).items():
        assert layer.error_angle < 1e-5 and layer.weight_angle == 0 and layer.sign_agreement == 1, name
        assert layer.error_norm == pytest.approx(layer.true_error_norm, rel=1e-9) and layer.error_norm > 0
    sc.convert(model)
    for layer in alignment(model, x, y, F.cross_entropy).values():
        assert layer.error_angle == layer.weight_angle == 0


def test_a_model_agrees_with_the_network_of_the_same_layers():
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(6, 9), sc.ReLU(), sc.Linear(9, 4), pathway=sc.SignSymmetry("fixed"), seed=0).double()
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).double()
    model.load_state_dict({k.removeprefix("layers."): v for k, v in net.state_dict().items() if "feedback" not in k})
    sc.convert(model, pathway=sc.SignSymmetry("fixed"), seed=0)
    for index in (0, 2):
        model[index].feedback_weight.copy_(net.layers[index].feedback_weight)
    x, y = torch.randn(3, 5, 6, dtype=torch.float64), torch.arange(5) % 4
    loss = sc.losses.MeanPotential()
    ours, theirs = alignment(net, x, y, loss), alignment(model, x, y, loss)
    for index in (0, 2):
        for field, value in vars(ours[f"layers.{index}"]).items():
            assert getattr(theirs[str(index)], field) == pytest.approx(value, rel=1e-9, abs=1e-7), field


# ---- what measuring leaves as it was ---------------------------------------------------------------------------------


class Dropped(nn.Module):
    """Dropout of torch's, and batch normalisation, which writes to itself."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(6, 30), nn.BatchNorm1d(30), nn.Linear(30, 30), nn.Linear(30, 4)

    def forward(self, x):
        return self.c(F.dropout(self.b(F.dropout(self.norm(self.a(x)).relu(), 0.5, self.training)).relu(), 0.5))


@pytest.mark.parametrize("pathway", [FA, sc.SignSymmetry("batch"), sc.KolenPollack()], ids=repr)
def test_measuring_changes_nothing(pathway):
    torch.manual_seed(0)
    model = sc.convert(Dropped(), pathway=pathway, constraint=sc.FrozenSigns(), seed=0)
    x, y = torch.randn(8, 6, requires_grad=True), torch.arange(8) % 4
    scale = nn.Parameter(torch.ones(()))
    F.cross_entropy(model(x), y).backward()
    gradients = [p.grad.clone() for p in [*model.parameters(), x]]
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    found = alignment(model, x, y, lambda out, y: F.cross_entropy(scale * out, y))
    assert torch.equal(torch.rand(1), wanted)
    assert all(map(torch.equal, gradients, (p.grad for p in [*model.parameters(), x])))
    assert scale.grad is None
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
    assert all(layer.pathway is pathway and not layer._forward_hooks for layer in synapses_of(model).values())
    torch.manual_seed(3)
    torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        assert repr(alignment(model, x, y, F.cross_entropy)) == repr(found)


def test_both_errors_see_the_same_dropout():
    torch.manual_seed(0)
    model = sc.convert(Dropped())
    for layer in alignment(model, torch.randn(8, 6), torch.arange(8) % 4, F.cross_entropy).values():
        assert layer.error_angle == 0


def test_states_that_modules_keep_are_no_obstacle():
    """snnTorch's neurons keep the state of their last pass. It stays, with its history; the measured passes start from
    it where a model does."""
    snn = pytest.importorskip("snntorch")

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.lif, self.b = nn.Linear(6, 12), snn.Leaky(0.9, init_hidden=True), nn.Linear(12, 3)
            self.traces = [{"last": None}]

        def forward(self, x):
            self.traces[0]["last"] = sum(self.b(self.lif(self.a(step))) for step in x)
            return self.traces[0]["last"]

    torch.manual_seed(0)
    model = sc.convert(Keeps(), pathway=FA, seed=0)
    x, y = 3 * torch.rand(6, 4, 6), torch.tensor([0, 1, 2, 0])
    first = alignment(model, x, y, F.cross_entropy)
    out = model(x)
    mem = model.lif.mem
    assert not mem.is_leaf
    second = alignment(model, x, y, F.cross_entropy)
    assert model.lif.mem is mem and model.traces[0]["last"] is out
    assert second["a"].error_norm != first["a"].error_norm  # from another state
    assert repr(alignment(model, x, y, F.cross_entropy)) == repr(second)
    pytest.importorskip("snntorch.utils").reset(model)
    assert repr(alignment(model, x, y, F.cross_entropy)) == repr(first)


def test_layers_without_an_error():
    """One that is never called, one whose weights are fixed, and a step from which nothing leads to the loss."""

    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            first, *_ = [self.b(self.a(step).relu()) for step in x]
            return first

    torch.manual_seed(0)
    model = sc.convert(Parts(), pathway=FA, seed=0)
    x, y = torch.rand(3, 5, 3), torch.arange(5) % 2
    found = alignment(model, x, y, F.cross_entropy, over_time=True)
    assert math.isnan(found["unused"].error_angle) and math.isnan(found["unused"].error_norm)
    assert found["unused"].weight_norm > 0
    assert [math.isnan(a) for a in found["a"].error_angle_over_time] == [False, True, True]
    assert found["a"].error_angle == found["a"].error_angle_over_time[0]
    model.a.requires_grad_(False)
    assert math.isnan(alignment(model, x, y, F.cross_entropy)["a"].error_angle)


def test_outputs_that_are_no_tensor_and_a_network_inside():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = sc.Network(
                sc.Linear(6, 20), sc.LIF(tau=5.0), sc.RecurrentLinear(20, 8, sc.LIF(tau=5.0)), sc.Linear(8, 4),
                pathway=sc.DirectFeedbackAlignment(), seed=0,
            )  # fmt: skip
            self.head = sc.Linear(4, 3)

        def forward(self, x):
            out = self.head(self.net(4 * x).mean(0))
            return out, {"state": out}

    torch.manual_seed(0)
    x, y = torch.rand(5, 4, 6), torch.tensor([0, 1, 2, 0])
    found = alignment(Pair(), x, y, lambda out, y: F.cross_entropy(out[0], y))
    assert list(found) == ["net.layers.0", "net.layers.2.input", "net.layers.2.recurrent", "net.layers.3", "head"]
    assert found["head"].error_angle == found["net.layers.3"].error_angle == 0
    assert 0 < found["net.layers.0"].error_angle < 180
    assert found["net.layers.2.recurrent"].error_angle == found["net.layers.2.input"].error_angle > 0


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(model, message, x=None, y=None, loss=F.cross_entropy):
    with pytest.raises(ValueError, match=message):
        alignment(model, torch.rand(4, 3) if x is None else x, torch.arange(4) % 2 if y is None else y, loss)


def test_what_cannot_be_measured_is_refused_with_what_to_do():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    refused(plain, r"this Sequential has no layer with a pathway.*convert\(model")
    model = sc.convert(plain, pathway=FA)
    refused(model, "what the output of this Sequential is, is not known here: pass loss=", loss=None)
    refused(nn.DataParallel(model), r"DataParallel is a wrapper around the Sequential: measure that, net\.module")
    refused(torch.compile(model, backend="eager"), r"wrapper around the Sequential: measure that, net\._orig_mod")
    refused(model, r"loss must return one number, as a tensor; it returned \(4, 2\)", loss=lambda out, y: out)
    refused(model, "it returned list", loss=lambda out, y: out.tolist())
    refused(model, "depends on no weight by gradient", loss=lambda out, y: out.detach().sum())
    model.requires_grad_(False)
    refused(model, "all weights are fixed", x=torch.rand(4, 3, requires_grad=True))

    class Hidden:
        pass

    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = sc.Linear(3, 2, pathway=FA)
            self.hidden = Hidden()

        def forward(self, x):
            self.hidden.state = self.fc(x)
            return self.hidden.state

    holds = Holds()
    holds(torch.rand(4, 3))
    refused(holds, "cannot be copied.*set that to None, or detach it")
    holds.hidden = Hidden()
    alignment(holds, torch.rand(4, 3), torch.arange(4) % 2, F.cross_entropy)
    inner = nn.ModuleDict({"net": sc.Network(
        sc.Linear(3, 4), sc.ReLU(), sc.Linear(4, 2), pathway=sc.DirectFeedbackAlignment("target"), seed=0,
    )})  # fmt: skip
    refused(inner, "net takes the target in its forward pass")


def test_a_model_that_is_not_the_same_twice_is_refused():
    count = iter(range(1, 100))

    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x * next(count))

    refused(sc.convert(Restless(), pathway=FA), "two forward passes of this Restless differ")

    class Growing(Restless):
        def forward(self, x):
            return sum(self.fc(x) for _ in range(next(count))) * 0 + self.fc(x)

    refused(sc.convert(Growing(), pathway=FA), "two forward passes of this Growing differ")


# ---- mutants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", ["calls summed", "calls in another order", "no truth"])
def test_the_checks_can_fail(mutant, monkeypatch):
    if mutant == "calls summed":
        monkeypatch.setattr(module, "_joined", lambda calls: None if not calls else sum(calls))
    elif mutant == "calls in another order":
        real = module._errors

        def turned(net, x, y, loss, backprop):
            errors = real(net, x, y, loss, backprop)
            return module._Errors({n: c[::-1] if backprop else c for n, c in errors.calls.items()}, errors.loss)

        monkeypatch.setattr(module, "_errors", turned)
    else:
        real_errors = module._errors
        monkeypatch.setattr(module, "_errors", lambda *a, backprop: real_errors(*a, backprop=False))
    with pytest.raises(AssertionError):
        test_a_loop_over_time_by_hand()


def test_an_angle_is_between_vectors_of_any_shape():
    assert angle(torch.ones(2, 3), torch.ones(6)) == 0
    assert all(isinstance(layer, Synapse) for layer in synapses_of(sc.convert(nn.Linear(2, 2))).values())

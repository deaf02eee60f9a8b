"""Frozen signs: no weight changes its sign or becomes 0, whatever the optimiser does; from the epoch that was asked."""

import copy
import itertools
import warnings

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.constraints import FrozenSigns
from spikecredit.synapses import Constrained, ConstraintWarning

FLOOR = 1e-10
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
}


def network(constraint=None, pathway=None, seed=0):
    """Dense, convolutional, recurrent and normalisation layers in one network."""
    torch.manual_seed(seed)
    layers = (
        sc.Conv2d(1, 3, 3), sc.BatchNorm2d(3), sc.LIF(tau=5.0, threshold=0.1), sc.Flatten(),
        sc.RecurrentLinear(12, 8, sc.LIF(tau=5.0, threshold=0.1)),
        sc.Linear(8, 6), sc.BatchNorm1d(6), sc.LIF(tau=5.0, threshold=0.1), sc.Linear(6, 4), sc.LeakyReadout(tau=5.0),
    )  # fmt: skip
    return sc.Network(*layers, constraint=constraint, pathway=pathway, seed=seed)


G = torch.Generator().manual_seed(1)
X, Y = 4 * torch.rand(3, 6, 1, 4, 4, generator=G), torch.tensor([0, 1, 2, 3, 0, 1])


def weights(net):
    return {name: m.weight.detach().clone() for name, m in net.named_modules() if isinstance(m, Constrained)}


def flips(net, start):
    """Weights that are 0 or of another sign than at the start, by looking at the weights."""
    return sum(int((w.sign() != start[name].sign()).sum()) for name, w in weights(net).items())


def fit(net, optimizer, steps, after=lambda: None):
    for _ in range(steps):
        loss = F.cross_entropy(net(X).mean(0), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()


# ---- the rule --------------------------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=10, deadline=None)
def test_no_sign_changes_in_hundreds_of_steps(shape, optimizer, seed):
    """Known answer: no-sign-change, floor 1e-10. Weights are driven to and fro across 0; those of a control flip."""
    layer, control = (Bare(shape, seed, constraint) for constraint in (FrozenSigns(), sc.Unconstrained()))
    start = layer.weight.detach().clone()
    flipped = torch.zeros(shape, dtype=torch.bool)
    both = [(each, OPTIMIZERS[optimizer]([each.weight])) for each in (layer, control)]
    for step in range(200):
        for each, opt in both:
            target = start * (-2.0 if (step // 50) % 2 == 0 else 1.0)
            each.weight.grad = each.weight.detach() - target
            opt.step()
            sc.after_step(each, opt)
        assert torch.equal(layer.weight.sign(), start.sign())
        assert layer.weight.abs().min() >= 0.999 * FLOOR
        assert layer.violations() == 0
        flipped |= control.weight.sign() != start.sign()
    assert flipped.all()


class Bare(Constrained):
    """A weight of any shape under a constraint."""

    def __init__(self, shape, seed, constraint):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
        self.set_up_constraint(constraint)
        self._hold_signs(anew=True)
        constraint.initialise(self, torch.Generator())


def test_a_step_by_hand():
    """W <- W where S W > 0, else S floor: in float64, entry by entry."""
    before = torch.tensor([[3.0, -2.0, 1.0, 6.0], [-1.0, 5.0, -4.0, -3.0]], dtype=torch.float64)
    moved = torch.tensor([[0.5, 0.0, -7.0, 0.0], [2.0, 1e-12, -1e-12, -0.0]], dtype=torch.float64)
    layer = sc.Linear(4, 2).double()
    with torch.no_grad():
        layer.weight.copy_(before)
    net = sc.Network(layer, constraint=FrozenSigns(floor=1e-3))
    with torch.no_grad():
        layer.weight.copy_(moved)
    assert net.violations() == 5
    layer.project()
    wanted = torch.tensor([[0.5, -1e-3, 1e-3, 1e-3], [-1e-3, 1e-12, -1e-12, -1e-3]], dtype=torch.float64)
    assert torch.equal(layer.weight, wanted)
    assert net.violations() == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("how", ["after_step", "attach", "control"])
def test_every_kind_of_layer_keeps_its_signs(optimizer, how):
    net = network(None if how == "control" else FrozenSigns())
    start, opt = weights(net), OPTIMIZERS[optimizer](net.parameters())
    counts, changed = [], set()
    if how == "attach":
        sc.attach(net, opt)

    def after():
        if how == "after_step":
            sc.after_step(net, opt)
        counts.append(flips(net, start))
        changed.update(name for name, w in weights(net).items() if (w.sign() != start[name].sign()).any())

    fit(net, opt, 40, after)
    if how == "control":
        far = set() if optimizer == "momentum" else {"layers.0", "layers.4.input", "layers.4.recurrent"}
        assert {"layers.5", "layers.8"} | far <= changed  # Adam's steps are as large in the first layer as in the last
    else:
        assert max(counts) == 0 == net.violations()
        assert min(float(w.abs().min()) for w in weights(net).values()) >= 0.999 * FLOOR
        assert any((w.abs() < 2 * FLOOR).any() for w in weights(net).values())  # some would have changed


def test_scales_of_normalisations_are_frozen_and_biases_are_not():
    net = network(FrozenSigns())
    norm, opt = net.layers[1], torch.optim.SGD(net.parameters(), lr=1.0)
    assert torch.equal(norm.frozen_sign, torch.ones(3, dtype=torch.int8))
    before = norm.bias.detach().clone() + 0.5
    with torch.no_grad():
        norm.bias.copy_(before)
    norm.weight.grad, norm.bias.grad = torch.full((3,), 5.0), torch.full((3,), 5.0)
    opt.step()
    sc.after_step(net, opt)
    assert torch.equal(norm.weight, torch.full((3,), FLOOR))
    assert torch.equal(norm.bias, before - 5.0)


def test_a_weight_of_0_counts_as_positive():
    layer = sc.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0], [1.0, -1.0]]))
    free = sc.Network(copy.deepcopy(layer), constraint=FrozenSigns(after=1))
    assert free.layers[0].weight[0].tolist() == [0, 0]  # untouched as long as it is free
    net = sc.Network(layer, constraint=FrozenSigns())
    assert torch.equal(layer.weight, torch.tensor([[FLOOR, FLOOR], [1.0, -1.0]]))
    assert torch.equal(layer.frozen_sign, torch.tensor([[1, 1], [1, -1]], dtype=torch.int8))
    assert net.violations() == 0


@pytest.mark.parametrize(
    ("dtype", "floor", "wanted"),
    [
        (torch.float16, 1e-10, torch.finfo(torch.float16).tiny),
        (torch.float16, 1e-3, 1e-3),
        (torch.bfloat16, 1e-10, 1e-10),
        (torch.float32, 1e-10, 1e-10),
        (torch.float32, 1e-60, torch.finfo(torch.float32).tiny),
        (torch.float64, 1e-60, 1e-60),
    ],
)
def test_the_floor_is_a_normal_number_of_every_dtype(dtype, floor, wanted):
    net = sc.Network(sc.Linear(4, 4).to(dtype), constraint=FrozenSigns(floor=floor))
    layer = net.layers[0]
    sign = layer.weight.detach().sign()
    with torch.no_grad():
        layer.weight.neg_()
    layer.project()
    assert torch.equal(layer.weight.sign(), sign)
    assert torch.equal(layer.weight.detach(), sign * torch.tensor(wanted, dtype=dtype))
    assert net.violations() == 0


def test_nan_is_not_hidden():
    net = sc.Network(sc.Linear(2, 2), constraint=FrozenSigns())
    with torch.no_grad():
        net.layers[0].weight[0, 0] = torch.nan
    net.layers[0].project()
    assert net.layers[0].weight[0, 0].isnan() and net.violations() == 1


# ---- when ------------------------------------------------------------------------------------------------------------


def test_signs_are_free_before_their_epoch():
    net = network(FrozenSigns(after=2))
    opt = OPTIMIZERS["momentum"](net.parameters())
    sc.attach(net, opt)
    start = weights(net)
    for epoch in range(2):
        sc.start_epoch(net, epoch)
        fit(net, opt, 15)
        assert net.violations() == 0
        assert all(not m.frozen_sign.any() for m in net.modules() if isinstance(m, Constrained))
    assert flips(net, start) > 10
    frozen = weights(net)
    for epoch in range(2, 4):
        sc.start_epoch(net, epoch)
        fit(net, opt, 15)
        assert flips(net, frozen) == 0 == net.violations()


def test_freezing_at_once_and_again():
    net = network(FrozenSigns(after=5))
    sc.freeze_signs(net)
    start = weights(net)
    opt = OPTIMIZERS["adam"](net.parameters())
    sc.attach(net, opt)
    fit(net, opt, 15)
    assert flips(net, start) == 0
    with torch.no_grad():
        net.layers[8].weight.neg_()  # as if other weights had been loaded
    assert net.violations() == 24
    sc.start_epoch(net, 5)  # what is frozen stays
    assert flips(net, start) == 0
    with torch.no_grad():
        net.layers[8].weight.neg_()
    sc.freeze_signs(net)
    assert net.violations() == 0 and flips(net, start) == 24


def test_a_forgotten_projection_warns():
    net = network(FrozenSigns())
    fit(net, torch.optim.SGD(net.parameters(), lr=0.0), 1)
    opt = torch.optim.SGD(net.parameters(), lr=5.0)
    fit_once = [net(X).square().mean().backward(), opt.step()]
    assert fit_once and net.violations() > 0
    with pytest.warns(ConstraintWarning, match=r"break FrozenSigns\(after=0, floor=1e-10\).*after_step"):
        net(X)
    free = network(FrozenSigns(after=1))
    opt = torch.optim.SGD(free.parameters(), lr=5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(free, opt, 2)


def test_the_loop_freezes_at_the_right_epoch():
    """28 images in batches of 8: four steps an epoch."""
    hot = ("training.epochs=4", "training.optimizer={kind: sgd, lr: 1.0}", "network.hidden=[12, 8]")
    signs, flipped = [], []

    def watch(trainer):
        def progress(epoch, batch, batches, accuracy):
            signs.append({n: w.sign() for n, w in weights(trainer.net).items()})

        return progress

    for after, freezing in itertools.product((0, 2), (True, False)):
        constraint = (f"constraint={{kind: frozen_signs, after: {after}}}",) if freezing else ()
        trainer = tiny.trainer(*hot, *constraint)
        trainer.progress = watch(trainer)
        signs = [{n: w.sign() for n, w in weights(trainer.net).items()}]
        trainer.fit()
        changes = [sum(int((a[n] != b[n]).sum()) for n in a) for a, b in itertools.pairwise(signs)]
        flipped.append([sum(changes[4 * e : 4 * e + 4]) for e in range(4)])
        assert trainer.result["violations"] == 0
    assert flipped[0] == [0, 0, 0, 0]
    assert flipped[2][:2] == flipped[3][:2] and all(flipped[3])  # without the constraint signs change in every epoch
    assert flipped[2][0] > 0 < flipped[2][1] and flipped[2][2:] == [0, 0]


def test_a_start_that_training_never_reaches_is_refused():
    assert tiny.configured("constraint={kind: frozen_signs, after: 1}").value.constraint == FrozenSigns(1)
    with pytest.raises(ValueError, match=r"constraint\.after=2 freezes signs after that many epochs, and training"):
        tiny.configured("constraint={kind: frozen_signs, after: 2}")


# ---- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_signs_are_in_the_state(epochs):
    """Saved while free or frozen, loaded into one that is free or frozen: what was saved holds."""
    net = network(FrozenSigns(after=1))
    opt = OPTIMIZERS["momentum"](net.parameters())
    sc.attach(net, opt)
    for epoch in range(epochs):
        sc.start_epoch(net, epoch)
        fit(net, opt, 10)
    state = copy.deepcopy(net.state_dict())
    assert state["layers.8.frozen_sign"].dtype == torch.int8
    assert bool(state["layers.8.frozen_sign"].any()) == (epochs == 2)
    for other in (network(FrozenSigns(after=1), seed=3), network(FrozenSigns(), seed=3)):
        other.load_state_dict(state)
        assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
        assert other.violations() == 0
        start, opt = weights(other), OPTIMIZERS["momentum"](other.parameters())
        sc.attach(other, opt)
        fit(other, opt, 20)
        assert (flips(other, start) == 0) == (epochs == 2)


def test_without_the_constraint_the_state_has_no_signs():
    assert not [key for key in network(sc.Dale()).state_dict() if "frozen" in key]
    result = network(FrozenSigns()).load_state_dict(network().state_dict(), strict=False)
    assert len(result.missing_keys) == 7 and all("frozen_sign" in key for key in result.missing_keys)


def test_rebinding_starts_from_the_weights_of_the_moment():
    """A layer with a constraint of its own is bound when it is made, and again by its network."""
    layer = sc.Linear(5, 4, constraint=FrozenSigns())
    norm = sc.BatchNorm1d(4, constraint=FrozenSigns())
    with torch.no_grad():
        layer.weight.neg_()
        norm.weight.neg_()
    net = sc.Network(layer, norm, constraint=sc.Dale())
    assert net.violations() == 0
    for each in (layer, norm):
        assert torch.equal(each.frozen_sign, each.weight.sign().to(torch.int8))
    assert (norm.frozen_sign == -1).all()


def test_a_copy_holds_its_own_signs():
    net = network(FrozenSigns(after=1))
    twin = copy.deepcopy(net)
    sc.start_epoch(twin, 1)
    assert twin.layers[0].frozen_sign.all() and not net.layers[0].frozen_sign.any()


# ---- with everything else --------------------------------------------------------------------------------------------

PATHWAYS = [
    sc.Backprop(), sc.FeedbackAlignment(), sc.SignSymmetry(), sc.SignSymmetry("fixed"), sc.SignSymmetry("batch"),
    sc.SignSymmetry(agreement=0.75), sc.Antiparallel(), sc.KolenPollack(), sc.WeightMirror(samples=8),
    sc.LocalAlignment(), sc.NoisyBackprop(), sc.DirectFeedbackAlignment(), sc.DirectKolenPollack(),
]  # fmt: skip


@pytest.mark.parametrize("pathway", PATHWAYS, ids=repr)
def test_it_goes_with_every_pathway(pathway):
    net = network(FrozenSigns(), pathway)
    net(X)
    start, opt = weights(net), OPTIMIZERS["adam"](net.parameters())
    sc.attach(net, opt)
    fit(net, opt, 8)
    assert flips(net, start) == 0 == net.violations()
    assert any((w.abs() < 2 * FLOOR).any() for w in weights(net).values())


@pytest.mark.parametrize("magnitude", ["uniform", "fixed"])
def test_sign_symmetric_feedback_is_constant_once_signs_are_frozen(magnitude):
    net, free = (network(c, sc.SignSymmetry(magnitude)) for c in (FrozenSigns(), None))
    before = {}
    for each in (net, free):
        before[each] = {n: m.pathway.feedback(m) for n, m in each.synapses().items()}
        opt = OPTIMIZERS["momentum"](each.parameters())
        sc.attach(each, opt)
        fit(each, opt, 20)
    assert all(torch.equal(m.pathway.feedback(m), before[net][n]) for n, m in net.synapses().items())
    assert not all(torch.equal(m.pathway.feedback(m), before[free][n]) for n, m in free.synapses().items())


def test_feedback_weights_are_exempt():
    net = network(FrozenSigns(), sc.KolenPollack())
    assert not net.constraint.constrains_feedback
    layer = net.layers[8]
    opt = torch.optim.SGD(net.parameters(), lr=1.0)
    layer.weight.grad = 100 * layer.frozen_sign.float()
    layer.feedback_weight.grad = layer.weight.grad.clone()
    before = layer.feedback_weight.detach().clone()
    opt.step()
    sc.after_step(net, opt)
    assert torch.equal(layer.feedback_weight, before - layer.weight.grad)
    torch.testing.assert_close(layer.weight.detach(), FLOOR * layer.frozen_sign.float())


class Plain(nn.Module):
    """A model of torch with everything that conversion knows."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.norm = nn.Linear(16, 10), nn.LayerNorm(10)
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).flatten(1)
        return self.out(torch.relu(self.norm(self.hidden(x))))


def train_plain(model, opt, steps=30):
    for _ in range(steps):
        opt.zero_grad()
        F.cross_entropy(model(X[0]), Y).backward()
        opt.step()


def test_converted_models_keep_their_signs():
    torch.manual_seed(0)
    model = Plain()
    state = copy.deepcopy(model.state_dict())
    sc.convert(model, constraint=FrozenSigns(after=1), pathway=sc.SignSymmetry(), seed=0)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())  # no weight is changed
    opt = OPTIMIZERS["momentum"](model.parameters())
    sc.attach(model, opt)
    start = weights(model)
    assert len(start) == 5
    sc.start_epoch(model, 0)
    train_plain(model, opt)
    assert flips(model, start) > 0
    sc.start_epoch(model, 1)
    frozen = weights(model)
    train_plain(model, opt)
    assert flips(model, frozen) == 0
    # a second call leaves what is frozen; one with another constraint starts anew
    sc.convert(model, constraint=FrozenSigns(after=1), pathway=sc.FeedbackAlignment(), seed=0)
    assert all(m.frozen_sign.all() for m in model.modules() if isinstance(m, Constrained))
    train_plain(model, opt)
    assert flips(model, frozen) == 0
    other = sc.convert(Plain(), constraint=FrozenSigns(after=1), pathway=sc.FeedbackAlignment(), seed=0)
    other.load_state_dict(model.state_dict())
    opt = OPTIMIZERS["adam"](other.parameters())
    sc.attach(other, opt)
    train_plain(other, opt)
    assert flips(other, frozen) == 0
    sc.convert(model, constraint=FrozenSigns(after=7))
    assert not any(m.frozen_sign.any() for m in model.modules() if isinstance(m, Constrained))
    sc.convert(model)
    assert set(model.state_dict()) == set(state)


def test_values_and_mistakes():
    assert FrozenSigns() == FrozenSigns(after=0, floor=1e-10)
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises((TypeError, ValueError), match="after is"):
            FrozenSigns(after=wrong)
    for wrong in (0.0, -1e-10, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="floor must be a finite number above 0"):
            FrozenSigns(floor=wrong)
    with pytest.raises(TypeError, match="epoch is a whole number"):
        sc.start_epoch(network(), 1.0)
    with pytest.raises(ValueError, match="epochs count from 0"):
        sc.start_epoch(network(), -1)
    with pytest.raises(ValueError, match="no layer of this Network is under FrozenSigns"):
        sc.freeze_signs(network(sc.Dale()))


# ---- mutants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", ["no projection", "no freezing", "signs of the moment"])
def test_the_checks_can_fail(mutant, monkeypatch):
    if mutant == "no projection":
        monkeypatch.setattr(FrozenSigns, "project", lambda self, layer: None)
    elif mutant == "no freezing":
        monkeypatch.setattr(FrozenSigns, "freeze", lambda self, layer: None)
    else:  # refreezing at every step holds nothing
        monkeypatch.setattr(FrozenSigns, "project", lambda self, layer: layer.frozen_sign.copy_(layer.weight.sign()))
    with pytest.raises(AssertionError):
        test_every_kind_of_layer_keeps_its_signs("momentum", "after_step")

"""Dale's law: one sign per column, for life, whatever the optimiser does."""

import copy
import dataclasses
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.architectures import Residual
from spikecredit.constraints import Dale, Population
from spikecredit.synapses import ConstraintWarning

MODES = {
    "project": Dale(),
    "abs": Dale(mode="reparametrize"),
    "exp": Dale(mode="reparametrize", magnitude="exp"),
    "softplus": Dale(mode="reparametrize", magnitude="softplus"),
}
OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


def dense(constraint, seed=1, **options):
    torch.manual_seed(seed)
    layers = sc.Linear(8, 20), sc.BatchNorm1d(20), sc.ReLU(), sc.Linear(20, 20), sc.ReLU(), sc.Linear(20, 5)
    return sc.Network(*layers, constraint=constraint, seed=seed, **options)


def columns(layer):
    """The signs found in each column of a dense layer's weights, +1 / -1 / 0 if mixed, by looking at the weights."""
    weight = layer.effective_weight().detach()
    positive, negative = (weight > 0).any(0), (weight < 0).any(0)
    return torch.where(positive & negative, 0, positive.int() - negative.int())


def flips(net, reference):
    """Weights whose sign is not that of their column in `reference` (0 is no flip)."""
    layers = list(net.synapses().values())[1:]
    return sum(int((w.effective_weight().sign() == -r).sum()) for w, r in zip(layers, reference, strict=True))


def fit(net, optimizer, steps, after=lambda: None, check=lambda: None):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(1, 16, 8, generator=g), torch.randn(1, 16, 5, generator=g)  # targets know nothing of signs
    losses = []
    for _ in range(steps):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        check()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", ["project", "attached", "abs", "exp", "softplus", "control"])
def test_no_sign_ever_flips(mode, optimizer):
    net = dense(MODES.get(mode, None if mode == "control" else Dale()))
    opt = OPTIMIZERS[optimizer](net.parameters())
    start = dense(Dale()) if mode == "control" else copy.deepcopy(net)
    if mode == "control":
        net.load_state_dict({k: v for k, v in start.state_dict().items() if "sign" not in k})
    reference = [columns(layer) for layer in list(start.synapses().values())[1:]]
    assert all((r != 0).all() for r in reference)
    counts = []
    if mode == "attached":
        sc.attach(net, opt)
    losses = fit(
        net,
        opt,
        300,
        after=(lambda: sc.after_step(net, opt)) if mode == "project" else lambda: None,
        check=lambda: counts.append(flips(net, reference)),
    )
    assert losses[-1] < 0.7 * losses[0]  # it learned, so that there was something to violate
    if mode == "control":
        assert max(counts) > 20
    else:
        assert max(counts) == 0
        assert net.violations() == 0


def test_the_check_notices_a_projection_that_does_nothing(monkeypatch):
    monkeypatch.setattr(Dale, "project", lambda self, layer: None)
    net = dense(Dale())
    opt = OPTIMIZERS["momentum"](net.parameters())
    reference = [columns(layer) for layer in list(net.synapses().values())[1:]]
    fit(net, opt, 30, after=lambda: sc.after_step(net, opt))
    assert flips(net, reference) > 0
    assert net.violations() > 0


def test_the_check_notices_signs_by_row(monkeypatch):
    def by_row(self, signs, axis):
        return signs.view(-1, 1) if axis == 1 else signs

    monkeypatch.setattr(sc.Linear, "lay_out", by_row)
    layer = sc.Network(sc.Linear(3, 20), sc.Linear(20, 20), constraint=Dale(), seed=0).layers[1]
    assert (columns(layer) == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_signs_survive_the_state_and_go_on_holding(mode):
    net = dense(MODES[mode])
    opt = OPTIMIZERS["adam"](net.parameters())
    sc.attach(net, opt)
    fit(net, opt, 20)
    other = dense(MODES[mode], seed=7)
    assert not torch.equal(columns(other.layers[3]), columns(net.layers[3]))
    other.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8)
    assert torch.equal(other.eval()(x), net.eval()(x))
    opt = OPTIMIZERS["momentum"](other.train().parameters())
    sc.attach(other, opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(other, opt, 20)
    assert flips(other, [net.layers[i].presynaptic_sign for i in (3, 5)]) == 0


def test_momentum_does_not_resurrect_a_projected_weight_with_the_wrong_sign():
    layer = dense(Dale()).layers[3]
    opt = torch.optim.SGD([layer.weight], lr=1.0, momentum=0.9)
    sign = layer.presynaptic_sign
    layer.weight.grad = 10 * sign.float().expand_as(layer.weight).clone()  # pushes every weight across zero
    for _ in range(5):
        opt.step()
        layer.project()
        assert not layer.weight.any()
        layer.weight.grad.zero_()  # only momentum pushes on
    for _ in range(30):
        layer.weight.grad = -sign.float().expand_as(layer.weight).clone()
        opt.step()
        layer.project()
        assert (layer.weight * sign >= 0).all()
    assert (layer.weight * sign > 0).all()  # and the projection is no trap


@settings(max_examples=40, deadline=None)
@given(
    units=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    excitatory=st.floats(0, 1),
    mode=st.sampled_from(sorted(MODES)),
    step=st.floats(-3, 3).map(lambda e: 10**e),
    seed=st.integers(0, 2**62),
)
def test_any_step_keeps_any_sign(units, excitatory, mode, step, seed):
    constraint = Dale(excitatory, MODES[mode].mode, magnitude=MODES[mode].magnitude)
    net = sc.Network(sc.Linear(2, units[0]), sc.Linear(*units), constraint=constraint, seed=seed)
    layer = net.layers[1]
    sign = layer.presynaptic_sign.clone()
    assert int((sign > 0).sum()) == round(excitatory * units[0])
    assert set(sign.tolist()) <= {-1, 1}
    opt = torch.optim.SGD(net.parameters(), lr=step, momentum=0.9)
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=g)
        opt.step()
        sc.after_step(net, opt)
        weight = layer.effective_weight()
        assert (weight * sign >= 0).all()
        assert layer.violations() == 0
        assert torch.equal(sign, layer.presynaptic_sign)


def test_exactly_the_asked_fraction_is_excitatory_and_each_assignment_comes_up():
    for units, fraction in itertools.product((1, 2, 5, 10, 33), (0.0, 0.5, 0.8, 1.0)):
        signs = Dale(fraction).signs(Population("p", units), 3)
        assert signs.dtype == torch.int8
        assert int((signs == 1).sum()) == round(fraction * units)
        assert int((signs == -1).sum()) == units - round(fraction * units)
    drawn = torch.stack([Dale().signs(Population("p", 10), seed) for seed in range(400)])
    share = (drawn > 0).float().mean(0)
    assert ((share - 0.8).abs() < 5 * 0.02).all()  # sd sqrt(.16 / 400) = 0.02: no position is preferred
    assert not torch.equal(Dale().signs(Population("p", 50), 0), Dale().signs(Population("q", 50), 0))


def identities(*middle, hidden=3, pathway=None, before=0, **options):
    torch.manual_seed(before)
    layers = [sc.Linear(8, 40), *middle, sc.LIF()]
    for _ in range(hidden - 1):
        layers += [sc.Linear(40, 40), *copy.deepcopy(middle), sc.LIF()]
    net = sc.Network(*layers, sc.Linear(40, 5), pathway=pathway, constraint=Dale(), seed=2, **options)
    return [layer.presynaptic_sign for layer in list(net.synapses().values())[1:]]


def test_identities_come_from_a_stream_of_their_own():
    signs = identities()
    assert not torch.equal(signs[0], signs[1])  # populations differ
    for other in (
        identities(before=9),
        identities(pathway=sc.FeedbackAlignment()),
        identities(pathway=sc.SignSymmetry("batch")),
        identities(sc.Dropout(0.5)),
        identities(sc.BatchNorm1d(40), sc.Dropout(0.5)),
        identities(last_layer="backprop", pathway=sc.SignSymmetry()),
    ):
        assert all(map(torch.equal, signs, other))


def test_the_sensory_layer_is_exempt():
    net = dense(Dale())
    assert net.layers[0].presynaptic_sign is None
    assert (columns(net.layers[0]) == 0).any()
    plain = dense(None)
    assert torch.equal(net.layers[0].weight, plain.layers[0].weight)


@pytest.mark.parametrize("mode", MODES)
def test_excitatory_input_is_under_the_law_too(mode):
    """Of dense layers and of convolutions, alone and in a network; no column of the first layer inhibits."""
    constraint = dataclasses.replace(MODES[mode], sensory="excitatory")
    net = dense(constraint)
    opt = OPTIMIZERS["momentum"](net.parameters())
    sc.attach(net, opt)
    for _ in range(2):
        assert (columns(net.layers[0]) == 1).all()
        assert net.violations() == 0
        fit(net, opt, 50)
    torch.manual_seed(0)
    net = sc.Network(sc.Conv2d(2, 5, 3), sc.LIF(), sc.Conv2d(5, 3, 3), constraint=constraint, seed=0)
    assert bool((net.layers[0].effective_weight() >= 0).all())
    assert not bool((net.layers[2].effective_weight() >= 0).all())


def loops(layer, signs):
    """Weights of a convolution with the wrong sign, by definition: every pair of input and output channel in turn."""
    weight, per = layer.effective_weight(), layer.in_channels // layer.groups
    wrong = used = 0
    for out in range(layer.out_channels):
        group = out // (layer.out_channels // layer.groups)
        for i in range(per):
            channel = group * per + i
            wrong += int((weight[out, i].sign() == -signs[channel]).sum())
            used += int((weight[out, i].sign() == signs[channel]).sum())
    assert used + wrong == weight.numel()
    return wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 2, 4, 12])
def test_convolutions_with_groups_have_one_sign_per_input_channel(groups, mode):
    torch.manual_seed(0)
    net = sc.Network(sc.Conv2d(1, 12, 3), sc.Conv2d(12, 24, 3, groups=groups), constraint=MODES[mode], seed=4)
    signs = MODES[mode].signs(Population("layers.Conv2d0", 12), 4)
    assert loops(net.layers[1], signs) == 0
    assert loops(net.layers[1], signs.flip(0)) > 0
    if mode == "project":
        with torch.no_grad():
            net.layers[1].weight.normal_()
        assert net.violations() == loops(net.layers[1], signs) > 0
        net.layers[1].project()
        assert net.violations() == 0


def test_a_flattened_channel_hands_its_sign_to_all_its_neurons():
    torch.manual_seed(0)
    layers = sc.Conv2d(1, 10, 3), sc.LIF(), sc.AvgPool2d(2), sc.Flatten(), sc.Linear(10 * 3 * 3, 7)
    net = sc.Network(*layers, constraint=Dale(), seed=4)
    maps = columns(net.layers[4]).view(10, 9)
    assert (maps == maps[:, :1]).all()
    assert int((maps[:, 0] == 1).sum()) == 8


def test_units_that_do_not_fit_are_refused_with_their_numbers():
    with pytest.raises(ValueError, match="has 25 units where the population before it has 10"):
        sc.Network(sc.Linear(3, 10), sc.Linear(25, 4), constraint=Dale())


def test_a_recurrent_neuron_has_one_sign_wherever_it_projects():
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(4, 6), sc.RecurrentLinear(6, 30), sc.Linear(30, 5), constraint=Dale(), seed=1)
    own = columns(net.layers[1].recurrent)
    assert torch.equal(own, columns(net.layers[2]))
    assert int((own == 1).sum()) == 24
    assert not columns(net.layers[1].input).eq(0).any()


@pytest.mark.parametrize("shortcut", ["spike", "membrane"])
@pytest.mark.parametrize("feedback", ["exempt", "own"])
def test_all_readers_of_a_residual_stream_see_the_same_signs(shortcut, feedback):
    torch.manual_seed(0)
    architecture = sc.ResNet(blocks=(2, 2), width=10, shortcut=shortcut)
    net = architecture.build((3, 8, 8), 5, constraint=Dale(feedback=feedback), pathway=sc.SignSymmetry(), seed=3)
    blocks = [layer for layer in net.layers if isinstance(layer, Residual)]
    head = next(layer for layer in net.layers if isinstance(layer, sc.Linear))
    convs = [[layer for layer in block.branch if isinstance(layer, sc.Conv2d)] for block in blocks]
    projection = blocks[2].projection[0]
    signs = [c.effective_weight().sign().amax((0, 2, 3)) for c in (convs[0][0], convs[1][0], convs[2][0], projection)]
    assert all(torch.equal(s, signs[0]) for s in signs)  # all read the first stream
    assert signs[0].abs().min() == 1
    second = convs[3][0].effective_weight().sign().amax((0, 2, 3))
    assert torch.equal(second, head.effective_weight().sign().amax(0))
    inner = convs[0][1].effective_weight().sign().amax((0, 2, 3))
    assert not torch.equal(inner, signs[0])  # a population of its own
    if feedback == "own":  # every writer to the stream sends its errors with the stream's signs
        for writer in (convs[0][1], convs[1][1]):
            assert torch.equal(writer.feedback().sign().amax((1, 2, 3)), signs[0])
        for writer in (projection, convs[2][1], convs[3][1]):
            assert torch.equal(writer.feedback().sign().amax((1, 2, 3)), second)


@pytest.mark.parametrize("pathway", [sc.FeedbackAlignment(), sc.SignSymmetry(), sc.SignSymmetry("batch")], ids=repr)
def test_own_feedback_has_the_sign_of_the_neuron_that_sends_it(pathway):
    torch.manual_seed(0)
    layers = sc.Conv2d(1, 10, 3), sc.LIF(), sc.Conv2d(10, 12, 3), sc.LIF(), sc.Flatten(), sc.Linear(12, 20), sc.LIF()
    net = sc.Network(*layers, sc.Linear(20, 5), pathway=pathway, constraint=Dale(feedback="own"), seed=1)
    chain = list(net.synapses().values())
    for layer, above in itertools.pairwise(chain):
        rows = layer.feedback().flatten(1).sign()
        forward = above.effective_weight().transpose(0, 1).flatten(1).sign()
        assert (rows == rows[:, :1]).all()
        assert (forward == forward[:, :1]).all()
        assert torch.equal(rows[:, 0], forward[:, 0])
        if isinstance(pathway, sc.FeedbackAlignment):  # magnitudes are the pathway's
            assert torch.equal(layer.feedback().abs(), layer.feedback_weight.abs())
    exempt = sc.Network(sc.Linear(9, 20), sc.Linear(20, 5), pathway=pathway, constraint=Dale(), seed=1)
    assert (exempt.layers[0].feedback() > 0).any(1).logical_and((exempt.layers[0].feedback() < 0).any(1)).all()


def test_own_feedback_keeps_the_zeros_of_sign_symmetry():
    net = dense(Dale(feedback="own"), pathway=sc.SignSymmetry())
    with torch.no_grad():
        net.layers[3].weight[2:5] = 0
    assert torch.equal(net.layers[3].feedback() == 0, net.layers[3].weight == 0)


def test_own_feedback_with_backprop_is_refused_with_the_way_out():
    for make in (
        lambda: sc.Network(sc.Linear(3, 3), sc.Linear(3, 3), constraint=Dale(feedback="own")),
        lambda: sc.Network(
            sc.Linear(3, 3), constraint=Dale(feedback="own"), pathway=sc.SignSymmetry(), last_layer="backprop"
        ),
        lambda: sc.Linear(3, 3, constraint=Dale(feedback="own")),
    ):
        with pytest.raises(ValueError, match=r"follow the other end.*Take Dale\(feedback='exempt'\), or a pathway"):
            make()


@pytest.mark.parametrize("mode", [*MODES, "control"])
def test_normalisation_scales_stay_positive(mode):
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(4, 6), sc.BatchNorm1d(6), constraint=MODES.get(mode), seed=0)
    norm = net.layers[1]
    torch.testing.assert_close(norm.effective_weight(), torch.ones(6))
    opt = torch.optim.Adam(net.parameters(), lr=0.02)
    sc.attach(net, opt)
    x = torch.randn(2, 8, 4)
    lowest = 1.0
    for _ in range(300):
        opt.zero_grad()
        (norm.effective_weight().sum() + 0.01 * net(x).square().mean()).backward()
        opt.step()
        lowest = min(lowest, float(norm.effective_weight().detach().min()))
    assert lowest < 0.1
    assert (lowest < 0) == (mode == "control")


def test_balance_cancels_the_mean_current_and_keeps_the_size_of_the_weights():
    """As Cornford et al.'s ColumnEI: positive inputs give no mean current. Ours keeps the layer's own rms, not unit
    variance: normalisation and torch's initialisation scale as without the constraint."""

    def layer(constraint):
        torch.manual_seed(0)
        return sc.Network(sc.Linear(3, 500), sc.Linear(500, 400, bias=False), constraint=constraint, seed=0).layers[1]

    x = torch.randn(2000, 500, generator=torch.Generator().manual_seed(1)).relu()
    plain, unbalanced = layer(None), layer(Dale(initialisation="keep"))
    rms = plain.weight.square().mean().sqrt()
    for constraint in MODES.values():
        balanced = layer(constraint).effective_weight().detach()
        torch.testing.assert_close(balanced.square().mean().sqrt(), rms, rtol=1e-3, atol=0)
        current = x @ balanced.T
        assert abs(float(current.mean() / current.std())) < 0.05
        mean_magnitudes = [balanced[:, columns(layer(constraint)) == s].abs().sum() for s in (1, -1)]
        torch.testing.assert_close(*mean_magnitudes, rtol=1e-3, atol=0)
    current = x @ unbalanced.effective_weight().detach().T
    assert float(current.mean() / current.std()) > 3
    torch.testing.assert_close(unbalanced.weight.square().mean().sqrt(), rms)
    for fraction in (0.0, 1.0):  # nothing to balance with: no division by nothing
        torch.testing.assert_close(layer(Dale(fraction)).weight.abs(), plain.weight.abs())


@pytest.mark.parametrize(("excitatory", "inhibitory"), [(500, 50), (400, 100), (450, 50)])
@pytest.mark.parametrize("mode", MODES)
def test_column_ei_gives_zero_mean_and_unit_variance(mode, excitatory, inhibitory):
    """Known answer 15: 550 inputs at 10:1, 500 at 4:1 and at 9:1, half-rectified N(0, 1)."""
    units = excitatory + inhibitory
    constraint = dataclasses.replace(MODES[mode], excitatory=excitatory / units, initialisation="column_ei")
    net = sc.Network(sc.Linear(3, units), sc.Linear(units, 2000, bias=False), constraint=constraint, seed=0)
    weight = net.layers[1].effective_weight().detach()
    assert int((weight > 0).all(0).sum()) == excitatory
    x = torch.randn(1000, units, generator=torch.Generator().manual_seed(1)).relu()
    z = x @ weight.T
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.05
    sigma_e = 1 / math.sqrt((2 * math.pi - 1) / (2 * math.pi) * (excitatory + excitatory**2 / inhibitory))
    assert float(weight[weight > 0].mean()) == pytest.approx(sigma_e, rel=0.02)
    assert float(weight[weight < 0].mean()) == pytest.approx(-sigma_e * excitatory / inhibitory, rel=0.02)
    balanced = sc.Network(
        sc.Linear(3, units), sc.Linear(units, 2000, bias=False), constraint=MODES[mode], seed=0
    ).layers[1]
    assert abs(float((x @ balanced.effective_weight().detach().T).std()) - 1) > 0.05  # the check can fail


@pytest.mark.parametrize("mode", MODES)
def test_log_normal_magnitudes_have_their_law_size_and_balance(mode):
    """Of one sign, the logarithms are normal with variance log(1 + 1 / 1.5^2); the root mean square is the layer's."""
    n, plain = 400, None
    for constraint in (None, dataclasses.replace(MODES[mode], initialisation="log_normal")):
        torch.manual_seed(0)
        net = sc.Network(sc.Linear(3, n), sc.Linear(n, n), constraint=constraint, seed=0)
        weight = net.layers[1].effective_weight().detach().double()
        plain = weight if plain is None else plain
    torch.testing.assert_close(weight.square().mean(), plain.square().mean(), rtol=0.03, atol=0)
    assert abs(float(weight.sum() / weight.abs().sum())) < 1e-3
    for part in (weight[weight > 0], -weight[weight < 0]):
        assert float(part.mean() / part.std()) == pytest.approx(1.5, rel=0.02)
        logs = (part.log() - part.log().mean()).sort().values
        normal = torch.special.ndtr(logs / math.sqrt(math.log(1 + 1.5**-2)))
        distance = (normal - (torch.arange(len(logs)) + 0.5) / len(logs)).abs().max()
        assert distance < 1.95 / len(logs) ** 0.5  # Kolmogorov and Smirnov's, at 0.1 %
    plain_positive = plain[plain > 0]
    assert abs(float(plain_positive.mean() / plain_positive.std()) - 1.5) > 0.1  # uniform: the check can fail


def test_column_ei_counts_inputs_per_unit_and_survives_one_kind_alone():
    """With groups every output channel has excitatory and inhibitory inputs of its own number."""
    constraint = Dale(0.5, initialisation="column_ei")
    layer = sc.Network(sc.Conv2d(1, 8, 1), sc.Conv2d(8, 4000, 3, groups=2), constraint=constraint, seed=3).layers[1]
    weight = layer.weight.detach()
    for group in weight.split(2000):
        positive = (group[0, :, 0, 0] > 0).sum().item()
        n_e, n_i = 9 * positive, 9 * (4 - positive)
        terms = n_e + n_e**2 / n_i if n_e and n_i else n_e + n_i
        sigma = 1 / math.sqrt((2 * math.pi - 1) / (2 * math.pi) * terms)
        expected = sigma if n_e else -sigma
        of_one_sign = group[group > 0] if n_e else group[group < 0]
        assert float(of_one_sign.mean()) == pytest.approx(expected, rel=0.03)
    for fraction in (0.0, 1.0):
        only = Dale(fraction, initialisation="column_ei")
        assert sc.Network(sc.Linear(3, 40), sc.Linear(40, 7), constraint=only, seed=0).layers[1].weight.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_a_constraint_of_the_layers_own_starts_from_the_same_weights_as_the_networks(mode):
    """Such a layer is bound twice, alone and by the network; the first must leave no trace."""

    def make(own, whole):
        layers = []
        for seed, kind, sizes in ((3, sc.Linear, (6, 30)), (4, sc.BatchNorm1d, (30,)), (5, sc.Linear, (30, 8))):
            torch.manual_seed(seed)
            layers.append(kind(*sizes, constraint=own))
        return sc.Network(*layers, constraint=whole, seed=0).layers

    for a, b in zip(make(MODES[mode], None), make(None, MODES[mode]), strict=True):
        assert torch.equal(a.effective_weight(), b.effective_weight())
    assert torch.equal(make(MODES[mode], None)[0].weight, make(None, None)[0].weight)  # sensory input is exempt


def test_weights_set_between_the_two_bindings_are_kept():
    for constraint in MODES.values():
        layer = sc.Linear(10, 8, constraint=constraint)
        with torch.no_grad():
            layer.weight.fill_(0.5)
        effective = layer.effective_weight().detach().abs()
        net = sc.Network(sc.Linear(3, 10), layer, constraint=Dale(initialisation="keep"), seed=0)
        ratio = net.layers[1].effective_weight().detach().abs() / effective
        assert float(ratio.max() / ratio.min()) == pytest.approx(4, rel=1e-3)  # 8:2 balanced, from equal magnitudes


def warned(net, train=True):
    net.train(train)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net(torch.randn(1, 4, 8))
        net(torch.randn(1, 4, 8))
    return [w for w in caught if w.category is ConstraintWarning]


def test_a_forgotten_projection_warns_once_and_says_what_to_do():
    net = dense(Dale())
    assert not warned(net)
    opt = torch.optim.SGD(net.parameters(), lr=5.0)
    net(torch.randn(1, 4, 8)).square().sum().backward()
    opt.step()
    assert not warned(net, train=False)  # evaluation does not look
    first = warned(net)
    assert {str(w.message).split("break")[0].split("of ")[1].strip() for w in first} <= {"Linear", "BatchNorm1d"}
    assert "after_step(net, optimizer)" in str(first[0].message)
    opt.step()
    assert len(warned(net)) + len(first) <= 3  # once a layer


@pytest.mark.parametrize("how", ["attach", "after_step"])
def test_no_warning_where_the_projection_is_done(how):
    net = dense(Dale())
    opt = torch.optim.SGD(net.parameters(), lr=5.0)
    if how == "attach":
        sc.attach(net, opt)
    for _ in range(3):
        opt.zero_grad()
        F.mse_loss(net(torch.randn(1, 4, 8)), torch.randn(1, 4, 5)).backward()
        opt.step()
        if how == "after_step":
            sc.after_step(net, opt)
        assert not warned(net)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1, got 80"):
        Dale(80)
    for name, value in (("mode", "clip"), ("feedback", "none"), ("magnitude", "relu")):
        with pytest.raises(ValueError, match=f"{name} must be one of .* got '{value}'"):
            Dale(**{name: value})

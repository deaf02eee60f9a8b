"""Boltzmann machines against enumeration of all their states."""

import itertools
import math

import pytest
import torch
from relaxing import batch, convolutional, dense, flat, relative

import spikecredit as sc
from spikecredit.cli import CONFIGS
from spikecredit.equilibrium import (
    RBM,
    Centred,
    ContrastiveHebbian,
    Coupled,
    CrossEntropy,
    Gibbs,
    Holomorphic,
    Hopfield,
    Nudge,
    OneSided,
    Phase,
    Potential,
    SquaredError,
    Sweeps,
    free_state,
    gradient,
    sections,
    settle,
)
from spikecredit.rules import EquilibriumPropagation
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def binary(n):
    """All of {0, 1}^n."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


# --- the restricted machine


def rbm(n=6, m=4, seed=0):
    g = seeded(seed)
    layer = sc.Linear(n, m).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(m, n, generator=g))
        layer.bias.copy_(0.3 * torch.randn(m, generator=g))
    machine = RBM(layer, (0.3 * torch.randn(n, generator=g, dtype=torch.float64)).requires_grad_())
    return machine, (torch.rand(20, n, generator=g) < 0.3).double()


def parameters(machine):
    return [machine.layer.weight, machine.layer.bias, machine.visible]


def log_likelihood(machine, data):
    """Mean log p(v), every state of v and h summed up: written out, for autograd."""
    w, c, b = parameters(machine)
    v, h = binary(w.shape[1]), binary(w.shape[0])

    def exponent(v):
        return torch.einsum("jh,hi,vi->vj", h, w, v) + (v @ b)[:, None] + h @ c

    return (exponent(data).logsumexp(1) - exponent(v).flatten().logsumexp(0)).mean()


def exact(machine, data):
    return flat(torch.autograd.grad(-log_likelihood(machine, data), parameters(machine)))


def found_by(divergence):
    return flat([divergence.weight, divergence.hidden, divergence.visible])


def test_the_free_energy_is_that_of_all_hidden_states():
    machine, _ = rbm()
    v, h = binary(6), binary(4)
    energy = machine.energy(v[:, None], h.expand(len(v), -1, -1))
    w, c, b = (p.detach() for p in parameters(machine))
    assert float(energy[5, 3]) == pytest.approx(float(-h[3] @ w @ v[5] - b @ v[5] - c @ h[3]), rel=1e-12)
    assert relative(machine.free_energy(v), -(-energy).logsumexp(1)) < 1e-12
    joint = (-energy).flatten().softmax(0).view(energy.shape)  # p(v, h)
    assert relative(machine.hidden_given(v), joint @ h / joint.sum(1, keepdim=True)) < 1e-12
    assert relative(machine.visible_given(h), joint.T @ v / joint.sum(0)[:, None]) < 1e-12


def test_long_chains_find_the_gradient_and_short_ones_do_not():
    """Row 20 of the reference."""
    machine, data = rbm()
    wanted, many = exact(machine, data), data.repeat(500, 1)
    found = {k: found_by(machine.contrastive_divergence(many, k, seeded())) for k in (1, 50)}
    assert relative(found[50], wanted) < 0.05
    assert relative(found[1], wanted) > 0.1


def test_the_divergence_of_the_models_own_distribution_is_the_gradient():
    """The formula at k -> infinity: chains that are drawn exactly, in the proportions of p(v)."""
    machine, data = rbm()
    v = binary(6)
    p = (-machine.free_energy(v)).softmax(0)
    each = [machine.contrastive_divergence(data, 1, seeded(), chain=v[[i]]) for i in range(len(v))]
    h = machine.hidden_given(data)
    for index, slope in enumerate(torch.autograd.grad(-log_likelihood(machine, data), parameters(machine))):
        model = {
            0: torch.einsum("v,vj,vi->ji", p, machine.hidden_given(v), v),
            1: p @ machine.hidden_given(v),
            2: p @ v,
        }[index]
        at_data = {0: h.T @ data, 1: h.sum(0), 2: data.sum(0)}[index] / len(data)
        assert relative(model - at_data, slope) < 1e-12
        # And what CD returns is this with the chain in the place of the model.
        for divergence in each[:4]:
            end, g = divergence.chain[0], machine.hidden_given(divergence.chain)[0]
            wanted = {0: torch.outer(g, end), 1: g, 2: end}[index] - at_data
            assert relative((divergence.weight, divergence.hidden, divergence.visible)[index], wanted) < 1e-12


def test_the_divergence_is_the_slope_of_the_free_energy_between_data_and_chain():
    machine, data = rbm()
    divergence = machine.contrastive_divergence(data, 3, seeded())
    w, c, b = parameters(machine)

    def free_energy(v):
        return (-(v @ b) - torch.log1p(torch.exp(v @ w.T + c)).sum(1)).mean()

    slopes = torch.autograd.grad(free_energy(data) - free_energy(divergence.chain), (w, c, b))
    assert relative(found_by(divergence), flat(slopes)) < 1e-12


def test_samples_have_the_models_distribution():
    machine, _ = rbm()
    p = (-machine.free_energy(binary(6))).softmax(0)
    v = machine.sample(torch.zeros(40_000, 6, dtype=torch.float64), 50, seeded())
    index = (v @ torch.tensor([32.0, 16, 8, 4, 2, 1], dtype=torch.float64)).long()
    share = torch.bincount(index, minlength=64) / len(v)
    assert float(((share - p) / (p * (1 - p) / len(v)).sqrt()).abs().max()) < 4.5  # standard errors, of 64


def test_chains_go_on_where_they_are():
    machine, data = rbm()
    whole = machine.contrastive_divergence(data, 7, seeded())
    g = seeded()
    half = machine.contrastive_divergence(data, 3, g)
    rest = machine.contrastive_divergence(data, 4, g, chain=half.chain)
    assert all(map(torch.equal, rest, whole))
    assert not torch.equal(machine.sample(data, 7, seeded(1)), whole.chain)
    few = machine.contrastive_divergence(data, 1, seeded(), chain=data[:3])
    assert few.chain.shape == (3, 6)


def test_what_is_written_adds_up_in_grad_and_learns():
    machine, data = rbm()
    before = float(log_likelihood(machine, data).detach())
    optimizer = torch.optim.SGD(parameters(machine), lr=0.1)
    g, chain = seeded(), None
    for _ in range(300):
        optimizer.zero_grad()
        divergence = machine.contrastive_divergence(data, 1, g, chain)
        chain = divergence.chain
        machine.write(divergence)
        optimizer.step()
    assert float(log_likelihood(machine, data).detach()) > before + 0.9
    machine.write(divergence)
    for p, once in zip(parameters(machine), divergence, strict=False):
        assert torch.equal(p.grad, 2 * once)
    bare = RBM(sc.Linear(6, 4, bias=False).double(), torch.zeros(6, dtype=torch.float64))
    bare.write(bare.contrastive_divergence(data, 1, g))
    assert bare.layer.weight.grad.any() and bare.visible.grad is None


def under_dale():
    return sc.Linear(5, 6), sc.HardSigmoid(), sc.Linear(6, 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, v: RBM(m.layer, torch.zeros(4)), r"of shape \(6,\), got \(4,\)"),
        (lambda m, v: RBM(sc.Linear(6, 4, pathway=sc.FeedbackAlignment()), torch.zeros(6)), "sends back through W"),
        (
            lambda m, v: RBM(sc.Network(*under_dale(), constraint=sc.Dale(), seed=0).layers[2], torch.zeros(6)),
            "excites and one that inhibits",
        ),
        (lambda m, v: m.sample(v, 0), "k is a number of steps of the chain, at least 1, got 0"),
        (lambda m, v: m.contrastive_divergence(v, 1.5), "got 1.5"),
        (lambda m, v: m.contrastive_divergence(3 * v, 1), "got values from 0 to 3: scale them"),
        (lambda m, v: m.contrastive_divergence(v[0], 1), r"v is \(batch, 6\), got \(6,\)"),
        (lambda m, v: m.contrastive_divergence(v, 1, chain=v[:, 1:]), r"got \(20, 5\)"),
    ],
)
def test_bad_machines_and_data_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(*rbm())


# --- the machine given its input


def machine(sizes=(5, 4, 3), slope=2.0, scale=1.0, seed=0, middle=0.5):
    g = seeded(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layer = sc.Linear(a, b)
        with torch.no_grad():
            layer.weight.copy_(scale * torch.randn(b, a, generator=g))
            layer.bias.copy_(0.3 * torch.randn(b, generator=g))
        layers += [layer, sc.Logistic(slope, middle)]
    net = sc.Network(*layers[:-1], seed=0).double()
    x = torch.rand(3, sizes[0], generator=g, dtype=torch.float64)
    return net, x, torch.arange(3) % sizes[-1]


def exponents(net, x):
    """-slope E of every state (batch, states), every state of each layer: (states, units)."""
    layers, unit = net.layers[0::2], net.layers[1]
    spaces = [binary(layer.out_features) for layer in layers[:-1]] + [
        torch.eye(layers[-1].out_features, dtype=torch.float64)
    ]
    states = [torch.stack(s) for s in zip(*itertools.product(*spaces), strict=True)]
    total, below = 0.0, x[:, None]
    for layer, s in zip(layers, states, strict=True):
        total = total - (s * (below @ layer.weight.T + layer.bias)).sum(-1)
        total = total + (unit.middle * s.sum(-1) if layer is not layers[-1] else 0.0)
        below = s[None]
    return -unit.slope * total, states


def log_probabilities(net, x):
    """log p(class | x), (batch, classes)."""
    exponent, states = exponents(net, x)
    by_class = [exponent[:, states[-1][:, c] == 1].logsumexp(1) for c in range(states[-1].shape[1])]
    return torch.stack(by_class, 1).log_softmax(1)


def slopes_of(net, value):
    return flat(torch.autograd.grad(value, [p for layer in net.layers[0::2] for p in (layer.weight, layer.bias)]))


def contrasted(net, x, y, estimator, relaxation, random, cost=SquaredError(), copies=400):
    found, _ = gradient(
        net, x.repeat(copies, 1), y.repeat(copies), cost, relaxation=relaxation, estimator=estimator, random=random
    )
    return flat([t for pair in found.values() for t in pair])


@pytest.mark.parametrize(
    ("sizes", "slope", "scale"), [((5, 4, 3), 2.0, 1.0), ((5, 4, 3), 4.0, 0.5), ((5, 4, 4, 3), 2.0, 0.7)]
)
def test_clamped_minus_free_is_the_gradient_of_the_log_probability(sizes, slope, scale):
    """Row 20 for p(y | x): one hidden layer and two, two temperatures."""
    net, x, y = machine(sizes, slope, scale)
    wanted = slopes_of(net, -log_probabilities(net, x)[torch.arange(3), y].mean()) / slope
    found = contrasted(net, x, y, ContrastiveHebbian(), Gibbs(100, 50), seeded())
    assert relative(found, wanted) < 0.05


def test_the_output_is_the_probability_of_each_class():
    net, x, _ = machine((5, 4, 4, 3))
    found = free_state(net, x.repeat(300, 1), relaxation=Gibbs(100), random=seeded())
    exponent, states = exponents(net, x)
    p = exponent.softmax(1)
    for mean, s in zip(found, states, strict=True):
        torch.testing.assert_close(mean.view(300, 3, -1).mean(0), (p @ s).detach(), rtol=0, atol=0.01)
    torch.testing.assert_close(found[-1].sum(1), torch.ones(900, dtype=torch.float64))


@pytest.mark.parametrize("cost", [SquaredError(), CrossEntropy()])
@pytest.mark.parametrize("estimator", [Centred(0.5), OneSided(1.0)])
def test_a_push_follows_the_expected_cost(estimator, cost):
    """The finite difference of the free energy of exp(-slope (E + beta C)), exact at every beta."""
    net, x, y = machine()
    slope, classes = 2.0, torch.eye(3, dtype=torch.float64)
    costs = torch.stack([cost(classes[c].expand(3, -1), y) for c in range(3)], 1)
    log_p = log_probabilities(net, x)
    free = sum(
        node.weight * -(log_p - slope * node.beta * costs).logsumexp(1).mean() / slope for node in estimator.nodes()
    )
    found = contrasted(net, x, y, estimator, Gibbs(200, 200), seeded(), cost, copies=1000)
    assert relative(found, slopes_of(net, free)) < 0.05


def test_with_one_hidden_layer_one_held_sweep_is_exact():
    net, x, y = machine()
    phase = Phase.of(sections(net), x)
    held = torch.eye(3, dtype=torch.float64)[y]
    nudge = Nudge(SquaredError(), y, torch.zeros(3, 1, dtype=torch.float64), held)
    with torch.no_grad():
        start = Gibbs().start(Hopfield(), phase)
        (kept,) = Gibbs().samples(Gibbs().run(Hopfield(), phase, 1, start, nudge))
    low, _, high = net.layers
    wanted = torch.sigmoid(2.0 * (low(x) + held @ high.weight - 0.5)).detach()
    assert relative(kept[0], wanted) < 1e-12 and torch.equal(kept[1], held)


def test_every_product_has_at_most_one_probability_in_place_of_a_sample():
    net, x, _ = machine((5, 4, 4, 4, 3))
    settled = settle(net, x, relaxation=Gibbs(30, burn_in=10), random=seeded())
    kept = settled.relaxation.samples(settled.state)
    assert len(kept) == 20
    for s in kept:
        hard = [bool(((layer == 0) | (layer == 1)).all()) for layer in s]
        assert hard == [False, True, False, True]
    assert all(bool(((s == 0) | (s == 1)).all()) for s in settled.state.sample)


def test_weak_couplings_give_the_mean_field():
    """Two hidden layers under a held output: the error of the mean field falls with the square of the weights."""
    errors = []
    for scale in (0.1, 0.4):
        net, x, y = machine((5, 4, 4, 3), slope=1.0, scale=scale)
        x, y = x.repeat(400, 1), y.repeat(400)
        nudge = Nudge(
            SquaredError(), y, torch.zeros(1200, 1, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[y]
        )
        phase = Phase.of(sections(net), x)
        with torch.no_grad():
            free = Gibbs().settle(Hopfield(), phase, None, seeded())
            drawn = Gibbs().run(Hopfield(), phase, 500, free, nudge)
            rates = Sweeps().run(Hopfield(), phase, 200, phase.rest(), nudge)
        means = [s.view(400, 3, -1).mean(0) for s in drawn.mean]
        errors.append(max(float((a - b[:3]).abs().max()) for a, b in zip(means, rates, strict=True)))
    assert errors[0] < 0.002
    assert errors[1] > 5 * errors[0]


def test_the_same_generator_gives_the_same_result_and_another_another():
    net, x, y = machine((5, 4, 4, 3))
    relaxation = Gibbs(20, 10, 5)
    found = [
        contrasted(net, x, y, ContrastiveHebbian(), relaxation, seeded(seed), copies=2) for seed in (0, 0, 1)
    ]  # fmt: skip
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    contrasted(net, x, y, ContrastiveHebbian(), relaxation, seeded(), copies=2)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from elsewhere
    rule = EquilibriumPropagation(ContrastiveHebbian(), relaxation=relaxation)
    assert torch.equal(rule.predict(net, x[None]), rule.predict(net, x[None]))
    first = settle(net, x, relaxation=relaxation, random=seeded())
    assert all(map(torch.equal, settle(net, x, relaxation=relaxation, random=seeded()).activities, first.activities))


def test_a_chain_goes_on_where_it_stopped():
    net, x, _ = machine((5, 4, 4, 3))
    g = seeded()
    half = settle(net, x, relaxation=Gibbs(10, burn_in=0), random=g)
    kept = [s.clone() for s in half.state.sample]
    rest = settle(net, x, relaxation=Gibbs(15, burn_in=0), state=half.state, random=g)
    assert all(map(torch.equal, half.state.sample, kept))
    whole = settle(net, x, relaxation=Gibbs(25, burn_in=10), random=seeded())
    assert all(map(torch.equal, rest.state.sample, whole.state.sample))
    assert all(map(torch.equal, rest.activities, whole.activities))


def test_convolutions_are_sampled_too():
    """Conditional probabilities of a map are those of differences of the energy."""
    torch.manual_seed(0)
    net = sc.Network(
        sc.Conv2d(1, 2, 3, padding=1), sc.AvgPool2d(2), sc.Logistic(), sc.Conv2d(2, 2, 2), sc.Logistic(), sc.Flatten(),
        sc.Linear(2, 3), seed=0,
    ).double()  # fmt: skip
    x, y = torch.rand(4, 1, 4, 4, dtype=torch.float64), torch.arange(4) % 3
    settled = settle(net, x, relaxation=Gibbs(5, burn_in=0), random=seeded())
    sample, probabilities = settled.state.sample, settled.relaxation.samples(settled.state)[-1]
    for channel, i, j in itertools.product(range(2), repeat=3):
        with torch.no_grad():
            on, off = (sample[0].clone() for _ in range(2))
            on[:, channel, i, j], off[:, channel, i, j] = 1, 0
            # As `Hopfield.value` has it, less what it stores: G is the mean field's entropy, here is none.
            energies = [
                Hopfield().value(net, x, [s, *sample[1:]]) - sections(net)[0].unit.stored(s).flatten(1).sum(1)
                + 0.5 * s.flatten(1).sum(1)
                for s in (on, off)
            ]  # fmt: skip
        wanted = torch.sigmoid(4.0 * (energies[1] - energies[0]))
        # The halves: layers 1 and 3 are drawn last, given layer 2, which is as it was when layer 1 was drawn.
        torch.testing.assert_close(probabilities[0][:, channel, i, j], wanted, rtol=1e-10, atol=0)
    found, _ = gradient(
        net, x, y, SquaredError(), relaxation=Gibbs(5, 5, 1), estimator=ContrastiveHebbian(), random=seeded()
    )
    assert all(t.isfinite().all() and t.any() for pair in found.values() for t in pair)


@pytest.mark.parametrize("hidden", [[], [64]])
def test_it_learns_the_digits_from_a_configuration(hidden):
    experiment = load_experiment(
        CONFIGS / "demo.yaml",
        (
            "rule={kind: equilibrium, estimator: contrastive_hebbian}",
            "rule.relaxation={kind: gibbs, free: 20, nudged: 1, burn_in: 5}",
            "neuron=logistic", "readout=identity", "encoder={kind: constant, steps: 1}", "loss=squared_error",
            "training.optimizer={kind: adamw, lr: 0.005}", f"network={{kind: mlp, hidden: {hidden}}}",
            "training.epochs=4", "training.patience=null", "training.measure=0",
        ),
    ).value  # fmt: skip
    data = experiment.data.load()
    trainer = Trainer(experiment, data, log=lambda line: None)
    trainer.train()
    first, second = (trainer.evaluate(data.validation, "validation") for _ in range(2))
    assert first[1] > 0.9 and first == second


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (lambda: dense(sc.HardSigmoid, last=False), {}, r"layers.0 drives HardSigmoid; .* write neuron: logistic"),
        (lambda: dense(sc.LIF, last=False), {}, r"layers.0 drives LIF; .* write neuron: logistic"),
        (lambda: dense(), {}, "layers.4 drives Logistic; .* readout: identity"),
        (lambda: sc.Network(sc.Linear(20, 10), sc.LIF()).double(), {}, "layers.0 drives LIF; .* readout: identity"),
        (lambda: dense(last=False), {"energy": Potential()}, "write energy: hopfield"),
        (lambda: dense(last=False), {"energy": Hopfield(0.5)}, "gain 1"),
        (lambda: dense(last=False), {"estimator": Holomorphic()}, "nudges by complex numbers"),
        (lambda: dense(last=False), {"estimator": Coupled(0.1)}, "write estimator: contrastive_hebbian"),
        (lambda: dense(last=False, pathway=sc.FeedbackAlignment()), {}, "no Boltzmann distribution. Write pathway: b"),
        (lambda: uneven(), {}, r"one slope to all, got layers.0 4.0, layers.2 2.0"),
    ],
)
def test_what_has_no_boltzmann_distribution_is_refused(net, arguments, message):
    x, y = batch()
    with pytest.raises(ValueError, match=message):
        gradient(
            net(), x, y, SquaredError(),
            **{"relaxation": Gibbs(), "estimator": ContrastiveHebbian(), "random": seeded()} | arguments,
        )  # fmt: skip


def uneven():
    sizes = sc.Linear(20, 5), sc.Logistic(), sc.Linear(5, 5), sc.Logistic(2.0), sc.Linear(5, 10)
    return sc.Network(*sizes, seed=0).double()


def test_maxima_are_refused():
    net, (x, y) = convolutional(lambda: sc.MaxPool2d(2)), batch((2, 12, 12))
    with pytest.raises(ValueError, match="Write AvgPool2d"):
        gradient(net, x, y, SquaredError(), relaxation=Gibbs())


@pytest.mark.parametrize("wrong", [{"free": 0}, {"nudged": 1.5}, {"burn_in": -1}, {"burn_in": 60}, {"burn_in": 1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Gibbs(**wrong)
    assert math.isfinite(Gibbs(5, 1, 4).burn_in)

"""Step by step: equilibrium propagation is backpropagation through time, and continual EP is its limit."""

import pytest
import torch
from relaxing import batch, dense, flat, relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.equilibrium import (
    Centred,
    Gibbs,
    Holomorphic,
    Hopfield,
    Nudge,
    OneSided,
    Phase,
    Potential,
    SigmaDelta,
    SquaredError,
    Sweeps,
    continual_gradient,
    gradient,
    sections,
    settle,
    true_errors,
)
from spikecredit.losses import SquaredError as SquaredErrorLoss
from spikecredit.rules import EquilibriumPropagation

DT, STEPS = 0.2, 20


def steps_of_ep(net, x, y, beta):
    """For each nudged step: what neurons and weights change by, over beta, centred; Phi = |s|^2 / 2 - dt E."""
    energy, relaxation = Potential(), Sweeps(1500, STEPS, "euler", DT)
    settled = settle(net, x, energy, relaxation)
    changes = []
    with torch.no_grad():
        for sign in (1, -1):
            nudge = Nudge(SquaredError(), y, torch.full((len(x), 1), sign * beta, dtype=torch.float64))
            state, rows = settled.state, []
            for _ in range(STEPS):
                after = relaxation.run(energy, settled.phase, 1, state, nudge)
                made = []
                for s in (state, after):
                    ends = [energy.ends(settled.phase, i, s) for i in range(len(s))]
                    made.append((flat(s), flat([DT * post.T @ pre / len(x) for post, pre in ends])))
                rows.append([(b - a) / (2 * sign * beta) for a, b in zip(*made, strict=True)])
                state = after
            changes.append(rows)
    return settled, [[a + b for a, b in zip(*both, strict=True)] for both in zip(*changes, strict=True)]


def steps_of_bptt(net, x, y, free):
    """Autograd through the same steps from the fixed point, with weights of their own at each."""
    layers = [part.layer for part in sections(net)]
    copies = [[layer.weight.detach().clone().requires_grad_() for layer in layers] for _ in range(STEPS)]
    states = [[s.clone().requires_grad_() for s in free]]
    for weights in copies:
        s, new = states[-1], []
        for i, w in enumerate(weights):
            current = F.linear(x if i == 0 else s[i - 1].tanh(), w, layers[i].bias)
            if i + 1 < len(weights):
                current = current + s[i + 1].tanh() @ weights[i + 1]
            new.append(s[i] + DT * ((1 - s[i].tanh() ** 2) * current - s[i]))
        states.append(new)
    cost = DT * SquaredError()(states[-1][-1], y).sum()
    backwards = states[::-1][:STEPS]
    neurons = [torch.autograd.grad(cost, s, retain_graph=True, allow_unused=True) for s in backwards]
    neurons = [
        flat([torch.zeros_like(a) if g is None else g for g, a in zip(row, free, strict=True)]) for row in neurons
    ]
    synapses = [torch.autograd.grad(cost, w, retain_graph=True, allow_unused=True) for w in copies[::-1]]
    synapses = [
        flat([torch.zeros_like(a) if g is None else g / len(x) for g, a in zip(row, copies[0], strict=True)])
        for row in synapses
    ]
    return neurons, synapses


def test_each_nudged_step_is_a_step_of_backpropagation_through_time():
    """Ernoult et al. 2019, strict for the flow of a primitive function: at step t of the nudged phase neurons and
    weights change by -beta times the gradients of t steps before the end."""
    net, (x, y) = dense(sc.Tanh, gain=1.0), batch()
    settled, changes = steps_of_ep(net, x, y, 1e-3)
    neurons, synapses = steps_of_bptt(net, x, y, settled.activities)
    for t, (moved, learned) in enumerate(changes):
        assert relative(moved, -neurons[t]) < 1e-5
        assert relative(learned, -synapses[t]) < 1e-5
    assert float(changes[-1][0].norm()) < 0.9 * float(changes[1][0].norm())  # no row of zeros, and not one row


def continual(net, x, y, rate, estimator, relaxation=Sweeps(600, 100), energy=Hopfield()):
    found = continual_gradient(settle(net, x, energy, relaxation), y, SquaredError(), rate, estimator)
    return flat([t for pair in found.values() for t in pair])


def two_phase(net, x, y, estimator, relaxation=Sweeps(600, 100), energy=Hopfield()):
    found, _ = gradient(net, x, y, SquaredError(), energy, relaxation, estimator)
    return flat([t for pair in found.values() for t in pair])


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
@pytest.mark.parametrize("estimator", [Centred(0.01), OneSided(0.01)])
@pytest.mark.parametrize("energy", [Hopfield(), Hopfield(0.5)])
def test_slow_weights_make_it_equilibrium_propagation(pathway, estimator, energy):
    net, (x, y) = dense(pathway=pathway), batch()
    before = [p.clone() for p in net.parameters()]
    wanted = two_phase(net, x, y, estimator, energy=energy)
    errors = [relative(continual(net, x, y, rate, estimator, energy=energy), wanted) for rate in (1e-4, 1e-5, 1e-6)]
    assert errors[2] < 2e-3 and errors[1] < (2e-3 if isinstance(estimator, Centred) else 1e-2)
    assert errors[0] > 3 * errors[1] > 3 * errors[2] > 0
    assert all(map(torch.equal, before, net.parameters()))  # the step is the optimiser's


def test_spikes_and_convolutions_learn_continually_too():
    net, (x, y) = dense(sc.HardSigmoid), batch()
    relaxation, estimator = SigmaDelta(60, 30), Centred(0.2)
    found = continual(net, x, y, 1e-6, estimator, relaxation)
    assert relative(found, two_phase(net, x, y, estimator, relaxation)) < 1e-2


@pytest.mark.parametrize("pathway", [None, sc.FeedbackAlignment()])
def test_membranes_learn_continually(pathway):
    """Slow weights: the sum over steps of the trace before the step times the change of the membrane behind."""
    net, (x, y), beta = dense(sc.HardSigmoid, pathway=pathway), batch(), 0.2
    relaxation = SigmaDelta(60, 30, learn="membranes")
    settled = settle(net, x, relaxation=relaxation)
    found = continual_gradient(settled, y, SquaredError(), 1e-7, OneSided(beta))
    nudge = Nudge(SquaredError(), y, torch.full((len(x), 1), beta, dtype=torch.float64))
    wanted = {name: (torch.zeros_like(w), torch.zeros_like(b)) for name, (w, b) in found.items()}
    with torch.no_grad():
        state = settled.state
        for _ in range(30):
            after = relaxation.run(Hopfield(), settled.phase, 1, state, nudge)
            for i, (w, b) in enumerate(wanted.values()):
                moved = [(now - then) / (beta * len(x)) for now, then in zip(after.s, state.s, strict=True)]
                w -= moved[i].T @ (state.trace[i - 1] if i else x)
                b -= moved[i].sum(0)
                if i and pathway is None:
                    w -= state.trace[i].T @ moved[i - 1]
            state = after
    for (w, b), (made, moved) in zip(wanted.values(), found.values(), strict=True):
        assert relative(made, w) < 1e-3 and relative(moved, b) < 1e-3


def test_weights_move_within_the_phase():
    """One nudged step of one layer by hand: the second step is computed with the weights that the first one left."""
    net = sc.Network(sc.Linear(3, 2, bias=False), sc.Identity(), seed=0).double()
    w = net.layers[0].weight.detach().clone()
    x, y, beta, rate = torch.rand(1, 3, dtype=torch.float64), torch.tensor([1]), 0.5, 0.1
    s, target = x @ w.T, torch.eye(2, dtype=torch.float64)[y]
    for _ in range(2):
        after = x @ w.T + beta * (target - s)
        w, s = w + rate / beta * (after - s).T @ x, after
    found = continual_gradient(
        settle(net, x, relaxation=Sweeps(5, 2, "jacobi")), y, SquaredError(), rate, OneSided(beta)
    )
    torch.testing.assert_close(found["layers.0"][0], (net.layers[0].weight.detach() - w) / rate, rtol=1e-12, atol=0)


def test_symmetric_feedback_moves_with_its_weights():
    """Two layers by hand, whose second weight leads up and down: what comes back has moved too."""
    net = sc.Network(
        sc.Linear(3, 2, bias=False), sc.Identity(), sc.Linear(2, 2, bias=False), sc.Identity(), seed=0
    ).double()
    with torch.no_grad():
        for layer in (net.layers[0], net.layers[2]):
            layer.weight.mul_(0.3)
    w, v = (layer.weight.detach().clone() for layer in (net.layers[0], net.layers[2]))
    x, y, beta, rate = torch.rand(1, 3, dtype=torch.float64), torch.tensor([1]), 0.5, 0.1
    target = torch.eye(2, dtype=torch.float64)[y]
    relaxation = Sweeps(200, 3, "jacobi")
    settled = settle(net, x, relaxation=relaxation)
    h, s = settled.activities
    for _ in range(3):
        h_1, s_1 = x @ w.T + s @ v, h @ v.T + beta * (target - s)
        w = w + rate / beta * (h_1 - h).T @ x
        v = v + rate / beta * (s_1.T @ h_1 - s.T @ h)
        h, s = h_1, s_1
    found = continual_gradient(settled, y, SquaredError(), rate, OneSided(beta))
    for name, layer, moved in (("layers.0", net.layers[0], w), ("layers.2", net.layers[2], v)):
        torch.testing.assert_close(found[name][0], (layer.weight.detach() - moved) / rate, rtol=1e-10, atol=0)


def test_as_a_rule():
    net, (x, y) = dense(), batch()
    rule = EquilibriumPropagation(Centred(0.1), continual=0.01)
    rule.gradients(net, x[None], y, SquaredErrorLoss())
    found = flat([p.grad for p in net.parameters()])
    wanted = continual(net, x, y, 0.01, Centred(0.1), Sweeps())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert not torch.equal(found, two_phase(net, x, y, Centred(0.1), Sweeps()))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rates_that_are_none_are_refused(rate):
    net, (x, y) = dense(), batch()
    with pytest.raises(ValueError, match="positive"):
        EquilibriumPropagation(continual=rate)
    with pytest.raises(ValueError, match="positive"):
        continual_gradient(settle(net, x), y, SquaredError(), rate)


def test_what_cannot_move_continually_is_refused():
    net, (x, y) = dense(), batch()
    with pytest.raises(ValueError, match="complex numbers"):
        EquilibriumPropagation(Holomorphic(), continual=0.1)
    with pytest.raises(ValueError, match="complex numbers"):
        continual_gradient(settle(net, x), y, SquaredError(), 0.1, Holomorphic())
    with pytest.raises(ValueError, match="samples, whose steps are noise"):
        EquilibriumPropagation(relaxation=Gibbs(), continual=0.1)
    sampled = dense(last=False)
    with pytest.raises(ValueError, match="samples, whose steps are noise"):
        continual_gradient(settle(sampled, x, relaxation=Gibbs()), y, SquaredError(), 0.1)
    assert true_errors(settle(sampled, x, relaxation=Gibbs()), y, SquaredError()) is None
    layers = sc.Linear(20, 30), sc.HardSigmoid(), sc.Linear(30, 10)
    net = sc.Network(*layers, pathway=sc.SignSymmetry(threshold=0.6), constraint=sc.Dale(), seed=0)
    with pytest.raises(ValueError, match="leave their constraint"):
        EquilibriumPropagation(continual=0.1).check(net)
    assert Phase.of(sections(net), x.float()).drive.shape == (8, 30)

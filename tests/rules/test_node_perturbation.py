"""Node perturbation: its mean is the gradient of the smoothed loss, and its variance is what theory says.

Known answer 19 of the reference: the mean over K draws tends to backprop's gradient, with an error ~ 1 / sqrt(K).
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import spikecredit as sc
from spikecredit.analysis.alignment import angle
from spikecredit.losses import Loss, MeanPotential, PerStep
from spikecredit.rules import BPTT, NodePerturbation, currents, node_perturbation

LABELS = torch.tensor([0, 2, 1, 2])


class Linear(Loss):
    """L_b = c . sum_t out[t, b], with c = (1, 2, ...)."""

    def scores(self, out: Tensor) -> Tensor:
        return out.sum(0)

    def of_samples(self, out: Tensor, labels: Tensor) -> Tensor:
        return out.sum(0) @ torch.arange(1.0, out.shape[2] + 1).to(out)

    def __call__(self, out: Tensor, labels: Tensor) -> Tensor:
        return self.of_samples(out, labels).mean()


class Square(Linear):
    """L_b = |sum_t out[t, b] - 1|^2 / 2."""

    def of_samples(self, out: Tensor, labels: Tensor) -> Tensor:
        return (out.sum(0) - 1).square().sum(1) / 2


def flat(net: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def true_gradient(net: sc.Network, x: Tensor, y: Tensor, loss: Any = MeanPotential()) -> Tensor:
    net.zero_grad()
    BPTT().gradients(net, x, y, loss)
    return flat(net)


def estimates(
    net: sc.Network, x: Tensor, y: Tensor, count: int, rule: NodePerturbation, loss: Any = MeanPotential()
) -> Tensor:
    """(count, parameters): independent estimates."""
    source, found = torch.Generator().manual_seed(0), []
    for _ in range(count):
        net.zero_grad()
        rule.gradients(net, x, y, loss, noise=source)
        found.append(flat(net))
    return torch.stack(found)


def z_scores(found: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors the means of the columns are from what is expected."""
    return (found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(len(found)) + 1e-15)


def dense() -> sc.Network:
    return sc.Network(
        sc.Linear(5, 7), sc.ReLU(), torch.nn.LayerNorm(7), sc.Linear(7, 6), sc.HardSigmoid(), sc.Linear(6, 3),
        sc.LeakyReadout(tau=5.0),
    ).double()  # fmt: skip


def convolutional() -> sc.Network:
    return sc.Network(
        sc.Conv2d(1, 3, 3), sc.MaxPool2d(2), sc.ReLU(), sc.Conv2d(3, 4, 2, padding=1), sc.AvgPool2d(3), sc.ReLU(),
        sc.Flatten(), sc.Linear(4, 3), seed=0,
        constraint=sc.Dale(mode="reparametrize"),
    ).double()  # fmt: skip


def recurrent() -> sc.Network:
    return sc.Network(
        sc.Linear(5, 4), sc.ReLU(), sc.RecurrentLinear(4, 4, sc.ReLU()), sc.Linear(4, 3), sc.LeakyReadout(tau=5.0)
    ).double()


BUILDS: dict[Callable[[], sc.Network], tuple[int, ...]] = {
    dense: (3, 4, 5),
    convolutional: (1, 4, 1, 6, 6),
    recurrent: (3, 4, 5),
}


# ---- known answer 19 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_the_mean_tends_to_backprops_gradient_with_the_root_of_the_draws(build: Callable[[], sc.Network]) -> None:
    net = build()
    x = torch.randn(BUILDS[build], dtype=torch.float64)
    expected = true_gradient(net, x, LABELS)
    found = estimates(net, x, LABELS, 1024, NodePerturbation(1e-4))
    sizes = (1, 4, 16, 64, 256)
    errors, angles = [], []
    for size in sizes:
        means = found.view(-1, size, found.shape[1]).mean(1)
        errors.append(float((means - expected).square().sum(1).mean().sqrt()))
        angles.append(sum(angle(mean, expected) for mean in means[:64]) / len(means[:64]))
    logs = torch.tensor(sizes).log(), torch.tensor(errors).log()
    slope = float(torch.linalg.lstsq(torch.stack([logs[0], torch.ones(5)], 1), logs[1][:, None]).solution[0])
    assert slope == pytest.approx(-0.5, abs=0.03)
    angles = [*angles[2:], angle(found.mean(0), expected)]
    assert angles == sorted(angles, reverse=True) and angles[-1] < angles[0] - 10
    z = z_scores(found, expected)
    assert z.max() < 5 and z.square().mean() < 1.5


MUTANTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[], None]]] = {
    "no baseline": (
        lambda trial, better: better + 10 / trial.scale**2,  # as if L(0) were 10: unbiased, with more variance
        lambda: test_the_variance_is_that_of_theory(8, 1, 1),
    ),
    "the whole batch's loss": (
        lambda trial, better: better.sum().expand_as(better),
        lambda: test_the_variance_is_that_of_theory(4, 16, 1),
    ),
    "noise of another draw": (
        lambda trial, better: [xi.normal_(0, trial.scale) for xi in trial.noises] and better,
        lambda: test_the_mean_tends_to_backprops_gradient_with_the_root_of_the_draws(dense),
    ),
    "half the credit": (
        lambda trial, better: better / 2,
        lambda: test_the_mean_tends_to_backprops_gradient_with_the_root_of_the_draws(dense),
    ),
    "the same noise at every step": (
        lambda trial, better: [xi.copy_(xi[:1].clone()) for xi in trial.noises] and better,
        lambda: test_the_variance_is_that_of_theory(4, 1, 4),
    ),
}


@pytest.mark.parametrize("wrong", MUTANTS)
def test_the_checks_notice_a_wrong_rule(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = node_perturbation._Trial.backward
    change, check = MUTANTS[wrong]
    monkeypatch.setattr(node_perturbation._Trial, "backward", lambda self, b: backward(self, change(self, b)))
    with pytest.raises(AssertionError):
        check()


def test_one_trial_by_hand() -> None:
    """A recurrent layer of rate units and a readout, with the very noise of the trial."""
    torch.manual_seed(0)
    net = sc.Network(sc.RecurrentLinear(5, 4, sc.ReLU()), sc.Linear(4, 3), sc.LeakyReadout(tau=5.0)).double()
    layer, last = net.layers[0], net.layers[1]
    x, s, loss = torch.randn(6, 4, 5, dtype=torch.float64), 0.3, PerStep()
    source = torch.Generator().manual_seed(7)
    xi, zeta = (torch.empty(6, 4, n, dtype=torch.float64).normal_(0, s, generator=source) for n in (4, 3))

    @torch.no_grad()
    def trial(xi: Tensor, zeta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spikes, heard, h, out, u = torch.zeros(4, 4).double(), [], [], [], 0.0
        for t in range(6):
            heard.append(spikes)
            spikes = (layer.input(x[t]) + layer.recurrent(spikes) + xi[t]).relu()
            u = math.exp(-1 / 5) * u + last(spikes) + zeta[t]
            h.append(spikes)
            out.append(u)
        return torch.stack(heard), torch.stack(h), loss.of_samples(torch.stack(out), LABELS)

    heard, h, noisy = trial(xi, zeta)
    better = ((noisy - trial(0 * xi, 0 * zeta)[2]) / (4 * s**2))[None, :, None]
    expected = {
        "layers.0.input.weight": torch.einsum("tbi,tbj->ij", better * xi, x),
        "layers.0.input.bias": (better * xi).sum((0, 1)),
        "layers.0.recurrent.weight": torch.einsum("tbi,tbj->ij", better * xi, heard),
        "layers.1.weight": torch.einsum("tbi,tbj->ij", better * zeta, h),
        "layers.1.bias": (better * zeta).sum((0, 1)),
    }
    NodePerturbation(s).gradients(net, x, LABELS, loss, noise=torch.Generator().manual_seed(7))
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], msg=name)


def test_draws_are_averaged() -> None:
    net, x = dense(), torch.randn(3, 4, 5, dtype=torch.float64)
    one = estimates(net, x, LABELS, 6, NodePerturbation(0.1))
    torch.testing.assert_close(estimates(net, x, LABELS, 1, NodePerturbation(0.1, 6))[0], one.mean(0))


# ---- exact statistics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "batch", "steps"), [(1, 1, 1), (8, 1, 1), (64, 1, 1), (4, 16, 1), (4, 1, 4)])
def test_the_variance_is_that_of_theory(units: int, batch: int, steps: int) -> None:
    """One linear layer, linear loss: g = (c . xi) xi / s^2 has Cov(g) = |c|^2 1 + c c^T, so E|g - c|^2 = (n + 1) |c|^2.

    With n units the relative variance grows as n + 1. The gradient of a bias is that of its currents, summed over T
    steps (c of all steps has T |c|^2) and averaged over B samples, which divides by B, because each has its own loss.
    """
    net = sc.Network(sc.Linear(2, units)).double()
    x = torch.randn(1, 1, 2, dtype=torch.float64).expand(steps, batch, 2).contiguous()
    y = torch.zeros(batch, dtype=torch.int64)
    found = estimates(net, x, y, 3000, NodePerturbation(0.7), Linear())[:, 2 * units :]
    c = torch.arange(1.0, units + 1, dtype=torch.float64)
    assert z_scores(found, steps * c).max() < 5
    theory = steps**2 * (units + 1) * c.square().sum()
    assert float(found.var(0).sum() / (theory / batch)) == pytest.approx(1, rel=0.15)


def test_on_a_quadratic_loss_the_mean_is_exact_at_any_noise() -> None:
    net = sc.Network(sc.Linear(3, 2), sc.LeakyReadout(tau=3.0)).double()
    x = torch.randn(2, 1, 3, dtype=torch.float64).repeat(1, 400, 1)
    y = torch.zeros(400, dtype=torch.int64)
    found = estimates(net, x, y, 50, NodePerturbation(1.5), Square())
    assert z_scores(found, true_gradient(net, x, y, Square())).max() < 5
    assert angle(found.mean(0), true_gradient(net, x, y, Square())) < 10


def phi(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def test_of_spiking_neurons_it_is_the_gradient_of_the_smoothed_loss() -> None:
    """Two layers of LIF units and one step, all patterns of spikes summed: E L in closed form, by autograd."""
    s, theta = 0.4, 0.5
    net = sc.Network(
        sc.Linear(2, 2), sc.LIF(threshold=theta), sc.Linear(2, 2), sc.LIF(threshold=theta), sc.Linear(2, 2)
    ).double()
    one, two, last = (net.layers[i] for i in (0, 2, 4))
    sample = torch.tensor([[0.9, -0.4]], dtype=torch.float64)
    patterns = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)

    def chances(current: Tensor) -> Tensor:
        p = phi((current - theta) / s)[..., None, :]
        return (p * patterns + (1 - p) * (1 - patterns)).prod(-1)  # of every pattern

    smoothed = 0.0
    for i in range(4):
        for j in range(4):
            loss = ((last(patterns[j]) - 1).square().sum() + 2 * s**2) / 2
            smoothed = smoothed + chances(one(sample[0]))[i] * chances(two(patterns[i]))[j] * loss
    net.zero_grad()
    smoothed.backward()
    expected = flat(net)
    x, y = sample.expand(1, 4000, 2).contiguous(), torch.zeros(4000, dtype=torch.int64)
    found = estimates(net, x, y, 60, NodePerturbation(s), Square())
    assert z_scores(found, expected).max() < 5
    assert angle(found.mean(0), expected) < 6
    surrogate = true_gradient(net, x, y, Square())
    assert z_scores(found, surrogate).max() > 10 and angle(surrogate, expected) > 15


def test_one_spiking_neuron_has_the_slope_of_the_normal_distribution() -> None:
    net = sc.Network(sc.Linear(1, 1), sc.LIF(threshold=1.0)).double()
    with torch.no_grad():
        net.layers[0].weight.fill_(0.8)
        net.layers[0].bias.fill_(0.1)
    x, y = torch.full((1, 2000, 1), 0.5, dtype=torch.float64), torch.zeros(2000, dtype=torch.int64)
    s = 0.3
    found = estimates(net, x, y, 60, NodePerturbation(s), Linear())
    z = (0.8 * 0.5 + 0.1 - 1.0) / s
    slope = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / s
    assert z_scores(found, torch.tensor([0.5 * slope, slope])).max() < 5
    assert found.mean(0)[1] == pytest.approx(slope, rel=0.05)


# ---- passes ----------------------------------------------------------------------------------------------------------


def test_all_passes_see_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = sc.Network(
        sc.Linear(5, 30), sc.ReLU(), sc.Dropout(0.5), torch.nn.Dropout(0.3), sc.Linear(30, 3), seed=0
    ).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    twin = copy.deepcopy(net)
    before = torch.get_rng_state()
    expected = true_gradient(twin, x, LABELS)
    after = torch.get_rng_state()

    def one_estimate() -> Tensor:
        torch.set_rng_state(before)
        probe = copy.deepcopy(net)
        NodePerturbation(1e-4, 200).gradients(probe, x, LABELS, noise=torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), after)  # as one pass leaves it
        assert probe.layers[2].noise.count == twin.layers[2].noise.count == 1
        return flat(probe)

    assert float((one_estimate() - expected).norm() / expected.norm()) < 2.5
    for parts in ("streams", "global"):
        with monkeypatch.context() as m:
            if parts == "streams":
                m.setattr(currents, "Noise", type(None))
            else:
                m.setattr(torch, "set_rng_state", lambda state: None)
            torch.manual_seed(0)
            probe = copy.deepcopy(net)
            NodePerturbation(1e-4, 5).gradients(probe, x, LABELS, noise=torch.Generator().manual_seed(0))
            assert float((flat(probe) - expected).norm() / expected.norm()) > 100


class Running(torch.nn.Module):
    """The identity, which keeps the sum of all it has seen."""

    memoryless = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.detach().sum()
        return x


def test_running_statistics_are_those_of_the_pass_without_noise() -> None:
    net = sc.Network(sc.Linear(5, 8), sc.ReLU(), Running(), sc.Linear(8, 3)).double()
    twin, x = copy.deepcopy(net), torch.randn(3, 4, 5, dtype=torch.float64)
    twin(x)
    NodePerturbation(1.0, 3).gradients(net, x, LABELS)
    assert torch.equal(net.layers[2].total, twin.layers[2].total)


@pytest.mark.parametrize("first", [sc.LIF(tau=5.0, threshold=0.3), sc.ReLU()], ids=["memory", "none"])
def test_a_constant_input_has_noise_of_its_own_at_every_step(first: sc.neurons.Neuron) -> None:
    net = sc.Network(
        sc.Linear(5, 8), first, sc.RecurrentLinear(8, 6, sc.LIF(threshold=0.1)), sc.Linear(6, 3), sc.LeakyReadout()
    ).double()
    x = sc.encode.constant(torch.randn(4, 5, dtype=torch.float64), steps=6)
    assert x.stride(0) == 0
    constant, real = (estimates(net, each, LABELS, 3, NodePerturbation(0.1)) for each in (x, x.contiguous()))
    torch.testing.assert_close(constant, real, rtol=1e-9, atol=1e-9)


def test_what_is_returned_is_of_the_pass_without_noise() -> None:
    net, x = dense(), torch.randn(3, 4, 5, dtype=torch.float64)
    loss, out = NodePerturbation(10.0, 2).gradients(net, x, LABELS, PerStep())
    torch.testing.assert_close(out, net(x).detach())
    torch.testing.assert_close(loss, PerStep()(net(x), LABELS).detach())


def test_without_a_generator_the_global_one_governs() -> None:
    net, x = dense(), torch.randn(3, 4, 5, dtype=torch.float64)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        net.zero_grad()
        NodePerturbation(draws=2).gradients(net, x, LABELS)
        found.append(flat(net))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_noise_is_not_lost_in_bfloat16() -> None:
    net = sc.Network(sc.Linear(5, 8), sc.LIF(), sc.Linear(8, 3), sc.LeakyReadout())
    seen = []

    def watch(population: Any, current: Tensor) -> Tensor:
        seen.append(current.dtype)
        return current

    trial = node_perturbation._Trial(1e-4, torch.Generator())
    x = torch.ones(2, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        noisy = trial.run(net, x, LABELS, None)
        with currents.intercepted(net, 2, watch):
            net(x)
    trial.backward(torch.ones(4))
    assert noisy.dtype == torch.float32
    assert seen == [torch.bfloat16, torch.bfloat16] and all(xi.dtype == torch.float32 for xi in trial.noises)
    assert all(p.grad is not None for p in net.parameters())


# ---- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], sc.Network], str]] = {
    "pathway": (
        lambda: sc.Network(sc.Linear(2, 3), sc.LIF(), sc.Linear(3, 2), pathway=sc.FeedbackAlignment()),
        r"layers\.0 has the pathway FeedbackAlignment\(.*no error travels back .*: leave the pathway at Backprop\(\)",
    ),
    "direct": (
        lambda: sc.Network(sc.Linear(2, 3), sc.LIF(), sc.Linear(3, 2), pathway=sc.DirectFeedbackAlignment()),
        "no error travels back through a synapse",
    ),
    "errors": (
        lambda: sc.Network(sc.Linear(2, 3), sc.LIF(), sc.Linear(3, 2), pathway=sc.Backprop(error=sc.SignOnly())),
        "no error travels back through a synapse",
    ),
    "tau": (lambda: sc.Network(sc.Linear(2, 3), sc.LIF(learn_tau=True)), r"layers\.1 learns .* write learn_tau=False"),
    "tau of a recurrent layer": (
        lambda: sc.Network(sc.RecurrentLinear(2, 3, sc.LIF(learn_tau=True))),
        r"layers\.0\.neuron learns a constant",
    ),
    "norm": (
        lambda: sc.Network(sc.Linear(2, 3), sc.BatchNorm1d(3), sc.LIF()),
        r"layers\.1 takes its mean and variance from the batch, .*norm: false",
    ),
    "torch's norm": (
        lambda: sc.Network(sc.Linear(2, 3), torch.nn.BatchNorm1d(3), sc.LIF()),
        "takes its mean and variance from the batch",
    ),
    "two synapses": (
        lambda: sc.Network(sc.Linear(2, 3), torch.nn.ReLU(), sc.Linear(3, 2), sc.LIF()),
        r"layers\.2 reads layers\.0 without neurons between them",
    ),
    "torch's synapse": (lambda: sc.Network(torch.nn.Linear(2, 3), sc.LIF()), "is Linear of torch, .* take sc.Linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_teach_is_refused(name: str) -> None:
    build, told = REFUSED[name]
    with pytest.raises(ValueError, match=told):
        NodePerturbation().check(build())
    with pytest.raises(ValueError, match=told):
        NodePerturbation().gradients(build(), torch.ones(1, 4, 2), LABELS)


def test_running_statistics_are_no_reason_to_refuse() -> None:
    net = sc.Network(sc.Linear(2, 3), sc.BatchNorm1d(3), sc.LIF(), sc.Linear(3, 3))
    net.layers[1].eval()
    NodePerturbation().gradients(net, torch.ones(1, 4, 2), LABELS)
    assert all(p.grad is not None for p in net.parameters())


def test_wrong_values_and_losses_are_refused() -> None:
    for noise in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="noise is a standard deviation, positive and finite"):
            NodePerturbation(noise)
    with pytest.raises(ValueError, match="draws is a number of noisy trials, at least 1, got 0"):
        NodePerturbation(draws=0)
    with pytest.raises(TypeError, match=r"needs each sample's own loss, .*spikecredit\.losses"):
        NodePerturbation().gradients(dense(), torch.ones(1, 4, 5).double(), LABELS, lambda out, y: F.mse_loss(out, out))

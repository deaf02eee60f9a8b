"""The energy, its explicit derivatives against autograd, and relaxation as descent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from relaxing import batch, convolutional, dense, flat, relative
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.equilibrium import Hopfield, Phase, Potential, Predictive, Sweeps, free_state, sections

UNITS = [sc.Logistic, sc.Tanh, sc.HardSigmoid, sc.ReLU]
CASES = {
    "dense": (lambda unit: dense(unit), (20,)),
    "dense, linear output": (lambda unit: dense(unit, last=False), (20,)),
    "average pooling": (lambda unit: convolutional(lambda: sc.AvgPool2d(2), unit), (2, 12, 12)),
    "same padding": (lambda unit: convolutional(lambda: sc.AvgPool2d(2), unit, padding="same"), (2, 12, 12)),
    "maximum pooling": (lambda unit: convolutional(lambda: sc.MaxPool2d(2), unit), (2, 12, 12)),
    "pools that overlap": (lambda unit: convolutional(lambda: sc.MaxPool2d(3, 2, 1), unit), (2, 12, 12)),
    "soft pooling": (lambda unit: convolutional(lambda: sc.SoftPool2d(2, 0.3), unit), (2, 12, 12)),
    "padded average": (lambda unit: convolutional(lambda: sc.AvgPool2d(3, 2, 1), unit), (2, 12, 12)),
}


def interior(net, x, seed=2):
    """A state inside the range of every unit, but no fixed point."""
    phase = Phase.of(sections(net), x)
    g = torch.Generator().manual_seed(seed)
    return [0.05 + 0.9 * torch.rand(s.shape, generator=g, dtype=torch.float64) for s in phase.rest()]


@pytest.mark.parametrize("gain", [1.0, 0.3])
@pytest.mark.parametrize("case", CASES)
def test_currents_and_local_products_are_the_derivatives_of_the_energy(case, gain):
    """sigma^-1(target) - sigma^-1(s) = -gain^(1-l) dE/ds_l, and hebb = -gain^(1-l) dE/dW, to rounding."""
    make, shape = CASES[case]
    net = make(sc.Logistic)
    x, _ = batch(shape, 5)
    state = [s.requires_grad_() for s in interior(net, x)]
    parts = sections(net)
    parameters = [p for part in parts for p in (part.layer.weight, part.layer.bias)]
    with torch.no_grad():
        phase = Phase.of(parts, x)
        targets = [Hopfield(gain).target(phase, i, [s.detach() for s in state]) for i in range(len(parts))]
    # The energy by torch's own layers, differentiable in weights too.
    total, below = 0.0, x
    for i, (part, s) in enumerate(zip(parts, state, strict=True)):
        y = part.layer(below.flatten(1) if isinstance(part.layer, sc.Linear) else below)
        y = y if part.pool is None else part.pool(y)
        stored = s.square() / 2 if part.unit is None else part.unit.stored(s)
        total = total + gain**i * (stored - s * y).sum()
        below = s
    assert float(Hopfield(gain).value(net, x, state).sum() - total.detach()) == pytest.approx(0, abs=1e-10)
    slopes = torch.autograd.grad(total, [*state, *parameters])
    for i, (part, s) in enumerate(zip(parts, state, strict=True)):
        inverse = (lambda r: r) if part.unit is None else (lambda r: torch.logit(r) / 4 + 0.5)
        assert relative(inverse(s) - inverse(targets[i]), slopes[i] / gain**i) < 1e-12
        below = x if i == 0 else state[i - 1].detach()
        found = part.hebb(s.detach(), below, part.up(below)[1])
        for got, wanted in zip(found, slopes[len(state) + 2 * i :], strict=False):
            assert relative(got, -wanted / gain**i) < 1e-12


def potential(parts, x, state, gain):
    """|s|^2 / 2 - rho(s) . P(W rho(s_below) + b), and the sum over layers with powers of the gain."""
    total, below = 0.0, x
    for i, (part, s) in enumerate(zip(parts, state, strict=True)):
        rho = s if part.unit is None else part.unit(s[None])[0]
        total = total + gain**i * (s.square() / 2 - rho * pooled(part, below)).sum()
        below = rho
    return total


def predictive(parts, x, state, gain):
    """|s - sigma(P(W s_below + b))|^2 / 2."""
    total, below = 0.0, x
    for part, s in zip(parts, state, strict=True):
        y = pooled(part, below)
        total = total + (s - (y if part.unit is None else part.unit(y[None])[0])).square().sum() / 2
        below = s
    return total


def pooled(part, below):
    """P(W s + b) by torch's own operations, whose backward pass is no pathway's."""
    layer = part.layer
    if isinstance(layer, sc.Linear):
        return F.linear(below.flatten(1), layer.weight, layer.bias)
    y = F.conv2d(below, layer.weight, layer.bias, layer.stride, layer.padding)
    return y if part.pool is None else part.pool(y)


@pytest.mark.parametrize("unit", [sc.Logistic, sc.Tanh, sc.ReLU])
@pytest.mark.parametrize(
    ("energy", "written"), [(Potential(), potential), (Potential(0.3), potential), (Predictive(), predictive)]
)
@pytest.mark.parametrize("case", CASES)
def test_flows_and_local_products_are_the_derivatives_of_the_energy(case, energy, written, unit):
    """target - s = -gain^(1-l) dE/ds_l, and the products of `ends` are -gain^(1-l) dE/dW."""
    make, shape = CASES[case]
    net = make(unit)
    x, _ = batch(shape, 5)
    state = [s.requires_grad_() for s in interior(net, x)]
    parts = sections(net)
    total = written(parts, x, state, energy.gain)
    assert float(energy.value(net, x, state).sum() - total.detach()) == pytest.approx(0, abs=1e-10)
    slopes = torch.autograd.grad(total, [*state, *(p for part in parts for p in (part.layer.weight, part.layer.bias))])
    with torch.no_grad():
        phase, at = Phase.of(parts, x), [s.detach() for s in state]
        for i, (part, s) in enumerate(zip(parts, at, strict=True)):
            assert relative(energy.target(phase, i, at) - s, -slopes[i] / energy.gain**i) < 1e-12
            post, pre = energy.ends(phase, i, at)
            found = part.hebb(post, pre, part.up(pre)[1])
            for got, wanted in zip(found, slopes[len(at) + 2 * i :], strict=False):
                assert relative(got, -wanted / energy.gain**i) < 1e-12


@pytest.mark.parametrize(
    ("energy", "written"), [(Potential(), potential), (Potential(0.3), potential), (Predictive(), predictive)]
)
@pytest.mark.parametrize("case", CASES)
def test_every_step_of_euler_goes_down_the_slope_of_where_it_is(case, energy, written):
    """s - epsilon gain^(1-l) dE/ds_l, not with the maxima of an earlier state or of potentials instead of rates."""
    make, shape = CASES[case]
    net = make(sc.HardSigmoid)
    x, _ = batch(shape, 5)
    parts, relaxation = sections(net), Sweeps(order="euler", epsilon=0.1)
    phase = Phase.of(parts, x)
    state = [4 * s - 2 for s in interior(net, x)]  # beyond both kinks of the units
    for _ in range(3):
        at = [s.clone().requires_grad_() for s in state]
        slopes = torch.autograd.grad(written(parts, x, at, energy.gain), at)
        with torch.no_grad():
            state = relaxation.run(energy, phase, 1, state)
        for i, (new, s, slope) in enumerate(zip(state, at, slopes, strict=True)):
            torch.testing.assert_close(new, s.detach() - 0.1 * slope / energy.gain**i, rtol=1e-12, atol=1e-12)


# Not Tanh with a maximum: -s max(.) bounds its linearisation, from which a block descends, only where s >= 0.
DESCENTS = [
    (case, unit)
    for case in ("dense", "average pooling", "maximum pooling")
    for unit in UNITS
    if (case, unit) != ("maximum pooling", sc.Tanh)
]


@pytest.mark.parametrize(("case", "unit"), DESCENTS)
@pytest.mark.parametrize(("order", "epsilon"), [("checkerboard", 1.0), ("euler", 0.05)])
def test_the_energy_never_rises(case, order, epsilon, unit):
    # ReLU is unbounded: weights small enough to have an energy from below
    values = descent(case, unit, Sweeps(order=order, epsilon=epsilon), 0.5 if unit is sc.ReLU else 1.0)
    assert float(values.diff(dim=0).max()) <= 1e-12
    assert float((values[0] - values[-1]).min()) > 1e-3


@pytest.mark.parametrize("unit", UNITS)
def test_with_soft_pooling_small_steps_descend_and_whole_blocks_need_not(unit):
    """-s P(.) is no bound of its linearisation, from which a block takes its step."""
    values = descent("soft pooling", unit, Sweeps(order="euler", epsilon=0.05), 0.5 if unit is sc.ReLU else 1.0)
    assert float(values.diff(dim=0).max()) <= 1e-12
    assert float((values[0] - values[-1]).min()) > 1e-3
    if unit is sc.Tanh:
        assert float(descent("soft pooling", unit, Sweeps(), 3.0).diff(dim=0).max()) > 0.1


@torch.no_grad()
def descent(case, unit, relaxation, scale):
    """The energy of each sample before and after each of 30 sweeps, of weights times `scale`."""
    make, shape = CASES[case]
    net = make(unit)
    x, _ = batch(shape, 4)
    for part in sections(net):
        part.layer.weight.mul_(scale)
    phase, state = Phase.of(sections(net), x), interior(net, x)
    values = [Hopfield().value(net, x, state)]
    for _ in range(30):
        state = relaxation.run(Hopfield(), phase, 1, state)
        values.append(Hopfield().value(net, x, state))
    return torch.stack(values)


@pytest.mark.parametrize("case", CASES)
def test_all_orders_find_one_fixed_point(case):
    make, shape = CASES[case]
    net = make(sc.HardSigmoid)
    x, _ = batch(shape, 4)
    with torch.no_grad():
        for part in sections(net)[1:]:
            part.layer.weight.mul_(0.5)  # one fixed point only
    found = [
        flat(free_state(net, x, relaxation=Sweeps(free=500, order=order)))
        for order in ("checkerboard", "jacobi", "euler")
    ]
    assert float(((found[0] > 0) & (found[0] < 1)).double().mean()) > 0.02  # not all at the ends
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-9)


def test_checkerboard_takes_half_the_sweeps_of_jacobi():
    net, (x, _) = dense(gain=1.0), batch()
    settled = flat(free_state(net, x, relaxation=Sweeps(free=800)))

    def sweeps(order):
        return next(
            n
            for n in range(1, 200)
            if float((flat(free_state(net, x, relaxation=Sweeps(free=n, order=order))) - settled).abs().max()) < 1e-6
        )

    assert sweeps("checkerboard") <= 0.6 * sweeps("jacobi")


def test_a_tolerance_stops_a_settled_phase_and_only_that():
    net, (x, _) = dense(), batch()
    whole = flat(free_state(net, x, relaxation=Sweeps(free=400)))
    phase = Phase.of(sections(net), x)
    count = 0

    class Counting(Hopfield):
        def target(self, *arguments):
            nonlocal count
            count += 1
            return super().target(*arguments)

    energy = Counting()
    with torch.no_grad():
        found = flat(Sweeps(tolerance=1e-8).run(energy, phase, 400, phase.rest()))
    assert count < 3 * 100 and float((found - whole).abs().max()) < 1e-7
    count = 0
    with torch.no_grad():
        Sweeps().run(energy, phase, 100, phase.rest())
    assert count == 300


@given(st.integers(0, 2**31), st.sampled_from(["checkerboard", "jacobi", "euler"]))
def test_relaxing_leaves_the_state_it_starts_from_and_goes_on_where_it_stopped(seed, order):
    net, (x, _) = dense(seed=seed % 100), batch(n=3)
    relaxation = Sweeps(free=12, order=order)
    once = free_state(net, x, relaxation=relaxation)
    kept = [s.clone() for s in once]
    twice = free_state(net, x, relaxation=relaxation, state=once)
    assert all(map(torch.equal, once, kept))
    whole = free_state(net, x, relaxation=Sweeps(free=24, order=order))
    torch.testing.assert_close(flat(twice), flat(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((sc.Linear(3, 3), sc.Linear(3, 3)), "no units between them"),
        ((sc.Linear(3, 3), sc.LeakyReadout()), "LeakyReadout, has no place"),
        ((sc.Linear(3, 3), sc.HardSigmoid(), sc.BatchNorm1d(3)), "BatchNorm1d, has no place"),
        ((sc.Flatten(),), "needs a synapse layer"),
        ((sc.Linear(3, 3), sc.AvgPool2d(2)), "pooling follows a convolution"),
        ((sc.Conv2d(1, 1, 3), sc.AvgPool2d(2, ceil_mode=True), sc.Tanh()), "has no adjoint"),
        ((sc.Conv2d(1, 1, 4, padding="same"), sc.Tanh()), "alike on both sides"),
        ((sc.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), sc.Tanh()), "pad with zeros"),
    ],
)
def test_what_has_no_place_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        sections(sc.Network(*layers))


def test_a_vector_field_has_no_energy():
    net, (x, _) = dense(pathway=sc.FeedbackAlignment()), batch()
    with pytest.raises(ValueError, match="vector field that has no energy"):
        Hopfield().value(net, x, interior(net, x))


@pytest.mark.parametrize(
    "wrong",
    [{"free": 0}, {"nudged": 1.5}, {"order": "gibbs"}, {"epsilon": 0.0}, {"epsilon": 1.5}, {"tolerance": -1.0}],
)
def test_bad_relaxations_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sweeps(**wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_gains_are_refused(wrong):
    with pytest.raises(ValueError, match="gain is a positive number"):
        Hopfield(wrong)

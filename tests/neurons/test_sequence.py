"""Whole sequences with explicit adjoint: against the plain loop, NumPy tangents, hand-computed cases and gradcheck."""

import dataclasses

import pytest
import torch
from neuron_oracles import FORMULAS, RESETS, alif_tangent, close, lif_tangent, randn, run_alif, run_lif, uncompiled

from spikecredit.neurons import (
    LIF,
    ALIFParameters,
    ALIFState,
    ArcTan,
    FastSigmoid,
    LeakyReadout,
    LIFParameters,
    LIFState,
    StraightThrough,
    alif_loop,
    lif_loop,
)
from spikecredit.neurons.kernels import backends, cpu, ops
from spikecredit.neurons.kernels.sequence import leaky_sequence

SHAPE = (10, 2, 3)  # (T, B, N)
TIMES = ("fixed", "layer", "neuron")  # a number; learned, one per layer; learned, one per neuron
FLAT = StraightThrough(1e-12)  # its derivative is 0 nearly everywhere: the spikes drop out and the rest is smooth


def lif_sequence(x, u0, wait, p, **options):
    s, u, last = run_lif(x, LIFState(u0, wait), p, **options)
    return s, u, last.wait


def alif_sequence(x, u0, a0, r0, wait, p, **options):
    s, u, last = run_alif(x, ALIFState(u0, a0, r0, wait), p, **options)
    return s, u, last.a, last.r, last.wait


def factor(kind, low=0.8):
    """A decay factor: beta of LIF, or rho."""
    if kind == "fixed":
        return low
    return (low + 0.15 * torch.rand(() if kind == "layer" else SHAPE[2:], dtype=torch.float64)).requires_grad_()


def waits(refractory):
    """Refractory steps to wait at the start: some neurons begin in the middle of their period."""
    if refractory <= 1:
        return None
    return torch.randint(0, refractory, SHAPE[1:], generator=torch.Generator().manual_seed(5), dtype=torch.int32)


def gradients(outputs, seeds, leaves):
    loss = sum((out * g).sum() for out, g in zip(outputs, seeds, strict=True) if out.requires_grad)
    return torch.autograd.grad(loss, leaves)


def drive():
    """Currents that make neurons fire about every third step, and states on both sides of the threshold."""
    return (0.4 + 0.6 * randn(*SHAPE, seed=1)).requires_grad_(), (
        0.8 + 0.5 * randn(*SHAPE[1:], seed=2)
    ).requires_grad_()


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_lif_equals_autograd_through_the_loop(reset, detach, time):
    x, u0 = drive()
    seeds = [randn(*SHAPE, seed=3), randn(*SHAPE, seed=4)]
    for surrogate in FORMULAS:
        for refractory in (0, 1, 2, 4):
            beta = factor(time)
            p = LIFParameters(beta, 0.9, reset, surrogate, refractory, detach)
            wait = waits(refractory)
            s, u, state = lif_loop(x, LIFState(u0, wait), p)
            s2, u2, wait2 = lif_sequence(x, u0, wait, p)
            assert torch.equal(s, s2)
            assert torch.equal(u, u2)
            assert 0.1 < s.mean() < 0.9
            assert wait2 is None if wait is None else torch.equal(wait2, state.wait)
            leaves = [x, u0, *([beta] if time != "fixed" else [])]
            for got, expected in zip(gradients([s2, u2], seeds, leaves), gradients([s, u], seeds, leaves), strict=True):
                close(got, expected)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_alif_equals_autograd_through_the_loop(reset, detach, time):
    x, u0 = drive()
    a0 = randn(*SHAPE[1:], seed=6).abs().requires_grad_()
    r0 = (randn(*SHAPE[1:], seed=7) > 0).double().requires_grad_()
    seeds = [randn(*SHAPE, seed=3), randn(*SHAPE, seed=4), randn(*SHAPE[1:], seed=8), randn(*SHAPE[1:], seed=9)]
    for surrogate in FORMULAS:
        for refractory in (0, 1, 2, 4):
            beta, rho = factor(time), factor(time, 0.7)
            p = ALIFParameters(beta, rho, 0.3, 0.9, reset, surrogate, refractory, detach)
            wait = waits(refractory)
            s, u, state = alif_loop(x, ALIFState(u0, a0, r0, wait), p)
            s2, u2, a2, r2, wait2 = alif_sequence(x, u0, a0, r0, wait, p)
            assert torch.equal(s, s2)
            assert torch.equal(u, u2)
            assert 0.1 < s.mean() < 0.9
            assert torch.equal(a2, state.a)
            assert torch.equal(r2, state.r)
            assert wait2 is None if wait is None else torch.equal(wait2, state.wait)
            leaves = [x, u0, a0, *([] if detach or reset == "none" else [r0])]
            leaves += [beta, rho] if time != "fixed" else []
            got = gradients([s2, u2, a2, r2], seeds, leaves)
            for ours, expected in zip(got, gradients([s, u, state.a, state.r], seeds, leaves), strict=True):
                close(ours, expected)


@pytest.mark.parametrize("used", ["s", "u", "a", "r", "last"])
def test_a_loss_on_one_output_alone(used):
    # autograd hands None for unused outputs, and a zero-stride gradient for a plain sum
    x, u0 = drive()
    a0, r0 = torch.zeros_like(u0), torch.zeros_like(u0)
    for detach in (True, False):
        p = ALIFParameters(0.9, 0.95, 0.3, 0.9, "subtract", ArcTan(), 2, detach)
        wait = waits(2)
        s, u, state = alif_loop(x, ALIFState(u0, a0, r0, wait), p)
        s2, u2, a2, r2, _ = alif_sequence(x, u0, a0, r0, wait, p)
        ours = {"s": s2, "u": u2, "a": a2, "r": r2, "last": u2[-1]}[used]
        loop = {"s": s, "u": u, "a": state.a, "r": state.r, "last": state.u}[used]
        for got, expected in zip(
            torch.autograd.grad(ours.sum(), [x, u0]), torch.autograd.grad(loop.sum(), [x, u0]), strict=True
        ):
            close(got, expected)
        if used in ("s", "u", "last"):
            q = LIFParameters(0.9, 0.9, "zero", ArcTan(), 2, detach)
            s, u, _ = lif_loop(x, LIFState(u0, wait), q)
            s2, u2, _ = lif_sequence(x, u0, wait, q)
            ours, loop = {"s": (s2, s), "u": (u2, u), "last": (u2[-1], u[-1])}[used]
            close(torch.autograd.grad(ours.sum(), x)[0], torch.autograd.grad(loop.sum(), x)[0])


def check_lif_gradient(run, reset, detach, refractory, surrogate):
    """<gradient, direction> = <loss's gradient, movement along the direction>, the movement from NumPy."""
    x, u0 = drive()
    beta = (0.7 + 0.2 * torch.rand(SHAPE[2:], dtype=torch.float64)).requires_grad_()
    wait = None if refractory <= 1 else torch.zeros(SHAPE[1:], dtype=torch.int32)
    s, u, _ = run(x, u0, wait, LIFParameters(beta, 0.9, reset, surrogate, refractory, detach))
    gs, gu = randn(*SHAPE, seed=3), randn(*SHAPE, seed=4)
    grads = gradients([s, u], [gs, gu], [x, u0, beta])
    numbers = [v.detach().numpy() for v in (x, u0, beta)]
    for seed in range(10, 14):
        directions = [randn(*v.shape, seed=seed + 10 * k).numpy() for k, v in enumerate((x, u0, beta))]
        ds, du = lif_tangent(
            *numbers, 0.9, reset, refractory, FORMULAS[surrogate], detach, *directions
        )  # fmt: skip
        expected = (gs.numpy() * ds).sum() + (gu.numpy() * du).sum()
        close(sum((g.numpy() * d).sum() for g, d in zip(grads, directions, strict=True)), expected, 1e-11)


def check_alif_gradient(run, reset, detach, refractory, surrogate):
    x, u0 = drive()
    state = [u0, randn(*SHAPE[1:], seed=6).abs().requires_grad_(), (randn(*SHAPE[1:], seed=7) > 0).double()]
    state[2].requires_grad_()
    beta, rho = ((0.7 + 0.2 * torch.rand(SHAPE[2:], dtype=torch.float64)).requires_grad_() for _ in range(2))
    wait = None if refractory <= 1 else torch.zeros(SHAPE[1:], dtype=torch.int32)
    p = ALIFParameters(beta, rho, 0.3, 0.9, reset, surrogate, refractory, detach)
    s, u, a, _, _ = run(x, *state, wait, p)
    seeds = [randn(*SHAPE, seed=3), randn(*SHAPE, seed=4), randn(*SHAPE[1:], seed=8)]
    leaves = [x, *state, beta, rho]
    grads = torch.autograd.grad(
        sum((out * g).sum() for out, g in zip((s, u, a), seeds, strict=True)),
        leaves, allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    nx, nu, na, nr, nbeta, nrho = (v.detach().numpy() for v in leaves)
    for seed in range(10, 14):
        dx, du, da, dr, dbeta, drho = directions = [
            randn(*v.shape, seed=seed + 10 * k).numpy() for k, v in enumerate(leaves)
        ]
        moved = alif_tangent(
            nx, (nu, na, nr), nbeta, nrho, 0.9, 0.3, reset, refractory, FORMULAS[surrogate], detach,
            dx, (du, da, dr), dbeta, drho,
        )  # fmt: skip
        expected = sum((g.numpy() * m).sum() for g, m in zip(seeds, moved, strict=True))
        close(sum((g.numpy() * d).sum() for g, d in zip(grads, directions, strict=True)), expected, 1e-11)


@pytest.mark.parametrize("refractory", [0, 1, 2, 4])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("reset", RESETS)
def test_gradients_against_numpy_tangents(reset, detach, refractory):
    for surrogate in FORMULAS:
        check_lif_gradient(lif_sequence, reset, detach, refractory, surrogate)
        check_alif_gradient(alif_sequence, reset, detach, refractory, surrogate)


SHARP = ArcTan(3.0)
LIF_MUTANTS = {
    "dropped (1 - r) of reset to zero": (
        "(one - np.where(before > theta, one, nil)) if zero else live", "one", ("zero", True, 0)),
    "refractory: dropped (1 - r) of reset to zero": (
        "kept[j] = live[j] * (one - r[j])", "kept[j] = live[j]", ("zero", True, 2)),
    "forgot -theta psi of the attached reset": (
        "else less) if attached", "else nil) if attached", ("subtract", False, 0)),
    "refractory: forgot -theta psi of the attached reset": (
        "k[j] = k[j] if held[j] > nil else -live[j] * theta", "k[j] = k[j] if held[j] > nil else nil",
        ("subtract", False, 2)),
    "input arrives while refractory": (
        "out[j] = nil if held[j] > nil else c[j]", "out[j] = c[j]", ("subtract", True, 3)),
    "no identity through the refractory period": (
        "c[j] = c[j] if held[j] > nil else kept[j] * at(beta, j)", "c[j] = kept[j] * at(beta, j)",
        ("subtract", True, 3)),
    "tau learns from the current instead of the potential before": (
        "+= kept * before", "+= kept * u", ("zero", True, 0)),
    "refractory: tau learns from the current": (
        "passes.add_product(learned[0, begin:end], q, before)",
        "passes.add_product(learned[0, begin:end], q, now[U, :n])",
        ("zero", True, 2)),
    "checkpoints are one step late": (
        "place = ((segment - 1) * fields", "place = (max(segment - 2, 0) * fields", ("zero", True, 0)),
    "refractory: checkpoints are one step late": (
        "checkpoints[segment - 1], present", "checkpoints[max(segment - 2, 0)], present", ("zero", True, 2)),
}  # fmt: skip
ALIF_MUTANTS = {
    "the adaptation does not lower the spikes": (
        "h[j] = h[j] * at(rho, j) - q[j] * b", "h[j] = h[j] * at(rho, j)", ("subtract", True, 0)),
    "spikes do not raise the adaptation": (
        "through = (g[j] + h[j] + k[j]) * psi[j]", "through = (g[j] + k[j]) * psi[j]", ("subtract", True, 0)),
    "a pending reset is forgotten": (
        "k[j] = k[j] if held[j] > nil else -live[j] * theta", "k[j] = -live[j] * theta", ("subtract", False, 3)),
    "rho learns after its adjoint moved on": (
        "passes.add_product(learned[2, begin:end], h, old[A, :n])",
        "passes.add_product(learned[2, begin:end], h, past[t - t0 + 1, A, :n])", ("none", True, 0)),
}  # fmt: skip


def noticed(monkeypatch, check, run, old, new, case):
    monkeypatch.setattr(cpu, "SEGMENT", 4)  # several segments in ten steps
    monkeypatch.setattr(ops, "segment_of", lambda backend: 4)
    check(run, *case, SHARP)
    monkeypatch.setattr(backends, "module", lambda backend: right)
    right, wrong = uncompiled(), uncompiled(old, new)
    right.SEGMENT = wrong.SEGMENT = 4
    check(run, *case, SHARP)  # it is not for being uncompiled that the mutant fails
    monkeypatch.setattr(backends, "module", lambda backend: wrong)
    with pytest.raises(AssertionError):
        check(run, *case, SHARP)


@pytest.mark.parametrize("name", LIF_MUTANTS)
def test_a_wrong_lif_adjoint_is_noticed(name, monkeypatch):
    noticed(monkeypatch, check_lif_gradient, lif_sequence, *LIF_MUTANTS[name])


@pytest.mark.parametrize("name", ALIF_MUTANTS)
def test_a_wrong_alif_adjoint_is_noticed(name, monkeypatch):
    noticed(monkeypatch, check_alif_gradient, alif_sequence, *ALIF_MUTANTS[name])


@pytest.mark.parametrize(
    ("reset", "detach", "u1", "g1"),
    [
        ("subtract", True, 0.0, 0.5),
        ("subtract", False, 0.0, 0.5),
        ("zero", True, 0.25, 2 / 1.75**2),
        ("zero", False, 0.25, 2 / 1.75**2),
        ("none", True, 1.0, 2.0),
    ],
)
def test_two_steps_by_hand(reset, detach, u1, g1):
    # beta = 1/2, theta = 1, x = (3/2, 1/4): u[0] = 3/2 fires. L = s[0] + 2 s[1], psi(v) = 1 / (1 + |v|)^2, so that
    # psi[0] = 4/9, g[1] = 2 psi[1], g[0] = psi[0] + J g[1].
    x = torch.tensor([[[1.5]], [[0.25]]], dtype=torch.float64, requires_grad=True)
    p = LIFParameters(0.5, 1.0, reset, FastSigmoid(1.0), 0, detach)
    s, u, _ = lif_sequence(x, torch.zeros(1, 1, dtype=torch.float64), None, p)
    assert s.flatten().tolist() == [1.0, 0.0]
    assert u.flatten().tolist() == [1.5, u1]
    slope = {"subtract": 0.5, "zero": 0.0, "none": 0.5}[reset]
    if not detach:
        slope -= {"subtract": 1.0, "zero": 0.5 * 1.5}[reset] * 4 / 9
    (gradient,) = torch.autograd.grad(s[0].sum() + 2 * s[1].sum(), x)
    close(gradient.flatten(), [4 / 9 + slope * g1, g1], 1e-15)


@pytest.mark.parametrize("refractory", [0, 3])
@pytest.mark.parametrize("reset", RESETS)
def test_gradcheck_of_the_smooth_parts(reset, refractory):
    # With FLAT the spikes carry no gradient, and what is left (leak, reset by a constant, holding) is differentiable.
    x = (0.4 + 0.6 * randn(6, 2, 2, seed=1)).requires_grad_()
    u0, a0 = (randn(2, 2, seed=2 + k).abs().requires_grad_() for k in range(2))
    beta, rho = torch.tensor([0.8, 0.9], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    beta.requires_grad_(), rho.requires_grad_()
    wait = torch.zeros(2, 2, dtype=torch.int32) if refractory else None
    p = LIFParameters(beta, 0.9, reset, FLAT, refractory, False)
    q = ALIFParameters(beta, rho, 0.3, 0.9, reset, FLAT, refractory, False)

    def lif(x, u0, beta):
        return lif_sequence(x, u0, wait, dataclasses.replace(p, beta=beta))[1]

    def alif(x, u0, a0, beta, rho):
        return alif_sequence(x, u0, a0, torch.ones_like(u0), wait, dataclasses.replace(q, beta=beta, rho=rho))[1:3]

    assert lif(x, u0, beta).max() > 0.9
    assert torch.autograd.gradcheck(lif, (x, u0, beta))
    assert torch.autograd.gradcheck(alif, (x, u0, a0, beta, rho))


@pytest.mark.parametrize("shape", [(), (2,)])
def test_gradcheck_of_leaky_integration(shape):
    x, u0 = randn(5, 3, 2, seed=1).requires_grad_(), randn(3, 2, seed=2).requires_grad_()
    beta = torch.full(shape, 0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(leaky_sequence, (x, u0, beta))
    assert torch.autograd.gradcheck(lambda x, u0: leaky_sequence(x, u0, 0.8), (x, u0))


def test_second_derivatives_are_refused_but_by_the_reference():
    x = randn(3, 1, 2).requires_grad_()
    for neuron in (LeakyReadout(), LIF()):
        (g,) = torch.autograd.grad((neuron(x) ** 2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="backend='reference'"):
            g.sum().backward()
    run = lambda x: LIF(backend="reference", surrogate=ArcTan()).run(x)[1]  # noqa: E731
    (g,) = torch.autograd.grad((run(x) ** 2).sum(), x, create_graph=True)
    assert torch.autograd.grad(g.sum(), x)[0].isfinite().all()


def test_the_input_is_kept_and_the_potentials_are_not():
    # the claim of the module: not a graph of ~10 nodes a step; a checkpoint every 32 steps
    kept = []
    x = randn(70, 2, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append((t.shape, t.data_ptr())) or t, lambda t: t):
        lif_sequence(x, torch.zeros(2, 3, dtype=torch.float64), None, LIFParameters(0.9), potentials=False)
    assert sorted(shape for shape, _ in kept) == [(2, 1, 6), (2, 3), (70, 2, 3)]
    assert x.data_ptr() in [place for _, place in kept]

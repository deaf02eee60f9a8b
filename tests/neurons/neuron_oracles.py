"""Oracles for the neurons' tests: the equations in float64 NumPy, written from the papers and not from our own step.

Refractoriness is told in absolute time (the step from which a neuron is free again) and the gradient is checked
forwards in time (tangents), so that neither shares a recursion with the code under test.
"""

import math
import re
import types
from pathlib import Path

import numpy as np
import torch

from spikecredit.neurons import (
    ALIFState,
    ArcTan,
    FastSigmoid,
    Gaussian,
    LIFState,
    MultiGaussian,
    Sigmoid,
    StraightThrough,
    Triangle,
)
from spikecredit.neurons.kernels import cpu, lanes, lif_cpu, passes
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.sequence import spiking_sequence

RESETS = ("subtract", "zero", "none")


def normal(v, mean, sigma):
    return np.exp(-((v - mean) ** 2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2)


# Each surrogate beside its published formula; sharp settings are avoided so that gradients of every term are seen.
FORMULAS = {
    FastSigmoid(5.0): lambda v: 1 / (1 + 5.0 * np.abs(v)) ** 2,
    ArcTan(3.0): lambda v: 1.5 / (1 + (math.pi / 2 * 3.0 * v) ** 2),
    Triangle(0.6, 0.8): lambda v: 0.6 / 0.8 * np.maximum(0, 1 - np.abs(v) / 0.8),
    Gaussian(0.4): lambda v: normal(v, 0, 0.4),
    Sigmoid(4.0): lambda v: 4 * np.exp(-4 * v) / (1 + np.exp(-4 * v)) ** 2,
    StraightThrough(0.7): lambda v: (np.abs(v) < 0.7).astype(float),
    MultiGaussian(0.4, 0.2, 3.0, 0.7): lambda v: (
        0.7 * (1.2 * normal(v, 0, 0.4) - 0.2 * normal(v, 0.4, 1.2) - 0.2 * normal(v, -0.4, 1.2))
    ),
}


def lif_oracle(x, u0, beta, theta, reset, refractory=0):
    """Spikes and potentials (T, ...) of the LIF neuron of DESIGN section 4."""
    u, free_from = np.array(u0), np.zeros(u0.shape, int)
    spikes, potentials = np.zeros_like(x), np.zeros_like(x)
    for t in range(len(x)):
        free, r = t >= free_from, u > theta
        new = {
            "subtract": beta * u + x[t] - np.where(r, theta, 0.0),
            "zero": beta * np.where(r, 0.0, u) + x[t],
            "none": beta * u + x[t],
        }[reset]
        u = np.where(free, new, u)
        s = free & (u > theta)
        free_from = np.where(s, t + refractory, free_from)  # input of t+1 ... t+k-1 is lost
        spikes[t], potentials[t] = s, u
    return spikes, potentials


def alif_oracle(x, state, beta, rho, theta, b, reset, refractory=0):
    """Spikes, potentials and adaptations a[t+1] (T, ...) of the adaptive neuron; state is (u, a, pending reset)."""
    u, a, pending = (np.array(part) for part in state)
    free_from = np.zeros(u.shape, int)
    spikes, potentials, adaptations = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t in range(len(x)):
        free = t >= free_from
        new = {
            "subtract": beta * u + x[t] - pending * theta,
            "zero": beta * np.where(pending > 0, 0.0, u) + x[t],
            "none": beta * u + x[t],
        }[reset]
        u = np.where(free, new, u)
        s = free & (u > theta + b * a)
        free_from = np.where(s, t + refractory, free_from)
        pending = np.where(free, s, pending)
        a = rho * a + s
        spikes[t], potentials[t], adaptations[t] = s, u, a
    return spikes, potentials, adaptations


def lif_tangent(x, u0, beta, theta, reset, refractory, psi, detach, dx, du0, dbeta):
    """How spikes and potentials move along the direction (dx, du0, dbeta), psi standing in for dH(v)/dv."""
    spikes, potentials = lif_oracle(x, u0, beta, theta, reset, refractory)
    before = np.concatenate([u0[None], potentials[:-1]])
    last, du = np.full(u0.shape, -(10**6)), np.array(du0)
    ds_all, du_all = np.zeros_like(x), np.zeros_like(x)
    for t in range(len(x)):
        free = t >= last + refractory
        r = before[t] > theta
        dr = 0.0 if detach else psi(before[t] - theta) * du
        moved = dbeta * before[t] + beta * du + dx[t]
        if reset == "subtract":
            moved = moved - theta * dr
        elif reset == "zero":
            moved = (1 - r) * (dbeta * before[t] + beta * du) - beta * before[t] * dr + dx[t]
        du = np.where(free, moved, du)
        ds_all[t], du_all[t] = np.where(free, psi(potentials[t] - theta) * du, 0.0), du
        last = np.where(spikes[t] > 0, t, last)
    return ds_all, du_all


def alif_tangent(x, state, beta, rho, theta, b, reset, refractory, psi, detach, dx, dstate, dbeta, drho):
    """As `lif_tangent`, for the adaptive neuron; returns how spikes, potentials and the last adaptation move."""
    spikes, potentials, adaptations = alif_oracle(x, state, beta, rho, theta, b, reset, refractory)
    before = np.concatenate([state[0][None], potentials[:-1]])
    a = np.concatenate([state[1][None], adaptations])
    r, last = np.array(state[2]), np.full(state[0].shape, -(10**6))
    du, da, dr = (np.array(part) for part in dstate)
    ds_all, du_all = np.zeros_like(x), np.zeros_like(x)
    for t in range(len(x)):
        free = t >= last + refractory
        dr_seen = 0.0 if detach else dr
        moved = dbeta * before[t] + beta * du + dx[t]
        if reset == "subtract":
            moved = moved - theta * dr_seen
        elif reset == "zero":
            moved = (1 - r) * (dbeta * before[t] + beta * du) - beta * before[t] * dr_seen + dx[t]
        du = np.where(free, moved, du)
        ds = np.where(free, psi(potentials[t] - theta - b * a[t]) * (du - b * da), 0.0)
        da = drho * a[t] + rho * da + ds
        dr, r = np.where(free, ds, dr), np.where(free, spikes[t], r)
        last = np.where(spikes[t] > 0, t, last)
        ds_all[t], du_all[t] = ds, du
    return ds_all, du_all, da


def waiting(state, p):
    """The refractory steps to wait at rest, which the modules put into their state themselves."""
    return torch.zeros_like(state.u, dtype=torch.int32) if state.wait is None and p.refractory > 1 else state.wait


def run_lif(x, state, p, **options):
    """The LIF's whole sequence on a backend, for a state and constants of its own: spikes, potentials, last state."""
    s, u, last = spiking_sequence(x, State(state.u, wait=waiting(state, p)), Decays(p.beta), p, **options)
    return s, u, LIFState(last.u, last.wait)


def run_alif(x, state, p, **options):
    """As `run_lif`, for the adaptive neuron."""
    before = State(state.u, None, state.a, state.r, waiting(state, p))
    s, u, last = spiking_sequence(x, before, Decays(p.beta, None, p.rho), p, **options)
    return s, u, ALIFState(last.u, last.a, last.r, last.wait)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(got, expected, tolerance=1e-12):
    """Equal to `tolerance`, relative to the largest entry (a sum over time cancels in single entries)."""
    got, expected = (torch.as_tensor(v, dtype=torch.float64).detach() for v in (got, expected))
    assert got.shape == expected.shape
    assert got.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * max(1.0, float(expected.abs().max())))


def mutant(module, old, new):
    """A copy of a module in which one piece of its text was replaced: a comparison that accepts it tests nothing."""
    text = Path(module.__file__).read_text()
    assert old in text, f"{module.__name__} no longer contains {old!r}"
    copy = types.ModuleType(module.__name__ + "_mutant")
    exec(compile(text.replace(old, new), module.__file__, "exec"), copy.__dict__)
    return copy


def uncompiled(old="", new=""):
    """The CPU backend as plain Python, with one piece of its text replaced (compiled, numba's cache could hide it)."""
    modules = {"passes": passes, "lanes": lanes, "lif_cpu": lif_cpu, "cpu": cpu}
    texts = {name: Path(module.__file__).read_text() for name, module in modules.items()}
    assert not old or any(old in text for text in texts.values()), f"the CPU backend no longer contains {old!r}"
    copies = {}
    for name, text in texts.items():
        copy = copies[name] = types.ModuleType(modules[name].__name__ + "_uncompiled")
        copy.njit = copy.overload = copy.intrinsic = lambda *_, **__: lambda function: function
        for imported in ("", ".extending"):
            text = re.sub(rf"from numba{imported} import (njit|overload|intrinsic)[^\n]*\n", "\n", text)  # lines stay
        text = text.replace(old, new) if old else text
        exec(compile(text, modules[name].__file__, "exec"), copy.__dict__)
        for used in modules.keys() & copy.__dict__.keys():
            setattr(copy, used, copies[used])
    return copies["cpu"]

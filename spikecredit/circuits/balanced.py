"""Two balanced networks of the literature as Brian2 networks in physical units."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from spikecredit.circuits.objects import brian2


@dataclass(frozen=True)
class BalancedCircuit:
    """A Brian2 network and its objects.

    Args:
        network: a `brian2.Network` of all that follows. neurons: the NeuronGroup "neurons", excitatory ones first.
        excitatory, inhibitory: its two subgroups. excite, inhibit: the Synapses "excite" and "inhibit", whose weights
            `w` are in volts. spikes: the SpikeMonitor "spikes" of all neurons.
    """

    network: Any
    neurons: Any
    excitatory: Any
    inhibitory: Any
    excite: Any
    inhibit: Any
    spikes: Any


def brunel(
    *,
    excitatory: int = 10_000,
    g: float = 5.0,
    drive: float = 2.0,
    connection: float = 0.1,
    weight: float = 0.1,
    seed: int = 0,
) -> BalancedCircuit:
    """The sparse network of excitatory and inhibitory leaky integrate-and-fire neurons of Brunel (2000), model A.

        dv/dt = -v / tau,   v > theta: v = V_r, refractory for tau_rp
        a spike adds J (excitatory) or -g J (inhibitory) to v of its targets, after D
        tau = 20 ms, theta = 20 mV, V_r = 10 mV, tau_rp = 2 ms, D = 1.5 ms, N_I = N_E / 4

    Every neuron has connection x excitatory inputs C_E from each other, as many from outside, which fire at
    drive x nu_thr with nu_thr = theta / (J C_E tau), and a quarter as many inhibitory ones. Those from outside are a
    PoissonInput. Connections and first potentials are drawn by numpy from the seed.

    Args:
        excitatory: neurons, a multiple of 4. g: inhibition over excitation. drive: nu_ext / nu_thr.
        weight: J in mV.
    Errors: ValueError, numbers outside these ranges; ImportError without brian2.
    Source: Brunel, N. (2000), Dynamics of sparsely connected networks of excitatory and inhibitory spiking neurons, J.
        Comput. Neurosci. 8: 183-208. Its figure 8: g = 3, drive 2 synchronous regular; 6, 4 fast and 4.5, 0.9 slow
        synchronous irregular; 5, 2 asynchronous irregular.
    """
    if excitatory < 4 or excitatory % 4:
        raise ValueError(f"excitatory is a multiple of 4, four for each inhibitory neuron, got {excitatory}")
    if not 0 < connection <= 1:
        raise ValueError(f"connection is a fraction above 0 and at most 1, got {connection}")
    for name, value in (("g", g), ("drive", drive), ("weight", weight)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    b2 = brian2()
    ms, mv = b2.ms, b2.mV
    inhibitory, inputs = excitatory // 4, round(connection * excitatory)
    tau, theta, j = 20 * ms, 20 * mv, weight * mv
    neurons = b2.NeuronGroup(
        excitatory + inhibitory,
        "dv/dt = -v / tau : volt (unless refractory)",
        threshold="v > theta",
        reset="v = V_r",
        refractory=2 * ms,
        method="exact",
        namespace={"tau": tau, "theta": theta, "V_r": 10 * mv},
        name="neurons",
    )
    random = np.random.default_rng(seed)
    neurons.v = random.uniform(0, 20, len(neurons)) * mv
    external = b2.PoissonInput(neurons, "v", inputs, drive * theta / (j * inputs * tau), weight=j)
    synapses = []
    for name, low, high, c, w in (
        ("excite", 0, excitatory, inputs, j),
        ("inhibit", excitatory, excitatory + inhibitory, round(connection * inhibitory), -g * j),
    ):
        sources = np.concatenate([low + random.choice(high - low, c, replace=False) for _ in range(len(neurons))])
        made = b2.Synapses(neurons, neurons, "w : volt (constant)", on_pre="v_post += w", delay=1.5 * ms, name=name)
        made.connect(i=sources, j=np.repeat(np.arange(len(neurons)), c))
        made.w = w
        synapses.append(made)
    return _together(b2, neurons, excitatory, *synapses, external)


def brunel_rate(
    *, excitatory: int = 10_000, g: float = 5.0, drive: float = 2.0, connection: float = 0.1, weight: float = 0.1
) -> float:
    """The stationary rate of `brunel`'s neurons in Hz, by mean-field theory.

        1 / nu = tau_rp + tau sqrt(pi) int_((V_r - mu) / sigma)^((theta - mu) / sigma) exp(u^2) (1 + erf(u)) du
        mu = C_E J tau (nu_ext + nu (1 - g / 4)),   sigma^2 = C_E J^2 tau (nu_ext + nu (1 + g^2 / 4))

    Arguments as in `brunel`. Solved for the lowest nu by bisection. Source: Brunel (2000), whose text was not at hand
    when this was written: the equations are from memory, and agree with simulations in the asynchronous regime.
    """
    c, j, tau, theta, v_r, tau_rp = connection * excitatory, weight, 0.02, 20.0, 10.0, 0.002
    external = drive * theta / (j * c * tau)

    def excess(nu: float) -> float:
        mu = c * j * tau * (external + nu * (1 - g / 4))
        sigma = np.sqrt(c * j * j * tau * (external + nu * (1 + g * g / 4)))
        low, high = (v_r - mu) / sigma, (theta - mu) / sigma
        u = np.linspace(low, high, 4001)
        # erfcx(-u) = exp(u^2) (1 + erf(u)), without the overflow of its factors
        integral = np.trapezoid(_scaled(u), u)
        return float(1 / (tau_rp + tau * np.sqrt(np.pi) * integral) - nu)

    below, above = 0.0, 1 / tau_rp
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if excess(middle) > 0 else (below, middle)
    return below


def cuba(*, neurons: int = 4000, seed: int = 0) -> BalancedCircuit:
    """The current-based network of Vogels & Abbott (2005), as benchmark 2 of Brette et al. (2007) fixes it.

        dv/dt = (g_e + g_i - (v - E_L)) / tau_m,   dg_e/dt = -g_e / tau_e,   dg_i/dt = -g_i / tau_i
        v > -50 mV: v = -60 mV, refractory for 5 ms; tau_m = 20 ms, tau_e = 5 ms, tau_i = 10 ms, E_L = -49 mV
        an excitatory spike adds 1.62 mV to g_e of its targets, an inhibitory one -9 mV to g_i, at once

    Four of five neurons are excitatory. Two neurons are connected with probability 80 / neurons, 2 % of 4000, so that
    a neuron has 80 inputs on average however many there are. Potentials start anywhere between reset and threshold.
    All is drawn by numpy from the seed.

    Args:
        neurons: at least 100, a multiple of 5.
    Errors: ValueError, another number of neurons; ImportError without brian2.
    Source: Vogels & Abbott (2005), J. Neurosci. 25: 10786; Brette et al. (2007), J. Comput. Neurosci. 23: 349; the
        numbers are those of Brian2's example CUBA.
    """
    if neurons < 100 or neurons % 5:
        raise ValueError(f"neurons is a multiple of 5 and at least 100, got {neurons}")
    b2 = brian2()
    ms, mv = b2.ms, b2.mV
    group = b2.NeuronGroup(
        neurons,
        """dv/dt = (g_e + g_i - (v - E_L)) / tau_m : volt (unless refractory)
           dg_e/dt = -g_e / tau_e : volt
           dg_i/dt = -g_i / tau_i : volt""",
        threshold="v > V_t",
        reset="v = V_r",
        refractory=5 * ms,
        method="exact",
        namespace={
            "tau_m": 20 * ms, "tau_e": 5 * ms, "tau_i": 10 * ms, "E_L": -49 * mv, "V_t": -50 * mv, "V_r": -60 * mv,
        },
        name="neurons",
    )  # fmt: skip
    random = np.random.default_rng(seed)
    group.v = random.uniform(-60, -50, neurons) * mv
    excitatory, synapses = neurons * 4 // 5, []
    connected = random.random((neurons, neurons)) < 80 / neurons
    for name, target, low, high, w in (
        ("excite", "g_e", 0, excitatory, 60 * 0.27 / 10),
        ("inhibit", "g_i", excitatory, neurons, -20 * 4.5 / 10),
    ):
        made = b2.Synapses(group, group, "w : volt (constant)", on_pre=f"{target}_post += w", name=name)
        i, j = np.nonzero(connected[low:high])
        made.connect(i=low + i, j=j)
        made.w = w * mv
        synapses.append(made)
    return _together(b2, group, excitatory, *synapses)


def irregularity(steps: np.ndarray, neurons: np.ndarray, least: int = 5) -> float:
    """Mean over neurons of the coefficient of variation of their intervals: 0 for a clock, 1 for a Poisson process.

    Args:
        steps, neurons: of every spike. least: only neurons with at least so many spikes; NaN if there are none.
    """
    found = []
    for neuron in np.unique(neurons):
        times = np.sort(steps[neurons == neuron])
        if len(times) >= least:
            intervals = np.diff(times)
            found.append(intervals.std() / intervals.mean())
    return float(np.mean(found)) if found else float("nan")


def _together(b2: Any, neurons: Any, excitatory: int, excite: Any, inhibit: Any, *more: Any) -> BalancedCircuit:
    spikes = b2.SpikeMonitor(neurons, name="spikes")
    network = b2.Network(neurons, excite, inhibit, spikes, *more)
    return BalancedCircuit(network, neurons, neurons[:excitatory], neurons[excitatory:], excite, inhibit, spikes)


def _scaled(u: np.ndarray) -> np.ndarray:
    """exp(u^2) (1 + erf(u))."""
    import torch

    return torch.special.erfcx(torch.from_numpy(-u)).numpy()

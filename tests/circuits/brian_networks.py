"""Small Brian2 networks, and what they and their torch copies do."""

import brian2 as b2
import numpy as np
import torch
from brian2 import ms

from spikecredit.circuits import ImportedCircuit

b2.prefs.codegen.target = "numpy"
b2.BrianLogger.log_level_error()
DT = 0.1 * ms

EQUATIONS = """
dv/dt = (ge + gi - v) / tau : 1 {flag}
dge/dt = -ge / (5*ms) : 1
dgi/dt = -gi / (10*ms) : 1
tau : second (constant)
"""


def generator(name: str, spikes: np.ndarray) -> b2.SpikeGeneratorGroup:
    """These spikes (T, N)."""
    b2.defaultclock.dt = DT
    steps, neurons = np.nonzero(spikes)
    return b2.SpikeGeneratorGroup(spikes.shape[1], neurons, steps * DT, name=name)


def random_network(
    seed: int, reset: str = "v -= 1", refractory=False, flag: str = "", steps: int = 120, grid: bool = False
) -> b2.Network:
    """30 neurons with two synaptic variables and their own time constants; input with 12 delays, recurrence with one
    delay within subgroups, recurrence without delay; a voltage monitor, to have something to compare."""
    b2.defaultclock.dt = DT
    rng = np.random.default_rng(seed)
    group = b2.NeuronGroup(
        30, EQUATIONS.format(flag=flag), threshold="v > 1", reset=reset, refractory=refractory, method="exact", name="G"
    )
    group.v, group.tau = rng.random(30), (5 + 10 * rng.random(30)) * ms
    source = generator("I", rng.random((steps, 20)) < 0.05)
    feed = b2.Synapses(source, group, "w : 1", on_pre="ge += w", name="S")
    near = b2.Synapses(group[:20], group[10:], "w : 1", on_pre="v_post += w", name="R", delay=1 * ms)
    inhibit = b2.Synapses(group, group, "w : 1", on_pre="gi -= w*0.7", name="Q")
    for synapses, n, m, p, scale in ((feed, 20, 30, 0.5, 2.0), (near, 20, 20, 0.3, 0.5), (inhibit, 30, 30, 0.3, 0.3)):
        i, j = np.nonzero(rng.random((n, m)) < p)
        synapses.connect(i=i, j=j)
        w = scale * rng.random(len(i))
        synapses.w = np.round(w * 2.0**30) / 2.0**30 if grid else w
    feed.delay = rng.integers(0, 12, len(feed)) * DT
    monitors = (
        b2.SpikeMonitor(group, name="spikes"),
        b2.StateMonitor(group, ["v", "ge", "gi"], record=True, name="states"),
    )
    return b2.Network(group, source, feed, near, inhibit, *monitors)


def spikes_of(monitor, steps: int) -> np.ndarray:
    """(T, N) of a SpikeMonitor."""
    found = np.zeros((steps, len(monitor.source)), bool)
    found[np.rint(np.asarray(monitor.t / b2.defaultclock.dt)).astype(int), np.asarray(monitor.i)] = True
    return found


def same(
    network: b2.Network, circuit: ImportedCircuit, steps: int, group: str = "G", variables=("v",), inputs=None
) -> int:
    """Run both, and check that every spike and every bit is the same. Returns the number of spikes."""
    with torch.no_grad():
        ours = circuit(steps, inputs, record=[f"{group}.{name}" for name in variables])
    network.run(steps * b2.defaultclock.dt)
    theirs = spikes_of(network["spikes"], steps)
    np.testing.assert_array_equal(ours.spikes[group][:, 0].numpy().astype(bool), theirs)
    for name in variables:
        expected = getattr(network["states"], f"{name}_").T
        np.testing.assert_array_equal(ours.variables[f"{group}.{name}"][:, 0].numpy(), expected)
    return int(theirs.sum())

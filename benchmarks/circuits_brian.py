"""Brian2's own examples with integrate-and-fire neurons, in Brian2 and imported; Brunel's regimes against theory.

    python -m benchmarks.circuits_brian

Writes results/circuits-brian.json. The examples are written anew; their numbers are those of Brian2 2.9.0's
documentation (introduction/tutorials, examples IF_curve_LIF, CUBA, synapses/STDP).
"""

import time
from typing import Any

import brian2 as b2
import numpy as np
import torch
from brian2 import Hz, ms, mV

from benchmarks.common import write
from spikecredit.circuits import ImportedCircuit, balanced, from_brian
from spikecredit.circuits.errors import CircuitError

CHUNK = 1000
"""Steps in one call, so that recorded potentials do not fill the memory."""


def setup() -> None:
    b2.prefs.codegen.target = "numpy"
    b2.BrianLogger.log_level_error()
    b2.defaultclock.dt = 0.1 * ms
    b2.seed(0)


def raster(monitor: Any, steps: int) -> np.ndarray:
    found = np.zeros((steps, len(monitor.source)), bool)
    found[np.rint(np.asarray(monitor.t / b2.defaultclock.dt)).astype(int), np.asarray(monitor.i)] = True
    return found


def compared(name: str, network: b2.Network, group: str, variables: list[str], steps: int) -> dict[str, Any]:
    """Both simulations: every spike, and every bit of the variables at the end of each chunk of steps."""
    circuit = from_brian(network)
    ours, ours_seconds, bits = [], 0.0, 0
    state, brian_seconds = circuit.initial(), 0.0
    for low in range(0, steps, CHUNK):
        n = min(CHUNK, steps - low)
        start = time.perf_counter()
        with torch.no_grad():
            recording, state = circuit.stream(n, state=state)
        ours_seconds += time.perf_counter() - start
        ours.append(recording.spikes[group][:, 0].numpy().astype(bool))
        start = time.perf_counter()
        network.run(n * b2.defaultclock.dt)
        brian_seconds += time.perf_counter() - start
        for variable in variables:
            theirs = np.asarray(network[group].variables[variable].get_value())
            bits += int((theirs != state.variables[f"{group}.{variable}"][0].numpy()).sum())
    differ = np.concatenate(ours) != raster(network["spikes"], steps)
    return {
        "name": name, "neurons": len(network[group]), "synapses": sum(len(e[0]) for e in circuit.plan.ends.values()),
        "steps": steps, "spikes": int(np.concatenate(ours).sum()), "differing_spikes": int(differ.sum()),
        "potentials": len(network[group]) * len(variables) * -(-steps // CHUNK), "differing_potentials": bits,
        "torch_seconds": ours_seconds, "brian_seconds": brian_seconds,
    }  # fmt: skip


def curve(neurons: int = 1000) -> b2.Network:
    """The f-I curve of a leaky integrate-and-fire neuron: a constant drive up to twice the threshold."""
    group = b2.NeuronGroup(
        neurons, "dv/dt = (drive - v) / tau : volt (unless refractory)\ndrive : volt", threshold="v > 10*mV",
        reset="v = 0*mV", refractory=5 * ms, method="exact", namespace={"tau": 10 * ms}, name="neurons",
    )  # fmt: skip
    group.drive = np.arange(neurons) / (neurons - 1) * 20 * mV
    return b2.Network(group, b2.SpikeMonitor(group, name="spikes"))


def curve_error(network: b2.Network, seconds: float) -> float:
    """The largest distance, in spikes, between a count and seconds / (t_ref + tau ln(drive / (drive - theta)))."""
    drive = np.asarray(network["neurons"].drive_) * 1000
    above = drive > 10 + 1e-9
    rate = 1 / (0.005 + 0.01 * np.log(drive[above] / (drive[above] - 10)))
    return float(np.abs(np.asarray(network["spikes"].count)[above] - rate * seconds).max())


PLASTIC = """w : 1
dx/dt = -x / (20*ms) : 1 (event-driven)
dy/dt = -y / (20*ms) : 1 (event-driven)"""


def stdp(learn: bool, spikes: Any, w: np.ndarray) -> b2.Network:
    """One neuron with excitatory conductances and 1000 Poisson inputs at 15 Hz; spikes (times, neurons) or a rate."""
    neuron = b2.NeuronGroup(
        1, "dv/dt = (ge*(E_e - v) + E_l - v) / tau_m : volt\ndge/dt = -ge / tau_e : 1", threshold="v > v_t",
        reset="v = v_r", method="euler", name="neuron",
        namespace={"E_e": 0 * mV, "E_l": -74 * mV, "v_t": -54 * mV, "v_r": -60 * mV, "tau_m": 10 * ms, "tau_e": 5 * ms},
    )  # fmt: skip
    neuron.v = -60 * mV
    if learn:
        source = b2.PoissonGroup(len(w), rates=spikes, name="input")
        g_max = 0.01
        made = b2.Synapses(
            source, neuron, PLASTIC, name="synapses", method="exact",
            on_pre="ge += w; x += a_pre; w = clip(w + y, 0, g_max)",
            on_post="y += a_post; w = clip(w + x, 0, g_max)",
            namespace={"a_pre": 0.01 * g_max, "a_post": -0.01 * 1.05 * g_max, "g_max": g_max},
        )  # fmt: skip
    else:
        source = b2.SpikeGeneratorGroup(len(w), *reversed(spikes), name="input")
        made = b2.Synapses(source, neuron, "w : 1", on_pre="ge += w", name="synapses")
    made.connect()
    made.w = w
    return b2.Network(
        neuron, source, made, b2.SpikeMonitor(neuron, name="spikes"), b2.SpikeMonitor(source, name="heard")
    )


def stdp_rows(seconds: float, inputs: int = 1000) -> tuple[list[dict[str, Any]], str]:
    """The example learns in Brian2; its weights before and after are then run in both, on the input of the first."""
    w = 0.01 * np.random.default_rng(0).random(inputs)
    learning = stdp(True, 15 * Hz, w)
    try:
        from_brian(learning)
        raise AssertionError("synapses that learn must be refused")
    except CircuitError as error:
        refused = str(error)
    learning.run(seconds * b2.second)
    heard = learning["heard"]
    last = min(seconds, 1.0)
    spikes = (
        np.asarray(heard.t)[heard.t / b2.second < last] * b2.second,
        np.asarray(heard.i)[heard.t / b2.second < last],
    )
    steps = round(last / 1e-4)
    rows = [
        compared(f"STDP, weights {when} learning", stdp(False, spikes, weights), "neuron", ["v", "ge"], steps)
        for when, weights in (("before", w), ("after", np.asarray(learning["synapses"].w)))
    ]
    return rows, refused


def chaos(circuit: ImportedCircuit, moves: tuple[float, ...], steps: int) -> list[dict[str, Any]]:
    """CUBA, with all potentials moved by some volts at the beginning, 0: by one unit in the last place."""
    found: list[dict[str, Any]] = []
    with torch.no_grad():
        kept = circuit(steps).spikes["neurons"][:, 0]
        for move in moves:
            state = circuit.initial()
            v = state.variables["neurons.v"]
            v.copy_(v + move if move else torch.nextafter(v, torch.zeros_like(v)))
            spikes = circuit.stream(steps, state=state)[0].spikes["neurons"][:, 0]
            differ = (spikes != kept).sum(1)
            first = differ.nonzero().flatten()
            late = differ[-steps // 3 :].sum() / (spikes[-steps // 3 :].sum() + kept[-steps // 3 :].sum())
            found.append({"move": move, "first": int(first[0]) if len(first) else None, "share": float(late)})
    return found


def regime(name: str, g: float, drive: float, milliseconds: int, scale: dict[str, Any]) -> dict[str, Any]:
    """One of Brunel's regimes in Brian2: rate, irregularity and synchrony after the first 100 ms."""
    circuit = balanced.brunel(g=g, drive=drive, **scale)
    b2.seed(0)
    circuit.network.run(milliseconds * ms)
    steps = np.rint(np.asarray(circuit.spikes.t / b2.defaultclock.dt)).astype(int)
    late = steps >= 1000
    counts = np.bincount((steps[late] - 1000) // 10, minlength=milliseconds - 100)
    neurons = len(circuit.neurons)
    return {
        "name": name, "g": g, "drive": drive, "neurons": neurons,
        "rate": float(late.sum() / neurons / (milliseconds / 1000 - 0.1)),
        "theory": balanced.brunel_rate(g=g, drive=drive, **scale),
        "irregularity": balanced.irregularity(steps[late], np.asarray(circuit.spikes.i)[late], least=4),
        "synchrony": float(counts.var() / counts.mean()), "milliseconds": milliseconds - 100,
    }  # fmt: skip


REGIMES = (
    ("synchronous regular", 3.0, 2.0, 400),
    ("synchronous irregular, fast", 6.0, 4.0, 400),
    ("asynchronous irregular", 5.0, 2.0, 400),
    ("synchronous irregular, slow", 4.5, 0.9, 1500),
)


def main() -> None:
    torch.set_num_threads(1)
    setup()
    network = curve()
    rows = [compared("IF curve", network, "neurons", ["v"], 10_000)]
    error = curve_error(network, 1.0)
    network = balanced.cuba().network
    moved = chaos(from_brian(network), (0.0, 1e-12, 1e-9, 1e-6), 3000)
    rows.append(compared("CUBA", network, "neurons", ["v", "g_e", "g_i"], 10_000))
    more, refused = stdp_rows(10.0)
    regimes = [regime(*each, {}) for each in REGIMES]
    write(
        "circuits-brian", "python -m benchmarks.circuits_brian", torch.device("cpu"), rows=rows + more, chaos=moved,
        chaos_steps=3000, curve_error=error, refused=refused, regimes=regimes, brian2=b2.__version__,
    )  # fmt: skip


if __name__ == "__main__":
    main()

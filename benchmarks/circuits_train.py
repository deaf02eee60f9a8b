"""Train a Brian2 circuit: import, surrogate gradients under Dale's law, write the weights back, simulate in Brian2.

    python -m benchmarks.circuits_train [--iterations 150]

A recurrent circuit of 80 excitatory and 20 inhibitory neurons, in millivolts, must tell a spike pattern from the same
pattern backwards: only the order in time differs. Neurons 0 to 9 shall fire for one, 10 to 19 for the other. Writes
results/circuits-train.json.
"""

import argparse
import time

import brian2 as b2
import numpy as np
import torch
from brian2 import ms, mV
from torch.nn import functional as F

from benchmarks.circuits_brian import raster
from benchmarks.circuits_report import READOUT
from benchmarks.common import write
from spikecredit.circuits import ImportedCircuit, from_brian
from spikecredit.seeds import stream

STEPS, INPUTS, BATCH, TEST = 200, 40, 32, 200
DT = 0.5 * ms
SEED = 0
"""Of the streams "circuit", "pattern", "training" and "test"."""


def random(name: str) -> np.random.Generator:
    return np.random.default_rng(stream(SEED, "circuits_train", name))


def circuit() -> b2.Network:
    """The circuit with random weights, as somebody would write it in Brian2."""
    b2.defaultclock.dt = DT
    rng = random("circuit")
    neurons = b2.NeuronGroup(
        100,
        """dv/dt = (g_e + g_i + E_L - v) / (20*ms) : volt (unless refractory)
           dg_e/dt = -g_e / (5*ms) : volt
           dg_i/dt = -g_i / (10*ms) : volt""",
        threshold="v > -50*mV", reset="v = -60*mV", refractory=2 * ms, method="exact", name="neurons",
        namespace={"E_L": -60 * mV},
    )  # fmt: skip
    neurons.v = -60 * mV
    source = b2.SpikeGeneratorGroup(INPUTS, [], [] * ms, name="input")
    groups = {"input": source, "excitatory": neurons[:80], "inhibitory": neurons[80:]}
    made = []
    for name, pre, target, p, w in (
        ("feed", "input", "g_e", 0.5, 5.0), ("excite", "excitatory", "g_e", 0.2, 1.5),
        ("inhibit", "inhibitory", "g_i", 0.5, -3.0),
    ):  # fmt: skip
        synapses = b2.Synapses(groups[pre], neurons, "w : volt", on_pre=f"{target}_post += w", delay=1 * ms, name=name)
        i, j = np.nonzero(rng.random((len(groups[pre]), 100)) < p)
        synapses.connect(i=i, j=j)
        synapses.w = w * rng.gamma(4.0, 0.25, len(i)) * mV
        made.append(synapses)
    return b2.Network(neurons, source, *made, b2.SpikeMonitor(neurons, name="spikes"))


def samples(name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Spikes (T, count, inputs) and classes: 120 spikes forwards or backwards, each moved by 2 ms, every tenth lost."""
    pattern = random("pattern")
    times, channels = pattern.integers(10, STEPS - 10, 120), pattern.integers(0, INPUTS, 120)
    rng = random(name)
    labels = rng.integers(0, 2, count)
    x = np.zeros((STEPS, count, INPUTS))
    for k in range(count):
        moved = np.clip(
            np.rint((times if labels[k] == 0 else STEPS - 1 - times) + 4 * rng.normal(size=120)), 0, STEPS - 1
        )
        kept = rng.random(120) > 0.1
        x[moved[kept].astype(int), k, channels[kept]] = 1
    return torch.tensor(x), torch.tensor(labels)


def evidence(spikes: torch.Tensor) -> torch.Tensor:
    """(B, 2): spikes of each readout neuron in the second half, on average."""
    late = spikes[STEPS // 2 :].sum(0)
    return torch.stack([late[:, :READOUT].mean(1), late[:, READOUT : 2 * READOUT].mean(1)], 1)


def tested(module: ImportedCircuit) -> tuple[float, torch.Tensor]:
    """Accuracy on samples that training never saw, and all spikes."""
    x, labels = samples("test", TEST)
    with torch.no_grad():
        spikes = module(STEPS, {"input": x}).spikes["neurons"]
    return float((evidence(spikes).argmax(1) == labels).double().mean()), spikes


def train(module: ImportedCircuit, iterations: int) -> list[dict[str, float]]:
    """Adam on all weights, projected on their signs after every step."""
    x, labels = samples("training", BATCH * iterations)
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-5)
    found = []
    for k in range(iterations):
        batch = slice(BATCH * k, BATCH * (k + 1))
        optimizer.zero_grad()
        spikes = module(STEPS, {"input": x[:, batch]}).spikes["neurons"]
        loss = F.cross_entropy(2 * evidence(spikes), labels[batch])
        rate = spikes.mean() / 0.0005
        (loss + 1e-3 * (rate - 15).clamp(min=0) ** 2).backward()
        optimizer.step()
        module.project_signs()
        right = (evidence(spikes).argmax(1) == labels[batch]).double().mean()
        found.append({"loss": loss.item(), "accuracy": right.item(), "rate": rate.item()})
        if k % 10 == 0:
            print(k, found[-1], flush=True)
    return found


def in_brian(network: b2.Network, count: int) -> np.ndarray:
    """Spikes (T, count, N) of the first test samples, simulated by Brian2."""
    x, _ = samples("test", TEST)
    network.store()
    found = []
    for k in range(count):
        network.restore()
        steps, channels = x[:, k].numpy().nonzero()
        network["input"].set_spikes(channels, steps * DT)
        network.run(STEPS * DT)
        found.append(raster(network["spikes"], STEPS))
    network.restore()
    return np.stack(found, 1)


def shown(spikes: np.ndarray) -> dict[str, list[int]]:
    """Steps and neurons of a raster (T, N)."""
    steps, neurons = spikes.nonzero()
    return {"steps": steps.tolist(), "neurons": neurons.tolist()}


def signs(module: ImportedCircuit) -> dict[str, int]:
    """Weights of the wrong sign, for each kind of synapse."""
    return {
        name: int(((-1 if name == "inhibit" else 1) * module.weight(name, "w") < 0).sum())
        for name in module.plan.weights
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=150)
    given = parser.parse_args()
    torch.set_num_threads(1)
    b2.prefs.codegen.target = "numpy"
    b2.BrianLogger.log_level_error()
    network = circuit()
    module = from_brian(network)
    _, labels = samples("test", TEST)
    first = [int((labels == c).nonzero()[0]) for c in (0, 1)]  # one of each class
    count, record, rasters = 20, {}, {}
    for when in ("before", "after"):
        if when == "after":
            start = time.perf_counter()
            history = train(module, given.iterations)
            record |= {"history": history, "seconds": time.perf_counter() - start, "wrong_signs": signs(module)}
            module.write_back(network)
        accuracy, spikes = tested(module)
        theirs = in_brian(network, count)
        ours = spikes[:, :count].numpy().astype(bool)
        right = evidence(torch.tensor(theirs, dtype=torch.float64)).argmax(1) == labels[:count]
        record[when] = {
            "accuracy": accuracy, "brian_accuracy": float(right.double().mean()), "spikes": int(theirs.sum()),
            "differing": int((ours != theirs).sum()), "rate": float(spikes.mean() / 0.0005),
        }  # fmt: skip
        rasters[when] = [shown(theirs[:, k]) for k in first]
        print(when, record[when], flush=True)
    write(
        "circuits-train", "python -m benchmarks.circuits_train", torch.device("cpu"), **record, rasters=rasters,
        seed=SEED, test=TEST, brian_samples=count, iterations=given.iterations, batch=BATCH,
    )  # fmt: skip


if __name__ == "__main__":
    main()

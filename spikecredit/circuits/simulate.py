"""A trained network in a simulator, on images: accuracy there and in torch, and every spike compared."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikecredit.circuits.brian import to_brian
from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.objects import brian2
from spikecredit.circuits.population import Activity
from spikecredit.circuits.report import Difference
from spikecredit.losses import Loss
from spikecredit.network import Network
from spikecredit.rules.rule import Rule

MOST_SYNAPSES = 4_000_000
"""Samples run side by side, as copies of the circuit, while there are no more synapses than this: about 150 MB."""


@dataclass(frozen=True)
class Simulation:
    """A simulator and torch on the same samples.

    Args:
        samples, steps: of the input. neurons, synapses: of one copy of the circuit.
        accuracy: fractions, in "brian2", in torch's float64 ("torch") and of the network as it was given ("network").
        differing_spikes, differing_potentials: between Brian2 and torch, by population.
        changed: by population, what the circuit changes in the network itself; see `Circuit.report`.
        seconds: per sample, for "brian2" (build: making objects and synapses; run), the same circuit in torch, and the
            network's own forward pass.
        circuit: what ran. first: what Brian2 recorded of the first sample.
    """

    samples: int
    steps: int
    neurons: int
    synapses: int
    accuracy: dict[str, float]
    differing_spikes: dict[str, int]
    differing_potentials: dict[str, int]
    changed: dict[str, Difference]
    seconds: dict[str, float]
    circuit: Circuit
    first: Activity

    @property
    def exact(self) -> bool:
        """Whether all spikes and all potentials are equal."""
        return not any(self.differing_spikes.values()) and not any(self.differing_potentials.values())

    def record(self) -> dict[str, Any]:
        """The numbers, for a JSON file."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("circuit", "first")}
        return {**found, "changed": {name: asdict(each) for name, each in self.changed.items()}}

    def __str__(self) -> str:
        a, s, spikes = self.accuracy, self.seconds, sum(d.spikes for d in self.changed.values())
        near = min((d.distance, name) for name, d in self.changed.items())
        by_grid, by_precision = (
            sum(getattr(d, f"by_{w}") for d in self.changed.values()) for w in ("grid", "precision")
        )
        return "\n".join(
            [
                f"circuit: {self.neurons} neurons, {self.synapses} synapses, {self.steps} steps per image",
                f"accuracy: {a['brian2']:.2%} in Brian2, {a['torch']:.2%} in torch, {a['network']:.2%} of the network "
                "itself",
                f"differing spikes: {sum(self.differing_spikes.values())} of {spikes}",
                f"differing potentials: {sum(self.differing_potentials.values())}",
                f"nearest decision: {near[0]:.1e} from the threshold ({near[1]})",
                f"spikes that differ from the network itself: {by_precision} (float64 and the grid), {by_grid} by the "
                "grid alone",
                f"time per image: {s['build'] + s['run']:.3g} s in Brian2 ({s['run']:.3g} s of it running), "
                f"{s['torch']:.3g} s for the circuit in torch, {s['network']:.3g} s for the network",
            ]
        )


def of_trainer(trainer: Any, images: Tensor, labels: Tensor, batch: int) -> Simulation:
    """`simulate` for a trained run (a `Trainer`), its images encoded as evaluation encodes the test split, by `batch`.

    Raises:
        ValueError: a network that no circuit computes, or a rule that reads the output in another way.
    """
    rule = trainer.experiment.rule
    if type(rule).predict is not Rule.predict:
        raise ValueError(
            f"under {type(rule).__name__} the network's answer is the state it settles to, not a forward pass that a "
            "circuit could run: train it with rule: bptt"
        )
    trainer.net.eval()
    parts = [trainer.encode(images[at : at + batch], "test", k) for k, at in enumerate(range(0, len(images), batch))]
    x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return simulate(trainer.net, x, labels, trainer.experiment.loss, trainer.forward)


def write(found: Simulation, folder: Path, image: Tensor | None = None) -> None:
    """Write simulation.json, raster.png and voltages.png; image (C, H, W): the first sample as it was shown."""
    from spikecredit.circuits import plots

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "simulation.json").write_text(json.dumps(found.record(), indent=1) + "\n")
    sample = None if image is None else image.numpy()
    plots.raster(found.circuit, found.first, sample).savefig(folder / "raster.png", dpi=110)
    plots.voltages(found.circuit, found.first).savefig(folder / "voltages.png", dpi=110)


@torch.no_grad()
def simulate(
    net: Network,
    x: Tensor,
    labels: Tensor,
    loss: Loss,
    forward: Callable[[Tensor], Tensor] | None = None,
    most_synapses: int = MOST_SYNAPSES,
) -> Simulation:
    """Run a network's circuit in Brian2 and in torch on the same samples, and compare them bit for bit.

    Args:
        net: the network, in evaluation mode. x: (T, B, *in). labels: (B,). loss: its scores decide the class.
        forward: what runs the network, where it is not `net` itself (under autocast).
        most_synapses: Brian2 runs as many samples side by side as make no more synapses than this, at least one.
    Raises:
        ValueError: a network that no circuit computes; see `Circuit.of`.
    """
    circuit = Circuit.of(net, tuple(x.shape[2:]))
    brian2()
    (forward or net)(x[:, :1])  # kernels and Brian2 are loaded before anything is timed
    before = time.perf_counter()
    outputs = {"network": (forward or net)(x)}
    seconds = {"network": time.perf_counter() - before}
    before = time.perf_counter()
    here = circuit.run(x)
    seconds["torch"] = time.perf_counter() - before
    spikes = dict.fromkeys(here.spikes, 0)
    potentials = dict.fromkeys(here.potentials, 0)
    injected = circuit.injected(circuit.sequence(x)[0]) is not None
    synapses = sum(len(p.weight) for p in circuit.projections if p.source is not None or not injected)
    copies = max(1, most_synapses // max(1, synapses))
    seconds["build"] = seconds["run"] = 0.0
    found: list[Tensor] = []
    first: Activity | None = None
    for start in range(0, x.shape[1], copies):
        part = slice(start, start + copies)
        before = time.perf_counter()
        export = to_brian(circuit, x[:, part])
        _ = export.network
        built = time.perf_counter()
        there = export.run()
        seconds["build"] += built - before
        seconds["run"] += time.perf_counter() - built
        wanted = here.of_samples(part)
        for total, found_here in (
            (spikes, wanted.differing_spikes(there)),
            (potentials, wanted.differing_potentials(there)),
        ):
            for name, count in found_here.items():
                total[name] += count
        found.append(there.output)
        first = first or there.of_samples(0)
    outputs |= {"torch": here.output, "brian2": torch.cat(found, 1)}
    assert first is not None
    return Simulation(
        samples=x.shape[1],
        steps=len(x),
        neurons=sum(p.size for p in circuit.populations),
        synapses=synapses,
        accuracy={name: _accuracy(loss, out, labels) for name, out in outputs.items()},
        differing_spikes=spikes,
        differing_potentials=potentials,
        changed=circuit.report(net, x).populations,
        seconds={name: value / x.shape[1] for name, value in seconds.items()},
        circuit=circuit,
        first=first,
    )


def _accuracy(loss: Loss, out: Tensor, labels: Tensor) -> float:
    return float((loss.scores(out).argmax(1) == labels).double().mean())

"""What a circuit changes in a network: rounding to the grid, and float64 in place of float32."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.reading import Places, read_network
from spikecredit.network import Network, run_layer


@dataclass(frozen=True)
class Difference:
    """One population: spikes in the circuit, and how many differ.

    Args:
        spikes: in the circuit. entries: T B n, how many there could be.
        by_grid: entries that differ from the circuit without rounding to the grid.
        by_precision: entries that differ from the network itself, in the precision that it has (float32).
        distance: the smallest |u - threshold| over all decisions; how near a rounding error would have to be.
    """

    spikes: int
    entries: int
    by_grid: int
    by_precision: int
    distance: float


@dataclass(frozen=True)
class Report:
    """The differences by population that spikes; `print` it for a table."""

    populations: dict[str, Difference]

    def __str__(self) -> str:
        rows = [("population", "spikes", "changed by grid", "by float64", "nearest decision")]
        for name, d in self.populations.items():
            rows.append((name, f"{d.spikes} of {d.entries}", str(d.by_grid), str(d.by_precision), f"{d.distance:.1e}"))
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        return "\n".join(
            "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )


@torch.no_grad()
def compare(circuit: Circuit, net: Network, x: Tensor) -> Report:
    """See `Circuit.report`."""
    if x.ndim != len(circuit.input_shape) + 2:
        raise ValueError(f"report takes x of shape (T, B, *{circuit.input_shape}), got {tuple(x.shape)}")
    free, places = read_network(net, circuit.input_shape)
    if [p.name for p in free.populations] != [p.name for p in circuit.populations]:
        raise ValueError(
            "this circuit was not made from this network: write Circuit.of(net, input_shape).report(net, x)"
        )
    activity, distances = circuit._run(x)
    ungridded = free.run(x).spikes
    original = _spikes_of(net, x, free, places)
    found = {}
    for name, spikes in activity.spikes.items():
        found[name] = Difference(
            int(spikes.sum()),
            spikes.numel(),
            int((spikes != ungridded[name]).sum()),
            int((spikes != original[name]).sum()),
            distances[name],
        )
    return Report(found)


def _spikes_of(net: Network, x: Tensor, circuit: Circuit, places: Places) -> dict[str, Tensor]:
    """The spikes (T, B, n) of the network itself, by the names of its circuit's populations."""
    net = copy.deepcopy(net).eval()
    x = x.to(next((p.dtype for p in net.parameters()), x.dtype))
    found = {}
    for index, layer in enumerate(net.layers):
        x = run_layer(layer, x)
        for part in places.get(index, ()):
            found[circuit.name(part.population)] = x.flatten(2).cpu()[..., part.positions] > 0
    return found

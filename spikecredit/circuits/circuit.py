"""A network as a circuit: populations of neurons in a row, and sparse synapses between them, in float64."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.population import DECAYS, Activity, Part, Population, Projection, advance, distance
from spikecredit.network import Network
from spikecredit.neurons.spiking import SpikingNeuron

if TYPE_CHECKING:
    from spikecredit.circuits.report import Report


@dataclass(frozen=True, eq=False)
class Circuit:
    """Populations in a row and the synapses between them: what torch and a simulator can run alike.

    Args:
        input_shape: (*in) of one step of the input.
        populations, projections: see there.
        output: which neurons are the network's output, and output_shape, theirs without time and batch.
        spikes_only: whether the input must be spikes, since a pool takes their logical OR.
    Raises:
        ValueError: names that are not unique, neurons with different time steps, or a projection without delay to a
            population that is not later in the row.
    """

    input_shape: tuple[int, ...]
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    output: tuple[Part, ...]
    output_shape: tuple[int, ...]
    spikes_only: bool = False
    dt: float = field(init=False)

    def __post_init__(self) -> None:
        names = [population.name for population in self.populations]
        if not names:
            raise ValueError("a circuit has at least one population; the network has no neurons")
        if len({*names, "input"}) <= len(names):
            raise ValueError(f"populations have names of their own, and none is called input; got {', '.join(names)}")
        steps = {getattr(part, name).dt for p in self.populations for part in [p.neuron] for name in DECAYS if
                 hasattr(part, name)}  # fmt: skip
        if len(steps) > 1:
            raise ValueError(f"all neurons of a circuit have one time step dt, got {sorted(steps)} ms")
        object.__setattr__(self, "dt", steps.pop())
        for p in self.projections:
            later = p.source is None or self.populations[p.source].level < self.populations[p.target].level
            if p.delay < 0 or (p.delay == 0 and not later):
                raise ValueError(
                    f"the projection from {self.name(p.source)} to {self.name(p.target)} has a delay of {p.delay} steps"
                    ": it needs at least 1, as its target does not come later in the row"
                )

    @classmethod
    def of(cls, net: Network, input_shape: tuple[int, ...], bits: int | None = 30) -> "Circuit":
        """The circuit of a network in evaluation mode.

        Between two populations the layers become synapses: dense and convolutional weights as they act (under their
        constraints and parametrisations), average pooling, batch normalisation with its running statistics, delays.
        Max pooling of spikes becomes a population that fires where one of its inputs does, in the same step.
        `EINeurons` become two populations.

        Args:
            net: the network; it is left as it is.
            input_shape: (*in) of one step of its input, such as (1, 28, 28).
            bits: weights and biases are rounded to multiples of 2^-bits after all folding, so that sums of spikes are
                exact in any order; None leaves them as they are.
        Raises:
            ValueError: a layer that no circuit has, or sums that would leave what float64 holds exactly.
        """
        from spikecredit.circuits.reading import read_network

        circuit, _ = read_network(net, input_shape)
        return circuit if bits is None else circuit.rounded(bits)

    def rounded(self, bits: int) -> "Circuit":
        """The circuit with weights and biases rounded to multiples of 2^-bits; synapses of weight 0 are left out.

        Raises:
            ValueError: a neuron's largest possible sum is not below 2^(52 - bits), so that it might not be exact.
        """
        if not isinstance(bits, int) or isinstance(bits, bool) or not 0 <= bits <= 52:
            raise ValueError(f"bits is a whole number from 0 to 52, or None for no rounding; got {bits!r}")
        projections = []
        populations = [replace(p, bias=_grid(p.bias, bits)) for p in self.populations]
        largest = [p.bias.abs() for p in populations]
        for p in self.projections:
            weight = _grid(p.weight, bits)
            kept = weight != 0
            p = replace(p, pre=p.pre[kept], post=p.post[kept], weight=weight[kept])
            largest[p.target] = largest[p.target].index_add(0, p.post, p.weight.abs())
            projections.append(p)
        for population, total in zip(populations, largest, strict=True):
            if not float(total.max()) < 2.0 ** (52 - bits):
                raise ValueError(
                    f"{population.name}: inputs may add up to {float(total.max()):.3g}, but on a grid of 2^-{bits} "
                    f"only sums below 2^{52 - bits} are exact in float64: write a smaller bits, or bits=None"
                )
        return replace(self, populations=tuple(populations), projections=tuple(projections))

    def name(self, index: int | None) -> str:
        """The name of a population; "input" for None."""
        return "input" if index is None else self.populations[index].name

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return math.prod(self.input_shape)

    def size(self, index: int | None) -> int:
        """The size of a population; the number of inputs for None."""
        return self.inputs if index is None else self.populations[index].size

    def sequence(self, x: Tensor) -> tuple[Tensor, bool]:
        """The input as (T, B, inputs) float64, and whether it was one sample without a batch."""
        given, single = tuple(x.shape), x.ndim == len(self.input_shape) + 1
        x = x[:, None] if single else x
        if x.ndim < 2 or x.shape[2:] != self.input_shape or not len(x):
            raise ValueError(
                f"the circuit takes (T, *{self.input_shape}) or (T, B, *{self.input_shape}) with T >= 1, got {given}"
            )
        x = x.detach().cpu().double()
        return x.flatten(2) if self.input_shape else x[..., None], single

    def injected(self, x: Tensor) -> dict[int, Tensor] | None:
        """The currents (T, B, size) that an input (T, B, inputs) causes, by population; None if it is spikes, 0 or 1.

        Summed synapse by synapse in the order of the inputs, so that no batch size and no library changes a bit. T is 1
        where the current is the same at every step.
        """
        if bool(((x == 0) | (x == 1)).all()):
            return None
        if self.spikes_only:
            raise ValueError(
                "the first pool takes the maximum of the input, which is a logical OR of spikes, but the input has "
                "values other than 0 and 1: put a layer of neurons before MaxPool2d, or take AvgPool2d"
            )
        still = len(x) == 1 or x.stride(0) == 0 or bool((x[1:] == x[:1]).all())
        found: dict[int, Tensor] = {}
        for p in self.projections:
            if p.source is not None:
                continue
            size, pre, post, weight = self.populations[p.target].size, *(v.numpy() for v in (p.pre, p.post, p.weight))
            rows = x[:1] if still and not p.delay else x
            flat = rows.flatten(0, 1).numpy()
            sums = np.stack([np.bincount(post, weight * row[pre], size) for row in flat])
            current = torch.from_numpy(sums).unflatten(0, rows.shape[:2])
            if p.delay:
                current = torch.cat([torch.zeros_like(current[: p.delay]), current])[: len(x)]
            before = found.get(p.target)
            found[p.target] = current if before is None else before + current
        return found

    @torch.no_grad()
    def run(self, x: Tensor) -> Activity:
        """Run in torch from rest, step by step with the neurons' own equations, in float64.

        Args:
            x: (T, B, *in), or (T, *in) for one sample; spikes, or graded values that act as currents.
        """
        return self._run(x)[0]

    @torch.no_grad()
    def distances(self, x: Tensor) -> dict[str, float]:
        """The smallest |u - threshold| of each population that spikes, over all decisions on x."""
        return self._run(x)[1]

    def _run(self, given: Tensor) -> tuple[Activity, dict[str, float]]:
        x, single = self.sequence(given)
        injected = self.injected(x)
        steps, samples = x.shape[:2]
        heard: dict[int | None, list[Tensor]] = {None: [] if injected is not None else list(x)}
        synapses = [
            (p, p.matrix(self.size(p.source), self.size(p.target)))
            for p in self.projections
            if p.source is not None or injected is None
        ]
        states: list[Any] = [None] * len(self.populations)
        potentials: list[list[Tensor]] = [[] for _ in self.populations]
        distances: dict[str, float] = {}
        for t in range(steps):
            for k, population in enumerate(self.populations):
                total = torch.zeros(population.size, samples, dtype=torch.float64)
                for p, matrix in synapses:
                    if p.target == k and t >= p.delay:
                        total += torch.sparse.mm(matrix, heard[p.source][t - p.delay].T)
                current = population.bias.expand(samples, -1)
                if injected is not None and k in injected:
                    current = current + injected[k][min(t, len(injected[k]) - 1)]
                before = states[k]
                s, u, states[k] = advance(population.neuron, total.T + current, before)
                heard.setdefault(k, []).append(s)
                potentials[k].append(u)
                if isinstance(population.neuron, SpikingNeuron):
                    near = distance(population.neuron, u, before)
                    distances[population.name] = min(near, distances.get(population.name, math.inf))
        spikes = {
            p.name: torch.stack(heard[k]) > 0
            for k, p in enumerate(self.populations)
            if isinstance(p.neuron, SpikingNeuron)
        }
        recorded = {p.name: torch.stack(potentials[k]) for k, p in enumerate(self.populations)}
        return self.activity(spikes, recorded, single), distances

    def activity(self, spikes: dict[str, Tensor], potentials: dict[str, Tensor], single: bool) -> Activity:
        """Spikes and potentials (T, B, n), with the network's output made from them."""
        shape = next(iter([*potentials.values(), *spikes.values()])).shape[:2]
        out = torch.zeros(*shape, sum(len(part.positions) for part in self.output), dtype=torch.float64)
        for part in self.output:
            name = self.name(part.population)
            out[..., part.positions] = spikes[name].double() if name in spikes else potentials[name]
        out = out.unflatten(-1, self.output_shape)
        if single:
            return Activity(spikes, potentials, out).of_samples(0)
        return Activity(spikes, potentials, out)

    def report(self, net: Network, x: Tensor) -> "Report":
        """What the circuit changes in a network: differing spikes by population, and how near decisions were.

        Args:
            net: the network that the circuit was made from. x: (T, B, *in).
        """
        from spikecredit.circuits.report import compare

        return compare(self, net, x)

    def __str__(self) -> str:
        lines = [f"input {self.input_shape}"]
        for k, population in enumerate(self.populations):
            lines.append(f"{population.name}: {population.size} x {type(population.neuron).__name__}")
            for p in self.projections:
                if p.target == k:
                    late = f", delay {p.delay}" if p.delay else ""
                    lines.append(f"    from {self.name(p.source)}: {len(p.weight)} synapses{late}")
        return "\n".join(lines)


def _grid(values: Tensor, bits: int) -> Tensor:
    return torch.round(values * 2.0**bits) / 2.0**bits

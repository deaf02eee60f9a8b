"""The parts of a circuit: populations with constants that no longer change, projections, and what a run gives."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spikecredit.circuits.matrices import sparse
from spikecredit.neurons import ALIF, LeakyReadout, Neuron
from spikecredit.neurons.decay import Factor
from spikecredit.neurons.spiking import SpikingNeuron

DECAYS = ("decay", "decay_synapse", "decay_adaptation")
"""The attributes of our neurons that are decay factors."""


def constant(neuron: Neuron, shape: tuple[int, ...]) -> Neuron:
    """A copy of a neuron for a flat population: decay factors in float64, one or one per neuron, no longer learned."""
    made: Any = copy.deepcopy(neuron).double()
    for name in DECAYS:
        if (decay := getattr(made, name, None)) is not None:
            beta = torch.as_tensor(decay(), dtype=torch.float64).detach()
            setattr(made, name, Factor(beta.expand(shape).flatten().clone() if beta.ndim else beta, decay.dt))
    made.learn_tau, made.shape, made.backend = False, None, "reference"
    return made.eval()


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons of one kind.

    Args:
        name: unique in the circuit, a name in Python's sense.
        neuron: their equations; decay factors of shape () or (size,), float64.
        bias: constant current, (size,) float64.
        level: place in the row, from 1; populations side by side, such as E and I cells, have the same.
    """

    name: str
    neuron: Neuron
    bias: Tensor
    level: int

    @property
    def size(self) -> int:
        return len(self.bias)


@dataclass(frozen=True, eq=False)
class Projection:
    """Synapses from one population to another: I_target[t] += w s_source[t - delay].

    Args:
        source: index of the population, None for the input. target: index of the population.
        pre, post: which neuron each synapse comes from and goes to, int64, sorted by (pre, post).
        weight: float64. delay: time steps; at least 1 where the target does not come later in the row.
    """

    source: int | None
    target: int
    pre: Tensor
    post: Tensor
    weight: Tensor
    delay: int = 0

    def matrix(self, sources: int, targets: int) -> Tensor:
        """The weights as a sparse (targets, sources) matrix."""
        return sparse(self.post, self.pre, self.weight, (targets, sources))


class Part(NamedTuple):
    """The outputs of one population within a layer's output: `positions` of the flat layer, by neuron."""

    population: int | None
    positions: Tensor


class Activity(NamedTuple):
    """What a run gives, (T, B, n) each, or (T, n) for an input (T, *in).

    Args:
        spikes: bool, by population that spikes. potentials: float64, by population.
        output: of the network, (T, B, *out): spikes as float64, or the readout's potentials.
    """

    spikes: Mapping[str, Tensor]
    potentials: Mapping[str, Tensor]
    output: Tensor

    def of_samples(self, samples: slice | int) -> "Activity":
        """Some samples of a batch; one of them without its dimension."""
        spikes, potentials = (
            {name: v[:, samples] for name, v in each.items()} for each in (self.spikes, self.potentials)
        )
        return Activity(spikes, potentials, self.output[:, samples])

    def differing_spikes(self, other: "Activity") -> dict[str, int]:
        """How many spikes one of two runs has and the other has not, by population."""
        return {name: int((fired != other.spikes[name]).sum()) for name, fired in self.spikes.items()}

    def differing_potentials(self, other: "Activity") -> dict[str, int]:
        """How many potentials are not equal to the last bit, by population."""
        return {name: int((u != other.potentials[name]).sum()) for name, u in self.potentials.items()}


def advance(neuron: Neuron, x: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
    """One step of a population: current (B, n) -> spikes (potentials of a readout), potentials (B, n), the state."""
    if isinstance(neuron, SpikingNeuron):
        s, u, state = neuron.run(x[None], state)
        return s[0], u[0], state
    if isinstance(neuron, LeakyReadout):
        out, state = neuron.stream(x[None], state)
        return out[0], out[0], state
    raise TypeError(f"a circuit has no neurons of the kind {type(neuron).__name__}")


def distance(neuron: SpikingNeuron, u: Tensor, before: Any) -> float:
    """The smallest |u - threshold| among the neurons (B, n) that decide, i.e. that are not refractory."""
    threshold: Tensor | float = neuron.threshold
    if isinstance(neuron, ALIF) and before is not None:
        threshold = before.a * neuron.adaptation + neuron.threshold
    wait = None if before is None else getattr(before, "membrane", before).wait
    near = (u - threshold).abs()
    return float((near if wait is None else near.masked_fill(wait > 0, math.inf)).min())

"""Millivolts and picoamperes: what a dimensionless circuit is in a physical membrane.

A membrane with capacitance C, time constant tau and a current I that is constant within a step obeys

    C dV/dt = -(C / tau) (V - V_rest) + I,   V[t] = V_rest + beta (V[t-1] - V_rest) + R I,   R = (1 - beta) tau / C

exactly. With V - V_rest = S u this is the dimensionless u[t] = beta u[t-1] + x[t], where S = (V_threshold - V_rest) /
theta volts are one unit of potential, and x = 1 is a current of S / R amperes for one step.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spikecredit.circuits.population import Population
from spikecredit.neurons.spiking import SpikingNeuron

MILLI, PICO = 1e-3, 1e-12


@dataclass(frozen=True)
class Scale:
    """One population in SI units: volts for one unit of potential, and ohms R and farads C of each neuron, (n,)."""

    volts: float
    ohms: Tensor
    farads: Tensor

    @property
    def amperes(self) -> Tensor:
        """What a dimensionless current of 1 is, (n,)."""
        return self.volts / self.ohms


@dataclass(frozen=True)
class Units:
    """The physical constants of all membranes of a circuit; time constants are the circuit's own.

    With these numbers as they are, weights in amperes are rounded anew: spikes are those of the dimensionless circuit
    unless a potential comes within some 1e-15 of its threshold. With `exact=True` both scales are powers of two, in
    volts and in amperes, and every bit of spikes and potentials is that of the dimensionless circuit.

    Args:
        v_rest, v_threshold: in mV. A population whose threshold is not 1 has another unit of potential.
        capacitance: of a neuron, in pF.
        exact: round one unit of potential to the nearest 2^k V (on a logarithmic scale), which moves the threshold, and
            one unit of current to the nearest 2^k A, which gives each neuron the capacitance that goes with it.
    Raises:
        ValueError: a threshold that is not above rest, or a capacitance that is not positive.
    """

    v_rest: float = -70.0
    v_threshold: float = -50.0
    capacitance: float = 200.0
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.v_threshold - self.v_rest < math.inf:
            raise ValueError(
                f"v_threshold must be above v_rest (both in mV), got v_threshold={self.v_threshold!r} and "
                f"v_rest={self.v_rest!r}"
            )
        if not 0 < self.capacitance < math.inf:
            raise ValueError(f"capacitance is positive, in pF, got {self.capacitance!r}")

    def scale(self, population: Population) -> Scale:
        """What the constants mean for one population.

        Neurons without memory (beta = 0, the logical OR of a pool) have no capacitance of their own: their R is that of
        a membrane whose time constant is one step.
        """
        neuron: Any = population.neuron
        theta = neuron.threshold if isinstance(neuron, SpikingNeuron) else 1.0
        volts = (self.v_threshold - self.v_rest) * MILLI / theta
        beta = torch.as_tensor(neuron.decay(), dtype=torch.float64).expand(population.size)
        dt = neuron.decay.dt * MILLI
        # (1 - beta) tau, the seconds over which a step's current charges; for beta = 0 as if tau were dt
        seconds = torch.where(beta > 0, (1 - beta) * -dt / beta.log(), dt * (1 - math.exp(-1)))
        farads = torch.full_like(beta, self.capacitance * PICO)
        ohms = seconds / farads
        if self.exact:
            volts = nearest_power(volts)
            amperes = nearest_power(float((volts / ohms).log().mean().exp()))
            ohms = torch.full_like(beta, volts / amperes)
            farads = seconds / ohms
        return Scale(volts, ohms, farads)


def nearest_power(value: float) -> float:
    """The power of two whose logarithm is nearest to that of value."""
    return 2.0 ** round(math.log2(value))

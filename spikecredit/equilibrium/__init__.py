"""Equilibrium networks: an energy made of a network's own layers, its relaxation, and gradients by contrast."""

from spikecredit.equilibrium.contrast import (
    ESTIMATORS,
    Centred,
    ContrastiveHebbian,
    Coupled,
    Estimator,
    Holomorphic,
    Node,
    OneSided,
    RandomSign,
    Settled,
    free_state,
    gradient,
    settle,
)
from spikecredit.equilibrium.cost import COSTS, Cost, CrossEntropy, SquaredError
from spikecredit.equilibrium.energy import ENERGIES, Energy, Hopfield, Potential, Predictive
from spikecredit.equilibrium.homeostasis import add_homeostasis, check_homeostasis, homeostasis
from spikecredit.equilibrium.relax import Nudge, Relaxation, Sweeps, residual
from spikecredit.equilibrium.sections import Phase, Section, State, sections
from spikecredit.equilibrium.spiking import SigmaDelta, Spikes
from spikecredit.equilibrium.stdp import PairSTDP, directed_change, emergent_window

RELAXATIONS: dict[str, type[Relaxation]] = {"sweeps": Sweeps, "sigma_delta": SigmaDelta, "spikes": Spikes}

__all__ = [
    "COSTS",
    "ENERGIES",
    "ESTIMATORS",
    "RELAXATIONS",
    "Centred",
    "ContrastiveHebbian",
    "Cost",
    "Coupled",
    "CrossEntropy",
    "Energy",
    "Estimator",
    "Holomorphic",
    "Hopfield",
    "Node",
    "Nudge",
    "OneSided",
    "PairSTDP",
    "Phase",
    "Potential",
    "Predictive",
    "RandomSign",
    "Relaxation",
    "Section",
    "Settled",
    "SigmaDelta",
    "Spikes",
    "SquaredError",
    "State",
    "Sweeps",
    "add_homeostasis",
    "check_homeostasis",
    "directed_change",
    "emergent_window",
    "free_state",
    "gradient",
    "homeostasis",
    "residual",
    "sections",
    "settle",
]

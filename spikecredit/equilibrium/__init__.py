"""Equilibrium networks: an energy made of a network's own layers, its relaxation, and gradients by contrast."""

from spikecredit.equilibrium.contrast import (
    ESTIMATORS,
    Centred,
    Estimator,
    Holomorphic,
    OneSided,
    RandomSign,
    free_state,
    gradient,
)
from spikecredit.equilibrium.cost import COSTS, Cost, CrossEntropy, SquaredError
from spikecredit.equilibrium.energy import Hopfield, Section, State, sections
from spikecredit.equilibrium.relax import Phase, Relaxation, relax, residual
from spikecredit.equilibrium.stdp import PairSTDP, directed_change, emergent_window

__all__ = [
    "COSTS",
    "ESTIMATORS",
    "Centred",
    "Cost",
    "CrossEntropy",
    "Estimator",
    "Holomorphic",
    "Hopfield",
    "OneSided",
    "PairSTDP",
    "Phase",
    "RandomSign",
    "Relaxation",
    "Section",
    "SquaredError",
    "State",
    "directed_change",
    "emergent_window",
    "free_state",
    "gradient",
    "relax",
    "residual",
    "sections",
]

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
    "Phase",
    "RandomSign",
    "Relaxation",
    "Section",
    "SquaredError",
    "State",
    "free_state",
    "gradient",
    "relax",
    "residual",
    "sections",
]

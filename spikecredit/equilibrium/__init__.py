"""Equilibrium networks: an energy made of a network's own layers, its relaxation, and gradients by contrast."""

from spikecredit.equilibrium.boltzmann import RBM, Divergence, Gibbs
from spikecredit.equilibrium.continual import continual_gradient
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
from spikecredit.equilibrium.errors import backpropagated_errors, delivered_errors, early_inference, true_errors
from spikecredit.equilibrium.homeostasis import add_homeostasis, check_homeostasis, homeostasis
from spikecredit.equilibrium.relax import Nudge, Relaxation, Sweeps, residual
from spikecredit.equilibrium.sections import Phase, Section, State, sections
from spikecredit.equilibrium.spiking import SigmaDelta, Spikes
from spikecredit.equilibrium.stdp import PairSTDP, directed_change, emergent_window, fitted_window

RELAXATIONS: dict[str, type[Relaxation]] = {
    "sweeps": Sweeps, "sigma_delta": SigmaDelta, "spikes": Spikes, "gibbs": Gibbs,
}  # fmt: skip

__all__ = [
    "COSTS",
    "ENERGIES",
    "ESTIMATORS",
    "RBM",
    "RELAXATIONS",
    "Centred",
    "ContrastiveHebbian",
    "Cost",
    "Coupled",
    "CrossEntropy",
    "Divergence",
    "Energy",
    "Estimator",
    "Gibbs",
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
    "backpropagated_errors",
    "check_homeostasis",
    "continual_gradient",
    "delivered_errors",
    "directed_change",
    "early_inference",
    "emergent_window",
    "fitted_window",
    "free_state",
    "gradient",
    "homeostasis",
    "residual",
    "sections",
    "settle",
    "true_errors",
]

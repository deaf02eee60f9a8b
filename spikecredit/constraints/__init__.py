"""Constraints: what a synapse may be."""

from spikecredit.constraints.constraint import Constraint, Population, Unconstrained
from spikecredit.constraints.dale import Connectivity, Dale
from spikecredit.constraints.exponentiated import EG, EGAdamW
from spikecredit.constraints.frozen import FrozenSigns

CONSTRAINTS: dict[str, type[Constraint]] = {"none": Unconstrained, "dale": Dale, "frozen_signs": FrozenSigns}

__all__ = [
    "CONSTRAINTS",
    "EG",
    "Connectivity",
    "Constraint",
    "Dale",
    "EGAdamW",
    "FrozenSigns",
    "Population",
    "Unconstrained",
]

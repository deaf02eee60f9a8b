"""Constraints: what a synapse may be."""

from spikecredit.constraints.constraint import Constraint, Population, Unconstrained
from spikecredit.constraints.dale import Dale

CONSTRAINTS: dict[str, type[Constraint]] = {"none": Unconstrained, "dale": Dale}

__all__ = ["CONSTRAINTS", "Constraint", "Dale", "Population", "Unconstrained"]

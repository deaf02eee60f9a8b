"""Rules: how a batch becomes a gradient of every weight."""

from spikecredit.rules.bptt import BPTT
from spikecredit.rules.equilibrium import EquilibriumPropagation
from spikecredit.rules.node_perturbation import NodePerturbation
from spikecredit.rules.rule import Rule

RULES: dict[str, type[Rule]] = {
    "bptt": BPTT,
    "node_perturbation": NodePerturbation,
    "equilibrium": EquilibriumPropagation,
}

__all__ = ["BPTT", "RULES", "EquilibriumPropagation", "NodePerturbation", "Rule"]

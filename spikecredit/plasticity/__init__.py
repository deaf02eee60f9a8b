"""The plasticity laboratory: rules written once in Brian2's syntax, three engines, protocols and published data."""

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import RuleError
from spikecredit.plasticity.protocols import PROTOCOLS, Experiment, FrequencySweep, Pairing, Protocol
from spikecredit.plasticity.result import Result
from spikecredit.plasticity.rule import CustomRule, OutsideFit, Preset, Rule
from spikecredit.plasticity.triplet import TripletSTDP

RULES: dict[str, type[Rule]] = {"triplet": TripletSTDP}

__all__ = [
    "PROTOCOLS",
    "RULES",
    "CustomRule",
    "Equations",
    "Experiment",
    "FrequencySweep",
    "OutsideFit",
    "Pairing",
    "Preset",
    "Protocol",
    "Result",
    "Rule",
    "RuleError",
    "TripletSTDP",
]

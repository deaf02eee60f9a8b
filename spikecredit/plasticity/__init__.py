"""The plasticity laboratory: rules written once in Brian2's syntax, three engines, protocols and published data."""

from spikecredit.plasticity.adex import AdEx
from spikecredit.plasticity.calcium import CalciumRule
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import RuleError
from spikecredit.plasticity.nmda import NMDARecruitment
from spikecredit.plasticity.protocols import PROTOCOLS, Experiment, FrequencySweep, Pairing, Protocol
from spikecredit.plasticity.result import Result
from spikecredit.plasticity.rule import CustomRule, OutsideFit, Preset, Rule
from spikecredit.plasticity.tagging import Consolidation, TaggingAndCapture
from spikecredit.plasticity.triplet import TripletSTDP
from spikecredit.plasticity.voltage import AuthorsSweep, VoltageSTDP

RULES: dict[str, type[Rule]] = {
    "triplet": TripletSTDP,
    "voltage": VoltageSTDP, "calcium": CalciumRule, "nmda": NMDARecruitment,
    "tagging": TaggingAndCapture,
}  # fmt: skip
PROTOCOLS |= {protocol.kind: protocol for protocol in (AuthorsSweep, Consolidation)}

__all__ = [
    "PROTOCOLS",
    "RULES",
    "AdEx",
    "AuthorsSweep",
    "CalciumRule",
    "Consolidation",
    "CustomRule",
    "Equations",
    "Experiment",
    "FrequencySweep",
    "NMDARecruitment",
    "OutsideFit",
    "Pairing",
    "Preset",
    "Protocol",
    "Result",
    "Rule",
    "RuleError",
    "TaggingAndCapture",
    "TripletSTDP",
    "VoltageSTDP",
]

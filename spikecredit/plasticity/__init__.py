"""The plasticity laboratory: rules written once in Brian2's syntax, three engines, protocols and published data."""

from spikecredit.plasticity.adex import AdEx
from spikecredit.plasticity.anti_hebbian import AntiHebbian
from spikecredit.plasticity.calcium import CalciumRule
from spikecredit.plasticity.circuit import PlasticCircuit, attach, balance
from spikecredit.plasticity.datasets import DATASETS, Dataset
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.homeostatic import HeterosynapticSTDP, InhibitorySTDP, SynapticScaling
from spikecredit.plasticity.language import RuleError
from spikecredit.plasticity.memory import BennaFusi, Cascade
from spikecredit.plasticity.nmda import NMDARecruitment
from spikecredit.plasticity.pair import BoxSTDP, PairSTDP
from spikecredit.plasticity.plastic import DeltaRule, ErrorSTDP, Plastic
from spikecredit.plasticity.protocols import (
    Experiment,
    FrequencySweep,
    Pairing,
    Protocol,
    Quadruplet,
    StriatalPairing,
    Triplet,
)
from spikecredit.plasticity.rate import BCM, Oja, RateDerivative
from spikecredit.plasticity.regions import REGIONS, Region
from spikecredit.plasticity.result import Comparison, Result
from spikecredit.plasticity.reward import DopamineSTDP, RewardSTDP
from spikecredit.plasticity.rule import CustomRule, OutsideFit, Preset, Rule
from spikecredit.plasticity.short_term import TsodyksMarkram
from spikecredit.plasticity.suppression import SuppressionSTDP
from spikecredit.plasticity.tagging import Consolidation, TaggingAndCapture
from spikecredit.plasticity.trains import (
    Burst,
    LowFrequency,
    PoissonPair,
    RewardAfter,
    Tetanus,
    ThetaBurst,
    VoltageClamp,
)
from spikecredit.plasticity.triplet import TripletSTDP
from spikecredit.plasticity.voltage import AuthorsSweep, VoltageSTDP

RULES: dict[str, type[Rule]] = {
    "pair": PairSTDP, "box": BoxSTDP, "suppression": SuppressionSTDP, "triplet": TripletSTDP,
    "voltage": VoltageSTDP, "calcium": CalciumRule, "nmda": NMDARecruitment,
    "bcm": BCM, "oja": Oja, "rate_derivative": RateDerivative,
    "dopamine": DopamineSTDP, "reward": RewardSTDP,
    "anti_hebbian": AntiHebbian,
    "inhibitory": InhibitorySTDP, "scaling": SynapticScaling, "heterosynaptic": HeterosynapticSTDP,
    "tagging": TaggingAndCapture, "benna_fusi": BennaFusi, "cascade": Cascade,
    "short_term": TsodyksMarkram,
}  # fmt: skip
PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.kind: protocol
    for protocol in (
        Pairing, StriatalPairing, FrequencySweep, AuthorsSweep, Triplet, Quadruplet, Burst,
        ThetaBurst, Tetanus, LowFrequency, Consolidation,
        VoltageClamp, PoissonPair, RewardAfter,
    )
}  # fmt: skip

__all__ = [
    "BCM",
    "DATASETS",
    "PROTOCOLS",
    "REGIONS",
    "RULES",
    "AdEx",
    "AntiHebbian",
    "AuthorsSweep",
    "BennaFusi",
    "BoxSTDP",
    "Burst",
    "CalciumRule",
    "Cascade",
    "Comparison",
    "Consolidation",
    "CustomRule",
    "Dataset",
    "DeltaRule",
    "DopamineSTDP",
    "Equations",
    "ErrorSTDP",
    "Experiment",
    "FrequencySweep",
    "HeterosynapticSTDP",
    "InhibitorySTDP",
    "LowFrequency",
    "NMDARecruitment",
    "Oja",
    "OutsideFit",
    "PairSTDP",
    "Pairing",
    "Plastic",
    "PlasticCircuit",
    "PoissonPair",
    "Preset",
    "Protocol",
    "Quadruplet",
    "RateDerivative",
    "Region",
    "Result",
    "RewardAfter",
    "RewardSTDP",
    "Rule",
    "RuleError",
    "StriatalPairing",
    "SuppressionSTDP",
    "SynapticScaling",
    "TaggingAndCapture",
    "Tetanus",
    "ThetaBurst",
    "Triplet",
    "TripletSTDP",
    "TsodyksMarkram",
    "VoltageClamp",
    "VoltageSTDP",
    "attach",
    "balance",
]

"""The plasticity laboratory: rules written once in Brian2's syntax, three engines, protocols and published data."""

from spikecredit.plasticity.datasets import DATASETS, Dataset
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import RuleError
from spikecredit.plasticity.protocols import (
    Experiment,
    FrequencySweep,
    Pairing,
    Protocol,
    Quadruplet,
    StriatalPairing,
    Triplet,
)
from spikecredit.plasticity.result import Comparison, Result
from spikecredit.plasticity.rule import CustomRule, OutsideFit, Preset, Rule
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

RULES: dict[str, type[Rule]] = {"triplet": TripletSTDP}
PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.kind: protocol
    for protocol in (
        Pairing, StriatalPairing, FrequencySweep, Triplet, Quadruplet, Burst,
        ThetaBurst, Tetanus, LowFrequency,
        VoltageClamp, PoissonPair, RewardAfter,
    )
}  # fmt: skip

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "RULES",
    "Burst",
    "Comparison",
    "CustomRule",
    "Dataset",
    "Equations",
    "Experiment",
    "FrequencySweep",
    "LowFrequency",
    "OutsideFit",
    "Pairing",
    "PoissonPair",
    "Preset",
    "Protocol",
    "Quadruplet",
    "Result",
    "RewardAfter",
    "Rule",
    "RuleError",
    "StriatalPairing",
    "Tetanus",
    "ThetaBurst",
    "Triplet",
    "TripletSTDP",
    "VoltageClamp",
]

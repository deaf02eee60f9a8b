"""The plasticity laboratory: rules written once in Brian2's syntax, three engines, protocols and published data."""

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.homeostatic import HeterosynapticSTDP, InhibitorySTDP, SynapticScaling
from spikecredit.plasticity.language import RuleError
from spikecredit.plasticity.memory import BennaFusi, Cascade
from spikecredit.plasticity.pair import BoxSTDP, PairSTDP
from spikecredit.plasticity.protocols import PROTOCOLS, Experiment, FrequencySweep, Pairing, Protocol
from spikecredit.plasticity.rate import BCM, Oja, RateDerivative
from spikecredit.plasticity.result import Result
from spikecredit.plasticity.reward import DopamineSTDP, RewardSTDP
from spikecredit.plasticity.rule import CustomRule, OutsideFit, Preset, Rule
from spikecredit.plasticity.short_term import TsodyksMarkram
from spikecredit.plasticity.suppression import SuppressionSTDP
from spikecredit.plasticity.triplet import TripletSTDP

RULES: dict[str, type[Rule]] = {
    "pair": PairSTDP, "box": BoxSTDP, "suppression": SuppressionSTDP,
    "triplet": TripletSTDP,
    "bcm": BCM, "oja": Oja, "rate_derivative": RateDerivative,
    "dopamine": DopamineSTDP, "reward": RewardSTDP,
    "inhibitory": InhibitorySTDP, "scaling": SynapticScaling, "heterosynaptic": HeterosynapticSTDP,
    "benna_fusi": BennaFusi, "cascade": Cascade,
    "short_term": TsodyksMarkram,
}  # fmt: skip

__all__ = [
    "BCM",
    "PROTOCOLS",
    "RULES",
    "BennaFusi",
    "BoxSTDP",
    "Cascade",
    "CustomRule",
    "DopamineSTDP",
    "Equations",
    "Experiment",
    "FrequencySweep",
    "HeterosynapticSTDP",
    "InhibitorySTDP",
    "Oja",
    "OutsideFit",
    "PairSTDP",
    "Pairing",
    "Preset",
    "Protocol",
    "RateDerivative",
    "Result",
    "RewardSTDP",
    "Rule",
    "RuleError",
    "SuppressionSTDP",
    "SynapticScaling",
    "TripletSTDP",
    "TsodyksMarkram",
]

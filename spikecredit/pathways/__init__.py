"""Feedback pathways: how the teaching signal travels back through a synapse."""

from spikecredit.pathways.antiparallel import Antiparallel
from spikecredit.pathways.backprop import Backprop
from spikecredit.pathways.controls import MimicFeedbackAlignment, NoisyBackprop
from spikecredit.pathways.direct import DirectFeedbackAlignment, DirectKolenPollack
from spikecredit.pathways.error import ERRORS, Clipped, ErrorSignal, Graded, SignOnly
from spikecredit.pathways.feedback_alignment import FeedbackAlignment
from spikecredit.pathways.kolen_pollack import KolenPollack
from spikecredit.pathways.local_alignment import LocalAlignment
from spikecredit.pathways.pathway import Pathway
from spikecredit.pathways.sign_symmetry import SignSymmetry
from spikecredit.pathways.weight_mirror import WeightMirror

PATHWAYS: dict[str, type[Pathway]] = {
    "backprop": Backprop,
    "feedback_alignment": FeedbackAlignment,
    "sign_symmetry": SignSymmetry,
    "direct_feedback_alignment": DirectFeedbackAlignment,
    "direct_kolen_pollack": DirectKolenPollack,
    "kolen_pollack": KolenPollack,
    "weight_mirror": WeightMirror,
    "local_alignment": LocalAlignment,
    "antiparallel": Antiparallel,
    "noisy_backprop": NoisyBackprop,
    "mimic_feedback_alignment": MimicFeedbackAlignment,
}

__all__ = [
    "ERRORS",
    "PATHWAYS",
    "Antiparallel",
    "Backprop",
    "Clipped",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "ErrorSignal",
    "FeedbackAlignment",
    "Graded",
    "KolenPollack",
    "LocalAlignment",
    "MimicFeedbackAlignment",
    "NoisyBackprop",
    "Pathway",
    "SignOnly",
    "SignSymmetry",
    "WeightMirror",
]

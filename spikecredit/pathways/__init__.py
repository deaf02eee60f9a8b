"""Feedback pathways: how the teaching signal travels back through a synapse."""

from spikecredit.pathways.antiparallel import Antiparallel
from spikecredit.pathways.backprop import Backprop
from spikecredit.pathways.controls import MimicFeedbackAlignment, NoisyBackprop
from spikecredit.pathways.error import ERRORS, Clipped, ErrorSignal, Graded, SignOnly
from spikecredit.pathways.feedback_alignment import FeedbackAlignment
from spikecredit.pathways.pathway import Pathway
from spikecredit.pathways.sign_symmetry import SignSymmetry

PATHWAYS: dict[str, type[Pathway]] = {
    "backprop": Backprop,
    "feedback_alignment": FeedbackAlignment,
    "sign_symmetry": SignSymmetry,
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
    "ErrorSignal",
    "FeedbackAlignment",
    "Graded",
    "MimicFeedbackAlignment",
    "NoisyBackprop",
    "Pathway",
    "SignOnly",
    "SignSymmetry",
]

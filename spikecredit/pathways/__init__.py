"""Feedback pathways: how the teaching signal travels back through a synapse."""

from spikecredit.pathways.backprop import Backprop
from spikecredit.pathways.direct import DirectFeedbackAlignment, DirectKolenPollack
from spikecredit.pathways.feedback_alignment import FeedbackAlignment
from spikecredit.pathways.pathway import Pathway
from spikecredit.pathways.sign_symmetry import SignSymmetry

PATHWAYS: dict[str, type[Pathway]] = {
    "backprop": Backprop,
    "feedback_alignment": FeedbackAlignment,
    "sign_symmetry": SignSymmetry,
    "direct_feedback_alignment": DirectFeedbackAlignment,
    "direct_kolen_pollack": DirectKolenPollack,
}

__all__ = [
    "PATHWAYS",
    "Backprop",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "FeedbackAlignment",
    "Pathway",
    "SignSymmetry",
]

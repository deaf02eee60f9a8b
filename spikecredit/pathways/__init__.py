"""Feedback pathways: how the teaching signal travels back through a synapse."""

from spikecredit.pathways.backprop import Backprop
from spikecredit.pathways.direct import DirectFeedbackAlignment, DirectKolenPollack
from spikecredit.pathways.feedback_alignment import FeedbackAlignment
from spikecredit.pathways.kolen_pollack import KolenPollack
from spikecredit.pathways.local_alignment import LocalAlignment
from spikecredit.pathways.pathway import Pathway
from spikecredit.pathways.sign_symmetry import SignSymmetry
from spikecredit.pathways.weight_mirror import WeightMirror

PATHWAYS: dict[str, type[Pathway]] = {
    "backprop": Backprop,
    "direct_feedback_alignment": DirectFeedbackAlignment,
    "direct_kolen_pollack": DirectKolenPollack,
    "feedback_alignment": FeedbackAlignment,
    "sign_symmetry": SignSymmetry,
    "kolen_pollack": KolenPollack,
    "weight_mirror": WeightMirror,
    "local_alignment": LocalAlignment,
}

__all__ = [
    "PATHWAYS",
    "Backprop",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "FeedbackAlignment",
    "KolenPollack",
    "LocalAlignment",
    "Pathway",
    "SignSymmetry",
    "WeightMirror",
]

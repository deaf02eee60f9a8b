"""Synapses: weighted layers that carry a pathway and a constraint, and the layers between them."""

from spikecredit.synapses.conv import Conv2d
from spikecredit.synapses.dann import DANNConv2d, DANNLinear
from spikecredit.synapses.delay import Delay
from spikecredit.synapses.linear import Linear
from spikecredit.synapses.norm import BatchNorm1d, BatchNorm2d
from spikecredit.synapses.pool import AvgPool2d, Dropout, Flatten, GlobalAvgPool2d, MaxPool2d, SoftPool2d
from spikecredit.synapses.recurrent import RecurrentLinear
from spikecredit.synapses.synapse import (
    Constrained,
    ConstraintWarning,
    LearningWarning,
    Synapse,
    Wiring,
    learned_feedback,
    synapses_of,
)

__all__ = [
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Constrained",
    "ConstraintWarning",
    "Conv2d",
    "DANNConv2d",
    "DANNLinear",
    "Delay",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "LearningWarning",
    "Linear",
    "MaxPool2d",
    "RecurrentLinear",
    "SoftPool2d",
    "Synapse",
    "Wiring",
    "learned_feedback",
    "synapses_of",
]

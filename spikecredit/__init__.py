"""spikecredit: spiking networks that learn under biology's constraints.

    import spikecredit as sc

    net = sc.Network(sc.Flatten(), sc.Linear(64, 100), sc.LIF(tau=5.0), sc.Linear(100, 10), sc.LeakyReadout(tau=5.0),
                     pathway=sc.SignSymmetry(), constraint=sc.Dale(excitatory=0.8))

Importing it needs torch and numpy only; everything else is imported where it is used.
"""

from spikecredit import analysis, architectures, losses, rules
from spikecredit.architectures import DANN, MLP, VGG, LeNet, ResNet
from spikecredit.constraints import EG, Connectivity, Dale, EGAdamW, FrozenSigns, Unconstrained
from spikecredit.convert import convert
from spikecredit.data import encode
from spikecredit.network import Network, after_step, attach, freeze_signs, start_epoch
from spikecredit.neurons import (
    ALIF,
    LIF,
    ArcTan,
    CurrentLIF,
    EINeurons,
    FastSigmoid,
    Gaussian,
    HardSigmoid,
    LeakyReadout,
    MultiGaussian,
    ReLU,
    Sigmoid,
    StraightThrough,
    Triangle,
)
from spikecredit.pathways import (
    Antiparallel,
    Backprop,
    Clipped,
    DirectFeedbackAlignment,
    DirectKolenPollack,
    FeedbackAlignment,
    Graded,
    KolenPollack,
    LocalAlignment,
    MimicFeedbackAlignment,
    NoisyBackprop,
    SignOnly,
    SignSymmetry,
    WeightMirror,
)
from spikecredit.synapses import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    DANNConv2d,
    DANNLinear,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    RecurrentLinear,
)

__version__ = "0.1.0"

__all__ = [
    "ALIF",
    "DANN",
    "EG",
    "LIF",
    "MLP",
    "VGG",
    "Antiparallel",
    "ArcTan",
    "AvgPool2d",
    "Backprop",
    "BatchNorm1d",
    "BatchNorm2d",
    "Clipped",
    "Connectivity",
    "Conv2d",
    "CurrentLIF",
    "DANNConv2d",
    "DANNLinear",
    "Dale",
    "DirectFeedbackAlignment",
    "DirectKolenPollack",
    "Dropout",
    "EGAdamW",
    "EINeurons",
    "FastSigmoid",
    "FeedbackAlignment",
    "Flatten",
    "FrozenSigns",
    "Gaussian",
    "GlobalAvgPool2d",
    "Graded",
    "HardSigmoid",
    "KolenPollack",
    "LeNet",
    "LeakyReadout",
    "Linear",
    "LocalAlignment",
    "MaxPool2d",
    "MimicFeedbackAlignment",
    "MultiGaussian",
    "Network",
    "NoisyBackprop",
    "ReLU",
    "RecurrentLinear",
    "ResNet",
    "Sigmoid",
    "SignOnly",
    "SignSymmetry",
    "StraightThrough",
    "Triangle",
    "Unconstrained",
    "WeightMirror",
    "after_step",
    "analysis",
    "architectures",
    "attach",
    "convert",
    "encode",
    "freeze_signs",
    "losses",
    "rules",
    "start_epoch",
]

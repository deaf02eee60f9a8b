"""Neurons: current -> spikes. Each file holds a pure step, its whole-sequence form and the module."""

from spikecredit.neurons.adaptive import ALIF
from spikecredit.neurons.current import CurrentLIF, CurrentLIFState
from spikecredit.neurons.ei import EINeurons
from spikecredit.neurons.kernels.reference import (
    ALIFParameters,
    ALIFState,
    LIFParameters,
    LIFState,
    alif_loop,
    alif_step,
    lif_loop,
    lif_step,
)
from spikecredit.neurons.lif import LIF
from spikecredit.neurons.neuron import Neuron
from spikecredit.neurons.rate import HardSigmoid, Identity, Logistic, RateUnit, ReLU, Tanh
from spikecredit.neurons.readout import LeakyReadout
from spikecredit.neurons.surrogate import (
    SURROGATES,
    ArcTan,
    FastSigmoid,
    Gaussian,
    MultiGaussian,
    Sigmoid,
    StraightThrough,
    Surrogate,
    Triangle,
)

NEURONS: dict[str, type[Neuron]] = {
    "lif": LIF,
    "alif": ALIF,
    "current_lif": CurrentLIF,
    "ei_neurons": EINeurons,
    "leaky_readout": LeakyReadout,
    "relu": ReLU,
    "hard_sigmoid": HardSigmoid,
    "logistic": Logistic,
    "tanh": Tanh,
    "identity": Identity,
}

__all__ = [
    "ALIF",
    "LIF",
    "NEURONS",
    "SURROGATES",
    "ALIFParameters",
    "ALIFState",
    "ArcTan",
    "CurrentLIF",
    "CurrentLIFState",
    "EINeurons",
    "FastSigmoid",
    "Gaussian",
    "HardSigmoid",
    "Identity",
    "LIFParameters",
    "LIFState",
    "LeakyReadout",
    "Logistic",
    "MultiGaussian",
    "Neuron",
    "RateUnit",
    "ReLU",
    "Sigmoid",
    "StraightThrough",
    "Surrogate",
    "Tanh",
    "Triangle",
    "alif_loop",
    "alif_step",
    "lif_loop",
    "lif_step",
]

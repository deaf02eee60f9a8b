"""Architectures whose synapse layers may be DANN layers."""

from dataclasses import dataclass, field
from typing import Literal

from spikecredit.architectures.architecture import Architecture
from spikecredit.constraints import Constraint, Dale
from spikecredit.synapses import Conv2d, DANNConv2d, DANNLinear, Linear


@dataclass(frozen=True)
class DANN:
    """Every synapse layer, the last one too, is a `DANNLinear` or a `DANNConv2d` of these options.

    Args:
        inhibitory: inhibitory units of each layer, or, as a float, their share of its outputs.
        divisive: False leaves out the division.
        corrections: of the gradients of the inhibitory units.
        initialisation: "cornford", with "cornford_first" where a dense layer reads the pixels; or "li".
    Source: Cornford et al. 2021; Li et al. 2023.
    """

    inhibitory: int | float = 0.1
    divisive: bool = True
    corrections: bool = True
    initialisation: Literal["cornford", "li"] = "cornford"


@dataclass(frozen=True)
class DANNArchitecture(Architecture):
    """Base of architectures of dense layers and convolutions that may be DANN layers.

    Args:
        dann: make all of them DANN layers; None for `Linear` and `Conv2d`.
    """

    dann: DANN | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.dann is not None and self.initialisation != "torch":
            raise ValueError(
                f"initialisation={self.initialisation!r} draws weights of both signs, and those of DANN layers are 0 "
                "or above: leave it out, and choose by dann.initialisation"
            )

    def dense(self, inputs: int, outputs: int, first: bool = False) -> Linear:
        """A dense layer; `first` if it reads the pixels."""
        if self.dann is None:
            return Linear(inputs, outputs)
        o = self.dann
        start: Literal["cornford", "cornford_first", "li"] = (
            "cornford_first" if first and o.initialisation == "cornford" else o.initialisation
        )
        return DANNLinear(
            inputs,
            outputs,
            o.inhibitory,
            divisive=o.divisive,
            corrections=o.corrections,
            initialisation=start,
        )

    def convolution(self, inputs: int, outputs: int, kernel: int) -> Conv2d:
        """A convolution with padding "same"."""
        if self.dann is None:
            return Conv2d(inputs, outputs, kernel, padding="same")
        o = self.dann
        return DANNConv2d(
            inputs,
            outputs,
            kernel,
            padding="same",
            inhibitory=o.inhibitory,
            divisive=o.divisive,
            corrections=o.corrections,
            initialisation=o.initialisation,
        )

    @property
    def scale_constraint(self) -> Constraint | None:
        """Of normalisation layers: behind a DANN layer a scale below 0 would flip the sign of all synapses onto its
        unit, and the network's own constraint, which is none, does not see to it."""
        return None if self.dann is None else Dale()

"""Dale's law: a neuron excites all its targets or inhibits all its targets, for life."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.constraints.constraint import ConstrainedLayer, Constraint, Population
from spikecredit.seeds import generator

MAGNITUDE_FLOOR = 1e-6
"""Smallest magnitude at initialisation where the parameter is its logarithm or inverse softplus, both -inf at 0."""


@dataclass(frozen=True)
class Dale(Constraint):
    """W = W_+ D: magnitudes W_+ >= 0, and D = diag(+-1) the signs of the presynaptic units, the columns of W (out, in).

    In a convolution the unit is the input channel: all neurons of a channel are of one type, and a flattened channel
    hands its sign to all its neurons. Scales of normalisation layers stay >= 0, since a negative one would flip
    the sign of all synapses onto its unit. The sensory input (the first layer) is exempt; so are biases.

    Args:
        excitatory: fraction of excitatory units in each population, round(excitatory * units) of them. Which ones is
            drawn from the seed's own stream "dale", saved with the layer, and never changes.
        mode: "project": after each optimiser step weights of the wrong sign become 0 (`after_step` or `attach`).
            "reparametrize": W_+ = magnitude(parameter), so that no step can break the law.
        feedback: "exempt": errors have carriers of their own, which need not obey. "own": the error is carried by the
            same neurons, so B's signs follow *its* presynaptic unit, the row of W.
        magnitude: the function of mode "reparametrize": "abs", "exp" or "softplus".
        balance: at initialisation, scale inhibitory magnitudes up so that inhibition cancels excitation on average,
            then all of them to the root mean square they had. Without it the mean current dwarfs its variance.
    Source: Cornford et al. 2021 (column convention; balance at initialisation, their ColumnEI).
    """

    excitatory: float = 0.8
    mode: Literal["project", "reparametrize"] = "project"
    feedback: Literal["exempt", "own"] = "exempt"
    magnitude: Literal["abs", "exp", "softplus"] = "abs"
    balance: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.excitatory <= 1:
            raise ValueError(f"excitatory is a fraction between 0 and 1, got {self.excitatory!r}")
        for name, allowed in (
            ("mode", ("project", "reparametrize")),
            ("feedback", ("exempt", "own")),
            ("magnitude", ("abs", "exp", "softplus")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}")

    @property
    def needs_projection(self) -> bool:
        return self.mode == "project"

    @property
    def constrains_feedback(self) -> bool:
        return self.feedback == "own"

    def signs(self, population: Population, seed: int) -> Tensor:
        order = torch.randperm(population.units, generator=generator(seed, "dale", population.key))
        signs = torch.full((population.units,), -1, dtype=torch.int8)
        signs[order[: round(self.excitatory * population.units)]] = 1
        return signs

    @torch.no_grad()
    def initialise(self, layer: ConstrainedLayer) -> None:
        sign = layer.presynaptic_sign
        if sign is None:
            return
        magnitudes = layer.weight.abs()
        rms = magnitudes.square().mean().sqrt()
        if self.balance:
            positive = (sign > 0).expand_as(magnitudes)
            excitation, inhibition = magnitudes[positive].sum(), magnitudes[~positive].sum()
            if excitation > 0 and inhibition > 0:
                magnitudes = torch.where(positive, magnitudes, magnitudes * (excitation / inhibition))
                magnitudes *= rms / magnitudes.square().mean().sqrt()
        if self.mode == "project":
            layer.weight.copy_(magnitudes * sign)
        else:
            layer.weight.copy_(self._parameter(magnitudes))

    def effective(self, layer: ConstrainedLayer) -> Tensor:
        if self.mode == "project" or layer.presynaptic_sign is None:
            return layer.weight
        return self._magnitudes(layer.weight) * layer.presynaptic_sign

    @torch.no_grad()
    def project(self, layer: ConstrainedLayer) -> None:
        sign = layer.presynaptic_sign
        if sign is None or self.mode == "reparametrize":
            return
        layer.weight.masked_fill_(layer.weight * sign < 0, 0)

    @torch.no_grad()
    def violations(self, layer: ConstrainedLayer) -> int:
        if layer.presynaptic_sign is None:
            return 0
        return int((self.effective(layer) * layer.presynaptic_sign < 0).sum())

    def constrain_feedback(self, matrix: Tensor, layer: ConstrainedLayer) -> Tensor:
        if self.feedback == "exempt" or layer.postsynaptic_sign is None:
            return matrix
        return matrix.abs() * layer.postsynaptic_sign

    def _magnitudes(self, parameter: Tensor) -> Tensor:
        if self.magnitude == "abs":
            return parameter.abs()
        return parameter.exp() if self.magnitude == "exp" else F.softplus(parameter)

    def _parameter(self, magnitudes: Tensor) -> Tensor:
        """The inverse of `_magnitudes`."""
        if self.magnitude == "abs":
            return magnitudes
        floored = magnitudes.clamp_min(MAGNITUDE_FLOOR)
        return floored.log() if self.magnitude == "exp" else floored.expm1().log()

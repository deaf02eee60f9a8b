"""Frozen signs: a synapse keeps the sign it has, for life or after some epochs of free training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spikecredit.constraints.constraint import ConstrainedLayer, Constraint, Population


@dataclass(frozen=True)
class FrozenSigns(Constraint):
    """After `after` epochs of free training no weight changes its sign any more.

        S = sign(W) when the signs are frozen;  after each optimiser step  W <- W where S W > 0,  else  S floor

    S (int8, in the shape of W; 0 while free) is the layer's buffer `frozen_sign`, in its state dict. Signs belong to
    synapses here, not to neurons as under Dale's law. All synapses of a network are under it, the first layer too, and
    so are scales of normalisation layers, whose sign is a factor of that of all synapses onto a unit. Biases are not.

    A weight that is exactly 0 when signs are frozen counts as positive, as in the code of Xiao et al., and becomes
    floor: it cannot stay without a sign. Feedback weights are exempt. Those that are made of sign(W) have constant
    signs from then on; those of `KolenPollack` share W's increments but not its projection, so that W - B grows where
    a weight is held at its floor.

    Args:
        after: epochs of free training, 0 or more. 0: frozen from the start, when a network is made or a model converted
            (Xiao et al.'s no-sign-change). N: by `start_epoch(net, N)`, epochs counted from 0, which `spikecredit
            train` calls by itself; a loop of your own has to, or never freezes. `freeze_signs(net)` freezes at once.
        floor: magnitude of a weight that would have changed its sign or become 0. The smallest normal number of the
            weight's dtype takes its place where that is larger: 6.1e-5 in float16, in which 1e-10 would be 0.
    Errors:
        TypeError, ValueError: after is no whole number of epochs, or floor is not finite and positive.
    Source: Xiao, Chen, Liao & Poggio 2019 (no-sign-change, floor 1e-10: that of their code). Signs frozen after some
        epochs: the E/I method of Moskovitz, Litwin-Kumar & Abbott 2018 (unverified: the body of the paper was not seen;
        what a weight does that reaches 0 is that of Xiao et al. here).
    """

    after: int = 0
    floor: float = 1e-10

    def __post_init__(self) -> None:
        if not isinstance(self.after, int) or isinstance(self.after, bool):
            raise TypeError(f"after is a number of whole epochs, such as 2, got {self.after!r}")
        if self.after < 0:
            raise ValueError(f"after is the number of epochs before signs freeze, 0 or more, got {self.after!r}")
        if not (self.floor > 0 and math.isfinite(self.floor)):
            raise ValueError(f"floor must be a finite number above 0, got {self.floor!r}; a weight of 0 has no sign")

    @property
    def needs_projection(self) -> bool:
        return True

    @property
    def freezes(self) -> bool:
        return True

    def signs(self, population: Population, seed: int) -> None:
        return None

    def initialise(self, layer: ConstrainedLayer, generator: torch.Generator) -> None:
        self.start_epoch(layer, 0)

    def start_epoch(self, layer: ConstrainedLayer, epoch: int) -> None:
        if epoch >= self.after:
            self.freeze(layer)

    @torch.no_grad()
    def freeze(self, layer: ConstrainedLayer) -> None:
        """Freeze the signs that are free; those that are frozen stay, whatever the weights are."""
        free = _signs(layer) == 0
        _signs(layer).masked_fill_(free & (layer.weight >= 0), 1).masked_fill_(free & (layer.weight < 0), -1)
        self.project(layer)

    def effective(self, layer: ConstrainedLayer) -> Tensor:
        return layer.weight

    @torch.no_grad()
    def project(self, layer: ConstrainedLayer) -> None:
        weight, sign = layer.weight, _signs(layer)
        floor = max(self.floor, torch.finfo(weight.dtype).tiny)
        weight.masked_fill_((sign > 0) & (weight <= 0), floor)
        weight.masked_fill_((sign < 0) & (weight >= 0), -floor)

    @torch.no_grad()
    def violations(self, layer: ConstrainedLayer) -> int:
        sign = _signs(layer)
        return int(((layer.weight.sign() != sign) & (sign != 0)).sum())

    def constrain_feedback(self, matrix: Tensor, layer: ConstrainedLayer) -> Tensor:
        return matrix


def _signs(layer: ConstrainedLayer) -> Tensor:
    assert layer.frozen_sign is not None, "the layer was not bound to its constraint"
    return layer.frozen_sign

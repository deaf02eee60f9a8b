"""Sign symmetry: feedback weights share the sign of the forward weights, not their magnitude."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikecredit.pathways.pathway import (
    Pathway,
    WeightedLayer,
    check_scale,
    feedback_rms,
    random_feedback,
    scale_by_magnitudes_,
)
from spikecredit.seeds import draw


@dataclass(frozen=True)
class SignSymmetry(Pathway):
    """B = M * S, elementwise; the magnitudes M know nothing of W. S = sign(W), with sign(0) = 0, where an entry follows
    W, and a random sign that never changes where it does not. With a threshold S = 0 where |W| < threshold rms(W).

    Args:
        magnitude: "uniform" (uSF): M = s everywhere. "fixed" (frSF): M = |N|, drawn once. "batch" (brSF): M = |N|,
            drawn anew at every forward pass (one of 4,096 equally likely values: `magnitudes.scale_`).
        scale: the root mean square s of B (before zeros). "fan_out": 1 / sqrt(fan_out of W), the feedback's own
            fan-in. "biotorch" and "xiao": those of the published code. "strict": B is rescaled to the norm of W, which
            leaves no free scale (strict normalisation, Moskovitz et al. 2018).
        gain: factor on B.
        agreement: the share of entries with the sign of W when training starts, 0.5 to 1: an entry follows W with
            probability 2 agreement - 1, drawn once, and half of the others agree by chance. 1 is sign symmetry; 0.5 is
            feedback alignment with magnitudes M, and with magnitude "fixed" the very B of `FeedbackAlignment` under the
            same seed. In training the others may come to agree too, since W turns towards a fixed B.
        threshold: an entry that follows W is 0 where |W| is below this many root mean squares of its layer's weights,
            so that the feedback synapse knows whether the forward one is strong, and no more of its magnitude.
            For Gaussian W, `uniform` magnitudes and threshold t, cos(angle of B and W) = sqrt(2 / pi) exp(-t^2 / 2) /
            sqrt(erfc(t / sqrt 2)), largest at t = 0.61: 25.9 degrees, and 37.1 at 0.
    Note:
        With agreement below 1 the layer keeps signs in `feedback_weight`, in W's shape: 0 where the entry follows W,
        else -1 or 1. Magnitude "fixed" keeps M as well, below them along the first axis: (2 out, in, ...).
    Note:
        Under Dale's law a column of W has one sign for ever, so signs tell B nothing of W: "uniform" feedback starts
        with rank one (every unit receives the same error up to its sign, and the errors of a softmax sum to zero), and
        "fixed" magnitudes learn as feedback alignment does. A threshold of about 0.6 gives the matrix its rank, and
        most of the angle, back.
    Source: Liao, Leibo & Poggio 2016; Xiao, Chen, Liao & Poggio 2019; BioTorch (uSF, frSF, brSF). The partial agreement
        and the threshold, which is that of ternary weights (Li, Zhang & Liu 2016) put to feedback, are ours.
    """

    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"
    scale: Literal["fan_out", "biotorch", "xiao", "strict"] = "fan_out"
    gain: float = 1.0
    agreement: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.magnitude not in ("uniform", "fixed", "batch"):
            raise ValueError(f"magnitude must be 'uniform', 'fixed' or 'batch', got {self.magnitude!r}")
        check_scale(self.scale, ("fan_out", "biotorch", "xiao", "strict"), self.gain)
        if not 0.5 <= self.agreement <= 1:
            raise ValueError(
                f"agreement is a share of entries, from 0.5 (chance: feedback alignment) to 1; got {self.agreement!r}"
            )
        if not 0 <= self.threshold < math.inf:
            raise ValueError(
                f"threshold is a number of root mean squares of the weights, 0 or above; got {self.threshold!r}"
            )

    @property
    def redraws(self) -> bool:
        return self.magnitude == "batch"

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor | None:
        if self.agreement == 1:
            return self._random(layer, generator).abs_() if self.magnitude == "fixed" else None
        random = self._random(layer, generator)
        ones = torch.ones_like(random)
        weight = layer.weight
        follows = draw(generator, "bernoulli", weight.shape, 2 * self.agreement - 1, 0, weight.dtype, weight.device)
        signs = torch.where(random < 0, -ones, ones) * (1 - follows)
        return torch.cat([signs, random.abs_()]) if self.magnitude == "fixed" else signs

    def matrix(self, layer: WeightedLayer) -> Tensor:
        weight, kept = layer.effective_weight(), layer.feedback_weight
        if self.threshold:
            # As a tensor: no host synchronisation. Division and clamp, as masked_fill takes 20 times as long on a CPU.
            weakest = torch.linalg.vector_norm(weight) * (self.threshold / math.sqrt(max(weight.numel(), 1)))
            weakest = weakest.clamp_min(torch.finfo(weight.dtype).tiny)
            feedback = torch.div(weight, weakest, rounding_mode="trunc").clamp_(-1, 1)
        else:
            feedback = torch.sign(weight)
        if self.agreement < 1:
            assert kept is not None, "the layer was not bound to its pathway"
            signs = kept[: len(weight)]
            feedback = torch.addcmul(signs, feedback, 1 - signs.abs())  # torch.where takes 5 times as long on a CPU
        if self.magnitude == "uniform":
            if self.scale != "strict":
                feedback.mul_(feedback_rms(layer, self.scale) * self.gain)
        elif self.magnitude == "fixed":
            assert kept is not None, "the layer was not bound to its pathway"
            feedback.mul_(kept if self.agreement == 1 else kept[len(weight) :])
        else:
            scale, gain = ("fan_out", 1.0) if self.scale == "strict" else (self.scale, self.gain)
            scale_by_magnitudes_(feedback, layer, scale, gain, layer.noise_source())
        if self.scale == "strict":
            norm = torch.linalg.vector_norm(feedback)
            feedback.mul_(self.gain * torch.linalg.vector_norm(weight) / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        return feedback

    def _random(self, layer: WeightedLayer, source: torch.Generator) -> Tensor:
        """What feedback alignment would draw: its magnitudes are M, its signs those of the entries that follow not."""
        strict = self.scale == "strict"
        drawn = random_feedback(layer, "fan_out" if strict else self.scale, source)
        return drawn if strict else drawn.mul_(self.gain)

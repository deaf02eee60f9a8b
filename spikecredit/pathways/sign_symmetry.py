"""Sign symmetry: feedback weights share the sign of the forward weights, not their magnitude."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale, feedback_rms, random_feedback
from spikecredit.seeds import Noise


@dataclass(frozen=True)
class SignSymmetry(Pathway):
    """B = M * sign(W), elementwise, with sign(0) = 0; the magnitudes M know nothing of W.

    Args:
        magnitude: "uniform" (uSF): M = s everywhere. "fixed" (frSF): M = |N|, drawn once. "batch" (brSF): M = |N|,
            drawn anew at every forward pass.
        scale: the root mean square s of B (before zeros). "fan_out": 1 / sqrt(fan_out of W), the feedback's own
            fan-in. "biotorch" and "xiao": those of the published code. "strict": B is rescaled to the norm of W, which
            leaves no free scale (strict normalisation, Moskovitz et al. 2018).
        gain: factor on B.
    Note:
        Under Dale's law a column of W has one sign, so "uniform" feedback starts with rank one: every unit receives the
        same error up to its sign, and the errors of a softmax sum to zero. "fixed" magnitudes have no such degeneracy.
    Source: Liao, Leibo & Poggio 2016; Xiao, Chen, Liao & Poggio 2019; BioTorch (uSF, frSF, brSF).
    """

    magnitude: Literal["uniform", "fixed", "batch"] = "uniform"
    scale: Literal["fan_out", "biotorch", "xiao", "strict"] = "fan_out"
    gain: float = 1.0

    def __post_init__(self) -> None:
        if self.magnitude not in ("uniform", "fixed", "batch"):
            raise ValueError(f"magnitude must be 'uniform', 'fixed' or 'batch', got {self.magnitude!r}")
        check_scale(self.scale, ("fan_out", "biotorch", "xiao", "strict"), self.gain)

    @property
    def redraws(self) -> bool:
        return self.magnitude == "batch"

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor | None:
        return self._magnitudes(layer, generator) if self.magnitude == "fixed" else None

    def matrix(self, layer: WeightedLayer) -> Tensor:
        weight = layer.effective_weight()
        feedback = torch.sign(weight)
        if self.magnitude == "uniform":
            if self.scale != "strict":
                feedback.mul_(feedback_rms(layer, self.scale) * self.gain)
        elif self.magnitude == "fixed":
            assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
            feedback.mul_(layer.feedback_weight)
        else:
            feedback.mul_(self._magnitudes(layer, layer.noise_source()))
        if self.scale == "strict":
            norm = torch.linalg.vector_norm(feedback)
            feedback.mul_(self.gain * torch.linalg.vector_norm(weight) / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        return feedback

    def _magnitudes(self, layer: WeightedLayer, source: torch.Generator | Noise) -> Tensor:
        strict = self.scale == "strict"
        drawn = random_feedback(layer, "fan_out" if strict else self.scale, source).abs_()
        return drawn if strict else drawn.mul_(self.gain)

"""Local alignment losses: feedback weights that minimise a loss of their own layer."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale, random_feedback

PRIMITIVES = ("decay", "amp", "self_", "sparse", "null")

RULES: dict[str, dict[str, float]] = {
    "mirror": {"decay": 1e-3, "amp": 1e-3},
    "symmetric": {"decay": 1e-3, "self_": 2e-3},
    "activation": {"sparse": 1e-3, "amp": 2e-3},
    "information": {"amp": 2e-3, "null": 1e-3, "decay": 1e-3},
    "kolen_pollack": {"decay": 1e-3},
    "none": {},
}
"""The published rules, with the default coefficients of the published code (its params.py)."""


@dataclass(frozen=True)
class LocalAlignment(Pathway):
    """B, a parameter, descends a sum of local losses of the layer's input x, W and B, in the same backward pass.

    In W's layout, E over time and batch, sums over units (and over positions in a convolution):

        decay   |W|^2 + |B|^2                        gradient of B     2 B
        amp     -E (B x) . (W x)                                      -E (W x) x^T
        self_   -sum W * B (the paper's "self")                       -W
        sparse  E |W x|^2 + E |B x|^2                                  2 E (B x) x^T
        null    E |B^T W x|^2                                          2 E (W x) (B^T W x)^T

    The local loss of a layer is the sum of these with their coefficients; its gradient does not depend on the loss that
    is differentiated (nor on a scaling of it against underflow), and does not pass to x. How far B moves is up to the
    optimiser, to which B.grad is that of any parameter; its weight decay acts on B too.

    Args:
        rule: which of them, with the coefficients that the published code has by default: "mirror" (decay 1e-3, amp
            1e-3), "symmetric" (decay 1e-3, self 2e-3), "activation" (sparse 1e-3, amp 2e-3), "information" (amp 2e-3,
            null 1e-3, decay 1e-3); "kolen_pollack": decay 1e-3, and B gets W's gradient besides; "none".
            "symmetric" and "activation" weigh B against W itself: they presume what they explain, and are controls.
        decay, amp, self_, sparse, null: coefficients that replace or add to the rule's; None leaves the rule's.
        update_forward: let the local loss move W too; False, as in the published code by default, takes W as given.
            "kolen_pollack" lets W decay as B does in either case.
        scale, gain: of the initial B, as in `FeedbackAlignment`.
    Source: Kunin et al. 2020, from their code (primitives.py, alignment.py, params.py); x and W x are its
        "forward_input" and "forward_projection" without bias or activation function. That code has further switches
        (noise for x, centring, biases, activation functions, the reversed reconstruction), and the metaparameters
        of the paper's runs, found by search, are in files that we did not read: unverified against its results.
    """

    rule: Literal["mirror", "symmetric", "activation", "information", "kolen_pollack", "none"] = "information"
    decay: float | None = None
    amp: float | None = None
    self_: float | None = None
    sparse: float | None = None
    null: float | None = None
    update_forward: bool = False
    scale: Literal["fan_out", "biotorch", "xiao"] = "fan_out"
    gain: float = 1.0

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(map(repr, RULES))}, got {self.rule!r}")
        for name, coefficient in self.coefficients.items():
            if not 0 <= coefficient < math.inf:
                raise ValueError(f"{name} is a coefficient >= 0, got {coefficient!r}")
        if self.rule == "none" and not any(self.coefficients.values()):
            raise ValueError("rule='none' needs a coefficient: write decay=, amp=, self_=, sparse= or null=")
        check_scale(self.scale, ("fan_out", "biotorch", "xiao"), self.gain)

    @property
    def coefficients(self) -> dict[str, float]:
        """The coefficient of every primitive in use."""
        given = {name: getattr(self, name) for name in PRIMITIVES}
        return RULES[self.rule] | {name: value for name, value in given.items() if value is not None}

    @property
    def tied(self) -> bool:
        return self.rule == "kolen_pollack"

    @property
    def local(self) -> bool:
        return True

    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor:
        return random_feedback(layer, self.scale, generator).mul_(self.gain)

    def matrix(self, layer: WeightedLayer) -> Tensor:
        assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
        return layer.feedback_weight

    def local_loss(self, layer: WeightedLayer, x: Tensor) -> Tensor:
        x, weight = layer.fold(x.detach()), layer.effective_weight()
        if not (self.update_forward or self.tied):
            weight = weight.detach()
        return local_loss(layer, x, weight, self.matrix(layer), self.coefficients)


def local_loss(
    layer: WeightedLayer, x: Tensor, weight: Tensor, feedback: Tensor, coefficients: dict[str, float]
) -> Tensor:
    """The sum of the primitives of `LocalAlignment` with their coefficients.

    Args:
        x: the layer's input, folded: (N, in) or (N, C_in, H, W). weight, feedback: W and B, in W's layout.
    """
    c = {name: coefficients.get(name, 0.0) for name in PRIMITIVES}
    n = len(x)
    total = weight.new_zeros(())
    if c["decay"]:
        total = total + c["decay"] * (_dot(weight, weight) + _dot(feedback, feedback))
    if c["self_"]:
        total = total - c["self_"] * _dot(weight, feedback)
    if c["amp"] or c["sparse"] or c["null"]:
        forward = layer.through(x, weight)
        backward, transposed = torch.func.vjp(lambda z: layer.through(z, feedback), x)[:2]  # B x, and y -> B^T y
        total = total - c["amp"] / n * _dot(forward, backward)
        total = total + c["sparse"] / n * (_dot(forward, forward) + _dot(backward, backward))
    if c["null"]:
        (returned,) = transposed(forward)
        total = total + c["null"] / n * _dot(returned, returned)
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """sum a * b, in float32 at least."""
    exact = torch.promote_types(a.dtype, torch.float32)
    return (a.to(exact) * b.to(exact)).sum()

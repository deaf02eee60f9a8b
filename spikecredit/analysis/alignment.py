"""Alignment: how far the delivered error is from the true one, and the feedback weights from the forward ones."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.network import Network
from spikecredit.pathways import Backprop
from spikecredit.synapses import Synapse

NORM_FLOOR = 1e-12
"""Below this norm a direction is rounding error, and the angle is NaN."""

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LayerAlignment:
    """One synapse layer; angles in degrees, NaN where a norm is below `NORM_FLOOR`.

    error_angle: between the delivered error delta_l = dL/da_l and that of backprop at the same weights and input, as
        vectors over time, batch and units. error_norm, true_error_norm: their Euclidean norms.
    weight_angle: between the effective feedback B and the effective weight W. weight_norm, feedback_norm: theirs.
    sign_agreement: fraction of the entries in which sign(B) = sign(W), over those where W is not 0.
    error_angle_over_time, error_ratio_over_time: for each step (where asked for) the angle between the delivered and
        the true error of that step, and the ratio of their norms, NaN where that of the true one is below the floor.
    Under direct feedback no B has the layout of W: weight_angle, feedback_norm and sign_agreement are NaN.
    """

    error_angle: float
    error_norm: float
    true_error_norm: float
    weight_angle: float
    weight_norm: float
    feedback_norm: float
    sign_agreement: float
    error_angle_over_time: tuple[float, ...] = ()
    error_ratio_over_time: tuple[float, ...] = ()


def angle(a: Tensor, b: Tensor) -> float:
    """The angle between two tensors as vectors, in degrees, in float64; NaN if a norm is below `NORM_FLOOR`.

    By atan2 of |a/|a| - b/|b|| and |a/|a| + b/|b||, which keeps its accuracy near 0 and 180 degrees, where arccos
    loses it.
    """
    a, b = a.detach().double().flatten(), b.detach().double().flatten()
    norm_a, norm_b = torch.linalg.vector_norm(a), torch.linalg.vector_norm(b)
    if not (norm_a > NORM_FLOOR and norm_b > NORM_FLOOR):
        return math.nan
    a, b = a / norm_a, b / norm_b
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


def mean_potential_loss(out: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the mean output over time: the loss of `losses.MeanPotential`."""
    return F.cross_entropy(out.mean(0), labels)


def alignment(
    net: Network, x: Tensor, y: Tensor, loss: LossFunction = mean_potential_loss, over_time: bool = False
) -> dict[str, LayerAlignment]:
    """The alignment of every synapse layer on one batch.

    Works on copies: neither the network's gradients nor its running statistics nor its noise streams change.

    Args:
        net: the network, in the mode (training or evaluation) in which the errors are to be compared.
        x: (T, B, *in). y: labels (B,).
        loss: (out (T, B, *out), y) -> scalar.
        over_time: fill the fields that have a number for each step too.
    Returns:
        by layer name, in order. Recurrent synapses have no currents of their own: their error is that of the layer's
        input synapses, and only their weights are compared.
    """
    delivered = _errors(net, x, y, loss, backprop=False)
    true = _errors(net, x, y, loss, backprop=True)
    probe = copy.deepcopy(net)
    result = {}
    for name, layer in probe.synapses().items():
        weight = layer.effective_weight().detach()
        feedback = None if layer.pathway.direct else layer.pathway.feedback(layer)
        shared = name.removesuffix(".recurrent") + ".input" if name.endswith(".recurrent") else name
        known = shared in delivered
        steps = zip(delivered[shared], true[shared], strict=True) if known and over_time else ()
        angles, ratios = [], []
        for ours, theirs in steps:
            angles.append(angle(ours, theirs))
            ratios.append(_norm(ours) / _norm(theirs) if _norm(theirs) > NORM_FLOOR else math.nan)
        result[name] = LayerAlignment(
            error_angle=angle(delivered[shared], true[shared]) if known else math.nan,
            error_norm=_norm(delivered.get(shared)),
            true_error_norm=_norm(true.get(shared)),
            weight_angle=math.nan if feedback is None else angle(feedback, weight),
            weight_norm=_norm(weight),
            feedback_norm=_norm(feedback),
            sign_agreement=_sign_agreement(feedback, weight),
            error_angle_over_time=tuple(angles),
            error_ratio_over_time=tuple(ratios),
        )
    return result


def _sign_agreement(feedback: Tensor | None, weight: Tensor) -> float:
    used = weight != 0
    if feedback is None or not used.any():
        return math.nan
    return float((feedback.sign() == weight.sign())[used].double().mean())


def _norm(tensor: Tensor | None) -> float:
    return math.nan if tensor is None else float(torch.linalg.vector_norm(tensor.double()))


def _errors(net: Network, x: Tensor, y: Tensor, loss: LossFunction, backprop: bool) -> dict[str, Tensor]:
    """dL/da of every synapse layer's output current, by name."""
    twin = copy.deepcopy(net)
    if backprop:
        twin.broadcast = None
    errors: dict[str, Tensor] = {}
    for name, layer in twin.synapses().items():
        if backprop:
            layer.pathway = Backprop()

        def keep(module: Synapse, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            def add(gradient: Tensor) -> None:
                errors[name] = errors[name] + gradient if name in errors else gradient

            if output.requires_grad:  # not after frozen layers only
                output.register_hook(add)

        layer.register_forward_hook(keep)
    with torch.enable_grad():
        # A constant input, materialised: errors are compared step by step in the layers before the first neuron too.
        x = x.contiguous()
        loss(twin(x, target=y) if twin.needs_target else twin(x), y).backward()
    return errors

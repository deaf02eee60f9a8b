"""Alignment: how far the delivered error is from the true one, and the feedback weights from the forward ones."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.network import Network
from spikecredit.pathways import Backprop
from spikecredit.synapses import RecurrentLinear, Synapse, synapses_of

NORM_FLOOR = 1e-12
"""Below this norm a direction is rounding error, and the angle is NaN."""

SAME_LOSS = 1e-3
"""Relative difference of two losses up to which their forward passes are the same but for rounding."""

LossFunction = Callable[[Any, Any], Tensor]


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


def of_rule(layers: dict[str, LayerAlignment], errors: dict[str, tuple[Tensor, Tensor]]) -> dict[str, LayerAlignment]:
    """The alignment of a network whose errors, (delivered, true) by layer, are those of a rule and not of a backward
    pass; NaN where they, and with them B, have no part in it."""
    found = {}
    for name, layer in layers.items():
        if name in errors:
            ours, theirs = errors[name]
            found[name] = replace(
                layer,
                error_angle=angle(ours, theirs),
                error_norm=float(ours.norm()),
                true_error_norm=float(theirs.norm()),
            )
        else:
            nan = math.nan
            found[name] = LayerAlignment(nan, nan, layer.true_error_norm, nan, layer.weight_norm, nan, nan)
    return found


def mean_potential_loss(out: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the mean output over time: the loss of `losses.MeanPotential`."""
    return F.cross_entropy(out.mean(0), labels)


def alignment(
    net: nn.Module, x: Any, y: Any, loss: LossFunction | None = None, over_time: bool = False
) -> dict[str, LayerAlignment]:
    """The alignment of every synapse layer on one batch, in a `Network` or in a model that `convert` went through.

    Works on copies, with the same random numbers for both errors: neither gradients nor running statistics nor random
    streams, torch's global ones among them, change.

    Args:
        net: the network or model, in the mode (training or evaluation) in which the errors are to be compared.
        x: what it takes; of a `Network` (T, B, *in). y: labels (B,), or whatever the loss takes.
        loss: (net(x), y) -> scalar. By default `mean_potential_loss` for a `Network`; a model needs one.
        over_time: fill the fields that have a number for each step too. Steps of a `Network` are time steps. In a model
            they are calls of the layer, which in a loop over time are time steps.
    Returns:
        by layer name, in order of registration. Recurrent synapses of a `RecurrentLinear` have no currents of their
        own: their error is that of the layer's input synapses, and only their weights are compared. The errors of a
        layer that is called several times (in a loop, or because it is shared) are one vector, call after call. NaN for
        a layer that is not called, or to which no error leads.
    Raises:
        ValueError: the module has no layer of ours, is wrapped, cannot be copied, does not compute the same twice, or
            its loss is no scalar that depends on the weights. The message says what to do.
    """
    layers = synapses_of(net)
    if not isinstance(net, Network):
        loss = _check(net, loss, bool(layers))
    delivered = _errors(net, x, y, loss or mean_potential_loss, backprop=False)
    true = _errors(net, x, y, loss or mean_potential_loss, backprop=True)
    if not isinstance(net, Network):
        _check_same(net, delivered, true)
    shares = {
        f"{name}.recurrent".lstrip("."): f"{name}.input".lstrip(".")
        for name, module in net.named_modules()
        if isinstance(module, RecurrentLinear)
    }
    result = {}
    for name, layer in synapses_of(_copied(net)).items():
        weight = layer.effective_weight().detach()
        feedback = None if layer.pathway.direct else layer.pathway.feedback(layer)
        shared = shares.get(name, name)
        ours, theirs = _joined(delivered.calls.get(shared)), _joined(true.calls.get(shared))
        angles, ratios = [], []
        if over_time and ours is not None:
            for a, b in zip(*(_steps(net, e.calls[shared]) for e in (delivered, true)), strict=True):
                angles.append(angle(a, b))
                ratios.append(_norm(a) / _norm(b) if _norm(b) > NORM_FLOOR else math.nan)
        result[name] = LayerAlignment(
            error_angle=math.nan if ours is None or theirs is None else angle(ours, theirs),
            error_norm=_norm(ours),
            true_error_norm=_norm(theirs),
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


@dataclass
class _Errors:
    """What one backward pass delivers: dL/da of each call of each synapse layer, in order, and the loss itself."""

    calls: dict[str, list[Tensor]]
    loss: Tensor


def _errors(net: nn.Module, x: Any, y: Any, loss: LossFunction, backprop: bool) -> _Errors:
    """dL/da of every synapse layer's output current, call by call. Zero for a call to which no error leads; no entry
    for a layer of which that holds for all calls."""
    twin = _copied(net)
    if backprop:
        for module in twin.modules():
            if isinstance(module, Network):
                module.broadcast = None
    outputs: dict[str, list[tuple[torch.Size, torch.dtype, torch.device]]] = {}
    found: dict[str, dict[int, Tensor]] = {}
    for name, layer in synapses_of(twin).items():
        if backprop:
            layer.pathway = Backprop()

        def keep(module: Synapse, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> Tensor:
            calls = outputs.setdefault(name, [])
            index = len(calls)
            calls.append((output.shape, output.dtype, output.device))
            if output.requires_grad:  # not after layers whose weights are fixed only
                output.register_hook(lambda gradient: found.setdefault(name, {}).__setitem__(index, gradient))
            # Written over in place (nn.ReLU(inplace=True)), a view takes another way back, which misses the hook.
            return output.clone() if output._is_view() else output

        layer.register_forward_hook(keep)
    if isinstance(x, Tensor):
        x = x.detach()
    with torch.enable_grad(), torch.random.fork_rng(devices=_devices(x)):
        if isinstance(twin, Network):
            # A constant input, materialised: errors are compared step by step before the first neuron too.
            x = x.contiguous()
            out = twin(x, target=y) if twin.needs_target else twin(x)
        else:
            out = twin(x)
        total = loss(out, y)
        _check_loss(total)
        # Of the copy's weights only: a loss or an input with parameters of its own gets no gradient from us.
        torch.autograd.backward(total, inputs=[p for p in twin.parameters() if p.requires_grad])
    calls = {
        name: [
            there[index] if index in there else torch.zeros(shape, dtype=dtype, device=device)
            for index, (shape, dtype, device) in enumerate(outputs[name])
        ]
        for name, there in found.items()
    }
    return _Errors(calls, total.detach())


def _devices(x: Any) -> list[torch.device]:
    """The device whose random numbers a forward pass may draw, besides the CPU."""
    return [x.device] if isinstance(x, Tensor) and x.is_cuda else []


def _joined(calls: list[Tensor] | None) -> Tensor | None:
    """All calls of a layer as one vector."""
    if not calls:
        return None
    return calls[0] if len(calls) == 1 else torch.cat([call.flatten() for call in calls])


def _steps(net: nn.Module, calls: list[Tensor]) -> list[Tensor]:
    """What a step is: of time in a network, a call of the layer in a model."""
    if not isinstance(net, Network):
        return calls
    return [torch.cat([part.flatten() for part in parts]) for parts in zip(*calls, strict=True)]


def _copied(net: nn.Module) -> nn.Module:
    """A deep copy. What a module keeps of its last pass (snnTorch's neurons keep their state) comes without history."""
    try:
        return copy.deepcopy(net)
    except RuntimeError:  # a tensor with history
        memo: dict[int, Any] = {id(t): t.detach().clone() for m in net.modules() for t in _with_history(vars(m))}
    try:
        return copy.deepcopy(net, memo)
    except RuntimeError as error:
        raise ValueError(
            f"this {type(net).__name__} cannot be copied: {error}. It keeps a tensor of an earlier forward pass where "
            "its modules do not show it: set that to None, or detach it, before measuring"
        ) from error


def _with_history(kept: Any) -> Iterator[Tensor]:
    """The tensors among a module's attributes, or in lists and dicts of them, that a forward pass made."""
    if isinstance(kept, Tensor):
        if not kept.is_leaf:
            yield kept
    elif isinstance(kept, dict | list | tuple):
        for value in kept.values() if isinstance(kept, dict) else kept:
            yield from _with_history(value)


def _check(net: nn.Module, loss: LossFunction | None, converted: bool) -> LossFunction:
    """Refuse a model that cannot be measured; its loss."""
    kind = type(net).__name__
    inner = getattr(net, "_orig_mod", None) or getattr(net, "module", None)
    if isinstance(net, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(net, "_orig_mod"):
        place = "_orig_mod" if hasattr(net, "_orig_mod") else "module"
        raise ValueError(f"{kind} is a wrapper around the {type(inner).__name__}: measure that, net.{place}")
    if not converted:
        raise ValueError(f"this {kind} has no layer with a pathway: give it some by spikecredit.convert(model, ...)")
    if loss is None:
        raise ValueError(
            f"what the output of this {kind} is, is not known here: pass loss=, a function of model(x) and y such as "
            "torch.nn.functional.cross_entropy"
        )
    for name, module in net.named_modules():
        if isinstance(module, Network) and module.needs_target:
            raise ValueError(
                f"{name} takes the target in its forward pass, as backprop does not, so its true error cannot be "
                "measured inside another model: measure the Network by itself"
            )
    return loss


def _check_loss(total: Any) -> None:
    if not isinstance(total, Tensor) or total.numel() != 1:
        what = f"{tuple(total.shape)}" if isinstance(total, Tensor) else type(total).__name__
        raise ValueError(f"loss must return one number, as a tensor; it returned {what}")
    if not total.requires_grad:
        raise ValueError(
            "the loss depends on no weight by gradient, so there is no error: something on the way detaches it "
            "(torch.no_grad, detach, argmax, a spike without surrogate), or all weights are fixed"
        )


def _check_same(net: nn.Module, delivered: _Errors, true: _Errors) -> None:
    """Refuse a model whose two forward passes differ: its errors would not be those of one input."""
    shapes = [{name: [call.shape for call in calls] for name, calls in e.calls.items()} for e in (delivered, true)]
    common = shapes[0].keys() & shapes[1].keys()
    same = all(shapes[0][name] == shapes[1][name] for name in common)
    if not same or not torch.allclose(delivered.loss, true.loss, rtol=SAME_LOSS, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"two forward passes of this {type(net).__name__} differ (losses {float(delivered.loss):g} and "
            f"{float(true.loss):g}): it draws random numbers elsewhere than from torch's global generator, or reads "
            "what an earlier pass left outside its modules. Call model.eval(), or take that out, before measuring"
        )

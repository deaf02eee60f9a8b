"""What a sign constraint does to weights and currents: singular values, dead synapses, excitation and inhibition."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikecredit.synapses import Constrained, RecurrentLinear, Synapse, synapses_of
from spikecredit.synapses.dann import DANNSynapse

DEAD = 1e-6
"""A synapse is dead if its effective weight is smaller than this, in units of its layer's root mean square."""


@dataclass(frozen=True)
class Spectrum:
    """The effective weights of one synapse layer, a convolution's as the matrix (out, in kh kw).

    values: singular values, largest first, (min(out, in),), float64 on the CPU.
    entropy: -sum p log p / log n for p = s^2 / sum s^2: 1 if all n singular values are equal, 0 for a matrix of rank
        one; NaN for a matrix of zeros and for n = 1. Source: Alter, Brown & Botstein 2000. Li et al. 2023 use a
        normalised entropy of the spectrum of networks under Dale's law (unverified: whether of s or of s^2 was not
        seen).
    largest: share of the first singular value in sum s^2.
    dead: fraction of the weights below `DEAD` root mean squares.
    """

    values: Tensor
    entropy: float
    largest: float
    dead: float


@torch.no_grad()
def spectrum(net: nn.Module) -> dict[str, Spectrum]:
    """The spectrum of every synapse layer of a network or of a converted model, by layer name."""
    return {name: spectrum_of(layer.effective_weight()) for name, layer in synapses_of(net).items()}


@torch.no_grad()
def spectrum_of(weight: Tensor) -> Spectrum:
    """The spectrum of one weight (out, in, ...).

    By the eigenvalues of the smaller of W W^T and W^T W, where the weight is, so that it can be asked for after every
    epoch: singular values below 1e-8 of the largest are rounding.
    """
    matrix = weight.detach().double().flatten(1)
    matrix = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    rms = matrix.square().mean().sqrt()
    if not bool(rms.isfinite()):  # of which there are no eigenvalues
        return Spectrum(torch.full((len(matrix),), math.nan, dtype=torch.float64), math.nan, math.nan, math.nan)
    squares = torch.linalg.eigvalsh(matrix @ matrix.T).flip(0).clamp_min(0)
    p = squares / squares.sum()
    terms = torch.where(p > 0, p * p.log(), 0.0)
    known = len(p) > 1 and bool(rms > 0)
    return Spectrum(
        values=squares.sqrt().cpu(),
        entropy=float(-terms.sum() / math.log(len(p))) if known else math.nan,
        largest=float(p[0]),
        dead=float((matrix.abs() <= DEAD * rms).double().mean()),
    )


@dataclass(frozen=True)
class Currents:
    """What reaches the units behind a synapse layer: excitation and inhibition (T, B, *units), both >= 0.

    The current is excitation - inhibition + bias; in a DANN layer that divides, before the division. A term W x counts
    as excitation where it is positive, so that layers whose inputs may be negative, as pixels may, are told apart too.
    """

    excitation: Tensor
    inhibition: Tensor


@dataclass(frozen=True)
class Balance:
    """Excitation E and inhibition I of the units behind one synapse layer, on one batch.

    excitation, inhibition: means over time, batch and units.
    index: mean over the units of (E - I) / (E + I), for E and I averaged over time and batch: 0 is balance, 1 is
        excitation alone, -1 inhibition alone. A unit that nothing reaches is left out; NaN where nothing reaches any.
    spread: standard deviation of that ratio over the units. A mean near 0 with a large spread is no balance of neurons.
    correlation: mean over the units of the correlation of E and I over time and batch: near 1 if inhibition follows
        excitation. NaN where neither varies.
    """

    excitation: float
    inhibition: float
    index: float
    spread: float
    correlation: float


@torch.no_grad()
def currents(net: nn.Module, x: Tensor) -> dict[str, Currents]:
    """Excitation and inhibition behind every synapse layer of a network on x (T, B, *in), by layer name.

    A `RecurrentLinear` is one layer: input and recurrent synapses add up at the same neurons. Works on a copy: nothing
    of the network changes.
    """
    twin = copy.deepcopy(net)
    seen: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    inside = {layer for m in twin.modules() if isinstance(m, RecurrentLinear) for layer in (m.input, m.recurrent)}
    layers = {
        name: module
        for name, module in twin.named_modules()
        if isinstance(module, Synapse | RecurrentLinear) and module not in inside
    }
    for name, module in layers.items():
        _listen(module, seen.setdefault(name, []))
    twin(x)
    result = {}
    for name, calls in seen.items():
        parts = [_split(layers[name], *call) for call in calls]
        if parts:
            result[name] = Currents(*(torch.cat(each) for each in zip(*parts, strict=True)))
    return result


def balance(net: nn.Module, x: Tensor) -> dict[str, Balance]:
    """The balance of excitation and inhibition behind every synapse layer on x (T, B, *in), by layer name."""
    return {name: _balance(each) for name, each in currents(net, x).items()}


def _listen(module: nn.Module, calls: list[tuple[Tensor, Tensor | None]]) -> None:
    """Keep the input of every call, and of recurrent layers the output."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        recurrent = isinstance(layer, RecurrentLinear)
        calls.append((inputs[0], output if recurrent else None))

    module.register_forward_hook(hook)


def _split(layer: nn.Module, x: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(layer, Synapse):
        return _excitation_inhibition(layer, x)
    assert isinstance(layer, RecurrentLinear) and out is not None
    heard = torch.cat([torch.zeros_like(out[:1]), out[:-1]])
    of_input, of_others = _excitation_inhibition(layer.input, x), _excitation_inhibition(layer.recurrent, heard)
    return of_input[0] + of_others[0], of_input[1] + of_others[1]


def _excitation_inhibition(layer: Synapse, x: Tensor) -> tuple[Tensor, Tensor]:
    weight, folded = layer.effective_weight().detach(), layer.fold(x.detach())
    if isinstance(layer, DANNSynapse):  # which has inhibitory units of its own
        positive, negative = layer.weight.detach(), layer.weight.detach() - weight
    else:
        positive, negative = weight.clamp_min(0), -weight.clamp_max(0)
    for_x, against = folded.clamp_min(0), -folded.clamp_max(0)
    excitation, inhibition = layer.through(for_x, positive), layer.through(for_x, negative)
    if bool(against.any()):
        excitation += layer.through(against, negative)
        inhibition += layer.through(against, positive)
    leading = x.shape[:2]
    return excitation.unflatten(0, leading), inhibition.unflatten(0, leading)


def _balance(each: Currents) -> Balance:
    e, i = (current.flatten(0, 1).flatten(1).double() for current in (each.excitation, each.inhibition))
    mean_e, mean_i = e.mean(0), i.mean(0)
    reached = mean_e + mean_i > 0
    ratio = ((mean_e - mean_i) / (mean_e + mean_i))[reached]
    deviations = (e - mean_e) * (i - mean_i)
    spread_e, spread_i = (current.std(0, correction=0) for current in (e, i))
    varies = (spread_e > 1e-9 * mean_e) & (spread_i > 1e-9 * mean_i)
    correlation = (deviations.mean(0) / (spread_e * spread_i))[varies]
    return Balance(
        excitation=float(e.mean()),
        inhibition=float(i.mean()),
        index=float(ratio.mean()),
        spread=float((ratio - ratio.mean()).square().mean().sqrt()),
        correlation=float(correlation.mean()),
    )


@dataclass(frozen=True)
class LayerSigns:
    """The signs of one layer of weights; for normalisation the weights are the scales.

    constraint: what it is under, in words. weights: how many. positive, negative, zero: of the
    effective ones, those that the forward pass uses (of a DANN layer W_EX - W_EI W_IX, of any sign; its violations are
    counted in what it is made of). violations: how many break the constraint. audited: whether any
    could, False for what is unconstrained or exempt, as the sensory layer is under Dale's law.
    """

    constraint: str
    weights: int
    positive: int
    negative: int
    zero: int
    violations: int
    audited: bool


@torch.no_grad()
def sign_audit(net: nn.Module) -> dict[str, LayerSigns]:
    """The signs of every weight that a constraint may hold, by layer name: synapses and scales of normalisation."""
    result = {}
    for name, layer in net.named_modules():
        if isinstance(layer, Constrained):
            weight = layer.effective_weight()
            result[name] = LayerSigns(
                constraint=layer.law,
                weights=weight.numel(),
                positive=int((weight > 0).sum()),
                negative=int((weight < 0).sum()),
                zero=int((weight == 0).sum()),
                violations=layer.violations(),
                audited=layer.presynaptic_sign is not None
                or layer.frozen_sign is not None
                or isinstance(layer, DANNSynapse),
            )
    return result

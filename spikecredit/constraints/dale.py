"""Dale's law: a neuron excites all its targets or inhibits all its targets, for life."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.constraints.constraint import ConstrainedLayer, Constraint, Population
from spikecredit.seeds import generator as stream_generator

MAGNITUDE_FLOOR = 1e-6
"""Smallest magnitude at initialisation where the parameter is its logarithm or inverse softplus, both -inf at 0."""


@dataclass(frozen=True)
class Connectivity:
    """Probabilities that a synapse exists, by the kinds of its ends: first the target's, as in W_EI.

    Drawn once, from the seed's own stream, and saved with the layer. ei: from inhibitory to excitatory neurons.

    Errors: ValueError, for a probability that is not above 0 and at most 1.
    """

    ee: float = 1.0
    ei: float = 1.0
    ie: float = 1.0
    ii: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ee", "ei", "ie", "ii"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability above 0 and at most 1, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Dale(Constraint):
    """W = W_+ D: magnitudes W_+ >= 0, and D = diag(+-1) the signs of the presynaptic units, the columns of W (out, in).

    In a convolution the unit is the input channel: all neurons of a channel are of one type, and a flattened channel
    hands its sign to all its neurons. Scales of normalisation layers stay >= 0, since a negative one would flip
    the sign of all synapses onto its unit. The sensory input (the first layer) is exempt by default; biases are always.

    Args:
        excitatory: fraction of excitatory units in each population, round(excitatory * units) of them. Which ones is
            drawn from the seed's own stream "dale", saved with the layer, and never changes.
        mode: "project": after each optimiser step weights of the wrong sign become 0 (`after_step` or `attach`).
            "reparametrize": W_+ = magnitude(parameter), so that no step can break the law.
        feedback: "exempt": errors have carriers of their own, which need not obey. "own": the error is carried by the
            same neurons, so B's signs follow *its* presynaptic unit, the row of W.
        magnitude: the function of mode "reparametrize": "abs", "exp" or "softplus".
        initialisation: of the magnitudes. "balanced": those that the layer came with, inhibitory ones scaled up so that
            inhibition cancels excitation on average, then all of them to the root mean square they had. "column_ei":
            drawn anew, exponential with mean sigma_e or sigma_i = (n_e / n_i) sigma_e and
            sigma_e^2 = 1 / [(2 pi - 1) / (2 pi) (n_e + n_e^2 / n_i)], for n_e excitatory and n_i inhibitory inputs of a
            unit: zero mean and unit variance for half-rectified N(0, 1) inputs. "log_normal": drawn anew, log-normal
            with a mean 1.5 times the standard deviation, with the root mean square that the layer came with, then
            balanced: for optimisers that move weights by factors, such as `EG`. "keep": as they came; the mean current
            then dwarfs its variance.
        sensory: "exempt": the first layer may have any weights. "excitatory": its inputs are neurons that excite, which
            asks for inputs that are never negative, such as ON and OFF channels (`encode.on_off`).
        connection: probabilities that two neurons are connected, by their kinds, within a population and from one to
            the next; None: all are. Channels of a convolution count as neurons. Synapses of the input and of the last
            layer of a network, whose targets are no neurons of either kind, all exist. The weights that are left grow
            so that the norm of W is what it was. Feedback weights that do not follow W exist everywhere.
    Source: Cornford et al. 2021 (column convention; ColumnEI, whose formula is that of their code); Cornford et al.
        2024 (log-normal; the ratio is that of their code); "balanced" is ours.
    """

    excitatory: float = 0.8
    mode: Literal["project", "reparametrize"] = "project"
    feedback: Literal["exempt", "own"] = "exempt"
    magnitude: Literal["abs", "exp", "softplus"] = "abs"
    initialisation: Literal["balanced", "column_ei", "log_normal", "keep"] = "balanced"
    sensory: Literal["exempt", "excitatory"] = "exempt"
    connection: Connectivity | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.excitatory <= 1:
            raise ValueError(f"excitatory is a fraction between 0 and 1, got {self.excitatory!r}")
        for name, allowed in (
            ("mode", ("project", "reparametrize")),
            ("feedback", ("exempt", "own")),
            ("sensory", ("exempt", "excitatory")),
            ("magnitude", ("abs", "exp", "softplus")),
            ("initialisation", ("balanced", "column_ei", "log_normal", "keep")),
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
        order = torch.randperm(population.units, generator=stream_generator(seed, "dale", population.key))
        signs = torch.full((population.units,), -1, dtype=torch.int8)
        signs[order[: round(self.excitatory * population.units)]] = 1
        return signs

    def sensory_signs(self, units: int) -> Tensor | None:
        return torch.ones(units, dtype=torch.int8) if self.sensory == "excitatory" else None

    def connections(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Tensor | None:
        if (p := self.connection) is None:
            return None
        to_excitatory = torch.where(source > 0, p.ee, p.ei)
        probability = torch.where(target > 0, to_excitatory, torch.where(source > 0, p.ie, p.ii))
        return torch.rand(probability.shape, generator=generator).to(probability.device) < probability

    @torch.no_grad()
    def initialise(self, layer: ConstrainedLayer, generator: torch.Generator) -> None:
        sign = layer.presynaptic_sign
        if sign is None:
            return
        magnitudes = layer.weight.abs()
        if magnitudes.ndim > 1:  # a normalisation's scale has no inputs to balance
            positive = (sign > 0).expand_as(magnitudes)
            if layer.connected is not None:
                norm = torch.linalg.vector_norm(magnitudes)
                magnitudes = magnitudes * layer.connected
                magnitudes *= norm / torch.linalg.vector_norm(magnitudes).clamp_min(torch.finfo(norm.dtype).tiny)
            if self.initialisation == "log_normal":
                magnitudes = _log_normal(magnitudes, generator, layer.connected)
            if self.initialisation in ("balanced", "log_normal"):
                magnitudes = _balanced(magnitudes, positive)
            elif self.initialisation == "column_ei":
                magnitudes = _column_ei(magnitudes, positive, generator, layer.connected)
        if self.mode == "project":
            layer.weight.copy_(magnitudes * sign)
        else:
            layer.weight.copy_(self._parameter(magnitudes))

    def effective(self, layer: ConstrainedLayer) -> Tensor:
        if self.mode == "project" or layer.presynaptic_sign is None:
            return layer.weight
        weight = self._magnitudes(layer.weight) * layer.presynaptic_sign
        return weight if layer.connected is None else weight * layer.connected

    @torch.no_grad()
    def project(self, layer: ConstrainedLayer) -> None:
        sign = layer.presynaptic_sign
        if sign is None or self.mode == "reparametrize":
            return
        # One pass over W, in place: it is a matter of memory traffic.
        bounds = torch.zeros(2, *sign.shape, dtype=layer.weight.dtype, device=sign.device)
        bounds[0].masked_fill_(sign < 0, -math.inf)
        bounds[1].masked_fill_(sign > 0, math.inf)
        torch.clamp(layer.weight, *bounds, out=layer.weight)
        if layer.connected is not None:
            layer.weight.mul_(layer.connected)

    @torch.no_grad()
    def violations(self, layer: ConstrainedLayer) -> int:
        if layer.presynaptic_sign is None:
            return 0
        weight = self.effective(layer)
        wrong = weight * layer.presynaptic_sign < 0
        if layer.connected is not None:
            wrong |= (weight != 0) & ~layer.connected
        return int(wrong.sum())

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


def _balanced(magnitudes: Tensor, positive: Tensor) -> Tensor:
    """Inhibition scaled up to excitation's sum, then all to the root mean square they had."""
    excitation, inhibition = magnitudes[positive].sum(), magnitudes[~positive].sum()
    if not (excitation > 0 and inhibition > 0):
        return magnitudes
    balanced = torch.where(positive, magnitudes, magnitudes * (excitation / inhibition))
    return balanced * (magnitudes.square().mean().sqrt() / balanced.square().mean().sqrt())


def _log_normal(magnitudes: Tensor, generator: torch.Generator, connected: Tensor | None) -> Tensor:
    """Log-normal numbers with mean = 1.5 standard deviations and the root mean square of `magnitudes`."""
    spread = math.sqrt(math.log(1 + 1.5**-2))
    drawn = torch.empty(magnitudes.shape, dtype=torch.float64).normal_(0, spread, generator=generator)
    scale = magnitudes.square().mean().sqrt() * math.exp(-(spread**2))  # E[exp(2 spread N)] = exp(2 spread^2)
    drawn = drawn.exp_().to(magnitudes) * scale
    return drawn if connected is None else drawn * connected / connected.float().mean().sqrt()


def _column_ei(magnitudes: Tensor, positive: Tensor, generator: torch.Generator, connected: Tensor | None) -> Tensor:
    """Exponential magnitudes with the means of ColumnEI, by the inputs of each unit (row)."""
    inputs = tuple(range(1, magnitudes.ndim))
    exists = torch.ones_like(positive) if connected is None else connected.expand_as(positive)
    n_e = (positive & exists).sum(inputs, keepdim=True).double()
    n_i = (~positive & exists).sum(inputs, keepdim=True).double()
    variance = (2 * math.pi - 1) / (2 * math.pi)  # of w x, for w ~ Exp(1) and x half-rectified N(0, 1)
    one_kind = (n_e == 0) | (n_i == 0)  # nothing cancels: only the variance can be met
    terms = torch.where(one_kind, n_e + n_i, n_e + n_e.square() / n_i.clamp_min(1))
    sigma = (variance * terms.clamp_min(1)).rsqrt()
    sigma_i = torch.where(one_kind, sigma, sigma * n_e / n_i.clamp_min(1))
    drawn = torch.empty(magnitudes.shape, dtype=torch.float64).exponential_(generator=generator)
    return (drawn.to(magnitudes.device) * torch.where(positive, sigma, sigma_i) * exists).to(magnitudes.dtype)

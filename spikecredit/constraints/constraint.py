"""What a constraint is: which weights a synapse may have."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Population:
    """Units that share their identity: the neurons (or channels) between two synapses.

    Layers that read the same population name it by the same key, so that a unit has one sign wherever it projects.
    """

    key: str
    units: int


class ConstrainedLayer(Protocol):
    """What a constraint needs of a layer: a weight and, where they apply, signs of its units, which broadcast against
    it, and those of its synapses, in its shape."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def presynaptic_sign(self) -> Tensor | None: ...
    @property
    def postsynaptic_sign(self) -> Tensor | None: ...
    @property
    def frozen_sign(self) -> Tensor | None: ...
    @property
    def connected(self) -> Tensor | None:
        """Which synapses exist, bool, broadcasting against the weight; None if all do."""


class Constraint(ABC):
    """Base class: hyper-parameters only. The signs live in the layer, as int8 buffers."""

    @property
    def needs_projection(self) -> bool:
        """Whether an optimiser step can break the constraint, so that `project` must follow it."""
        return False

    @property
    def constrains_feedback(self) -> bool:
        """Whether feedback synapses are under the constraint too."""
        return False

    @property
    def freezes(self) -> bool:
        """Whether each synapse has a sign of its own: the layer then keeps `frozen_sign`, 0 where it is still free."""
        return False

    @abstractmethod
    def signs(self, population: Population, seed: int) -> Tensor | None:
        """The sign of every unit of a population, int8 in {-1, 1}, shape (units,); None if units have none."""

    def sensory_signs(self, units: int) -> Tensor | None:
        """The sign of every sensory input, int8 (units,); None if they are exempt."""
        return None

    def connections(self, source: Tensor, target: Tensor, generator: torch.Generator) -> Tensor | None:
        """Which synapses exist between units with these signs, which broadcast against the weight; None if all do."""
        return None

    @abstractmethod
    def initialise(self, layer: ConstrainedLayer, generator: torch.Generator) -> None:
        """Turn freshly initialised weights into ones that obey the constraint."""

    def start_epoch(self, layer: ConstrainedLayer, epoch: int) -> None:  # noqa: B027  (most know nothing of epochs)
        """At the start of an epoch of training, counted from 0: what begins later than training does."""

    @abstractmethod
    def effective(self, layer: ConstrainedLayer) -> Tensor:
        """The weight that the forward pass uses, made from the stored parameter."""

    @abstractmethod
    def project(self, layer: ConstrainedLayer) -> None:
        """After an optimiser step: bring the stored parameter back to the constraint, in place."""

    @abstractmethod
    def violations(self, layer: ConstrainedLayer) -> int:
        """How many effective weights break the constraint."""

    @abstractmethod
    def constrain_feedback(self, matrix: Tensor, layer: ConstrainedLayer) -> Tensor:
        """The feedback weights that the constraint allows, made from the pathway's."""


@dataclass(frozen=True)
class Unconstrained(Constraint):
    """Any weight is allowed."""

    def signs(self, population: Population, seed: int) -> None:
        return None

    def initialise(self, layer: ConstrainedLayer, generator: torch.Generator) -> None:
        return None

    def effective(self, layer: ConstrainedLayer) -> Tensor:
        return layer.weight

    def project(self, layer: ConstrainedLayer) -> None:
        return None

    def violations(self, layer: ConstrainedLayer) -> int:
        return 0

    def constrain_feedback(self, matrix: Tensor, layer: ConstrainedLayer) -> Tensor:
        return matrix

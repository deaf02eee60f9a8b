"""What every weighted layer shares: a pathway, a constraint, and how a network binds them."""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spikecredit.constraints import Constraint, Population, Unconstrained
from spikecredit.pathways import Backprop, Pathway
from spikecredit.seeds import Noise, generator, stream


@dataclass(frozen=True)
class Wiring:
    """What a network hands to its layers: defaults, and the seed from which each draws by its own name.

    `populations` is filled while the layers are bound: the modules that are neurons, by name, in order.
    """

    pathway: Pathway = field(default_factory=Backprop)
    constraint: Constraint = field(default_factory=Unconstrained)
    seed: int = 0
    populations: dict[str, nn.Module] = field(default_factory=dict)


class ConstraintWarning(UserWarning):
    """Constrained weights moved without being brought back to their constraint."""


class Constrained(nn.Module):
    """A layer whose `weight` may be under a constraint."""

    weight: Tensor
    presynaptic_sign: Tensor | None
    postsynaptic_sign: Tensor | None

    def set_up_constraint(self, constraint: Constraint | None) -> None:
        self.given_constraint = constraint
        self.constraint: Constraint = constraint or Unconstrained()
        self.register_buffer("presynaptic_sign", None)
        self.register_buffer("postsynaptic_sign", None)
        self._projected_version = -1
        self._warned = False
        self._given_weight: Tensor | None = None

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass uses: `weight` itself unless a constraint reparametrises it."""
        return self.constraint.effective(self)

    @torch.no_grad()
    def _release(self) -> None:
        """Before a constraint is bound anew: back from the parametrisation of the present one to plain weights.

        A layer with a constraint of its own is bound when it is made and again by its network, which must start from
        the weights that the layer came with, not from constrained ones.
        """
        untouched = self.weight._version == self._projected_version
        plain = self._given_weight if self._given_weight is not None and untouched else self.effective_weight()
        self._given_weight = None
        if plain is not self.weight:
            self.weight.copy_(plain)

    def project(self) -> None:
        """Bring `weight` back to its constraint, in place."""
        self.constraint.project(self)
        self._projected_version = self.weight._version

    def violations(self) -> int:
        """How many effective weights break the constraint."""
        return self.constraint.violations(self)

    def check_projected(self) -> None:
        """Warn once if constrained weights moved and now break the constraint."""
        if torch.compiler.is_compiling():  # versions of tensors are not part of a compiled program
            return
        if self._warned or not self.constraint.needs_projection or self.weight._version == self._projected_version:
            return
        self._projected_version = self.weight._version
        count = self.violations()
        if count:
            self._warned = True
            warnings.warn(
                f"{count} weights of {type(self).__name__} break {self.constraint}: they moved without a projection. "
                "Call spikecredit.after_step(net, optimizer) after every optimizer.step(), or "
                "spikecredit.attach(net, optimizer) once.",
                ConstraintWarning,
                stacklevel=3,
            )


class Synapse(Constrained):
    """Base of the weighted layers; with `nn.Linear` or `nn.Conv2d` it makes one.

    A layer's own pathway or constraint overrides its network's. Outside a network the layer draws its feedback weights
    and signs from torch's global random generator.
    """

    memoryless = True
    feedback_weight: Tensor | None
    noise: Noise | None

    @property
    def fan_in(self) -> int:
        """Number of inputs of one output unit."""
        return self.weight[0].numel()

    @property
    def fan_out(self) -> int:
        """Number of outputs of one input unit: what the feedback to that unit sums over."""
        return self.weight.shape[0] * self.weight[0, 0].numel()

    @property
    def units(self) -> tuple[int, int]:
        """Number of presynaptic and of postsynaptic units (features, or channels of a convolution)."""
        return self.weight.shape[1], self.weight.shape[0]

    def set_up(self, pathway: Pathway | None, constraint: Constraint | None) -> None:
        """At the end of a constructor: keep the layer's own choices and bind them if there are any."""
        if pathway is not None and pathway.direct:
            raise ValueError(
                f"{pathway} is no pathway of one layer: it leads from a network's output to all its neurons. Write "
                f"Network(..., pathway={type(pathway).__name__}(...))"
            )
        self.set_up_constraint(constraint)
        self.given_pathway = pathway
        self.pathway: Pathway = pathway or Backprop()
        self.register_buffer("feedback_weight", None)
        self.noise = None
        if pathway is not None or constraint is not None:
            seed = int(torch.randint(2**62, ()))
            inputs, outputs = self.units
            given = self.weight.detach().clone()
            self._bind(Population("in", inputs), Population("out", outputs), "layer", Wiring(seed=seed))
            self._given_weight = None if constraint is None else given

    def bind(
        self, source: Population | None, name: str, wiring: Wiring, target: Population | None = None
    ) -> Population:
        """Take this layer's pathway, constraint, feedback weights and signs from a network.

        Args:
            source: the presynaptic population; None for sensory input.
            name: the layer's name in the network, from which its random streams are named.
            wiring: the network's defaults and seed.
            target: the postsynaptic population where others project to it too; by default one of this layer's name.
        Returns:
            the postsynaptic population.
        """
        if wiring.pathway.direct and self.given_pathway is not None:
            raise ValueError(
                f"{name} has a pathway of its own, {self.given_pathway}, which would have nothing to carry: under "
                f"{wiring.pathway} no error travels back through a synapse. Leave pathway=None"
            )
        target = target or Population(name, self.units[1])
        self._bind(source, target, name, wiring)
        return target

    def _bind(
        self, source: Population | None, target: Population, name: str, wiring: Wiring, pathway: Pathway | None = None
    ) -> None:
        self._release()
        self.pathway = pathway or self.given_pathway or wiring.pathway
        self.constraint = self.given_constraint or wiring.constraint
        if self.pathway.transports_weights and self.constraint.constrains_feedback:
            raise ValueError(
                f"{name}: {self.constraint} with {self.pathway}: backprop's error travels through the forward weights, "
                "whose signs follow the other end of the synapse. Take Dale(feedback='exempt'), or a pathway with "
                "weights of its own such as SignSymmetry() or FeedbackAlignment()"
            )
        self.presynaptic_sign = self._signs(source, self.units[0], wiring.seed, name, axis=1)
        owned = target if self.constraint.constrains_feedback else None
        self.postsynaptic_sign = self._signs(owned, self.units[1], wiring.seed, name, axis=0)
        self.constraint.initialise(self, generator(wiring.seed, "dale", "weights", name))
        self._projected_version = self.weight._version
        self.noise = Noise(stream(wiring.seed, "noise", name)) if self.pathway.redraws else None
        self.feedback_weight = self.pathway.create(self, generator(wiring.seed, "feedback", name))

    def _signs(self, population: Population | None, units: int, seed: int, name: str, axis: int) -> Tensor | None:
        signs = None if population is None else self.constraint.signs(population, seed)
        if signs is None or population is None:
            return None
        if units % population.units:
            raise ValueError(f"{name} has {units} units where the population before it has {population.units}")
        signs = signs.repeat_interleave(units // population.units)  # a flattened channel hands on its sign
        return self.lay_out(signs, axis).to(self.weight.device)

    def lay_out(self, signs: Tensor, axis: int) -> Tensor:
        """Signs of the units of one axis of the weight, in a shape that broadcasts against it."""
        return signs.view(-1, *([1] * (self.weight.ndim - 1 - axis)))

    def constrain_feedback(self, feedback: Tensor) -> Tensor:
        """The feedback weights that the constraint allows."""
        return self.constraint.constrain_feedback(feedback, self)

    def noise_source(self) -> torch.Generator | Noise:
        """Where a pathway that redraws its weights takes them from."""
        assert self.noise is not None, "the layer was not bound to its pathway"
        return self.noise

    def feedback(self) -> Tensor | None:
        """B for this forward pass; None where the error goes through the weights, or where nothing asks for it."""
        if self.pathway.transports_weights or self.pathway.direct or not torch.is_grad_enabled():
            return None
        return self.pathway.feedback(self)

    def check_source(self, x: Tensor) -> None:
        """Refuse an input that waits for an error which a direct pathway hands to no synapse's input."""
        if self.pathway.direct and x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"the input of {type(self).__name__}({', '.join(map(str, self.units))}) asks for a gradient, but "
                f"under {self.pathway} no error travels back through a synapse: only neurons receive one. Put neurons "
                "between two synapses (sc.LIF(), sc.ReLU(); torch's nn.ReLU is none) and learned layers such as "
                "normalisation before them, hand `taps` on in a block of your own, and detach the network's input"
            )


def cast_for_autocast(device: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast does to the arguments of a matrix product, for our own autograd functions."""
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)

"""What every weighted layer shares: a pathway, a constraint, and how a network binds them."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from spikecredit.constraints import Constraint, Population, Unconstrained
from spikecredit.pathways import Backprop, Pathway
from spikecredit.pathways.broadcast import Broadcast
from spikecredit.seeds import Noise, generator, stream


@dataclass(frozen=True)
class Wiring:
    """What a network hands to its layers: defaults, and the seed from which each draws by its own name.

    `populations` is filled while the layers are bound: the modules that are neurons, by name, in order.

    `last` is the network's last synapse layer, whose targets are outputs.

    With `initialise=False` a layer that is under this very constraint already keeps its weights as they are.
    """

    pathway: Pathway = field(default_factory=Backprop)
    constraint: Constraint = field(default_factory=Unconstrained)
    seed: int = 0
    populations: dict[str, nn.Module] = field(default_factory=dict)
    initialise: bool = True
    last: nn.Module | None = None


class ConstraintWarning(UserWarning):
    """Constrained weights moved without being brought back to their constraint."""


class LearningWarning(UserWarning):
    """Forward weights moved, and the feedback weights that should learn from it did not."""


class Constrained(nn.Module):
    """A layer whose `weight` may be under a constraint."""

    weight: Tensor
    presynaptic_sign: Tensor | None
    postsynaptic_sign: Tensor | None
    frozen_sign: Tensor | None
    connected: Tensor | None

    def set_up_constraint(self, constraint: Constraint | None) -> None:
        self.given_constraint = constraint
        self.constraint: Constraint = constraint or Unconstrained()
        self.register_buffer("presynaptic_sign", None)
        self.register_buffer("postsynaptic_sign", None)
        self.register_buffer("frozen_sign", None)
        self.register_buffer("connected", None)
        self._projected_version = -1
        self._warned = False
        self._given_weight: Tensor | None = None

    def effective_weight(self) -> Tensor:
        """The weight that the forward pass uses: `weight` itself unless a constraint reparametrises it."""
        return self.constraint.effective(self)

    def constrained_parameters(self) -> tuple[Tensor, ...]:
        """What a projection may change, `weight` first."""
        return (self.weight,)

    @property
    def needs_projection(self) -> bool:
        """Whether a step of an optimiser can break what the layer has to obey."""
        return self.constraint.needs_projection

    @property
    def law(self) -> str:
        """What the layer has to obey, in words."""
        return str(self.constraint)

    def _moves(self) -> int:
        """A number that grows whenever something writes to a constrained parameter."""
        return sum(parameter._version for parameter in self.constrained_parameters())

    def _hold_signs(self, anew: bool) -> None:
        """Keep signs of the synapses where the constraint has them: all free if made anew, else as they are."""
        if not self.constraint.freezes:
            self.frozen_sign = None
        elif anew or self.frozen_sign is None:
            self.frozen_sign = torch.zeros_like(self.weight, dtype=torch.int8)

    @torch.no_grad()
    def _release(self) -> None:
        """Before a constraint is bound anew: back from the parametrisation of the present one to plain weights.

        A layer with a constraint of its own is bound when it is made and again by its network, which must start from
        the weights that the layer came with, not from constrained ones.
        """
        untouched = self._moves() == self._projected_version
        plain = self._given_weight if self._given_weight is not None and untouched else self.effective_weight()
        self._given_weight = None
        if plain is not self.weight:
            self.weight.copy_(plain)

    def project(self) -> None:
        """Bring `weight` back to its constraint, in place."""
        self.constraint.project(self)
        self._projected_version = self._moves()

    def violations(self) -> int:
        """How many effective weights break the constraint."""
        return self.constraint.violations(self)

    def check_projected(self) -> None:
        """Warn once if constrained weights moved and now break the constraint."""
        if torch.compiler.is_compiling():  # versions of tensors are not part of a compiled program
            return
        if self._warned or not self.needs_projection or self._moves() == self._projected_version:
            return
        self._projected_version = self._moves()
        count = self.violations()
        if count:
            self._warned = True
            warnings.warn(
                f"{count} weights of {type(self).__name__} break {self.law}: they moved without a projection. "
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

    @property
    def reparametrised(self) -> bool:
        """Whether W is made from the parameter `weight` in such a way that the gradient of `weight` is not dL/dW."""
        return self.effective_weight() is not self.weight

    def check_choices(self, pathway: Pathway, constraint: Constraint, name: str) -> None:
        """Refuse, with a ValueError, a pathway or a constraint that this kind of layer cannot have."""

    # What a pathway that learns asks of a layer (`WeightedLayer` says what each is); every kind of layer has its own.

    def fold(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def through(self, x: Tensor, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    def noise_shape(self, samples: int, side: int) -> tuple[int, ...]:
        raise NotImplementedError

    def respond(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def correlate(self, y: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

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
        self._lessons = 0  # versions of W and B and lessons at the last forward pass tell whether B learns
        self._seen: tuple[int, int, int] | None = None
        self._warned_of_learning = False
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
        if wiring.initialise:
            self._release()
        else:
            self._given_weight = None
        pathway = pathway or self.given_pathway or wiring.pathway
        constraint = self.given_constraint or wiring.constraint
        self.check_choices(pathway, constraint, name)
        self.pathway, self.constraint = pathway, constraint
        if self.pathway.transports_weights and self.constraint.constrains_feedback:
            raise ValueError(
                f"{name}: {self.constraint} with {self.pathway}: backprop's error travels through the forward weights, "
                "whose signs follow the other end of the synapse. Take Dale(feedback='exempt'), or a pathway with "
                "weights of its own such as SignSymmetry() or FeedbackAlignment()"
            )
        self.presynaptic_sign = self._signs(source, self.units[0], wiring.seed, name, axis=1)
        owned = target if self.constraint.constrains_feedback else None
        self.postsynaptic_sign = self._signs(owned, self.units[1], wiring.seed, name, axis=0)
        if self.pathway.tied and self.reparametrised:
            raise ValueError(
                f"{name}: {self.pathway} with {self.constraint}: the gradient is that of a parameter from which W is "
                "made, and B has no such parameter to share it with. Take Dale(mode='project')"
            )
        outside = source is None or self is wiring.last
        self.connected = None if outside else self._connections(target, wiring.seed, name)
        self._hold_signs(anew=wiring.initialise)
        if wiring.initialise:
            self.constraint.initialise(self, generator(wiring.seed, "dale", "weights", name))
        self._projected_version = self._moves()
        self.noise = Noise(stream(wiring.seed, "noise", name)) if self.pathway.redraws else None
        self._keep_feedback(self.pathway.create(self, generator(wiring.seed, "feedback", name)))

    def _keep_feedback(self, drawn: Tensor | None) -> None:
        """Keep what the pathway made: a parameter if it learns, a buffer if not."""
        if drawn is None or not self.pathway.learns:
            del self.feedback_weight  # a parameter takes no tensor in its place
            self.register_buffer("feedback_weight", drawn)
            return
        signs = self._feedback_signs()
        drawn = drawn if signs is None else drawn.abs() * signs
        drawn = drawn if self.connected is None or not self.pathway.tied else drawn * self.connected
        if isinstance(self.feedback_weight, nn.Parameter):  # an optimiser made before may own it
            with torch.no_grad():
                self.feedback_weight.copy_(drawn)
        else:
            self.feedback_weight = nn.Parameter(drawn)

    def _feedback_signs(self) -> Tensor | None:
        """The signs that a learned B must have: those of its own neurons, if the constraint says so, or else, if it
        gets W's gradient, those of W, so that the projection treats both alike."""
        if self.constraint.constrains_feedback:
            return self.postsynaptic_sign
        return self.presynaptic_sign if self.pathway.tied else None

    def _feedback_side(self) -> "_FeedbackSide | None":
        signs = self._feedback_signs()
        if not self.pathway.learns or signs is None or self.feedback_weight is None:
            return None
        return _FeedbackSide(self.feedback_weight, signs, connected=self.connected if self.pathway.tied else None)

    def project(self) -> None:
        """Bring `weight`, and B where it is learned under the constraint, back to the constraint, in place."""
        super().project()
        if (side := self._feedback_side()) is not None:
            self.constraint.project(side)

    def violations(self) -> int:
        """How many effective weights break the constraint; those of B are counted where it is learned under it."""
        side = self._feedback_side()
        return super().violations() + (0 if side is None else self.constraint.violations(side))

    def learn(self) -> None:
        """After a step of the optimiser that owns the weight: let the pathway learn."""
        self.pathway.learn(self)
        self._lessons += 1

    def check_projected(self) -> None:
        """Warn once if constrained weights moved and now break the constraint, or if B should have learned since."""
        super().check_projected()
        feedback = self.feedback_weight
        if torch.compiler.is_compiling() or self._warned_of_learning or feedback is None or not self._learning():
            return
        lessons = 0 if self.pathway.learns else self._lessons
        before, self._seen = self._seen, (self.weight._version, feedback._version, lessons)
        if before is not None and self._seen[0] > before[0] and self._seen[1:] == before[1:]:
            self._warned_of_learning = True
            warnings.warn(
                f"the weight of {type(self).__name__} moved, and B did not learn from it as {self.pathway} would have "
                "it: make the optimiser from net.parameters() after the network has its pathway, and call "
                "spikecredit.after_step(net, optimizer) after every step, or spikecredit.attach(net, optimizer) once",
                LearningWarning,
                stacklevel=3,
            )

    def _learning(self) -> bool:
        """Whether B has to move when W does."""
        if self.pathway.learns:
            return self.feedback_weight is not None and self.feedback_weight.requires_grad
        return type(self.pathway).learn is not Pathway.learn

    def _signs(self, population: Population | None, units: int, seed: int, name: str, axis: int) -> Tensor | None:
        if population is None:
            signs = self.constraint.sensory_signs(units) if axis == 1 else None
            return None if signs is None else self.lay_out(signs, axis).to(self.weight.device)
        signs = self.constraint.signs(population, seed)
        if signs is None:
            return None
        if units % population.units:
            raise ValueError(f"{name} has {units} units where the population before it has {population.units}")
        signs = signs.repeat_interleave(units // population.units)  # a flattened channel hands on its sign
        return self.lay_out(signs, axis).to(self.weight.device)

    def _connections(self, target: Population, seed: int, name: str) -> Tensor | None:
        """Which synapses exist, where both ends are neurons that have a sign."""
        ends = self.presynaptic_sign, self._signs(target, self.units[1], seed, name, axis=0)
        if ends[0] is None or ends[1] is None:
            return None
        return self.constraint.connections(ends[0], ends[1], generator(seed, "dale", "connections", name))

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

    def feedback(self, x: Tensor | None = None) -> Tensor | None:
        """B for this forward pass; None where the error goes through the weights, or where nothing asks for it: no
        gradient is wanted, or none of the input x, as in a network's first layer."""
        if self.pathway.transports_weights or self.pathway.direct or not torch.is_grad_enabled():
            return None
        if x is not None and not x.requires_grad:
            return None
        return self.pathway.feedback(self)

    def tied_weight(self) -> Tensor:
        """The effective W; its gradient goes to B too where the pathway ties them."""
        weight = self.effective_weight()
        if self.pathway.tied and torch.is_grad_enabled() and weight.requires_grad:
            return _Tie.apply(weight, self.feedback_weight)  # type: ignore[no-any-return]
        return weight

    def add_local_loss(self, y: Tensor, x: Tensor) -> Tensor:
        """y, whose backward pass also differentiates the pathway's own loss of the layer's input x, if it has one."""
        if not self.pathway.local or not torch.is_grad_enabled():
            return y
        return _Attach.apply(y, self.pathway.local_loss(self, x))  # type: ignore[no-any-return]

    def check_source(self, x: Tensor) -> None:
        """Refuse an input that waits for an error which a direct pathway hands to no synapse's input."""
        if self.pathway.direct and x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"the input of {type(self).__name__}({', '.join(map(str, self.units))}) asks for a gradient, but "
                f"under {self.pathway} no error travels back through a synapse: only neurons receive one. Put neurons "
                "between two synapses (sc.LIF(), sc.ReLU(); torch's nn.ReLU is none) and learned layers such as "
                "normalisation before them, hand `taps` on in a block of your own, and detach the network's input"
            )


@dataclass(frozen=True)
class _FeedbackSide:
    """B as a constraint sees a layer: a weight with the signs that broadcast against it."""

    weight: Tensor
    presynaptic_sign: Tensor | None
    connected: Tensor | None
    postsynaptic_sign: None = None
    frozen_sign: None = None


class _Tie(torch.autograd.Function):
    """W as it is. Its gradient goes to W and to B, whatever made it: a dense layer, a convolution, a fused kernel."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, feedback: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        return grad, grad if ctx.needs_input_grad[1] else None


class _Attach(torch.autograd.Function):
    """y as it is. Backwards a loss is differentiated too, with weight one, whatever loss y leads to."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor) -> Tensor:
        ctx.dtype = loss.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones((), dtype=ctx.dtype, device=grad.device)


def synapses_of(module: nn.Module) -> dict[str, Synapse]:
    """The weighted layers of ours in a network or a converted model by name, in order of registration."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Synapse)}


def learned_feedback(module: nn.Module) -> list[nn.Parameter]:
    """The feedback weights among the parameters of a network, in order: those of pathways that learn them."""
    found: list[nn.Parameter] = []
    for part in module.modules():
        if isinstance(part, Synapse) and isinstance(part.feedback_weight, nn.Parameter):
            found.append(part.feedback_weight)
        elif isinstance(part, Broadcast):
            found += part.parameters(recurse=False)
    return found


def cast_for_autocast(device: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast does to the arguments of a matrix product, for our own autograd functions."""
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def is_watched(*modules: nn.Module) -> bool:
    """Whether somebody may look at what goes into one of the modules or comes out of it: by hooks of its own, by those
    of all modules, or by a `forward` put in the place of its own."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = any("forward" in vars(module) or any(getattr(module, name) for name in hooks) for module in modules)
    return own or _has_any_global_hook()

"""Equilibrium propagation as a rule: two relaxations of one network instead of a forward and a backward pass."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikecredit.constraints import Unconstrained
from spikecredit.equilibrium import (
    Centred,
    Energy,
    Estimator,
    Hopfield,
    Phase,
    Relaxation,
    Sweeps,
    add_homeostasis,
    check_homeostasis,
    continual_gradient,
    delivered_errors,
    free_state,
    gradient,
    sections,
    settle,
    true_errors,
)
from spikecredit.equilibrium.cost import Cost, CrossEntropy, SquaredError
from spikecredit.losses import Loss, MeanPotential
from spikecredit.losses import SquaredError as SquaredErrorLoss
from spikecredit.network import Network
from spikecredit.pathways import Backprop, FeedbackAlignment, Graded, KolenPollack, SignSymmetry
from spikecredit.rules.rule import Forward, LossFunction, Rule

PATHWAYS = (Backprop, FeedbackAlignment, SignSymmetry, KolenPollack)
"""Those whose B is all that they are."""


@dataclass(frozen=True)
class EquilibriumPropagation(Rule):
    """The network relaxes freely to s^0, then under a nudge of its output by the loss to s^beta, and the weights get

        dC/dW_l ~ -gain^(l-L) sum_k c_k s_l^k s_{l-1}^k^T         nodes (beta_k, c_k): the estimator

    the difference of local products of pre- and postsynaptic activity: `spikecredit.equilibrium.gradient`. Prediction
    is the output of the free phase. With pathways other than backprop the network is a vector field, B != W, and the
    rule is the directed one.

    Under Dale's law two neurons of different type cannot share one weight in both directions, w_ij = w_ji. So where a
    synapse layer is under Dale's law, the feedback must be a pathway of its own.

    Args:
        estimator: centred, one_sided, random_sign, holomorphic, contrastive_hebbian or coupled.
        energy: down which the network relaxes: hopfield, potential or predictive.
        relaxation: how it does: sweeps (rates), sigma_delta, spikes or gibbs; and how long the phases are.
        continual: the rate at which weights already move within a nudged phase (C-EP, `continual_gradient`); give sgd
            the same lr. null: they wait for its end.
        homeostasis: of a vector field, the strength of the loss that makes its Jacobian symmetric
            (`equilibrium.homeostasis`, from the `noise` given). 0: none. The loss reported is the cost alone.
    Raises:
        ValueError: a homeostasis below 0; by `check`: layers that have no place in an energy (`equilibrium.sections`),
            Dale's law on symmetric weights, pathways that do not lead from a layer to the one before it by a matrix,
            homeostasis of symmetric weights; by `gradients`: an input that changes in time, a loss that is neither
            squared_error nor mean_potential (cross-entropy).
    Source: Scellier & Bengio 2017; Laborieux et al. 2021 (centred); Scellier et al. 2018 (vector fields).
    """

    estimator: Estimator = Centred()
    energy: Energy = Hopfield()
    relaxation: Relaxation = Sweeps()
    continual: float | None = None
    homeostasis: float = 0.0

    delivers_errors: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.continual is not None and not self.continual > 0:
            raise ValueError(f"continual is a rate, positive, or null for weights that wait; got {self.continual!r}")
        if self.continual is not None and self.estimator.holomorphic:
            raise ValueError(
                f"weights that move within a phase are real, and {self.estimator} nudges by complex numbers: write "
                "estimator: centred, or continual: null"
            )

        if self.continual is not None and self.relaxation.stochastic:
            raise ValueError(f"{self.relaxation} has samples, whose steps are noise: write continual: null")
        if not 0 <= self.homeostasis < math.inf:
            raise ValueError(f"homeostasis is the strength of a loss, 0 (none) or above, got {self.homeostasis!r}")

    @property
    def intervenes(self) -> bool:
        return True

    def check(self, net: Network) -> None:
        parts = sections(net)
        self.relaxation.check(parts, self.energy)
        if self.continual is not None and any(not isinstance(p.layer.constraint, Unconstrained) for p in parts):
            raise ValueError(
                "weights that move within a phase would leave their constraint until the optimiser's step: write "
                "continual: null, or constraint: none"
            )
        if self.homeostasis:
            check_homeostasis(parts)
        for part in parts[1:]:
            pathway = part.layer.pathway
            if type(pathway) not in PATHWAYS or not isinstance(pathway.error, Graded):
                raise ValueError(
                    f"{part.name} has the pathway {pathway}; an equilibrium network takes a matrix from each layer to "
                    "the one before it: backprop, feedback_alignment, sign_symmetry or kolen_pollack, with graded error"
                )
            if part.layer.presynaptic_sign is not None and pathway.transports_weights:
                raise ValueError(
                    f"{part.name} is under {part.layer.constraint} and symmetric: one weight in both directions would "
                    "give a neuron that excites and one that inhibits the same sign. Under Dale's law take a pathway "
                    "with feedback weights of its own, such as sign_symmetry: the network is then a vector field"
                )

    def gradients(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        loss: LossFunction = MeanPotential(),
        forward: Forward | None = None,
        noise: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.check(net)
        cost = cost_of(loss)
        if self.continual is None:
            found, settled = gradient(net, _constant(x), y, cost, self.energy, self.relaxation, self.estimator, noise)
        else:
            settled = settle(net, _constant(x), self.energy, self.relaxation)
            found = continual_gradient(settled, y, cost, self.continual, self.estimator, noise)
        for part in sections(net):
            w, b = found[part.name]
            with torch.enable_grad():
                weight = part.layer.tied_weight()  # through a parametrisation; to B too where a pathway ties them
            weight.backward(w)  # type: ignore[no-untyped-call]  # torch has no types for it
            if part.layer.bias is not None:
                part.layer.bias.backward(b)  # type: ignore[no-untyped-call]  # torch has no types for it
        if self.homeostasis:
            add_homeostasis(settled, self.homeostasis, noise)
        out = settled.activities[-1]
        return cost(out, y).mean(), out[None]

    def errors(self, net: Network, x: Tensor, y: Tensor, loss: LossFunction) -> dict[str, tuple[Tensor, Tensor]]:
        """-sum_k c_k s_l^k, by which the synapses of layer l move, and dC/da_l through the fixed point; empty where
        that has no derivative, as for samples, or is not found. With a random sign, those of one draw."""
        if self.relaxation.stochastic:
            return {}
        cost = cost_of(loss)
        settled = settle(net, _constant(x), self.energy, self.relaxation)
        wanted = true_errors(settled, y, cost)
        if wanted is None:
            return {}
        found = delivered_errors(settled, y, cost, self.estimator, torch.Generator(x.device).manual_seed(0))
        names = [part.name for part in sections(net)]
        return {name: (a / len(y), b / len(y)) for name, a, b in zip(names, found, wanted, strict=True)}

    @torch.no_grad()
    def recorded(self, net: Network, x: Tensor) -> tuple[dict[str, Tensor], bool]:
        """What neurons tell each other in each step of the free phase."""
        parts = sections(net)
        phase, random = Phase.of(parts, _constant(x)), torch.Generator(x.device).manual_seed(0)
        state = self.relaxation.start(self.energy, phase, random)
        steps = []
        for _ in range(self.relaxation.free):
            after = self.relaxation.run(self.energy, phase, 1, state)
            steps.append(self.relaxation.told(state, after))
            state = after
        outputs = {part.behind: torch.stack(layer) for part, layer in zip(parts, zip(*steps, strict=True), strict=True)}
        return outputs, self.relaxation.by_spikes

    def predict(self, net: Network, x: Tensor, forward: Forward | None = None) -> Tensor:
        fixed = torch.Generator(x.device).manual_seed(0)  # the same prediction at every call, where samples make it
        return free_state(net, _constant(x), self.energy, self.relaxation, random=fixed)[-1][None]


def cost_of(loss: LossFunction) -> Cost:
    """The cost of one output that this loss is of a sequence of one step."""
    costs: dict[type, Cost] = {SquaredErrorLoss: SquaredError(), MeanPotential: CrossEntropy()}
    if type(loss) not in costs:
        name = loss if isinstance(loss, Loss) else type(loss).__name__
        raise ValueError(
            f"equilibrium propagation nudges the output by the derivative of its cost; it has that of squared_error "
            f"and of mean_potential (cross-entropy), got {name}"
        )
    return costs[type(loss)]


def _constant(x: Tensor) -> Tensor:
    """The one input (B, *in) that the network relaxes on."""
    if x.shape[0] != 1 and x.stride(0) != 0:
        raise ValueError(
            f"an equilibrium network relaxes on one input, got {x.shape[0]} that may differ: write "
            "encoder: {kind: constant, steps: 1}"
        )
    return x[0]

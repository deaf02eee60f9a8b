"""Estimators of dC/dtheta: a list of nudged states and their weights, and the local products at each."""

import cmath
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecredit.equilibrium.cost import Cost, one_hot
from spikecredit.equilibrium.energy import Energy, Hopfield
from spikecredit.equilibrium.relax import Nudge, Relaxation, Sweeps
from spikecredit.equilibrium.sections import Phase, Section, State, repeat, sections
from spikecredit.network import Network


@dataclass(frozen=True)
class Node:
    """One state that the estimate is made of: dC/dtheta ~ sum_k weight_k dE/dtheta(s^k).

    Args:
        weight: c_k. beta: the nudge; 0 with held 0 is the free state itself. held: a number in (0, 1]: no nudge, but
            the output stays at s^0_L + held (e_y - s^0_L).
    """

    weight: complex
    beta: complex = 0.0
    held: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether it is another state than the free one."""
        return self.beta != 0 or self.held != 0


class Estimator(ABC):
    """A quadrature rule for d/dbeta at 0 of dE/dtheta(s^beta), or what stands in for it. Hyper-parameters only."""

    holomorphic: ClassVar[bool] = False
    """Whether its nudges are complex."""

    @abstractmethod
    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        """The nodes; their weights add up to 0."""


@dataclass(frozen=True)
class Nudged(Estimator):
    """Estimators that push the output.

    Args:
        beta: the strength of the nudge.
    Raises:
        ValueError: a nudge that is not positive and finite.
    """

    beta: float

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta is the strength of the nudge, positive and finite, got {self.beta!r}")


@dataclass(frozen=True)
class OneSided(Nudged):
    """(g(beta) - g(0)) / beta; error O(beta), and what the free phase had not settled. Scellier & Bengio 2017."""

    beta: float = 0.5

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [Node(1 / self.beta, self.beta), Node(-1 / self.beta)]


@dataclass(frozen=True)
class RandomSign(Nudged):
    """`OneSided` with beta or -beta, drawn for each batch: its mean is centred. Scellier & Bengio 2017, their code."""

    beta: float = 0.5

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        device = "cpu" if random is None else random.device
        beta = self.beta if float(torch.rand((), generator=random, device=device)) < 0.5 else -self.beta
        return [Node(1 / beta, beta), Node(-1 / beta)]


@dataclass(frozen=True)
class Centred(Nudged):
    """(g(beta) - g(-beta)) / 2 beta; error O(beta^2), and what had not settled cancels. Laborieux et al. 2021."""

    beta: float = 0.2

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [Node(0.5 / self.beta, self.beta), Node(-0.5 / self.beta, -self.beta)]


@dataclass(frozen=True)
class Holomorphic(Nudged):
    """(1 / N beta) sum_k Re[exp(-2 pi i k / N) g(beta exp(2 pi i k / N))], by complex nudges on a circle.

    Its error falls exponentially in N inside the radius in which s^beta is analytic, which shrinks with the gain of the
    network. Asks for holomorphic units (`Logistic`, `Tanh`, linear) and no maximum pooling. N = 2 is `Centred`.
    Source: Laborieux & Zenke 2022.
    """

    beta: float = 0.1
    n: int = 8

    holomorphic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n, int) or self.n < 2:
            raise ValueError(f"n is a number of points on the circle, at least 2, got {self.n!r}")

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        turns = [cmath.exp(2j * math.pi * k / self.n) for k in range(self.n)]
        return [Node(turn.conjugate() / (self.n * self.beta), self.beta * turn) for turn in turns]


@dataclass(frozen=True)
class ContrastiveHebbian(Estimator):
    """g(output held at e_y) - g(0): contrastive Hebbian learning, the learning of mean-field Boltzmann machines.

    The node at beta -> infinity of `OneSided`, and no gradient of the cost in general. With linear outputs, squared
    error and a small gain gamma it is that of backpropagation, up to O(gamma) (Xie & Seung 2003). With the energy
    `Predictive` it is predictive coding as usually trained.
    Source: Movellan 1991; Xie & Seung 2003.
    """

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [Node(1.0, held=1.0), Node(-1.0)]


@dataclass(frozen=True)
class Coupled(Estimator):
    """(g(output held at s^0 + eta (e_y - s^0)) - g(0)) / eta: coupled learning.

    Args:
        eta: how far towards the target the output is held, above 0 and at most 1 (contrastive Hebbian).
    Raises:
        ValueError: eta out of range.
    Source: Stern et al. 2021.
    """

    eta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta is a part of the way to the target, above 0 and at most 1, got {self.eta!r}")

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [Node(1 / self.eta, held=self.eta), Node(-1 / self.eta)]


ESTIMATORS: dict[str, type[Estimator]] = {
    "one_sided": OneSided, "random_sign": RandomSign, "centred": Centred, "holomorphic": Holomorphic,
    "contrastive_hebbian": ContrastiveHebbian, "coupled": Coupled,
}  # fmt: skip


@dataclass(frozen=True)
class Settled:
    """A batch at its free state, ready to be nudged."""

    phase: Phase
    energy: Energy
    relaxation: Relaxation
    state: Any

    @property
    def activities(self) -> State:
        """s_1 ... s_L as synapses see them."""
        return self.relaxation.activities(self.state)

    def nudged(self, nodes: Sequence[Node], y: Tensor, cost: Cost, dtype: torch.dtype) -> tuple[Phase, Any, Nudge]:
        """The phase, the state and the nudge in which all nodes relax side by side, one after the other in the batch:
        either all push or all hold."""
        count, x = len(nodes), self.phase.x
        phase = self.phase if dtype == x.dtype else self.phase.to(dtype)
        labels = y.repeat(count)
        beta = column([node.beta for node in nodes], len(x), dtype, x)
        held = None
        if nodes[0].held:
            out = repeat(self.activities[-1], count)
            held = torch.lerp(out, one_hot(labels, out), column([n.held for n in nodes], len(x), dtype, x))
        return phase.copies(count), self.relaxation.repeat(self.state, count, dtype), Nudge(cost, labels, beta, held)


def settle(
    net: Network,
    x: Tensor,
    energy: Energy = Hopfield(),
    relaxation: Relaxation = Sweeps(),
    state: Any = None,
    random: torch.Generator | None = None,
) -> Settled:
    """The free phase on x (B, *in), from rest or from a state of an earlier one. random: for `Gibbs`.

    Raises:
        ValueError: what `sections` and the relaxation refuse.
    """
    parts = sections(net)
    relaxation.check(parts, energy)
    with torch.no_grad():
        phase = Phase.of(parts, x)
        return Settled(phase, energy, relaxation, relaxation.settle(energy, phase, state, random))


def free_state(
    net: Network,
    x: Tensor,
    energy: Energy = Hopfield(),
    relaxation: Relaxation = Sweeps(),
    state: Any = None,
    random: torch.Generator | None = None,
) -> State:
    """s_1 ... s_L after `settle`."""
    return settle(net, x, energy, relaxation, state, random).activities


@torch.no_grad()
def gradient(
    net: Network,
    x: Tensor,
    y: Tensor,
    cost: Cost,
    energy: Energy = Hopfield(),
    relaxation: Relaxation = Sweeps(),
    estimator: Estimator = Centred(),
    random: torch.Generator | None = None,
    state: Any = None,
) -> tuple[dict[str, tuple[Tensor, Tensor]], Settled]:
    """Equilibrium propagation's estimate of dC/dW and dC/db of every layer, C a mean over the batch.

    A free phase gives s^0. From there the network relaxes at every node beta_k of the estimator, all of them side by
    side in one batch. With symmetric weights (every pathway transports them)

        dC/dW_l ~ -gain^(l-L) sum_k c_k s_l^k s_{l-1}^k^T

    and with B != W anywhere the directed rule, with the presynaptic activity of the free state (vector-field EP)

        dC/dW_l ~ -sum_k c_k s_l^k s_{l-1}^0^T

    which for B = W is dC/dW with the feedback weights held fixed. Where weights learn from membranes (`SigmaDelta`),
    s_l^k are these, s^0 is what the synapse hears, and a symmetric weight is the sum of both directions. Other energies
    have other factors in the place of s_l and s_{l-1}: `Energy.ends`.

    Args:
        net: its layers as `sections` takes them. x (B, *in), y (B,). state: where the free phase starts; None: rest.
        random: for `RandomSign` and `Gibbs`.
    Returns:
        (dC/dW, dC/db) by layer name, of effective weights; and the free state.
    Raises:
        ValueError: what `sections` and the relaxation refuse; a holomorphic estimator with what is not holomorphic.
    Source: Scellier & Bengio 2017; Laborieux et al. 2021; vector fields: Scellier et al. 2018.
    """
    if estimator.holomorphic:
        _check_holomorphic(sections(net), relaxation)
    settled = settle(net, x, energy, relaxation, state, random)
    phase, states, weights = nudged_states(settled, y, cost, estimator, random)
    return _contrast(settled, phase, states, weights), settled


@torch.no_grad()
def nudged_states(
    settled: Settled, y: Tensor, cost: Cost, estimator: Estimator, random: torch.Generator | None = None
) -> tuple[Phase, State, Tensor]:
    """What the synapses see at all nodes of the estimator, one node after the other in the batch: its phase, the
    activities, and the weight c_k of each sample, (nodes B, 1)."""
    energy, relaxation, x = settled.energy, settled.relaxation, settled.phase.x
    nodes = estimator.nodes(random)
    moved = [node for node in nodes if node.moves]
    dtype = x.dtype
    if estimator.holomorphic:
        dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    phase, start, nudge = settled.nudged(moved, y, cost, dtype)
    found = relaxation.samples(relaxation.run(energy, phase, relaxation.nudged, start, nudge))
    weights = [node.weight / len(found) for node in moved] * len(found)
    rest = sum(node.weight for node in nodes if not node.moves)
    if rest:
        free = relaxation.samples(settled.state)
        found, weights = [*found, *free], weights + [rest / len(free)] * len(free)
    # Samples stand side by side in the batch as nodes do.
    states = found[0] if len(found) == 1 else [torch.cat(layer) for layer in zip(*found, strict=True)]
    if len(weights) > len(moved):
        phase = settled.phase.copies(len(weights))
    return phase, states, column(weights, len(x), dtype, x)


def _contrast(settled: Settled, phase: Phase, states: State, weights: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """-sum over nodes and batch of weights times the products of `Energy.ends`."""
    energy, x, parts = settled.energy, settled.phase.x, phase.parts
    batch, directed, membranes = len(x), is_directed(parts), settled.relaxation.by_membranes
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def summed(ends: Tensor) -> Tensor:
        return ends.view(-1, batch, *ends.shape[1:]).sum(0)

    for index, part in enumerate(parts):
        post, pre = energy.ends(phase, index, states)
        weight = factor(energy, index, parts, batch) * weights
        weighted = post * weight.view(-1, *[1] * (post.ndim - 1))
        if index and not directed and not membranes:
            places = part.up(pre)[1] if part.pool is not None else None
            found[part.name] = part.hebb(weighted, pre, places)
            continue
        # The same presynaptic activity at every node: their posts add up first.
        post_free, pre_free = energy.ends(settled.phase, index, settled.activities)
        pre_free = (x if index == 0 else pre_free).to(weighted.dtype)
        places = part.up(pre_free)[1] if part.pool is not None else None
        w, b = part.hebb(summed(weighted), pre_free, places)
        if index and not directed:  # the other direction of a symmetric weight
            w = w + part.hebb(post_free, summed(pre * weight.view(-1, *[1] * (pre.ndim - 1))), places)[0]
        found[part.name] = w, b
    return found


def factor(energy: Energy, index: int, parts: Sequence[Section], batch: int) -> float:
    """What turns the sum of c_k times products into dC/dW, C a mean over the batch: -gain^(l-L), -1 if directed."""
    return -1.0 / batch if is_directed(parts) else -(energy.gain ** (index + 1 - len(parts))) / batch


def is_directed(parts: Sequence[Section]) -> bool:
    """Whether some B is not W: then each direction of a synapse learns by itself."""
    return any(not part.layer.pathway.transports_weights for part in parts[1:])


def column(values: Sequence[complex], batch: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Each value for every sample of its copy of the batch, (len(values) B, 1)."""
    kept = values if dtype.is_complex else [value.real for value in values]
    return torch.tensor(kept, dtype=dtype, device=like.device).repeat_interleave(batch)[:, None]


def _check_holomorphic(parts: Sequence[Section], relaxation: Relaxation) -> None:
    if relaxation.by_spikes:
        raise ValueError(f"a holomorphic estimator nudges by complex numbers, and {relaxation} fires: write centred")
    for part in parts:
        if part.unit is not None and not part.unit.holomorphic:
            raise ValueError(
                f"a holomorphic estimator needs units that are functions of a complex current, but {part.name} drives "
                f"{type(part.unit).__name__}: take sc.Logistic() or sc.Tanh(), or the estimator centred"
            )
        if part.pool is not None and isinstance(part.pool, torch.nn.MaxPool2d):
            raise ValueError(f"a holomorphic estimator knows no maximum: {part.name} is followed by MaxPool2d; average")

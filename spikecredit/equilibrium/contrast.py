"""Estimators of dC/dtheta: a list of nudged states and their weights, and the local products at each."""

import cmath
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikecredit.equilibrium.cost import Cost
from spikecredit.equilibrium.energy import Hopfield, Section, State, sections
from spikecredit.equilibrium.relax import Phase, Relaxation, relax
from spikecredit.network import Network

Node = tuple[complex, complex]
"""(beta_k, c_k): dC/dtheta is estimated by sum_k c_k dE/dtheta(s^beta_k)."""


@dataclass(frozen=True)
class Estimator(ABC):
    """A quadrature rule for d/dbeta at 0 of dE/dtheta(s^beta). Hyper-parameters only.

    Args:
        beta: the strength of the nudge.
    Raises:
        ValueError: a nudge that is not positive and finite.
    """

    beta: float

    holomorphic: ClassVar[bool] = False
    """Whether its nudges are complex."""

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta is the strength of the nudge, positive and finite, got {self.beta!r}")

    @abstractmethod
    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        """The nodes, beta 0 being the free state itself; their c_k add up to 0."""


@dataclass(frozen=True)
class OneSided(Estimator):
    """(g(beta) - g(0)) / beta; error O(beta), and what the free phase had not settled. Scellier & Bengio 2017."""

    beta: float = 0.5

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [(self.beta, 1 / self.beta), (0.0, -1 / self.beta)]


@dataclass(frozen=True)
class RandomSign(Estimator):
    """`OneSided` with beta or -beta, drawn for each batch: its mean is centred. Scellier & Bengio 2017, their code."""

    beta: float = 0.5

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        device = "cpu" if random is None else random.device
        beta = self.beta if float(torch.rand((), generator=random, device=device)) < 0.5 else -self.beta
        return [(beta, 1 / beta), (0.0, -1 / beta)]


@dataclass(frozen=True)
class Centred(Estimator):
    """(g(beta) - g(-beta)) / 2 beta; error O(beta^2), and what had not settled cancels. Laborieux et al. 2021."""

    beta: float = 0.2

    def nodes(self, random: torch.Generator | None = None) -> list[Node]:
        return [(self.beta, 0.5 / self.beta), (-self.beta, -0.5 / self.beta)]


@dataclass(frozen=True)
class Holomorphic(Estimator):
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
        return [(self.beta * turn, turn.conjugate() / (self.n * self.beta)) for turn in turns]


ESTIMATORS: dict[str, type[Estimator]] = {
    "one_sided": OneSided, "random_sign": RandomSign, "centred": Centred, "holomorphic": Holomorphic,
}  # fmt: skip


def free_state(
    net: Network, x: Tensor, energy: Hopfield = Hopfield(), relaxation: Relaxation = Relaxation(),
    state: State | None = None,
) -> State:  # fmt: skip
    """s_1 ... s_L after the free phase on x (B, *in), from rest or from `state`."""
    with torch.no_grad():
        phase = Phase.of(sections(net), energy.gain, x)
        return relax(phase, relaxation, relaxation.free, phase.rest() if state is None else state)


@torch.no_grad()
def gradient(
    net: Network,
    x: Tensor,
    y: Tensor,
    cost: Cost,
    energy: Hopfield = Hopfield(),
    relaxation: Relaxation = Relaxation(),
    estimator: Estimator = Centred(),
    random: torch.Generator | None = None,
    state: State | None = None,
) -> tuple[dict[str, tuple[Tensor, Tensor]], State]:
    """Equilibrium propagation's estimate of dC/dW and dC/db of every layer, C a mean over the batch.

    A free phase gives s^0. From there the network relaxes at every node beta_k of the estimator, all of them side by
    side in one batch. With symmetric weights (every pathway transports them)

        dC/dW_l ~ -gain^(l-L) sum_k c_k s_l^k s_{l-1}^k^T

    and with B != W anywhere the directed rule, with the presynaptic activity of the free state (vector-field EP)

        dC/dW_l ~ -sum_k c_k s_l^k s_{l-1}^0^T

    which for B = W is dC/dW with the feedback weights held fixed.

    Args:
        net: its layers as `sections` takes them. x (B, *in), y (B,). state: where the free phase starts; None: rest.
        random: for `RandomSign`.
    Returns:
        (dC/dW, dC/db) by layer name, of effective weights; and the free state.
    Raises:
        ValueError: what `sections` refuses; a holomorphic estimator with what is not holomorphic.
    Source: Scellier & Bengio 2017; Laborieux et al. 2021; vector fields: Scellier et al. 2018.
    """
    parts = sections(net)
    if estimator.holomorphic:
        _check_holomorphic(parts)
    phase = Phase.of(parts, energy.gain, x)
    free = relax(phase, relaxation, relaxation.free, phase.rest() if state is None else state)
    nodes = estimator.nodes(random)
    moved = [node for node in nodes if node[0] != 0]
    dtype = x.dtype
    if estimator.holomorphic:
        dtype = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        phase = Phase.of(parts, energy.gain, x.to(dtype))
    batch = len(x)
    start = [s.to(dtype).repeat(len(moved), *[1] * (s.ndim - 1)) for s in free]
    beta = _column([b for b, _ in moved], batch, dtype, x)
    nudged = relax(phase.copies(len(moved)), relaxation, relaxation.nudged, start, cost, beta, y.repeat(len(moved)))
    states = nudged
    weights = _column([c for _, c in moved], batch, dtype, x)
    rest = [c for b, c in nodes if b == 0]
    if rest:
        states = [torch.cat(pair) for pair in zip(nudged, free, strict=True)]
        weights = torch.cat([weights, _column(rest, batch, dtype, x)])
    directed = any(not part.layer.pathway.transports_weights for part in parts[1:])
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for index, part in enumerate(parts):
        factor = -1.0 / batch if directed else -(energy.gain ** (index + 1 - len(parts))) / batch
        post = states[index] * (factor * weights).view(-1, *[1] * (states[index].ndim - 1))
        if index == 0 or directed:  # the same presynaptic activity at every node: their posts add up first
            post = post.view(-1, batch, *post.shape[1:]).sum(0)
            pre = x.to(dtype) if index == 0 else free[index - 1].to(dtype)
        else:
            pre = states[index - 1]
        places = part.up(pre)[1] if part.pool is not None else None
        found[part.name] = part.hebb(post, pre, places)
    return found, free


def _column(values: Sequence[complex], batch: int, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Each value for every sample of its copy of the batch, (len(values) B, 1)."""
    kept = values if dtype.is_complex else [value.real for value in values]
    return torch.tensor(kept, dtype=dtype, device=like.device).repeat_interleave(batch)[:, None]


def _check_holomorphic(parts: Sequence[Section]) -> None:
    for part in parts:
        if part.unit is not None and not part.unit.holomorphic:
            raise ValueError(
                f"a holomorphic estimator needs units that are functions of a complex current, but {part.name} drives "
                f"{type(part.unit).__name__}: take sc.Logistic() or sc.Tanh(), or the estimator centred"
            )
        if part.pool is not None and isinstance(part.pool, torch.nn.MaxPool2d):
            raise ValueError(f"a holomorphic estimator knows no maximum: {part.name} is followed by MaxPool2d; average")

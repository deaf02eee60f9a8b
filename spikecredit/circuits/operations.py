"""What happens in one time step of a circuit: one operation for each object of Brian2 that does something."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.events import Block, deliver
from spikecredit.circuits.statements import Node, Program, Scope
from spikecredit.neurons.surrogate import Surrogate
from spikecredit.seeds import generator


@dataclass
class Step:
    """Where a simulation stands inside a time step.

    Args:
        scope: the variables. number: of the step, from 0 at t = 0. first: the step with which this stream began.
        spikes: (B, N) of each group and source, those of this step once its threshold was tested.
        history: for each pathway the spikes that were sent, newest last, as many as its longest delay needs.
        weights: for each pathway and each variable it adds to, what each synapse adds, and the matrix of each block.
        inputs: given spikes or counts (T, B, N). seed: of what is drawn.
    """

    scope: Scope
    number: int
    first: int
    spikes: dict[str, Tensor]
    history: dict[str, tuple[Tensor, ...]]
    weights: dict[str, list[tuple[Tensor, list[Tensor | None]]]]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int | None = None

    def given(self, name: str) -> Tensor | None:
        """What the caller gave for a source in this step."""
        return None if name not in self.inputs else self.inputs[name][self.number - self.first]

    def random(self, name: str) -> torch.Generator:
        """This step's own stream of a source: runs are equal however they are cut."""
        assert self.seed is not None
        return generator(self.seed, "circuit", name, self.number)


@dataclass(frozen=True)
class Update:
    """A state update, or what `run_regularly` runs."""

    program: Program

    def run(self, step: Step) -> None:
        self.program.run(step.scope)


@dataclass(frozen=True)
class Refractoriness:
    """not_refractory = (steps since the last spike >= duration); runs before its group's state update."""

    group: str
    duration: Any
    """In steps; a number, or (N,)."""

    def run(self, step: Step) -> None:
        since = step.number - step.scope.state[f"{self.group}.last"]
        step.scope.state[f"{self.group}.not_refractory"] = since >= torch.as_tensor(self.duration)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, fired: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(v)
        ctx.surrogate = surrogate
        return fired.to(v.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (v,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(v), None, None


@dataclass(frozen=True)
class Threshold:
    """s = condition, with ds/dv = surrogate'(margin / span) / span; refractory neurons have neither.

    Args:
        margin: how far above threshold, in Brian2's SI units. span: what makes it dimensionless, a number or (N,).
    """

    group: str
    condition: Node
    margin: Node
    span: Any
    refractory: bool
    surrogate: Surrogate

    def run(self, step: Step) -> None:
        scope = step.scope
        scope.local.clear()
        fired = self.condition.read(scope)
        margin = self.margin.read(scope) / scope.operand(self.span)
        if self.refractory:
            able = scope.state[f"{self.group}.not_refractory"]
            fired = fired & able
        spikes: Tensor = _Fire.apply(margin, fired, self.surrogate)
        if self.refractory:
            spikes = torch.where(able, spikes, 0.0)
            scope.state[f"{self.group}.not_refractory"] = able & ~fired
            last = scope.state[f"{self.group}.last"]
            scope.state[f"{self.group}.last"] = torch.where(fired, step.number, last)
        step.spikes[self.group] = spikes


@dataclass(frozen=True)
class Reset:
    """What is written where a neuron fired. detach: no gradient through the choice of who is reset."""

    group: str
    program: Program
    detach: bool

    def run(self, step: Step) -> None:
        state, spikes = step.scope.state, step.spikes[self.group]
        before = {key: state[key] for key in self.program.keys}
        self.program.run(step.scope)
        fired = spikes > 0
        for key, old in before.items():
            new = state[key]
            state[key] = torch.where(fired, new, old)
            if not self.detach:  # adds 0, and the gradient of s (new - old)
                state[key] = state[key] + (spikes - spikes.detach()) * (new - old)


@dataclass(frozen=True)
class Generator:
    """Spikes at fixed steps, unless the caller gives others. bins, neurons: (spikes,), sorted by step."""

    name: str
    size: int
    bins: np.ndarray
    neurons: np.ndarray

    def run(self, step: Step) -> None:
        given = step.given(self.name)
        if given is None:
            low, high = np.searchsorted(self.bins, (step.number, step.number + 1))
            given = torch.zeros_like(step.spikes[self.name])
            given[:, torch.as_tensor(self.neurons[low:high], dtype=torch.int64)] = 1
        step.spikes[self.name] = given


@dataclass(frozen=True)
class Poisson:
    """Spikes with probability rate dt in each step, unless the caller gives them. probability: (N,)."""

    name: str
    probability: np.ndarray

    def run(self, step: Step) -> None:
        given = step.given(self.name)
        if given is None:
            like = step.spikes[self.name]
            p = torch.as_tensor(self.probability).expand(like.shape)
            drawn = torch.rand(like.shape, dtype=torch.float64, generator=step.random(self.name)) < p
            given = drawn.to(like)
        step.spikes[self.name] = given


@dataclass(frozen=True)
class PoissonEvents:
    """count x weight added in each step, count of n events of probability p, unless the caller gives the counts."""

    name: str
    target: str
    """A variable of the group, for its shape."""
    function: str
    n: int
    p: float
    program: Program

    def run(self, step: Step) -> None:
        count = step.given(self.name)
        if count is None:
            like = step.scope.state[self.target]
            n = torch.full(like.shape, float(self.n), dtype=torch.float64)
            count = torch.binomial(n, torch.full_like(n, self.p), generator=step.random(self.name)).to(like)
        step.scope.draws = {self.function: count}
        self.program.run(step.scope)


@dataclass(frozen=True)
class Addition:
    """`target += value` of an on_pre. value: for each synapse, or one for all. mask: as in `Line`."""

    target: str
    value: Node
    mask: str | None


@dataclass(frozen=True)
class Pathway:
    """What a source's spikes add to its targets, `delay` steps later.

    Args:
        count: synapses. additions: in the order of the statements. blocks: one for each delay, the longest first,
            which is the order in which Brian2's queue holds events that arrive together.
    """

    name: str
    source: str
    count: int
    additions: tuple[Addition, ...]
    blocks: tuple[Block, ...]

    @property
    def longest(self) -> int:
        """The longest delay in steps."""
        return max((block.delay for block in self.blocks), default=0)

    def weights(self, scope: Scope, gradient: bool) -> list[tuple[Tensor, list[Tensor | None]]]:
        """What each synapse adds, and the matrices that carry gradients back to the source."""
        found = []
        for addition in self.additions:
            value = torch.as_tensor(scope.operand(addition.value.read(scope)), dtype=torch.float64)
            value = value.expand(self.count)
            matrices = [block.matrix(value.detach()) if gradient else None for block in self.blocks]
            found.append((value, matrices))
        return found

    def run(self, step: Step) -> None:
        sent = (*step.history[self.name], step.spikes[self.source])[-self.longest - 1 :]
        step.history[self.name] = sent
        state = step.scope.state
        for addition, (weights, matrices) in zip(self.additions, step.weights[self.name], strict=True):
            old = new = state[addition.target]
            for block, matrix in zip(self.blocks, matrices, strict=True):
                if block.delay < len(sent):
                    new = deliver(new, sent[-1 - block.delay], weights, block, matrix)
            # Not only refractory neurons: Brian2 lets no synapse write to a variable that is "unless refractory".
            state[addition.target] = torch.where(state[addition.mask], new, old) if addition.mask else new


Operation = Update | Refractoriness | Threshold | Reset | Generator | Poisson | PoissonEvents | Pathway

"""Relaxation: how the state of an equilibrium network finds its fixed point. Explicit formulas, no autograd."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from spikecredit.equilibrium.cost import Cost, one_hot
from spikecredit.equilibrium.energy import Energy
from spikecredit.equilibrium.sections import Phase, Section, State, repeat

LOOK_EVERY = 8
"""Sweeps between two looks at the residual: a look makes a GPU wait. A compiled block is as long."""

Mode = Literal["default", "reduce-overhead"]


@dataclass(frozen=True)
class Nudge:
    """What a nudged phase does to the output: pushed down the cost, or held.

    Args:
        cost, y: C(s_L, y), labels (B,). beta: (B, 1), the push -beta dC/ds_L of each sample.
        held: (B, classes): the output is this, whatever its currents say; then there is no push.
    """

    cost: Cost
    y: Tensor
    beta: Tensor
    held: Tensor | None = None

    def force(self, out: Tensor) -> Tensor | None:
        """-beta dC/ds_L at this output."""
        if self.held is not None:
            return None
        return self.beta * self.cost.force(out, one_hot(self.y, out))


class Relaxation(ABC):
    """How a network moves through its phases, and how long they are. Its state may be more than the activities."""

    free: int
    nudged: int

    by_spikes: ClassVar[bool] = False
    """Whether neurons hear each other's spikes only."""

    stochastic: ClassVar[bool] = False
    """Whether its states are samples."""

    @property
    def by_membranes(self) -> bool:
        """Whether `samples` are membranes, of which a synapse knows the one behind it only."""
        return False

    @abstractmethod
    def check(self, parts: list[Section], energy: Energy) -> None:
        """Refuse a network or an energy that this relaxation cannot move.

        Raises:
            ValueError: with the reason, and what to write instead.
        """

    @abstractmethod
    def start(self, energy: Energy, phase: Phase, random: torch.Generator | None = None) -> Any:
        """The state in which a free phase begins. random: for those that draw, in this phase and in what follows."""

    @abstractmethod
    def run(self, energy: Energy, phase: Phase, steps: int, state: Any, nudge: Nudge | None = None) -> Any:
        """The state after some steps from `state`, which is left as it is. nudge None: the free phase."""

    @abstractmethod
    def activities(self, state: Any) -> State:
        """What synapses see of it: s_1 ... s_L."""

    def samples(self, state: Any) -> list[State]:
        """States whose products weights learn from, each with the same weight: what synapses see, or random ones."""
        return [self.activities(state)]

    @abstractmethod
    def told(self, before: Any, after: Any) -> State:
        """What the neurons told each other in the one step between two states: spikes, samples or activities."""

    @abstractmethod
    def repeat(self, state: Any, count: int, dtype: torch.dtype) -> Any:
        """This state `count` times in a row, in a dtype."""

    def settle(self, energy: Energy, phase: Phase, state: Any = None, random: torch.Generator | None = None) -> Any:
        """The state after the free phase, from `start` or from a state of an earlier one."""
        return self.run(energy, phase, self.free, self.start(energy, phase, random) if state is None else state)


def check_lengths(relaxation: Relaxation) -> None:
    """Refuse phases without steps."""
    for name in ("free", "nudged"):
        given = getattr(relaxation, name)
        if not isinstance(given, int) or given < 1:
            raise ValueError(f"{name} is a number of sweeps, at least 1, got {given!r}")


@dataclass(frozen=True)
class Sweeps(Relaxation):
    """Rate units; the state is their activities. One sweep visits every layer once.

        target of layer l: sigma_l( P_l(W_l s_{l-1} + b_l) + gain B_{l+1}^T P_{l+1}^T s_{l+1} - [l = L] beta dC/ds_L )

    The nudge is inside the activation: outside, the estimate of the gradient keeps a large error at any beta. Other
    energies have other targets.

    Args:
        free, nudged: sweeps of the free and of each nudged phase.
        order: "checkerboard": every second layer, then the others, each seeing the newest neighbours (Gauss-Seidel);
            "jacobi": all at once; "euler": all at once, s <- s + epsilon (target - s).
        epsilon: the step of "euler", above 0 and at most 1.
        tolerance: stop a phase early once no activity moves by more than this in a sweep; looked at every 8 sweeps. 0:
            never look.
        compile: null, or a mode of `torch.compile` for blocks of 8 sweeps: "default" fuses what each layer does after
            its matrix products, "reduce-overhead" replays each block as one CUDA graph. The states equal those without
            it to rounding; the first batch of each shape takes seconds more, and complex states (holomorphic) take no
            part in it.
    Raises:
        ValueError: numbers outside these ranges; by `check`: spiking neurons, or an energy whose layers do not go where
            it is least, with another order than euler.
    Source: Scellier & Bengio 2017 (Euler); Ernoult et al. 2019 (Jacobi); Scellier et al. 2023, their code
        (checkerboard, called asynchronous there).
    """

    free: int = 30
    nudged: int = 10
    order: Literal["checkerboard", "jacobi", "euler"] = "checkerboard"
    epsilon: float = 0.5
    tolerance: float = 0.0
    compile: Mode | None = None

    def __post_init__(self) -> None:
        check_lengths(self)
        if self.order not in ("checkerboard", "jacobi", "euler"):
            raise ValueError(f"order must be 'checkerboard', 'jacobi' or 'euler', got {self.order!r}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is a step above 0 and at most 1, got {self.epsilon!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is a largest change, 0 (never look) or above, got {self.tolerance!r}")
        if self.compile not in (None, *get_args(Mode)):
            raise ValueError(f"compile is null, 'default' or 'reduce-overhead', got {self.compile!r}")

    def check(self, parts: list[Section], energy: Energy) -> None:
        check_rates(parts)
        if not energy.solves and self.order != "euler":
            raise ValueError(
                f"{energy} has no layer that may jump to its minimum: order {self.order} would not descend. Write "
                "order: euler"
            )

    def start(self, energy: Energy, phase: Phase, random: torch.Generator | None = None) -> State:
        return energy.start(phase)

    def activities(self, state: State) -> State:
        return state

    def told(self, before: State, after: State) -> State:
        return after

    def repeat(self, state: State, count: int, dtype: torch.dtype) -> State:
        return [repeat(s.to(dtype), count) for s in state]

    def run(self, energy: Energy, phase: Phase, steps: int, state: State, nudge: Nudge | None = None) -> State:
        state = list(state)
        if nudge is not None and nudge.held is not None:
            state[-1] = nudge.held
        compiled = self.compile is not None and not state[-1].is_complex()  # inductor has no complex kernels
        block = _compiled(self.compile) if compiled else sweep  # type: ignore[arg-type]
        if compiled:
            phase.forget()  # or the places that an earlier phase left would make a program of their own
        length = LOOK_EVERY if compiled or self.tolerance else steps
        for done in range(0, steps, length):
            count = min(length, steps - done)
            state, moved = block(self, energy, phase, count, state, nudge, self.tolerance > 0 and count == LOOK_EVERY)
            if moved is not None and float(moved) <= self.tolerance:
                break
        if compiled:  # a graph's memory is written over by its next replay
            phase.forget()
            state = [s.clone() for s in state]
        return state


def sweep(
    relaxation: Sweeps, energy: Energy, phase: Phase, steps: int, state: State, nudge: Nudge | None, look: bool
) -> tuple[State, Tensor | None]:
    """The state after some sweeps, and how far the last of them moved it, if asked to look."""
    state, last = list(state), len(state) - 1
    moving = last if nudge is not None and nudge.held is not None else last + 1
    # A free phase begins where the input arrives, a nudged one next to what moves the output.
    first = 0 if nudge is None else (moving - 1) % 2
    halves = [range(first, moving, 2), range(1 - first, moving, 2)]
    before: State = []
    for _ in range(steps):
        before = list(state) if look else []
        if relaxation.order == "checkerboard":
            for half in halves:
                for index in half:
                    force = None if index < last or nudge is None else nudge.force(state[last])
                    state[index] = energy.target(phase, index, state, force)
        else:
            phase.forget()
            force = None if nudge is None else nudge.force(state[last])
            new = [energy.target(phase, i, state, force if i == last else None) for i in range(moving)]
            if relaxation.order == "euler":
                new = [s + relaxation.epsilon * (n - s) for s, n in zip(state, new, strict=False)]
            state = new + state[moving:]
    return state, residual(before, state) if look else None


@functools.cache
def _compiled(mode: Mode) -> Callable[..., tuple[State, Tensor | None]]:
    """`sweep` as a program of `torch.compile`, without a break in it."""
    return torch.compile(sweep, fullgraph=True, mode=mode)


def check_rates(parts: list[Section]) -> None:
    """Refuse neurons that fire."""
    for part in parts:
        if part.neuron is not None:
            raise ValueError(
                f"{part.name} drives {type(part.neuron).__name__}, which fires: rates relax with units such as "
                "hard_sigmoid. For spiking neurons write relaxation: spikes"
            )


def residual(before: State, state: State) -> Tensor:
    """The largest change of an activity, 0-dimensional: reading it makes a GPU wait."""
    moved = [(a - b).abs().max() for a, b in zip(before, state, strict=True) if a.numel()]
    return torch.stack(moved).max() if moved else torch.zeros(())

"""Relaxation: how the state of an equilibrium network finds its fixed point. Explicit formulas, no autograd."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from spikecredit.equilibrium.cost import Cost, one_hot
from spikecredit.equilibrium.energy import Dense, Section, State

LOOK_EVERY = 8
"""Sweeps between two looks at the residual: a look makes a GPU wait."""


@dataclass(frozen=True)
class Relaxation:
    """How many sweeps, and in what order the layers move. One sweep visits every layer once.

        target of layer l: sigma_l( P_l(W_l s_{l-1} + b_l) + gain B_{l+1}^T P_{l+1}^T s_{l+1} - [l = L] beta dC/ds_L )

    The nudge is inside the activation: outside, the estimate of the gradient keeps a large error at any beta.

    Args:
        free, nudged: sweeps of the free and of each nudged phase.
        order: "checkerboard": every second layer, then the others, each seeing the newest neighbours (Gauss-Seidel);
            "jacobi": all at once; "euler": all at once, s <- s + epsilon (target - s).
        epsilon: the step of "euler", above 0 and at most 1.
        tolerance: stop a phase early once no activity moves by more than this in a sweep; looked at every 8 sweeps. 0:
            never look.
    Raises:
        ValueError: numbers outside these ranges.
    Source: Scellier & Bengio 2017 (Euler); Ernoult et al. 2019 (Jacobi); Scellier et al. 2023, their code
        (checkerboard, called asynchronous there).
    """

    free: int = 30
    nudged: int = 10
    order: Literal["checkerboard", "jacobi", "euler"] = "checkerboard"
    epsilon: float = 0.5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("free", "nudged"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} is a number of sweeps, at least 1, got {getattr(self, name)!r}")
        if self.order not in ("checkerboard", "jacobi", "euler"):
            raise ValueError(f"order must be 'checkerboard', 'jacobi' or 'euler', got {self.order!r}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is a step above 0 and at most 1, got {self.epsilon!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is a largest change, 0 (never look) or above, got {self.tolerance!r}")


@dataclass
class Phase:
    """A network that relaxes on one batch: its sections with their weights, and the current that the input makes."""

    parts: Sequence[Section]
    gain: float
    drive: Tensor
    places: list[Tensor | None] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[Section], gain: float, x: Tensor) -> "Phase":
        """Take the weights as they are, in x's dtype, and compute the input's current, which never changes."""
        for index, part in enumerate(parts):
            part.take(x.dtype, first=index == 0)
        drive, places = parts[0].up(x)
        return cls(parts, gain, drive, [places, *[None] * (len(parts) - 1)])

    def rest(self) -> State:
        """All activities 0."""
        state = [torch.zeros_like(self.drive)]
        for part in self.parts[1:]:
            state.append(torch.zeros_like(part.up(state[-1])[0]))
        return state

    def copies(self, count: int) -> "Phase":
        """The same batch `count` times in a row, for phases that relax side by side."""
        places = self.places[0]
        repeated = None if places is None else places.repeat(count, *[1] * (places.ndim - 1))
        drive = self.drive.repeat(count, *[1] * (self.drive.ndim - 1))
        return Phase(self.parts, self.gain, drive, [repeated, *[None] * (len(self.parts) - 1)])

    def target(self, index: int, state: State, force: Tensor | None) -> Tensor:
        """Where layer `index` (from 0) would go, given its neighbours; force = -beta dC/ds on the last layer."""
        part = self.parts[index]
        if index == 0:
            current = self.drive
        else:
            current, self.places[index] = part.up(state[index - 1])
        if index + 1 < len(self.parts):
            above = self.parts[index + 1]
            if isinstance(above, Dense) and current.ndim == 2:  # one pass over memory
                return part.rate(torch.addmm(current, state[index + 1], above.feedback, alpha=self.gain))
            if self.places[index + 1] is None and above.pool is not None:  # not yet seen from below
                self.places[index + 1] = above.up(state[index])[1]
            back = above.down(state[index + 1], self.places[index + 1], state[index])
            current = current + (back if self.gain == 1 else self.gain * back)
        elif force is not None:
            current = current + force
        return part.rate(current)

    def locate(self, state: State) -> None:
        """Find the maxima of all poolings at this state."""
        for index in range(1, len(self.parts)):
            if self.parts[index].pool is not None:
                self.places[index] = self.parts[index].up(state[index - 1])[1]


def relax(
    phase: Phase,
    relaxation: Relaxation,
    sweeps: int,
    state: State,
    cost: Cost | None = None,
    beta: Tensor | None = None,
    y: Tensor | None = None,
) -> State:
    """The state after some sweeps from `state`, which is left as it is.

    Args:
        cost, beta, y: the nudge -beta dC/ds_L; beta (B, 1), a number for each sample. None: the free phase.
    """
    state = list(state)
    last = len(state) - 1

    wanted = None if y is None else one_hot(y, state[last])

    def force() -> Tensor | None:
        if cost is None:
            return None
        assert beta is not None and wanted is not None
        return beta * cost.force(state[last], wanted)

    def halves() -> list[range]:
        # The nudged phase starts where the nudge arrives, the free one where the input does.
        first = 0 if cost is None else last % 2
        return [range(first, last + 1, 2), range(1 - first, last + 1, 2)]

    for sweep in range(sweeps):
        looks = relaxation.tolerance > 0 and (sweep + 1) % LOOK_EVERY == 0
        before = list(state) if looks else []
        if relaxation.order == "checkerboard":
            for half in halves():
                for index in half:
                    state[index] = phase.target(index, state, force() if index == last else None)
        else:
            phase.locate(state)
            pushed = force()
            new = [phase.target(index, state, pushed if index == last else None) for index in range(last + 1)]
            state = (
                new
                if relaxation.order == "jacobi"
                else [s + relaxation.epsilon * (n - s) for s, n in zip(state, new, strict=True)]
            )
        if looks and residual(before, state) <= relaxation.tolerance:
            break
    return state


def residual(before: State, after: State) -> float:
    """The largest change of an activity."""
    return max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in zip(before, after, strict=True))

"""What an engine is given, and what it gives back."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EVENTS = ("pre", "post", "reward")


@dataclass(frozen=True)
class Stimulus:
    """Conditions of an experiment that run side by side, each on synapses of its own.

    Args:
        pre, post, reward: for each of C conditions the times of its events, ms, from 0 to the end.
        duration: when the experiment ends, ms, the same for all.
        signals: what a rule reads at every step, name to values (steps + 1, C) in the unit that the rule declares; row
            k is the value at time k * dt.
        dt: the step of the signals, ms; needed where there are any.
    Raises:
        ValueError: unequal numbers of conditions, an event outside the experiment, or signals of another shape.
    """

    pre: tuple[np.ndarray, ...]
    post: tuple[np.ndarray, ...]
    duration: float
    reward: tuple[np.ndarray, ...] = ()
    signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    dt: float | None = None

    def __post_init__(self) -> None:
        if not self.reward:
            object.__setattr__(self, "reward", tuple(np.empty(0) for _ in self.pre))
        for name in EVENTS:
            times = tuple(np.sort(np.asarray(t, dtype=np.float64)) for t in getattr(self, name))
            object.__setattr__(self, name, times)
            if len(times) != len(self.pre):
                raise ValueError(f"{len(self.pre)} conditions of pre, but {len(times)} of {name}")
            for c, t in enumerate(times):
                if t.size and not (t[0] >= 0 and t[-1] <= self.duration):
                    raise ValueError(
                        f"condition {c}: a {name} event at {t[0] if t[0] < 0 else t[-1]:g} ms lies outside the "
                        f"experiment, 0 to {self.duration:g} ms"
                    )
        if self.signals and not self.dt:
            raise ValueError("signals need dt, the step in ms at which they were sampled")
        for name, values in self.signals.items():
            wanted = (self.steps(self.dt or 1.0) + 1, self.conditions)
            if values.shape != wanted:
                raise ValueError(
                    f"signal {name!r} has shape {values.shape}, expected (steps + 1, conditions) = {wanted}"
                )

    @property
    def conditions(self) -> int:
        """C."""
        return len(self.pre)

    def steps(self, dt: float) -> int:
        """How many steps of `dt` the experiment takes."""
        return round(self.duration / dt)

    def events(self, c: int, delay: float) -> list[tuple[float, int]]:
        """All events of a condition in the order in which they are handled: (time in ms, index into `EVENTS`).
        Presynaptic spikes come `delay` later; what would come after the end is left out."""
        found = [
            (float(t), kind)
            for kind, name in enumerate(EVENTS)
            for t in getattr(self, name)[c] + (delay if name == "pre" else 0.0)
        ]
        return sorted(e for e in found if e[0] <= self.duration)

    def grid(self, dt: float, delay: float) -> dict[str, list[np.ndarray]]:
        """For each kind of event and condition the steps in which they fall.

        Warns when times are not on the grid, with the largest rounding.

        Raises:
            ValueError: two events of one neuron in one step.
        """
        found: dict[str, list[np.ndarray]] = {}
        worst = 0.0
        for name in EVENTS:
            found[name] = []
            for c, times in enumerate(getattr(self, name)):
                late = times + (delay if name == "pre" else 0.0)
                late = late[late <= self.duration]
                steps = np.rint(late / dt).astype(np.int64)
                if late.size:
                    worst = max(worst, float(np.abs(steps * dt - late).max()))
                if len(np.unique(steps)) < len(steps):
                    raise ValueError(
                        f"condition {c}: two {name} events fall into one step of {dt:g} ms: write a smaller dt"
                    )
                found[name].append(steps)
        if worst > 1e-9:
            warnings.warn(
                f"spike times are not on the grid of dt = {dt:g} ms: rounded by up to {worst:.3g} ms "
                "(engine='reference' takes times as they are where a rule allows it)",
                stacklevel=4,
            )
        return found


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        before, after: the weight, (C, R) for C conditions and R replicates, SI.
        state: every variable at the end, (C, R) each, SI; traces that an engine keeps lazily are absent there.
        times: (K,) ms, when the recorded variables were read, before the events of that moment.
        traces: recorded variables, (K, C, R) each, SI.
    """

    before: np.ndarray
    after: np.ndarray
    state: dict[str, np.ndarray]
    times: np.ndarray = field(default_factory=lambda: np.empty(0))
    traces: dict[str, np.ndarray] = field(default_factory=dict)


def check(equations: Any, stimulus: Stimulus, dt: float, record: tuple[str, ...], every: float | None) -> None:
    """What every engine refuses before it starts.

    Raises:
        ValueError: a step that is not positive, signals missing or of another step, unknown names to record.
    """
    if not dt > 0:
        raise ValueError(f"dt is a step in ms, positive, got {dt!r}")
    for name in equations.signals:
        if name not in stimulus.signals:
            raise ValueError(
                f"the rule reads the signal {name!r}, which this experiment does not deliver (it has "
                f"{', '.join(stimulus.signals) or 'none'}): choose a protocol that records it"
            )
    if equations.signals and stimulus.dt != dt:
        raise ValueError(f"the signals were sampled every {stimulus.dt:g} ms, and the engine steps by {dt:g} ms")
    for name in record:
        if name not in equations.lines:
            raise ValueError(f"cannot record {name!r}: the model has {', '.join(equations.lines)}")
    if record and not (every and every > 0):
        raise ValueError("record needs every=, the time in ms between two readings")

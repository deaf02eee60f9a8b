"""The meaning of a rule, in float64 NumPy: one condition after the other, as plainly as it can be written.

Between two events every variable with dx/dt = a x + b is moved exactly, so that rules of traces alone have no step and
take spikes at any time. Other equations are integrated between events by Runge-Kutta steps (fourth order) of at most
`dt`, those with noise by Euler-Maruyama. Rules with `method="euler"` or with signals go the way of the clocked engines,
step k from (k-1) dt to k dt by Euler, then the events of k dt.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spikecredit.plasticity.engines.stimulus import EVENTS, Outcome, Stimulus, check
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import NUMPY

State = dict[str, Any]


def run(
    equations: Equations,
    stimulus: Stimulus,
    dt: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    start: Mapping[str, Any] | None = None,
    record: tuple[str, ...] = (),
    every: float | None = None,
) -> Outcome:
    """Run a rule on every condition.

    Args:
        equations, stimulus: what and on what.
        dt: largest step of continuous equations, ms; unused where all is exact.
        replicates: synapses per condition; they differ by noise and by `start`.
        seed: of the noise.
        start: initial values that replace those of the rule, SI: numbers or arrays that broadcast to (C, R).
        record: names of the model to read every `every` ms.
    Raises:
        ValueError: see `check`.
    """
    check(equations, stimulus, dt, record, every)
    rng = np.random.default_rng(seed)
    shape = (stimulus.conditions, replicates)
    given = {
        name: np.array(np.broadcast_to(np.asarray(value, float), shape))
        for name, value in equations.initial(start).items()
    }
    reading = [] if not record else [k * every for k in range(int(stimulus.duration / every + 1e-9) + 1)]  # type: ignore[operator]
    traces = {name: np.empty((len(reading), *shape)) for name in record}
    gridded = equations.method == "euler" or bool(equations.signals)
    grid = stimulus.grid(dt, equations.delay) if gridded else None
    before = np.array(np.broadcast_to(equations.strength(given), shape))
    for c in range(stimulus.conditions):
        state: State = {name: given[name][c] for name in given}
        if replicates == 1 and not equations.noisy:
            state = {name: float(value[0]) for name, value in state.items()}
        walk = _Walk(equations, state, dt, rng)
        if grid is None:
            events = stimulus.events(c, equations.delay)
        else:
            events = sorted((float(k * dt), kind) for kind, name in enumerate(EVENTS) for k in grid[name][c])
        marks = sorted([(t, -1) for t in reading] + events + [(stimulus.duration, len(EVENTS))])
        signals = {name: stimulus.signals[name][:, c] * equations.units[name].scale for name in equations.signals}
        now, read = (-dt if gridded else 0.0), 0
        for t, kind in marks:
            if gridded:
                walk.steps(round(now / dt), round(t / dt), signals)
            else:
                walk.advance(t - now)
            now = t
            if kind == -1:
                for name in record:
                    traces[name][read, c] = walk.read(name)
                read += 1
            elif kind < len(EVENTS):
                walk.event(EVENTS[kind])
        for name in given:
            given[name][c] = walk.state[name]
    after = np.array(np.broadcast_to(equations.strength(given), shape))
    return Outcome(before, after, given, np.array(reading, dtype=float), traces)


class _Walk:
    """One condition on its way through time."""

    def __init__(self, equations: Equations, state: State, dt: float, rng: np.random.Generator) -> None:
        self.equations, self.state, self.dt, self.rng = equations, state, dt, rng
        self.values = dict(equations.values)
        self.signals: Mapping[str, Any] = {}
        size = next((np.shape(v) for v in state.values()), ())
        self.functions = {**NUMPY, "rand": lambda: rng.random(size)}
        self._decays: dict[float, dict[str, tuple[float, float]]] = {}

    def read(self, name: str) -> Any:
        """A variable or subexpression now."""
        if name in self.state:
            return self.state[name]
        return self.equations.subexpressions[name]({**self.values, **self.state, **self.signals}, NUMPY)

    def event(self, kind: str) -> None:
        """The statements of an event, in order."""
        names = {**self.values, **self.state, **self.signals}
        for s in self.equations.blocks[kind]:
            names[s.target] = s.value(names, self.functions)
        for name in self.state:
            self.state[name] = names[name]

    def decay(self, state: State, ms: float) -> State:
        """The exact variables `ms` later, the others as they are."""
        if ms not in self._decays:
            if len(self._decays) > 1000:
                self._decays.clear()
            self._decays[ms] = self.equations.decay(ms * 1e-3)
        moved = {name: state[name] * f + shift for name, (f, shift) in self._decays[ms].items()}
        return {**state, **moved}

    def slopes(self, state: State, more: Mapping[str, Any]) -> State:
        """Every continuous slope."""
        names = {**self.values, **state, **more}
        return {name: slope(names, NUMPY) for name, slope in self.equations.continuous.items()}

    def advance(self, ms: float) -> None:
        """Time without events: exact, Runge-Kutta or Euler-Maruyama."""
        if ms <= 0:
            return
        if not self.equations.continuous:
            self.state = self.decay(self.state, ms)
            return
        n = max(1, int(np.ceil(ms / self.dt - 1e-9)))
        for _ in range(n):
            self.euler(ms / n) if self.equations.noisy else self.runge_kutta(ms / n)

    def steps(self, first: int, last: int, signals: Mapping[str, np.ndarray]) -> None:
        """Steps first + 1 to last of the grid; step k reads signals at k."""
        if not self.equations.continuous and not signals:
            self.advance((last - first) * self.dt)
            return
        for k in range(first + 1, last + 1):
            self.signals = {name: values[k] for name, values in signals.items()}
            self.euler(self.dt)

    def euler(self, ms: float) -> None:
        """One Euler(-Maruyama) step: all slopes from the old state; exact variables exactly."""
        h, more = ms * 1e-3, dict(self.signals)
        size = next((np.shape(v) for v in self.state.values()), ())
        for noise in sorted({n for names in self.equations.noise.values() for n in names}):
            more[noise] = self.rng.standard_normal(size) / np.sqrt(h)
        slopes = self.slopes(self.state, more)
        moved = {name: self.state[name] + h * slope for name, slope in slopes.items()}
        self.state = self._bounded({**self.decay(self.state, ms), **moved})

    def runge_kutta(self, ms: float) -> None:
        """One step of the classical fourth-order method, with the exact variables exact at its half."""
        h = ms * 1e-3
        half, end = self.decay(self.state, ms / 2), self.decay(self.state, ms)

        def at(base: State, slope: State, part: float) -> State:
            return {**base, **{name: self.state[name] + part * h * k for name, k in slope.items()}}

        k1 = self.slopes(self.state, {})
        k2 = self.slopes(at(half, k1, 0.5), {})
        k3 = self.slopes(at(half, k2, 0.5), {})
        k4 = self.slopes(at(end, k3, 1.0), {})
        mean = {name: (k1[name] + 2 * k2[name] + 2 * k3[name] + k4[name]) / 6 for name in k1}
        self.state = self._bounded(at(end, mean, 1.0))

    def _bounded(self, state: State) -> State:
        for name in self.equations.bounds:
            if name in self.equations.continuous:
                state[name] = self.equations.clipped(name).value({**self.values, **state}, NUMPY)
        return state

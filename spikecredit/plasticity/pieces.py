"""Long experiments with calcium-based rules: fine steps while calcium is above a threshold, coarse ones in between.

Calcium decays exactly in any step, and whatever else such a rule computes is slow where calcium is low: seconds of
silence, or hours of consolidation, need no steps of a millisecond. Each piece is a run of the reference engine that
starts from the state in which the last one ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from spikecredit.plasticity.engines import reference
from spikecredit.plasticity.engines.stimulus import Outcome, Stimulus
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.protocols import Experiment


class WithCalcium(Protocol):
    """A rule whose calcium jumps by C_pre and C_post, decays with tau_Ca (ms), and acts above theta_d."""

    @property
    def C_pre(self) -> float: ...  # noqa: N802
    @property
    def C_post(self) -> float: ...  # noqa: N802
    @property
    def tau_Ca(self) -> float: ...  # noqa: N802
    @property
    def theta_d(self) -> float: ...

    def equations(self) -> Equations: ...
    def starting(self, experiment: Experiment, replicates: int) -> Mapping[str, Any]: ...


def above(
    times: np.ndarray, jumps: np.ndarray, tau: float, threshold: float, duration: float
) -> list[tuple[float, float]]:
    """The intervals in which a sum of exponentials exceeds a threshold. Exact.

    Args:
        times, jumps: when it jumps, ms, and by how much.
        tau: ms. threshold: of the sum. duration: ms, where the last interval is cut.
    """
    found: list[tuple[float, float]] = []
    order = np.argsort(times, kind="stable")
    times, jumps = np.asarray(times, dtype=np.float64)[order], np.asarray(jumps, dtype=np.float64)[order]
    value, last = 0.0, 0.0
    for i, (t, jump) in enumerate(zip(times.tolist(), jumps.tolist(), strict=True)):
        value, last = value * np.exp(-(t - last) / tau) + jump, t
        if value <= threshold:
            continue
        end = min(t + tau * float(np.log(value / threshold)), times[i + 1] if i + 1 < len(times) else duration)
        if found and found[-1][1] >= t:
            found[-1] = (found[-1][0], float(end))
        else:
            found.append((t, float(end)))
    return found


def run(
    rule: WithCalcium,
    experiment: Experiment,
    fine: float = 0.2,
    coarse: float = 100.0,
    replicates: int = 1,
    seed: int = 0,
    start: Mapping[str, Any] | None = None,
) -> Outcome:
    """Run a calcium-based rule on every condition.

    Args:
        rule: `CalciumRule` or `TaggingAndCapture`.
        fine: ms, the largest step while calcium is above theta_d, and for one such step after it.
        coarse: ms, the largest step elsewhere.
        replicates, seed, start: as in `Protocol.run`.
    Raises:
        ValueError: steps that are not positive.
    """
    if not 0 < fine <= coarse:
        raise ValueError(f"steps must be 0 < fine <= coarse, got fine = {fine!r} and coarse = {coarse!r} ms")
    equations = rule.equations()
    at_once = replace(equations, delay=0.0)
    rng = np.random.default_rng(seed)
    shape = (len(experiment.pre), replicates)
    begin = equations.initial({**rule.starting(experiment, replicates), **(start or {})})
    first = {name: np.array(np.broadcast_to(np.asarray(v, float), shape)) for name, v in begin.items()}
    state = {name: value.copy() for name, value in first.items()}
    for c in range(shape[0]):
        pre = np.sort(np.asarray(experiment.pre[c], dtype=np.float64)) + equations.delay
        post = np.sort(np.asarray(experiment.post[c], dtype=np.float64))
        pre, post = pre[pre <= experiment.duration], post[post <= experiment.duration]
        jumps = np.repeat([rule.C_pre, rule.C_post], [len(pre), len(post)])
        active = above(np.concatenate([pre, post]), jumps, rule.tau_Ca, rule.theta_d, experiment.duration)
        now = {name: value[c : c + 1] for name, value in state.items()}
        for t0, t1, dt in _pieces(active, experiment.duration, fine, coarse):
            last = t1 >= experiment.duration
            within = [(t[(t >= t0) & ((t < t1) | last)] - t0,) for t in (pre, post)]
            stimulus = Stimulus(within[0], within[1], t1 - t0)
            now = reference.run(at_once, stimulus, dt, replicates, int(rng.integers(2**62)), now).state
        for name, value in now.items():
            state[name][c] = value[0]
    return Outcome(
        np.array(np.broadcast_to(equations.strength(first), shape)),
        np.array(np.broadcast_to(equations.strength(state), shape)),
        state,
    )


def _pieces(
    active: Sequence[tuple[float, float]], duration: float, fine: float, coarse: float
) -> list[tuple[float, float, float]]:
    """(from, to, step) of every piece. A fine one ends a step late: at the crossing itself rounding would decide on
    which side of the threshold a coarse step is."""
    found: list[tuple[float, float, float]] = []
    now = 0.0
    for t0, t1 in active:
        if t0 > now:
            found.append((now, t0, coarse))
            now = t0
        if t1 + fine > now:
            found.append((now, min(t1 + fine, duration), fine))
            now = found[-1][1]
    if now < duration:
        found.append((now, duration, coarse))
    return found

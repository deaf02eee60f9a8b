"""Experiments that induce plasticity: which spikes, when, and how often."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from spikecredit.plasticity.engines.stimulus import Stimulus

if TYPE_CHECKING:
    from spikecredit.plasticity.result import Result
    from spikecredit.plasticity.rule import Rule


@dataclass(frozen=True)
class Experiment:
    """The conditions of a protocol, each on synapses of its own.

    Attributes:
        axes: what varies between conditions, with its unit: {"dt": "ms", "rate": "Hz"}.
        rows: for each condition the value on every axis.
        pre, post, reward: for each condition the times of its events, ms.
        duration: ms.
        voltage: for a clamped cell the potential of each condition, mV, (C,); else None.
    """

    axes: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    pre: Sequence[np.ndarray]
    post: Sequence[np.ndarray]
    duration: float
    reward: Sequence[np.ndarray] = ()
    voltage: np.ndarray | None = None


@dataclass(frozen=True)
class Protocol(ABC):
    """The base of all protocols: frozen, with numbers only. Times are in ms, rates in Hz, durations in s."""

    kind: ClassVar[str]
    """Its name in `PROTOCOLS` and on the command line."""

    @abstractmethod
    def experiment(self) -> Experiment:
        """The conditions."""

    @property
    def grouped(self) -> bool:
        """Whether trains are cut into groups with pauses between them."""
        return False

    def stimulus(self, rule: "Rule", dt: float) -> Stimulus:
        """The experiment as engines take it, with the signals that the rule reads."""
        made = self.experiment()
        signals = rule.signals(made, dt)
        return Stimulus(
            tuple(made.pre), tuple(made.post), made.duration, tuple(made.reward), signals, dt if signals else None
        )

    def run(
        self,
        rule: "Rule",
        engine: Literal["reference", "torch", "brian"] = "reference",
        dt: float | None = None,
        replicates: int = 1,
        seed: int = 0,
        start: Mapping[str, Any] | None = None,
        record: tuple[str, ...] = (),
        every: float | None = None,
        **options: Any,
    ) -> "Result":
        """Run a rule on every condition.

        Args:
            rule: any `Rule`.
            engine: "reference" (float64 NumPy, exact where a rule allows it), "torch" (all conditions at once) or
                "brian" (Brian2).
            dt: ms; by default the rule's own.
            replicates: synapses per condition, for rules with noise.
            seed: of that noise.
            start: initial values, SI, that replace the rule's.
            record: variables to read every `every` ms.
            options: the engine's own: device and dtype for torch, target for brian.
        Raises:
            ValueError: an unknown engine, or what the engine refuses.
        Warns:
            OutsideFit: a published parameter set is used for an experiment that it was not fitted to.
        """
        from spikecredit.plasticity.engines import ENGINES  # the engines are heavy; rules and protocols are not
        from spikecredit.plasticity.result import Result

        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        step = dt if dt is not None else rule.DT
        made = self.experiment()
        rule.check_fit(self.kind, self.grouped, made.duration / 1e3)
        outcome = ENGINES[engine]()(
            rule.equations(), self.stimulus(rule, step), dt=step, replicates=replicates, seed=seed,
            start={**rule.before(made, replicates), **(start or {})}, record=record, every=every, **options,
        )  # fmt: skip
        return Result(rule, self, made, outcome, engine)


GAP = 50.0
"""ms of silence before the first spike and after the last."""


@dataclass(frozen=True)
class Pairing(Protocol):
    """Pairs at each lag, `n` of them at `rate`; one condition per lag.

    Args:
        dt: lags t_post - t_pre, ms.
        n: pairs.
        rate: Hz.
    """

    dt: Sequence[float] = field(default_factory=lambda: tuple(float(d) for d in range(-100, 101, 5)))
    n: int = 60
    rate: float = 1.0
    kind: ClassVar[str] = "pairing"

    def experiment(self) -> Experiment:
        first = GAP + max(0.0, -min(self.dt))
        times = first + np.arange(self.n) * 1e3 / self.rate
        pre, post = [times for _ in self.dt], [times + d for d in self.dt]
        end = float(max(np.max(t) for t in pre + post)) + GAP
        return Experiment({"dt": "ms"}, [{"dt": d} for d in self.dt], pre, post, end)


@dataclass(frozen=True)
class FrequencySweep(Protocol):
    """Pairs at several rates and lags, in one train or in groups: Sjöström et al. 2001.

    Args:
        dt: lags t_post - t_pre, ms.
        rates: Hz.
        n: pairs of a contiguous train.
        grouping: None, or (pairs per group, groups, ms from group to group): (5, 15, 10000) is what was done. Rates
            below `1000 * pairs / period` stay contiguous, with 50 pairs, as there.
    """

    dt: Sequence[float] = (10.0, -10.0)
    rates: Sequence[float] = (0.1, 10.0, 20.0, 40.0, 50.0)
    n: int = 60
    grouping: tuple[int, int, float] | None = None
    kind: ClassVar[str] = "frequency"

    @property
    def grouped(self) -> bool:
        return self.grouping is not None

    def times(self, rate: float) -> np.ndarray:
        """When the pairs of one rate come, ms from the first."""
        if self.grouping is None:
            return np.arange(self.n) * 1e3 / rate
        size, groups, period = self.grouping
        if size * 1e3 / rate > period:
            return np.arange(50) * 1e3 / rate
        return (np.arange(groups)[:, None] * period + np.arange(size) * 1e3 / rate).ravel()

    def experiment(self) -> Experiment:
        rows, pre, post = [], [], []
        first = GAP + max(0.0, -min(self.dt))
        for rate in self.rates:
            for d in self.dt:
                rows.append({"rate": rate, "dt": d})
                pre.append(first + self.times(rate))
                post.append(first + self.times(rate) + d)
        end = float(max(np.max(t) for t in pre + post)) + GAP
        return Experiment({"rate": "Hz", "dt": "ms"}, rows, pre, post, end)


PROTOCOLS: dict[str, type[Protocol]] = {c.kind: c for c in (Pairing, FrequencySweep)}

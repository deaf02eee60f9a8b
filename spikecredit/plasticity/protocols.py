"""Experiments that induce plasticity: which spikes, when, and how often. Pairs are here; `trains` has the rest."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    plot: ClassVar[str] = "sweep"
    """The figure that belongs to it, a name in `plots.PLOTS`."""

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
            every: ms.
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
            start={**rule.starting(made, replicates), **(start or {})}, record=record, every=every, **options,
        )  # fmt: skip
        return Result(rule, self, made, outcome, engine)


GAP = 50.0
"""ms of silence before the first spike and after the last."""


# ---- what all protocols share ----------------------------------------------------------------------------------------


def count(name: str, value: int, what: str) -> None:
    """Refuse a number of things that is below 1 or no integer."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ValueError(f"{name} is a number of {what}, an integer of at least 1, got {value!r}")


def positive(name: str, value: float, unit: str) -> None:
    """Refuse a rate or time that is not positive and finite."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is in {unit}, positive and finite, got {value!r}")


def numbers(name: str, values: Any, unit: str, least: float | None = None) -> tuple[float, ...]:
    """A sequence as floats; refuse what is none, is empty, has a value twice or one that is not above `least`."""
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
        raise ValueError(f"{name} is a list of values in {unit}, such as ({name} = (10.0, 20.0)), got {values!r}")
    found = tuple(float(value) for value in values)
    for value in found:
        if not math.isfinite(value) or (least is not None and not value > least):
            raise ValueError(
                f"{name} must be {'finite' if least is None else f'above {least:g} {unit}'}, got {value:g}"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"{name} has a value twice, and each is a condition of its own: {found}")
    return found


def fits(what: str, takes: float, period: float) -> None:
    """Refuse repetitions that run into each other."""
    if not takes < period:
        raise ValueError(
            f"{what} overlap: each lasts {takes:g} ms, and the next begins after {period:g} ms: write a lower rate, a "
            "longer pause or fewer spikes"
        )


def repeat(pattern: Sequence[float] | np.ndarray, n: int, period: float) -> np.ndarray:
    """A pattern of times `n` times, each `period` ms after the one before."""
    return (np.arange(n)[:, None] * period + np.asarray(pattern, dtype=float)).ravel()


def arrange(
    axes: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    pre: Sequence[np.ndarray],
    post: Sequence[np.ndarray],
    reward: Sequence[np.ndarray] = (),
    voltage: np.ndarray | None = None,
    lead: float = GAP,
    tail: float = GAP,
) -> Experiment:
    """An experiment from times around any zero: all conditions are shifted alike, so that the first event of all comes
    after `lead` ms; the end is `tail` ms after the last."""
    times = np.concatenate([*pre, *post, *reward])
    if not times.size:
        raise ValueError("no condition has a spike: write a higher rate or a longer experiment")
    shift = lead - float(times.min())
    moved = [[t + shift for t in group] for group in (pre, post, reward)]
    return Experiment(axes, rows, moved[0], moved[1], float(times.max()) + shift + tail, tuple(moved[2]), voltage)


# ---- pairs, triplets, quadruplets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing(Protocol):
    """Pairs at each lag, `n` of them at `rate`; one condition per lag. 60 at 1 Hz: Bi & Poo 1998.

    Args:
        dt: lags t_post - t_pre, ms.
        n: pairs.
        rate: Hz.
    """

    dt: Sequence[float] = tuple(float(d) for d in range(-100, 101, 5))
    n: int = 60
    rate: float = 1.0
    kind: ClassVar[str] = "pairing"
    plot: ClassVar[str] = "window"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt", numbers("dt", self.dt, "ms"))
        count("n", self.n, "pairs")
        positive("rate", self.rate, "Hz")

    def experiment(self) -> Experiment:
        times = repeat([0.0], self.n, 1e3 / self.rate)
        return arrange({"dt": "ms"}, [{"dt": d} for d in self.dt], [times] * len(self.dt), [times + d for d in self.dt])


@dataclass(frozen=True)
class StriatalPairing(Pairing):
    """The pairing of corticostriatal synapses: 100 pairs at 1 Hz (Fino et al. 2010, PMC2956944).

    Args:
        dt: lags t_post - t_pre, ms.
        n: pairs.
        rate: Hz.
    """

    n: int = 100
    kind: ClassVar[str] = "striatal"


@dataclass(frozen=True)
class FrequencySweep(Protocol):
    """Pairs at several rates and lags, in one train or in groups: Sjöström et al. 2001.

    Args:
        dt: lags t_post - t_pre, ms.
        rates: Hz.
        n: pairs of a contiguous train.
        grouping: None, or (pairs per group, groups, ms from group to group): (5, 15, 10000) is what was done. Where
            1000 / rate is at least the period, it is one train of 50 pairs, as there at 0.1 Hz.
    Raises:
        ValueError: groups that run into each other, and others.
    """

    dt: Sequence[float] = (10.0, -10.0)
    rates: Sequence[float] = (0.1, 10.0, 20.0, 40.0, 50.0)
    n: int = 60
    grouping: tuple[int, int, float] | None = None
    kind: ClassVar[str] = "frequency"
    plot: ClassVar[str] = "frequency"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt", numbers("dt", self.dt, "ms"))
        object.__setattr__(self, "rates", numbers("rates", self.rates, "Hz", least=0.0))
        count("n", self.n, "pairs")
        if self.grouping is None:
            return
        if len(self.grouping) != 3:
            raise ValueError(
                "grouping is (pairs per group, groups, ms from group to group), such as (5, 15, 10000), got "
                f"{self.grouping!r}"
            )
        size, groups, period = self.grouping
        count("grouping's first", size, "pairs per group")
        count("grouping's second", groups, "groups")
        positive("grouping's third", period, "ms")
        for rate in self.rates:
            if 1e3 / rate < period:
                fits(f"groups of {size} pairs at {rate:g} Hz", (size - 1) * 1e3 / rate, period)

    @property
    def grouped(self) -> bool:
        return self.grouping is not None

    def times(self, rate: float) -> np.ndarray:
        """When the pairs of one rate come, ms from the first."""
        if self.grouping is None:
            return repeat([0.0], self.n, 1e3 / rate)
        size, groups, period = self.grouping
        if 1e3 / rate >= period:
            return repeat([0.0], 50, 1e3 / rate)
        return repeat(repeat([0.0], size, 1e3 / rate), groups, period)

    def experiment(self) -> Experiment:
        rows = [{"rate": rate, "dt": d} for rate in self.rates for d in self.dt]
        pre = [self.times(row["rate"]) for row in rows]
        post = [times + row["dt"] for times, row in zip(pre, rows, strict=True)]
        return arrange({"rate": "Hz", "dt": "ms"}, rows, pre, post)


Order = Literal["pre-post-pre", "post-pre-post", "both"]
LAGS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "pre-post-pre": ((5.0, -5.0), (10.0, -10.0), (15.0, -5.0), (5.0, -15.0)),
    "post-pre-post": ((-5.0, 5.0), (-10.0, 10.0), (-5.0, 15.0), (-15.0, 5.0)),
}
"""The lags that Pfister & Gerstner 2006 compare with Wang et al. 2005."""


@dataclass(frozen=True)
class Triplet(Protocol):
    """Two spikes of one side around one of the other. The signs of the lags tell which: 5, -5 is pre-post-pre.

    Args:
        order: "pre-post-pre", "post-pre-post" or "both".
        dt: (first, second) lag t_post - t_pre in ms, of the spike between with the first and with the last; by default
            the four of each order that Pfister & Gerstner 2006 compare with data.
        n: triplets.
        rate: Hz.
    """

    order: Order = "both"
    dt: Sequence[tuple[float, float]] | None = None
    n: int = 60
    rate: float = 1.0
    kind: ClassVar[str] = "triplet"
    plot: ClassVar[str] = "bars"

    def __post_init__(self) -> None:
        if self.order not in (*LAGS, "both"):
            raise ValueError(f"order must be {', '.join(map(repr, LAGS))} or 'both', got {self.order!r}")
        count("n", self.n, "triplets")
        positive("rate", self.rate, "Hz")
        for lags in self.lags:
            if len(lags) != 2 or not (lags[0] * lags[1] < 0):
                raise ValueError(
                    f"dt is a list of pairs of lags with opposite signs, such as [(5, -5), (-5, 5)], got {lags!r}"
                )
            if self.order not in (order(lags), "both"):
                raise ValueError(f"dt = {lags!r} is {order(lags)}, and order is {self.order!r}")
            fits("triplets", abs(lags[0]) + abs(lags[1]), 1e3 / self.rate)

    @property
    def lags(self) -> Sequence[tuple[float, float]]:
        """The lags of all conditions."""
        if self.dt is not None:
            return self.dt
        return [lags for name, some in LAGS.items() if self.order in (name, "both") for lags in some]

    def experiment(self) -> Experiment:
        rows, pre, post = [], [], []
        for first, second in self.lags:
            rows.append({"dt1": float(first), "dt2": float(second)})
            outer, middle = ([0.0, first - second], [first]) if first > 0 else ([first, second], [0.0])
            trains = [repeat(pattern, self.n, 1e3 / self.rate) for pattern in (outer, middle)]
            pre.append(trains[0 if first > 0 else 1])
            post.append(trains[1 if first > 0 else 0])
        return arrange({"dt1": "ms", "dt2": "ms"}, rows, pre, post)


def order(lags: Sequence[float]) -> str:
    """Which spikes come in which order at a triplet's two lags t_post - t_pre."""
    return "pre-post-pre" if lags[0] > 0 else "post-pre-post"


@dataclass(frozen=True)
class Quadruplet(Protocol):
    """A post-pre pair and a pre-post pair, with T from the middle of the first to the middle of the second.

    T > 0: post-pre, then pre-post. T < 0: pre-post, then post-pre. After Wang et al. 2005 and Pfister & Gerstner 2006;
    the sign of T is from memory.

    Args:
        T: ms, each beyond the lag: closer, two spikes of one neuron would meet.
        dt: |t_post - t_pre| of both pairs, ms.
        n: quadruplets.
        rate: Hz.
    """

    T: Sequence[float] = tuple(float(t) for t in range(-100, 101, 10) if t)
    dt: float = 5.0
    n: int = 60
    rate: float = 1.0
    kind: ClassVar[str] = "quadruplet"

    def __post_init__(self) -> None:
        object.__setattr__(self, "T", numbers("T", self.T, "ms"))
        positive("dt", self.dt, "ms")
        count("n", self.n, "quadruplets")
        positive("rate", self.rate, "Hz")
        for interval in self.T:
            if not abs(interval) > self.dt:
                raise ValueError(
                    f"T = {interval:g} ms lets two spikes of one neuron meet: write more than dt = {self.dt:g} ms, or "
                    f"less than -{self.dt:g} ms"
                )
            fits("quadruplets", abs(interval) + self.dt, 1e3 / self.rate)

    def experiment(self) -> Experiment:
        period = 1e3 / self.rate
        pre = [repeat(sorted([self.dt, T]), self.n, period) for T in self.T]
        post = [repeat(sorted([0.0, T + self.dt]), self.n, period) for T in self.T]
        return arrange({"T": "ms"}, [{"T": T} for T in self.T], pre, post)

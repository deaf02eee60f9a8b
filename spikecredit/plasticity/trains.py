"""Experiments of trains: bursts, volleys, a clamped cell, random spikes, rewards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spikecredit.plasticity.protocols import Experiment, Protocol, arrange, count, fits, numbers, positive, repeat


def regular(n: int, rate: float) -> np.ndarray:
    """`n` spikes at `rate` Hz, ms from the first."""
    return repeat([0.0], n, 1e3 / rate)


@dataclass(frozen=True)
class Burst(Protocol):
    """A presynaptic spike with a burst of postsynaptic ones: Nevian & Sakmann 2006, numbers from memory.

    Args:
        dt: lags from the presynaptic spike to the first of the burst, ms.
        n_post: spikes per burst.
        rate_post: Hz within a burst.
        n: repetitions.
        rate: Hz of repetitions.
    """

    dt: Sequence[float] = (10.0, -10.0)
    n_post: Sequence[int] = (1, 2, 3)
    rate_post: Sequence[float] = (50.0,)
    n: int = 60
    rate: float = 0.1
    kind: ClassVar[str] = "burst"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dt", numbers("dt", self.dt, "ms"))
        object.__setattr__(self, "rate_post", numbers("rate_post", self.rate_post, "Hz", least=0.0))
        numbers("n_post", self.n_post, "spikes")
        for n in self.n_post:
            count("n_post", n, "spikes per burst")
        object.__setattr__(self, "n_post", tuple(self.n_post))
        count("n", self.n, "repetitions")
        positive("rate", self.rate, "Hz")
        for row in self._rows():
            last = row["dt"] + (row["n_post"] - 1) * 1e3 / row["rate_post"]
            fits("bursts", max(last, 0.0) - min(row["dt"], 0.0), 1e3 / self.rate)

    def _rows(self) -> list[dict[str, float]]:
        return [
            {"dt": d, "n_post": n, "rate_post": rate}
            for rate in self.rate_post for n in self.n_post for d in self.dt
        ]  # fmt: skip

    def experiment(self) -> Experiment:
        rows, period = self._rows(), 1e3 / self.rate
        post = [repeat(row["dt"] + regular(int(row["n_post"]), row["rate_post"]), self.n, period) for row in rows]
        axes = {"dt": "ms", "n_post": "", "rate_post": "Hz"}
        return arrange(axes, rows, [repeat([0.0], self.n, period)] * len(rows), post)


# ---- volleys to the presynaptic side ---------------------------------------------------------------------------------


class Volleys(Protocol):
    """Trains of presynaptic spikes, one per condition; the cell answers each after a lag, or is silent."""

    plot: ClassVar[str] = "course"

    def answered(
        self, axes: dict[str, str], rows: list[dict[str, float]], pre: list[np.ndarray], lag: float | None
    ) -> Experiment:
        """The experiment: a postsynaptic spike `lag` ms after each presynaptic one, or none."""
        if lag is not None and not math.isfinite(lag):
            raise ValueError(f"lag is in ms, or null for a silent cell, got {lag!r}")
        post = [np.empty(0) if lag is None else t + lag for t in pre]
        return arrange(axes, rows, pre, post)


@dataclass(frozen=True)
class ThetaBurst(Volleys):
    """Theta-burst stimulation: trains of bursts (bio-protocol 9280346).

    Args:
        pulses, intra: spikes per burst, and their rate in Hz.
        bursts, inter: bursts per train, and ms from burst to burst.
        trains, gap: numbers of trains, one condition each, and seconds from train to train.
        lag: ms from each presynaptic spike to the postsynaptic one that it evokes; null: the cell is silent. That every
            volley fires the cell is this protocol's assumption.
    """

    pulses: int = 4
    intra: float = 100.0
    bursts: int = 10
    inter: float = 200.0
    trains: Sequence[int] = (3,)
    gap: float = 10.0
    lag: float | None = 5.0
    kind: ClassVar[str] = "theta_burst"

    def __post_init__(self) -> None:
        numbers("trains", self.trains, "trains")
        object.__setattr__(self, "trains", tuple(self.trains))
        for name in ("pulses", "bursts"):
            count(name, getattr(self, name), name)
        for n in self.trains:
            count("trains", n, "trains")
        for name, unit in (("intra", "Hz"), ("inter", "ms"), ("gap", "s")):
            positive(name, getattr(self, name), unit)
        burst = (self.pulses - 1) * 1e3 / self.intra
        fits("bursts", burst, self.inter)
        if max(self.trains) > 1:
            fits("trains", (self.bursts - 1) * self.inter + burst, self.gap * 1e3)

    @property
    def grouped(self) -> bool:
        return True

    def experiment(self) -> Experiment:
        train = repeat(regular(self.pulses, self.intra), self.bursts, self.inter)
        pre = [repeat(train, n, self.gap * 1e3) for n in self.trains]
        return self.answered({"trains": ""}, [{"trains": n} for n in self.trains], pre, self.lag)


@dataclass(frozen=True)
class Tetanus(Volleys):
    """Trains at a high rate: the strong tetanus of Luboeinski & Tetzlaff 2021, 1 s at 100 Hz three times.

    Their weak tetanus is `Tetanus(seconds=0.2, trains=(1,))`.

    Args:
        rate: Hz.
        seconds: length of a train.
        trains, gap: numbers of trains, one condition each, and seconds from train to train.
        lag: ms from each presynaptic spike to the postsynaptic one that it evokes; null: the cell is silent. That every
            volley fires the cell is this protocol's assumption.
    """

    rate: float = 100.0
    seconds: float = 1.0
    trains: Sequence[int] = (3,)
    gap: float = 600.0
    lag: float | None = 5.0
    kind: ClassVar[str] = "tetanus"

    def __post_init__(self) -> None:
        numbers("trains", self.trains, "trains")
        object.__setattr__(self, "trains", tuple(self.trains))
        for n in self.trains:
            count("trains", n, "trains")
        for name, unit in (("rate", "Hz"), ("seconds", "s"), ("gap", "s")):
            positive(name, getattr(self, name), unit)
        if max(self.trains) > 1:
            fits("trains", self.seconds * 1e3, self.gap * 1e3)
        if self.seconds * self.rate < 1 - 1e-9:
            raise ValueError(f"a train of {self.seconds:g} s at {self.rate:g} Hz has no spike")

    @property
    def grouped(self) -> bool:
        return max(self.trains) > 1

    def experiment(self) -> Experiment:
        train = regular(math.floor(self.seconds * self.rate + 1e-9), self.rate)
        pre = [repeat(train, n, self.gap * 1e3) for n in self.trains]
        return self.answered({"trains": ""}, [{"trains": n} for n in self.trains], pre, self.lag)


@dataclass(frozen=True)
class LowFrequency(Volleys):
    """Low-frequency stimulation: 900 presynaptic spikes at 1 Hz, or short bursts in their place.

    The strong low-frequency stimulation of Luboeinski & Tetzlaff 2021, 900 times 3 spikes at 20 Hz, each after 1.15 s,
    is `LowFrequency(rates=(1 / 1.15,), pulses=3, intra=20.0)`.

    Args:
        rates: Hz, one condition each.
        n: repetitions.
        pulses, intra: spikes per repetition, and their rate in Hz.
        lag: ms from each presynaptic spike to a postsynaptic one; null: the cell is silent.
    """

    rates: Sequence[float] = (1.0,)
    n: int = 900
    pulses: int = 1
    intra: float = 20.0
    lag: float | None = None
    kind: ClassVar[str] = "low_frequency"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", numbers("rates", self.rates, "Hz", least=0.0))
        count("n", self.n, "repetitions")
        count("pulses", self.pulses, "pulses")
        positive("intra", self.intra, "Hz")
        for rate in self.rates:
            fits("bursts", (self.pulses - 1) * 1e3 / self.intra, 1e3 / rate)

    @property
    def grouped(self) -> bool:
        return self.pulses > 1

    def experiment(self) -> Experiment:
        pre = [repeat(regular(self.pulses, self.intra), self.n, 1e3 / rate) for rate in self.rates]
        return self.answered({"rate": "Hz"}, [{"rate": rate} for rate in self.rates], pre, self.lag)


# ---- a clamped cell, random spikes, rewards --------------------------------------------------------------------------


@dataclass(frozen=True)
class VoltageClamp(Protocol):
    """Presynaptic spikes while the cell is held at a potential, one condition each.

    Args:
        potentials: mV.
        n: presynaptic spikes; 25 for visual cortex and 100 for hippocampus in Clopath et al. 2010.
        rate: Hz. A choice: our source has the number of spikes only. What a rule linear in the presynaptic trace gives
            does not depend on it.
        rest: ms at the potential before the first spike and after the last, for filters and traces to settle.
    """

    potentials: Sequence[float] = tuple(float(u) for u in range(-80, 1, 5))
    n: int = 25
    rate: float = 50.0
    rest: float = 1000.0
    kind: ClassVar[str] = "voltage_clamp"
    plot: ClassVar[str] = "clamp"

    def __post_init__(self) -> None:
        object.__setattr__(self, "potentials", numbers("potentials", self.potentials, "mV"))
        count("n", self.n, "spikes")
        positive("rate", self.rate, "Hz")
        positive("rest", self.rest, "ms")

    def experiment(self) -> Experiment:
        held = np.array(self.potentials)
        rows, pre = [{"voltage": u} for u in self.potentials], [regular(self.n, self.rate)] * len(held)
        silent = [np.empty(0)] * len(held)
        return arrange({"voltage": "mV"}, rows, pre, silent, voltage=held, lead=self.rest, tail=self.rest)


@dataclass(frozen=True)
class PoissonPair(Protocol):
    """Random spikes on both sides, independent or with a part in common; one condition per postsynaptic rate.

    Spikes fall on a grid, at most one per place, each place with probability rate * grid: a Poisson train for rates far
    below 1 / grid, that clocked engines take as it is.

    Args:
        rates: Hz, of the postsynaptic cell.
        rate_pre: Hz; null: as `rates`, both sides alike.
        seconds: how long.
        correlation: share of the slower side's spikes that the other side copies, 0 to 1.
        lag: t_post - t_pre of copied spikes, ms; a multiple of the grid.
        grid: ms.
        seed: of the spikes. One seed is one draw; runs of the same seed get the same spikes, with every rule.
    """

    rates: Sequence[float] = (1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0)
    rate_pre: float | None = None
    seconds: float = 60.0
    correlation: float = 0.0
    lag: float = 0.0
    grid: float = 1.0
    seed: int = 0
    kind: ClassVar[str] = "poisson"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", numbers("rates", self.rates, "Hz", least=0.0))
        positive("seconds", self.seconds, "s")
        positive("grid", self.grid, "ms")
        if self.rate_pre is not None:
            positive("rate_pre", self.rate_pre, "Hz")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation is a share from 0 to 1, got {self.correlation!r}")
        if not (math.isfinite(self.lag) and abs(self.lag / self.grid - round(self.lag / self.grid)) < 1e-9):
            raise ValueError(f"lag must be a multiple of grid = {self.grid:g} ms, got {self.lag!r}")
        if max(*self.rates, self.rate_pre or 0.0) * self.grid * 1e-3 > 0.5:
            raise ValueError(
                f"{max(*self.rates, self.rate_pre or 0.0):g} Hz is too fast for one spike per grid = {self.grid:g} ms: "
                "write a smaller grid"
            )

    def experiment(self) -> Experiment:
        rng, places = np.random.default_rng(self.seed), round(self.seconds * 1e3 / self.grid)
        pre, post = [], []
        for rate in self.rates:
            fast = [(self.rate_pre or rate) * self.grid * 1e-3, rate * self.grid * 1e-3]
            common = self.correlation * min(fast)
            shared = rng.random(places) < common
            own = [rng.random(places) < (p - common) / (1 - common) for p in fast]
            pre.append(np.flatnonzero(shared | own[0]) * self.grid)
            copied = np.flatnonzero(shared) + round(self.lag / self.grid)
            post.append(np.union1d(copied, np.flatnonzero(own[1])) * self.grid)
        return arrange({"rate": "Hz"}, [{"rate": rate} for rate in self.rates], pre, post)


@dataclass(frozen=True)
class RewardAfter(Protocol):
    """Pairs, and a reward some time after the last of them; one condition per delay.

    Args:
        delays: s from the last pair's later spike to the reward; negative: the reward comes first.
        dt: lag t_post - t_pre, ms.
        n: pairs. rate: Hz.
        tail: s from the last reward to the end, for what the reward started to run its course.
    """

    delays: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
    dt: float = 10.0
    n: int = 1
    rate: float = 1.0
    tail: float = 5.0
    kind: ClassVar[str] = "reward"

    def __post_init__(self) -> None:
        object.__setattr__(self, "delays", numbers("delays", self.delays, "s"))
        numbers("dt", (self.dt,), "ms")
        count("n", self.n, "pairs")
        positive("rate", self.rate, "Hz")
        positive("tail", self.tail, "s")

    def experiment(self) -> Experiment:
        times, rows = regular(self.n, self.rate), [{"delay": d} for d in self.delays]
        last = float(times[-1]) + max(0.0, self.dt)
        reward = [np.array([last + d * 1e3]) for d in self.delays]
        same = [times] * len(rows), [times + self.dt] * len(rows)
        return arrange({"delay": "s"}, rows, *same, reward=reward, tail=self.tail * 1e3)

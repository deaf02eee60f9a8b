"""The calcium-based rule of Graupner & Brunel 2012."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule

SOURCE = "Graupner & Brunel 2012, by the authors' program synapticChange.py"


def _row(
    tau_Ca: float, C_pre: float, C_post: float, theta_p: float, gamma_d: float, gamma_p: float, sigma: float,
    tau: float, D: float, beta: float, b: float,
) -> dict[str, float]:  # fmt: skip
    return {
        "tau_Ca": tau_Ca, "C_pre": C_pre, "C_post": C_post, "theta_p": theta_p, "gamma_d": gamma_d, "gamma_p": gamma_p,
        "sigma": sigma, "tau": tau, "D": D, "beta": beta, "b": b,
    }  # fmt: skip


def _shape(*row: float) -> Preset:
    return Preset(_row(*row), SOURCE, True, note="chosen to show a shape of the window, not fitted to cells")


def _fitted(region: str, *row: float) -> Preset:
    return Preset(_row(*row), SOURCE, True, region=region)


@dataclass(frozen=True)
class CalciumRule(Rule):
    """Calcium above two thresholds moves a bistable synapse.

        tau drho/dt = -rho (1 - rho) (rho* - rho) + gamma_p (1 - rho) H(c - theta_p) - gamma_d rho H(c - theta_d)
                      + sigma sqrt(tau) sqrt(H(c - theta_d) + H(c - theta_p)) xi
        dc/dt = -c / tau_Ca,   c <- c + C_pre a time D after a presynaptic spike, c <- c + C_post at a postsynaptic one

    The synapse is DOWN (strength 1) for rho <= rho* and UP (strength b) above it; before an experiment a fraction beta
    of the replicates is DOWN (rho = 0), the rest UP (rho = 1). One replicate is one synapse, which jumps: the published
    curves are means over many, or `strength_after`, which takes no noise at all.

    Args:
        tau_Ca, D: ms. tau: s. C_pre, C_post, theta_d, theta_p, gamma_d, gamma_p, sigma, rho_star: numbers.
        beta: fraction of synapses that start DOWN. b: strength UP / strength DOWN.
    Source: Graupner & Brunel 2012, PNAS 109:3991; the noise as in the correction
        10.1073/pnas.1220044110.
    """

    tau_Ca: float = 20.0
    C_pre: float = 1.0
    C_post: float = 2.0
    theta_p: float = 1.3
    gamma_d: float = 200.0
    gamma_p: float = 321.808
    sigma: float = 2.8284
    tau: float = 150.0
    D: float = 13.7
    beta: float = 0.5
    b: float = 5.0
    theta_d: float = 1.0
    rho_star: float = 0.5

    DT: ClassVar[float] = 0.5
    """A step rounds the milliseconds that calcium spends above a threshold; `pieces.run` affords finer ones."""
    UNITS: ClassVar[Mapping[str, str]] = {"tau_Ca": "ms", "tau": "second", "D": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "DP": _shape(20, 1, 2, 1.3, 200, 321.808, 2.8284, 150, 13.7, 0.5, 5),
        "DPD": _shape(20, 0.9, 0.9, 1.3, 250, 550, 2.8284, 150, 4.6, 0.5, 5),
        "DPD'": _shape(20, 1, 2, 2.5, 50, 600, 2.8284, 150, 2.2, 0.5, 5),
        "P": _shape(20, 2, 2, 1.3, 160, 257.447, 2.8284, 150, 0, 0.5, 5),
        "D": _shape(20, 0.6, 0.6, 1.3, 500, 550, 5.6568, 150, 0, 0.5, 5),
        "D'": _shape(20, 1, 2, 3.5, 60, 600, 2.8284, 150, 0, 0.5, 5),
        "hippocampal_slices": _fitted(
            "hippocampal slices", 48.8373, 1, 0.275865, 1.3, 313.0965, 1645.59, 9.1844, 688.355, 18.8008, 0.7, 5.28145
        ),
        "hippocampal_cultures": _fitted(
            "hippocampal cultures", 11.9536, 0.58156, 1.76444, 1.3, 61.141, 113.6545, 2.5654, 33.7596, 10, 0.5, 36.0263
        ),
        "cortical_slices": _fitted(
            "visual cortex, layer 5", 22.6936, 0.5617539, 1.23964, 1.3, 331.909, 725.085, 3.3501, 346.3615, 4.6098, 0.5,
            5.40988
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        constants = self.constants()
        for name in ("D", "beta"):
            constants.pop(name)
        return Equations(
            model="""
            high = int(c > theta_p) : 1
            low = int(c > theta_d) : 1
            drift = gamma_p*(1 - rho)*high - gamma_d*rho*low - rho*(1 - rho)*(rho_star - rho) : 1
            drho/dt = drift/tau + sigma*sqrt((low + high)/tau)*xi : 1
            dc/dt = -c/tau_Ca : 1
            w = 1 + (b - 1)*int(rho > rho_star) : 1
            """,
            on_pre="c += C_pre",
            on_post="c += C_post",
            parameters=constants,
            delay=self.D,
        )

    def starting(self, experiment: Any, replicates: int) -> Mapping[str, Any]:
        """A fraction beta of the replicates is DOWN."""
        return {"rho": (np.arange(replicates) >= round(self.beta * replicates + 1e-9)).astype(np.float64)}

    # ---- closed forms ------------------------------------------------------------------------------------------------

    def time_above(self, threshold: float, dt: float, rate: float) -> float:
        """The fraction of time that calcium spends above a threshold, for pairs that have gone on for ever. Exact.

        Args:
            threshold: of calcium.
            dt: t_post - t_pre, ms.
            rate: of pairs, Hz.
        """
        period = 1e3 / rate
        jumps: dict[float, float] = {0.0: self.C_pre}
        lag = math.fmod(math.fmod(dt - self.D, period) + period, period)
        jumps[lag] = jumps.get(lag, 0.0) + self.C_post
        last = 1 / (1 - math.exp(-period / self.tau_Ca))
        above = 0.0
        for start in jumps:
            # each jump has happened ever more often: the youngest of each kind, times the geometric series
            ages = {at: math.fmod(start - at + period, period) for at in jumps}
            calcium = sum(jumps[at] * math.exp(-age / self.tau_Ca) for at, age in ages.items()) * last
            until = min(math.fmod(at - start + period, period) or period for at in jumps)
            if calcium > threshold:
                above += min(until, self.tau_Ca * math.log(calcium / threshold))
        return above / period

    def transitions(self, high: float, low: float, seconds: float) -> tuple[float, float]:
        """The probabilities that a synapse goes UP from DOWN and DOWN from UP.

        While calcium comes and goes much faster than tau, rho is an Ornstein-Uhlenbeck process; the cubic only decides
        afterwards to which side it falls.

        Args:
            high, low: fractions of time above theta_p and theta_d.
            seconds: of stimulation.
        """
        up, down = self.gamma_p * high, self.gamma_d * low
        if up + down == 0:
            return 0.0, 0.0
        mean, spent = up / (up + down), math.exp(-seconds * (up + down) / self.tau)
        variance = self.sigma**2 * (high + low) / (up + down) * (1 - spent**2)

        def above(start: float) -> float:
            distance = mean + (start - mean) * spent - self.rho_star
            return (1 + math.erf(distance / math.sqrt(variance))) / 2 if variance else float(distance > 0)

        return above(0.0), 1 - above(1.0)

    def strength_after(self, dt: float, rate: float = 1.0, n: int = 60) -> float:
        """The mean strength after pairs, relative to before, without simulation.

            [beta (1 - U) + (1 - beta) D + b (beta U + (1 - beta)(1 - D))] / [beta + (1 - beta) b]

        Args:
            dt: t_post - t_pre, ms.
            rate: Hz.
            n: pairs.
        """
        fractions = self.time_above(self.theta_p, dt, rate), self.time_above(self.theta_d, dt, rate)
        up, down = self.transitions(*fractions, n / rate)
        low = self.beta * (1 - up) + (1 - self.beta) * down
        return (low + self.b * (1 - low)) / (self.beta + (1 - self.beta) * self.b)

"""Rules of rates: BCM, Oja, and the rate of change of the postsynaptic rate.

Rates are signals: `x` of the presynaptic neuron, `y` or `dy` of the postsynaptic one. In a protocol they are the spike
trains smoothed by an exponential of `tau_rate`; in a network of rates they are what the network says (`learn_linear`).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spikecredit.plasticity.engines.batched import Batch
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Rule


def smoothed(trains: Sequence[np.ndarray], duration: float, dt: float, tau: float) -> np.ndarray:
    """The rate of spike trains, Hz, (steps + 1, C): each spike adds 1000/tau, which decays with tau.

    Args:
        trains: the spike times of each condition, ms.
        duration, dt, tau: ms. A spike counts from its own step on.
    """
    steps = round(duration / dt)
    rates = np.zeros((steps + 1, len(trains)))
    for c, times in enumerate(trains):
        np.add.at(rates[:, c], np.rint(np.asarray(times) / dt).astype(int), 1e3 / tau)
    factor = np.exp(-dt / tau)
    for k in range(1, steps + 1):
        rates[k] += factor * rates[k - 1]
    return rates


@dataclass(frozen=True)
class RateRule(Rule):
    """The base of the rules of this file.

    Args:
        tau_rate: how spikes become rates in protocols, ms; not part of the rule, and unused where rates are given.
    """

    tau_rate: float = 50.0

    UNITS: ClassVar[Mapping[str, str]] = {"tau_rate": "ms"}

    @abstractmethod
    def equations(self) -> Equations: ...

    def rates(self, experiment: Any, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """The presynaptic and the postsynaptic rate of each condition, Hz, (steps + 1, C)."""
        return (
            smoothed(experiment.pre, experiment.duration, dt, self.tau_rate),
            smoothed(experiment.post, experiment.duration, dt, self.tau_rate),
        )

    def signals(self, experiment: Any, dt: float) -> Mapping[str, np.ndarray]:
        x, y = self.rates(experiment, dt)
        return {"x": x, "y": y}

    def own(self) -> dict[str, tuple[float, str]]:
        """The parameters of the equation itself."""
        return {n: v for n, v in self.constants().items() if n != "tau_rate"}


@dataclass(frozen=True)
class BCM(RateRule):
    """Depression at low and potentiation at high postsynaptic rates; the border theta slides with the rate's square.

        dw/dt = eta x y (y - theta),    dtheta/dt = (y^2/y_0 - theta)/tau_theta

    With a constant x and y = w x the fixed points are y = 0, unstable, and y = theta = y_0, which is stable if theta is
    fast enough beside the weights: eta x^2 y_0 tau_theta < 1.

    Args:
        eta: s^2. y_0: Hz, the rate at which theta = y. tau_theta: ms. theta_0: Hz, theta before the experiment.
        w_min, w_max: bounds.
    Source: Bienenstock, Cooper & Munro 1982, J. Neurosci. 2:32; with the square of Intrator & Cooper 1992. The default
    numbers are ours.
    """

    eta: float = 1e-5
    y_0: float = 10.0
    tau_theta: float = 1000.0
    theta_0: float = 10.0
    w_min: float = 0.0
    w_max: float = 1e300

    UNITS: ClassVar[Mapping[str, str]] = {
        "eta": "second**2", "y_0": "Hz", "tau_theta": "ms", "theta_0": "Hz", "tau_rate": "ms"
    }  # fmt: skip

    def equations(self) -> Equations:
        return Equations(
            model="""
            dw/dt = eta*x*y*(y - theta) : 1
            dtheta/dt = (y**2/y_0 - theta)/tau_theta : Hz
            """,
            parameters={n: v for n, v in self.own().items() if n != "theta_0"},
            start={"w": 1.0, "theta": self.theta_0},
            bounds={"w": ("w_min", "w_max")},
            signals={"x": ("Hz", "pre"), "y": ("Hz", "post")},
        )


@dataclass(frozen=True)
class Oja(RateRule):
    """Hebb's rule with the decay that keeps the weight vector at length 1.

        dw/dt = eta (x y - y^2 w)

    With y = w.x the weights turn to the eigenvector of the largest eigenvalue of <x x^T>, of length 1.

    Args:
        eta: s.
    Source: Oja 1982, J. Math. Biol. 15:267. The default rate is ours.
    """

    eta: float = 1e-4

    UNITS: ClassVar[Mapping[str, str]] = {"eta": "second", "tau_rate": "ms"}

    def equations(self) -> Equations:
        return Equations(
            model="dw/dt = eta*(x*y - y**2*w) : 1",
            parameters=self.own(),
            start={"w": 1.0},
            signals={"x": ("Hz", "pre"), "y": ("Hz", "post")},
        )


@dataclass(frozen=True)
class RateDerivative(RateRule):
    """The presynaptic rate times the rate of change of the postsynaptic one.

        dw/dt = eta x dy/dt

    dy/dt is the difference to the step before, so with a constant x the change is exactly eta x (y_end - y_start):
    nothing is left of a postsynaptic rate that returns to where it was. A presynaptic pulse before a postsynaptic bump
    meets its rise and potentiates, one after it meets its fall and depresses.

    Args:
        eta: s^2.
    Source: Bengio et al. 2015, arXiv 1509.05936. The default rate is ours.
    """

    eta: float = 1e-3

    UNITS: ClassVar[Mapping[str, str]] = {"eta": "second**2", "tau_rate": "ms"}

    def equations(self) -> Equations:
        return Equations(
            model="dw/dt = eta*x*dy : 1",
            parameters=self.own(),
            start={"w": 1.0},
            signals={"x": ("Hz", "pre"), "dy": ("Hz/second", "post")},
        )

    def signals(self, experiment: Any, dt: float) -> Mapping[str, np.ndarray]:
        x, y = self.rates(experiment, dt)
        return {"x": x, "dy": np.diff(y, axis=0, prepend=y[:1]) / (dt * 1e-3)}


def learn_linear(rule: RateRule, inputs: Tensor, weights: Tensor, dt: float = 1.0) -> tuple[Tensor, Tensor]:
    """Linear neurons y = W x that learn while they see inputs; each step the rule reads x and the y that it made.

    Args:
        rule: a rule with the signals x and y (`BCM`, `Oja`).
        inputs: rates, Hz, (T, n_pre): one row a step.
        weights: W before, (n_post, n_pre).
        dt: ms.
    Returns:
        W after, (n_post, n_pre), and y, Hz, (T, n_post).
    Raises:
        ValueError: a rule with other signals.
    """
    equations = rule.equations()
    if set(equations.signals) != {"x", "y"}:
        raise ValueError(
            f"learn_linear delivers the signals x and y, but {type(rule).__name__} reads {', '.join(equations.signals)}"
        )
    n_post, n_pre = weights.shape
    batch = Batch(equations, 1, n_post, n_pre, dt, weights.dtype, weights.device)
    state = batch.start({"w": weights[None]})
    seen = []
    for x in inputs:
        y = state["w"][0] @ x
        seen.append(y)
        batch.step(state, signals={"x": x[None, None, :], "y": y[None, :, None]})
    return state["w"][0], torch.stack(seen)

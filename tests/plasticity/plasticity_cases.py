"""Rules and experiments that several tests share."""

import numpy as np

from spikecredit.plasticity.engines import Stimulus
from spikecredit.plasticity.equations import Equations

MS = (20.0, "ms")

TRACES = Equations(
    "w : 1\ndx/dt = -x/tau : 1\ndy/dt = -y/tau_y : 1\ndz/dt = (0.3 - z)/tau : 1",
    "w -= 0.1*y*(1 + z)\nx += 1",
    "w += 0.2*x*y\ny += 1\nz = 0.5*z + 0.1",
    parameters={"tau": MS, "tau_y": (35.0, "ms")}, start={"w": 1.0, "z": 0.3}, bounds={"w": (0.0, 2.0)}, delay=2.0,
)  # fmt: skip
"""Traces of both sides, one with a rest that is not 0, a delay and bounds: everything exact."""

CONTINUOUS = Equations(
    "dc/dt = -c/tau : 1\ndd/dt = -d/tau_d : 1\ndw/dt = (0.1*c*d - 0.01*w)/tau_w : 1\ndx/dt = -x/tau : 1\n"
    "g = 2*c + w : 1",
    "c -= 0.2*x\nx += 1", "c += x", "d += 0.5",
    parameters={"tau": MS, "tau_d": (100.0, "ms"), "tau_w": (50.0, "ms")}, start={"w": 0.5}, bounds={"w": (0.0, 1.0)},
)  # fmt: skip
"""An eligibility, a reward and a weight that integrates their product."""

SIGNAL = Equations(
    "w : 1\ndm/dt = (u - m)/tau : volt\nda/dt = -a/tau : 1\ndb/dt = a*int(m > theta)/tau : 1",
    "w += 0.1*m/mV\na += 1", "w -= 0.05*b",
    parameters={"tau": MS, "theta": (1.0, "mV")}, signals={"u": ("mV", "post")}, start={"w": 1.0}, method="euler",
)  # fmt: skip
"""A rule that reads a membrane potential."""


def trains(
    seed: int = 0, conditions: int = 3, duration: float = 400.0, step: float = 1.0, reward: bool = True
) -> Stimulus:
    """Irregular spikes on the grid of `step`, a signal every ms."""
    rng = np.random.default_rng(seed)
    n = int(duration / step)

    def some(rate: float) -> tuple[np.ndarray, ...]:
        return tuple(np.nonzero(rng.random(n) < rate * step / 1e3)[0] * step for _ in range(conditions))

    signals = {"u": rng.standard_normal((int(duration) + 1, conditions)) * 2}
    return Stimulus(some(60), some(60), duration, some(10) if reward else (), signals, 1.0)

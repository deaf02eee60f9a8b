"""Anti-Hebbian plasticity of parallel fibres: Purkinje cells of the cerebellum, and their like in the electric fish."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.pair import UNBOUNDED
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class AntiHebbian(Rule):
    """Depression of what came before an instructing spike, potentiation of all that comes.

        dx/dt = -x/tau,   dz/dt = -2 z/tau,   tau = peak / ln 2
        at a presynaptic spike (parallel fibre):                  w <- w + B,               x <- x + 1,  z <- z + 1
        at a postsynaptic spike (climbing fibre; broad spike):    w <- w - 4 A (x - z)

    One presynaptic spike a time d before a postsynaptic one changes the weight by B - A K(d), with the window

        K(d) = 4 u (1 - u),   u = exp(-d/tau) = 2^(-d/peak),

    which rises from 0 at d = 0 to 1 at d = peak, and falls to 1/2 at 2.77 peak: a delayed trace made of two
    exponentials. A presynaptic spike after the postsynaptic one only potentiates. Inputs that predict a postsynaptic
    spike lose weight, the others win some, until postsynaptic spikes come at the rate `balance`, predictable input or
    not: the plastic inputs have become its negative image. The weight is never below 0.

    Args:
        A: associative depression by a pair at the lag `peak`. B: potentiation by each presynaptic spike.
        peak: ms, the lag t_post - t_pre of most depression.
    Source: the form as in Gerstner & Kistler 2002, section 12.4 (a presynaptic term, and a window for depression); the
        window of two exponentials is ours.
    """

    A: float = 0.01
    B: float = 0.001
    peak: float = 18.0

    UNITS: ClassVar[Mapping[str, str]] = {"peak": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "ell": Preset(
            {"A": 0.01, "B": 0.001, "peak": 18.0},
            "form: Neuron 27:611 (2000), abstract: associative depression, non-associative potentiation; "
            "window: abstract of Active control of STDP in an electrosensory system: 50 ms after an EPSP", False,
            region="electrosensory lobe of mormyrid fish",
            note="the window falls to its half at 50 ms; its shape below that, A and B are ours",
        ),
        "purkinje": Preset(
            {"A": 0.01, "B": 0.001, "peak": 120.0},
            "most depression about 120 ms before the climbing fibre (flocculus), from memory", False,
            region="cerebellum, parallel fibre to Purkinje cell",
            note="elsewhere 50 to 200 ms; the width of the window, A and B are ours",
        ),
    }  # fmt: skip

    @property
    def area(self) -> float:
        """The integral of K, ms: 2 peak / ln 2."""
        return 2 * self.peak / math.log(2)

    @property
    def balance(self) -> float:
        """The rate of postsynaptic spikes, Hz, at which depression and potentiation are equal: B / (A area)."""
        return self.B / (self.A * self.area * 1e-3)

    def window(self, lag: float) -> float:
        """K at the lag t_post - t_pre, ms; 0 where the postsynaptic spike comes first."""
        u = 2.0 ** (-lag / self.peak)
        return 4 * u * (1 - u) if lag >= 0 else 0.0

    def equations(self) -> Equations:
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise ValueError(f"peak is a lag in ms, positive and finite, got {self.peak!r}")
        return Equations(
            model="""
            w : 1
            dx/dt = -x/tau : 1
            dz/dt = -2*z/tau : 1
            """,
            on_pre="""
            w += B
            x += 1
            z += 1
            """,
            on_post="w -= 4*A*(x - z)",
            parameters={"A": (self.A, "1"), "B": (self.B, "1"), "tau": (self.peak / math.log(2), "ms")},
            start={"w": 1.0},
            bounds={"w": (0.0, UNBOUNDED)},
        )

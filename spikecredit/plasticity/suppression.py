"""The suppression model of Froemke & Dan 2002."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class SuppressionSTDP(Rule):
    """Pairs whose efficacy recovers after each spike: dw = e_i e_j W(t_j - t_i), summed over all pairs.

        e of a spike = 1 - exp(-(time since the neuron's last spike) / tau_s)
        W(d) = A_plus exp(-d/tau_plus) for d >= 0,   -A_minus exp(d/tau_minus) for d < 0

    With linear traces: s is set to 1 by a spike and decays with tau_s, so e = 1 - s(t-), which is 1 for the first
    spike; x and y count e instead of 1.

        at a presynaptic spike:    e = 1 - sx;    w <- w - A_minus e y;   x <- x + e;   sx <- 1
        at a postsynaptic spike:   e = 1 - sy;   w <- w + A_plus e x;    y <- y + e;   sy <- 1

    Args:
        A_plus, A_minus: change by one pair of full efficacy; tau_plus, tau_minus: ms.
        tau_sx, tau_sy: how suppression recovers, ms.
    Source: Froemke & Dan 2002, Nature 416:433, equation 1.
    """

    A_plus: float = 1.03 / 60
    A_minus: float = 0.51 / 60
    tau_plus: float = 13.3
    tau_minus: float = 34.5
    tau_sx: float = 28.0
    tau_sy: float = 88.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "tau_plus": "ms", "tau_minus": "ms", "tau_sx": "ms", "tau_sy": "ms"
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "visual_cortex": Preset(
            {"A_plus": 1.03 / 60, "A_minus": 0.51 / 60, "tau_plus": 13.3, "tau_minus": 34.5, "tau_sx": 28.0,
             "tau_sy": 88.0},
            "Froemke & Dan 2002, from memory", False, region="visual cortex, layer 2/3",
            note="1.03 and -0.51 are the change after all pairs; we divide by 60 of them, a number from memory too",
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        return Equations(
            model="""
            w : 1
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            dsx/dt = -sx/tau_sx : 1
            dsy/dt = -sy/tau_sy : 1
            """,
            on_pre="""
            w -= A_minus*(1 - sx)*y
            x += 1 - sx
            sx = 1
            """,
            on_post="""
            w += A_plus*(1 - sy)*x
            y += 1 - sy
            sy = 1
            """,
            parameters=self.constants(),
            start={"w": 1.0},
        )

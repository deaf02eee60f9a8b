"""The triplet rule of Pfister & Gerstner 2006."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule

TABLE_3 = "Pfister & Gerstner 2006, Table 3"
TABLE_4 = "Pfister & Gerstner 2006, Table 4"
VISUAL = "visual cortex, layer 5"
HIPPOCAMPUS = "hippocampal culture"


def _row(
    pairing: str, a2_plus: float, a3_plus: float, a2_minus: float, a3_minus: float, tau_x: float, tau_y: float
) -> dict[str, float | str]:
    return {
        "pairing": pairing, "A2_plus": a2_plus, "A3_plus": a3_plus, "A2_minus": a2_minus, "A3_minus": a3_minus,
        "tau_x": tau_x, "tau_y": tau_y,
    }  # fmt: skip


def _visual(*row: str | float, verified: bool = True) -> Preset:
    return Preset(
        _row(*row), TABLE_3, verified, ("frequency", "pairing"), False, 600.0, VISUAL,  # type: ignore[arg-type]
        "fitted to 60 contiguous pairs; all-to-all rows fail on Sjöström's own 15 groups of 5",
    )  # fmt: skip


def _hippocampal(*row: str | float, verified: bool = True) -> Preset:
    return Preset(
        _row(*row), TABLE_4, verified, ("pairing", "triplet", "quadruplet"), False, 60.0, HIPPOCAMPUS,  # type: ignore[arg-type]
        "fitted at 1 Hz; the all-to-all rows depress without end at 20 Hz and above",
    )  # fmt: skip


@dataclass(frozen=True)
class TripletSTDP(Rule):
    """Triplets of spikes: pairs whose amplitude grows with a slow trace of the same side's earlier spikes.

        at a presynaptic spike:    w <- w - o1(t) [A2- + A3- r2(t-)],   then r1, r2 <- r + 1
        at a postsynaptic spike:   w <- w + r1(t) [A2+ + A3+ o2(t-)],   then o1, o2 <- o + 1

    r1 (tau+), r2 (tau_x) are traces of presynaptic spikes, o1 (tau-), o2 (tau_y) of postsynaptic ones. The slow traces
    are read before they count the present spike: a rule that reads them after is another rule. With
    pairing="nearest" the traces are set to 1 instead of incremented.

    Args:
        A2_plus, A2_minus: amplitudes of pairs. A3_plus, A3_minus: of triplets.
        tau_plus, tau_minus, tau_x, tau_y: ms.
        pairing: "all_to_all" or "nearest".
    Source: Pfister & Gerstner 2006, J. Neurosci. 26:9673, equations 2 to 4.
    """

    A2_plus: float = 5e-10
    A3_plus: float = 6.2e-3
    A2_minus: float = 7e-3
    A3_minus: float = 2.3e-4
    tau_plus: float = 16.8
    tau_minus: float = 33.7
    tau_x: float = 101.0
    tau_y: float = 125.0
    pairing: Literal["all_to_all", "nearest"] = "all_to_all"

    UNITS: ClassVar[Mapping[str, str]] = {"tau_plus": "ms", "tau_minus": "ms", "tau_x": "ms", "tau_y": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "visual_cortex_all_to_all": _visual("all_to_all", 5e-10, 6.2e-3, 7e-3, 2.3e-4, 101, 125),
        "visual_cortex_all_to_all_minimal": _visual("all_to_all", 0, 6.5e-3, 7.1e-3, 0, 101, 114),
        "visual_cortex_nearest": _visual("nearest", 8.8e-11, 5.3e-2, 6.6e-3, 3.1e-3, 714, 40),
        "visual_cortex_nearest_minimal": _visual("nearest", 0, 5e-2, 8e-3, 0, 101, 40),
        "hippocampus_all_to_all": _hippocampal("all_to_all", 6.1e-3, 6.7e-3, 1.6e-3, 1.4e-3, 946, 27),
        "hippocampus_all_to_all_minimal": _hippocampal("all_to_all", 5.3e-3, 8e-3, 3.5e-3, 0, 101, 40),
        "hippocampus_nearest": _hippocampal("nearest", 4.6e-3, 9.1e-3, 3e-3, 7.5e-9, 575, 47),
        "hippocampus_nearest_minimal": _hippocampal("nearest", 4.6e-3, 9.1e-3, 3e-3, 0, 101, 48, verified=False),
    }

    def equations(self) -> Equations:
        count = {"all_to_all": "+= 1", "nearest": "= 1"}
        if self.pairing not in count:
            raise ValueError(f"pairing must be 'all_to_all' or 'nearest', got {self.pairing!r}")
        up = count[self.pairing]
        return Equations(
            model="""
            w : 1
            dr1/dt = -r1/tau_plus : 1
            dr2/dt = -r2/tau_x : 1
            do1/dt = -o1/tau_minus : 1
            do2/dt = -o2/tau_y : 1
            """,
            on_pre=f"""
            w -= o1*(A2_minus + A3_minus*r2)
            r1 {up}
            r2 {up}
            """,
            on_post=f"""
            w += r1*(A2_plus + A3_plus*o2)
            o1 {up}
            o2 {up}
            """,
            parameters=self.constants(),
            start={"w": 1.0},
        )

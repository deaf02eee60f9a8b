"""Pairs of spikes: which ones are paired, how the change depends on the weight; and a window that is a box."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule

Scheme = Literal["all_to_all", "nearest_symmetric", "pre_centred", "restricted_symmetric"]
SCHEMES: Mapping[str, tuple[str, str]] = {
    "all_to_all": ("x += 1", "y += 1"),
    "nearest_symmetric": ("x = 1", "y = 1"),
    "pre_centred": ("x += 1", "y = 1\nx = 0"),
    "restricted_symmetric": ("x = 1\ny = 0", "y = 1\nx = 0"),
}
"""What a presynaptic and a postsynaptic spike do to the traces, after the weight has read them."""
UNBOUNDED = 1e300
"""Stands for no upper bound where the lower one is 0."""


def _dependence(unit: str, share: str, mu: float, name: str) -> str:
    """`unit * share**mu`, as short as it can be written."""
    if mu == 0:
        return unit
    if mu == 1 and share == f"w/{unit}":
        return "w"  # Brian2 loses a parameter that cancels
    return f"{unit}*({share})" if mu == 1 else f"{unit}*({share})**{name}"


@dataclass(frozen=True)
class PairSTDP(Rule):
    """Pair-based STDP, with every pairing scheme and every dependence on the weight.

        dx/dt = -x/tau_plus,  dy/dt = -y/tau_minus
        at a presynaptic spike:    w <- w - A_minus S (w/S)^mu_minus y,       then x counts the spike
        at a postsynaptic spike:   w <- w + A_plus S (1 - w/S)^mu_plus x,     then y counts the spike

    S is `w_max`, or 1 where there is no upper bound. A pair at lag d = t_post - t_pre thus changes the weight by
    A_plus S exp(-d/tau_plus) if d >= 0 and by -A_minus S exp(d/tau_minus) if d < 0 (additive). A pair at lag 0
    potentiates: pre comes before post. (NEST discards it.)

    Weight dependence: additive, mu_plus = mu_minus = 0; multiplicative (Rubin et al. 2001), both 1; between (Guetig et
    al. 2003), both mu; van Rossum et al. 2000, mu_plus = 0 and mu_minus = 1. With `w_0` the potentiation is a power law
    (Morrison et al. 2007): w <- w + A_plus w_0 (w/w_0)^mu_plus x, and w <- w - A_minus w_0 (w/w_0)^mu_minus y, without
    upper bound.

    Pairing schemes (Morrison, Diesmann & Gerstner 2008, Fig. 7; NEST's names in brackets):
        all_to_all: every presynaptic spike with every postsynaptic one [stdp_synapse];
        nearest_symmetric: every presynaptic spike with the last postsynaptic one before it (depression), every
            postsynaptic spike with the last presynaptic one before it (potentiation) [stdp_nn_symm_synapse];
        pre_centred: every presynaptic spike with the last postsynaptic one before it and with the next one after it
            [stdp_nn_pre_centered_synapse];
        restricted_symmetric: only neighbours: a presynaptic spike with the last postsynaptic one if no other
            presynaptic spike came between, and the other way round [stdp_nn_restr_synapse].

    Args:
        A_plus, A_minus: amplitudes; additive rules take negative ones too (anti-Hebbian, symmetric).
        tau_plus, tau_minus: ms.
        mu_plus, mu_minus: powers of the weight dependence.
        w_max: the weight stays within 0 and w_max; inf: no upper bound, and none at all for an additive rule.
        w_0: the reference weight of the power law; None: no power law.
        w_start: weight before the experiment; None: w_max/2, or w_0, or 1.
        scheme: which spikes are paired.
    Raises:
        ValueError: an unknown scheme, 1 - w without an upper bound, a power law with one, or a negative amplitude with
            a weight dependence.
    Source: Song, Miller & Abbott 2000, Nat. Neurosci. 3:919; the others as named above.
    """

    A_plus: float = 0.005
    A_minus: float = 0.00525
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    mu_plus: float = 0.0
    mu_minus: float = 0.0
    w_max: float = math.inf
    w_0: float | None = None
    w_start: float | None = None
    scheme: Scheme = "all_to_all"

    UNITS: ClassVar[Mapping[str, str]] = {"tau_plus": "ms", "tau_minus": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "song_miller_abbott": Preset(
            {"A_plus": 0.005, "A_minus": 1.05 * 0.005, "tau_plus": 20.0, "tau_minus": 20.0, "w_max": 0.015},
            "Song, Miller & Abbott 2000, as in the example of Brian 1", True, region="model cortical neuron",
            note="weights are conductances in units of the leak; 1000 Poisson inputs at 10 to 40 Hz",
        ),
        "bi_poo": Preset(
            {"A_plus": 0.777 / 60, "A_minus": 0.273 / 60, "tau_plus": 16.8, "tau_minus": 33.7},
            "time constants: Bi & Poo 2001, as in Pfister & Gerstner 2006; amplitudes: Bi & Poo 1998, from memory",
            False,
            ("pairing",), False, 60.0, "hippocampal culture",
            "the amplitudes are the change after 60 pairs at 1 Hz, divided by 60",
        ),
        "nest_default": Preset(
            {"A_plus": 0.01, "A_minus": 0.01, "mu_plus": 1.0, "mu_minus": 1.0, "w_max": 100.0},
            "NEST, stdp_synapse: lambda 0.01, alpha 1, mu 1, Wmax 100", True, note="a default, fitted to no data",
        ),
        "nest_power_law": Preset(
            {"A_plus": 0.1, "A_minus": 0.1, "mu_plus": 0.4, "mu_minus": 1.0, "w_0": 1.0},
            "NEST, stdp_pl_synapse_hom: lambda 0.1, alpha 1, mu 0.4", True, note="a default, fitted to no data",
        ),
        "van_rossum": Preset(
            {"A_plus": 7.0, "A_minus": 0.003, "mu_minus": 1.0, "w_start": 7.0 / 0.003},
            "van Rossum, Bi & Turrigiano 2000, from memory", False, region="model cortical neuron",
            note="weights in pS; without the paper's noise (sigma 0.015); starts where equal traces balance",
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        self._check()
        unit = "w_0" if self.w_0 is not None else "w_max" if math.isfinite(self.w_max) else "1"
        up = _dependence(unit, f"w/{unit}" if self.w_0 is not None else f"1 - w/{unit}", self.mu_plus, "mu_plus")
        down = _dependence(unit, f"w/{unit}", self.mu_minus, "mu_minus")
        at_pre, at_post = SCHEMES[self.scheme]
        parameters = {n: v for n, v in self.constants().items() if math.isfinite(v[0]) and n != "w_start"}
        top: float | str = "w_max" if math.isfinite(self.w_max) else UNBOUNDED
        free = self.mu_plus == self.mu_minus == 0 and top == UNBOUNDED and self.w_0 is None
        start = self.w_max / 2 if math.isfinite(self.w_max) else self.w_0 if self.w_0 is not None else 1.0
        return Equations(
            model="""
            w : 1
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            """,
            on_pre=f"w -= A_minus*{down}*y\n{at_pre}",
            on_post=f"w += A_plus*{up}*x\n{at_post}",
            parameters=parameters,
            start={"w": start if self.w_start is None else self.w_start},
            bounds={} if free else {"w": (0.0, top)},
        )

    def _check(self) -> None:
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.w_0 is not None and math.isfinite(self.w_max):
            raise ValueError(f"w_0 = {self.w_0:g} asks for a power law, which has no upper bound: drop w_max or w_0")
        if self.mu_plus != 0 and self.w_0 is None and not math.isfinite(self.w_max):
            raise ValueError(f"(1 - w/w_max)**mu_plus with mu_plus = {self.mu_plus:g} needs w_max: write w_max=1.0")
        if (self.mu_plus != 0 or self.mu_minus != 0) and min(self.A_plus, self.A_minus) < 0:
            raise ValueError(
                f"a weight dependence needs amplitudes that are not negative, got A_plus = {self.A_plus:g} and A_minus "
                f"= {self.A_minus:g}: write mu_plus=0 and mu_minus=0, or positive amplitudes"
            )


def _fino(sign: float) -> dict[str, float]:
    """Per pair, for 100 pairs: 161.2 % after post before pre, 72.3 % after pre before post."""
    return {"before": -sign * (1 - 0.723) / 100, "after": sign * 0.612 / 100, "width_before": 40.0, "width_after": 30.0}


@dataclass(frozen=True)
class BoxSTDP(Rule):
    """STDP with a rectangular window, for data that are given as one mean over a range of lags.

        at a postsynaptic spike:   w <- w + before    if the last presynaptic one is less than `width_before` ago
        at a presynaptic spike:    w <- w + after     if the last postsynaptic one is less than `width_after` ago

    A spike is paired with the nearest one before it. A clock of each neuron tells the time since its last spike.

    Args:
        before: the change by a pair with pre before post. after: with post before pre.
        width_before, width_after: ms.
    Source: the form is ours; what the presets are is said there.
    """

    before: float = -0.00277
    after: float = 0.00612
    width_before: float = 40.0
    width_after: float = 30.0

    UNITS: ClassVar[Mapping[str, str]] = {"width_before": "ms", "width_after": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "striatum": Preset(
            _fino(1.0), "Fino et al. 2010, Fig. 1: 161.2 +- 14.1 % (-30 < lag < 0 ms), 72.3 +- 6.9 % (0 < lag < 40 ms)",
            True, ("pairing", "striatal"), False, 100.0, "striatum, GABA_A intact",
            "anti-Hebbian; the means after 100 pairs at 1 Hz, divided by 100; the box is ours",
        ),
        "striatum_gaba_blocked": Preset(
            _fino(-1.0), "Fino et al. 2010: the sign reverses", False, ("pairing", "striatal"), False, 100.0,
            "striatum, GABA_A blocked", "only the sign is the paper's; the sizes are those with GABA_A intact",
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        return Equations(
            model="""
            w : 1
            dago_x/dt = 1 : second
            dago_y/dt = 1 : second
            """,
            on_pre="w += after*int(ago_y < width_after)\nago_x = 0*second",
            on_post="w += before*int(ago_x < width_before)\nago_y = 0*second",
            parameters=self.constants(),
            start={"w": 1.0, "ago_x": 1e6, "ago_y": 1e6},  # no spike was ever
        )

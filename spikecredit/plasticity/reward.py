"""Rules that wait for a reward: dopamine-modulated STDP, and reward minus what was expected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.pair import SCHEMES
from spikecredit.plasticity.rule import Preset, Rule

COUNT = {"all_to_all": "all_to_all", "nearest": "nearest_symmetric"}


def _traces(pairing: str) -> tuple[str, str]:
    """How spikes count in the traces x and y."""
    if pairing not in COUNT:
        raise ValueError(f"pairing must be 'all_to_all' or 'nearest', got {pairing!r}")
    return SCHEMES[COUNT[pairing]]


@dataclass(frozen=True)
class DopamineSTDP(Rule):
    """STDP that becomes a change of weight only while there is dopamine.

        dc/dt = -c/tau_c + STDP at spikes,   dd/dt = -d/tau_d + reward at rewards
        dw/dt = gain c (tonic + d),          0 <= w <= w_max

    STDP is the pair rule: c grows by A_plus x at a postsynaptic spike and falls by A_minus y at a presynaptic one. A
    reward at time T after one pair thus changes the weight by gain c0 d0 exp(-T/tau_c)/(1/tau_c + 1/tau_d).

    Solved exactly. Between events the integral of c (tonic + d) is known, so what is kept is g, the weight that would
    be reached if nothing more came: w = g - gain (T_cd c d + tau_c tonic c) with T_cd = 1/(1/tau_c + 1/tau_d). c has
    one sign between events, so clipping at events and when w is read gives the bounded w exactly.

    Args:
        A_plus, A_minus: amplitudes; tau_plus, tau_minus: ms.
        tau_c, tau_d: of the eligibility and of dopamine, ms.
        reward: dopamine by one reward, not negative. tonic: dopamine that is always there, not negative.
        gain: Hz. w_max: upper bound; inf: no bounds.
        pairing: "all_to_all" or "nearest".
        w_start: weight before the experiment.
    Raises:
        ValueError: an unknown pairing, a negative reward or tonic level (the exact solution needs c (tonic + d) of one
            sign).
    Source: Izhikevich 2007, Cereb. Cortex 17:2443, equations 1 to 3.
    """

    A_plus: float = 1.0
    A_minus: float = 1.5
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    tau_c: float = 1000.0
    tau_d: float = 200.0
    reward: float = 0.5
    tonic: float = 0.0
    gain: float = 1.0
    w_max: float = math.inf
    pairing: Literal["all_to_all", "nearest"] = "all_to_all"
    w_start: float = 1.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "tau_plus": "ms", "tau_minus": "ms", "tau_c": "ms", "tau_d": "ms", "gain": "Hz"
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "izhikevich": Preset(
            {"A_plus": 0.1, "A_minus": 0.15, "tau_plus": -1 / math.log(0.95), "tau_minus": -1 / math.log(0.95),
             "tau_c": -10 / math.log(0.99), "tau_d": -1 / math.log(0.995), "tonic": 0.002, "gain": 100.0,
             "w_max": 4.0, "pairing": "nearest", "w_start": 1.0},
            "Izhikevich 2007, the author's program daspnet.m", True, region="model cortical network",
            note="the time constants are those of its factors 0.95 and 0.995 a ms and 0.99 every 10 ms; it adds to the "
            "weight every 10 ms, which gives the gain of 100 a second",
        ),
        "nest_default": Preset(
            {"A_plus": 1.0, "A_minus": 1.5, "tau_plus": 20.0, "tau_minus": 20.0, "tau_c": 1000.0, "tau_d": 200.0},
            "NEST, stdp_dopamine_synapse: A_plus 1, A_minus 1.5, tau_plus 20, tau_c 1000, tau_n 200", True,
            note="reward and gain are ours: NEST counts dopaminergic spikes",
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        if self.reward < 0 or self.tonic < 0:
            raise ValueError(f"reward and tonic are not negative, got {self.reward:g} and {self.tonic:g}")
        x, y = _traces(self.pairing)
        bounded = math.isfinite(self.w_max)
        now = "g - gain*(T_cd*c*d + tau_c*tonic*c)"
        weight = f"clip({now}, 0, w_max)" if bounded else now
        later = "g = w_now + gain*(T_cd*c*d + tau_c*tonic*c)"
        both = 1 / (1 / self.tau_c + 1 / self.tau_d)
        kept = {n: v for n, v in self.constants().items() if n != "w_start" and math.isfinite(v[0])}
        return Equations(
            model=f"""
            w = {weight} : 1
            g : 1
            dc/dt = -c/tau_c : 1
            dd/dt = -d/tau_d : 1
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            """,
            on_pre=f"w_now = w\nc -= A_minus*y\n{later}\n{x}",
            on_post=f"w_now = w\nc += A_plus*x\n{later}\n{y}",
            on_reward=f"w_now = w\nd += reward\n{later}",
            parameters={**kept, "T_cd": (both, "ms")},
            start={"g": self.w_start},
        )


@dataclass(frozen=True)
class RewardSTDP(Rule):
    """R-STDP: a reward acts by how much it exceeds what was expected.

        dc/dt = -c/tau_c + STDP at spikes
        at a reward:   w <- w + eta (R - R_mean) c;   R_mean <- R_mean + (R - R_mean)/n_mean

    R is what the reward is worth: 1 at first; who simulates a task sets `state["R"]` before each reward (0: none came).
    Every trial must end with a reward event, also those that end with R = 0. R_mean is the mean of a single task; with
    several stimuli each needs a mean of its own (a critic), or the rule drifts.

    Args:
        A_plus, A_minus: amplitudes; tau_plus, tau_minus, tau_c: ms.
        eta: learning rate. n_mean: trials over which R is averaged, at least 1.
        baseline: whether R_mean is subtracted; False: R itself acts, which drifts unless STDP is balanced.
        expected: R_mean before the experiment.
    Source: Frémaux, Sprekeler & Gerstner 2010, J. Neurosci. 30:13326. The default numbers are ours.
    """

    A_plus: float = 1.0
    A_minus: float = 1.0
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    tau_c: float = 500.0
    eta: float = 0.01
    n_mean: float = 5.0
    expected: float = 0.0
    baseline: bool = True

    UNITS: ClassVar[Mapping[str, str]] = {"tau_plus": "ms", "tau_minus": "ms", "tau_c": "ms"}

    def equations(self) -> Equations:
        if not self.n_mean >= 1:
            raise ValueError(f"n_mean is a number of trials, at least 1, got {self.n_mean!r}")
        surprise = "(R - R_mean)" if self.baseline else "R"
        return Equations(
            model="""
            w : 1
            R : 1
            R_mean : 1
            dc/dt = -c/tau_c : 1
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            """,
            on_pre="c -= A_minus*y\nx += 1",
            on_post="c += A_plus*x\ny += 1",
            on_reward=f"w += eta*{surprise}*c\nR_mean = R_mean + (R - R_mean)/n_mean",
            parameters={n: v for n, v in self.constants().items() if n != "expected"},
            start={"w": 1.0, "R": 1.0, "R_mean": self.expected},
        )

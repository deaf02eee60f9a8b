"""Synaptic tagging and capture, Luboeinski & Tetzlaff 2021, and the four protocols that it is known by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from spikecredit.plasticity import pieces
from spikecredit.plasticity.engines import ENGINES
from spikecredit.plasticity.engines.stimulus import Outcome, Stimulus
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.protocols import Experiment, Protocol
from spikecredit.plasticity.result import Result
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class TaggingAndCapture(Rule):
    """Calcium moves an early phase h; a large h tags the synapse and calls for proteins, which make a late phase z.

        tau_h dh/dt = 0.1 (h0 - h) + gamma_p (h_max - h) H(c - theta_p) - gamma_d h H(c - theta_d)
                      + sigma sqrt(tau_h) sqrt(H(c - theta_p) + H(c - theta_d)) xi
        tau_p dp/dt = -p + alpha H(|h - h0| - theta_pro)
        tau_z dz/dt = p (z_max - z) H(h - h0 - theta_tag) - p (z - z_min) H(h0 - h - theta_tag)
        w = h + z h0

    and calcium as in `CalciumRule`. In a neuron with many synapses proteins answer to the sum of |h - h0| over all of
    them; here every synapse stands for its own neuron, as in the authors' script for one synapse.

    Args:
        h0, h_max, theta_tag, theta_pro: mV. sigma: mV. tau_h, tau_p, tau_z: s. tau_Ca, D: ms.
        C_pre, C_post, theta_p, theta_d, gamma_p, gamma_d, leak, alpha, z_max, z_min: numbers.
    Source: Luboeinski & Tetzlaff 2021, Commun. Biol. 4:275; the numbers: their Brian2 script
        jlubo/brian_synaptic_plasticity_stc, `config_basic_late.json`.
    """

    h0: float = 4.20075
    h_max: float = 10.0
    tau_h: float = 688.4
    leak: float = 0.1
    gamma_p: float = 1645.6
    gamma_d: float = 313.1
    theta_p: float = 3.0
    theta_d: float = 1.2
    sigma: float = 2.90436
    tau_Ca: float = 48.8
    C_pre: float = 1.0
    C_post: float = 0.2758
    D: float = 18.8
    tau_p: float = 3600.0
    alpha: float = 1.0
    theta_pro: float = 2.10037
    tau_z: float = 3600.0
    theta_tag: float = 0.840149
    z_max: float = 1.0
    z_min: float = -0.5

    UNITS: ClassVar[Mapping[str, str]] = {
        "h0": "mV", "h_max": "mV", "tau_h": "second", "sigma": "mV", "tau_Ca": "ms", "D": "ms", "tau_p": "second",
        "theta_pro": "mV", "tau_z": "second", "theta_tag": "mV",
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "luboeinski_tetzlaff": Preset(
            {}, "Luboeinski & Tetzlaff 2021, by the authors' config_basic_late.json", True, region="hippocampus",
        )
    }  # fmt: skip

    def equations(self) -> Equations:
        constants = self.constants()
        constants.pop("D")
        return Equations(
            model="""
            high = int(c > theta_p) : 1
            low = int(c > theta_d) : 1
            drift = leak*(h0 - h) + gamma_p*(h_max - h)*high - gamma_d*h*low : volt
            dh/dt = drift/tau_h + sigma*sqrt((high + low)/tau_h)*xi : volt
            dc/dt = -c/tau_Ca : 1
            dp/dt = (alpha*int(abs(h - h0) > theta_pro) - p)/tau_p : 1
            capture = (z_max - z)*int(h - h0 > theta_tag) - (z - z_min)*int(h0 - h > theta_tag) : 1
            dz/dt = p*capture/tau_z : 1
            w = h + z*h0 : volt
            """,
            on_pre="c += C_pre",
            on_post="c += C_post",
            parameters=constants,
            start={"h": self.h0 * 1e-3},
            delay=self.D,
        )

    def protein_end(self, h: float) -> float:
        """How long protein synthesis lasts once stimulation has ended, s: tau_h / leak * ln(|h - h0| / theta_pro).

        Args:
            h: early phase when stimulation ends, mV.
        """
        return max(0.0, self.tau_h / self.leak * math.log(max(abs(h - self.h0) / self.theta_pro, 1e-300)))


INDUCTIONS: dict[str, str] = {
    "STET": "strong tetanus: 1 s at 100 Hz, three times, 600 s apart",
    "WTET": "weak tetanus: 0.2 s at 100 Hz",
    "SLFS": "strong low frequency: 900 times 3 spikes at 20 Hz, every 1.15 s",
    "WLFS": "weak low frequency: a Poisson train of 1 Hz for 900 s",
}
"""The protocols of Luboeinski & Tetzlaff 2021, as in their `StimulusProtocols.cpp`."""


def induction(name: str, seed: int = 0) -> np.ndarray:
    """The presynaptic spikes of a protocol, ms.

    Args:
        name: one of `INDUCTIONS`.
        seed: of the Poisson train.
    Raises:
        ValueError: an unknown name.
    """
    if name == "STET":
        return (np.arange(3)[:, None] * 6e5 + np.arange(100) * 10.0).ravel()
    if name == "WTET":
        return np.arange(20) * 10.0
    if name == "SLFS":
        return (np.arange(900)[:, None] * 1150.0 + np.arange(3) * 50.0).ravel()
    if name == "WLFS":
        rng = np.random.default_rng(seed)
        return np.sort(rng.uniform(0, 9e5, rng.poisson(900)))
    raise ValueError(f"unknown induction {name!r}: there are {', '.join(INDUCTIONS)}")


@dataclass(frozen=True)
class Consolidation(Protocol):
    """A stimulation of the presynaptic neuron, then hours without a spike.

    In the authors' simulation an input current makes the presynaptic neuron fire at these rates; here its spikes are
    given, and the postsynaptic neuron is silent. Stimulation is run in pieces (`pieces.run`), the hours after it in
    coarse steps from the state that it left: an 8 h experiment takes seconds.

    Args:
        inductions: names of `INDUCTIONS`, one condition each.
        hours: from the end of the longest stimulation.
        fine: ms, the step while calcium is above theta_d. coarse: ms, the step elsewhere.
        poisson: seed of the Poisson train.
    """

    inductions: Sequence[str] = ("STET", "WTET", "SLFS", "WLFS")
    hours: float = 8.0
    fine: float = 0.5
    coarse: float = 5000.0
    poisson: int = 0
    kind: ClassVar[str] = "consolidation"
    plot: ClassVar[str] = "bars"

    def experiment(self) -> Experiment:
        pre = [induction(name, self.poisson) for name in self.inductions]
        rows = [{"induction": name} for name in self.inductions]
        silent = [np.empty(0) for _ in pre]
        return Experiment({"induction": ""}, rows, pre, silent, self.stimulation + self.hours * 3.6e6)

    @property
    def stimulation(self) -> float:
        """ms until the last calcium of the longest stimulation is gone, a whole number of coarse steps."""
        last = max(float(induction(name, self.poisson).max()) for name in self.inductions)
        return math.ceil((last + 1000.0) / self.coarse) * self.coarse

    def run(
        self,
        rule: Rule,
        engine: Literal["reference", "torch", "brian"] = "reference",
        dt: float | None = None,
        replicates: int = 1,
        seed: int = 0,
        start: Mapping[str, Any] | None = None,
        record: tuple[str, ...] = (),
        every: float | None = None,
        **options: Any,
    ) -> Result:
        """As in `Protocol.run`, but stimulation is always the reference engine's; `engine` runs the hours after it.
        Readings begin with those hours, at the end of the longest stimulation.

        Raises:
            ValueError: a rule other than `TaggingAndCapture`, a `dt`, as there are two, or a time between readings that
                is no whole number of coarse steps.
        """
        if not isinstance(rule, TaggingAndCapture):
            raise ValueError(f"consolidation is an experiment for TaggingAndCapture, got {type(rule).__name__}")
        if dt is not None:
            raise ValueError(f"this protocol has two steps: write Consolidation(fine=..., coarse=...), not dt={dt!r}")
        if every is not None and abs(every / self.coarse - round(every / self.coarse)) > 1e-9:
            raise ValueError(f"every must be a whole number of coarse steps of {self.coarse:g} ms, got {every:g} ms")
        made = self.experiment()
        rule.check_fit(self.kind, self.grouped, made.duration / 1e3)
        shortened = replace(made, duration=self.stimulation)
        induced = pieces.run(rule, shortened, self.fine, self.coarse, replicates, seed, start)
        none = tuple(np.empty(0) for _ in made.pre)
        after = ENGINES[engine]()(
            rule.equations(), Stimulus(none, none, self.hours * 3.6e6), dt=self.coarse, replicates=replicates,
            seed=seed + 1, start=induced.state, record=record, every=every, **options,
        )  # fmt: skip
        times = after.times + self.stimulation
        return Result(rule, self, made, Outcome(induced.before, after.after, after.state, times, after.traces), engine)

"""Recruitment of NMDA receptors: calcium through the magnesium block decides between LTD and LTP."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class NMDARecruitment(Rule):
    """Calcium control: moderate calcium depresses, much calcium potentiates, and depolarisation lets it in.

        dCa/dt = g_NMDA (fast + slow) B(V) (V_r - V) - Ca / tau_Ca
        B(V)   = 1 / (1 + [Mg]/3.57 exp(-0.062 V))
        dw/dt  = eta(Ca) (Omega(Ca) - w)
        Omega  = 0.25 + sig(beta2 (Ca - alpha2)) - 0.25 sig(beta1 (Ca - alpha1)),   sig(x) = 1 / (1 + exp(-x))
        eta    = 1 / (P1 / (P2 + Ca^3) + P4)

    At a presynaptic spike a fraction P0 of the receptors is open, I_f of it closing with tau_f, the rest with tau_s;
    as receptors saturate, only the last spike counts. The potential at the synapse is the clamp's, or rest plus an EPSP
    for each of `coactive` inputs at every presynaptic spike plus the back-propagating spike (only the last one), which
    arrives `bpap_delay` after the postsynaptic spike with the amplitude `bpap` that is left of it there: near the soma
    the whole of it, in distal dendrites little. AP5, which blocks the receptor, is g_NMDA = 0.

    Args:
        g_NMDA: uM/(ms mV). Mg: mM. V_r, rest, epsp, bpap: mV. kappa: 1/mV, 0.062.
        P0, I_f, bpap_f: fractions. tau_f, tau_s, tau_Ca, epsp_rise, epsp_decay, bpap_tau_f, bpap_tau_s, bpap_delay: ms.
        alpha1, alpha2: uM. beta1, beta2: 1/uM. P1, P4: s. P2: uM^3.
        w0: the weight before an experiment; 0.25 is Omega without calcium.
        coactive: inputs that fire together with the synapse's own, it included.
    Source: Shouval, Bear & Cooper 2002, PNAS 99:10831; the block: Jahr & Stevens 1990, J. Neurosci. 10:3178.
    """

    g_NMDA: float = 0.002
    Mg: float = 1.0
    kappa: float = 0.062
    V_r: float = 130.0
    P0: float = 0.5
    I_f: float = 0.5
    tau_f: float = 50.0
    tau_s: float = 200.0
    tau_Ca: float = 50.0
    alpha1: float = 0.35
    alpha2: float = 0.55
    beta1: float = 80.0
    beta2: float = 80.0
    P1: float = 0.1
    P2: float = 1e-5
    P4: float = 1.0
    w0: float = 0.25
    coactive: int = 1
    rest: float = -65.0
    epsp: float = 1.0
    epsp_rise: float = 5.0
    epsp_decay: float = 50.0
    bpap: float = 100.0
    bpap_f: float = 0.75
    bpap_tau_f: float = 3.0
    bpap_tau_s: float = 25.0
    bpap_delay: float = 2.0

    UNITS: ClassVar[Mapping[str, str]] = {
        "g_NMDA": "1/(ms*mV)", "kappa": "1/mV", "V_r": "mV", "tau_f": "ms", "tau_s": "ms", "tau_Ca": "ms",
        "P1": "second", "P4": "second", "rest": "mV", "epsp": "mV", "epsp_rise": "ms", "epsp_decay": "ms", "bpap": "mV",
        "bpap_tau_f": "ms", "bpap_tau_s": "ms", "bpap_delay": "ms",
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "shouval_2002": Preset(
            {}, "Shouval, Bear & Cooper 2002", False,
            note="numbers by a public reimplementation (folmez/CaDP-MatLab), not read in the paper; block from memory",
        )
    }  # fmt: skip

    def equations(self) -> Equations:
        needed = (
            "g_NMDA", "Mg", "kappa", "V_r", "P0", "I_f", "tau_f", "tau_s", "tau_Ca", "alpha1", "alpha2", "beta1",
            "beta2", "P1", "P2", "P4",
        )  # fmt: skip
        constants = self.constants()
        return Equations(
            model="""
            unblocked = 1/(1 + Mg/3.57*exp(-kappa*v)) : 1
            omega = 0.25 + 1/(1 + exp(-beta2*(Ca - alpha2))) - 0.25/(1 + exp(-beta1*(Ca - alpha1))) : 1
            dfast/dt = -fast/tau_f : 1
            dslow/dt = -slow/tau_s : 1
            dCa/dt = g_NMDA*(fast + slow)*unblocked*(V_r - v) - Ca/tau_Ca : 1
            dw/dt = (omega - w)/(P1/(P2 + Ca**3) + P4) : 1
            """,
            on_pre="""
            fast = P0*I_f
            slow = P0*(1 - I_f)
            """,
            parameters={name: constants[name] for name in needed},
            start={"w": self.w0},
            signals={"v": ("mV", "post")},
        )

    def signals(self, experiment: Any, dt: float) -> Mapping[str, np.ndarray]:
        steps = round(experiment.duration / dt)
        if experiment.voltage is not None:
            return {"v": np.tile(np.asarray(experiment.voltage, dtype=np.float64), (steps + 1, 1))}
        t = np.arange(steps + 1) * dt
        traces = [self.potential(t, pre, post) for pre, post in zip(experiment.pre, experiment.post, strict=True)]
        return {"v": np.stack(traces, axis=1)}

    def potential(self, t: np.ndarray, pre: np.ndarray, post: np.ndarray) -> np.ndarray:
        """The potential at the synapse, mV.

        Args:
            t: when, ms, ascending. pre, post: spikes, ms.
        """
        rise, decay = self.epsp_rise, self.epsp_decay
        peak = math.log(decay / rise) * rise * decay / (decay - rise)
        top = math.exp(-peak / decay) - math.exp(-peak / rise)
        v = np.full(t.shape, self.rest)
        for spike in np.asarray(pre, dtype=np.float64):
            first = np.searchsorted(t, spike)
            age = t[first:] - spike
            v[first:] += self.coactive * self.epsp / top * (np.exp(-age / decay) - np.exp(-age / rise))
        arrivals = np.sort(np.asarray(post, dtype=np.float64)) + self.bpap_delay
        if arrivals.size:
            last = np.searchsorted(arrivals, t, side="right") - 1
            age = np.where(last >= 0, t - arrivals[np.maximum(last, 0)], np.inf)
            shape = self.bpap_f * np.exp(-age / self.bpap_tau_f) + (1 - self.bpap_f) * np.exp(-age / self.bpap_tau_s)
            v += self.bpap * shape
        return v

    def unblocked(self, v: np.ndarray | float) -> np.ndarray:
        """B(V), the fraction of open receptors that magnesium does not block, at v mV."""
        return np.asarray(1 / (1 + self.Mg / 3.57 * np.exp(-self.kappa * np.asarray(v, dtype=np.float64))))

    def influx(self, v: np.ndarray | float) -> np.ndarray:
        """B(V) (V_r - V), mV: to what calcium is proportional in a cell held at v mV."""
        return np.asarray(self.unblocked(v) * (self.V_r - np.asarray(v, dtype=np.float64)))

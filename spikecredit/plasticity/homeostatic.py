"""Rules that hold a rate or a weight: inhibitory STDP, synaptic scaling, heterosynaptic plasticity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.pair import UNBOUNDED
from spikecredit.plasticity.rule import Preset, Rule


@dataclass(frozen=True)
class InhibitorySTDP(Rule):
    """Symmetric plasticity of inhibition, which brings the postsynaptic neuron to the rate rho_0.

        dx/dt = -x/tau,   dy/dt = -y/tau,   alpha = 2 rho_0 tau
        at a presynaptic spike:    w <- w + eta (y - alpha),   x <- x + 1
        at a postsynaptic spike:   w <- w + eta x,             y <- y + 1

    Without correlations the mean change is eta rho_pre (2 rho_post tau - alpha): inhibition grows above rho_0 and
    shrinks below it. The weight is the size of the inhibition, never below 0.

    Args:
        eta: learning rate, in the unit of the weight. rho_0: Hz. tau: ms.
        w_max: upper bound.
    Source: Vogels et al. 2011, Science 334:1569, equations of the inhibitory rule.
    """

    eta: float = 0.001
    rho_0: float = 6.25
    tau: float = 20.0
    w_max: float = UNBOUNDED

    UNITS: ClassVar[Mapping[str, str]] = {"rho_0": "Hz", "tau": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "vogels": Preset(
            {"eta": 0.001, "rho_0": 6.25, "tau": 20.0}, "Vogels et al. 2011, the authors' program: alpha 0.25", True,
            region="model cortical network",
        ),
        "vogels_brian": Preset(
            {"eta": 0.01, "rho_0": 3.0, "tau": 20.0}, "Brian2's example Vogels_et_al_2011", True,
            region="model cortical network",
        ),
        "gabaergic_sfc": Preset(
            {"eta": 0.075, "rho_0": 0.2 / (2 * 0.030), "tau": 30.0},
            "PMC4019846, Table 1, iSTDP of the SFC model: alpha 0.2, 30 ms", True, region="model feed-forward circuit",
            note="a model's numbers, fitted to no cell; its window (Table 2) we did not read: here it is symmetric",
        ),
        "nest_default": Preset(
            {"eta": 0.001, "rho_0": 3.0, "tau": 20.0}, "NEST, vogels_sprekeler_synapse: alpha 0.12", True,
            note="a default, fitted to no data",
        ),
    }  # fmt: skip

    @property
    def alpha(self) -> float:
        """2 rho_0 tau."""
        return 2 * self.rho_0 * self.tau * 1e-3

    def equations(self) -> Equations:
        return Equations(
            model="""
            w : 1
            dx/dt = -x/tau : 1
            dy/dt = -y/tau : 1
            """,
            on_pre="""
            w += eta*(y - 2*rho_0*tau)
            x += 1
            """,
            on_post="""
            w += eta*x
            y += 1
            """,
            parameters=self.constants(),
            start={"w": 1.0},
            bounds={"w": (0.0, "w_max")},
        )


@dataclass(frozen=True)
class SynapticScaling(Rule):
    """Multiplicative scaling: all weights of a neuron grow or shrink by one factor until its mean rate is nu_0.

        dw/dt = beta w (nu_0 - nu),   dnu/dt = -nu/tau_nu,   at a postsynaptic spike nu <- nu + 1/tau_nu

    Ratios of weights stay as they are. In closed form w(t) = w(0) exp(beta (nu_0 t - n + (nu(t) - nu(0)) tau_nu)) after
    n spikes.

    Args:
        beta: how much a spike too few scales (a number, as 1/(Hz s)). nu_0: Hz. tau_nu: ms.
        nu_start: Hz, the mean rate before the experiment.
    Source: the form of Turrigiano et al. 1998 and van Rossum, Bi & Turrigiano 2000. The default numbers are ours.
    """

    beta: float = 0.01
    nu_0: float = 5.0
    tau_nu: float = 1000.0
    nu_start: float = 0.0

    UNITS: ClassVar[Mapping[str, str]] = {"nu_0": "Hz", "tau_nu": "ms", "nu_start": "Hz"}

    def equations(self) -> Equations:
        return Equations(
            model="""
            dw/dt = beta*w*(nu_0 - nu) : 1
            dnu/dt = -nu/tau_nu : Hz
            """,
            on_post="nu += 1/tau_nu",
            parameters={n: v for n, v in self.constants().items() if n != "nu_start"},
            start={"w": 1.0, "nu": self.nu_start},
        )


@dataclass(frozen=True)
class HeterosynapticSTDP(Rule):
    """Triplet STDP with heterosynaptic depression and transmitter-induced potentiation.

        dz_plus/dt = -z_plus/tau_plus (pre),  dz_minus/dt = -z_minus/tau_minus and dz_slow/dt = -z_slow/tau_slow (post)
        at a presynaptic spike:    w <- w + delta - B z_minus,      z_plus <- z_plus + 1
        at a postsynaptic spike:   w <- w + A z_plus z_slow(t-) - beta (w - w_ref) z_minus(t-)^3,
                                   z_minus, z_slow <- z + 1
        dw_ref/dt = (w - w_ref - P w_ref (w_high/2 - w_ref)(w_high - w_ref))/tau_cons

    A burst of the postsynaptic neuron pulls every weight to its reference w_ref, whether its input was active or not;
    w_ref follows the weight slowly and has two stable values, 0 and w_high. B is constant here; in the paper it follows
    the postsynaptic rate.

    Args:
        A, B, beta, delta: rates of triplet LTP, doublet LTD, heterosynaptic and transmitter-induced change.
        tau_plus, tau_minus, tau_slow: ms. tau_cons: s. P, w_high: of the reference's two wells.
        w_start: the weight and its reference before the experiment.
    Source: Zenke, Agnes & Gerstner 2015, Nat. Commun. 6:6922; equations and numbers from memory.
    """

    A: float = 1e-3
    B: float = 1e-3
    beta: float = 0.05
    delta: float = 2e-5
    tau_plus: float = 20.0
    tau_minus: float = 20.0
    tau_slow: float = 100.0
    tau_cons: float = 1200.0
    P: float = 20.0
    w_high: float = 0.5
    w_start: float = 0.5

    UNITS: ClassVar[Mapping[str, str]] = {
        "tau_plus": "ms", "tau_minus": "ms", "tau_slow": "ms", "tau_cons": "second"
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "zenke": Preset(
            {"A": 1e-3, "B": 1e-3, "beta": 0.05, "delta": 2e-5, "tau_plus": 20.0, "tau_minus": 20.0,
             "tau_slow": 100.0, "tau_cons": 1200.0, "P": 20.0, "w_high": 0.5, "w_start": 0.5},
            "Zenke, Agnes & Gerstner 2015, from memory", False, region="model cortical network",
        ),
    }  # fmt: skip

    def equations(self) -> Equations:
        return Equations(
            model="""
            w : 1
            dw_ref/dt = (w - w_ref - P*w_ref*(w_high/2 - w_ref)*(w_high - w_ref))/tau_cons : 1
            dz_plus/dt = -z_plus/tau_plus : 1
            dz_minus/dt = -z_minus/tau_minus : 1
            dz_slow/dt = -z_slow/tau_slow : 1
            """,
            on_pre="""
            w += delta - B*z_minus
            z_plus += 1
            """,
            on_post="""
            w += A*z_plus*z_slow - beta*(w - w_ref)*z_minus**3
            z_minus += 1
            z_slow += 1
            """,
            parameters={n: v for n, v in self.constants().items() if n != "w_start"},
            start={"w": self.w_start, "w_ref": self.w_start},
            bounds={"w": (0.0, UNBOUNDED)},
        )

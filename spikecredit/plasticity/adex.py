"""The neuron of Clopath et al. 2010, by the authors' own scheme."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class AdEx:
    """An exponential integrate-and-fire neuron with adaptation, a depolarising after-potential and a moving threshold.

        C du/dt     = -g_L (u - E_L) + g_L Delta_T exp((u - V_T) / Delta_T) - w + z + I
        tau_w dw/dt = a (u - E_L) - w
        tau_z dz/dt = -z
        tau_T dV_T/dt = V_T_rest - V_T

    After a spike w grows by b, z is I_sp and V_T is V_T_max. The spike itself is not integrated: the potential is held
    at two values whose mean the authors computed once with a fine step, and is then set to its reset; so the scheme is
    Euler's with a step of 1 ms, and no other step is the model.

    Args:
        C: pF. g_L, a: nS. E_L, V_T_rest, V_T_max, Delta_T: mV. tau_w, tau_z, tau_T: ms. I_sp: pA.
        b: pA. The paper prints 0.805; the authors' program adds 0.0805, and that is what their figures are.
        peak: mV, where a spike begins. spike: mV, the potential in the two steps of a spike. reset: mV, before the
            step that follows them.
        pulse: pA for one step, the current that makes a spike at will.
    Source: Clopath et al. 2010, Nat. Neurosci. 13:344, Table 1, with the numbers of the authors' program (ModelDB
        144566, `aEIF.m`) where the two differ: b, and the sign of V_T_max.
    """

    C: float = 281.0
    g_L: float = 30.0
    E_L: float = -70.6
    V_T_rest: float = -50.4
    V_T_max: float = -30.4
    Delta_T: float = 2.0
    tau_w: float = 144.0
    a: float = 4.0
    b: float = 0.0805
    I_sp: float = 400.0
    tau_z: float = 40.0
    tau_T: float = 50.0
    peak: float = 20.0
    spike: tuple[float, float] = (29.4, 32.862)
    reset: float = -49.5016
    pulse: float = 1e6

    DT: ClassVar[float] = 1.0
    """ms; the two values of the spike hold for this step only."""

    def potential(self, spikes: np.ndarray, steps: int) -> np.ndarray:
        """The membrane potential of a cell at rest that is driven to spike.

        Args:
            spikes: the steps in which `pulse` is injected, each 1 to `steps`. A pulse within the two steps of a spike
                does nothing.
            steps: how many steps.
        Returns:
            mV, (steps + 1,); row k is the potential after step k, row 0 rest.
        Raises:
            ValueError: a pulse outside the simulation.
        """
        driven = set(np.asarray(spikes, dtype=np.int64).tolist())
        if driven and not (min(driven) >= 1 and max(driven) <= steps):
            raise ValueError(
                f"the cell is at rest in step 0 and can be driven in steps 1 to {steps}, "
                f"got a spike in step {min(driven) if min(driven) < 1 else max(driven)}"
            )
        trace = np.full(steps + 1, self.E_L)
        u, w, z, threshold, held = self.E_L, 0.0, 0.0, self.V_T_rest, 0
        for k in range(1, steps + 1):
            if held == 2:
                u, w, z, threshold, held = self.reset, w + self.b, self.I_sp, self.V_T_max, 0
            current = self.pulse if k in driven else 0.0
            leak = -self.g_L * (u - self.E_L)
            # a pulse lifts the next potential, not the one that the exponential reads: it stays far from overflow
            upswing = self.g_L * self.Delta_T * math.exp((u - threshold) / self.Delta_T)
            du = (leak + upswing - w + z + current) / self.C
            dw = (self.a * (u - self.E_L) - w) / self.tau_w
            u += du
            z -= z / self.tau_z
            threshold += (self.V_T_rest - threshold) / self.tau_T
            if held == 1:
                u, held = self.spike[1], 2  # adaptation stands still while the potential is held
            else:
                w += dw
                if u > self.peak:
                    u, held = self.spike[0], 1
            trace[k] = u
        return trace

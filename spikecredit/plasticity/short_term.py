"""Short-term depression and facilitation: Tsodyks & Markram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from spikecredit.plasticity.engines.batched import Batch
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.rule import Preset, Rule

TPM = "Tsodyks, Pawelzik & Markram 1998, Fig. 1"
MAASS = "parameters of Maass and Markram's group for three kinds of excitatory synapses"


def _set(U: float, tau_rec: float, tau_f: float, source: str, region: str) -> Preset:
    return Preset({"U": U, "tau_rec": tau_rec, "tau_f": tau_f}, source, True, region=region)


@dataclass(frozen=True)
class TsodyksMarkram(Rule):
    """A synapse that runs out of resources x and is used more, u, after each spike. Its strength is the last release.

        du/dt = -u/tau_f,   dx/dt = (1 - x)/tau_rec
        at a presynaptic spike:   u <- u + U (1 - u);   w = u x is released;   x <- x - w

    Without facilitation (tau_f = 0) u is U at every spike. `w` keeps the release of the last spike until the next, so
    that engines can record it; before the first spike it is U, the release of a rested synapse. `releases` gives it for
    every spike of a train.

    Args:
        U: share of the resources that the first spike releases, in (0, 1].
        tau_rec: recovery, ms. tau_f: facilitation, ms; 0 for none.
    Raises:
        ValueError: U outside (0, 1], tau_rec not positive, tau_f negative.
    Source: Tsodyks, Pawelzik & Markram 1998, Neural Comput. 10:821.
    """

    U: float = 0.5
    tau_rec: float = 800.0
    tau_f: float = 0.0

    UNITS: ClassVar[Mapping[str, str]] = {"tau_rec": "ms", "tau_f": "ms"}
    PRESETS: ClassVar[Mapping[str, Preset]] = {
        "depressing": _set(0.5, 800.0, 0.0, TPM, "neocortex, layer 5, between pyramidal cells"),
        "facilitating": _set(0.03, 130.0, 530.0, TPM, "neocortex, layer 5, pyramidal cell to interneuron"),
        "maass_facilitating": _set(0.09, 138.0, 670.0, MAASS, "model: E-fac"),
        "maass_depressing": _set(0.5, 671.0, 17.0, MAASS, "model: E-dep"),
        "maass_linear": _set(0.29, 329.0, 326.0, MAASS, "model: pseudo-linear"),
    }

    def equations(self) -> Equations:
        if not 0 < self.U <= 1:
            raise ValueError(f"U is a share of the resources, in (0, 1], got {self.U!r}")
        if not (self.tau_rec > 0 and self.tau_f >= 0):
            raise ValueError(f"expected tau_rec > 0 and tau_f >= 0 in ms, got {self.tau_rec!r} and {self.tau_f!r}")
        facilitates = self.tau_f > 0
        return Equations(
            model="w : 1\ndx/dt = (1 - x)/tau_rec : 1" + ("\ndu/dt = -u/tau_f : 1" if facilitates else ""),
            on_pre="u += U*(1 - u)\nw = u*x\nx -= u*x" if facilitates else "w = U*x\nx -= U*x",
            parameters=self.constants(),
            start={"w": self.U, "x": 1.0},
        )

    def releases(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        """The release of each spike of a train, (N,), from a rested synapse.

        Args:
            times: of the spikes, ms, increasing; any times, not only a grid's.
        """
        equations = self.equations()
        batch = Batch(equations)
        state, found, now = batch.start(), [], 0.0
        spike = torch.ones(1, 1, dtype=torch.bool)
        for t in np.asarray(times, dtype=float):
            batch.decay(state, equations.decay((t - now) * 1e-3))
            batch.events(state, {"pre": spike})
            found.append(float(state["w"]))
            now = t
        return np.array(found)

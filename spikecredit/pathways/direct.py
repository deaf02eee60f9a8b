"""Direct feedback: the output's error goes straight to every hidden population, past all synapses.

With e[t] = dL/da_L[t], the error at the output of the network's last synapse, before any readout, hidden population l
receives B_l^T e[t] in place of what backprop would deliver at its output. B_l is (n_out, *N) for a population of shape
(*N): dense, with a weight of its own for every neuron of a map. `broadcast.py` delivers it.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from spikecredit.pathways.error import Graded
from spikecredit.pathways.pathway import Pathway, WeightedLayer, check_scale
from spikecredit.seeds import draw

Signal = Literal["error", "sign", "target"]
When = Literal["step", "sequence"]
DirectScale = Literal["fan_out", "nokland"]


class DirectPathway(Pathway):
    """Base class of the direct pathways: a choice for a whole network, whose B are in its `broadcast`.

    No error travels back through a synapse. Within a layer and between a synapse and the neurons that it drives
    (pooling, normalisation, a membrane's leak, additions of currents) gradients are autograd's.
    """

    direct: ClassVar[bool] = True
    learned: ClassVar[bool] = False
    """Whether B is a parameter, with the gradient of a synapse between population l and the output."""

    scale: DirectScale
    gain: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.error != Graded():
            raise ValueError(
                f"error={self.error!r}: no error travels through synapses under {type(self).__name__}; leave it out. "
                "For signs of the output's error take DirectFeedbackAlignment(signal='sign')"
            )
        check_scale(self.scale, ("fan_out", "nokland"), self.gain)

    @property
    @abstractmethod
    def delivers(self) -> tuple[Signal, When]:
        """What is multiplied with B, and whether step by step."""

    @property
    def shares(self) -> bool:
        """Whether all populations use slices of one matrix."""
        return False

    def matrix(self, layer: WeightedLayer) -> Tensor:
        raise TypeError(
            f"{self} has no feedback in the layout of a synapse: its B are (n_out of the network, *population), "
            "and are found in net.broadcast"
        )

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """B of shape (n_out, *N), float32: as given by `scale`, times `gain`."""
        if self.scale == "fan_out":
            drawn = draw(generator, "normal", shape, 0.0, 1 / math.sqrt(shape[0]), torch.float32, generator.device)
        else:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            drawn = draw(generator, "uniform", shape, -bound, bound, torch.float32, generator.device)
        return drawn.mul_(self.gain)


@dataclass(frozen=True)
class DirectFeedbackAlignment(DirectPathway):
    """Hidden population l receives B_l^T q[t] at its output, with B_l drawn once and never changed.

    signal "error" (DFA): q[t] = e[t] = dL/da_L[t]. "sign" (sDFA): q[t] = sign(e[t]) / (T B). "target" (DRTP): q[t] =
    -y* / (T B), with the target y*, one-hot for labels. T steps, B samples: 1 / (T B) is the factor that e carries for
    a loss that is a mean over batch and time; q = sign(e) and q = -y* alone do not know it. Neither changes when the
    loss is multiplied by a number.

    Args:
        signal: see above. For "target" write `net(x, target=labels)`.
        when: "step": q[t] at step t. "sequence": the mean over time of e in place of e[t], the same at every step.
            (Code that tiles an error of the time average over the steps delivers T times as much.)
        shared: one matrix (n_out, n) for all populations, n the size of the largest; each uses its first columns.
        scale: "fan_out": B ~ N(0, 1 / n_out), which keeps the variance of q. "nokland": U(-1, 1) / sqrt(n) with n the
            size of the population, or of the largest with `shared`.
        gain: factor on B.
    Raises:
        ValueError: a value that is none of these, or signal="target", which is the same at every step, with "sequence".
    Source: Nøkland 2016 (DFA; "nokland" is the default of his code, dfa-torch); Frenkel, Lefebvre & Bol 2019 (sDFA and
        DRTP: their code, DirectRandomTargetProjection, delivers B y*, to which a B symmetric about zero is
        indifferent; ours is e = y - y* without y); Launay et al. 2020 (`shared`, with "nokland": their code TinyDFA).
    """

    signal: Signal = "error"
    when: When = "step"
    shared: bool = False
    scale: DirectScale = "fan_out"
    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.signal not in ("error", "sign", "target"):
            raise ValueError(f"signal must be 'error', 'sign' or 'target', got {self.signal!r}")
        if self.when not in ("step", "sequence"):
            raise ValueError(f"when must be 'step' or 'sequence', got {self.when!r}")
        if self.signal == "target" and self.when == "sequence":
            raise ValueError("signal='target' is the same at every step: leave when='step'")

    @property
    def delivers(self) -> tuple[Signal, When]:
        return self.signal, self.when

    @property
    def shares(self) -> bool:
        return self.shared


@dataclass(frozen=True)
class DirectKolenPollack(DirectPathway):
    """Direct feedback whose B_l learn: population l receives B_l^T e[t], and dL/dB_l = sum_t,b e[t] h_l[t]^T.

    That is the gradient of a synapse from population l, with the output h_l, to the output, so the last B has the very
    gradient of the last W. B_l are parameters of the network: give them the optimiser and the weight decay of the
    weights, which makes both forget where they started. Decoupled or plain (SGD) decay of rate lambda then shrinks
    W_L - B_{L-1} by 1 - eta lambda each step; Adam with L2 decay does not keep the increments equal.

    Args:
        scale, gain: of B at the start, as in `DirectFeedbackAlignment`.
    Source: webstah/dkp-gist (code; without its optional second term), after Kolen & Pollack 1994 and Akrout et al.
        2019.
    """

    learned: ClassVar[bool] = True

    scale: DirectScale = "fan_out"
    gain: float = 1.0

    @property
    def delivers(self) -> tuple[Signal, When]:
        return "error", "step"

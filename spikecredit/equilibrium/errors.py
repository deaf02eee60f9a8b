"""The errors of an equilibrium network: what a nudge delivers to each layer, what it should, and how it arrives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spikecredit.equilibrium.contrast import Centred, Estimator, Settled, nudged_states
from spikecredit.equilibrium.cost import Cost, one_hot
from spikecredit.equilibrium.energy import Hopfield
from spikecredit.equilibrium.relax import Nudge, Sweeps
from spikecredit.equilibrium.sections import Phase, State

FINE = 200
"""Sweeps in which spike traces settle to the rates that they tell."""


@dataclass
class _Probed(Phase):
    """A phase whose layers receive another current on top."""

    extra: State | None = None

    def below(self, index: int, state: State) -> Tensor:
        assert self.extra is not None
        return super().below(index, state) + self.extra[index]


def true_errors(settled: Settled, y: Tensor, cost: Cost, sweeps: int = 1000, tolerance: float = 1e-6) -> State | None:
    """delta_l = dC/da_l of each sample, a_l the current into layer l, by implicit differentiation of the fixed point.

        lambda = J^T lambda + dC/ds,    delta_l = (dF_l / da_l)^T lambda         s = F(s), J = dF/ds at the free state

    Where neurons tell their rates by spikes, s is the fixed point of the rates. This is what backpropagation through
    time converges to over many sweeps, found by iteration (with half steps, as Almeida and Pineda's recurrent
    backpropagation), for any energy, pooling and B.

    Returns:
        delta_1 ... delta_L, in the shapes of the activities; None where the iteration does not converge, or where the
        units have no derivative (neurons that fire, samples).
    Source: Almeida 1987; Pineda 1987.
    """
    parts = settled.phase.parts
    if settled.relaxation.stochastic or any(part.neuron is not None for part in parts):
        return None
    found = settled.activities
    if settled.relaxation.by_spikes:
        found = Sweeps(free=FINE).run(settled.energy, settled.phase, FINE, found)
    state = [s.detach().requires_grad_() for s in found]
    extra = [torch.zeros_like(s, requires_grad=True) for s in state]
    phase = _Probed(parts, settled.phase.x, settled.phase.drive, list(settled.phase.places), extra)
    with torch.enable_grad():
        moved = [settled.energy.target(phase, index, state) for index in range(len(state))]
    slope = -cost.force(state[-1].detach(), one_hot(y, state[-1]))
    adjoint = [torch.zeros_like(s) for s in state]
    for _ in range(sweeps):
        back = torch.autograd.grad(moved, state, adjoint, retain_graph=True, allow_unused=True)
        wanted = [torch.zeros_like(s) if b is None else b for s, b in zip(state, back, strict=True)]
        wanted[-1] = wanted[-1] + slope
        change = max(float((w - a).abs().max()) for w, a in zip(wanted, adjoint, strict=True))
        size = max(float(w.abs().max()) for w in wanted)
        if not change > tolerance * size:
            return list(torch.autograd.grad(moved, extra, adjoint))
        adjoint = [a + 0.5 * (w - a) for w, a in zip(wanted, adjoint, strict=True)]
    return None


@torch.no_grad()
def delivered_errors(
    settled: Settled, y: Tensor, cost: Cost, estimator: Estimator = Centred(), random: torch.Generator | None = None
) -> State:
    """What stands for delta_l behind the synapses of layer l: -sum_k c_k of its local factor (`Energy.ends`) at node k.

    With the Hopfield energy that is -ds_l/dbeta, which for B = W is `true_errors` in the limit of a small nudge.
    """
    phase, states, weights = nudged_states(settled, y, cost, estimator, random)
    found = []
    for index in range(len(settled.phase.parts)):
        post = settled.energy.ends(phase, index, states)[0]
        post = -post * weights.view(-1, *[1] * (post.ndim - 1))
        found.append(post.view(-1, len(settled.phase.x), *post.shape[1:]).sum(0).real)
    return found


@torch.no_grad()
def backpropagated_errors(settled: Settled, y: Tensor, cost: Cost) -> State:
    """Backpropagation once down through the layers, at the free state, and no further around:

        delta_L = sigma'(a_L) dC/ds_L,    delta_l = sigma'(a_l) gain B_{l+1}^T P_{l+1}^T delta_{l+1}

    Raises:
        ValueError: another energy than Hopfield's.
    """
    energy, phase, state = settled.energy, settled.phase, settled.activities
    if not isinstance(energy, Hopfield):
        raise ValueError(f"currents are those of the energy hopfield, got {energy}")
    last = len(state) - 1
    slopes = [part.derivative(energy.current(phase, index, state)) for index, part in enumerate(phase.parts)]
    found = [-slopes[last] * cost.force(state[last], one_hot(y, state[last]))]
    for index in reversed(range(last)):
        found.insert(0, slopes[index] * energy.gain * phase.above(index, [*state[: index + 1], *found]))
    return found


@torch.no_grad()
def early_inference(settled: Settled, y: Tensor, cost: Cost, sweeps: int, beta: float = 1e-3) -> list[State]:
    """How errors arrive in a nudged phase: -(s_l^t - s_l^0) / beta after t = 1 ... sweeps Jacobi sweeps.

    Layer l stands still until sweep L - l + 1. Its first change is the backpropagated error, up to O(beta): "early
    inference" in a network at rest is backpropagation. Later sweeps add what goes around, up to `true_errors`.
    Source: Bengio & Fischer 2015.
    """
    free, relaxation = settled.activities, Sweeps(order="jacobi")
    nudge = Nudge(cost, y, torch.full((len(y), 1), beta, dtype=free[-1].dtype, device=free[-1].device))
    # The difference to a free phase that goes on as well: what had not settled yet is no error.
    pushed, left, found = free, free, []
    for _ in range(sweeps):
        pushed = relaxation.run(settled.energy, settled.phase, 1, pushed, nudge)
        left = relaxation.run(settled.energy, settled.phase, 1, left)
        found.append([(b - a) / beta for a, b in zip(pushed, left, strict=True)])
    return found

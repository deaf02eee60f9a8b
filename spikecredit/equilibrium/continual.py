"""Continual equilibrium propagation: weights that move at every step of the nudged phase."""

from typing import Any

import torch
from torch import Tensor

from spikecredit.equilibrium.contrast import Centred, Estimator, Settled, column, factor, is_directed
from spikecredit.equilibrium.cost import Cost
from spikecredit.equilibrium.sections import State


@torch.no_grad()
def continual_gradient(
    settled: Settled,
    y: Tensor,
    cost: Cost,
    rate: float,
    estimator: Estimator = Centred(),
    random: torch.Generator | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The change of each weight over the nudged phases in which it moves at every step, divided by -rate.

        theta_{t+1} = theta_t + rate c_k [ dPhi/dtheta(s_{t+1}) - dPhi/dtheta(s_t) ],    Phi = -E

    and with B != W, for each directed synapse, theta_{t+1} = theta_t + rate c_k s_{l-1}^t (s_l^{t+1} - s_l^t). Nothing
    of the free phase has to be remembered. A step of SGD with lr = rate takes the weights where they went; as rate -> 0
    this is `gradient`. Nodes of the estimator run one after the other, each from the weights before, and their changes
    add up.

    Args:
        settled: the free state of a batch (`contrast.settle`). rate: eta, positive.
        estimator: nudges; those that hold the output do not move there step by step.
    Returns:
        (dC/dW, dC/db) by layer name, of effective weights.
    Raises:
        ValueError: a rate that is not positive; a holomorphic estimator; a relaxation by samples.
    Source: Ernoult et al. 2020.
    """
    if not rate > 0:
        raise ValueError(f"continual is the rate at which weights move within a phase, positive, got {rate!r}")
    if estimator.holomorphic:
        raise ValueError(f"weights that move within a phase are real, and {estimator} nudges by complex numbers")
    if settled.relaxation.stochastic:
        raise ValueError(f"{settled.relaxation} has samples, whose steps are noise: let weights wait for their mean")
    energy, relaxation, x = settled.energy, settled.relaxation, settled.phase.x
    total: dict[str, tuple[Tensor, Tensor]] = {}
    for node in estimator.nodes(random):
        if not node.moves:
            continue
        phase = settled.phase.to(x.dtype)
        parts = phase.parts
        before = [(part.weight, part.bias) for part in parts]
        for part in parts:  # weights of their own, which the phase may move; B = W where they were one tensor
            tied = part.feedback is part.weight
            part.weight = part.weight.clone()
            part.bias = None if part.bias is None else part.bias.clone()
            part.feedback = part.weight if tied else part.feedback
        moving = Settled(phase, energy, relaxation, settled.state)
        _, state, nudge = moving.nudged([node], y, cost, x.dtype)
        weights = column([rate * node.weight], len(x), x.dtype, x)
        for _ in range(relaxation.nudged):
            after = relaxation.run(energy, phase, 1, state, nudge)
            (before_step,), (after_step,) = relaxation.samples(state), relaxation.samples(after)
            _move(moving, before_step, after_step, relaxation.activities(state), weights)
            phase.drive, phase.places[0] = parts[0].up(x)
            state = after
        for part, (w, b) in zip(parts, before, strict=True):
            moved = w.new_zeros(len(w)) if b is None or part.bias is None else (b - part.bias) / rate
            found = (w - part.weight) / rate, moved
            old = total.get(part.name)
            total[part.name] = found if old is None else (old[0] + found[0], old[1] + found[1])
    return total


def _move(settled: Settled, before: State, after: State, heard: State, weights: Tensor) -> None:
    """One step of every weight, from what it learns from before and after it; heard: the activities before it, from
    which a synapse that sees one membrane only has the other end."""
    phase, energy, parts = settled.phase, settled.energy, settled.phase.parts
    directed, membranes = is_directed(parts), settled.relaxation.by_membranes
    changes: list[tuple[Any, Any]] = []
    for index, part in enumerate(parts):
        (post_0, pre_0), (post_1, pre_1) = (energy.ends(phase, index, s) for s in (before, after))
        post, pre = energy.ends(phase, index, heard)
        scale = factor(energy, index, parts, len(phase.x)) * weights.view(-1, *[1] * (post_0.ndim - 1))
        if directed or index == 0:
            ends = [((post_1 - post_0) * scale, pre)]
        elif membranes:  # both directions of a symmetric weight
            ends = [((post_1 - post_0) * scale, pre), (post * scale, pre_1 - pre_0)]
        else:
            ends = [(post_1 * scale, pre_1), (-post_0 * scale, pre_0)]
        made = [part.hebb(post, pre, part.up(pre)[1] if part.pool is not None else None) for post, pre in ends]
        learns = 1 if membranes else len(made)  # a bias is behind one direction only
        changes.append((sum(w for w, _ in made), sum(b for _, b in made[:learns])))
    for part, (w, b) in zip(parts, changes, strict=True):
        part.weight -= w
        if part.bias is not None:
            part.bias -= b

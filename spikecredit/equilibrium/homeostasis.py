"""Jacobian homeostasis: a loss of the free state that makes a vector field symmetric, and so its estimate right."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from spikecredit.equilibrium.contrast import Settled, is_directed
from spikecredit.equilibrium.energy import Hopfield
from spikecredit.equilibrium.sections import Phase, Section


def homeostasis(
    settled: Settled, random: torch.Generator | None = None, balanced: bool = True, transposed: bool = True
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor | None]]]:
    """The asymmetry of the Jacobian J at the free state, estimated from one noise vector eps for each sample.

        L = |J eps - J^T eps|^2 / 2,  eps ~ N(0, I) over all units,        E[L] = |J - J^T|_F^2 / 2

    With D = diag(sigma') at the free state and M the Jacobian of the currents (W below the diagonal, gain B^T above it,
    if nothing is pooled),

        balanced: J = D^(1/2) M D^(1/2)        not balanced: J = D M, that of the targets themselves

    Directed equilibrium propagation delivers (I - D M)^-1 D dC/ds, the true gradient has (I - D M^T)^-1 D dC/ds. Both
    are one where the balanced J is symmetric, as it is with gain B = W. D M is not then, unless all slopes are one
    number: its loss pulls B away from W, and what it gains by smaller slopes is no symmetry. So the slopes D are held
    in the balanced loss; the other one is differentiated through them. Other energies than Hopfield's have targets
    whose J is symmetric for gain B = W: there `balanced` changes nothing.

    The free state is held too. Call it once for each batch: it takes autograd through one sweep, three times.

    Args:
        settled: a batch at its free state, of `settle` or `gradient`, of rate units.
        random: where eps comes from; None: torch's global generator.
        transposed: False: L = |J eps|^2 - eps^T J^2 eps, as published. It has the same mean, and needs nothing but what
            the network makes of noise, once and twice; but its gradient is noise where J is symmetric, and ours is 0.
    Returns:
        the mean of L over the batch; and by layer name (dL/dW, dL/dB) of the effective weights, None for a B that does
        not learn. Biases have no part.
    Raises:
        ValueError: spiking neurons, or no layer whose B is another than W.
    Source: Laborieux & Zenke 2024, with D M and transposed=False. Their nudge is outside the activation, where the
        estimate asks for a symmetric D M; the balanced J, for nudges inside, is ours.
    """
    check_homeostasis(settled.phase.parts)
    energy, activities = settled.energy, settled.activities
    parts = [_leaves(part) for part in settled.phase.parts]
    eps = [_noise(a, random).requires_grad_() for a in activities]
    with torch.enable_grad():
        state = [a.detach().requires_grad_() for a in activities]
        phase = Phase(parts, settled.phase.x, settled.phase.drive, [None] * len(parts))
        if isinstance(energy, Hopfield) and balanced:
            currents = [energy.current(phase, index, state) for index in range(len(parts))]
            roots = [part.derivative(c.detach()).sqrt() for part, c in zip(parts, currents, strict=True)]
            out = [root * c for root, c in zip(roots, currents, strict=True)]
        else:
            phase.drive = parts[0].up(phase.x)[0]  # sigma' of the first layer depends on its W
            roots = [torch.ones_like(a) for a in activities]
            out = [energy.target(phase, index, state) for index in range(len(parts))]
        back = torch.autograd.grad(out, state, eps, create_graph=True)
        back = tuple(root * b for root, b in zip(roots, back, strict=True))  # J^T eps, and linear in eps
        there = torch.autograd.grad(back, eps, [e.detach() for e in eps], create_graph=True)  # J eps
        j, t = (torch.cat([part.flatten() for part in vector]) for vector in (there, back))
        # eps^T J^2 eps = (J^T eps) . (J eps)
        loss = ((j - t).square() / 2 if transposed else j * (j - t)).sum() / len(phase.x)
        leaves = [part.weight for part in parts] + [part.feedback for part in parts if _learns(part)]
        grads = iter(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))
    weights = [next(grads) for _ in parts]
    return loss.detach(), {
        part.name: (weight, next(grads) if _learns(part) else None) for part, weight in zip(parts, weights, strict=True)
    }


def add_homeostasis(settled: Settled, strength: float, random: torch.Generator | None = None) -> Tensor:
    """Add `strength` times the gradients of `homeostasis` to the `.grad` of W and of learned B; returns its loss."""
    loss, found = homeostasis(settled, random)
    for part in settled.phase.parts:
        w, b = found[part.name]
        with torch.enable_grad():
            weight = part.layer.effective_weight()  # not the tied one: B has a gradient of its own
        weight.backward(strength * w)  # type: ignore[no-untyped-call]  # torch has no types for it
        if b is not None and (kept := part.layer.feedback_weight) is not None:
            kept.grad = strength * b if kept.grad is None else kept.grad + strength * b
    return loss


def check_homeostasis(parts: Sequence[Section]) -> None:
    """Refuse networks in which there is nothing to make symmetric, or no slope to know.

    Raises:
        ValueError: with the reason, and what to write instead.
    """
    if not is_directed(parts):
        raise ValueError(
            "homeostasis makes feedback symmetric, and here the error goes through the weights themselves: leave it 0, "
            "or take a pathway with weights of its own such as feedback_alignment or kolen_pollack"
        )
    for part in parts:
        if part.neuron is not None:
            raise ValueError(
                f"homeostasis needs the slopes of rate units, and {part.name} drives {type(part.neuron).__name__}, "
                "which fires: leave it 0"
            )


def _learns(part: Section) -> bool:
    """Whether B is in use, which it is not in the first layer, and a parameter."""
    return part.layer.pathway.learns and part.feedback is not part.weight


def _leaves(part: Section) -> Section:
    """The section with W, and B if it learns, to differentiate by; real ones, whatever the last phase was."""
    new = copy.copy(part)
    new.weight = part.weight.detach().real.requires_grad_()
    new.bias = None if part.bias is None else part.bias.real
    if part.feedback is part.weight:
        new.feedback = new.weight
    else:
        new.feedback = part.feedback.detach().real.requires_grad_(_learns(part))
    return new


def _noise(like: Tensor, random: torch.Generator | None) -> Tensor:
    device = like.device if random is None else random.device
    return torch.randn(like.shape, generator=random, device=device, dtype=like.dtype).to(like.device)

"""Backpropagation through time, along the network's pathway; with an error that may move the activity too."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spikecredit.losses import MeanPotential
from spikecredit.network import Network
from spikecredit.rules.currents import Moment, Population, hidden, intercepted, steps_apart
from spikecredit.rules.rule import Forward, LossFunction, Rule, run


@dataclass(frozen=True)
class BPTT(Rule):
    """One backward pass through the network in time, along its pathway, with the neurons' surrogate derivatives.

    With `nudge` = gamma > 0 the batch is presented twice. The first presentation delivers, along the pathway, an error
    to the current I_l[t] of every hidden population l, for each sample on its own:

        d_l[t] = B dL/dI_l[t]           (T, B, *N), L a mean over the B samples, B d the error of one sample's loss

    In the second presentation hidden neurons receive I_l[t] - gamma d_l[t] in place of I_l[t], so that the feedback
    enters their potential, and the weights get the gradient of the second presentation's loss, along the same pathway,
    with the nudge held constant. The readout is not nudged. With d_l true gradients (backprop, rate units) the loss of
    each sample changes by -gamma sum_l,t |d_l[t]|^2 to first order. gamma = 1 adds an error of the size that a sample
    delivers; d_l[t] has no factor T, so that a loss that is a mean over time gives each step a T-th.

    The nudge at step t is the error of the first presentation at step t, which depends on what that presentation did
    after t: it is as little causal as BPTT itself. In evaluation there is no error and no nudge.

    Both presentations see the same dropout masks and the same redrawn feedback weights; running statistics of
    normalisation are those of the first, which evaluation resembles. The loss and the output that are returned are
    those of the second. Costs two forward passes and two backward passes, the first without gradients of weights.

    Args:
        nudge: gamma; 0 is plain BPTT, one presentation.
    Raises:
        ValueError: a nudge that is not a finite number, 0 or above.
    Source: the nudge is ours. That feedback in cortex alters activity, while backprop's does not, is a difference
        named by Lillicrap, Santoro, Marris, Akerman & Hinton 2020, "Backpropagation and the brain" (unverified: quoted
        from memory).
    """

    nudge: float = 0.0

    def __post_init__(self) -> None:
        if not (self.nudge >= 0 and math.isfinite(self.nudge)):
            raise ValueError(f"nudge must be a finite number, 0 (none) or above, got {self.nudge!r}")

    @property
    def intervenes(self) -> bool:
        return self.nudge > 0

    def gradients(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        loss: LossFunction = MeanPotential(),
        forward: Forward | None = None,
        noise: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        if self.nudge == 0:
            out = run(net, x, y, forward)
            value = loss(out, y)
            value.backward()  # type: ignore[no-untyped-call]
            return value.detach(), out.detach()
        x = steps_apart(net, x)
        net.materialise(x)
        start = Moment(net, x.device)
        errors = delivered(net, x, y, loss, forward)
        after = Moment(net, x.device)
        start.restore()
        waiting, nudged = iter(errors), hidden(net)

        def receive(population: Population, current: Tensor) -> Tensor:
            error = next(waiting) if population in nudged else None
            return current if error is None else current - self.nudge * error

        with intercepted(net, x.shape[0], receive):
            out = run(net, x, y, forward)
        value = loss(out, y)
        value.backward()  # type: ignore[no-untyped-call]
        after.restore()
        return value.detach(), out.detach()


def delivered(
    net: Network, x: Tensor, y: Tensor, loss: LossFunction, forward: Forward | None = None
) -> list[Tensor | None]:
    """d[t] = B dL/dI[t] of the hidden populations, (T, B, *N) each, in the order in which they run; weights' `.grad`
    stay. None where no gradient is asked for, as behind frozen layers."""
    found: list[Tensor] = []
    wanted = hidden(net)

    def receive(population: Population, current: Tensor) -> Tensor:
        if population in wanted:
            found.append(current)
        return current

    with intercepted(net, x.shape[0], receive):
        value = loss(run(net, x, y, forward), y)
    asked = [current for current in found if current.requires_grad]
    got = iter(torch.autograd.grad(value, asked, allow_unused=True) if asked else ())
    errors = [next(got) if current.requires_grad else None for current in found]
    return [None if error is None else x.shape[1] * error for error in errors]

"""What a rule is: how a network and a batch become a gradient of every weight."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from spikecredit.losses import MeanPotential
from spikecredit.network import Network

Forward = Callable[..., Tensor]
"""Runs the network: x -> out, and (x, target=y) -> out where the network `needs_target`."""

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(out (T, B, *out), y) -> the mean over the batch of the samples' losses, a scalar: any of `losses.LOSSES`."""


class Rule(ABC):
    """Base class: hyper-parameters only. What a rule fills are gradients; the optimiser takes the step."""

    random: ClassVar[bool] = False
    """Whether `gradients` draws random numbers of its own, from its argument `noise`."""

    delivers_errors: ClassVar[bool] = True
    """Whether errors travel back along the network's pathway, so that their angle to the true ones says something."""

    @property
    def intervenes(self) -> bool:
        """Whether it changes what neurons receive while it learns, for which a compiled network has no place."""
        return False

    def check(self, net: Network) -> None:  # noqa: B027  (nothing to refuse)
        """Refuse a network that this rule cannot teach.

        Raises:
            ValueError: with the reason, and what to write instead.
        """

    def predict(self, net: Network, x: Tensor, forward: Forward | None = None) -> Tensor:
        """The network's output (T, B, *out) on x (T, B, *in), as evaluation sees it: a forward pass, for most rules."""
        return net(x) if forward is None else forward(x)

    def recorded(self, net: Network, x: Tensor) -> tuple[dict[str, Tensor], bool] | None:
        """What the network's neurons do on x (T, B, *in) where that is no forward pass: outputs (T, B, *N) by name of
        the layer of neurons, and whether they are spikes. None: a forward pass shows it."""
        return None

    def errors(self, net: Network, x: Tensor, y: Tensor, loss: LossFunction) -> dict[str, tuple[Tensor, Tensor]]:
        """The error that reaches each synapse layer, and the true one, dL/da of its current, by name of the layer.

        For rules whose errors do not travel along a backward pass; empty where there is none to look at.
        """
        return {}

    @abstractmethod
    def gradients(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        loss: LossFunction = MeanPotential(),
        forward: Forward | None = None,
        noise: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Add this rule's gradients to every parameter's `.grad`, as `loss.backward()` does.

        Args:
            net: the network, in training mode.
            x: input (T, B, *in). y: labels (B,).
            loss: a mean over the batch.
            forward: what runs `net`, where it is not `net` itself (under autocast, or compiled).
            noise: where random numbers come from; from torch's global generator if None.
        Returns:
            the loss, a scalar, and the output (T, B, *out) that it is the loss of.
        Raises:
            ValueError: the rule cannot teach this network; see `check`.
        """


def run(net: Network, x: Tensor, y: Tensor, forward: Forward | None) -> Tensor:
    """The network's output on x, given the labels where its pathway delivers them."""
    forward = net if forward is None else forward
    return forward(x, target=y) if getattr(net, "needs_target", False) else forward(x)

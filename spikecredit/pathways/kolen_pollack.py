"""Kolen-Pollack: feedback weights that receive the forward weights' increments, and so become them."""

from dataclasses import dataclass
from typing import ClassVar

from spikecredit.pathways.feedback_alignment import FeedbackAlignment


@dataclass(frozen=True)
class KolenPollack(FeedbackAlignment):
    """B starts at random and moves as W does: both get the increment -eta delta x^T, and both decay.

        W <- (1 - lambda) W - eta delta x^T,  B <- (1 - lambda) B - eta delta x^T   =>   W - B <- (1 - lambda) (W - B)

    B is a parameter of the layer (`feedback_weight`) and gets W's gradient in the same backward pass; lambda is the
    optimiser's weight decay, which has to act on both: put both into one parameter group, as
    `optimizer(net.parameters(), ...)` does. Without weight decay W - B stays as it is for ever.

    Where the law above holds:
        SGD: exactly, lambda = lr * weight_decay. With momentum mu the decay enters the velocity, and W - B follows
        the heavy ball D <- D - lr V, V <- mu V + weight_decay D instead.
        AdamW: exactly, lambda = lr * weight_decay: the decay is decoupled, and equal gradients make equal moments.
        Adam with weight_decay (L2): NOT. The decay enters the gradient, the moments of W and B differ, and with them
        the step sizes: W - B shrinks, by no law. Take AdamW.

    Under Dale's law in mode "project" B is under the same signs as W (its columns; with feedback="own" its rows),
    starts with them, and is projected with W, so that W - B cannot grow by the projection. A reparametrised W has no
    gradient that B could share, and is refused.

    Args:
        scale, gain: of the initial B, as in `FeedbackAlignment`.
    Source: Kolen & Pollack 1994; Akrout, Wilson, Humphreys, Lillicrap & Tweed 2019 (whose public code decays nothing by
        default: its `weight_decay=1` is the factor 1 - lambda).
    """

    learns: ClassVar[bool] = True

    @property
    def tied(self) -> bool:
        return True

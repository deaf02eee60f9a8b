"""Weight mirror: between training steps, noise makes the feedback weights copy the forward ones."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spikecredit.neurons import LIF
from spikecredit.pathways.pathway import Pathway, WeightedLayer
from spikecredit.seeds import Noise, draw


@dataclass(frozen=True)
class WeightMirror(Pathway):
    """B <- (1 - decay) B + rate < (y - <y>) x^T >, where noise x drives the layer and y is its response.

    x ~ N(0, sigma^2), fresh and independent for each layer, `samples` of them at a time; < > is the mean over the
    samples and, in a convolution, over the positions. For Gaussian noise E<y x^T> = sigma^2 diag(E phi') W (Stein),
    where y = phi(W x + b): each row of W, times the mean slope of its unit. So B goes to

        B* = (rate sigma^2 / decay) diag(E phi') W

    and nothing but the activity at both ends of the synapse was used. The phases run after each step of the optimiser
    (`after_step` or `attach`); errors wait meanwhile.

    Args:
        response: "spikes": y is the firing rate of a LIF population that each sample drives with its current W x + b,
            constant over `steps` time steps. The population is the mirror's own, of `tau` and `threshold` (give it
            those of the network's neurons), whatever neuron follows the layer; a normalisation in between takes no
            part. "current": y is the current itself, the trivial control: phi' = 1.
        rate, decay: as above. The defaults make B as large as W where torch initialised W (measured ratio 1.01), and
            smaller where strong currents saturate the rates. At decay 0 B grows without bound. A phase of N samples
            estimates a row of n weights with a relative error of about sqrt(n / N), of which sqrt(decay / 2) remains; B
            lags 1 / decay phases behind W.
        sigma: standard deviation of the noise, in units of the layer's input.
        samples: per phase. every: a phase after every so many steps.
        initial: phases before training; B starts at 0, with no feedback at all if there are none.
        centred: subtract <y>. Without it the mean rate, times the sample mean of x, is noise on all rows alike.
        steps, tau (ms, dt = 1 ms), threshold: of the LIF population.
        side: a convolution gets images of noise that make maps of side x side, without padding, whose edges would
            hear less.
    Source: Akrout, Wilson, Humphreys, Lillicrap & Tweed 2019. Their public code: sigmoid units, uniform noise of width
        0.1 per layer, rate 0.01 on the sum over the batch, not centred, one epoch of phases first, then one per step;
        its line against growing weights changes nothing, so that they grow. That code has no spikes, no decay.
    """

    response: Literal["spikes", "current"] = "spikes"
    rate: float = 0.05
    decay: float = 0.02
    sigma: float = 1.0
    samples: int = 64
    every: int = 1
    initial: int = 20
    centred: bool = True
    steps: int = 10
    tau: float = 20.0
    threshold: float = 1.0
    side: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response not in ("spikes", "current"):
            raise ValueError(f"response must be 'spikes' or 'current', got {self.response!r}")
        for name in ("rate", "sigma", "tau", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        for name, least in (("samples", 2), ("every", 1), ("initial", 0), ("steps", 1), ("side", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is the fraction of B lost in one phase, 0 <= decay < 1; got {self.decay!r}")

    @property
    def redraws(self) -> bool:
        return True

    @torch.no_grad()
    def create(self, layer: WeightedLayer, generator: torch.Generator) -> Tensor:
        feedback = torch.zeros_like(layer.weight)
        for _ in range(self.initial):
            self._phase(layer, feedback, generator)
        return feedback

    def matrix(self, layer: WeightedLayer) -> Tensor:
        assert layer.feedback_weight is not None, "the layer was not bound to its pathway"
        return layer.feedback_weight

    @torch.no_grad()
    def learn(self, layer: WeightedLayer) -> None:
        noise = layer.noise_source()
        assert isinstance(noise, Noise) and layer.feedback_weight is not None
        if noise.count % self.every:
            noise.skip()
        else:
            self._phase(layer, layer.feedback_weight, noise)

    def _phase(self, layer: WeightedLayer, feedback: Tensor, source: torch.Generator | Noise) -> None:
        shape, weight = layer.noise_shape(self.samples, self.side), layer.weight
        x = draw(source, "normal", shape, 0.0, self.sigma, weight.dtype, weight.device)
        y = layer.respond(x)
        if self.response == "spikes":
            y = self._rates(y)
        feedback.mul_(1 - self.decay).add_(mirror(layer, y, x, self.centred), alpha=self.rate)

    def _rates(self, current: Tensor) -> Tensor:
        """Spikes per step of LIF neurons under a constant current."""
        spikes: Tensor = LIF(self.tau, self.threshold)(current[None], steps=self.steps)
        return spikes.mean(0)


def mirror(layer: WeightedLayer, y: Tensor, x: Tensor, centred: bool = True) -> Tensor:
    """< (y - <y>) x^T > in W's layout: the covariance of a response y with the noise x that caused it.

    Args:
        x: noise of the layer's `noise_shape`. y: units in dimension 1, (samples, out) or (samples, C_out, side, side).
        centred: False for < y x^T >.
    """
    if centred:
        y = y - y.mean([dim for dim in range(y.ndim) if dim != 1], keepdim=True)
    return layer.correlate(y, x)

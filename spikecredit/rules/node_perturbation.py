"""Node perturbation: what a trial's noise did to the loss is the only thing that a synapse is told."""

import math
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikecredit.losses import Loss, MeanPotential
from spikecredit.network import Network
from spikecredit.pathways import Backprop
from spikecredit.rules.currents import Moment, intercepted, populations, shadowed, steps_apart
from spikecredit.rules.rule import Forward, LossFunction, Rule, run
from spikecredit.synapses import BatchNorm1d, BatchNorm2d, RecurrentLinear, Synapse


@dataclass(frozen=True)
class NodePerturbation(Rule):
    """Scalar feedback: noise on every current, and a weight change by how much better or worse the sample came out.

    With xi_l[t] ~ N(0, s^2), drawn for every neuron, step and sample, added to the current that enters each population
    (hidden ones and the readout; to the output itself if no neurons come last), and L_b a sample's own loss:

        g_l[t, b] = (L_b(xi) - L_b(0)) / s^2  xi_l[t, b]          stands for dL_b / dI_l[t, b]
        dL/dW_l   = (1/B) sum_t,b g_l[t, b] x_{l-1}[t, b]^T       with x_{l-1} the activity in the noisy trial

    averaged over `draws`. Biases, norms and whatever else lies between two populations get their gradient from g_l by
    the chain rule, which stays between the two: no error crosses a neuron, and no surrogate derivative is used.

    Its mean is exactly the gradient of E_xi L(xi), the loss averaged over the noise. For rate units that is dL/dW up
    to O(s^2). For spiking neurons it is not the surrogate gradient, nor an approximation of it: it is the true gradient
    of the smoothed loss, in which a neuron fires with probability Phi((I - theta) / s) (one step from rest). Its
    variance grows with the number of units and steps that are perturbed at once, and falls as 1 / draws.

    L_b(0) is that of a pass without noise, whose loss and output are returned. All passes see the same dropout masks;
    running statistics are those of the pass without noise. Costs 1 + draws forward passes, and backward passes that
    end at the next neuron. Noise is added in float32 at least.

    Args:
        noise: s, in units of the current (threshold 1). draws: noisy trials per batch.
    Raises:
        ValueError: noise that is not positive, fewer than one draw; and by `check`: a pathway other than Backprop(),
            which would carry nothing; synapses without neurons between them, across which an error would have to
            travel; batch normalisation in training mode, through which a sample's noise reaches the loss of others;
            neurons that learn a constant of their own, such as tau.
    Source: Werfel, Xie & Seung 2005, "Learning curves for stochastic gradient descent in linear feedforward networks"
        (unverified: quoted from memory). That the mean is the gradient of E_xi L is the score function's identity,
        Williams 1992 (REINFORCE; unverified), with L(0) as its baseline.
    """

    noise: float = 0.1
    draws: int = 1

    random: ClassVar[bool] = True
    delivers_errors: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise is a standard deviation, positive and finite, got {self.noise!r}")
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"draws is a number of noisy trials, at least 1, got {self.draws!r}")

    @property
    def intervenes(self) -> bool:
        return True

    def check(self, net: Network) -> None:
        names = {module: name for name, module in net.named_modules()}
        for name, layer in net.synapses().items():
            if layer.pathway != Backprop():
                raise ValueError(
                    f"{name} has the pathway {layer.pathway}, but under {self} no error travels back through a "
                    "synapse, so that it would change nothing: leave the pathway at Backprop()"
                )
        for population in populations(net):
            neuron = population.neuron if isinstance(population, RecurrentLinear) else population
            if any(p.requires_grad for p in neuron.parameters()):
                raise ValueError(
                    f"{names[neuron]} learns a constant of its own, but {self} has a gradient for what makes a current "
                    "only: write learn_tau=False"
                )
        for name, module in net.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | BatchNorm1d | BatchNorm2d) and module.training:
                raise ValueError(
                    f"{name} takes its mean and variance from the batch, so that the noise of one sample changes the "
                    f"losses of the others, and {self} would credit it with its own only: leave normalisation out "
                    "(norm: false), or train with it in evaluation mode"
                )
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not isinstance(module, Synapse):
                raise ValueError(
                    f"{name} is {type(module).__name__} of torch, behind which {self} looks for no neurons: take "
                    "sc.Linear or sc.Conv2d (sc.convert makes them)"
                )
        bare: str | None = None
        for place in net.layers:
            if isinstance(place, Synapse | RecurrentLinear) and bare is not None:
                raise ValueError(
                    f"{names[place]} reads {bare} without neurons between them, and the error of one would have to "
                    f"travel through the other, but under {self} none does: put neurons there, sc.LIF(), or sc.ReLU() "
                    "for rates (torch's own nn.ReLU is none)"
                )
            if isinstance(place, Synapse):
                bare = names[place]
            elif populations(place):
                bare = None

    def gradients(
        self,
        net: Network,
        x: Tensor,
        y: Tensor,
        loss: LossFunction = MeanPotential(),
        forward: Forward | None = None,
        noise: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.check(net)
        if not isinstance(loss, Loss):
            raise TypeError(
                f"{self} needs each sample's own loss, which {loss!r} does not give: take one of "
                "spikecredit.losses, or a subclass of its Loss"
            )
        if noise is None:  # not the global generator itself, which goes back for the masks of the next trial
            seed = int(torch.randint(2**62, ()))
            noise = torch.Generator(x.device).manual_seed(seed)
        x = steps_apart(net, x.detach())
        start = Moment(net, x.device)
        with torch.no_grad():
            out = run(net, x, y, forward)
            quiet = loss.of_samples(out, y)
        after = Moment(net, x.device)
        for _ in range(self.draws):
            start.restore()
            trial = _Trial(self.noise, noise)
            noisy = trial.run(net, x, y, forward)
            with torch.no_grad():
                better = (loss.of_samples(noisy, y) - quiet) / (self.noise**2 * len(y) * self.draws)
            trial.backward(better)
        after.restore()
        return quiet.mean(), out


class _Trial:
    """One presentation with noise: currents and the noise that each had, in the order in which they came up."""

    def __init__(self, scale: float, source: torch.Generator) -> None:
        self.scale, self.source = scale, source
        self.currents: list[Tensor] = []
        self.noises: list[Tensor] = []

    def perturb(self, current: Tensor) -> Tensor:
        """The current with noise, from which nothing leads back to it."""
        dtype = torch.promote_types(current.dtype, torch.float32)
        xi = torch.empty(current.shape, dtype=dtype, device=current.device).normal_(
            0.0, self.scale, generator=self.source
        )
        self.currents.append(current)
        self.noises.append(xi)
        return current.detach() + xi

    def run(self, net: Network, x: Tensor, y: Tensor, forward: Forward | None) -> Tensor:
        """The output of the noisy trial."""
        with ExitStack() as stack:
            stack.enter_context(intercepted(net, x.shape[0], lambda population, current: self.perturb(current)))
            for population in populations(net):
                if isinstance(population, RecurrentLinear):
                    stack.enter_context(self.listening(population))
            out = run(net, x, y, forward)
        # Synapses without neurons after them end in a current too.
        return self.perturb(out) if out.requires_grad else out

    def backward(self, better: Tensor) -> None:
        """Credit every current with its noise times what the trial did to the loss of its sample (B,)."""
        pairs = [(c, xi) for c, xi in zip(self.currents, self.noises, strict=True) if c.requires_grad]
        currents = [c for c, _ in pairs]
        credit = [(xi * better.view(1, -1, *[1] * (xi.ndim - 2))).to(c.dtype) for c, xi in pairs]
        torch.autograd.backward(currents, credit)

    def listening(self, layer: RecurrentLinear) -> AbstractContextManager[None]:
        """While it lasts, the layer's spikes leave it detached, and what they add to its currents is one of its own.

        V s[t-1] enters where W x[t] does, and so has the same noise and the same credit.
        """
        inner = layer.stream

        def stream(x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
            out, last = inner(x, state, steps)
            out = out.detach()
            self.currents.append(layer.recurrent(torch.cat([torch.zeros_like(out[:1]), out[:-1]])))
            self.noises.append(self.noises[-1])
            return out, last

        return shadowed(layer, stream)

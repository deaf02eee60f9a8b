"""DANN layers: neurons that excite whoever they project to, and inhibitory units within the layer (Cornford 2021)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.constraints import Constraint, Unconstrained
from spikecredit.pathways import Pathway
from spikecredit.synapses.conv import Conv2d
from spikecredit.synapses.conv_events import Pair
from spikecredit.synapses.linear import Linear
from spikecredit.synapses.synapse import Synapse

EPSILON = 1e-8
"""What is added to gamma. Source: Cornford et al. 2021's code."""

DANNInitialisation = Literal["cornford", "cornford_first", "li"]


class DANNSynapse(Synapse):
    """What the two DANN layers share: inhibitory units, their signs and their start. `weight` is W_EX.

    The layer obeys Dale's law by itself: its inputs come from units that excite (W_EX, W_IX >= 0), and its own
    inhibitory units inhibit (W_EI >= 0 with a minus). `project`, which `after_step` and `attach` call, puts what an
    optimiser brought below 0 back to 0.
    """

    groups: int = 1  # a convolution's own takes its place
    bias: Any  # a tensor or None, which torch's classes declare in different ways

    def add_inhibition(
        self, inhibitory: int | float, divisive: bool, corrections: bool, initialisation: DANNInitialisation
    ) -> None:
        """In a constructor, before `set_up`: the inhibitory units and their parameters."""
        if initialisation not in ("cornford", "cornford_first", "li"):
            raise ValueError(f"initialisation must be 'cornford', 'cornford_first' or 'li', got {initialisation!r}")
        outputs = self.weight.shape[0]
        self.inhibitory = inhibitory_units(inhibitory, outputs, self.groups)
        self.divisive, self.corrections, self.initialisation = divisive, corrections, initialisation
        empty = self.weight.new_empty
        self.weight_ix = nn.Parameter(empty(self.inhibitory, *self.weight.shape[1:]))
        self.weight_ei = nn.Parameter(empty(outputs, self.inhibitory // self.groups))
        self.alpha = nn.Parameter(empty(self.inhibitory)) if divisive else None
        self.gain = nn.Parameter(empty(outputs)) if divisive else None
        self._input_checked = False
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew, from torch's global generator; `initialisation` says how."""
        if "weight_ix" not in self._parameters:
            return  # the constructors of torch's layers ask for it before there are inhibitory units
        d, (per_group, n_i) = self.fan_in, self._units_per_group()
        scale = math.sqrt((2 * math.pi - 1) / d)  # e^alpha
        sigma = math.sqrt(2 * math.pi / (d * (2 * math.pi - 1)))
        if self.initialisation == "cornford_first":
            sigma = math.sqrt(1 / (2 * d))
        elif self.initialisation == "li":
            sigma = math.sqrt(2 * (per_group / (per_group - 1) if per_group > 1 else 1) / d)
            scale = math.sqrt(2 * math.pi) / (sigma * d)
        self.weight.exponential_(1 / sigma)
        self.weight_ix.exponential_(1 / sigma)
        if n_i == 1 or self.initialisation == "li":
            mean = self.weight.unflatten(0, (self.groups, -1)).mean(1)  # the mean excitatory unit of each group
            self.weight_ix.copy_(mean.repeat_interleave(n_i, 0))
        self.weight_ei.fill_(1 / n_i)
        if self.initialisation == "li":
            self.weight_ei.exponential_()
            self.weight_ei.div_(self.weight_ei.sum(1, keepdim=True))
        if self.bias is not None:
            self.bias.zero_()
        if self.alpha is not None and self.gain is not None:
            self.alpha.fill_(math.log(scale))
            self.gain.fill_(1)

    def _units_per_group(self) -> tuple[int, int]:
        """Excitatory and inhibitory units that share their inputs: all, but for a convolution with groups."""
        return self.weight.shape[0] // self.groups, self.inhibitory // self.groups

    def inhibitory_weights(self) -> tuple[Tensor, Tensor]:
        """W_IX and W_EI as the forward pass uses them: what returns to them is corrected."""
        n_e, d = self._units_per_group()[0], self.fan_in
        return self._corrected(self.weight_ix, math.sqrt(n_e)), self._corrected(self.weight_ei, d)

    def _corrected(self, parameter: Tensor, divisor: float) -> Tensor:
        """The parameter, whose gradient is divided."""
        if not (self.corrections and torch.is_grad_enabled()):
            return parameter
        return _DivideGradient.apply(parameter, divisor)

    def effective_weight(self) -> Tensor:
        """W_EX - W_EI W_IX, in W_EX's shape: what z is linear in, up to the gain. B stands for this matrix."""
        w_ix, w_ei = self.inhibitory_weights()
        with torch.autocast(self.weight.device.type, enabled=False):  # a difference: rounded factors would show in it
            inhibition = w_ei.unflatten(0, (self.groups, -1)) @ w_ix.flatten(1).unflatten(0, (self.groups, -1))
            return self.weight - inhibition.reshape(self.weight.shape)

    def normalise(self, current: Tensor, inhibitory: Tensor) -> Tensor:
        """z = g / gamma current + b.

        Args:
            current: W_EX x - W_EI W_IX x, units in the last dimension, or (N, n_e, H, W) in a convolution.
            inhibitory: W_IX x, likewise.
        """
        assert self.alpha is not None and self.gain is not None
        tail = (1,) * (self.weight.ndim - 2)  # of a unit's number, to broadcast over positions
        scale = self._corrected(self.alpha, math.sqrt(self._units_per_group()[0]) * self.fan_in).exp()
        inhibition = self.inhibit(inhibitory * scale.view(-1, *tail))
        gamma = torch.where(inhibition > 0, inhibition + EPSILON, 1.0)
        z = current * (self.gain.view(-1, *tail) / gamma)
        return (z if self.bias is None else z + self.bias.view(-1, *tail)).to(current.dtype)

    def inhibit(self, inhibitory: Tensor) -> Tensor:
        """W_EI y for activities y of the inhibitory units."""
        raise NotImplementedError

    # Dale's law.

    def constrained_parameters(self) -> tuple[Tensor, ...]:
        gain = () if self.gain is None else (self.gain,)
        return (self.weight, self.weight_ix, self.weight_ei, *gain)

    @property
    def needs_projection(self) -> bool:
        return True

    @property
    def law(self) -> str:
        return "Dale's law (W_EX, W_IX, W_EI and g must be 0 or above)"

    @torch.no_grad()
    def project(self) -> None:
        """Put negative entries of W_EX, W_IX, W_EI and g to 0, in place."""
        for parameter in self.constrained_parameters():
            parameter.clamp_(min=0)
        super().project()

    @torch.no_grad()
    def violations(self) -> int:
        """How many entries of W_EX, W_IX, W_EI and g are negative."""
        return sum(int((parameter < 0).sum()) for parameter in self.constrained_parameters())

    def _release(self) -> None:
        """There is no plain weight to go back to: `weight` is W_EX under any pathway."""

    @property
    def reparametrised(self) -> bool:
        return False  # dL/dW_EX is dL/dW

    def check_choices(self, pathway: Pathway, constraint: Constraint, name: str) -> None:
        if not isinstance(constraint, Unconstrained):
            raise ValueError(
                f"{name}: {constraint} for a {type(self).__name__}, which obeys Dale's law by itself: its inputs "
                "excite, and its own inhibitory units inhibit. Write constraint=None"
            )
        if pathway.tied:
            raise ValueError(
                f"{name}: {pathway} for a {type(self).__name__}: B gets the increments of one parameter W, but here W "
                "is W_EX - W_EI W_IX, made from three, whose increments add up to no gradient that B could share. Take "
                "a pathway such as SignSymmetry(), FeedbackAlignment() or WeightMirror()"
            )

    def check_input(self, x: Tensor) -> None:
        """Refuse negative inputs, by the first input of the layer's life: to look at each would cost a synchronisation
        on a GPU."""
        if self._input_checked or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        if x.numel() and bool(x.detach().amin() < 0):
            raise ValueError(
                f"{type(self).__name__} takes activities, 0 or above, and got one of {float(x.min()):.4g}: negative "
                "ones would make its inhibitory units excite, and divide by less than nothing. Leave images between 0 "
                "and 1 (normalise: false), or give x.relu() and (-x).relu() as inputs of their own"
            )
        self._input_checked = True

    def extra_repr(self) -> str:
        kind = "" if self.divisive else ", divisive=False"
        return f"{super().extra_repr()}, inhibitory={self.inhibitory}{kind}"


class DANNLinear(DANNSynapse, Linear):
    """A dense layer of excitatory units with feedforward inhibition that subtracts and divides, under Dale's law.

        z = (g / gamma) * (W_EX x - W_EI W_IX x) + b,    gamma = W_EI (e^alpha * W_IX x) + 1e-8

    with W_EX, W_IX, W_EI, g >= 0. x are activities of excitatory units (or pixels), 0 or above; n_i inhibitory units of
    the layer's own hear them through W_IX and act on its n_e outputs through W_EI. Outputs excite whoever hears them.
    Where an output gets no inhibition at all, as from a silent input, gamma is 1, its mean at the start. That is ours:
    a silent input makes z = b in either case, but the gain, and with it the error delivered, would be 1e8 g.

    What the error sees. The effective weight is W = W_EX - W_EI W_IX, `effective_weight()`. Under `Backprop` the error
    delivered to x is exact, the path through gamma included. All other pathways deliver (g / gamma) delta B, with a B
    for W (`SignSymmetry` takes the signs of W): the path through gamma would transport W_IX and W_EI, so it is cut, and
    the gain counts as constant for the delivered error. The layer's own parameters get their gradients in either case,
    those of gamma too. `WeightMirror` hears the current W x + b, undivided.

    Args:
        in_features, out_features, bias: as in `Linear`; b starts at 0.
        inhibitory: the number of inhibitory units n_i, or, as a float, their share of n_e, at least one unit.
        divisive: False leaves out g and gamma: z = W_EX x - W_EI W_IX x + b.
        corrections: divide the gradients of W_IX by sqrt(n_e), of W_EI by d and of alpha by sqrt(n_e) d, for d inputs:
            a step in them moves all outputs as a step in W_EX would move one. In the graph, so before any clipping.
            Adam, which divides by the gradient's size, undoes them.
        initialisation: "cornford": W_EX and W_IX ~ Exp with mean sigma, sigma^2 = 2 pi / (d (2 pi - 1)), and
            W_EI = 1 / n_i; for n_i = 1 W_IX is the mean row of W_EX. e^alpha = sqrt((2 pi - 1) / d), so that
            E[gamma] = 1 for half-rectified N(0, 1) inputs; g = 1. "cornford_first", theirs for the layer that reads
            pixels: sigma^2 = 1 / (2 d). A layer cannot know that it is the first; say so, as `MLP` does. "li": W_IX
            copies of the mean row, rows of W_EI random with sum 1, so that the outputs' mean is subtracted exactly,
            sigma^2 = 2 n_e / (d (n_e - 1)); e^alpha by E[gamma] = 1, which is ours.
        pathway: this layer's own; None for its network's.
    Shapes:
        x (..., d) -> z (..., n_e). weight (W_EX) and B (n_e, d), weight_ix (n_i, d), weight_ei (n_e, n_i),
        alpha (n_i,), gain (g) and bias (n_e,).
    Errors:
        ValueError: a constraint other than none, a pathway that ties B to W (`KolenPollack`), no inhibitory unit, or a
            negative value in the first input that the layer sees.
    Source: Cornford et al. 2021, by their code (ltlwdp: equation, initialisation, corrections); "li" by that of Li et
        al. 2023 (EiDenseWeightInit_WexMean).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        inhibitory: int | float = 0.1,
        bias: bool = True,
        divisive: bool = True,
        corrections: bool = True,
        initialisation: DANNInitialisation = "cornford",
        pathway: Pathway | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias)
        self.add_inhibition(inhibitory, divisive, corrections, initialisation)
        self.set_up(pathway, None)

    def forward(self, x: Tensor) -> Tensor:
        self.check_source(x)
        self.check_input(x)
        if self.training:
            self.check_projected()
        carried = self.pathway.carry(x, self)
        weight, feedback = self.effective_weight(), self.feedback(carried)
        if self.divisive:
            heard = carried if feedback is None else carried.detach()  # B carries no error of the gain
            current = self.product(carried, weight, None, feedback)
            z = self.normalise(current, F.linear(heard, self.inhibitory_weights()[0]))
        else:
            z = self.product(carried, weight, self.bias, feedback)
        return self.add_local_loss(z, x)

    def inhibit(self, inhibitory: Tensor) -> Tensor:
        return F.linear(inhibitory, self.inhibitory_weights()[1])


class DANNConv2d(DANNSynapse, Conv2d):
    """A convolution of excitatory channels with feedforward inhibition of their own: `DANNLinear` at every position.

    W_EX and W_IX are convolutions of one geometry, W_EI mixes the maps of the n_i inhibitory channels position by
    position. All that `DANNLinear` says holds with d = C_in / groups kh kw. With groups each has its own inhibitory
    channels, so n_i is a multiple of groups, and n_e and n_i in its formulas are those of one group. Corrections count
    no positions: every parameter is shared over all of them alike.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in `Conv2d`.
        inhibitory, divisive, corrections, initialisation, pathway: as in `DANNLinear`.
    Shapes:
        x (..., C_in, H, W) -> (..., C_out, H', W'). weight (W_EX) and B (C_out, C_in / groups, kh, kw), weight_ix
        (n_i, C_in / groups, kh, kw), weight_ei (C_out, n_i / groups), alpha (n_i,), gain (g) and bias (C_out,).
    Errors:
        ValueError: as `DANNLinear`.
    Source: as `DANNLinear`; their convolutional code (conv/ei_layers.py), which has no groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | Literal["same", "valid"] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        inhibitory: int | float = 0.1,
        bias: bool = True,
        divisive: bool = True,
        corrections: bool = True,
        initialisation: DANNInitialisation = "cornford",
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        pathway: Pathway | None = None,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        self.add_inhibition(inhibitory, divisive, corrections, initialisation)
        self.set_up(pathway, None)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        images, weight, feedback = self.operands(x)
        if self.divisive:
            heard, geometry = self.pad(images if feedback is None else images.detach())
            current = self.product(images, weight, None, feedback)
            z = self.normalise(current, F.conv2d(heard, self.inhibitory_weights()[0], None, *geometry))
        else:
            z = self.product(images, weight, self.bias, feedback)
        return self.add_local_loss(z.reshape(*x.shape[:-3], *z.shape[1:]), x)

    def inhibit(self, inhibitory: Tensor) -> Tensor:
        return F.conv2d(inhibitory, self.inhibitory_weights()[1][:, :, None, None], groups=self.groups)


class _DivideGradient(torch.autograd.Function):
    """y = x; dL/dx = dL/dy / divisor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, divisor: float) -> Tensor:
        ctx.divisor = divisor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.divisor, None


def inhibitory_units(inhibitory: int | float, outputs: int, groups: int = 1) -> int:
    """The number of inhibitory units that a count (int) or a share of the outputs (float) means.

    Raises:
        TypeError: neither of the two. ValueError: less than one unit, more than a share of 1, or not as many in each
            group.
    """
    if isinstance(inhibitory, bool) or not isinstance(inhibitory, int | float):
        raise TypeError(f"inhibitory is a number of units such as 50, or a share such as 0.1; got {inhibitory!r}")
    if isinstance(inhibitory, float):
        if not 0 < inhibitory <= 1:
            raise ValueError(
                f"inhibitory={inhibitory} as a float is a share of the outputs, above 0 and up to 1. For a number of "
                "units write an integer"
            )
        return groups * max(1, round(inhibitory * outputs / groups))
    if inhibitory < 1 or inhibitory % groups:
        raise ValueError(
            f"inhibitory={inhibitory}: there must be one unit at least"
            + (f", and as many in each of {groups} groups: a multiple of {groups}" if groups > 1 else "")
        )
    return inhibitory

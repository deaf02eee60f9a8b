"""Batch normalisation over time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.constraints import Constraint, Population
from spikecredit.synapses.synapse import Constrained, Wiring


class _BatchNorm(Constrained):
    """y = gamma (x - mean) / sqrt(var + eps) + bias, with one mean and variance for all time steps and samples.

    In training the statistics are those of the chunk of time at hand (all T in a whole-sequence pass); in evaluation
    they are running averages. Under Dale's law gamma >= 0; frozen signs hold for gamma too.

    Args:
        num_features: C. eps, momentum: as in `torch.nn.BatchNorm2d`.
        constraint: this layer's own; None for its network's.
    """

    memoryless = True
    feature_dims: int
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, constraint: Constraint | None = None
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.set_up_constraint(constraint)
        if constraint is not None:
            self._constrain(constraint)

    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population | None:
        """Take the network's constraint; the units before and after the layer are the same."""
        self._constrain(self.given_constraint or wiring.constraint)
        return source

    def _constrain(self, constraint: Constraint) -> None:
        self._release()
        # The scale's sign is not a unit's type: excitatory and inhibitory channels alike need gamma >= 0.
        self.constraint = constraint
        signs = constraint.signs(Population("scale", self.num_features), 0)
        self.presynaptic_sign = None if signs is None else torch.ones_like(signs, device=self.weight.device)
        self._hold_signs(anew=True)
        constraint.initialise(self, torch.Generator())  # a scale has no fan-in: nothing is drawn for it
        self._projected_version = self.weight._version

    def forward(self, x: Tensor, repeats: int = 1) -> Tensor:
        """Normalise x.

        Args:
            x: (..., C) or (..., C, H, W).
            repeats: how many time steps each given one stands for (a constant input is normalised once): the unbiased
                running variance then counts repeats times as many values.
        """
        if x.shape[x.ndim - self.feature_dims] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}({self.num_features}) takes (..., {self.num_features}"
                f"{', H, W' if self.feature_dims == 3 else ''}), got {tuple(x.shape)}"
            )
        if self.training:
            self.check_projected()
        flat = x.flatten(0, -self.feature_dims - 1)
        mean, var = self.running_mean, self.running_var
        if self.training:  # autograd keeps what it is given: the buffers change below, their copies do not
            mean, var = mean.clone(), var.clone()
        weight = self.effective_weight()
        y = F.batch_norm(flat, mean, var, weight, self.bias, self.training, self.momentum, self.eps)
        if self.training:
            n = flat.numel() // self.num_features
            unbiased = (repeats * n / (repeats * n - 1)) * ((n - 1) / n) if repeats > 1 else 1.0
            kept = (1 - self.momentum) * self.running_var
            with torch.no_grad():
                self.running_mean.copy_(mean)
                self.running_var.copy_((var - kept) * unbiased + kept if repeats > 1 else var)
        return y.unflatten(0, x.shape[: -self.feature_dims])

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (..., C), with one mean and variance for all time steps and samples.

    Arguments num_features (C), eps, momentum and constraint, as in `BatchNorm2d`.
    """

    feature_dims = 1


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (..., C, H, W): y = gamma (x - mean) / sqrt(var + eps) + bias, over time, batch and map.

    Args:
        num_features: C. eps, momentum: as in `torch.nn.BatchNorm2d`.
        constraint: this layer's own; None for its network's. Under Dale's law gamma >= 0.
    """

    feature_dims = 3

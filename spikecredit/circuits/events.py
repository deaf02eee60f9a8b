"""Spikes to synaptic events: sums in Brian2's own order, hence the same bits, and gradients of all synapses."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """The synapses of one pathway with one delay, sorted as their events come: by source, then by synapse.

    Args:
        delay: in steps. source, target: neurons of each synapse. synapse: its number among all of the pathway.
        first: (sources + 1,), where the synapses of each source begin.
        sources, targets: sizes of the two groups.
    """

    delay: int
    source: Tensor
    target: Tensor
    synapse: Tensor
    first: Tensor
    sources: int
    targets: int

    def events(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """Of spikes (B, sources): position in a flattened (B, targets), and synapse, of each event, in order."""
        sample, source = spikes.nonzero(as_tuple=True)
        counts = self.first[source + 1] - self.first[source]
        which = torch.repeat_interleave(torch.arange(len(source)), counts)
        within = torch.arange(len(which)) - (counts.cumsum(0) - counts)[which]
        index = self.first[source][which] + within
        return sample[which] * self.targets + self.target[index], self.synapse[index]

    def matrix(self, weights: Tensor) -> Tensor:
        """W (sources, targets) of weights (S,): synapses with the same ends are summed."""
        flat = weights.new_zeros(self.sources * self.targets)
        flat.index_add_(0, self.source * self.targets + self.target, weights[self.synapse])
        return flat.view(self.sources, self.targets)


def make_block(delay: int, synapse: Tensor, source: Tensor, target: Tensor, sources: int, targets: int) -> Block:
    """A `Block` of the synapses with these numbers (ascending) and ends, sorted."""
    order = torch.sort(source, stable=True).indices
    source, target, synapse = source[order], target[order], synapse[order]
    first = torch.searchsorted(source, torch.arange(sources + 1))
    return Block(delay, source, target, synapse, first, sources, targets)


class _Deliver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, spikes: Tensor, weights: Tensor, block: Block, matrix: Tensor | None) -> Tensor:
        ctx.matrix, ctx.count = matrix, weights.numel()
        out = x.clone(memory_format=torch.contiguous_format)
        position, synapse = block.events(spikes)
        ctx.save_for_backward(position, synapse)
        # One addition after the other, as numpy's add.at does: not one sum that is added at the end.
        out.view(-1).index_add_(0, position, weights[synapse])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        position, synapse = ctx.saved_tensors
        to_spikes = to_weights = None
        if ctx.needs_input_grad[1]:
            to_spikes = grad @ ctx.matrix.T
        if ctx.needs_input_grad[2]:
            to_weights = grad.new_zeros(ctx.count).index_add_(0, synapse, grad.reshape(-1)[position])
        return grad, to_spikes, to_weights, None, None


def deliver(x: Tensor, spikes: Tensor, weights: Tensor, block: Block, matrix: Tensor | None) -> Tensor:
    """x[b, target] + weights[synapse] for every event, one addition after the other.

    Args:
        x: (B, targets). spikes: (B, sources), 0 or 1. weights: (S,).
        matrix: `block.matrix(weights)` without gradient; None: the spikes need no gradient.
    Returns: (B, targets). Its gradient goes to x, to the weights, and through these to all sources, silent or not.
    """
    if matrix is None and not spikes.any():
        return x
    result: Tensor = _Deliver.apply(x, spikes, weights, block, matrix)
    return result

"""Sparse linear maps between populations, as torch's sparse matrices (targets, sources)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def windows(index: Tensor, kernel: Any, stride: Any, dilation: Any) -> Tensor:
    """The entries of an index map (1, 1, H, W) in each window, (kernel, positions)."""
    return F.unfold(index, kernel, dilation, 0, stride)[0].long()


def pair(value: Any) -> tuple[int, int]:
    """One number for both directions, or a pair as it is."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def local(positions: Tensor, n: int) -> Tensor:
    """From a place in a layer to the number of the neuron there within its population, -1 for others'."""
    table = torch.full((n,), -1)
    table[positions] = torch.arange(len(positions))
    return table


def sparse(post: Tensor, pre: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix with these entries; those at one place are added."""
    return torch.sparse_coo_tensor(torch.stack([post, pre]), values, shape, check_invariants=False).coalesce()


def from_dense(weight: Tensor) -> Tensor:
    """A dense matrix as a sparse one."""
    return weight.detach().to_sparse_coo().coalesce()


def identity(n: int) -> Tensor:
    """The identity of n values."""
    every = torch.arange(n)
    return sparse(every, every, torch.ones(n, dtype=torch.float64), (n, n))


def product(left: Tensor, right: Tensor) -> Tensor:
    """left right, both sparse and coalesced: every entry of `left` with the row of `right` that it meets."""
    (post, middle), (rows, pre) = left.indices(), right.indices()
    count = torch.bincount(rows, minlength=right.shape[0])
    begin, met = torch.cumsum(count, 0) - count, count[middle]
    within = torch.arange(int(met.sum())) - torch.repeat_interleave(torch.cumsum(met, 0) - met, met)
    entry = torch.repeat_interleave(begin[middle], met) + within
    values = torch.repeat_interleave(left.values(), met) * right.values()[entry]
    return sparse(torch.repeat_interleave(post, met), pre[entry], values, (left.shape[0], right.shape[1]))

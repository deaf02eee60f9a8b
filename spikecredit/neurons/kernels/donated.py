"""Memory that a backward pass may write over: a gradient that nobody else holds, and what a node keeps for itself.

The gradient of a neuron's spikes is dead once the gradient of its currents is made of it, and as large. To write the
one over the other spares an array of (T, B, N), and the fresh pages that cost more time than the arithmetic. But the
gradient may be held by a hook, by the caller of `backward` or by another branch of the graph, and then it must stay.
Who holds it is counted at three levels: references to the Python object, to torch's tensor, to its storage. How many
of these are the engine's own is not written here but counted, once, on a gradient that nobody else can hold. Where a
holder does not show in the counts, nothing is ever written over.
"""

import sys
from functools import cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor

Counts = tuple[int, int, int]


def count(grads: tuple[Any, ...]) -> Counts | None:
    """References to grads[0]: to the Python object, to the tensor, to its storage. None where they mean nothing:
    outside the CPU, in transforms, for subclasses and for memory that is not torch's own (NumPy's, say).

    To be called in a `backward(ctx, *grads)` that has put the gradient into no variable yet, as that would count.
    """
    if type(grads[0]) is not Tensor or grads[0].device.type != "cpu" or is_batched(grads[0]):
        return None
    storage = grads[0].untyped_storage()
    if not storage.resizable() or storage.is_shared():
        return None
    tensor = grads[0]._use_count()  # type: ignore[attr-defined]
    return sys.getrefcount(grads[0]), tensor, torch._C._storage_Use_Count(storage._cdata)


def is_free(counts: Counts | None) -> bool:
    """Whether a gradient with these counts is its node's alone."""
    least = _least()
    return counts is not None and least is not None and all(map(int.__le__, counts, least))


def is_batched(grad: Tensor) -> bool:
    """Whether a gradient stands for several, of `torch.func.vmap` or `is_grads_batched`, which only torch can take."""
    return torch._C._functorch.is_legacy_batchedtensor(grad) or torch._C._are_functorch_transforms_active()


def is_last_pass() -> bool:
    """In a backward pass: whether no other may follow it on this graph (retain_graph is False)."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def is_private() -> bool:
    """In a forward pass: whether what is saved for the backward pass is handed to no hook (of
    `torch.autograd.graph.saved_tensors_hooks`, which torch.utils.checkpoint uses too)."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is None


class _Probe(torch.autograd.Function):
    """Counts as a neuron's node does."""

    counts: Counts | None = None

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        _Probe.counts = count(grads)
        return torch.zeros(3)


@cache
def _least() -> Counts | None:
    """The references of a gradient that nobody else holds; None if a hook, the caller or a view of it adds none."""
    found: list[Counts | None] = []
    held: list[Tensor] = []

    def probe() -> None:
        x, mine = torch.zeros(3, requires_grad=True), torch.ones(3)
        (_Probe.apply(x) * 2).sum().backward()
        found.append(_Probe.counts)
        y = _Probe.apply(x)
        y.register_hook(held.append)
        (y * 2).sum().backward()
        found.append(_Probe.counts)
        _Probe.apply(x).backward(mine)
        found.append(_Probe.counts)
        _Probe.apply(x).view(1, 3).backward(mine.view(1, 3))
        found.append(_Probe.counts)

    thread = Thread(target=probe)  # where no mode, hook or default of this thread holds
    thread.start()
    thread.join()
    free, *others = found
    if free is None or any(o is None or o[level] <= free[level] for level, o in enumerate(others)):
        return None
    return free

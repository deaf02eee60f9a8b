"""Memory that a backward pass may write over: a gradient that nobody else holds, and what a node keeps for itself.

The gradient of a neuron's spikes is dead once the gradient of its currents is made of it, and as large. To write the
one over the other spares an array of (T, B, N), and the fresh pages that cost more time than the arithmetic. But the
gradient may be held by a hook, by the caller of `backward` or by another branch of the graph, and then it must stay.
Who holds it is counted: references to the Python object, to torch's tensor, to its storage, and to what it is a view
of. How many of these are the engine's own is not written here but counted, once, on a gradient that nobody else can
hold. Where a holder does not show in the counts, nothing is ever written over.
"""

import sys
from collections.abc import Callable
from functools import cache
from threading import Thread
from typing import Any

import torch
from torch import Tensor

Counts = tuple[int, int, int, int, int]

KNOWN = all(
    hasattr(owner, name)
    for owner, name in (
        (Tensor, "_use_count"),
        (torch._C, "_storage_Use_Count"),
        (torch._C._autograd, "_get_current_graph_task_keep_graph"),
        (torch._C._autograd, "_top_saved_tensors_default_hooks"),
    )
)
"""Whether this torch tells what is asked here, as 2.13 does; none of it is public. Else nothing is written over."""


def count(grads: tuple[Any, ...]) -> Counts | None:
    """References to grads[0]: to the Python object, to the tensor, to its storage, and if it is a view, the first two
    of what it is a view of, else 0. None where they mean nothing: outside the CPU, in transforms, for subclasses and
    for memory that is not torch's own (NumPy's, say).

    To be called in a `backward(ctx, *grads)` that has put the gradient into no variable yet, as that would count.
    """
    if not KNOWN or type(grads[0]) is not Tensor or grads[0].device.type != "cpu" or is_batched(grads[0]):
        return None
    storage, base = grads[0].untyped_storage(), grads[0]._base
    if not storage.resizable() or storage.is_shared():
        return None
    return (
        sys.getrefcount(grads[0]),
        grads[0]._use_count(),  # type: ignore[attr-defined]
        torch._C._storage_Use_Count(storage._cdata),
        0 if base is None else sys.getrefcount(base),
        0 if base is None else base._use_count(),  # type: ignore[attr-defined]
    )


def is_free(counts: Counts | None) -> bool:
    """Whether a gradient with these counts is its node's alone."""
    least = None if counts is None else _least()  # which runs a backward pass: not where a CUDA graph is captured
    return counts is not None and least is not None and all(map(int.__le__, counts, least[counts[3] > 0]))


def is_batched(grad: Tensor) -> bool:
    """Whether a gradient stands for several, of `torch.func.vmap` or `is_grads_batched`, which only torch can take."""
    return torch._C._functorch.is_legacy_batchedtensor(grad) or torch._C._are_functorch_transforms_active()


def is_last_pass() -> bool:
    """In a backward pass: whether no other may follow it on this graph (retain_graph is False)."""
    return KNOWN and not torch._C._autograd._get_current_graph_task_keep_graph()


def is_private() -> bool:
    """In a forward pass: whether what is saved for the backward pass is handed to no hook (of
    `torch.autograd.graph.saved_tensors_hooks`, which torch.utils.checkpoint uses too)."""
    return KNOWN and torch._C._autograd._top_saved_tensors_default_hooks(False) is None


class _Probe(torch.autograd.Function):
    """Counts as a neuron's node does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, found: list[Counts | None]) -> Tensor:
        ctx.found = found
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        ctx.found.append(count(grads))
        return torch.zeros(3), None


@cache
def _least() -> tuple[Counts, Counts] | None:
    """The references of a gradient that nobody else holds, and of one that is a view; None if a holder adds none."""
    found: list[Counts | None] = []

    def run(hook: Callable[[Tensor], None] | None = None, view: bool = False, given: Tensor | None = None) -> None:
        y = _Probe.apply(torch.zeros(3, requires_grad=True), found)
        y = y.view(1, 3) if view else y
        if hook is not None:
            y.register_hook(hook)
        if given is None:
            (y * 2).sum().backward()
        else:
            y.backward(given)

    def probe() -> None:
        mine, held = torch.ones(1, 3), list[Tensor]()
        run()
        run(held.append)  # one more reference to the object,
        run(given=torch.ones(3))  # to the tensor,
        run(lambda grad: held.append(grad.view(1, 3)))  # to the storage
        run(view=True)
        run(lambda grad: held.append(grad.view(3)), view=True)  # to the storage,
        run(held.append, view=True)  # to the object that it is a view of,
        run(view=True, given=mine)  # to that tensor

    thread = Thread(target=probe)  # where no mode, hook or default of this thread holds
    thread.start()
    thread.join()
    if len(found) != 8 or None in found:
        return None
    plain, *held, view, other_view, base, base_tensor = (c for c in found if c is not None)
    shown = [c[level] > plain[level] for level, c in enumerate(held)]
    shown += [other_view[2] > view[2], base[3] > view[3] > 0, base_tensor[4] > view[4] > 0]
    return (plain, view) if all(shown) else None

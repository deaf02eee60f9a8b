"""A time loop as an operator of `torch.library` in compiled programs, and as a node of autograd everywhere else.

Both are the same functions. Python's dispatch of an operator with twenty arguments takes 0.3 ms a call (torch 2.13),
longer than a small layer needs for its whole sequence; a plain node takes a tenth of that.
"""

import inspect
import sys
import zlib
from collections.abc import Callable
from functools import wraps
from types import GenericAlias
from typing import Any

import torch

from spikecredit.neurons.kernels import donated, flat


def operator(
    name: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    backward_fake: Callable[..., Any],
    keep: Callable[[Any, tuple[Any, ...], Any], None],
    hand_back: Callable[..., tuple[Any, ...]],
) -> Callable[..., Any]:
    """Register spikecredit::NAME_V and spikecredit::NAME_V_backward, V the version of their code.

    Args:
        forward, backward: the computation, annotated as `torch.library.custom_op` asks for, but that a result may be
            None where there is none. An operator cannot say that: it returns an empty tensor instead.
        fake, backward_fake: the shapes of their results.
        keep: (ctx, inputs, output), stores what the backward pass needs.
        hand_back: (ctx, backward, free, *gradients of the outputs) -> gradients of the inputs, by way of `backward`;
            free: whether nobody else holds the first gradient, so that it may be written over.
    Returns:
        `forward` as a differentiable function.
    """
    name = f"{name}_{version(forward)}"
    forward_op = torch.library.custom_op(f"spikecredit::{name}", _filled(forward), mutates_args=())
    backward_op = torch.library.custom_op(f"spikecredit::{name}_backward", _filled(backward), mutates_args=())
    forward_op.register_fake(_filled(fake))
    backward_op.register_fake(_filled(backward_fake))
    forward_op.register_autograd(lambda ctx, *grads: hand_back(ctx, backward_op, False, *grads), setup_context=keep)
    backward_op.register_autograd(_refuse, setup_context=_keep_nothing)

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = forward(*inputs)
            keep(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            if torch.is_grad_enabled():  # create_graph=True: by way of the operator, whose own backward pass refuses
                return hand_back(ctx, backward_op, False, *grads)
            return hand_back(ctx, backward, donated.is_free(donated.count(grads)), *grads)

    def call(*inputs: Any) -> Any:
        return forward_op(*inputs) if torch.compiler.is_compiling() else Node.apply(*inputs)

    return call


def version(function: Callable[..., Any]) -> str:
    """A checksum of the code that decides what an operator returns: its own module, this one and `flat.py`.

    A compiler keeps its programs on disk, and knows an operator by its name only: after an update of this package it
    would go on with the shapes that the results had before.
    """
    modules = sys.modules[function.__module__], flat, sys.modules[__name__]
    return f"{zlib.crc32(b''.join(map(text_of, modules))):08x}"


def text_of(module: Any) -> bytes:
    """A module's file, wherever Python imported it from."""
    data: bytes = module.__loader__.get_data(module.__file__)
    return data


def _filled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with an empty tensor for every None among its results, and annotated so."""

    @wraps(function)
    def filled(*inputs: Any, **options: Any) -> Any:
        results = function(*inputs, **options)
        if not isinstance(results, tuple):
            return results
        like = next(v for v in results if v is not None)
        return tuple(like.new_empty(0) if v is None else v for v in results)

    signature = inspect.signature(function)
    if isinstance(kinds := getattr(signature.return_annotation, "__args__", None), tuple):
        plain = GenericAlias(tuple, (torch.Tensor,) * len(kinds))
        # what torch reads; mypy knows of no such attribute
        filled.__signature__ = signature.replace(return_annotation=plain)  # type: ignore[attr-defined]
    return filled


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """A backward operator keeps nothing: its own backward pass only refuses."""


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "second derivatives through a neuron's kernel are not implemented: build the neuron with backend='reference'"
    )

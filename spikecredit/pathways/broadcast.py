"""One node of autograd from the network's output to every hidden population: the delivery of direct feedback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import UninitializedParameter

from spikecredit.pathways.direct import DirectPathway, Signal, When
from spikecredit.seeds import generator

SHARED = "shared"


def _order(x: Tensor) -> list[int]:
    """The axes of one sample of x (T, B, *N), slowest first in memory, counted from 1: those of a matrix (out, *N)."""
    return sorted(range(1, x.ndim - 1), key=lambda axis: -x.stride(axis + 1))


def _rows(x: Tensor, order: list[int]) -> Tensor:
    """x (K, *N) -> (K, n), with the axes of N in this order; a view where x lies so in memory."""
    return x.permute(0, *order).flatten(1)


def _unrows(rows: Tensor, shape: torch.Size, order: list[int]) -> Tensor:
    """The inverse of `_rows`."""
    there = rows.unflatten(1, [shape[axis - 1] for axis in order])
    return there.permute(0, *(order.index(axis) + 1 for axis in range(1, len(order) + 1)))


class _Broadcast(torch.autograd.Function):
    """The identity on the output; backwards it returns e to the output and q B_l to every hidden population.

    q (T, B, n_out) is made from e; where it is the same at every step it has one. A population of one step stands for T
    equal ones (a constant input), and receives the sum.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, goal: Tensor | None, signal: Signal, when: When, count: int, *others: Tensor
    ) -> Tensor:
        taps, weights = others[:count], others[count:]
        ctx.signal, ctx.when, ctx.count = signal, when, count
        ctx.features = [(tap.shape, _order(tap), tap.dtype) for tap in taps]
        ctx.goal = goal is not None
        ctx.learned = any(ctx.needs_input_grad[5 + count :])
        ctx.save_for_backward(*weights, *((goal,) if goal is not None else ()), *(taps if ctx.learned else ()))
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count, saved = ctx.count, ctx.saved_tensors
        weights, taps = saved[:count], saved[count + ctx.goal :]
        steps, batch = grad.shape[:2]
        e = grad.flatten(2)
        if ctx.signal == "target":
            q = saved[count][None]
        else:
            q = e.mean(0, keepdim=True) if ctx.when == "sequence" else e
            if ctx.signal == "sign":
                q = q.sign() / (steps * batch)
        summed = None
        g_taps: list[Tensor | None] = [None] * count
        g_weights: list[Tensor | None] = [None] * count
        for index, (weight, (shape, order, dtype)) in enumerate(zip(weights, ctx.features, strict=True)):
            if ctx.needs_input_grad[5 + index]:
                sent = q
                if shape[0] < steps:
                    if summed is None:
                        summed = q * steps if q.shape[0] < steps else q.sum(0, keepdim=True)
                    sent = summed
                delivered = _unrows(sent.flatten(0, 1) @ _rows(weight, order), shape[2:], order).to(dtype)
                g_taps[index] = delivered.unflatten(0, (-1, batch)).expand(shape)
            if ctx.needs_input_grad[5 + count + index]:
                heard = e.sum(0, keepdim=True) if shape[0] < steps else e
                h = _rows(taps[index].flatten(0, 1), order).to(e.dtype)
                g_weights[index] = _unrows(heard.flatten(0, 1).t() @ h, shape[2:], order)
        return grad, None, None, None, None, *g_taps, *g_weights


class Broadcast(nn.Module):
    """The direct feedback weights of a network, and the way of its output's error to the hidden populations.

    B_l is (n_out, *N), drawn from the stream of its population when the first input shows N, the same whenever that
    is and on whatever device. A buffer; a parameter if it learns, which exists, uninitialised, from the start, so
    that an optimiser may be made before the first input. The seed is in the state dict too, and so reaches every
    process of DistributedDataParallel.

    Args:
        pathway: the network's.
        streams: for each hidden population the name of its random stream. The population's key in the state dict is
            its module's name with "/" for ".".
        seed: the network's.
    """

    seed: Tensor
    like: Tensor

    def __init__(self, pathway: DirectPathway, streams: Mapping[str, str], seed: int) -> None:
        super().__init__()
        self.pathway = pathway
        self.streams = dict(streams)
        self.missing = {SHARED} if pathway.shares else set(self.streams)
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("like", torch.empty(0), persistent=False)  # what .to() makes of the network's tensors
        for key in [SHARED] if pathway.shares else self.streams:
            if pathway.learned:
                self.register_parameter(key, UninitializedParameter())  # type: ignore[arg-type]  # it becomes one
            else:
                self.register_buffer(key, None)

    @property
    def ready(self) -> bool:
        """Whether the weights are there."""
        return not self.missing

    @torch.no_grad()
    def materialise(self, output: Tensor, taps: Mapping[str, Tensor], signs: Tensor | None = None) -> None:
        """Draw the weights that are missing.

        Args:
            output: of the last synapse, (T, B, *out). taps: the populations' outputs, (T, B, *N).
            signs: of the output's units, one for each row of B: the sign that Dale's law gives the feedback they send.
        """
        self._check(taps)
        out = output[0, 0].numel()
        shapes = {name: (out, *tap.shape[2:]) for name, tap in taps.items()}
        if self.pathway.shares:
            shapes = {SHARED: (out, max(tap[0, 0].numel() for tap in taps.values()))}
        for key, shape in shapes.items():
            if key in self.missing:
                source = generator(int(self.seed), "feedback", self.streams.get(key, f"broadcast.{key}"))
                matrix = self.pathway.draw(shape, source).to(self.like)
                if signs is not None:
                    matrix = matrix.abs() * signs.to(matrix).view(-1, *[1] * (matrix.ndim - 1))
                if key in taps:  # in memory as the population is, so that what it receives is, too
                    order = _order(taps[key])
                    matrix = _unrows(_rows(matrix, order).contiguous(), taps[key].shape[2:], order)
                self._put(key, matrix)

    def _check(self, taps: Mapping[str, Tensor]) -> None:
        if taps.keys() != self.streams.keys():
            raise ValueError(
                f"the populations {sorted(self.streams.keys() - taps.keys())} sent no output on: a block must hand "
                "`taps` to the layers in it"
            )

    def _put(self, key: str, matrix: Tensor) -> None:
        value = getattr(self, key)
        if isinstance(value, UninitializedParameter):  # it stays the same object, which an optimiser may hold
            value.materialize(matrix.shape, matrix.device, matrix.dtype)
            value.data = matrix
        else:
            setattr(self, key, matrix)
        self.missing.remove(key)

    def weight(self, name: str, tap: Tensor, output: Tensor) -> Tensor:
        """B of one population, (n_out, *N)."""
        matrix: Tensor = getattr(self, SHARED if self.pathway.shares else name)
        shape, out = tap.shape[2:], output[0, 0].numel()
        if self.pathway.shares and matrix.shape[0] == out and matrix.shape[1] >= shape.numel():
            matrix = matrix[:, : shape.numel()].unflatten(1, shape)
        if matrix.shape != (out, *shape):
            raise ValueError(
                f"direct feedback from {out} outputs to the population {name} of shape {tuple(shape)}: its weights "
                f"were made for {matrix.shape[0]} and {tuple(matrix.shape[1:])}. Give inputs of one size, or make "
                "the network anew"
            )
        return matrix

    def forward(self, output: Tensor, taps: Mapping[str, Tensor], target: Tensor | None) -> Tensor:
        """The output, (T, B, *out), from which the error reaches the taps (T, B, *N) in the backward pass."""
        self._check(taps)
        signal, when = self.pathway.delivers
        goal = None
        if target is not None:
            goal = _goal(target, output) / -(output.shape[0] * output.shape[1])
        weights = [self.weight(name, tap, output).to(output.dtype) for name, tap in taps.items()]
        return _Broadcast.apply(output, goal, signal, when, len(weights), *taps.values(), *weights)  # type: ignore[no-any-return]

    # ---- weights that are not there yet

    @contextmanager
    def _without_missing(self) -> Iterator[None]:
        """Uninitialised parameters out of sight of what cannot take them."""
        missing = {key: value for key, value in self._parameters.items() if key in self.missing}
        self._parameters.update(dict.fromkeys(missing))
        try:
            yield
        finally:
            self._parameters.update(missing)

    def _apply(self, fn: Any, recurse: bool = True) -> "Broadcast":
        with self._without_missing():
            return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        with self._without_missing():
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        for key in sorted(self.missing):
            if (loaded := state_dict.get(prefix + key)) is not None:
                self._put(key, torch.empty_like(loaded, dtype=self.like.dtype, device=self.like.device))
        with self._without_missing():
            super()._load_from_state_dict(state_dict, prefix, *others)


def _goal(target: Tensor, output: Tensor) -> Tensor:
    """y* (B, n_out) from labels (B,) or vectors (B, n_out)."""
    batch, out = output.shape[1], output[0, 0].numel()
    if target.shape == (batch,) and not target.is_floating_point() and output.ndim == 3:
        return output.new_zeros(batch, out).scatter_(1, target.long()[:, None], 1)
    if target.shape == (batch, out) and target.is_floating_point():
        return target.to(output.dtype)
    raise ValueError(
        f"target is labels ({batch},) or vectors ({batch}, {out}) of floating-point numbers, got "
        f"{tuple(target.shape)} {target.dtype} for an output of shape {tuple(output.shape)}"
    )

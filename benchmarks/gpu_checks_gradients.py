"""When two gradients are equal: 1e-12 in float64, 1e-6 in float32, of a scale that says what was added up.

A gradient of an input or a state is compared to the largest one. A time constant's is a sum over steps and neurons, and
rounding follows the terms and not their sum, which may cancel: it is compared to the sum of the terms' absolute values.

Measured over 4500 neurons on the CPU (T = 1 to 300, 13 000 gradients, float32): kernel and reference differ by at most
4e-7 of the scale in 99.7 of 100. What is left is the reference's own rounding (its sigmoid's s (1 - s) cancels, long
sums are added up in another order). There `in_float64` decides: the reference once more, in float64 on the float32
run's values. Of that the kernel is at most 4e-7 away, and 1.2e-6 for a time constant.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spikecredit.neurons import LeakyReadout
from spikecredit.neurons.decay import Decay

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
FLOOR = {torch.float64: 1.0, torch.float32: 1e-3}
"""The smallest scale: the tails of a surrogate, such as exp(-100), are less exact than all else."""


class Factor:
    """A decay factor for the plain loops. Each product with it has a gradient of its own, a term of the factor's."""

    def __init__(self, factor: Tensor, uses: list[Tensor]) -> None:
        self.factor, self.uses = factor, uses

    def __rmul__(self, u: Tensor) -> Tensor:
        self.uses.append(self.factor.expand_as(u))
        return u * self.uses[-1]


def sum_of_terms(terms: list[Tensor], shape: torch.Size) -> Tensor:
    """Sum of the absolute terms of a factor of this shape."""
    total = torch.stack([term.abs().double() for term in terms]).sum(0)
    return total.sum_to_size(shape)


class _Record(TorchFunctionMode):
    """Keeps the results of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            self.values.append(out.detach().clone())
        return out


class _Instead(torch.autograd.Function):
    """Another value, with the gradient of the given one."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, value: Tensor) -> Tensor:
        return value.to(given.dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Replay(TorchFunctionMode):
    """The same operations once more, each with the recorded result, and Python's numbers rounded to float32."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.values = iter(values)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*(float(np.float32(a)) if type(a) is float else a for a in args), **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            return _Instead.apply(out, next(self.values))
        return out


def in_float64(run: Callable[[], Any], run64: Callable[[], Any]) -> Any:
    """run64(), which does in float64 what run() does in float32, along run()'s path.

    Every intermediate value is that of run(), so that no spike differs and no potential; only what autograd then
    computes is in float64.
    """
    record = _Record()
    with record:
        run()
    with _Replay(record.values):
        return run64()


def check(
    got: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    terms: Mapping[str, Tensor],
    exact: Callable[[], Mapping[str, Tensor]],
) -> None:
    """Raise AssertionError where a gradient differs from the reference's, in this module's sense.

    Args:
        got, wanted: gradients of the kernel and of the reference. terms: the sums of absolute terms of those that are
            time constants'. exact: the gradients `in_float64`, asked for if need be.
    """
    assert got.keys() == wanted.keys()
    others = [v for name, v in wanted.items() if name not in terms]
    largest = max(map(_largest, others), default=0.0)
    best: Mapping[str, Tensor] = {}
    for name, reference in wanted.items():
        ours = got[name]
        assert ours.shape == reference.shape and ours.dtype == reference.dtype, name
        assert torch.equal(_not_finite(ours), _not_finite(reference)), name
        dtype = torch.float64 if reference.dtype == torch.float64 else torch.float32
        allowed = TOLERANCE[dtype] * max(_largest(terms[name]) if name in terms else largest, FLOOR[dtype])
        error = _distance(ours, reference)
        if error > allowed and dtype == torch.float32:
            best = best or exact()
            error = min(error, _distance(ours, best[name]) - 2 * _distance(reference, best[name]))
        assert error <= allowed, f"the gradient of {name} differs by {error:.2e}, {allowed:.2e} is allowed"


def _distance(v: Tensor, other: Tensor) -> float:
    """The largest difference, beyond what one rounding to 16 bits explains."""
    rounding = torch.finfo(v.dtype).eps if v.dtype.itemsize == 2 else 0.0
    return _largest(((v.double() - other).abs() - rounding * other.double().abs()).clamp(min=0))


def _not_finite(v: Tensor) -> Tensor:
    """Which entries are NaN (2), infinite (1 or -1) or a number (0)."""
    return torch.where(v.isfinite(), 0.0, v.double()).nan_to_num(2.0, 1.0, -1.0)


def _largest(v: Tensor) -> float:
    v = v[v.isfinite()]
    return float(v.abs().max()) if v.numel() else 0.0


class Result(NamedTuple):
    """What a neuron gives, and the gradients of its input and its time constants."""

    outputs: list[Tensor]
    state: Any
    gradients: dict[str, Tensor]
    terms: dict[str, Tensor]


def loss_of(neuron: torch.nn.Module, x: Tensor, weights: list[Tensor | None]) -> tuple[list[Tensor], Any, Tensor]:
    """Spikes and potentials (or the readout's potentials), the last state, and a weighted sum of the former.

    weights: of the spikes and of the potentials; None: not in the sum.
    """
    if isinstance(neuron, LeakyReadout):
        u, state = neuron.stream(x)
        outputs = [u]
    else:
        spikes, u, state = neuron.run(x)  # type: ignore[operator]
        outputs = [spikes, u]
    pairs = zip(outputs, weights, strict=False)
    loss = sum((out.to(u.dtype) * w).sum() for out, w in pairs if w is not None)
    return outputs, state, loss  # type: ignore[return-value]


def differentiate(neuron: torch.nn.Module, x: Tensor, weights: list[Tensor | None], terms: bool = False) -> Result:
    """Outputs and gradients; terms: on the reference, also the sums of the absolute terms of the time constants."""
    x, uses, hooks = x.detach().requires_grad_(), {}, []  # type: ignore[var-annotated]
    decays = {f"{k}.log_tau": m for k, m in neuron.named_modules() if isinstance(m, Decay) and m.log_tau is not None}
    for name, decay in decays.items() if terms else ():
        uses[name] = []
        hooks.append(decay.register_forward_hook(lambda _, __, beta, kept=uses[name]: Factor(beta, kept)))
    outputs, state, loss = loss_of(neuron, x, weights)
    for hook in hooks:
        hook.remove()
    wanted = {"x": x, **dict(neuron.named_parameters())}
    every = [*wanted.values(), *(use for kept in uses.values() for use in kept)]
    # one step from rest asks for no decay of the adaptation or the synapse
    gradients = iter(torch.autograd.grad(loss, every, allow_unused=True, materialize_grads=True))
    own = {name: next(gradients) for name in wanted}
    sums = {}
    for name, kept in uses.items():
        log_tau, beta = decays[name].log_tau, decays[name]()
        (slope,) = torch.autograd.grad(beta.sum(), log_tau)
        sums[name] = sum_of_terms([next(gradients) for _ in kept], beta.shape) * slope.abs()
    return Result(outputs, state, own, sums)


def run_both(
    neuron: torch.nn.Module, reference: torch.nn.Module, x: Tensor, weights: list[Tensor | None]
) -> tuple[Result, Result, Callable[[], Mapping[str, Tensor]]]:
    """A neuron on two backends, whose outputs and states must be equal bit for bit; and `check`'s exact gradients."""
    ours, wanted = differentiate(neuron, x, weights), differentiate(reference, x, weights, terms=True)
    for a, b in zip(_parts((ours.outputs, ours.state)), _parts((wanted.outputs, wanted.state)), strict=True):
        assert torch.equal(a, b), f"{int((a != b).sum())} of {a.numel()} outputs differ"

    def exact() -> Mapping[str, Tensor]:
        twin = copy.deepcopy(reference).double()
        y = x.detach().double().requires_grad_()
        _, _, loss = in_float64(lambda: loss_of(reference, x, weights), lambda: loss_of(twin, y, weights))
        leaves = [y, *twin.parameters()]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return dict(zip(wanted.gradients, gradients, strict=True))

    return ours, wanted, exact


def check_neuron(neuron: torch.nn.Module, reference: torch.nn.Module, x: Tensor, weights: list[Tensor | None]) -> None:
    """Outputs and states of two backends are equal, and gradients as `check` has it."""
    ours, wanted, exact = run_both(neuron, reference, x, weights)
    check(ours.gradients, wanted.gradients, wanted.terms, exact)


def _parts(nested: Any) -> list[Tensor]:
    if isinstance(nested, Tensor):
        return [nested]
    return [v for part in nested if part is not None for v in _parts(part)]

"""Neurons that hear each other with one step's delay, as one operator: I[t] = x[t] + V s[t-1], s = neuron(I).

One autograd node for the whole sequence: each step is one matrix product and one call of the backend's kernel, and the
gradient of V is one matrix product over all steps instead of a sum over T small ones. The error returns through B (V
itself under backprop). It waits for nothing on the host, so that a CUDA graph can capture it.
"""

from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.kernels import backends
from spikecredit.neurons.kernels.flat import Decays, Membrane, State
from spikecredit.neurons.kernels.operator import operator
from spikecredit.neurons.kernels.ops import add_reset_gradient, flat_arguments
from spikecredit.neurons.kernels.reference import ALIFParameters, LIFParameters
from spikecredit.neurons.kernels.sequence import operands
from spikecredit.neurons.neuron import state_dtype

Nine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
FIELDS = 4  # u, i, a, r: the float fields of a state


def recurrent_sequence(
    x: Tensor,
    spikes: Tensor,
    state: State,
    decays: Decays,
    p: LIFParameters | ALIFParameters,
    weight: Tensor,
    feedback: Tensor | None,
    steps: int,
    backend: str,
) -> tuple[Tensor, State]:
    """A whole sequence of a recurrent population.

    Args:
        x: currents from outside, (T, B, N), or (1, B, N) that stand for `steps` equal ones.
        spikes: s[-1], (B, N). state, decays, p: as for `spiking_sequence`.
        weight: V (N, N), and feedback B (N, N) in V's layout, None for V itself or empty for no error along V; all
            in x's dtype.
        backend: the answer of `choose`, not "reference".
    Returns:
        spikes (T, B, N), the state after the last step.
    """
    keep, numbers = operands(x, state, decays, p, (spikes, weight))
    out, *last = recurrent(
        x.contiguous(), steps, spikes.to(x.dtype), weight, feedback, *state, *numbers, keep, backend
    )[:6]  # fmt: skip
    return out, State(*(None if before is None else after for before, after in zip(state, last, strict=True)))


def _memory(x: Tensor, steps: int, state: State, rows: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Spikes, the last state's fields, and states before `rows` steps, (rows, fields, B N) and (rows, B N) int32."""
    dtype, n = state_dtype(x), x.shape[1] * x.shape[2]
    last = [x.new_empty(0, dtype=dtype) if v is None else v.new_empty(v.shape) for v in state]
    past = [
        torch.empty((rows, FIELDS, n), dtype=dtype, device=x.device),
        torch.empty((rows, n if state.wait is not None else 0), dtype=torch.int32, device=x.device),
    ]
    return x.new_empty((steps, *x.shape[1:])), last, past


def _at(past: Tensor, waits: Tensor, t: int, like: State) -> State:
    """The state before step t, with the fields of `like`."""
    fields = [None if v is None else past[t, f] for f, v in enumerate(like[:FIELDS])]
    return State(*fields, wait=None if like.wait is None else waits[t])  # type: ignore[misc]


def _recurrent(
    x: Tensor,
    steps: int,
    spikes: Tensor,
    weight: Tensor,
    feedback: Tensor | None,
    u: Tensor,
    i: Tensor | None,
    a: Tensor | None,
    r: Tensor | None,
    wait: Tensor | None,
    beta: Tensor | None,
    alpha: Tensor | None,
    rho: Tensor | None,
    numbers: list[float],
    threshold: float,
    adaptation: float,
    reset: str,
    refractory: int,
    surrogate: str,
    shape: list[float],
    detach_reset: bool,
    keep: bool,
    backend: str,
) -> Nine:
    """Spikes, last u, i, a, r, wait, and for the backward pass the currents I and the states before each step."""
    state = State(u, i, a, r, wait)
    rows = steps if keep else 1
    out, last, (past, waits) = _memory(x, steps, state, rows + 1)
    currents = x.new_empty((rows, *x.shape[1:]))
    if x.numel() == 0:
        return out, *last, currents, past, waits  # type: ignore[return-value]
    _, x_, now, decays = flat_arguments(x, steps, state, (beta, alpha, rho), numbers, threshold)
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    forward, before, flat_out = backends.module(backend).forward, spikes, out.flatten(1)
    for field, first in zip((*past[0], waits[0]), now, strict=True):
        if first is not None:
            field.copy_(first)
    for t in range(steps):
        row, following = (t, t + 1) if keep else (t % 2, (t + 1) % 2)
        current = currents[t if keep else 0]
        torch.addmm(x_[t].view(current.shape), before, weight.t(), out=current)
        forward(
            current.view(1, -1), _at(past, waits, row, now), decays, m, flat_out[t : t + 1], None, None,
            _at(past, waits, following, now),
        )  # fmt: skip
        before = out[t]
    end = _at(past, waits, steps if keep else steps % 2, now)
    for target, source in zip(last, end, strict=True):
        if source is not None and target.numel():
            target.copy_(source.view(target.shape))
    return out, *last, currents, past, waits  # type: ignore[return-value]


def _recurrent_fake(x, steps, spikes, weight, feedback, u, i, a, r, wait, beta, alpha, rho, numbers,  # type: ignore[no-untyped-def]
      threshold, adaptation, reset, refractory, surrogate, shape, detach_reset, keep, backend):  # fmt: skip
    rows = steps if keep else 1
    out, last, (past, waits) = _memory(x, steps, State(u, i, a, r, wait), rows + 1)
    return out, *last, x.new_empty((rows, *x.shape[1:])), past, waits


def _recurrent_backward(
    x: Tensor,
    steps: int,
    spikes: Tensor,
    weight: Tensor,
    feedback: Tensor | None,
    u: Tensor,
    i: Tensor | None,
    a: Tensor | None,
    r: Tensor | None,
    wait: Tensor | None,
    beta: Tensor | None,
    alpha: Tensor | None,
    rho: Tensor | None,
    numbers: list[float],
    threshold: float,
    adaptation: float,
    reset: str,
    refractory: int,
    surrogate: str,
    shape: list[float],
    detach_reset: bool,
    backend: str,
    out: Tensor,
    currents: Tensor,
    past: Tensor,
    waits: Tensor,
    grad: Tensor | None,
    grad_u: Tensor | None,
    grad_i: Tensor | None,
    grad_a: Tensor | None,
    grad_r: Tensor | None,
    learned: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, spikes, weight, u, i, a, r, beta, alpha, rho; empty where there is none."""
    state = State(u, i, a, r, wait)
    results = _gradients(x, spikes, weight, state, (beta, alpha, rho), learned)
    if x.numel() == 0:
        return tuple(v.zero_() for v in results)  # type: ignore[return-value]
    g_x, g_spikes, g_weight, *g_state = results[:7]
    g_decays = results[7:]
    _, _, now, decays = flat_arguments(x, steps, state, (beta, alpha, rho), numbers, threshold)
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    assert now.u is not None
    n, dtype = now.u.numel(), now.u.dtype
    derived = r is None and not detach_reset and reset != "none"
    asked = [True, i is not None, a is not None, derived or now.r is not None]
    after = State(*(None if v is None else v.reshape(-1).to(dtype) for v in (grad_u, grad_i, grad_a, grad_r)))
    spare = [torch.empty((FIELDS, n), dtype=dtype, device=x.device) for _ in range(2)]
    step_factors = Decays(*(torch.empty_like(now.u) if wanted else None for wanted in learned))
    totals = [torch.zeros_like(now.u) if wanted else None for wanted in learned]
    errors, back = x.new_empty((steps, *x.shape[1:])), weight if feedback is None else feedback
    silent = not back.numel()
    backward = backends.module(backend).backward
    heard = torch.empty_like(errors[0])  # the error of s[t] from those who hear it
    for t in range(steps - 1, -1, -1):
        if t == steps - 1 or silent:
            heard = torch.zeros_like(heard) if grad is None else grad[t].to(x.dtype).contiguous()
        elif grad is None:
            torch.mm(errors[t + 1], back, out=heard)
        else:
            heard = torch.addmm(grad[t].to(x.dtype), errors[t + 1], back)
        before = _at(past, waits, t, now)
        rows = spare[t % 2]
        first = State(*(rows[f] if wanted else None for f, wanted in enumerate(asked)))
        backward(
            currents[t].view(1, -1), before, decays, m, None, heard.view(1, -1), None, after,
            errors[t].view(1, -1), first, step_factors,
        )  # fmt: skip
        if derived and (t == 0 or now.r is None):
            add_reset_gradient(first, before, threshold, surrogate, shape)
        for total, part in zip(totals, step_factors, strict=True):
            if total is not None:
                total.add_(part)  # type: ignore[arg-type]
        after = first._replace(r=None) if now.r is None else first  # a plain LIF's has become a gradient of u
    if silent:
        g_spikes.zero_()
    else:
        torch.mm(errors[0], back, out=g_spikes)
    torch.mm(errors[0].t(), spikes, out=g_weight)
    if steps > 1:
        g_weight.addmm_(errors[1:].flatten(0, 1).t(), out[:-1].flatten(0, 1))
    if g_x.shape[0] == steps:
        g_x.copy_(errors)
    else:
        torch.sum(errors, 0, keepdim=True, out=g_x)
    for target, source in zip(g_state, after[:FIELDS], strict=True):
        if target.numel() and source is not None:
            target.copy_(source.view(target.shape))
    for result, total in zip(g_decays, totals, strict=True):
        if total is not None:
            result.copy_(total.view(x.shape[1:]).sum_to_size(result.shape))
    return results


def _gradients(
    x: Tensor, spikes: Tensor, weight: Tensor, state: State, factors: tuple[Tensor | None, ...], learned: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    fields = [x.new_empty(0) if v is None else v.new_empty(v.shape) for v in state[:FIELDS]]
    decays = [
        torch.empty_like(v) if v is not None and wanted else x.new_empty(0)
        for v, wanted in zip(factors, learned, strict=True)
    ]
    return (x.new_empty(x.shape), torch.empty_like(spikes), torch.empty_like(weight), *fields, *decays)  # type: ignore[return-value]


def _recurrent_backward_fake(x, steps, spikes, weight, feedback, u, i, a, r, wait, beta, alpha, rho, numbers,  # type: ignore[no-untyped-def]
      threshold, adaptation, reset, refractory, surrogate, shape, detach_reset, backend,
      out, currents, past, waits, grad, grad_u, grad_i, grad_a, grad_r, learned):  # fmt: skip
    return _gradients(x, spikes, weight, State(u, i, a, r, wait), (beta, alpha, rho), learned)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Nine) -> None:
    x, steps, *tensors = inputs[:13]
    out, *_, currents, past, waits = output
    ctx.save_for_backward(x, *tensors, out, currents, past, waits)
    ctx.steps, ctx.numbers, ctx.backend = steps, inputs[13:-2], inputs[-1]
    ctx.mark_non_differentiable(*output[5:])
    ctx.set_materialize_grads(False)


def _hand_back(ctx: Any, backward: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, *tensors, out, currents, past, waits = ctx.saved_tensors
    needs = ctx.needs_input_grad
    learned = [bool(needed) for needed in needs[10:13]]
    g_x, g_spikes, g_weight, *rest = backward(
        x, ctx.steps, *tensors, *ctx.numbers, ctx.backend, out, currents, past, waits, *grads[:5], learned
    )
    if ctx.numbers[-1]:
        rest[3] = None  # a detached reset hands nothing back
    found = [g_x, None, g_spikes, g_weight, None, *rest[:4], None, *rest[4:]]
    return (*(g if needed else None for g, needed in zip(found, needs[:13], strict=True)), *[None] * 10)


recurrent = operator(
    "recurrent", _recurrent, _recurrent_fake, _recurrent_backward, _recurrent_backward_fake, _keep, _hand_back
)
"""A recurrent population; arguments and results are those of `_recurrent`."""

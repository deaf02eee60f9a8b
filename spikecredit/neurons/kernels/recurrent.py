"""Neurons that hear each other with one step's delay, as one operator: I[t] = x[t] + V s[t-1], s = neuron(I).

One autograd node for the whole sequence: each step is one matrix product and one call of the backend's kernel, and the
gradient of V is one matrix product over all steps instead of a sum over T small ones. The error returns through B (V
itself under backprop). It keeps I and, on the CPU, a byte for each s, and a state every few steps: fresh memory costs
more time than the states in between, computed again. I goes over the currents from outside where those are its own,
and the error of I over I. It waits for nothing on the host, so that a CUDA graph can capture it.
"""

from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.kernels import backends, donated
from spikecredit.neurons.kernels.flat import Decays, Membrane, State, flat, flat_sequence
from spikecredit.neurons.kernels.operator import operator
from spikecredit.neurons.kernels.ops import Eight, add_reset_gradient, flat_arguments, present, reads_one_number, zeroed
from spikecredit.neurons.kernels.reference import ALIFParameters, LIFParameters
from spikecredit.neurons.kernels.sequence import operands
from spikecredit.neurons.neuron import state_dtype

Ten = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any, Any]
SEGMENT = 16
"""K: the state before every K-th step is kept. Smaller than a whole sequence's, as a segment's states are in memory."""

PIECE = 4
"""Steps whose spikes are numbers at a time, for the gradient of V."""


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
    own: bool = False,
) -> tuple[Tensor, State]:
    """A whole sequence of a recurrent population.

    Args:
        x: currents from outside, (T, B, N), or (1, B, N) that stand for `steps` equal ones. own: nobody reads them
            again, so that they may be written over.
        spikes: s[-1], (B, N). state, decays, p: as for `spiking_sequence`.
        weight: V (N, N), and feedback B (N, N) in V's layout, None for V itself or empty for no error along V; all
            in x's dtype.
        backend: the answer of `choose`, not "reference".
    Returns:
        spikes (T, B, N), the state after the last step.
    """
    keep, numbers = operands(x, state, decays, p, (spikes, weight))
    own = own and keep and not torch.compiler.is_compiling()  # an operator writes over nothing
    out, *last = recurrent(
        x.contiguous(), steps, spikes.to(x.dtype), weight, feedback, *state, *numbers, own, keep, backend
    )[:6]  # fmt: skip
    return out, State(*(None if before is None else after for before, after in zip(state, last, strict=True)))


def _outputs(x: Tensor, steps: int, state: State, own: bool, keep: bool) -> Eight:
    """Memory for spikes, the last u, i, a, r, wait, currents (none over one's `own` x, all to `keep`, else one step's),
    checkpoints."""
    dtype, shape = state_dtype(x), x.shape[1:]
    last = (
        None if v is None else x.new_empty(shape, dtype=torch.int32 if k == 4 else dtype) for k, v in enumerate(state)
    )
    count = (steps - 1) // SEGMENT if keep else 0
    fields = sum(v is not None for v in state) + (state.r is None and state.wait is not None)  # that one's r is derived
    checkpoints = x.new_empty((count, fields, shape.numel()), dtype=dtype) if count else None
    currents = None if own and len(x) == steps else x.new_empty((steps if keep else 1, *shape))
    return x.new_empty((steps, *shape)), *last, currents, checkpoints  # type: ignore[return-value]


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
    own: bool,
    keep: bool,
    backend: str,
) -> Eight:
    """Spikes, last u, i, a, r, wait, and for the backward pass the currents I (none: they are in x), checkpoints."""
    state = State(u, i, a, r, wait)
    outputs = _outputs(x, steps, state, own, keep)
    if x.numel() == 0:
        return outputs
    out, *last, currents, checkpoints = outputs
    currents = x.detach() if currents is None else currents
    still = reads_one_number(state, backend)
    strides, _, now, decays = flat_arguments(x, steps, state, (beta, alpha, rho), numbers, threshold, still)
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    ends = [None if v is None else flat(end, strides) for v, end in zip(state, last, strict=True)]
    if r is None and now.r is not None:
        ends[3] = torch.empty_like(now.r)  # written, and not handed out
    run = backends.module(backend).forward_steps(
        flat_sequence(currents, strides, steps), now, decays, m, flat_sequence(out, strides, steps),
        checkpoints, SEGMENT, State(*ends),
    )  # fmt: skip
    inputs, totals = (v.expand(steps, *x.shape[1:]).unbind() for v in (x.detach(), currents))
    before, transposed = spikes, weight.t()
    for t, (given, total, s) in enumerate(zip(inputs, totals, out.unbind(), strict=True)):
        torch.addmm(given, before, transposed, out=total)
        run(t)
        before = s
    return outputs


def _recurrent_fake(x, steps, spikes, weight, feedback, u, i, a, r, wait, beta, alpha, rho, numbers,  # type: ignore[no-untyped-def]
      threshold, adaptation, reset, refractory, surrogate, shape, detach_reset, own, keep, backend):  # fmt: skip
    return _outputs(x, steps, State(u, i, a, r, wait), own, keep)


def _recurrent_backward(
    constant: bool,
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
    checkpoints: Tensor | None,
    grad: Tensor | None,
    grad_u: Tensor | None,
    grad_i: Tensor | None,
    grad_a: Tensor | None,
    grad_r: Tensor | None,
    learned: list[bool],
    over: bool,
) -> Ten:
    """Gradients of x, spikes, weight, u, i, a, r, beta, alpha, rho. constant: x stands for `steps` equal ones. over:
    write that of x over the currents, which are read a segment ahead (not for the operator, whose results are its own).
    out: the spikes, of any dtype."""
    state = State(u, i, a, r, wait)
    checkpoints = present(checkpoints)
    over = over and not constant and backend == "cpu"
    results = _gradients(constant, spikes, weight, currents, state, (beta, alpha, rho), learned, over)
    if currents.numel() == 0:
        return zeroed(results)
    g_x, g_spikes, g_weight, *g_state = results[:7]
    still = reads_one_number(state, backend)
    strides, currents_, now, decays = flat_arguments(
        currents, steps, state, (beta, alpha, rho), numbers, threshold, still
    )
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    assert now.u is not None
    derived = r is None and not detach_reset and reset != "none"
    first = State(*(None if g is None else flat(g, strides) for g in g_state))
    if r is None and (derived or now.r is not None):
        first = first._replace(r=torch.empty_like(now.u))
    after = (None if v is None else flat(v.to(now.u.dtype), strides) for v in (grad_u, grad_i, grad_a, grad_r))
    factors = Decays(*(torch.empty_like(now.u) if wanted else None for wanted in learned))
    # a constant input's errors are only summed: one segment's, written over by the next, spare the memory of all
    errors = currents.new_empty((min(SEGMENT, steps), *currents.shape[1:])) if constant else g_x
    heard = currents.new_empty(currents.shape[1:])  # the error of s[t] from those who hear it
    run = backends.module(backend).backward_steps(
        currents_, now, decays, m, checkpoints, SEGMENT,
        flat_sequence(heard[None], strides, steps), State(*after), errors.flatten(1), first, factors,
    )  # fmt: skip
    back, rows = weight if feedback is None else feedback, errors.unbind()
    above = None if grad is None else grad.to(heard.dtype).unbind()
    sum_x, sum_weight = (torch.zeros_like(v, dtype=now.u.dtype) for v in (g_x[0], g_weight))
    if above is None:
        heard.zero_()
    else:
        heard.copy_(above[-1])
    for t in range(steps - 1, -1, -1):
        run(t)
        error = rows[t % len(rows)]
        if not back.numel():  # no error travels along V
            if t and above is not None:
                heard.copy_(above[t - 1])
            elif t == 0:
                g_spikes.zero_()
        elif t and above is not None:
            torch.addmm(above[t - 1], error, back, out=heard)
        else:
            torch.mm(error, back, out=heard if t else g_spikes)
        if t % SEGMENT == 0:
            stop = min(t + SEGMENT, steps)
            segment = errors[: stop - t] if constant else errors[t:stop]
            if constant:
                sum_x.add_(segment.sum(0, dtype=sum_x.dtype))
            if t == 0:
                sum_weight.add_(torch.mm(error.t(), spikes))
                segment = segment[1:]
            _add_products(sum_weight, segment, out[max(t, 1) - 1 : stop - 1])
    g_weight.copy_(sum_weight)
    if constant:
        g_x[0].copy_(sum_x)
    if derived:
        add_reset_gradient(first, now, threshold, surrogate, shape)
    for result, total in zip(results[7:], factors, strict=True):
        if isinstance(total, Tensor):
            result.copy_(total.view(currents.shape[1:]).sum_to_size(result.shape))
    return results


def _add_products(total: Tensor, errors: Tensor, spikes: Tensor) -> None:
    """total += sum_t errors[t]^T spikes[t], both (T, B, N); bytes become numbers a few steps at a time."""
    few = len(errors) if spikes.dtype == errors.dtype else PIECE
    for start in range(0, len(errors), few):
        heard = spikes[start : start + few].to(errors.dtype).flatten(0, 1)
        total.add_(torch.mm(errors[start : start + few].flatten(0, 1).t(), heard))


def _gradients(
    constant: bool,
    spikes: Tensor,
    weight: Tensor,
    currents: Tensor,
    state: State,
    factors: tuple[Tensor | None, ...],
    learned: list[bool],
    over: bool = False,
) -> Ten:
    steps, *shape = currents.shape
    fields = [None if v is None else currents.new_empty(shape, dtype=state_dtype(currents)) for v in state[:4]]
    decays = [
        torch.empty_like(v) if v is not None and wanted else None for v, wanted in zip(factors, learned, strict=True)
    ]
    g_x = currents if over else currents.new_empty((1 if constant else steps, *shape))
    return (g_x, torch.empty_like(spikes), torch.empty_like(weight), *fields, *decays)  # type: ignore[return-value]


def _recurrent_backward_fake(constant, steps, spikes, weight, feedback, u, i, a, r, wait, beta, alpha, rho,  # type: ignore[no-untyped-def]
      numbers, threshold, adaptation, reset, refractory, surrogate, shape, detach_reset, backend,
      out, currents, checkpoints, grad, grad_u, grad_i, grad_a, grad_r, learned, over):  # fmt: skip
    return _gradients(constant, spikes, weight, currents, State(u, i, a, r, wait), (beta, alpha, rho), learned)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Eight) -> None:
    x, steps, *tensors = inputs[:13]
    out, *_, currents, checkpoints = output
    if out.device.type == "cpu" and not torch.compiler.is_compiling():
        out = out.bool()  # a byte for each spike; the layers above are done with theirs before the error comes here
    currents = x.detach() if currents is None else currents
    ctx.save_for_backward(*tensors, out, currents, checkpoints)
    ctx.steps, ctx.constant, ctx.numbers, ctx.backend = steps, bool(x.shape[0] != steps), inputs[13:-3], inputs[-1]
    ctx.private = donated.is_private()
    ctx.mark_non_differentiable(*(v for v in output[5:] if v is not None))
    ctx.set_materialize_grads(False)


def _hand_back(ctx: Any, backward: Any, free: bool, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *tensors, out, currents, checkpoints = ctx.saved_tensors
    needs = ctx.needs_input_grad
    learned = [bool(needed) for needed in needs[10:13]]
    over = backward is _recurrent_backward and ctx.private and donated.is_last_pass()
    g_x, g_spikes, g_weight, *rest = backward(
        ctx.constant, ctx.steps, *tensors, *ctx.numbers, ctx.backend, out, currents, checkpoints, *grads[:5], learned,
        over,
    )  # fmt: skip
    if ctx.numbers[-1]:
        rest[3] = None  # a detached reset hands nothing back
    found = [g_x, None, g_spikes, g_weight, None, *rest[:4], None, *rest[4:]]
    return (*(g if needed else None for g, needed in zip(found, needs[:13], strict=True)), *[None] * 11)


recurrent = operator(
    "recurrent", _recurrent, _recurrent_fake, _recurrent_backward, _recurrent_backward_fake, _keep, _hand_back
)
"""A recurrent population; arguments and results are those of `_recurrent`."""

"""The time loops as `torch.library` operators: their memory, layout and gradients; `flat.py` states what they compute.

`spiking` serves all spiking neurons, `leaky` the readout. Each allocates its results in the layout of its input, hands
flat tensors to the backend, and computes its gradient by a second operator, so that `torch.compile` sees opaque nodes.
"""

from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.kernels import backends
from spikecredit.neurons.kernels.flat import (
    Decays,
    Membrane,
    State,
    flat,
    flat_sequence,
    segment_of,
    slice_strides,
    unflat,
)
from spikecredit.neurons.kernels.operator import operator
from spikecredit.neurons.neuron import state_dtype
from spikecredit.neurons.surrogate import SURROGATES

Eight = tuple[Any, Any, Any, Any, Any, Any, Any, Any]
"""Tensors; None where there is none."""


def _fields(state: State) -> int:
    """Rows of a checkpoint: u, i, a, the pending reset where there is one, wait."""
    general = state.a is not None or state.wait is not None
    return 1 + (state.i is not None) + (state.a is not None) + general + (state.wait is not None)


def _outputs(x: Tensor, steps: int, state: State, potentials: bool, keep: bool, backend: str) -> Eight:
    """Memory for spikes, potentials, the last state (u, i, a, r, wait) and the checkpoints, laid out as x."""
    shape, strides, dtype, device = x.shape[1:], slice_strides(x), state_dtype(x), x.device
    n = shape.numel()
    every, length = (n, *strides), (steps, *shape)
    spikes = torch.empty_strided(length, every, dtype=x.dtype, device=device)
    u = torch.empty_strided(length, every, dtype=dtype, device=device) if potentials else None
    u_end, i_end, a_end, r_end, wait_end = (
        None
        if v is None
        else torch.empty_strided(shape, strides, dtype=torch.int32 if k == 4 else dtype, device=device)
        for k, v in enumerate(state)
    )
    count = (steps - 1) // segment_of(backend) if keep else 0
    checkpoints = torch.empty((count, _fields(state), n), dtype=dtype, device=device) if count else None
    return spikes, u, u_end, i_end, a_end, r_end, wait_end, checkpoints


def _flat_factor(tensor: Tensor | None, number: float, x: Tensor, strides: tuple[int, ...]) -> Tensor | float:
    """A decay factor for one time step of x (T, B, *N): a number, a tensor of shape (), or (N,) in memory order."""
    if tensor is None:
        return number
    if tensor.numel() == 1:
        return tensor.reshape(())
    return flat(tensor.to(state_dtype(x)).expand(x.shape[1:]), strides)


def reads_one_number(state: State, backend: str) -> bool:
    """Whether the backend reads one number for all neurons of a state at rest: `lif_cpu.py` does."""
    return backend == "cpu" and state.a is None and state.r is None and state.wait is None


def flat_arguments(
    x: Tensor,
    steps: int,
    state: State,
    factors: tuple[Tensor | None, ...],
    numbers: list[float],
    threshold: float,
    still: bool = False,
) -> tuple[tuple[int, ...], Tensor, State, Decays]:
    """Strides of a time step, x, the state with its pending reset, and the decays, as a backend takes them. still: as
    `reads_one_number` says."""
    strides, dtype = slice_strides(x), state_dtype(x)

    def field(v: Tensor) -> Tensor:
        if still and not any(v.stride()):
            return v.as_strided((v.numel(),), (0,))
        return flat(v if v.dtype in (dtype, torch.int32) else v.to(dtype), strides)

    fields = [None if v is None else field(v) for v in state]
    if fields[3] is None and fields[4] is not None:  # a plain LIF with a refractory period
        assert fields[0] is not None
        fields[3] = (fields[0] > threshold).to(dtype)
    decays = [_flat_factor(f, v, x, strides) for f, v in zip(factors, numbers, strict=True)]
    return strides, flat_sequence(x, strides, steps), State(*fields), Decays(*decays)


def _spiking(
    x: Tensor,
    steps: int,
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
    potentials: bool,
    keep: bool,
    backend: str,
) -> Eight:
    """Spikes, potentials, last u, i, a, r, wait and checkpoints."""
    state = State(u, i, a, r, wait)
    outputs = _outputs(x, steps, state, potentials, keep, backend)
    if x.numel() == 0:
        return outputs
    still = reads_one_number(state, backend)
    strides, x_, state_, decays = flat_arguments(x, steps, state, (beta, alpha, rho), numbers, threshold, still)
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    spikes, u_, *last, checkpoints = outputs
    ends = [None if v is None else flat(end, strides) for v, end in zip(state, last, strict=True)]
    if r is None and state_.r is not None:
        ends[3] = torch.empty_like(state_.r)  # written, and not handed out
    backends.module(backend).forward(
        x_, state_, decays, m, flat_sequence(spikes, strides, steps),
        flat_sequence(u_, strides, steps) if potentials else None, checkpoints, State(*ends),
    )  # fmt: skip
    return outputs


def zeroed(results: Any) -> Any:
    """The gradients of no elements."""
    return tuple(None if v is None else v.zero_() for v in results)


def present(v: Tensor | None) -> Tensor | None:
    """A result that an operator had to make empty, where there was none."""
    return v if v is not None and v.numel() else None


def _spiking_fake(x, steps, u, i, a, r, wait, beta, alpha, rho, numbers,  # type: ignore[no-untyped-def]
      threshold, adaptation, reset, refractory, surrogate, shape,
      detach_reset, potentials, keep, backend):  # fmt: skip
    return _outputs(x, steps, State(u, i, a, r, wait), potentials, keep, backend)


def _spiking_backward(
    x: Tensor,
    steps: int,
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
    checkpoints: Tensor | None,
    grad_spikes: Tensor | None,
    grad_potentials: Tensor | None,
    grad_u: Tensor | None,
    grad_i: Tensor | None,
    grad_a: Tensor | None,
    grad_r: Tensor | None,
    learned: list[bool],
    over: bool,
) -> Eight:
    """Gradients of x, u, i, a, r, beta, alpha, rho. learned: beta, alpha, rho, the state.
    over: write that of x over grad_spikes if it lies as x does (not for the operator, whose results are its own)."""
    state = State(u, i, a, r, wait)
    checkpoints = present(checkpoints)
    outputs = _gradients(x, state, (beta, alpha, rho), learned, grad_spikes if over and backend == "cpu" else None)
    if x.numel() == 0:
        return zeroed(outputs)
    still = reads_one_number(state, backend)
    strides, x_, state_, decays = flat_arguments(x, steps, state, (beta, alpha, rho), numbers, threshold, still)
    m = Membrane(threshold, adaptation, reset, refractory, surrogate, tuple(shape), detach_reset)
    n = x_.shape[1]
    g_x, g_u, g_i, g_a, g_r = outputs[:5]
    if grad_spikes is None and grad_potentials is None:  # only the last state is used
        grad_spikes = x.new_zeros((1, *x.shape[1:])).expand(steps, *x.shape[1:])
    derived = r is None and not detach_reset and reset != "none"
    wants_state, dtype = learned[3], state_dtype(x)
    first = State(None)
    if wants_state:
        first = State(*(None if v is None else flat(v, strides) for v in (g_u, g_i, g_a, g_r)))
        if derived:
            first = first._replace(r=x.new_empty(n, dtype=dtype))
    factors = Decays(*(x.new_empty(n, dtype=dtype) if wanted else None for wanted in learned[:3]))
    backends.module(backend).backward(
        x_, state_, decays, m, checkpoints,
        None if grad_spikes is None else flat_sequence(grad_spikes.to(x.dtype), strides, steps),
        None if grad_potentials is None else flat_sequence(grad_potentials, strides, steps),
        State(*(None if v is None else flat(v.to(dtype), strides) for v in (grad_u, grad_i, grad_a, grad_r))),
        flat_sequence(g_x, strides, g_x.shape[0]), first, factors,
    )  # fmt: skip
    if derived and wants_state:
        add_reset_gradient(first, state_, threshold, surrogate, shape)
    for out, given, factor in zip(outputs[5:], (beta, alpha, rho), factors, strict=True):
        if isinstance(factor, Tensor) and given is not None:
            out.copy_(unflat(factor, x.shape[1:], strides).sum_to_size(given.shape))
    return outputs


def add_reset_gradient(gradient: State, state: State, threshold: float, surrogate: str, shape: list[float]) -> None:
    """A plain LIF's first reset is H(u - theta) of its first state: the gradient of r becomes one of u."""
    assert gradient.u is not None and gradient.r is not None and state.u is not None
    gradient.u.addcmul_(gradient.r, SURROGATES[surrogate](*shape).derivative(state.u - threshold))


def _gradients(
    x: Tensor, state: State, factors: tuple[Tensor | None, ...], learned: list[bool], donated: Tensor | None = None
) -> Eight:
    """Memory for the gradients; x's is that of `donated`, where it lies as x does."""
    shape, strides = x.shape[1:], slice_strides(x)
    slices = [
        None
        if v is None or not learned[3]
        else torch.empty_strided(shape, strides, dtype=state_dtype(x), device=x.device)
        for v in state[:4]
    ]
    decays = [
        torch.empty_like(v) if v is not None and wanted else None
        for v, wanted in zip(factors, learned[:3], strict=True)
    ]
    every = (shape.numel(), *strides)
    if donated is not None and (donated.shape, donated.stride(), donated.dtype) == (x.shape, every, x.dtype):
        g_x = donated
    else:
        g_x = torch.empty_strided(x.shape, every, dtype=x.dtype, device=x.device)
    return (g_x, *slices, *decays)  # type: ignore[return-value]


def _spiking_backward_fake(x, steps, u, i, a, r, wait, beta, alpha, rho, numbers,  # type: ignore[no-untyped-def]
      threshold, adaptation, reset, refractory, surrogate, shape,
      detach_reset, backend, checkpoints, grad_spikes, grad_potentials, grad_u, grad_i, grad_a, grad_r,
      learned, over):  # fmt: skip
    return _gradients(x, State(u, i, a, r, wait), (beta, alpha, rho), learned)


def _keep_spiking(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, steps, u, i, a, r, wait, beta, alpha, rho, *numbers, _, _, backend = inputs
    ctx.save_for_backward(x, u, i, a, r, wait, beta, alpha, rho, output[7])
    ctx.steps, ctx.numbers, ctx.backend = steps, numbers, backend
    ctx.mark_non_differentiable(*(v for v in output[6:] if v is not None))
    ctx.set_materialize_grads(False)


def _hand_back_spiking(ctx: Any, backward: Any, free: bool, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, *state, beta, alpha, rho, checkpoints = ctx.saved_tensors
    learned = [*map(bool, ctx.needs_input_grad[7:10]), any(ctx.needs_input_grad[2:6])]
    results = backward(
        x, ctx.steps, *state, beta, alpha, rho, *ctx.numbers, ctx.backend, checkpoints, *grads[:6], learned, free
    )
    g_x, *g_state, g_beta, g_alpha, g_rho = results
    needs = ctx.needs_input_grad
    wanted = [g_x if needs[0] else None, None, *(g if needs[2 + k] else None for k, g in enumerate(g_state)), None]
    detach_reset = ctx.numbers[-1]
    if detach_reset:
        wanted[5] = None
    factors = (g if flag else None for g, flag in zip((g_beta, g_alpha, g_rho), learned[:3], strict=True))
    return (*wanted, *factors, *[None] * 11)


spiking = operator(
    "spiking", _spiking, _spiking_fake, _spiking_backward, _spiking_backward_fake, _keep_spiking, _hand_back_spiking
)
"""All spiking neurons; arguments and results are those of `_spiking`."""


def _leaky(x: Tensor, steps: int, u: Tensor, beta: Tensor | None, number: float, backend: str) -> Tensor:
    """u[t] = beta u[t-1] + x[t], in the state's dtype."""
    potentials = _potentials(x, steps)
    if x.numel():
        strides, x_, state, decays = flat_arguments(x, steps, State(u), (beta,), [number], 0.0)
        assert state.u is not None and decays.beta is not None
        backends.module(backend).leaky_forward(x_, state.u, decays.beta, flat_sequence(potentials, strides, steps))
    return potentials


def _potentials(x: Tensor, steps: int) -> Tensor:
    shape, strides = x.shape[1:], slice_strides(x)
    every = (shape.numel(), *strides)
    return torch.empty_strided((steps, *shape), every, dtype=state_dtype(x), device=x.device)


def _leaky_fake(x: Tensor, steps: int, u: Tensor, beta: Tensor | None, number: float, backend: str) -> Tensor:
    return _potentials(x, steps)


def _leaky_backward(
    grad: Tensor, x: Tensor, u: Tensor, beta: Tensor | None, number: float, backend: str, potentials: Tensor | None
) -> tuple[Any, Any, Any]:
    """Gradients of x, u and beta (None if `potentials` is: nobody asks)."""
    outputs = _leaky_gradients(x, u, beta, potentials)
    if x.numel() == 0:
        return zeroed(outputs)
    g_x, g_u, g_beta = outputs
    steps = grad.shape[0]
    strides, _, state, decays = flat_arguments(x, steps, State(u), (beta,), [number], 0.0)
    assert state.u is not None and decays.beta is not None
    factor = None if potentials is None else torch.empty_like(state.u)
    backends.module(backend).leaky_backward(
        flat_sequence(grad, strides, steps), state.u, decays.beta,
        None if potentials is None else flat_sequence(potentials, strides, steps),
        flat_sequence(g_x, strides, g_x.shape[0]), flat(g_u, strides), factor,
    )  # fmt: skip
    if factor is not None and beta is not None:
        g_beta.copy_(unflat(factor, x.shape[1:], strides).sum_to_size(beta.shape))
    return outputs


def _leaky_gradients(x: Tensor, u: Tensor, beta: Tensor | None, potentials: Tensor | None) -> tuple[Any, Any, Any]:
    shape, strides = x.shape[1:], slice_strides(x)
    g_x = torch.empty_strided(x.shape, (shape.numel(), *strides), dtype=x.dtype, device=x.device)
    g_u = torch.empty_strided(shape, strides, dtype=state_dtype(x), device=x.device)
    return g_x, g_u, None if beta is None or potentials is None else torch.empty_like(beta)


def _leaky_backward_fake(grad, x, u, beta, number, backend, potentials):  # type: ignore[no-untyped-def]
    return _leaky_gradients(x, u, beta, potentials)


def _keep_leaky(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, u, beta, number, backend = inputs
    ctx.save_for_backward(x, u, beta, output if ctx.needs_input_grad[3] else None)
    ctx.number, ctx.backend = number, backend


def _hand_back_leaky(ctx: Any, backward: Any, free: bool, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, u, beta, potentials = ctx.saved_tensors
    g_x, g_u, g_beta = backward(grad, x, u, beta, ctx.number, ctx.backend, potentials)
    needs = ctx.needs_input_grad
    return g_x if needs[0] else None, None, g_u if needs[2] else None, g_beta if needs[3] else None, None, None


leaky = operator("leaky", _leaky, _leaky_fake, _leaky_backward, _leaky_backward_fake, _keep_leaky, _hand_back_leaky)
"""The readout; arguments and result are those of `_leaky`."""

"""Products of dense layers with spikes, in fewer operations than a dense product, which knows nothing of its factors.

y = x W^T needs in * out products for each row of x. On a CPU in float32 three ways are faster, and in bfloat16 tables,
where the processor has no AMX (`python -m benchmarks.events`):

    events  only the rows of W are read where x is not zero: density * in * out additions. For few events, of any value.
    tables  the 16 sums of four rows of W are made once for many rows of x, and a row looks one up for each four of its
            inputs: in * out / 4 additions. For entries that are 0 or 1, at any density. What is kept of x for the
            backward pass is a byte for four entries.
    narrow  all products, in loops made for the few outputs of a readout. For entries of any value.

The sums run in another order than a matrix product's: results differ by rounding. Entries of x that are zero add
nothing, where a dense product would add 0 * inf = NaN for a weight that is infinite.
"""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.neurons.kernels import donated

Way = Literal["dense", "events", "tables", "narrow"]

DENSITY = 0.25
"""Above this share of events the dense product is the faster one (benchmarks/results/events-cpu.json)."""

TABLES_FROM = 0.12
"""From this share of events on, tables are faster than events."""

TILE = 64
"""Outputs that tables are made for at a time (`tables_cpu.TILE`), and those of the smallest convolution."""

SIDE = 128
"""Inputs and outputs of the smallest layer to which all ways are open; with fewer outputs it needs more rows."""

LEAST: dict[str, tuple[int, int]] = {"events": (128, 12_000_000), "tables": (512, 30_000_000)}
"""Rows, and products of numbers in the dense way, from which each way pays: below, what it prepares costs more than it
saves (benchmarks/results/events-cpu.json)."""

LEAST_IN_BF16 = 2048, 1_000_000_000
"""The same for tables in bfloat16, whose dense products take half the time where the processor has instructions."""

NARROW, NARROW_FROM = 16, 500_000
"""Outputs of a narrow layer at most, and numbers in its x from which on its loops are faster."""

FEW_FROM = 1_000_000
"""Numbers in the x of a layer of fewer than SIDE outputs, from which on tables are faster, at any share of spikes."""

SAMPLE = 64
"""Rows that are looked at to estimate the density."""

CHUNK = 1600
"""Rows of the error that one pass of the weight gradient runs through, so that they stay in the caches."""


def way(x: Tensor, weight: Tensor) -> Way:
    """The fastest way to the product of x (..., in) with W (out, in): by events where there are few, by tables where
    all is 0 or 1, narrow where there are few outputs, dense otherwise.

    A function of the values alone, so that a run repeats itself; on the CPU only, outside compiled programs, in float32
    and, by tables, in bfloat16.
    """
    dtype = multiplied(x, weight)
    if dtype is None:
        return "dense"
    outputs, rows = len(weight), x.numel() // max(1, x.shape[-1])
    if outputs < SIDE:
        if dtype != torch.float32:
            return "dense"
        if x.numel() >= FEW_FROM and all_spikes(_sample(x)):
            return "tables"
        return "narrow" if outputs <= NARROW and x.numel() >= NARROW_FROM and x.is_contiguous() else "dense"
    sizes = LEAST if dtype == torch.float32 else {"tables": LEAST_IN_BF16}
    pays = [way for way, (least, work) in sizes.items() if rows >= least and rows * weight.numel() >= work]
    if weight.shape[1] < SIDE or not pays:
        return "dense"
    sample = _sample(x)
    if dtype != torch.float32:
        return "tables" if all_spikes(sample) else "dense"
    events, ones = kernels()[0].census(sample)
    if "tables" in pays and ones == events >= TABLES_FROM * sample.numel():
        return "tables"
    return "events" if events < DENSITY * sample.numel() else "dense"


def _sample(x: Tensor) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows[:: max(1, len(rows) // SAMPLE)].contiguous()


def multiplied(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The type in which torch would multiply the two, if the compiled loops may do it; None if products are torch's."""
    dtype = weight.dtype if x.dtype == weight.dtype else None
    if torch.is_autocast_enabled("cpu") and torch.float64 not in (x.dtype, weight.dtype):
        dtype = torch.get_autocast_dtype("cpu")
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if transformed or weight.device.type != "cpu" or not (dtype == torch.float32 or is_slow(dtype)):
        return None
    return dtype if kernels() is not None else None


def is_slow(dtype: torch.dtype | None) -> bool:
    """Whether loops in float32 are faster than torch's products of bfloat16: on processors without AMX."""
    return dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def all_spikes(sample: Tensor) -> bool:
    """Whether each entry of some rows, contiguous, is 0 or 1."""
    events, ones = kernels()[0].census(sample.float())
    return bool(events == ones)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, way: Way) -> tuple[Tensor, Way, Tensor]:
    """x W^T + b; x (..., in), W (out, in), b (out,) -> (..., out), in the type of W. No autograd.

    Returns:
        the product; the way it took: another where tables were asked for and some entry is neither 0 nor 1; and what
        to keep of x for the weight gradient: by tables its codes (N, bytes), a sixteenth of the memory, else x itself.
    """
    if way != "dense":
        rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
        by_events, tables, narrow = kernels()
        if way == "tables":
            codes = tables.code_rows(rows)
            if codes is not None:
                y = tables.product(codes, tables.weight_rows(weight[..., None]), bias, weight.dtype)
                return y.unflatten(0, x.shape[:-1]), way, torch.from_numpy(codes)
            way = "narrow" if len(weight) <= NARROW and weight.dtype == torch.float32 else "dense"
        if way == "narrow":
            return narrow.product(rows, weight, bias).unflatten(0, x.shape[:-1]), way, rows
        if way == "events":
            y = x.new_zeros(len(rows), len(weight)) if bias is None else bias.detach().repeat(len(rows), 1)
            by_events.gather(rows, weight.detach().t().contiguous(), y)
            return y.unflatten(0, x.shape[:-1]), way, rows
    return F.linear(x, weight, bias), "dense", x.detach()


def weight_gradient(grad: Tensor, kept: Tensor, inputs: int, way: Way) -> Tensor:
    """dL/dW = grad^T x; grad (N, out) -> (out, in). way, and kept in the place of x: as `product` gave them.
    No autograd."""
    if way == "dense" or donated.is_batched(grad):
        x = kernels()[1].decoded(kept.numpy(), inputs) if way == "tables" else kept.reshape(-1, inputs)
        return grad.t().mm(x.to(grad.dtype))
    by_events, tables, narrow = kernels()
    if way == "narrow":
        return narrow.weight_gradient(grad, kept.contiguous())
    grad = grad.contiguous()
    if way == "tables":
        codes = tables.transposed(kept.numpy())
        return tables.weight_from_rows(tables.product(codes, grad), inputs, 1)[:, 0]
    total = grad.new_zeros(inputs, grad.shape[1])
    for start in range(0, len(kept), CHUNK):
        by_events.gather(kept[start : start + CHUNK].t().contiguous(), grad[start : start + CHUNK], total)
    return total.t()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, way: Way) -> Tensor:
    """y = x W^T + b by a way that is not dense; dL/dx = dL/dy W, dense. Twice differentiable, as the dense layer is.

    Of spikes the codes are kept, in the place of x: for second derivatives, which need x itself, they are decoded.
    """
    y = _SpikeLinear.apply(x, weight, bias, way)
    if y.requires_grad and donated.is_private():
        _keep_codes(y.grad_fn, x)
    return y  # type: ignore[no-any-return]  # what `apply` returns


def _keep_codes(node: Any, x: Tensor) -> None:
    """Let a node hold codes in the place of x, if it has them."""
    *_, codes = node.saved_tensors
    if codes is None:
        return
    shape, dtype, nothing = x.shape, x.dtype, x.new_zeros(())

    def unpack(codes: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return nothing.expand(shape)  # nobody reads it
        decoded: Tensor = kernels()[1].decoded(codes.numpy(), shape[-1])
        return decoded.view(shape).to(dtype)

    node._raw_saved_tensors[0].register_hooks(lambda _: codes, unpack)


class _SpikeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, way: Way) -> Tensor:
        y, ctx.way, kept = product(x, weight, bias, way)
        ctx.save_for_backward(x, weight, kept if ctx.way == "tables" else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, codes = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        flat, rows, g_weight = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1]), None
        if needs_weight:  # with create_graph=True by torch's own product, which can be differentiated again
            again = torch.is_grad_enabled()
            kept = rows if codes is None or again else codes
            g_weight = weight_gradient(flat, kept, x.shape[-1], "dense" if again else ctx.way)
        return grad.matmul(weight) if needs_x else None, g_weight, flat.sum(0) if needs_bias else None, None


@cache
def kernels() -> Any:
    """The compiled loops by events, by tables and narrow, or None without numba: the dense product then serves (a
    backend's log line says why)."""
    try:
        from spikecredit.synapses import events_cpu, narrow_cpu, tables_cpu
    except ImportError:
        return None
    return events_cpu, tables_cpu, narrow_cpu

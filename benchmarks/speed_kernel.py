"""The LIF alone: forward and backward on [T, B, N], against the bandwidth that a copy of the same tensor reaches.

The bound is 24 bytes per element in float32: three `copy_` of the tensor (read x, write s; read x and dL/ds, write
dL/dx, and one more for a saved tensor, as the peers move it). Ours saves x only and moves 20: x twice, s, dL/ds, dL/dx.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import spikecredit as sc
from benchmarks import speed_peers
from benchmarks.common import interleaved
from benchmarks.speed_networks import SLOPE, TAU, Spike, Work
from spikecredit.neurons import LIFParameters, LIFState, lif_loop
from spikecredit.neurons.kernels import backends
from spikecredit.neurons.kernels.backends import KIND_OF
from spikecredit.neurons.kernels.flat import Decays, Membrane, State, segment_of

COPIES_OF_THE_BOUND = 3
TENSORS_OURS_MOVES = 5
# Cases that are no full forward and backward pass, and how many tensors [T, B, N] they move: x and s; s and dL/ds.
PARTIAL = {"copy": 2, "spikecredit LIF, forward only": 2, "spikecredit LIF, constant input": 2}


def shapes(device: torch.device, quick: bool) -> dict[str, tuple[int, int, int]]:
    """[T, B, N]: the FC network's hidden layer, and one far larger than any cache (100 MB, on CUDA 410, in float32)."""
    if quick:
        return {"hidden layer of FC": (3, 4, 100), "larger than the caches": (3, 4, 1000)}
    large = (25, 128, 32000 if device.type == "cuda" else 8000)
    return {"hidden layer of FC": (25, 128, 1000), "larger than the caches": large}


def kernel_without_allocation(lif: sc.LIF, x: Tensor, grad: Tensor) -> Callable[[], Any]:
    """Forward and backward of the backend itself, on buffers that are there already."""
    backend = backends.choose("auto", x.device.type, type(lif.surrogate))
    if backend == "reference":
        raise RuntimeError(f"no kernel runs on {x.device}")
    run = backends.module(backend)
    steps, n = x.shape[0], x[0].numel()
    x_, grad_ = x.view(steps, n), grad.view(steps, n)
    u, last, grad_u = (torch.zeros(n, device=x.device) for _ in range(3))
    spikes, grad_x = torch.empty_like(x_), torch.empty_like(x_)
    count = (steps - 1) // segment_of(backend)
    checkpoints = torch.empty((count, 1, n), device=x.device) if count else None
    m = Membrane(lif.threshold, 0.0, lif.reset, 0, KIND_OF[type(lif.surrogate)], (SLOPE,), True)
    state, decays = State(u), lif.decays()

    def call() -> None:
        run.forward(x_, state, decays, m, spikes, None, checkpoints, State(last))
        run.backward(
            x_, state, decays, m, checkpoints, grad_, None, State(None), grad_x, State(grad_u), Decays(None)
        )  # fmt: skip

    return call


def forward_backward(module: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], None]:
    leaf = x.detach().requires_grad_()  # an expanded x stays one: its gradient is summed over time by autograd

    def call() -> None:
        leaf.grad = None
        module(leaf).backward(grad)

    return call


def forward_only(module: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def plain_loop(x: Tensor) -> Tensor:
    """Autograd through the reference: what every fused kernel replaces."""
    p = LIFParameters(torch.exp(torch.tensor(-1 / TAU, device=x.device)), surrogate=sc.FastSigmoid(SLOPE))
    return lif_loop(x, LIFState(torch.zeros(x.shape[1:], device=x.device)), p)[0].to(x.dtype)


def constant_input(lif: nn.Module, image: Tensor, steps: int, grad: Tensor) -> Callable[[], None]:
    leaf = image.detach().requires_grad_()

    def call() -> None:
        leaf.grad = None
        lif(leaf[None], steps=steps).backward(grad)

    return call


def peers(device: torch.device) -> dict[str, nn.Module]:
    work = Work("LIF alone", (Spike(),), (1,), 1, 1)
    builds = {
        "snntorch": ("snnTorch Leaky, loop", speed_peers.SnnTorchLoop),
        "spikingjelly": ("SpikingJelly LIFNode, multi-step", speed_peers.SpikingJellyMultiStep),
        "norse": ("Norse LIFBoxCell, loop", speed_peers.NorseLoop),
    }
    return {
        name: build(work).to(device) for library, (name, build) in builds.items() if library not in speed_peers.absent()
    }


def measure(device: torch.device, repeats: int, quick: bool) -> dict[str, Any]:
    """Rows by shape, dtype and case. `bound`, for a forward and backward pass on an input that changes: time over that
    of three copies. `bandwidth`, for ours: the share of the copy's bandwidth that our own count of bytes reaches."""
    rows = []
    for label, shape in shapes(device, quick).items():
        for dtype in (torch.float32, torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator).to(device, dtype)
            grad = torch.randn(shape, generator=generator).to(device, dtype)
            target = torch.empty_like(x)
            lif = sc.LIF(TAU, surrogate=sc.FastSigmoid(SLOPE)).to(device)
            calls: dict[str, Callable[[], Any]] = {
                "copy": partial(target.copy_, x),
                "spikecredit LIF": forward_backward(lif, x, grad),
                "spikecredit LIF, without allocation": kernel_without_allocation(lif, x, grad),
                "spikecredit LIF, constant input": constant_input(lif, x[0], shape[0], grad),
                "spikecredit LIF, forward only": forward_only(lif, x),
                "autograd through the loop": forward_backward(plain_loop, x, grad),
            }
            for name, module in peers(device).items():
                calls[name] = forward_backward(module, x, grad)
            rows += _rows(label, shape, dtype, calls, repeats, device)
    return {"rows": rows}


def _rows(
    label: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    calls: dict[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    common = {"shape": list(shape), "label": label, "dtype": str(dtype).removeprefix("torch.")}
    rows = []
    for name in list(calls):
        try:
            calls[name]()
        except Exception as error:
            if name.startswith("spikecredit"):
                raise
            del calls[name]
            rows.append({**common, "case": name, "error": f"{type(error).__name__}: {error}"})
            print(f"  {name}: FAILED, {error}")
    measured = interleaved(calls, repeats, device=device.type)
    copy = measured["copy"]["median"]
    for name, seconds in measured.items():
        row: dict[str, Any] = {**common, "case": name, **seconds}
        if name not in PARTIAL:
            row["bound"] = seconds["median"] / (COPIES_OF_THE_BOUND * copy)
        tensors = PARTIAL.get(name, TENSORS_OURS_MOVES if name.startswith("spikecredit") else None)
        if tensors is not None:
            row["bytes_per_element"] = tensors * dtype.itemsize
            row["bandwidth"] = tensors / PARTIAL["copy"] * copy / seconds["median"]
        rows.append(row)
        bound = f"{row['bound']:8.2f} x the bound" if "bound" in row else " " * 20
        share = f"  {row['bandwidth']:6.1%} of the copy's bandwidth" if "bandwidth" in row else ""
        print(f"  {label:<24}{common['dtype']:<9}{name:<38}{seconds['median'] * 1e3:9.3f} ms{bound}{share}")
    return rows

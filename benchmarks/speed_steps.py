"""What `benchmarks.speed` times: every competitor's training step and inference on one network."""

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import speed_peers
from benchmarks.common import interleaved, paired
from benchmarks.speed_networks import Input, Recurrent, SteppedReLU, Work, ours

REFERENCE = "snnTorch Leaky, loop"
OURS = "spikecredit"
BOUND = "ReLU in place of LIF"
PRECISIONS = ("float32", "bf16")
PAIRS = 3
"""Our steps beside the bound's, for each repeat of all."""
Call = Callable[[], Any]


@dataclass(frozen=True)
class Competitor:
    """One way to run a network; `library` as imported."""

    name: str
    library: str
    build: Callable[[Work], nn.Module]
    channels_last: bool = False
    compiled: bool = False

    def prepare(self, work: Work, device: torch.device, precision: str) -> nn.Module:
        torch.manual_seed(0)
        net = self.build(work).to(device)
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.library == "spikingjelly" and device.type == "cuda" and precision == "bf16" and not _recurrent(work):
            net = _spikingjelly_bf16(net, device)
        return torch.compile(net) if self.compiled else net  # type: ignore[return-value]


def _spikingjelly_bf16(net: nn.Module, device: torch.device) -> nn.Module:
    """bf16 layers and float32 potentials, so that its Triton kernels serve bf16 too (its page "Training and Inference
    Precision"). On a CPU, and for single-step neurons, its plain autocast is all there is."""
    from spikingjelly.activation_based.precision import PrecisionConfig, prepare_model_for_precision

    return prepare_model_for_precision(net, device, PrecisionConfig(mode="bf16", neuron_storage="fp32")).model


def competitors(work: Work, compiled: bool = False) -> dict[str, Competitor]:
    """All that can run `work` here, by name; absent peers are left out (`speed_peers.absent` names them)."""

    def both(name: str, library: str, build: Callable[[Work], nn.Module]) -> Iterator[Competitor]:
        yield Competitor(name, library, build)
        if work.images:
            yield Competitor(f"{name}, channels last", library, build, channels_last=True)
        if compiled:
            yield Competitor(f"{name}, torch.compile", library, build, channels_last=work.images, compiled=True)

    found = [
        *both(REFERENCE, "snntorch", speed_peers.SnnTorchLoop),
        *both("SpikingJelly LIFNode, multi-step", "spikingjelly", speed_peers.SpikingJellyMultiStep),
        # Norse has no recurrent LIFBoxCell.
        *(() if _recurrent(work) else both("Norse LIFBoxCell, loop", "norse", speed_peers.NorseLoop)),
        Competitor("Norse LIF, sequence module", "norse", speed_peers.NorseSequence),
        *both(BOUND, "spikecredit", lambda work: ours(work, SteppedReLU())),
        *both(OURS, "spikecredit", ours),
    ]
    return {one.name: one for one in found if one.library not in speed_peers.absent()}


def _recurrent(work: Work) -> bool:
    return any(isinstance(layer, Recurrent) for layer in work.layers)


def loss_of(out: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the last layer's spikes at every step, as snnTorch's `ce_rate_loss`; out (T, B, classes)."""
    return F.cross_entropy(out.float().flatten(0, 1), labels.repeat(out.shape[0]))


def training_step(net: nn.Module, x: Tensor, labels: Tensor, precision: str) -> Call:
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = net(x)
        loss_of(out, labels).backward()
        optimizer.step()

    return step


def inference(net: nn.Module, x: Tensor, precision: str) -> Call:
    def run() -> None:
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            net(x)

    return run


def measure(
    work: Work,
    kind: Input,
    device: torch.device,
    repeats: int,
    memory: Callable[[str, str], dict[str, float | None]],
    compiled: bool = False,
) -> list[dict[str, Any]]:
    """One row per competitor and precision, all interleaved: seconds of a training step and of inference, each relative
    to snnTorch's float32 loop (`x`), pages faulted in per training step, ours over the bound's in pairs (`of_bound`),
    and what `memory(competitor, precision)` adds."""
    if compiled:
        # One `forward` serves many nets: beyond its limit dynamo would leave the rest uncompiled without an error.
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    chosen = competitors(work, compiled)
    layouts = {last: work.inputs(kind, device, last) for last in {one.channels_last for one in chosen.values()}}
    labels = work.labels(device)
    rows: dict[str, dict[str, Any]] = {}
    nets: dict[str, nn.Module] = {}
    steps: dict[str, Call] = {}
    for name, one in chosen.items():
        for precision in PRECISIONS:
            key = f"{name}, {precision}"
            rows[key] = {"competitor": name, "library": one.library, "input": kind, "precision": precision}
            try:
                nets[key] = one.prepare(work, device, precision)
                steps[key] = training_step(nets[key], layouts[one.channels_last], labels, precision)
                steps[key]()
            except Exception as error:
                if one.library == "spikecredit":
                    raise
                rows[key]["error"] = f"{type(error).__name__}: {error}"
                steps.pop(key, None)
                print(f"  {key}: FAILED, {rows[key]['error']}")
    trained = interleaved(steps, repeats, device=device.type, again=True)
    for key, step in steps.items():
        rows[key]["train"] = trained[key]
        if device.type == "cpu":
            rows[key]["page_faults"] = page_faults(step)
        bound = steps.get(key.replace(OURS, BOUND, 1))
        if key.startswith(OURS) and bound is not None:
            rows[key]["of_bound"] = paired(step, bound, PAIRS * repeats, device.type)
    runs = {
        key: inference(nets[key].eval(), layouts[chosen[rows[key]["competitor"]].channels_last], rows[key]["precision"])
        for key in steps
    }
    for key, seconds in interleaved(runs, repeats, device=device.type, again=True).items():
        rows[key]["inference"] = seconds
    reference = rows.get(f"{REFERENCE}, float32", {})
    for key in steps:
        for what in ("train", "inference"):
            if what in reference:
                rows[key][f"{what}_x"] = reference[what]["median"] / rows[key][what]["median"]
    nets.clear()
    steps.clear()
    runs.clear()
    for row in rows.values():
        if "error" not in row:
            row.update(memory(row["competitor"], row["precision"]))
        print(line(row))
    return list(rows.values())


def page_faults(call: Call) -> int:
    """Pages that the kernel maps in during a call: many where the allocator gives freed memory back at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"  {row['competitor']:<48}{row['precision']:<9} failed"
    x = f"{row['train_x']:6.2f} x" if "train_x" in row else ""
    memory = f"{row['memory_mib']:7.0f} MiB" if row.get("memory_mib") is not None else ""
    return (
        f"  {row['competitor']:<48}{row['precision']:<9}{row['train']['median'] * 1e3:9.2f} ms {x}"
        f"   inference {row['inference']['median'] * 1e3:9.2f} ms{memory}"
    )


def device_memory(work: Work, kind: Input, device: torch.device, one: Competitor, precision: str) -> float:
    """MiB that a training step adds at its peak to the model and the data, on CUDA."""
    net = one.prepare(work, device, precision)
    step = training_step(net, work.inputs(kind, device, one.channels_last), work.labels(device), precision)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(3):
        step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def load() -> float:
    """How many processes were running in the last minute; near 0 on an idle machine."""
    return os.getloadavg()[0]

"""That the competitors of `benchmarks.speed` do the same work: equal spikes from equal weights, where equations agree.

VGG is left out: its batch normalisation takes statistics at each step in a loop over time, over all steps elsewhere.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import spikecredit as sc
from benchmarks.speed_networks import SLOPE, TAU, Work, ours, works
from benchmarks.speed_peers import NORSE_GAIN, NorseLoop, NorseSequence, SnnTorchLoop, SpikingJellyMultiStep, absent
from benchmarks.speed_steps import loss_of

# A potential within rounding of the threshold fires in one program and not in the other, because matrix products round
# by shape; 0 of the spikes differ with the seed used here, and a wrong equation moves far more than one in a thousand.
TOLERANCE = 1e-3


class DifferentWorkError(RuntimeError):
    """Two competitors that should compute the same do not."""


def same_work() -> list[dict[str, Any]]:
    """One row per pair: share of unequal spikes, relative difference of the gradients (None where surrogates differ).

    Raises:
        DifferentWorkError: a pair differs by more than rounding, or nothing fires.
    """
    rows = []
    for name, work in works(torch.device("cpu")).items():
        if name == "vgg":
            continue
        work = replace(work, steps=12, batch=4)
        if "snntorch" not in absent():
            rows.append(_compare(work, "snnTorch Leaky", SnnTorchLoop(work), ours(work), gain=1.0, gradients=True))
        if name == "recurrent":
            continue
        if not {"norse", "spikingjelly"} & absent().keys():
            rows.append(_compare(work, "Norse LIFBoxCell", NorseLoop(work), SpikingJellyMultiStep(work), NORSE_GAIN))
        if "norse" not in absent():
            hard = sc.LIF(TAU, reset="zero", surrogate=sc.FastSigmoid(SLOPE))
            rows.append(_compare(work, "Norse LIF", NorseSequence(work), ours(work, hard), NORSE_GAIN))
    for row in rows:
        gradient = row["gradient_difference"] or 0.0
        if row["unequal_spikes"] > TOLERANCE or gradient > TOLERANCE or row["rate"] == 0:
            raise DifferentWorkError(f"two competitors that should compute the same do not: {row}")
    return rows


def _compare(
    work: Work, name: str, peer: nn.Module, other: nn.Module, gain: float, gradients: bool = False
) -> dict[str, Any]:
    device = torch.device("cpu")
    x, labels = work.inputs("spikes", device), work.labels(device)
    with torch.no_grad():
        for theirs, here in zip(peer.parameters(), other.parameters(), strict=True):
            here.copy_(2 * torch.empty_like(here).uniform_(-1, 1, generator=_seeded(here)) / _fan_in(here) ** 0.5)
            theirs.copy_(gain * here)
    found = []
    for net in (peer, other):
        out = net(x)
        loss_of(out, labels).backward()
        found.append(out.detach())
    difference = None
    if gradients:
        pairs = zip(peer.parameters(), other.parameters(), strict=True)
        difference = max(_relative(a.grad, b.grad) for a, b in pairs)  # type: ignore[arg-type]
    return {
        "network": work.name,
        "peer": name,
        "equal_to": "spikecredit" if isinstance(other, sc.Network) else "SpikingJelly LIFNode",
        "unequal_spikes": float((found[0] != found[1]).float().mean()),
        "gradient_difference": difference,
        "rate": float(found[1].mean()),
    }


def _seeded(weight: Tensor) -> torch.Generator:
    return torch.Generator().manual_seed(weight.numel())


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel() if weight.ndim > 1 else 100


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))

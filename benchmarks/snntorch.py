"""The networks of snnTorch's tutorials 5 and 6, moved over by one call: the same results, and how much faster.

    python -m benchmarks.snntorch [--repeats 9] [--quick]

Both are built as the tutorials build them, and trained with the tutorials' losses and optimisers: a training step is
forward, loss, backward and Adam. snnTorch's loop and our network take turns in one process. Images are random, as
bright as MNIST's. Before the clock starts the outputs and the gradients of the two are compared on the same weights:
as they are, and three times as large, so that all layers fire before any training, and rounded to multiples of 2^-8, as
the pixels are. Sums are then exact in whatever order they are taken;
ours are taken in another one where few inputs are not 0 (`spikecredit.synapses.events`).

Sizes, constants, losses and learning rates: snnTorch's documentation, docs/tutorials/tutorial_5.rst (at commit 02fc50b)
and tutorial_6.rst (0e08322).

Writes results/snntorch.json.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import snntorch as snn
import torch
from snntorch import functional, surrogate, utils
from torch import Tensor, nn
from torch.nn import functional as F

import spikecredit as sc
from benchmarks.common import interleaved, write
from benchmarks.speed_networks import MNIST_LIT, MNIST_MEAN


class FullyConnected(nn.Module):
    """Tutorial 5: 784-1000-10, beta 0.95, 25 steps; potentials of the last neurons are trained."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.fc1, self.lif1 = nn.Linear(784, 1000), snn.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(1000, 10), snn.Leaky(beta=0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, potentials = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            potentials.append(mem2)
        return torch.stack(spikes), torch.stack(potentials)


def convolutional() -> nn.Sequential:
    """Tutorial 6: 12C5-MP2-64C5-MP2-1024FC10, beta 0.5, one time step a call."""
    lif: dict[str, Any] = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), snn.Leaky(**lif), nn.Conv2d(12, 64, 5), nn.MaxPool2d(2),
        snn.Leaky(**lif), nn.Flatten(), nn.Linear(1024, 10), snn.Leaky(output=True, **lif),
    )  # fmt: skip


def loop(model: nn.Module, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Tutorial 6's pass over time: spikes and potentials (T, B, 10)."""
    utils.reset(model)
    outputs = [model(x) for _ in range(steps)]
    return torch.stack([spk for spk, _ in outputs]), torch.stack([mem for _, mem in outputs])


def potential_loss(potentials: Tensor, labels: Tensor) -> Tensor:
    """Tutorial 5: cross-entropy of the potentials, summed over the steps."""
    return sum((F.cross_entropy(step, labels) for step in potentials), torch.zeros(()))


@dataclass(frozen=True)
class Case:
    """A tutorial: theirs and ours as functions of an image batch, on the same weights."""

    title: str
    theirs: nn.Module
    ours: sc.Network
    spikes_and_potentials: Callable[[Tensor], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    rate: float
    steps: int
    images: Tensor
    read: str

    def run(self, x: Tensor) -> Tensor:
        return self.spikes_and_potentials(x)[self.read == "potentials"]

    def run_ours(self, x: Tensor) -> Tensor:
        return self.ours(sc.encode.constant(x, self.steps))


def images(batch: int) -> Tensor:
    """(B, 1, 28, 28): pixels in [0, 1], as many lit and as bright as MNIST's."""
    dimmest = 2 * MNIST_MEAN / MNIST_LIT - 1
    lit = torch.rand(batch, 1, 28, 28) < MNIST_LIT
    return rounded(lit * (dimmest + (1 - dimmest) * torch.rand(batch, 1, 28, 28)))


def cases(batch: int = 128, steps: tuple[int, int] = (25, 50)) -> list[Case]:
    torch.manual_seed(0)
    x = images(batch)
    dense, conv = FullyConnected(steps[0]), convolutional()
    return [
        Case(
            f"tutorial 5: 784-1000-10, {steps[0]} steps, batch {batch}", dense,
            sc.from_snntorch(dense, x.flatten(1), read="potentials"), dense, potential_loss, 5e-4,
            steps[0], x.flatten(1), "potentials",
        ),
        Case(
            f"tutorial 6: 12C5-MP2-64C5-MP2-1024FC10, {steps[1]} steps, batch {batch}", conv, sc.from_snntorch(conv),
            lambda x: loop(conv, x, steps[1]), functional.ce_rate_loss(), 1e-2, steps[1], x, "spikes",
        ),
    ]  # fmt: skip


def compared(case: Case, labels: Tensor) -> dict[str, float]:
    """How far the last neurons' potentials, and the gradients of the two are from each other.

    The potentials even where the spikes are read: of an untrained network they may be all 0.
    """
    case.loss(case.run(case.images), labels).backward()
    case.loss(case.run_ours(case.images), labels).backward()
    with torch.no_grad():
        theirs = case.spikes_and_potentials(case.images)[1]
        net = sc.from_snntorch(case.theirs, case.images, read="potentials")
        ours = net(sc.encode.constant(case.images, case.steps))
    weights = [p for m in case.theirs.modules() if isinstance(m, nn.Linear | nn.Conv2d) for p in m.parameters()]
    distance = max(
        float((a.grad - b.grad).abs().max() / b.grad.abs().max())
        for a, b in zip(case.ours.parameters(), weights, strict=True)
    )
    for module in (case.theirs, case.ours):
        module.zero_grad()
    return {
        "outputs": theirs.numel(),
        "spikes": int((theirs > 1.0).sum()),
        "largest": float(theirs.abs().max()),
        "different": int((theirs != ours).sum()),
        "different_spikes": int(((theirs > 1.0) != (ours > 1.0)).sum()),
        "largest_difference": float((theirs - ours).abs().max()),
        "gradient_difference": distance,
    }


def rounded(tensor: Tensor) -> Tensor:
    return (tensor * 2**8).round() / 2**8


def compared_exactly(case: Case, labels: Tensor) -> dict[str, float]:
    """`compared` with three times the weights, on the grid; afterwards the weights are as before."""
    modules = case.theirs, case.ours
    kept = [copy.deepcopy(module.state_dict()) for module in modules]
    with torch.no_grad():
        for module in modules:
            for layer in module.modules():
                for parameter in layer.parameters() if isinstance(layer, nn.Linear | nn.Conv2d) else ():
                    parameter.copy_(rounded(3 * parameter))
    found = compared(case, labels)
    for module, state in zip(modules, kept, strict=True):
        module.load_state_dict(state)
    return found


def step_of(parameters: Any, run: Callable[[Tensor], Tensor], case: Case, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(parameters, lr=case.rate)

    def step() -> None:
        loss = case.loss(run(case.images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measured(case: Case, repeats: int) -> dict[str, Any]:
    labels = torch.randint(10, (len(case.images),))
    row: dict[str, Any] = {"network": case.title, "read": case.read, **compared(case, labels)}
    row["on_grid"] = compared_exactly(case, labels)
    with torch.no_grad():
        row["forward"] = interleaved(
            {"snnTorch": lambda: case.run(case.images), "ours": lambda: case.run_ours(case.images)}, repeats
        )
    steps = {
        "snnTorch": step_of(case.theirs.parameters(), case.run, case, labels),
        "ours": step_of(case.ours.parameters(), case.run_ours, case, labels),
    }
    row["train"] = interleaved(steps, repeats)
    for what in ("forward", "train"):
        row[f"{what}_x"] = row[what]["snnTorch"]["median"] / row[what]["ours"]["median"]
    return row


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for `benchmarks.tables`."""
    header = ["network", "read", "potentials that differ, three times the weights, on a grid",
              "largest difference of potentials, weights as they are",
              "forward pass: snnTorch / ours", "", "training step: snnTorch / ours", ""]  # fmt: skip
    rows = []
    for row in found["rows"]:
        cells = [row["network"], row["read"]]
        exact = row["on_grid"]
        cells.append(f"{exact['different']} of {row['outputs']:,} ({exact['spikes']:,} spikes)")
        cells.append(f"{row['largest_difference']:.1g} of {row['largest']:.2f}")
        for what in ("forward", "train"):
            theirs, ours = (1e3 * row[what][name]["median"] for name in ("snnTorch", "ours"))
            cells += [f"{theirs:.0f} / {ours:.0f} ms", f"{row[f'{what}_x']:.2f} x"]
        rows.append(cells)
    return header, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small batches and few steps, and nothing is written")
    given = parser.parse_args()
    found = cases(8, (5, 5)) if given.quick else cases()
    rows = []
    for case in found:
        rows.append(measured(case, given.repeats))
        print({key: value for key, value in rows[-1].items() if not isinstance(value, dict)}, flush=True)
    if not given.quick:
        print(
            write(
                "snntorch", "python -m benchmarks.snntorch", torch.device("cpu"), rows=rows, repeats=given.repeats,
                snntorch=snn.__version__,
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()

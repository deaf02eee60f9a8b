"""What a pathway costs: training step and backward pass of each, against backprop, in one process.

A step ends with `after_step`, in which weight mirrors have their noise phase and antiparallel feedback its correlation.
The last row of each network is what measuring angles on 64 images takes, which training does once in an epoch.

    python -m benchmarks.pathways [--device cuda] [--repeats 15]
The learning rate is 0: all pathways then have the same spikes at every step, on whose number the time depends.

Writes results/pathways-DEVICE.json.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

import spikecredit as sc
from benchmarks.common import arguments, interleaved, training_step, write
from spikecredit.analysis import alignment

PATHWAYS = {
    "backprop": sc.Backprop(),
    "feedback alignment": sc.FeedbackAlignment(),
    "sign symmetry, uniform": sc.SignSymmetry(),
    "sign symmetry, fixed": sc.SignSymmetry(magnitude="fixed"),
    "sign symmetry, batch": sc.SignSymmetry(magnitude="batch"),
    "sign symmetry, threshold": sc.SignSymmetry(threshold=0.6),
    "Kolen-Pollack": sc.KolenPollack(),
    "weight mirror": sc.WeightMirror(),
    "weight mirror, every 10 steps": sc.WeightMirror(every=10),
    "antiparallel": sc.Antiparallel(),
    "direct feedback": sc.DirectFeedbackAlignment(),
    "direct feedback, sequence": sc.DirectFeedbackAlignment(when="sequence"),
    "direct Kolen-Pollack": sc.DirectKolenPollack(),
}


MEASURING = "(measuring angles on 64 images)"


def _loss(out: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(out.mean(0), labels)


def networks(device: torch.device) -> dict[str, tuple[sc.architectures.Architecture, tuple[int, int, int], int, int]]:
    """Architecture, image shape, time steps, batch."""
    small = {
        "MLP 784-1000-1000-10": (sc.MLP((1000, 1000)), (1, 28, 28), 10, 128),
        "MLP 784-1000-1000-1000-10": (sc.MLP((1000, 1000, 1000)), (1, 28, 28), 10, 128),
        "LeNet 16-48-256": (sc.LeNet((16, 48), hidden=(256,), norm=True), (1, 28, 28), 4, 100),
    }
    if device.type == "cuda":
        small["VGG-11, CIFAR"] = (sc.VGG(), (3, 32, 32), 4, 128)
        small["ResNet-20, CIFAR"] = (sc.ResNet(), (3, 32, 32), 4, 128)
    return small


def main() -> None:
    device, repeats = arguments(__doc__)
    results = []
    for name, (architecture, shape, steps, batch) in networks(device).items():
        images = torch.rand(batch, *shape, device=device)
        labels = torch.randint(10, (batch,), device=device)
        x = sc.encode.constant(images, steps)
        step_calls: dict[str, Callable[[], object]] = {}
        backward_calls: dict[str, Callable[[], object]] = {}
        for label, pathway in PATHWAYS.items():
            net = architecture.build(shape, 10, sc.LIF(2.0), sc.LeakyReadout(5.0), pathway).to(
                device, memory_format=torch.channels_last
            )
            optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
            loss = _loss(net(x), labels)

            def backward(loss: Tensor = loss) -> None:
                loss.backward(retain_graph=True)

            step_calls[label], backward_calls[label] = training_step(net, optimizer, x, labels), backward
            if label == "feedback alignment":
                probe: Callable[[], object] = partial(alignment, net, x[:, :64], labels[:64], loss=_loss)
        step_calls[MEASURING] = probe
        for kind, calls in (("backward", backward_calls), ("step", step_calls)):
            measured = interleaved(calls, repeats, device=device.type)
            base = measured["backprop"]["median"]
            for label, seconds in measured.items():
                row = {"network": name, "what": kind, "pathway": label, **seconds, "ratio": seconds["median"] / base}
                results.append(row)
                print(
                    f"{name:<26}{kind:<10}{label:<32}{seconds['median'] * 1e3:9.2f} ms   {row['ratio']:.3f} x backprop"
                )
    command = f"python -m benchmarks.pathways --repeats {repeats}"
    print(write(f"pathways-{device.type}", command, device, rows=results))


if __name__ == "__main__":
    main()

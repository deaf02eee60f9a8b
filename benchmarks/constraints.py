"""What a constraint costs: a training step under each, against the same weights without one, in one process.

    python -m benchmarks.constraints [--device cuda] [--repeats 15]

The learning rate is 0 and all networks start from the same effective weights: all have the same spikes, on whose
number the time depends. Writes results/constraints-DEVICE.json.
"""

from collections.abc import Callable

import torch

import spikecredit as sc
from benchmarks.common import arguments, interleaved, training_step, write
from benchmarks.pathways import networks

CONSTRAINTS: dict[str, sc.Unconstrained | sc.Dale | sc.FrozenSigns] = {
    "none": sc.Unconstrained(),
    "project": sc.Dale(),
    "reparametrize, abs": sc.Dale(mode="reparametrize"),
    "reparametrize, exp": sc.Dale(mode="reparametrize", magnitude="exp"),
    "reparametrize, softplus": sc.Dale(mode="reparametrize", magnitude="softplus"),
    "project, exponentiated AdamW": sc.Dale(),
    "frozen signs": sc.FrozenSigns(),
}


def main() -> None:
    device, repeats = arguments(__doc__)
    results = []
    for name, (architecture, shape, steps, batch) in networks(device).items():
        images = torch.rand(batch, *shape, device=device)
        labels = torch.randint(10, (batch,), device=device)
        x = sc.encode.constant(images, steps)
        dale = architecture.build(shape, 10, sc.LIF(2.0), sc.LeakyReadout(5.0), sc.SignSymmetry("fixed"), sc.Dale())
        effective = {key: layer.effective_weight().detach() for key, layer in dale.synapses().items()}
        calls: dict[str, Callable[[], None]] = {}
        for label, constraint in CONSTRAINTS.items():
            net = architecture.build(
                shape, 10, sc.LIF(2.0), sc.LeakyReadout(5.0), sc.SignSymmetry("fixed"), constraint
            ).to(device, memory_format=torch.channels_last)
            if not isinstance(constraint, sc.Dale):  # which has them from the seed
                with torch.no_grad():
                    for key, layer in net.synapses().items():
                        layer.weight.copy_(effective[key])
                if isinstance(constraint, sc.FrozenSigns):
                    sc.freeze_signs(net)
            kind = sc.EGAdamW if "exponentiated" in label else torch.optim.Adam
            optimizer = kind(net.parameters(), lr=0.0)
            calls[label] = training_step(net, optimizer, x, labels)
        measured = interleaved(calls, repeats, device=device.type)
        base = measured["none"]["median"]
        for label, seconds in measured.items():
            row = {"network": name, "constraint": label, **seconds, "ratio": seconds["median"] / base}
            results.append(row)
            print(f"{name:<26}{label:<30}{seconds['median'] * 1e3:9.2f} ms   {row['ratio']:.3f} x none")
    command = f"python -m benchmarks.constraints --repeats {repeats}"
    print(write(f"constraints-{device.type}", command, device, rows=results))


if __name__ == "__main__":
    main()

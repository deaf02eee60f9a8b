"""LTP and LTD on networks that classify: digits are shown again to trained networks whose synapses follow a rule.

    python -m benchmarks.circuits_plastic [--show 100] [--brian 3]

Networks on the embedded digits, pixels as Poisson spikes, are trained by our loop. Then a rule drives both hidden
layers while training images are shown: many in torch (`Plastic`, batches of one), the first few also in Brian2
(`attach`). Writes results/circuits-plastic.json.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import spikecredit as sc
from benchmarks.common import write
from spikecredit.plasticity import PairSTDP, Plastic, Rule, TripletSTDP, attach

STEPS, HIDDEN, SCALE = 25, (40, 20), 0.001
RULES: dict[str, Callable[[], Rule]] = {
    "triplets, hippocampus": lambda: TripletSTDP.preset("hippocampus_all_to_all"),
    "triplets, visual cortex": lambda: TripletSTDP.preset("visual_cortex_all_to_all"),
    "pairs, Bi & Poo": lambda: PairSTDP.preset("bi_poo"),
    "pairs, reversed (Bi & Poo's window, amplitudes negated)": lambda: reversed_window(),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "sign symmetry": {"pathway": sc.SignSymmetry()},
    "sign symmetry + Dale's law": {"pathway": sc.SignSymmetry(), "constraint": sc.Dale()},
}


def reversed_window() -> Rule:
    """Depression where pre comes before post, as synapses of the striatum have it; amplitudes are ours."""
    rule = PairSTDP.preset("bi_poo")
    return replace(rule, A_plus=-rule.A_plus, A_minus=-rule.A_minus)


def spikes(images: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return sc.encode.rate(images.flatten(1).double() / 16, STEPS)


def trained(data: Any, epochs: int, seed: int = 0, **options: Any) -> sc.Network:
    """A network of two hidden layers after our loop."""
    torch.manual_seed(seed)
    first, second = HIDDEN
    net = sc.Network(
        sc.Linear(64, first), sc.LIF(tau=5.0), sc.Linear(first, second), sc.LIF(tau=5.0), sc.Linear(second, 10),
        sc.LeakyReadout(tau=5.0), seed=seed, **options,
    ).double()  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    sc.attach(net, optimizer)
    for epoch in range(epochs):
        order = torch.randperm(len(data.train.labels))
        for k, part in enumerate(order.split(64)):
            out = net(spikes(data.train.images[part], 1000 * epoch + k))
            optimizer.zero_grad()
            F.cross_entropy(out.mean(0), data.train.labels[part]).backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: sc.Network, data: Any) -> float:
    out = net(spikes(data.test.images, 999))
    return float((out.mean(0).argmax(1) == data.test.labels).double().mean())


def plastic_of(net: sc.Network, rule: Rule) -> Plastic:
    """Both hidden layers under the rule; a weight of SCALE is 1 for it."""
    return Plastic(net, {"layers.0": rule, "layers.2": rule}, scale=SCALE)


def compared(net: sc.Network, rule: Rule, shown: Tensor) -> dict[str, Any]:
    """Both engines on the same inputs (T, N, 64), one after another, weights carried on in each by itself."""
    here, there = copy.deepcopy(net), copy.deepcopy(net)
    torch_side, brian_side = plastic_of(here, rule), plastic_of(there, rule)
    differ = fired = 0
    seconds = {"torch": 0.0, "brian2": 0.0}
    for k in range(shown.shape[1]):
        x = shown[:, k : k + 1]
        before = time.perf_counter()
        circuit = attach(sc.circuits.to_brian(sc.circuits.Circuit.of(there, (64,), bits=None), x), brian_side)
        found = circuit.run()
        circuit.write()
        seconds["brian2"] += time.perf_counter() - before
        before = time.perf_counter()
        out = torch_side(x)
        seconds["torch"] += time.perf_counter() - before
        differ += int((~torch.isclose(out, found.output, rtol=0, atol=1e-9)).sum())
        fired += sum(int(s.sum()) for s in found.spikes.values())
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(here.parameters(), there.parameters(), strict=True))
    n = shown.shape[1]
    return {
        "images": n, "hidden_spikes": fired, "differing_outputs": differ, "largest_difference_of_weights": gap,
        "seconds_per_image": {name: value / n for name, value in seconds.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", type=int, default=100)
    parser.add_argument("--brian", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    given = parser.parse_args()
    data = sc.data.Digits().load()
    shown = spikes(data.train.images[: given.show], 7)
    rows = []
    for title, options in NETWORKS.items():
        net = trained(data, given.epochs, **options)
        before = accuracy(net, data)
        for name, make in RULES.items():
            now, curve = copy.deepcopy(net), [before]
            plastic = plastic_of(now, make())
            for k in range(given.show):
                plastic(shown[:, k : k + 1])
                if (k + 1) % max(1, given.show // 10) == 0:
                    curve.append(accuracy(now, data))
            pairs = [(net.layers[k].weight.detach(), now.layers[k].weight.detach()) for k in (0, 2)]
            row = {
                "network": title, "rule": name, "before": before, "after": curve[-1], "curve": curve,
                "change": [float((b.abs().sum() - a.abs().sum()) / a.abs().sum()) for a, b in pairs],
                "moved": [float((b - a).norm() / a.norm()) for a, b in pairs], "violations": now.violations(),
                "engines": compared(net, make(), shown[:, : given.brian]),
            }  # fmt: skip
            rows.append(row)
            print({key: value for key, value in row.items() if key != "curve"}, flush=True)
    command = f"python -m benchmarks.circuits_plastic --show {given.show} --brian {given.brian}"
    write("circuits-plastic", command, torch.device("cpu"), shown=given.show, scale=SCALE, steps=STEPS, rows=rows)


if __name__ == "__main__":
    main()

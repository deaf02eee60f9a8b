"""Dense layers by events and by tables against the matrix product: from which density and which size on do they pay?

    python -m benchmarks.events [--repeats 15]

Float32, forward and weight gradient. Densities: (3200, 784) x (784, 1000), as in FC 784-1000-10 at T = 25, batch 128.
Sizes: square layers, events at 5 % of spikes and tables at 50 %. Writes results/events-cpu.json.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import arguments, interleaved, write
from spikecredit.synapses import events

ROWS, INPUTS, OUTPUTS = 3200, 784, 1000
WAYS: dict[str, events.Way] = {"by events": "events", "by tables": "tables", "dense": "dense"}
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.13, 0.2, 0.25, 0.3, 0.4, 0.5)
SIZES = ((64, 128, 512, 1024, 4096), (64, 128, 256, 512, 1024))
"""Rows, and inputs as outputs."""
AT: dict[str, float] = {"by events": 0.05, "by tables": 0.5}


def cases(rows: int, inputs: int, outputs: int, density: float) -> dict[str, dict[str, Callable[[], Any]]]:
    """Both products by every way."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.zeros(outputs)
    grad = torch.randn(rows, outputs, generator=generator)
    x = (torch.rand(rows, inputs, generator=generator) < density).float()
    return {
        name: {
            "forward": lambda way=way: events.product(x, weight, bias, way),
            "weight gradient": lambda way=way: events.weight_gradient(grad, x, way),
        }
        for name, way in WAYS.items()
    }  # fmt: skip


def tables(record: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]], str]]:
    """Milliseconds at each density, and how many times as fast as the dense product at each size, with notes."""
    n, inputs, outputs = record["shape"]
    names = [name for name in record["rows"][0] if name != "density"]
    rows = [[f"{row['density']:.0%}", *(f"{row[n]['median'] * 1e3:.1f}" for n in names)] for row in record["rows"]]
    sizes = [
        [f"{s['rows']} x {s['side']}", f"{s['rows'] * s['side'] ** 2 / 1e6:.1f}", *(f"{s[way]:.2f}" for way in AT)]
        for s in record["sizes"]
    ]
    header = ["rows x inputs = outputs", "million products", *(f"{way}, {AT[way]:.0%} spike" for way in AT)]
    note = f"ms, float32, {n} x {inputs} by {inputs} x {outputs}."
    both = "Times as fast as dense, forward and weight gradient together."
    return {"events": (["inputs that spike", *names], rows, note), "events_sizes": (header, sizes, both)}


def main() -> None:
    device, repeats = arguments(__doc__)
    if device.type != "cpu":
        raise SystemExit("products by events or tables are a matter of the CPU: leave out --device")
    torch.set_num_threads(2)
    rows, sizes = [], []
    for density in DENSITIES:
        made = cases(ROWS, INPUTS, OUTPUTS, density)
        found = interleaved(
            {f"{what}, {way}": made[way][what] for what in ("forward", "weight gradient") for way in WAYS}, repeats
        )
        rows.append({"density": density, **found})
        print(f"{density:5.0%}  " + "  ".join(f"{name} {found[name]['median'] * 1e3:.2f} ms" for name in found))
    for count, side in itertools.product(*SIZES):
        row: dict[str, Any] = {"rows": count, "side": side}
        for way, density in AT.items():
            made = cases(count, side, side, density)
            both = {name: lambda each=made[name]: [f() for f in each.values()] for name in (way, "dense")}
            found = interleaved(both, repeats)
            row[way] = found["dense"]["median"] / found[way]["median"]
        sizes.append(row)
        print(f"{count} x {side}  " + "  ".join(f"{way} {row[way]:.2f} x" for way in AT))
    shape = [ROWS, INPUTS, OUTPUTS]
    print(write("events-cpu", "python -m benchmarks.events", device, shape=shape, rows=rows, sizes=sizes))


if __name__ == "__main__":
    main()

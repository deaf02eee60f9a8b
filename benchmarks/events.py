"""Layers by events and by tables against the dense products: from which density and which size on do they pay?

    python -m benchmarks.events [--repeats 15]

Forward and weight gradient, in float32 where nothing else is said. Densities: (3200, 784) x (784, 1000), as in FC
784-1000-10 at T = 25, batch 128. Sizes: square layers, events at 5 % of spikes and tables at 50 %, these in bfloat16
too. Readouts: layers of few outputs. Convolutions: the layers of LeNet and VGG, channels last, 13 % of spikes, and the
error of a 2 x 2 maximum behind them. First layers: convolution and maximum, by codes of the kernel's rows, from how
many images on. Writes results/events-cpu.json.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

import spikecredit as sc
from benchmarks.common import arguments, interleaved, write
from benchmarks.speed_networks import MNIST_MEAN
from spikecredit.synapses import conv_events, events, pooled
from spikecredit.synapses.pooled import Pooling

ROWS, INPUTS, OUTPUTS = 3200, 784, 1000
WAYS: dict[str, events.Way] = {"by events": "events", "by tables": "tables", "dense": "dense"}
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.13, 0.2, 0.25, 0.3, 0.4, 0.5)
SIZES = ((64, 128, 512, 1024, 4096), (64, 128, 256, 512, 1024))
"""Rows, and inputs as outputs."""
AT: dict[str, float] = {"by events": 0.05, "by tables": 0.5}
IN_BF16 = "by tables, bf16"

READOUTS = (
    (512, 128, 10), (1000, 400, 10), (1000, 784, 10), (3200, 300, 10), (3200, 1000, 10), (12800, 256, 10),
    (1000, 784, 20), (3200, 300, 20), (12800, 256, 20), (1000, 784, 100), (3200, 300, 100), (3200, 1000, 100),
)  # fmt: skip
"""Rows, inputs and outputs."""
CONVOLUTIONS = (
    (458, 12, 12, 64, 5, 0), (128, 8, 16, 64, 3, 1), (128, 32, 16, 64, 3, 1), (16, 64, 32, 64, 3, 1),
    (64, 64, 16, 128, 3, 1), (64, 128, 8, 256, 3, 1), (64, 256, 8, 256, 3, 1), (64, 256, 4, 512, 3, 1),
    (64, 512, 4, 512, 3, 1),
)  # fmt: skip
"""Images, channels, pixels a side, outputs, kernel, padding. The first: LeNet's second layer, one chunk of images."""

FIRST = (
    (40, 1, 28, 12, 5, 0), (80, 1, 28, 12, 5, 0), (3200, 1, 28, 12, 5, 0), (800, 1, 28, 32, 5, 0),
    (800, 1, 28, 6, 7, 0), (800, 1, 28, 64, 3, 1), (800, 2, 34, 12, 5, 0), (400, 2, 34, 32, 3, 1),
    (64, 3, 32, 64, 3, 1), (400, 3, 32, 32, 5, 2), (200, 4, 32, 64, 3, 1), (200, 8, 28, 32, 5, 0),
)  # fmt: skip
"""The same. Half the inputs spike, as those of a Bernoulli code of images may."""
NUMBERS = {"float32": torch.float32, "bf16": torch.bfloat16}

WORK = (("forward", "by tables"), ("weight gradient", "by tables"), ("behind a maximum", "by events"))


FIRST_WAYS = [f"{name}, {way}" for name in NUMBERS for way in ("by codes", "dense")]


def readout(rows: int, inputs: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """Both products of a layer of few outputs, by every way that it has."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.zeros(outputs)
    x = (torch.rand(rows, inputs, generator=generator) < MNIST_MEAN).float()
    grad = torch.randn(rows, outputs, generator=generator)
    ways: dict[str, events.Way] = {"narrow": "narrow"} if outputs <= events.NARROW else {}
    ways |= {"by tables": "tables", "dense": "dense"}
    return {
        **{f"forward, {name}": lambda way=way: events.product(x, weight, bias, way) for name, way in ways.items()},
        **{f"weight gradient, {name}": _gradient(grad, x, weight, way) for name, way in ways.items()},
    }


def _gradient(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, way: events.Way) -> Callable[[], Any]:
    """The weight gradient, from what the forward pass keeps."""
    _, way, kept = events.product(x, weight, None, way)
    return lambda: events.weight_gradient(grad, kept, weight.shape[1], way)


def convolution(
    images: int, channels: int, side: int, outputs: int, size: int, pad: int
) -> dict[str, Callable[[], Any]]:
    """The forward product, the weight gradient, and all gradients behind a maximum: by our loops, and dense."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(images, channels, side, side, generator=generator) < MNIST_MEAN).float()
    weight, bias = torch.randn(outputs, channels, size, size, generator=generator), torch.zeros(outputs)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    geometry: conv_events.Geometry = (1, 1), (pad, pad), (1, 1), 1
    pooling, scratch = Pooling(True, (2, 2, 0, 1, False)), conv_events.convolution(x, weight, bias, geometry)[0]
    grad, (top, at) = torch.randn_like(scratch), pooling.forward(scratch)
    error, g_x, plane = torch.randn_like(top), torch.empty_like(x), (scratch.shape[2], scratch.shape[3])

    def dense_maximum() -> None:
        pooling.backward(error, at, scratch)
        conv_events.gradients(scratch, x, weight, geometry, (True, True, True))

    return {
        "forward, by tables": lambda: conv_events.convolution(x, weight, bias, geometry, "tables"),
        "forward, dense": lambda: conv_events.convolution(x, weight, bias, geometry),
        "weight gradient, by tables": lambda: conv_events.weight_gradient(grad, x, (size, size), geometry),
        "weight gradient, dense": lambda: conv_events.gradients(grad, x, weight, geometry, (False, True, False)),
        "behind a maximum, by events": lambda: pooled.kernels().gradients(
            error, at, x, weight, geometry, plane, (True, True, True), g_x
        ),
        "behind a maximum, dense": dense_maximum,
    }


def first(
    images: int, channels: int, side: int, outputs: int, size: int, pad: int, dtype: torch.dtype
) -> dict[str, Callable[[], Any]]:
    """A step of a first layer, channels last, with a 2 x 2 maximum behind: by codes, and dense."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(images, channels, side, side, generator=generator) < 0.5).to(dtype)
    conv, pool = sc.Conv2d(channels, outputs, size, padding=pad).to(dtype), sc.MaxPool2d(2)
    conv = conv.to(memory_format=torch.channels_last)
    error = torch.randn_like(pooled.conv_pool(conv, pool, x))

    def step(coded: bool) -> None:
        with mock.patch.multiple(pooled, CODED=0 if coded else math.inf, FEW=channels):
            pooled.conv_pool(conv, pool, x).backward(error)

    return {"by codes": lambda: step(True), "dense": lambda: step(False)}


def cases(
    rows: int, inputs: int, outputs: int, density: float, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Both products by every way that the type has."""
    ways = {name: way for name, way in WAYS.items() if way != "events" or dtype == torch.float32}
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(outputs, inputs, generator=generator).to(dtype), torch.zeros(outputs).to(dtype)
    grad = torch.randn(rows, outputs, generator=generator).to(dtype)
    x = (torch.rand(rows, inputs, generator=generator) < density).to(dtype)
    return {
        name: {
            "forward": lambda way=way: events.product(x, weight, bias, way),
            "weight gradient": _gradient(grad, x, weight, way),
        }
        for name, way in ways.items()
    }  # fmt: skip


def tables(record: dict[str, Any]) -> dict[str, tuple[list[str], list[list[str]], str]]:
    """Milliseconds at each density, and how many times as fast as the dense product at each size, with notes."""
    n, inputs, outputs = record["shape"]
    names = [name for name in record["rows"][0] if name != "density"]
    rows = [[f"{row['density']:.0%}", *(f"{row[n]['median'] * 1e3:.1f}" for n in names)] for row in record["rows"]]
    sizes = [
        [
            f"{s['rows']} x {s['side']}",
            f"{s['rows'] * s['side'] ** 2 / 1e6:.1f}",
            *(f"{s[way]:.2f}" for way in (*AT, IN_BF16)),
        ]
        for s in record["sizes"]
    ]
    header = ["rows x inputs = outputs", "million products", *(f"{way}, {AT[way]:.0%} spike" for way in AT), IN_BF16]
    note = f"ms, float32, {n} x {inputs} by {inputs} x {outputs}."
    both = "Times as fast as dense, forward and weight gradient together."
    convolutions = [
        [
            row["layer"],
            *(f"{row[f'{what}, {name}']['median'] * 1e3:.1f}" for what, way in WORK for name in (way, "dense")),
        ]
        for row in record["convolutions"]
    ]
    titles = [f"{what}, {name}" for what, way in WORK for name in (way, "dense")]
    last = "ms, float32, channels last, 13 % of the inputs spike."
    firsts = [[row["layer"], *(f"{row[name]['median'] * 1e3:.1f}" for name in FIRST_WAYS)] for row in record["first"]]
    narrow = list(readout(1, 1, 1))
    readouts = [
        [
            f"{row['rows']} x {row['inputs']}",
            str(row["outputs"]),
            *(f"{row[name]['median'] * 1e3:.2f}" if name in row else "" for name in narrow),
        ]
        for row in record["readouts"]
    ]
    return {
        "events": (["inputs that spike", *names], rows, note),
        "events_sizes": (header, sizes, both),
        "events_readouts": (["rows x inputs", "outputs", *narrow], readouts, "ms, float32."),
        "events_conv": (["images, layer", *titles], convolutions, last),
        "events_first": (["images, layer", *FIRST_WAYS], firsts, "ms, channels last, half the inputs spike."),
    }


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
        made = cases(count, side, side, AT["by tables"], torch.bfloat16)
        both = {name: lambda each=made[name]: [f() for f in each.values()] for name in ("by tables", "dense")}
        found = interleaved(both, repeats)
        row[IN_BF16] = found["dense"]["median"] / found["by tables"]["median"]
        sizes.append(row)
        print(f"{count} x {side}  " + "  ".join(f"{way} {row[way]:.2f} x" for way in (*AT, IN_BF16)))
    readouts = []
    for count, inputs, outputs in READOUTS:
        found = interleaved(readout(count, inputs, outputs), repeats)
        readouts.append({"rows": count, "inputs": inputs, "outputs": outputs, **found})
        print(
            f"{count} x {inputs} x {outputs}  "
            + "  ".join(f"{name} {found[name]['median'] * 1e3:.2f} ms" for name in found)
        )
    convolutions = []
    for images, channels, side, outputs, size, pad in CONVOLUTIONS:
        layer = f"{images} x {channels}@{side}x{side}, {outputs}@{size}x{size}"
        found = interleaved(convolution(images, channels, side, outputs, size, pad), repeats)
        convolutions.append({"layer": layer, **found})
        print(f"{layer}  " + "  ".join(f"{name} {found[name]['median'] * 1e3:.2f} ms" for name in found))
    firsts = []
    for images, channels, side, outputs, size, pad in FIRST:
        layer = f"{images} x {channels}@{side}x{side}, {outputs}@{size}x{size}"
        row = {"layer": layer}
        for name, dtype in NUMBERS.items():
            found = interleaved(first(images, channels, side, outputs, size, pad, dtype), repeats)
            row |= {f"{name}, {way}": seconds for way, seconds in found.items()}
        firsts.append(row)
        print(f"{layer}  " + "  ".join(f"{name} {row[name]['median'] * 1e3:.2f} ms" for name in FIRST_WAYS))
    found = {"rows": rows, "sizes": sizes, "readouts": readouts, "convolutions": convolutions, "first": firsts}
    command = "python -m benchmarks.events"
    print(write("events-cpu", command, device, shape=[ROWS, INPUTS, OUTPUTS], **found))


if __name__ == "__main__":
    main()

"""Why the training loop lays networks out channels last: the LeNet step in both layouts and precisions, interleaved.

    python -m benchmarks.layout [--device cuda] [--repeats 15]

Writes results/layout-DEVICE.json.
"""

import torch
from torch.nn import functional as F

import spikecredit as sc
from benchmarks.common import arguments, interleaved, write


def main() -> None:
    device, repeats = arguments(__doc__)
    images = torch.rand(100, 1, 28, 28, device=device)
    labels = torch.randint(10, (100,), device=device)
    x = sc.encode.constant(images, 4)
    calls = {}
    for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        for precision in ("float32", "bf16"):
            architecture = sc.LeNet((16, 48), hidden=(256,), pool="max", norm=True)
            net = architecture.build((1, 28, 28), 10, sc.LIF(2.0), sc.LeakyReadout(5.0))
            net = net.to(device, memory_format=memory_format)

            def step(net: sc.Network = net, precision: str = precision) -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    out = net(x)
                F.cross_entropy(out.float().mean(0), labels).backward()

            calls[f"{layout}, {precision}"] = step
    measured = interleaved(calls, repeats, device=device.type)
    base = measured["contiguous, float32"]["median"]
    rows = []
    for name, seconds in measured.items():
        rows.append({"case": name, **seconds, "ratio": seconds["median"] / base})
        print(f"{name:<28}{seconds['median'] * 1e3:9.2f} ms   {seconds['median'] / base:.3f} x contiguous, float32")
    print(write(f"layout-{device.type}", "python -m benchmarks.layout", device, rows=rows))


if __name__ == "__main__":
    main()

"""Dense layers by events against the matrix product, at rising density of the spikes: where does counting pay?

    python -m benchmarks.events [--repeats 15]

Float32, (3200, 784) x (784, 1000), as in FC 784-1000-10 at T = 25 and batch 128. Writes results/events-cpu.json.
"""

import torch

from benchmarks.common import arguments, interleaved, write
from spikecredit.synapses import events

ROWS, INPUTS, OUTPUTS = 3200, 784, 1000
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.13, 0.2, 0.25, 0.3, 0.4, 0.5)


def main() -> None:
    device, repeats = arguments(__doc__)
    if device.type != "cpu":
        raise SystemExit("products by events are a matter of the CPU: leave out --device")
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(OUTPUTS, INPUTS, generator=generator), torch.zeros(OUTPUTS)
    grad = torch.randn(ROWS, OUTPUTS, generator=generator)
    rows = []
    for density in DENSITIES:
        x = (torch.rand(ROWS, INPUTS, generator=generator) < density).float()
        cases = {
            "forward, by events": lambda x=x: events.product(x, weight, bias),
            "forward, dense": lambda x=x: torch.nn.functional.linear(x, weight, bias),
            "weight gradient, by events": lambda x=x: events.weight_gradient(grad, x),
            "weight gradient, dense": lambda x=x: grad.t().mm(x),
        }
        found = interleaved(cases, repeats)
        rows.append({"density": density, **found})
        print(f"{density:5.0%}  " + "  ".join(f"{name} {found[name]['median'] * 1e3:.2f} ms" for name in cases))
    print(write("events-cpu", "python -m benchmarks.events", device, shape=[ROWS, INPUTS, OUTPUTS], rows=rows))


if __name__ == "__main__":
    main()

"""Layers that exist for exchange only: what other packages do between their neurons, and ours does differently."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikecredit.constraints import Population
from spikecredit.neurons import LIF, Neuron
from spikecredit.synapses import BatchNorm1d, BatchNorm2d
from spikecredit.synapses.synapse import Wiring

Read = Literal["spikes", "potentials"]


class AllFlat(nn.Flatten):
    """(T, B, *features) -> (T, B, N): `nn.Flatten()` of a loop over time, however many dimensions a sample has."""

    memoryless = True

    def __init__(self) -> None:
        super().__init__(2, -1)


class EachStep(nn.Module):
    """Batch normalisation with the statistics of one time step, as a loop over time calls it: (T, B, *) -> (T, B, *).

    y[t] = layer(x[t]), t = 0, 1, ...; ours takes its statistics from all steps of a sequence at once. In evaluation the
    two are the same.

    Args:
        layer: the normalisation.
    """

    def __init__(self, layer: BatchNorm1d | BatchNorm2d) -> None:
        super().__init__()
        self.layer = layer

    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population | None:
        """Bind the layer inside."""
        return self.layer.bind(source, name, wiring)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(x_t) for x_t in x]) if self.training else self.layer(x)

    def stream(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """As `forward`: the layer has no state over time."""
        return self(x), state


class Potentials(Neuron):
    """Neurons that fire and reset, and hand out their potentials: (T, B, *N) -> u (T, B, *N).

    The spikes are u > threshold.

    Args:
        neuron: a `LIF` or `CurrentLIF`.
    """

    spiking = False

    def __init__(self, neuron: LIF) -> None:
        super().__init__()
        self.neuron = neuron

    def stream(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        _, potentials, state = self.neuron.run(x, state, steps)
        return potentials, state


class SnnTorchLoop(nn.Sequential):
    """What `to_snntorch` makes: layers of torch and neurons of snnTorch in a row, run over time.

    (T, B, *in) -> (T, B, *out), from rest. The neurons have `init_hidden=True`; the last has `output=True`.

    Args:
        layers: in order. read: whether the result is the last neurons' "spikes" or their "potentials".
    """

    def __init__(self, *layers: nn.Module, read: Read = "spikes") -> None:
        super().__init__(*layers)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        self._rest()
        outputs = []
        for now in x:
            for layer in self:
                out = layer(now)
                if isinstance(out, tuple):
                    out = out[0 if self.read == "spikes" else -1]
                now = out.to(now.dtype)  # snnTorch 1.0.0's spikes are float32, whatever the potentials are
            outputs.append(now)
        self._rest()
        return torch.stack(outputs)

    def _rest(self) -> None:
        for layer in self:
            if (reset := getattr(layer, "reset_mem", None)) is not None:
                reset()

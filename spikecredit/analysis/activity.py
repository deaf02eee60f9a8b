"""Activity: what the neurons of a network do on a batch, and warnings about those that do nothing or everything."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikecredit.network import Network
from spikecredit.neurons import Neuron


class ActivityWarning(UserWarning):
    """A layer of neurons is silent or fires at every step."""


@dataclass(frozen=True)
class LayerActivity:
    """One layer of spiking neurons.

    spikes: mean spikes per neuron and sequence. rate: mean spikes per neuron and step. silent: fraction of neurons
    that never fired on the batch. neurons: how many there are.
    """

    spikes: float
    rate: float
    silent: float
    neurons: int = 0


@torch.no_grad()
def record(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output of every layer of neurons, (T, B, *N) by layer name, in order; x is (T, B, *in).

    Works on a copy: nothing of the network changes.
    """
    twin = copy.deepcopy(net)
    outputs: dict[str, list[Tensor]] = {}
    inside: set[nn.Module] = {
        part
        for neuron in twin.modules()
        if isinstance(neuron, Neuron)
        for part in neuron.modules()
        if part is not neuron
    }
    for name, neuron in twin.named_modules():
        if isinstance(neuron, Neuron) and neuron not in inside:
            outputs[name] = []
            _tap(neuron, outputs[name])
    twin(x)
    return {name: torch.cat(chunks) for name, chunks in outputs.items() if chunks}


def _tap(neuron: Neuron, chunks: list[Tensor]) -> None:
    """Shadow `stream`, through which every use of a neuron goes: whole sequences, streams and recurrent layers."""
    inner = neuron.stream

    def stream(x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        out, state = inner(x, state, steps)
        chunks.append(out)
        return out, state

    neuron.stream = stream  # type: ignore[method-assign]


def activity(
    net: nn.Module, x: Tensor, recorded: tuple[dict[str, Tensor], bool] | None = None
) -> dict[str, LayerActivity]:
    """Firing of every layer of spiking neurons on a batch x (T, B, *in), by layer name.

    Args:
        recorded: what the neurons did, and whether those are spikes, where a forward pass does not show it
            (`Rule.recorded`).
    """
    outputs = record(net, x) if recorded is None else recorded[0]
    spiking = {name for name, m in net.named_modules() if isinstance(m, Neuron) and m.spiking}
    if recorded is not None:
        spiking = set(outputs) if recorded[1] else set()
    result = {}
    for name, out in outputs.items():
        if name in spiking:
            spikes = out.float()
            result[name] = LayerActivity(
                spikes=float(spikes.sum(0).mean()),
                rate=float(spikes.mean()),
                silent=float((spikes.sum((0, 1)) == 0).float().mean()),
                neurons=spikes[0, 0].numel(),
            )
    return result


def spikes_per_neuron(measured: dict[str, LayerActivity]) -> float:
    """Mean spikes per neuron and sequence over all layers, each weighted by its neurons; NaN where none spikes."""
    neurons = sum(layer.neurons for layer in measured.values())
    return sum(layer.spikes * layer.neurons for layer in measured.values()) / neurons if neurons else float("nan")


def warn_of_extremes(measured: dict[str, LayerActivity], already: set[str]) -> None:
    """Warn once for each layer that is silent or fires at every step; `already` keeps the names warned of."""
    for name, layer in measured.items():
        if name in already or 0 < layer.rate < 1:
            continue
        already.add(name)
        what, advice = (
            ("is silent: no neuron fired on a whole batch, so no gradient but the surrogate's tail passes",
             "a larger tau, normalisation (norm: true) or larger initial weights")
            if layer.rate == 0
            else ("fires at every step: it carries no information", "a smaller tau, normalisation or smaller weights")
        )  # fmt: skip
        warnings.warn(f"layer {name} {what}. Try {advice}.", ActivityWarning, stacklevel=2)


def first_non_finite(net: Network, x: Tensor) -> str | None:
    """The name of the first layer whose output on x is NaN or infinite, in order of execution; None if all are
    finite."""
    found: list[str] = []

    def check(name: str):  # type: ignore[no-untyped-def]  # a closure per layer
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            if isinstance(output, Tensor) and not found and not bool(torch.isfinite(output).all()):
                found.append(name)

        return hook

    twin = copy.deepcopy(net)
    for name, module in twin.named_modules():
        if name and not isinstance(module, nn.ModuleList):
            module.register_forward_hook(check(name))
    with torch.no_grad():
        twin(x)
    return found[0] if found else None

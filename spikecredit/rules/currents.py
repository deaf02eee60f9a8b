"""Hands on the currents of a network, and passes that repeat each other: what the rules that intervene share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikecredit.network import Network
from spikecredit.neurons import Neuron
from spikecredit.pathways.broadcast import Broadcast
from spikecredit.seeds import Noise
from spikecredit.synapses import RecurrentLinear, Synapse

Population = Neuron | RecurrentLinear

Receive = Callable[[Population, Tensor], Tensor]
"""(population, its current I (T, B, *N)) -> what its neurons receive, of the same shape."""


def populations(net: nn.Module) -> list[Population]:
    """The layers of neurons in the order of their modules; those inside a recurrent layer or a neuron are its own."""
    inside: set[nn.Module] = set()
    found: list[Population] = []
    for module in net.modules():
        if isinstance(module, Neuron | RecurrentLinear) and module not in inside:
            found.append(module)
            inside |= set(module.modules())
    return found


def hidden(net: nn.Module) -> set[Population]:
    """The populations before the network's last synapse: all but the readout."""
    modules = list(net.modules())
    last = max((i for i, module in enumerate(modules) if isinstance(module, Synapse)), default=-1)
    place = {module: i for i, module in enumerate(modules)}
    return {
        population
        for population in populations(net)
        if place[population.neuron if isinstance(population, RecurrentLinear) else population] < last
    }


def steps_apart(net: nn.Module, x: Tensor) -> Tensor:
    """The input, as one in which every neuron has a current for each step.

    A constant input passes the layers before the first neuron with memory as one step. Rate units are no memory: where
    they come first, the steps are made real here.
    """
    first = next(iter(populations(net)), None)
    constant = x.ndim > 1 and x.shape[0] > 1 and x.stride(0) == 0
    return x.contiguous() if constant and getattr(first, "memoryless", False) else x


@contextmanager
def intercepted(net: nn.Module, steps: int, receive: Receive) -> Iterator[None]:
    """While it lasts, every population of the network gets `receive(population, I)` in place of its current I.

    I includes everything that synapses, norms and pools before the population make; not what a recurrent layer's
    neurons send each other. A constant current that a neuron is given once is spread over the steps first.
    """
    with ExitStack() as stack:
        for population in populations(net):
            stack.enter_context(
                _at_recurrent(population, steps, receive)
                if isinstance(population, RecurrentLinear)
                else _at_neuron(population, steps, receive)
            )
        yield


@contextmanager
def _at_neuron(neuron: Neuron, length: int, receive: Receive) -> Iterator[None]:
    inner = neuron.stream

    def stream(x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        return inner(receive(neuron, x.expand(length, *x.shape[1:])), state)

    with shadowed(neuron, stream):
        yield


@contextmanager
def _at_recurrent(layer: RecurrentLinear, length: int, receive: Receive) -> Iterator[None]:
    def change(module: nn.Module, inputs: tuple[Tensor, ...], current: Tensor) -> Tensor:
        return receive(layer, current.expand(length, *current.shape[1:]))

    handle = layer.input.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def shadowed(module: nn.Module, stream: Callable[..., tuple[Tensor, Any]]) -> Iterator[None]:
    """Replace a module's `stream`, through which every use of it goes: whole sequences, streams and blocks."""
    before = vars(module).get("stream")
    module.stream = stream  # type: ignore[assignment]
    try:
        yield
    finally:
        del module.stream
        if before is not None:
            module.stream = before


class Moment:
    """What a pass in training mode changes besides gradients: running statistics and random streams.

    `restore` goes back to it, so that a second pass draws the same masks and the same feedback weights.
    """

    def __init__(self, net: Network, device: torch.device) -> None:
        self.device = device
        self.kept = [
            (tensor, tensor.clone())
            for module in net.modules()
            for tensor in ([module.state] if isinstance(module, Noise) else _statistics(module))
        ]
        self.global_state = torch.get_rng_state()
        self.device_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        """Bring it back."""
        for tensor, value in self.kept:
            tensor.copy_(value)
        torch.set_rng_state(self.global_state)
        if self.device_state is not None:
            torch.cuda.set_rng_state(self.device_state, self.device)


def _statistics(module: nn.Module) -> list[Tensor]:
    """A module's buffers, but for signs and feedback weights, which no pass moves."""
    if isinstance(module, Synapse | Broadcast):
        return []
    return [buffer for buffer in module._buffers.values() if buffer is not None]

"""The peers of `benchmarks.speed`, each as its own tutorials build it.

Every module takes (T, B, *shape) and returns the spikes of the last layer (T, B, classes). A constant input comes as an
expanded image (time stride 0): loops see the image itself at each step, as snnTorch's tutorial 5; SpikingJelly's layers
fold time into the batch, which copies the image T times as `x.unsqueeze(0).repeat(T, ...)` of its tutorials does.

The neurons, where they differ from ours (u[t] = 0.95 u[t-1] + x[t] - H(u[t-1] - 1), surrogate 1 / (1 + 25 |u - 1|)^2):

* snnTorch 1.0 `Leaky(beta=0.95, spike_grad=fast_sigmoid(25))`: no difference.
* SpikingJelly 2.0 `LIFNode(tau=20, decay_input=False, v_reset=None, detach_reset=True)`: the reset comes before the
  decay, 0.95 (u - 1); surrogate `SoftSign(25)`, ours times 12.5.
* Norse 1.1 `LIFBoxCell(tau_mem_inv=50, reset_subtract)`, dt = 0.001: reset before the decay; the input is multiplied by
  dt / tau = 0.05, so the weights are multiplied by 20; surrogate "super", which ignores its alpha in 1.1.0 (slope 1);
  the gradient of the reset is not cut.
* Norse `LIF` (sequence) and `LIFRecurrent`: besides, a synaptic current, here of one step only
  (tau_syn_inv = 1 / dt), and a reset to zero.
"""

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed_networks import (
    BETA,
    SLOPE,
    Conv,
    Dense,
    Flatten,
    Norm,
    Pool,
    Recurrent,
    Spike,
    Work,
)

NORSE_GAIN = 20.0  # 1 / (dt / tau)
MODULES = {"snntorch": "snntorch", "spikingjelly": "spikingjelly.activation_based.neuron", "norse": "norse.torch"}


@cache
def absent() -> dict[str, str]:
    """The peers that cannot be measured here, and why."""
    found = {}
    for library, module in MODULES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            installed = importlib.util.find_spec(library) is not None
            found[library] = f"does not import: {error}" if installed else "not installed"
    return found


def versions() -> dict[str, str]:
    return {name: absent().get(name) or importlib.metadata.version(name) for name in MODULES}


def _snntorch_neuron(features: int | None = None) -> nn.Module:
    import snntorch
    from snntorch import surrogate

    gradient = surrogate.fast_sigmoid(slope=SLOPE)
    if features is None:
        return snntorch.Leaky(beta=BETA, spike_grad=gradient)
    neuron = snntorch.RLeaky(beta=BETA, linear_features=features, spike_grad=gradient)
    neuron.recurrent.bias = None  # ours has one bias per neuron, that of the input synapses
    return neuron


class SnnTorchLoop(nn.Module):
    """The loop over time of snnTorch's tutorials 5 (FC), 6 (conv) and of `RLeaky`'s documentation (recurrent)."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in work.layers:
            match layer:
                case Spike():
                    self.layers.append(_snntorch_neuron())
                case Recurrent(inputs, outputs):
                    self.layers.extend([nn.Linear(inputs, outputs), _snntorch_neuron(outputs)])
                case _:
                    self.layers.append(_torch_layer(layer))

    def forward(self, x: Tensor) -> Tensor:
        neurons: dict[int, Any] = {i: layer for i, layer in enumerate(self.layers) if hasattr(layer, "reset_mem")}
        states: dict[int, Any] = {i: neuron.reset_mem() for i, neuron in neurons.items()}
        recorded = []
        for t in range(x.shape[0]):
            current = x[t]
            for i, layer in enumerate(self.layers):
                if i not in states:
                    current = layer(current)
                elif isinstance(states[i], tuple):
                    states[i] = layer(current, *states[i])
                    current = states[i][0]
                else:
                    current, states[i] = layer(current, states[i])
            recorded.append(current)
        return torch.stack(recorded)


class SpikingJellyMultiStep(nn.Module):
    """Layers and neurons in step mode "m", as SpikingJelly's tutorials recommend for speed.

    It chooses the neurons' kernels by itself from the device (no backend argument since 2.0): on a CPU torch with its
    own adjoint, on CUDA native CUDA where built, else Triton. The recurrent layer is a loop over the single-step
    neuron: its own `LinearRecurrentContainer` would multiply the input by one matrix more.
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        from spikingjelly.activation_based import functional

        self._reset_net = functional.reset_net  # not `reset`: reset_net calls that of every module
        self.layers = nn.ModuleList(map(_spikingjelly_layer, work.layers))
        for module in self.layers:
            if not isinstance(module, _SpikingJellyRecurrent):
                functional.set_step_mode(module, "m")

    def forward(self, x: Tensor) -> Tensor:
        self._reset_net(self)
        for layer in self.layers:
            x = layer(x)
        return x


def _spikingjelly_neuron() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(
        tau=1 / (1 - BETA),
        decay_input=False,
        v_reset=None,
        surrogate_function=surrogate.SoftSign(alpha=SLOPE),
        detach_reset=True,
    )


def _spikingjelly_layer(layer: Any) -> nn.Module:
    from spikingjelly.activation_based import layer as layers

    match layer:
        case Spike():
            return _spikingjelly_neuron()
        case Recurrent(inputs, outputs):
            return _SpikingJellyRecurrent(inputs, outputs)
        case Conv(inputs, outputs, size, padding, bias):
            return layers.Conv2d(inputs, outputs, size, padding=padding, bias=bias)
        case Pool("max"):
            return layers.MaxPool2d(2)
        case Pool():
            return layers.AvgPool2d(2)
        case Norm(channels):
            return layers.BatchNorm2d(channels)
        case Flatten():
            return layers.Flatten()
        case Dense(inputs, outputs):
            return layers.Linear(inputs, outputs)
    raise TypeError(f"{layer} has no counterpart in SpikingJelly")


class _SpikingJellyRecurrent(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, outputs)
        self.recurrent = nn.Linear(outputs, outputs, bias=False)
        self.neuron = _spikingjelly_neuron()

    def forward(self, x: Tensor) -> Tensor:
        current = self.input(x)
        spikes, recorded = torch.zeros_like(current[0]), []
        for t in range(x.shape[0]):
            spikes = self.neuron(current[t] + self.recurrent(spikes))
            recorded.append(spikes)
        return torch.stack(recorded)


class NorseLoop(nn.Module):
    """`LIFBoxCell`, the leanest LIF of Norse, in a loop over time as in its MNIST tutorial."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        from norse.torch import LIFBoxCell
        from norse.torch.functional.lif_box import LIFBoxParameters
        from norse.torch.functional.reset import reset_subtract

        p = LIFBoxParameters(tau_mem_inv=torch.tensor(50.0), reset_method=reset_subtract)
        self.layers = nn.ModuleList(
            LIFBoxCell(p, dt=0.001) if isinstance(layer, Spike) else _torch_layer(layer) for layer in work.layers
        )
        _scale_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None] * len(self.layers)
        recorded = []
        for t in range(x.shape[0]):
            current = x[t]
            for i, layer in enumerate(self.layers):
                if hasattr(layer, "initial_state"):
                    current, states[i] = layer(current, states[i])
                else:
                    current = layer(current)
            recorded.append(current)
        return torch.stack(recorded)


class NorseSequence(nn.Module):
    """`SequentialState` of `Lift`ed layers and whole-sequence `LIF` or `LIFRecurrent` modules."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        from norse.torch import LIF, LIFParameters, LIFRecurrent, Lift, SequentialState

        p = LIFParameters(tau_syn_inv=torch.tensor(1000.0), tau_mem_inv=torch.tensor(50.0))
        layers: list[nn.Module] = []
        for layer in work.layers:
            match layer:
                case Spike():
                    layers.append(LIF(p, dt=0.001))
                case Recurrent(inputs, outputs):
                    layers.append(LIFRecurrent(inputs, outputs, p, dt=0.001))
                case Dense() | Flatten():  # torch's own take (T, B, ...) as it is: faster than lifted
                    layers.append(nn.Flatten(2) if isinstance(layer, Flatten) else _torch_layer(layer))
                case _:
                    layers.append(Lift(_torch_layer(layer)))
        self.net = SequentialState(*layers)
        _scale_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


def _scale_weights(net: nn.Module) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(NORSE_GAIN)


def _torch_layer(layer: Any) -> nn.Module:
    match layer:
        case Conv(inputs, outputs, size, padding, bias):
            return nn.Conv2d(inputs, outputs, size, padding=padding, bias=bias)
        case Pool("max"):
            return nn.MaxPool2d(2)
        case Pool():
            return nn.AvgPool2d(2)
        case Norm(channels):
            return nn.BatchNorm2d(channels)
        case Flatten():
            return nn.Flatten()
        case Dense(inputs, outputs):
            return nn.Linear(inputs, outputs)
    raise TypeError(f"{layer} has no counterpart among torch's layers")

"""Networks of ours as snnTorch's models: the same spikes and, under backprop, the same gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spikecredit.circuits.layers import AllFlat, EachStep, Potentials, Read, SnnTorchLoop
from spikecredit.circuits.snntorch import need_snntorch
from spikecredit.network import Network
from spikecredit.neurons import LIF, ArcTan, CurrentLIF, FastSigmoid, LeakyReadout, Sigmoid, StraightThrough
from spikecredit.neurons.decay import Decay
from spikecredit.synapses import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    RecurrentLinear,
)


def to_snntorch(net: Network) -> SnnTorchLoop:
    """A network of ours as layers of torch and neurons of snnTorch, which gives the same spikes.

    The gradients are the same where the network has backprop and no constraint. Pathways and constraints stay behind:
    what is exported are the weights that the forward pass uses. A learned tau becomes a learned beta, whose gradient is
    another one. Layers are copies.

    Args:
        net: the network. Its last layer may be a `LeakyReadout`, which becomes a `Leaky` without reset whose potential
            is read.
    Returns:
        an `nn.Sequential` of those layers which takes (T, B, *in) and runs them over time, in the network's mode.
    Raises:
        ImportError: snnTorch is not installed. ValueError: a layer has no equal there.
    """
    need_snntorch()
    layers = list(net.layers)
    exported: list[nn.Module] = []
    read: Read = "spikes"
    double = any(p.dtype == torch.float64 for p in net.parameters())
    with torch.random.fork_rng():
        for index, layer in enumerate(layers):
            last = index == len(layers) - 1
            if isinstance(layer, LeakyReadout | Potentials):
                if not last:
                    raise _refused(index, layer, "is read by the layers after it; in snnTorch only the last is")
                read = "potentials"
            if double:
                _check_double(index, layer)
            exported += _export(index, layer, last)
    return SnnTorchLoop(*exported, read=read).train(net.training)


def _refused(index: int, layer: nn.Module, why: str) -> ValueError:
    return ValueError(f"layer {index} ({type(layer).__name__}) {why}")


def _check_double(index: int, layer: Any) -> None:
    """Refuse what snnTorch 1.0.0, whose surrogates give float32 spikes, gets wrong in float64."""
    if isinstance(layer, RecurrentLinear):
        raise _refused(
            index, layer, "in float64: snnTorch 1.0.0 hands it float32 spikes, which its weights cannot read. "
            "Export net.float()",
        )  # fmt: skip
    neuron = layer.neuron if isinstance(layer, Potentials) else layer
    if isinstance(neuron, LIF) and neuron.reset == "subtract":
        rounded = torch.tensor(neuron.threshold, dtype=torch.float32).item()
        if rounded != neuron.threshold:
            raise _refused(
                index, layer, f"in float64: snnTorch 1.0.0 subtracts the threshold as a float32, {rounded} in place "
                f"of {neuron.threshold}. Take a threshold that float32 holds, or export net.float()",
            )  # fmt: skip


def _export(index: int, layer: Any, last: bool) -> Iterator[nn.Module]:
    kind = type(layer)
    if isinstance(layer, RecurrentLinear):
        yield _weighted(layer.input)
        yield _neuron(index, layer.neuron, last, recurrent=layer.recurrent)
    elif isinstance(layer, Linear | Conv2d):
        yield _weighted(layer)
    elif kind in (LIF, CurrentLIF, LeakyReadout):
        yield _neuron(index, layer, last)
    elif isinstance(layer, Potentials):
        yield _neuron(index, layer.neuron, last)
    elif isinstance(layer, EachStep):
        yield _normalisation(layer.layer)
    elif isinstance(layer, BatchNorm1d | BatchNorm2d):
        if layer.training:
            raise _refused(
                index,
                layer,
                "takes its statistics from all time steps at once, in snnTorch's loop each step has its own: call "
                "net.eval() for a model that is not trained any more",
            )
        yield _normalisation(layer)
    elif isinstance(layer, MaxPool2d):
        yield nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode)
    elif isinstance(layer, AvgPool2d):
        yield nn.AvgPool2d(
            layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad,
            layer.divisor_override,
        )  # fmt: skip
    elif isinstance(layer, Flatten):
        yield nn.Flatten(-layer.dims)
    elif isinstance(layer, AllFlat):
        yield nn.Flatten()
    elif kind is nn.Dropout:
        yield nn.Dropout(layer.p)
    elif kind is nn.AdaptiveAvgPool2d:
        yield nn.AdaptiveAvgPool2d(layer.output_size)
    else:
        raise _refused(
            index,
            layer,
            "has no equal in snnTorch. Exported are Linear, Conv2d, RecurrentLinear, LIF, CurrentLIF, LeakyReadout at "
            "the end, AvgPool2d, MaxPool2d, Flatten, and nn.Dropout (ours keeps one mask for a whole sequence)",
        )


@torch.no_grad()
def _weighted(layer: Any) -> nn.Module:
    """nn.Linear or nn.Conv2d with the weights that the layer uses."""
    copy: Any
    if isinstance(layer, Conv2d):
        keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        geometry: dict[str, Any] = {key: getattr(layer, key) for key in keys}
        copy = nn.Conv2d(layer.in_channels, layer.out_channels, bias=layer.bias is not None, **geometry)
    else:
        copy = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    copy.to(layer.weight)
    copy.weight.copy_(layer.effective_weight())
    copy.weight.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None:
        copy.bias.copy_(layer.bias)
        copy.bias.requires_grad_(layer.bias.requires_grad)
    return copy


def _normalisation(layer: BatchNorm1d | BatchNorm2d) -> nn.Module:
    kind = nn.BatchNorm1d if isinstance(layer, BatchNorm1d) else nn.BatchNorm2d
    copy = kind(layer.num_features, layer.eps, layer.momentum).to(layer.weight)
    copy.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        copy.weight.copy_(layer.effective_weight())
    return copy


def _neuron(index: int, layer: Any, last: bool, recurrent: Linear | None = None) -> nn.Module:
    """A neuron of snnTorch."""
    snn = need_snntorch()
    options: dict[str, Any] = {"init_hidden": True, "output": last}
    options["beta"], options["learn_beta"] = _beta(layer.decay)
    if isinstance(layer, LeakyReadout):
        return snn.Leaky(reset_mechanism="none", **options)
    if type(layer) not in (LIF, CurrentLIF):
        raise _refused(index, layer, "holds neurons that snnTorch has not: LIF and CurrentLIF have an equal there")
    synaptic = isinstance(layer, CurrentLIF)
    options |= {"threshold": torch.tensor(layer.threshold, dtype=torch.float64), "reset_mechanism": layer.reset}
    options["spike_grad"] = _surrogate(index, layer)
    options["reset_delay"] = _late(index, layer, synaptic, recurrent is not None)
    if synaptic:
        options["alpha"], options["learn_alpha"] = _beta(layer.decay_synapse)
    if recurrent is None:
        return snn.Synaptic(**options) if synaptic else snn.Leaky(**options)
    kind = snn.RSynaptic if synaptic else snn.RLeaky
    neuron = kind(linear_features=recurrent.out_features, **options)
    neuron.recurrent = _weighted(recurrent)
    return neuron


def _late(index: int, layer: LIF, synaptic: bool, recurrent: bool) -> bool:
    """snnTorch's `reset_delay` for the neuron; see `from_snntorch` for what equals what."""
    erases = layer.reset == "zero" and layer.refractory == 2 and layer.detach_reset and (synaptic or recurrent)
    if layer.refractory > 1 and not erases:
        raise _refused(index, layer, f"has refractory={layer.refractory}: snnTorch's neurons have no refractory period")
    if layer.reset == "none" or erases:
        return True
    if layer.reset == "subtract":
        if not layer.detach_reset:
            raise _refused(index, layer, "has detach_reset=False: snnTorch cuts the gradient of a reset by subtraction")
        return True
    plain = not synaptic and not recurrent
    if layer.detach_reset and not plain:
        raise _refused(
            index,
            layer,
            "resets to zero with detach_reset=True, which in snnTorch has an equal for Leaky only. With "
            "detach_reset=False the spikes are the same and Synaptic and RLeaky have an equal",
        )
    if not layer.detach_reset and synaptic and recurrent:
        raise _refused(index, layer, "resets to zero, which RSynaptic of snnTorch 1.0.0 does a step late only")
    return layer.detach_reset


def _beta(decay: Decay) -> tuple[Tensor, bool]:
    """beta as snnTorch takes it, and whether it learns. A number stays float64: beta times float32 is float32."""
    now = decay()
    if not isinstance(now, Tensor):
        return torch.tensor(now, dtype=torch.float64), False
    return now.detach().clone(), now.requires_grad


def _surrogate(index: int, layer: LIF) -> Any:
    from snntorch import surrogate

    match layer.surrogate:
        case FastSigmoid(slope):
            return surrogate.fast_sigmoid(slope)
        case ArcTan(alpha):
            return surrogate.atan(alpha)
        case Sigmoid(slope):
            return surrogate.sigmoid(slope)
        case StraightThrough(width) if width == float("inf"):
            return surrogate.straight_through_estimator()
    raise _refused(
        index,
        layer,
        f"has the surrogate {layer.surrogate}, which snnTorch has not; FastSigmoid, ArcTan, Sigmoid and "
        "StraightThrough() have an equal there",
    )

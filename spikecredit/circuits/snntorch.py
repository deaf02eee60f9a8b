"""snnTorch's models as networks of ours, and back: the same spikes, the same gradients."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from spikecredit.circuits.chain import Chain, chain_of
from spikecredit.circuits.layers import AllFlat, EachStep, Potentials, Read, SnnTorchLoop
from spikecredit.constraints import Constraint
from spikecredit.convert import WEIGHTED, become, check_module
from spikecredit.network import Network
from spikecredit.neurons import LIF, ArcTan, CurrentLIF, FastSigmoid, LeakyReadout, Sigmoid, StraightThrough, Surrogate
from spikecredit.neurons.decay import Factor
from spikecredit.neurons.neuron import Reset
from spikecredit.pathways import Pathway
from spikecredit.synapses import AvgPool2d, BatchNorm1d, BatchNorm2d, Flatten, MaxPool2d, RecurrentLinear

RESETS: dict[str, Reset] = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}


def need_snntorch() -> Any:
    """The package snntorch, or an ImportError that says how to get it."""
    try:
        import snntorch
    except ImportError as error:
        raise ImportError("snnTorch is not installed: pip install 'spikecredit[snntorch]'") from error
    return snntorch


def from_snntorch(
    model: nn.Module,
    sample: Tensor | tuple[Any, ...] | None = None,
    read: Read = "spikes",
    pathway: Pathway | None = None,
    constraint: Constraint | None = None,
    seed: int | None = None,
) -> Network:
    """A snnTorch model as a network of ours, which gives the same spikes and gradients and takes whole sequences.

    Layers are copies: the model stays as it is, and the two learn apart. What each neuron becomes, and what is refused,
    is listed in the documentation, "Coming from snnTorch". Learned betas stay the parameters that they are.

    Args:
        model: an `nn.Sequential` of torch's layers and snnTorch's neurons, or any module that calls its layers in one
            chain at every step of a loop. What its `forward` does with the last neurons' outputs is left out.
        sample: an input of `model.forward` (or a tuple of several), on which a module that is no `nn.Sequential` is run
            once to see the order of its layers. The model is put back as it was.
        read: what the last neurons give: "spikes", or "potentials" as snnTorch's `mem`. The spikes are then
            `potentials > threshold`.
        pathway, constraint, seed: as of `Network`; the default is backprop without a constraint, as snnTorch has it.
    Returns:
        a network that takes (T, B, *in), in the model's mode (training or evaluation), dtype and device.
    Raises:
        ImportError: snnTorch is not installed. ValueError: the layers are no plain chain, or one of them has no equal.
        TypeError: a weighted layer cannot be copied faithfully.
    """
    if read not in ("spikes", "potentials"):
        raise ValueError(f"read is 'spikes' or 'potentials', of the last neurons, got {read!r}")
    snn = need_snntorch()
    read = getattr(model, "read", read) if isinstance(model, SnnTorchLoop) else read
    chain = chain_of(model, sample, (snn.SpikingNeuron,))
    _check_parameters(chain)
    with torch.random.fork_rng():  # new layers draw weights, which are then overwritten
        layers = list(_layers(chain))
    if read == "potentials":
        layers[-1] = _potentials(layers[-1], chain[-1][0])
    return Network(*layers, pathway=pathway, constraint=constraint, seed=seed).train(model.training)


def _check_parameters(chain: Chain) -> None:
    owner: dict[int, str] = {}
    for name, module in chain:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            raise ValueError(f"{name} has hooks, which a copy would not call: remove them first")
        for parameter in module.parameters():
            if owner.setdefault(id(parameter), name) != name:
                raise ValueError(f"{name} and {owner[id(parameter)]} share a parameter, which copies would not")


def _layers(chain: Chain) -> list[nn.Module]:
    snn = need_snntorch()
    layers: list[nn.Module] = []
    maps = False  # whether what comes out of the layers so far is known to be (B, C, H, W)
    for name, module in chain:
        if isinstance(module, snn.SpikingNeuron):
            if isinstance(module, snn.RLeaky | snn.RSynaptic):
                if not layers or type(layers[-1]) is not WEIGHTED[nn.Linear]:
                    raise _refused(
                        name, module, "hears itself, and is moved together with the nn.Linear right before it"
                    )
                layers[-1] = _recurrent(name, module, layers[-1])
            else:
                layers.append(_neuron(name, module))
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            layers.append(Flatten(3) if maps else AllFlat())
        elif type(module) is nn.Flatten and module.start_dim < 0 and module.end_dim == -1:
            layers.append(Flatten(-module.start_dim))
        elif type(module) is not nn.Identity:
            layers.append(_between(name, module))
        maps = isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.BatchNorm2d) or (
            maps and not isinstance(module, nn.Flatten | nn.Linear)
        )
    if not layers:
        raise ValueError("there is no layer in this model")
    return layers


def _refused(name: str, module: nn.Module, why: str) -> ValueError:
    return ValueError(f"{name} ({type(module).__name__}) {why}")


def _between(name: str, module: Any) -> Any:
    """A layer of torch as ours."""
    kind = type(module)
    if isinstance(module, nn.Linear | nn.Conv2d):
        check_module(name, module)
        return become(copy.deepcopy(module), WEIGHTED)
    if kind is nn.MaxPool2d:
        if module.return_indices:
            raise _refused(name, module, "returns indices, which the next layer cannot read")
        return MaxPool2d(module.kernel_size, module.stride, module.padding, module.dilation, ceil_mode=module.ceil_mode)
    if kind is nn.AvgPool2d:
        return AvgPool2d(
            module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad,
            module.divisor_override,
        )  # fmt: skip
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if not module.affine or not module.track_running_stats or module.momentum is None:
            raise _refused(name, module, "is moved with affine=True, track_running_stats=True and a momentum only")
        ours = BatchNorm1d if kind is nn.BatchNorm1d else BatchNorm2d
        norm = ours(module.num_features, module.eps, module.momentum).to(module.weight)
        norm.load_state_dict(module.state_dict(), strict=False)
        return EachStep(norm)
    if kind in (nn.Dropout, nn.AdaptiveAvgPool2d):
        return copy.deepcopy(module)
    raise _refused(name, module, "has no equal here. Moved are Linear, Conv2d, pooling, Flatten, BatchNorm, Dropout")


def _reset(name: str, module: Any) -> tuple[Reset, bool]:
    """How a neuron resets, and whether a step late, which is snnTorch's default."""
    reset = RESETS[module.state_function.__name__]
    if reset != module.reset_mechanism:
        raise _refused(
            name,
            module,
            f"was made with the reset {reset!r}, with which it still runs, and says {module.reset_mechanism!r}",
        )
    late = getattr(module, "reset_delay", True)
    if not late and reset == "subtract":
        raise _refused(
            name,
            module,
            "has reset_delay=False with reset 'subtract', which takes beta * threshold from the next potential, where "
            "ours takes the threshold. Equal are 'zero' and 'none', and 'subtract' with reset_delay=True",
        )
    return reset, late


def _check_neuron(name: str, module: Any) -> None:
    """Refuse what changes the result and has no equal here."""
    threshold = module.threshold
    why = None
    if module.inhibition:
        why = "has inhibition=True: only the neuron with the largest potential fires"
    elif module.state_quant:
        why = "has state_quant: its potential is rounded at every step"
    elif module.surrogate_disable:
        why = "has surrogate_disable=True: its gradient is 0. Make it without; torch.no_grad() is for no gradient"
    elif threshold.requires_grad:
        why = (
            "learns its threshold, which is a constant here: freeze it at the present value, "
            f"model.{name}.threshold.requires_grad_(False), or learn the weights before it"
        )
    elif threshold.numel() != 1:
        why = f"has thresholds of shape {tuple(threshold.shape)}; here the neurons of a layer share one"
    elif module.graded_spikes_factor.requires_grad or bool((module.graded_spikes_factor != 1).any()):
        why = "scales its spikes by graded_spikes_factor: put the factor into the next layer's weights"
    if why is not None:
        raise _refused(name, module, why)


def _factor(value: Tensor) -> Factor:
    return Factor(value, learn=isinstance(value, nn.Parameter) and value.requires_grad)


def _neuron(name: str, module: Any) -> LIF:
    """Leaky or Synaptic as LIF or CurrentLIF."""
    snn = need_snntorch()
    if type(module) in (snn.Leaky, snn.RLeaky):
        kind: type[LIF] = LIF
    elif type(module) in (snn.Synaptic, snn.RSynaptic):
        kind = CurrentLIF
    elif type(module) is snn.Alpha:
        raise _refused(
            name,
            module,
            "has no equal here: its potential is no state of its own but the difference of two currents, and its reset "
            "erases both. Synaptic has the same rise and decay, one step earlier",
        )
    else:
        raise _refused(name, module, "has no equal here. Moved are Leaky, Synaptic, RLeaky and RSynaptic")
    _check_neuron(name, module)
    reset, late = _reset(name, module)
    if type(module) is snn.RSynaptic and not late:
        raise _refused(name, module, "has reset_delay=False, whose code in snnTorch 1.0.0 fails or changes nothing")
    # A late reset to zero of all but Leaky erases the input of the step after the spike too: a refractory step.
    erases = reset == "zero" and late and type(module) is not snn.Leaky
    neuron = kind(
        threshold=float(module.threshold),
        reset=reset,
        surrogate=_surrogate(name, module),
        refractory=2 if erases else 0,
        detach_reset=late or reset == "none",
    )
    neuron.decay = _factor(module.beta)
    neuron.learn_tau = isinstance(neuron.decay.beta, nn.Parameter)
    if isinstance(neuron, CurrentLIF):
        neuron.decay_synapse = _factor(module.alpha)
        neuron.learn_tau |= isinstance(neuron.decay_synapse.beta, nn.Parameter)
    return neuron


def _surrogate(name: str, module: Any) -> Surrogate:
    function = module.spike_grad
    if getattr(function, "__module__", "") == "snntorch.surrogate" and inspect.isfunction(function):
        kind = function.__qualname__.partition(".")[0]
        values = dict(inspect.getclosurevars(function).nonlocals)
        match kind:
            case "fast_sigmoid":
                return FastSigmoid(float(values["slope"]))
            case "atan":
                return ArcTan(float(values["alpha"]))
            case "sigmoid":
                return Sigmoid(float(values["slope"]))
            case "straight_through_estimator":
                return StraightThrough()
    else:
        kind = getattr(function, "__qualname__", repr(function))
    raise _refused(
        name,
        module,
        f"has the surrogate {kind}, which has no equal here; fast_sigmoid, atan, sigmoid and "
        "straight_through_estimator have",
    )


def _recurrent(name: str, module: Any, before: Any) -> RecurrentLinear:
    """RLeaky or RSynaptic with the nn.Linear before it, W, as one recurrent layer."""
    neuron, units = _neuron(name, module), before.weight.shape[0]
    layer = RecurrentLinear(before.weight.shape[1], units, neuron)
    layer.input = before
    if module.all_to_all:
        if type(module.recurrent) is not nn.Linear:
            raise _refused(name, module, "has a recurrent convolution; a recurrent nn.Linear is moved")
        layer.recurrent = _between(f"{name}.recurrent", module.recurrent)
    else:
        v = module.recurrent.V
        if v.requires_grad:
            raise _refused(
                name,
                module,
                "learns V, one recurrent weight per neuron; here V is a full matrix, whose other weights would "
                f"learn too. Freeze it, model.{name}.recurrent.V.requires_grad_(False), or make it a full matrix",
            )
        with torch.no_grad():
            layer.recurrent.weight.copy_(torch.diag(v.expand(units)))
        layer.recurrent.to(before.weight).weight.requires_grad_(False)
    return layer


def _potentials(layer: nn.Module, name: str) -> nn.Module:
    if not isinstance(layer, LIF):
        raise ValueError(
            f"read='potentials' is of a last layer of Leaky or Synaptic; {name} became a {type(layer).__name__}"
        )
    if not layer.detach_reset or layer.refractory > 1:
        raise ValueError(
            f"read='potentials': {name} resets to zero in a way that gives the same spikes and other potentials (ours "
            "are those before the reset): read the spikes, or take reset 'subtract' or 'none'"
        )
    if layer.reset == "none" and type(layer) is LIF:
        readout = LeakyReadout()
        readout.decay, readout.learn_tau = layer.decay, layer.learn_tau
        return readout
    return Potentials(layer)

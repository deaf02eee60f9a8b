"""Networks of ours as graphs of the Neuromorphic Intermediate Representation; `nir_import` is the way back."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

from spikecredit.circuits.layers import AllFlat
from spikecredit.circuits.nir_units import beta_of, betas, need_nir, note, tau_of
from spikecredit.network import Network, stream_layers
from spikecredit.neurons import LIF, CurrentLIF, LeakyReadout
from spikecredit.synapses import AvgPool2d, Conv2d, Dropout, Flatten, Linear, RecurrentLinear

Node = Any  # nir.NIRNode, which is not imported here
Shape = tuple[int, ...]


def to_nir(net: Network, input_shape: Shape, dt: float = 1e-4, unit_resistance: bool = False) -> Any:
    """A network of ours as a `nir.NIRGraph`, to be written by `nir.write` and read by other simulators.

    The equations are those of the documentation, "Exchange by NIR": importers that take one Euler step of this dt give
    the same spikes. NIR resets to a fixed potential, so that only reset "zero" is exported. It knows nothing of
    gradients: surrogates are kept in metadata that only we read, pathways and constraints stay behind. Dropout, the
    identity in evaluation, is left out.

    Args:
        net: the network. input_shape: the shape of one sample at one time step, such as (1, 28, 28).
        dt: the time step in s that importers will take; 1e-4 is fixed in snnTorch.
        unit_resistance: R = 1 and v_threshold times 1 - beta, for importers that take R for 1 (Norse 1.1). The default
            is R = tau / dt and the threshold as it is (snnTorch, SpikingJelly).
    Returns:
        the graph; its arrays are in the network's precision.
    Raises:
        ImportError: nir is not installed. ValueError: NIR cannot express a layer.
    """
    nir = need_nir()
    if not dt > 0:
        raise ValueError(f"dt is the time step in s, positive, got {dt!r}")
    parameters = [p for p in net.parameters() if p.is_floating_point()]
    dtype = parameters[0].dtype if parameters else torch.get_default_dtype()
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the network is in {dtype}, NIR's arrays here in float32 or float64: write net.float()")
    exporter = _Exporter(nir, dt, unit_resistance, np.dtype(str(dtype).removeprefix("torch.")))
    names, nodes = ["input"], {"input": nir.Input(input_type=np.array(input_shape))}
    x = torch.zeros(1, 1, *input_shape, dtype=dtype, device=parameters[0].device if parameters else None)
    with torch.no_grad():
        for index, layer in enumerate(net.layers):
            before = tuple(x.shape[2:])
            if not isinstance(layer, Dropout | nn.Dropout):
                for kind, node in exporter.nodes(index, layer, before):
                    names.append(f"{kind}_{index}")
                    nodes[names[-1]] = node
                x = stream_layers([layer], x, None)[0]
    nodes["output"] = nir.Output(output_type=np.array(x.shape[2:]))
    names.append("output")
    return nir.NIRGraph(nodes=nodes, edges=list(itertools.pairwise(names)), metadata={})


class _Exporter:
    """The nodes of each layer, in one discretisation and precision."""

    def __init__(self, nir: Any, dt: float, unit_resistance: bool, dtype: np.dtype[Any]) -> None:
        self.nir, self.dt, self.unit_resistance, self.dtype = nir, dt, unit_resistance, dtype

    def nodes(self, index: int, layer: Any, shape: Shape) -> list[tuple[str, Node]]:
        """The nodes of a layer with their kinds; shape: of its input."""
        nir, kind = self.nir, type(layer)
        if kind is Linear:
            return [("linear", self.dense(layer))]
        if kind is Conv2d:
            return [("conv", self.convolution(index, layer, shape))]
        if kind in (LIF, CurrentLIF, LeakyReadout):
            return [("neurons", self.neurons(index, layer, shape))]
        if kind is RecurrentLinear:
            units = (layer.input.out_features,)
            loop = {
                "input": nir.Input(input_type=np.array(units)),
                "lif": self.neurons(index, layer.neuron, units),
                "w_rec": self.dense(layer.recurrent),
                "output": nir.Output(output_type=np.array(units)),
            }
            edges = [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")]
            return [("linear", self.dense(layer.input)), ("recurrent", nir.NIRGraph(loop, edges, metadata={}))]
        if kind is AvgPool2d:
            return [("pool", self.pooling(index, layer))]
        if kind is Flatten or kind is AllFlat:
            start = 0 if kind is AllFlat else len(shape) - layer.dims
            return [("flatten", nir.Flatten(input_type=np.array(shape), start_dim=start, end_dim=-1))]
        raise _refused(
            index, layer, "has no node in NIR. There are nodes for Linear, Conv2d, AvgPool2d, Flatten, LIF and "
            "CurrentLIF with reset 'zero', LeakyReadout and RecurrentLinear",
        )  # fmt: skip

    def array(self, values: Any) -> np.ndarray[Any, Any]:
        return np.asarray(values.detach().cpu().numpy(), dtype=self.dtype)

    def dense(self, layer: Linear) -> Node:
        weight = self.array(layer.effective_weight())
        if layer.bias is None:
            return self.nir.Linear(weight=weight)
        return self.nir.Affine(weight=weight, bias=self.array(layer.bias))

    def convolution(self, index: int, layer: Conv2d, shape: Shape) -> Node:
        if layer.padding_mode != "zeros":
            raise _refused(index, layer, f"pads by {layer.padding_mode!r}; NIR pads with zeros")
        if layer.kernel_size[0] != layer.kernel_size[1]:
            raise _refused(index, layer, "has a kernel that is not square, whose maps nir 1.0.8 takes for square")
        if layer.groups != 1:
            raise _refused(index, layer, "has groups, of which nir 1.0.8 takes one group's channels for all of them")
        weight = self.array(layer.effective_weight())
        bias = np.zeros(len(weight), self.dtype) if layer.bias is None else self.array(layer.bias)
        return self.nir.Conv2d(
            input_shape=shape[1:], weight=weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
            groups=layer.groups, bias=bias, metadata={} if layer.bias is not None else note(bias=False),
        )  # fmt: skip

    def pooling(self, index: int, layer: AvgPool2d) -> Node:
        size, stride, padding = (
            np.array([value, value] if isinstance(value, int) else list(value))
            for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        if layer.ceil_mode or (padding.any() and not layer.count_include_pad):
            raise _refused(index, layer, "has ceil_mode=True or count_include_pad=False, for which NIR has no place")
        if layer.divisor_override not in (None, 1, int(size.prod())):
            raise _refused(
                index, layer, f"divides by {layer.divisor_override}; NIR by the window's size, or not at all"
            )
        kind = self.nir.SumPool2d if layer.divisor_override == 1 and size.prod() > 1 else self.nir.AvgPool2d
        return kind(kernel_size=size, stride=stride, padding=padding)

    def neurons(self, index: int, layer: Any, shape: Shape) -> Node:
        nir, dt = self.nir, self.dt
        if type(layer) not in (LIF, CurrentLIF, LeakyReadout):
            raise _refused(
                index, layer, "are neurons that NIR has not: it has LIF, current-based LIF and leaky integrators"
            )
        beta = betas(layer.decay, self.dtype)
        per_beta = {} if bool((tau_gives(beta, dt)).all()) else {"beta": beta.tolist()}
        if type(layer) is LeakyReadout:
            tau, r = self.membrane(index, layer, beta, shape, unit=False)
            return nir.LI(tau=tau, r=r, v_leak=np.zeros_like(r), metadata=note(**per_beta))
        if layer.reset != "zero":
            raise _refused(
                index, layer, f"has reset {layer.reset!r}; NIR's neurons are set to v_reset by a spike. Train with "
                "reset='zero'",
            )  # fmt: skip
        if layer.refractory > 1:
            raise _refused(index, layer, f"has refractory={layer.refractory}; NIR's neurons have no refractory period")
        kept: dict[str, Any] = {"detach_reset": layer.detach_reset, **per_beta}
        zeros = np.zeros(shape, self.dtype)
        if type(layer) is LIF and beta.ndim == 0 and beta == 1:
            r = np.full(shape, 1 / dt, self.dtype)
            threshold = np.full(shape, layer.threshold, self.dtype)
            return nir.IF(r=r, v_threshold=threshold, v_reset=zeros, metadata=note(layer.surrogate, **kept))
        tau, r = self.membrane(index, layer, beta, shape, self.unit_resistance)
        gain = np.broadcast_to(1 - beta.astype(np.float64), shape) if self.unit_resistance else 1.0
        threshold = np.asarray(np.full(shape, layer.threshold) * gain, dtype=self.dtype)
        common = {"r": r, "v_leak": zeros, "v_threshold": threshold, "v_reset": zeros}
        if type(layer) is LIF:
            return nir.LIF(tau=tau, metadata=note(layer.surrogate, **kept), **common)
        alpha = betas(layer.decay_synapse, self.dtype)
        if not bool(tau_gives(alpha, dt).all()):
            kept["alpha"] = alpha.tolist()
        tau_syn, w_in = self.membrane(index, layer, alpha, shape, unit=False)
        return nir.CubaLIF(tau_mem=tau, tau_syn=tau_syn, w_in=w_in, metadata=note(layer.surrogate, **kept), **common)

    def membrane(
        self, index: int, layer: Any, beta: np.ndarray[Any, Any], shape: Shape, unit: bool
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """tau and R of each neuron."""
        if bool((beta == 1).any()):
            raise _refused(index, layer, "has no leak (beta = 1), which is tau = infinity in NIR. Take a finite tau")
        tau = np.array(np.broadcast_to(tau_of(beta, self.dt), shape), dtype=self.dtype)
        return tau, np.ones(shape, self.dtype) if unit else tau / self.dtype.type(self.dt)


def tau_gives(beta: np.ndarray[Any, Any], dt: float) -> np.ndarray[Any, Any]:
    """Where tau, as exported, gives beta back to the last bit."""
    safe = np.where(beta == 1, 0, beta).astype(beta.dtype)
    return beta_of(tau_of(safe, dt), dt) == safe


def _refused(index: int, layer: nn.Module, why: str) -> ValueError:
    return ValueError(f"layer {index} ({type(layer).__name__}) {why}")

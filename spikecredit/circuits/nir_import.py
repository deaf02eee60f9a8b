"""Graphs of the Neuromorphic Intermediate Representation as networks of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spikecredit.circuits.layers import AllFlat
from spikecredit.circuits.nir_units import beta_of, decay_of, need_nir, noted, uniform
from spikecredit.constraints import Constraint
from spikecredit.network import Network
from spikecredit.neurons import LIF, CurrentLIF, FastSigmoid, LeakyReadout, Surrogate
from spikecredit.neurons.decay import Factor
from spikecredit.pathways import Pathway
from spikecredit.synapses import AvgPool2d, Conv2d, Flatten, Linear, RecurrentLinear

Node = Any  # nir.NIRNode, which is not imported here


def from_nir(
    graph: Any,
    dt: float = 1e-4,
    surrogate: Surrogate = FastSigmoid(),
    pathway: Pathway | None = None,
    constraint: Constraint | None = None,
    seed: int | None = None,
) -> Network:
    """A NIR graph as a network of ours, in the discretisation of the documentation, "Exchange by NIR".

    beta = 1 - dt / tau; the gain R dt / tau on the input goes into the threshold. What NIR has no place for comes from
    our own metadata where there is some, and from the arguments elsewhere.

    Args:
        graph: a `nir.NIRGraph`, or the path of a file. A plain chain of nodes, in which a population may hear itself
            through a dense node (a loop of two nodes, or a graph within the graph).
        dt: the time step in s; 1e-4 in files of snnTorch and SpikingJelly.
        surrogate: of neurons without our metadata.
        pathway, constraint, seed: as of `Network`.
    Returns:
        a network that takes (T, B, *in), in the precision of the graph's arrays.
    Raises:
        ImportError: nir is not installed. ValueError: the graph is no chain, or one of its nodes has no equal.
    """
    nir = need_nir()
    if not dt > 0:
        raise ValueError(f"dt is the time step in s, positive, got {dt!r}")
    if isinstance(graph, str | Path):
        graph = nir.read(graph)
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"graph is a nir.NIRGraph or the path of a file, got a {type(graph).__name__}")
    importer = _Importer(nir, dt, surrogate)
    with torch.random.fork_rng():
        for name, node, loop in _chain(nir, graph, ""):
            importer.add(name, node, loop)
    if not importer.layers:
        raise ValueError("there is no layer in this graph")
    return Network(*importer.layers, pathway=pathway, constraint=constraint, seed=seed)


def _chain(nir: Any, graph: Any, prefix: str) -> Iterator[tuple[str, Node, Node | None]]:
    """The nodes in order, each with the dense node through which it hears itself, if there is one."""
    nodes, edges = graph.nodes, {(str(a), str(b)) for a, b in graph.edges}
    loops = {}
    for name, node in nodes.items():
        sources, targets = ({e[k] for e in edges if e[1 - k] == name} for k in (0, 1))
        if isinstance(node, nir.Linear | nir.Affine) and len(sources) == 1 and sources == targets:
            (owner,) = sources
            if owner in loops:
                raise ValueError(f"node {prefix + owner!r} hears itself through several nodes; one is taken here")
            loops[owner] = node
            edges -= {(owner, name), (name, owner)}
    starts, ends = ([n for n, node in nodes.items() if isinstance(node, k)] for k in (nir.Input, nir.Output))
    if len(starts) != 1 or len(ends) != 1:
        raise ValueError(f"the graph has {len(starts)} inputs and {len(ends)} outputs; a network has one of each")
    name, seen = starts[0], {starts[0]}
    while name != ends[0]:
        following = [b for a, b in edges if a == name]
        if len(following) != 1 or sum(b == following[0] for _, b in edges) != 1 or following[0] in seen:
            raise ValueError(
                f"the graph is no plain chain at node {prefix + name!r}, which leads to "
                f"{', '.join(sorted(following)) or 'nothing'}: nodes with several inputs or outputs have no equal here"
            )
        name = following[0]
        seen.add(name)
        node = nodes[name]
        if isinstance(node, nir.NIRGraph):
            if name in loops:
                raise ValueError(f"node {prefix + name!r} is a graph that hears itself, which has no equal here")
            yield from _chain(nir, node, f"{prefix}{name}.")
        elif name != ends[0]:
            yield prefix + name, node, loops.get(name)
    left = [prefix + n for n, node in nodes.items() if n not in seen and not any(node is w for w in loops.values())]
    if left:
        raise ValueError(f"the graph is no plain chain: {', '.join(left)} are outside the way from input to output")


class _Importer:
    """Makes layers of nodes, one after the other."""

    def __init__(self, nir: Any, dt: float, surrogate: Surrogate) -> None:
        self.nir, self.dt, self.surrogate = nir, dt, surrogate
        self.layers: list[nn.Module] = []

    def add(self, name: str, node: Node, loop: Node | None) -> None:
        nir = self.nir
        neurons = isinstance(node, nir.LIF | nir.CubaLIF | nir.IF)
        if loop is not None:
            before = self.layers[-1] if self.layers else None
            if not neurons or type(before) is not Linear:
                raise _refused(name, node, "hears itself; here that is neurons right after a Linear or Affine node")
            layer = RecurrentLinear(before.in_features, before.out_features, self.neurons(name, node))
            layer.input, layer.recurrent = before, self.dense(loop)
            self.layers[-1] = layer
        elif neurons:
            self.layers.append(self.neurons(name, node))
        elif isinstance(node, nir.Linear | nir.Affine):
            self.layers.append(self.dense(node))
        elif isinstance(node, nir.Conv2d):
            self.layers.append(self.convolution(node))
        elif isinstance(node, nir.SumPool2d | nir.AvgPool2d):
            size, stride, padding = (_pair(v) for v in (node.kernel_size, node.stride, node.padding))
            divisor = 1 if isinstance(node, nir.SumPool2d) else None
            self.layers.append(AvgPool2d(size, stride, padding, divisor_override=divisor))
        elif isinstance(node, nir.Flatten):
            self.layers.append(self.flatten(name, node))
        elif isinstance(node, nir.LI):
            self.layers.append(self.integrator(name, node))
        elif isinstance(node, nir.Threshold):
            step = LIF(threshold=uniform(node.threshold, name, "threshold"), reset="none", surrogate=self.surrogate)
            step.decay = Factor(0.0)
            self.layers.append(step)
        else:
            raise _refused(name, node, "has no equal here")

    def dense(self, node: Node) -> Linear:
        weight = _tensor(node.weight)
        bias = getattr(node, "bias", None)
        layer = Linear(weight.shape[1], weight.shape[0], bias=bias is not None).to(weight)
        return _filled(layer, weight, bias)

    def convolution(self, node: Node) -> Conv2d:
        weight = _tensor(node.weight)
        padding = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        geometry: dict[str, Any] = {
            "kernel_size": tuple(weight.shape[2:]), "stride": _pair(node.stride), "dilation": _pair(node.dilation),
            "padding": padding if isinstance(padding, str) else _pair(padding), "groups": int(node.groups),
        }  # fmt: skip
        channels = weight.shape[1] * geometry["groups"]
        layer = Conv2d(channels, weight.shape[0], bias=noted(node).get("bias", True), **geometry).to(weight)
        return _filled(layer, weight, node.bias)

    def flatten(self, name: str, node: Node) -> nn.Module:
        shape = node.input_type["input"]
        start, end = int(node.start_dim), int(node.end_dim)
        dims = None if shape is None else len(shape)
        if (start > 0 and dims is None) or end not in (-1, (dims or 0) - 1):
            raise _refused(
                name, node, f"flattens dimensions {start} to {end}; here it is the last ones that become one"
            )
        if start == 0 and dims is None:
            return AllFlat()
        return Flatten(-start if start < 0 else (dims or 0) - start)

    def neurons(self, name: str, node: Node) -> LIF:
        nir, kept = self.nir, noted(node)
        current = isinstance(node, nir.CubaLIF)
        gain: Any
        if isinstance(node, nir.IF):
            beta, gain = np.ones((), _array(node, "r").dtype), _array(node, "r") * self.dt
        else:
            tau = _array(node, "tau_mem" if current else "tau")
            beta, gain = self.beta(name, node, tau, kept.get("beta")), _array(node, "r") * self.dt / tau
        if current:
            gain = gain * (_array(node, "w_in") * self.dt / _array(node, "tau_syn"))
        for what in ("v_reset", "v_leak"):
            if hasattr(node, what) and _array(node, what).any():
                raise _refused(name, node, f"has a {what} other than 0")
        threshold = _threshold(name, node.v_threshold, gain)
        options: dict[str, Any] = {
            "threshold": threshold, "reset": "zero", "surrogate": kept.get("surrogate", self.surrogate),
            "detach_reset": kept.get("detach_reset", True),
        }  # fmt: skip
        neuron = CurrentLIF(**options) if current else LIF(**options)
        neuron.decay = decay_of(beta)
        if isinstance(neuron, CurrentLIF):
            neuron.decay_synapse = decay_of(self.beta(name, node, _array(node, "tau_syn"), kept.get("alpha")))
        return neuron

    def integrator(self, name: str, node: Node) -> LeakyReadout:
        tau = _array(node, "tau")
        if _array(node, "v_leak").any():
            raise _refused(name, node, "has a v_leak other than 0")
        gain = uniform(_array(node, "r") * self.dt / tau, name, "R dt / tau")
        if abs(gain - 1) > 1e-5:  # what this node hands out is its potential: its input has to be scaled
            before = self.layers[-1] if self.layers else None
            if not isinstance(before, Linear | Conv2d):
                raise _refused(name, node, f"scales its input by R dt / tau = {gain:g}, and no weights are before it")
            with torch.no_grad():
                before.weight.mul_(gain)
                if before.bias is not None:
                    before.bias.mul_(gain)
        readout = LeakyReadout()
        readout.decay = decay_of(self.beta(name, node, tau, noted(node).get("beta")))
        return readout

    def beta(self, name: str, node: Node, tau: np.ndarray[Any, Any], kept: Any) -> np.ndarray[Any, Any]:
        """beta from tau; the digits that tau cannot hold from our metadata, unless somebody changed tau since."""
        if not bool((tau >= self.dt).all()):
            raise _refused(
                name, node, f"has a time constant below dt = {self.dt:g} s, for which an Euler step overshoots"
            )
        beta = beta_of(tau, self.dt)
        if kept is not None:
            exact = np.broadcast_to(np.asarray(kept, dtype=tau.dtype), tau.shape)
            if np.allclose(exact, beta, rtol=0, atol=4 * np.finfo(tau.dtype).eps):
                return np.array(exact)
        return beta


def _threshold(name: str, v_threshold: Any, gain: Any) -> float:
    """v_threshold / g; g = 1 to rounding is 1, as in snnTorch's importer."""
    gain = np.asarray(gain, dtype=np.float64)
    if not bool((np.abs(gain - 1) > 1e-5).any()):
        return uniform(v_threshold, name, "v_threshold")
    return uniform(np.asarray(v_threshold, dtype=np.float64) / gain, name, "v_threshold / (R dt / tau)")


def _filled(layer: Any, weight: torch.Tensor, bias: Any) -> Any:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(_tensor(bias))
    return layer


def _tensor(values: Any) -> torch.Tensor:
    """A copy of an array; some exporters leave tensors in its place."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().clone()
    return torch.from_numpy(np.array(values))


def _array(node: Node, field: str) -> np.ndarray[Any, Any]:
    """A field of a neuron's node."""
    values = _tensor(getattr(node, field)).numpy()
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def _pair(value: Any) -> tuple[int, int]:
    values = np.asarray(value).reshape(-1)
    return int(values[0]), int(values[-1])


def _refused(name: str, node: Node, why: str) -> ValueError:
    return ValueError(f"node {name!r} ({type(node).__name__}) {why}")

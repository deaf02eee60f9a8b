"""From a network's layers to a circuit: what lies between two populations is one sparse linear map."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.matrices import from_dense, identity, local, pair, product, sparse, windows
from spikecredit.circuits.population import Part, Population, Projection, constant
from spikecredit.network import Network
from spikecredit.neurons import ALIF, LIF, CurrentLIF, EINeurons, LeakyReadout, Neuron
from spikecredit.neurons.decay import Decay
from spikecredit.synapses import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    DANNConv2d,
    DANNLinear,
    Delay,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    RecurrentLinear,
)

FORGETFUL = 1e-3
"""The time constant, in steps, of a neuron without memory: exp(-1 / it) is 0 in float64."""

Places = dict[int, tuple[Part, ...]]
"""The populations whose outputs are the output of a layer, by the layer's index in the network."""


def read_network(net: Network, input_shape: tuple[int, ...]) -> tuple[Circuit, Places]:
    """The circuit of a network in evaluation mode, not rounded, and where its populations are; see `Circuit.of`."""
    if not isinstance(net, Network):
        raise TypeError(
            f"a circuit is made from a spikecredit.Network, got {type(net).__name__}: write sc.Network(*layers)"
        )
    net = copy.deepcopy(net).cpu().double()
    dt = next((module.dt for module in net.modules() if isinstance(module, Decay)), 1.0)
    wires = _Wires(tuple(input_shape), dt)
    wires.start([Part(None, torch.arange(wires.n))])
    places: Places = {}
    with torch.no_grad():
        for index, layer in enumerate(net.layers):
            wires.where = f"layers[{index}], {type(layer).__name__}"
            if type(layer) not in READERS:
                raise ValueError(
                    f"{wires.where}: {WRITE_INSTEAD.get(type(layer).__name__, UNKNOWN)}; a circuit has "
                    f"{', '.join(kind.__name__ for kind in READERS)}"
                )
            before = len(wires.populations)
            READERS[type(layer)](wires, layer)
            if len(wires.populations) > before:
                places[index] = wires.parts
    if wires.matrix is not None or bool((wires.bias != 0).any()) or wires.delay or not wires.populations:
        raise ValueError(
            "the network ends in synapses or a delay, which lead to no neurons: end it with neurons such as "
            "sc.LIF(), or sc.LeakyReadout(tau=...)"
        )
    circuit = Circuit(
        tuple(input_shape),
        tuple(wires.populations),
        tuple(wires.projections),
        wires.parts,
        wires.shape,
        wires.spikes_only,
    )
    return circuit, places


@dataclass
class _Wires:
    """What reaches the next layer: a linear map of the outputs of the last populations, (*shape) flattened."""

    shape: tuple[int, ...]
    dt: float
    parts: tuple[Part, ...] = ()
    matrix: Tensor | None = None  # sparse (n, outputs of the parts); None: those outputs as they are
    bias: Tensor = torch.zeros(0)
    delay: int = 0
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    spikes_only: bool = False
    graded: bool = False  # whether the parts hand on potentials
    level: int = 0
    where: str = ""
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return math.prod(self.shape)

    def start(self, parts: list[Part]) -> None:
        """From now on, the next layers hear the outputs of these."""
        self.parts = tuple(parts)
        self.matrix, self.bias, self.delay = None, torch.zeros(self.n, dtype=torch.float64), 0

    def apply(self, matrix: Tensor, shape: tuple[int, ...], bias: Tensor | None = None) -> None:
        """Put a sparse linear layer behind what is there."""
        if self.graded:
            raise ValueError(
                f"{self.where}: a LeakyReadout before it hands on potentials, and only spikes cross synapses: make the "
                "readout the last layer, or take spiking neurons such as sc.LIF() there"
            )
        self.bias = torch.sparse.mm(matrix, self.bias[:, None])[:, 0]
        self.matrix = matrix if self.matrix is None else product(matrix, self.matrix)
        self.shape = shape
        if bias is not None:
            self.bias = self.bias + bias

    def synapses(self, targets: list[Part], shift: int = 0) -> None:
        """Make projections from the parts to populations that have these parts of the current layer."""
        if self.graded:
            raise ValueError(f"{self.where}: neurons after a LeakyReadout would hear potentials, not spikes")
        matrix = identity(self.n) if self.matrix is None else self.matrix
        post, pre = matrix.indices()
        for source in self.parts:
            from_ = local(source.positions, matrix.shape[1])[pre]
            for target in targets:
                to = local(target.positions, matrix.shape[0])[post]
                here = (from_ >= 0) & (to >= 0) & (matrix.values() != 0)
                if not bool(here.any()) or target.population is None:
                    continue
                a, b, w = from_[here], to[here], matrix.values()[here]
                order = torch.argsort(a * (int(b.max()) + 1) + b)
                projection = Projection(
                    source.population, target.population, a[order], b[order], w[order], self.delay + shift
                )
                self.projections.append(projection)

    def neurons(self, neuron: Neuron, name: str | None = None) -> None:
        """Put neurons behind what is there; from now on, the next layers hear them."""
        self.level += 1
        kinds: list[tuple[str, Neuron, Tensor, tuple[int, ...]]]
        if isinstance(neuron, EINeurons):
            kinds = list(self._two_kinds(neuron))
        else:
            kinds = [(name or "", neuron, torch.arange(self.n), self.shape)]
        stem = name or self._stem(neuron)
        number = self.counts[stem] = self.counts.get(stem, 0) + 1
        parts = []
        for suffix, kind, positions, shape in kinds:
            if type(kind) not in (LIF, ALIF, CurrentLIF, LeakyReadout):
                raise ValueError(
                    f"{self.where}: {type(kind).__name__} neurons have no spikes that a circuit could exchange: take "
                    "LIF, ALIF, CurrentLIF or LeakyReadout"
                )
            title = f"{stem}{number}" + (f"_{suffix}" if isinstance(neuron, EINeurons) else "")
            parts.append(Part(len(self.populations), positions))
            self.populations.append(Population(title, constant(kind, shape), self.bias[positions].clone(), self.level))
        self.synapses(parts)
        self.start(parts)
        self.graded = not neuron.spiking

    def _stem(self, neuron: Neuron) -> str:
        return {LIF: "lif", ALIF: "alif", CurrentLIF: "current_lif", LeakyReadout: "readout", EINeurons: "ei"}.get(
            type(neuron), "neurons"
        )

    def _two_kinds(self, neuron: EINeurons) -> Any:
        if neuron.signs is None or not self.shape or self.shape[0] % len(neuron.signs):
            raise ValueError(f"{self.where}: EINeurons do not know which of {self.shape} units excite")
        units = neuron.signs.repeat_interleave(self.shape[0] // len(neuron.signs))
        places = torch.arange(self.n).reshape(self.shape[0], -1)
        for suffix, kind, sign in (("excitatory", neuron.excitatory, 1), ("inhibitory", neuron.inhibitory, -1)):
            rows = places[(units > 0) == (sign > 0)]
            if len(rows):
                yield suffix, kind, rows.flatten(), (len(rows), *self.shape[1:])

    def take(self, dimensions: int, what: str) -> None:
        if len(self.shape) < dimensions:
            raise ValueError(f"{self.where} takes {what}, but what reaches it has the shape {self.shape}")


# ---- one reader for each kind of layer


def _linear(wires: _Wires, layer: Linear) -> None:
    wires.take(1, f"(..., {layer.in_features})")
    if wires.shape[-1] != layer.in_features:
        raise ValueError(f"{wires.where} takes (..., {layer.in_features}), but what reaches it is {wires.shape}")
    weight, rows = layer.effective_weight(), wires.n // layer.in_features
    matrix = from_dense(torch.block_diag(*[weight] * rows) if rows > 1 else weight)
    bias = None if layer.bias is None else layer.bias.repeat(rows)
    wires.apply(matrix, (*wires.shape[:-1], layer.out_features), bias)


def _conv(wires: _Wires, layer: Conv2d) -> None:
    wires.take(3, f"({layer.in_channels}, H, W)")
    channels, height, width = wires.shape
    if channels != layer.in_channels:
        raise ValueError(f"{wires.where} takes ({layer.in_channels}, H, W), but what reaches it is {wires.shape}")
    weight = layer.effective_weight()
    index = torch.arange(float(height * width), dtype=torch.float64).reshape(1, 1, height, width)
    border = layer._reversed_padding_repeated_twice
    if layer.padding_mode == "zeros":
        index = F.pad(index, border, value=-1.0)
    else:
        index = F.pad(index, border, mode=layer.padding_mode)
    (kh, kw), (dh, dw), (sh, sw) = layer.kernel_size, layer.dilation, layer.stride
    rows = (index.shape[2] - dh * (kh - 1) - 1) // sh + 1
    columns = (index.shape[3] - dw * (kw - 1) - 1) // sw + 1
    window = windows(index, layer.kernel_size, layer.stride, layer.dilation)  # (kh kw, positions)
    positions, out_channels = rows * columns, layer.out_channels
    per_in, per_out = weight.shape[1], out_channels // layer.groups
    o = torch.arange(out_channels).view(-1, 1, 1, 1)
    i = torch.arange(per_in).view(1, -1, 1, 1)
    at = torch.arange(positions).view(1, 1, 1, -1)
    pre = (o // per_out * per_in + i) * (height * width) + window  # (out, in, kh kw, positions)
    post = (o * positions + at).expand_as(pre)
    value = weight.flatten(2)[..., None].expand_as(pre)
    real = (window >= 0).expand_as(pre)
    matrix = sparse(post[real], pre[real], value[real], (out_channels * positions, wires.n))
    bias = None if layer.bias is None else layer.bias.repeat_interleave(positions)
    wires.apply(matrix, (out_channels, rows, columns), bias)


def _dann(wires: _Wires, layer: Any) -> None:
    if layer.divisive:
        raise ValueError(
            f"{wires.where} divides by its inhibition, which no synapse does: write {type(layer).__name__}(..., "
            "divisive=False), or Linear or Conv2d under constraint=Dale()"
        )
    (_conv if isinstance(layer, Conv2d) else _linear)(wires, layer)


def _norm(wires: _Wires, layer: BatchNorm1d | BatchNorm2d) -> None:
    wires.take(layer.feature_dims, f"{layer.num_features} features")
    channel = len(wires.shape) - layer.feature_dims
    if wires.shape[channel] != layer.num_features:
        raise ValueError(f"{wires.where} normalises {layer.num_features} features, but gets {wires.shape}")
    gain = layer.effective_weight() / (layer.running_var + layer.eps).sqrt()
    shift = layer.bias - layer.running_mean * gain
    shape = [1] * channel + [-1] + [1] * (layer.feature_dims - 1)
    every = torch.arange(wires.n)
    gains = gain.view(shape).expand(wires.shape).flatten()
    wires.apply(sparse(every, every, gains, (wires.n, wires.n)), wires.shape,
                shift.view(shape).expand(wires.shape).flatten())  # fmt: skip


def _average(wires: _Wires, layer: AvgPool2d) -> None:
    wires.take(3, "(C, H, W)")
    # Pooled ones say how large a share of its window's sum each output is, at borders too.
    pre, post, shape = _pool_pairs(wires, layer, (1, 1))
    pooled = nn.AvgPool2d.forward(layer, torch.ones(1, *wires.shape, dtype=torch.float64)).flatten()
    inside = torch.bincount(post, minlength=math.prod(shape))
    share = pooled / inside.clamp(min=1)
    wires.apply(sparse(post, pre, share[post], (math.prod(shape), wires.n)), shape)


def _global_average(wires: _Wires, layer: GlobalAvgPool2d) -> None:
    wires.take(3, "(C, H, W)")
    area = wires.shape[-1] * wires.shape[-2]
    every = torch.arange(wires.n)
    share = torch.full((wires.n,), 1 / area, dtype=torch.float64)
    wires.apply(sparse(every // area, every, share, (wires.n // area, wires.n)), wires.shape[:-2])


def _maximum(wires: _Wires, layer: MaxPool2d) -> None:
    wires.take(3, "(C, H, W)")
    if wires.matrix is not None or wires.graded:
        raise ValueError(
            f"{wires.where} takes the maximum of currents, which no synapse does; of spikes it is a logical OR: put "
            "the neurons before the pool, Conv2d, LIF, MaxPool2d, or take AvgPool2d (network.pool: average)"
        )
    if layer.return_indices:
        raise ValueError(f"{wires.where} returns indices: write return_indices=False")
    wires.spikes_only |= wires.parts[0].population is None
    pair = (layer.dilation, layer.dilation) if isinstance(layer.dilation, int) else layer.dilation
    pre, post, shape = _pool_pairs(wires, layer, pair)
    one = torch.ones(len(pre), dtype=torch.float64)
    wires.apply(sparse(post, pre, one, (math.prod(shape), wires.n)), shape)
    # A logical OR is a neuron that forgets at once (beta = 0) and fires at one spike or more.
    wires.neurons(LIF(tau=FORGETFUL * wires.dt, threshold=0.5, reset="none", dt=wires.dt), "pool")


def _flatten(wires: _Wires, layer: Flatten) -> None:
    wires.take(layer.dims, f"{layer.dims} dimensions")
    kept = wires.shape[: len(wires.shape) - layer.dims]
    wires.shape = (*kept, wires.n // math.prod(kept))


def _nothing(wires: _Wires, layer: nn.Module) -> None:
    """Layers that do nothing in evaluation mode."""


def _delay(wires: _Wires, layer: Delay) -> None:
    if layer.steps and (wires.graded or bool((wires.bias != 0).any())):
        raise ValueError(
            f"{wires.where}: a delay of what has a bias (or of potentials) is no axonal delay, as the bias would be "
            "late too: put Delay before the synapses, right after the neurons"
        )
    wires.delay += layer.steps


def _recurrent(wires: _Wires, layer: RecurrentLinear) -> None:
    if not layer.neuron.spiking:
        raise ValueError(f"{wires.where}: recurrent synapses carry spikes: take spiking neurons such as sc.LIF()")
    _linear(wires, layer.input)
    wires.neurons(layer.neuron)
    # The same synapses back to the population itself, one step late, from a copy of what the next layers hear.
    back = copy.copy(wires)
    back.projections = []
    back.apply(from_dense(layer.recurrent.effective_weight()), wires.shape)
    back.synapses(list(wires.parts), shift=1)
    wires.projections += back.projections


def _neurons(wires: _Wires, layer: Neuron) -> None:
    wires.neurons(layer)


READERS: dict[type, Callable[[_Wires, Any], None]] = {
    Linear: _linear,
    Conv2d: _conv,
    DANNLinear: _dann,
    DANNConv2d: _dann,
    RecurrentLinear: _recurrent,
    BatchNorm1d: _norm,
    BatchNorm2d: _norm,
    AvgPool2d: _average,
    GlobalAvgPool2d: _global_average,
    MaxPool2d: _maximum,
    Flatten: _flatten,
    Dropout: _nothing,
    Delay: _delay,
    LIF: _neurons,
    ALIF: _neurons,
    CurrentLIF: _neurons,
    EINeurons: _neurons,
    LeakyReadout: _neurons,
}

UNKNOWN = "nothing in a circuit computes the same"
WRITE_INSTEAD = {
    "Residual": "a residual block adds spikes or currents past other layers, which is not built: take a network whose "
    "layers stand in a row, such as sc.VGG or sc.LeNet",
    "SoftPool2d": "no synapse takes a soft maximum: take AvgPool2d (network.pool: average)",
    **{
        name: f"{name} hands on a rate, and only spikes cross synapses: take LIF, ALIF or CurrentLIF"
        for name in ("ReLU", "HardSigmoid", "Logistic", "Tanh", "Identity")
    },
}


def _pool_pairs(wires: _Wires, pool: Any, dilation: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Which input each window of a pool has: inputs, outputs, and the shape of the output."""
    channels, height, width = wires.shape
    like = torch.zeros(1, *wires.shape, dtype=torch.float64)
    rows, columns = type(pool).forward(pool, like).shape[-2:]
    kernel, stride, border = (pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    needed = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip((rows, columns), stride, dilation, kernel, strict=True)
    ]
    index = torch.arange(float(height * width), dtype=torch.float64).reshape(1, 1, height, width)
    bottom, right = (max(0, n - size - b) for n, size, b in zip(needed, (height, width), border, strict=True))
    index = F.pad(index, [border[1], right, border[0], bottom], value=-1.0)[..., : needed[0], : needed[1]]
    window = windows(index, kernel, stride, dilation)  # (kernel, positions)
    plane = torch.arange(channels).view(-1, 1, 1)
    pre = plane * (height * width) + window
    post = (plane * (rows * columns) + torch.arange(rows * columns)).expand_as(pre)
    real = (window >= 0).expand_as(pre)
    return pre[real], post[real], (channels, rows, columns)

"""The container: layers in a row under one pathway and one constraint, whole sequences and streams."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikecredit.constraints import EG, Constraint, EGAdamW, FrozenSigns, Population, Unconstrained
from spikecredit.neurons import Neuron
from spikecredit.pathways import Backprop, Pathway
from spikecredit.pathways.broadcast import Broadcast
from spikecredit.pathways.direct import DirectPathway
from spikecredit.synapses import BatchNorm1d, BatchNorm2d, Constrained, RecurrentLinear, Synapse, Wiring, synapses_of
from spikecredit.synapses.pooled import conv_pool, fusable

Taps = dict[str, Tensor]
"""The outputs of the hidden populations of one pass, by population: where direct feedback is delivered."""


class Network(nn.Module):
    """Layers in a row; (T, B, *in) -> (T, B, *out), time first.

    Any `torch.nn.Module` may be a layer. Those of torch itself see time folded into the batch, (T B, *features). Layers
    with memory have a method `stream`.

    Args:
        layers: neurons, synapses and anything between them.
        pathway: default feedback pathway of every synapse that has none of its own. A direct one, such as
            `DirectFeedbackAlignment`, is the whole network's: see `broadcast`.
        constraint: default constraint of every synapse and normalisation layer that has none of its own.
        last_layer: "backprop" gives the last synapse backprop unless it has a pathway of its own, the default
            of the published code for ImageNet (Xiao et al. 2019); "same" treats it as the others.
        seed: opens the streams of feedback weights, E/I assignments and noise; by default one is drawn from torch's
            global generator, so that `torch.manual_seed` governs them. Forward weights keep the values they come with.

    Under a direct pathway all neurons before the last synapse are hidden populations: the layers after them see their
    output detached, and the output of the last synapse hands its error to all of them. `broadcast` has their feedback
    weights, made when the first input, or `materialise`, shows their sizes; under other pathways it is None.

    A convolution and the pooling after it run in chunks of images (`conv_pool`), unless hooks watch one of them.

    Source of the constant-input rule: an input of time stride 0 (`encode.constant`) passes the layers without memory
        once and is expanded by the first layer with memory; currents equal the T-fold computation to rounding.
    """

    def __init__(
        self,
        *layers: nn.Module,
        pathway: Pathway | None = None,
        constraint: Constraint | None = None,
        last_layer: Literal["same", "backprop"] = "same",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            if not isinstance(layer, nn.Module):
                raise TypeError(
                    f"layer {index} is {layer!r}, not a module: write Network(first, second, ...), "
                    "a list with a star: *layers"
                )
            inner = None if _sees_time(layer) else next(filter(_needs_network, layer.modules()), None)
            if inner is not None:
                raise TypeError(
                    f"layer {index}, {type(layer).__name__}, hides {type(inner).__name__} from the network: torch's "
                    "modules see time folded into the batch, and what is in them gets no pathway. Give its parts as "
                    "layers of their own: Network(*sequential)"
                )
        if last_layer not in ("same", "backprop"):
            raise ValueError(f"last_layer must be 'same' or 'backprop', got {last_layer!r}")
        self.layers = nn.ModuleList(layers)
        self.pathway = pathway or Backprop()
        self.constraint = constraint or Unconstrained()
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        synapses = self.synapses()
        if last_layer == "backprop" and synapses:
            if self.pathway.direct:
                raise ValueError(
                    f"last_layer='backprop' with {self.pathway}: nothing travels back through the last synapse, whose "
                    "own gradient is the true one anyway. Write last_layer='same'"
                )
            final = list(synapses.values())[-1]
            final.given_pathway = final.given_pathway or Backprop()
        last = list(synapses.values())[-1] if synapses else None
        wiring = Wiring(self.pathway, self.constraint, self.seed, last=last)
        bind_all(layers, None, "layers", wiring)
        self.broadcast: Broadcast | None = None
        self._last = max((i for i, layer in enumerate(layers) if _has_synapses(layer)), default=-1)
        if isinstance(self.pathway, DirectPathway):
            self.broadcast = self._direct(self.pathway, wiring.populations)

    def _direct(self, pathway: DirectPathway, populations: dict[str, nn.Module]) -> Broadcast | None:
        """Tap the hidden populations; None if there is none. Refuses what direct feedback cannot serve."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not (
                isinstance(module, Synapse) and (module.pathway.direct or name.endswith(".recurrent"))
            ):
                raise ValueError(
                    f"{name}, {type(module).__name__}, would hand errors back by itself in a network under {pathway}: "
                    "take sc.Linear or sc.Conv2d, as a layer of this network or of a block that binds it"
                )
        names = {module: name for name, module in self.named_modules()}
        hidden: dict[str, str] = {}
        for stream, module in populations.items():
            index = int(names[module].split(".")[1])
            if index > self._last:
                continue
            block = self.layers[index]
            if block is not module and not getattr(block, "takes_taps", False):
                raise ValueError(
                    f"{names[module]} is inside {type(block).__name__}, which must hand `taps` on to its layers for "
                    f"{pathway}: see spikecredit.architectures.Residual"
                )
            if getattr(module, "population", None) is not None:
                raise ValueError(
                    f"{names[module]} stands at two places of the network, but under {pathway} each population has "
                    "feedback weights of its own: give copies, copy.deepcopy(neuron)"
                )
            key = names[module].replace(".", "/")
            module.population = key  # type: ignore[assignment]
            hidden[key] = stream
        if not hidden:
            return None
        final = self.layers[self._last]
        if not isinstance(final, Synapse):
            raise ValueError(
                f"{pathway} starts at the output of the last synapse, but the network ends in "
                f"{type(final).__name__}, which has several: end it with a Linear or Conv2d layer of its own"
            )
        if pathway.learned and final.constraint.constrains_feedback:
            raise ValueError(
                f"{final.constraint} with {pathway}: these feedback weights learn from their own gradient, which knows "
                "no signs. Take Dale(feedback='exempt'), or DirectFeedbackAlignment()"
            )
        return Broadcast(pathway, hidden, self.seed)

    def synapses(self) -> dict[str, Synapse]:
        """The weighted layers by name, in order; those inside blocks and recurrent layers too."""
        return synapses_of(self)

    @property
    def needs_target(self) -> bool:
        """Whether training needs `net(x, target=labels)`."""
        return self.broadcast is not None and self.broadcast.pathway.delivers[0] == "target"

    @torch.no_grad()
    def materialise(self, x: Tensor) -> None:
        """Make the direct feedback weights for inputs like x (T, B, *in), by a pass in evaluation mode.

        The first pass does it by itself. Before it: where the network is compiled or wrapped for several processes.
        Nothing else of the network changes; without direct feedback nothing at all.
        """
        if self.broadcast is None or self.broadcast.ready:
            return
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            self(x[:1, :1])
        finally:
            for module in training:
                module.training = True

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        """Run a whole sequence from rest: x (T, B, *in) -> (T, B, *out).

        Args:
            target: labels (B,) or vectors (B, n_out), where `needs_target`; not needed without gradients.
        """
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"a network takes (T, B, *features) with T >= 1, got {tuple(x.shape)}")
        taps = self._taps(target)
        steps = x.shape[0]
        waiting = steps if steps > 1 and x.stride(0) == 0 else 1  # how many steps the one at hand stands for
        if waiting > 1:
            x = x[:1]
        following = [*self.layers, None][1:]
        pooled = False  # by the convolution before it
        for index, (layer, after) in enumerate(zip(self.layers, following, strict=True)):
            sends = taps is not None and index == self._last
            if pooled:
                pooled = False
            elif after is not None and not sends and fusable(layer, after):
                x, pooled = conv_pool(layer, after, x), True  # type: ignore[arg-type]  # fusable has looked
            elif waiting > 1 and isinstance(layer, BatchNorm1d | BatchNorm2d):
                x = layer(x, repeats=waiting)
            elif waiting > 1 and not getattr(layer, "memoryless", False):
                if getattr(layer, "takes_steps", False):  # the kernel expands it, and sums its gradient over time
                    x = layer(x, steps=waiting)
                else:
                    x = run_layer(layer, x.expand(waiting, *x.shape[1:]), taps)
                waiting = 1
            else:
                x = run_layer(layer, x, taps)
            if taps is not None:
                x = tap(layer, x, taps)
                if sends:
                    x = x.expand(waiting, *x.shape[1:]) if waiting > 1 else x  # the error has a value at every step
                    x, waiting = self._send(x, taps, target), 1
        return x.expand(waiting, *x.shape[1:]) if waiting > 1 else x

    def stream(
        self, x: Tensor, state: Sequence[Any] | None = None, target: Tensor | None = None
    ) -> tuple[Tensor, list[Any]]:
        """Run any chunk of time; the state is a list with one entry per layer.

        Batch normalisation in training mode takes its statistics from the chunk; in evaluation mode a sequence may be
        split anywhere. Direct feedback takes T and the mean over time from the chunk too.
        """
        taps = self._taps(target)
        if taps is None:
            return stream_layers(self.layers, x, state)
        states, layers, cut = states_of(self.layers, state), list(self.layers), self._last + 1
        x, before = stream_layers(layers[:cut], x, states[:cut], taps)
        x, after = stream_layers(layers[cut:], self._send(x, taps, target), states[cut:])
        return x, before + after

    def _taps(self, target: Tensor | None) -> Taps | None:
        """What collects the outputs of the hidden populations, where something asks for them."""
        if target is not None and not self.needs_target:
            raise ValueError(f"target is read by DirectFeedbackAlignment(signal='target') only, not by {self.pathway}")
        if self.broadcast is None or not (torch.is_grad_enabled() or not self.broadcast.ready):
            return None
        if self.needs_target and target is None and torch.is_grad_enabled():
            raise ValueError(
                f"{self.pathway} delivers the target: write net(x, target=labels), or torch.no_grad() where nothing "
                "is to be learned"
            )
        return {}

    def _send(self, x: Tensor, taps: Taps, target: Tensor | None) -> Tensor:
        """The last synapse's output, from which the error goes to the taps."""
        broadcast, final = self.broadcast, self.layers[self._last]
        assert broadcast is not None and isinstance(final, Synapse)
        if not broadcast.ready:
            if torch.compiler.is_compiling():
                raise RuntimeError("direct feedback has no weights yet: call net.materialise(x) before torch.compile")
            signs = final.postsynaptic_sign
            if signs is not None:
                signs = signs.flatten().repeat_interleave(x[0, 0].numel() // signs.numel())
            broadcast.materialise(x, taps, signs)
        return broadcast(x, taps, target) if torch.is_grad_enabled() else x

    def violations(self) -> int:
        """How many effective weights, normalisation scales included, break their constraint."""
        return sum(layer.violations() for layer in self.modules() if isinstance(layer, Constrained))


def bind_all(
    layers: Sequence[nn.Module] | nn.ModuleList,
    source: Population | None,
    prefix: str,
    wiring: Wiring,
    target: Population | None = None,
) -> Population | None:
    """Bind layers in a row, each to the population before it; returns the population after the last.

    `target` names the population after the last synapse, where others project to it too. A layer's name counts layers
    of its own type only, so that a normalisation or dropout layer put between shifts no one's random streams.
    """
    counts: dict[str, int] = {}
    bare: str | None = None  # a synapse whose output no neuron has turned into spikes yet
    final = max((i for i, layer in enumerate(layers) if isinstance(layer, Synapse)), default=-1)
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        name = f"{prefix}.{kind}{counts.setdefault(kind, 0)}"
        counts[kind] += 1
        if isinstance(layer, Synapse | RecurrentLinear) and wiring.pathway.direct and bare is not None:
            raise ValueError(
                f"{name} reads {bare} without neurons between them, but under {wiring.pathway} only neurons receive an "
                "error: put some there, sc.LIF(), or sc.ReLU() for rates (torch's own nn.ReLU is none)"
            )
        if isinstance(layer, Neuron | RecurrentLinear):
            layer.population = None  # type: ignore[assignment]
            wiring.populations[name] = layer
        if isinstance(layer, Synapse):
            bare = name
        elif isinstance(layer, Neuron) or _has_synapses(layer):
            bare = None
        if index == final and isinstance(layer, Synapse):
            source = layer.bind(source, name, wiring, target)
        elif (bind := getattr(layer, "bind", None)) is not None:
            source = bind(source, name, wiring)
    return source


def _sees_time(layer: nn.Module) -> bool:
    """Whether a layer takes (T, B, *features), as ours do and those of torch do not."""
    return hasattr(layer, "memoryless") or hasattr(layer, "stream")


def _needs_network(layer: nn.Module) -> bool:
    """Whether a layer is wrong inside a module that folds time and binds nothing."""
    return hasattr(layer, "bind") or hasattr(layer, "stream")


def _has_synapses(layer: nn.Module) -> bool:
    return any(isinstance(module, Synapse) for module in layer.modules())


def tap(layer: nn.Module, x: Tensor, taps: Taps) -> Tensor:
    """What the layers after this one see of its output x: under direct feedback a hidden population's is detached."""
    name = getattr(layer, "population", None)
    if name is None:
        return x
    taps[name] = x
    return x.detach()


def run_layer(layer: nn.Module, x: Tensor, taps: Taps | None = None) -> Tensor:
    """One layer on a whole sequence; torch's own modules get (T B, *features)."""
    if taps is not None and getattr(layer, "takes_taps", False):
        return layer(x, taps=taps)
    if _sees_time(layer):
        return layer(x)
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def states_of(layers: Sequence[nn.Module] | nn.ModuleList, state: Sequence[Any] | None) -> list[Any]:
    """One state per layer, None where a sequence starts."""
    states = [None] * len(layers) if state is None else list(state)
    if len(states) != len(layers):
        raise ValueError(f"the state has {len(states)} entries for {len(layers)} layers; pass what stream() returned")
    return states


def stream_layers(
    layers: Sequence[nn.Module] | nn.ModuleList, x: Tensor, state: Sequence[Any] | None, taps: Taps | None = None
) -> tuple[Tensor, list[Any]]:
    """Layers in a row on a chunk of time, with one state per layer (None where it has none); `taps` as in `tap`."""
    states = states_of(layers, state)
    for index, layer in enumerate(layers):
        if taps is not None and getattr(layer, "takes_taps", False):
            x, states[index] = layer.stream(x, states[index], taps)  # type: ignore[operator]
        elif (stream := getattr(layer, "stream", None)) is not None:
            x, states[index] = stream(x, states[index])
        else:
            x = run_layer(layer, x)
        if taps is not None:
            x = tap(layer, x, taps)
    return x, states


def after_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """After `optimizer.step()`: bring the constrained weights that this optimiser owns back to their constraint, and
    let their pathways learn.

    Raises:
        ValueError: a feedback weight that shares its layer's gradient is not in the parameter group of the weight, or
            the optimiser is one that moves weights by factors, which leaves the two as far apart as they were.
    """
    group = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for name, layer in net.named_modules():
        if not isinstance(layer, Constrained):
            continue
        if any(id(parameter) in group for parameter in layer.constrained_parameters()):
            tied = isinstance(layer, Synapse) and layer.pathway.tied
            if tied and group.get(id(layer.feedback_weight)) != group[id(layer.weight)]:
                raise ValueError(
                    f"{name}: {layer.pathway} moves feedback_weight as it moves weight, but the optimiser has only the "
                    "weight, or the two in different parameter groups. Make the optimiser from net.parameters() after "
                    "the network has its pathway, or put both into one group"
                )
            if tied and isinstance(optimizer, EG | EGAdamW):
                raise ValueError(
                    f"{name}: {layer.pathway} moves B by W's increments, which {type(optimizer).__name__} never makes, "
                    "as it moves weights by factors. Take torch.optim.SGD or torch.optim.AdamW, or another pathway"
                )
            layer.project()
            if isinstance(layer, Synapse) and id(layer.weight) in group:
                layer.learn()


def start_epoch(net: nn.Module, epoch: int) -> None:
    """At the start of an epoch of training: constraints that begin later than training, as `FrozenSigns(after=2)`, do.

    Idempotent: signs that are frozen stay.

    Args:
        net: a network, or a model that was converted. epoch: counted from 0.
    Raises:
        TypeError, ValueError: epoch is no whole number, or below 0.
    """
    if not isinstance(epoch, int) or isinstance(epoch, bool):
        raise TypeError(f"epoch is a whole number, 0 for the first, got {epoch!r}")
    if epoch < 0:
        raise ValueError(f"epochs count from 0, got {epoch}")
    for layer in net.modules():
        if isinstance(layer, Constrained):
            layer.constraint.start_epoch(layer, epoch)


def freeze_signs(net: nn.Module) -> None:
    """Freeze the signs that weights under `FrozenSigns` have now, whatever epoch it is and what was frozen before.

    Needed after weights were loaded or written into a network whose signs are frozen from the start.

    Raises:
        ValueError: no layer is under `FrozenSigns`.
    """
    layers = [m for m in net.modules() if isinstance(m, Constrained) and isinstance(m.constraint, FrozenSigns)]
    if not layers:
        raise ValueError(
            f"no layer of this {type(net).__name__} is under FrozenSigns: write Network(..., constraint=FrozenSigns()) "
            "or convert(model, constraint=FrozenSigns())"
        )
    for layer in layers:
        assert layer.frozen_sign is not None and isinstance(layer.constraint, FrozenSigns)
        layer.frozen_sign.zero_()
        layer.constraint.freeze(layer)


def attach(net: nn.Module, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
    """Call `after_step` by itself after each `optimizer.step()`.

    Idempotent for one pair of network and optimiser. Hooks are in no state_dict: attach again after a deepcopy or with
    a new optimiser.

    Returns:
        the handle; `handle.remove()` ends it.
    """
    for hook in optimizer._optimizer_step_post_hooks.values():
        if getattr(hook, "network", None) is net:
            return hook.handle  # type: ignore[attr-defined,no-any-return]

    def project(optimizer: torch.optim.Optimizer, args: Any, keywords: Any) -> None:
        after_step(net, optimizer)

    project.network = net  # type: ignore[attr-defined]
    project.handle = handle = optimizer.register_step_post_hook(project)  # type: ignore[attr-defined]
    return handle

"""The container: layers in a row under one pathway and one constraint, whole sequences and streams."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spikecredit.constraints import Constraint, Population, Unconstrained
from spikecredit.pathways import Backprop, Pathway
from spikecredit.synapses import BatchNorm1d, BatchNorm2d, Constrained, Synapse, Wiring
from spikecredit.synapses.pooled import conv_pool, fusable


class Network(nn.Module):
    """Layers in a row; (T, B, *in) -> (T, B, *out), time first.

    Any `torch.nn.Module` may be a layer. Those of torch itself see time folded into the batch, (T B, *features). Layers
    with memory have a method `stream`.

    Args:
        layers: neurons, synapses and anything between them.
        pathway: default feedback pathway of every synapse that has none of its own.
        constraint: default constraint of every synapse and normalisation layer that has none of its own.
        last_layer: "backprop" gives the last synapse backprop unless it has a pathway of its own, the default
            of the published code for ImageNet (Xiao et al. 2019); "same" treats it as the others.
        seed: opens the streams of feedback weights, E/I assignments and noise; by default one is drawn from torch's
            global generator, so that `torch.manual_seed` governs them. Forward weights keep the values they come with.
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
            final = list(synapses.values())[-1]
            final.given_pathway = final.given_pathway or Backprop()
        bind_all(layers, None, "layers", Wiring(self.pathway, self.constraint, self.seed))

    def synapses(self) -> dict[str, Synapse]:
        """The weighted layers by name, in order; those inside blocks and recurrent layers too."""
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, Synapse)}

    def forward(self, x: Tensor) -> Tensor:
        """Run a whole sequence from rest: x (T, B, *in) -> (T, B, *out)."""
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(f"a network takes (T, B, *features) with T >= 1, got {tuple(x.shape)}")
        steps = x.shape[0]
        waiting = steps if steps > 1 and x.stride(0) == 0 else 1  # how many steps the one at hand stands for
        if waiting > 1:
            x = x[:1]
        following = [*self.layers, None][1:]
        pooled = False  # by the convolution before it
        for layer, after in zip(self.layers, following, strict=True):
            if pooled:
                pooled = False
            elif after is not None and fusable(layer, after):
                x, pooled = conv_pool(layer, after, x), True  # type: ignore[arg-type]  # fusable has looked
            elif waiting > 1 and isinstance(layer, BatchNorm1d | BatchNorm2d):
                x = layer(x, repeats=waiting)
            elif waiting > 1 and not getattr(layer, "memoryless", False):
                if getattr(layer, "takes_steps", False):  # the kernel expands it, and sums its gradient over time
                    x = layer(x, steps=waiting)
                else:
                    x = run_layer(layer, x.expand(waiting, *x.shape[1:]))
                waiting = 1
            else:
                x = run_layer(layer, x)
        return x.expand(waiting, *x.shape[1:]) if waiting > 1 else x

    def stream(self, x: Tensor, state: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Run any chunk of time; the state is a list with one entry per layer.

        Batch normalisation in training mode takes its statistics from the chunk; in evaluation mode a sequence may be
        split anywhere.
        """
        return stream_layers(self.layers, x, state)

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
    final = max((i for i, layer in enumerate(layers) if isinstance(layer, Synapse)), default=-1)
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        name = f"{prefix}.{kind}{counts.setdefault(kind, 0)}"
        counts[kind] += 1
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


def run_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """One layer on a whole sequence; torch's own modules get (T B, *features)."""
    if _sees_time(layer):
        return layer(x)
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def stream_layers(
    layers: Sequence[nn.Module] | nn.ModuleList, x: Tensor, state: Sequence[Any] | None
) -> tuple[Tensor, list[Any]]:
    """Layers in a row on a chunk of time, with one state per layer (None where it has none)."""
    states = [None] * len(layers) if state is None else list(state)
    if len(states) != len(layers):
        raise ValueError(f"the state has {len(states)} entries for {len(layers)} layers; pass what stream() returned")
    for index, layer in enumerate(layers):
        if (stream := getattr(layer, "stream", None)) is not None:
            x, states[index] = stream(x, states[index])
        else:
            x = run_layer(layer, x)
    return x, states


def after_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """After `optimizer.step()`: bring the constrained weights that this optimiser owns back to their constraint, and
    let their pathways learn.

    Raises:
        ValueError: a feedback weight that shares its layer's gradient is not in the parameter group of the weight.
    """
    group = {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}
    for name, layer in net.named_modules():
        if isinstance(layer, Constrained) and id(layer.weight) in group:
            tied = isinstance(layer, Synapse) and layer.pathway.tied
            if tied and group.get(id(layer.feedback_weight)) != group[id(layer.weight)]:
                raise ValueError(
                    f"{name}: {layer.pathway} moves feedback_weight as it moves weight, but the optimiser has only the "
                    "weight, or the two in different parameter groups. Make the optimiser from net.parameters() after "
                    "the network has its pathway, or put both into one group"
                )
            layer.project()
            if isinstance(layer, Synapse):
                layer.learn()


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

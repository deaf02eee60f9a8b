"""Conversion: any torch or snnTorch model, in place, so that its errors return through a pathway."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from spikecredit.constraints import Constraint, Dale, Population, Unconstrained
from spikecredit.network import Network
from spikecredit.pathways import Backprop, Pathway
from spikecredit.synapses import BatchNorm1d as OurBatchNorm1d
from spikecredit.synapses import BatchNorm2d as OurBatchNorm2d
from spikecredit.synapses import Constrained, Conv2d, Linear, Synapse, Wiring

log = logging.getLogger("spikecredit")

M = TypeVar("M", bound=nn.Module)

SIGNS_SEED = 0
"""Signs come from one seed in every call, so that n units have the same signs wherever they are read."""


class Scaled(Constrained):
    """With a normalisation class of torch, one whose scale is under a constraint: gamma >= 0 under Dale's law, no
    change of sign where signs are frozen.

    All else is torch's: `isinstance`, `num_batches_tracked`, `momentum=None`, missing running statistics.
    """

    weight: Any  # a tensor, which torch's classes declare in different ways

    @torch.no_grad()
    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population | None:
        """Take the constraint; the units before and after the layer are the same."""
        already, self.constraint = self.constraint == wiring.constraint, wiring.constraint
        signs = self.constraint.signs(Population("scale", self.weight.numel()), wiring.seed)
        # The scale's sign is not a unit's type: excitatory and inhibitory channels alike need gamma >= 0.
        self.presynaptic_sign = None if signs is None else torch.ones_like(self.weight, dtype=torch.int8)
        if signs is not None and not already:
            self.weight.abs_()
        self._hold_signs(anew=not already)
        self.constraint.start_epoch(self, 0)
        self.project()
        return source

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.check_projected()
        return super().forward(x)


class BatchNorm1d(Scaled, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with its scale under a constraint."""


class BatchNorm2d(Scaled, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with its scale under a constraint."""


class BatchNorm3d(Scaled, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with its scale under a constraint."""


class SyncBatchNorm(Scaled, nn.SyncBatchNorm):
    """`torch.nn.SyncBatchNorm` with its scale under a constraint."""


class LayerNorm(Scaled, nn.LayerNorm):
    """`torch.nn.LayerNorm` with its scale under a constraint."""


class GroupNorm(Scaled, nn.GroupNorm):
    """`torch.nn.GroupNorm` with its scale under a constraint."""


WEIGHTED: dict[type[nn.Module], type[Synapse]] = {nn.Linear: Linear, nn.Conv2d: Conv2d}
SCALES: dict[type[nn.Module], type[Scaled]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: SyncBatchNorm,
    nn.LayerNorm: LayerNorm,
    nn.GroupNorm: GroupNorm,
}


def convert(
    model: M,
    pathway: Pathway | None = None,
    constraint: Constraint | None = None,
    last_layer: Literal["same", "backprop"] = "same",
    sensory: Sequence[str] | None = None,
    seed: int | None = None,
) -> M:
    """Turn every `torch.nn.Linear` and `torch.nn.Conv2d` of a model into ours, in place.

    The modules change their class and nothing else: parameters, hooks, flags, device, dtype and every reference stay.
    So optimisers made before go on working, names in the state dict stay (feedback weights and signs are added ones),
    and without a constraint the outputs are the same bit for bit. `pathway.redraws` draws at every call of a layer:
    in a loop over time, at every step.

    Under a constraint torch's batch, layer and group normalisations keep their scale to it too, and the model's weights
    are changed at once to obey it. Which neurons a layer reads is not known here. So all populations of n units have
    the same signs: layers that read one population agree, however the model is wired. Not known are units that
    change their number or order between two of their readers (flattened, concatenated, split, shuffled).

    A second call binds anew: what it says is what holds. Weights that are under the same constraint already stay.

    Args:
        model: any module; it may hold layers of ours, whose own pathway or constraint goes before that of the call.
        pathway: of every converted layer; None is backprop. constraint: of every converted layer; None is none.
        last_layer: "backprop" gives the last Linear or Conv2d, in the order of registration, backprop.
        sensory: names of the layers that read sensory input, which is exempt from the constraint; by default the
            first in the order of registration.
        seed: opens the streams of feedback weights and noise, one for each layer by its name in the model; by default
            drawn from torch's global generator.
    Returns:
        the model itself. What was converted is logged at level INFO.
    Warns:
        UserWarning: other modules have weights, which stay under backprop and no constraint; they are named.
    Raises:
        TypeError: a layer cannot be converted faithfully. ValueError: an argument is wrong, or there is no layer to
            convert. Nothing has been changed then.
    """
    pathway, constraint = pathway or Backprop(), constraint or Unconstrained()
    _check_choices(pathway, constraint, last_layer)
    modules = dict(model.named_modules())
    for name, module in modules.items():
        check_module(name, module)
    layers = {name: m for name, m in modules.items() if isinstance(m, Synapse) or type(m) in WEIGHTED}
    if not layers:
        kinds = ", ".join(sorted({type(m).__name__ for m in modules.values()}))
        raise ValueError(f"there is no nn.Linear and no nn.Conv2d to convert in this model of {kinds}")
    names = list(layers)
    if sensory is None:
        sensory = names[:1]
    elif isinstance(sensory, str) or not set(sensory) <= set(names):
        raise ValueError(f"sensory must be a list of layers out of {', '.join(map(repr, names))}, got {sensory!r}")
    own = {name: Backprop() if last_layer == "backprop" and name == names[-1] else pathway for name in names}
    for name, module in layers.items():
        if isinstance(module, Synapse):
            module.check_choices(module.given_pathway or own[name], module.given_constraint or constraint, name)
    constrained = not isinstance(constraint, Unconstrained)
    scales = {name: m for name, m in modules.items() if _is_scale(m, constrained)}

    seed = int(torch.randint(2**62, ())) if seed is None else seed
    for name, module in layers.items():
        layer = become(module, WEIGHTED)
        source, target = (Population(f"{units} units", units) for units in layer.units)
        before = None if name in sensory else source
        wiring = Wiring(own[name], constraint, SIGNS_SEED, initialise=not _obeys(layer, before, constraint))
        # Signs are the same in every call; the call's seed is in the name, by which a layer draws all else.
        layer.bind(before, f"{name or 'layer'}@{seed}", wiring, target)
        layer.project()
    for name, module in scales.items():
        scale = module if isinstance(module, OurBatchNorm1d | OurBatchNorm2d) else become(module, SCALES)
        scale.bind(None, name, Wiring(pathway, constraint, SIGNS_SEED))
    log.info("%s, %s: %s", pathway, constraint, ", ".join(name or type(model).__name__ for name in [*layers, *scales]))
    _warn_of_others({name: m for name, m in modules.items() if name not in layers and name not in scales}, constrained)
    return model


def _check_choices(pathway: Pathway, constraint: Constraint, last_layer: str) -> None:
    for choice, base in ((pathway, Pathway), (constraint, Constraint)):
        if not isinstance(choice, base):
            wanted = f"{choice.__name__}()" if isinstance(choice, type) else f"a {base.__name__}"
            raise TypeError(f"{base.__name__.lower()} is {choice!r}: write {wanted}")
    if last_layer not in ("same", "backprop"):
        raise ValueError(f"last_layer must be 'same' or 'backprop', got {last_layer!r}")
    if getattr(pathway, "direct", False):
        raise ValueError(
            f"pathway is {pathway}: direct feedback goes to the neurons, and convert does not know which modules of a "
            "model are neurons. Build a spikecredit.Network, or take a pathway from layer to layer"
        )
    if not isinstance(constraint, Dale):
        return
    if constraint.mode == "reparametrize":
        raise ValueError(
            f"{constraint}: reparametrised weights are functions of the parameters, so the model's weights, and every "
            "checkpoint of them, would change their meaning. Take Dale(mode='project') and attach(model, optimizer)"
        )
    if isinstance(constraint, Dale) and constraint.connection is not None:
        raise ValueError(
            f"{constraint}: convert does not know which neurons a layer reaches, nor therefore of which kind they are. "
            "Take connection=None, or build a Network"
        )
    if constraint.constrains_feedback:
        raise ValueError(
            f"{constraint}: convert does not know which layer's outputs are which layer's inputs, so it cannot give "
            "feedback synapses the sign of the neuron that sends them. Take Dale(feedback='exempt'), or build a Network"
        )


def check_module(name: str, module: nn.Module) -> None:
    """Refuse what would be converted wrongly, or left out without a word."""
    kind, where = type(module).__name__, name or "the model"
    if isinstance(module, Network):
        raise TypeError(
            f"{where} is a spikecredit.Network, which knows its populations: give it pathway and constraint when it is "
            "made, and convert the other parts of the model by themselves"
        )
    if isinstance(module, nn.parallel.DistributedDataParallel):
        raise TypeError(
            f"{where} is wrapped in {kind}, which hands out the feedback weights to all processes only if it finds "
            f"them when it is made: convert first, then wrap ({kind}(convert(model, ...)))"
        )
    if isinstance(module, Synapse) or not isinstance(module, tuple(WEIGHTED)):
        return
    base = next(torchs for torchs in WEIGHTED if isinstance(module, torchs)).__name__
    weight = module._parameters.get("weight")
    reason = None
    if type(module) not in WEIGHTED:
        reason = (
            f"is a {kind}, a subclass of nn.{base} whose forward pass may differ. Lazy layers become plain ones by one "
            "forward pass, parametrised ones by torch.nn.utils.parametrize.remove_parametrizations"
        )
    elif weight is None:
        reason = (
            "makes its weight from other parameters (weight_norm, spectral_norm or pruning). Undo that first, with "
            "torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove"
        )
    elif "forward" in vars(module):
        reason = f"has a forward of its own in the place of nn.{base}'s, which would go on running: delete it first"
    elif weight.is_meta:
        reason = "is on the meta device, without numbers. Give the model its weights first"
    elif not weight.is_floating_point():
        reason = f"has weights of {weight.dtype}; a real floating-point type is needed"
    if reason is not None:
        raise TypeError(
            f"{where} {reason}. Or convert the other parts of the model by themselves: convert(model.part, ...)"
        )


def _is_scale(module: nn.Module, constrained: bool) -> bool:
    """Whether a normalisation is bound by this call: all that have a scale under a constraint, and ours always."""
    if isinstance(module, Scaled | OurBatchNorm1d | OurBatchNorm2d):
        return True
    return constrained and type(module) in SCALES and module.weight is not None


T = TypeVar("T", bound=Constrained)


def become(module: nn.Module, kinds: dict[type[nn.Module], type[T]]) -> T:
    """The same object with our class in the place of torch's: every reference to it, and its hooks, stay good."""
    kind = kinds.get(type(module))
    if kind is not None:
        module.__class__ = kind
        if isinstance(module, Synapse):
            module.set_up(None, None)
        elif isinstance(module, Constrained):
            module.set_up_constraint(None)
    return module  # type: ignore[return-value]  # now it is


def _obeys(layer: Synapse, source: Population | None, constraint: Constraint) -> bool:
    """Whether an earlier call has put the layer under this constraint with these signs."""
    if layer.constraint != (layer.given_constraint or constraint):
        return False
    if layer.frozen_sign is not None:
        return True
    present, wanted = layer.presynaptic_sign, layer._signs(source, layer.units[0], SIGNS_SEED, "", axis=1)
    return present is not None and wanted is not None and torch.equal(present, wanted)


def _warn_of_others(others: dict[str, nn.Module], constrained: bool) -> None:
    """Name the modules with weights that stay as they are. What an embedding reads is no neuron's output."""
    left = []
    for name, module in others.items():
        own = dict(module.named_parameters(recurse=False))
        heavy = any(nn.parameter.is_lazy(p) or p.ndim >= 2 for p in own.values())
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag) and (heavy or (constrained and "weight" in own)):
            left.append(f"{name or 'the model'} ({type(module).__name__})")
    if left:
        warnings.warn(
            f"convert left these modules as they are, under backprop{' and no constraint' if constrained else ''}: "
            f"{', '.join(left)}. It converts nn.Linear and nn.Conv2d",
            stacklevel=3,
        )

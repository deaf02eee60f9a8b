"""An experiment: five independent choices, how it is trained, and a seed. Its constructor is the configuration file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spikecredit.architectures import ARCHITECTURES, MLP, Architecture, DANNArchitecture
from spikecredit.constraints import CONSTRAINTS, Constraint, Dale, FrozenSigns, Unconstrained
from spikecredit.data import AUGMENTATIONS, DATA, ENCODERS, Augmentation, DataSource, Digits, Encoder, ImageData
from spikecredit.data.encode import Constant
from spikecredit.equilibrium import ENERGIES, ESTIMATORS, RELAXATIONS, Energy, Estimator, Relaxation
from spikecredit.losses import LOSSES, Loss, MeanPotential
from spikecredit.network import Network
from spikecredit.neurons import LIF, NEURONS, SURROGATES, LeakyReadout, Neuron, Surrogate
from spikecredit.pathways import ERRORS, PATHWAYS, Backprop, ErrorSignal, Pathway
from spikecredit.rules import BPTT, RULES, Rule
from spikecredit.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Adam,
    Cosine,
    ExponentiatedAdamW,
    ExponentiatedGradient,
    Optimizer,
    Schedule,
)
from spikecredit.training.schema import Loaded, load

KINDS: dict[str, tuple[type, dict[str, type]]] = {
    "architectures": (Architecture, ARCHITECTURES),
    "neurons": (Neuron, NEURONS),
    "surrogates": (Surrogate, SURROGATES),
    "pathways": (Pathway, PATHWAYS),
    "errors": (ErrorSignal, ERRORS),
    "constraints": (Constraint, CONSTRAINTS),
    "data": (DataSource, DATA),
    "encoders": (Encoder, ENCODERS),
    "augmentations": (Augmentation, AUGMENTATIONS),
    "losses": (Loss, LOSSES),
    "rules": (Rule, RULES),
    "estimators": (Estimator, ESTIMATORS),
    "energies": (Energy, ENERGIES),
    "relaxations": (Relaxation, RELAXATIONS),
    "optimizers": (Optimizer, OPTIMIZERS),
    "schedules": (Schedule, SCHEDULES),
}
"""What a configuration may name: for each word that `spikecredit list` takes, the base class and its kinds."""

REGISTRIES: dict[type, dict[str, type]] = dict(KINDS.values())


@dataclass(frozen=True)
class Training:
    """How long, and with what optimiser.

    Args:
        epochs: passes over the training split. batch_size: images per step.
        optimizer, schedule: see `optimizers`.
        clip_norm: clip the gradient to this Euclidean norm; None leaves it.
        precision: "float32"; "tf32": matrix products on CUDA take their factors rounded to TF32 (convolutions do so by
            torch's own default); "bf16": both in bfloat16 by autocast, membranes in float32.
        compile: null, or a mode of `torch.compile` for the network: "default", or "reduce-overhead" (CUDA graphs).
        patience: stop early after this many epochs without a better validation accuracy; None trains all epochs.
        checkpoint_every: steps between checkpoints inside an epoch; 0 saves at the end of each epoch only. (A signal
            always saves.)
        measure: images of the probe batch on which angles and firing rates are measured after every epoch; 0: never.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Optimizer = Adam()
    schedule: Schedule = Cosine()
    clip_norm: float | None = None
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    compile: Literal["default", "reduce-overhead"] | None = None
    patience: int | None = None
    checkpoint_every: int = 0
    measure: int = 64

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("checkpoint_every", 0), ("measure", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or null for no clipping; got {self.clip_norm}")
        if self.clip_norm is not None and isinstance(self.optimizer, SGD) and self.optimizer.batch_manhattan:
            raise ValueError(
                f"clip_norm={self.clip_norm} changes nothing where batch_manhattan takes the sign of each gradient: "
                "write clip_norm: null"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, or null to train all epochs; got {self.patience}")


@dataclass(frozen=True)
class Experiment:
    """What is trained on what, and how credit travels.

    Args:
        network: the architecture. neuron: the template of its hidden neurons. readout: that of its output.
        pathway, constraint, last_layer: as in `Network`.
        data: images. encoder: how they become sequences. normalise: subtract the training split's mean and divide by
            its standard deviation, per channel (encoders that read pixels as probabilities need False).
        on_off: then split each channel into what is above and what is below 0, as `encode.on_off` does.
        augment: in this order, on the training batches.
        loss: what is minimised, and which score decides the class.
        rule: how a batch becomes a gradient of every weight.
        training: see `Training`.
        seed: opens every stream of randomness: init, feedback, dale, noise, data, encoder, augment, rule.
    """

    network: Architecture = MLP()
    neuron: Neuron = LIF()
    readout: Neuron = LeakyReadout()
    pathway: Pathway = Backprop()
    constraint: Constraint = Unconstrained()
    last_layer: Literal["same", "backprop"] = "same"
    data: DataSource = Digits()
    encoder: Encoder = Constant()
    normalise: bool = True
    on_off: bool = False
    augment: tuple[Augmentation, ...] = ()
    loss: Loss = MeanPotential()
    rule: Rule = BPTT()
    training: Training = Training()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.encoder.needs_sequence:
            raise ValueError(
                f"{type(self.encoder).__name__} encodes changes over time, but {type(self.data).__name__} shows still "
                "images: write encoder: constant, rate, latency or rows"
            )
        if self.normalise and self.encoder.needs_unit_range:
            raise ValueError(
                f"{type(self.encoder).__name__} reads pixels as values between 0 and 1: write normalise: false"
            )
        if self.on_off and not self.normalise:
            raise ValueError(
                "on_off=True splits values at 0, and pixels that are not normalised are never below it: write "
                "normalise: true"
            )
        negative = self.normalise and not self.on_off
        if isinstance(self.constraint, Dale) and self.constraint.sensory == "excitatory" and negative:
            raise ValueError(
                "constraint.sensory=excitatory makes every input a neuron that excites, but normalised pixels may be "
                "negative: write on_off: true, or normalise: false"
            )
        if negative and isinstance(self.network, DANNArchitecture) and self.network.dann is not None:
            raise ValueError(
                "DANN layers take activities, 0 or above, and normalise: true makes half of the pixels negative: write "
                "on_off: true, or normalise: false"
            )
        if self.rule.intervenes and self.training.compile is not None:
            raise ValueError(
                f"{self.rule} changes what neurons receive while the network runs, for which a compiled network has no "
                "place: write training.compile: null"
            )
        by_factors = isinstance(self.training.optimizer, ExponentiatedGradient | ExponentiatedAdamW)
        if by_factors and self.pathway.learns:
            raise ValueError(
                f"{self.pathway} moves B by increments, which an optimiser that moves weights by factors never makes: "
                "write training.optimizer: sgd, or another pathway"
            )
        if by_factors and isinstance(self.constraint, Dale) and self.constraint.mode == "reparametrize":
            raise ValueError(
                "constraint.mode=reparametrize stores a parameter from which the weight is made, and exponentiated "
                "gradient would freeze the sign of that parameter: write constraint.mode: project"
            )
        if isinstance(self.constraint, FrozenSigns) and self.constraint.after >= self.training.epochs:
            raise ValueError(
                f"constraint.after={self.constraint.after} freezes signs after that many epochs, and training ends "
                f"after {self.training.epochs}: write a smaller one, or constraint: none"
            )

    def input_shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the network's input at each step, for images of (C, H, W)."""
        channels, height, width = image
        return self.encoder.shape((2 * channels if self.on_off else channels, height, width))

    def build(self, data: ImageData) -> Network:
        """The untrained network for this data."""
        return self.network.build(
            self.input_shape(data.shape),
            data.classes,
            self.neuron,
            self.readout,
            self.pathway,
            self.constraint,
            self.last_layer,
            self.seed,
        )


def load_experiment(source: Path | str, overrides: tuple[str, ...] = ()) -> Loaded[Experiment]:
    """Read a YAML configuration, with dotted overrides such as "training.epochs=3".

    Raises:
        ConfigError: what is wrong, each with file, line and the nearest name.
    """
    return load(Experiment, source, REGISTRIES, overrides)

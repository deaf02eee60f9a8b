"""A plasticity rule: its parameters, their published sets, and its equations."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import nearest


class OutsideFit(UserWarning):
    """A published parameter set is used for an experiment that it was not fitted to."""


@dataclass(frozen=True)
class Preset:
    """A published set of parameters: one row of one table, never mixed with another.

    Args:
        values: the constructor's arguments.
        source: paper, and the table or figure.
        verified: whether the numbers were read in that source, or in code of its authors. False: from memory.
        protocols: kinds of protocols that it was fitted to (`PROTOCOLS`); empty: any.
        grouped: whether it holds for trains cut into groups (True), for contiguous ones (False), or both (None).
        longest: the longest experiment that it was fitted to, in seconds; None: no limit is known.
        region: what cells it describes.
        note: what else a reader must know.
    """

    values: Mapping[str, Any]
    source: str
    verified: bool
    protocols: tuple[str, ...] = ()
    grouped: bool | None = None
    longest: float | None = None
    region: str = ""
    note: str = ""


@dataclass(frozen=True)
class Rule(ABC):
    """The base of all rules: a frozen dataclass whose fields are the parameters, in the units of `UNITS`.

    A rule of your own needs no class: `CustomRule(Equations(...))` runs everywhere.
    """

    UNITS: ClassVar[Mapping[str, str]] = {}
    """The unit of every field that has one; other numbers are dimensionless."""
    PRESETS: ClassVar[Mapping[str, Preset]] = {}
    """Published parameter sets by name."""
    DT: ClassVar[float] = 1.0
    """The step in ms by which continuous equations are integrated unless another is asked for."""

    @abstractmethod
    def equations(self) -> Equations:
        """The rule as equations, with this object's parameters."""

    def signals(self, experiment: "Any", dt: float) -> Mapping[str, np.ndarray]:
        """What the rule's signals are during an experiment: name to values (steps + 1, C), in the units of the
        equations. For rules that read a membrane potential: the rule knows the cell.

        Args:
            experiment: the conditions of a protocol (`protocols.Experiment`).
            dt: ms.
        """
        return {}

    def starting(self, experiment: "Any", replicates: int) -> Mapping[str, Any]:
        """Initial values that differ between conditions or replicates: name to SI values that broadcast to (C, R). For
        rules with two stable states, or with a potential that was held before the experiment.

        Args:
            experiment: the conditions of a protocol.
            replicates: R, synapses per condition.
        """
        return {}

    def change(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The relative change of strength of each condition, (C,), from the weights of all replicates, (C, R)."""
        return after.mean(axis=1) / before.mean(axis=1) - 1

    def constants(self) -> dict[str, tuple[float, str]]:
        """All numeric fields with their units, as `Equations` takes them."""
        return {
            f.name: (float(value), self.UNITS.get(f.name, "1"))
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (int, float)) and not isinstance(value, bool)
        }

    # ---- published parameter sets ------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A published parameter set, as it stands.

        Raises:
            ValueError: an unknown name, or changes to a row, which would no longer be what was published.
        """
        if name not in cls.PRESETS:
            raise ValueError(
                f"{cls.__name__} has no preset {name!r}{nearest(name, list(cls.PRESETS))} "
                f"(there are {', '.join(cls.PRESETS) or 'none'})"
            )
        if changes:
            raise ValueError(
                f"the preset {name!r} was fitted as a whole, and cannot be mixed with {', '.join(changes)}: write "
                f"dataclasses.replace({cls.__name__}.preset({name!r}), ...) for a rule of your own"
            )
        return cls(**cls.PRESETS[name].values)

    @property
    def published(self) -> str | None:
        """The name of the preset that has exactly these values, or None: then the parameters are the user's own."""
        return next((name for name, p in self.PRESETS.items() if type(self)(**p.values) == self), None)

    def check_fit(self, kind: str, grouped: bool, seconds: float) -> None:
        """Warn if a published set is used outside what it was fitted to.

        Args:
            kind: of the protocol, its name in `PROTOCOLS`.
            grouped: whether its trains are cut into groups.
            seconds: how long it takes.
        """
        if (name := self.published) is None:
            return
        preset = self.PRESETS[name]
        said = []
        if preset.protocols and kind not in preset.protocols:
            said.append(f"it was fitted to {', '.join(preset.protocols)}, not to {kind}")
        if preset.grouped is not None and preset.grouped != grouped:
            with_groups = "trains cut into groups" if preset.grouped else "contiguous trains"
            said.append(f"it holds for {with_groups}, which these are not")
        if preset.longest is not None and seconds > preset.longest:
            said.append(f"its data end after {preset.longest:g} s, and this takes {seconds:g} s")
        if said:
            warnings.warn(
                f"{type(self).__name__} preset {name!r} ({preset.source}): {'; '.join(said)}", OutsideFit, stacklevel=4
            )


@dataclass(frozen=True)
class CustomRule(Rule):
    """A rule of one's own: `CustomRule(Equations(model, on_pre, on_post, parameters=...))`."""

    text: Equations = field(kw_only=True)

    def equations(self) -> Equations:
        return self.text

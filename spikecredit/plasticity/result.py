"""What an experiment gave: a table, and its distance to published data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikecredit.plasticity.engines.stimulus import Outcome
from spikecredit.plasticity.protocols import Experiment, Protocol

if TYPE_CHECKING:
    from spikecredit.plasticity.rule import Rule


@dataclass(frozen=True)
class Result:
    """One rule under one protocol.

    Attributes:
        change: relative change of strength of each condition, (C,): 0.1 is 10 % more than before.
        outcome: all variables and recorded traces.
    """

    rule: "Rule"
    protocol: Protocol
    experiment: Experiment
    outcome: Outcome
    engine: str

    @property
    def change(self) -> np.ndarray:
        return self.rule.change(self.outcome.before, self.outcome.after)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each condition with its change."""
        return [{**row, "change": float(c)} for row, c in zip(self.experiment.rows, self.change, strict=True)]

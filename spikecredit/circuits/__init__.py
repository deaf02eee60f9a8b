"""Circuits: exchange with Brian2. The only room with volts and amperes."""

from spikecredit.circuits import balanced
from spikecredit.circuits.errors import CircuitError
from spikecredit.circuits.from_brian import from_brian
from spikecredit.circuits.imported import CircuitState, ImportedCircuit, Recording

__all__ = ["CircuitError", "CircuitState", "ImportedCircuit", "Recording", "balanced", "from_brian"]

"""Circuits: exact exchange of networks with simulators and other packages, each imported only where it is used."""

from spikecredit.circuits import balanced
from spikecredit.circuits.brian import BrianCircuit, to_brian
from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.errors import CircuitError
from spikecredit.circuits.exported import read, read_input
from spikecredit.circuits.from_brian import from_brian
from spikecredit.circuits.imported import CircuitState, ImportedCircuit, Recording
from spikecredit.circuits.nir import to_nir
from spikecredit.circuits.nir_import import from_nir
from spikecredit.circuits.population import Activity, Population, Projection
from spikecredit.circuits.report import Report
from spikecredit.circuits.snntorch import from_snntorch
from spikecredit.circuits.snntorch_export import to_snntorch
from spikecredit.circuits.units import Units

__all__ = [
    "Activity",
    "BrianCircuit",
    "Circuit",
    "CircuitError",
    "CircuitState",
    "ImportedCircuit",
    "Population",
    "Projection",
    "Recording",
    "Report",
    "Units",
    "balanced",
    "from_brian",
    "from_nir",
    "from_snntorch",
    "read",
    "read_input",
    "to_brian",
    "to_nir",
    "to_snntorch",
]

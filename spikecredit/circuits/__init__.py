"""Circuits: exact exchange of trained networks with simulators. Brian2 is imported only where it is used."""

from spikecredit.circuits.brian import BrianCircuit, to_brian
from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.exported import read, read_input
from spikecredit.circuits.population import Activity, Population, Projection
from spikecredit.circuits.report import Report
from spikecredit.circuits.units import Units

__all__ = [
    "Activity",
    "BrianCircuit",
    "Circuit",
    "Population",
    "Projection",
    "Report",
    "Units",
    "read",
    "read_input",
    "to_brian",
]

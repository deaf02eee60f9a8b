"""Exchange with other programs: networks move in and out with the same spikes.

The other packages are imported when a function is called that needs them, never before.
"""

from spikecredit.circuits.nir import to_nir
from spikecredit.circuits.nir_import import from_nir
from spikecredit.circuits.snntorch import from_snntorch
from spikecredit.circuits.snntorch_export import to_snntorch

__all__ = ["from_nir", "from_snntorch", "to_nir", "to_snntorch"]

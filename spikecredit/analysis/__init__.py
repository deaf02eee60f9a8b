"""Analysis: alignment of errors and weights, activity, plots and the report."""

from spikecredit.analysis.activity import LayerActivity, activity, record
from spikecredit.analysis.alignment import LayerAlignment, alignment, angle
from spikecredit.analysis.spectrum import (
    Balance,
    Currents,
    LayerSigns,
    Spectrum,
    balance,
    currents,
    sign_audit,
    spectrum,
)

__all__ = [
    "Balance",
    "Currents",
    "LayerActivity",
    "LayerAlignment",
    "LayerSigns",
    "Spectrum",
    "activity",
    "alignment",
    "angle",
    "balance",
    "currents",
    "record",
    "sign_audit",
    "spectrum",
]

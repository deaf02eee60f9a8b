"""Analysis: alignment of errors and weights, activity, plots and the report."""

from spikecredit.analysis.activity import LayerActivity, activity, record
from spikecredit.analysis.alignment import LayerAlignment, alignment, angle

__all__ = ["LayerActivity", "LayerAlignment", "activity", "alignment", "angle", "record"]

"""Three engines for one rule: NumPy as the meaning, torch for many synapses at once, Brian2 as the field knows it."""

from collections.abc import Callable

from spikecredit.plasticity.engines.stimulus import Outcome, Stimulus


def _reference() -> Callable[..., Outcome]:
    from spikecredit.plasticity.engines import reference

    return reference.run


def _torch() -> Callable[..., Outcome]:
    from spikecredit.plasticity.engines import batched

    return batched.run


def _brian() -> Callable[..., Outcome]:
    from spikecredit.plasticity.engines import brian

    return brian.run


ENGINES: dict[str, Callable[[], Callable[..., Outcome]]] = {
    "reference": _reference, "torch": _torch, "brian": _brian,
}  # fmt: skip

__all__ = ["ENGINES", "Outcome", "Stimulus"]

"""Which backend runs a neuron's time loop."""

import importlib
import logging
import os
from types import ModuleType
from typing import Literal, get_args

from spikecredit.neurons.surrogate import SURROGATES, Surrogate

Backend = Literal["auto", "reference", "cpu", "triton"]

log = logging.getLogger("spikecredit")
KIND_OF = {kind: name for name, kind in SURROGATES.items()}
"""The surrogates that the kernels know; a user's own one runs on the reference."""


def check_backend(backend: str) -> None:
    """Refuse a backend that is none of `Backend`."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")


def choose(backend: str, device: str, surrogate: type[Surrogate] | None) -> str:
    """The backend that runs: the one asked for, or for "auto" the fastest that can; logged once for each answer.

    Raises:
        ValueError: the backend asked for cannot run on this device or with this surrogate.
        ImportError: the package that it needs is missing.
    """
    key = (backend, device, surrogate)
    if key not in _chosen:
        _chosen[key] = _choose(*key)
    return _chosen[key]


# What `torch.compiler.assume_constant_result` sets: a compiled program calls it once, while it is traced. The decorator
# itself would import the compiler, which takes longer than all the rest of this package.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]

_chosen: dict[tuple[str, str, type[Surrogate] | None], str] = {}
_PACKAGE = {"cpu": "numba", "triton": "triton"}
_FOR = {"cpu": "cpu", "cuda": "triton"}


def _choose(backend: str, device: str, surrogate: type[Surrogate] | None) -> str:
    unknown = surrogate is not None and surrogate not in KIND_OF
    if backend == "reference":
        return backend
    wanted = _FOR.get(device, "reference") if backend == "auto" else backend
    reason = ""
    if wanted == "reference":
        reason = f"no kernel runs on {device!r}"
    elif unknown:
        assert surrogate is not None
        reason = f"the kernels do not know {surrogate.__name__}, only {', '.join(k.__name__ for k in KIND_OF)}"
    elif backend != "auto" and _FOR.get(device) != wanted and not (wanted == "triton" and _interpreted()):
        reason = f"it does not run on {device!r}"
    else:
        try:
            module(wanted)
        except ImportError as error:
            if backend != "auto":
                raise ImportError(f"backend={backend!r} needs {_PACKAGE[wanted]}: {error}") from error
            reason = f"{_PACKAGE[wanted]} does not import ({error})"
    if not reason:
        if backend == "auto":
            log.info("neurons on %s: backend %r", device, wanted)
        return wanted
    if backend != "auto":
        raise ValueError(f"backend={backend!r}: {reason}; write backend='reference' or backend='auto'")
    log.warning("neurons on %s: the plain loop (backend 'reference'), several times slower: %s", device, reason)
    return "reference"


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def module(backend: str) -> ModuleType:
    """A backend's functions (`flat.Backend`), imported when they are first used."""
    return importlib.import_module(f"spikecredit.neurons.kernels.{backend}")

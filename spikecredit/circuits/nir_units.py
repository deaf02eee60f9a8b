"""NIR's neurons in discrete time: tau, R and a threshold there, beta and a threshold here.

NIR's equations are continuous, tau dv/dt = v_leak - v + R I, and say nothing of a time step. Here as in snnTorch,
SpikingJelly and Norse they are taken by one forward Euler step of dt, with v_leak = 0, and spikes are tested after it:

    v[t] = beta v[t-1] + g I[t],   beta = 1 - dt / tau,   g = R dt / tau;   s[t] = H(v[t] - v_threshold), then v = 0

u = v / g is ours, u[t] = beta u[t-1] + I[t], with the threshold v_threshold / g. We export g = 1, that is R = tau / dt.
So tau there, dt / (1 - beta), is not tau here, -dt / log(beta), although beta is the same.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from spikecredit.neurons.decay import Decay, Factor
from spikecredit.neurons.surrogate import SURROGATES, Surrogate

KEY = "spikecredit"
"""Our entry in the metadata of a node: what NIR has no place for, as JSON."""


def need_nir() -> Any:
    """The package nir, or an ImportError that says how to get it."""
    try:
        import nir
    except ImportError as error:
        raise ImportError("nir is not installed: pip install 'spikecredit[nir]'") from error
    return nir


def betas(decay: Decay, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """beta as a network in `dtype` uses it: shape () or one value per neuron."""
    now = decay()
    return np.asarray(now.detach().cpu().numpy() if isinstance(now, torch.Tensor) else now, dtype=dtype)


def tau_of(beta: np.ndarray[Any, Any], dt: float) -> np.ndarray[Any, Any]:
    """dt / (1 - beta), in beta's precision.

    From beta = 3/4 on, 1 - dt / tau is beta to the last bit, from 1/2 on `beta_of` finds it. Below, tau has too few
    digits for it.
    """
    return np.asarray(beta.dtype.type(dt) / (1 - beta), dtype=beta.dtype)


def dt_over(tau: np.ndarray[Any, Any], dt: float) -> np.ndarray[Any, Any]:
    """1 - dt / tau, in tau's precision."""
    return np.asarray(1 - tau.dtype.type(dt) / tau, dtype=tau.dtype)


def beta_of(tau: np.ndarray[Any, Any], dt: float) -> np.ndarray[Any, Any]:
    """beta = 1 - dt / tau; where a neighbour of it gives this very tau as dt / (1 - beta), and it does not, that one.

    Exporters that round once more, such as snnTorch's, which takes float32 for beta, are so undone.
    """
    beta = dt_over(tau, dt)
    one = tau.dtype.type(1)
    found = (beta == 1) | (tau.dtype.type(dt) / np.maximum(one - beta, np.finfo(tau.dtype).tiny) == tau)
    for towards in (np.inf, -np.inf):
        candidate = beta.copy()
        for _ in range(3):
            candidate = np.nextafter(candidate, candidate.dtype.type(towards))
            back = tau.dtype.type(dt) / np.maximum(one - candidate, np.finfo(tau.dtype).tiny)  # no division by 0
            better = ~found & (back == tau)
            beta, found = np.where(better, candidate, beta), found | better
    return np.asarray(beta, dtype=tau.dtype)


def decay_of(beta: np.ndarray[Any, Any]) -> Factor:
    """One beta for all neurons where they are equal, else one for each."""
    single = beta.reshape(-1)[:1].reshape(()) if beta.size and (beta == beta.reshape(-1)[0]).all() else beta
    return Factor(torch.from_numpy(np.array(single)))


def uniform(values: Any, name: str, what: str) -> float:
    """The one value of an array, or a ValueError."""
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not array.size or not np.allclose(array, array[0], rtol=1e-6, atol=0):
        raise ValueError(f"node {name!r} has different {what} in one population; here all neurons of a layer share it")
    return float(array[0])


def note(surrogate: Surrogate | None = None, **others: Any) -> dict[str, str]:
    """Metadata of a node: the surrogate, and whatever else NIR has no place for."""
    if surrogate is not None:
        kind = next(kind for kind, known in SURROGATES.items() if known is type(surrogate))
        others["surrogate"] = {"kind": kind, **{k: repr(v) for k, v in asdict(surrogate).items()}}  # type: ignore[call-overload]
    return {KEY: json.dumps(others)}


def noted(node: Any) -> dict[str, Any]:
    """Our metadata of a node, {} if there is none; the surrogate as an object."""
    text = node.metadata.get(KEY) if isinstance(node.metadata, dict) else None
    if text is None:
        return {}
    found = json.loads(text.decode() if isinstance(text, bytes) else str(text))
    if (given := found.pop("surrogate", None)) is not None:
        found["surrogate"] = SURROGATES[given.pop("kind")](**{key: float(value) for key, value in given.items()})
    return found

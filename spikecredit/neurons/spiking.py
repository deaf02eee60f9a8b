"""What the spiking neurons share: their constants, and how their equations reach a backend."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.kernels.backends import Backend, check_backend
from spikecredit.neurons.kernels.flat import Decays, State
from spikecredit.neurons.kernels.reference import ALIFParameters, LIFParameters
from spikecredit.neurons.kernels.sequence import spiking_sequence
from spikecredit.neurons.neuron import (
    Neuron,
    Reset,
    at_rest,
    check_current,
    check_refractory,
    check_reset,
    check_threshold,
)
from spikecredit.neurons.surrogate import Surrogate


class SpikingNeuron(Neuron):
    """A membrane with threshold, reset and refractory period; see `LIF` for the arguments."""

    def __init__(
        self,
        threshold: float,
        reset: Reset,
        surrogate: Surrogate,
        refractory: int,
        detach_reset: bool,
        backend: Backend,
    ) -> None:
        super().__init__()
        check_backend(backend)
        check_reset(reset)
        check_refractory(refractory)
        check_threshold(threshold)
        self.threshold = threshold
        self.reset: Reset = reset
        self.surrogate = surrogate
        self.refractory = refractory
        self.detach_reset = detach_reset
        self.backend: Backend = backend

    @abstractmethod
    def parameters_now(self) -> LIFParameters | ALIFParameters:
        """The constants of the equations at this moment (decay factors carry gradient when they are learned)."""

    @abstractmethod
    def decays(self) -> Decays:
        """The decay factors at this moment."""

    @abstractmethod
    def pack(self, state: Any) -> State:
        """The neuron's own state as the kernels have it."""

    @abstractmethod
    def unpack(self, state: State) -> Any:
        """The inverse of `pack`."""

    @abstractmethod
    def rest(self, u: Tensor) -> State:
        """The state at rest; u: zeros (B, *N)."""

    def before(self, x: Tensor, state: Any, steps: int | None = None) -> State:
        """The state before a chunk x, after a check of both."""
        packed = None if state is None else self.pack(state)
        check_current(x, packed, type(self).__name__, steps)
        if packed is None:
            packed = self.rest(at_rest(x, None))
        if packed.wait is None and self.refractory > 1:
            packed = packed._replace(wait=torch.zeros_like(packed.u, dtype=torch.int32))  # type: ignore[arg-type]
        return packed

    def run(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Tensor, Any]:
        """As `stream`, and the potentials u (T, B, *N) too; both outputs carry gradient."""
        spikes, potentials, last = self._sequence(x, state, steps, True)
        assert potentials is not None
        return spikes, potentials, self.unpack(last)

    def stream(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        spikes, _, last = self._sequence(x, state, steps, False)
        return spikes, self.unpack(last)

    def _sequence(
        self, x: Tensor, state: Any, steps: int | None, potentials: bool
    ) -> tuple[Tensor, Tensor | None, State]:
        before = self.before(x, state, steps)
        return spiking_sequence(x, before, self.decays(), self.parameters_now(), steps, potentials, self.backend)

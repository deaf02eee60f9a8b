"""Excitatory and inhibitory neurons of different kinds in one population."""

from typing import Any

import torch
from torch import Tensor

from spikecredit.neurons.lif import LIF
from spikecredit.neurons.neuron import Neuron


class EINeurons(Neuron):
    """One population, in which units that excite run one neuron model and units that inhibit another.

    Each kind has its own equations, time constants, threshold and surrogate, as pyramidal cells and fast-spiking
    interneurons do. Which unit is which says Dale's law: a network binds its constraint's signs of this population, the
    same that its outgoing synapses have.

    Args:
        excitatory, inhibitory: the neurons of either kind.
        signs: int8 (units,) in {-1, 1}, of units along dimension 2 of x (T, B, units, ...): channels in a map. Only for
            use outside a network under `Dale`, which sets them.
    Shapes:
        x (T, B, units, ...) -> (T, B, units, ...). The state is that of both kinds, (excitatory, inhibitory).
    Raises:
        ValueError: no signs are known yet, or x has another number of units.
    """

    signs: Tensor | None

    def __init__(
        self, excitatory: Neuron | None = None, inhibitory: Neuron | None = None, signs: Tensor | None = None
    ) -> None:
        super().__init__()
        self.excitatory = LIF() if excitatory is None else excitatory
        self.inhibitory = LIF(tau=10.0) if inhibitory is None else inhibitory
        self.spiking = self.excitatory.spiking and self.inhibitory.spiking
        self.register_buffer("signs", None)
        self._set(signs)

    def _set(self, signs: Tensor | None) -> None:
        self.signs = None if signs is None else signs.to(torch.int8)
        self._excitatory_units = 0 if signs is None else int((signs > 0).sum())  # so that no step waits for a device

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._set(self.signs)

    def bind(self, source: Any, name: str, wiring: Any) -> Any:
        """Take the signs of the population `source` from the network's constraint; hands the population on."""
        signs = None if source is None else wiring.constraint.signs(source, wiring.seed)
        if signs is not None:
            self._set(signs)
        if self.signs is None:
            raise ValueError(
                f"{name} has neurons of two kinds, but {wiring.constraint} does not say which units excite: write "
                "constraint=Dale(excitatory=0.8), and synapses before them"
            )
        return source

    def stream(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        if self.signs is None:
            raise ValueError(
                "EINeurons do not know yet which units excite: put them into Network(..., constraint=Dale()), or give "
                "signs=torch.tensor([1, 1, -1, ...])"
            )
        if x.ndim < 3 or x.shape[2] % len(self.signs):
            raise ValueError(
                f"EINeurons of {len(self.signs)} units take (T, B, {len(self.signs)}, ...), got {tuple(x.shape)}"
            )
        copies = x.shape[2] // len(self.signs)  # a flattened channel is of one kind
        order = torch.argsort(self.signs.repeat_interleave(copies), descending=True, stable=True)
        cut = copies * self._excitatory_units
        states, outputs, after = (None, None) if state is None else state, [], []
        for neuron, index, before in zip(
            (self.excitatory, self.inhibitory), (order[:cut], order[cut:]), states, strict=True
        ):
            out, last = neuron.stream(x.index_select(2, index), before, steps)
            outputs.append(out)
            after.append(last)
        return torch.cat(outputs, 2).index_select(2, torch.argsort(order)), tuple(after)

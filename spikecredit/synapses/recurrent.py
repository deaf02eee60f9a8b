"""The recurrent layer: neurons that hear each other with one step's delay."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spikecredit.constraints import Constraint, Population
from spikecredit.neurons import LIF, NEURONS, Neuron
from spikecredit.neurons.kernels.backends import choose
from spikecredit.neurons.kernels.recurrent import recurrent_sequence
from spikecredit.neurons.spiking import SpikingNeuron
from spikecredit.pathways import Pathway
from spikecredit.synapses.linear import Linear
from spikecredit.synapses.synapse import Wiring, cast_for_autocast, is_watched


class RecurrentLinear(nn.Module):
    """A population with recurrent synapses: I[t] = W x[t] + V s[t-1] + b, and s = neuron(I).

    With `recurrent_bias` there is a second bias, that of V: b + c in the place of b.

    Both W and V carry the pathway and the constraint. The presynaptic units of V are the population itself, so that
    under Dale's law a neuron has the same sign in V as in the layer that follows.

    In a network under direct feedback no error travels back along V either: its spikes are inputs like any other, and
    time is crossed along the neurons' own leak only, as in e-prop. A pathway of this layer's own then says how the
    error travels along V, and of nothing else: Backprop() for V itself, FeedbackAlignment() for a random matrix.

    Args:
        in_features, out_features, bias: of the input synapses W; V is (out, out).
        neuron: the population's neurons.
        pathway, constraint: this layer's own; None for its network's.
        recurrent_bias: whether V has a bias c too, as in torch's `nn.RNN` and snnTorch's `RLeaky`. Two biases of one
            neuron have the same gradient: an optimiser moves their sum twice as far.
    Shapes:
        x (T, B, in_features) -> spikes (T, B, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        neuron: Neuron | None = None,
        bias: bool = True,
        pathway: Pathway | None = None,
        constraint: Constraint | None = None,
        recurrent_bias: bool = False,
    ) -> None:
        super().__init__()
        self.input = Linear(in_features, out_features, bias, pathway, constraint)
        self.recurrent = Linear(out_features, out_features, recurrent_bias, pathway, constraint)
        self.neuron = LIF() if neuron is None else neuron

    def bind(self, source: Population | None, name: str, wiring: Wiring) -> Population:
        own = Population(name, self.input.out_features)
        # Under direct feedback the input synapses hand nothing back, whatever carries the error along V.
        self.input._bind(source, own, f"{name}.input", wiring, wiring.pathway if wiring.pathway.direct else None)
        self.recurrent._bind(own, own, f"{name}.recurrent", wiring)
        if (bind := getattr(self.neuron, "bind", None)) is not None:
            bind(own, f"{name}.neuron", replace(wiring, constraint=self.recurrent.constraint))
        if self.recurrent.pathway.carries:
            raise ValueError(
                f"{name}: the recurrent kernel delivers errors as they are, without {self.recurrent.pathway}: give "
                "RecurrentLinear a pathway with graded errors of its own, such as pathway=FeedbackAlignment()"
            )
        return own

    takes_steps = True
    neuron: Neuron

    def forward(self, x: Tensor, steps: int | None = None) -> Tensor:
        return self.stream(x, steps=steps)[0]

    def stream(self, x: Tensor, state: Any = None, steps: int | None = None) -> tuple[Tensor, Any]:
        """As a neuron's `stream`; the state is the neuron's and the last spikes."""
        current = self.input(x)
        neuron, weight, feedback = self.neuron, self.recurrent.tied_weight(), self.recurrent.feedback()
        silent = self.recurrent.pathway.direct  # no error travels along V
        neuron_state, spikes = (None, torch.zeros_like(current[0])) if state is None else state
        steps = x.shape[0] if steps is None else steps
        if isinstance(neuron, SpikingNeuron) and self._fused(neuron, current):
            if self.recurrent.training:
                self.recurrent.check_projected()
            if self.recurrent.bias is not None:
                current = current + self.recurrent.bias
            feedback = weight.new_empty(0) if silent else feedback
            v, feedback = cast_for_autocast(x.device.type, weight, feedback)
            assert v is not None
            before = neuron.before(current, neuron_state, None if steps == current.shape[0] else steps)
            out, last = recurrent_sequence(
                current, spikes, before, neuron.decays(), neuron.parameters_now(), v, feedback, steps,
                choose(neuron.backend, x.device.type, type(neuron.surrogate)),
                own=type(self.input) is Linear and not is_watched(self.input),
            )  # fmt: skip
            return self._add_local_loss(out, spikes), (neuron.unpack(last), out[-1].clone())
        outputs, first = [], spikes
        for current_t in current.expand(steps, *current.shape[1:]):
            heard = spikes.detach() if silent else spikes
            total = current_t + self.recurrent.apply_weights(heard, weight, feedback)
            out, neuron_state = neuron.stream(total[None], neuron_state)
            spikes = out[0]
            outputs.append(spikes)
        return self._add_local_loss(torch.stack(outputs), first), (neuron_state, spikes)

    def _add_local_loss(self, out: Tensor, first: Tensor) -> Tensor:
        """The spikes, with the loss of what the recurrent synapses heard: the spikes before, one step late."""
        if not self.recurrent.pathway.local:
            return out
        return self.recurrent.add_local_loss(out, torch.cat([first[None].to(out.dtype), out[:-1]]))

    def _fused(self, neuron: SpikingNeuron, current: Tensor) -> bool:
        """Whether one operator runs the whole sequence: a kernel knows the neuron, and nobody listens to its steps."""
        return (
            type(neuron) in NEURONS.values()
            and "stream" not in vars(neuron)
            and not is_watched(neuron)
            and current.dtype != torch.float16
            and choose(neuron.backend, current.device.type, type(neuron.surrogate)) != "reference"
        )

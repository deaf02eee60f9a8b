"""Energies of equilibrium networks, and their vector fields: explicit formulas, no autograd."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spikecredit.equilibrium.sections import Dense, Phase, State, sections
from spikecredit.network import Network


class Energy(ABC):
    """E(s; theta) of a layered network on an input. Hyper-parameters only.

    With a pathway whose B != W somewhere, `target` follows a vector field that has no energy.
    """

    gain: float = 1.0
    """How much of what comes from above is heard."""

    solves: ClassVar[bool] = False
    """Whether `target` is where a layer's energy is least while its neighbours stand still, so that it may go there at
    once. Otherwise it is s - dE/ds, and only small steps towards it descend."""

    def start(self, phase: Phase) -> State:
        """Where a free phase begins: all activities 0."""
        return phase.rest()

    @abstractmethod
    def target(self, phase: Phase, index: int, state: State, force: Tensor | None = None) -> Tensor:
        """Where layer `index` (from 0) would go, given its neighbours; force = -beta dC/ds on the last layer."""

    @abstractmethod
    def ends(self, phase: Phase, index: int, state: State) -> tuple[Tensor, Tensor]:
        """What -dE/dW of layer `index` is a product of: one factor behind the synapse, and the activity before it."""

    @abstractmethod
    def _term(self, phase: Phase, index: int, state: State) -> Tensor:
        """What layer `index` adds to the energy, elementwise, before its power of the gain."""

    @torch.no_grad()
    def value(self, net: Network, x: Tensor, state: State) -> Tensor:
        """E for each sample, (B,), at a state of the network on x (B, *in).

        Raises:
            ValueError: B != W somewhere, where there is no energy.
        """
        parts = sections(net)
        for part in parts[1:]:
            if not part.layer.pathway.transports_weights:
                raise ValueError(
                    f"{part.name} sends back through {part.layer.pathway}, not through its weights: such a network "
                    "follows a vector field that has no energy"
                )
        phase, total = Phase.of(parts, x), x.new_zeros(())
        for index in range(len(parts)):
            total = total + self.gain**index * self._term(phase, index, state).flatten(1).sum(1)
        return total


def _check_gain(gain: float) -> None:
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain is a positive number, 1 for symmetric coupling; got {gain!r}")


@dataclass(frozen=True)
class Hopfield(Energy):
    """The layered Hopfield energy in activities.

        E(s) = sum_l gain^(l-1) [ G_l(s_l) - s_l . P_l(W_l s_{l-1} + b_l) ],    G_l' = sigma_l^-1,  s_0 = x

    Its stationary points, at gain^(l-1) > 0, are those of

        s_l = sigma_l( P_l(W_l s_{l-1} + b_l) + gain B_{l+1}^T P_{l+1}^T s_{l+1} )

    with B = W. A pathway with B != W makes the right-hand side a vector field of no energy: then `value` is refused,
    and the learning rule is the directed one (`contrast.gradient`). A gain below 1 weakens what comes back from above:
    the network is nearly feedforward and settles in fewer sweeps, and the energy's gradient of layer l has a factor
    gain^(l-L), which `contrast.gradient` applies.

    Args:
        gain: gamma > 0 on what comes from above.
    Raises:
        ValueError: a gain that is not positive.
    Source: Hopfield 1984; Scellier & Bengio 2017; the gain is that of Xie & Seung 2003.
    """

    gain: float = 1.0

    solves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_gain(self.gain)

    def current(self, phase: Phase, index: int, state: State, force: Tensor | None = None) -> Tensor:
        """What layer `index` receives from its neighbours and from the nudge."""
        current = phase.below(index, state)
        if index + 1 < len(phase.parts):
            above = phase.parts[index + 1]
            if isinstance(above, Dense) and current.ndim == 2:  # one pass over memory
                return torch.addmm(current, state[index + 1], above.feedback, alpha=self.gain)
            back = phase.above(index, state)
            return current + (back if self.gain == 1 else self.gain * back)
        return current if force is None else current + force

    def target(self, phase: Phase, index: int, state: State, force: Tensor | None = None) -> Tensor:
        return phase.parts[index].rate(self.current(phase, index, state, force))

    def ends(self, phase: Phase, index: int, state: State) -> tuple[Tensor, Tensor]:
        return state[index], state[index - 1] if index else phase.x

    def _term(self, phase: Phase, index: int, state: State) -> Tensor:
        part, s = phase.parts[index], state[index]
        stored = 0.5 * s.square() if part.unit is None else part.unit.stored(s)
        return stored - s * phase.below(index, state)


@dataclass(frozen=True)
class Potential(Energy):
    """The energy in membrane potentials, with rates rho of them; the flow down it is a leaky integrator.

        E(s) = sum_l gain^(l-1) [ |s_l|^2 / 2 - rho(s_l) . P_l(W_l rho(s_{l-1}) + b_l) ],    rho(s_0) = x

        -dE/ds_l = -s_l + rho'(s_l) ( P_l(W_l rho(s_{l-1}) + b_l) + gain B_{l+1}^T P_{l+1}^T rho(s_{l+1}) )

    Relax it with order euler: its steps s - epsilon dE/ds are those of a primitive function, so that the weight changes
    of each nudged step are the gradients of backpropagation through time step by step (Ernoult et al. 2019). The cost
    and the prediction are in s_L; `identity` output units make it a rate.

    Args:
        gain: as for `Hopfield`.
    Raises:
        ValueError: a gain that is not positive.
    Source: Scellier & Bengio 2017, eq. of the paper (its code has rho(s)^2 / 2).
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_gain(self.gain)

    def target(self, phase: Phase, index: int, state: State, force: Tensor | None = None) -> Tensor:
        part, rates = phase.parts[index], _rates(phase, state)
        current = phase.below(index, rates)
        if index + 1 < len(phase.parts):
            current = current + self.gain * phase.above(index, rates)
        pulled = current * part.derivative(state[index])
        return pulled if force is None else pulled + force

    def ends(self, phase: Phase, index: int, state: State) -> tuple[Tensor, Tensor]:
        rates = _rates(phase, state)
        return rates[index], rates[index - 1] if index else phase.x

    def _term(self, phase: Phase, index: int, state: State) -> Tensor:
        rates = _rates(phase, state)
        return 0.5 * state[index].square() - rates[index] * phase.below(index, rates)


def _rates(phase: Phase, state: State) -> State:
    return [part.rate(s) for part, s in zip(phase.parts, state, strict=True)]


@dataclass(frozen=True)
class Predictive(Energy):
    """The energy of predictive coding: what each layer differs from its prediction by the layer below.

        E(s) = 1/2 sum_l |e_l|^2,    e_l = s_l - sigma_l(a_l),  a_l = P_l(W_l s_{l-1} + b_l)

        -dE/ds_l = -e_l + B_{l+1}^T P_{l+1}^T ( sigma'(a_{l+1}) e_{l+1} ),    -dE/dW_l = sigma'(a_l) e_l s_{l-1}^T

    Its free minimum is the forward pass, with E = 0: a free phase starts there and stays. A nudged phase sends errors
    back; for a small nudge the contrast is the gradient of backpropagation through the forward network, and with the
    output clamped (estimator contrastive_hebbian) it is predictive coding as usually trained. Relax with order euler.

    Source: Whittington & Bogacz 2017, where the prediction is W_l sigma(s_{l-1}); centred equilibrium propagation on
        such energies: Kerjan, Hoier & Scellier 2026.
    """

    def start(self, phase: Phase) -> State:
        state = [phase.parts[0].rate(phase.drive)]
        for index in range(1, len(phase.parts)):
            state.append(phase.parts[index].rate(phase.below(index, state)))
        return state

    def target(self, phase: Phase, index: int, state: State, force: Tensor | None = None) -> Tensor:
        predicted = phase.parts[index].rate(phase.below(index, state))
        if index + 1 < len(phase.parts):
            return predicted + phase.above(index, state, self._error(phase, index + 1, state))
        return predicted if force is None else predicted + force

    def ends(self, phase: Phase, index: int, state: State) -> tuple[Tensor, Tensor]:
        return self._error(phase, index, state), state[index - 1] if index else phase.x

    def _error(self, phase: Phase, index: int, state: State) -> Tensor:
        """sigma'(a) e."""
        part, current = phase.parts[index], phase.below(index, state)
        return part.derivative(current) * (state[index] - part.rate(current))

    def _term(self, phase: Phase, index: int, state: State) -> Tensor:
        return 0.5 * (state[index] - phase.parts[index].rate(phase.below(index, state))).square()


ENERGIES: dict[str, type[Energy]] = {"hopfield": Hopfield, "potential": Potential, "predictive": Predictive}

"""Boltzmann machines: a network relaxed by Gibbs sampling, and the restricted machine that learns without labels."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from spikecredit.equilibrium.cost import one_hot
from spikecredit.equilibrium.energy import Energy, Hopfield
from spikecredit.equilibrium.relax import Nudge, Relaxation, check_lengths
from spikecredit.equilibrium.sections import Phase, Section, State, repeat
from spikecredit.neurons.rate import Identity, Logistic
from spikecredit.synapses import Linear, MaxPool2d


@dataclass
class Chain:
    """The state of a Gibbs chain: the last samples, and what the sweeps of its phase left to average.

    Args:
        sample: s_1 ... s_L, zeros and ones. mean: the probabilities of each layer, averaged over the sweeps that count.
        kept: one state for each of them, whose products of neighbours are averaged.
        random: where random numbers come from; torch's global generator if None.
    """

    sample: State
    mean: State
    kept: list[State]
    random: torch.Generator | None = None


@dataclass(frozen=True)
class Gibbs(Relaxation):
    """A Boltzmann machine given its input: binary units, sampled half a network at a time.

        p(s | x) ~ exp(-slope E(s)),   E(s) = sum_l [ middle_l . s_l - s_l . P_l(W_l s_{l-1} + b_l) ],   s_0 = x

        hidden: s_l = 1 with probability logistic(slope (P_l(W_l s_{l-1} + b_l) + P^T W_{l+1}^T s_{l+1} - middle_l))
        output: one of its units is 1, with probability softmax(slope (W_L s_{L-1} + b_L))

    so hidden units fire with the probability that is the rate of their unit, `Logistic(slope, middle)`, at this
    current: the temperature is 1 / slope. The output is one group of softmax units, so that p(s_L | x) is a
    distribution over classes; no unit stands behind its synapses, or `identity`. Every second layer is sampled at once,
    then the others. With one hidden layer this is the discriminative RBM.

    With the estimator `contrastive_hebbian` the gradient is that of -log p(y | x) / slope. Estimators that push make it
    that of the expected cost of the sampled class: for `squared_error`, of the probability to be wrong. The push is
    exact: -beta C(e_c, y) is added to the current of each class c.

    Each sweep that counts gives one sample of every product. The layers that moved last are given by their
    probabilities, not their samples: neighbours move in different halves, so that no product has two probabilities,
    and its mean stays the same (Rao-Blackwell). With one hidden layer the held phase is then exact after one sweep,
    nudged 1. Memory grows with the sweeps that count.

    Args:
        free, nudged: sweeps of the free and of each nudged phase.
        burn_in: sweeps at the start of each phase that do not count; the last one always does.
    Raises:
        ValueError: numbers out of range; by `check`: a network or an energy that has no Boltzmann distribution; by
            `run`: an output held between two classes.
    Source: Ackley, Hinton & Sejnowski 1985; one hidden layer: Larochelle & Bengio 2008; pushes: Scellier & Bengio 2017,
        their stochastic networks.
    """

    free: int = 60
    nudged: int = 30
    burn_in: int = 10

    by_spikes: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lengths(self)
        if not isinstance(self.burn_in, int) or not 0 <= self.burn_in < self.free:
            raise ValueError(
                f"burn_in is a number of sweeps, at least 0 and less than free, {self.free}; got {self.burn_in!r}"
            )

    def check(self, parts: list[Section], energy: Energy) -> None:
        if type(energy) is not Hopfield or energy.gain != 1:
            raise ValueError(
                f"Gibbs sampling asks for symmetric couplings between binary units, and {energy} has none or weakens "
                "one side: write energy: hopfield, with gain 1"
            )
        for part in parts:
            if isinstance(part.pool, MaxPool2d):
                raise ValueError(
                    f"{part.name} is followed by MaxPool2d: units below one maximum are not independent, and cannot be "
                    "sampled at once. Write AvgPool2d"
                )
            if part is not parts[0] and not part.layer.pathway.transports_weights:
                raise ValueError(
                    f"{part.name} sends back through {part.layer.pathway}, not through its weights: such a network has "
                    "no Boltzmann distribution. Write pathway: backprop"
                )
        for part in parts[:-1]:
            if not isinstance(part.unit, Logistic):
                given = type(part.neuron if part.unit is None else part.unit).__name__
                raise ValueError(
                    f"{part.name} drives {given}; Gibbs sampling asks for sc.Logistic(), whose rate is the probability "
                    "to fire: write neuron: logistic"
                )
        if len({_slope(part) for part in parts[:-1]}) > 1:
            given = ", ".join(f"{part.name} {_slope(part)}" for part in parts[:-1])
            raise ValueError(f"a Boltzmann machine has one temperature, 1 / slope: give one slope to all, got {given}")
        last = parts[-1]
        if last.neuron is not None or not (last.unit is None or isinstance(last.unit, Identity)):
            given = type(last.neuron if last.unit is None else last.unit).__name__
            raise ValueError(
                f"{last.name} drives {given}; the output of Gibbs sampling is a softmax of its currents: put no units "
                "behind the last synapse, or write readout: identity"
            )

    def start(self, energy: Energy, phase: Phase, random: torch.Generator | None = None) -> Chain:
        rest = phase.rest()
        return Chain(rest, rest, [rest], random)

    def activities(self, state: Chain) -> State:
        return state.mean

    def told(self, before: Chain, after: Chain) -> State:
        return after.sample

    def samples(self, state: Chain) -> list[State]:
        return state.kept

    def repeat(self, state: Chain, count: int, dtype: torch.dtype) -> Chain:
        def copied(s: State) -> State:
            return [repeat(t.to(dtype), count) for t in s]

        sample = copied(state.sample)
        return Chain(sample, sample, [sample], state.random)

    def settle(self, energy: Energy, phase: Phase, state: Any = None, random: torch.Generator | None = None) -> Chain:
        start = self.start(energy, phase) if state is None else state
        return self.run(energy, phase, self.free, replace(start, random=random))

    def run(self, energy: Energy, phase: Phase, steps: int, state: Chain, nudge: Nudge | None = None) -> Chain:
        assert isinstance(energy, Hopfield)
        sample, last, kept = list(state.sample), len(state.sample) - 1, []
        slope = _slope(phase.parts[0]) if last else 1.0
        push, moving = None, last + 1
        if nudge is not None and nudge.held is not None:
            if not bool(((nudge.held == 0) | (nudge.held == 1)).all()):
                raise ValueError(
                    "Gibbs sampling holds the output at a class, got an output between two: write estimator: "
                    "contrastive_hebbian"
                )
            sample[last], moving = nudge.held, last
        elif nudge is not None:
            push = -nudge.beta * _costs(nudge, sample[last])
        chances = list(sample)
        total = [torch.zeros_like(s) for s in sample]
        # The half with the first layer moves last: it is never empty, where the other may be.
        halves = range(1, moving, 2), range(0, moving, 2)
        for sweep in range(steps):
            for half in halves:
                for i in half:
                    current = energy.current(phase, i, sample, push if i == last else None)
                    if i < last:
                        chances[i] = phase.parts[i].rate(current)
                        sample[i] = torch.bernoulli(chances[i], generator=state.random)
                    else:
                        chances[i] = (slope * current).softmax(1)
                        drawn = torch.multinomial(chances[i], 1, generator=state.random)[:, 0]
                        sample[i] = one_hot(drawn, current)
            if sweep >= min(self.burn_in, steps - 1):
                kept.append([chances[i] if i % 2 == 0 else sample[i] for i in range(last + 1)])
                total = [t + p for t, p in zip(total, chances, strict=True)]
        return Chain(sample, [t / len(kept) for t in total], kept, state.random)


def _slope(part: Section) -> float:
    assert isinstance(part.unit, Logistic)
    return part.unit.slope


def _costs(nudge: Nudge, out: Tensor) -> Tensor:
    """C(e_c, y) of every sample and class, (B, classes)."""
    classes = out.shape[1]
    every = torch.arange(classes, device=out.device)
    table = nudge.cost(one_hot(every.repeat(classes), out), every.repeat_interleave(classes))
    return table.view(classes, classes)[nudge.y]


class Divergence(NamedTuple):
    """What contrastive divergence finds: gradients to descend, means over the batch, and where its chains are now."""

    weight: Tensor
    hidden: Tensor
    visible: Tensor
    chain: Tensor


@dataclass(frozen=True, eq=False)
class RBM:
    """A restricted Boltzmann machine: a model of v in {0, 1}^n with hidden units h in {0, 1}^m.

        p(v, h) ~ exp(-E(v, h)),    E(v, h) = -h . W v - b . v - c . h

        p(h_j = 1 | v) = logistic(W v + c)_j,    p(v_i = 1 | h) = logistic(W^T h + b)_i

    Args:
        layer: W (m, n) as a synapse layer from v to h; its bias is c, 0 if it has none.
        visible: b (n,).
    Raises:
        ValueError: b of another size; a layer that sends back by other weights, or under Dale's law.
    Source: Smolensky 1986; Hinton 2002.
    """

    layer: Linear
    visible: Tensor

    def __post_init__(self) -> None:
        if self.visible.shape != (self.layer.in_features,):
            raise ValueError(
                f"visible is one bias for each of the {self.layer.in_features} inputs of the layer, of shape "
                f"({self.layer.in_features},), got {tuple(self.visible.shape)}"
            )
        if not self.layer.pathway.transports_weights:
            raise ValueError(
                f"an RBM sends back through W itself, and the layer has the pathway {self.layer.pathway}: take "
                "sc.Backprop()"
            )
        if self.layer.presynaptic_sign is not None:
            raise ValueError(
                f"the layer is under {self.layer.constraint}, and an RBM's weights are symmetric: one weight in both "
                "directions would give a neuron that excites and one that inhibits the same sign. Take no constraint"
            )

    @torch.no_grad()
    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (*,), for v (*, n) and h (*, m)."""
        return -(h * F.linear(v, self._weight(), self.layer.bias)).sum(-1) - v @ self.visible

    @torch.no_grad()
    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)) = -b . v - sum_j log(1 + exp((W v + c)_j)), (*,), for v (*, n)."""
        return -(v @ self.visible) - F.softplus(F.linear(v, self._weight(), self.layer.bias)).sum(-1)

    @torch.no_grad()
    def hidden_given(self, v: Tensor) -> Tensor:
        """p(h = 1 | v), (*, m)."""
        return F.linear(v, self._weight(), self.layer.bias).sigmoid()

    @torch.no_grad()
    def visible_given(self, h: Tensor) -> Tensor:
        """p(v = 1 | h), (*, n)."""
        return torch.sigmoid(h @ self._weight() + self.visible)

    @torch.no_grad()
    def sample(self, v: Tensor, k: int, random: torch.Generator | None = None) -> Tensor:
        """v (B, n) after k times h ~ p(h | v), v ~ p(v | h), each row a chain of its own.

        Args:
            random: where random numbers come from; torch's global generator if None.
        Raises:
            ValueError: v of another shape or outside [0, 1], k below 1.
        """
        self._check(v)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k is a number of steps of the chain, at least 1, got {k!r}")
        for _ in range(k):
            h = torch.bernoulli(self.hidden_given(v), generator=random)
            v = torch.bernoulli(self.visible_given(h), generator=random)
        return v

    @torch.no_grad()
    def contrastive_divergence(
        self, v: Tensor, k: int = 1, random: torch.Generator | None = None, chain: Tensor | None = None
    ) -> Divergence:
        """CD-k: an estimate of the gradient of -log p(v), mean over the batch.

            dW = -<p(h | v) v^T>_data + <p(h | v) v^T>_chain,    db = -<v> + <v>,    dc = -<p(h | v)> + <p(h | v)>

        The chain starts at the data and runs k steps. For k -> infinity this is the gradient; for small k it is that of
        no function, and chains that start at the data do not find what the model believes far from it.

        Args:
            v: (B, n), 0 or 1, or probabilities in between. random: as for `sample`.
            chain: (chains, n) where the chains start instead of at v: pass what the last call returned, for persistent
                contrastive divergence.
        Returns:
            gradients to descend, of W, c and b; and the chains' v.
        Raises:
            ValueError: as for `sample`.
        Source: Hinton 2002; persistent chains: Younes 1989, Tieleman 2008.
        """
        self._check(v)
        model = self.sample(v if chain is None else chain, k, random)
        h, g = self.hidden_given(v), self.hidden_given(model)
        weight = g.t() @ model / len(model) - h.t() @ v / len(v)
        return Divergence(weight, g.mean(0) - h.mean(0), model.mean(0) - v.mean(0), model)

    def write(self, found: Divergence) -> None:
        """Add the gradients to `.grad` of the layer's weight and bias, and of `visible`, as `loss.backward()` does."""
        for tensor, gradient in (
            (self.layer.tied_weight(), found.weight),
            (self.layer.bias, found.hidden),
            (self.visible, found.visible),
        ):
            if tensor is not None and tensor.requires_grad:
                tensor.backward(gradient)  # type: ignore[no-untyped-call]  # torch has no types for it

    def _weight(self) -> Tensor:
        return self.layer.effective_weight().detach()

    def _check(self, v: Tensor) -> None:
        if v.ndim != 2 or v.shape[1] != self.layer.in_features:
            raise ValueError(f"v is (batch, {self.layer.in_features}), got {tuple(v.shape)}: flatten what has more")
        if not bool(((v >= 0) & (v <= 1)).all()):
            raise ValueError(
                f"v is 0 or 1, or a probability in between, got values from {float(v.min()):g} to {float(v.max()):g}: "
                "scale them"
            )

"""Relaxation by spikes: neighbours hear each other's spikes only, through the traces that these leave at synapses."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from spikecredit.equilibrium.energy import Energy, Hopfield
from spikecredit.equilibrium.relax import Nudge, Relaxation, check_lengths
from spikecredit.equilibrium.sections import Phase, Section, State, repeat
from spikecredit.neurons.rate import HardSigmoid, Logistic
from spikecredit.synapses import SoftPool2d


@dataclass
class Coded:
    """The state of sigma-delta neurons: membranes s, what their spikes still owe phi, traces, steps since rest."""

    s: State
    phi: State
    trace: State
    step: int = 0


@dataclass(frozen=True)
class SigmaDelta(Relaxation):
    """Rate units that tell their activity by sigma-delta spikes. In step t, with all layers at once,

        s    <- s + epsilon_t (sigma(current of the neighbours' traces, and of the nudge) - s)
        phi  <- phi + (s - (1 - lambda_t) s_before) / lambda_t        what is new in s, as the trace will decode it
        z    =  H(phi - 1/2),   phi <- phi - z                        the spike
        trace <- (1 - lambda_t) trace + lambda_t z                    at every synapse of the neuron

        epsilon_t = epsilon / t^epsilon_decay,    lambda_t = lambda / t^lambda_decay,   t counts on in the nudged phase

    All that crosses a synapse are spikes. The trace errs by less than lambda_t, and the default schedule takes the
    fixed point of the rates to 0.001 in 100 steps. The input is a constant current. What weights learn from is chosen:

        traces       sum_k c_k trace_post^k trace_pre^k: both ends by their spikes, so that the contrast of two phases
                     is pair STDP (`stdp`). It has the noise of two traces.
        membranes    (sum_k c_k s_post^k) trace_pre^0: the trace of the presynaptic spikes in the free state, times how
                     far the nudge moves the membrane behind the synapse, which is smooth. A symmetric weight learns in
                     both directions: the sum is the contrast of s_post s_pre, but for the noise of a trace.

    Args:
        free, nudged: steps of the free and of each nudged phase.
        epsilon, epsilon_decay, lam, lam_decay: the two schedules; decay 0 keeps them constant. 1 / lam is the time
            constant of the trace in steps.
        learn: "traces" or "membranes".
    Raises:
        ValueError: numbers out of range; by `check`: units whose activity is not between 0 and 1, an energy that is not
            Hopfield's, maximum or soft pooling.
    Source: O'Connor, Gavves & Welling 2019, schedules as in their code, which learns from the contrast of membranes;
        presynaptic activity times the change of the postsynaptic potential is Bengio et al. 2015.
    """

    free: int = 30
    nudged: int = 20
    epsilon: float = 0.843
    epsilon_decay: float = 0.0923
    lam: float = 0.832
    lam_decay: float = 0.584
    learn: Literal["traces", "membranes"] = "traces"

    by_spikes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lengths(self)
        for name in ("epsilon", "lam"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a part of the way, above 0 and at most 1, got {getattr(self, name)!r}")
        for name in ("epsilon_decay", "lam_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is the power of a schedule, 0 (constant) or above, got {getattr(self, name)!r}"
                )
        if self.learn not in ("traces", "membranes"):
            raise ValueError(f"learn names what weights learn from, 'traces' or 'membranes', got {self.learn!r}")

    def check(self, parts: list[Section], energy: Energy) -> None:
        check_spiking(self, parts, energy)
        for part in parts:
            if not isinstance(part.unit, HardSigmoid | Logistic):
                given = type(part.neuron or part.unit).__name__ if part.closed else "linear units"
                raise ValueError(
                    f"{part.name} drives {given}: sigma-delta spikes tell activities between 0 and 1. Take "
                    "hard_sigmoid or logistic units, the output's too, or relaxation: spikes for spiking neurons"
                )

    def start(self, energy: Energy, phase: Phase, random: torch.Generator | None = None) -> Coded:
        rest = phase.rest()
        return Coded(rest, list(rest), list(rest))

    @property
    def by_membranes(self) -> bool:
        return self.learn == "membranes"

    def activities(self, state: Coded) -> State:
        return state.trace

    def samples(self, state: Coded) -> list[State]:
        return [state.s if self.by_membranes else state.trace]

    def told(self, before: Coded, after: Coded) -> State:
        lam = self.lam / after.step**self.lam_decay
        return _decoded(before.trace, after.trace, lam)

    def repeat(self, state: Coded, count: int, dtype: torch.dtype) -> Coded:
        s, phi, trace = ([repeat(t.to(dtype), count) for t in ts] for ts in (state.s, state.phi, state.trace))
        return Coded(s, phi, trace, state.step)

    def run(self, energy: Energy, phase: Phase, steps: int, state: Coded, nudge: Nudge | None = None) -> Coded:
        s, phi, trace, last = list(state.s), list(state.phi), list(state.trace), len(state.s) - 1
        for t in range(state.step + 1, state.step + steps + 1):
            epsilon, lam = self.epsilon / t**self.epsilon_decay, self.lam / t**self.lam_decay
            force = None if nudge is None else nudge.force(s[last])
            targets = [energy.target(phase, i, trace, force if i == last else None) for i in range(last + 1)]
            if nudge is not None and nudge.held is not None:
                targets[last] = nudge.held
            for i, target in enumerate(targets):
                before, s[i] = s[i], torch.lerp(s[i], target, epsilon)
                owed = phi[i] + (s[i] - (1 - lam) * before) / lam
                spikes = (owed > 0.5).to(owed.dtype)
                phi[i] = owed - spikes
                trace[i] = torch.lerp(trace[i], spikes, lam)
        return Coded(s, phi, trace, state.step + steps)


def _decoded(before: State, after: State, lam: float) -> State:
    """The spikes of one step, from the traces that they left."""
    return [((b - (1 - lam) * a) / lam).round() for a, b in zip(before, after, strict=True)]


def check_spiking(relaxation: Relaxation, parts: list[Section], energy: Energy) -> None:
    """Refuse what spikes cannot relax."""
    if not isinstance(energy, Hopfield):
        raise ValueError(f"spikes carry activities, and {energy} is not an energy in these: write energy: hopfield")
    for part in parts:
        if isinstance(part.pool, SoftPool2d):
            raise ValueError(
                f"{part.name} is followed by SoftPool2d, which is not linear: what it makes of spikes has another "
                "mean than what it makes of rates. Write AvgPool2d"
            )
        if isinstance(part.pool, torch.nn.MaxPool2d):
            raise ValueError(
                f"{part.name} is followed by MaxPool2d: with spikes the maximum of a window is another one at every "
                "step, and what comes back has no fixed place. Write AvgPool2d"
            )


@dataclass
class Firing:
    """The state of spiking neurons: their own, fast traces that make currents, slow ones that weights learn from."""

    neurons: list[Any]
    trace: State
    slow: State


@dataclass(frozen=True)
class Spikes(Relaxation):
    """The network's own spiking neurons, `LIF` for one. In each step, with all layers at once,

        current_l = P_l(W_l r_{l-1} + b_l) + gain B_{l+1}^T P_{l+1}^T r_{l+1} - [l = L] beta dC/dr_L
        z = the neurons' spikes at this current;   r <- r + (z - r) / tau;   x <- x + (z - x) / tau_stdp

    r is the synaptic trace, in spikes per step, and x what weights learn from: the contrast of its products at the
    ends of two phases is the integral of pair STDP with the time constant tau_stdp over them. The fixed point is that
    of rate units with the neurons' own f-I curve; for LIF with reset "subtract" and a long tau that is nearly the hard
    sigmoid. The input is a constant current; rates are at most 1 spike per step, and so are the targets of the output.

    Args:
        free, nudged: steps of the free and of each nudged phase.
        tau, tau_stdp: time constants of the two traces in steps, at least 1.
    Raises:
        ValueError: numbers out of range; by `check`: rate units, an energy that is not Hopfield's, maximum or
            soft pooling.
    Source: after EqSpike (Martin et al. 2021), whose equations were not published in full: slow traces in the place of
        its filtered rate derivative are ours.
    """

    free: int = 100
    nudged: int = 60
    tau: float = 10.0
    tau_stdp: float = 30.0

    by_spikes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lengths(self)
        for name in ("tau", "tau_stdp"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a time constant in steps, at least 1, got {getattr(self, name)!r}")

    def check(self, parts: list[Section], energy: Energy) -> None:
        check_spiking(self, parts, energy)
        for part in parts:
            if part.neuron is None:
                given = type(part.unit).__name__ if part.unit is not None else "linear units"
                raise ValueError(
                    f"{part.name} drives {given}, which never fire: take spiking neurons such as lif, for the readout "
                    "too, or relaxation: sigma_delta"
                )

    def start(self, energy: Energy, phase: Phase, random: torch.Generator | None = None) -> Firing:
        rest = phase.rest()
        return Firing([None] * len(rest), rest, list(rest))

    def activities(self, state: Firing) -> State:
        return state.slow

    def told(self, before: Firing, after: Firing) -> State:
        return _decoded(before.trace, after.trace, 1 / self.tau)

    def repeat(self, state: Firing, count: int, dtype: torch.dtype) -> Firing:
        def copied(value: Any) -> Any:
            if isinstance(value, Tensor):
                return repeat(value.to(dtype) if value.is_floating_point() else value, count)
            return value if value is None else type(value)(*(copied(v) for v in value))

        trace, slow = ([repeat(t.to(dtype), count) for t in ts] for ts in (state.trace, state.slow))
        return Firing([copied(n) for n in state.neurons], trace, slow)

    def run(self, energy: Energy, phase: Phase, steps: int, state: Firing, nudge: Nudge | None = None) -> Firing:
        assert isinstance(energy, Hopfield)
        neurons, trace, slow, last = list(state.neurons), list(state.trace), list(state.slow), len(state.trace) - 1
        for _ in range(steps):
            force = None if nudge is None else nudge.force(trace[last])
            currents = [energy.current(phase, i, trace, force if i == last else None) for i in range(last + 1)]
            if nudge is not None and nudge.held is not None:
                currents[last] = nudge.held
            for i, (part, current) in enumerate(zip(phase.parts, currents, strict=True)):
                assert part.neuron is not None
                spikes, neurons[i] = part.neuron.stream(current[None], neurons[i])
                trace[i] = torch.lerp(trace[i], spikes[0], 1 / self.tau)
                slow[i] = torch.lerp(slow[i], spikes[0], 1 / self.tau_stdp)
        return replace(state, neurons=neurons, trace=trace, slow=slow)

"""Rules in torch: many synapses and conditions at once, on a clock, on CPU or GPU.

A variable lives where it must (`Equations.places`): a trace of the presynaptic neuron once for all its synapses, so
that a rule of traces touches at a spike one row or column of the weights and nothing else.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.plasticity.engines.stimulus import EVENTS, Outcome, Stimulus, check
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import Statement, torch_functions

State = dict[str, Tensor]


class Batch:
    """C copies of a population of synapses, n_post x n_pre each, under one rule.

    Step k: continuous equations and decays move from (k-1) dt to k dt, by Euler's method or exactly, all from the old
    state; then presynaptic spikes, then postsynaptic ones, then rewards. Variables have the shape (C, n_post, n_pre)
    with 1 for every axis on which they do not depend.

    Args:
        equations: the rule. Its delay is the caller's: pass spikes when they arrive.
        conditions, n_post, n_pre: C copies of the population.
        dt: ms.
        seed: of the noise; each copy of the rule's noise is drawn per synapse.
        shared: one weight for all copies, (1, n_post, n_pre): what each copy would change is averaged. For the samples
            of a batch that pass the same synapses.
    Raises:
        ValueError: dt is not positive, or a shared weight that is computed from other variables of the rule.
    """

    def __init__(
        self,
        equations: Equations,
        conditions: int = 1,
        n_post: int = 1,
        n_pre: int = 1,
        dt: float = 1.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shared: bool = False,
    ) -> None:
        if shared and equations.weight not in equations.variables:
            raise ValueError(
                f"the weight {equations.weight!r} is computed from other variables of each synapse, so copies cannot "
                "share it: run one sample at a time"
            )
        if not dt > 0:
            raise ValueError(f"dt is a step in ms, positive, got {dt!r}")
        self.equations, self.dt, self.dtype, self.device = equations, dt, dtype, torch.device(device)
        self.size = (conditions, n_post, n_pre)
        self.shared = shared
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.values: dict[str, Any] = dict(equations.values)
        self.functions = {**torch_functions(dtype), "rand": self._draw}
        self._factors = equations.decay(dt * 1e-3)
        self._touched = self.size
        self._sums = {event: self._summed(block) for event, block in equations.blocks.items()}
        self._needs = {
            event: sorted(
                {n for s in block for n in (*s.value.names, s.target) if n not in self._sums[event]}
                & set(equations.variables)
            )
            for event, block in equations.blocks.items()
        }

    def shape(self, name: str) -> tuple[int, int, int]:
        """The shape of a variable."""
        c, post, pre = self.size
        place = self.equations.places[name]
        c = 1 if self.shared and name == self.equations.weight else c
        return (c, post if place in ("post", "synapse") else 1, pre if place in ("pre", "synapse") else 1)

    def start(self, values: Mapping[str, Any] | None = None) -> State:
        """The state before the first step: the rule's own values, or those given (SI; they broadcast to the shape)."""
        given = self.equations.initial(values)
        return {
            name: torch.as_tensor(given[name], dtype=self.dtype, device=self.device).expand(self.shape(name)).clone()
            for name in self.equations.variables
        }

    def strength(self, state: State) -> Tensor:
        """The weight, (C, n_post, n_pre)."""
        if self.equations.weight in state:
            return state[self.equations.weight]
        found = self.equations.subexpressions[self.equations.weight]({**self.values, **state}, self.functions)
        return torch.as_tensor(found, dtype=self.dtype, device=self.device).expand(self.size)

    def step(
        self,
        state: State,
        pre: Tensor | None = None,
        post: Tensor | None = None,
        reward: Tensor | None = None,
        signals: Mapping[str, Tensor] | None = None,
    ) -> None:
        """One step, in place: `state` is changed.

        Args:
            pre, post: which neurons spike, bool, (C, n_pre) and (C, n_post).
            reward: which copies get a reward, bool, (C,).
            signals: values at this moment in SI units, each of the shape of its place.
        """
        self.move(state, signals or {})
        self.events(state, {"pre": pre, "post": post, "reward": reward}, signals or {})

    def move(self, state: State, signals: Mapping[str, Tensor]) -> None:
        """The part of a step that is time: exact variables decay, the others take one Euler step."""
        continuous = self.equations.continuous
        if continuous:
            names: dict[str, Any] = {**self.values, **state, **signals}
            h = self.dt * 1e-3
            for noise in sorted({n for found in self.equations.noise.values() for n in found}):
                draw = torch.randn(self.size, generator=self.generator, dtype=self.dtype, device=self.device)
                names[noise] = draw / h**0.5
            slopes = {name: slope(names, self.functions) for name, slope in continuous.items()}
        self.decay(state, self._factors)
        if continuous:
            for name, slope in slopes.items():
                state[name] += h * (slope.mean(0, keepdim=True) if self._averages(name) else slope)
            for name in self.equations.bounds:
                if name in continuous:
                    state[name].copy_(self.equations.clipped(name).value({**self.values, **state}, self.functions))

    def decay(self, state: State, factors: Mapping[str, tuple[float, float]]) -> None:
        """Exact variables: x becomes factor x + shift."""
        for name, (factor, shift) in factors.items():
            state[name].mul_(factor)
            if shift:
                state[name].add_(shift)

    def events(
        self, state: State, happened: Mapping[str, Tensor | None], signals: Mapping[str, Tensor] | None = None
    ) -> None:
        """The part of a step that is events: which neurons spiked, which copies are rewarded."""
        more = signals or {}
        for event in EVENTS:
            where = happened.get(event)
            if where is None or not self.equations.blocks[event]:
                continue
            if self.size[0] == 1 and event != "reward" and where.device.type == "cpu":
                found = where[0].nonzero()[:, 0]
                if len(found):
                    self._picked(state, event, found, more)
            else:
                self._masked(state, event, where, more)

    def _draw(self) -> Tensor:
        """`rand()`: for every synapse that the present statement touches."""
        return torch.rand(self._touched, generator=self.generator, dtype=self.dtype, device=self.device)

    def _masked(self, state: State, event: str, where: Tensor, signals: Mapping[str, Tensor]) -> None:
        """All synapses computed, those of neurons that spiked kept: no index, so nothing waits for the GPU."""
        mask = where[:, None, None] if event == "reward" else where[:, None, :] if event == "pre" else where[:, :, None]
        names: dict[str, Any] = {**self.values, **state, **signals}
        self._touched = self.size
        for s in self.equations.blocks[event]:
            names[s.target] = s.value(names, self.functions)
        for name in {s.target for s in self.equations.blocks[event]} & set(state):
            new = torch.where(mask, names[name], state[name])
            state[name].copy_(new.mean(0, keepdim=True) if self._averages(name) else new)

    def _averages(self, name: str) -> bool:
        """Whether copies share this variable, and there are several."""
        return self.shared and name == self.equations.weight and self.size[0] > 1

    def _summed(self, block: list[Statement]) -> set[str]:
        """Variables of synapses that a block adds to once and reads nowhere: they need not be fetched to be changed."""
        found = set()
        for s in block:
            others = [o for o in block if o is not s]
            read = (s.added is None or s.target in s.added.names) or any(
                s.target == o.target or s.target in o.value.names for o in others
            )
            if not read and self.equations.places.get(s.target) == "synapse":
                found.add(s.target)
        return found

    def _picked(self, state: State, event: str, found: Tensor, signals: Mapping[str, Tensor]) -> None:
        """Only the rows or columns of the neurons that spiked."""
        axis = 2 if event == "pre" else 1
        names: dict[str, Any] = dict(self.values)
        for name, value in {**{n: state[n] for n in self._needs[event]}, **signals}.items():
            full = value.shape[axis] > 1 or self.size[axis] == 1
            names[name] = value.index_select(axis, found) if full else value
        c, n_post, n_pre = self.size
        self._touched = (c, n_post, len(found)) if event == "pre" else (c, len(found), n_pre)
        targets = []
        for s in self.equations.blocks[event]:
            if s.added is not None and s.target in self._sums[event]:
                shape = list(state[s.target].shape)
                shape[axis] = len(found)
                more = torch.as_tensor(s.added(names, self.functions), dtype=self.dtype, device=self.device)
                state[s.target].index_add_(axis, found, more.expand(shape))
                continue
            names[s.target] = s.value(names, self.functions)
            if s.target in state and s.target not in targets:
                targets.append(s.target)
        for name in targets:
            shape = list(state[name].shape)
            shape[axis] = len(found)
            value = torch.as_tensor(names[name], dtype=self.dtype, device=self.device)
            state[name].index_copy_(axis, found, value.expand(shape))


def run(
    equations: Equations,
    stimulus: Stimulus,
    dt: float = 1.0,
    replicates: int = 1,
    seed: int = 0,
    start: Mapping[str, Any] | None = None,
    record: tuple[str, ...] = (),
    every: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Outcome:
    """Run a rule on every condition at once; arguments as in `reference.run`, and where and how exactly.

    Warns when spike times are not on the grid of `dt`.
    """
    check(equations, stimulus, dt, record, every)
    c, r, last = stimulus.conditions, replicates, stimulus.steps(dt)
    batch = Batch(equations, c * r, 1, 1, dt, dtype, device, seed)
    given = {
        name: np.array(np.broadcast_to(np.asarray(value, float), (c, r))).reshape(c * r, 1, 1)
        for name, value in (start or {}).items()
    }
    state = batch.start(given)
    before = batch.strength(state).clone()
    grid = stimulus.grid(dt, equations.delay)
    happens: dict[int, dict[str, np.ndarray]] = {}
    for event, per_condition in grid.items():
        for which, steps in enumerate(per_condition):
            for k in steps.tolist():
                happens.setdefault(k, {}).setdefault(event, np.zeros(c, dtype=bool))[which] = True
    signals = {
        name: torch.as_tensor(np.repeat(stimulus.signals[name], r, axis=1) * equations.units[name].scale).to(
            device, dtype
        )
        for name in equations.signals
    }
    stride = max(1, round(every / dt)) if every else 0
    reading = list(range(0, last + 1, stride)) if record else []
    kept: dict[str, list[Tensor]] = {name: [] for name in record}
    now = 0

    def at(k: int) -> dict[str, Tensor]:
        return {name: values[k].reshape(-1, 1, 1) for name, values in signals.items()}

    def travel(to: int, now: int) -> None:
        if equations.continuous or signals:
            for k in range(now + 1, to + 1):
                batch.move(state, at(k))
        elif to > now:
            batch.decay(state, equations.decay((to - now) * dt * 1e-3))

    if equations.continuous or signals:
        now = -1  # step 0 moves from -dt to 0, as in Brian2
    for k in sorted({*happens, *reading, last}):
        travel(k, now)
        now, now_signals = k, at(k)
        if record and k % stride == 0:
            for name in record:
                value = state[name] if name in state else equations.subexpressions[name](
                    {**batch.values, **state, **now_signals}, batch.functions
                )  # fmt: skip
                kept[name].append(torch.as_tensor(value, dtype=dtype).expand(batch.size).reshape(c, r).clone())
        if k in happens:
            batch.events(
                state,
                {
                    event: torch.as_tensor(np.repeat(mask, r))
                    .to(device)
                    .reshape(-1, *([1] if event != "reward" else []))
                    for event, mask in happens[k].items()
                },
                now_signals,
            )
    whole = {name: value.expand(batch.size).reshape(c, r).cpu().double().numpy() for name, value in state.items()}
    return Outcome(
        before.reshape(c, r).cpu().double().numpy(),
        batch.strength(state).reshape(c, r).cpu().double().numpy(),
        whole,
        np.array(reading, dtype=float) * dt,
        {name: torch.stack(values).cpu().double().numpy() for name, values in kept.items()},
    )

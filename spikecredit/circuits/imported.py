"""A Brian2 network as a torch module: the same steps in the same order, batched, with surrogate gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikecredit.circuits.operations import Generator, Operation, Pathway, Poisson, PoissonEvents, Step, Threshold
from spikecredit.circuits.statements import Scope


@dataclass(frozen=True)
class Recording:
    """What a simulation gave.

    Args:
        spikes: (T, B, N) in {0, 1}, of every group and source, by name.
        variables: (T, B, N) of what was asked for, by "group.variable", at the beginning of each step, where Brian2's
            StateMonitor looks; in SI units.
    """

    spikes: dict[str, Tensor]
    variables: dict[str, Tensor]


@dataclass(frozen=True)
class CircuitState:
    """Where a circuit stands between two steps: the next step, variables, last spikes, spikes on their way."""

    number: int
    variables: dict[str, Tensor]
    spikes: dict[str, Tensor]
    history: dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Plan:
    """What `from_brian` read.

    Args:
        dt: in seconds. operations: in the order of a step. sizes: neurons of each group and source that fires.
        initial: (N,) by "group.variable". weights: (S,) by synapses' name and variable.
        ends: (source, target) of each synapse, neurons counted from the beginning of the whole group, by name.
    """

    dt: float
    operations: tuple[Operation, ...]
    sizes: dict[str, int]
    initial: dict[str, np.ndarray]
    weights: dict[str, dict[str, np.ndarray]]
    ends: dict[str, tuple[np.ndarray, np.ndarray]]


class ImportedCircuit(nn.Module):
    """A Brian2 network that torch simulates and trains. Built by `from_brian`.

    All is float64 and in SI units, as in Brian2. `synapses[name][variable]` are the weights, (S,) in Brian2's order of
    synapses; they are the parameters. No state is kept between calls. Under `torch.no_grad()` it only simulates;
    otherwise each step is kept for the gradient, and a dense matrix for each pathway inside the circuit.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.synapses = nn.ModuleDict(
            {
                name: nn.ParameterDict({key: nn.Parameter(torch.tensor(w)) for key, w in variables.items()})
                for name, variables in plan.weights.items()
            }
        )

    def extra_repr(self) -> str:
        synapses = ", ".join(f"{name}: {len(ends[0])} synapses" for name, ends in self.plan.ends.items())
        return f"dt={self.plan.dt:g} s, {', '.join(f'{n} {name}' for name, n in self.plan.sizes.items())}; {synapses}"

    def weight(self, synapses: str, variable: str) -> nn.Parameter:
        """The weights of these synapses."""
        found: nn.Parameter = self.synapses[synapses][variable]  # type: ignore[index]
        return found

    @property
    def pathways(self) -> list[Pathway]:
        """All pathways, in the order of a step."""
        return [operation for operation in self.plan.operations if isinstance(operation, Pathway)]

    def initial(self, batch: int = 1) -> CircuitState:
        """The state that was imported, `batch` times."""
        silent = {name: torch.zeros(batch, n, dtype=torch.float64) for name, n in self.plan.sizes.items()}
        variables = {key: torch.tensor(x).expand(batch, -1).clone() for key, x in self.plan.initial.items()}
        return CircuitState(0, variables, silent, {pathway.name: () for pathway in self.pathways})

    def forward(
        self,
        steps: int,
        inputs: Mapping[str, Tensor] | None = None,
        *,
        batch: int = 1,
        seed: int | None = None,
        record: Sequence[str] = (),
    ) -> Recording:
        """Simulate from the imported state.

        Args:
            steps: of Brian2's dt.
            inputs: spikes (T, B, N) of a SpikeGeneratorGroup or PoissonGroup, or counts (T, B, N) of a PoissonInput, by
                the object's name; T = steps. A SpikeGeneratorGroup that is not here fires as it does in Brian2.
            batch: samples; with inputs, theirs.
            seed: of Poisson sources that are not in `inputs`.
            record: variables to return, "group.variable".
        Raises:
            ValueError: an unknown name, another shape, or a Poisson source with neither input nor seed.
        """
        given = next(iter((inputs or {}).values()), None)
        if given is not None and given.ndim == 3:
            batch = given.shape[1]
        return self.stream(steps, inputs, self.initial(batch), seed=seed, record=record)[0]

    def stream(
        self,
        steps: int,
        inputs: Mapping[str, Tensor] | None = None,
        state: CircuitState | None = None,
        *,
        seed: int | None = None,
        record: Sequence[str] = (),
    ) -> tuple[Recording, CircuitState]:
        """Some steps from a state, and the state after them: bit-equal however a run is cut. As `forward`.

        Args:
            inputs: those of these steps. state: None, the imported one of one sample.
        """
        state = self.initial() if state is None else state
        batch = next(iter(state.variables.values())).shape[0]
        inputs = self._checked(steps, inputs or {}, batch, seed, record)
        weights = {f"{name}.{key}": self.weight(name, key) for name, keys in self.plan.weights.items() for key in keys}
        scope = Scope({**state.variables, **weights})
        inside = {operation.group for operation in self.plan.operations if isinstance(operation, Threshold)}
        inside |= {name for name, x in inputs.items() if x.requires_grad}
        added = {
            pathway.name: pathway.weights(scope, torch.is_grad_enabled() and pathway.source in inside)
            for pathway in self.pathways
        }
        step = Step(scope, state.number, state.number, dict(state.spikes), dict(state.history), added, inputs, seed)
        spikes: dict[str, list[Tensor]] = {name: [] for name in self.plan.sizes}
        variables: dict[str, list[Tensor]] = {key: [] for key in record}
        for number in range(state.number, state.number + steps):
            step.number, scope.t = number, number * self.plan.dt
            for key, values in variables.items():
                values.append(scope.state[key])
            for operation in self.plan.operations:
                operation.run(step)
            for name, each in spikes.items():
                each.append(step.spikes[name])
        last = CircuitState(
            state.number + steps, {key: scope.state[key] for key in state.variables}, step.spikes, step.history
        )
        stacked = ({key: torch.stack(each) for key, each in found.items() if each} for found in (spikes, variables))
        return Recording(*stacked), last

    def _checked(
        self, steps: int, inputs: Mapping[str, Tensor], batch: int, seed: int | None, record: Sequence[str]
    ) -> dict[str, Tensor]:
        sources: dict[str, int] = {}
        for operation in self.plan.operations:
            match operation:
                case Generator(name=name):
                    sources[name] = self.plan.sizes[name]
                case Poisson(name=name):
                    sources[name] = self.plan.sizes[name]
                case PoissonEvents(name=name, target=target):
                    sources[name] = len(self.plan.initial[target])
            if isinstance(operation, Poisson | PoissonEvents) and operation.name not in inputs and seed is None:
                raise ValueError(
                    f"{operation.name} is random: give its spikes or counts, inputs={{{operation.name!r}: (T, B, "
                    f"{sources[operation.name]})}}, or a seed to draw them"
                )
        for name, x in inputs.items():
            if name not in sources:
                raise ValueError(f"inputs: {name!r} is no source of this circuit; its sources are {list(sources)}")
            if x.shape != (steps, batch, sources[name]):
                raise ValueError(
                    f"inputs: {name!r} is (T, B, N) = {(steps, batch, sources[name])}, got {tuple(x.shape)}"
                )
            spikes = not any(isinstance(o, PoissonEvents) and o.name == name for o in self.plan.operations)
            if spikes and not ((x == 0) | (x == 1)).all():
                raise ValueError(f"inputs: {name!r} holds spikes, which are 0 or 1; scale the weights instead")
        for key in record:
            if key not in self.plan.initial:
                raise ValueError(f"record: {key!r} is no variable that changes; those are {list(self.plan.initial)}")
        if any(p.dtype != torch.float64 for p in self.parameters()):
            raise ValueError("weights are float64, as in Brian2; write circuit.double()")
        if any(p.device.type != "cpu" for p in self.parameters()):
            raise ValueError(
                "an imported circuit runs on the CPU, where events are added in order; write circuit.cpu()"
            )
        return {name: x.to(torch.float64) for name, x in inputs.items()}

    @torch.no_grad()
    def project_signs(self) -> None:
        """Dale's law by projection: a weight whose sign is not that of its source neuron at the import becomes 0.

        The sign of a neuron is that of its imported weights of this variable; where all are 0, they stay 0.

        Raises:
            ValueError: a neuron came with weights of both signs.
        """
        for name, variables in self.plan.weights.items():
            source = torch.tensor(self.plan.ends[name][0], dtype=torch.int64)
            for key, imported in variables.items():
                w = torch.tensor(imported).expand(len(source))
                size = int(source.max()) + 1 if len(source) else 0
                high, low = (
                    torch.zeros(size, dtype=w.dtype).index_add(0, source, (s * w).clamp(min=0)) for s in (1, -1)
                )
                mixed = ((high > 0) & (low > 0)).nonzero().flatten()
                if len(mixed):
                    raise ValueError(
                        f"{name}.{key}: neuron {int(mixed[0])} came with weights of both signs, so it has none to keep"
                    )
                parameter = self.weight(name, key)
                sign = ((high > 0).to(w) - (low > 0).to(w))[source][: parameter.numel()]
                parameter.copy_((parameter * sign).clamp(min=0) * sign)

    @torch.no_grad()
    def write_back(self, network: Any) -> None:
        """Write the weights into the Synapses of a Brian2 network, bit for bit.

        Args:
            network: the one that was imported, or another with the same synapses under the same names.
        Raises:
            ValueError: it has no Synapses of this name, or others between other neurons.
        """
        for name, variables in self.plan.weights.items():
            if name not in network:
                raise ValueError(f"the network holds no object {name!r}; give Synapses a name=, and the same one")
            synapses = network[name]
            ends = (synapses.variables[f"_synaptic_{side}"].get_value() for side in ("pre", "post"))
            if not all(np.array_equal(mine, theirs) for mine, theirs in zip(self.plan.ends[name], ends, strict=True)):
                raise ValueError(f"{name}: the synapses connect other neurons than those that were imported")
            for key in variables:
                synapses.variables[key].set_value(self.weight(name, key).numpy())

"""The Brian2 objects of a circuit: groups, synapses, monitors, and the schedule in which they act."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.equations import INJECT, ON_PRE, equations_of, weight
from spikecredit.circuits.population import Population, Projection
from spikecredit.circuits.units import MILLI, Scale
from spikecredit.neurons import ALIF, CurrentLIF
from spikecredit.neurons.spiking import SpikingNeuron

if TYPE_CHECKING:
    from spikecredit.circuits.brian import BrianCircuit

SLOTS = ("update", "threshold", "reset", "synapses")
"""What a population does in a step, in order."""


def brian2() -> Any:
    """The package, imported when it is first needed."""
    try:
        import brian2 as package
    except ImportError as error:
        raise ImportError("this needs Brian2: pip install 'spikecredit[brian]'") from error
    return package


@contextmanager
def preferences(values: dict[str, Any]) -> Iterator[None]:
    """Brian2's preferences for a while; afterwards they are as they were."""
    prefs = brian2().prefs
    before = {key: prefs[key] for key in values}
    try:
        for key, value in values.items():
            prefs[key] = value
        yield
    finally:
        for key, value in before.items():
            prefs[key] = value


class Objects:
    """The Brian2 objects of one export."""

    def __init__(self, export: "BrianCircuit") -> None:
        b2, circuit, self.export = brian2(), export.circuit, export
        self.clock = b2.Clock(dt=circuit.dt * b2.ms, name=f"{export.name}_clock")
        self.groups: dict[str, Any] = {}
        self.synapses: dict[tuple[Any, ...], Any] = {}
        self.spike_monitors: dict[str, Any] = {}
        self.state_monitors: dict[str, Any] = {}
        self.input = self._input() if export._injected is None else None
        for k, population in enumerate(circuit.populations):
            self._group(k, population)
        for projection in circuit.projections:
            self._project(projection)
        objects = [*self.groups.values(), *self.synapses.values()]
        objects += [*self.spike_monitors.values(), *self.state_monitors.values()]
        self.network = b2.Network(
            *objects, *([] if self.input is None else [self.input]), name=f"{export.name}_network"
        )
        for part in self.network.objects:  # Brian2 says so at the first run only, and warns if there is none
            part._network = self.network.id
        if export.schedule == "same_step":
            levels = max(p.level for p in circuit.populations)
            own = [self.slot(level, what) for level in range(levels + 1) for what in SLOTS]
            self.network.schedule = ["start", *own, "groups", "thresholds", "synapses", "resets", "end"]

    def slot(self, level: int, what: str) -> str:
        """The slot of Brian2's schedule for a population's own part of a step; level 0 is the input."""
        if self.export.schedule == "same_step":
            return f"{self.export.name}_{level}_{what}"
        return {"update": "groups", "threshold": "thresholds", "reset": "resets", "synapses": "synapses"}[what]

    def _input(self) -> Any:
        b2, export = brian2(), self.export
        steps, index = np.nonzero(export.x.flatten(1).numpy())
        return b2.SpikeGeneratorGroup(
            export.samples * export.circuit.inputs,
            index,
            steps * self.clock.dt,
            clock=self.clock,
            when=self.slot(0, "threshold"),
            name=f"{export.name}_input",
        )

    def _group(self, k: int, population: Population) -> None:
        b2, export, neuron = brian2(), self.export, population.neuron
        texts, copies, scale = equations_of(neuron, export.units is not None), export.samples, export.scales[k]
        title = f"{export.name}_{population.name}"
        group = b2.NeuronGroup(
            copies * population.size,
            texts.model,
            threshold=texts.threshold,
            reset=None if texts.threshold is None else texts.reset,
            clock=self.clock,
            name=title,
            namespace={},
        )
        group.run_regularly(
            texts.update, clock=self.clock, when=self.slot(population.level, "update"), name=f"{title}_update"
        )
        if texts.threshold is not None:
            group.thresholder["spike"].when = self.slot(population.level, "threshold")
            group.resetter["spike"].when = self.slot(population.level, "reset")
        for variable, value in self._constants(population, scale).items():
            group.variables[variable].set_value(np.tile(value, copies) if np.ndim(value) else value)
        if export._injected is not None and k in export._injected:
            current = export._injected[k] * (1 if scale is None else scale.amperes)
            self._inject(group, current, export.lag(population), self.slot(population.level, "update"))
        self.groups[population.name] = group
        if texts.threshold is not None:
            self.spike_monitors[population.name] = b2.SpikeMonitor(group, when="end", name=f"{title}_spikes")
        if export.potentials or texts.threshold is None:
            self.state_monitors[population.name] = b2.StateMonitor(
                group, "u", record=True, clock=self.clock, when="end", name=f"{title}_potentials"
            )

    def _constants(self, population: Population, scale: Scale | None) -> dict[str, Any]:
        """The constants of a group, in SI units if there are units."""
        values = constants(population, self.export.lag(population))
        if scale is None or self.export.units is None:
            return values
        values["bias"] = values["bias"] * scale.amperes.numpy()
        values |= {name: values[name] * scale.volts for name in ("theta", "b") if name in values}
        values |= {"R": scale.ohms.numpy(), "C": scale.farads.numpy(), "V_rest": self.export.units.v_rest * MILLI}
        return values

    def _inject(self, group: Any, current: Tensor, lag: int, when: str) -> None:
        """A constant current is a constant of each neuron; one that changes is a TimedArray, as late as the group."""
        values = current.flatten(1).numpy()
        if len(values) == 1:
            group.variables["drive"].set_value(values[0])
            return
        late = np.concatenate([np.zeros((lag, values.shape[1])), values])
        unit = 1 if self.export.units is None else brian2().amp
        injected = brian2().TimedArray(late * unit, dt=self.clock.dt, name=f"{group.name}_injected")
        group.namespace["injected"] = injected
        group.run_regularly(INJECT, clock=self.clock, when=when, order=-1, name=f"{group.name}_inject")

    def _project(self, p: Projection) -> None:
        export, circuit = self.export, self.export.circuit
        if (p.source is None and self.input is None) or not len(p.weight):
            return
        names = circuit.name(p.source), circuit.name(p.target)
        key: tuple[Any, ...] = names
        while key in self.synapses:
            key = (*names, 2 if len(key) == 2 else key[2] + 1)
        source = self.input if p.source is None else self.groups[names[0]]
        level = 0 if p.source is None else circuit.populations[p.source].level
        target = circuit.populations[p.target]
        if export.schedule == "same_step":  # a target that is updated after the source hears it in the same step
            late = p.delay if level < target.level else p.delay - 1
        else:  # every spike is heard one step later at the earliest, and both populations have their lag
            late = p.delay + target.level - level - 1
        synapses = brian2().Synapses(
            source,
            self.groups[names[1]],
            weight(export.units is not None),
            on_pre=ON_PRE,
            delay=late * self.clock.dt,
            clock=self.clock,
            name=f"{export.name}_{'_to_'.join(names)}{''.join(f'_{number}' for number in key[2:])}",
            namespace={},
        )
        copies = np.arange(export.samples)[:, None]
        pre = (copies * circuit.size(p.source) + p.pre.numpy()).ravel()
        post = (copies * target.size + p.post.numpy()).ravel()
        synapses.connect(i=pre, j=post)
        scale = export.scales[p.target]
        weights = p.weight if scale is None else p.weight * scale.amperes[p.post]
        synapses.variables["w"].set_value(np.tile(weights.numpy(), export.samples))
        synapses.pre.when = self.slot(level, "synapses")
        self.synapses[key] = synapses


def constants(population: Population, lag: int) -> dict[str, Any]:
    """The values of a group's constants: beta itself and not tau, from which another beta would be computed."""
    neuron: Any = population.neuron
    values = {"bias": population.bias.numpy(), "level": population.level, "lag": lag}

    def every(decay: Any) -> np.ndarray:
        return torch.as_tensor(decay(), dtype=torch.float64).expand(population.size).numpy()

    values["beta"] = every(neuron.decay)
    if isinstance(neuron, SpikingNeuron):
        values["theta"] = neuron.threshold
        if neuron.refractory > 1:
            values["hold"] = neuron.refractory - 1
    if isinstance(neuron, CurrentLIF):
        values["alpha"] = every(neuron.decay_synapse)
    if isinstance(neuron, ALIF):
        values |= {"rho": every(neuron.decay_adaptation), "b": neuron.adaptation}
    return values

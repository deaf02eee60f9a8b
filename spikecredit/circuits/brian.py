"""From torch to Brian2: a network as neuron groups and synapses, with the same spikes and potentials bit for bit."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.circuit import Activity, Circuit, Population, Projection
from spikecredit.circuits.equations import INJECT, ON_PRE, WEIGHT, equations_of
from spikecredit.network import Network
from spikecredit.neurons import ALIF, CurrentLIF
from spikecredit.neurons.spiking import SpikingNeuron

Schedule = Literal["same_step", "brian"]
Target = Literal["numpy", "cpp_standalone"]

STRICT = ["-w", "-O3", "-std=c++17", "-ffp-contract=off", "-fno-fast-math"]
"""Compiler flags under which C++ rounds as torch does. Brian2's own have -ffast-math, which changes the last bits."""

SLOTS = ("update", "threshold", "reset", "synapses")


def to_brian(
    net: Network | Circuit,
    x: Tensor,
    schedule: Schedule = "same_step",
    target: Target = "numpy",
    name: str = "circuit",
    potentials: bool = True,
    directory: Path | str | None = None,
) -> "BrianCircuit":
    """A network and its input in Brian2.

    Args:
        net: a network, in evaluation mode and on the grid of 2^-30 as `Circuit.of` makes it, or a circuit.
        x: input, (T, *in) or (T, B, *in); B samples run side by side, as copies of all populations. Spikes (0 and 1)
            become a SpikeGeneratorGroup; other values act as currents, which are computed here and injected.
        schedule: "same_step": every population has slots of its own in the network's schedule, and a spike crosses all
            layers in the step in which it arises, as in torch. "brian": Brian2's default schedule; the population at
            level l is then l steps late in Brian2's time. `run` takes the lag out; monitors show it.
        target: "numpy", or "cpp_standalone": the circuit is compiled, for long runs.
        name: prefix of the names of all Brian2 objects.
        potentials: whether to record them at every step.
        directory: where cpp_standalone builds; by default a temporary folder.
    Raises:
        ValueError: what `Circuit.of` refuses, an unknown schedule or target, or a folder without anything to build.
        ImportError: Brian2 is not installed.
    """
    for what, given, known in (("schedule", schedule, get_args(Schedule)), ("target", target, get_args(Target))):
        if given not in known:
            raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, got {given!r}")
    if directory is not None and target != "cpp_standalone":
        raise ValueError(f"directory={str(directory)!r} is where C++ is built: write target='cpp_standalone' too")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"name is the prefix of Brian2's names, letters, digits and underscores; got {name!r}")
    if isinstance(net, Network):
        given_shape = tuple(x.shape)
        raise_if_ambiguous(net, given_shape)
        net = Circuit.of(net, given_shape[2:])
    return BrianCircuit(net, x, schedule, target, name, potentials, directory)


def raise_if_ambiguous(net: Network, shape: tuple[int, ...]) -> None:
    """A network does not say the shape of its input: only (T, B, *in) can be read from x."""
    if len(shape) < 3:
        raise ValueError(
            f"with a network x is (T, B, *in), got {shape}: write x[:, None] for one sample, or give a circuit, "
            "Circuit.of(net, input_shape)"
        )


def brian2() -> Any:
    """The package, imported when it is first needed."""
    try:
        import brian2 as package
    except ImportError as error:
        raise ImportError("this needs Brian2: pip install 'spikecredit[brian]'") from error
    return package


class BrianCircuit:
    """A circuit and its input as Brian2 objects; made by `to_brian`.

    network, groups, synapses, spike_monitors, state_monitors (dicts by our names; a pair of names for synapses, with a
    number where there are several) and input (a SpikeGeneratorGroup, or None) are Brian2's own objects: look at
    them, or add objects to the network, before `run`. Under cpp_standalone they exist only while it is compiled.
    """

    def __init__(
        self,
        circuit: Circuit,
        x: Tensor,
        schedule: Schedule,
        target: Target,
        name: str,
        potentials: bool,
        directory: Path | str | None,
    ) -> None:
        self.circuit, self.schedule, self.target, self.name = circuit, schedule, target, name
        self.potentials, self.directory = potentials, directory
        self.x, self._single = circuit.sequence(x)
        self.steps, self.samples = self.x.shape[:2]
        self._injected = circuit.injected(self.x)
        brian2()

    # ---- what is built, when it is first asked for

    @cached_property
    def _built(self) -> "_Objects":
        if self.target == "cpp_standalone" and not self._compiling:
            raise RuntimeError(
                "under target='cpp_standalone' Brian2's objects exist only inside run(): take target='numpy' to look "
                "at them or to add to them"
            )
        b2 = brian2()
        if not self._compiling and b2.get_device() is not b2.all_devices["runtime"]:
            raise RuntimeError(
                "Brian2 is set to a standalone device: call brian2.reset_device() first, or write "
                "to_brian(..., target='cpp_standalone'), which sets and resets the device itself"
            )
        with preferences({"codegen.target": "numpy"}):
            return _Objects(self)

    _compiling = False

    @property
    def network(self) -> Any:
        return self._built.network

    @property
    def groups(self) -> dict[str, Any]:
        return self._built.groups

    @property
    def synapses(self) -> dict[tuple[Any, ...], Any]:
        return self._built.synapses

    @property
    def spike_monitors(self) -> dict[str, Any]:
        return self._built.spike_monitors

    @property
    def state_monitors(self) -> dict[str, Any]:
        return self._built.state_monitors

    @property
    def input(self) -> Any:
        return self._built.input

    # ---- running

    @property
    def duration(self) -> Any:
        """How long `run` simulates, in Brian2's units: the input, and the lag of the last population."""
        last = max(self.lag(p) for p in self.circuit.populations)
        return (self.steps + last) * self.circuit.dt * brian2().ms

    def lag(self, population: Population) -> int:
        """By how many steps a population is late in Brian2's time."""
        return population.level if self.schedule == "brian" else 0

    def run(self) -> Activity:
        """Simulate the input from rest and give what torch's `Circuit.run` gives, (T, B, n) or (T, n) as x is.

        Raises:
            RuntimeError: the network was run before; make another with `to_brian`.
        """
        if self.target == "cpp_standalone":
            return self._run_compiled()
        if float(self.network.t):
            raise RuntimeError("this network has run already, and its neurons are not at rest: call to_brian again")
        with preferences({"codegen.target": "numpy"}):
            self.network.run(self.duration, namespace={})
        return self.activity()

    def _run_compiled(self) -> Activity:
        b2 = brian2()
        from brian2.devices.device import reset_device

        before = b2.get_device()
        folder = tempfile.TemporaryDirectory(prefix="spikecredit_") if self.directory is None else None
        self._compiling = True
        flags = {
            "codegen.cpp.extra_compile_args_gcc": STRICT,
            "devices.cpp_standalone.extra_make_args_unix": [f"-j{os.cpu_count() or 1}"],
        }
        try:
            with preferences(flags):
                b2.set_device("cpp_standalone", build_on_run=False)
                b2.device.reinit()
                b2.device.activate(build_on_run=False)
                self._built.network.run(self.duration, namespace={})
                b2.device.build(
                    directory=str(folder.name if folder else self.directory), compile=True, run=True, with_output=False
                )
                return self.activity()
        finally:
            self.__dict__.pop("_built", None)
            self._compiling = False
            if b2.get_device() is not before:
                b2.device.reinit()
                reset_device()
            if folder:
                folder.cleanup()

    def activity(self) -> Activity:
        """What the monitors recorded, without the lag."""
        spikes, potentials = {}, {}
        for p in self.circuit.populations:
            shape, lag = (self.steps, self.samples, p.size), self.lag(p)
            if (monitor := self.spike_monitors.get(p.name)) is not None:
                steps = np.rint(np.asarray(monitor.t) / float(self._built.clock.dt)).astype(np.int64) - lag
                here = (steps >= 0) & (steps < self.steps)
                fired = np.zeros((self.steps, self.samples * p.size), dtype=bool)
                fired[steps[here], np.asarray(monitor.i)[here]] = True
                spikes[p.name] = torch.from_numpy(fired).reshape(shape)
            if (monitor := self.state_monitors.get(p.name)) is not None:
                u = np.asarray(monitor.u).T[lag : lag + self.steps]
                potentials[p.name] = torch.from_numpy(np.ascontiguousarray(u)).reshape(shape)
        return self.circuit.activity(spikes, potentials, self._single)


class _Objects:
    """The Brian2 objects of one export."""

    def __init__(self, export: BrianCircuit) -> None:
        b2, circuit, self.export = brian2(), export.circuit, export
        self.clock = b2.Clock(dt=circuit.dt * b2.ms, name=f"{export.name}_clock")
        self.groups: dict[str, Any] = {}
        self.synapses: dict[tuple[Any, ...], Any] = {}
        self.spike_monitors: dict[str, Any] = {}
        self.state_monitors: dict[str, Any] = {}
        self.others: list[Any] = []
        self.input = self._input() if export._injected is None else None
        for k, population in enumerate(circuit.populations):
            self._group(k, population)
        for projection in circuit.projections:
            self._project(projection)
        objects = [*self.groups.values(), *self.synapses.values(), *self.others]
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
        texts, copies = equations_of(neuron), export.samples
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
        for variable, value in constants(population, export.lag(population)).items():
            setattr(group, variable, np.tile(value, copies) if np.ndim(value) else value)
        if export._injected is not None and k in export._injected:
            self._inject(group, export._injected[k], export.lag(population), self.slot(population.level, "update"))
        self.groups[population.name] = group
        if texts.threshold is not None:
            self.spike_monitors[population.name] = b2.SpikeMonitor(group, when="end", name=f"{title}_spikes")
        if export.potentials or texts.threshold is None:
            self.state_monitors[population.name] = b2.StateMonitor(
                group, "u", record=True, clock=self.clock, when="end", name=f"{title}_potentials"
            )

    def _inject(self, group: Any, current: Tensor, lag: int, when: str) -> None:
        """A constant current is a constant of each neuron; one that changes is a TimedArray, as late as the group."""
        values = current.flatten(1).numpy()
        if len(values) == 1:
            group.drive = values[0]
            return
        late = np.concatenate([np.zeros((lag, values.shape[1])), values])
        injected = brian2().TimedArray(late, dt=self.clock.dt, name=f"{group.name}_injected")
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
            WEIGHT,
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
        synapses.w = np.tile(p.weight.numpy(), export.samples)
        synapses.pre.when = self.slot(level, "synapses")
        self.synapses[key] = synapses


def constants(population: Population, lag: int) -> dict[str, Any]:
    """The values of a group's constants: beta itself and not tau, from which another beta would be computed."""
    neuron: Any = population.neuron
    values = {"bias": population.bias.numpy(), "level": population.level, "lag": lag}

    def every(decay: Any) -> np.ndarray:
        return decay().expand(population.size).numpy()

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

"""From torch to Brian2: a network as neuron groups and synapses, with the same spikes and potentials bit for bit."""

import os
import re
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.objects import Objects, brian2, preferences
from spikecredit.circuits.population import Activity, Population
from spikecredit.circuits.units import Units
from spikecredit.network import Network

Schedule = Literal["same_step", "brian"]
Target = Literal["numpy", "cpp_standalone"]

STRICT = ["-w", "-O3", "-std=c++17", "-ffp-contract=off", "-fno-fast-math"]
"""Compiler flags under which C++ rounds as torch does. Brian2's own have -ffast-math, which changes the last bits."""


def to_brian(
    net: Network | Circuit,
    x: Tensor,
    schedule: Schedule = "same_step",
    target: Target = "numpy",
    name: str = "circuit",
    potentials: bool = True,
    directory: Path | str | None = None,
    units: Units | None = None,
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
        units: build it in volts and amperes; groups then have u, the potential above rest, and V, both in volts. What
            `run` returns is dimensionless as ever. None: Brian2's potentials are dimensionless too.
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
        if x.ndim < 3:  # a network does not say the shape of its input
            raise ValueError(
                f"with a network x is (T, B, *in), got {tuple(x.shape)}: write x[:, None] for one sample, or give a "
                "circuit, Circuit.of(net, input_shape)"
            )
        net = Circuit.of(net, tuple(x.shape[2:]))
    return BrianCircuit(net, x, schedule, target, name, potentials, directory, units)


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
        units: Units | None,
    ) -> None:
        self.circuit, self.schedule, self.target, self.name = circuit, schedule, target, name
        self.potentials, self.directory, self.units = potentials, directory, units
        self.scales = [None if units is None else units.scale(p) for p in circuit.populations]
        self.x, self._single = circuit.sequence(x)
        self.steps, self.samples = self.x.shape[:2]
        self._injected = circuit.injected(self.x)
        brian2()

    # ---- what is built, when it is first asked for

    @cached_property
    def _built(self) -> Objects:
        if self.target == "cpp_standalone" and not self._compiling:
            raise RuntimeError(
                "under target='cpp_standalone' Brian2's objects exist only inside run(): take target='numpy' to look "
                "at them or to add to them"
            )
        b2 = brian2()
        if not self._compiling and b2.get_device() is not b2.all_devices["runtime"]:
            raise RuntimeError(
                "Brian2 is set to a standalone device: call brian2.set_device('runtime') first, or write "
                "to_brian(..., target='cpp_standalone'), which sets and resets the device itself"
            )
        with preferences({"codegen.target": "numpy"}):
            return Objects(self)

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
        for p, scale in zip(self.circuit.populations, self.scales, strict=True):
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
                if scale is not None:
                    potentials[p.name] /= scale.volts
        return self.circuit.activity(spikes, potentials, self._single)

"""Back from Brian2: a network that `to_brian` made is recognised, and read as a circuit."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.equations import recognise
from spikecredit.circuits.objects import brian2
from spikecredit.circuits.population import Part, Population, Projection
from spikecredit.neurons import ALIF, LIF, CurrentLIF, LeakyReadout, Neuron
from spikecredit.neurons.decay import Factor


def read(network: Any) -> Circuit:
    """The circuit of a Brian2 network that `to_brian` made, with the weights and constants that it has now.

    Shapes are flat: the input is (inputs,), each population and the output are vectors. If the input was injected as
    currents, the circuit's input is those currents (`read_input` gives them), and its first projections are identities.
    Samples that ran side by side are read as one circuit with all copies.

    Args:
        network: `BrianCircuit.network`, before or after a run. Objects that were added to it are left out.
    Raises:
        ValueError: no group of the network was made by `to_brian`, or its equations were changed.
    """
    groups, generator = _groups(network)
    populations, index = [], {}
    for k, group in enumerate(groups):
        name = group.name.removeprefix(_prefix(groups))
        bias = torch.tensor(np.array(group.bias[:]))
        populations.append(Population(name, _neuron(group), bias, int(_value(group, "level"))))
        index[group.name] = k
    projections = []
    for synapses in _synapses(network):
        if synapses.target.name not in index or synapses.source.name not in {*index, getattr(generator, "name", None)}:
            continue
        source, target = index.get(synapses.source.name), index[synapses.target.name]
        pre, post = torch.tensor(np.array(synapses.i[:])).long(), torch.tensor(np.array(synapses.j[:])).long()
        order = torch.argsort(pre * (int(post.max()) + 1) + post, stable=True)
        weight = torch.tensor(np.array(synapses.w[:]))[order]
        lags = 0 if source is None else int(_value(groups[source], "lag")), int(_value(groups[target], "lag"))
        level = 0 if source is None else populations[source].level
        late = round(float(np.ravel(np.asarray(synapses.pre.delay[:]))[0]) / float(synapses.clock.dt))
        # In Brian2's own order a spike is heard one step later, and both populations have their lag.
        at_once = not lags[1] and level < populations[target].level
        delay = late + (0 if at_once else 1) + lags[0] - lags[1]
        projections.append(Projection(source, target, pre[order], post[order], weight, delay))
    inputs = 0
    if generator is None:
        for k, group in enumerate(groups):
            if _injected(group) is not None:
                every = torch.arange(len(group))
                projections.append(Projection(None, k, inputs + every, every, torch.ones(len(group)).double()))
                inputs += len(group)
    else:
        inputs = len(generator)
    last = max(p.level for p in populations)
    output, start = [], 0
    for k, p in enumerate(populations):
        if p.level == last:
            output.append(Part(k, torch.arange(start, start + p.size)))
            start += p.size
    return Circuit((inputs,), tuple(populations), tuple(projections), tuple(output), (start,))


def read_input(network: Any, steps: int) -> Tensor:
    """The input (steps, inputs) of the circuit that `read` gives: the generator's spikes, or the injected currents."""
    groups, generator = _groups(network)
    if generator is not None:
        x = torch.zeros(steps, len(generator), dtype=torch.float64)
        when, which = (np.array(generator.variables[name].get_value()) for name in ("spike_time", "neuron_index"))
        at = torch.from_numpy(np.rint(when / float(generator.clock.dt)).astype(np.int64))
        x[at, torch.from_numpy(which).long()] = 1
        return x
    currents = []
    for group in groups:
        if (values := _injected(group)) is not None:
            late = values[int(_value(group, "lag")) if len(values) > 1 else 0 :]
            currents.append(
                torch.tensor(late[:steps]).expand(steps, -1) if len(late) == 1 else torch.tensor(late[:steps])
            )
    return torch.cat(currents, 1) if currents else torch.zeros(steps, 0, dtype=torch.float64)


def is_export(network: Any) -> bool:
    """Whether some group of a Brian2 network was made by `to_brian`."""
    return any(_is_ours(o) for o in network.objects)


def _is_ours(o: Any) -> bool:
    return isinstance(o, brian2().NeuronGroup) and {"level", "lag"} <= {*o.variables}


def _groups(network: Any) -> tuple[list[Any], Any]:
    """The groups that are ours, in the order of the row, and our spike generator if there is one."""
    b2 = brian2()
    groups = [o for o in network.objects if _is_ours(o)]
    if not groups:
        raise ValueError(
            "no group of this network was made by spikecredit.circuits.to_brian, and read() knows only its own export"
        )
    groups.sort(key=lambda group: (int(_value(group, "level")), group.name))
    title = _prefix(groups) + "input"
    found = [o for o in network.objects if isinstance(o, b2.SpikeGeneratorGroup) and o.name == title]
    return groups, found[0] if found else None


def _prefix(groups: list[Any]) -> str:
    """What stands before our names: the name of the export, kept in that of the clock."""
    return groups[0].clock.name.removesuffix("clock")


def _synapses(network: Any) -> list[Any]:
    b2 = brian2()
    found = [
        o for o in network.objects if isinstance(o, b2.Synapses) and o.name.startswith(_prefix(_groups(network)[0]))
    ]
    return sorted(found, key=lambda o: o.name)


def _value(group: Any, name: str) -> Any:
    """A constant that all neurons of a group share."""
    return np.ravel(group.variables[name].get_value())[0]


def _injected(group: Any) -> np.ndarray | None:
    """The injected current (T or 1, n) of a group; None if there is none."""
    if (timed := group.namespace.get("injected")) is not None:
        return np.asarray(timed.values)
    drive = np.array(group.drive[:])
    return drive[None] if drive.any() else None


def _neuron(group: Any) -> Neuron:
    """Our neuron with the constants of a group."""
    update = next(o for o in group.contained_objects if o.name == f"{group.name}_update")
    kind, reset, refractory = recognise(update.abstract_code, "spike" in group.events)
    made: Any
    dt = float(group.clock.dt) * 1e3
    if kind is LeakyReadout:
        made = LeakyReadout(dt=dt, backend="reference")
    else:
        hold = int(_value(group, "hold")) + 1 if refractory else 0
        options: Any = {"threshold": float(_value(group, "theta")), "reset": reset, "refractory": hold, "dt": dt}
        if kind is ALIF:
            made = ALIF(adaptation=float(_value(group, "b")), backend="reference", **options)
        else:
            made = (CurrentLIF if kind is CurrentLIF else LIF)(backend="reference", **options)
    for attribute, variable in (("decay", "beta"), ("decay_synapse", "alpha"), ("decay_adaptation", "rho")):
        if hasattr(made, attribute):
            values = torch.tensor(np.array(getattr(group, variable)[:]))
            one = bool((values == values[0]).all())
            setattr(made, attribute, Factor(values[0].clone() if one else values, dt))
    return made

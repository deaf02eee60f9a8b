"""Figures of a simulated circuit. matplotlib is imported only when one is drawn."""

from typing import TYPE_CHECKING

import numpy as np

from spikecredit.analysis import plots
from spikecredit.circuits.circuit import Circuit
from spikecredit.circuits.population import Activity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRACES = 3
"""Neurons of each population whose potentials are drawn."""


def raster(circuit: Circuit, activity: Activity, sample: np.ndarray | None = None) -> "Figure":
    """Spikes of every population and potentials of the readout, for one sample: activity (T, n), sample (C, H, W)."""
    rows = {p.name: activity.spikes.get(p.name, activity.potentials[p.name]).numpy() for p in circuit.populations}
    return plots.raster(rows, sample)


def voltages(circuit: Circuit, activity: Activity) -> "Figure":
    """Potentials over time of the neurons that begin and stop firing most often, a panel per population; dots: spikes.

    The dashed line is the threshold at rest (an adaptive neuron's rises above it). Of a readout all units are drawn.
    """
    with plots._style():
        figure, grid = plots._figure(0.6 + 1.7 * len(circuit.populations), len(circuit.populations))
        colours = plots.layer_colours([p.name for p in circuit.populations])
        for ax, population in zip(grid[:, 0], circuit.populations, strict=True):
            name, u = population.name, activity.potentials[population.name].numpy()
            fired = activity.spikes.get(name)
            if fired is None:
                plots._potentials(ax, u, name, colours[name])
            else:
                spikes = fired.numpy()
                switches = np.abs(np.diff(spikes.astype(int), axis=0)).sum(0)
                most = np.lexsort((-u.max(0), -switches))[:TRACES]  # the silent by their largest potential
                for k, (neuron, line) in enumerate(zip(most, ("-", "--", ":"), strict=False)):
                    ax.plot(u[:, neuron], line, color=colours[name], linewidth=1.6 - 0.3 * k)
                    at = np.nonzero(spikes[:, neuron])[0]
                    ax.plot(at, u[at, neuron], "o", color=colours[name], markersize=4.5)
                ax.axhline(population.neuron.threshold, color=plots.FAINT, linestyle=(0, (4, 3)), linewidth=1.0)  # type: ignore[arg-type]
                which = ", ".join(f"{neuron} ({spikes[:, neuron].sum()} spikes)" for neuron in most)
                ax.set(title=f"{name}: potentials of neurons {which}; dashed: threshold", ylabel="potential")
            ax.set(xlim=(-0.5, len(u) - 0.5))
            plots._integers(ax)
            ax.tick_params(labelbottom=ax is grid[-1, 0])
        grid[-1, 0].set_xlabel("time (steps)")
    return figure

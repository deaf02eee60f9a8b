"""The neurons' equations as Brian2 code: the one place where they are written for a simulator.

Each line has one operation whose rounding matters, so that no optimiser can order it anew: torch and Brian2 then agree
to the last bit. The synapses add to I, which the update of the step consumes. An input that arrives in the step of a
spike is therefore never wiped by the reset (as `reset='v = 0'` does in Brian2's default order, brian2 #1332).
"""

from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from spikecredit.neurons import ALIF, LIF, CurrentLIF, LeakyReadout, Neuron
from spikecredit.neurons.neuron import Reset

COMMON = """
u : 1                               # potential
I : 1                               # synaptic current of this step
bias : 1 (constant)                 # constant current
drive : 1                           # injected current
beta : 1 (constant)                 # decay factor of the potential, exp(-dt / tau)
level : integer (constant, shared)  # place in the row of populations
lag : integer (constant, shared)    # steps by which this population is late
"""
SPIKING = """
theta : 1 (constant, shared)        # threshold
"""
REFRACTORY = """
hold : integer (constant, shared)   # steps for which a spike holds the potential
wait : integer                      # of these, still to come
held : integer                      # whether the potential is held in this step
"""
SYNAPSE = """
current : 1                         # synaptic current with memory
alpha : 1 (constant)                # its decay factor
"""
ADAPTATION = """
a : 1                               # adaptation
rho : 1 (constant)                  # its decay factor
b : 1 (constant, shared)            # what one unit of it adds to the threshold
A : 1                               # the threshold now
r : 1                               # whether a reset is pending
"""

WEIGHT, ON_PRE = "w : 1", "I_post += w"
"""The synapses: what they have, and what a presynaptic spike does."""

INJECT = "drive = injected(t, i)"
"""A current that changes in time; `injected` is a TimedArray."""


@dataclass(frozen=True)
class Equations:
    """One kind of neuron in Brian2: model, the code of one step, threshold condition (None: it never fires), reset."""

    model: str
    update: str
    threshold: str | None = None
    reset: str = ""


def equations(kind: type[Neuron], reset: Reset = "none", refractory: bool = False) -> Equations:
    """The equations of `lif_step`, `alif_step` and the readout; the order of operations is theirs too.

    Args:
        kind: LIF, CurrentLIF, ALIF or LeakyReadout.
        reset: how a spike resets. refractory: whether a spike holds the potential for some steps.
    """
    model = COMMON
    update = ["c = bias + drive", "c = c*int(t_in_timesteps >= lag)", "x = I + c", "I = 0"]
    if kind is LeakyReadout:
        return Equations(model, "\n".join([*update, "leaked = u*beta", "u = leaked + x"]))
    model += SPIKING
    if kind is CurrentLIF:
        model += SYNAPSE
        update += ["faded = current*alpha", "current = faded + x", "x = current"]
    adaptive = kind is ALIF
    if adaptive:
        model += ADAPTATION
        update += ["raised = a*b", "A = raised + theta", "a = a*rho"]
    elif reset != "none":
        update += ["r = int(u - theta > 0)"]
    if refractory:
        model += REFRACTORY
        update += ["held = int(wait > 0)", "wait = clip(wait - 1, 0, hold)"]
    update += ["kept = (1 - r)*u", "leaked = kept*beta"] if reset == "zero" else ["leaked = u*beta"]
    update += ["v = leaked + x"]
    if reset == "subtract":
        update += ["v = v - r*theta"]
    update += ["u = held*u + (1 - held)*v" if refractory else "u = v"]
    if adaptive:
        update += ["r = held*r" if refractory else "r = 0"]
    threshold = "u - A > 0" if adaptive else "u - theta > 0"
    after = ["a = a + 1", "r = 1"] if adaptive else []
    if refractory:
        threshold += " and held == 0"
        after += ["wait = hold"]
    return Equations(model, "\n".join(update), threshold, "\n".join(after))


def recognise(update: str) -> tuple[type[Neuron], Reset, bool]:
    """Which kind of neuron, reset and refractoriness the code of one step is.

    Raises:
        ValueError: it is none of `equations`.
    """
    if update == equations(LeakyReadout).update:
        return LeakyReadout, "none", False
    for kind, reset, refractory in product((LIF, CurrentLIF, ALIF), get_args(Reset), (False, True)):
        if update == equations(kind, reset, refractory).update:
            return kind, reset, refractory
    raise ValueError(
        "this group was not made by to_brian, or its equations were changed: read() knows only its own export\n"
        + update
    )


def equations_of(neuron: Any) -> Equations:
    """The equations of one of our neurons."""
    if type(neuron) is LeakyReadout:
        return equations(LeakyReadout)
    return equations(type(neuron), neuron.reset, neuron.refractory > 1)

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
u : {volt}                          # potential, above rest
I : {amp}                           # synaptic current of this step
bias : {amp} (constant)             # constant current
drive : {amp}                       # injected current
beta : 1 (constant)                 # decay factor of the potential, exp(-dt / tau)
level : integer (constant, shared)  # place in the row of populations
lag : integer (constant, shared)    # steps by which this population is late
"""
SPIKING = """
theta : {volt} (constant, shared)   # threshold, above rest
"""
REFRACTORY = """
hold : integer (constant, shared)   # steps for which a spike holds the potential
wait : integer                      # of these, still to come
held : integer                      # whether the potential is held in this step
"""
SYNAPSE = """
current : {amp}                     # synaptic current with memory
alpha : 1 (constant)                # its decay factor
"""
ADAPTATION = """
a : 1                               # adaptation
rho : 1 (constant)                  # its decay factor
b : {volt} (constant, shared)       # what one unit of it adds to the threshold
A : {volt}                          # the threshold now
r : 1                               # whether a reset is pending
"""
MEMBRANE = """
R : ohm (constant)                  # volts that an ampere adds in one step, (1 - beta) tau / C
C : farad (constant)                # capacitance
V_rest : volt (constant, shared)
V = V_rest + u : volt               # membrane potential
"""
"""What a membrane in physical units has besides."""

ON_PRE = "I_post += w"
"""What a presynaptic spike does."""

INJECT = "drive = injected(t, i)"
"""A current that changes in time; `injected` is a TimedArray."""


@dataclass(frozen=True)
class Equations:
    """One kind of neuron in Brian2: model, the code of one step, threshold condition (None: it never fires), reset."""

    model: str
    update: str
    threshold: str | None = None
    reset: str = ""


def weight(physical: bool) -> str:
    """What a synapse has."""
    return f"w : {'amp' if physical else '1'}"


def equations(kind: type[Neuron], reset: Reset = "none", refractory: bool = False, physical: bool = False) -> Equations:
    """The equations of `lif_step`, `alif_step` and the readout; the order of operations is theirs too.

    Args:
        kind: LIF, CurrentLIF, ALIF or LeakyReadout.
        reset: how a spike resets. refractory: whether a spike holds the potential for some steps.
        physical: volts and amperes, see `Units`; otherwise both are dimensionless.
    """
    adaptive, spiking = kind is ALIF, kind is not LeakyReadout
    update = ["c = bias + drive", "c = c*int(t_in_timesteps >= lag)", "c = I + c", f"I = 0{'*amp' if physical else ''}"]
    if kind is CurrentLIF:
        update += ["faded = current*alpha", "current = faded + c", "c = current"]
    update += ["x = c*R" if physical else "x = c"]
    if adaptive:
        update += ["raised = a*b", "A = raised + theta", "a = a*rho"]
    elif spiking and reset != "none":
        update += ["r = int(u > theta)"]
    if refractory:
        update += ["held = int(wait > 0)", "wait = clip(wait - 1, 0, hold)"]
    update += ["kept = (1 - r)*u", "leaked = kept*beta"] if reset == "zero" else ["leaked = u*beta"]
    update += ["v = leaked + x"]
    if reset == "subtract":
        update += ["v = v - r*theta"]
    update += ["u = held*u + (1 - held)*v" if refractory else "u = v"]
    if adaptive:
        update += ["r = held*r" if refractory else "r = 0"]
    parts = {COMMON: True, MEMBRANE: physical, SPIKING: spiking, SYNAPSE: kind is CurrentLIF, ADAPTATION: adaptive,
             REFRACTORY: refractory}  # fmt: skip
    units = {"volt": "volt", "amp": "amp"} if physical else {"volt": "1", "amp": "1"}
    model = "".join(part for part, there in parts.items() if there).format(**units)
    if not spiking:
        return Equations(model, "\n".join(update))
    threshold = "u > A" if adaptive else "u > theta"
    after = ["a = a + 1", "r = 1"] if adaptive else []
    if refractory:
        threshold += " and held == 0"
        after += ["wait = hold"]
    return Equations(model, "\n".join(update), threshold, "\n".join(after))


def recognise(update: str, fires: bool) -> tuple[type[Neuron], Reset, bool]:
    """Which kind of neuron, reset and refractoriness the code of one step is, in a group that fires or does not.

    Raises:
        ValueError: it is none of `equations`.
    """
    if not fires and update == equations(LeakyReadout).update:
        return LeakyReadout, "none", False
    for kind, reset, refractory in product((LIF, CurrentLIF, ALIF), get_args(Reset), (False, True)):
        if fires and update == equations(kind, reset, refractory).update:
            return kind, reset, refractory
    if "c*R" in update:
        raise ValueError("read() takes no export in physical units: call to_brian without units")
    raise ValueError(
        "this group was not made by to_brian, or its equations were changed: read() knows only its own export\n"
        + update
    )


def equations_of(neuron: Any, physical: bool = False) -> Equations:
    """The equations of one of our neurons."""
    if type(neuron) is LeakyReadout:
        return equations(LeakyReadout, physical=physical)
    return equations(type(neuron), neuron.reset, neuron.refractory > 1, physical)

"""Plasticity rules on the synapses of a circuit in Brian2: weights change while the circuit runs."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikecredit.circuits import Activity, BrianCircuit
from spikecredit.circuits.balanced import BalancedCircuit
from spikecredit.circuits.equations import ON_PRE
from spikecredit.circuits.objects import brian2
from spikecredit.circuits.reading import read_network
from spikecredit.plasticity.engines.brian import constants, texts, update
from spikecredit.plasticity.equations import EVENTS, Equations
from spikecredit.plasticity.language import statements
from spikecredit.plasticity.plastic import Plastic, signs, whole_steps
from spikecredit.plasticity.rule import Rule
from spikecredit.synapses import Linear

GRID = 2.0**-20
"""A weight of the circuit may differ so much from the layer's: it was rounded, but is the same."""


class PlasticCircuit:
    """A circuit in Brian2 whose synapses change while it runs; made by `attach`.

    Args:
        export: the circuit; its static synapses were replaced.
        plastic: the network and its rules.
        synapses: by layer ("layers.1"), Brian2's Synapses. `w` is the weight that a spike transmits; the rule's
            variables have the rule's names, with "rule_" before a name that neurons or the circuit's weight have.
    """

    def __init__(self, export: BrianCircuit, plastic: Plastic, synapses: dict[str, Any]) -> None:
        self.export, self.plastic, self.synapses = export, plastic, synapses

    def run(self) -> Activity:
        """Run the input from rest, the weights changing; see `BrianCircuit.run`."""
        return self.export.run()

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now, (out, in) float64, by layer, in the network's units."""
        found = {}
        for name, made in self.synapses.items():
            layer: Any = self.plastic.net.get_submodule(name)
            rule = renamed(self.plastic.places[int(name.partition(".")[2])][0], _taken(made.source, made.target))
            strength, sign = (np.array(made.variables[v].get_value()) for v in (rule.weight, "polarity"))
            found[name] = torch.zeros(layer.weight.shape, dtype=torch.float64)
            found[name][made.j[:], made.i[:]] = torch.from_numpy(strength * self.plastic.scale * sign)
        return found

    @torch.no_grad()
    def write(self) -> None:
        """Copy the weights into the layers of the network."""
        for name, w in self.weights().items():
            layer: Any = self.plastic.net.get_submodule(name)
            layer.weight.copy_(w)


def attach(export: BrianCircuit, plastic: Plastic) -> PlasticCircuit:
    """Put rules on the synapses of a circuit: what `plastic(x)` does in torch, the circuit then does in Brian2.

        plastic = Plastic(net, {"layers.1": TripletSTDP()}, scale=0.1)
        circuit = attach(to_brian(net, x), plastic)
        spikes, potentials, output = circuit.run()
        circuit.write()  # the new weights, into net

    The static synapses of a layer are replaced by synapses with the rule's own texts, in the same slots, from every
    neuron to every neuron: a weight of 0 may grow. A spike transmits the weight from before the step; the step's
    plasticity comes last, presynaptic spikes before postsynaptic ones. With the same weights and input, spikes are
    those of torch, and weights differ by rounding only.

    Args:
        export: of the network, one sample, `schedule="same_step"`, `target="numpy"`, not run yet.
        plastic: the network, its rules, scale and whether weights are signed.
    Raises:
        ValueError: another schedule, target or step, several samples, a circuit whose weights are not the layers' own
            (batch normalisation, pools, or other weights since), or a rule that reads an error or a reward.
    """
    if export.target != "numpy":
        raise ValueError("rules are attached to Brian2's objects before the run: write to_brian(..., target='numpy')")
    if export.schedule != "same_step":
        raise ValueError(
            f"under schedule={export.schedule!r} a postsynaptic spike is a step late for its rule: write "
            "to_brian(..., schedule='same_step')"
        )
    if export.samples != 1:
        raise ValueError(
            f"the circuit has {export.samples} samples side by side, each with synapses of its own, but one network "
            "has one set of weights: give to_brian one sample, x[:, :1], or take Plastic in torch, which averages"
        )
    circuit = export.circuit
    if plastic.dt != circuit.dt:
        raise ValueError(
            f"a step of the circuit is {circuit.dt:g} ms and one of Plastic {plastic.dt:g}: write dt={circuit.dt:g}"
        )
    _, places = read_network(plastic.net, circuit.input_shape)
    found: dict[str, tuple[Any, Any, Equations, Tensor]] = {}
    for index, (equations, _) in plastic.places.items():
        name = f"layers.{index}"
        check(equations, name)
        sources = places.get(max((k for k in places if k < index), default=-1), (None,))
        targets = places[min(k for k in places if k > index)]
        if len(sources) != 1 or len(targets) != 1:
            raise ValueError(
                f"{name} joins populations of two kinds of neurons (EINeurons): rules drive one population"
            )
        source = None if sources[0] is None else sources[0].population
        if source is None and export.input is None:
            raise ValueError(
                f"{name} takes spikes, 0 or 1, and got other numbers: put a spiking encoder or neurons before it "
                "(sc.encode.rate(images, steps))"
            )
        found[name] = source, targets[0].population, equations, _weights(export, plastic, index, source, targets[0])
    return PlasticCircuit(export, plastic, {name: _replace(export, plastic, name, *of) for name, of in found.items()})


def _weights(export: BrianCircuit, plastic: Plastic, index: int, source: int | None, target: Any) -> Tensor:
    """The circuit's weights of a layer, (out, in)."""
    circuit, layer = export.circuit, plastic.net.layers[index]
    size, own = (circuit.size(target.population), circuit.size(source)), layer.weight.detach().cpu().double()  # type: ignore[operator, union-attr]
    here = [p for p in circuit.projections if (p.source, p.target) == (source, target.population)]
    made = torch.zeros(size, dtype=torch.float64)
    for p in here:
        made[p.post, p.pre] += p.weight
    if size != own.shape or len(here) > 1 or not torch.allclose(made, own, rtol=0, atol=GRID):
        names = f"{circuit.name(source)} to {circuit.name(target.population)}"
        raise ValueError(
            f"the circuit's weights from {names} are not those of layers.{index} {tuple(own.shape)}: other layers were "
            "folded into them, one weight has several synapses, or the network has changed since. Leave out batch "
            "normalisation, pools and parametrised constraints there, and call to_brian again"
        )
    return made


def _replace(
    export: BrianCircuit, plastic: Plastic, name: str, source: int | None, target: int, equations: Equations, w: Tensor
) -> Any:
    """Plastic synapses in the place of static ones."""
    circuit, ms = export.circuit, brian2().ms
    names = circuit.name(source), circuit.name(target)
    static = export.synapses.get(names)
    level = 0 if source is None else circuit.populations[source].level
    scale, layer = export.scales[target], plastic.net.get_submodule(name)
    assert isinstance(layer, Linear)
    factor = torch.ones(len(w)) if scale is None else scale.amperes.expand(len(w))
    sign = torch.ones_like(w) if plastic.signed else signs(layer).cpu().double()
    title = f"{export.name}_{'_to_'.join(names)}" if static is None else static.name
    if static is not None:
        export.network.remove(static)
    every = torch.arange(w.numel())
    pre, post = every % w.shape[1], every // w.shape[1]
    late = whole_steps(equations.delay, circuit.dt, "the rule's delay") * circuit.dt * ms
    made = synapses(
        export.input if source is None else export.groups[names[0]], export.groups[names[1]], equations,
        pre=pre.numpy(), post=post.numpy(), strength=(w / plastic.scale * sign).flatten().numpy(),
        sign=sign.flatten().numpy(), factor=(plastic.scale * factor.double())[post].numpy(),
        unit="1" if scale is None else "amp", transmit=ON_PRE, bounded=not plastic.signed,
        delays=(0 * ms if static is None else np.ravel(np.asarray(static.pre.delay[:]))[0] * brian2().second, late),
        clock=export.groups[names[1]].clock, name=title,
    )  # fmt: skip
    made.pre.when = export._built.slot(level, "synapses")
    export.network.add(made)
    for part in (made, *made.contained_objects):
        part._network = export.network.id
    export.synapses[names] = made
    return made


def check(equations: Equations, name: str) -> None:
    """Whether a circuit in Brian2 can run a rule.

    Raises:
        ValueError: it reads signals or rewards, or its weight is computed from other variables.
    """
    if equations.signals or equations.blocks["reward"]:
        what = f"the signal {next(iter(equations.signals))!r}" if equations.signals else "a reward"
        raise ValueError(f"{name}: the rule reads {what}, which a circuit in Brian2 does not deliver: take Plastic")
    if equations.weight not in equations.variables:
        raise ValueError(
            f"{name}: the weight {equations.weight!r} is computed from other variables, so that a trained weight is "
            "no start: take a rule whose weight is a variable"
        )


def synapses(
    source: Any,
    target: Any,
    equations: Equations,
    *,
    pre: np.ndarray,
    post: np.ndarray,
    strength: np.ndarray,
    sign: np.ndarray,
    factor: np.ndarray,
    unit: str,
    transmit: str,
    bounded: bool,
    delays: tuple[Any, Any],
    clock: Any,
    name: str,
) -> Any:
    """Brian2 Synapses under a rule: a spike transmits `w`, and after each step w = polarity factor (the rule's weight).

    Args:
        pre, post: the neurons of each synapse. strength: the rule's weight at the start. sign: the polarity. factor:
            see above, in SI units. One number for each synapse.
        unit: of w, as Brian2 writes it. transmit: what a presynaptic spike does with `w`.
        bounded: whether the rule's weight stays at or above 0.
        delays: of transmission, and of the presynaptic spike in the rule.
    """
    rule = renamed(equations, _taken(source, target))
    w = rule.weight
    # What transmission or the last line reads between events cannot wait for its next event; nor can, in Brian2, what
    # grows without decay.
    clocked = frozenset(n for n, (a, _) in rule.exact.items() if a == 0 or n == w)
    written = texts(rule, clocked)
    model = f"{written['model']}\nw : {unit}\npolarity : 1 (constant)\nfactor : {unit} (constant)"
    on_pre, delay = {"pre": transmit}, {"pre": delays[0]}
    if written["on_pre"]:
        on_pre["learn"], delay["learn"] = written["on_pre"], delays[1]
    made = brian2().Synapses(
        source, target, model, on_pre=on_pre, on_post={"post": written["on_post"]} if written["on_post"] else None,
        delay=delay, method=update(rule, clocked), namespace=constants(rule), clock=clock, name=name,
    )  # fmt: skip
    made.connect(i=pre, j=post)
    for variable, value in {**rule.initial(), w: strength, "polarity": sign, "factor": factor}.items():
        made.variables[variable].set_value(value)
    made.variables["w"].set_value(strength * factor * sign)
    if "lastupdate" in made.variables:  # the first step is a step for all variables, as in torch
        made.variables["lastupdate"].set_value(-float(clock.dt))
    keep = f"{w} = clip({w}, 0, inf)\n" if bounded else ""
    made.run_regularly(
        f"{keep}w = {w}*factor*polarity", clock=clock, when="synapses", order=2, name=f"{name}_transmitted"
    )
    return made


def _taken(source: Any, target: Any) -> set[str]:
    """Names that a rule's synapses between two groups cannot have."""
    return {*source.variables, *target.variables, "w", "polarity", "factor", "lastupdate", "delay"}


def renamed(equations: Equations, taken: set[str]) -> Equations:
    """A rule with "rule_" before its weight and before every name that is taken: in Brian2 a name of the postsynaptic
    neuron would come before a parameter of the same name."""
    local = {s.target for event in EVENTS for s in statements(getattr(equations, f"on_{event}"))}
    names = {*equations.lines, *equations.parameters, *local}
    new = {}
    for name in sorted(names & (taken | {equations.weight})):
        new[name] = f"rule_{name}"
        while new[name] in names | taken:
            new[name] = f"rule_{new[name]}"
    any_name = "|".join(map(re.escape, new))

    def text(given: str) -> str:
        given = re.sub(rf"\bd({any_name})/dt", lambda m: f"d{new[m[1]]}/dt", given)
        return re.sub(rf"\b({any_name})\b", lambda m: new[m[1]], given)

    def value(given: float | str) -> float | str:
        return new.get(given, given) if isinstance(given, str) else given

    return replace(
        equations,
        model=text(equations.model), on_pre=text(equations.on_pre), on_post=text(equations.on_post),
        on_reward=text(equations.on_reward),
        parameters={new.get(n, n): v for n, v in equations.parameters.items()},
        start={new.get(n, n): v for n, v in equations.start.items()},
        bounds={new.get(n, n): (value(low), value(high)) for n, (low, high) in equations.bounds.items()},
        weight=new[equations.weight],
    )  # fmt: skip


def balance(circuit: BalancedCircuit, rule: Rule, scale: float) -> Any:
    """Put a rule, such as `InhibitorySTDP`, on a balanced network's inhibitory synapses onto excitatory neurons.

        circuit = sc.circuits.balanced.brunel(excitatory=400, connection=0.25, weight=0.4)
        inhibition = balance(circuit, InhibitorySTDP(rho_0=10.0, eta=0.05), scale=0.4)
        circuit.network.run(1 * second, namespace={})

    The synapses "inhibit" keep those onto inhibitory neurons; those onto excitatory ones become plastic, with the
    weights, the delay and the effect that they have. The rule's weight is the size of the weight, in units of `scale`.

    Args:
        circuit: not run yet. rule: one of spikes at both sides. scale: mV, the weight that is 1 for the rule.
    Returns:
        Brian2's Synapses "inhibit_plastic", in the network; `w` (volts) and the rule's variables.
    Raises:
        ValueError: a scale that is not positive, or a rule that reads what the network does not deliver.
    """
    if not scale > 0:
        raise ValueError(f"scale is the weight in mV that is 1 for the rule, positive, got {scale!r}")
    b2, inhibit, equations = brian2(), circuit.inhibit, rule.equations()
    check(equations, type(rule).__name__)
    clock = inhibit.clock
    whole_steps(equations.delay, float(clock.dt) * 1e3, "the rule's delay")
    pre, post, w = (np.array(v) for v in (inhibit.i[:], inhibit.j[:], inhibit.variables["w"].get_value()))
    to_excitatory = post < len(circuit.excitatory)
    every = np.ravel(np.asarray(inhibit.pre.delay[:]))[0]
    volts = scale * 1e-3
    made = synapses(
        circuit.neurons, circuit.neurons, equations, pre=pre[to_excitatory], post=post[to_excitatory],
        strength=np.abs(w[to_excitatory]) / volts, sign=np.full(int(to_excitatory.sum()), -1.0),
        factor=np.full(int(to_excitatory.sum()), volts), unit="volt", transmit=inhibit.pre.code, bounded=True,
        delays=(every * b2.second, equations.delay * b2.ms), clock=clock, name="inhibit_plastic",
    )  # fmt: skip
    inhibit.variables["w"].set_value(np.where(to_excitatory, 0.0, w))
    circuit.network.add(made)
    for part in (made, *made.contained_objects):
        part._network = circuit.network.id
    return made

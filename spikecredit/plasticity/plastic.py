"""Plasticity rules at work in a spiking network: weights change while it runs."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from spikecredit.network import Network, stream_layers
from spikecredit.neurons.spiking import SpikingNeuron
from spikecredit.plasticity.engines.batched import Batch
from spikecredit.plasticity.equations import Equations
from spikecredit.plasticity.language import nearest
from spikecredit.plasticity.rule import Rule
from spikecredit.synapses import Flatten, Linear


@dataclass(frozen=True)
class ErrorSTDP(Rule):
    """Pairs of spikes leave an eligibility; an error that arrives at the neuron, at once or late, makes it a change.

        at a presynaptic spike:    c <- c - A- y(t),  then x <- x + 1
        at a postsynaptic spike:   c <- c + A+ x(t),  then y <- y + 1
        dc/dt = -c / tau_c,    dw/dt = -eta c error

    The window (A+, A-, tau+, tau-) is that of a region; with A- = 0 the eligibility counts causal pairs. It is the
    dopamine rule of Izhikevich 2007 with a signed error for each neuron in the place of one reward for all.

    Args:
        A_plus, A_minus: amplitudes of the window; either may be negative (the striatum's window is reversed).
        tau_plus, tau_minus, tau_c: ms. eta: Hz.
    """

    A_plus: float = 1.0
    A_minus: float = 0.0
    tau_plus: float = 16.8
    tau_minus: float = 33.7
    tau_c: float = 50.0
    eta: float = 1.0

    UNITS: ClassVar[Mapping[str, str]] = {"tau_plus": "ms", "tau_minus": "ms", "tau_c": "ms", "eta": "Hz"}

    def equations(self) -> Equations:
        return Equations(
            model="""
            dx/dt = -x/tau_plus : 1
            dy/dt = -y/tau_minus : 1
            dc/dt = -c/tau_c : 1
            dw/dt = -eta*c*error : 1
            """,
            on_pre="""
            c -= A_minus*y
            x += 1
            """,
            on_post="""
            c += A_plus*x
            y += 1
            """,
            parameters=self.constants(),
            signals={"error": ("1", "post")},
            method="euler",
        )


@dataclass(frozen=True)
class DeltaRule(Rule):
    """dw/dt = -eta x error, x the trace of presynaptic spikes: for neurons that do not spike, such as a readout.

    Args:
        tau_x: ms. eta: Hz.
    Source: Widrow & Hoff 1960, with a trace for the input.
    """

    tau_x: float = 20.0
    eta: float = 1.0

    UNITS: ClassVar[Mapping[str, str]] = {"tau_x": "ms", "eta": "Hz"}

    def equations(self) -> Equations:
        return Equations(
            "dx/dt = -x/tau_x : 1\ndw/dt = -eta*x*error : 1", "x += 1", parameters=self.constants(),
            signals={"error": ("1", "post")}, method="euler",
        )  # fmt: skip


class Plastic:
    """Dense layers of a spiking network under plasticity rules, while the network runs.

        Plastic(net, {"layers.1": TripletSTDP.preset("visual_cortex_nearest"), "layers.3": DeltaRule()})(x, labels)

    At every step the network computes its spikes with the weights as they are; then each rule sees the spikes that came
    in and those that its neurons sent, and moves the weights. The samples of a batch pass the same synapses: what each
    would change is averaged. Gradients play no part.

    The rule's weight is |W| / scale: potentiation makes a synapse stronger and depression weaker, whatever its sign,
    and none crosses zero, so that Dale's law stays kept. With `signed=True` it is W / scale, which may cross it.

    A rule with the signal "error" gets the error e = softmax(output) - onehot(label) of every step, `delay` ms late. It
    comes to a hidden layer by the network's pathways, e B for each layer above, so not by transported weights unless
    the pathway is backprop; without the slope of neurons in between, which no synapse knows.

    Args:
        net: its layers stand in a row; a layer that learns is a `Linear`, its neurons the next layer of neurons.
        rules: names of layers (`layers.1`) to rules.
        dt: ms that one step of the network stands for.
        scale: the weight that is 1 for the rule.
        signed: see above.
        delay: ms that the error is late.
    Raises:
        ValueError: a name that is no dense layer or one that reads no spikes, a rule that needs postsynaptic spikes at
            a layer whose neurons send none, or one that reads a signal that a network does not have.
    """

    def __init__(
        self,
        net: Network,
        rules: Mapping[str, Rule],
        dt: float = 1.0,
        scale: float = 1.0,
        signed: bool = False,
        delay: float = 0.0,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"scale is the weight that is 1 for the rule, positive, got {scale!r}")
        self.net, self.dt, self.scale, self.signed = net, dt, scale, signed
        self.delay = whole_steps(delay, dt, "delay")
        dense = [f"layers.{k}" for k, layer in enumerate(net.layers) if isinstance(layer, Linear)]
        self.places: dict[int, tuple[Equations, int | None]] = {}
        for name, rule in rules.items():
            if name not in dense:
                raise ValueError(
                    f"{name!r} is no dense layer in the network's row{nearest(name, dense)} (there are "
                    f"{', '.join(dense) or 'none'}): rules drive Linear layers"
                )
            index, equations = int(name.partition(".")[2]), rule.equations()
            below = next((b for b in reversed(net.layers[:index]) if not isinstance(b, Flatten)), None)
            if below is not None and not isinstance(below, SpikingNeuron):
                raise ValueError(
                    f"{name} reads {type(below).__name__}, whose output is no spikes: rules drive layers that read "
                    "spiking neurons, or the network's input"
                )
            after = next((k for k in range(index + 1, len(net.layers)) if not _passes(net.layers[k])), None)
            spiking = after is not None and isinstance(net.layers[after], SpikingNeuron)
            if not spiking and equations.blocks["post"]:
                raise ValueError(
                    f"{name}: {type(rule).__name__} reads postsynaptic spikes, but the neurons of this layer send "
                    "none: give it a rule of presynaptic spikes and an error, such as DeltaRule(), or put sc.LIF() "
                    "behind it"
                )
            for signal, (unit, place) in equations.signals.items():
                if (signal, place) != ("error", "post"):
                    raise ValueError(
                        f"{name}: {type(rule).__name__} reads the signal {signal!r} ({unit}), which a network does not "
                        "deliver: it has 'error' at the postsynaptic neurons"
                    )
            self.places[index] = (equations, after if spiking else None)

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor | None = None, reward: Tensor | None = None) -> Tensor:
        """Run a sequence from rest, the weights changing: x (T, B, *in) -> (T, B, *out).

        Args:
            labels: (B,), for rules that read the error.
            reward: which samples are rewarded at which step, bool, (T, B), for rules with `on_reward`.
        Raises:
            ValueError: no labels for a rule that reads the error, or input to a plastic layer that is not 0 or 1.
        """
        steps, copies = x.shape[:2]
        if labels is None and any("error" in e.signals for e, _ in self.places.values()):
            raise ValueError("a rule reads the error: give the labels, plastic(x, labels)")
        silent = not any(isinstance(layer, SpikingNeuron) for layer in self.net.layers[: min(self.places, default=0)])
        if self.places and silent and not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(
                "a plastic layer takes spikes, 0 or 1, and got other numbers: put a spiking encoder or neurons before "
                "it (sc.encode.rate(images, steps))"
            )
        sites = {index: _Site(self, index, copies) for index in self.places}
        states: list[Any] = [None] * len(self.net.layers)
        late: deque[Tensor] = deque()
        outputs = []
        for t in range(steps):
            now, seen = x[t : t + 1], []
            for k, layer in enumerate(self.net.layers):
                seen.append(now)
                now, states[k : k + 1] = stream_layers([layer], now, states[k : k + 1])
            seen.append(now)
            outputs.append(now)
            errors: dict[int, Tensor] = {}
            if labels is not None:
                late.append(self.error(now[0], labels))
                if len(late) > self.delay:
                    errors = self.delivered(late.popleft())
            for index, site in sites.items():
                post = self.places[index][1]
                site.step(
                    seen[index][0],
                    None if post is None else seen[post + 1][0],
                    errors.get(index),
                    None if reward is None else reward[t],
                )
        return torch.cat(outputs)

    @staticmethod
    def error(output: Tensor, labels: Tensor) -> Tensor:
        """softmax(output) - onehot(label), (B, n_out)."""
        return torch.softmax(output, -1) - torch.nn.functional.one_hot(labels, output.shape[-1]).to(output.dtype)

    def delivered(self, error: Tensor) -> dict[int, Tensor]:
        """The error at the neurons behind each dense layer, (B, n), by the pathways of the layers above."""
        found: dict[int, Tensor] = {}
        for k in reversed(range(len(self.net.layers))):
            layer = self.net.layers[k]
            if isinstance(layer, Linear):
                found[k] = error
                error = error @ layer.pathway.feedback(layer)
        return found


class _Site:
    """One layer under its rule, during one run."""

    def __init__(self, plastic: Plastic, index: int, copies: int) -> None:
        layer = plastic.net.layers[index]
        assert isinstance(layer, Linear)
        self.layer, self.plastic = layer, plastic
        equations, _ = plastic.places[index]
        weight = layer.weight
        self.batch = Batch(
            equations, copies, weight.shape[0], weight.shape[1], plastic.dt, weight.dtype, weight.device, shared=True
        )  # fmt: skip
        self.sign = signs(layer)
        start = weight / plastic.scale if plastic.signed else weight.abs() / plastic.scale
        self.state = self.batch.start({equations.weight: start})
        self.waiting: deque[Tensor] = deque()
        self.delay = whole_steps(equations.delay, plastic.dt, "the rule's delay")

    def step(self, pre: Tensor, post: Tensor | None, error: Tensor | None, reward: Tensor | None) -> None:
        """The rule's own step, and the new weights into the layer."""
        self.waiting.append(pre != 0)
        arrived = self.waiting.popleft() if len(self.waiting) > self.delay else None
        signals = {}
        if "error" in self.batch.equations.signals:
            e = pre.new_zeros(len(pre), self.batch.size[1]) if error is None else error
            signals["error"] = e[:, :, None]
        self.batch.step(self.state, arrived, None if post is None else post != 0, reward, signals)
        weight = self.state[self.batch.equations.weight]
        if not self.plastic.signed:
            weight.clamp_(min=0)  # a magnitude
        self.layer.weight.copy_(weight[0] * self.plastic.scale * (1.0 if self.plastic.signed else self.sign))


def signs(layer: Linear) -> Tensor:
    """1 or -1 for each weight. One that is 0 has the sign that the layer's constraint gives it, or that of -0.0, which
    a weight keeps when a rule brings it to 0."""
    sign = torch.where(torch.signbit(layer.weight), -1.0, 1.0).to(layer.weight)
    for held in (layer.presynaptic_sign, layer.frozen_sign):
        if held is not None:
            sign = torch.where((layer.weight == 0) & (held != 0), held.to(sign), sign)
    return sign


def whole_steps(ms: float, dt: float, what: str) -> int:
    """A time as a number of steps.

    Raises:
        ValueError: it is negative, or between two steps.
    """
    steps = round(ms / dt)
    if ms < 0 or abs(steps * dt - ms) > 1e-9:
        raise ValueError(f"{what} is a whole number of steps of {dt:g} ms, not negative, got {ms!r} ms")
    return steps


def _passes(layer: Any) -> bool:
    """Whether spikes of the neurons behind a layer are still those of the layer's own units."""
    return not hasattr(layer, "stream") and not isinstance(layer, Linear)

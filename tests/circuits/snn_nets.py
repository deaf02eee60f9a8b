"""Random models of snnTorch for the tests of exchange, as an nn.Sequential and as the tutorials' loops."""

from typing import Any

import snntorch as snn
import torch
from hypothesis import strategies as st
from snntorch import surrogate
from torch import Tensor, nn

CLASSES = {
    "fast_sigmoid": surrogate.FastSigmoid,
    "atan": surrogate.ATan,
    "sigmoid": surrogate.Sigmoid,
    "straight_through_estimator": surrogate.StraightThroughEstimator,
}
RECURRENT = (snn.RLeaky, snn.RSynaptic)


def in_double(model: nn.Module, name: str, *values: float) -> None:
    """Let snnTorch's surrogates, whose spikes are always float32, give spikes in the dtype of the potential."""
    base = CLASSES[name]

    class Typed(base):  # type: ignore[misc, valid-type]
        @staticmethod
        def forward(ctx: Any, v: Tensor, *others: float) -> Tensor:
            return base.forward(ctx, v, *others).to(v.dtype)

    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.spike_grad = lambda v: Typed.apply(v, *values)


def on_grid(model: nn.Module, bits: int = 7) -> nn.Module:
    """Weights at multiples of 2^-bits: sums of a layer are exact, in whatever order a matrix product takes them."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("weight", "bias")):
                parameter.mul_(2**bits).round_().div_(2**bits)
    return model


def grid_input(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randint(0, 96, shape).to(dtype) / 16


class Tutorial(nn.Module):
    """fc0, lif0, fc1, lif1, ... and a loop over time, as snnTorch's tutorial 5 is written; x is (T, B, *in)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.order = []
        for index, layer in enumerate(layers):
            self.order.append(f"{'lif' if isinstance(layer, snn.SpikingNeuron) else 'fc'}{index}")
            setattr(self, self.order[-1], layer)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states: dict[str, Any] = {}
        for name in self.order:
            if name.startswith("lif"):
                state = getattr(self, name).reset_mem()
                states[name] = state if isinstance(state, tuple) else (state,)
        spikes, potentials = [], []
        for t in range(len(x)):
            now = x[t]
            for name in self.order:
                layer = getattr(self, name)
                if name not in states:
                    now = layer(now)
                    continue
                out = layer(now, *states[name])
                states[name] = out if isinstance(layer, RECURRENT) else out[1:]
                now = out[0]
            spikes.append(now)
            potentials.append(states[self.order[-1]][-1])
        return torch.stack(spikes), torch.stack(potentials)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A random model: its layers' options, with sizes, dtype and seed."""
    kind = draw(st.sampled_from(["Leaky", "Synaptic", "RLeaky", "RSynaptic", "one-to-one"]))
    reset = draw(st.sampled_from(["subtract", "zero", "none"]))
    late = draw(st.booleans()) or reset == "subtract" or kind == "RSynaptic"
    return {
        "kind": kind,
        "reset": reset,
        "reset_delay": late,
        "surrogate": draw(st.sampled_from(sorted(CLASSES))),
        "slope": draw(st.sampled_from([1.0, 2.0, 5.0])),
        "beta": draw(st.sampled_from(["one", "vector"])),
        "value": draw(st.floats(0.0, 1.0, width=32)),
        "learn": draw(st.booleans()),
        "threshold": draw(st.sampled_from([0.5, 0.7, 1.0, 1.9])),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
        "tutorial": draw(st.booleans()),
        "seed": draw(st.integers(0, 10**6)),
    }


def gradient_of(case: dict[str, Any]) -> tuple[Any, tuple[float, ...]]:
    values = () if case["surrogate"].startswith("straight") else (case["slope"],)
    return getattr(surrogate, case["surrogate"])(*values), values


def neuron(case: dict[str, Any], units: int, last: bool) -> nn.Module:
    hidden = not case["tutorial"]
    options: dict[str, Any] = {
        "reset_mechanism": case["reset"], "reset_delay": case["reset_delay"], "threshold": case["threshold"],
        "spike_grad": gradient_of(case)[0], "learn_beta": case["learn"], "init_hidden": hidden,
        "output": hidden and last,
    }  # fmt: skip
    options["beta"] = torch.rand(units) if case["beta"] == "vector" else case["value"]
    if case["kind"].endswith("Synaptic"):
        options |= {"alpha": torch.rand(units) if case["beta"] == "vector" else 0.8, "learn_alpha": case["learn"]}
    if case["kind"] == "one-to-one":
        v = torch.randint(-8, 8, (units,)) / 8
        return snn.RLeaky(V=v, all_to_all=False, learn_recurrent=False, **options)
    if case["kind"].startswith("R"):
        options["linear_features"] = units
    return getattr(snn, case["kind"])(**options)


def model_of(case: dict[str, Any], inputs: int = 6, hidden: int = 7, outputs: int = 4) -> nn.Module:
    torch.manual_seed(case["seed"])
    layers = [
        nn.Linear(inputs, hidden), neuron(case, hidden, False),
        nn.Linear(hidden, outputs, bias=False), neuron(case, outputs, True),
    ]  # fmt: skip
    model = Tutorial(*layers) if case["tutorial"] else nn.Sequential(*layers)
    return on_grid(model)


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and potentials of the last neurons, (T, B, N)."""
    if isinstance(model, Tutorial):
        return model(x)
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):
            module.reset_mem()
    outputs = [model(step) for step in x]
    return torch.stack([out[0] for out in outputs]), torch.stack([out[-1] for out in outputs])


def distances(model: nn.Module) -> list[float]:
    """Filled while the model runs: the smallest distance to threshold of each call of a surrogate."""
    found: list[float] = []
    for module in model.modules():
        if isinstance(module, snn.SpikingNeuron):

            def watched(v: Tensor, function: Any = module.spike_grad) -> Tensor:
                found.append(float(v.detach().abs().min()))
                return function(v)

            module.spike_grad = watched
    return found

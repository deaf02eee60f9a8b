"""Exchange by NIR: round trips, the equations of the nodes by themselves, and the importers and exporters of others."""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snn_nets import on_grid
from torch import Tensor, nn

import spikecredit as sc
from spikecredit.circuits import from_nir, to_nir
from spikecredit.circuits.layers import AllFlat
from spikecredit.circuits.nir_units import beta_of, dt_over, tau_of
from spikecredit.neurons.decay import Factor

DT = 1e-4


@st.composite
def networks(draw: st.DrawFn) -> sc.Network:
    """A random network that NIR can hold, in float32 or float64."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from([sc.LIF, sc.CurrentLIF]))

    def neurons(units: int) -> nn.Module:
        tau: dict[str, Any] = {"tau": draw(st.floats(0.4, 60.0))}
        if draw(st.booleans()):
            tau = {"tau": 0.4 + 30 * torch.rand(units), "shape": (units,)}
        if kind is sc.CurrentLIF:
            tau["tau_synapse"] = draw(st.floats(0.4, 30.0))
        surrogate = draw(st.sampled_from([sc.FastSigmoid(3.0), sc.ArcTan(1.7), sc.StraightThrough(0.5)]))
        threshold = draw(st.sampled_from([0.3, 0.7, 1.0]))
        detach = draw(st.booleans())
        return kind(threshold=threshold, reset="zero", surrogate=surrogate, detach_reset=detach, **tau)

    layers: list[nn.Module] = [sc.Linear(5, 6, bias=draw(st.booleans())), neurons(6)]
    if draw(st.booleans()):
        layers = [sc.RecurrentLinear(5, 6, neurons(6), recurrent_bias=draw(st.booleans()))]
    end = sc.LeakyReadout(tau=draw(st.floats(0.4, 60.0))) if draw(st.booleans()) else neurons(3)
    net = sc.Network(*layers, nn.Dropout(0.5), sc.Linear(6, 3), end).eval()
    return net.to(draw(st.sampled_from([torch.float32, torch.float64])))


@settings(max_examples=40)
@given(networks())
def test_there_and_back_is_the_same_network(net: sc.Network) -> None:
    file = io.BytesIO()
    nir.write(file, to_nir(net, (5,)))
    graph = nir.read(file)
    back, dtype = from_nir(graph), next(net.parameters()).dtype
    x = 3 * torch.rand(20, 4, 5, dtype=dtype)
    ours, again = net(x), back(x)
    assert torch.equal(ours, again)
    coefficients = torch.randn(ours.shape, dtype=dtype)
    for out in (ours, again):
        (out * coefficients).sum().backward()
    for a, b in zip(weights(net), weights(back), strict=True):
        assert torch.equal(a, b)


def weights(net: nn.Module) -> list[Tensor]:
    return [p.grad for name, p in net.named_parameters() if name.endswith(("weight", "bias"))]


def maps(**options: Any) -> sc.Network:
    """A convolutional network that NIR can hold."""
    lif = {"reset": "zero", "tau": 8.0, **options}
    net = sc.Network(
        sc.Conv2d(1, 4, 3, padding=1, bias=False), sc.AvgPool2d(2, divisor_override=1), sc.LIF(threshold=0.5, **lif),
        sc.Conv2d(4, 3, 3, stride=2, dilation=2), sc.LIF(threshold=0.3, **lif), sc.AvgPool2d(2, stride=1),
        sc.Flatten(), sc.Linear(3 * 1 * 1, 4), sc.LIF(threshold=0.2, **lif),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 0.5)
    return on_grid(net, 5)


def test_maps() -> None:
    torch.manual_seed(3)
    net, x = maps(), torch.rand(10, 2, 1, 16, 16)
    graph = to_nir(net, (1, 16, 16))
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds[:7] == ["Input", "Conv2d", "SumPool2d", "LIF", "Conv2d", "LIF", "AvgPool2d"]
    back = from_nir(graph)
    ours, theirs = x, x
    for layer, other in zip(net.layers, back.layers, strict=True):
        ours, theirs = layer(ours), other(theirs)
        assert torch.equal(ours, theirs)
        if type(layer) is sc.LIF:
            assert 0.02 < float(ours.detach().mean()) < 0.8
    assert [type(layer) for layer in back.layers] == [type(layer) for layer in net.layers]
    assert back.layers[0].bias is None and back.layers[6].dims == 3
    assert from_nir(to_nir(sc.Network(sc.Flatten(2)), (3, 2, 2))).layers[0].dims == 2
    flat = sc.Network(AllFlat(), sc.Linear(4, 2))
    assert from_nir(to_nir(flat, (1, 2, 2))).layers[0].dims == 3


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_nodes_mean_their_equation_in_euler_steps(seed: int, current: bool, each: bool) -> None:
    """R, w_in, tau and v_threshold as they come, against the equations of nir's own documentation in float64."""
    rng = np.random.default_rng(seed)
    n, dt = 6, 1e-3

    def draw(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, n) if each else np.full(n, rng.uniform(low, high))

    tau, tau_syn, r, w_in = draw(2e-3, 2e-2), draw(2e-3, 2e-2), draw(0.5, 30), draw(0.5, 30)
    gain = r * dt / tau * (w_in * dt / tau_syn if current else 1)
    theta, weight = 0.6 * gain, rng.normal(size=(n, 4))
    others = {"r": r, "v_leak": np.zeros(n), "v_threshold": theta}
    node = nir.CubaLIF(tau_mem=tau, tau_syn=tau_syn, w_in=w_in, **others) if current else nir.LIF(tau=tau, **others)
    net = from_nir(nir.NIRGraph.from_list(nir.Linear(weight), node), dt=dt)
    x = rng.uniform(0, 2, (30, 4))
    v, i, spikes, margin = np.zeros(n), np.zeros(n), [], 1.0
    for step in x:
        drive = weight @ step
        if current:
            i = i + dt / tau_syn * (-i + w_in * drive)
            drive = i
        v = v + dt / tau * (-v + r * drive)
        margin = min(margin, float(np.abs(v / theta - 1).min()))
        spikes.append(v > theta)
        v = np.where(spikes[-1], 0.0, v)
    if margin > 1e-9:
        assert torch.equal(net(torch.from_numpy(x)[:, None])[:, 0], torch.from_numpy(np.array(spikes, dtype=float)))


def test_integrators_thresholds_and_neurons_without_leak() -> None:
    x = torch.rand(12, 2, 3, dtype=torch.float64)
    weight, ones = np.random.default_rng(0).normal(size=(2, 3)), np.ones(2)
    readout = nir.LI(tau=0.01 * ones, r=3 * ones, v_leak=0 * ones)
    net = from_nir(nir.NIRGraph.from_list(nir.Affine(weight, ones), readout), dt=1e-3)
    v = torch.zeros(2, 2, dtype=torch.float64)
    for step, out in zip(x, net(x), strict=True):
        v = v + 0.1 * (-v + 3 * (step @ torch.from_numpy(weight).T + 1))
        assert torch.allclose(out, v, atol=1e-12)
    net = from_nir(nir.NIRGraph.from_list(nir.Linear(weight), nir.Threshold(0.25 * ones)))
    assert torch.equal(net(x), (x @ torch.from_numpy(weight).T > 0.25).double())
    for r, theta in ((1000.0, 2.0), (500.0, 1.0)):  # dv/dt = R I
        fire = nir.IF(r=r * ones, v_threshold=theta * ones)
        net = from_nir(nir.NIRGraph.from_list(nir.Linear(np.abs(weight)), fire), dt=1e-3)
        assert net.layers[1].decay() == 1 and net.layers[1].threshold == 2
    leakless = sc.Network(sc.Linear(3, 2), sc.LIF(tau=1e30, reset="zero")).double()
    graph = to_nir(leakless, (3,))
    assert isinstance(graph.nodes["neurons_1"], nir.IF)
    assert torch.equal(from_nir(graph)(x), leakless(x))


@settings(max_examples=200)
@given(st.floats(0.0, 1.0, width=32, exclude_max=True), st.sampled_from([1e-4, 1e-3]))
def test_which_betas_survive(beta: float, dt: float) -> None:
    """From 3/4 on for everybody, from 1/2 on for us; snnTorch's exporter computes the same tau as ours."""
    for dtype in (np.float32, np.float64):
        value = np.array([beta], dtype)
        tau = tau_of(value, dt)
        assert tau.dtype == dtype
        assert abs(float(dt_over(tau, dt)[0]) - float(value[0])) <= 1.5 * np.finfo(dtype).eps
        if beta >= 0.75:
            assert dt_over(tau, dt) == value
        if beta >= 0.5:
            assert beta_of(tau, dt) == value


def test_a_changed_tau_is_believed_and_not_our_metadata() -> None:
    for tau in np.linspace(0.3, 1.0, 50):  # for some of these 1 - dt / tau has too few digits
        net = sc.Network(sc.Linear(2, 3), sc.LIF(tau=tau, reset="zero")).double()
        graph = to_nir(net, (2,))
        if "beta" in graph.nodes["neurons_1"].metadata["spikecredit"]:
            break
    else:
        pytest.fail("every beta survived")
    assert from_nir(graph).layers[1].decay() == net.layers[1].decay()
    graph.nodes["neurons_1"].tau *= 2
    graph.nodes["neurons_1"].r *= 2
    assert from_nir(graph).layers[1].decay() == pytest.approx(1 - (1 - net.layers[1].decay()) / 2)


def test_a_loop_may_be_flat_or_a_graph_of_its_own() -> None:
    net = sc.Network(sc.RecurrentLinear(3, 4, sc.LIF(tau=6.0, reset="zero")))
    graph = to_nir(net, (3,))
    inner = graph.nodes["recurrent_0"]
    nodes = {"in": nir.Input(np.array([3])), "w": graph.nodes["linear_0"], "lif": inner.nodes["lif"],
             "rec": inner.nodes["w_rec"], "out": nir.Output(np.array([4]))}  # fmt: skip
    edges = [("in", "w"), ("w", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "out")]
    flat, x = from_nir(nir.NIRGraph(nodes, edges)), 4 * torch.rand(15, 2, 3)
    assert type(flat.layers[0]) is sc.RecurrentLinear
    assert torch.equal(flat(x), net(x)) and torch.equal(from_nir(graph)(x), net(x))
    assert not torch.equal(sc.Network(net.layers[0].input, net.layers[0].neuron)(x), net(x))


def run(model: nn.Module, x: Tensor) -> Tensor:
    """A module made by nirtorch, step by step: (output, state) from (input, state)."""
    state, outputs = None, []
    for step in x:
        out, state = model(step, state)
        outputs.append(out)
    return torch.stack(outputs)


def dense(kind: Any = sc.LIF, recurrent: bool = False) -> sc.Network:
    torch.manual_seed(0)
    first = [sc.RecurrentLinear(20, 30, kind(tau=9.0, reset="zero"))]
    if not recurrent:
        first = [sc.Linear(20, 30), kind(tau=9.0, reset="zero")]
    return sc.Network(*first, sc.Linear(30, 10), kind(tau=torch.linspace(3, 20, 10), shape=(10,), reset="zero"))


def snntorchs(graph: Any) -> nn.Module:
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        return import_from_nir(graph)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", [sc.LIF, sc.CurrentLIF])
def test_snntorch_runs_our_export_with_the_same_spikes(kind: Any, recurrent: bool) -> None:
    net, x = dense(kind, recurrent), 2 * torch.rand(40, 5, 20)
    out = net(x)
    assert 0.01 < float(out.detach().mean()) < 0.5
    assert torch.equal(run(snntorchs(to_nir(net, (20,))), x), out)


def test_snntorch_runs_our_maps_without_a_batch_as_it_flattens_that_too() -> None:
    torch.manual_seed(3)
    net, x = maps(), torch.rand(10, 1, 16, 16)
    net.layers[1].divisor_override = None  # it has no SumPool2d
    assert 0 < float(net(x[:, None]).detach().mean()) < 1
    assert torch.equal(run(snntorchs(to_nir(net, (1, 16, 16))), x), net(x[:, None])[:, 0])


def snntorch_model(kind: str, **options: Any) -> nn.Sequential:
    """With one beta and one threshold per neuron, as snnTorch 1.0.0 needs them for nir 1.0.8."""
    torch.manual_seed(1)

    def neurons(units: int) -> nn.Module:
        given = {"beta": 0.5 + 0.49 * torch.rand(units), "threshold": torch.full((units,), 0.7), **options}
        if kind.endswith("Synaptic"):
            given["alpha"] = torch.full((units,), 0.8)
        if kind.startswith("R"):
            given["linear_features"] = units
        return getattr(snn, kind)(reset_mechanism="zero", init_hidden=True, **given)

    return nn.Sequential(nn.Linear(8, 12), neurons(12), nn.Linear(12, 5), neurons(5))


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "late"), [("Leaky", True), ("Leaky", False), ("Synaptic", False), ("RLeaky", False), ("RLeaky", None)]
)
def test_an_export_of_snntorch_gives_its_spikes(kind: str, late: bool | None) -> None:
    from snntorch.export_nir import export_to_nir

    model = snntorch_model(kind, reset_delay=bool(late))
    if kind == "RLeaky":
        for layer in (model[1], model[3]):
            nn.init.zeros_(layer.recurrent.bias) if late is None else None
    graph = export_to_nir(model, torch.zeros(1, 8), ignore_dims=[0])
    net, x = from_nir(graph), 3 * torch.rand(30, 4, 8)
    assert type(net.layers[0]) is (sc.RecurrentLinear if kind == "RLeaky" else sc.Linear)
    for layer in model:
        if hasattr(layer, "reset_mem"):
            layer.reset_mem()
    theirs = torch.stack([model(step) for step in x])
    assert 0.01 < float(theirs.detach().mean()) < 0.6
    assert torch.equal(net(x), theirs)
    neuron = net.layers[0].neuron if kind == "RLeaky" else net.layers[1]
    assert torch.equal(neuron.decay(), model[1].beta)


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated:DeprecationWarning")
def test_an_export_of_snntorchs_maps_gives_its_spikes() -> None:
    from snntorch.export_nir import export_to_nir

    def leaky(*shape: int) -> nn.Module:
        given = {"beta": torch.full(shape, 0.8), "threshold": torch.full(shape, 0.3)}
        return snn.Leaky(reset_mechanism="zero", init_hidden=True, **given)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), leaky(4, 10, 10), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 5), leaky(5)
    )
    net, x = (
        from_nir(export_to_nir(model, torch.zeros(1, 1, 12, 12), ignore_dims=[0])),
        2 * torch.rand(20, 3, 1, 12, 12),
    )
    theirs = torch.stack([model(step) for step in x])
    assert theirs.sum() > 0
    assert torch.equal(net(x), theirs)


def absent(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not among our dependencies, and not installed here")


@absent("spikingjelly")
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", [sc.LIF, sc.CurrentLIF])
def test_spikingjelly_runs_our_export_with_the_same_spikes(kind: Any, recurrent: bool) -> None:
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

    net, x = dense(kind, recurrent), 2 * torch.rand(40, 5, 20)
    net.layers[-1] = kind(tau=7.0, reset="zero")  # one beta in a layer
    assert torch.equal(run(import_from_nir(to_nir(net, (20,))), x), net(x))


@absent("spikingjelly")
@pytest.mark.parametrize("decay_input", [True, False])
def test_an_export_of_spikingjelly_gives_its_spikes(decay_input: bool) -> None:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Linear(20, 30), neuron.LIFNode(tau=5.0, decay_input=decay_input, v_threshold=0.25),
        layer.Linear(30, 20), neuron.IFNode(), layer.Linear(20, 10), neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75),
    )  # fmt: skip
    net, x = from_nir(export_to_nir(model, torch.zeros(1, 20))), 4 * torch.rand(40, 5, 20)
    functional.reset_net(model)
    theirs = torch.stack([model(step) for step in x])
    assert theirs.sum() > 0
    assert torch.equal(net(x), theirs)


@pytest.mark.filterwarnings("ignore")  # Norse 1.1 is made with torch.jit.script
@absent("norse")
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", [sc.LIF, sc.CurrentLIF])
def test_norse_runs_our_export_with_the_same_spikes(kind: Any, recurrent: bool) -> None:
    import norse.torch

    net, x = dense(kind, recurrent), 2 * torch.rand(40, 5, 20)
    graph = to_nir(net, (20,), dt=1e-3, unit_resistance=True)
    assert torch.equal(run(norse.torch.from_nir(graph, dt=1e-3), x), net(x))


@pytest.mark.filterwarnings("ignore")  # Norse 1.1 is made with torch.jit.script
@absent("norse")
def test_an_export_of_norse_gives_its_spikes_if_its_dt_is_taken_twice() -> None:
    """Norse 1.1 writes dt tau in the place of tau: the step that belongs to its files is dt^2."""
    from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState, to_nir

    def cell(units: int, rate: float, theta: float) -> nn.Module:
        rates, thetas = torch.full((units,), rate), torch.full((units,), theta)
        return LIFBoxCell(LIFBoxParameters(tau_mem_inv=rates, v_th=thetas, v_leak=torch.zeros(units)))

    torch.manual_seed(0)
    model = SequentialState(nn.Linear(20, 30), cell(30, 100.0, 0.1), nn.Linear(30, 10), cell(10, 200.0, 0.05))
    net, x = from_nir(to_nir(model, torch.zeros(1, 20)), dt=1e-6), 2 * torch.rand(40, 5, 20)
    theirs = run(model, x)
    assert theirs.sum() > 0
    assert torch.equal(net(x), theirs)


OURS = {
    "reset 'subtract'": [sc.LIF()],
    "reset 'none'": [sc.LIF(reset="none")],
    "refractory=2": [sc.LIF(reset="zero", refractory=2)],
    "ALIF": [sc.Linear(2, 2), sc.ALIF()],
    "neurons that NIR has not": [sc.RecurrentLinear(2, 2, sc.ALIF())],
    "MaxPool2d": [sc.MaxPool2d(2)],
    "BatchNorm1d": [sc.Linear(2, 2), sc.BatchNorm1d(2)],
    "no leak": [sc.LeakyReadout(tau=1e30)],
    "not square": [sc.Conv2d(1, 1, (1, 2))],
    "groups": [sc.Conv2d(2, 2, 1, groups=2)],
    "circular": [sc.Conv2d(1, 1, 1, padding_mode="circular")],
    "ceil_mode": [sc.AvgPool2d(2, ceil_mode=True)],
    "divides by 3": [sc.AvgPool2d(2, divisor_override=3)],
}


@pytest.mark.parametrize("words", OURS)
def test_what_nir_has_not_is_refused(words: str) -> None:
    shape = (1, 4, 4) if "2d" in str(OURS[words][0]) else (2,)
    shape = (2, 4, 4) if words == "groups" else shape
    with pytest.raises(ValueError, match=words):
        to_nir(sc.Network(*OURS[words]), shape)


def lif(**changed: Any) -> Any:
    values = {"tau": 0.01, "r": 100.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **changed}
    return nir.LIF(**{key: np.ones(2) * value for key, value in values.items()})


W = nir.Linear(np.eye(2))
TWO = {"i": nir.Input(np.array([2])), "w": W, "lif": lif(), "o": nir.Output(np.array([2]))}
STRAIGHT = [("i", "w"), ("w", "lif"), ("lif", "o")]
THEIRS = {
    "v_leak": lambda: nir.NIRGraph.from_list(W, lif(v_leak=0.5)),
    "v_reset": lambda: nir.NIRGraph.from_list(W, lif(v_reset=0.5)),
    "different v_threshold": lambda: nir.NIRGraph.from_list(W, lif(v_threshold=np.array([1.0, 2.0]))),
    "overshoots": lambda: nir.NIRGraph.from_list(W, lif(tau=5e-5)),
    "Scale": lambda: nir.NIRGraph.from_list(W, nir.Scale(np.ones(2))),
    "Delay": lambda: nir.NIRGraph.from_list(W, nir.Delay(np.ones(2))),
    "CubaLI": lambda: nir.NIRGraph.from_list(
        W, nir.CubaLI(tau_syn=np.ones(2), tau_mem=np.ones(2), r=np.ones(2), v_leak=np.zeros(2))
    ),
    "right after a Linear": lambda: nir.NIRGraph(
        {k: v for k, v in TWO.items() if k != "w"} | {"rec": W},
        [("i", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "o")],
    ),
    "no plain chain at node 'w'": lambda: nir.NIRGraph(TWO, [*STRAIGHT, ("w", "o")]),
    "outside the way": lambda: nir.NIRGraph({**TWO, "other": nir.Linear(np.eye(2))}, STRAIGHT, type_check=False),
    "2 inputs": lambda: nir.NIRGraph({**TWO, "j": nir.Input(np.array([2]))}, [*STRAIGHT, ("j", "w")]),
    "no weights are before it": lambda: nir.NIRGraph.from_list(
        nir.LI(tau=0.01 * np.ones(2), r=np.ones(2), v_leak=np.zeros(2))
    ),
    "no layer": lambda: nir.NIRGraph({k: TWO[k] for k in "io"}, [("i", "o")]),
    "flattens dimensions": lambda: nir.NIRGraph.from_list(
        nir.Flatten({"input": np.array([2, 2, 2])}, start_dim=0, end_dim=1)
    ),
}


@pytest.mark.parametrize("words", THEIRS)
def test_what_we_have_not_is_refused(words: str) -> None:
    assert len(from_nir(nir.NIRGraph(TWO, STRAIGHT)).layers) == 2
    with pytest.raises(ValueError, match=words):
        from_nir(THEIRS[words]())


def test_wrong_arguments() -> None:
    net = sc.Network(sc.Linear(2, 2))
    for dt in (0.0, -1.0):
        with pytest.raises(ValueError, match="time step in s"):
            to_nir(net, (2,), dt=dt)
        with pytest.raises(ValueError, match="time step in s"):
            from_nir(to_nir(net, (2,)), dt=dt)
    with pytest.raises(TypeError, match="got a Network"):
        from_nir(net)
    with pytest.raises(ValueError, match="bfloat16"):
        to_nir(net.bfloat16(), (2,))


def test_files_and_options(tmp_path: Path) -> None:
    net = sc.Network(sc.Linear(2, 4), sc.LIF(reset="zero"), sc.Linear(4, 4), sc.LIF(reset="zero"))
    nir.write(tmp_path / "net.nir", to_nir(net, (2,), unit_resistance=True))
    read = from_nir(str(tmp_path / "net.nir"), pathway=sc.SignSymmetry("fixed"), constraint=sc.Dale(), seed=0)
    assert read.layers[2].feedback_weight is not None and read.violations() == 0
    graph = nir.read(tmp_path / "net.nir")
    assert np.allclose(graph.nodes["neurons_1"].r, 1) and np.all(graph.nodes["neurons_1"].v_threshold < 0.1)
    assert from_nir(graph).layers[1].threshold == pytest.approx(1)
    graph.nodes["neurons_1"].metadata = {}
    assert from_nir(graph, surrogate=sc.ArcTan(2.5)).layers[1].surrogate == sc.ArcTan(2.5)
    assert from_nir(graph, surrogate=sc.ArcTan(2.5)).layers[3].surrogate == sc.FastSigmoid()
    assert isinstance(read.layers[1].decay, Factor)


def test_a_missing_nir_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"spikecredit\[nir\]"):
        to_nir(sc.Network(sc.Linear(2, 2)), (2,))
    with pytest.raises(ImportError, match=r"spikecredit\[nir\]"):
        from_nir("net.nir")

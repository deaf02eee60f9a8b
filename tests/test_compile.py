"""torch.compile(fullgraph=True): the whole network is one graph, and gives what it gives uncompiled."""

import copy
import functools
import shutil

import pytest
import torch

import spikecredit as sc
from spikecredit import equilibrium as eq
from spikecredit.equilibrium import relax
from spikecredit.neurons.kernels import flat, operator, ops
from spikecredit.neurons.kernels import recurrent as recurrent_kernel

# Dynamo itself makes an instance of an autograd function, and torch warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

SHAPE = (6, 4, 1, 8, 8)


def convolutional(neuron, **options):
    layers = sc.Conv2d(1, 4, 3), sc.BatchNorm2d(4), sc.MaxPool2d(2), neuron, sc.Flatten()
    return sc.Network(*layers, sc.Linear(36, 10), sc.LeakyReadout(5.0), seed=1, **options)


def dense(neuron, **options):
    layers = sc.Flatten(), sc.Linear(64, 30), neuron, sc.Dropout(0.2), sc.Linear(30, 10), sc.LeakyReadout(5.0)
    return sc.Network(*layers, seed=1, **options)


def recurrent(neuron, **options):
    layers = sc.Flatten(), sc.RecurrentLinear(64, 30, neuron), sc.Linear(30, 10), sc.LeakyReadout(5.0)
    return sc.Network(*layers, seed=1, **options)


NETWORKS = {
    "dense": lambda: dense(sc.LIF(5.0)),
    "dense, refractory": lambda: dense(sc.LIF(5.0, refractory=2, detach_reset=False), pathway=sc.FeedbackAlignment()),
    "dense, drawn anew": lambda: dense(sc.CurrentLIF(5.0, learn_tau=True), pathway=sc.SignSymmetry(magnitude="batch")),
    "dense, reparametrised": lambda: dense(sc.LIF(5.0), constraint=sc.Dale(mode="reparametrize")),
    "convolutional": lambda: convolutional(sc.ALIF(5.0), pathway=sc.SignSymmetry(), constraint=sc.Dale()),
    "convolutional, rates": lambda: convolutional(sc.ReLU()),
    "recurrent": lambda: recurrent(sc.LIF(5.0), pathway=sc.FeedbackAlignment()),
    "recurrent, adaptive": lambda: recurrent(sc.ALIF(5.0, learn_tau=True)),
}


def compare(name, constant, backend, tolerance):
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = NETWORKS[name]()
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    x = 2 * torch.rand(SHAPE)
    x = x[:1].expand(SHAPE) if constant else x
    for _ in range(2):  # the second time with other draws
        outputs = net(x), compiled(x)
        torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)
        for out in outputs:
            out.mean(0).square().sum().backward()
    scale = max(float(p.grad.abs().max()) for p in net.parameters())  # a bias before a normalisation has none
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert float((p.grad - q.grad).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_one_graph(name, constant):
    compare(name, constant, "aot_eager", 1e-5)


@pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch deprecates
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's own compiler for the CPU needs g++")
def test_with_the_compiler():
    compare("convolutional", True, "inductor", 1e-4)


def test_a_kernels_operator_has_another_name_when_its_results_may_be_others(monkeypatch):
    # a compiler finds its programs of an older version on disk, by the operators' names
    found = operator.version(ops._spiking)
    assert hasattr(torch.ops.spikecredit, f"spiking_{found}")
    assert hasattr(torch.ops.spikecredit, f"spiking_{found}_backward")
    assert operator.version(recurrent_kernel._recurrent) != found
    text = operator.text_of
    for changed in (ops, flat, operator):
        with monkeypatch.context() as patch:
            patch.setattr(operator, "text_of", lambda m, changed=changed: text(m) + b"#" * (m is changed))
            assert operator.version(ops._spiking) != found
    assert operator.version(ops._spiking) == found


RELAXING = {
    "dense": lambda: (sc.Flatten(), sc.Linear(64, 30), sc.HardSigmoid(), sc.Linear(30, 10), sc.Identity()),
    "convolutional": lambda: (
        sc.Conv2d(1, 4, 3), sc.MaxPool2d(2), sc.HardSigmoid(), sc.Conv2d(4, 6, 3), sc.AvgPool2d(1), sc.Logistic(),
        sc.Flatten(), sc.Linear(6, 10), sc.Identity(),
    ),
}  # fmt: skip


def relaxed(name, monkeypatch, backend, apart, **options):
    torch.manual_seed(0)
    torch._dynamo.reset()
    relax._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    net = sc.Network(*RELAXING[name](), seed=1).double()
    lengths = {"free": 19, "nudged": 10}  # whole blocks and the rest of one
    for _ in range(2):  # the second time with other weights and another input
        x, y = torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.randint(10, (5,))
        cost = eq.CrossEntropy() if name == "dense" else eq.SquaredError()
        (found, compiled), (wanted, plain) = (
            eq.gradient(net, x, y, cost, relaxation=eq.Sweeps(**lengths, **options, compile=mode))
            for mode in ("default", None)
        )
        for a, b in zip(compiled.activities, plain.activities, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=apart)
        for key in wanted:
            for a, b in zip(found[key], wanted[key], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=10 * apart)
        with torch.no_grad():
            net.layers[-2].weight.mul_(1.5)


@pytest.mark.parametrize("options", [{}, {"order": "euler", "tolerance": 1e-3}], ids=["checkerboard", "euler"])
@pytest.mark.parametrize("name", RELAXING)
def test_a_relaxation_is_made_of_graphs(name, options, monkeypatch):
    relaxed(name, monkeypatch, "eager", 0.0, **options)


@pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch deprecates
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's own compiler for the CPU needs g++")
def test_a_relaxation_with_the_compiler(monkeypatch):
    relaxed("dense", monkeypatch, "inductor", 1e-12)


def test_complex_states_relax_uncompiled_and_other_modes_are_refused(monkeypatch):
    net, x = sc.Network(sc.Linear(5, 4), sc.Logistic(), seed=0), torch.rand(3, 5)
    monkeypatch.setattr(relax, "_compiled", lambda mode: pytest.fail("compiled a complex phase"))
    free = eq.settle(net, x)
    phase = free.phase.to(torch.complex64)
    state = [s.to(torch.complex64) for s in free.activities]
    eq.Sweeps(compile="default").run(eq.Hopfield(), phase, 2, state)
    with pytest.raises(ValueError, match="compile is null, 'default' or 'reduce-overhead', got 'fast'"):
        eq.Sweeps(compile="fast")

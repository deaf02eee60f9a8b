"""The weights of direct feedback: when they are made, kept, moved and saved; and what it refuses."""

import copy
import pickle
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from feedback_oracles import relative
from torch import nn
from torch.nn.parameter import UninitializedParameter

import spikecredit as sc
from spikecredit.analysis import angle

DFA, DKP = sc.DirectFeedbackAlignment, sc.DirectKolenPollack
BOTH = [DFA(), DFA(shared=True), DKP()]
LABELS = torch.tensor([0, 1, 2, 3])


def layers(norm=False):
    between = [sc.BatchNorm2d(4), sc.Dropout(0.5)] if norm else []
    return [
        sc.Conv2d(1, 4, 3), *between, sc.LIF(tau=5.0), sc.Conv2d(4, 6, 3), sc.LIF(tau=5.0), sc.AvgPool2d(2),
        sc.Flatten(), sc.Linear(6, 8), sc.LIF(tau=5.0), sc.Linear(8, 4), sc.LeakyReadout(tau=5.0),
    ]  # fmt: skip


def network(pathway, seed=1, **options):
    torch.manual_seed(0)
    return sc.Network(*layers(), pathway=pathway, seed=seed, **options)


X = 3 * torch.rand(7, 4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def gradients(net, x=X, target=None):
    """Of a fresh backward pass, in order."""
    net.zero_grad()
    out = net(x) if target is None else net(x, target=target)
    sc.losses.MeanPotential()(out, LABELS).backward()
    return [p.grad.clone() for p in net.parameters()]


def matrices(net):
    return {k: v for k, v in net.state_dict().items() if k.startswith("broadcast.") and k != "broadcast.seed"}


# ---- made at the first input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pathway", BOTH, ids=repr)
def test_the_weights_are_a_function_of_seed_and_population(pathway):
    """Not of when and by what pass they are made, of other layers' presence, or of torch's generators."""
    first = network(pathway)
    assert matrices(first) == {}
    first(X)
    with torch.no_grad():
        second = network(pathway)
        torch.manual_seed(9)
        second(X[:, :1])
    third = network(pathway)
    third.materialise(X)
    other = sc.Network(*layers(norm=True), pathway=pathway, seed=1)
    other.materialise(X)
    keys = ["shared"] if pathway.shares else ["layers/1", "layers/3", "layers/7"]
    assert list(matrices(first)) == [f"broadcast.{key}" for key in keys]
    for net in (second, third, other):
        assert all(map(torch.equal, matrices(net).values(), matrices(first).values()))
    another = network(pathway, seed=2)
    another.materialise(X)
    assert not any(map(torch.equal, matrices(another).values(), matrices(first).values()))
    if not pathway.shares:
        assert [tuple(m.shape) for m in matrices(first).values()] == [(4, 4, 4, 4), (4, 6, 2, 2), (4, 8)]


def test_materialising_changes_nothing_else():
    torch.manual_seed(0)
    net = sc.Network(*layers(norm=True), pathway=DKP(), seed=1)
    net.layers[4].eval()
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    net.materialise(X)
    assert torch.equal(torch.rand(1), wanted)
    assert [m.training for m in net.modules()] == modes
    after = net.state_dict()
    assert len(after) == len(state) + 3
    assert all(torch.equal(after[k], v) for k, v in state.items())
    kept = {k: v.clone() for k, v in matrices(net).items()}
    net.materialise(X)
    assert all(torch.equal(v, kept[k]) for k, v in matrices(net).items())
    plain = network(None)
    plain.materialise(X)
    assert plain.broadcast is None


def test_inputs_of_another_size_are_refused():
    net = sc.Network(sc.Conv2d(1, 2, 3), sc.LIF(), sc.GlobalAvgPool2d(), sc.Linear(2, 3), pathway=DFA(), seed=0)
    net(torch.rand(2, 2, 1, 6, 6))
    with pytest.raises(ValueError, match=r"layers/1 of shape \(2, 5, 5\): its weights were made for 3 and \(2, 4, 4\)"):
        net(torch.rand(2, 2, 1, 7, 7))
    with torch.no_grad():
        net(torch.rand(2, 2, 1, 7, 7))  # nothing is delivered


@pytest.mark.parametrize("pathway", BOTH, ids=repr)
def test_a_state_is_restored_before_and_after_the_first_input(pathway):
    net, fresh, used = network(pathway), network(pathway, seed=5), network(pathway, seed=6)
    early = copy.deepcopy(net.state_dict())
    wanted = gradients(net)
    gradients(used)
    for other in (fresh, used):
        other.load_state_dict(net.state_dict())
        assert all(map(torch.equal, gradients(other), wanted))
    late = network(pathway, seed=7)  # a state without weights carries the seed that they come from
    late.load_state_dict(early)
    assert all(map(torch.equal, gradients(late), wanted))
    with pytest.raises(RuntimeError, match="Missing key"):
        used.load_state_dict(early)
    assert all(map(torch.equal, gradients(used), wanted))


@pytest.mark.parametrize("pathway", BOTH, ids=repr)
@pytest.mark.parametrize("when", ["before", "after"])
def test_copies_pickles_and_casts(pathway, when):
    net = network(pathway)
    if when == "after":
        net.materialise(X)
    wanted = gradients(copy.deepcopy(net))
    assert net.broadcast.ready == (when == "after")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.to(memory_format=torch.channels_last)):
        assert all(relative(a, b) < 1e-5 for a, b in zip(gradients(other), wanted, strict=True))
    double = copy.deepcopy(network(pathway) if when == "before" else net).double()
    assert all(a.dtype == torch.float64 for a in gradients(double, X.double()))
    assert all(m.dtype == torch.float64 for m in matrices(double).values())
    if when == "after":  # drawn alike, whatever the network was cast to
        early = network(pathway).double()
        early.materialise(X.double())
        assert all(map(torch.equal, matrices(early).values(), matrices(double).values()))


def test_in_channels_last_the_delivery_needs_no_copy():
    late, early = network(DFA()), network(DFA())
    early.materialise(X)
    nets = [net.to(memory_format=torch.channels_last) for net in (late, early)]
    for net in nets:
        gradients(net, X.contiguous())
        matrix = net.broadcast.get_buffer("layers/3")
        assert matrix.is_contiguous(memory_format=torch.channels_last)
        assert not matrix.is_contiguous()
    plain = gradients(network(DFA()))
    assert all(relative(a, b) < 1e-5 for a, b in zip(gradients(nets[0]), plain, strict=True))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_learned_weights_belong_to_an_optimiser_made_before_them(make):
    net = network(DKP())
    held = net.broadcast.get_parameter("layers/3")
    assert isinstance(held, UninitializedParameter)
    optimizer = make(net.parameters(), lr=0.01)
    gradients(net)
    assert net.broadcast.get_parameter("layers/3") is held
    before = held.detach().clone()
    optimizer.step()
    assert (held != before).any()


# ---- precision, compilers, processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pathway", [*BOTH, DFA("sign"), DFA("target")], ids=repr)
def test_bf16_autocast(pathway):
    """Rates, since a spike more or less is a large difference; the delivered error is rounded, nothing else."""
    torch.manual_seed(0)
    net = sc.Network(
        sc.Flatten(), sc.Linear(36, 30), sc.ReLU(), sc.Linear(30, 20), sc.ReLU(), sc.Linear(20, 4), pathway=pathway,
        seed=1,
    )  # fmt: skip
    target = LABELS if net.needs_target else None
    wanted = gradients(net, X, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(net, X, target)
    assert all(f.dtype == torch.float32 for f in found)
    assert all(angle(f, w) < (12 if pathway == DFA("sign") else 3) for f, w in zip(found, wanted, strict=True))
    spiking = network(pathway)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(g.isfinite().all() and g.any() for g in gradients(spiking, X, target))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("pathway", [DFA(), DFA("sign", "sequence", shared=True), DFA("target"), DKP()], ids=repr)
def test_a_network_is_one_graph(pathway):
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = sc.Network(
        sc.Conv2d(1, 4, 3), sc.LIF(tau=5.0),
        sc.architectures.Residual([], [sc.Conv2d(4, 4, 3, padding=1), sc.LIF()], []), sc.Flatten(),
        sc.RecurrentLinear(64, 9), sc.Linear(9, 4), sc.LeakyReadout(), pathway=pathway, seed=1,
    )  # fmt: skip
    net.materialise(X)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    target = LABELS if net.needs_target else None
    wanted = gradients(net, X, target)
    found = gradients(compiled, X, target)
    scale = max(float(w.abs().max()) for w in wanted)
    assert all(float((f - w).abs().max()) < 1e-5 * scale for f, w in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiling_before_the_weights_are_there_is_refused():
    torch._dynamo.reset()
    compiled = torch.compile(network(DFA()), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"call net\.materialise\(x\) before torch\.compile"):
        compiled(X)


@pytest.fixture
def one_process():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    store = torch.distributed.TCPStore("localhost", port, 1, True)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("pathway", [DFA(), DFA("target"), DKP()], ids=repr)
def test_distributed_data_parallel(pathway):
    net = network(pathway)
    target = LABELS if net.needs_target else None
    wanted = gradients(copy.deepcopy(net), X, target)
    if pathway == DKP():  # torch's own check
        with pytest.raises((RuntimeError, ValueError), match="uninitialized"):
            nn.parallel.DistributedDataParallel(net)
        net.materialise(X)
    wrapped = nn.parallel.DistributedDataParallel(net)
    for _ in range(2):
        assert all(map(torch.equal, gradients(wrapped, X, target), wanted))


def test_processes_with_other_seeds_get_the_weights_of_the_first(tmp_path):
    """DistributedDataParallel hands the seed on with the buffers, from which each draws the same B."""
    script = """
        import os, sys, torch, spikecredit as sc
        rank = int(sys.argv[1])
        store = torch.distributed.FileStore(sys.argv[2], 2)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
        net = sc.Network(sc.Linear(3, 4), sc.ReLU(), sc.Linear(4, 2), pathway=sc.DirectFeedbackAlignment(), seed=rank)
        wrapped = torch.nn.parallel.DistributedDataParallel(net)
        wrapped(torch.rand(2, 2, 3)).square().sum().backward()
        torch.save((net.state_dict(), net.layers[0].weight.grad), sys.argv[3])
        torch.distributed.destroy_process_group()
    """
    outputs = [tmp_path / f"{rank}.pt" for rank in range(2)]
    running = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(rank), tmp_path / "store", path])
        for rank, path in enumerate(outputs)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    (first, one), (second, two) = (torch.load(path) for path in outputs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(one, two)


# ---- refusals --------------------------------------------------------------------------------------------------------


def refused(match, *parts, kind=ValueError, pathway=DFA(), **options):
    with pytest.raises(kind, match=match):
        sc.Network(*parts, pathway=pathway, **options)


@pytest.mark.parametrize("pathway", [DFA(), DKP()], ids=repr)
def test_what_direct_feedback_cannot_serve_is_refused_at_construction(pathway):
    a, b, c = sc.Linear(3, 3), sc.Linear(3, 3), sc.Linear(3, 3)
    refused(r"Linear1 reads layers\.Linear0 without neurons between them.*nn\.ReLU is none", a, nn.ReLU(), b)
    refused(r"Linear1 reads layers\.Linear0 without", a, sc.BatchNorm1d(3), sc.Dropout(), b, sc.LIF())
    refused(r"RecurrentLinear0 reads layers\.Linear0 without", a, sc.RecurrentLinear(3, 3), b)
    refused("nothing travels back through the last synapse", a, sc.LIF(), b, last_layer="backprop", pathway=pathway)
    own = sc.Linear(3, 3, pathway=sc.FeedbackAlignment())
    refused(r"Linear0 has a pathway of its own, FeedbackAlignment.*Leave pathway=None", own, sc.LIF(), b)
    refused(r"layers\.2, Linear, would hand errors back by itself", a, sc.LIF(), nn.Linear(3, 3), sc.LIF(), b)
    refused(r"layers\.2, Linear, would hand errors back by itself", a, sc.LIF(), nn.Linear(3, 3))
    inner = sc.Network(sc.Linear(3, 3), sc.LIF(), sc.Linear(3, 3))
    refused(r"layers\.2\.layers\.0, Linear, would hand errors", a, sc.LIF(), inner, sc.LIF(), c)
    neuron = sc.LIF()
    refused("stands at two places.*copy", a, neuron, b, neuron, c)
    refused(
        r"the network ends in RecurrentLinear, which has several: end it with a Linear",
        a,
        sc.LIF(),
        sc.RecurrentLinear(3, 3),
    )
    block = sc.architectures.Residual([], [sc.Linear(3, 3), sc.LIF()], [])
    refused(r"the network ends in Residual", a, sc.LIF(), block)
    with pytest.raises(
        ValueError, match=rf"is no pathway of one layer.*Network\(\.\.\., pathway={type(pathway).__name__}"
    ):
        sc.Linear(3, 3, pathway=pathway)
    with pytest.raises(ValueError, match="is no pathway of one layer"):
        sc.RecurrentLinear(3, 3, pathway=pathway)


class Forgetful(nn.Module):
    """A block that hands no taps on."""

    def __init__(self, says_so):
        super().__init__()
        self.parts = nn.ModuleList([sc.LIF(), sc.Linear(3, 3), sc.LIF()])
        self.takes_taps = says_so

    def bind(self, source, name, wiring):
        return sc.network.bind_all(self.parts, source, name, wiring)

    def forward(self, x, taps=None):
        return self.stream(x)[0]

    def stream(self, x, state=None, taps=None):
        return sc.network.stream_layers(self.parts, x, state)


def test_a_block_must_hand_its_taps_on():
    refused("inside Forgetful, which must hand `taps` on", sc.Linear(3, 3), Forgetful(False), sc.Linear(3, 3))
    net = sc.Network(sc.Linear(3, 3), Forgetful(True), sc.Linear(3, 3), pathway=DFA())
    with pytest.raises(ValueError, match=r"the input of Linear\(3, 3\) asks for a gradient.*hand `taps` on"):
        net(torch.rand(2, 2, 3))
    with torch.no_grad(), pytest.raises(ValueError, match=r"layers/1/parts/0.*sent no output on"):
        net(torch.rand(2, 2, 3))


def test_an_input_that_waits_for_an_error_is_refused():
    net = network(DFA())
    with pytest.raises(ValueError, match=r"Conv2d\(1, 4\) asks for a gradient.*detach the network's input"):
        net(X.clone().requires_grad_())
    with torch.no_grad():
        net(X.clone().requires_grad_())
    after = sc.Network(sc.Linear(3, 3), sc.LIF(), sc.BatchNorm1d(3), sc.Linear(3, 3), pathway=DFA())
    with pytest.raises(ValueError, match="learned layers such as normalisation before them"):
        after(torch.rand(2, 2, 3))


def test_the_target_is_asked_for_where_it_is_delivered_and_nowhere_else():
    net = network(DFA("target"))
    assert net.needs_target
    for run in (net, net.stream):
        with pytest.raises(ValueError, match=r"delivers the target: write net\(x, target=labels\)"):
            run(X)
    with torch.no_grad():
        assert net(X).shape == (7, 4, 4)
    out, _ = net.stream(X, None, LABELS)
    assert torch.equal(out, net(X, target=LABELS))
    for pathway in (DFA(), None, DKP()):
        other = network(pathway)
        assert not other.needs_target
        for run in (other, other.stream):
            with pytest.raises(ValueError, match="target is read by DirectFeedbackAlignment"):
                run(X, target=LABELS)


def test_without_hidden_neurons_there_is_nothing_to_deliver():
    """The last synapse's gradient is the true one; so such a network is backprop's."""
    nets = [sc.Network(sc.Flatten(), sc.Linear(36, 4), sc.LIF(), pathway=p, seed=0) for p in (DFA("target"), None)]
    nets[1].load_state_dict(nets[0].state_dict())
    assert nets[0].broadcast is None
    assert not nets[0].needs_target
    assert all(map(torch.equal, *map(gradients, nets)))
    assert sc.Network(pathway=DFA()).broadcast is None


def test_layers_taken_into_another_network_forget_their_taps():
    net = network(DFA())
    other = sc.Network(*net.layers, seed=1)
    assert other.broadcast is None
    plain = network(None)
    assert all(map(torch.equal, gradients(other), gradients(plain)))

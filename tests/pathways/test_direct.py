"""Direct feedback: what each population receives, by equations written out in NumPy."""

import itertools
import math

import pytest
import torch
from direct_oracles import delivered, dense_gradients, recurrent_gradients, residual_gradients
from feedback_oracles import relative
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.network import stream_layers
from spikecredit.neurons.rate import RateUnit
from spikecredit.pathways import broadcast
from spikecredit.pathways.direct import DirectPathway

DFA, DKP = sc.DirectFeedbackAlignment, sc.DirectKolenPollack
BETA, SLOPE = math.exp(-1 / 10), 5.0
LABELS = torch.tensor([0, 1, 2, 3])
EVERY = [
    DFA(),
    DFA("sign"),
    DFA("target"),
    DFA(when="sequence"),
    DFA("sign", "sequence"),
    DFA(shared=True, scale="nokland", gain=3.0),
    DKP(),
]


class Identity(RateUnit):
    """A linear neuron."""

    def rate(self, x):
        return x + 0


def lif():
    return sc.LIF(tau=10.0, surrogate=sc.FastSigmoid(SLOPE))


def dense(pathway, sizes=(12, 20, 15, 5), seed=3):
    layers = []
    for a, b in itertools.pairwise(sizes[:-1]):
        layers += [sc.Linear(a, b), lif()]
    return sc.Network(*layers, sc.Linear(*sizes[-2:]), sc.LeakyReadout(tau=10.0), pathway=pathway, seed=seed).double()


def residual(pathway):
    block = sc.architectures.Residual([], [sc.Conv2d(3, 3, 3, padding=1), lif()], [])
    layers = sc.Conv2d(2, 3, 3, padding=1), lif(), block, sc.AvgPool2d(2), sc.Flatten(), sc.Linear(12, 5)
    return sc.Network(*layers, sc.LeakyReadout(tau=10.0), pathway=pathway, seed=3).double()


def louder(net):
    """Larger weights, so that deep layers fire."""
    with torch.no_grad():
        for layer in net.synapses().values():
            layer.weight.mul_(3)
    return net


def loss_of(net, x, labels=LABELS):
    out = net(x, target=labels) if net.needs_target else net(x)
    return sc.losses.MeanPotential()(out, labels)


def feedbacks(net):
    """B of every population, (n_out, *N), in order."""
    if not net.pathway.shares:
        return [getattr(net.broadcast, key).detach() for key in net.broadcast.streams]
    taps = {}
    with torch.enable_grad():
        stream_layers(net.layers[: net._last + 1], net.example, None, taps)
    return [net.broadcast.weight(name, tap, torch.empty(1, 1, 5)).detach() for name, tap in taps.items()]


def numpy(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def parameters(net):
    synapses = list(net.synapses().values())
    return [s.weight for s in synapses], [s.bias for s in synapses]


def differences(found, wanted):
    """The largest relative difference; where a layer hands on nothing, the size of what should not be there."""
    pairs = [(f.grad, torch.from_numpy(w)) for f, w in zip(found, wanted, strict=True)]
    return max(relative(f, w) if w.any() else float(f.abs().max()) for f, w in pairs)


def dense_error(net, steps=25, batch=4, spiking=True):
    """Largest relative difference of the network's gradients from the rule."""
    torch.manual_seed(1)
    net.example = x = 2 * torch.rand(steps, batch, net.layers[0].in_features, dtype=torch.float64)
    labels = torch.arange(batch) % 4
    net.zero_grad()
    loss_of(net, x, labels).backward()
    weights, biases = parameters(net)
    g_weights, g_biases, g_feedbacks, spikes = dense_gradients(
        x.numpy(), labels.numpy(), numpy(weights), numpy(biases), numpy(feedbacks(net)), BETA, SLOPE,
        *net.pathway.delivers,
    )  # fmt: skip
    assert min(spikes) > 50 or not spiking
    return differences(
        weights + biases + list(net.broadcast.parameters()),
        g_weights + g_biases + (g_feedbacks if net.pathway.learned else []),
    )


def residual_error(net):
    x = 2 * torch.rand(25, 4, 2, 4, 4, dtype=torch.float64)
    net.zero_grad()
    loss_of(net, x).backward()
    weights, biases = parameters(net)
    convs = list(zip(numpy(weights), numpy(biases), strict=True))
    g_weights, g_biases, spikes = residual_gradients(
        x.numpy(), LABELS.numpy(), convs[:2], convs[2], numpy(feedbacks(net)), BETA, SLOPE
    )
    assert min(spikes) > 50
    return differences(weights + biases, g_weights + g_biases)


# ---- the rule, by hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pathway", EVERY, ids=repr)
def test_a_dense_spiking_network_by_hand(pathway):
    """Two hidden layers, T = 25: every gradient, the last layer's true one, and e with its 1 / (T B)."""
    assert dense_error(dense(pathway)) < 1e-12


def test_a_convolutional_network_with_a_residual_addition_by_hand():
    net = residual(DFA())
    assert residual_error(net) < 1e-12
    for matrix in feedbacks(net):
        assert matrix.shape == (5, 3, 4, 4)
        assert matrix.flatten(2).std(2).min() > 0.1  # no map is constant


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(4, 7), st.integers(1, 6), st.integers(1, 5),
    st.sampled_from(EVERY[:5]),
)  # fmt: skip
def test_any_dense_network_by_hand(hidden, out, steps, batch, pathway):
    net = dense(pathway, (6, *hidden, out))
    assert dense_error(louder(net), steps, batch, spiking=False) < 1e-11


@pytest.mark.parametrize("what", ["permuted", "transposed", "doubled", "last layer", "no factor"])
def test_the_rule_notices(what, monkeypatch):
    """Mutations of the code that the known answers must not survive."""
    backward, unrows, sign = broadcast._Broadcast.backward, broadcast._unrows, torch.Tensor.sign

    def last_layer(ctx, grad):
        found = backward(ctx, grad)
        return 1.01 * grad, *found[1:]

    wrong_rows = {
        "permuted": lambda rows, shape, order: unrows(rows.roll(1, 1), shape, order),
        "doubled": lambda rows, shape, order: unrows(2 * rows, shape, order),
        "transposed": lambda rows, shape, order: unrows(rows, shape, order).transpose(-1, -2),
    }
    net, check = (residual(DFA()), residual_error) if what == "transposed" else (dense(DFA("sign")), dense_error)
    assert check(net) < 1e-12
    if what == "no factor":
        monkeypatch.setattr(torch.Tensor, "sign", lambda q: sign(q) * len(q))
    elif what == "last layer":
        monkeypatch.setattr(broadcast._Broadcast, "backward", staticmethod(last_layer))
    else:
        monkeypatch.setattr(broadcast, "_unrows", wrong_rows[what])
    assert check(net) > 1e-3


def test_the_rule_notices_a_tap_at_the_input_of_the_next_synapse(monkeypatch):
    """With a residual addition the first population would receive e (B1 + B2)."""

    def stream(self, x, state=None, taps=None):
        first = taps["layers/1"]  # what receives an error, not what is seen of it
        stream_layers(self.branch, first.detach(), None, taps)
        total = first + taps.pop("layers/2/branch/1")
        taps["layers/2/branch/1"] = total
        return total.detach(), None

    net = residual(DFA())
    assert residual_error(net) < 1e-12
    monkeypatch.setattr(sc.architectures.Residual, "stream", stream)
    assert residual_error(net) > 1e-2


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("own", [None, sc.Backprop(), sc.FeedbackAlignment()], ids=repr)
def test_along_recurrent_synapses_no_error_travels_but_by_a_pathway_of_their_own(own, backend):
    neuron = sc.LIF(tau=10.0, surrogate=sc.FastSigmoid(SLOPE), backend=backend)
    layer = sc.RecurrentLinear(12, 20, neuron, pathway=own)
    net = sc.Network(layer, sc.Linear(20, 5), sc.LeakyReadout(tau=10.0), pathway=DFA(), seed=0).double()
    x = 2 * torch.rand(25, 4, 12, dtype=torch.float64)
    loss_of(net, x).backward()
    last, v = net.layers[1], layer.recurrent
    back = None if own is None else v.pathway.feedback(v).numpy()
    wanted, spikes = recurrent_gradients(
        x.numpy(), LABELS.numpy(), numpy([layer.input.weight, last.weight]), numpy([layer.input.bias, last.bias]),
        v.weight.detach().numpy(), feedbacks(net)[0].numpy(), BETA, SLOPE, back,
    )  # fmt: skip
    assert spikes > 50
    assert differences([layer.input.weight, v.weight, last.weight], wanted) < 1e-12
    assert layer.input.feedback_weight is None


# ---- other answers known beforehand ----------------------------------------------------------------------------------


def test_with_one_hidden_layer_it_is_feedback_alignment():
    """And backprop with B = W."""
    nets = [dense(pathway, (12, 20, 5)) for pathway in (DFA(), sc.FeedbackAlignment())]
    nets[0].load_state_dict({k: v for k, v in nets[1].state_dict().items() if "feedback" not in k}, strict=False)
    x = 2 * torch.rand(25, 4, 12, dtype=torch.float64)
    nets[0].materialise(x)
    nets[0].broadcast.get_buffer("layers/1").copy_(nets[1].layers[2].feedback_weight)
    for net in nets:
        loss_of(net, x).backward()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert relative(a.grad, b.grad) < 1e-12


def linear_net(pathway, *sizes, seed=0):
    layers = [part for a, b in itertools.pairwise(sizes) for part in (sc.Linear(a, b, bias=False), Identity())]
    return sc.Network(*layers[:-1], pathway=pathway, seed=seed).double()


def test_in_a_linear_network_the_product_of_the_weights_above_gives_backprop():
    nets = [linear_net(pathway, 8, 7, 6, 5) for pathway in (DFA(), None)]
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    nets[0].materialise(x)
    _, second, third = (layer.weight.data for layer in nets[1].synapses().values())
    buffers = {"broadcast.layers/1": third @ second, "broadcast.layers/3": third}
    nets[0].load_state_dict({**nets[0].state_dict(), **nets[1].state_dict(), **buffers})
    for net in nets:
        net(x).square().sum().backward()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        assert relative(a.grad, b.grad) < 1e-12


@pytest.mark.parametrize("pathway", EVERY, ids=repr)
def test_a_batch_repeated_gives_the_same_gradients(pathway):
    """1 / (T B) is in whatever is delivered; and T counts in the sign's and the target's factor."""
    net = dense(pathway)
    x = 2 * torch.rand(10, 4, 12, dtype=torch.float64)
    gradients = []
    for times in (1, 3):
        net.zero_grad()
        loss_of(net, x.repeat(1, times, 1), LABELS.repeat(times)).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(relative(a, b) < 1e-12 for a, b in zip(*gradients, strict=True))


def test_the_target_may_be_vectors():
    net = dense(DFA("target"))
    x = 2 * torch.rand(10, 4, 12, dtype=torch.float64)
    gradients = []
    for target in (LABELS, F.one_hot(LABELS, 5).double(), F.one_hot(LABELS, 5).double() * 2):
        net.zero_grad()
        F.cross_entropy(net(x, target=target).mean(0), LABELS).backward()
        gradients.append(net.layers[0].weight.grad.clone())
    assert torch.equal(gradients[0], gradients[1])
    assert relative(gradients[2], 2 * gradients[0]) < 1e-12
    for wrong in (LABELS.float(), LABELS[:3], F.one_hot(LABELS, 5)):
        with pytest.raises(ValueError, match=r"target is labels \(4,\) or vectors \(4, 5\) of floating-point"):
            net(x, target=wrong)


def test_no_feedback_leaves_hidden_layers_frozen():
    net = dense(DFA())
    x = 2 * torch.rand(10, 4, 12, dtype=torch.float64)
    net.materialise(x)
    for matrix in feedbacks(net):
        matrix.zero_()
    loss_of(net, x).backward()
    first, second, last = net.synapses().values()
    assert not first.weight.grad.any()
    assert not second.weight.grad.any()
    assert last.weight.grad.any()


def test_fixed_feedback_never_changes():
    net = dense(DFA())
    x = 2 * torch.rand(10, 4, 12, dtype=torch.float64)
    net.materialise(x)
    before = [matrix.clone() for matrix in feedbacks(net)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        loss_of(net, x).backward()
        optimizer.step()
    assert all(map(torch.equal, before, feedbacks(net)))


# ---- where the error travels -----------------------------------------------------------------------------------------


def by_autograd(net, x):
    """The gradients by another way: each population's output times what it should receive, layer by layer."""
    taps = {}
    out, _ = stream_layers(net.layers[: net._last + 1], x, None, taps)
    current = out.detach().requires_grad_()
    rest, _ = stream_layers(net.layers[net._last + 1 :], current, None)
    (e,) = torch.autograd.grad(sc.losses.MeanPotential()(rest, LABELS), current)
    q = torch.from_numpy(delivered(e.flatten(2).numpy(), LABELS.numpy(), *net.pathway.delivers))
    total = (out * e).sum()
    for tap, matrix in zip(taps.values(), feedbacks(net), strict=True):
        total = total + (tap.flatten(2) * (q @ matrix.flatten(1))).sum()
    return torch.autograd.grad(total, list(net.parameters()), allow_unused=True)


def membrane_shortcut():
    return sc.ResNet((1, 1), 4, shortcut="membrane").layers((1, 6, 6), 5, lif(), sc.LeakyReadout(tau=10.0))


NETWORKS = {
    "pooled and normalised": lambda: [
        sc.Conv2d(1, 4, 3), sc.AvgPool2d(2), sc.BatchNorm2d(4), lif(), sc.Flatten(), sc.Dropout(0.3), sc.Linear(16, 9),
        sc.BatchNorm1d(9), sc.ALIF(tau=10.0), sc.RecurrentLinear(9, 8, lif()), sc.Linear(8, 5), sc.BatchNorm1d(5),
        lif(),
    ],
    "pooled after the neurons": lambda: [
        sc.Conv2d(1, 4, 3), lif(), sc.MaxPool2d(2), sc.Conv2d(4, 4, 2), sc.CurrentLIF(tau=10.0), sc.Flatten(),
        sc.Linear(4, 5), sc.LeakyReadout(tau=10.0),
    ],
    "rates": lambda: [sc.Flatten(), sc.Linear(36, 9), sc.ReLU(), sc.Linear(9, 8), sc.HardSigmoid(), sc.Linear(8, 5)],
    "convolution last": lambda: [
        sc.Conv2d(1, 4, 3), lif(), sc.Conv2d(4, 5, 3), sc.AvgPool2d(2), sc.Flatten(), sc.LeakyReadout(tau=10.0),
    ],
    "membrane shortcuts": membrane_shortcut,
    "spike shortcuts": lambda: sc.ResNet((1, 1), 4).layers((1, 6, 6), 5, lif(), sc.LeakyReadout(tau=10.0)),
}  # fmt: skip


@pytest.mark.parametrize("pathway", [DFA(), DFA("sign"), DFA("sign", "sequence")], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_between_a_synapse_and_its_neurons_the_error_goes_as_ever(name, pathway):
    """Pooling, normalisation, dropout, additions of currents; the taps are the neurons', e is the last synapse's."""
    net = louder(sc.Network(*NETWORKS[name](), pathway=pathway, seed=1).double())
    x = 2 * torch.rand(9, 4, 1, 6, 6, dtype=torch.float64)
    net.materialise(x)
    masks = [m.noise.state.clone() for m in net.modules() if isinstance(m, sc.Dropout)]
    loss_of(net, x).backward()
    for module in (m for m in net.modules() if isinstance(m, sc.Dropout)):
        module.noise.state.copy_(masks.pop(0))
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    for (label, p), wanted in zip(net.named_parameters(), by_autograd(net, x), strict=True):
        if int(label.split(".")[1]) > net._last:
            continue  # after the last synapse
        assert wanted is not None, label
        assert p.ndim < 2 or p.grad.any(), label
        assert float((p.grad - wanted).abs().max()) < 1e-12 * largest, label


@pytest.mark.parametrize("pathway", EVERY, ids=repr)
@pytest.mark.parametrize("name", ["pooled and normalised", "rates", "rates, then spikes", "spike shortcuts"])
def test_a_constant_input_equals_the_materialised_one(name, pathway):
    """A network of rates computes one step for all; the sign of each step's error is taken all the same."""
    later = [sc.Flatten(), sc.Linear(36, 9), sc.ReLU(), sc.Linear(9, 8), lif(), sc.Linear(8, 5), sc.LeakyReadout()]
    nets = [
        sc.Network(*(later if "then" in name else NETWORKS[name]()), pathway=pathway, seed=1).double() for _ in range(2)
    ]
    image = 2 * torch.rand(4, 1, 6, 6, dtype=torch.float64)
    nets[0].materialise(image[None])
    nets[1].load_state_dict(nets[0].state_dict())
    per_step = torch.linspace(-1, 1, 7, dtype=torch.float64).view(-1, 1, 1)
    for net, x in zip(nets, (image.expand(7, *image.shape), image.repeat(7, 1, 1, 1, 1)), strict=True):
        out = net(x, target=LABELS) if net.needs_target else net(x)
        (F.cross_entropy(out.mean(0), LABELS) + (out * per_step).square().mean()).backward()
    for a, b in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("pathway", [DFA(), DKP()], ids=repr)
def test_streaming_gives_the_gradients_of_the_whole_sequence(pathway):
    layers = (
        sc.Conv2d(1, 4, 3), lif(), sc.architectures.Residual([], [sc.Conv2d(4, 4, 3, padding=1), lif()], []),
        sc.Flatten(), sc.RecurrentLinear(64, 9, lif(), pathway=sc.Backprop()), sc.Linear(9, 5),
        sc.LeakyReadout(tau=9.0),
    )  # fmt: skip
    net = louder(sc.Network(*layers, pathway=pathway, seed=1).double())
    x = 2 * torch.rand(9, 4, 1, 6, 6, dtype=torch.float64)
    loss_of(net, x).backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    state, chunks = None, []
    for part in x.split([2, 3, 4]):
        out, state = net.stream(part, state)
        chunks.append(out)
    sc.losses.MeanPotential()(torch.cat(chunks), LABELS).backward()
    assert all(relative(p.grad, w) < 1e-12 for p, w in zip(net.parameters(), wanted, strict=True))
    with pytest.raises(ValueError, match=r"the state has 1 entries for 7 layers"):
        net.stream(x, [None])


class Products(TorchDispatchMode):
    """Matrix products that read one of these tensors, and convolutions that compute a gradient of their input."""

    def __init__(self, tensors):
        super().__init__()
        self.storages = {t.untyped_storage().data_ptr() for t in tensors}
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "matmul"):
            read = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
            self.found += [name] * bool(read & self.storages)
        elif name == "convolution_backward" and args[-1][0]:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("pathway", "count"), [(DFA(), 0), (DFA("target"), 0), (DKP(), 0), (None, 4)], ids=repr)
def test_no_gradient_of_a_synapses_input_is_computed(pathway, count):
    """The backward pass multiplies with no W; backprop does, in every layer but the first."""
    net = sc.Network(
        sc.Conv2d(1, 4, 3), lif(), sc.Conv2d(4, 4, 3), lif(), sc.Flatten(), sc.Linear(16, 9), lif(), sc.Linear(9, 9),
        lif(), sc.Linear(9, 5), sc.LeakyReadout(), pathway=pathway, seed=1,
    )  # fmt: skip
    loss = loss_of(net, torch.rand(5, 4, 1, 6, 6))
    with Products([layer.weight for layer in net.synapses().values()]) as products:
        loss.backward()
    assert len(products.found) == count
    assert all(p.grad is not None for p in net.parameters())


def test_a_frozen_layer_costs_no_delivery():
    net = dense(DFA())
    net.layers[0].requires_grad_(False)
    x = 2 * torch.rand(5, 4, 12, dtype=torch.float64)
    loss = loss_of(net, x)
    with Products(feedbacks(net)) as products:
        loss.backward()
    assert products.found == ["mm"]
    assert net.layers[2].weight.grad.any()


# ---- direct Kolen-Pollack --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_last_feedback_forgets_its_difference_from_the_last_weight(kind):
    """W_L and B_{L-1} get the same increment, so weight decay shrinks their difference by 1 - eta lambda each step."""
    net = dense(DKP())
    x = 2 * torch.rand(10, 4, 12, dtype=torch.float64)
    make = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
    optimizer = make(net.parameters(), lr=0.1, weight_decay=0.5)  # before the first input: B are there already
    net.materialise(x)
    w, b = net.layers[4].weight, net.broadcast.get_parameter("layers/3")
    before, start = (w - b).detach().clone(), w.detach().clone()
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(net, x).backward()
        assert relative(b.grad, w.grad) < 1e-12
        optimizer.step()
    assert relative(w - b, (1 - 0.1 * 0.5) ** 20 * before) < 1e-11
    assert relative(w, start) > 0.1


def test_learned_feedback_aligns_with_the_forward_path():
    """A linear network 30-20-15-10 on a linear task: B_1 turns towards W_3 W_2, fixed feedback's angle is larger."""
    target = torch.empty(10, 30, dtype=torch.float64).uniform_(-1, 1)
    angles = {}
    for pathway in (DKP(gain=0.1), DFA(gain=0.1)):
        torch.manual_seed(0)
        net = linear_net(pathway, 30, 20, 15, 10)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=1e-3)
        for _ in range(1500):
            x = torch.randn(1, 32, 30, dtype=torch.float64)
            loss = (net(x) - x @ target.T).square().sum(-1).mean() / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _, second, third = (layer.weight for layer in net.synapses().values())
        angles[type(pathway)] = [
            angle(getattr(net.broadcast, "layers/1"), third @ second),
            angle(getattr(net.broadcast, "layers/3"), third),
        ]
        assert loss < 1e-3
    assert max(angles[DKP]) < 32
    assert min(angles[DFA]) > 42


# ---- values and refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_scales(shared):
    """fan_out: N(0, 1/n_out). nokland: U(-1, 1) / sqrt(n), n the population's size, of the largest when shared."""
    for scale, gain in (("fan_out", 1.0), ("nokland", 1.0), ("nokland", 2.0)):
        net = sc.Network(
            sc.Linear(6, 400), sc.LIF(), sc.Linear(400, 900), sc.LIF(), sc.Linear(900, 50),
            pathway=DFA(scale=scale, gain=gain, shared=shared), seed=1,
        )  # fmt: skip
        net.example = torch.rand(2, 2, 6)
        net.materialise(net.example)
        matrices = [
            net.broadcast.weight(f"layers/{index}", torch.empty(1, 1, n), torch.empty(1, 1, 50))
            for index, n in ((1, 400), (3, 900))
        ]
        for matrix, n in zip(matrices, (400, 900), strict=True):
            rms = 1 / math.sqrt(50) if scale == "fan_out" else gain / math.sqrt(3 * (900 if shared else n))
            assert float(matrix.square().mean().sqrt()) == pytest.approx(rms, rel=0.02)
            if scale == "nokland":
                assert matrix.abs().max() == pytest.approx(rms * math.sqrt(3), rel=1e-2)
            else:
                assert matrix.abs().max() > 3.5 * rms
        assert torch.equal(matrices[0], matrices[1][:, :400]) == shared
        assert len([k for k in net.state_dict() if "broadcast" in k]) == (2 if shared else 3)


def test_fan_out_keeps_the_variance_of_the_error():
    e = torch.randn(500, 30)
    drawn = DFA().draw((30, 8, 9, 9), torch.Generator().manual_seed(0))
    assert float((e @ drawn.flatten(1)).std()) == pytest.approx(1, rel=0.05)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="signal must be 'error', 'sign' or 'target', got 'loss'"):
        DFA("loss")
    with pytest.raises(ValueError, match="when must be 'step' or 'sequence', got 'end'"):
        DFA(when="end")
    with pytest.raises(ValueError, match="signal='target' is the same at every step"):
        DFA("target", "sequence")
    for kind in (DFA, DKP):
        with pytest.raises(ValueError, match="scale must be one of 'fan_out', 'nokland', got 'xiao'"):
            kind(scale="xiao")
        with pytest.raises(ValueError, match="gain must be positive"):
            kind(gain=0.0)
    layer = sc.Network(sc.Linear(2, 2), sc.LIF(), sc.Linear(2, 2), pathway=DFA()).layers[0]
    with pytest.raises(TypeError, match=r"found in net\.broadcast"):
        layer.pathway.feedback(layer)
    assert layer.feedback() is None


def test_own_feedback_of_dales_law_gives_each_output_unit_one_sign():
    """The feedback synapse's presynaptic unit is the output unit: its row of B has the sign that unit has."""
    nets = [dense(DFA()), dense(DFA())]
    layers = sc.Linear(12, 20), lif(), sc.Linear(20, 15), lif(), sc.Linear(15, 5), sc.LeakyReadout(tau=10.0)
    own = sc.Network(*layers, pathway=DFA(), constraint=sc.Dale(feedback="own"), seed=3)
    exempt = nets[0]
    for net in (own, exempt):
        net.materialise(torch.zeros(1, 1, 12, dtype=net.layers[0].weight.dtype))
    signs = own.layers[4].postsynaptic_sign
    assert set(signs.flatten().tolist()) == {1, -1}
    for a, b in zip(feedbacks(own), feedbacks(exempt), strict=True):
        assert torch.equal(a, b.float().abs() * signs)
    with pytest.raises(ValueError, match=r"Dale\(.*with DirectKolenPollack.*Take Dale\(feedback='exempt'\)"):
        sc.Network(sc.Linear(2, 2), lif(), sc.Linear(2, 2), pathway=DKP(), constraint=sc.Dale(feedback="own"))
    assert issubclass(DKP, DirectPathway)

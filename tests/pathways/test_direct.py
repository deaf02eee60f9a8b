"""Direct feedback: what each population receives, by equations written out in NumPy."""

import itertools
import math

import pytest
import torch
from direct_networks import (
    BETA,
    DFA,
    DKP,
    EVERY,
    LABELS,
    SLOPE,
    dense,
    differences,
    feedbacks,
    lif,
    loss_of,
    louder,
    numpy,
    parameters,
    residual,
)
from direct_oracles import dense_gradients, residual_gradients
from feedback_oracles import relative
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.network import stream_layers
from spikecredit.neurons.rate import RateUnit
from spikecredit.pathways import broadcast
from spikecredit.pathways.direct import DirectPathway


class Identity(RateUnit):
    """A linear neuron."""

    def rate(self, x):
        return x + 0


def dense_error(net, steps=25, batch=4, spiking=True):
    """Largest relative difference of the network's gradients from the rule."""
    torch.manual_seed(1)
    x = 2 * torch.rand(steps, batch, net.layers[0].in_features, dtype=torch.float64)
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
        net.materialise(torch.rand(2, 2, 6))
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

"""Direct feedback: where the error goes, and where it does not."""

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
)
from direct_oracles import delivered, recurrent_gradients
from feedback_oracles import relative
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import spikecredit as sc
from spikecredit.network import stream_layers


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

"""The container: binding, whole sequences and streams, the constant-input rule, the optimiser's hook."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import spikecredit as sc
from spikecredit.neurons import LIF


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def convolutional(**options):
    layers = (
        sc.Conv2d(2, 6, 3), sc.AvgPool2d(2), sc.BatchNorm2d(6), sc.LIF(tau=8.0), sc.Flatten(),
        sc.Dropout(0.2), sc.Linear(54, 20), sc.BatchNorm1d(20), sc.LIF(tau=8.0), sc.Linear(20, 4),
        sc.LeakyReadout(tau=8.0),
    )  # fmt: skip
    return sc.Network(*layers, seed=options.pop("seed", 5), **options)


PATHWAYS = [None, sc.FeedbackAlignment(), sc.SignSymmetry("batch")]


@pytest.mark.parametrize("pathway", PATHWAYS, ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_a_constant_input_equals_the_materialised_one(pathway, training):
    """The layers before the first neuron see one step; outputs, gradients and running statistics are as for all T."""
    once, every = (convolutional(pathway=pathway).double().train(training) for _ in range(2))
    every.load_state_dict(once.state_dict())
    image = 2 * torch.randn(5, 2, 8, 8, dtype=torch.float64)
    shapes = {}
    for net in (once, every):
        for index, layer in enumerate(net.layers):
            layer.register_forward_pre_hook(
                lambda module, args, key=(net is once, index): shapes.__setitem__(key, args[0].shape[0])
            )
    images = image.clone().requires_grad_(), image.clone().requires_grad_()
    for _ in range(2):
        out, wanted = once(images[0].expand(9, *image.shape)), every(images[1].expand(9, *image.shape).clone())
    assert [shapes[True, i] for i in range(5)] == [1, 1, 1, 1, 9]  # the neuron is told that its input is constant
    assert all(shapes[False, i] == 9 for i in range(5))
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-9)
    for result in (out, wanted):
        sc.losses.MeanPotential()(result, torch.tensor([0, 1, 2, 3, 0])).backward()
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-6, atol=1e-12)
    for a, b in zip(once.parameters(), every.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-12)
    for a, b in zip(once.buffers(), every.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    rates = [layer.rate for layer in sc.analysis.activity(once, images[0].expand(9, *image.shape)).values()]
    assert min(rates) > 0.02


def test_encode_constant_takes_the_shortcut_and_a_cast_does_not():
    net = sc.Network(sc.Linear(3, 4), sc.LIF())
    seen = []
    net.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    net(sc.encode.constant(torch.rand(2, 3), 6))
    net(sc.encode.constant(torch.rand(2, 3), 6).double().float())
    net(torch.rand(2, 3).expand(1, 2, 3))
    assert seen == [1, 6, 1]


def test_a_network_without_memory_still_returns_all_steps():
    net = sc.Network(sc.Linear(3, 4), sc.ReLU())
    out = net(sc.encode.constant(torch.rand(2, 3), 6))
    assert out.shape == (6, 2, 4)
    assert torch.equal(out[0], out[5])


def test_torchs_own_layers_see_time_folded_into_the_batch():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    net = sc.Network(
        sc.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), Spy(), nn.BatchNorm2d(4), sc.LIF(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    x = torch.rand(5, 2, 1, 8, 8)
    out = net.eval()(x)
    assert seen == [(10, 4, 4, 4)]
    assert out.shape == (5, 2, 3)
    current = nn.functional.max_pool2d(net.layers[0](x).flatten(0, 1).relu(), 2)
    wanted = net.layers[7](net.layers[5](net.layers[4](current).unflatten(0, (5, 2))).flatten(2))
    torch.testing.assert_close(out, wanted)
    assert torch.equal(torch.cat(_streamed(net, x, 2)), out)
    assert net(sc.encode.constant(torch.rand(2, 1, 8, 8), 5)).shape == (5, 2, 3)


def _streamed(net, x, *cuts):
    state, chunks = None, []
    for part in x.tensor_split(cuts):
        out, state = net.stream(part, state)
        chunks.append(out)
    return chunks


def test_streaming_equals_the_whole_sequence():
    net = convolutional().double()
    x = 2 * torch.randn(9, 5, 2, 8, 8, dtype=torch.float64)
    for _ in range(20):
        net(x)  # running statistics
    net.eval()
    spikes = sc.analysis.activity(net, x)
    assert all(0.02 < layer.rate < 0.9 for layer in spikes.values())
    for cuts in ((4,), (1, 2, 8), tuple(range(1, 9))):
        torch.testing.assert_close(torch.cat(_streamed(net, x, *cuts)), net(x), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_streaming_does_not_write_to_the_state_it_was_given():
    net = convolutional().eval()
    x = torch.rand(4, 2, 2, 8, 8)
    _, state = net.stream(x)
    kept = copy.deepcopy(state)
    first, _ = net.stream(x, state)
    again, _ = net.stream(x, state)
    assert torch.equal(first, again)
    assert len(state) == len(net.layers)
    assert torch.equal(state[3].u, kept[3].u)
    assert not torch.equal(first, net(x))


def test_mistakes_are_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r"layer 0 is \[.*a list with a star: \*layers"):
        sc.Network([sc.Linear(2, 2)])
    with pytest.raises(ValueError, match="last_layer must be 'same' or 'backprop', got 'bp'"):
        sc.Network(sc.Linear(2, 2), last_layer="bp")
    net = sc.Network(sc.Linear(2, 2), sc.LIF())
    for shape in ((2,), (0, 3, 2)):
        with pytest.raises(ValueError, match=r"takes \(T, B, \*features\) with T >= 1, got"):
            net(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"the state has 1 entries for 2 layers; pass what stream\(\) returned"):
        net.stream(torch.zeros(1, 1, 2), [None])


@pytest.mark.parametrize("inner", [sc.Linear(3, 3), sc.LIF(), sc.Dropout(), sc.RecurrentLinear(3, 3)], ids=repr)
def test_our_layers_inside_a_container_of_torch_are_refused(inner):
    """They would see time folded into the batch, and get backprop and no constraint without a word."""
    with pytest.raises(TypeError, match=r"layer 1, Sequential, hides .*Network\(\*sequential\)"):
        sc.Network(sc.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Sequential(inner)))
    container = nn.Sequential(sc.Linear(3, 3), inner)
    assert sc.Network(*container)(torch.zeros(2, 2, 3)).shape == (2, 2, 3)
    sc.Network(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def test_a_layers_own_choice_goes_before_the_networks():
    own = sc.Linear(4, 4, pathway=sc.FeedbackAlignment(), constraint=sc.Unconstrained())
    norm = sc.BatchNorm1d(4, constraint=sc.Unconstrained())
    net = sc.Network(
        sc.Linear(4, 4), own, norm, sc.Linear(4, 4), sc.BatchNorm1d(4), pathway=sc.SignSymmetry(), constraint=sc.Dale()
    )
    assert [s.pathway for s in net.synapses().values()] == [
        sc.SignSymmetry(),
        sc.FeedbackAlignment(),
        sc.SignSymmetry(),
    ]
    assert own.presynaptic_sign is None
    assert norm.presynaptic_sign is None
    assert net.layers[3].presynaptic_sign is not None
    assert (net.layers[4].presynaptic_sign == 1).all()
    recurrent = sc.RecurrentLinear(4, 4, pathway=sc.FeedbackAlignment())
    sc.Network(recurrent, pathway=sc.SignSymmetry())
    assert recurrent.input.pathway == recurrent.recurrent.pathway == sc.FeedbackAlignment()


def test_the_last_layer_by_backprop():
    def pathways(last, **options):
        layers = sc.Linear(3, 3), sc.LIF(), sc.Linear(3, 3), sc.LIF(), sc.Linear(3, 3, **options), sc.LeakyReadout()
        net = sc.Network(*layers, pathway=sc.FeedbackAlignment(), last_layer=last)
        return [s.pathway for s in net.synapses().values()]

    fa, bp = sc.FeedbackAlignment(), sc.Backprop()
    assert pathways("same") == [fa, fa, fa]
    assert pathways("backprop") == [fa, fa, bp]
    assert pathways("backprop", pathway=sc.SignSymmetry()) == [fa, fa, sc.SignSymmetry()]
    assert sc.Network(sc.LIF(), last_layer="backprop").synapses() == {}


def test_synapses_are_listed_by_name_in_order():
    net = sc.Network(sc.Flatten(), sc.Linear(4, 5), sc.RecurrentLinear(5, 6), sc.Linear(6, 2))
    assert list(net.synapses()) == ["layers.1", "layers.2.input", "layers.2.recurrent", "layers.3"]


def test_seeds_reproduce_everything_but_the_weights_given():
    def state(seed, before):
        torch.manual_seed(before)
        net = convolutional(pathway=sc.FeedbackAlignment(), constraint=sc.Dale(), seed=seed)
        return {k: v for k, v in net.state_dict().items() if "feedback" in k or "sign" in k or "extra" in k}

    a, b, c = state(1, before=0), state(1, before=9), state(2, before=0)
    assert len(a) > 6
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not any(torch.equal(a[k], c[k]) for k in a if "feedback" in k)
    drawn = [sc.Network().seed for _ in range(2)]
    torch.manual_seed(3)
    first = sc.Network().seed
    torch.manual_seed(3)
    assert sc.Network().seed == first
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("constraint", [None, sc.Dale(), sc.Dale(mode="reparametrize", magnitude="exp")], ids=repr)
@pytest.mark.parametrize(
    "pathway", [sc.FeedbackAlignment(), sc.SignSymmetry("fixed"), sc.SignSymmetry("batch")], ids=repr
)
def test_a_restored_network_has_the_same_outputs_and_gradients(pathway, constraint):
    net = convolutional(pathway=pathway, constraint=constraint)
    x, y = torch.randn(4, 3, 2, 8, 8), torch.tensor([0, 1, 2])
    for _ in range(2):
        sc.losses.MeanPotential()(net(x), y)
    torch.manual_seed(77)
    other = convolutional(pathway=pathway, constraint=constraint, seed=8)
    other.load_state_dict(net.state_dict())
    losses = [sc.losses.MeanPotential()(each(x), y) for each in (net, other)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def step(net, *optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    net(torch.randn(1, 6, 8)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


def dale_net():
    return sc.Network(sc.Linear(8, 12), sc.ReLU(), sc.Linear(12, 12), sc.ReLU(), sc.Linear(12, 5), constraint=sc.Dale())


def test_attach_is_idempotent_and_can_be_removed():
    net = dale_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    handle = sc.attach(net, optimizer)
    assert sc.attach(net, optimizer) is handle
    assert len(optimizer._optimizer_step_post_hooks) == 1
    step(net, optimizer)
    assert net.violations() == 0
    other = dale_net()
    assert sc.attach(other, optimizer) is not handle
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sc.synapses.ConstraintWarning)
        step(net, optimizer)
        assert net.violations() > 0
        assert sc.attach(net, optimizer) is not handle
        step(net, optimizer)
    assert net.violations() == 0


def test_each_optimiser_projects_only_the_weights_it_owns():
    net = dale_net()
    second, third = net.layers[2], net.layers[4]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=2.0) for layer in (second, third)]
    for optimizer in optimizers:
        sc.attach(net, optimizer)
    step(net, *optimizers)
    assert net.violations() == 0
    with torch.no_grad():
        second.weight.neg_()
        third.weight.neg_()
    sc.after_step(net, optimizers[0])
    assert second.violations() == 0
    assert third.violations() > 0


def test_a_copy_needs_an_attachment_of_its_own_and_gets_one():
    net = dale_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    sc.attach(net, optimizer)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for layer in twin.synapses().values():
            layer.weight.neg_()
    broken = twin.violations()
    step(net, optimizer)
    assert twin.violations() == broken > 0
    mine = torch.optim.SGD(twin.parameters(), lr=1.0)
    sc.attach(twin, mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sc.synapses.ConstraintWarning)
        step(twin, mine)
    assert twin.violations() == 0


def test_an_attached_network_can_be_pickled():
    net = dale_net()
    sc.attach(net, torch.optim.SGD(net.parameters(), lr=1.0))
    x = torch.randn(1, 3, 8)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_an_empty_network_is_the_identity():
    x = torch.rand(3, 2, 4)
    assert sc.Network()(x) is x
    assert isinstance(sc.Network(LIF()).layers[0], LIF)

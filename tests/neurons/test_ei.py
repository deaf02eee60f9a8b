"""Two kinds of neurons in one population: each unit runs the neuron that its sign says."""

import copy

import pytest
import torch

import spikecredit as sc
from spikecredit.analysis import activity

KINDS = {
    "LIF": lambda: (sc.LIF(20.0), sc.LIF(5.0, threshold=0.6)),
    "adaptive and current": lambda: (sc.ALIF(20.0), sc.CurrentLIF(5.0, surrogate=sc.ArcTan())),
    "learned tau": lambda: (sc.LIF(20.0, learn_tau=True), sc.LIF(5.0, learn_tau=True, refractory=2)),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6,), (6, 3, 3), (12,)])
def test_every_unit_runs_its_own_neuron(kind, shape):
    """One unit at a time, by the neuron of its kind alone; a flattened channel is of one kind."""
    excitatory, inhibitory = KINDS[kind]()
    signs = torch.tensor([1, -1, 1, 1, -1, 1])
    both = sc.EINeurons(excitatory, inhibitory, signs).double()
    x = (0.3 + randn(9, 2, *shape)).requires_grad_()
    out = both(x)
    assert 0 < out.detach().mean() < 1
    copies = shape[0] // 6
    parts = [
        (excitatory if signs[unit // copies] > 0 else inhibitory)(x[:, :, unit : unit + 1]) for unit in range(shape[0])
    ]
    alone = torch.cat(parts, 2)
    assert torch.equal(out, alone)
    weights = randn(*out.shape, seed=1)
    (a,) = torch.autograd.grad((out * weights).sum(), x)
    (b,) = torch.autograd.grad((alone * weights).sum(), x)
    torch.testing.assert_close(a, b)
    swapped = sc.EINeurons(inhibitory, excitatory, signs).double()
    assert not torch.equal(swapped(x), out)


def test_chunks_of_time_and_constant_currents():
    neurons = sc.EINeurons(signs=torch.tensor([1, -1, 1]))
    x = 0.3 + randn(10, 2, 3).float()
    out, _ = neurons.stream(x)
    first, middle = neurons.stream(x[:4])
    last, _ = neurons.stream(x[4:], middle)
    assert torch.equal(torch.cat([first, last]), out)
    assert torch.equal(neurons(x[:1], steps=7), neurons(x[:1].repeat(7, 1, 1)))


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_kinds_are_those_of_dales_law(recurrent):
    """A neuron that inhibits in the synapses after it runs the inhibitory model."""
    net = sc.MLP((30, 20), recurrent=recurrent).build(
        (1, 1, 8), 5, sc.EINeurons(), constraint=sc.Dale(0.7), pathway=sc.SignSymmetry("fixed"), seed=3
    )
    neurons = [module for module in net.modules() if isinstance(module, sc.EINeurons)]
    outgoing = list(net.synapses().values())
    if recurrent:
        pairs = [
            (neurons[0], outgoing[1]),
            (neurons[0], outgoing[2]),
            (neurons[1], outgoing[3]),
            (neurons[1], outgoing[4]),
        ]
    else:
        pairs = [(neurons[0], outgoing[1]), (neurons[1], outgoing[2])]
    for each, layer in pairs:
        columns = layer.weight.detach().sum(0).sign()
        assert torch.equal(each.signs.float(), columns)
        assert (each.signs > 0).sum() == round(0.7 * len(each.signs))


def test_convolutional_populations_learn_and_keep_their_signs():
    torch.manual_seed(0)
    layers = (
        sc.Conv2d(1, 8, 3),
        sc.EINeurons(sc.LIF(5.0), sc.LIF(2.0)),
        sc.Flatten(),
        sc.Linear(288, 4),
        sc.LeakyReadout(),
    )
    net = sc.Network(*layers, constraint=sc.Dale(), pathway=sc.SignSymmetry(), seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    sc.attach(net, optimizer)
    x, y = sc.encode.constant(torch.randn(16, 1, 8, 8), 6), torch.randint(4, (16,))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x).mean(0), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert net.violations() == 0
    assert list(activity(net, x)) == ["layers.1"]  # one population, not three


def test_signs_travel_with_the_state():
    def make(seed):
        torch.manual_seed(seed)
        return sc.Network(sc.Linear(5, 12), sc.EINeurons(), sc.Linear(12, 3), constraint=sc.Dale(0.5), seed=seed)

    a, b = make(0), make(1)
    assert not torch.equal(a.layers[1].signs, b.layers[1].signs)
    b.load_state_dict(a.state_dict())
    x = 3 * torch.rand(6, 2, 5)
    assert torch.equal(a(x), b(x))
    other = sc.EINeurons(signs=torch.ones(12))
    other.load_state_dict(a.layers[1].state_dict())  # another number of excitatory units
    currents = torch.rand(6, 2, 12)
    assert torch.equal(other(currents), a.layers[1](currents))
    assert torch.equal(copy.deepcopy(a)(x), a(x))


def test_it_compiles_to_one_graph():
    net = sc.Network(sc.Linear(5, 12), sc.EINeurons(), sc.Linear(12, 3), constraint=sc.Dale(), seed=0)
    x = 3 * torch.rand(6, 2, 5)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            lambda: sc.Network(sc.Linear(3, 4), sc.EINeurons(), sc.Linear(4, 2)),
            r"write constraint=Dale\(excitatory=0.8\)",
        ),
        (lambda: sc.Network(sc.EINeurons(), sc.Linear(4, 2), constraint=sc.Dale()), "synapses before them"),
        (lambda: sc.EINeurons()(torch.rand(2, 3, 4)), "do not know yet which units excite"),
        (lambda: sc.EINeurons(signs=torch.ones(4))(torch.rand(2, 3, 5)), r"of 4 units take \(T, B, 4, ...\), got"),
    ],
)
def test_what_cannot_be_is_refused(build, told):
    with pytest.raises(ValueError, match=told):
        build()

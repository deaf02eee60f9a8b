"""Which synapses exist: by the kinds of both ends, for life, whatever the optimiser does."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.constraints import Connectivity, Dale

P = Connectivity(ee=0.1, ei=0.9, ie=0.5, ii=0.3)
MODES = {
    "project": Dale(0.6, connection=P),
    "abs": Dale(0.6, mode="reparametrize", connection=P),
    "exp": Dale(0.6, mode="reparametrize", magnitude="exp", connection=P),
}


def network(constraint, seed=0, pathway=None):
    torch.manual_seed(seed)
    lif = [sc.LIF(5.0, threshold=0.1) for _ in range(3)]
    layers = (
        sc.Linear(8, 200), lif[0], sc.Linear(200, 300), lif[1], sc.RecurrentLinear(300, 250, lif[2]), sc.Linear(250, 6),
        sc.LeakyReadout(5.0),
    )  # fmt: skip
    return sc.Network(*layers, constraint=constraint, pathway=pathway, seed=seed)


@pytest.mark.parametrize("mode", MODES)
def test_the_shares_are_those_of_the_kinds_of_both_ends(mode):
    net = network(MODES[mode])
    layers = net.synapses()
    pairs = [
        ("layers.2", "layers.4.input"),
        ("layers.4.input", "layers.4.recurrent"),
        ("layers.4.recurrent", "layers.4.recurrent"),
    ]
    for name, after in pairs:
        weight = layers[name].effective_weight().detach()
        source = layers[name].presynaptic_sign.flatten() > 0
        target = layers[after].presynaptic_sign.flatten() > 0
        if weight.shape[0] != len(target):  # the input synapses reach the population that the recurrent ones read
            target = layers["layers.4.recurrent"].presynaptic_sign.flatten() > 0
        for to, of, p in ((True, True, 0.1), (True, False, 0.9), (False, True, 0.5), (False, False, 0.3)):
            block = weight[target == to][:, source == of]
            share, n = float((block != 0).float().mean()), block.numel()
            assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5, (name, to, of)
    for name in ("layers.0", "layers.5"):  # input and output
        assert layers[name].connected is None
        assert bool((layers[name].effective_weight() != 0).all())


@pytest.mark.parametrize("initialisation", ["balanced", "column_ei", "log_normal", "keep"])
def test_what_is_left_keeps_its_balance_and_size(initialisation):
    dense = network(Dale(0.6, initialisation=initialisation))
    sparse = network(Dale(0.6, initialisation=initialisation, connection=P))
    a, b = (net.layers[2].weight.detach() for net in (dense, sparse))
    if initialisation == "column_ei":
        x = torch.randn(2000, 200, generator=torch.Generator().manual_seed(1)).relu()
        z = x @ b.T
        assert abs(float(z.mean())) < 0.1
        assert abs(float(z.std()) - 1) < 0.1
    else:
        torch.testing.assert_close(b.norm(), a.norm(), rtol=0.05, atol=0)
    if initialisation != "keep":
        assert abs(float(b.sum() / b.abs().sum())) < 0.02


@pytest.mark.parametrize(
    "pathway", [sc.SignSymmetry("fixed"), sc.FeedbackAlignment(), sc.KolenPollack()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("mode", MODES)
def test_training_makes_no_synapse_and_breaks_no_sign(mode, pathway):
    if mode != "project" and pathway.tied:
        return  # refused
    net = network(MODES[mode], pathway=pathway)
    missing = {name: layer.effective_weight().detach() == 0 for name, layer in net.synapses().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-3)
    sc.attach(net, optimizer)
    x, y = sc.encode.constant(3 * torch.rand(16, 8), 5), torch.randint(6, (16,))
    assert net.violations() == 0
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x).mean(0), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert net.violations() == 0
        for name, layer in net.synapses().items():
            assert not layer.effective_weight().detach()[missing[name]].any()
            if pathway.tied and layer.connected is not None:
                assert not layer.feedback_weight.detach()[missing[name]].any()
    assert losses[-1] < 0.97 * losses[0]


def test_synapses_that_do_not_exist_are_counted_until_they_are_projected():
    net = network(MODES["project"]).eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = sc.encode.constant(3 * torch.rand(16, 8), 5), torch.randint(6, (16,))
    F.cross_entropy(net(x).mean(0), y).backward()
    optimizer.step()
    assert net.violations() > 0
    sign = net.layers[2].presynaptic_sign
    assert net.layers[2].violations() > int((net.layers[2].weight * sign < 0).sum())  # not of the sign alone
    sc.after_step(net, optimizer)
    assert net.violations() == 0


def test_connections_are_drawn_from_the_seed_and_travel_with_the_state():
    a, same, other = network(MODES["project"]), network(MODES["project"]), network(MODES["project"], seed=1)
    assert torch.equal(a.layers[2].connected, same.layers[2].connected)
    assert not torch.equal(a.layers[2].connected, other.layers[2].connected)
    other.load_state_dict(a.state_dict())
    assert torch.equal(a.layers[2].connected, other.layers[2].connected)
    x = torch.rand(4, 2, 8)
    assert torch.equal(a(x), other(x))
    assert torch.equal(copy.deepcopy(a)(x), a(x))
    plain = network(Dale(0.6))
    assert torch.equal(a.layers[2].presynaptic_sign, plain.layers[2].presynaptic_sign)  # shifts nobody's numbers


def test_channels_of_a_convolution_are_connected_as_wholes():
    torch.manual_seed(0)
    constraint = dataclasses.replace(MODES["project"], connection=Connectivity(0.5, 0.5, 0.5, 0.5))
    layers = sc.Conv2d(1, 30, 3), sc.LIF(), sc.Conv2d(30, 40, 3, groups=2), sc.LIF(), sc.Flatten(), sc.Linear(40, 5)
    layer = sc.Network(*layers, constraint=constraint, seed=0).layers[2]
    there = (layer.weight != 0).flatten(2)
    assert bool((there.all(2) | ~there.any(2)).all())
    assert 0.4 < float(there.any(2).float().mean()) < 0.6


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="ie is a probability above 0 and at most 1, got 0"):
        Connectivity(ie=0)
    with pytest.raises(ValueError, match=r"which neurons a layer reaches.*Take connection=None"):
        sc.convert(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)), constraint=MODES["project"])

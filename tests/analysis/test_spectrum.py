"""Spectrum, dead synapses, excitation and inhibition, and the audit of signs, against definitions written out."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spikecredit as sc
from spikecredit.analysis import balance, currents, sign_audit, spectrum
from spikecredit.analysis.spectrum import Currents, _balance, spectrum_of

# ---- spectrum


@given(st.integers(2, 8), st.integers(0, 99))
def test_equal_singular_values_have_entropy_one_and_rank_one_has_none(n, seed):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q
    flat = spectrum_of(3 * rotation)
    assert flat.entropy == pytest.approx(1, abs=1e-12)
    assert flat.largest == pytest.approx(1 / n)
    one = spectrum_of(torch.outer(rotation[0], rotation[1]))
    assert one.entropy == pytest.approx(0, abs=1e-10)
    assert one.largest == pytest.approx(1)


def test_the_entropy_is_that_of_the_squares_and_knows_no_scale():
    weight = torch.zeros(3, 4)
    weight[0, 0], weight[1, 2] = 2.0, -1.0  # singular values 2, 1, 0
    p = (4 / 5, 1 / 5)
    wanted = -sum(x * math.log(x) for x in p) / math.log(3)
    assert spectrum_of(weight).entropy == pytest.approx(wanted)
    assert spectrum_of(1000 * weight).entropy == pytest.approx(wanted)
    assert spectrum_of(weight).values.tolist() == pytest.approx([2, 1, 0])
    assert spectrum_of(weight).dead == 10 / 12


def test_what_has_no_spectrum_is_nan():
    assert math.isnan(spectrum_of(torch.zeros(3, 3)).entropy)
    assert spectrum_of(torch.zeros(3, 3)).dead == 1
    assert math.isnan(spectrum_of(torch.ones(1, 5)).entropy)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_weights_that_are_not_finite_have_no_spectrum(broken):
    weight = torch.ones(3, 4)
    weight[1, 2] = broken
    found = spectrum_of(weight)
    assert all(math.isnan(number) for number in (found.entropy, found.largest, found.dead, *found.values))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_values_are_the_singular_values(rows, columns, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    wanted = torch.linalg.svdvals(weight.double())
    torch.testing.assert_close(spectrum_of(weight).values, wanted, rtol=1e-6, atol=1e-7 * float(wanted[0]))


def test_a_convolution_is_the_matrix_of_its_kernels_and_dale_loses_entropy():
    """Columns of one sign have a mean, and with it a first singular value far above the others. Balance makes the means
    add up to 0, and leaves it."""
    layers = [lambda: sc.Conv2d(1, 20, 3), lambda: sc.LIF(), lambda: sc.Conv2d(20, 30, 3)]
    nets = {}
    for constraint in (None, sc.Dale(1.0), sc.Dale(0.8)):
        torch.manual_seed(0)
        nets[constraint] = sc.Network(*(make() for make in layers), constraint=constraint, seed=0)
    found = {constraint: spectrum(net)["layers.2"] for constraint, net in nets.items()}
    assert len(found[None].values) == 30
    torch.testing.assert_close(
        found[None].values, torch.linalg.svdvals(nets[None].layers[2].weight.detach().double().reshape(30, 180))
    )
    for constraint in (sc.Dale(1.0), sc.Dale(0.8)):
        assert found[constraint].entropy < 0.6 < 0.9 < found[None].entropy
        assert found[constraint].largest > 0.5 > found[None].largest


def test_the_spectrum_is_of_the_effective_weight():
    net = sc.Network(
        sc.Linear(4, 9), sc.LIF(), sc.Linear(9, 5), constraint=sc.Dale(mode="reparametrize", magnitude="exp"), seed=0
    )
    wanted = torch.linalg.svdvals(net.layers[2].effective_weight().detach().double())
    torch.testing.assert_close(spectrum(net)["layers.2"].values, wanted)


# ---- excitation and inhibition


def brute_force(weight, x):
    """Sums of the positive and of the negative terms, one by one, for a dense layer."""
    terms = weight * x.unsqueeze(-2)
    return terms.clamp(min=0).sum(-1), -terms.clamp(max=0).sum(-1)


@pytest.mark.parametrize("constraint", [None, sc.Dale(0.5), sc.Dale(mode="reparametrize", magnitude="softplus")])
def test_excitation_and_inhibition_are_sums_of_terms_of_one_sign(constraint):
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(6, 20), sc.LIF(2.0), sc.Linear(20, 7), constraint=constraint, seed=0).double()
    x = 3 * torch.randn(5, 4, 6, dtype=torch.float64)  # negative inputs too
    found = currents(net, x)
    assert list(found) == ["layers.0", "layers.2"]
    spikes = net.layers[1](net.layers[0](x))
    assert 0 < spikes.mean() < 1
    for name, source in (("layers.0", x), ("layers.2", spikes)):
        layer = net.get_submodule(name)
        e, i = brute_force(layer.effective_weight(), source)
        torch.testing.assert_close(found[name].excitation, e.detach())
        torch.testing.assert_close(found[name].inhibition, i.detach())
        total = found[name].excitation - found[name].inhibition + layer.bias
        torch.testing.assert_close(total.detach(), layer(source).detach())


def test_convolutions_add_up_to_their_current():
    torch.manual_seed(0)
    net = sc.Network(sc.Conv2d(2, 6, 3, padding=1), sc.MaxPool2d(2), sc.LIF(), constraint=sc.Dale(), seed=0).double()
    x = torch.randn(3, 2, 2, 8, 8, dtype=torch.float64)
    found = currents(net, x)["layers.0"]
    layer = net.layers[0]
    assert found.excitation.shape == (3, 2, 6, 8, 8)
    assert bool((found.excitation >= 0).all()) and bool((found.inhibition >= 0).all())
    total = found.excitation - found.inhibition + layer.bias[:, None, None]
    torch.testing.assert_close(total.detach(), layer(x).detach())


def test_a_recurrent_layer_hears_its_own_spikes_one_step_late():
    torch.manual_seed(0)
    layer = sc.RecurrentLinear(5, 12, sc.LIF(2.0))
    net = sc.Network(layer, sc.Linear(12, 3), constraint=sc.Dale(), seed=0).double()
    x = 4 * torch.rand(6, 3, 5, dtype=torch.float64)
    found = currents(net, x)
    assert list(found) == ["layers.0", "layers.1"]
    spikes = layer(x)
    heard = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])
    assert heard.any()
    e, i = (
        a + b
        for a, b in zip(brute_force(layer.input.weight, x), brute_force(layer.recurrent.weight, heard), strict=True)
    )
    torch.testing.assert_close(found["layers.0"].excitation, e.detach())
    torch.testing.assert_close(found["layers.0"].inhibition, i.detach())


def test_nothing_of_the_network_changes():
    net = sc.Network(sc.Linear(3, 4), sc.BatchNorm1d(4), sc.LIF(), sc.Linear(4, 2), seed=0)
    before = copy.deepcopy(net.state_dict())
    currents(net, torch.rand(2, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.layers[0]._forward_hooks


def test_the_balance_of_known_currents():
    e = torch.tensor([[[1.0, 3.0, 0.0]], [[3.0, 3.0, 0.0]]])
    i = torch.tensor([[[2.0, 0.0, 0.0]], [[6.0, 0.0, 0.0]]])  # follows e in the first unit; the third hears nothing
    found = _balance(Currents(e, i))
    assert found.index == pytest.approx(((2 - 4) / 6 + 1) / 2)
    assert found.spread == pytest.approx((1 + 1 / 3) / 2)
    assert found.correlation == pytest.approx(1)
    assert (found.excitation, found.inhibition) == pytest.approx((5 / 3, 4 / 3))
    opposed = _balance(Currents(e[..., :1], i[..., :1].flip(0)))
    assert opposed.correlation == pytest.approx(-1)
    silent = _balance(Currents(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3)))
    assert math.isnan(silent.index) and math.isnan(silent.correlation)


def test_balanced_initialisation_is_balanced_and_the_plain_one_is_not():
    found = {}
    for initialisation in ("balanced", "column_ei", "log_normal", "keep"):
        torch.manual_seed(0)
        layers = sc.Linear(30, 400), sc.LIF(2.0), sc.Linear(400, 300, bias=False)
        net = sc.Network(*layers, constraint=sc.Dale(initialisation=initialisation), seed=0)
        found[initialisation] = balance(net, 3 * torch.rand(20, 8, 30))["layers.2"].index
    assert found.pop("keep") > 0.5
    assert all(abs(index) < 0.15 for index in found.values()), found


# ---- signs


@pytest.mark.parametrize("mode", ["project", "reparametrize"])
def test_the_audit_counts_effective_signs_and_names_what_is_exempt(mode):
    layers = sc.Linear(4, 10), sc.BatchNorm1d(10), sc.LIF(), sc.Linear(10, 5)
    net = sc.Network(*layers, constraint=sc.Dale(mode=mode, magnitude="exp"), seed=0)
    found = sign_audit(net)
    assert [name for name, layer in found.items() if not layer.audited] == ["layers.0"]
    assert found["layers.0"].positive + found["layers.0"].negative == 40
    assert (found["layers.1"].positive, found["layers.1"].weights, found["layers.1"].violations) == (10, 10, 0)
    assert (found["layers.3"].positive, found["layers.3"].negative, found["layers.3"].zero) == (40, 10, 0)
    assert "Dale" in found["layers.3"].constraint
    if mode == "project":
        with torch.no_grad():
            net.layers[3].weight[:2].neg_()
            net.layers[3].weight[4, 0] = 0
            net.layers[1].weight[3] = -1.0
        found = sign_audit(net)
        assert (found["layers.3"].violations, found["layers.3"].zero, found["layers.1"].violations) == (20, 1, 1)


def test_an_unconstrained_network_has_nothing_to_audit():
    found = sign_audit(sc.Network(sc.Linear(4, 10), sc.LIF(), sc.Linear(10, 5), seed=0))
    assert not any(layer.audited for layer in found.values())


def test_a_dann_layer_inhibits_by_its_own_units():
    torch.manual_seed(0)
    layer = sc.DANNLinear(6, 9, inhibitory=3, divisive=False)
    net = sc.Network(layer, seed=0).double()
    x = torch.rand(4, 2, 6, dtype=torch.float64)
    found = currents(net, x)["layers.0"]
    torch.testing.assert_close(found.excitation, (x @ layer.weight.T).detach())
    torch.testing.assert_close(found.inhibition, (x @ layer.weight_ix.T @ layer.weight_ei.T).detach())
    assert sign_audit(net)["layers.0"].audited
    with torch.no_grad():
        layer.weight_ei[0, 0] = -1
    assert sign_audit(net)["layers.0"].violations == 1

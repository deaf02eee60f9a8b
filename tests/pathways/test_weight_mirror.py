"""The weight mirror: noise makes B a copy of W, as well as so many samples can."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.analysis import angle
from spikecredit.pathways import weight_mirror
from spikecredit.pathways.weight_mirror import mirror
from spikecredit.synapses import LearningWarning

CURRENT = sc.WeightMirror("current", rate=1.0, decay=0.0, samples=10_000, initial=1)


def layer_of(pathway, n_in, n_out=50, seed=0, weight=None, **options):
    """A dense layer of Gaussian weights of variance 1 / n_in, bound with its pathway in a network, in float64."""
    torch.manual_seed(seed)
    layer = sc.Linear(n_in, n_out, **options).double()
    torch.nn.init.normal_(layer.weight, std=n_in**-0.5)
    sc.Network(layer, pathway=pathway, seed=seed)
    return layer


def copied(pathway, n_in, **options):
    layer = layer_of(pathway, n_in, **options)
    return angle(layer.feedback_weight, layer.weight)


@pytest.mark.parametrize(("n_in", "degrees"), [(100, 5.74), (784, 15.65)])
def test_a_linear_copy_is_as_good_as_its_samples(n_in, degrees):
    """Known answer 9: B_0 = 0, N = 10 000 samples: angle = atan(sqrt((n_in + 1) / N))."""
    assert math.degrees(math.atan(math.sqrt((n_in + 1) / 10_000))) == pytest.approx(degrees, abs=0.01)
    assert copied(CURRENT, n_in) == pytest.approx(degrees, abs=0.3)


def test_phases_add_up():
    """Samples of several phases without decay are samples of one: 4 x 2500."""
    four = sc.WeightMirror("current", rate=0.25, decay=0.0, samples=2500, initial=4)
    assert copied(four, 100) == pytest.approx(5.74, abs=0.3)
    layer = layer_of(four, 100)
    assert float((layer.feedback_weight.norm() / layer.weight.norm()).detach()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("wrong", ["transposed", "other weights"])
def test_the_copy_notices_a_mistake(wrong, monkeypatch):
    def response(self, x):
        weight = self.weight.t() if wrong == "transposed" else self.weight[torch.randperm(len(self.weight))]
        return F.linear(x, weight, self.bias)

    monkeypatch.setattr(sc.Linear, "respond", response)
    assert abs(copied(CURRENT, 100, n_out=100) - 90) < 5


PHI = {"sigmoid": torch.sigmoid, "relu": torch.relu}


@pytest.mark.parametrize(("name", "centred", "plain"), [("sigmoid", 15.8, 35.5), ("relu", 18.1, 21.4)])
def test_centring_the_response_matters(name, centred, plain):
    """Known answer 9, 784 inputs, 10 000 samples; 18.1 is ours. The uncentred mean is common to one batch: +- 2."""
    layer = layer_of(sc.FeedbackAlignment(), 784, bias=False)
    x = torch.randn(10_000, 784, dtype=torch.float64)
    y = PHI[name](layer.respond(x))
    assert angle(mirror(layer, y, x), layer.weight) == pytest.approx(centred, abs=0.3)
    assert angle(mirror(layer, y, x, centred=False), layer.weight) == pytest.approx(plain, abs=2)


def test_the_limit_of_biased_units_is_that_of_stein():
    """E B = sigma^2 diag(E phi') W: every row of W times the mean slope of its unit."""
    layer, sigma, n = layer_of(sc.FeedbackAlignment(), 20, n_out=10), 0.7, 400_000
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(-3, 3, 10))
    x = sigma * torch.randn(n, 20, dtype=torch.float64)
    current = layer.respond(x)
    slope = (torch.sigmoid(current) * torch.sigmoid(-current)).mean(0)
    wanted = sigma**2 * slope[:, None] * layer.weight
    found = mirror(layer, torch.sigmoid(current), x)
    assert slope.max() / slope.min() > 3
    assert angle(found, wanted) < 1
    assert angle(found, layer.weight) > 10  # the limit is not W itself
    # entries have standard error sd(y) sigma / sqrt(n) at most
    assert float((found - wanted).detach().abs().max()) < 5 * 0.25 * sigma / math.sqrt(n)


# ---- spikes ----------------------------------------------------------------------------------------------------------


def test_spikes_mirror_the_weights_and_centring_matters():
    spikes = sc.WeightMirror(rate=1.0, decay=0.0, samples=10_000, initial=1)
    centred, plain = copied(spikes, 784), copied(sc.WeightMirror(**{**vars(spikes), "centred": False}), 784)
    assert centred == pytest.approx(18.1, abs=0.5)  # half-rectified, like relu
    assert plain > centred + 3


def test_the_response_is_the_firing_rate_of_lif_neurons():
    """The population written out, over samples one by one."""
    pathway = sc.WeightMirror(rate=0.5, decay=0.1, samples=5, initial=1, steps=7, tau=4.0, threshold=0.6, sigma=1.3)
    layer = layer_of(pathway, 6, n_out=4)
    generator = sc.seeds.generator(0, "feedback", "layers.Linear0")
    x = 1.3 * torch.randn(5, 6, dtype=torch.float64, generator=generator)
    rates = torch.zeros(5, 4, dtype=torch.float64)
    for n in range(5):
        current, u = layer.weight.detach() @ x[n] + layer.bias.detach(), torch.zeros(4, dtype=torch.float64)
        for _ in range(7):
            u = math.exp(-1 / 4.0) * u + current - 0.6 * (u > 0.6)
            rates[n] += (u > 0.6).double() / 7
    assert 0.1 < rates.mean() < 0.9
    wanted = 0.5 * sum(torch.outer(rates[n] - rates.mean(0), x[n]) for n in range(5)) / 5  # from B = 0
    torch.testing.assert_close(layer.feedback_weight, wanted, rtol=1e-12, atol=1e-14)
    before = layer.feedback_weight.clone()
    noise = copy.deepcopy(layer.noise)
    pathway.learn(layer)
    x = sc.seeds.draw(noise, "normal", (5, 6), 0.0, 1.3, torch.float64, torch.device("cpu"))
    y = pathway._rates(layer.respond(x).detach())
    wanted = 0.9 * before + 0.5 * (y - y.mean(0)).T @ x / 5
    torch.testing.assert_close(layer.feedback_weight, wanted, rtol=1e-12, atol=1e-14)


def test_decay_bounds_b_at_the_stated_fixed_point():
    """B* = (rate sigma^2 / decay) W for the current; without decay B grows for ever."""

    def norm_after(phases, decay):
        pathway = sc.WeightMirror("current", rate=0.2, decay=decay, sigma=0.5, samples=2000, initial=0)
        layer = layer_of(pathway, 20)
        assert not layer.feedback_weight.any()  # B_0 = 0
        for _ in range(phases):
            pathway.learn(layer)
        return float((layer.feedback_weight.norm() / layer.weight.norm()).detach())

    assert norm_after(100, 0.1) == pytest.approx(0.2 * 0.25 / 0.1, rel=0.02)
    assert norm_after(100, 0.0) == pytest.approx(100 * 0.2 * 0.25, rel=0.02)


# ---- convolutions ----------------------------------------------------------------------------------------------------

GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2},
    {"kernel_size": (4, 2), "padding": "same", "bias": False},
    {"padding": 1, "padding_mode": "circular"},
]


def conv_of(pathway, **options):
    torch.manual_seed(0)
    layer = sc.Conv2d(6, 8, **{"kernel_size": 3, **options}).double()
    sc.Network(layer, pathway=pathway, seed=0)
    return layer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, about speed
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_noise_goes_through_a_convolution(geometry, memory_format):
    """B is the mean of y x^T over samples and positions, patch by patch; it goes to sigma^2 W."""
    pathway = sc.WeightMirror("current", rate=1.0, decay=0.0, sigma=0.5, samples=300, initial=1, side=5)
    layer = conv_of(pathway, **geometry)
    n_in, samples = layer.fan_in, 300 * 25
    wanted = math.degrees(math.atan(math.sqrt((n_in + 1) / samples)))
    assert angle(layer.feedback_weight, layer.weight) == pytest.approx(wanted, rel=0.25)
    size = (layer.feedback_weight * layer.weight).sum() / layer.weight.square().sum()
    assert float(size.detach()) == pytest.approx(0.25, rel=0.04)
    # a second phase, written out
    layer.to(memory_format=memory_format)
    noise = copy.deepcopy(layer.noise)
    before = layer.feedback_weight.clone()
    pathway.learn(layer)
    (kh, kw), (sh, sw), (dh, dw), groups = layer.kernel_size, layer.stride, layer.dilation, layer.groups
    shape = 300, 6, 4 * sh + dh * (kh - 1) + 1, 4 * sw + dw * (kw - 1) + 1
    x = sc.seeds.draw(noise, "normal", shape, 0.0, 0.5, torch.float64, torch.device("cpu"))
    y = F.conv2d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, groups).detach()
    assert y.shape == (300, 8, 5, 5)
    y = (y - y.mean((0, 2, 3), keepdim=True)).view(300, groups, 8 // groups, 5, 5)
    x = x.view(300, groups, 6 // groups, *shape[2:])
    mean = torch.empty_like(layer.weight).view(groups, 8 // groups, 6 // groups, kh, kw)
    for i in range(kh):
        for j in range(kw):
            seen = x[..., i * dh : i * dh + 4 * sh + 1 : sh, j * dw : j * dw + 4 * sw + 1 : sw]
            mean[..., i, j] = torch.einsum("ngohw,ngihw->goi", y, seen) / samples
    torch.testing.assert_close(layer.feedback_weight, before + mean.view_as(before), rtol=1e-10, atol=1e-13)


def test_spikes_mirror_a_convolution():
    layer = conv_of(sc.WeightMirror(samples=500, initial=20))
    assert angle(layer.feedback_weight, layer.weight) < 10


# ---- in a network ----------------------------------------------------------------------------------------------------


def net_of(pathway, seed=3, **options):
    torch.manual_seed(0)
    layers = sc.Linear(6, 12), sc.LIF(5.0), sc.RecurrentLinear(12, 10, sc.LIF(5.0)), sc.Linear(10, 4), sc.LeakyReadout()
    return sc.Network(*layers, pathway=pathway, seed=seed, **options)


def step(net, optimizer):
    optimizer.zero_grad()
    sc.losses.MeanPotential()(net(2 * torch.rand(5, 8, 6)), torch.arange(8) % 4).backward()
    optimizer.step()


def feedback(net):
    return [layer.feedback_weight.clone() for layer in net.synapses().values()]


def test_phases_run_after_every_so_many_steps():
    net = net_of(sc.WeightMirror(every=3))
    optimizer = torch.optim.Adam(net.parameters())
    sc.attach(net, optimizer)
    changed, before = [], feedback(net)
    for _ in range(7):
        step(net, optimizer)
        after = feedback(net)
        each = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(each) or not any(each)
        changed.append(all(each))
        before = after
    assert changed == [True, False, False, True, False, False, True]


def test_only_the_layers_that_the_optimiser_owns_are_mirrored():
    net = net_of(sc.WeightMirror())
    before = feedback(net)
    sc.after_step(net, torch.optim.SGD(net.layers[3].parameters(), lr=0.1))
    assert [torch.equal(a, b) for a, b in zip(before, feedback(net), strict=True)] == [True, True, True, False]


def test_b_follows_moving_weights():
    net = net_of(sc.WeightMirror())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    sc.attach(net, optimizer)
    first = [layer.weight.detach().clone() for layer in net.synapses().values()]
    for _ in range(150):
        step(net, optimizer)
    for layer, before in zip(net.synapses().values(), first, strict=True):
        assert angle(layer.weight, before) > 15
        assert angle(layer.feedback_weight, layer.weight) < min(25, angle(layer.feedback_weight, before))
    reported = sc.analysis.alignment(net, torch.rand(5, 8, 6), torch.arange(8) % 4)
    assert [each.weight_angle for each in reported.values()] == [
        angle(layer.feedback_weight, layer.weight) for layer in net.synapses().values()
    ]


def test_mirroring_shifts_nobodys_numbers():
    """B of a layer depends on the seed and that layer; weights, global generator and other streams on nothing here."""
    state = torch.random.get_rng_state()
    one, two = net_of(sc.WeightMirror()), net_of(sc.WeightMirror(samples=32, initial=3))
    other = net_of(sc.WeightMirror(), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(feedback(one), feedback(other), strict=True))
    torch.random.set_rng_state(state)
    before = torch.random.get_rng_state()
    sc.after_step(one, torch.optim.SGD(one.parameters(), lr=0.1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_forgetting_after_step_is_warned_of():
    net = net_of(sc.WeightMirror())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step(net, optimizer)
    with pytest.warns(LearningWarning, match=r"WeightMirror.*spikecredit\.after_step\(net, optimizer\)"):
        step(net, optimizer)
    step(net, optimizer)  # told once
    net = net_of(sc.WeightMirror(every=4))
    sc.attach(net, optimizer := torch.optim.SGD(net.parameters(), lr=0.1))
    for _ in range(6):  # a step without a phase is no mistake
        step(net, optimizer)
    step(copy.deepcopy(net), torch.optim.SGD([torch.zeros(1)], lr=0.1))


@pytest.mark.parametrize("mode", ["project", "reparametrize"])
@pytest.mark.parametrize("own", ["exempt", "own"])
def test_under_dales_law_b_mirrors_the_effective_weight(mode, own):
    constraint = sc.Dale(mode=mode, feedback=own, magnitude="exp")
    net = net_of(sc.WeightMirror("current", samples=500), constraint=constraint)
    for layer in list(net.synapses().values())[1:]:
        assert angle(layer.feedback_weight, layer.effective_weight()) < 15
        effective = layer.pathway.feedback(layer)
        wanted = layer.feedback_weight if own == "exempt" else layer.feedback_weight.abs() * layer.postsynaptic_sign
        assert torch.equal(effective, wanted)


OPTIONS = {
    "response": "current", "rate": 0.1, "decay": 0.1, "sigma": 0.5, "samples": 20, "every": 2, "initial": 3,
    "centred": False, "steps": 3, "tau": 3.0, "threshold": 0.5, "side": 2,
}  # fmt: skip


def outcome(**options):
    """B of a convolution after the initial phases and two steps."""
    net = sc.Network(conv := conv_of(None).float(), pathway=sc.WeightMirror(**options), seed=0)
    for _ in range(2):
        sc.after_step(net, torch.optim.SGD(net.parameters(), lr=0.1))
    return conv.feedback_weight


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_result(name):
    assert not torch.equal(outcome(), outcome(**{name: OPTIONS[name]}))
    assert OPTIONS.keys() == vars(sc.WeightMirror()).keys() - {"error"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response": "rate"}, "response must be 'spikes' or 'current', got 'rate'"),
        ({"rate": 0}, "rate must be positive and finite, got 0"),
        ({"sigma": math.inf}, "sigma must be positive and finite, got inf"),
        ({"tau": -1.0}, "tau must be positive"),
        ({"threshold": math.nan}, "threshold must be positive"),
        ({"decay": 1.0}, "decay is the fraction of B lost in one phase, 0 <= decay < 1; got 1.0"),
        ({"samples": 1}, "samples must be at least 2, got 1"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"initial": -1}, "initial must be at least 0, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"side": 0}, "side must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sc.WeightMirror(**options)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_networks_read_the_mirrored_feedback():
    net = sc.Network(sc.Linear(6, 8), sc.LIF(5.0), sc.Linear(8, 3), pathway=sc.WeightMirror(), seed=1)
    twin = copy.deepcopy(net)
    run, x = torch.compile(twin, fullgraph=True, backend="aot_eager"), 3 * torch.rand(4, 2, 6)
    for _ in range(2):
        for each, forward in ((net, net), (twin, run)):
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            optimizer.zero_grad()
            forward(x).square().sum().backward()
            optimizer.step()
            sc.after_step(each, optimizer)
        for a, b in zip(net.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def test_the_mutation_without_the_response_is_noticed(monkeypatch):
    monkeypatch.setattr(weight_mirror, "mirror", lambda layer, y, x, centred: layer.correlate(y.roll(1, 0), x))
    assert abs(copied(CURRENT, 100) - 90) < 5  # the response to another sample's noise

"""Models of snnTorch, moved over: the installed snnTorch is the oracle, for spikes, potentials and gradients."""

import copy
import math
from typing import Any

import pytest
import snntorch as snn
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from snn_nets import Tutorial, cases, distances, gradient_of, grid_input, in_double, model_of, on_grid, run
from snntorch import spikegen, surrogate
from torch import Tensor, nn
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.circuits import from_snntorch
from spikecredit.circuits.layers import EachStep, Potentials
from spikecredit.neurons.decay import Factor

TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-12}  # sums of 12 steps in another order; both sigmoids cancel


def close(ours: Tensor | None, theirs: Tensor | None, what: str) -> None:
    """Equal relative to the largest value, and to 1 where a sum cancels; a missing gradient is a gradient of 0."""
    if ours is None or theirs is None:
        assert all(g is None or not g.any() for g in (ours, theirs)), what
        return
    scale = float(theirs.abs().max())
    assert float((ours - theirs).abs().max()) <= TOLERANCE[ours.dtype] * max(scale, 1.0), what


def pairs(net: sc.Network, model: nn.Module) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Each parameter of ours with that of the model which it copies."""
    theirs = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | snn.SpikingNeuron)]
    inner = {id(m.recurrent) for m in theirs if isinstance(m, snn.RLeaky | snn.RSynaptic)}
    neurons = [m for m in theirs if isinstance(m, snn.SpikingNeuron)]
    weighted = [m for m in theirs if not isinstance(m, snn.SpikingNeuron) and id(m) not in inner]
    ours = [m for m in net.modules() if isinstance(m, sc.LIF)]
    dense = [m for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and not n.endswith("recurrent")]
    found = []
    for a, b in zip(dense, weighted, strict=True):
        found += [("weight", a.weight, b.weight)] + ([] if b.bias is None else [("bias", a.bias, b.bias)])
    for index, (a, b) in enumerate(zip(ours, neurons, strict=True)):
        for name, decay, value in (("beta", "decay", "beta"), ("alpha", "decay_synapse", "alpha")):
            if isinstance(getattr(b, value, None), nn.Parameter):
                found.append((f"{name} {index}", getattr(a, decay).beta, getattr(b, value)))
    recurrent = [m.recurrent for m in net.modules() if isinstance(m, sc.RecurrentLinear)]
    for a, b in zip(recurrent, [m.recurrent for m in neurons if hasattr(m, "recurrent")], strict=True):
        if isinstance(b, nn.Linear):
            found += [("V", a.weight, b.weight), ("c", a.bias, b.bias)]
    return found


@settings(max_examples=120)
@given(cases())
def test_spikes_and_gradients_are_those_of_snntorch(case: dict[str, Any]) -> None:
    model, x = model_of(case), grid_input(12, 3, 6)
    if case["tutorial"]:  # snnTorch 1.0.0 runs in float32 only
        net = from_snntorch(model, x).to(case["dtype"])
        model.to(case["dtype"])
    else:
        net = from_snntorch(model.to(case["dtype"]))
    x = x.to(case["dtype"])
    if case["dtype"] == torch.float64:
        in_double(model, case["surrogate"], *gradient_of(case)[1])
    margin = distances(model)
    theirs, _ = run(model, x)
    if case["kind"] not in ("Leaky", "Synaptic"):  # (beta u + I) + V s, where ours is beta u + (I + V s)
        assume(min(margin) > 1e-5)
    ours = net(x)
    assert torch.equal(ours, theirs)
    coefficients = torch.randn(ours.shape, dtype=ours.dtype)
    (ours * coefficients).sum().backward()
    (theirs * coefficients).sum().backward()
    assume(all(b.grad is None or b.grad.isfinite().all() for _, _, b in pairs(net, model)))  # their sigmoid overflows
    for name, a, b in pairs(net, model):
        close(a.grad, b.grad, name)


@settings(max_examples=15)
@given(
    st.sampled_from(["subtract", "zero", "none"]), st.sampled_from(["Leaky", "Synaptic"]), st.floats(0.0, 1.0, width=32)
)
def test_potentials_are_snntorchs_mem_bit_for_bit(reset: str, kind: str, beta: float) -> None:
    if (kind, reset) == ("Synaptic", "zero"):
        return
    options = {"alpha": 0.7} if kind == "Synaptic" else {}
    last = getattr(snn, kind)(beta=beta, reset_mechanism=reset, **options)
    model = on_grid(Tutorial(nn.Linear(5, 4), last))
    x = grid_input(15, 2, 5)
    net = from_snntorch(model, x, read="potentials")
    expected_kind = sc.LeakyReadout if (kind, reset) == ("Leaky", "none") else Potentials
    assert type(net.layers[-1]) is expected_kind
    spikes, potentials = model(x)
    ours = net(x)
    assert torch.equal(ours, potentials)
    assert torch.equal((ours > 1.0).float(), spikes)
    coefficients = torch.randn(ours.shape)
    (ours * coefficients).sum().backward()
    (potentials * coefficients).sum().backward()
    close(net.layers[0].weight.grad, model.fc0.weight.grad, "weight")
    chunks, state = [], None
    for chunk in x.split(4):
        out, state = net.stream(chunk, state)
        chunks.append(out)
    assert torch.equal(torch.cat(chunks), ours)


def test_beta_is_held_to_the_last_bit() -> None:
    """By way of tau it is not: that is why there is `Factor`."""
    lost = 0
    for numerator in range(1, 400):
        beta = torch.tensor(numerator / 400)
        layer = from_snntorch(nn.Sequential(nn.Linear(1, 1), snn.Leaky(beta=beta))).layers[1]
        assert layer.decay() == float(beta)
        lost += math.exp(-1 / (-1 / math.log(float(beta)))) != float(beta)
    assert lost > 0


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, 1.5])
@pytest.mark.parametrize("learn", [False, True])
def test_beta_beyond_its_range_is_clamped_as_there(beta: float, learn: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 3), snn.Leaky(beta=beta, learn_beta=learn, init_hidden=True, output=True))
    x = grid_input(6, 2, 3)
    net, theirs = from_snntorch(on_grid(model)), run(model, x)[0]
    ours = net(x)
    assert torch.equal(ours, theirs)
    if learn:
        ours.sum().backward()
        theirs.sum().backward()
        close(net.layers[1].decay.beta.grad, model[1].beta.grad, "beta")


def test_training_goes_the_same_way_step_for_step() -> None:
    """Learned betas are the same parameter, so that a whole training is the same, not only its first gradient."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 20), snn.Leaky(beta=0.9, learn_beta=True, init_hidden=True),
        nn.Linear(20, 3), snn.Leaky(beta=torch.rand(3), learn_beta=True, init_hidden=True, output=True),
    )  # fmt: skip
    net, x, labels = from_snntorch(model), torch.rand(10, 8, 6) * 2, torch.randint(3, (8,))
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.02) for module in (net, model)]
    for _ in range(5):
        outputs = net(x), run(model, x)[0]
        for optimizer, out in zip(optimizers, outputs, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(out.mean(0), labels).backward()
            optimizer.step()
    moved = from_snntorch(model)
    for (name, a), b in zip(net.named_parameters(), moved.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    assert not torch.allclose(net.layers[1].decay.beta, torch.tensor(0.9), atol=1e-5)


class Conv(nn.Module):
    """snnTorch's convolutional tutorial, in small: pooling and flattening are functions inside `forward`."""

    def __init__(self) -> None:
        super().__init__()
        options = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25)}
        self.conv1, self.lif1 = nn.Conv2d(1, 4, 5), snn.Leaky(**options)
        self.conv2, self.lif2 = nn.Conv2d(4, 6, 5), snn.Leaky(**options)
        self.drop = nn.Dropout(0.5)
        self.fc1, self.lif3 = nn.Linear(6 * 4 * 4, 10), snn.Leaky(**options)

    def forward(self, x: Tensor, steps: int = 4) -> Tensor:
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        recorded = []
        for _ in range(steps):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(F.avg_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(self.drop(spk2).view(x.shape[0], -1)), mem3)
            recorded.append(spk3)
        return torch.stack(recorded)


def test_functions_between_the_layers_become_layers() -> None:
    model = Conv()
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.ndim > 1]:
            parameter.mul_(3)
    on_grid(model, 5)
    x = grid_input(3, 1, 28, 28)
    net = from_snntorch(model, x)
    kinds = [type(layer).__name__ for layer in net.layers]
    assert kinds == [
        "Conv2d", "MaxPool2d", "LIF", "Conv2d", "AvgPool2d", "LIF", "Dropout", "Flatten", "Linear", "LIF"
    ]  # fmt: skip
    assert net.training and model.training
    net.eval()
    model.eval()
    ours, theirs = net(sc.encode.constant(x, 4)), model(x)
    assert theirs.sum() > 0
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    for name, a, b in pairs(net, model):
        close(a.grad, b.grad, name)


def test_batch_normalisation_has_the_statistics_of_each_step() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), snn.Leaky(beta=0.5, init_hidden=True),
        nn.Flatten(), nn.Linear(3 * 3 * 3, 4), nn.BatchNorm1d(4), snn.Leaky(beta=0.5, init_hidden=True, output=True),
    )  # fmt: skip
    net, x = from_snntorch(model), torch.rand(5, 6, 1, 8, 8) * 4
    assert [type(layer) for layer in net.layers[1::5]] == [EachStep, EachStep]
    ours, (theirs, _) = net(x), run(model, x)
    assert torch.equal(ours, theirs)
    for index in (1, 6):
        assert torch.allclose(net.layers[index].layer.running_var, model[index].running_var, rtol=1e-6)
    constant = x[:1].expand(5, *x.shape[1:])
    assert torch.equal(net(constant), run(model, constant)[0])
    net.eval()
    model.eval()
    assert torch.equal(net(x), run(model, x)[0])
    assert torch.equal(net(constant), run(model, constant)[0])


def test_the_model_stays_as_it_is_and_the_copy_learns_apart() -> None:
    recurrent = two(**R)
    rng = torch.get_rng_state()
    from_snntorch(recurrent, seed=0)  # the layers made for it draw weights, which are written over
    assert torch.equal(torch.get_rng_state(), rng)
    model = Tutorial(nn.Linear(4, 5), snn.Leaky(beta=0.9, learn_beta=True))
    x = grid_input(3, 2, 4)
    model(x)[0].sum().backward()
    mem, before, rng = model.lif1.mem, copy.deepcopy(model.fc0.state_dict()), torch.get_rng_state()
    net = from_snntorch(model, x, seed=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.lif1.mem is mem and mem.any()
    assert net.layers[0].weight.grad is None
    with torch.no_grad():
        net.layers[0].weight.add_(1)
        net.layers[1].decay.beta.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in model.fc0.state_dict().items())
    assert model.lif1.beta.item() == pytest.approx(0.9)
    assert not model.fc0._forward_hooks and not model.fc0._forward_pre_hooks


def test_a_pathway_and_a_constraint_can_be_given() -> None:
    model = nn.Sequential(nn.Linear(6, 8), snn.Leaky(beta=0.9), nn.Linear(8, 3), snn.Leaky(beta=0.9))
    net = from_snntorch(model, pathway=sc.SignSymmetry(magnitude="fixed"), constraint=sc.Dale(), seed=0)
    assert net.violations() == 0 and net.layers[2].feedback_weight is not None
    again = from_snntorch(model, pathway=sc.SignSymmetry(magnitude="fixed"), seed=0)
    assert torch.equal(again.layers[2].weight, model[2].weight)


def test_frozen_parameters_stay_frozen() -> None:
    lif = snn.Leaky(beta=0.9, learn_beta=True, learn_threshold=True)
    lif.beta.requires_grad_(False)
    lif.threshold.requires_grad_(False)
    model = nn.Sequential(nn.Linear(2, 3), lif)
    model[0].weight.requires_grad_(False)
    net = from_snntorch(model)
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["layers.0.bias"]
    assert isinstance(net.layers[1].decay, Factor) and net.layers[1].decay.fixed == float(lif.beta)


class Wired(nn.Module):
    """Models that are no plain chain, by name."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc1, self.lif1 = nn.Linear(4, 4), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(4, 4), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        how, out = self.how, []
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        if how == "start":
            mem1 = torch.ones(2, 4)
        if how == "before":
            x = self.fc1(x)
        torch.rand(3)
        if how == "encoded":
            x = spikegen.rate(x[0], num_steps=3)
        if how == "masked":
            x = F.dropout(x, training=self.training)
        if how == "batch first":
            x = [x[:, t] for t in range(x.shape[1])]
        for t, now in enumerate(x):
            now = now[:, :4] if how == "part" else now
            cur = now if how == "before" else self.fc1(now * 2 if how == "scaled" else now)
            spk1, mem1 = self.lif1(cur, mem1)
            if how == "reset":
                mem1 = mem1 * 0.5
            if how == "in place":
                mem1 *= 0.5
            if how == "halved":
                spk1 *= 0.5
            if how == "detached":
                mem1 = mem1.detach()
            if how == "anew" and t == 1:
                mem1 = self.lif1.reset_mem()
            given = {"potential": mem1, "skip": spk1 + now, "around": now, "relu": F.relu(spk1)}.get(how, spk1)
            if how == "dropped":
                given = F.dropout(given.flatten(1), 0.25, self.training).to(x.dtype)
            spk2, mem2 = self.lif2(self.fc2(given), mem2)
            if how == "twice":
                spk2, mem2 = self.lif2(self.fc2(spk2), mem2)
            out.append(spk2)
        return torch.stack(out)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("scaled", "calls mul on its input"), ("encoded", "calls bernoulli on its input"),
        ("masked", "calls dropout on its input"), ("part", "calls __getitem__ on its input"),
        ("before", "order"), ("reset", "lif1 is not given"), ("in place", "mul_|imul|state"), ("halved", "imul|mul_"),
        ("detached", "lif1 is not given"), ("anew", "lif1 is not given the state"), ("start", "not start at rest"),
        ("potential", "fc2 reads the state of lif1"), ("skip", "add"), ("around", "unbind"), ("relu", "relu"),
        ("twice", "not called in one order"),
    ],
)  # fmt: skip
def test_what_is_no_plain_chain_is_refused(how: str, words: str) -> None:
    x = grid_input(3, 2, 4)
    with pytest.raises(ValueError, match=words):
        from_snntorch(Wired(how), x)
    model, rng = Wired("plain"), torch.get_rng_state()
    assert len(from_snntorch(model, x, seed=0).layers) == 4
    assert torch.equal(torch.get_rng_state(), rng)
    assert len(from_snntorch(Wired("batch first"), x.transpose(0, 1)).layers) == 4
    dropped = from_snntorch(Wired("dropped"), x).layers
    assert [type(layer) for layer in dropped] == [sc.Linear, sc.LIF, nn.Dropout, sc.Linear, sc.LIF]
    assert dropped[2].p == 0.25


def two(**options: Any) -> nn.Sequential:
    kind = options.pop("kind", snn.Leaky)
    return nn.Sequential(nn.Linear(3, 3), kind(**{"beta": 0.9, **options}))


def shared() -> nn.Sequential:
    fc = nn.Linear(3, 3)
    return nn.Sequential(fc, snn.Leaky(beta=0.5), fc, snn.Leaky(beta=0.5))


def reset_later() -> nn.Sequential:
    model = two()
    model[1].reset_mechanism = "zero"
    return model


def hooked() -> nn.Sequential:
    model = two()
    model[0].register_forward_hook(lambda *_: None)
    return model


R = {"kind": snn.RLeaky, "linear_features": 3}
REFUSED = {
    "reset_delay=False": lambda: two(reset_delay=False),
    "one_hot|fires": lambda: two(inhibition=True),
    "state_quant": lambda: two(state_quant=lambda v: v),
    "surrogate_disable": lambda: two(surrogate_disable=True),
    r"threshold.requires_grad_\(False\)": lambda: two(learn_threshold=True),
    "share one": lambda: two(threshold=torch.rand(3) + 1),
    "graded_spikes_factor": lambda: two(graded_spikes_factor=2.0),
    "surrogate triangular": lambda: two(spike_grad=surrogate.triangular()),
    "surrogate heaviside": lambda: two(spike_grad=surrogate.heaviside()),
    "surrogate spike_rate_escape": lambda: two(spike_grad=surrogate.spike_rate_escape()),
    "surrogate SFS": lambda: two(spike_grad=surrogate.SFS()),
    "surrogate custom_surrogate": lambda: two(spike_grad=surrogate.custom_surrogate(lambda a, b, c: b)),
    "difference of two currents": lambda: two(kind=snn.Alpha, alpha=0.95),
    "Lapicque": lambda: two(kind=snn.Lapicque),
    "linear right before": lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(), snn.RLeaky(0.9, linear_features=3)),
    "recurrent convolution": lambda: nn.Sequential(nn.Linear(3, 3), snn.RLeaky(0.9, conv2d_channels=1, kernel_size=3)),
    "learns V": lambda: two(kind=snn.RLeaky, all_to_all=False, V=torch.rand(3)),
    "fails or changes nothing": lambda: two(
        kind=snn.RSynaptic, alpha=0.5, linear_features=3, reset_delay=False, reset_mechanism="zero"
    ),
    "two places": shared,
    "with which it still runs": reset_later,
    "hooks": hooked,
    "Tanh": lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh()),
    "no layer": nn.Sequential,
    "indices": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, return_indices=True)),
    "affine": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)),
    "give a sample": lambda: Wired("plain"),
    "Give a sample|give a sample": lambda: nn.Sequential(nn.Linear(4, 4), Wired("plain")),
}


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.filterwarnings("ignore:Inhibition is an unstable")
def test_what_has_no_equal_is_refused_with_the_reason(words: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){words}"):
        from_snntorch(REFUSED[words]())


def test_potentials_that_differ_are_not_handed_out() -> None:
    for options in ({"reset_delay": False, "reset_mechanism": "zero"}, R):
        with pytest.raises(ValueError, match="read='potentials'"):
            from_snntorch(two(**options), read="potentials")
    with pytest.raises(ValueError, match="read is"):
        from_snntorch(two(), read="mem")


def test_the_sigmoid_of_snntorch_is_nan_far_below_the_threshold_and_ours_is_not() -> None:
    """A known difference: exp overflows there, and inf / inf is no gradient."""
    model = two(spike_grad=surrogate.sigmoid(slope=25))
    x = torch.full((1, 1, 3), -50.0)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    net = from_snntorch(model)
    net(x).sum().backward()
    model[1](model[0](x[0]))[0].sum().backward()
    assert model[0].weight.grad.isnan().any()
    assert net.layers[0].weight.grad.isfinite().all()


def test_a_missing_snntorch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    model = two()
    monkeypatch.setitem(sys.modules, "snntorch", None)
    with pytest.raises(ImportError, match=r"spikecredit\[snntorch\]"):
        from_snntorch(model)

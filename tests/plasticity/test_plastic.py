"""Rules that drive the layers of a running network: against the reference engine on the spikes that were seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plasticity_cases import MS, TRACES
from torch import Tensor

import spikecredit as sc
from spikecredit.plasticity import CustomRule, DeltaRule, Equations, ErrorSTDP, Plastic, TripletSTDP
from spikecredit.plasticity.engines import ENGINES, Stimulus
from spikecredit.plasticity.engines.batched import Batch

REFERENCE = ENGINES["reference"]()
STEPS = 120


def spikes(batch: int, n: int, seed: int = 0, rate: float = 0.1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, batch, n, generator=g, dtype=torch.float64) < rate).double()


def layer_net(n_in: int = 4, n_out: int = 3, seed: int = 0, **more: object) -> sc.Network:
    net = sc.Network(sc.Linear(n_in, n_out, bias=False), sc.LIF(tau=5.0), seed=seed, **more).double()
    with torch.no_grad():
        net.layers[0].weight.mul_(3.0).abs_()
        net.layers[0].weight[:, 0] *= -1
    return net


def expected(equations: Equations, pre: Tensor, post: Tensor, w: Tensor) -> np.ndarray:
    """Every synapse of one sample by itself: pre (T, n_in), post (T, n_out), w (n_out, n_in)."""
    n_out, n_in = w.shape
    times = [[np.nonzero(s[:, i].numpy())[0].astype(float) for i in range(s.shape[1])] for s in (pre, post)]
    stimulus = Stimulus(
        tuple(times[0][i] for _ in range(n_out) for i in range(n_in)),
        tuple(times[1][j] for j in range(n_out) for _ in range(n_in)), float(STEPS - 1),
    )  # fmt: skip
    return REFERENCE(equations, stimulus, start={"w": w.numpy().reshape(-1, 1)}).after.reshape(n_out, n_in)


@pytest.mark.parametrize(
    ("rule", "signed"),
    [(TripletSTDP(), True), (CustomRule(text=TRACES), False), (CustomRule(text=replace(TRACES, bounds={})), True)],
    ids=["triplet", "delayed, bounded", "delayed"],
)
def test_each_synapse_changes_as_by_itself_on_the_spikes_that_it_saw(rule: CustomRule, signed: bool) -> None:
    net, x = layer_net(), spikes(1, 4, rate=0.3)
    first = net.layers[0].weight.detach().clone()
    before, sign = (first, torch.ones(())) if signed else (first.abs(), first.sign())
    out = Plastic(net, {"layers.0": rule}, scale=0.5, signed=signed)(x)
    assert out.sum() > 10  # its neurons fire, so that both halves of the rule are at work
    wanted = expected(rule.equations(), x[:, 0], out[:, 0], before / 0.5)
    np.testing.assert_allclose((net.layers[0].weight * sign / 0.5).detach().numpy(), wanted, rtol=1e-12, atol=1e-12)
    assert np.abs(wanted - (before / 0.5).numpy()).max() > 1e-3


def test_weights_at_work_are_those_of_the_step() -> None:
    """The network is run with weights that change: its output differs from that of the weights before and after."""
    net, x = layer_net(seed=1), spikes(1, 4, 1, rate=0.4)
    first = net(x)
    during = Plastic(net, {"layers.0": TripletSTDP(A3_plus=0.2)})(x)
    assert not torch.equal(during, first) and not torch.equal(during, net(x))
    assert torch.equal(during[:3], first[:3])


def test_samples_of_a_batch_are_averaged() -> None:
    net, x = layer_net(), spikes(5, 4, rate=0.3)
    before = net.layers[0].weight.detach().clone()
    rule = TripletSTDP(A3_plus=1e-9, A2_plus=1e-9, A2_minus=1e-9, A3_minus=1e-9)  # too small to change a spike
    out = Plastic(net, {"layers.0": rule}, signed=True)(x)
    each = [expected(rule.equations(), x[:, b], out[:, b], before) - before.numpy() for b in range(5)]
    np.testing.assert_allclose((net.layers[0].weight - before).detach().numpy(), np.mean(each, axis=0), atol=1e-15)
    assert np.abs(each).max() > 1e-9


def test_dales_law_is_kept_under_depression_that_would_cross_zero() -> None:
    net = sc.Network(
        sc.Linear(10, 30), sc.LIF(tau=5.0), sc.Linear(30, 20), sc.LIF(tau=5.0), constraint=sc.Dale(), seed=0
    )  # fmt: skip
    signs = net.layers[2].weight.detach().sign()
    rule = TripletSTDP(A2_minus=2.0, A3_plus=0.3)
    Plastic(net, {"layers.2": rule})(spikes(2, 10, rate=0.5).float())
    after = net.layers[2].weight.detach()
    assert net.violations() == 0 and bool((after * signs >= 0).all())
    assert (after == 0).any() and (after.abs() > 0).any()


def test_the_error_comes_by_the_pathway() -> None:
    for pathway in (sc.Backprop(), sc.FeedbackAlignment(), sc.SignSymmetry(magnitude="fixed")):
        net = sc.Network(
            sc.Linear(4, 6), sc.LIF(), sc.Linear(6, 5), sc.LIF(), sc.Linear(5, 3), pathway=pathway, seed=0
        )  # fmt: skip
        plastic = Plastic(net, {"layers.0": ErrorSTDP(), "layers.4": DeltaRule()})
        e = torch.randn(2, 3)
        found = plastic.delivered(e)
        B = [net.layers[k].pathway.feedback(net.layers[k]) for k in (4, 2)]
        torch.testing.assert_close(found[4], e)
        torch.testing.assert_close(found[2], e @ B[0])
        torch.testing.assert_close(found[0], e @ B[0] @ B[1])
        assert torch.equal(B[0], net.layers[4].weight) == isinstance(pathway, sc.Backprop)


@pytest.mark.parametrize("late", [0, 7])
def test_the_delta_rule_by_hand(late: int) -> None:
    """dw = -eta sum_t x(t) e(t - late) dt, x the trace of presynaptic spikes before the step."""
    net, x = sc.Network(sc.Linear(4, 3, bias=False), seed=0).double(), spikes(2, 4, rate=0.3)
    before, labels = net.layers[0].weight.detach().clone(), torch.tensor([0, 2])
    eta = 1e-9  # so that outputs are those of the first weights
    Plastic(net, {"layers.0": DeltaRule(tau_x=20.0, eta=eta)}, signed=True, delay=float(late))(x, labels)
    out = x @ before.T
    e = torch.softmax(out, -1) - torch.nn.functional.one_hot(labels, 3).double()
    trace, wanted = torch.zeros(2, 4, dtype=torch.float64), torch.zeros_like(before)
    for t in range(STEPS):
        if t >= late:
            wanted -= eta * 1e-3 * torch.einsum("bo,bi->oi", e[t - late], trace) / 2
        trace = trace * np.exp(-1 / 20) + x[t]
    torch.testing.assert_close(net.layers[0].weight.detach() - before, wanted, rtol=1e-5, atol=0)


def test_an_eligibility_bridges_a_late_error() -> None:
    """Spikes in the first 40 ms, the error of an output at rest 30 ms late: a short eligibility is gone by then."""
    changes = {}
    for tau_c in (5.0, 100.0):
        net, x = layer_net(), spikes(1, 4, rate=0.4)
        x[40:] = 0
        before = net.layers[0].weight.detach().clone()
        rule = ErrorSTDP(tau_c=tau_c, eta=1e-6)
        Plastic(net, {"layers.0": rule}, signed=True, delay=70.0)(x, torch.tensor([1]))
        changes[tau_c] = float((net.layers[0].weight.detach() - before).abs().max())
    assert changes[100.0] > 100 * changes[5.0] > 0


def test_rewards_reach_the_samples_that_get_them() -> None:
    equations = Equations("w : 1\ndx/dt = -x/tau : 1", "x += 1", "", "w += x", parameters={"tau": MS})
    x = torch.zeros(STEPS, 2, 4, dtype=torch.float64)
    x[10, :, 0] = 1
    reward = torch.zeros(STEPS, 2, dtype=torch.bool)
    reward[30, 1] = True
    net = layer_net()
    before = net.layers[0].weight.detach().clone()
    Plastic(net, {"layers.0": CustomRule(text=equations)}, signed=True)(x, reward=reward)
    change = net.layers[0].weight.detach() - before
    assert change[:, 0].tolist() == pytest.approx([np.exp(-1) / 2] * 3) and change[:, 1:].abs().max() == 0


def test_a_small_task_is_learned() -> None:
    """Two groups of inputs, one of which fires: readout and hidden layer learn from errors sent by random weights."""
    torch.manual_seed(0)
    net = sc.Network(sc.Linear(20, 30), sc.LIF(tau=10.0), sc.Linear(30, 2), sc.LeakyReadout(tau=10.0),
                     pathway=sc.FeedbackAlignment(), seed=3)  # fmt: skip
    plastic = Plastic(net, {"layers.0": ErrorSTDP(eta=0.05), "layers.2": DeltaRule(eta=1.0)}, signed=True)
    g = torch.Generator().manual_seed(0)

    def some(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (n,), generator=g)
        rate = torch.where(labels[:, None] == (torch.arange(20) % 2), 0.3, 0.1)
        return (torch.rand(40, n, 20, generator=g) < rate).float(), labels

    for _ in range(40):
        plastic(*some(8))
    x, labels = some(200)
    assert (net(x).mean(0).argmax(-1) == labels).float().mean() > 0.9


def test_refusals_say_what_to_write() -> None:
    net = sc.Network(sc.Flatten(), sc.Linear(4, 3), sc.LIF(), sc.Linear(3, 2), sc.LeakyReadout(), seed=0)
    with pytest.raises(ValueError, match=r"'layer\.1' is no dense layer.*did you mean 'layers\.1'"):
        Plastic(net, {"layer.1": TripletSTDP()})
    with pytest.raises(ValueError, match=r"layers\.3: TripletSTDP reads postsynaptic spikes.*DeltaRule"):
        Plastic(net, {"layers.3": TripletSTDP()})
    text = Equations("w : 1", "w += u/mV", signals={"u": ("mV", "post")})
    with pytest.raises(ValueError, match="reads the signal 'u'"):
        Plastic(net, {"layers.1": CustomRule(text=text)})
    graded = sc.Network(sc.Linear(4, 3), sc.HardSigmoid(), sc.Linear(3, 2), sc.LIF(), seed=0)
    with pytest.raises(ValueError, match=r"layers\.2 reads HardSigmoid, whose output is no spikes"):
        Plastic(graded, {"layers.2": TripletSTDP()})
    with pytest.raises(ValueError, match="scale is the weight"):
        Plastic(net, {"layers.1": TripletSTDP()}, scale=0.0)
    with pytest.raises(ValueError, match="delay is a whole number of steps of 2 ms"):
        Plastic(net, {"layers.1": ErrorSTDP()}, dt=2.0, delay=3.0)
    with pytest.raises(ValueError, match="give the labels"):
        Plastic(net, {"layers.1": ErrorSTDP()})(spikes(1, 4).float()[..., None])
    with pytest.raises(ValueError, match=r"takes spikes, 0 or 1.*sc\.encode\.rate"):
        Plastic(net, {"layers.1": TripletSTDP()})(spikes(1, 4).float()[..., None] * 0.5)
    derived = Equations("w = 2*rho : 1\nrho : 1", "rho += 1")
    with pytest.raises(ValueError, match="computed from other variables"):
        Batch(derived, 2, 1, 1, shared=True)

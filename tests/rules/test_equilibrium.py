"""Equilibrium propagation as a rule: what it writes to `.grad`, what it predicts, what it refuses."""

import pytest
import tiny
import torch
from relaxing import batch, dense, flat

import spikecredit as sc
from spikecredit.cli import CONFIGS
from spikecredit.equilibrium import (
    Centred,
    Gibbs,
    Hopfield,
    OneSided,
    RandomSign,
    SigmaDelta,
    Spikes,
    SquaredError,
    Sweeps,
    gradient,
    settle,
)
from spikecredit.losses import MeanPotential, PerStep
from spikecredit.losses import SquaredError as SquaredErrorLoss
from spikecredit.rules import EquilibriumPropagation
from spikecredit.training.experiment import load_experiment
from spikecredit.training.loop import Trainer

RULE = EquilibriumPropagation(Centred(1e-2), Hopfield(0.7), Sweeps(60, 40))
CONFIG = (
    "rule={kind: equilibrium, relaxation: {free: 15, nudged: 10}}", "neuron=hard_sigmoid", "readout=identity",
    "encoder={kind: constant, steps: 1}", "loss=squared_error",
)  # fmt: skip


def test_gradients_are_added_to_what_is_there_and_the_loss_is_that_of_the_free_phase():
    net, (x, y) = dense(), batch()
    found, settled = gradient(net, x, y, SquaredError(), RULE.energy, RULE.relaxation, RULE.estimator)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    free = settled.activities
    value, out = RULE.gradients(net, x[None], y, SquaredErrorLoss())
    assert torch.equal(out, free[-1][None]) and float(value) == pytest.approx(
        float(SquaredError()(free[-1], y).mean()), rel=1e-12
    )
    grads = flat([p.grad - 1 for p in net.parameters()])
    torch.testing.assert_close(grads, flat([t for pair in found.values() for t in pair]), rtol=0, atol=1e-12)
    assert torch.equal(RULE.predict(net, x[None].expand(3, -1, -1)), out)
    assert not torch.equal(net(x[None])[-1], out[-1])  # it is no forward pass


def test_a_parametrised_weight_gets_its_gradient_by_the_chain_rule_and_a_learned_b_that_of_its_w():
    x, y = batch()
    constraint = sc.Dale(mode="reparametrize", magnitude="exp", sensory="exempt")
    torch.manual_seed(0)
    layers = [sc.Linear(20, 12), sc.Logistic(), sc.Linear(12, 10)]
    net = sc.Network(*layers, pathway=sc.FeedbackAlignment(), constraint=constraint, seed=0).double()
    found, _ = gradient(net, x, y, SquaredError(), RULE.energy, RULE.relaxation, RULE.estimator)
    RULE.gradients(net, x[None], y, SquaredErrorLoss())
    effective = net.layers[2].effective_weight().detach()  # |W| = exp(p): dW/dp = W
    torch.testing.assert_close(net.layers[2].weight.grad, found["layers.2"][0] * effective, rtol=1e-12, atol=0)
    assert (found["layers.2"][0] != 0).any()

    net = dense(pathway=sc.KolenPollack())
    RULE.gradients(net, x[None], y, SquaredErrorLoss())
    for layer in (net.layers[2], net.layers[4]):
        assert torch.equal(layer.feedback_weight.grad, layer.weight.grad) and layer.weight.grad.any()


DIGITS = (
    "rule.relaxation={free: 8, nudged: 6}",
    "training.optimizer={kind: adamw, lr: 0.003}",
    "network={kind: mlp, hidden: [100]}",
)


@pytest.mark.parametrize("pathway", ["backprop", "feedback_alignment", "sign_symmetry", "kolen_pollack"])
def test_it_learns_the_digits_from_a_configuration(pathway):
    experiment = load_experiment(
        CONFIGS / "demo.yaml",
        (*CONFIG, *DIGITS, f"pathway={pathway}", "training.epochs=5", "training.patience=null", "training.measure=0"),
    ).value
    data = experiment.data.load()
    trainer = Trainer(experiment, data, log=lambda line: None)
    trainer.train()
    assert trainer.evaluate(data.validation, "validation")[1] > 0.9


def test_it_keeps_dales_law_with_feedback_of_its_own():
    pathway = "pathway={kind: sign_symmetry, threshold: 0.5}"
    trainer = tiny.trainer(*CONFIG, pathway, "constraint=dale", "training.epochs=10")
    trainer.fit()
    assert trainer.net.violations() == 0
    assert trainer.history[-1]["train_loss"] < 0.8 * trainer.history[1]["train_loss"]


def test_a_random_sign_comes_from_the_noise_that_is_given():
    net, (x, y) = dense(), batch()
    rule = EquilibriumPropagation(RandomSign(0.3), relaxation=Sweeps(60, 40))
    grads = []
    for seed in (0, 0, 1, 2, 3, 4):
        net.zero_grad()
        rule.gradients(net, x[None], y, SquaredErrorLoss(), noise=torch.Generator().manual_seed(seed))
        grads.append(flat([p.grad for p in net.parameters()]))
    assert torch.equal(grads[0], grads[1])
    assert any(not torch.allclose(grads[0], g) for g in grads[2:])


def test_dale_on_symmetric_weights_is_refused_with_the_reason():
    net = sc.Network(sc.Linear(4, 5), sc.HardSigmoid(), sc.Linear(5, 3), constraint=sc.Dale(), seed=0)
    with pytest.raises(ValueError, match="one weight in both directions would give a neuron that excites and one that"):
        RULE.check(net)
    RULE.check(sc.Network(sc.Linear(4, 3), constraint=sc.Dale(), seed=0))  # the first layer sends nothing back


@pytest.mark.parametrize(
    "pathway",
    [
        sc.DirectFeedbackAlignment(), sc.NoisyBackprop(), sc.WeightMirror(), sc.Antiparallel(),
        sc.FeedbackAlignment(error=sc.SignOnly()),
    ],
)  # fmt: skip
def test_pathways_that_are_more_than_a_matrix_are_refused(pathway):
    net = sc.Network(sc.Linear(4, 5), sc.HardSigmoid(), sc.Linear(5, 3), pathway=pathway, seed=0)
    with pytest.raises(ValueError, match="takes a matrix from each layer to the one before it"):
        RULE.check(net)


def test_inputs_and_losses_that_it_cannot_use_are_refused():
    net, (x, y) = dense(), batch()
    with pytest.raises(ValueError, match="relaxes on one input, got 2 that may differ"):
        RULE.gradients(net, torch.stack([x, x]), y, SquaredErrorLoss())
    with pytest.raises(ValueError, match="has that of squared_error and of mean_potential"):
        RULE.gradients(net, x[None], y, PerStep())
    with pytest.raises(ValueError, match="has no place in an equilibrium network"):
        tiny.trainer(*CONFIG[:1])  # LIF neurons


@pytest.mark.parametrize("loss", [SquaredErrorLoss(), MeanPotential()])
def test_both_losses_give_the_gradient_of_what_they_say(loss):
    """The derivative of the loss of the prediction, by differences."""
    net, (x, y) = dense(), batch()
    rule = EquilibriumPropagation(Centred(1e-3), relaxation=Sweeps(400, 200))
    rule.gradients(net, x[None], y, loss)
    weight = net.layers[2].weight
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight[3, 4] += step
            values.append(float(loss(rule.predict(net, x[None]), y)))
            weight[3, 4] -= step
    assert float(weight.grad[3, 4]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_squared_error_is_half_a_squared_distance():
    out = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 4.0]]])  # (T, B, classes): means (2, 1), (0, 2)
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(SquaredErrorLoss().of_samples(out, labels), torch.tensor([1.0, 0.5]))
    assert float(SquaredErrorLoss()(out, labels)) == 0.75
    assert not OneSided().nodes()[1].moves


@pytest.mark.parametrize(
    ("relaxation", "unit", "spiking"),
    [
        (Sweeps(12, 4), sc.HardSigmoid, False),
        (SigmaDelta(12, 4), sc.HardSigmoid, True),
        (Spikes(12, 4), sc.LIF, True),
    ],
)
def test_what_is_recorded_is_the_free_phase(relaxation, unit, spiking):
    """Not a forward pass, which such a network never makes."""
    net, (x, _) = dense(unit), batch()
    rule = EquilibriumPropagation(relaxation=relaxation)
    outputs, are_spikes = rule.recorded(net, x[None])
    assert are_spikes == spiking and list(outputs) == ["layers.1", "layers.3", "layers.5"]
    settled = settle(net, x, relaxation=relaxation)
    for out, activity, trace in zip(
        outputs.values(), settled.activities, getattr(settled.state, "trace", settled.activities), strict=True
    ):
        assert out.shape == (12, *activity.shape)
        if not spiking:
            assert torch.equal(out[-1], activity)
            continue
        assert set(out.unique().tolist()) == {0.0, 1.0}
        again = torch.zeros_like(activity)  # the traces, from the spikes alone
        for t, z in enumerate(out, 1):
            lam = relaxation.lam / t**relaxation.lam_decay if isinstance(relaxation, SigmaDelta) else 1 / relaxation.tau
            again += lam * (z - again)
        torch.testing.assert_close(again, trace, rtol=0, atol=1e-12)


def test_a_run_by_spikes_reports_its_spikes_and_its_angles():
    config = tuple(c.replace("free: 15", "kind: sigma_delta, free: 15") for c in CONFIG if "readout" not in c)
    trainer = tiny.trainer(*config, "readout=hard_sigmoid", "training.measure=8")
    trainer.fit()
    last = [line for line in trainer.history if line["event"] == "epoch"][-1]
    assert trainer.result["spikes_per_neuron"] > 0.1
    assert {name for name, layer in last["activity"].items() if layer["rate"] > 0} == set(last["activity"]) != set()
    hidden, output = last["layers"].values()
    assert 0 < hidden["error_angle"] < 85 and 0 < output["error_angle"] < 60
    assert hidden["error_norm"] > 0 and hidden["true_error_norm"] > 0


def test_measuring_a_machine_of_samples_draws_from_no_global_generator():
    net, (x, y) = dense(last=False), batch()
    rule = EquilibriumPropagation(relaxation=Gibbs(free=12))
    before = torch.get_rng_state()
    assert rule.errors(net, x[None], y, SquaredErrorLoss()) == {}
    rule.recorded(net, x[None])
    rule.predict(net, x[None])
    assert torch.equal(torch.get_rng_state(), before)

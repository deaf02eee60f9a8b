"""Every rule of traces gives the same weights on the three engines, and at off-grid times the reference is exact."""

import math
from dataclasses import replace

import numpy as np
import pytest

from spikecredit.plasticity import (
    RULES,
    BennaFusi,
    BoxSTDP,
    Cascade,
    DopamineSTDP,
    Equations,
    HeterosynapticSTDP,
    InhibitorySTDP,
    PairSTDP,
    RewardSTDP,
    RuleError,
    SuppressionSTDP,
    SynapticScaling,
    TsodyksMarkram,
)
from spikecredit.plasticity.engines import ENGINES, Stimulus
from spikecredit.plasticity.pair import SCHEMES

TRACES = [
    *(PairSTDP(scheme=s) for s in SCHEMES),
    *(PairSTDP(0.1, 0.12, mu_plus=m, mu_minus=n, w_max=2.0) for m, n in ((0, 0), (0.3, 0.3), (0, 1))),
    PairSTDP.preset("nest_power_law"),
    BoxSTDP(),
    SuppressionSTDP(),
    TsodyksMarkram(),
    TsodyksMarkram.preset("facilitating"),
    DopamineSTDP(),
    replace(DopamineSTDP.preset("izhikevich"), gain=3e4, w_max=1.2),
    RewardSTDP(),
    InhibitorySTDP(eta=0.05),
]


def random_stimulus(seed=0, conditions=3, duration=500.0, spikes=16):
    rng = np.random.default_rng(seed)

    def trains(n):
        return tuple(rng.choice(int(duration), n, replace=False).astype(float) for _ in range(conditions))

    return Stimulus(trains(spikes), trains(spikes), duration, trains(2))


def test_every_rule_is_registered_and_its_presets_are_themselves():
    for rule in RULES.values():
        for name in rule.PRESETS:
            assert rule.preset(name).published is not None
            rule.preset(name).equations()


@pytest.mark.parametrize("rule", TRACES, ids=lambda r: type(r).__name__)
def test_engines_agree_on_traces(rule):
    stimulus = random_stimulus()
    made = {name: engine()(rule.equations(), stimulus, dt=1.0) for name, engine in ENGINES.items()}
    after = made["reference"].after
    assert np.abs(after - made["reference"].before).min() > 0
    scale = np.abs(after).max()
    for name in ("torch", "brian"):
        np.testing.assert_allclose(made[name].after, after, rtol=0, atol=1e-9 * scale, err_msg=name)


@pytest.mark.parametrize(
    "rule", [SynapticScaling(beta=0.1), BennaFusi(alpha=0.02, beta=2.0), HeterosynapticSTDP(w_start=0.3, tau_cons=1.0)]
)
def test_continuous_rules_agree_and_converge_to_the_reference(rule):
    stimulus = random_stimulus()
    exact = ENGINES["reference"]()(rule.equations(), stimulus, dt=0.5).after
    coarse = ENGINES["torch"]()(rule.equations(), stimulus, dt=1.0).after
    fine = ENGINES["torch"]()(rule.equations(), stimulus, dt=0.5).after
    brian = ENGINES["brian"]()(rule.equations(), stimulus, dt=1.0).after
    np.testing.assert_allclose(brian, coarse, rtol=0, atol=1e-9)
    error, half = np.abs(coarse - exact).max(), np.abs(fine - exact).max()
    assert 0 < error < 0.02 * np.abs(exact).max()
    assert 0.4 < half / error < 0.6  # Euler's method: first order


def drawn(probability=0.3):
    return Equations(
        "w : 1\nd : 1\ndx/dt = -x/tau : 1",
        on_pre="x = 1",
        on_post="draw = rand()\nw += int(draw < p)\nd += draw",
        parameters={"p": (probability, "1"), "tau": (20.0, "ms")},
    )


@pytest.mark.parametrize("engine", list(ENGINES))
def test_rand_is_uniform_and_every_synapse_and_event_has_its_own(engine):
    times = np.arange(10.0, 210.0, 10.0)
    stimulus = Stimulus((times, times), (times, times), 220.0)
    made = ENGINES[engine]()(drawn(), stimulus, replicates=500, seed=3)
    n = 2 * 500 * len(times)
    assert abs(made.after.sum() / n - 0.3) < 4 * math.sqrt(0.21 / n)
    assert abs(made.state["d"].sum() / n - 0.5) < 4 / math.sqrt(12 * n)
    counts = made.after.ravel()
    assert abs(counts.var() - len(times) * 0.21) < 4 * len(times) * 0.21 * math.sqrt(2 / len(counts))  # independent
    again = ENGINES[engine]()(drawn(), stimulus, replicates=500, seed=3)
    np.testing.assert_array_equal(made.after, again.after)


def test_rand_makes_a_variable_the_synapses_own_and_is_refused_in_equations():
    equations = drawn()
    assert equations.places["d"] == "synapse" and equations.places["x"] == "pre"
    with pytest.raises(RuleError, match=r"rand\(\) belongs into statements"):
        Equations("w : 1\ndx/dt = -x/tau + rand()/tau : 1", parameters={"tau": (1.0, "ms")})
    with pytest.raises(RuleError, match=r"rand takes 0 value"):
        Equations("w : 1", on_pre="w += rand(2)")


def test_batch_draws_for_the_synapses_of_the_neurons_that_spiked():
    import torch

    from spikecredit.plasticity.engines.batched import Batch

    batch = Batch(drawn(0.5), 1, 4, 50)
    state = batch.start()
    spikes = torch.tensor([[True, False, True, False]])
    batch.step(state, post=spikes)
    assert (state["d"][0, 1::2] == 0).all()
    assert len(state["d"][0, 0::2].unique()) == 100


def test_cascade_has_one_state_of_each_kind_on_every_engine():
    stimulus = random_stimulus(spikes=40)
    for engine in ENGINES.values():
        made = engine()(Cascade(n=3).equations(), stimulus, replicates=50, seed=1)
        assert set(np.unique(made.state["s"])) == {-1.0, 1.0}
        assert set(np.unique(made.state["k"])) == {1.0, 2.0, 3.0}
        np.testing.assert_array_equal(made.after, (1 + made.state["s"]) / 2)


@pytest.mark.parametrize("name", ["e", "pi", "inf", "rand", "trace_pre", "trace_post"])
def test_names_that_brian_keeps_for_itself_are_refused(name):
    with pytest.raises(RuleError, match="choose another"):
        Equations(f"w : 1\nd{name}/dt = -{name}/tau : 1", parameters={"tau": (1.0, "ms")})


def test_units_are_written_as_brian_reads_them():
    from brian2 import Equations as Brian

    from spikecredit.plasticity.units import parse_unit

    for text in ("Hz/second", "1/mV", "mV**-2", "second**2", "second**-0.5"):
        Brian(f"x : {parse_unit(text)}")


def test_conditions_are_numbers_of_the_states_precision_in_torch():
    equations = Equations("w : 1", on_pre="w += a*int(w < 1)", parameters={"a": (0.1, "1")})
    stimulus = Stimulus((np.array([1.0]),), (np.empty(0),), 5.0)
    assert ENGINES["torch"]()(equations, stimulus).after[0, 0] == 0.1  # not float32's 0.1

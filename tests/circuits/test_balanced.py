"""The balanced networks behave as their papers say, and as themselves in torch."""

import brian2 as b2
import numpy as np
import pytest
import torch
from brian2 import ms
from brian_networks import DT, spikes_of

from spikecredit.circuits import balanced, from_brian


@pytest.fixture(autouse=True)
def clock() -> None:
    b2.defaultclock.dt = DT


SMALL = {"excitatory": 400, "connection": 0.25, "weight": 0.4}


def measured(**arguments: float) -> tuple[float, float, np.ndarray]:
    """Rate in Hz, irregularity, and spikes of all neurons in each ms, after 100 ms."""
    circuit = balanced.brunel(**SMALL, **arguments)
    b2.seed(1)
    circuit.network.run(300 * ms)
    steps = np.rint(np.asarray(circuit.spikes.t / DT)).astype(int)
    late = steps >= 1000
    rate = late.sum() / 500 / 0.2
    counts = np.bincount((steps[late] - 1000) // 10, minlength=200)
    return rate, balanced.irregularity(steps[late], np.asarray(circuit.spikes.i)[late]), counts


def test_brunels_regimes_differ_in_rate_and_irregularity_as_mean_field_theory_says() -> None:
    asynchronous = measured(g=5.0, drive=2.0)
    regular = measured(g=3.0, drive=2.0)
    assert abs(asynchronous[0] / balanced.brunel_rate(**SMALL, g=5.0, drive=2.0) - 1) < 0.1
    assert abs(regular[0] / balanced.brunel_rate(**SMALL, g=3.0, drive=2.0) - 1) < 0.1
    assert regular[1] < 0.25 and asynchronous[1] > 0.45
    assert regular[0] > 3 * asynchronous[0]


def test_the_mean_field_rate_has_its_known_limits() -> None:
    """Without recurrence-driven noise and far above threshold: 1 / (tau_rp + tau ln((mu - V_r) / (mu - theta)))."""
    nearly_silent = {"excitatory": 4_000_000, "weight": 1e-6, "connection": 1.0, "g": 4.0}
    expected = 1 / (0.002 + 0.02 * np.log((60 - 10) / (60 - 20)))
    assert abs(balanced.brunel_rate(drive=3.0, **nearly_silent) / expected - 1) < 1e-3
    assert balanced.brunel_rate(drive=0.5) < 1
    assert balanced.brunel_rate(g=3.0) > balanced.brunel_rate(g=4.0) > balanced.brunel_rate(g=5.0)


def test_brunels_network_is_wired_as_it_says() -> None:
    circuit = balanced.brunel(**SMALL, g=4.5, drive=0.9, seed=3)
    for synapses, inputs, w in ((circuit.excite, 100, 0.4e-3), (circuit.inhibit, 25, -4.5 * 0.4e-3)):
        assert np.all(np.bincount(synapses.j[:], minlength=500) == inputs)
        assert np.allclose(synapses.w_[:], w) and np.all(synapses.pre.delay_[:] == 1.5e-3)
        assert len({*zip(synapses.i[:].tolist(), synapses.j[:].tolist(), strict=True)}) == 500 * inputs
    assert circuit.excite.i[:].max() < 400 <= circuit.inhibit.i[:].min()
    assert len(circuit.excitatory) == 400 and len(circuit.inhibitory) == 100
    (external,) = (item for item in circuit.network.objects if isinstance(item, b2.PoissonInput))
    assert external.N == 100 and abs(float(external.rate) * 100 * 0.4e-3 * 0.02 / 0.02 - 0.9) < 1e-12
    assert np.array_equal(circuit.excite.i[:], balanced.brunel(**SMALL, seed=3).excite.i[:])
    assert not np.array_equal(circuit.excite.i[:], balanced.brunel(**SMALL, seed=4).excite.i[:])


def test_torch_simulates_brunels_network_with_its_own_poisson_input() -> None:
    circuit = balanced.brunel(excitatory=80, connection=0.5, weight=1.0)
    with torch.no_grad():
        ours = from_brian(circuit.network)(600, seed=0, batch=4).spikes["neurons"][200:]
    circuit.network.run(200 * ms)
    theirs = spikes_of(circuit.spikes, 2000)[200:]
    assert abs(float(ours.mean()) / theirs.mean() - 1) < 0.1


def test_cuba_is_active_irregular_and_the_same_in_torch() -> None:
    circuit = balanced.cuba(neurons=500)
    with torch.no_grad():
        ours = from_brian(circuit.network)(700).spikes["neurons"][:, 0].numpy().astype(bool)
    circuit.network.run(70 * ms)
    theirs = spikes_of(circuit.spikes, 700)
    np.testing.assert_array_equal(ours, theirs)
    assert 2 < theirs.mean() / 1e-4 < 50
    assert 60 < len(circuit.excite) / 500 < 68 and 14 < len(circuit.inhibit) / 500 < 18


def test_irregularity_of_a_clock_and_of_a_poisson_process() -> None:
    assert balanced.irregularity(np.arange(0, 100, 5), np.zeros(20, int)) == 0
    steps, neurons = np.nonzero(np.random.default_rng(0).random((20000, 40)) < 0.01)
    assert abs(balanced.irregularity(steps, neurons) - 1) < 0.03
    assert np.isnan(balanced.irregularity(np.array([1, 2]), np.array([0, 0])))
    assert not np.isnan(balanced.irregularity(np.array([1, 2, 4]), np.array([0, 0, 0]), least=3))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: balanced.brunel(excitatory=10), "multiple of 4"),
        (lambda: balanced.brunel(connection=0.0), "connection is a fraction"),
        (lambda: balanced.brunel(g=-1.0), "g must be above 0"),
        (lambda: balanced.brunel(drive=0.0), "drive must be above 0"),
        (lambda: balanced.brunel(weight=0.0), "weight must be above 0"),
        (lambda: balanced.cuba(neurons=99), "multiple of 5 and at least 100"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()

"""Brian2 and torch: the same spikes and the same potentials, bit for bit, on every kind of network."""

import math
import shutil

import brian2 as b2
import numpy as np
import pytest
import torch
from circuit_cases import NEURONS, assert_same, case, gridded, image, spikes
from hypothesis import given, settings
from hypothesis import strategies as st

import spikecredit as sc
from spikecredit.circuits import Circuit, to_brian
from spikecredit.circuits.objects import preferences

KINDS = {*NEURONS} - {"lif subtract", "lif none", "own tau"} | {
    "row", "maximum", "maximum at borders", "delays", "recurrent", "cells", "dann",
}  # fmt: skip
"""The others' circuits differ from these in indices and weights only, which test_circuit compares with the network."""


@pytest.mark.parametrize("name", sorted(KINDS))
def test_brian_has_the_spikes_and_potentials_of_torch(name):
    net, x, shape = case(name)
    circuit = Circuit.of(net, shape)
    here = circuit.run(x)
    assert all(0 < fired.double().mean() < 1 for fired in here.spikes.values())
    assert_same(here, to_brian(circuit, x).run())


@pytest.mark.parametrize("name", ["alif refractory", "delays", "cells"])
def test_under_brians_own_schedule_each_level_is_one_step_later(name):
    net, x, shape = case(name)
    circuit = Circuit.of(net, shape)
    here, there = circuit.run(x), to_brian(circuit, x, schedule="brian")
    assert_same(here, there.run())
    for population in circuit.populations:
        if (monitor := there.spike_monitors.get(population.name)) is not None:
            steps = np.rint(np.asarray(monitor.t / b2.ms)).astype(int)
            wanted = here.spikes[population.name].flatten(1).nonzero()[:, 0].numpy()
            last = len(x) + population.level
            assert np.array_equal(np.sort(steps[steps < last]), wanted + population.level)


@pytest.mark.parametrize("schedule", ["same_step", "brian"])
@pytest.mark.parametrize("still", [True, False])
def test_currents_are_injected_to_the_bit(schedule, still):
    torch.manual_seed(5)
    net = sc.Network(
        sc.Delay(1), sc.RecurrentLinear(6, 8, sc.CurrentLIF(tau=4.0)), sc.Linear(8, 3), sc.LeakyReadout(tau=3.0), seed=0
    )
    gridded(net)
    x = 3 * torch.rand(1 if still else 25, 3, 6).double().expand(25, 3, 6)
    circuit = Circuit.of(net, (6,))
    export = to_brian(circuit, x, schedule=schedule)
    assert export.input is None
    assert_same(circuit.run(x), export.run())


def test_a_picture_that_stands_still_is_a_constant_of_each_neuron():
    steady = Circuit.of(gridded(image(sc.Conv2d(1, 2, 3), sc.LIF(), features=72)), (1, 8, 8))
    pixels = sc.encode.constant(torch.rand(2, 1, 8, 8) * 3, 12)
    export = to_brian(steady, pixels)
    assert export.groups["lif1"].drive[:].any() and "injected" not in export.groups["lif1"].namespace
    assert_same(steady.run(pixels), export.run())


def test_ties_with_the_threshold_are_decided_alike_on_the_grid_and_not_without():
    """Weights that are multiples of 0.1 and a large fan-in: many sums lie within a rounding error of the threshold."""
    differs = 0
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = sc.Network(sc.Linear(256, 64, bias=False), sc.LIF(tau=1 / math.log(2)), seed=seed).double()
        net.layers[0].weight.data = torch.round(torch.randn(64, 256).double() * 2) / 10
        x = spikes(60, 1, 256, rate=0.1, seed=seed)
        circuit = Circuit.of(net, (256,))
        assert_same(circuit.run(x), to_brian(circuit, x, name=f"ties{seed}").run())
        _, u, _ = net.layers[1].run(x @ net.layers[0].weight.T)
        free = to_brian(Circuit.of(net, (256,), bits=None), x).run()
        differs += int((u != free.potentials["lif1"]).sum())
    assert differs > 100  # without the grid a matrix product and single events add up to different bits


def test_one_sample_has_no_batch_and_silence_is_no_special_case():
    net, x, shape = case("maximum")
    circuit = Circuit.of(net, shape)
    one = to_brian(circuit, x[:, 0]).run()
    assert one.output.shape == (30, 3) and one.spikes["pool1"].shape == (30, 36)
    assert_same(circuit.run(x[:, 0]), one)
    assert_same(circuit.run(0 * x), to_brian(circuit, 0 * x).run())
    assert_same(circuit.run(x), to_brian(net, x).run())


# ---- single neurons, by known answers


def one_neuron(neuron: sc.LIF, weight: float = 0.5, schedule: str = "same_step", steps: int = 24) -> list[int]:
    """The steps at which a neuron fires that gets one input spike at every step."""
    net = sc.Network(sc.Linear(1, 1, bias=False), neuron, seed=0).double()
    net.layers[0].weight.data.fill_(weight)
    circuit = Circuit.of(net, (1,))
    found = to_brian(circuit, torch.ones(steps, 1), schedule=schedule).run()
    assert_same(circuit.run(torch.ones(steps, 1)), found)
    return found.spikes["lif1"][:, 0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("refractory", [0, 2, 5])
def test_refractory_table(refractory):
    """Above threshold at every step, a neuron fires every max(1, k) steps, as Brian2's `refractory=k*dt` lets it."""
    held = one_neuron(sc.LIF(tau=1e9, reset="zero", refractory=refractory), 1.5)
    assert held == list(range(0, 24, max(1, refractory)))
    group = b2.NeuronGroup(
        1, "dv/dt = 1.5/ms : 1 (unless refractory)", threshold="v > 1", reset="v = 0", refractory=refractory * b2.ms,
        method="euler", dt=1 * b2.ms, name=f"native{refractory}",
    )  # fmt: skip
    monitor = b2.SpikeMonitor(group, name=f"native_spikes{refractory}")
    with preferences({"codegen.target": "numpy"}):
        b2.Network(group, monitor).run(24 * b2.ms)
    assert np.rint(np.asarray(monitor.t / b2.ms)).astype(int).tolist() == held


def test_input_is_lost_while_refractory():
    """0.5 a step without leak, threshold 1, reset by subtraction: fires at u = 1.5, then two steps are lost."""
    assert one_neuron(sc.LIF(tau=1e9, refractory=3)) == [2, 6, 10, 14, 18, 22]  # 1.5 - 1 + .5 = 1 at 5, 1.5 at 6
    assert one_neuron(sc.LIF(tau=1e9)) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]


@pytest.mark.parametrize("schedule", ["same_step", "brian"])
def test_no_input_is_lost_in_the_step_of_a_spike(schedule):
    """brian2 #1332: with `v += w` and `reset='v = 0'` in Brian2's default order, the input of the step in which a
    neuron fires is wiped by the reset: three inputs give two spikes. Ours waits in I for the next update: three."""
    assert one_neuron(sc.LIF(tau=1e9, reset="zero"), 1.1, schedule, steps=3) == [0, 1, 2]
    source = b2.SpikeGeneratorGroup(1, [0, 0, 0], [0, 1, 2] * b2.ms, dt=1 * b2.ms, name=f"lost_input_{schedule}")
    group = b2.NeuronGroup(1, "v : 1", threshold="v > 1", reset="v = 0", dt=1 * b2.ms, name=f"lost_{schedule}")
    synapses = b2.Synapses(source, group, on_pre="v_post += 1.1", name=f"lost_synapses_{schedule}")
    monitor = b2.SpikeMonitor(group, name=f"lost_spikes_{schedule}")
    with preferences({"codegen.target": "numpy"}):
        synapses.connect()
        b2.Network(source, group, synapses, monitor).run(5 * b2.ms)
    assert np.rint(np.asarray(monitor.t / b2.ms)).astype(int).tolist() == [1, 3]


# ---- random networks


LIFS = st.builds(
    sc.LIF,
    tau=st.floats(1.0, 20.0),
    threshold=st.sampled_from([0.3, 0.5, 1.0]),
    reset=st.sampled_from(["subtract", "zero", "none"]),
    refractory=st.integers(0, 3),
)


@settings(max_examples=5)
@given(
    first=LIFS, second=LIFS, seed=st.integers(0, 2**31), delay=st.integers(0, 4), recurrent=st.booleans(),
    brian=st.booleans(), rate=st.floats(0.05, 0.9),
)  # fmt: skip
def test_random_networks(first, second, seed, delay, recurrent, brian, rate):
    torch.manual_seed(seed)
    middle = [sc.RecurrentLinear(5, 7, second)] if recurrent else [sc.Linear(5, 7), second]
    net = sc.Network(sc.Linear(4, 5), first, sc.Delay(delay), *middle, sc.Linear(7, 2), sc.LeakyReadout(), seed=seed)
    circuit = Circuit.of(gridded(net, bits=30), (4,))
    x = spikes(20, 1, 4, rate=rate, seed=seed)
    assert_same(circuit.run(x), to_brian(circuit, x, schedule="brian" if brian else "same_step").run())


# ---- what an export is, and what it leaves alone


def test_two_exports_do_not_clash_and_nothing_global_changes():
    net, x, shape = case("lif zero")
    circuit = Circuit.of(net, shape)
    before = b2.prefs.as_file, b2.get_device(), float(b2.defaultclock.dt)
    one, two, three = to_brian(circuit, x), to_brian(circuit, x), to_brian(circuit, x, name="other", potentials=False)
    assert one.network is not two.network
    names = [o.name for o in one.network.objects]
    assert len(names) == len({*names}) and all(name.startswith("circuit_") for name in names)
    assert {"circuit_lif1", "circuit_lif1_to_lif2", "circuit_input", "circuit_lif2_spikes"} <= {*names}
    assert all(o.name.startswith("other_") for o in three.network.objects)
    with preferences({"codegen.target": "cython"}):
        a, b, c = one.run(), two.run(), three.run()
        assert b2.prefs["codegen.target"] == "cython"
    assert_same(a, b)
    assert not c.potentials and torch.equal(a.output, c.output)
    assert (b2.prefs.as_file, b2.get_device(), float(b2.defaultclock.dt)) == before
    with pytest.raises(RuntimeError, match="has run already"):
        one.run()


def test_objects_can_be_added_before_the_run():
    net, x, shape = case("lif subtract")
    export = to_brian(Circuit.of(net, shape), x[:, 0])
    counter = b2.PopulationRateMonitor(export.groups["lif1"], name="added_rate")
    export.network.add(counter)
    fired = export.run().spikes["lif1"].double().mean(1)
    assert np.allclose(np.asarray(counter.rate / b2.kHz), fired)
    assert export.synapses["lif1", "lif2"].w[0, 0] == net.layers[2].weight[0, 0]
    assert export.groups["lif1"].beta[0] == math.exp(-1 / 5.0)


def test_what_an_export_refuses():
    net, x, shape = case("lif subtract")
    circuit = Circuit.of(net, shape)
    with pytest.raises(ValueError, match="schedule must be one of 'same_step', 'brian', got 'late'"):
        to_brian(circuit, x, schedule="late")
    with pytest.raises(ValueError, match="target must be one of 'numpy', 'cpp_standalone', got 'cython'"):
        to_brian(circuit, x, target="cython")
    with pytest.raises(ValueError, match="prefix of Brian2's names"):
        to_brian(circuit, x, name="2 nets")
    with pytest.raises(ValueError, match="write target='cpp_standalone' too"):
        to_brian(circuit, x, directory="here")
    with pytest.raises(ValueError, match=r"x is \(T, B, \*in\).*give a circuit"):
        to_brian(net, x[:, 0])
    with pytest.raises(RuntimeError, match="exist only inside run"):
        _ = to_brian(circuit, x, target="cpp_standalone").network
    b2.set_device("cpp_standalone", build_on_run=False)
    try:
        with pytest.raises(RuntimeError, match=r"brian2\.set_device\('runtime'\)"):
            to_brian(circuit, x).run()
    finally:
        b2.set_device("runtime")
    to_brian(circuit, x).run()


@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("make") is None, reason="needs a C++ compiler and make")
def test_compiled_with_strict_flags_it_is_still_the_same(tmp_path):
    """Brian2's own flags change the last bits of hundreds of these potentials."""
    torch.manual_seed(3)
    net = gridded(sc.Network(sc.Linear(6, 8), sc.LIF(tau=5.0), sc.Linear(8, 3), sc.LeakyReadout(tau=4.0), seed=0))
    x = sc.encode.constant(3 * torch.rand(1, 6).double(), 300)
    circuit = Circuit.of(net, (6,))
    before = b2.prefs.as_file, b2.get_device()
    compiled = to_brian(circuit, x, target="cpp_standalone", directory=tmp_path / "built").run()
    assert_same(circuit.run(x), compiled)
    assert (tmp_path / "built" / "main.cpp").exists()
    assert (b2.prefs.as_file, b2.get_device()) == before
    assert_same(circuit.run(x[:20]), to_brian(circuit, x[:20]).run())  # and Brian2 goes on as before

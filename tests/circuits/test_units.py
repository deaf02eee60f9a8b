"""Volts and amperes: the spikes of the dimensionless circuit, and the physics of a membrane."""

import math

import brian2 as b2
import numpy as np
import pytest
import torch
from circuit_cases import assert_same, case, gridded

import spikecredit as sc
from spikecredit.circuits import Circuit, Units, read, to_brian
from spikecredit.circuits.objects import preferences
from spikecredit.circuits.units import nearest_power


@pytest.mark.parametrize("name", ["cells", "current refractory", "own taus"])
def test_with_powers_of_two_every_bit_is_that_of_the_dimensionless_circuit(name):
    net, x, shape = case(name)
    circuit = Circuit.of(net, shape)
    here = circuit.run(x)
    schedule = "brian" if name == "cells" else "same_step"
    assert_same(here, to_brian(circuit, x, schedule=schedule, units=Units(exact=True)).run())
    other = to_brian(circuit, x, units=Units(-65.0, -52.0, 90.0)).run()
    assert not any(here.differing_spikes(other).values())
    assert any(here.differing_potentials(other).values())  # what exact=True is for
    for key, u in here.potentials.items():
        assert torch.allclose(u, other.potentials[key], rtol=0, atol=1e-11)


def test_volts_amperes_and_farads_are_those_of_a_membrane():
    """A constant current I below threshold: V goes to V_rest + I tau / C, and threshold is v_threshold."""
    neurons = sc.LIF(tau=torch.tensor([3.0, 8.0]), shape=(2,), threshold=2.0)
    net = gridded(sc.Network(sc.Linear(1, 2), neurons, sc.Linear(2, 1), sc.LeakyReadout(tau=4.0), seed=0))
    net.layers[0].weight.data.fill_(0.125)
    net.layers[0].bias.data.fill_(0.0625)
    for units in (Units(-70.0, -54.0, 250.0), Units(-70.0, -54.0, 250.0, exact=True)):
        circuit = Circuit.of(net, (1,))
        export = to_brian(circuit, 0.9 * torch.ones(200, 1).double(), units=units)
        export.run()
        group = export.groups["lif1"]
        tau = np.array([3.0, 8.0]) * b2.ms
        current = group.bias[:] + group.drive[:]
        assert np.allclose(group.V[:] / b2.mV, (group.V_rest[:] + current * tau / group.C[:]) / b2.mV, rtol=1e-9)
        assert float(group.V_rest[:] / b2.mV) == pytest.approx(-70)
        threshold = float((group.V_rest[:] + group.theta[:]) / b2.mV)
        assert threshold == (pytest.approx(-54) if not units.exact else pytest.approx(-70 + 15.625))
        if not units.exact:
            assert np.allclose(group.C[:] / b2.pF, 250)
        else:
            assert not (np.log2(group.R[:] / b2.ohm) % 1).any() and not np.log2(float(group.theta[:] / b2.volt / 2)) % 1
            assert np.all((group.C[:] / b2.pF > 120) & (group.C[:] / b2.pF < 500))
        assert export.synapses["lif1", "readout1"].w[0] * export.groups["readout1"].R[0] / b2.mV == pytest.approx(
            net.layers[2].weight[0, 0].item() * (16 if not units.exact else 15.625)
        )


def test_it_is_brians_own_membrane_equation():
    """C dV/dt = -C / tau (V - V_rest) + I, integrated by Brian2 itself, while no neuron fires."""
    net = gridded(sc.Network(sc.Linear(1, 1, bias=False), sc.LIF(tau=6.0, threshold=2.0), seed=0))
    net.layers[0].weight.data.fill_(0.25)
    x = torch.rand(40, 1).double()
    export = to_brian(Circuit.of(net, (1,)), x, units=Units(), name="ours")
    export.run()
    injected = export.groups["lif1"].namespace["injected"]
    group = b2.NeuronGroup(
        1, "dV/dt = (V_rest - V)/tau + I/C : volt\nI : amp", method="exact", dt=1 * b2.ms, name="theirs",
        namespace={"V_rest": -70 * b2.mV, "tau": 6 * b2.ms, "C": 200 * b2.pF, "injected": injected},
    )  # fmt: skip
    group.V = -70 * b2.mV
    group.run_regularly("I = injected(t, 0)", when="start", name="theirs_current")
    monitor = b2.StateMonitor(group, "V", record=True, when="end", name="theirs_voltage")
    with preferences({"codegen.target": "numpy"}):
        b2.Network(group, monitor).run(40 * b2.ms)
    ours = export.groups["lif1"].V_rest[:] + export.state_monitors["lif1"].u[0]
    assert np.allclose(monitor.V[0] / b2.mV, ours / b2.mV, rtol=0, atol=1e-9)
    assert np.ptp(ours / b2.mV) > 1


def test_what_units_refuse():
    with pytest.raises(ValueError, match="v_threshold must be above v_rest"):
        Units(-50.0, -70.0)
    with pytest.raises(ValueError, match="capacitance is positive, in pF"):
        Units(capacitance=0.0)
    net, x, shape = case("lif subtract")
    with pytest.raises(ValueError, match="takes no export in physical units"):
        read(to_brian(Circuit.of(net, shape), x, units=Units()).network)
    assert [nearest_power(v) for v in (0.02, 1.0, 3.0, 2.8)] == [2**-6, 1.0, 4.0, 2.0]
    assert math.log2(nearest_power(1e-10)) == -33

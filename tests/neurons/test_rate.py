"""Rate units: functions of the current at each step, and the registry of neurons."""

import numpy as np
import pytest
import torch
from neuron_oracles import randn

from spikecredit.neurons import NEURONS, HardSigmoid, Neuron, ReLU

FUNCTIONS = {ReLU: lambda x: np.maximum(x, 0), HardSigmoid: lambda x: np.minimum(np.maximum(x, 0), 1)}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_values_gradient_and_streaming(kind):
    unit = kind()
    x = (1.5 * randn(8, 2, 3, seed=1)).requires_grad_()
    y = unit(x)
    assert np.array_equal(y.detach().numpy(), FUNCTIONS[kind](x.detach().numpy()))
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(g > 0, (x > 0) & ((x < 1) | (kind is ReLU)))  # the slope is 1 inside, 0 outside
    assert set(g.unique().tolist()) == {0.0, 1.0}
    out, state = unit.stream(x[:3])
    assert torch.equal(out, y[:3])
    assert state is None
    assert torch.equal(unit.stream(x[3:], state)[0], y[3:])
    assert unit.memoryless
    assert not unit.spiking
    assert not unit.state_dict()


@pytest.mark.parametrize("kind", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_and_input_are_kept(kind, dtype):
    x = randn(4, 2, 3, seed=1, dtype=dtype)
    before = x.clone()
    assert kind()(x).dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NEURONS)
def test_every_registered_neuron_keeps_the_contract(name):
    kinds = {"signs": torch.tensor([1, -1, 1])} if name == "ei_neurons" else {}
    neuron = NEURONS[name](**kinds)
    x = 0.3 + randn(10, 2, 3, seed=1, dtype=torch.float32)
    out, state = neuron.stream(x)
    assert isinstance(neuron, Neuron)
    assert out.shape == x.shape
    assert torch.equal(out, neuron(x))
    first, middle = neuron.stream(x[:4])
    last, end = neuron.stream(x[4:], middle)
    assert torch.equal(torch.cat([first, last]), out)
    assert type(end) is type(state)
    if neuron.spiking:
        assert set(out.unique().tolist()) == {0.0, 1.0}
    assert name.replace("_", "") == type(neuron).__name__.lower()

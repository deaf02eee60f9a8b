"""The axonal delay: known answers, streams, its place in a network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import spikecredit as sc


def test_what_comes_out_is_what_went_in_steps_before_and_zeros_at_first():
    x = torch.arange(1.0, 13).reshape(6, 1, 2)
    for steps in (0, 1, 4, 6, 9):
        y = sc.Delay(steps)(x)
        assert y.shape == x.shape
        assert torch.equal(y[steps:], x[: max(0, 6 - steps)])
        assert not y[:steps].any()


@given(steps=st.integers(0, 7), cut=st.integers(1, 5))
def test_a_stream_is_the_whole_sequence_however_it_is_split(steps: int, cut: int):
    x = torch.rand(6, 2, 3)
    layer = sc.Delay(steps)
    head, state = layer.stream(x[:cut])
    tail, state = layer.stream(x[cut:], state)
    assert torch.equal(torch.cat([head, tail]), layer(x))
    rest, _ = layer.stream(torch.zeros(steps + 1, 2, 3), state)
    assert torch.equal(rest[:steps], torch.cat([torch.zeros(steps, 2, 3), x])[6 : 6 + steps])


def test_gradients_arrive_as_late_as_the_signal_came():
    x = torch.rand(5, 1, 2, requires_grad=True)
    sc.Delay(2)(x)[3].sum().backward()
    assert torch.equal(x.grad.nonzero()[:, 0].unique(), torch.tensor([1]))


def test_in_a_network_a_constant_input_is_late_too():
    torch.manual_seed(0)
    layers = [sc.Linear(3, 4), sc.LIF(tau=3.0), sc.Linear(4, 2), sc.LeakyReadout()]
    x = sc.encode.constant(torch.rand(2, 3) * 5, steps=8)
    late = sc.Network(sc.Delay(3), *layers)(x)
    given = torch.cat([torch.zeros(3, 2, 3), x[:5]])
    assert torch.equal(late, sc.Network(*layers)(given))
    net = sc.Network(*layers[:2], sc.Delay(2), *layers[2:])
    head, state = net.stream(x[:3])
    tail, _ = net.stream(x[3:], state)
    assert torch.allclose(torch.cat([head, tail]), net(x), atol=1e-6)


def test_what_a_delay_refuses():
    for steps in (-1, 1.0, True):
        with pytest.raises(ValueError, match="whole number of time steps"):
            sc.Delay(steps)
    with pytest.raises(ValueError, match="the state has shape"):
        sc.Delay(2).stream(torch.rand(3, 2, 4), torch.rand(2, 1, 4))
    with pytest.raises(ValueError, match=r"\(T, B, \*N\)"):
        sc.Delay(2)(torch.rand(3))

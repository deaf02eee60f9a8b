"""Named streams of random numbers."""

import hashlib

import torch

from spikecredit.seeds import Noise, draw, generator, stream


def test_streams_have_known_values():
    """These numbers are part of every saved experiment: a change of them changes every result."""
    assert stream(0, "init") == int(hashlib.sha256(b"0/init").hexdigest()[:16], 16) // 2
    assert stream(0) == 0x5FECEB66FFC86F38 >> 1  # SHA-256 of "0"
    assert stream(7, "noise", "layers.Linear0", 3) == stream(7, "noise/layers.Linear0/3")
    values = [stream(seed, name, n) for seed in range(20) for name in ("a", "b") for n in range(20)]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 2**63 for value in values)


def uniform(source):
    return draw(source, "uniform", (4,), 0.0, 1.0, torch.float32, torch.device("cpu"))


def test_generators_start_at_the_beginning_of_their_stream():
    drawn = torch.rand(1000, generator=generator(3, "feedback"))
    assert torch.equal(drawn, torch.rand(1000, generator=generator(3, "feedback")))
    others = [generator(3, "noise"), generator(4, "feedback"), generator(3), generator(3, "feedback", 0)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([drawn, torch.rand(1000, generator=other)]))[0, 1]
        assert abs(correlation) < 5 / 1000**0.5


def test_noise_counts_its_draws_and_goes_on_where_it_was_saved():
    a, b = Noise(5), Noise(6)
    first, second = (uniform(a) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, uniform(generator(5, 1)))
    assert torch.equal(first, torch.rand(4, generator=generator(5, 1)))
    b.load_state_dict(a.state_dict())
    assert (b.seed, b.count) == (5, 2)
    assert torch.equal(uniform(a), uniform(b))
    assert not list(a.parameters())


def test_noise_keeps_the_largest_seed():
    a, b = Noise(2**63 - 1), Noise(0)
    b.load_state_dict(a.state_dict())
    assert b.seed == 2**63 - 1


def test_noise_without_a_seed_takes_one_at_the_first_draw():
    torch.manual_seed(1)
    wanted = torch.rand(2)
    torch.manual_seed(1)
    noise = Noise()
    assert torch.equal(torch.rand(2), wanted)
    uniform(noise)
    seed = noise.seed
    uniform(noise)
    assert noise.seed == seed is not None

"""Magnitudes from a table: the bits, the law, and the compiled loop against plain torch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikecredit.pathways import magnitudes
from spikecredit.pathways.magnitudes import scale_, splitmix64
from spikecredit.seeds import Noise, generator

MAGNITUDES = ("normal", "uniform")


def test_splitmix64_gives_the_published_words():
    """The first words of seed 1234567, which implementations of SplitMix64 are checked against."""
    words = [word % 2**64 for word in splitmix64(1234567, 5).tolist()]
    assert words == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def scaled(kind, seed, shape, high, dtype):
    """Ones times magnitudes: the first draw of a stream."""
    return scale_(torch.ones(shape, dtype=dtype), kind, high, Noise(seed))


@given(
    kind=st.sampled_from(MAGNITUDES),
    seed=st.integers(0, 2**63 - 1),
    shape=st.lists(st.integers(0, 9), max_size=4),
    high=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    axes=st.permutations(range(4)),
)
def test_the_compiled_loop_draws_what_torch_draws(kind, seed, shape, high, dtype, axes):
    values = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    order = [axis for axis in axes if axis < len(shape)]
    laid_out = values.permute(order).contiguous().permute([order.index(axis) for axis in range(len(shape))])
    compiled = scale_(values.clone(), kind, high, Noise(seed))
    other_layout = scale_(laid_out.clone(memory_format=torch.preserve_format), kind, high, Noise(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magnitudes, "_loops", lambda: None)
        plain = scale_(values.clone(), kind, high, Noise(seed))
    assert torch.equal(compiled, plain)
    assert torch.equal(compiled, other_layout)
    assert torch.equal(compiled, values * scaled(kind, seed, shape, high, dtype))


def law(kind, high, x):
    """The distribution function, in float64."""
    return torch.erf(x / (2**0.5 * high)) if kind == "normal" else (x / high).clamp(max=1)


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_magnitudes_have_their_law(kind):
    n, high = 10**6, 0.3
    drawn = scaled(kind, 5, (1000, 1000), high, torch.float64).flatten()
    values = law(kind, high, drawn.sort().values)
    distance = (values - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / n**0.5 + 2**-12  # Kolmogorov and Smirnov's, at 0.1 %
    second, fourth = (1, 3) if kind == "normal" else (1 / 3, 1 / 5)
    assert abs(drawn.square().mean() / high**2 - second) < 5 * (fourth - second**2) ** 0.5 / n**0.5


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_every_quantile_of_the_law_is_in_the_table(kind):
    table = magnitudes._quantiles(kind, 2.0, torch.float64)
    assert torch.equal(table, table.sort().values)
    wanted = (torch.arange(2**12, dtype=torch.float64) + 0.5) / 2**12
    # The normal's are divided by their root mean square, which lacks what lies beyond the last quantile.
    torch.testing.assert_close(law(kind, 2.0, table), wanted, rtol=0, atol=0.5 / 2**12)
    second = 1 if kind == "normal" else 1 / 3
    assert table.square().mean().item() == pytest.approx(4 * second, rel=1e-7)


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_magnitudes_know_nothing_of_their_neighbours_or_of_the_draw_before(kind):
    n, noise = 4 * 10**5, Noise(3)
    first, second = (scale_(torch.ones(n, dtype=torch.float64), kind, 1.0, noise) for _ in range(2))
    assert noise.count == 2
    lags = [torch.corrcoef(torch.stack([first[:-lag], first[lag:]]))[0, 1] for lag in (1, 2, 3, 4, 5, 8)]
    lags.append(torch.corrcoef(torch.stack([first, second]))[0, 1])
    assert max(abs(lag) for lag in lags) < 5 / n**0.5


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_a_generator_draws_magnitudes_too_and_goes_on(kind):
    source = generator(1)
    a, b = (scale_(torch.ones(50), kind, 1.0, source) for _ in range(2))
    assert not torch.equal(a, b)
    assert torch.equal(a, scale_(torch.ones(50), kind, 1.0, generator(1)))


def test_magnitudes_in_bfloat16():
    """numba has no such type: the plain form serves, with the same bits."""
    wide, narrow = (scaled("normal", 2, (999,), 1.0, dtype) for dtype in (torch.float64, torch.bfloat16))
    assert torch.equal(wide.to(torch.bfloat16), narrow)

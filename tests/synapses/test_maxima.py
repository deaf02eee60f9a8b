"""The compiled maxima: torch's own values and places, for every shape, and nothing written beyond a thread's part."""

import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import spikecredit as sc
from spikecredit.neurons.kernels import threads
from spikecredit.synapses import maxima_cpu, pooled

aten = torch.ops.aten
VALUES = [-torch.inf, -1.5, -0.0, 0.0, 0.5, 1.0, torch.inf, torch.nan]
DTYPES = [torch.float32, torch.bfloat16]


def innermost(y):
    return y.contiguous(memory_format=torch.channels_last)


@st.composite
def windows(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return kernel, stride, draw(st.tuples(st.integers(0, kernel[0] // 2), st.integers(0, kernel[1] // 2)))


@settings(max_examples=200)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 36), st.integers(1, 9), st.integers(1, 9)),
    window=windows(),
    ceil=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    places=st.sampled_from([None, torch.uint8, torch.int16, torch.int32]),
    grain=st.sampled_from([1, threads.GRAIN]),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_values_and_places_are_those_of_torch(shape, window, ceil, dtype, places, grain, ties, seed):
    """Of several largest the first, of several NaN the last; with one thread and with two."""
    generator, (kernel, _, padding) = torch.Generator().manual_seed(seed), window
    assume(all(side + 2 * pad >= size for side, size, pad in zip(shape[2:], kernel, padding, strict=True)))
    y = torch.randn(shape, generator=generator)
    if ties:
        y = torch.tensor(VALUES)[torch.randint(len(VALUES), shape, generator=generator)]
    y = innermost(y.to(dtype))
    wanted, wanted_at = aten.max_pool2d_with_indices(y.contiguous(), *window, (1, 1), ceil)
    out = innermost(torch.empty_like(wanted))
    at = None if places is None else innermost(torch.empty(wanted.shape, dtype=places))
    with mock.patch.object(threads, "GRAIN", grain):
        maxima_cpu.maxima(y, window, out, at)
    torch.testing.assert_close(out, wanted, rtol=0, atol=0, equal_nan=True)
    if at is not None:
        assert torch.equal(at.long(), wanted_at)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 12, 15, 16, 17, 40])
def test_a_part_writes_its_own_lines_only(channels, dtype):
    """Vectors that go on beyond a pixel must end before another thread's part, and before the end of memory."""
    number = torch.empty(0, dtype=dtype)
    y = innermost(torch.rand(3, channels, 8, 6).to(dtype))
    wanted = aten.max_pool2d(y, 2).permute(0, 2, 3, 1).reshape(12, -1)
    source = maxima_cpu.memory(y)
    for start in range(12):
        for stop in range(start + 1, 13):
            out = torch.full((14, wanted.shape[1]), 7.0, dtype=dtype)
            at = np.full(out.numel(), 77, np.uint8)
            target = maxima_cpu.arrays.array(out, number).reshape(-1)
            window, plane = np.array([(2, 2), (2, 2), (0, 0)]), np.array([4, 3])
            maxima_cpu._maxima(start, stop, source, window, plane, target, at)
            assert torch.equal(out[start:stop], wanted[start:stop])
            assert (out[:start] == 7).all() and (out[stop:] == 7).all()
            beyond = at.reshape(14, -1)
            assert (beyond[:start] == 77).all() and (beyond[stop:] == 77).all() and (beyond[start:stop] < 48).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_layer_takes_them(layout, dtype, monkeypatch):
    calls, maxima = [], maxima_cpu.maxima
    monkeypatch.setattr(maxima_cpu, "maxima", lambda *a: calls.append(a) or maxima(*a))
    conv, pool = sc.Conv2d(3, 12, 3).to(dtype).to(memory_format=layout), sc.MaxPool2d(2)
    x = torch.randn(5, 3, 11, 12).to(dtype).to(memory_format=layout)
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-2, atol=1e-2)
    assert calls


@pytest.mark.parametrize("pool", [sc.MaxPool2d(2, dilation=2), sc.AvgPool2d(2)], ids=repr)
def test_others_are_left_to_torch(pool, monkeypatch):
    monkeypatch.setattr(maxima_cpu, "maxima", None)
    conv, x = sc.Conv2d(3, 12, 3), torch.randn(5, 3, 11, 12)
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-4, atol=1e-4)


def test_without_numba_they_are_torchs(monkeypatch):
    monkeypatch.setattr(pooled, "_maxima_kernels", lambda: None)
    conv, pool, x = sc.Conv2d(3, 12, 3), sc.MaxPool2d(2), torch.randn(5, 3, 11, 12, requires_grad=True)
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_read_beyond_the_end(dtype):
    """y ends where a page ends behind which there is no memory: to read on ends the process."""
    code = f"""if True:
        import ctypes, mmap, numpy as np, torch
        from spikecredit.synapses import maxima_cpu
        page, size = mmap.PAGESIZE, {dtype.itemsize}
        room = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
        for channels in (1, 5, 12, 17):
            count = 2 * 4 * 4 * channels
            y = torch.frombuffer(room, dtype={dtype}, count=count, offset=page - size * count)
            y.copy_(torch.arange(count) % 7)
            y = y.view(2, 4, 4, channels).permute(0, 3, 1, 2)
            for window in [((2, 2), (2, 2), (0, 0)), ((3, 3), (1, 1), (1, 1))]:
                wanted, places = torch.ops.aten.max_pool2d_with_indices(y.contiguous().clone(), *window)
                out = torch.empty_like(wanted, memory_format=torch.channels_last)
                maxima_cpu.maxima(y, window, out, None)
                assert torch.equal(out, wanted)
        print("done")
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-2000:]

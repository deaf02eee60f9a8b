"""First layers by codes: torch's own maxima and their places, its gradients, and nothing written beyond a part."""

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import spikecredit as sc
from spikecredit.neurons.kernels import threads
from spikecredit.synapses import coded_cpu, pooled

aten = torch.ops.aten
DTYPES = [torch.float32, torch.bfloat16]
TYPES = [
    (torch.float32, torch.float32, None), (torch.float32, torch.bfloat16, torch.uint8),
    (torch.float32, torch.float32, torch.int16), (torch.bfloat16, torch.float32, torch.uint8),
    (torch.bfloat16, torch.bfloat16, torch.int32),
]  # fmt: skip
"""Of the convolution, of x, of the places."""


def innermost(v):
    return v.contiguous(memory_format=torch.channels_last)


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def windows(draw):
    kernel = draw(pairs(1, 3))
    return kernel, draw(pairs(1, 3)), draw(st.tuples(*(st.integers(0, size // 2) for size in kernel)))


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 12)),
    outputs=st.sampled_from([1, 3, 12, 15, 16, 17, 32, 35]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    stride=pairs(1, 2),
    padding=pairs(0, 3),
    dilation=st.integers(1, 2),
    window=windows(),
    ceil=st.booleans(),
    bias=st.booleans(),
    types=st.sampled_from(TYPES),
    grain=st.sampled_from([1, threads.GRAIN]),
    part=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_values_places_and_weight_gradients_are_those_of_torch(
    shape, outputs, size, stride, padding, dilation, window, ceil, bias, types, grain, part, seed
):
    """Whole numbers, so that every sum is exact: of several largest, rounded, the first counts."""
    generator, geometry = torch.Generator().manual_seed(seed), (stride, padding, (dilation, 1), 1)
    dtype, given_as, places = types
    x = (torch.rand(shape, generator=generator) < 0.4).float()
    weight = torch.randint(-200, 200, (outputs, shape[1], *size), generator=generator).to(dtype)
    shift = torch.randint(-50, 50, (outputs,), generator=generator).to(dtype) if bias else None
    reach = dilation * (size[0] - 1) + 1, size[1]
    assume(all(side + 2 * pad >= r for side, pad, r in zip(shape[2:], padding, reach, strict=True)))
    y = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), *geometry)
    assume(all(s + 2 * p >= k for s, k, p in zip(y.shape[2:], window[0], window[2], strict=True)))
    wanted, wanted_at = aten.max_pool2d_with_indices(y.to(dtype), *window, (1, 1), ceil)
    out, plane = innermost(torch.empty_like(wanted)), tuple(y.shape[2:])
    at = None if places is None else innermost(torch.empty(wanted.shape, dtype=places))
    x = x.to(given_as)
    with mock.patch.object(threads, "GRAIN", grain):
        assert coded_cpu.maxima(x, weight, shift, geometry, window, plane, out, at)
    assert torch.equal(out, wanted)
    if at is None:
        return
    assert torch.equal(at.long(), wanted_at)
    error = torch.randint(-9, 9, wanted.shape, generator=generator).double()
    back = torch.zeros_like(y).flatten(2).scatter_add_(2, wanted_at.flatten(2), error.flatten(2)).view_as(y)
    expected = torch.nn.grad.conv2d_weight(x.double(), weight.shape, back, *geometry)
    with mock.patch.object(threads, "GRAIN", grain), mock.patch.object(coded_cpu, "PART", part):
        found = coded_cpu.weight_gradient(error.to(dtype), at, x, size, geometry, window, plane)
    assert found.dtype == torch.float32
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs", [1, 5, 12, 16, 20])
def test_a_part_writes_its_own_images_only(outputs, dtype):
    """Vectors that go on beyond a pixel must end before the next image, which may be another thread's."""
    arguments = []
    conv = sc.Conv2d(1, outputs, 3).to(dtype)
    x, number = (torch.rand(3, 1, 9, 7) < 0.5).float(), torch.empty(0, dtype=dtype)
    geometry, window = ((1, 1), (0, 0), (1, 1), 1), ((2, 2), (2, 2), (0, 0))
    wanted = innermost(torch.empty(3, outputs, 3, 2, dtype=dtype))
    at = innermost(torch.empty(wanted.shape, dtype=torch.uint8))
    with mock.patch.object(coded_cpu.threads, "run", lambda *a, line: arguments.extend(a[3:]) or a[0](0, 3, *a[3:])):
        assert coded_cpu.maxima(x, conv.weight, conv.bias, geometry, window, (7, 5), wanted, at)
    wanted = wanted.permute(0, 2, 3, 1).reshape(3, -1)
    *first, _, _, failed = arguments
    for start in range(3):
        for stop in range(start + 1, 4):
            out, places = (
                torch.full((5, wanted.shape[1]), 7.0, dtype=dtype),
                np.full(wanted[0].numel() * 5, 77, np.uint8),
            )
            coded_cpu._maxima(start, stop, *first, coded_cpu.arrays.array(out, number).reshape(-1), places, failed)
            assert torch.equal(out[start:stop], wanted[start:stop])
            assert (out[:start] == 7).all() and (out[stop:] == 7).all()
            beyond = places.reshape(5, -1)
            assert (beyond[:start] == 77).all() and (beyond[stop:] == 77).all() and (beyond[start:stop] < 35).all()


def steps(conv, pool, x, grad):
    """The result and the gradients of the fused layer, and of its parts."""
    found = []
    for layer in (lambda: pooled.conv_pool(conv, pool, x), lambda: pool(conv(x))):
        y = layer()
        conv.zero_grad()
        y.backward(grad.to(y.dtype))
        found.append((y.detach(), *(p.grad for p in conv.parameters())))
    return found


def counted(monkeypatch):
    """Calls of the two loops; any size is large enough."""
    monkeypatch.setattr(pooled, "CODED", 0)
    calls = []
    for name in ("maxima", "weight_gradient"):
        loop = getattr(coded_cpu, name)
        monkeypatch.setattr(coded_cpu, name, lambda *a, name=name, loop=loop: calls.append(name) or loop(*a))
    return calls


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_layer_takes_them(bias, layout, monkeypatch):
    calls = counted(monkeypatch)
    conv = sc.Conv2d(2, 12, 5, padding=2, bias=bias, pathway=sc.pathways.FeedbackAlignment())
    conv, pool = conv.to(memory_format=layout), sc.MaxPool2d(2)
    x = (torch.rand(3, 5, 2, 12, 13) < 0.3).float()
    ours, parts = steps(conv, pool, x, torch.randn(3, 5, 12, 6, 6))
    assert calls == ["maxima", "weight_gradient"]
    for found, wanted in zip(ours, parts, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert ours[0].stride() == parts[0].stride()


def test_autocast_rounds_the_weights_and_nothing_else(monkeypatch):
    """Tables of sums are made in float32, whatever autocast would do with their products."""
    calls, conv, pool = counted(monkeypatch), sc.Conv2d(1, 12, 5), sc.MaxPool2d(2)
    x = (torch.rand(40, 1, 12, 12) < 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = pooled.conv_pool(conv, pool, x)
        y.backward(grad := torch.randn_like(y))
    assert calls == ["maxima", "weight_gradient"]
    weight, bias = (p.detach().bfloat16().double().requires_grad_() for p in conv.parameters())
    wanted = F.max_pool2d(F.conv2d(x.double(), weight, bias), 2)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), wanted, rtol=2**-8, atol=1e-6)
    exact = F.conv2d(x.double(), weight, bias).bfloat16().double()  # the places are those of rounded numbers
    _, at = aten.max_pool2d_with_indices(exact, 2)
    back = torch.zeros_like(exact).flatten(2).scatter_(2, at.flatten(2), grad.double().flatten(2)).view_as(exact)
    wanted = torch.nn.grad.conv2d_weight(x.double(), weight.shape, back)
    torch.testing.assert_close(conv.weight.grad.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, torch.nan])
@pytest.mark.parametrize("where", [(0, 0, 0, 0), (11, 0, 8, 9), (5, 1, 3, 4)])
def test_a_number_that_is_no_spike_goes_the_dense_way(where, value, monkeypatch):
    """Wherever it is: the sample that is looked at first does not see all."""
    calls, conv, pool = counted(monkeypatch), sc.Conv2d(2, 12, 3), sc.MaxPool2d(2)
    monkeypatch.setattr(pooled.events, "all_spikes", lambda sample: True)
    x = (torch.rand(12, 2, 9, 10) < 0.5).float()
    x[where] = value
    for found, wanted in zip(*steps(conv, pool, x, torch.randn(12, 12, 3, 4)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert calls == ["maxima"]


OTHERS = {
    "input with a gradient": (sc.Conv2d(1, 12, 3), sc.MaxPool2d(2), {"requires_grad": True}),
    "five channels": (sc.Conv2d(5, 12, 3), sc.MaxPool2d(2), {}),
    "nine columns": (sc.Conv2d(1, 12, (1, 9)), sc.MaxPool2d(2), {}),
    "large tables": (sc.Conv2d(3, 12, (3, 8)), sc.MaxPool2d(2), {}),
    "dilation along a row": (sc.Conv2d(1, 12, 3, dilation=(1, 2)), sc.MaxPool2d(2), {}),
    "groups": (sc.Conv2d(2, 12, 3, groups=2), sc.MaxPool2d(2), {}),
    "dilated window": (sc.Conv2d(1, 12, 3), sc.MaxPool2d(2, dilation=2), {}),
    "averages": (sc.Conv2d(1, 12, 3), sc.AvgPool2d(2), {}),
    "float64": (sc.Conv2d(1, 12, 3).double(), sc.MaxPool2d(2), {"dtype": torch.float64}),
    "float16": (sc.Conv2d(1, 12, 3).half(), sc.MaxPool2d(2), {"dtype": torch.float16}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_others_go_another_way(case, monkeypatch):
    calls, (conv, pool, options) = counted(monkeypatch), OTHERS[case]
    x = (torch.rand(6, conv.in_channels, 12, 14) < 0.5).to(options.get("dtype", torch.float32))
    x.requires_grad_("requires_grad" in options)
    rough = 1e-2 if case == "float16" else 1e-4
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=rough, atol=rough)
    assert not calls


def test_small_layers_and_those_without_numba_go_another_way(monkeypatch):
    conv, pool, x = sc.Conv2d(1, 12, 3), sc.MaxPool2d(2), (torch.rand(6, 1, 12, 14) < 0.5).float()
    calls = counted(monkeypatch)
    monkeypatch.setattr(pooled, "CODED", 6 * 12 * 10 * 12 + 1)
    pooled.conv_pool(conv, pool, x)
    assert not calls
    monkeypatch.setattr(pooled, "CODED", 6 * 12 * 10 * 12)
    pooled.conv_pool(conv, pool, x)
    assert calls == ["maxima"]
    monkeypatch.setattr(pooled, "coded_kernels", lambda: None)
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-4, atol=1e-4)
    assert calls == ["maxima"]


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_weights_that_are_no_numbers_stay_so(value, monkeypatch):
    calls, conv, pool = counted(monkeypatch), sc.Conv2d(1, 20, 3), sc.MaxPool2d(2)
    with torch.no_grad():
        conv.weight[4, 0, 1, 1] = value
    x = (torch.rand(6, 1, 8, 8) < 0.5).float()
    torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-4, atol=1e-4, equal_nan=True)
    assert calls == ["maxima"]


def test_the_loops_run_again_and_without_gradients(monkeypatch):
    calls, conv, pool = counted(monkeypatch), sc.Conv2d(1, 12, 3), sc.MaxPool2d(2)
    x = (torch.rand(6, 1, 12, 12) < 0.5).float()
    with torch.no_grad():
        torch.testing.assert_close(pooled.conv_pool(conv, pool, x), pool(conv(x)), rtol=1e-4, atol=1e-4)
    y = pooled.conv_pool(conv, pool, x)
    (first,) = torch.autograd.grad(y.sum(), conv.weight, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), conv.weight)
    assert torch.equal(first, second)
    assert calls == ["maxima", "maxima", "weight_gradient", "weight_gradient"]


def test_few_images_go_into_one_sum(monkeypatch):
    """More would lose digits: the errors of 11 images, at most 2 of them together, are six sums or more."""
    shapes, run = [], threads.run
    monkeypatch.setattr(coded_cpu.threads, "run", lambda *a, line: shapes.append(a[8].shape) or run(*a, line=line))
    monkeypatch.setattr(coded_cpu, "PART", 2)
    x, grad = (torch.rand(11, 1, 6, 6) < 0.5).float(), innermost(torch.randn(11, 12, 2, 2))
    at = innermost(torch.zeros(grad.shape, dtype=torch.uint8))
    layer = (3, 3), ((1, 1), (0, 0), (1, 1), 1), ((2, 2), (2, 2), (0, 0)), (4, 4)
    coded_cpu.weight_gradient(grad, at, x, *layer)
    assert shapes[0][0] >= 6
    assert shapes[0][1:] == (1, 3 * 2**3 * 16)


def test_no_error_is_read_beyond_the_end():
    """They end where a page ends behind which there is no memory: to read on ends the process."""
    code = """if True:
        import ctypes, mmap, torch
        from spikecredit.synapses import coded_cpu
        page = mmap.PAGESIZE
        room = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(room))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
        x = (torch.rand(2, 1, 6, 6) < 0.5).float()
        for outputs in (1, 5, 12, 17):
            count = 2 * 2 * 2 * outputs
            grad = torch.frombuffer(room, dtype=torch.float32, count=count, offset=page - 4 * count)
            grad.copy_(torch.arange(count) % 7)
            grad = grad.view(2, 2, 2, outputs).permute(0, 3, 1, 2)
            at = torch.tensor([0, 2, 8, 10], dtype=torch.uint8).view(1, 2, 2, 1).repeat(2, 1, 1, outputs)
            at = at.permute(0, 3, 1, 2)
            layer = (3, 3), ((1, 1), (0, 0), (1, 1), 1), ((2, 2), (2, 2), (0, 0)), (4, 4)
            found = coded_cpu.weight_gradient(grad, at, x, *layer)
            back = torch.zeros(2, outputs, 16).scatter_(2, at.flatten(2).long(), grad.flatten(2)).view(2, outputs, 4, 4)
            assert torch.equal(found, torch.nn.grad.conv2d_weight(x, found.shape, back))
        print("done")
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-2000:]


def test_nothing_is_written_beyond_small_results():
    """Results smaller than a vector, in a process whose malloc (where glibc has it) looks for what was written over."""
    code = """if True:
        import itertools, torch
        from spikecredit.synapses import coded_cpu
        types = [(torch.float32, torch.int32), (torch.bfloat16, torch.int16), (torch.float32, None)]
        for (dtype, places), outputs, images, side in itertools.product(types, (1, 3, 12, 15, 16, 17), (1, 2), (3, 5)):
            x, weight = (torch.rand(images, 1, side, side) < 0.5).float(), torch.randn(outputs, 1, 2, 2).to(dtype)
            layer = ((1, 1), (0, 0), (1, 1), 1), ((2, 2), (1, 1), (0, 0)), (side - 1, side - 1)
            like = torch.empty(images, outputs, side - 2, side - 2, dtype=dtype)
            like = like.contiguous(memory_format=torch.channels_last)
            for _ in range(20):
                out, at = torch.empty_like(like), None if places is None else torch.empty_like(like, dtype=places)
                assert coded_cpu.maxima(x, weight, None, *layer, out, at)
                if at is not None:
                    coded_cpu.weight_gradient(out, at, x, (2, 2), *layer)
        print("done")
    """
    environment = {
        **os.environ, "LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3",
    }  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr[-2000:]

"""The CPU backend's passes: each a loop over one block of neurons, compiled by numba.

A pass is a loop of its own over rows in the first-level cache: one with few arrays becomes vector instructions, one
with many does not (measured: 0.05 to 0.12 ns per element a pass, against about 1 ns for a loop that does everything).
bfloat16 is handed over as uint16 bits and converted row by row. Nothing is contracted to fused multiply-adds, so that
spikes equal the reference's bit for bit. The code is plain Python as well: the tests run it uncompiled, too.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.extending import intrinsic, overload

COMPILE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "cache": True}
WIDTH = 4096
"""Neurons a block: long enough rows for the prefetcher, and (SEGMENT + 1) rows in the second-level cache."""

U, I, A, R, WAIT = 0, 1, 2, 3, 4  # noqa: E741
"""Rows of a block's state. A state in memory has the rows that `present` lists, in this order."""

SURROGATES = ("fast_sigmoid", "arctan", "triangle", "gaussian", "sigmoid", "straight_through", "multi_gaussian")
"""The codes of the surrogates, by position."""


# ---- what depends on types: rows that may be bfloat16 bits, factors that may be one number or one per neuron


def row(source, scratch):
    """The row itself, or its bfloat16 bits as float32 in `scratch`."""
    if source.dtype != np.uint16:
        return source
    scratch.view(np.uint32)[:] = source.astype(np.uint32) << 16
    return scratch


def target(destination, scratch):
    """Where to compute a row for `destination`: there, or in `scratch` if it takes bfloat16 bits."""
    return scratch if destination.dtype == np.uint16 else destination


def commit(destination, values):
    """Finish what `target` began: round float32 to bfloat16, to nearest, ties to even; NaN stays NaN."""
    if destination.dtype == np.uint16:
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        destination[:] = np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def at(factor, j):
    """A factor's value for the j-th neuron of a block."""
    return factor[j] if isinstance(factor, np.ndarray) else factor


def part(factor, start, stop):
    """A factor's values for a block."""
    return factor[start:stop] if isinstance(factor, np.ndarray) else factor


def memory(address, count, number):
    """The memory at an address, as a row of `count` such numbers. To hand over a tensor as an array takes longer."""
    kind = np.ctypeslib.as_ctypes_type(np.dtype(type(number)))
    return np.ctypeslib.as_array((kind * count).from_address(address)) if count else np.empty(0, type(number))


def in_state(value, number):
    """A number in the type of a state, for inputs of such numbers: float32 for bfloat16's bits. Arrays, None stay."""
    if value is None or isinstance(value, np.ndarray):
        return value
    return np.float64(value) if isinstance(number, np.float64) else np.float32(value)


def _is_bits(array: Any) -> bool:
    return array.dtype == numba.uint16


@overload(row)
def _row(source, scratch):
    if not _is_bits(source):
        return lambda source, scratch: source

    def convert(source, scratch):
        bits = scratch.view(np.uint32)
        for j in range(len(source)):
            bits[j] = np.uint32(source[j]) << np.uint32(16)
        return scratch

    return convert


@overload(target)
def _target(destination, scratch):
    if _is_bits(destination):
        return lambda destination, scratch: scratch
    return lambda destination, scratch: destination


@overload(commit)
def _commit(destination, values):
    if not _is_bits(destination):
        return lambda destination, values: None

    def convert(destination, values):
        bits = values.view(np.uint32)
        for j in range(len(destination)):
            word = bits[j]
            rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            nan = (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            destination[j] = np.uint16(np.uint32(0x7FC0) if nan else rounded)

    return convert


@overload(at)
def _at(factor, j):
    if isinstance(factor, numba.types.Array):
        return lambda factor, j: factor[j]
    return lambda factor, j: factor


@overload(part)
def _part(factor, start, stop):
    if isinstance(factor, numba.types.Array):
        return lambda factor, start, stop: factor[start:stop]
    return lambda factor, start, stop: factor


@intrinsic
def _pointer(context, address, number):
    def made(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(number)(address, number), made


@overload(memory)
def _memory(address, count, number):
    def view(address, count, number):
        # numba itself hands over the first argument, which mypy cannot know
        return numba.carray(_pointer(address, number), (count,))  # type: ignore[attr-defined,call-arg]

    return view


@overload(in_state)
def _in_state(value, number):
    if isinstance(value, (numba.types.Array, numba.types.NoneType)):
        return lambda value, number: value
    kind = np.float64 if number == numba.types.float64 else np.float32
    return lambda value, number: kind(value)


# ---- one pass over a block each


@njit(**COMPILE)
def load(memory, present, begin, rows, n):
    for f in range(len(present)):
        copy(memory[f, begin : begin + n], rows[present[f], :n])


@njit(**COMPILE)
def store(rows, present, memory, begin, n):
    for f in range(len(present)):
        copy(rows[present[f], :n], memory[f, begin : begin + n])


@njit(**COMPILE)
def copy(source, destination):
    for j in range(len(source)):
        destination[j] = source[j]


@njit(**COMPILE)
def leak(u, x, factor):
    for j in range(len(u)):
        u[j] = u[j] * at(factor, j) + x[j]


@njit(**COMPILE)
def fire(u, theta, spikes, one):
    nil = type(one)(0)
    for j in range(len(u)):
        spikes[j] = one if u[j] > theta else nil


@njit(**COMPILE)
def membrane(u, x, r, wait, beta, theta, zero, subtract):
    """The potential with an explicit pending reset and refractoriness."""
    one, nil = u.dtype.type(1), u.dtype.type(0)
    if zero:
        for j in range(len(u)):
            v = (one - r[j]) * u[j] * at(beta, j) + x[j]
            u[j] = u[j] if wait[j] > nil else v
    elif subtract:
        for j in range(len(u)):
            v = u[j] * at(beta, j) + x[j] - r[j] * theta
            u[j] = u[j] if wait[j] > nil else v
    else:
        for j in range(len(u)):
            v = u[j] * at(beta, j) + x[j]
            u[j] = u[j] if wait[j] > nil else v


@njit(**COMPILE)
def spike(u, a, wait, theta, b, s):
    one, nil = u.dtype.type(1), u.dtype.type(0)
    for j in range(len(u)):
        s[j] = nil if wait[j] > nil else (one if u[j] > a[j] * b + theta else nil)


@njit(**COMPILE)
def after_spike(s, r, wait, hold):
    one, nil = s.dtype.type(1), s.dtype.type(0)
    for j in range(len(s)):
        r[j] = r[j] if wait[j] > nil else s[j]
    for j in range(len(s)):
        left = wait[j] - one if wait[j] > nil else nil
        wait[j] = hold if s[j] > nil else left


@njit(**COMPILE)
def add(destination, source):
    for j in range(len(source)):
        destination[j] += source[j]


@njit(**COMPILE)
def add_product(destination, left, right):
    for j in range(len(left)):
        destination[j] += left[j] * right[j]


@njit(**COMPILE)
def distance(u, a, b, theta, v):
    for j in range(len(u)):
        v[j] = u[j] - (a[j] * b + theta)


@njit(**COMPILE)
def exponential(x, out):
    """exp(x) for x <= 0; out is another row than x.

    In float32 by hand, as a call of the library's function cannot become vector instructions: exp(x) = 2^k exp(r)
    with k = round(x / ln 2) and |r| <= ln 2 / 2, where a polynomial of degree 7 is exact to rounding; 2^k is made of
    its bits. Below exp(-87) it is 0.
    """
    if x.itemsize == 8:
        for j in range(len(x)):
            out[j] = math.exp(x[j])
        return
    bits = out.view(np.int32)
    scale = np.float32(1.4426950408889634)
    high, low = np.float32(0.693145751953125), np.float32(1.42860682030941723e-6)  # ln 2
    half, floor, one = np.float32(0.5), np.float32(-87.0), np.float32(1)
    for j in range(len(x)):
        v = x[j] if x[j] > floor else floor
        bits[j] = (np.int32(v * scale - half) + np.int32(127)) << np.int32(23)
    for j in range(len(x)):
        v = x[j] if x[j] > floor else floor
        k = np.float32(np.int32(v * scale - half))
        r = (v - k * high) - k * low
        p = np.float32(1 / 5040)
        p = p * r + np.float32(1 / 720)
        p = p * r + np.float32(1 / 120)
        p = p * r + np.float32(1 / 24)
        p = p * r + np.float32(1 / 6)
        p = p * r + half
        p = p * r + one
        p = p * r + one
        value = out[j] * p
        out[j] = value if x[j] > floor else (np.float32(0) if x[j] <= floor else x[j])


@njit(**COMPILE)
def add_normal(u, theta, mean, sigma, weight, work, extra, out):
    """out += weight N(u - theta; mean, sigma^2); work and extra are overwritten."""
    half, scale = u.dtype.type(-0.5), weight / (sigma * u.dtype.type(math.sqrt(2 * math.pi)))
    for j in range(len(u)):
        z = (u[j] - theta - mean) / sigma
        work[j] = half * z * z
    exponential(work, extra)
    for j in range(len(u)):
        out[j] += scale * extra[j]


@njit(**COMPILE)
def surrogate(kind, p, u, theta, work, extra, out):
    """psi(u - theta); p: the surrogate's parameters. work and extra are overwritten."""
    number = u.dtype.type
    one, nil, two = number(1), number(0), number(2)
    if kind == 0:
        slope = p[0]
        for j in range(len(u)):
            d = abs(u[j] - theta) * slope + one
            out[j] = one / (d * d)
    elif kind == 1:
        scale, height = number(math.pi / 2) * p[0], p[0] / two
        for j in range(len(u)):
            d = (u[j] - theta) * scale
            out[j] = height / (d * d + one)
    elif kind == 2:
        width, height = p[1], p[0] / p[1]
        for j in range(len(u)):
            d = one - abs(u[j] - theta) / width
            out[j] = nil if d < nil else d * height
    elif kind == 3:
        out[:] = nil
        add_normal(u, theta, nil, p[0], one, work, extra, out)
    elif kind == 4:
        slope = p[0]
        for j in range(len(u)):
            work[j] = -abs((u[j] - theta) * slope)
        exponential(work, extra)
        for j in range(len(u)):  # s (1 - s) with s = 1 / (1 + e), which is even in u - theta
            d = one + extra[j]
            out[j] = slope * extra[j] / (d * d)
    elif kind == 5:
        width = p[0]
        for j in range(len(u)):
            out[j] = one if abs(u[j] - theta) < width else nil
    else:
        sigma, h, wide, gamma = p[0], p[1], p[2] * p[0], p[3]
        out[:] = nil
        add_normal(u, theta, nil, sigma, gamma * (one + h), work, extra, out)
        add_normal(u, theta, sigma, wide, -gamma * h, work, extra, out)
        add_normal(u, theta, -sigma, wide, -gamma * h, work, extra, out)


@njit(**COMPILE)
def through_spike(g, h, k, psi, held, q):
    nil = q.dtype.type(0)
    for j in range(len(q)):
        through = (g[j] + h[j] + k[j]) * psi[j]
        q[j] = nil if held[j] > nil else through


@njit(**COMPILE)
def live(c, held, out):
    nil = c.dtype.type(0)
    for j in range(len(c)):
        out[j] = nil if held[j] > nil else c[j]


@njit(**COMPILE)
def keep(live, r, kept, zero):
    """What of live reaches beta u[t-1]: live (1 - r) if the reset is to zero."""
    one = live.dtype.type(1)
    if zero:
        for j in range(len(live)):
            kept[j] = live[j] * (one - r[j])
    else:
        copy(live, kept)


@njit(**COMPILE)
def to_reset(k, live, before, beta, theta, held, zero):
    """The adjoint of the pending reset, when it is not detached."""
    nil = k.dtype.type(0)
    if zero:
        for j in range(len(k)):
            lost = -live[j] * (before[j] * at(beta, j))
            k[j] = k[j] if held[j] > nil else lost
    else:
        for j in range(len(k)):
            k[j] = k[j] if held[j] > nil else -live[j] * theta


@njit(**COMPILE)
def back_in_time(c, kept, beta, held):
    nil = c.dtype.type(0)
    for j in range(len(c)):
        c[j] = c[j] if held[j] > nil else kept[j] * at(beta, j)


@njit(**COMPILE)
def relax(h, q, rho, b):
    for j in range(len(h)):
        h[j] = h[j] * at(rho, j) - q[j] * b


@njit(**COMPILE)
def filter_back(carry, live, alpha, out):
    for j in range(len(live)):
        g = live[j] + carry[j]
        out[j] = g
        carry[j] = g * at(alpha, j)

"""Device code of the Triton backend, launched by `triton.py`: one lane per neuron, the time loop inside.

A segment of K steps is read at once, so that its loads travel together, and then computed step by step from registers.
Backwards, a segment's potentials are computed again from its checkpoint and kept in registers while the adjoint walks
over them. In the last segment of a sequence that K does not divide (TAIL) the missing steps are computed and dropped:
a branch would keep the compiler from interleaving the steps.

The equations and their names are those of `flat.py`. D is the state's dtype; a pointer that is None is compiled away
with everything that depends on it. Numbers arrive as float64 (Triton makes a Python float a float32 unless told
otherwise) and are rounded once, to D. `base` is the program's first neuron in 64 bits, `lane` the neurons after it.
"""
# mypy: ignore-errors
# (Triton types this code itself)

import triton
import triton.language as tl


@triton.jit
def _step(
    x, u, i, a, r, wait, beta, alpha, rho, theta, b, refractory,
    RESET: tl.constexpr, SYNAPSE: tl.constexpr, ADAPTS: tl.constexpr, HOLDS: tl.constexpr,
):  # fmt: skip
    """One step: u, i, a, r, wait after it, its spike, and whether it was held; absent parts are returned as given."""
    current = x
    if SYNAPSE:
        i = i * alpha + x
        current = i
    if RESET == "zero":
        v = (1.0 - r) * u * beta + current
    else:
        v = u * beta + current
        if RESET == "subtract":
            v = v - r * theta
    level = theta
    if ADAPTS:
        level = a * b + theta
    held = r
    if HOLDS:
        held = wait > 0
        v = tl.where(held, u, v)
    s = (v > level).to(v.dtype)
    r_next = s
    if HOLDS:
        s = tl.where(held, 0.0, s)
        r_next = tl.where(held, r, s)
        wait = tl.where(s > 0, refractory - 1, tl.maximum(wait - 1, 0))
    if ADAPTS:
        a = a * rho + s
    return v, i, a, r_next, wait, s, held


@triton.jit
def _psi(v, c0, c1, c2, c3, c4, KIND: tl.constexpr):
    """Surrogate derivative at v; the numbers are those of `triton.surrogate_numbers`."""
    if KIND == "fast_sigmoid":
        root = tl.abs(v) * c0 + 1.0
        psi = 1.0 / (root * root)
    elif KIND == "arctan":
        scaled = v * c0
        psi = c1 / (scaled * scaled + 1.0)
    elif KIND == "triangle":
        height = c1 - tl.abs(v) * c0
        psi = tl.where(height < 0, 0.0, height)
    elif KIND == "gaussian":
        psi = tl.exp(v * v * c0) * c1
    elif KIND == "sigmoid":
        e = tl.exp(-tl.abs(v * c0))
        psi = e * c0 / ((1.0 + e) * (1.0 + e))
    elif KIND == "straight_through":
        psi = (tl.abs(v) < c0).to(v.dtype)
    else:
        tl.static_assert(KIND == "multi_gaussian")
        left, right = v + c4, v - c4
        psi = tl.exp(v * v * c0) * c1 - (tl.exp(left * left * c2) + tl.exp(right * right * c2)) * c3
    return psi


@triton.jit
def _decay(number, values, base, lane, inside, KIND: tl.constexpr, D: tl.constexpr):
    """A decay: a number (KIND 0), one value for all (1), or one per neuron (2)."""
    if KIND == 2:
        decay = tl.load(values + base + lane, mask=inside, other=0.0).to(D)
    elif KIND == 1:
        decay = tl.load(values).to(D)
    else:
        decay = tl.full((), number, D)
    return decay


@triton.jit
def _keep(old, new, live, TAIL: tl.constexpr):
    """`new` while the step exists; the last segment's missing steps change nothing."""
    if TAIL:
        new = tl.where(live, new, old)
    return new


@triton.jit
def _limit(left, t, T, TAIL: tl.constexpr):
    """Lanes that may read and write at step t: none beyond the last step."""
    limit = left
    if TAIL:
        limit = tl.where(t < T, left, 0)
    return limit


@triton.jit
def _first_state(u0, i0, a0, r0, w0, base, lane, inside, theta):
    """The state before the first step; u stands for what is absent."""
    u = tl.load(u0 + base + lane, mask=inside, other=0.0)
    i, a, wait = u, u, u
    r = (u > theta).to(u.dtype)
    if i0 is not None:
        i = tl.load(i0 + base + lane, mask=inside, other=0.0)
    if a0 is not None:
        a = tl.load(a0 + base + lane, mask=inside, other=0.0)
    if r0 is not None:
        r = tl.load(r0 + base + lane, mask=inside, other=0.0)
    if w0 is not None:
        wait = tl.load(w0 + base + lane, mask=inside, other=0)
    return u, i, a, r, wait


@triton.jit
def _checkpoint(row, N, lane, inside, theta, SYNAPSE: tl.constexpr, ADAPTS: tl.constexpr, PENDING: tl.constexpr,
                HOLDS: tl.constexpr):  # fmt: skip
    """As `_first_state`, from the rows of a checkpoint."""
    u = tl.load(row + lane, mask=inside, other=0.0)
    i, a, wait = u, u, u
    r = (u > theta).to(u.dtype)
    if SYNAPSE:
        row += N
        i = tl.load(row + lane, mask=inside, other=0.0)
    if ADAPTS:
        row += N
        a = tl.load(row + lane, mask=inside, other=0.0)
    if PENDING:
        row += N
        r = tl.load(row + lane, mask=inside, other=0.0)
    if HOLDS:
        row += N
        wait = tl.load(row + lane, mask=inside, other=0.0).to(tl.int32)
    return u, i, a, r, wait


@triton.jit(do_not_specialize=["T", "refractory"])
def forward_kernel(
    x, u0, i0, a0, r0, w0, u1, i1, a1, r1, w1, spikes, potentials, checkpoints,
    betas, alphas, rhos, beta: tl.float64, alpha: tl.float64, rho: tl.float64, theta: tl.float64, b: tl.float64,
    refractory, T, N, x_stride,
    BETA: tl.constexpr, ALPHA: tl.constexpr, RHO: tl.constexpr, RESET: tl.constexpr,
    K: tl.constexpr, TAIL: tl.constexpr, CONSTANT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Spiking neurons: `flat.Backend.forward`; the state before is u0 ... w0, after u1 ... w1."""
    D: tl.constexpr = u0.dtype.element_ty
    SYNAPSE: tl.constexpr = i0 is not None
    ADAPTS: tl.constexpr = a0 is not None
    PENDING: tl.constexpr = r0 is not None
    HOLDS: tl.constexpr = w0 is not None
    base = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    left = N - base
    inside = lane < left
    beta = _decay(beta, betas, base, lane, inside, BETA, D)
    alpha = _decay(alpha, alphas, base, lane, inside, ALPHA, D)
    rho = _decay(rho, rhos, base, lane, inside, RHO, D)
    theta = tl.full((), theta, D)
    b = tl.full((), b, D)
    u, i, a, r, wait = _first_state(u0, i0, a0, r0, w0, base, lane, inside, theta)
    x_row = x + base
    s_row = spikes + base
    if potentials is not None:
        u_row = potentials + base
    if checkpoints is not None:
        c_row = checkpoints + base
    if CONSTANT:
        x_t = tl.load(x_row + lane, mask=inside, other=0.0).to(D)
    for c in range((T + K - 1) // K):
        if checkpoints is not None:  # noqa: SIM102  known when compiling, c > 0 is not
            if c > 0:
                tl.store(c_row + lane, u, mask=inside)
                c_row += N
                if SYNAPSE:
                    tl.store(c_row + lane, i, mask=inside)
                    c_row += N
                if ADAPTS:
                    tl.store(c_row + lane, a, mask=inside)
                    c_row += N
                if PENDING:
                    tl.store(c_row + lane, r, mask=inside)
                    c_row += N
                if HOLDS:
                    tl.store(c_row + lane, wait.to(D), mask=inside)
                    c_row += N
        if not CONSTANT:
            xs = ()
            for t in tl.static_range(K):
                limit = _limit(left, c * K + t, T, TAIL)
                xs += (tl.load(x_row + lane, mask=lane < limit, other=0.0),)
                x_row += x_stride
        for t in tl.static_range(K):
            exists = c * K + t < T
            limit = _limit(left, c * K + t, T, TAIL)
            if not CONSTANT:
                x_t = xs[t].to(D)
            u_t, i_t, a_t, r_t, w_t, s, _ = _step(
                x_t, u, i, a, r, wait, beta, alpha, rho, theta, b, refractory, RESET, SYNAPSE, ADAPTS, HOLDS
            )
            tl.store(s_row + lane, s.to(spikes.dtype.element_ty), mask=lane < limit)
            s_row += N
            if potentials is not None:
                tl.store(u_row + lane, u_t, mask=lane < limit)
                u_row += N
            u = _keep(u, u_t, exists, TAIL)
            r = _keep(r, r_t, exists, TAIL)
            if SYNAPSE:
                i = _keep(i, i_t, exists, TAIL)
            if ADAPTS:
                a = _keep(a, a_t, exists, TAIL)
            if HOLDS:
                wait = _keep(wait, w_t, exists, TAIL)
    tl.store(u1 + base + lane, u, mask=inside)
    if SYNAPSE:
        tl.store(i1 + base + lane, i, mask=inside)
    if ADAPTS:
        tl.store(a1 + base + lane, a, mask=inside)
    if PENDING:
        tl.store(r1 + base + lane, r, mask=inside)
    if HOLDS:
        tl.store(w1 + base + lane, wait, mask=inside)


@triton.jit(do_not_specialize=["T", "refractory"])
def backward_kernel(
    x, u0, i0, a0, r0, w0, checkpoints, grad_s, grad_u, grad_u1, grad_i1, grad_a1, grad_r1,
    grad_x, grad_u0, grad_i0, grad_a0, grad_r0, grad_beta, grad_alpha, grad_rho,
    betas, alphas, rhos, beta: tl.float64, alpha: tl.float64, rho: tl.float64, theta: tl.float64, b: tl.float64,
    c0: tl.float64, c1: tl.float64, c2: tl.float64, c3: tl.float64, c4: tl.float64,
    refractory, T, N, x_stride, s_stride, u_stride,
    BETA: tl.constexpr, ALPHA: tl.constexpr, RHO: tl.constexpr, RESET: tl.constexpr,
    SURROGATE: tl.constexpr, ATTACHED: tl.constexpr,
    K: tl.constexpr, TAIL: tl.constexpr, CONSTANT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Their adjoint: `flat.Backend.backward`; `di` is alpha dL/di[t+1]."""
    D: tl.constexpr = u0.dtype.element_ty
    SYNAPSE: tl.constexpr = i0 is not None
    ADAPTS: tl.constexpr = a0 is not None
    PENDING: tl.constexpr = r0 is not None
    HOLDS: tl.constexpr = w0 is not None
    FIELDS: tl.constexpr = 1 + SYNAPSE + ADAPTS + PENDING + HOLDS
    RESETS: tl.constexpr = ATTACHED or grad_r1 is not None  # whether k can be other than 0
    FIRES: tl.constexpr = RESETS or ADAPTS or grad_s is not None  # whether q can
    base = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    left = N - base
    inside = lane < left
    beta = _decay(beta, betas, base, lane, inside, BETA, D)
    alpha = _decay(alpha, alphas, base, lane, inside, ALPHA, D)
    rho = _decay(rho, rhos, base, lane, inside, RHO, D)
    theta = tl.full((), theta, D)
    b = tl.full((), b, D)
    c0 = tl.full((), c0, D)
    c1 = tl.full((), c1, D)
    c2 = tl.full((), c2, D)
    c3 = tl.full((), c3, D)
    c4 = tl.full((), c4, D)
    zero = tl.full((BLOCK,), 0.0, D)
    g, di, h, k = zero, zero, zero, zero
    if grad_u1 is not None:
        g = tl.load(grad_u1 + base + lane, mask=inside, other=0.0)
    if grad_i1 is not None:
        di = tl.load(grad_i1 + base + lane, mask=inside, other=0.0)
    if grad_a1 is not None:
        h = tl.load(grad_a1 + base + lane, mask=inside, other=0.0)
    if grad_r1 is not None:
        k = tl.load(grad_r1 + base + lane, mask=inside, other=0.0)
    sum_x, sum_beta, sum_alpha, sum_rho = zero, zero, zero, zero
    if CONSTANT:
        x_t = tl.load(x + base + lane, mask=inside, other=0.0).to(D)
    segments = (T + K - 1) // K
    for j in range(segments):
        c = segments - 1 - j
        first = c.to(tl.int64) * K
        if checkpoints is None:
            u, i, a, r, wait = _first_state(u0, i0, a0, r0, w0, base, lane, inside, theta)
        else:
            if c > 0:
                row = checkpoints + base + (c.to(tl.int64) - 1) * FIELDS * N
                u, i, a, r, wait = _checkpoint(row, N, lane, inside, theta, SYNAPSE, ADAPTS, PENDING, HOLDS)
            else:
                u, i, a, r, wait = _first_state(u0, i0, a0, r0, w0, base, lane, inside, theta)
        xs, grads_s, grads_u = (), (), ()
        x_row = x + base + first * x_stride
        if grad_s is not None:
            s_row = grad_s + base + first * s_stride
        if grad_u is not None:
            u_row = grad_u + base + first * u_stride
        for t in tl.static_range(K):
            limit = _limit(left, c * K + t, T, TAIL)
            if not CONSTANT:
                xs += (tl.load(x_row + lane, mask=lane < limit, other=0.0),)
                x_row += x_stride
            if grad_s is not None:
                grads_s += (tl.load(s_row + lane, mask=lane < limit, other=0.0),)
                s_row += s_stride
            if grad_u is not None:
                grads_u += (tl.load(u_row + lane, mask=lane < limit, other=0.0),)
                u_row += u_stride
        # before step t: u_all[t], i_all[t], r_all[t], a_all[t]; after it: u_all[t + 1]
        u_all, i_all, a_all, r_all, held_all = (u,), (), (), (), ()
        for t in tl.static_range(K):
            if not CONSTANT:
                x_t = xs[t].to(D)
            i_all += (i,)
            a_all += (a,)
            r_all += (r,)
            u, i, a, r, wait, _, held = _step(
                x_t, u, i, a, r, wait, beta, alpha, rho, theta, b, refractory, RESET, SYNAPSE, ADAPTS, HOLDS
            )
            u_all += (u,)
            held_all += (held,)
        if not CONSTANT:
            x_row = grad_x + base + (first + K - 1) * N
        for t in tl.static_range(K - 1, -1, -1):
            exists = c * K + t < T
            limit = _limit(left, c * K + t, T, TAIL)
            before = u_all[t]
            g_t = g
            if FIRES:
                total = zero
                if grad_s is not None:
                    total = grads_s[t].to(D)
                if ADAPTS:
                    total += h
                if RESETS:
                    total += k
                level = theta
                if ADAPTS:
                    level = a_all[t] * b + theta
                q = total * _psi(u_all[t + 1] - level, c0, c1, c2, c3, c4, SURROGATE)
                if HOLDS:
                    q = tl.where(held_all[t], 0.0, q)
                g_t = g + q
            if grad_u is not None:
                g_t += grads_u[t].to(D)
            live = g_t
            if HOLDS:
                live = tl.where(held_all[t], 0.0, g_t)
            if ADAPTS:
                if grad_rho is not None:
                    sum_rho = _keep(sum_rho, sum_rho + h * a_all[t], exists, TAIL)
                h = _keep(h, rho * h - b * q, exists, TAIL)
            di_t = live
            if SYNAPSE:
                di_t = live + di
                if grad_alpha is not None:
                    sum_alpha = _keep(sum_alpha, sum_alpha + di_t * i_all[t], exists, TAIL)
                di = _keep(di, di_t * alpha, exists, TAIL)
            if CONSTANT:
                sum_x = _keep(sum_x, sum_x + di_t, exists, TAIL)
            else:
                tl.store(x_row + lane, di_t.to(grad_x.dtype.element_ty), mask=lane < limit)
                x_row -= N
            source = before
            g_next = live * beta
            if RESET == "zero":
                source = before * (1.0 - r_all[t])
                g_next = g_next * (1.0 - r_all[t])
            if grad_beta is not None:
                sum_beta = _keep(sum_beta, sum_beta + live * source, exists, TAIL)
            if RESETS:
                k_t = zero
                if ATTACHED:
                    if RESET == "zero":
                        k_t = -live * (before * beta)
                    elif RESET == "subtract":
                        k_t = -live * theta
                    if HOLDS:
                        k_t = tl.where(held_all[t], k, k_t)
                k = _keep(k, k_t, exists, TAIL)
            if HOLDS:
                g_next = tl.where(held_all[t], g_t, g_next)
            g = _keep(g, g_next, exists, TAIL)
    if CONSTANT:
        tl.store(grad_x + base + lane, sum_x.to(grad_x.dtype.element_ty), mask=inside)
    if grad_u0 is not None:
        tl.store(grad_u0 + base + lane, g, mask=inside)
    if grad_i0 is not None:
        tl.store(grad_i0 + base + lane, di, mask=inside)
    if grad_a0 is not None:
        tl.store(grad_a0 + base + lane, h, mask=inside)
    if grad_r0 is not None:
        tl.store(grad_r0 + base + lane, k, mask=inside)
    if grad_beta is not None:
        tl.store(grad_beta + base + lane, sum_beta, mask=inside)
    if grad_alpha is not None:
        tl.store(grad_alpha + base + lane, sum_alpha, mask=inside)
    if grad_rho is not None:
        tl.store(grad_rho + base + lane, sum_rho, mask=inside)


@triton.jit(do_not_specialize=["T"])
def leaky_forward_kernel(
    x, u0, potentials, betas, beta: tl.float64, T, N, x_stride,
    BETA: tl.constexpr, K: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u[t] = beta u[t-1] + x[t]."""
    D: tl.constexpr = u0.dtype.element_ty
    base = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    left = N - base
    inside = lane < left
    beta = _decay(beta, betas, base, lane, inside, BETA, D)
    u = tl.load(u0 + base + lane, mask=inside, other=0.0)
    x_row = x + base
    u_row = potentials + base
    for c in range((T + K - 1) // K):
        xs = ()
        for t in tl.static_range(K):
            xs += (tl.load(x_row + lane, mask=lane < _limit(left, c * K + t, T, TAIL), other=0.0),)
            x_row += x_stride
        for t in tl.static_range(K):
            u = u * beta + xs[t].to(D)
            tl.store(u_row + lane, u, mask=lane < _limit(left, c * K + t, T, TAIL))
            u_row += N


@triton.jit(do_not_specialize=["T"])
def leaky_backward_kernel(
    grad, u0, potentials, grad_x, grad_u, grad_beta, betas, beta: tl.float64, T, N, stride,
    BETA: tl.constexpr, K: tl.constexpr, TAIL: tl.constexpr, CONSTANT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """g[t] = grad[t] + beta g[t+1]; `carry` is beta g[t+1]."""
    D: tl.constexpr = u0.dtype.element_ty
    base = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    left = N - base
    inside = lane < left
    beta = _decay(beta, betas, base, lane, inside, BETA, D)
    zero = tl.full((BLOCK,), 0.0, D)
    carry, sum_x, sum_beta = zero, zero, zero
    segments = (T + K - 1) // K
    for j in range(segments):
        c = segments - 1 - j
        first = c.to(tl.int64) * K
        row = grad + base + first * stride
        grads, before = (), ()
        for t in tl.static_range(K):
            grads += (tl.load(row + lane, mask=lane < _limit(left, c * K + t, T, TAIL), other=0.0),)
            row += stride
        if grad_beta is not None:
            row = potentials + base + (first - 1) * N  # u[t-1]
            if c > 0:
                u = tl.load(row + lane, mask=inside, other=0.0)
            else:
                u = tl.load(u0 + base + lane, mask=inside, other=0.0)
            before += (u,)
            for t in tl.static_range(1, K):
                row += N
                before += (tl.load(row + lane, mask=lane < _limit(left, c * K + t, T, TAIL), other=0.0),)
        row = grad_x + base + (first + K - 1) * N
        for t in tl.static_range(K - 1, -1, -1):
            exists = c * K + t < T
            g = grads[t] + carry
            if CONSTANT:
                sum_x = _keep(sum_x, sum_x + g, exists, TAIL)
            else:
                tl.store(row + lane, g.to(grad_x.dtype.element_ty), mask=lane < _limit(left, c * K + t, T, TAIL))
                row -= N
            if grad_beta is not None:
                sum_beta = _keep(sum_beta, sum_beta + g * before[t], exists, TAIL)
            carry = _keep(carry, g * beta, exists, TAIL)
    if CONSTANT:
        tl.store(grad_x + base + lane, sum_x.to(grad_x.dtype.element_ty), mask=inside)
    tl.store(grad_u + base + lane, carry, mask=inside)
    if grad_beta is not None:
        tl.store(grad_beta + base + lane, sum_beta, mask=inside)

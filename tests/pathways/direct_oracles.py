"""Direct feedback in NumPy, independent of autograd: LIF with detached reset and FastSigmoid, leaky readout."""

import numpy as np


def membrane(current, beta, spiking=True):
    """u[t] = beta u[t-1] + I[t] - H(u[t-1] - 1), without the reset for a readout; and the spikes."""
    u, last = np.zeros_like(current), np.zeros_like(current[0])
    for t in range(len(current)):
        last = u[t] = beta * last + current[t] - ((last > 1) if spiking else 0)
    return u, (u > 1).astype(u.dtype)


def adjoint(error, u, beta, slope):
    """dL/dI of dL/ds: delta[t] = error[t] / (1 + slope |u[t] - 1|)^2 + beta delta[t+1]; slope None for a readout."""
    direct = error if slope is None else error / (1 + slope * np.abs(u - 1)) ** 2
    delta, later = np.zeros_like(u), np.zeros_like(u[0])
    for t in reversed(range(len(u))):
        later = delta[t] = direct[t] + beta * later
    return delta


def output_error(potentials, labels, beta):
    """e[t] = dL/da_L[t] for the cross-entropy of the mean potential, a mean over the batch."""
    scores = potentials.mean(0)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    error = np.broadcast_to(p / len(labels) / len(potentials), potentials.shape)
    return adjoint(error, potentials, beta, None)


def delivered(e, labels, signal="error", when="step"):
    """q[t], which B_l multiplies: (T, B, n_out)."""
    steps, batch, out = e.shape
    if signal == "target":
        return np.broadcast_to(-np.eye(out)[labels] / (steps * batch), e.shape)
    q = np.broadcast_to(e.mean(0), e.shape) if when == "sequence" else e
    return np.sign(q) / (steps * batch) if signal == "sign" else q


def outer(delta, x):
    """dL/dW of a dense layer."""
    return np.einsum("tbo,tbi->oi", delta, x)


def dense_gradients(x, labels, weights, biases, feedbacks, beta, slope, signal="error", when="step"):
    """Of Linear-LIF-...-Linear-LeakyReadout: gradients of the weights and biases from first to last, dL/dB, spikes.

    Args:
        x: (T, B, n). weights: (out, in). feedbacks: (n_out, n_l) for each hidden layer.
    """
    inputs, potentials = [x], []
    for depth, (w, b) in enumerate(zip(weights, biases, strict=True)):
        u, s = membrane(inputs[-1] @ w.T + b, beta, depth < len(weights) - 1)
        potentials.append(u)
        inputs.append(s)
    e = output_error(potentials[-1], labels, beta)
    q = delivered(e, labels, signal, when)
    deltas = [
        adjoint(np.einsum("tbk,kj->tbj", q, b), u, beta, slope) for b, u in zip(feedbacks, potentials[:-1], strict=True)
    ] + [e]
    g_weights = [outer(delta, s) for delta, s in zip(deltas, inputs, strict=False)]
    g_feedbacks = [outer(e, s) for s in inputs[1:-1]]
    return g_weights, [delta.sum((0, 1)) for delta in deltas], g_feedbacks, [int(s.sum()) for s in inputs[1:-1]]


def patches(x):
    """The 3x3 neighbourhoods of x (..., C, H, W) padded with one zero: (..., C, H, W, 3, 3)."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(-2, -1))


def residual_gradients(x, labels, convs, linear, feedbacks, beta, slope):
    """Of conv-LIF, a block conv-LIF whose input spikes are added to its output, average pool 2, Linear, LeakyReadout.

    A population receives q B of its own and nothing from the addition.

    Args:
        x: (T, B, C, H, W). convs: two of (weight (C', C, 3, 3), bias), padding 1. linear: weight and bias.
        feedbacks: two of (n_out, C, H, W).
    Returns:
        gradients of the weights, of the biases, and the number of spikes of each population.
    """
    (w1, b1), (w2, b2) = convs
    seen = [patches(x)]
    u1, s1 = membrane(np.einsum("tbchwij,ocij->tbohw", seen[0], w1) + b1[:, None, None], beta)
    seen.append(patches(s1))
    u2, s2 = membrane(np.einsum("tbchwij,ocij->tbohw", seen[1], w2) + b2[:, None, None], beta)
    total = s1 + s2
    steps, batch, channels, height, width = total.shape
    pooled = total.reshape(steps, batch, channels, height // 2, 2, width // 2, 2).mean((4, 6)).reshape(steps, batch, -1)
    u3, _ = membrane(pooled @ linear[0].T + linear[1], beta, False)
    e = output_error(u3, labels, beta)
    deltas = [
        adjoint(np.einsum("tbk,kchw->tbchw", e, feedback), u, beta, slope)
        for feedback, u in zip(feedbacks, (u1, u2), strict=True)
    ]
    g_weights = [np.einsum("tbohw,tbchwij->ocij", d, s) for d, s in zip(deltas, seen, strict=True)] + [outer(e, pooled)]
    g_biases = [d.sum((0, 1, 3, 4)) for d in deltas] + [e.sum((0, 1))]
    return g_weights, g_biases, [int(s1.sum()), int(s2.sum())]


def recurrent_gradients(x, labels, weights, biases, v, feedback, beta, slope, back=None):
    """Of a recurrent LIF population, Linear and LeakyReadout; `back`: what carries errors along V, None for nothing.

    Returns:
        gradients of (W, V, W_out), spikes of the population.
    """
    (w, w_out), (b, b_out) = weights, biases
    outside = x @ w.T + b
    u, s = np.zeros_like(outside), np.zeros_like(outside)
    last, heard = np.zeros_like(outside[0]), np.zeros_like(outside[0])
    for t in range(len(x)):
        last = u[t] = beta * last + outside[t] + heard @ v.T - (last > 1)
        s[t] = last > 1
        heard = s[t]
    potentials, _ = membrane(s @ w_out.T + b_out, beta, False)
    e = output_error(potentials, labels, beta)
    delta, later = np.zeros_like(u), np.zeros_like(u[0])
    for t in reversed(range(len(u))):
        error = e[t] @ feedback + (0 if back is None else later @ back)
        later = delta[t] = error / (1 + slope * np.abs(u[t] - 1)) ** 2 + beta * later
    before = np.concatenate([np.zeros_like(s[:1]), s[:-1]])
    return [outer(delta, x), outer(delta, before), outer(e, s)], int(s.sum())

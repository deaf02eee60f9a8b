"""Independent forms of the rule "the error travels through B": autograd by a detach trick, and equations in NumPy."""

import numpy as np
import torch
from torch.nn import functional as F


def linear_with_feedback(x, weight, bias, feedback):
    """The value and the weight gradients of x W^T + b, the gradient of x of x B^T, all by plain autograd."""
    carrier = F.linear(x, feedback)
    return F.linear(x.detach(), weight, bias) + carrier - carrier.detach()


def conv_with_feedback(x, weight, bias, feedback, **geometry):
    carrier = F.conv2d(x, feedback, None, **geometry)
    return F.conv2d(x.detach(), weight, bias, **geometry) + carrier - carrier.detach()


def relative(a, b):
    """max |a - b| / max |b|."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


def use(layer, feedback):
    """Give a layer under FeedbackAlignment this B."""
    with torch.no_grad():
        layer.feedback_weight.copy_(feedback)


def spiking_gradients(x, labels, weights, biases, feedbacks, beta, slope):
    """Mean-potential cross-entropy of Linear-LIF-...-Linear-LeakyReadout, and its gradients, written out.

    u[t] = beta u[t-1] + I[t] - H(u[t-1] - 1), reset detached, surrogate 1 / (1 + slope |v|)^2;
    dL/du[t] = dL/ds[t] phi'(u[t] - 1) + beta dL/du[t+1]; dL/dI = dL/du; dL/ds of the layer below = dL/dI B.

    Args:
        x: (T, B, n). weights, feedbacks: (out, in) from the first layer to the last.
    Returns:
        gradients of the weights, of the biases, and the number of spikes of each hidden layer.
    """
    steps = len(x)
    inputs, potentials = [x], []
    for depth, (w, b) in enumerate(zip(weights, biases, strict=True)):
        current = inputs[-1] @ w.T + b
        u = np.zeros_like(current)
        last = np.zeros_like(current[0])
        for t in range(steps):
            hidden = depth < len(weights) - 1
            last = u[t] = beta * last + current[t] - ((last > 1) if hidden else 0)
        potentials.append(u)
        inputs.append((u > 1).astype(u.dtype))
    scores = potentials[-1].mean(0)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    error = np.broadcast_to(p / len(labels) / steps, potentials[-1].shape)  # dL/ds of the layer at hand; here dL/du
    g_weights, g_biases = [], []
    for depth in reversed(range(len(weights))):
        u = potentials[depth]
        direct = error if depth == len(weights) - 1 else error / (1 + slope * np.abs(u - 1)) ** 2
        delta = np.zeros_like(u)
        later = np.zeros_like(u[0])
        for t in reversed(range(steps)):
            later = delta[t] = direct[t] + beta * later
        g_weights.insert(0, np.einsum("tbo,tbi->oi", delta, inputs[depth]))
        g_biases.insert(0, delta.sum((0, 1)))
        error = delta @ feedbacks[depth]
    return g_weights, g_biases, [int(s.sum()) for s in inputs[1:-1]]

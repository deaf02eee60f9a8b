"""Models of torch and snnTorch as their users write them, for the tests of conversion."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikecredit.synapses import Constrained


class BasicBlock(nn.Module):
    """As in torchvision, activations in place."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    shape = (4, 3, 8, 8)

    def __init__(self, classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 12, 2), BasicBlock(12, 12))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, classes)
        self.head = [self.fc]  # a reference that no module registers

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        return self.head[0](torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class FastSigmoid(torch.autograd.Function):
    """snnTorch's fast_sigmoid, whose own spikes are float32 whatever the potential is, with slope 5."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + 5 * ctx.saved_tensors[0].abs()) ** 2


class Spiking(nn.Module):
    """As in snnTorch's tutorials: a loop over time, states in the loop; the readout integrates without spikes."""

    shape = (9, 4, 12)

    def __init__(self, sizes=(12, 20, 15, 5), beta=0.875):  # beta is the same number in every precision
        super().__init__()
        snn = pytest.importorskip("snntorch")
        self.linears = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.neurons = nn.ModuleList(snn.Leaky(beta, spike_grad=FastSigmoid.apply) for _ in sizes[2:])
        self.readout = snn.Leaky(beta, reset_mechanism="none", spike_grad=FastSigmoid.apply)

    def forward(self, x):
        states = [lif.init_leaky() for lif in [*self.neurons, self.readout]]
        potentials = []
        for spikes in x:
            for i, (linear, lif) in enumerate(zip(self.linears, [*self.neurons, self.readout], strict=True)):
                spikes, states[i] = lif(linear(spikes), states[i])
            potentials.append(states[-1])
        return torch.stack(potentials).mean(0)


def plain():
    """In place after a convolution, paddings that no pair of numbers can say, groups, a tail without a batch."""
    return nn.Sequential(
        nn.Conv2d(3, 8, (4, 3), padding="same"), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, 2, 1, 1, 4), nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(),
        nn.Linear(96, 10), nn.ReLU(inplace=True), nn.Linear(10, 5, bias=False),
    )  # fmt: skip


plain.shape = (4, 3, 8, 8)
MODELS = [ResNet, Spiking, plain]


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}


def violations(model):
    return sum(m.violations() for m in model.modules() if isinstance(m, Constrained))


def batch(make, dtype=torch.float32):
    return 2 * torch.randn(make.shape, dtype=dtype).abs(), torch.tensor([0, 1, 2, 3])


def gradients(model, x, y):
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}

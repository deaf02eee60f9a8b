"""Ready networks, by name: mlp, lenet, vgg, resnet."""

from spikecredit.architectures.architecture import Architecture
from spikecredit.architectures.dann import DANN, DANNArchitecture
from spikecredit.architectures.lenet import LeNet
from spikecredit.architectures.mlp import MLP
from spikecredit.architectures.resnet import Residual, ResNet
from spikecredit.architectures.vgg import VGG

ARCHITECTURES: dict[str, type[Architecture]] = {"mlp": MLP, "lenet": LeNet, "vgg": VGG, "resnet": ResNet}

__all__ = ["ARCHITECTURES", "DANN", "MLP", "VGG", "Architecture", "DANNArchitecture", "LeNet", "ResNet", "Residual"]

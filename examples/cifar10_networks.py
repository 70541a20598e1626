"""Two small robust CIFAR-10 networks of the alpha-beta-CROWN verifier's benchmarks, as factories.

cd examples
advlens audit --model cifar10_networks:resnet4b@resnet4b.safetensors \
    --model cifar10_networks:cnn_a_mix@cnn_a_mix.safetensors --data cifar10:DIR --out runs/small
"""

import torch.nn.functional as F
from torch import Tensor, nn

from advlens import Classifier
from advlens.models import CIFAR10_CLASSES, CIFAR10_MEAN
from advlens.wordnet import CIFAR10_SYNSETS


class Block(nn.Module):
    """Two convolutions with bias, no normalization, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        projection = [nn.Conv2d(inputs, outputs, 1, stride)] if stride != 1 else []
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet4b(nn.Module):
    """Four blocks after a strided stem, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 32, 2), Block(32, 32, 1))
        self.linear1 = nn.Linear(512, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer2(self.layer1(F.relu(self.conv1(x))))
        return self.linear2(F.relu(self.linear1(features.flatten(1))))


def resnet4b() -> Classifier:
    """A residual network trained for verification."""
    return _classifier(ResNet4b(), "resnet4b", CIFAR10_MEAN, (0.2471, 0.2435, 0.2616))


def cnn_a_mix() -> Classifier:
    """Two convolutions and two linear layers."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    return _classifier(network, "cnn_a_mix", (0.485, 0.456, 0.406), (0.225, 0.225, 0.225))


def _classifier(
    network: nn.Module, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Classifier:
    return Classifier(
        network,
        name=name,
        mean=mean,
        std=std,
        classes=CIFAR10_CLASSES,
        synsets=tuple(CIFAR10_SYNSETS.values()),
        image_size=32,
        resize=32,
    )

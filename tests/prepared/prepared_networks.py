"""Networks of every kind that a prepared copy has to deal with."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torchvision.models import ResNet, inception_v3
from torchvision.models.resnet import Bottleneck

from advlens.models.classifier import Classifier
from advlens.models.resnet import CifarResNet

conv = partial(nn.Conv2d, kernel_size=3, padding=1)


def vgg(relu: type[nn.Module] = nn.ReLU, **kwargs) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8)):
        layers += [conv(inputs, outputs), nn.BatchNorm2d(outputs), relu(**kwargs), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(8 * 4 * 4, 5))


class Functional(nn.Module):
    """Functional calls, an addition with a method, a constant and a buffer made in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 6, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = conv(6, 6), nn.BatchNorm2d(6, affine=False)
        self.conv3, self.linear = nn.Conv2d(6, 8, 3, stride=2), nn.Linear(8 * 7 * 7, 5)
        self.register_buffer("gain", torch.tensor(1.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.bn1(self.conv1(x * self.gain)), inplace=True)
        second = self.bn2(self.conv2(first)).add(first).relu()
        return self.linear(torch.flatten(F.gelu(self.conv3(second * torch.tensor(0.5))), 1))


class Ignored(nn.Module):  # works in place and ignores what the call returns
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.linear = nn.Conv2d(6, 6, 3), nn.Linear(6 * 12 * 12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn1(self.conv1(x))
        self.relu(out)
        out = self.conv2(out)
        out.mul_(2)
        F.relu_(out)
        return self.linear(torch.flatten(out, 1))


class Branching(nn.Module):  # control flow that depends on the images; one branch is never taken
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.never, self.conv2 = nn.Conv2d(6, 8, 3), nn.Conv2d(6, 8, 3)
        self.linear = nn.Linear(8 * 12 * 12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.never(out) if x.amax() > 2 else self.conv2(out)
        return self.linear(torch.flatten(F.relu(out), 1))


class Standardized(nn.Conv2d):
    """A convolution that scales its weight: batch normalization cannot be folded into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight / self.weight.flatten(1).std(dim=1).view(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class NormAndActivation(nn.BatchNorm2d):
    """A batch normalization that does more: it cannot be left out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(x))


class Shared(nn.Module):  # a normalization behind two convolutions, and a convolution used twice
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = conv(3, 6), conv(6, 6), nn.BatchNorm2d(6)
        self.twice, self.bn_twice = conv(6, 6), nn.BatchNorm2d(6)
        self.linear = nn.Linear(6 * 16 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn(self.conv1(x)))
        out = F.relu(self.bn(self.conv2(out)))
        out = F.relu(self.bn_twice(self.twice(out)))
        return self.linear(torch.flatten(F.relu(self.twice(out)), 1))


class ReadTwice(nn.Module):  # a convolution whose own output is needed beside the normalized one
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = conv(3, 6), nn.BatchNorm2d(6), nn.Linear(6 * 16 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x)
        return self.linear(torch.flatten(self.bn(maps) + maps, 1))


def tied() -> nn.Module:
    """Two convolutions with one weight, of which only the first is folded."""
    first, second = conv(3, 3, bias=False), conv(3, 3, bias=False)
    second.weight = first.weight
    maps = first, nn.BatchNorm2d(3), nn.ReLU(), second, nn.ReLU()
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(768, 5))


def _of_vgg(position: int, layer: nn.Module) -> nn.Module:
    model = vgg()
    model[position] = layer
    return model


def _classifier() -> nn.Module:
    network = CifarResNet((1, 2), (4, 6), "pad", classes=5)
    return Classifier(network, name="c", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # how it is built, and how many normalizations can be folded
    "resnet, pad": (lambda: CifarResNet((1, 2), (4, 6), "pad", classes=5), 7),
    "resnet, projection": (lambda: CifarResNet((2, 1), (4, 6), "projection", classes=5), 8),
    "classifier": (_classifier, 7),
    "vgg": (vgg, 2),
    "vgg, in place": (lambda: vgg(inplace=True), 2),
    "leaky": (lambda: vgg(nn.LeakyReLU), 2),
    "functional": (Functional, 2),
    "results ignored": (Ignored, 1),
    "control flow": (Branching, 0),
    "convolution subclass": (lambda: _of_vgg(4, Standardized(6, 8, 3, padding=1)), 1),
    "norm subclass": (lambda: _of_vgg(1, NormAndActivation(6)), 1),
    "no running statistics": (lambda: _of_vgg(1, nn.BatchNorm2d(6, track_running_stats=False)), 1),
    "shared layers": (Shared, 0),
    "read twice": (ReadTwice, 0),
    "tied weights": (tied, 1),
    # the old one makes the weight by a hook before every call, the new one when it is read
    "spectral norm": (lambda: _of_vgg(0, spectral_norm(conv(3, 6))), 1),
    "weight norm": (lambda: _of_vgg(0, parametrizations.weight_norm(conv(3, 6))), 1),
    "bottlenecks": (lambda: ResNet(Bottleneck, [2, 1, 1, 1], 5, width_per_group=8), 20),
    "inception": (lambda: inception_v3(num_classes=5, aux_logits=False, init_weights=False), 94),
}
SLOW = {"bottlenecks": 64, "inception": 75}  # the side of their images
UNTRACEABLE = {"control flow"}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with lively batch statistics, in training mode, and images for it."""
    generator, side = torch.Generator().manual_seed(1), SLOW.get(name, 16)
    images = torch.rand(4, 3, side, side, generator=generator)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = NETWORKS[name][0]().train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.momentum = 1.0  # take over the statistics of one batch
                if module.affine:
                    module.weight.uniform_(-1.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
        model(images)
    return model, images


def logits_and_gradient(model: nn.Module, images: torch.Tensor):
    inputs = images.clone().requires_grad_()
    logits = model(inputs)
    mix = torch.linspace(-1, 1, logits.numel()).view_as(logits).to(logits)
    (gradient,) = torch.autograd.grad((logits * mix).sum(), inputs)
    return logits.detach(), gradient

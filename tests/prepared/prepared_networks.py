"""Networks of every kind that a prepared copy has to deal with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from advlens.models.classifier import Classifier
from advlens.models.resnet import CifarResNet


def vgg(relu: type[nn.Module] = nn.ReLU, **kwargs) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
        layers += [relu(**kwargs), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(8 * 4 * 4, 5))


class Functional(nn.Module):
    """Functional calls, an addition with a method, a constant and a buffer made in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6, affine=False)
        self.conv3 = nn.Conv2d(6, 8, 3, stride=2)
        self.register_buffer("gain", torch.tensor(1.5), persistent=False)
        self.linear = nn.Linear(8 * 7 * 7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.bn1(self.conv1(x * self.gain)), inplace=True)
        second = self.bn2(self.conv2(first)).add(first).relu()
        third = F.gelu(self.conv3(second * torch.tensor(0.5)))
        return self.linear(torch.flatten(third, 1))


class Ignored(nn.Module):
    """Works in place and ignores what the call returns."""

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


class Branching(nn.Module):
    """Control flow that depends on the images; one branch is never taken."""

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


class Shared(nn.Module):
    """A normalization behind two convolutions, and a convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.bn, self.twice = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.bn_twice, self.linear = nn.BatchNorm2d(6), nn.Linear(6 * 16 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn(self.conv1(x)))
        out = F.relu(self.bn(self.conv2(out)))
        out = F.relu(self.bn_twice(self.twice(out)))
        return self.linear(torch.flatten(F.relu(self.twice(out)), 1))


def tied() -> nn.Module:
    """Two convolutions with one weight, of which only the first is folded."""
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 5),
    )
    model[3].weight = model[0].weight
    return model


def spectral() -> nn.Module:
    """The weight of the first convolution is made by a hook before every call."""
    model = vgg()
    model[0] = nn.utils.spectral_norm(model[0])
    return model


def _of_vgg(position: int, layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = vgg()
        model[position] = layer()
        return model

    return build


def _classifier() -> nn.Module:
    network = CifarResNet((1, 2), (4, 6), "pad", classes=5)
    return Classifier(network, name="c", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))


def _parametrized() -> nn.Module:
    model = vgg()
    nn.utils.parametrizations.weight_norm(model[0])
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet, pad": lambda: CifarResNet((1, 2), (4, 6), "pad", classes=5),
    "resnet, projection": lambda: CifarResNet((2, 1), (4, 6), "projection", classes=5),
    "classifier": _classifier,
    "vgg": vgg,
    "vgg, in place": lambda: vgg(inplace=True),
    "leaky": lambda: vgg(nn.LeakyReLU),
    "functional": Functional,
    "results ignored": Ignored,
    "control flow": Branching,
    "convolution subclass": _of_vgg(4, lambda: Standardized(6, 8, 3, padding=1)),
    "norm subclass": _of_vgg(1, lambda: NormAndActivation(6)),
    "no running statistics": _of_vgg(1, lambda: nn.BatchNorm2d(6, track_running_stats=False)),
    "shared layers": Shared,
    "tied weights": tied,
    "spectral norm": spectral,
    "weight norm": _parametrized,
    "torchvision resnet18": lambda: torchvision.models.resnet18(num_classes=5),
    "torchvision inception": lambda: torchvision.models.inception_v3(
        num_classes=5, aux_logits=False, init_weights=False
    ),
}
SLOW = {"torchvision resnet18", "torchvision inception"}
UNTRACEABLE = {"control flow"}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network with lively batch statistics, in training mode, and images for it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, *(2 * (96 if name in SLOW else 16,)), generator=generator)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = NETWORKS[name]().train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.momentum = 1.0  # take over the statistics of one batch
                if module.affine:
                    module.weight.uniform_(-1.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
        model(images)
    return model, images

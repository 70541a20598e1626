"""A model whose passes differ, for tests."""

import itertools
import random

import torch
from torch import Tensor, nn

from advlens.prepared import Prepared


class Live(Prepared):
    """The module itself, whose passes differ, in place of its frozen copy."""

    def __init__(self, model: nn.Module):
        super().__init__(model, torch.float32)
        self.randomized, self.model = True, model

    def check(self, images: Tensor) -> None:
        super().check(images)
        self.randomized = True

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).float()

    def features(self, images: Tensor, layer: str | None = None) -> Tensor:
        return self.model.features(images)


class Shifted(nn.Module):
    """A network that sees its images moved, by turns or by chance."""

    def __init__(self, network: nn.Module, shifts=None, most: int = 0):
        super().__init__()
        self.network, self.most = network.requires_grad_(False), most
        self.shifts = itertools.cycle(shifts or (0,))

    def moved(self, x: Tensor) -> Tensor:
        shift = random.randint(-self.most, self.most) if self.most else next(self.shifts)
        return torch.roll(x, shift, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.moved(x))

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.network.conv1(self.moved(x)))

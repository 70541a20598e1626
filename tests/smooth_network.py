"""A network on which float32 and float64 attacks go the same way."""

import torch
from torch import nn


class SmoothNetwork(nn.Module):
    """A small smooth classifier of 3×8×8 images, 5 classes, far from over-confident."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 2, 1)
        self.conv2 = nn.Conv2d(6, 6, 3, 1, 1, bias=False)
        self.linear = nn.Linear(6 * 4 * 4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.conv1(2 * x - 1))
        hidden = torch.tanh(self.conv2(hidden))
        return 12 * self.linear(torch.flatten(hidden, 1))

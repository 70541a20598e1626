"""Networks for the tests of methods, and what a method could leave behind on one."""

import random

import numpy as np
import torch
from torch import nn


class SmoothNetwork(nn.Module):
    """A small smooth classifier of 3×8×8 images, 5 classes, far from over-confident.

    On it float32 and float64 attacks go the same way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 2, 1)
        self.conv2 = nn.Conv2d(6, 6, 3, 1, 1, bias=False)
        self.linear = nn.Linear(6 * 4 * 4, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.conv1(2 * x - 1))
        hidden = torch.tanh(self.conv2(hidden))
        return 12 * self.linear(torch.flatten(hidden, 1))


class Untraceable(nn.Module):
    """The same network, behind a branch that torch cannot trace."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) if x.sum() > -1 else self.network(-x)


class Counting(nn.Module):
    """Notes how many images it sees at once; its control flow keeps it from being traced."""

    seen: list[int] = []  # noqa: RUF012  # shared with the prepared copy

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) and x.amax() > 0:
            self.seen.append(len(x))
        return self.network(x)


class Breaks(nn.Module):
    """Returns NaN, or a NaN gradient, for what has a value above the limit."""

    def __init__(self, network: nn.Module, limit: float, logits: bool):
        super().__init__()
        self.network, self.limit, self.logits = network, limit, logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = torch.relu(x.amax(dim=(1, 2, 3)) - self.limit).unsqueeze(1)
        # the root's gradient at 0 is infinite, once with either sign
        broken = torch.where(over > 0, torch.nan, 0.0) if self.logits else (over - over).pow(0.5)
        found = self.network(x)
        return (found.flatten(1) + broken).view_as(found)


class Mixed(nn.Module):
    """Batch normalization and dropout, in mixed modes, a frozen weight, and a gradient."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)),
                *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            )
            self.linear = nn.Linear(4 * 4 * 4, 5)
            self.body[5].eval()
            self.body[0].weight.requires_grad_(False)
            self(images).sum().backward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.flatten(self.body(x), 1))


def state_of(model: nn.Module) -> list:
    """Everything that a method could leave behind."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    hooks = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()]
    return [
        [(name, module.training) for name, module in model.named_modules()],
        [[list(kind) for kind in of_module] for of_module in hooks],
        [(name, t.requires_grad, t.tolist()) for name, t in tensors.items()],
        [None if t.grad is None else t.grad.tolist() for t in tensors.values()],
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    ]

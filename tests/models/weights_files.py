"""What the tests of weights files share: a small classifier, and what a refusal must be like."""

from pathlib import Path

import pytest
import torch
from torch import nn

from advlens.errors import CheckpointError
from advlens.models import Classifier, load_weights
from work import at_most

CALLS = 8_000_000
"""Of functions, at most, to refuse a file."""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.bn(self.conv(x)).mean(dim=(2, 3)))


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    built = Classifier(Network(), name="c", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    built(torch.rand(4, 3, 8, 8))  # moves the running statistics
    return built.eval()


def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in classifier().network.state_dict().items()}


def same(a: Classifier, b: Classifier) -> bool:
    pairs = zip(a.network.state_dict().items(), b.network.state_dict().items(), strict=True)
    return all(torch.equal(x, y) for (name, x), (_, y) in pairs if "num_batches" not in name)


def assert_refused(path: Path, message: str) -> None:
    """One CheckpointError that names the file, at little cost; the classifier stays as it was."""
    built, before = classifier(1), classifier(1)
    with at_most(calls=CALLS), pytest.raises(CheckpointError, match=message) as caught:
        load_weights(built, path)
    assert str(path) in str(caught.value)
    assert str(caught.value).replace(str(path), "").isprintable()
    assert len(str(caught.value)) < 2000
    assert same(built, before)
    assert torch.equal(built.mean, before.mean)
    assert torch.equal(built.std, before.std)

"""The representation that the last linear layer reads, by graph and by hooks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.errors import ModelError
from advlens.models import Classifier
from advlens.models.resnet import CifarResNet
from advlens.prepared import prepare


class Branching(nn.Module):
    """Control flow on the images, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x) if x.sum() > 0 else self.conv(-x)
        return self.head(F.relu(maps).mean(dim=(2, 3)))


def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_of_a_resnet_it_is_the_pooled_last_maps() -> None:
    torch.manual_seed(0)
    network = CifarResNet((1, 1), (4, 8), "pad")
    classifier = Classifier(network, name="x", mean=(0.5,) * 3, std=(0.2,) * 3).eval()
    prepared = prepare(classifier)
    found = prepared.representation(images())
    assert found.shape == (3, 8)
    torch.testing.assert_close(found, prepared.features(images()).mean(dim=(2, 3)))
    torch.testing.assert_close(network.linear(found), classifier(images()), atol=1e-5, rtol=1e-5)


def test_of_an_untraceable_model_it_is_read_by_hooks_that_leave_no_trace() -> None:
    torch.manual_seed(0)
    model = Branching().eval()
    prepared = prepare(model)
    assert not prepared.folded
    found = prepared.representation(images())
    torch.testing.assert_close(model.head(found), model(images()))
    assert not any(m._forward_pre_hooks for m in prepared.modules())


def test_without_a_linear_layer_there_is_none() -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).representation(images())

"""representations: a classifier's penultimate features, resized and named."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlens import Classifier, DataError, ModelError
from advlens.fid.representations import Representation


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    return Classifier(layers, name="tiny", mean=[0.5] * 3, image_size=8, weights="ab").eval()


@pytest.mark.parametrize("size", [8, 20])
def test_features(classifier: Classifier, size: int) -> None:
    classifier.double()
    images = torch.rand(5, 3, size, size, dtype=torch.float64)
    found = Representation(classifier, batch_size=2)(images)["representation"]
    resized = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = classifier.network[:-1](resized - 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_features_are_named_and_refusals(classifier):
    (source,) = Representation(classifier).sources.values()
    assert (source.dimension, source.weights) == (6, "ab")
    words = "tiny, layer representation, images resized bilinearly with antialiasing to 8×8"
    assert str(source) == words
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        Representation(classifier)(torch.full((1, 3, 8, 8), 2.0))
    classifier.network = classifier.network[:-1]
    with pytest.raises(ModelError, match="no linear layer"):
        Representation(classifier)

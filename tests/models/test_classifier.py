"""models.classifier: the range check and the normalization."""

import numpy as np
import pytest
import torch
from torch import nn

from advlens.errors import DataError, ModelError
from advlens.models import Classifier, check_images


def test_images_in_range_are_returned_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(check_images(images), images)
    assert check_images(images[:0]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_are_allowed(dtype):
    assert check_images(torch.ones(1, 3, 2, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(("value", "clamped"), [(-3e-8, 0), (-1e-6, 0), (1 + 9e-7, 1)])
def test_rounding_is_tolerated_and_clamped(value, clamped):
    images = torch.full((1, 3, 2, 2), 0.5)
    images[0, 1, 1, 0] = value
    assert check_images(images)[0, 1, 1, 0] == clamped


@pytest.mark.parametrize("value", [-2e-6, 1 + 2e-6, 255.0, torch.nan, torch.inf])
def test_other_values_are_refused(value):
    images = torch.full((1, 3, 2, 2), 0.5)
    images[0, 1, 1, 0] = value
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], found .*leave the normalization"):
        check_images(images)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 4, 4),
        torch.zeros(1, 1, 4, 4),
        torch.zeros(1, 4, 4, 3),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
    ],
)
def test_other_tensors_are_refused(images):
    with pytest.raises(DataError, match=r"float tensor N×3×H×W, not torch.*image.float\(\) / 255"):
        check_images(images)


def test_normalization_is_inside():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 2.0)
    classifier = Classifier(nn.Identity(), name="c", mean=mean, std=std)
    images = torch.rand(2, 3, 4, 4)
    found = classifier(images)
    for channel in range(3):
        expected = (images[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel].double(), expected, rtol=1e-5, atol=1e-6)
    classifier.set_normalization((0, 0, 0), (1, 1, 1))
    assert torch.equal(classifier(images), images)


def test_state_dict_is_the_networks():
    classifier = Classifier(nn.Linear(2, 2), name="c")
    assert list(classifier.state_dict()) == ["network.weight", "network.bias"]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0, 0), (1, 1, 1)),
        ((0, 0, 0), (1, 1)),
        ((0, 0, 0), (1, 0, 1)),
        ((0, 0, 0), (1, -1, 1)),
        ((0, 0, float("nan")), (1, 1, 1)),
        ((0, 0, 0), (1, 1, float("nan"))),
        ((0, 0, 0), (1, 1, float("inf"))),
        (0.5, (1, 1, 1)),
        ((0, 0, 0), "111"),
    ],
)
def test_impossible_normalization_is_refused(mean, std):
    with pytest.raises(ModelError, match="c: mean and std need three finite values each"):
        Classifier(nn.Identity(), name="c", mean=mean, std=std)


def test_class_names_and_synsets_must_match():
    classifier = Classifier(nn.Identity(), name="c", classes=["a", "b"], synsets=["n1", "n2"])
    assert classifier.classes == ("a", "b")
    with pytest.raises(ModelError, match="2 class names but 1 synsets"):
        Classifier(nn.Identity(), name="c", classes=["a", "b"], synsets=["n1"])


def test_classes_without_names_have_the_words_of_their_synsets() -> None:
    network = torch.nn.Flatten()
    synsets = ("n02123045", "n02084071")
    assert Classifier(network, name="x", synsets=synsets).classes == ("tabby", "dog")
    assert Classifier(network, name="x", synsets=synsets, classes=("a", "b")).classes == ("a", "b")
    assert Classifier(network, name="x").classes is None
    with pytest.raises(DataError, match="n99999999"):
        Classifier(network, name="x", synsets=("n99999999", "n02084071"))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 4, 4)), [torch.zeros(3, 4, 4)], None, "cat.png"]
)
def test_images_that_are_no_tensor_are_refused(images):
    with pytest.raises(DataError, match=f"not {type(images).__name__}; convert an array with"):
        check_images(images)

"""models.classifier: the range check and the normalization."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from advlens.errors import DataError, ModelError
from advlens.models import Classifier, check_images

build = partial(Classifier, nn.Identity(), name="c")
ZEROS, ONES = (0, 0, 0), (1, 1, 1)
IMPOSSIBLE = [
    *(((0, 0), ONES), (0.5, ONES), ((0, 0, torch.nan), ONES)),
    *((ZEROS, (1, 1)), (ZEROS, "111"), (ZEROS, (1, 0, 1)), (ZEROS, (1, -1, 1))),
    *((ZEROS, (1, 1, torch.nan)), (ZEROS, (1, 1, torch.inf))),
]
NO_TENSORS = [np.zeros((1, 3, 4, 4)), [torch.zeros(3, 4, 4)], None, "cat.png"]


def test_images_in_range_are_returned_as_they_are():
    images = torch.rand(2, 3, 4, 4)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(check_images(images.to(dtype)), images.to(dtype))
    assert check_images(images[:0]).shape == (0, 3, 4, 4)


def gray(value: float) -> torch.Tensor:
    images = torch.full((1, 3, 2, 2), 0.5)
    images[0, 1, 1, 0] = value
    return images


@pytest.mark.parametrize(("value", "clamped"), [(-3e-8, 0), (-1e-6, 0), (1 + 9e-7, 1)])
def test_rounding_is_tolerated_and_clamped(value, clamped):
    assert check_images(gray(value))[0, 1, 1, 0] == clamped


@pytest.mark.parametrize("value", [-2e-6, 1 + 2e-6, 255.0, torch.nan, torch.inf])
def test_other_values_are_refused(value):
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], found .*leave the normalization"):
        check_images(gray(value))


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 4, 4), (1, 4, 4, 3), (1, 3, 4, 4)])
def test_other_tensors_are_refused(shape):
    images = torch.zeros(shape, dtype=torch.uint8 if shape == (1, 3, 4, 4) else torch.float32)
    with pytest.raises(DataError, match=r"float tensor N×3×H×W, not torch.*image.float\(\) / 255"):
        check_images(images)


@pytest.mark.parametrize("images", NO_TENSORS)
def test_images_that_are_no_tensor_are_refused(images):
    with pytest.raises(DataError, match=f"not {type(images).__name__}; convert an array with"):
        check_images(images)


def test_normalization_is_inside_and_not_in_the_state():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 2.0)
    classifier, images = build(mean=mean, std=std), torch.rand(2, 3, 4, 4)
    found = classifier(images)
    for channel in range(3):
        expected = (images[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel].double(), expected, rtol=1e-5, atol=1e-6)
    classifier.set_normalization((0, 0, 0), (1, 1, 1))
    assert torch.equal(classifier(images), images)
    classifier = Classifier(nn.Linear(2, 2), name="c")
    assert list(classifier.state_dict()) == ["network.weight", "network.bias"]


@pytest.mark.parametrize(("mean", "std"), IMPOSSIBLE)
def test_impossible_normalization_is_refused(mean, std):
    with pytest.raises(ModelError, match="c: mean and std need three finite values each"):
        build(mean=mean, std=std)


def test_class_names_and_synsets():
    assert build(classes=["a", "b"], synsets=["n1", "n2"]).classes == ("a", "b")
    with pytest.raises(ModelError, match="2 class names but 1 synsets"):
        build(classes=["a", "b"], synsets=["n1"])
    assert build(synsets=("n02123045", "n02084071")).classes == ("tabby", "dog")
    assert build().classes is None
    with pytest.raises(DataError, match="n99999999"):
        build(synsets=("n99999999", "n02084071"))

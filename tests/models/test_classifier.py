"""models.classifier: the range check and the normalization."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advlens import L2, Pgd
from advlens.errors import DataError, ModelError
from advlens.models import Classifier, check_images
from advlens.prepared import prepare

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


@pytest.mark.parametrize("size", [0, 3.5, (32,), (32, 0), (32, 48, 3), "32"])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ModelError, match="image_size must be"):
        build(image_size=size)


def test_class_names_and_synsets():
    assert build(classes=["a", "b"], synsets=["n1", "n2"]).classes == ("a", "b")
    with pytest.raises(ModelError, match="2 class names but 1 synsets"):
        build(classes=["a", "b"], synsets=["n1"])
    assert build(synsets=("n02123045", "n02084071")).classes == ("tabby", "dog")
    assert build().classes is None
    with pytest.raises(DataError, match="n99999999"):
        build(synsets=("n99999999", "n02084071"))


def network(channels: int, outputs: int) -> nn.Sequential:
    torch.manual_seed(channels)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, outputs)).eval()


def test_a_network_of_one_channel_sees_the_luminance_of_pillow():
    images = (torch.rand(2, 3, 8, 8) * 255).round() / 255
    gray = Classifier(network(1, 3), name="gray").eval()
    assert gray.mean.shape == (1, 1, 1)
    shifted = Classifier(network(1, 3), name="gray", mean=(0.5,), std=(0.25,)).eval()
    for number, image in enumerate(images):
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        seen = torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")) / 255).float()
        close = {"rtol": 0, "atol": 0.6 / 255}  # Pillow rounds
        torch.testing.assert_close(gray.normalized(images)[number, 0], seen, **close)
        torch.testing.assert_close(shifted.normalized(images)[number, 0] / 4 + 0.5, seen, **close)
    for classifier in (gray, shifted):
        expected = classifier.network(classifier.normalized(images))
        copied = prepare(classifier, images)
        assert copied.folded
        torch.testing.assert_close(copied(images), expected.detach(), rtol=1e-4, atol=1e-5)
    assert Classifier(network(1, 3), name="gray", std=(1, 1, 2)).mean.flatten().tolist() == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("flat", [False, True])
def test_one_logit_is_that_of_the_second_of_two_classes(flat):
    one, two = network(3, 1), network(3, 2)
    with torch.no_grad():  # the same network, with the logits −z/2 and z/2
        two[:-1].load_state_dict(one[:-1].state_dict())
        for mine, single in zip(two[-1].parameters(), one[-1].parameters(), strict=True):
            mine.copy_(torch.cat([-single, single]) / 2)
    if flat:
        one.append(nn.Flatten(0))
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
    binary, plain = (Classifier(each, name="c").eval() for each in (one, two))
    torch.testing.assert_close(binary(images), plain(images))
    shares = torch.sigmoid(one(images).flatten())
    torch.testing.assert_close(binary(images).softmax(dim=1)[:, 1], shares)
    attack = Pgd(threat=L2(epsilon=0.5), steps=3)
    torch.testing.assert_close(attack(binary, images, labels), attack(plain, images, labels))
    copied = prepare(binary, images)
    assert copied.traced
    assert copied.shape == (2,)
    assert "second of two classes" in " ".join(copied.notes)
    with pytest.raises(ModelError, match=r"advlens\.Classifier"):
        attack(one, images, 0 * labels)

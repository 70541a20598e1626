"""`Consistency` on images in memory, against loops over units and images."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens.attacks import GaussianNoise, LeastLikely
from advlens.attacks.threat import L2
from advlens.consistency import Consistency
from advlens.errors import DataError, SettingsError
from advlens.models import Classifier
from advlens.wordnet import distance

SYNSETS = ("n02121620", "n02084071", "n04194289", "n04490091", "n01639765")


@pytest.fixture
def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, 2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
    return Classifier(network, name="tanh", synsets=SYNSETS, image_size=8, resize=8)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(24) % 5


def responses(classifier: Classifier, images: Tensor) -> dict[str, np.ndarray]:
    """Spatial maxima behind both convolutions, not below 0, N×units."""
    first, _, second, *_ = classifier.network
    with torch.no_grad():
        maps = torch.tanh(first(images))
        later = torch.tanh(second(maps))
    pairs = {"0": maps, "2": later}
    return {name: maps.amax(dim=(2, 3)).clamp(min=0).numpy() for name, maps in pairs.items()}


def mean_similarity(first: list[int], second: list[int]) -> float:
    """pᵀCq, as a mean over all pairs of images."""
    values = [
        math.exp(-(distance(SYNSETS[a], SYNSETS[b]) ** 2) / 2)
        for a, b in itertools.product(first, second)
    ]
    return math.fsum(values) / len(values)


def cosine(first: list[int], second: list[int]) -> float:
    lengths = mean_similarity(first, first) * mean_similarity(second, second)
    return mean_similarity(first, second) / math.sqrt(lengths)


def test_it_equals_loops_over_units_and_images(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    attack = LeastLikely(threat=L2(epsilon=0.7), steps=3)
    found = Consistency(attack=attack, top=0.25, batch_size=10)(classifier, images, labels)
    assert list(found) == ["0", "2"]
    attacked = attack(classifier, images)
    with torch.no_grad():
        targets = classifier(images).argmin(dim=1).tolist()
    truth = labels.tolist()
    real, adversarial = responses(classifier, images), responses(classifier, attacked)
    for layer, measured in found.items():
        assert measured.top == 6
        for unit in range(6):
            r, a = real[layer][:, unit], adversarial[layer][:, unit]
            p = [truth[i] for i in sorted(range(24), key=lambda i: (-r[i], i))[:6]]
            order = sorted(range(24), key=lambda i: (-a[i], i))[:6]
            q, t = [truth[i] for i in order], [targets[i] for i in order]
            expected = {
                "lc": mean_similarity(p, p),
                "consis_adv": mean_similarity(q, q),
                "cs1": cosine(p, q),
                "cs2": cosine(p, t),
            }
            for name, value in expected.items():
                assert measured.values[name][unit].item() == pytest.approx(value, rel=1e-10)
    assert not any(measured.dead.any() for measured in found.values())


def test_the_control_changes_nothing_where_there_is_no_noise(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    nothing = Consistency(attack=GaussianNoise(threat=L2(epsilon=0.0)), top=0.2)
    for measured in nothing(classifier, images, labels).values():
        assert torch.allclose(measured.values["cs1"], torch.ones(6, dtype=torch.float64))


def test_synsets_may_be_given_instead(
    classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    bare = classifier.network
    method = Consistency(top=0.2)
    with pytest.raises(SettingsError, match="pass them as synsets"):
        method(bare, images, labels)
    given, own = method(bare, images, labels, SYNSETS), method(classifier, images, labels)
    for layer in own:
        assert torch.equal(given[layer].values["cs2"], own[layer].values["cs2"])
    other = method(classifier, images, labels, SYNSETS[::-1])
    assert not torch.equal(other["0"].values["lc"], own["0"].values["lc"])


@pytest.mark.parametrize(("share", "top"), [(0.01, 2), (0.2, 5), (0.22, 5), (0.23, 6), (1.0, 24)])
def test_a_share_is_the_nearest_number_of_images(
    share: float, top: int, classifier: Classifier, images: Tensor, labels: Tensor
) -> None:
    """Of 24 images .2 are 4.8, .22 are 5.28, .23 are 5.52; 2 are the least."""
    nothing = GaussianNoise(threat=L2(epsilon=0.0))
    measured = Consistency(attack=nothing, top=share)(classifier, images, labels)
    assert {layer.top for layer in measured.values()} == {top}


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused(count: int, classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(DataError, match="too small a top set"):
        Consistency()(classifier, images[:count], torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize(
    "wrong", [{"top": 0.0}, {"top": 1.5}, {"top": math.nan}, {"sigma": -1.0}, {"batch_size": 0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=name):
        Consistency(**wrong)  # type: ignore[arg-type]

"""LC, consis, CS1 and CS2 against naive float64 loops, and their intervals against simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advlens.consistency as measures
from advlens import (
    L2,
    Classifier,
    DataError,
    GaussianNoise,
    LeastLikely,
    NumericError,
    SettingsError,
)
from advlens.auditing.stages.neurons.floors import random_floor, uniform_floor
from advlens.consistency import (
    Composition,
    Consistency,
    agreement,
    layer_consistency,
    level,
)
from advlens.statistics import TopK
from advlens.wordnet import CIFAR10_SYNSETS, distance, similarity_matrix

CLASSES = 10
C = torch.from_numpy(similarity_matrix(tuple(CIFAR10_SYNSETS.values())))
LIVE = (0, 1, 3, 4)
SYNSETS = ("n02121620", "n02084071", "n04194289", "n04490091", "n01639765")
IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 5


def tops(responses: np.ndarray, k: int) -> TopK:
    top = TopK(k, responses.shape[1])
    top.update(torch.from_numpy(responses).float(), torch.arange(len(responses)))
    return top


def naive(similarity, p: list[int], q: list[int], t: list[int]) -> dict[str, float]:
    def form(first: list[int], second: list[int]) -> float:
        """Σ over all pairs of images of C[class, class], over the number of pairs: pᵀCq."""
        pairs = itertools.product(first, second)
        return math.fsum(float(similarity[a][b]) for a, b in pairs) / (len(first) * len(second))

    def cosine(a: list[int], b: list[int]) -> float:
        return form(a, b) / math.sqrt(form(a, a) * form(b, b))

    return {"lc": form(p, p), "consis_adv": form(q, q), "cs1": cosine(p, q), "cs2": cosine(p, t)}


@pytest.fixture(scope="module")
def random_layer() -> dict[str, np.ndarray]:
    """60 images, 5 units of which one is dead, k = 6; images shared by both top sets."""
    random = np.random.default_rng(3)
    labels, targets = random.integers(0, CLASSES, 60), random.integers(0, CLASSES, 60)
    real = random.random((60, 5))
    adversarial = np.where(random.random((60, 5)) < 0.5, real, random.random((60, 5)))
    real[:, 2] = 0
    return {"labels": labels, "targets": targets, "real": real, "adversarial": adversarial}


def measure(layer: dict[str, np.ndarray], k: int = 6) -> measures.LayerConsistency:
    top = [tops(layer[kind], k) for kind in ("real", "adversarial")]
    classes = [torch.from_numpy(layer[name]) for name in ("labels", "targets")]
    return layer_consistency(*top, *classes, C)


def top_ids(responses: np.ndarray, unit: int, k: int) -> list[int]:
    values = responses[:, unit].astype(np.float32)
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


def by_loops(layer: dict[str, np.ndarray], unit: int, without: int | None = None, similarity=C):
    """All four of a unit's lists of 6 images, one image perhaps left out."""
    p, q = (top_ids(layer[kind], unit, 6) for kind in ("real", "adversarial"))
    p, q = ([i for i in ids if i != without] for ids in (p, q))
    labels, targets = layer["labels"], layer["targets"]
    return naive(similarity, labels[p].tolist(), labels[q].tolist(), targets[q].tolist())


def test_every_unit_equals_the_sum_over_pairs_of_images(random_layer):
    found = measure(random_layer)
    assert found.dead.tolist() == [False, False, True, False, False]
    for unit in LIVE:
        expected = by_loops(random_layer, unit)
        for name, value in expected.items():
            assert found.values[name][unit].item() == pytest.approx(value, abs=1e-12), name
        corrected = (6 * expected["lc"] - 1) / 5
        assert found.corrected[unit].item() == pytest.approx(corrected, abs=1e-12)
    assert all(torch.isnan(values[2]) for values in found.values.values())


def test_interval_equals_the_jackknife_that_leaves_each_image_out(random_layer):
    """Written a second time: drop every image from the lists, average the units again."""

    def means_without(image: int | None) -> dict[str, float]:
        units = [by_loops(random_layer, unit, image) for unit in LIVE]
        return {name: math.fsum(unit[name] for unit in units) / len(units) for name in units[0]}

    whole, parts = means_without(None), [means_without(image) for image in range(60)]
    found, scale = measure(random_layer), 5 / 6  # (k − 1) / k
    for name, interval in found.intervals.items():
        changes = [part[name] - whole[name] for part in parts]
        corrected = whole[name] - scale * math.fsum(changes)
        error = 1.959963984540054 * math.sqrt(scale * math.fsum(c * c for c in changes))
        ends = sorted([whole[name], corrected])
        assert found.influences[name].tolist() == pytest.approx(changes, abs=1e-12)
        assert interval.mean == pytest.approx(whole[name], abs=1e-12)
        assert interval.corrected == pytest.approx(corrected, abs=1e-10)
        assert interval.low == pytest.approx(max(0, ends[0] - error), abs=1e-10)
        assert interval.high == pytest.approx(min(1, ends[1] + error), abs=1e-10)
    unbiased = found.corrected.nanmean().item()  # the jackknife of LC has a closed form
    assert found.intervals["lc"].corrected == pytest.approx(unbiased, abs=1e-12)


def test_intervals_cover_the_truth():
    """At least 93 % of 300 seeded repetitions with k = 20, where the plain value is biased."""
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0, 0, 0, 0])
    truth, labels = float(shares @ C.numpy() @ shares), torch.arange(2000) % CLASSES
    covered, plain = 0, []
    for _ in range(300):
        counts = enumerate(random.multinomial(20, shares))
        ids = [random.choice(200, n, replace=False) * CLASSES + label for label, n in counts]
        responses = np.zeros((2000, 1))
        responses[np.concatenate(ids)] = 1
        top = tops(responses, 20)
        interval = layer_consistency(top, top, labels, labels, C).intervals["lc"]
        covered += interval.low <= truth <= interval.high
        plain.append(interval.mean)
    assert covered >= 0.93 * 300
    bias = (1 - truth) / 19  # the plain value exceeds the truth by about (1 − LC)/(k − 1)
    assert np.mean(plain) - truth == pytest.approx(bias * 19 / 20, rel=0.35)


def test_bounds_extremes_and_floors():
    eye = torch.eye(CLASSES).double()
    one, other = (Composition.of(eye[[k]] * n, C) for k, n in ((3, 5), (7, 2)))
    assert level(one).item() == 1
    assert agreement(one, one).item() == 1
    assert agreement(one, other).item() == pytest.approx(C[3, 7].item(), abs=1e-15)
    even = Composition.of(torch.ones(1, CLASSES, dtype=torch.float64), C)
    assert level(even).item() == pytest.approx(uniform_floor(C), abs=1e-15)
    classes = torch.tensor([[0, 0, 2], [1, 2, 1]])
    assert measures.class_counts(classes, 3).tolist() == [[2, 0, 1], [0, 2, 1]]
    labels = torch.arange(1000) % CLASSES
    lc, cs1 = random_floor(labels, C, 20, seed=0)
    # k images drawn without replacement: k diagonal pairs, and k(k − 1) of different images
    other = (1000 * uniform_floor(C) - 1) / 999
    assert lc == pytest.approx((1 + 19 * other) / 20, abs=0.003)
    assert 0.5 < cs1 < 0.9
    assert random_floor(labels, C, 20, seed=0) == (lc, cs1)


@pytest.fixture
def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3, 2), nn.Tanh()),
            *(nn.Flatten(), nn.Linear(24, 5)),
        )
    return Classifier(network, name="tanh", synsets=SYNSETS, image_size=8, resize=8)


def responses(classifier: Classifier, images: Tensor) -> dict[str, np.ndarray]:
    first, _, second, *_ = classifier.network
    with torch.no_grad():
        maps = torch.tanh(first(images))
        pairs = {"0": maps, "2": torch.tanh(second(maps))}
    return {name: maps.amax(dim=(2, 3)).clamp(min=0).numpy() for name, maps in pairs.items()}


def test_the_method_equals_loops_over_units_and_images(classifier):
    attack = LeastLikely(threat=L2(epsilon=0.7), steps=3)
    found = Consistency(attack=attack, top=0.25, batch_size=10)(classifier, IMAGES, LABELS)
    assert list(found) == ["0", "2"]
    similarity = [[math.exp(-(distance(a, b) ** 2) / 2) for b in SYNSETS] for a in SYNSETS]
    with torch.no_grad():
        targets = classifier(IMAGES).argmin(dim=1).numpy()
    real, adversarial = (responses(classifier, x) for x in (IMAGES, attack(classifier, IMAGES)))
    for name, measured in found.items():
        layer = {"real": real[name], "adversarial": adversarial[name]}
        layer |= {"labels": LABELS.numpy(), "targets": targets}
        assert measured.top == 6
        for unit in range(6):
            for key, value in by_loops(layer, unit, similarity=similarity).items():
                assert measured.values[key][unit].item() == pytest.approx(value, rel=1e-10)
    assert not any(measured.dead.any() for measured in found.values())


def test_synsets_may_be_given_instead_and_images_must_suffice(classifier, random_layer):
    bare, method = classifier.network, Consistency(top=0.2)
    with pytest.raises(SettingsError, match="pass them as synsets"):
        method(bare, IMAGES, LABELS)
    given, own = method(bare, IMAGES, LABELS, SYNSETS), method(classifier, IMAGES, LABELS)
    for layer in own:
        assert torch.equal(given[layer].values["cs2"], own[layer].values["cs2"])
    other = method(classifier, IMAGES, LABELS, SYNSETS[::-1])
    assert not torch.equal(other["0"].values["lc"], own["0"].values["lc"])
    plain = torch.eye(len(SYNSETS)).double()
    unrelated = method(bare, IMAGES, LABELS, similarity=plain)["0"]
    squares = unrelated.classes["real"].shares.square().sum(dim=1)  # of all five classes
    torch.testing.assert_close(unrelated.values["lc"], squares, rtol=1e-12, atol=0)
    for wrong, message in (
        (plain[1:, 1:], "one of 4 classes"),
        (plain - 0.5, "not positive"),
        ("same-class", "must be a symmetric tensor"),
        (plain.numpy(), "must be a symmetric tensor"),
        (plain[1:], "must be a symmetric tensor"),
        (plain + plain.roll(1, 0).tril() / 2, "must be a symmetric tensor"),
        (plain * torch.nan, "must be a symmetric tensor"),
    ):
        with pytest.raises((SettingsError, NumericError), match=message):
            method(bare, IMAGES, LABELS, similarity=wrong)
    for labels, message in (
        (LABELS.tolist(), "labels must be"),
        (LABELS + 5, "labels must be classes"),
        (LABELS[1:], "labels must be"),
    ):
        with pytest.raises(SettingsError, match=message):
            method(bare, IMAGES, labels, similarity=plain)
    with pytest.raises(DataError, match="images must be"):
        method(bare, IMAGES.numpy(), LABELS, similarity=plain)
    for count in (0, 1):
        with pytest.raises(DataError, match="too small a top set"):
            Consistency()(classifier, IMAGES[:count], LABELS[:count])
    with pytest.raises(DataError, match="too small a top set"):
        measure(random_layer, k=1)


@pytest.mark.parametrize(("share", "top"), [(0.01, 2), (0.2, 5), (0.22, 5), (0.23, 6), (1.0, 24)])
def test_a_share_is_the_nearest_number_of_images(share, top, classifier):
    """Of 24 images .2 are 4.8, .22 are 5.28, .23 are 5.52; 2 are the least.

    And a control without noise changes nothing.
    """
    nothing = GaussianNoise(threat=L2(epsilon=0.0))
    for layer in Consistency(attack=nothing, top=share)(classifier, IMAGES, LABELS).values():
        assert layer.top == top
        assert torch.allclose(layer.values["cs1"], torch.ones(6, dtype=torch.float64))

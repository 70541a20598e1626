"""LC, consis, CS1 and CS2 against naive float64 loops, and their intervals against simulation."""

import itertools
import math

import numpy as np
import pytest
import torch

from advlens.consistency import (
    LayerConsistency,
    agreement,
    class_counts,
    layer_consistency,
    level,
    random_floor,
    uniform_floor,
)
from advlens.errors import DataError
from advlens.statistics import TopK
from advlens.wordnet import CIFAR10_SYNSETS, similarity_matrix

CLASSES = 10
C = torch.from_numpy(similarity_matrix(tuple(CIFAR10_SYNSETS.values())))


def tops(responses: np.ndarray, k: int) -> TopK:
    top = TopK(k, responses.shape[1])
    top.update(torch.from_numpy(responses).float(), torch.arange(len(responses)))
    return top


def naive_form(first: list[int], second: list[int]) -> float:
    """Σ over all pairs of images of C[class, class], over the number of pairs: pᵀCq."""
    pairs = itertools.product(first, second)
    return math.fsum(float(C[a, b]) for a, b in pairs) / (len(first) * len(second))


def naive(p: list[int], q: list[int], t: list[int]) -> dict[str, float]:
    def cosine(a: list[int], b: list[int]) -> float:
        return naive_form(a, b) / math.sqrt(naive_form(a, a) * naive_form(b, b))

    return {
        "lc": naive_form(p, p),
        "consis_adv": naive_form(q, q),
        "cs1": cosine(p, q),
        "cs2": cosine(p, t),
    }


@pytest.fixture(scope="module")
def random_layer() -> dict[str, object]:
    """60 images, 5 units of which one is dead, k = 6; images shared by both top sets."""
    random = np.random.default_rng(3)
    labels, targets = random.integers(0, CLASSES, 60), random.integers(0, CLASSES, 60)
    real = random.random((60, 5))
    adversarial = np.where(random.random((60, 5)) < 0.5, real, random.random((60, 5)))
    real[:, 2] = 0
    return {"labels": labels, "targets": targets, "real": real, "adversarial": adversarial}


def measure(layer: dict[str, np.ndarray], k: int = 6) -> LayerConsistency:
    return layer_consistency(
        tops(layer["real"], k),
        tops(layer["adversarial"], k),
        torch.from_numpy(layer["labels"]),
        torch.from_numpy(layer["targets"]),
        C,
    )


def top_ids(responses: np.ndarray, unit: int, k: int) -> list[int]:
    values = responses[:, unit].astype(np.float32)
    return np.lexsort((np.arange(len(values)), -values))[:k].tolist()


def test_every_unit_equals_the_sum_over_pairs_of_images(random_layer: dict) -> None:
    found = measure(random_layer)
    assert found.dead.tolist() == [False, False, True, False, False]
    for unit in (0, 1, 3, 4):
        p = top_ids(random_layer["real"], unit, 6)
        q = top_ids(random_layer["adversarial"], unit, 6)
        labels, targets = random_layer["labels"], random_layer["targets"]
        expected = naive(labels[p].tolist(), labels[q].tolist(), targets[q].tolist())
        for name, value in expected.items():
            assert found.values[name][unit].item() == pytest.approx(value, abs=1e-12), name
        assert found.corrected[unit].item() == pytest.approx(
            (6 * expected["lc"] - 1) / 5, abs=1e-12
        )
    assert all(torch.isnan(values[2]) for values in found.values.values())


def test_interval_equals_the_jackknife_that_leaves_each_image_out(random_layer: dict) -> None:
    """Written a second time: drop every image from the lists, average the units again."""
    k, live = 6, (0, 1, 3, 4)
    labels, targets = random_layer["labels"], random_layer["targets"]
    lists = {
        unit: (
            top_ids(random_layer["real"], unit, k),
            top_ids(random_layer["adversarial"], unit, k),
        )
        for unit in live
    }

    def mean_without(image: int | None, name: str) -> float:
        values = []
        for p, q in lists.values():
            p, q = ([i for i in ids if i != image] for ids in (p, q))
            values.append(naive(labels[p].tolist(), labels[q].tolist(), targets[q].tolist())[name])
        return math.fsum(values) / len(values)

    found = measure(random_layer)
    for name, interval in found.intervals.items():
        whole = mean_without(None, name)
        changes = [mean_without(image, name) - whole for image in range(60)]
        scale = (k - 1) / k
        corrected = whole - scale * math.fsum(changes)
        error = 1.959963984540054 * math.sqrt(scale * math.fsum(c * c for c in changes))
        assert interval.mean == pytest.approx(whole, abs=1e-12)
        assert interval.corrected == pytest.approx(corrected, abs=1e-10)
        assert interval.low == pytest.approx(max(0, min(whole, corrected) - error), abs=1e-10)
        assert interval.high == pytest.approx(min(1, max(whole, corrected) + error), abs=1e-10)


def test_jackknife_of_lc_is_the_closed_form_without_bias(random_layer: dict) -> None:
    found = measure(random_layer)
    assert found.intervals["lc"].corrected == pytest.approx(
        found.corrected.nanmean().item(), abs=1e-12
    )


def test_intervals_cover_the_truth() -> None:
    """At least 93 % of 300 seeded repetitions with k = 20, where the plain value is biased."""
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0, 0, 0, 0])
    truth = float(shares @ C.numpy() @ shares)
    labels = torch.arange(2000) % CLASSES
    covered, plain = 0, []
    for _ in range(300):
        ids = np.concatenate(
            [
                random.choice(200, count, replace=False) * CLASSES + label
                for label, count in enumerate(random.multinomial(20, shares))
            ]
        )
        responses = np.zeros((2000, 1))
        responses[ids] = 1
        top = tops(responses, 20)
        interval = layer_consistency(top, top, labels, labels, C).intervals["lc"]
        covered += interval.low <= truth <= interval.high
        plain.append(interval.mean)
    assert covered >= 0.93 * 300
    bias = (1 - truth) / 19  # the plain value exceeds the truth by about (1 − LC)/(k − 1)
    assert np.mean(plain) - truth == pytest.approx(bias * 19 / 20, rel=0.35)


def test_bounds_and_extremes() -> None:
    one, other = (
        torch.eye(CLASSES, dtype=torch.float64)[[3]] * 5,
        torch.eye(CLASSES).double()[[7]] * 2,
    )
    assert level(one, C).item() == 1
    assert agreement(one, one, C).item() == 1
    assert agreement(one, other, C).item() == pytest.approx(C[3, 7].item(), abs=1e-15)
    even = torch.ones(1, CLASSES, dtype=torch.float64)
    assert level(even, C).item() == pytest.approx(uniform_floor(C), abs=1e-15)


def test_floors() -> None:
    labels = torch.arange(1000) % CLASSES
    lc, cs1 = random_floor(labels, C, 20, seed=0)
    floor = uniform_floor(C)
    # k images drawn without replacement: k diagonal pairs, and k(k − 1) of different images
    other = (1000 * floor - 1) / 999
    assert lc == pytest.approx((1 + 19 * other) / 20, abs=0.003)
    assert 0.5 < cs1 < 0.9
    assert random_floor(labels, C, 20, seed=0) == (lc, cs1)


def test_one_image_is_no_top_set(random_layer: dict) -> None:
    with pytest.raises(DataError, match="too small a top set"):
        measure(random_layer, k=1)


def test_class_counts() -> None:
    counts = class_counts(torch.tensor([[0, 0, 2], [1, 2, 1]]), 3)
    assert counts.tolist() == [[2, 0, 1], [0, 2, 1]]

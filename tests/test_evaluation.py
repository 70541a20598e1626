"""Accuracy counts and the checks for gradient masking."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from advlens import L2, Bim, Fgsm, GaussianNoise, Linf, NumericError, load_data, load_model
from advlens.evaluation import (
    Accuracy,
    Reliability,
    must_fall,
    must_have_gradients,
    must_reach_chance,
)
from advlens.intervals import wilson
from advlens.prepared import prepare


def hits(logits: Tensor, labels: Tensor, k: int) -> int:
    """Images whose label is among the first k classes."""
    ranks = [sorted(range(len(row)), key=lambda c: -row[c]) for row in logits.tolist()]
    return sum(c in rank[:k] for rank, c in zip(ranks, labels.tolist(), strict=True))


def test_counts_equal_a_loop_and_merge_exactly():
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 8
    whole, first, second = Accuracy(), Accuracy(), Accuracy()
    whole.update(logits, labels)
    first.update(logits[:17], labels[:17])
    second.update(logits[17:], labels[17:])
    first.merge(second)
    top1, top5 = hits(logits, labels, 1), hits(logits, labels, 5)
    low, high = wilson(top1, 50)
    expected = {"top1": top1 / 50, "top1_low": low, "top1_high": high, "top5": top5 / 50, "n": 50}
    expected |= {"draws": None, "top1_spread": None}
    assert whole.compute() == first.compute() == expected
    few = Accuracy()
    few.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert few.compute()["top5"] == 1  # of three classes
    with pytest.raises(NumericError, match="returns NaN"):
        few.update(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))


def test_top5_of_a_single_step_is_counted_on_its_result():
    """Beside a count by hand: the usual loss, no prepared copy, each image's classes in a list."""
    model, data = load_model("cifar10-l2"), load_data("sample").subset(600, seed=0)
    prepared, accuracy, by_hand = prepare(model), Accuracy(), 0
    attack = Fgsm(threat=Linf(epsilon=4 / 255))
    for batch in data.batches(30, range(90)):
        images, labels = batch.images, batch.labels
        with torch.no_grad():
            clean = prepared(images)
        accuracy.update_under(attack, prepared, images, labels, ids=batch.ids, clean=clean)
        inputs = images.clone().requires_grad_()
        loss = F.cross_entropy(model(inputs).double(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
        with torch.no_grad():
            logits = model((images + 4 / 255 * gradient.sign()).clamp(0, 1))
        by_hand += hits(logits, labels, 5)
    # signs of gradients near 0 are rounding: they may move an image over the edge
    assert accuracy.n == 90
    assert abs(accuracy.top5 - by_hand) <= 1


def test_bins_of_confidence_hold_their_upper_edge():
    """Guo et al. 2017: ((m − 1)/M, m/M]; by hand, of ten bins."""
    confidence = torch.tensor([0.0, 0.05, 0.1, 0.1001, 0.5, 0.95, 1.0], dtype=torch.float64)
    right = torch.tensor([False, True, False, True, True, False, True])
    found = Reliability.of(confidence, right, bins=10)
    assert found.n.tolist() == [3, 1, 0, 0, 1, 0, 0, 0, 0, 2]
    assert found.right.tolist() == [1, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    gaps = [3 * abs(1 / 3 - 0.05), 1 - 0.1001, 1 - 0.5, 2 * abs(0.5 - 0.975)]
    assert found.error() == pytest.approx(math.fsum(gaps) / 7, rel=1e-12)
    assert Reliability.of(torch.ones(4), torch.tensor([True, True, True, False])).error() == 0.25


@pytest.fixture(scope="module")
def ranked_network():
    """Eight classes, so that the first five are not all; smooth, so that steps are the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 8))


def test_under_an_iterated_attack_the_returned_iterate_counts(ranked_network):
    images = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    prepared, ids = prepare(ranked_network), torch.arange(80)
    with torch.no_grad():
        clean = prepared(images)
    labels = clean.argmax(dim=1)
    labels[::4] = clean[::4].argsort(dim=1)[:, 4]  # wrong without attack, the fourth of eight
    attack = Bim(threat=Linf(epsilon=0.1), steps=4, step_size=0.04)
    whole, parts = Accuracy(), Accuracy()
    whole.update_under(attack, prepared, images, labels, ids=ids, clean=clean)
    for part in (slice(30), slice(30, 80)):
        given = prepared, images[part], labels[part]
        parts.update_under(attack, *given, ids=ids[part], clean=clean[part])
    with torch.no_grad():
        logits = ranked_network(attack(ranked_network, images, labels))
    right = clean.argmax(dim=1) == labels
    assert (whole, whole.n, whole.top1) == (parts, 80, hits(logits[right], labels[right], 1))
    assert whole.top5 == hits(logits, labels, 5)
    dropping = attack.outcomes(prepared, images, labels, clean=clean)
    early = (dropping.topk(5).indices == labels[:, None]).any(dim=1)
    assert int(early.sum()) > whole.top5  # where fooled images are dropped, it is too high


@pytest.mark.parametrize(
    "attack", [Fgsm(threat=L2(epsilon=0.3)), GaussianNoise(threat=L2(epsilon=3.0))]
)
def test_an_image_that_is_wrong_before_the_attack_is_not_right_under_it(attack, ranked_network):
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    prepared, ids, accuracy = prepare(ranked_network), torch.arange(40), Accuracy()
    with torch.no_grad():
        clean, attacked = prepared(images), prepared(attack(prepared, images, torch.arange(40) % 8))
    labels = torch.arange(40) % 8
    labels[:20] = attacked[:20].argmax(dim=1)
    accuracy.update_under(attack, prepared, images, labels, ids=ids, clean=clean)
    with torch.no_grad():
        attacked = prepared(attack(prepared, images, labels))
    right = (clean.argmax(dim=1) == labels) & (attacked.argmax(dim=1) == labels)
    assert accuracy.top1 == int(right.sum())


@pytest.mark.parametrize(("count", "passed"), [(50, True), (51, True), (53, False)])
def test_a_rise_beyond_one_image_fails(count, passed):
    accuracies = [Accuracy(n=100, top1=top1, top5=100) for top1 in (90, 50, count, 10)]
    check = must_fall("falls", ["0", "1", "2", "3"], accuracies)
    assert check.passed is passed
    assert "1: 50.0%" in check.found


@pytest.mark.parametrize(
    ("counts", "chance", "passed"),
    [
        ((90, 90, 82), 0.1, False),
        ((90, 90, 81), 0.1, True),
        ((12, 12, 12), 0.1, True),  # which may be guessing
        ((90, 90, 90), None, True),
    ],
)
def test_a_flat_curve_fails_where_accuracy_must_fall(counts, chance, passed):
    accuracies = [Accuracy(n=100, top1=top1, top5=100) for top1 in counts]
    assert must_fall("falls", ["0", "1", "2"], accuracies, chance=chance).passed is passed


BLIND = [(0, 40, True), (1, 40, True), (2, 40, False), (5, 500, True), (6, 500, False)]


@pytest.mark.parametrize(("blind", "n", "passed"), BLIND)
def test_vanishing_gradients_fail(blind, n, passed):
    check = must_have_gradients("there", blind, n)
    assert check.passed is passed
    assert check.found == f"{blind} of {n} images without a gradient"


def test_chance_is_reached_up_to_the_interval():
    assert must_reach_chance("free", Accuracy(n=100, top1=14, top5=50), 10).passed
    assert not must_reach_chance("free", Accuracy(n=100, top1=30, top5=50), 10).passed


def test_the_interval_of_several_draws_has_their_variance_beside_that_of_the_images():
    """Wilson's interval for as many images as have the variance p(1 − p)/n + (t/z)² s²/D."""
    n, right = 200, [150, 162, 141, 158, 149, 170]
    accuracy = Accuracy(n=n, top1=sum(right), draws=6, by_draw=right)
    p, shares = sum(right) / (6 * n), [count / n for count in right]
    s2 = math.fsum((share - p) ** 2 for share in shares) / 5
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 5)
    m = p * (1 - p) / (p * (1 - p) / n + (t / z) ** 2 * s2 / 6)
    center = (p + z**2 / (2 * m)) / (1 + z**2 / m)
    half = z * math.sqrt(p * (1 - p) / m + z**2 / (4 * m**2)) / (1 + z**2 / m)
    low, high = accuracy.interval()
    # our t is right to .05 % here, and s²/D is about half of the variance
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert (low + high) / 2 == pytest.approx(center, rel=1e-4)

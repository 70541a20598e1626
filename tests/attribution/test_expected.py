"""Expected gradients: against plain loops in float64, and by simulation."""

import copy

import paths_by_hand as by_hand
import pytest
import torch

from advlens import DataError, ExpectedGradients, IntegratedGradients
from advlens.losses import rounding
from advlens.prepared import prepare

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
REPEATS = 300
ERRORS = [
    (False, 16, 16, 0.9, 1.1),
    (True, 16, 16, 0.9, 1.15),
    (True, 16, 10, 0.9, 1.15),  # a part of the deck
    (True, 12, 16, 0.9, 1.3),  # one deck and a part of another one
    (True, 4, 16, 1.0, 3.0),  # four decks: too large, never too small
    (True, 1, 16, 0.9, 1.1),
]


@pytest.fixture
def background(pixels):
    return pixels[8:]


@pytest.mark.parametrize("target", ["probability", "logit"])
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("count", [3, 12, 16])
def test_equals_loops(target, stratified, count, smooth, pixels, labels, background):
    """Samples are four decks, one, and one and a part of another one's cards."""
    double, background, ids = copy.deepcopy(smooth).double(), background[:count], [9, 4]
    n = {3: 12, 12: 12, 16: 20}[count]
    settings = {"target": target, "stratified": stratified, "seed": 3, "batch_size": 9}
    method = ExpectedGradients(samples=n, **settings)
    found = method(smooth, pixels[:2], labels[:2], background=background, ids=torch.tensor(ids))
    assert found.points.tolist() == [n, n]
    for row, label in enumerate(labels[:2].tolist()):
        draws = by_hand.samples(3, ids[row], n, count, stratified)
        values, sums = by_hand.expected(double, pixels[row], background, label, target, draws)
        torch.testing.assert_close(found.values[row].double(), values, **CLOSE)
        points = pixels[row], *background
        high, *floors = (by_hand.score_and_gradient(double, x, label, target)[0] for x in points)
        difference = high - sum(floors) / count
        gap = abs(values.sum().item() - difference) / abs(difference)
        known = rounding(smooth(pixels[row : row + 1])).item() / abs(difference)
        assert found.gap[row].item() == pytest.approx(gap, rel=1e-3, abs=known)
        if stratified:
            starts = [floors[number] for number, _ in draws]
            left = [total - high + low for total, low in zip(sums, starts, strict=True)]
            variance = sum((left[i] - left[i + 1]) ** 2 for i in range(0, n, 2)) / n**2
            q, mean = n % count, sum(floors) / count
            spread = sum((floor - mean) ** 2 for floor in floors) / (count - 1)
            variance += q * (1 - q / count) * spread / n**2
        else:
            mean = sum(sums) / n
            variance = sum((total - mean) ** 2 for total in sums) / (n - 1) / n
        assert found.error[row].item() == pytest.approx(variance**0.5, rel=2e-3)


def test_exact_for_linear_models(pixels, background):
    model, labels, weights = by_hand.linear()
    found = ExpectedGradients(samples=32)(model, pixels[:3], labels, background=background)
    expected = (pixels[:3] - background.mean(dim=0)) * weights
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    assert (found.gap < 1e-5).all()
    assert (found.error < 1e-5).all()


@pytest.mark.parametrize("target", ["probability", "logit"])
def test_an_image_that_is_the_background_has_no_gap(target, smooth, pixels):
    method, model = ExpectedGradients(samples=4, target=target), prepare(smooth)
    for row in range(4):
        assert method(model, pixels[: row + 1], background=pixels[row : row + 1]).gap[row] == 0


def repeated(model, image, background, **settings):
    """The same image many times, each with its own draws."""
    many, labels = image.expand(REPEATS, -1, -1, -1), torch.ones(REPEATS).long()
    return ExpectedGradients(**settings)(model, many, labels, background=background)


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("count", "samples"), [(16, 16), (16, 10), (3, 10)])
def test_unbiased(stratified, count, samples, smooth, pixels, background):
    """The mean over many draws is the integral, taken by a fine trapezoid for each background."""
    model, background = prepare(smooth), background[:count]
    settings = {"samples": samples, "stratified": stratified}
    found = repeated(model, pixels[0], background, **settings).values.double()
    paths, many = IntegratedGradients(steps=100, target="logit"), pixels[:1].expand(count, 3, 8, 8)
    exact = paths(model, many, torch.ones(count).long(), baselines=background).values
    exact = exact.double().mean(dim=0)
    spread = found.std(dim=0).clamp_min(1e-9)  # 0 where the image is like all of the background
    away = (found.mean(dim=0) - exact) / (spread / REPEATS**0.5)
    assert away.abs().max() < 4.5
    assert away.square().mean() < 1.35


@pytest.mark.parametrize(("stratified", "count", "n", "low", "high"), ERRORS)
def test_the_standard_error(stratified, count, n, low, high, smooth, pixels, background):
    """Of 300 independent results; the known sum lies within it as a standard error promises."""
    settings = {"samples": n, "stratified": stratified}
    found = repeated(prepare(smooth), pixels[0], background[:count], **settings)
    spread = found.values.sum(dim=(1, 2, 3)).double().std()
    assert low < (found.error.square().mean().sqrt() / spread).item() < high


def test_wrong_background_is_one_sentence(smooth, pixels):
    for background, words in (
        (torch.zeros(0, 3, 8, 8), "at least one image"),
        (torch.zeros(5, 3, 9, 8), r"at least one image of \(3, 8, 8\)"),
        (torch.full((5, 3, 8, 8), 2.0), r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(DataError, match=words):
            ExpectedGradients(samples=4)(smooth, pixels, background=background)

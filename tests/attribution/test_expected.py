"""Expected gradients: against plain loops in float64, and by simulation."""

import copy

import paths_by_hand as by_hand
import pytest
import torch
from torch import nn

from advlens.attribution import ExpectedGradients, IntegratedGradients
from advlens.errors import DataError, SettingsError
from advlens.losses import rounding
from advlens.prepared import prepare

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
REPEATS = 300


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
    method = ExpectedGradients(
        samples=n, target=target, stratified=stratified, seed=3, batch_size=9
    )
    found = method(smooth, pixels[:2], labels[:2], background=background, ids=torch.tensor(ids))
    assert found.points.tolist() == [n, n]
    for row, label in enumerate(labels[:2].tolist()):
        draws = by_hand.samples(3, ids[row], n, count, stratified)
        values, sums = by_hand.expected(double, pixels[row], background, label, target, draws)
        torch.testing.assert_close(found.values[row].double(), values, **CLOSE)
        high, *floors = (
            by_hand.score_and_gradient(double, one, label, target)[0]
            for one in (pixels[row], *background)
        )
        difference = high - sum(floors) / count
        gap = abs(values.sum().item() - difference) / abs(difference)
        known = rounding(smooth(pixels[row : row + 1])).item() / abs(difference)
        assert found.gap[row].item() == pytest.approx(gap, rel=1e-3, abs=known)
        if stratified:
            left = [
                total - (high - floors[number])
                for total, (number, _) in zip(sums, draws, strict=True)
            ]
            variance = sum((left[i] - left[i + 1]) ** 2 for i in range(0, n, 2)) / n**2
            q, mean = n % count, sum(floors) / count
            spread = sum((floor - mean) ** 2 for floor in floors) / (count - 1)
            variance += q * (1 - q / count) * spread / n**2
        else:
            mean = sum(sums) / n
            variance = sum((total - mean) ** 2 for total in sums) / (n - 1) / n
        assert found.error[row].item() == pytest.approx(variance**0.5, rel=2e-3)


def test_exact_for_linear_models(pixels, background):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    labels = torch.tensor([4, 0, 2])
    weights = model[1].weight[labels].view(3, 3, 8, 8).detach()
    found = ExpectedGradients(samples=32)(model, pixels[:3], labels, background=background)
    expected = (pixels[:3] - background.mean(dim=0)) * weights
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    assert (found.gap < 1e-5).all()
    assert (found.error < 1e-5).all()


def test_an_image_that_is_the_background_has_no_gap(smooth, pixels):
    for target in ("probability", "logit"):
        for row in range(4):
            method = ExpectedGradients(samples=4, target=target)
            found = method(smooth, pixels[: row + 1], background=pixels[row : row + 1])
            assert found.gap[row] == 0


def repeated(model, image, background, **settings):
    """The same image many times, each with its own draws."""
    many = image.expand(REPEATS, -1, -1, -1)
    return ExpectedGradients(**settings)(
        model, many, torch.ones(REPEATS).long(), background=background
    )


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("count", "samples"), [(16, 16), (16, 10), (3, 10)])
def test_unbiased(stratified, count, samples, smooth, pixels, background):
    """The mean over many draws is the integral, taken by a fine trapezoid for each background."""
    model, background = prepare(smooth), background[:count]
    found = repeated(
        model, pixels[0], background, samples=samples, stratified=stratified
    ).values.double()
    paths = IntegratedGradients(steps=100, target="logit")(
        model, pixels[:1].expand(count, -1, -1, -1), torch.ones(count).long(), baselines=background
    )
    exact = paths.values.double().mean(dim=0)
    spread = found.std(dim=0).clamp_min(1e-9)  # 0 where the image is like all of the background
    away = (found.mean(dim=0) - exact) / (spread / REPEATS**0.5)
    assert away.abs().max() < 4.5
    assert away.square().mean() < 1.35


@pytest.mark.parametrize(
    ("stratified", "count", "samples", "low", "high"),
    [
        (False, 16, 16, 0.9, 1.1),
        (True, 16, 16, 0.9, 1.15),
        (True, 16, 10, 0.9, 1.15),  # a part of the deck
        (True, 12, 16, 0.9, 1.3),  # one deck and a part of another one
        (True, 4, 16, 1.0, 3.0),  # four decks: too large, never too small
        (True, 1, 16, 0.9, 1.1),
    ],
)
def test_the_standard_error_is_that_of_the_draws(
    stratified, count, samples, low, high, smooth, pixels, background
):
    """Of 300 independent results; the known sum lies within it as a standard error promises."""
    found = repeated(
        prepare(smooth), pixels[0], background[:count], samples=samples, stratified=stratified
    )
    spread = found.values.sum(dim=(1, 2, 3)).double().std()
    ratio = (found.error.square().mean().sqrt() / spread).item()
    assert low < ratio < high


@pytest.mark.parametrize("count", [16, 8])
def test_stratified_varies_less(count, smooth, pixels, background):
    """The same error with .7 of the samples, at most, in the sum as in the values."""
    model, n = prepare(smooth), 16
    plain, ours = (
        repeated(model, pixels[0], background[:count], samples=n, stratified=stratified)
        for stratified in (False, True)
    )
    assert ours.values.var(dim=0).mean() < 0.7 * plain.values.var(dim=0).mean()
    sums = [found.values.sum(dim=(1, 2, 3)).var() for found in (ours, plain)]
    assert sums[0] < 0.7 * sums[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, "samples must be a positive"),
        ({"samples": 7}, "samples must be at least 2, and even"),
        ({"samples": 1, "stratified": False}, "samples must be at least 2"),
        ({"batch_size": 0}, "batch_size must be a positive"),
        ({"target": "loss"}, "target must be one of"),
        ({"seed": -3}, "seed must be a whole number ≥ 0"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, words):
    with pytest.raises(SettingsError, match=words):
        ExpectedGradients(**settings)


@pytest.mark.parametrize(
    ("background", "words"),
    [
        (torch.zeros(0, 3, 8, 8), "at least one image"),
        (torch.zeros(5, 3, 9, 8), r"at least one image of \(3, 8, 8\)"),
        (torch.full((5, 3, 8, 8), 2.0), r"must lie in \[0, 1\]"),
    ],
)
def test_wrong_background_is_one_sentence(background, words, smooth, pixels):
    with pytest.raises(DataError, match=words):
        ExpectedGradients(samples=4)(smooth, pixels, background=background)

"""Integrated and expected gradients: plain loops in float64, closed forms, simulation, promises."""

import copy
import math
from dataclasses import replace
from itertools import product

import paths_by_hand as by_hand
import pytest
import torch
from torch import nn

from advlens import DataError, ExpectedGradients, IntegratedGradients
from advlens.attribution.baselines import blurred
from advlens.losses import log_odds, rounding
from advlens.prepared import prepare

IDS = torch.tensor([7, 2, 30])
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
EXPECTED = {"rtol": 1e-4, "atol": 2e-5}
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
def images(pixels):
    return pixels[:3]


@pytest.fixture
def double(smooth):
    return copy.deepcopy(smooth).double()


def starts_by_hand(baseline, images, row, draws):
    image = images[row].double()
    if baseline == "noise":
        return [by_hand.noise((3, 8, 8), 5, IDS[row].item(), draw) for draw in range(draws)]
    return [blurred(images[row : row + 1].double())[0] if baseline == "blurred" else 0 * image]


@pytest.mark.parametrize("target", ["probability", "logit"])
@pytest.mark.parametrize("formula", ["trapezoid", "paper"])
@pytest.mark.parametrize("baseline", ["noise", "black", "blurred"])
def test_equals_loops(target, formula, baseline, smooth, double, images, labels):
    settings = {"baseline": baseline, "target": target, "formula": formula}
    method = IntegratedGradients(steps=6, baselines=3, seed=5, batch_size=7, **settings)
    found = method(smooth, images, labels[:3], ids=IDS)
    assert torch.equal(found.targets, labels[:3])
    for row, label in enumerate(labels[:3].tolist()):
        divisor = 7 if formula == "paper" else 6
        parts = [
            by_hand.integrated(double, images[row], start, label, target, 6, divisor)
            for start in starts_by_hand(baseline, images, row, 3)
        ]
        expected = sum(values for values, _ in parts) / len(parts)
        torch.testing.assert_close(found.values[row].double(), expected, **CLOSE)
        torch.testing.assert_close(found.maps[row].double(), expected.sum(dim=0), **CLOSE)
        totals = torch.stack([values.sum() for values, _ in parts])
        difference = sum(change for _, change in parts) / len(parts)
        gap = abs(totals.mean().item() - difference) / abs(difference)
        known = rounding(smooth(images[row : row + 1])).item() / abs(difference)
        assert found.gap[row].item() == pytest.approx(gap, rel=1e-3, abs=known)
        error = (totals.var() / 3).sqrt().item() if baseline == "noise" else 0
        assert found.error[row].item() == pytest.approx(error, rel=1e-3)
    assert found.points.tolist() == [19 if baseline == "noise" else 7] * 3


def test_exact_for_linear_models(images):
    """Σ weights is 1: one interval or many, the attribution is (x − x′)·w and the gap is 0."""
    model, labels, weights = by_hand.linear()
    for steps in (1, 2, 7, 50):
        settings = {"steps": steps, "baseline": "black", "target": "logit"}
        for tolerance in (None, 1e-5):
            found = IntegratedGradients(**settings, tolerance=tolerance)(model, images, labels)
            torch.testing.assert_close(found.values, images * weights, rtol=1e-5, atol=1e-7)
            assert (found.gap < 1e-5).all()
            assert (found.points == steps + 1).all()
        biased = IntegratedGradients(**settings, formula="paper")(model, images, labels)
        expected = images * weights * steps / (steps + 1)
        torch.testing.assert_close(biased.values, expected, rtol=1e-5, atol=1e-7)
        assert biased.gap.tolist() == pytest.approx([1 / (steps + 1)] * 3, rel=1e-3)


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.network(x)


def test_float32_is_right_where_probabilities_round_to_one(smooth, double, images):
    """Near the image the gradient of the softmax itself would be 0."""
    model, exact = Scaled(smooth, 12), Scaled(double, 12)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    start, labels = images + 0.02 * (noise - images), smooth(images).argmax(dim=1)
    assert (model(images).softmax(dim=1).amax(dim=1) == 1).any()
    found = IntegratedGradients(steps=3)(model, images, labels, baselines=start)
    for row, label in enumerate(labels.tolist()):
        given = images[row], start[row], label, "probability"
        values, difference = by_hand.integrated(exact, *given, 3, 3)
        scale = values.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(found.values[row].double(), values, rtol=1e-3, atol=1e-3 * scale)
        gap = abs(values.sum().item() - difference) / abs(difference)
        # a gap within the rounding of F, 2 F (1 − F) max |dz|, is said to be 0
        odds = log_odds(exact(images[row : row + 1].double()), labels[row : row + 1]).item()
        known = 2 * rounding(model(images[row : row + 1])).item()
        known *= 1 / (1 + math.exp(odds)) / (1 + math.exp(-odds))
        known = (known + torch.finfo(torch.float64).eps) / abs(difference)
        assert found.gap[row].item() == pytest.approx(gap, abs=2e-3 + known)


def test_tolerance_doubles_the_intervals_where_the_gap_is_too_large(smooth, pixels):
    method = IntegratedGradients(steps=4, baselines=2, batch_size=16)
    plain = {m: replace(method, steps=m)(smooth, pixels) for m in (4, 8, 16, 32)}
    tolerance = plain[4].gap.quantile(0.3).item()
    found = replace(method, tolerance=tolerance, max_steps=16)(smooth, pixels)
    taken = (found.points - 1) // 2
    assert set(taken.tolist()) == {4, 8, 16}
    rounded = rounding(smooth(pixels))
    for row, steps in enumerate(taken.tolist()):
        same = plain[steps]
        known = (rounded[row] / same.values[row].sum().abs()).item()  # ΔF is the sum but for a gap
        torch.testing.assert_close(found.values[row], same.values[row], rtol=1e-4, atol=1e-6)
        assert found.gap[row].item() == pytest.approx(same.gap[row].item(), rel=1e-3, abs=known)
        assert found.error[row].item() == pytest.approx(same.error[row].item(), rel=1e-3)
        assert same.gap[row] <= tolerance or steps == 16
        assert steps == 4 or plain[steps // 2].gap[row] > tolerance
    hard = replace(method, tolerance=1e-9, max_steps=16)(smooth, pixels)
    assert (hard.points == 33).all()  # the maximum, and the gap that is left is told
    assert (hard.gap > 1e-9).all()
    none = replace(method, tolerance=1e-9, max_steps=7)(smooth, pixels)
    assert torch.equal(none.points, plain[4].points)


def test_given_baselines_and_wrong_ones(smooth, images):
    black = IntegratedGradients(steps=4, baseline="black")(smooth, images)
    method = IntegratedGradients(steps=4)
    for baselines in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(3, 3, 8, 8)):
        found = method(smooth, images, baselines=baselines)
        torch.testing.assert_close(found.values, black.values, rtol=0, atol=0)
        assert not found.error.any()
    assert replace(method, baselines=1)(smooth, images).error.isnan().all()  # of one draw
    one = method(smooth, images[:1], baselines=images[1:2])
    three = method(smooth, images, baselines=images[[1, 2, 0]])
    torch.testing.assert_close(one.values[0], three.values[0], rtol=0, atol=1e-6)
    for baselines, words in (
        (torch.zeros(2, 3, 8, 8), "one for each of the 3 images"),
        (torch.zeros(3, 4, 8), "one image for all"),
        (torch.zeros(8, 8), "one image for all"),
        (torch.full((3, 8, 8), -1.0), r"must lie in \[0, 1\]"),
    ):
        with pytest.raises(DataError, match=words):
            IntegratedGradients(steps=2)(smooth, images, baselines=baselines)


@pytest.mark.parametrize("target", ["probability", "logit"])
def test_where_scores_differ_by_rounding_there_is_no_gap(target, smooth, pixels):
    """Of images that are their baseline, and next to it: no batch decides, no points are added."""
    method = IntegratedGradients(steps=4, target=target, tolerance=1e-3)
    for scale, away, size in product((1, 30), (0.0, 1e-8, 1e-7), (5, 64)):
        near = (pixels + away * (0.5 - pixels).sign()).clamp(0, 1)
        found = replace(method, batch_size=size)(Scaled(smooth, scale), pixels, baselines=near)
        assert not found.gap.any()
        assert (found.points == 5).all()


def test_blurred_is_a_gaussian_of_ten_pixels_at_224():
    point = torch.zeros(1, 3, 224, 300)
    point[:, :, 100, 150] = 1
    found = blurred(point)[0, 1].double()
    rows, columns = torch.arange(224) - 100, torch.arange(300) - 150
    for places, dim in ((rows, 1), (columns, 0)):
        spread = (found.sum(dim=dim) * places.square()).sum().sqrt().item()
        assert spread == pytest.approx(10, rel=0.02)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.fixture
def background(pixels):
    return pixels[8:]


@pytest.mark.parametrize("target", ["probability", "logit"])
@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("count", [3, 12, 16])
def test_expected_equals_loops(target, stratified, count, smooth, pixels, labels, background):
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
        torch.testing.assert_close(found.values[row].double(), values, **EXPECTED)
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


def test_expected_is_exact_for_linear_models(pixels, background):
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

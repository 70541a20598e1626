"""Integrated Gradients: against plain loops in float64, closed forms, and what it promises."""

import copy
import math
from dataclasses import replace
from itertools import product

import paths_by_hand as by_hand
import pytest
import torch
from torch import nn

from advlens import DataError, IntegratedGradients
from advlens.attribution.baselines import blurred
from advlens.losses import log_odds, rounding

IDS = torch.tensor([7, 2, 30])
CLOSE = {"rtol": 1e-4, "atol": 2e-6}


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

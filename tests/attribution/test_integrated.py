"""Integrated Gradients: against plain loops in float64, closed forms, and what it promises."""

import copy
import math
from itertools import pairwise

import paths_by_hand as by_hand
import pytest
import torch
from torch import nn

from advlens.attribution import IntegratedGradients
from advlens.attribution.baselines import blurred
from advlens.errors import DataError, SettingsError
from advlens.losses import log_odds, rounding
from advlens.prepared import prepare

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
    method = IntegratedGradients(
        steps=6,
        baseline=baseline,
        baselines=3,
        target=target,
        formula=formula,
        seed=5,
        batch_size=7,
    )
    found = method(smooth, images, labels[:3], ids=IDS)
    assert torch.equal(found.targets, labels[:3])
    for row, label in enumerate(labels[:3].tolist()):
        starts = starts_by_hand(baseline, images, row, 3)
        divisor = 7 if formula == "paper" else 6
        parts = [
            by_hand.integrated(double, images[row], start, label, target, 6, divisor)
            for start in starts
        ]
        expected = sum(values for values, _ in parts) / len(parts)
        torch.testing.assert_close(found.values[row].double(), expected, **CLOSE)
        torch.testing.assert_close(found.maps[row].double(), expected.sum(dim=0), **CLOSE)
        totals = torch.stack([values.sum() for values, _ in parts])
        difference = sum(change for _, change in parts) / len(parts)
        gap = (abs(totals.mean().item() - difference)) / abs(difference)
        known = rounding(smooth(images[row : row + 1])).item() / abs(difference)
        assert found.gap[row].item() == pytest.approx(gap, rel=1e-3, abs=known)
        error = (totals.var() / 3).sqrt().item() if baseline == "noise" else 0
        assert found.error[row].item() == pytest.approx(error, rel=1e-3)
    assert found.points.tolist() == [19 if baseline == "noise" else 7] * 3


def test_exact_for_linear_models(images):
    """Σ weights is 1: one interval or many, the attribution is (x − x′)·w and the gap is 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    labels = torch.tensor([4, 0, 2])
    weights = model[1].weight[labels].view(3, 3, 8, 8).detach()
    for steps in (1, 2, 7, 50):
        for tolerance in (None, 1e-5):
            method = IntegratedGradients(
                steps=steps, baseline="black", target="logit", tolerance=tolerance
            )
            found = method(model, images, labels)
            torch.testing.assert_close(found.values, images * weights, rtol=1e-5, atol=1e-7)
            assert (found.gap < 1e-5).all()
            assert (found.points == steps + 1).all()
        biased = IntegratedGradients(
            steps=steps, baseline="black", target="logit", formula="paper"
        )(model, images, labels)
        share = steps / (steps + 1)
        torch.testing.assert_close(biased.values, images * weights * share, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            biased.gap, torch.full_like(biased.gap, 1 / (steps + 1)), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize("target", ["probability", "logit"])
def test_the_gap_falls_fourfold_when_intervals_double(target, smooth, pixels):
    gaps = [
        IntegratedGradients(steps=steps, baseline="black", target=target)(smooth, pixels).gap.mean()
        for steps in (8, 16, 32)
    ]
    for before, after in pairwise(gaps):
        assert before > 3.5 * after
    assert gaps[-1] < 0.02


class Scaled(nn.Module):
    """The network's logits times a number."""

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.network(x)


def test_float32_is_right_where_probabilities_round_to_one(smooth, double, images):
    """Near the image the gradient of the softmax itself would be 0."""
    model, exact = Scaled(smooth, 12), Scaled(double, 12)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    start = images + 0.02 * (noise - images)
    labels = smooth(images).argmax(dim=1)
    assert (model(images).softmax(dim=1).amax(dim=1) == 1).any()
    found = IntegratedGradients(steps=3)(model, images, labels, baselines=start)
    for row, label in enumerate(labels.tolist()):
        values, difference = by_hand.integrated(
            exact, images[row], start[row], label, "probability", 3, 3
        )
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
    settings = {"baseline": "noise", "baselines": 2, "batch_size": 16}
    plain = {m: IntegratedGradients(steps=m, **settings)(smooth, pixels) for m in (4, 8, 16, 32)}
    tolerance = plain[4].gap.quantile(0.3).item()
    found = IntegratedGradients(steps=4, tolerance=tolerance, max_steps=16, **settings)(
        smooth, pixels
    )
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
    hard = IntegratedGradients(steps=4, tolerance=1e-9, max_steps=16, **settings)(smooth, pixels)
    assert (hard.points == 33).all()  # the maximum, and the gap that is left is told
    assert (hard.gap > 1e-9).all()
    none = IntegratedGradients(steps=4, tolerance=1e-9, max_steps=7, **settings)(smooth, pixels)
    assert torch.equal(none.points, plain[4].points)


def test_given_baselines(smooth, images):
    black = IntegratedGradients(steps=4, baseline="black")(smooth, images)
    method = IntegratedGradients(steps=4)
    for baselines in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(3, 3, 8, 8)):
        found = method(smooth, images, baselines=baselines)
        torch.testing.assert_close(found.values, black.values, rtol=0, atol=0)
        assert not found.error.any()
    one = method(smooth, images[:1], baselines=images[1:2])
    three = method(smooth, images, baselines=images[[1, 2, 0]])
    torch.testing.assert_close(one.values[0], three.values[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", ["probability", "logit"])
def test_where_scores_differ_by_rounding_there_is_no_gap(target, smooth, pixels):
    """Of images that are their baseline, and next to it: no batch decides, no points are added."""
    for scale in (1, 30):
        model = Scaled(smooth, scale)
        for away in (0.0, 1e-8, 1e-7):
            near = (pixels + away * (0.5 - pixels).sign()).clamp(0, 1)
            for size in (5, 64):
                method = IntegratedGradients(
                    steps=4, target=target, tolerance=1e-3, batch_size=size
                )
                found = method(model, pixels, baselines=near)
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


def test_one_draw_of_noise_has_no_standard_error(smooth, images):
    assert IntegratedGradients(steps=2, baselines=1)(smooth, images).error.isnan().all()


def test_the_standard_error_is_that_of_the_draws(smooth, images):
    """Of 300 independent results of 4 draws each."""
    model, many = prepare(smooth), images[:1].expand(300, -1, -1, -1)
    found = IntegratedGradients(steps=8, baselines=4)(model, many, torch.zeros(300).long())
    spread = found.values.sum(dim=(1, 2, 3)).std().item()
    assert found.error.square().mean().sqrt().item() == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps must be a positive"),
        ({"baselines": 0}, "baselines must be a positive"),
        ({"batch_size": 0}, "batch_size must be a positive"),
        ({"max_steps": -1}, "max_steps must be a positive"),
        ({"tolerance": 0.0}, "tolerance must be a positive"),
        ({"tolerance": 0.1, "max_steps": 20}, "max_steps 20 is below steps 50"),
        ({"baseline": "white"}, "baseline must be one of noise, black, blurred"),
        ({"target": "loss"}, "target must be one of probability, logit"),
        ({"formula": "simpson"}, "formula must be one of trapezoid, paper"),
        ({"seed": -1}, "seed must be a whole number ≥ 0"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, words):
    with pytest.raises(SettingsError, match=words):
        IntegratedGradients(**settings)


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        (torch.zeros(2, 3, 8, 8), "one for each of the 3 images"),
        (torch.zeros(3, 4, 8), "one image for all"),
        (torch.zeros(8, 8), "one image for all"),
        (torch.full((3, 8, 8), -1.0), r"must lie in \[0, 1\]"),
    ],
)
def test_wrong_baselines_are_one_sentence(baselines, words, smooth, images):
    with pytest.raises(DataError, match=words):
        IntegratedGradients(steps=2)(smooth, images, baselines=baselines)

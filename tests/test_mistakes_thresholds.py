"""Numbers just within and just beyond what counts as a usual mistake."""

import math

import pytest
import torch
from torch import Tensor

from advlens.auditing.mistakes import FEWEST, FirstNorm, Seen, assigned, mistakes

SURE = torch.eye(3).repeat(10, 1) * 9
"""Logits of 30 images, whose predictions are 0, 1, 2, 0 …"""
RIGHT = torch.arange(30) % 3
TWICE, WITHOUT = "as with images normalized twice", "as without the normalization"
NORMS = [(4.99, 1.99, ""), (1 / 4.99, 1.99, ""), (5.01, 0, TWICE), (1 / 5.01, 0, WITHOUT)]
WITHIN = [(50.0, 1.0), (0.0, 50.0), (0.0, 0.02), (0.0, 0.0)]
BEYOND = [(50.1, 1.0), (-50.1, 1.0), (0.0, 50.1), (0.0, 0.019)]


def said(logits=SURE, labels=None, norm=None, means=(0.1, -0.2, 0.3), deviations=(1.1, 0.9, 1.0)):
    """All sentences, nothing where nothing is a mistake."""
    seen = Seen(logits=logits, labels=labels, norm=norm, means=means, deviations=deviations)
    return " ".join(mistakes("m", ["a", "b", "c"], seen))


@pytest.mark.parametrize(("variance", "off", "cause"), [*NORMS, (1.0, 2.01, TWICE)])
def test_variances_five_times_apart_or_means_two_deviations_off(variance, off, cause) -> None:
    text = said(norm=FirstNorm("bn", False, variance, off))
    assert cause in text
    assert bool(text) == bool(cause)


@pytest.mark.parametrize(("mean", "deviation"), WITHIN + BEYOND)
def test_the_scale_of_normalized_pixels(mean: float, deviation: float) -> None:
    text = said(means=(0.0, mean, 0.0), deviations=(0.0, deviation, 0.0))
    assert ("on the scale of [0, 1]" in text) == ((mean, deviation) in BEYOND)


@pytest.mark.parametrize("count", [FEWEST - 1, FEWEST])
def test_fewer_than_twenty_images_are_not_judged(count: int) -> None:
    """Each class is taken for the next one, which 6 images of each show as well as 20 in all."""
    assert FEWEST == 20
    text = said(SURE[:count], (RIGHT[:count] + 1) % 3)
    assert ("counted -1 from the labels" in text) == (count == FEWEST)


def rows(*values: float) -> Tensor:
    return torch.tensor([values] * 30, dtype=torch.float64)


SUMS, RANGE = "that sum to 1, which are not logits", "values from 0 to 1, which are not logits"
LOGARITHMS = {f: rows(*(math.log(f * p) for p in (0.7, 0.2, 0.1))) for f in (1, 1.009, 1.011)}
PROBABILITIES = [
    *((rows(0.5, 0.2, 0.3), SUMS), (rows(0.5, 0.2, 0.309), SUMS)),
    *((rows(0.5, 0.2, 0.311), RANGE), (rows(1.0, 0.9, 0.0), RANGE)),
    (rows(0.49, 0.21, 0.3), ""),  # the logits of new weights may be so small
    *((rows(1.00001, 0.0, 0.0), ""), (rows(0.9, -0.00001, 0.1), "")),
    *((LOGARITHMS[factor], "returns log-probabilities") for factor in (1, 1.009)),
    (LOGARITHMS[1.011], ""),
]


@pytest.mark.parametrize(("logits", "words"), PROBABILITIES)
def test_what_passes_as_probabilities(logits: Tensor, words: str) -> None:
    text = said(logits)
    assert words in text
    assert bool(text) == bool(words)


@pytest.mark.parametrize(("right", "guesses"), [(15, True), (16, False)])
def test_beyond_the_range_of_guessing(right: int, guesses: bool) -> None:
    """All deals of 30 predictions, about 10 of each class, to 10 images of each.

    The number that is right has the mean 10 and the variance
    (300 − 3·100·20/30 + 10²) / 29 = 200/29, so guessing reaches up to 10 + 1.96·2.63 = 15.15.
    """
    shift = torch.zeros(30, dtype=torch.int64)
    # the others are wrong in turns, half up, half down, so that no other order of outputs fits
    wrong = 30 - right
    shift[:wrong] = 1 + torch.arange(wrong) // 3 % 2
    labels, predicted = RIGHT, (RIGHT + shift) % 3
    text = said(torch.nn.functional.one_hot(predicted, 3) * 9.0, labels)
    assert ("guessing gives" in text) == guesses


def test_neither_no_mistake_nor_a_constant_answer_is_another_order():
    """24 of 30 images are of class 0 and all are taken for class 1: 24 would be right as 0."""
    labels = torch.tensor([0] * 24 + [1] * 6)
    text = said(SURE[1].expand(30, 3), labels)
    assert "guessing gives" in text
    assert "if its outputs" not in text
    assert assigned(torch.ones_like(labels), labels, 3).tolist() == [1, 0, 2]
    assert said(labels=RIGHT, norm=FirstNorm("bn", False, 1.0, 0.0)) == ""

"""Accuracy counts and the checks for gradient masking."""

import pytest
import torch

from advlens.evaluation import Accuracy, must_fall, must_have_gradients, must_reach_chance
from advlens.statistics import wilson


def test_counts_equal_a_loop_and_merge_exactly() -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 8
    whole, first, second = Accuracy(), Accuracy(), Accuracy()
    whole.update(logits, labels)
    first.update(logits[:17], labels[:17])
    second.update(logits[17:], labels[17:])
    first.merge(second)
    ranked = [sorted(range(8), key=lambda c: -row[c])[:5] for row in logits.tolist()]
    top1 = sum(r[0] == label for r, label in zip(ranked, labels.tolist(), strict=True))
    top5 = sum(label in r for r, label in zip(ranked, labels.tolist(), strict=True))
    low, high = wilson(top1, 50)
    expected = {"top1": top1 / 50, "top1_low": low, "top1_high": high, "top5": top5 / 50, "n": 50}
    assert whole.compute() == first.compute() == expected


def test_top5_of_few_classes_counts_all() -> None:
    accuracy = Accuracy()
    accuracy.update(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert accuracy.compute()["top5"] == 1


@pytest.mark.parametrize(
    ("counts", "passed"),
    [((90, 50, 50, 10), True), ((90, 50, 51, 10), True), ((90, 50, 53, 10), False)],
)
def test_a_rise_beyond_one_image_fails(counts: tuple[int, ...], passed: bool) -> None:
    accuracies = [Accuracy(n=100, top1=count, top5=100) for count in counts]
    check = must_fall("falls", ["0", "1", "2", "3"], accuracies)
    assert check.passed is passed
    assert "1: 50.0%" in check.found


@pytest.mark.parametrize(
    ("blind", "n", "passed"),
    [(0, 40, True), (1, 40, True), (2, 40, False), (5, 500, True), (6, 500, False)],
)
def test_vanishing_gradients_fail(blind: int, n: int, passed: bool) -> None:
    check = must_have_gradients("there", blind, n)
    assert check.passed is passed
    assert check.found == f"{blind} of {n} images without a gradient"


def test_chance_is_reached_up_to_the_interval() -> None:
    assert must_reach_chance("free", Accuracy(n=100, top1=14, top5=50), 10).passed
    assert not must_reach_chance("free", Accuracy(n=100, top1=30, top5=50), 10).passed

"""A class that a model masks with −∞ is no target, and no score can move it."""

import math

import pytest
import torch

from advlens.attacks import Goal
from advlens.attacks.base import least_likely

LOGITS = torch.tensor([[1.0, -math.inf, 0.0], [0.5, 2.0, -math.inf]])


def test_the_least_likely_class_is_one_that_is_not_masked() -> None:
    assert least_likely(LOGITS).tolist() == [2, 0]


@pytest.mark.parametrize("targeted", [False, True])
def test_the_score_of_a_masked_class_is_zero_and_has_no_gradient(targeted: bool) -> None:
    logits = LOGITS.clone().requires_grad_()
    score = Goal(torch.tensor([1, 1]), targeted).score(logits)
    (gradient,) = torch.autograd.grad(score[0], logits, retain_graph=True)
    assert score[0].item() == 0
    assert torch.equal(gradient, torch.zeros_like(LOGITS))
    # beside a masked one, class 1 has the log odds log e^0.5 / e^2
    assert score[1].item() == pytest.approx((1 if targeted else -1) * 1.5, rel=1e-6)

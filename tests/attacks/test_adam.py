"""attacks.adam: against torch's Adam in float64, and the calibration."""

import copy

import pytest
import torch
import torch.nn.functional as F

from advlens.attacks import AdamAttack, smallest
from advlens.prepared import prepare


def by_torch(network, images, classes, attack) -> torch.Tensor:
    """The formula of D22 eq. 4 (targeted) and eq. 2, minimized by torch.optim.Adam."""
    network, images = copy.deepcopy(network).double(), images.double()
    current = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([current], lr=attack.step_size)
    sign = 1 if attack.targeted else -1
    for _ in range(attack.steps):
        optimizer.zero_grad()
        distance = (current - images).square().sum()
        loss = F.cross_entropy(network(current), classes, reduction="sum")
        (distance + sign * attack.weight * loss).backward()
        optimizer.step()
        with torch.no_grad():
            current.clamp_(0, 1)
    return current.detach()


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("weight", [0.3, 20.0])
def test_update(targeted, weight, smooth, pixels, labels):
    attack = AdamAttack(weight=weight, steps=8, targeted=targeted)
    with torch.no_grad():
        classes = smooth(pixels).argmin(dim=1) if targeted else labels
    expected = by_torch(smooth, pixels, classes, attack)
    torch.testing.assert_close(attack(smooth, pixels, labels).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("targeted", "success"), [(True, 0.8), (False, 0.95), (False, 1.0)])
def test_calibration_finds_the_smallest_weight(targeted, success, smooth, pixels, labels):
    model = prepare(smooth)
    attack = AdamAttack(targeted=targeted).calibrate(model, pixels, labels, success=success)
    goal = attack.goal(model(pixels), labels)

    def rate(weight: float) -> float:
        found = AdamAttack(targeted=targeted, weight=weight)(model, pixels, labels)
        return (goal.reached(model(found)) | goal.reached(model(pixels))).float().mean().item()

    assert rate(attack.weight) >= success
    assert rate(attack.weight / 1.1) < success


def test_the_smallest_weight_and_the_largest_where_none_succeeds(smooth, pixels):
    assert AdamAttack(steps=1, step_size=1e-6).calibrate(smooth, pixels).weight == 1e6
    for wanted in (3e-4, 0.7, 5e5):
        found = smallest(lambda value, wanted=wanted: value >= wanted, 1e-4, 1e6, ratio=1.1)
        assert wanted <= found <= 1.1 * wanted
    assert smallest(lambda value: True, 1e-4, 1e6, ratio=1.1) == 1e-4
    assert smallest(lambda value: False, 1e-4, 1e6, ratio=1.1) == 1e6

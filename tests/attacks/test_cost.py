"""Every method does exactly the passes that it is allowed, counted in floating-point operations.

A unit is one forward pass of the prepared copy. A backward pass to the input costs each layer as
much as its forward pass, the first convolution included, since the images need its gradient; the
frozen weights need none. So a step of forward and backward is two units, exactly.
"""

import pytest
import torch

from advlens import L2, Bim, Linf, Pgd, Uniform
from advlens.attacks import AdamAttack, Divergence, FeatureAttack, Fgsm, GaussianNoise, LeastLikely
from flops import counted_resnet, flops

BALL, K = L2(epsilon=0.1), 3

UNITS = {
    "fgsm": (Fgsm(threat=Linf(epsilon=0.01)), 2),
    "fgsm drawn": (Fgsm(threat=Linf(epsilon=Uniform(low=0.01, high=0.02))), 2),
    "fgsm predicted": (Fgsm(threat=BALL, label="predicted"), 2),
    "pgd last": (Pgd(threat=BALL, steps=K, select="last"), 2 * K),
    "pgd worst": (Pgd(threat=BALL, steps=K), 2 * K + 1),
    "pgd draws": (Pgd(threat=BALL, steps=K, draws=4), 4 * (2 * K + 1) + 4),
    "fgsm draws": (Fgsm(threat=BALL, draws=4), 4 * 2 + 4),
    "pgd predicted": (Pgd(threat=BALL, steps=K, label="predicted"), 2 * K + 2),
    "pgd restarts": (Pgd(threat=BALL, steps=K, restarts=2), 2 * (2 * K + 1)),
    "bim last": (Bim(threat=BALL, steps=K, select="last"), 2 * K),
    "bim worst": (Bim(threat=BALL, steps=K), 2 * K + 1),
    "bim predicted": (Bim(threat=BALL, steps=K, select="last", label="predicted"), 2 * K),
    "least likely": (LeastLikely(threat=BALL, steps=K, select="last"), 2 * K),
    "least likely worst": (LeastLikely(threat=BALL, steps=K), 2 * K + 1),
    "least likely random": (LeastLikely(threat=BALL, steps=K, random_start=True), 2 * K + 2),
    "divergence last": (Divergence(threat=BALL, steps=K, select="last"), 2 * K + 1),
    "divergence worst": (Divergence(threat=BALL, steps=K), 2 * K + 2),
    "adam": (AdamAttack(steps=K), 2 * K),
    "adam untargeted": (AdamAttack(steps=K, targeted=False), 2 * K),
    "noise": (GaussianNoise(threat=BALL), 0),
}


@pytest.fixture(scope="module")
def resnet():
    model, images, unit = counted_resnet(6)
    with torch.no_grad():
        return model, images, model(images).argmax(dim=1), 6 * unit


def test_a_unit_is_the_sum_over_layers(resnet):
    """Multiplications and additions of each convolution and the linear layer, by hand."""
    model, images, _, unit = resnet
    full, half = 16 * 16, 8 * 8
    by_hand = 9 * 3 * 4 * full + 2 * 9 * 4 * 4 * full + 9 * 4 * 8 * half + 9 * 8 * 8 * half
    by_hand += 4 * 8 * half + 8 * 10  # the projection and the linear layer
    assert unit == 2 * by_hand * len(images)
    with torch.no_grad():
        assert flops(lambda: model.record(images)) == unit


@pytest.mark.parametrize(("attack", "units"), UNITS.values(), ids=UNITS)
def test_attack(attack, units, resnet):
    model, images, labels, unit = resnet
    assert flops(lambda: attack(model, images, labels)) == units * unit


def test_feature_attack(resnet):
    """Its unit ends at the last convolution: the linear layer is not run."""
    model, images, _, unit = resnet
    unit -= 2 * 8 * 10 * len(images)
    for select, units in (("last", 1 + 2 * K), ("worst", 2 + 2 * K)):
        attack = FeatureAttack(threat=BALL, steps=K, select=select)
        assert flops(lambda attack=attack: attack(model, images)) == units * unit


def test_outcomes_cost_only_the_images_that_hold_out(resnet):
    model, images, labels, unit = resnet
    with torch.no_grad():
        clean = model(images)
    wrong = labels.clone()
    wrong[:4] = (wrong[:4] + 1) % 10
    weak = {"threat": L2(epsilon=1e-6), "steps": K}  # fools nobody
    for attack, units in (
        *((Fgsm(threat=Linf(epsilon=1e-8)), 3), (GaussianNoise(threat=BALL), 1)),
        *((Pgd(**weak), 2 * K + 1), (Bim(**weak), 2 * K + 1)),
        *((Pgd(**weak, restarts=2), 2 * (2 * K + 1)), (Pgd(**weak, select="last"), 2 * K + 1)),
    ):

        def cost(labels, clean=None, attack=attack):
            return flops(lambda: attack.outcomes(model, images, labels, clean=clean))

        assert cost(labels) == (units + 1) * unit
        assert cost(labels, clean) == units * unit
        assert cost(wrong, clean) * 3 == units * unit  # two of six images
        assert cost((labels + 1) % 10, clean) == 0
    strong = Bim(threat=Linf(epsilon=1.0), steps=20)
    assert flops(lambda: strong.outcomes(model, images, labels, clean=clean)) < 20 * unit

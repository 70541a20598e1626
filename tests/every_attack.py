"""Every attack of the package, for the tests that all of them must pass."""

import pytest

from advlens import L2, Bim, Divergence, Fgsm, Linf, Pgd
from advlens.attacks import AdamAttack, Attack, FeatureAttack, GaussianNoise, LeastLikely

BALL = L2(epsilon=0.4)
ATTACKS: dict[str, Attack] = {
    "fgsm": Fgsm(threat=Linf(epsilon=0.02)),
    "fgsm predicted": Fgsm(threat=BALL, label="predicted"),
    "bim": Bim(threat=BALL, steps=3),
    "pgd": Pgd(threat=BALL, steps=3, seed=1),
    "pgd linf": Pgd(threat=Linf(epsilon=0.02), steps=3),
    "pgd restarts": Pgd(threat=BALL, steps=2, restarts=3),
    "pgd last": Pgd(threat=BALL, steps=3, select="last"),
    "pgd predicted": Pgd(threat=BALL, steps=3, label="predicted"),
    "least likely": LeastLikely(threat=BALL, steps=3),
    "least likely random": LeastLikely(threat=BALL, steps=3, random_start=True),
    "adam": AdamAttack(steps=3, weight=10),
    "adam untargeted": AdamAttack(steps=3, weight=10, targeted=False),
    "feature": FeatureAttack(threat=BALL, steps=3),
    "divergence": Divergence(threat=BALL, steps=3),
    "noise": GaussianNoise(threat=BALL),
}


def each(attacks):
    return pytest.mark.parametrize("attack", attacks.values(), ids=attacks.keys())


def pixels_apart(attack) -> float:
    """How far rounding in another order may move a pixel.

    A divergence starts where logits, known to 1e-6, differ by 1e-3 or more: so its first step, of
    .33 in length, is known to 3e-4, and the other two steps follow it. Adam divides each value of a
    gradient by its own size: the smallest of 4 608 is about 1/5 000 of the largest and known to
    1e-6 of that one, so its steps, of .02, are known to 5e-3 of them.
    """
    return {Divergence: 1e-3, AdamAttack: 1e-4}.get(type(attack), 1e-5)


def logits_apart(attack) -> float:
    """And the logits behind such pixels, which the network moves by some times as much."""
    return 3e-3 if isinstance(attack, Divergence) else 1e-4

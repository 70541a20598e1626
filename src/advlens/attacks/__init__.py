"""Attacks: frozen settings that are called as `attack(model, images, labels) -> images`.

All of them take pixels in [0, 1], run on the prepared copy of the model (evaluation mode, the
model itself untouched), draw randomness per image id, and raise NumericError where a gradient is
not finite: a network that returns NaN is broken, not robust.
"""

from advlens.attacks.adam import AdamAttack, smallest
from advlens.attacks.base import Attack, Goal
from advlens.attacks.distance import Divergence, FeatureAttack
from advlens.attacks.gradient import GradientAttack
from advlens.attacks.projected import Bim, Fgsm, GaussianNoise, LeastLikely, Pgd

__all__ = [
    "AdamAttack",
    "Attack",
    "Bim",
    "Divergence",
    "FeatureAttack",
    "Fgsm",
    "GaussianNoise",
    "Goal",
    "GradientAttack",
    "LeastLikely",
    "Pgd",
    "smallest",
]

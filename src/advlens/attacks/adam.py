"""The optimization attack of D19 and D22, and the calibration of its weight."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.attacks.base import Goal, least_likely, needed
from advlens.attacks.gradient import GradientAttack
from advlens.errors import SettingsError
from advlens.losses import cross_entropy
from advlens.prepared import Prepared, check_labels, place_images, prepare

LIGHTEST, HEAVIEST = 1e-4, 1e6
"""Between these the weight λ is calibrated."""
CALIBRATION = 96
"""Images on which a run or a measurement calibrates it."""


@dataclass(frozen=True, kw_only=True)
class AdamAttack(GradientAttack):
    """Optimization attack: Adam on ‖x* − x‖₂² + λ L(f(x*), y*) (D22 eq. 4, D19 eq. 4).

    Not targeted: ‖x* − x‖₂² − λ L(f(x*), y) (D22 eq. 2). Distances in pixel units of [0, 1]. The
    papers leave λ open: `calibrate` finds the smallest one that reaches a success rate.

    Attributes:
        weight: λ; None for one that has yet to be calibrated.
        steps: Adam steps (D22: 10 to 20).
        step_size: Adam's learning rate in pixel units (D22: 5 of 255).
        targeted: towards the least likely class of the clean image; otherwise away from the label.
        label: "target" for towards another class, which is then given in place of the label.
    """

    weight: float | None = 1.0
    steps: int = 20
    step_size: float = 5 / 255
    targeted: bool = True
    label: Literal["true", "target"] = "true"

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        if self.aims_at_targets:
            return _Likelihood(needed(labels, clean), True)
        if self.targeted:
            return _Likelihood(least_likely(clean), True)
        return _Likelihood(needed(labels, clean))

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        if self.weight is None:
            raise SettingsError(
                "the weight λ of the Adam attack is not set; give one, or take the attack that "
                "calibrate returns"
            )
        ascent = self._ascent(model, images, labels)
        current, first, second = images, torch.zeros_like(images), torch.zeros_like(images)
        for step in range(1, self.steps + 1):
            _, rise = ascent.gradient(current)
            gradient = 2 * (current - images) - self.weight * rise
            # Kingma and Ba 2015, algorithm 1; torch.optim would load its compiler for this
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            mean, variance = first / (1 - 0.9**step), second / (1 - 0.999**step)
            current = (current - self.step_size * mean / (variance.sqrt() + 1e-8)).clamp(0, 1)
        ascent.check()
        return current

    def calibrate(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        success: float = 0.95,
        ids: Ids | None = None,
    ) -> "AdamAttack":
        """The same attack with the smallest λ (within 10 %) that reaches the success rate.

        Success is the attack's goal. λ is searched between 1e-4 and 1e6; where even the largest
        fails, it is returned and the caller's own measurement says so.
        """
        prepared = prepare(model)
        with torch.no_grad():
            images = place_images(prepared, images)
            labels, clean = check_labels(labels, images), prepared(images)
        goal = self.goal(clean, labels)

        def reaches(weight: float) -> bool:
            attack = dataclasses.replace(self, weight=weight)
            logits = attack.outcomes(prepared, images, labels, ids=ids, clean=clean)
            return goal.reached(logits).float().mean().item() >= success

        return dataclasses.replace(self, weight=smallest(reaches, LIGHTEST, HEAVIEST, ratio=1.1))


def smallest(reaches: Callable[[float], bool], low: float, high: float, *, ratio: float) -> float:
    """The smallest value in [low, high], within a factor, for which a rising condition holds.

    Bisection of the logarithm; `high` where nothing below it holds.
    """
    if reaches(low):
        return low
    while high / low > ratio:
        middle = math.sqrt(low * high)
        if reaches(middle):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True)
class _Likelihood(Goal):
    """A goal whose score is the cross entropy itself, which Adam weighs against the distance."""

    def score(self, logits: Logits) -> PerImage:
        loss = cross_entropy(logits, self.classes)
        return -loss if self.targeted else loss

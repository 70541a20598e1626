"""Attacks that step along the gradient and project back into a ball, and their noise control."""

from dataclasses import dataclass
from typing import Literal

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.attacks.base import Attack, Goal, least_likely, needed
from advlens.attacks.gradient import GradientAttack, Select
from advlens.attacks.threat import Threat
from advlens.checks import check_types
from advlens.prepared import Prepared
from advlens.seeding import Stream, derived, normal

Label = Literal["true", "predicted", "target"]
"""What an attack steps away from: the true label, which its call gets, or the predicted one; or
towards: the target, which its call then gets in place of the label."""


@dataclass(frozen=True, kw_only=True)
class Fgsm(GradientAttack):
    """One steepest step of length epsilon (Goodfellow et al. 2015; D22 eq. 1).

    Attributes:
        threat: the ball; in L∞ the step is the sign of the gradient.
        label: step away from the "true" label or the "predicted" one, which needs no labels and
            leaks none; or towards the "target", another class, given as the label.
    """

    threat: Threat
    label: Label = "true"

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return _labeled(self.label, clean, labels)

    def _step(self, current: Images, gradient: Images, images: Images) -> Images:
        return self.threat.step(current, gradient, images, self.threat.radius(images))

    def along(self, gradient: Images, images: Images, ids: Ids) -> Images:
        """The step by itself, for a gradient that was taken elsewhere."""
        return self._drawn(ids)._step(images, gradient, images)


@dataclass(frozen=True, kw_only=True)
class Iterative:
    """Settings of projected steepest ascent.

    Attributes:
        threat: the ball.
        steps: number of gradient steps K.
        step_size: length of a step in the ball's norm, in pixel units (default 2.5 ε / K).
        select: return each image's "worst" iterate over x₀ … x_K, which costs one forward pass more
            than the "last" one; an iterate that succeeds is worse than one that does not, then the
            larger score counts.
    """

    threat: Threat
    steps: int = 20
    step_size: float | None = None
    select: Select = "worst"

    def _step(self, current: Images, gradient: Images, images: Images) -> Images:
        length = self.step_size or self.threat.radius(images) * 2.5 / self.steps
        return self.threat.step(current, gradient, images, length)


@dataclass(frozen=True, kw_only=True)
class Bim(Iterative, GradientAttack):
    """Basic iterative method: projected steps from the image itself (Kurakin et al. 2017).

    Attributes:
        label: "true", "predicted" or "target", as in `Fgsm`.
    """

    label: Label = "true"

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return _labeled(self.label, clean, labels)


@dataclass(frozen=True, kw_only=True)
class Pgd(Iterative, GradientAttack):
    """Projected gradient descent from a uniform point of the ball (Madry et al. 2018; B23 Alg. 1).

    Attributes:
        restarts: number of independent starts; the worst result of all is returned.
        label: "true", "predicted" or "target", as in `Fgsm`; "predicted" costs a pass more.
    """

    restarts: int = 1
    label: Label = "true"

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return _labeled(self.label, clean, labels)

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        seed = derived(self.seed, restart) if restart else self.seed
        return self.threat.sample(images, seed=seed, ids=ids)

    def _looks_first(self) -> bool:
        return self.label == "predicted"


@dataclass(frozen=True, kw_only=True)
class LeastLikely(Iterative, GradientAttack):
    """Iterative least-likely-class method (Kurakin et al. 2017): steps towards argmin f(x).

    The target is fixed from the clean image; no labels are needed.

    Attributes:
        random_start: begin at a uniform point of the ball (one more forward pass).
    """

    random_start: bool = False

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return Goal(least_likely(clean), targeted=True)

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        if self.random_start:
            return self.threat.sample(images, seed=self.seed, ids=ids)
        return images

    def _looks_first(self) -> bool:
        return self.random_start


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """No attack but its control: a random change of the length that the attack may use.

    The change has exactly length epsilon before pixels are clamped to [0, 1].

    Attributes:
        threat: the ball.
    """

    threat: Threat

    def __post_init__(self) -> None:
        check_types(self)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        noise = normal(self.seed, ids, images.shape[1:], Stream.NOISE).to(images)
        length = self.threat.length(noise).view(-1, 1, 1, 1)
        return (images + self.threat.radius(images) * noise / length).clamp(0, 1)


def _labeled(label: Label, clean: Logits, labels: Labels | None) -> Goal:
    classes = clean.argmax(dim=1) if label == "predicted" else needed(labels, clean)
    return Goal(classes, targeted=label == "target")

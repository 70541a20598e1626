"""Attacks that step along the gradient and project back into a ball, and their noise control."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.attacks.base import (
    Ascent,
    Attack,
    Goal,
    GradientAttack,
    Look,
    averaged,
    least_likely,
    needed,
    positive,
)
from advlens.attacks.threat import Threat
from advlens.prepared import Prepared
from advlens.seeding import Stream, derived, normal
from advlens.typed import check_types

Label = Literal["true", "predicted"]


@dataclass(frozen=True, kw_only=True)
class _InBall(Attack):
    threat: Threat

    def _at(self, positions: Tensor) -> Self:
        threat = self.threat.at(positions)
        return self if threat is self.threat else replace(self, threat=threat)

    def _drawn(self, ids: Ids) -> Self:
        return replace(self, threat=self.threat.drawn(self.seed, ids))


@dataclass(frozen=True, kw_only=True)
class Fgsm(_InBall, GradientAttack):
    """One steepest step of length epsilon (Goodfellow et al. 2015; D22 eq. 1).

    Attributes:
        threat: the ball; in L∞ the step is the sign of the gradient.
        label: attack the "true" label, or the "predicted" one (needs no labels, leaks none).
    """

    label: Label = "true"

    def __post_init__(self) -> None:
        check_types(self)
        positive("Fgsm", draws=self.draws)

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return _away(self.label, clean, labels)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        ascent = Ascent(model, lambda logits: self.goal(logits, labels), self.draws)
        _, gradient = ascent.gradient(images)
        ascent.check()
        return self.along(gradient, images, ids)

    def along(self, gradient: Images, images: Images, ids: Ids) -> Images:
        """The step by itself, for a gradient that was taken elsewhere."""
        threat = self.threat.drawn(self.seed, ids)
        step = threat.radius(images) * threat.steepest(gradient)
        return threat.project(images + step, images)


@dataclass(frozen=True, kw_only=True)
class Iterative(_InBall, GradientAttack):
    """Projected steepest ascent.

    Attributes:
        threat: the ball.
        steps: number of gradient steps K.
        step_size: length of a step in the ball's norm, in pixel units (default 2.5 ε / K).
        select: return each image's "worst" iterate over x₀ … x_K, which costs one forward pass more
            than the "last" one; an iterate that succeeds is worse than one that does not, then the
            larger score counts.
    """

    steps: int = 20
    step_size: float | None = None
    select: Literal["worst", "last"] = "worst"
    restarts: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_types(self)
        name = type(self).__name__
        positive(name, steps=self.steps, restarts=self.restarts, draws=self.draws)
        if self.step_size is not None:
            positive(name, step_size=self.step_size)

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        return images

    def _step(self, current: Images, gradient: Images, images: Images) -> Images:
        length = self.step_size or self.threat.radius(images) * 2.5 / self.steps
        return self.threat.project(current + length * self.threat.steepest(gradient), images)

    def _climb(self, ascent: Ascent, images: Images, ids: Ids) -> Images:
        """The last or the worst iterate of all restarts."""
        worst = _Worst()
        for restart in range(self.restarts):
            current = self._start(images, ids, restart)
            for _ in range(self.steps):
                look, gradient = ascent.gradient(current)
                if self.select == "worst":
                    worst.see(current, look)
                current = self._step(current, gradient, images)
            if self.select == "worst" or self.restarts > 1:
                worst.see(current, ascent.look(current))
        ascent.check()
        return current if worst.images is None else worst.images


@dataclass(frozen=True, kw_only=True)
class _Classes(Iterative):
    """Ascent on the goal's own score, so that an image is done once its goal is reached."""

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        ascent = Ascent(model, lambda logits: self.goal(logits, labels), self.draws)
        if self._looks_first():
            ascent.objective = self.goal(averaged(model, images, self.draws), labels)
        return self._climb(ascent, images, ids)

    def _looks_first(self) -> bool:
        """Whether the goal depends on the clean logits, but the first iterate is another image."""
        return False

    def _outcomes(
        self, model: Prepared, images: Images, labels: Labels | None, ids: Ids, clean: Logits
    ) -> Logits:
        if self.select == "last":
            return super()._outcomes(model, images, labels, ids, clean)
        goal, logits = self.goal(clean, labels), clean.clone()
        highest = torch.full_like(logits[:, 0], -torch.inf)
        left = torch.arange(len(images), device=images.device)
        ascent = Ascent(model, lambda _: goal, self.draws)
        for restart in range(self.restarts):
            current = self._at(left)._start(images[left], ids[left], restart)
            for step in range(self.steps + 1):
                if len(left) == 0:
                    break
                ascent.objective = Goal(goal.classes[left], goal.targeted)
                if step < self.steps:
                    look, gradient = ascent.gradient(current)
                else:
                    look = ascent.look(current)
                fooled = look.reached > 1 - 0.5 / self.draws  # a mean of ones may round to less
                worse = fooled | (look.score > highest[left])
                logits[left[worse]] = look.output[worse]
                highest[left[worse]] = look.score[worse]
                left = left[~fooled]
                if step < self.steps:
                    current = self._at(left)._step(
                        current[~fooled], gradient[~fooled], images[left]
                    )
        ascent.check()
        return logits


@dataclass(frozen=True, kw_only=True)
class _Untargeted(_Classes):
    """Steps away from the label.

    Attributes:
        label: attack the "true" label, or the "predicted" one.
    """

    label: Label = "true"

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        return _away(self.label, clean, labels)


@dataclass(frozen=True, kw_only=True)
class Bim(_Untargeted):
    """Basic iterative method: projected steps from the image itself (Kurakin et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class Pgd(_Untargeted):
    """Projected gradient descent from a uniform point of the ball (Madry et al. 2018; B23 Alg. 1).

    With label="predicted" it costs one forward pass more.

    Attributes:
        restarts: number of independent starts; the worst result of all is returned.
    """

    restarts: int = 1  # type: ignore[misc]  # a constant in the attacks that start at the image

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        seed = derived(self.seed, restart) if restart else self.seed
        return self.threat.sample(images, seed=seed, ids=ids)

    def _looks_first(self) -> bool:
        return self.label == "predicted"


@dataclass(frozen=True, kw_only=True)
class LeastLikely(_Classes):
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
class GaussianNoise(_InBall):
    """No attack but its control: a random change of the length that the attack may use.

    The change has exactly length epsilon before pixels are clamped to [0, 1].
    """

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        noise = normal(self.seed, ids, images.shape[1:], Stream.NOISE).to(images)
        length = self.threat.length(noise).view(-1, 1, 1, 1)
        return (images + self.threat.radius(images) * noise / length).clamp(0, 1)


class _Worst:
    """The worst images seen so far: success first, then the larger score."""

    images: Images | None = None
    reached: PerImage
    score: PerImage

    def see(self, images: Images, look: Look) -> None:
        if self.images is None:
            self.images, self.reached, self.score = images, look.reached, look.score
            return
        larger = look.score > self.score
        worse = (look.reached > self.reached) | ((look.reached == self.reached) & larger)
        self.images = torch.where(worse.view(-1, 1, 1, 1), images, self.images)
        self.score = torch.where(worse, look.score, self.score)
        self.reached = torch.where(worse, look.reached, self.reached)


def _away(label: Label, clean: Logits, labels: Labels | None) -> Goal:
    return Goal(clean.argmax(dim=1) if label == "predicted" else needed(labels, clean))

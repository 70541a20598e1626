"""Attacks that climb gradients: one loop gives the attacked images, or their logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.attacks.base import Ascent, Attack, Criterion, Goal, averaged
from advlens.checks import Precision, check_positive, check_types
from advlens.prepared import Prepared

Select = Literal["worst", "last"]

POSITIVE = ("weight", "steps", "restarts", "draws", "step_size")
"""Settings that must be positive where an attack has them."""


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """What attacks that climb gradients share.

    An attack says where it begins (`_start`), how it steps (`_step`) and what it climbs (`goal`, or
    `_ascent` for something else).

    Attributes:
        draws: fresh passes that each gradient and each look is averaged over. More than one is for
            a model whose passes differ (expectation over transformation, Athalye et al. 2018):
            what counts is the mean score and the share of successes, not one lucky draw.
        precision: with "bf16" gradients are taken in bfloat16, and whatever decides is float32:
            what an attack steps away from or towards, which iterate is kept, and what has
            succeeded. The worst iterate is then the last one, or the first that succeeds.
    """

    draws: int = 1
    precision: Precision = "float32"

    # without a type they are no settings, but what holds for an attack without such a setting
    steps, restarts, select = 1, 1, "last"

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, *(name for name in POSITIVE if name in vars(self)))

    def columns(self) -> dict[str, Any]:
        return super().columns() | {"steps": self.steps}

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        return images

    def _step(self, current: Images, gradient: Images, images: Images) -> Images:
        raise NotImplementedError

    def _looks_first(self) -> bool:
        """Whether the goal depends on the clean logits, but the first iterate is another image."""
        return False

    def _ascent(self, model: Prepared, images: Images, labels: Labels | None) -> Ascent:
        """The score of the goal, and its gradients."""
        ascent = self._climber(model, lambda logits: self.goal(logits, labels))
        if self._looks_first():
            ascent.criterion = self.goal(averaged(model, images, self.draws), labels)
        return ascent

    def _climber(
        self, model: Callable[[Images], Tensor], choose: Callable[[Tensor], Criterion]
    ) -> Ascent:
        return Ascent(model, choose, self.draws, self.precision)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        return self._climb(self._ascent(model, images, labels), images, ids)

    def _outcomes(
        self, model: Prepared, images: Images, labels: Labels | None, ids: Ids, clean: Logits
    ) -> Logits:
        if self.select == "last":
            return super()._outcomes(model, images, labels, ids, clean)
        goal = self.goal(clean, labels)
        ascent = self._climber(model, lambda _: goal)
        ascent.criterion = goal
        return self._climb(ascent, images, ids, goal)

    def _climb(self, ascent: Ascent, images: Images, ids: Ids, goal: Goal | None = None) -> Tensor:
        """Each image's last iterate, or the worst one of all restarts.

        Given the goal, the logits of the worst one, and an image that is done is left out.
        """
        attack, worst = self, _Worst()
        left = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            current = attack._start(images, ids, restart)
            for step in range(self.steps + 1):
                last = step == self.steps
                if len(left) == 0 or (last and self.select == "last" and self.restarts == 1):
                    break
                look, gradient = (
                    (ascent.look(current), current) if last else ascent.gradient(current)
                )
                if self.precision == "bf16" and self.select == "worst" and not last:
                    known = 0 * look.reached if worst.kept is None else worst.reached[left]
                    look = ascent.confirmed(look, current, known)
                if goal is not None:
                    done = look.reached > 1 - 0.5 / self.draws  # a mean of ones may round to less
                    worst.see(look.output, done, look.score, left)
                    on = (~done).nonzero().squeeze(1)  # a GPU waits here, with a mask at each use
                    ascent.criterion = goal = goal.at(on)
                    attack, left, images, ids = attack._at(on), left[on], images[on], ids[on]
                    current, gradient = current[on], gradient[on]
                elif last or self.select == "worst":
                    worst.see(current, look.reached, look.score)
                if not last:
                    current = attack._step(current, gradient, images)
        ascent.check()
        return current if worst.kept is None else worst.kept


class _Worst:
    """What is kept of each image's worst look: success counts first, then the larger score."""

    kept: Tensor | None = None
    reached: Tensor
    score: PerImage

    def see(
        self,
        kept: Tensor,
        reached: Tensor,
        score: PerImage,
        left: Tensor | slice = slice(None),
    ) -> None:
        """Take in a look at all images, or at those that are left."""
        if self.kept is None:
            self.kept, self.reached, self.score = kept.clone(), reached.clone(), score.clone()
            return
        before, highest = self.reached[left], self.score[left]
        worse = (reached > before) | ((reached == before) & (score > highest))
        for old, new in ((self.kept, kept), (self.reached, reached), (self.score, score)):
            old[left] = torch.where(worse.view(-1, *[1] * (new.ndim - 1)), new, old[left])

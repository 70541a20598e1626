"""What all attacks share: how they are called, what they want, and the gradient they follow."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, Logits, Mask, PerImage
from advlens.attacks.threat import Threat
from advlens.checks import Precision
from advlens.errors import NumericError, SettingsError
from advlens.losses import log_odds
from advlens.prepared import (
    Prepared,
    check_classes,
    check_labels,
    number_images,
    place_images,
    prepare,
)
from advlens.prepared.mixing import check_steps
from advlens.prepared.precision import stepping

NATURAL: Mapping[str, Any] = {"attack": "natural", "norm": "", "epsilon": 0.0, "steps": 0}
"""What `Attack.columns` is for images as they are."""


@dataclass(frozen=True)
class Goal:
    """What an attack wants the model to predict: each image's class, or any other.

    Attributes:
        classes: the target of each image, or the label to leave.
        targeted: which of the two.
    """

    classes: Labels
    targeted: bool = False

    def reached(self, logits: Logits) -> Mask:
        """Whether each image's prediction is as wanted."""
        return (logits.argmax(dim=1) == self.classes) == self.targeted

    def score(self, logits: Logits) -> PerImage:
        """What the attack raises: log odds of the target, or against the label.

        It is 0, which no step changes, where the model masks that class with −∞.
        """
        masked = logits.gather(1, self.classes.unsqueeze(1)).squeeze(1) == -torch.inf
        against = log_odds(logits, self.classes).masked_fill(masked, 0)
        return -against if self.targeted else against

    def at(self, positions: Tensor) -> Self:
        """The same for the images at these positions alone."""
        return replace(self, classes=self.classes[positions])


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What all attacks share.

    An attack that stays within a ball has it as its setting `threat`, a `Threat`.

    Attributes:
        seed: of everything random in the attack.
    """

    seed: int = 0

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
    ) -> Images:
        """The attacked images, on the model's device.

        Args:
            model: pixels in [0, 1] → logits; or its prepared copy, which saves the preparation.
            images: pixels in [0, 1], N×3×H×W.
            labels: true class of each image, a tensor of any integer type; not needed where the
                attack does not use it.
            ids: a stable number for each image, which its randomness is drawn from (default 0…N−1).

        Raises:
            DataError: images that are not pixels in [0, 1].
            SettingsError: labels that are not a class of the model for each image, or missing where
                the attack needs them; ids that are not a number for each image; a precision that
                the machine or the model does not bear.
            NumericError: a gradient that is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            labels, ids = check_labels(labels, images), number_images(images, ids)
            check_steps(prepared, images, self._precision)
            if len(images) == 0:
                return images
            return self._drawn(ids)._attack(prepared, images, labels, ids)

    def goal(self, clean: Logits, labels: Labels | None = None) -> Goal:
        """What counts as success on images whose logits before the attack are `clean`.

        The success rate is the mean of `attack.goal(clean, labels).reached(logits)`.
        """
        return Goal(clean.argmax(dim=1) if labels is None else needed(labels, clean))

    @property
    def aims_at_targets(self) -> bool:
        """Whether its label is "target", a class that is given in place of the true one."""
        return vars(self).get("label") == "target"

    def given(self, labels: Labels, targets: Labels | None) -> Labels:
        """What a call takes as labels: the targets of the images, if the attack aims at them.

        Raises:
            SettingsError: it is, and there are no targets.
        """
        if not self.aims_at_targets:
            return labels
        if targets is None:
            raise SettingsError(
                "the attack steps towards a target of each image, but there are none; give a class "
                "with --target, or data with a column target"
            )
        return targets

    def aims(self, classes: int) -> bool:
        """Whether it aims at a class, not away from the label; `classes`: how many there are."""
        logits, labels = torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64)
        return self.goal(logits, labels).targeted

    def outcomes(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
        clean: Logits | None = None,
    ) -> Logits:
        """Logits whose predictions count as those on attacked images do: for success rates.

        An image that fulfils the goal before the attack is not attacked. An attack that keeps the
        worst iterate also drops an image at the first iterate that fulfils the goal: it is fooled
        by `attack(model, images, labels)` as well, but only images that still hold out cost
        anything. What ranks behind the first class, as top-5 does, is another on attacked images.
        A randomized model's images are all attacked, and the logits are those of a fresh pass.

        Args:
            model, images, labels, ids: as in a call.
            clean: the logits of the images themselves, which saves a forward pass.

        Raises:
            AdvlensError: as a call does.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            labels, ids = check_labels(labels, images), number_images(images, ids)
            if (ball := self.within()) is not None:
                ball.check_count(len(images))
            check_steps(prepared, images, self._precision)
            prepared.check(images)  # given logits do not show whether the model is randomized
            logits = prepared(images) if clean is None else clean.clone()
            if logits.isnan().any():
                raise NumericError(
                    "the model returns NaN on images in [0, 1], so no attack on it means anything: "
                    "check its weights"
                )
            if prepared.randomized:
                # one lucky draw spares no image
                fresh: Logits = prepared(self(prepared, images, labels, ids=ids))
                return fresh
            left = (~self.goal(logits, labels).reached(logits)).nonzero().squeeze(1)
            if len(left):
                ids = ids.to(left.device)[left]
                labels = None if labels is None else labels[left]
                part = self._at(left)._drawn(ids)
                logits[left] = part._outcomes(prepared, images[left], labels, ids, logits[left])
            return logits

    @property
    def _precision(self) -> Precision:
        """That of its gradients, where it has such a setting."""
        precision: Precision = vars(self).get("precision", "float32")
        return precision

    def within(self) -> Threat | None:
        """The ball that the attack stays within, where it has one."""
        ball = vars(self).get("threat")
        return ball if isinstance(ball, Threat) else None

    @property
    def radius(self) -> float | None:
        """The largest radius of the ball that the attack stays within, where it has one."""
        radius: float | None = self.columns()["epsilon"]
        return radius

    def with_radius(self, epsilon: float) -> Self:
        """The same attack in a ball of another radius; a step size changes in proportion."""
        ball, size = self.within(), vars(self).get("step_size")
        if ball is None or self.radius is None:
            raise SettingsError(f"{type(self).__name__} has no radius that could be another")
        changed: dict[str, Any] = {"threat": replace(ball, epsilon=epsilon)}
        if size is not None:
            changed["step_size"] = size * epsilon / self.radius
        return replace(self, **changed)

    def columns(self) -> dict[str, Any]:
        """The columns that name the attack in the tables of a run: attack, norm, epsilon, steps.

        Epsilon is the largest radius, None without a ball. `unusual` tells the rest.
        """
        ball = self.within()
        return {
            "attack": type(self).__name__,
            "norm": "" if ball is None else ball.norm,
            "epsilon": None if ball is None else ball.radii[1],
            "steps": 1,
        }

    def unusual(self, **usual: object) -> str:
        """What `columns` leaves out, as in "step_size=0.1, restarts=3"; empty for the defaults.

        Args:
            usual: what counts as default in place of the attack's own, such as a run's seed.
        """
        ball = self.within()
        told = self.columns() | {"threat": ball}
        parts = [f"epsilon={ball.spread}"] if ball is not None and ball.spread else []
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if not field.init or (name in told and told[name] == value):
                continue
            made = field.default_factory
            if value != usual.get(name, field.default if made is MISSING else made()):
                parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
        return ", ".join(parts)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        raise NotImplementedError

    def _outcomes(
        self, model: Prepared, images: Images, labels: Labels | None, ids: Ids, clean: Logits
    ) -> Logits:
        logits: Logits = model(self._attack(model, images, labels, ids))
        return logits

    def _at(self, positions: Tensor) -> Self:
        """The same attack for the images at these positions alone: radii may be one per image."""
        ball = self.within()
        return self if ball is None else self._in(ball.at(positions))

    def _drawn(self, ids: Ids) -> Self:
        """The same attack with the radii of these images, where they have yet to be drawn."""
        ball = self.within()
        return self if ball is None else self._in(ball.drawn(self.seed, ids))

    def _in(self, ball: Threat) -> Self:
        """The same attack in this ball."""
        changed: dict[str, Any] = {"threat": ball}
        return self if ball is self.within() else replace(self, **changed)


def averaged(model: Callable[[Images], Tensor], images: Images, draws: int) -> Tensor:
    """The model's mean output over fresh passes."""
    mean: Tensor = torch.stack([model(images) for _ in range(draws)]).mean(dim=0)
    return mean


class Criterion(Protocol):
    """What an attack raises, and when it is done, as functions of the model's output."""

    def score(self, output: Tensor, /) -> PerImage: ...

    def reached(self, output: Tensor, /) -> Mask: ...

    def at(self, positions: Tensor, /) -> "Criterion": ...


class Look(NamedTuple):
    """What an attack sees of its images: means over its draws.

    The model's output, each image's score, and the share of draws in which it reaches the goal.
    """

    output: Tensor
    score: PerImage
    reached: PerImage


class Ascent:
    """Looks at images and gives the gradients of their scores, which must all be finite.

    Args:
        model: images → output.
        choose: the criterion, given the output of the first images looked at.
        draws: passes that a look is averaged over; with several, as many more find the criterion.
        precision: that of gradients; with "bf16", a pass in float32 finds the criterion.
    """

    def __init__(
        self,
        model: Callable[[Images], Tensor],
        choose: Callable[[Tensor], Criterion],
        draws: int = 1,
        precision: Precision = "float32",
    ):
        self.model, self.choose, self.draws, self.precision = model, choose, draws, precision
        self.criterion: Criterion | None = None
        self._sizes: list[Tensor] = []  # one for each step, on the device: no transfer in the loop

    def look(self, images: Images) -> Look:
        """One forward pass for each draw."""
        looks = [self._pass(images) for _ in range(self.draws)]
        self._sizes.append(_largest(look.score for look in looks))
        return _mean(looks)

    def gradient(self, images: Images) -> tuple[Look, Images]:
        """One forward pass and one backward pass to the images for each draw."""
        looks, gradients = [], []
        for _ in range(self.draws):
            with torch.enable_grad():
                inputs = images.detach().requires_grad_()
                look = self._pass(inputs, self.precision)
                (gradient,) = torch.autograd.grad(look.score.sum(), inputs)
            looks.append(Look(look.output.detach(), look.score.detach(), look.reached))
            gradients.append(gradient)
        self._sizes.append(_largest([*(look.score for look in looks), *gradients]))
        if self.draws == 1:
            return looks[0], gradients[0]
        return _mean(looks), torch.stack(gradients).mean(dim=0)

    def confirmed(self, look: Look, images: Images, known: PerImage) -> Look:
        """A look in bfloat16 made to count: in float32 where it reaches more than is known.

        Elsewhere it reaches nothing, and its score is −∞.
        """
        seems = (look.reached > known).nonzero().squeeze(1)
        output, score = look.output.clone(), torch.full_like(look.score, -torch.inf)
        reached = torch.zeros_like(look.reached)
        if len(seems):
            whole = self.criterion
            assert whole is not None
            self.criterion = whole.at(seems)
            sure = _mean([self._pass(images[seems]) for _ in range(self.draws)])
            self.criterion = whole
            output[seems], score[seems], reached[seems] = sure
        return Look(output, score, reached)

    def _pass(self, images: Images, precision: Precision = "float32") -> Look:
        if self.criterion is None and (self.draws > 1 or self.precision == "bf16"):
            with torch.no_grad():
                self.criterion = self.choose(averaged(self.model, images, self.draws))
        with stepping(images.device, precision):
            output = self.model(images)
        if self.criterion is None:
            self.criterion = self.choose(output.detach())
        score = self.criterion.score(output)
        return Look(output, score, self.criterion.reached(output).to(score.dtype))

    def check(self) -> None:
        """Raise NumericError if any score or gradient was not finite."""
        finite = torch.stack(self._sizes).isfinite().tolist()
        if not all(finite):
            step = finite.index(False) + 1
            raise NumericError(
                f"the gradient at step {step} is not finite; the model returns "
                "NaN or infinity on images in [0, 1], so no attack on it means anything: check its "
                "weights"
            )


def _mean(looks: list[Look]) -> Look:
    return (
        looks[0]
        if len(looks) == 1
        else Look(*(torch.stack(v).mean(0) for v in zip(*looks, strict=True)))
    )


def _largest(values: Iterable[Tensor]) -> Tensor:
    """A number that is finite only if all values are."""
    return torch.stack([torch.linalg.vector_norm(v, ord=torch.inf) for v in values]).sum()


def needed(labels: Labels | None, logits: Logits) -> Labels:
    """The labels; SettingsError where there are none, or not classes of a model of such logits."""
    if labels is None:
        raise SettingsError(
            "this attack needs the true labels; pass them, or attack the predicted label "
            '(label="predicted") or the least likely class'
        )
    return check_classes(labels, logits.shape[1])


def least_likely(logits: Logits) -> Labels:
    """argmin f(x) for each image, among the classes that a model does not mask with −∞."""
    return logits.masked_fill(logits == -torch.inf, torch.inf).argmin(dim=1)

"""AutoAttack (Croce and Hein 2020) by its reference implementation."""

from dataclasses import dataclass
from typing import Any

from advlens.arrays import Ids, Images, Labels
from advlens.attacks import Attack
from advlens.attacks.base import needed
from advlens.attacks.threat import Threat
from advlens.checks import check_types
from advlens.errors import ModelError, SettingsError
from advlens.interop.attacks import Ball
from advlens.interop.guests import guest, library
from advlens.prepared import Prepared
from advlens.seeding import derived

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The attacks of its standard version, in their order; each takes on what the others have left."""


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """AutoAttack's standard version: each image by its four attacks until one succeeds.

    The code that runs is the authors', as the package pyautoattack holds it. It draws its random
    numbers for a batch at once: other batches give other images.

    Attributes:
        threat: the ball, of one radius for all images.
    """

    threat: Threat

    def __post_init__(self) -> None:
        check_types(self)
        library("autoattack", "pyautoattack")
        self._ball()  # a radius that it cannot take is refused

    def _ball(self) -> Ball:
        if not isinstance(self.threat.epsilon, int | float):
            raise SettingsError("AutoAttack: epsilon must be one number for all images")
        return Ball(norm=self.threat.norm, epsilon=self.threat.epsilon)

    def _attack(self, model: Prepared, images: Images, labels: Labels | None, ids: Ids) -> Images:
        labels, images = needed(labels, model(images[:1])), images.clone()
        for part in PARTS:
            left = (model(images).argmax(dim=1) == labels).nonzero().squeeze(1)
            if len(left):
                own = ids.to(left.device)[left]
                images[left] = self.part(part, model, images[left], labels[left], own)
        return images

    def part(self, name: str, model: Prepared, images: Images, labels: Labels, ids: Ids) -> Images:
        """What one of `PARTS` makes of images that the model has right; unchanged where it fails.

        Raises:
            ModelError: a model of fewer than four classes, or one that the reference fails on.
        """
        seed, ball = derived(self.seed, *ids.tolist()), self._ball()
        with guest(f"AutoAttack ({name})", model, seed) as host:
            reference: Any = library("autoattack", "pyautoattack").AutoAttack(
                host,
                norm=ball.norm,
                eps=ball.epsilon,
                device=images.device,
                seed=seed % 2**32,
            )
            reference.attacks_to_run = [name]
            targets = min(9, host(images[:1]).shape[1] - 1)  # ten classes give the standard nine
            reference.apgd_targeted.n_target_classes = reference.fab.n_target_classes = targets
            if targets < 3:
                raise ValueError("its targeted loss needs at least four classes")
            attacked, _ = reference.run_standard_evaluation(images.clone(), labels.clone())
            result: Images = attacked.detach().to(images)
        inside = ball.holds(result - images) & (result == result.clamp(0, 1)).all((1, 2, 3))
        if not bool(inside.all()):
            raise ModelError(f"AutoAttack ({name}) leaves its ball, so no accuracy means anything")
        return result

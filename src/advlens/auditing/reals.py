"""The real images behind generated ones: those that fit the starts, and those to compare with."""

from dataclasses import dataclass

import torch

from advlens.auditing.subjects import Part, Subject
from advlens.settings import AuditSettings

FITTED = 100_000
"""Maximum number of training images that Gaussians are fitted to, of all classes alike."""


@dataclass(frozen=True)
class Reals:
    """Sets of real images; none of them is read yet.

    Attributes:
        fitted: those that the class Gaussians are fitted to.
        bound: two sets whose distance is the lower bound of all distances.
        scored: those that generated images and their starts are compared with.
        balanced: whether the first set of the bound has a fixed number of images of each class.
    """

    fitted: Part
    bound: tuple[Part, Part]
    scored: Part
    balanced: bool

    @classmethod
    def of(cls, subject: Subject, settings: AuditSettings) -> "Reals":
        """The training images and the audited ones, or two halves of these where no others are.

        With `settings.gaussians` "paper" Gaussians are fitted to the audited images, which are then
        compared with, as in B23.

        Raises:
            DataError: the training images cannot be used.
        """
        data, seed, paper = subject.data, settings.seed, settings.gaussians == "paper"
        audited = Part(data.name, data)
        training = subject.training_images(len(data) if paper else FITTED, seed)
        if training is not None:
            count = min(len(training.images), len(data))
            like = Part(training.name, training.images.subset(count, seed=seed))
            return cls(audited if paper else training, (like, audited), audited, balanced=True)
        first = torch.zeros(len(data), dtype=torch.bool)
        if len(data) > 1:
            first[data.subset(len(data) // 2, seed=seed).positions] = True
        half, other = (data.part(mask.nonzero()[:, 0].tolist()) for mask in (first, ~first))
        halves = Part(f"half of {data.name}", half), Part(f"the other half of {data.name}", other)
        fitted, scored = (audited, audited) if paper else halves
        return cls(fitted, halves, scored, balanced=False)

    @property
    def classes(self) -> list[int]:
        """Classes to compare, each with two images or more that a Gaussian can be fitted to."""
        names = len(self.scored.images.classes)
        fitted, scored = (
            part.images.labels.bincount(minlength=names) for part in (self.fitted, self.scored)
        )
        classes: list[int] = ((fitted > 1) & (scored > 0)).nonzero()[:, 0].tolist()
        return classes

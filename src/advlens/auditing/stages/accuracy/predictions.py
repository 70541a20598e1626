"""What a model predicts on each image, natural and under attack, and who is wrong by it."""

from collections import Counter

import torch
from jaxtyping import Bool
from torch import Tensor

from advlens.arrays import Ids, Labels, Logits
from advlens.datasets import ImageData
from advlens.evaluation import Reliability, ranked
from advlens.intervals import wilson
from advlens.losses import log_odds
from advlens.runs.folder import Tables

UNSEEN = -1
"""Marks images that another process saw."""


class Predictions:
    """The predictions on all images, of which every other number of this stage can be counted.

    They take 12 bytes for each image and attack.

    Args:
        attacks: number of attacks and the natural images, which come first.
        images: number of images.

    Attributes:
        predicted: the class of the highest logit, attacks × images; `UNSEEN` where there is none.
        confidence: its softmax probability.
        odds: under attack the log odds against the label (`log_odds`): the higher, the less robust.
    """

    def __init__(self, attacks: int, images: int):
        self.predicted = torch.full((attacks, images), UNSEEN, dtype=torch.int32)
        self.confidence, self.odds = torch.zeros(2, attacks, images)

    def take(self, attack: int, ids: Ids, logits: Logits, labels: Labels) -> None:
        """Take in a batch under the attack of this number; 0 is natural images."""
        ids = ids.cpu()
        self.predicted[attack, ids] = ranked(logits)[:, 0].int().cpu()
        self.confidence[attack, ids] = logits.double().softmax(dim=1).amax(dim=1).float().cpu()
        if attack:
            self.odds[attack, ids] = log_odds(logits, labels).float().cpu()

    def right(self, labels: Labels) -> Bool[Tensor, "attacks images"]:
        """Whether each image is right: under attack only if it is so without it, too."""
        hits = self.predicted == labels
        return hits & hits[:1]

    def state(self) -> dict[str, Tensor]:
        """Everything needed to resume."""
        return {f"accuracy.{name}": values for name, values in vars(self).items()}

    def restore(self, state: dict[str, Tensor], classes: int) -> None:
        """Resume from a state of a model with so many classes.

        Raises:
            ValueError: it is no such state.
        """
        for name in vars(self):
            setattr(self, name, state[f"accuracy.{name}"])
        within = (self.predicted >= UNSEEN) & (self.predicted < classes)
        if not bool((within & (self.confidence >= 0) & (self.confidence <= 1)).all()):
            raise ValueError("its predictions are not classes with a confidence from 0 to 1")

    def merge(self, other: "Predictions") -> None:
        """Take in what another process saw."""
        seen = other.predicted != UNSEEN
        for name, values in vars(self).items():
            values[seen] = vars(other)[name][seen]


def who_is_wrong(
    seen: Predictions, attack: int, data: ImageData, right: Bool[Tensor, " images"]
) -> Tables:
    """The accuracy of each class, the confusions, and the calibration, under one attack.

    Args:
        seen: the predictions on all images.
        attack: the attack's number; 0 is natural images.
        data: the images.
        right: whether each image counts as right.
    """
    predicted, names = seen.predicted[attack], data.classes
    n = data.labels.bincount(minlength=len(names)).tolist()
    each = data.labels[right].bincount(minlength=len(names)).tolist()
    cells = Counter(zip(data.labels.tolist(), predicted.tolist(), strict=True))
    hits = predicted == data.labels
    reliability = Reliability.of(seen.confidence[attack], hits)
    bins = zip(*(values.tolist() for values in vars(reliability).values()), strict=True)
    return {
        "class_accuracy": [
            {"class": name, "right": right, "n": n, **_ends(right, n)}
            for name, right, n in zip(names, each, n, strict=True)
            if n
        ],
        "confusion": [
            {"label": names[label], "predicted": names[guess], "count": cells[label, guess]}
            for label, guess in sorted(cells)
        ],
        "calibration": [
            {
                "bin": number,
                "confidence": confidence,
                "accuracy": right / n,
                **_ends(right, n),
                "n": n,
            }
            for number, (n, right, confidence) in enumerate(bins, start=1)
            if n
        ],
        "calibration_error": [
            {
                "ece": reliability.error(),
                "confidence": seen.confidence[attack].double().mean().item(),
                "accuracy": hits.double().mean().item(),
                **_ends(int(hits.sum()), len(hits)),
                "n": len(hits),
            }
        ],
    }


def _ends(right: int, n: int) -> dict[str, float]:
    low, high = wilson(right, n)
    return {"low": low, "high": high}

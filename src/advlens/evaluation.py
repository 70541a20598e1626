"""Accuracy with its interval, and the checks that reveal gradient masking."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.attacks import Attack
from advlens.errors import NumericError
from advlens.prepared import Prepared
from advlens.statistics import wilson

RANKS = 5


@dataclass
class Accuracy:
    """Counts of right predictions, streamed.

    Attributes:
        n: images seen.
        top1: of them, with the label ranked first; under attack, before the attack as well.
        top5: of them, with the label among the first five (all of them with five classes or fewer).
    """

    n: int = 0
    top1: int = 0
    top5: int = 0

    def update(self, logits: Logits, labels: Labels, clean: Logits | None = None) -> None:
        """Take in a batch.

        Args:
            logits: of the images, as they are or attacked.
            labels: their classes.
            clean: of the images as they are, where `logits` are of attacked ones: what is wrong
                without the attack is not right under it. Top-5 is of `logits` alone.
        """
        hits = _hits(logits, labels)
        right = hits[:, 0] if clean is None else hits[:, 0] & _hits(clean, labels)[:, 0]
        self.n += len(labels)
        self.top1 += int(right.sum())
        self.top5 += int(hits.any(dim=1).sum())

    def update_under(
        self, attack: Attack, model: Prepared, images: Images, labels: Labels, *, ids: Ids,
        clean: Logits,
    ) -> None:  # fmt: skip
        """Attack a batch and take it in: `attack(model, images, labels)`, every image of it.

        An image that is wrong already, or fooled at an early step, changes top-1 no more and top-5
        still; where five classes are all that there are, such images are dropped on the way.
        """
        if clean.shape[1] <= RANKS:
            logits = attack.outcomes(model, images, labels, ids=ids, clean=clean)
        else:
            with torch.no_grad():
                logits = model(attack(model, images, labels, ids=ids))
        self.update(logits, labels, clean)

    def merge(self, other: "Accuracy") -> None:
        """Take in what another accumulator counted."""
        self.n += other.n
        self.top1 += other.top1
        self.top5 += other.top5

    def compute(self) -> dict[str, float | int]:
        """Shares in [0, 1]: top1 with its 95 % Wilson interval, top5; and n."""
        low, high = wilson(self.top1, self.n)
        n = max(self.n, 1)
        return {
            "top1": self.top1 / n,
            "top1_low": low,
            "top1_high": high,
            "top5": self.top5 / n,
            "n": self.n,
        }


def _hits(logits: Logits, labels: Labels) -> Tensor:
    """Whether each image's first class, second … fifth is its label, N×5."""
    if logits.isnan().any():
        raise NumericError(
            "the model returns NaN on images in [0, 1], so its accuracy means nothing: check its "
            "weights"
        )
    ranked = logits.topk(min(RANKS, logits.shape[1]), dim=1).indices
    return ranked == labels.unsqueeze(1)


@dataclass(frozen=True)
class Check:
    """One sanity check: what must hold of a real robustness, what was found."""

    check: str
    expected: str
    found: str
    passed: bool


def must_fall(check: str, settings: Sequence[str], accuracies: Sequence[Accuracy]) -> Check:
    """Accuracy must not rise from one setting to the next stronger one.

    A rise by half a point, or by one image, is within the noise of the attack.
    """
    shares = [accuracy.top1 / max(accuracy.n, 1) for accuracy in accuracies]
    slack = max(0.005, 1 / max(accuracies[0].n, 1)) + 1e-9
    fell = all(after <= before + slack for before, after in pairwise(shares))
    found = ", ".join(f"{name}: {share:.1%}" for name, share in zip(settings, shares, strict=True))
    return Check(check, "does not rise", found, fell)


def must_have_gradients(check: str, blind: int, n: int) -> Check:
    """On at most 1 % of n images, or one, may the gradient that attacks climb be exactly 0.

    Behind rounded pixels, a step function or a saturated output no attack by gradients finds
    anything, and robustness looks perfect.
    """
    found = f"{blind} of {n} images without a gradient"
    return Check(check, "at most 1% of the images without one", found, blind <= max(1, n / 100))


def must_reach_chance(check: str, accuracy: Accuracy, classes: int) -> Check:
    """With every pixel free, accuracy must be at most chance, up to its interval."""
    low, _ = wilson(accuracy.top1, accuracy.n)
    found = f"{accuracy.top1 / max(accuracy.n, 1):.1%} (n = {accuracy.n})"
    return Check(check, f"at most chance, {1 / classes:.1%}", found, low <= 1 / classes)

"""Accuracy with its interval, and the checks that reveal gradient masking."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.attacks import Attack
from advlens.errors import NumericError
from advlens.intervals import Z95, student, wilson
from advlens.prepared import Prepared

RANKS = 5


@dataclass
class Accuracy:
    """Counts of right predictions, streamed.

    Attributes:
        n: images seen.
        top1: of them, with the label ranked first; under attack, before the attack as well.
        top5: of them, with the label among the first five (all of them with five classes or fewer).
        draws: passes over each image. More than one is for a randomized model: `top1` and `top5`
            are then sums over the draws, and under attack `top1` counts each draw by itself.
        by_draw: `top1` of each of several draws.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0
    draws: int = 1
    by_draw: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Top-1 in [0, 1]: right predictions of all."""
        return self.top1 / max(self.n * self.draws, 1)

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
        self,
        attack: Attack | None,
        model: Prepared,
        images: Images,
        labels: Labels,
        *,
        ids: Ids,
        clean: Logits,
    ) -> None:
        """Attack a batch, or leave it as it is, and take it in.

        All images are attacked: one that is wrong already, or fooled at an early step, changes
        top-1 no more and top-5 still. Where five classes are all that there are, such images are
        dropped on the way. With several draws each is a fresh pass over the same attacked images.
        """
        if self.draws > 1:
            attacked = images if attack is None else attack(model, images, labels, ids=ids)
            self._update_draws(model, attacked, labels)
        elif attack is None:
            self.update(clean, labels)
        elif clean.shape[1] <= RANKS:
            logits = attack.outcomes(model, images, labels, ids=ids, clean=clean)
            self.update(logits, labels, clean)
        else:
            with torch.no_grad():
                logits = model(attack(model, images, labels, ids=ids))
            self.update(logits, labels, clean)

    def _update_draws(self, model: Prepared, images: Images, labels: Labels) -> None:
        with torch.no_grad():
            hits = [_hits(model(images), labels) for _ in range(self.draws)]
        right = [int(of_draw[:, 0].sum()) for of_draw in hits]
        self.n += len(labels)
        self.top1 += sum(right)
        self.top5 += sum(int(of_draw.any(dim=1).sum()) for of_draw in hits)
        self.by_draw = _sums(self.by_draw, right)

    def merge(self, other: "Accuracy") -> None:
        """Take in what another accumulator counted."""
        self.n += other.n
        self.top1 += other.top1
        self.top5 += other.top5
        self.by_draw = _sums(self.by_draw, other.by_draw)

    def counts(self) -> list[int]:
        """All that it has counted, in numbers that add up over accumulators of as many draws."""
        by_draw = self.by_draw or [0] * self.draws
        return [self.n, self.top1, self.top5, *(by_draw if self.draws > 1 else ())]

    def restore(self, counts: Sequence[int]) -> None:
        """Take up what `counts` gave."""
        self.n, self.top1, self.top5, *self.by_draw = counts

    @property
    def spread(self) -> float | None:
        """Standard deviation, over the draws, of the accuracy in one; None of a single draw."""
        if self.draws == 1 or not self.n:
            return None
        return statistics.stdev(right / self.n for right in self.by_draw)

    def interval(self) -> tuple[float, float]:
        """95 % interval of top-1, over images and draws.

        Of one draw it is Wilson's for n images. Of D draws the mean p over images and draws has at
        most the variance p(1 − p)/n, as if each image were drawn once, and s²/D, where s is the
        spread over draws, which all images of a pass may share. With the quantile t of D − 1
        degrees of freedom in place of z for the second, Wilson's interval is taken for the number
        of images that has this variance, m = n / (1 + n (t/z)² s² / (D p(1 − p))).
        """
        p, n = self.share, float(self.n)
        if self.spread is None:
            return wilson(self.top1, self.n)
        if 0 < p < 1:
            wider = (student(self.draws - 1) / Z95 * self.spread) ** 2 / self.draws
            n /= 1 + n * wider / (p * (1 - p))
        return wilson(p * n, n)

    def compute(self) -> dict[str, float | int | None]:
        """Shares in [0, 1]: top1 with its 95 % interval, top5; n; draws and spread, if several."""
        low, high = self.interval()
        return {
            "top1": self.share,
            "top1_low": low,
            "top1_high": high,
            "top5": self.top5 / max(self.n * self.draws, 1),
            "n": self.n,
            "draws": self.draws if self.draws > 1 else None,
            "top1_spread": self.spread,
        }


def _sums(first: list[int], second: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(first, second, fillvalue=0)]


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
    shares = [accuracy.share for accuracy in accuracies]
    slack = max(0.005, 1 / max(accuracies[0].n, 1)) + 1e-9
    fell = all(after <= before + slack for before, after in pairwise(shares))
    values = ", ".join(f"{name}: {share:.1%}" for name, share in zip(settings, shares, strict=True))
    return Check(check, "does not rise", values, fell)


def must_have_gradients(check: str, blind: int, n: int) -> Check:
    """On at most 1 % of n images, or one, may the gradient that attacks climb be exactly 0.

    Behind rounded pixels, a step function or a saturated output no attack by gradients finds
    anything, and robustness looks perfect.
    """
    value = f"{blind} of {n} images without a gradient"
    return Check(check, "at most 1% of the images without one", value, blind <= max(1, n / 100))


def must_reach_chance(check: str, accuracy: Accuracy, classes: int) -> Check:
    """With every pixel free, accuracy must be at most chance, up to its interval."""
    low, _ = accuracy.interval()
    value = f"{accuracy.share:.1%} (n = {accuracy.n})"
    return Check(check, f"at most chance, {1 / classes:.1%}", value, low <= 1 / classes)

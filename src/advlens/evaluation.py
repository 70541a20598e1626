"""Accuracy with its interval, and sanity checks that reveal gradient masking."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.attacks import Attack
from advlens.errors import NumericError
from advlens.intervals import Z95, student, wilson
from advlens.prepared import Prepared

RANKS = 5
BINS = 15
"""Bins of confidence, as in Guo et al. 2017."""


@dataclass
class Accuracy:
    """Streamed counts of right predictions.

    Attributes:
        n: number of images seen.
        top1: images with the label ranked first; under attack, they must be right before it as
            well.
        top5: images with the label among the first five (all images with five classes or fewer).
        draws: passes over each image. More than one is for a randomized model: `top1` and `top5`
            are then sums over the draws, and under attack `top1` counts each draw by itself.
        by_draw: `top1` of each draw, if there are several.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0
    draws: int = 1
    by_draw: list[int] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.top1 / max(self.n * self.draws, 1)

    def update(self, logits: Logits, labels: Labels, clean: Logits | None = None) -> None:
        """Process a batch.

        Args:
            logits: logits of the natural or attacked images.
            labels: the images' classes.
            clean: logits of the natural images if `logits` are of attacked ones: an image that is
                wrong without the attack does not count as right under it. Top-5 uses `logits`
                alone.
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
        """Attack a batch, or leave it as it is, and process it.

        All images are attacked: an image that is wrong already, or fooled at an early step, no
        longer changes top-1 but still changes top-5. With five classes or fewer, such images are
        dropped on the way. Each of several draws is a fresh pass over the same attacked images.
        """
        if self.draws > 1:
            attacked = images if attack is None else attack(model, images, labels, ids=ids)
            with torch.no_grad():
                self.update_draws([model(attacked) for _ in range(self.draws)], labels)
        elif attack is None:
            self.update(clean, labels)
        elif clean.shape[1] <= RANKS:
            logits = attack.outcomes(model, images, labels, ids=ids, clean=clean)
            self.update(logits, labels, clean)
        else:
            with torch.no_grad():
                logits = model(attack(model, images, labels, ids=ids))
            self.update(logits, labels, clean)

    def update_draws(self, drawn: Sequence[Logits], labels: Labels) -> None:
        """Process the logits of a batch in each of several draws."""
        hits = [_hits(logits, labels) for logits in drawn]
        right = [int(of_draw[:, 0].sum()) for of_draw in hits]
        self.n += len(labels)
        self.top1 += sum(right)
        self.top5 += sum(int(of_draw.any(dim=1).sum()) for of_draw in hits)
        self.by_draw = _sums(self.by_draw, right)

    def merge(self, other: "Accuracy") -> None:
        """Add the counts of another accumulator."""
        self.n += other.n
        self.top1 += other.top1
        self.top5 += other.top5
        self.by_draw = _sums(self.by_draw, other.by_draw)

    def counts(self) -> list[int]:
        """All counts, as numbers that add up over accumulators with equal draws."""
        by_draw = self.by_draw or [0] * self.draws
        return [self.n, self.top1, self.top5, *(by_draw if self.draws > 1 else ())]

    def restore(self, counts: Sequence[int]) -> None:
        """Resume from the result of `counts`."""
        self.n, self.top1, self.top5, *self.by_draw = counts

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracy over the draws; None for a single draw."""
        if self.draws == 1 or not self.n:
            return None
        return statistics.stdev(right / self.n for right in self.by_draw)

    def interval(self) -> tuple[float, float]:
        """95 % interval of top-1, over images and draws.

        For one draw, it is Wilson's interval for n images. For D draws, the mean p over images and
        draws has at most the variance p(1 − p)/n, as if each image were drawn once, plus s²/D,
        where s is the spread over draws, which all images of a pass may share. With the quantile t
        of D − 1 degrees of freedom in place of z for the second term, the result is Wilson's
        interval for the number of images with this variance, m = n / (1 + n (t/z)² s² /
        (D p(1 − p))).
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


def averaged(drawn: Sequence[Logits]) -> Logits:
    """The logarithm of the mean softmax over draws, whose own softmax is that mean; float64."""
    logs = torch.stack([logits.double().log_softmax(dim=1) for logits in drawn])
    return logs.logsumexp(dim=0) - math.log(len(drawn))


def _sums(first: list[int], second: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(first, second, fillvalue=0)]


def ranked(logits: Logits) -> Int64[Tensor, "n k"]:
    """The five classes of each image's highest logits, best first; all of fewer than five.

    Raises:
        NumericError: a logit is NaN.
    """
    if logits.isnan().any():
        raise NumericError(
            "the model returns NaN on images in [0, 1], so its accuracy means nothing: check its "
            "weights"
        )
    return logits.topk(min(RANKS, logits.shape[1]), dim=1).indices


def _hits(logits: Logits, labels: Labels) -> Bool[Tensor, "n k"]:
    """Whether each image's first to fifth class is its label."""
    hits: Tensor = ranked(logits) == labels.unsqueeze(1)
    return hits


@dataclass(frozen=True)
class Reliability:
    """Is a model as often right as it is confident (Guo et al. 2017)?

    Images are sorted by the confidence of their prediction, its softmax probability, into bins of
    equal width: bin m of M holds confidences in ((m − 1)/M, m/M].

    Attributes:
        n: images in each bin.
        right: those that are predicted right.
        confidence: the mean confidence in each bin; 0 in an empty one.
    """

    n: Int64[Tensor, " bins"]
    right: Int64[Tensor, " bins"]
    confidence: Float64[Tensor, " bins"]

    @classmethod
    def of(
        cls, confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"], bins: int = BINS
    ) -> "Reliability":
        """Sort images into bins.

        Args:
            confidence: of each image's prediction, in [0, 1].
            right: whether it is right.
            bins: number of bins M.
        """
        values = confidence.double()
        number = torch.bucketize(values, torch.arange(1, bins, dtype=torch.float64) / bins)
        n = number.bincount(minlength=bins)
        total = number.bincount(weights=values, minlength=bins)
        return cls(n, number[right].bincount(minlength=bins), total / n.clamp_min(1))

    def error(self) -> float:
        """The expected calibration error Σ n_m/n |accuracy_m − confidence_m| (eq. 3), in [0, 1]."""
        gaps = (self.right - self.n * self.confidence).abs()
        return float(gaps.sum() / self.n.sum().clamp_min(1))


@dataclass(frozen=True)
class Check:
    """One sanity check: what a real robustness must satisfy, and what was measured."""

    check: str
    expected: str
    found: str
    passed: bool


def must_fall(
    check: str,
    settings: Sequence[str],
    accuracies: Sequence[Accuracy],
    *,
    chance: float | None = None,
) -> Check:
    """Accuracy must not rise from one setting to the next stronger one.

    A rise of half a point, or of one image, is within the noise of the attack.

    Args:
        check: what is checked, in words.
        settings: the settings in words, weakest first.
        accuracies: the accuracy under each.
        chance: if given, the last setting must take a tenth of the first accuracy, unless that may
            be no more than chance. A flat curve shows an attack that finds nothing.
    """
    shares = [accuracy.share for accuracy in accuracies]
    slack = max(0.005, 1 / max(accuracies[0].n, 1)) + 1e-9
    fell = all(after <= before + slack for before, after in pairwise(shares))
    values = ", ".join(f"{name}: {share:.1%}" for name, share in zip(settings, shares, strict=True))
    if chance is None:
        return Check(check, "does not rise", values, fell)
    flat = shares[-1] > 0.9 * shares[0] and accuracies[0].interval()[0] > chance
    return Check(check, "falls by a tenth or more in all", values, fell and not flat)


def must_have_gradients(check: str, blind: int, n: int) -> Check:
    """The gradient that attacks climb may be exactly 0 on at most 1 % of n images, or one.

    Behind rounded pixels, a step function or a saturated output, gradient attacks find nothing, and
    robustness looks perfect.
    """
    value = f"{blind} of {n} images without a gradient"
    return Check(check, "at most 1% of the images without one", value, blind <= max(1, n / 100))


def must_reach_chance(check: str, accuracy: Accuracy, classes: int) -> Check:
    """With every pixel free, accuracy must be at most chance, up to its interval."""
    low, _ = accuracy.interval()
    value = f"{accuracy.share:.1%} (n = {accuracy.n})"
    return Check(check, f"at most chance, {1 / classes:.1%}", value, low <= 1 / classes)

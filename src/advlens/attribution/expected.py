"""Expected gradients (Erion et al. 2021; B23 eq. 18), as in SHAP's gradient explainer."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.attribution.base import (
    Attribution,
    Target,
    check_finite,
    chunks,
    completeness,
    predicted,
    score,
    uncertainty,
    variance,
)
from advlens.attribution.path import Numbers, Places, walk
from advlens.checks import check_positive, check_seed, check_types
from advlens.errors import DataError, SettingsError
from advlens.prepared import number_images, place_images, prepare
from advlens.seeding import Stream, generators


@dataclass(frozen=True, kw_only=True)
class ExpectedGradients:
    """E[(x − x′) · ∂F(x′ + α(x − x′))/∂x] over background images x′ and α ~ U(0, 1).

    When stratified, α is drawn twice from each of n/2 equal parts of (0, 1). Background images are
    dealt to the samples from shuffled decks of all of them, in the order of α, so each serves
    equally often at low and high α. The result stays unbiased and its variance falls. An image
    costs n gradients and one forward pass; each background image costs one forward pass in all.

    Attributes:
        samples: n; even when stratified.
        target: F, the "logit" of the class (B23) or its softmax "probability".
        stratified: stratify α and the background; otherwise both are drawn independently, as in
            SHAP.
        batch_size: samples per pass, from one image or several; sets the memory.
        seed: the seed of α and of the background images.
    """

    samples: int = 200
    target: Target = "logit"
    stratified: bool = True
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        name = "ExpectedGradients"
        check_positive(self, "samples", "batch_size")
        check_seed(self)
        if self.samples < 2 or (self.stratified and self.samples % 2):
            raise SettingsError(
                f"{name}: samples must be at least 2, and even where stratified (two for each part "
                f"of the path), not {self.samples}"
            )

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        background: Images,
        ids: Ids | None = None,
    ) -> Attribution:
        """The attribution of each image, averaged over the background images.

        Args:
            model: pixels in [0, 1] → logits; pass its prepared copy to save the preparation.
            images: pixels in [0, 1], N×3×H×W.
            labels: the class to explain (default: the predicted one).
            background: pixels in [0, 1], M×3×H×W: images of the training set.
            ids: a stable number for each image that seeds its samples (default 0…N−1).

        Raises:
            DataError: images or background are not pixels in [0, 1], or differ in size.
            SettingsError: labels are not a class for each image.
            NumericError: a score or gradient is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            background = place_images(prepared, background).to(images)
            if len(background) == 0 or background.shape[1:] != images.shape[1:]:
                raise DataError(
                    f"background must be at least one image of {tuple(images.shape[1:])}, like the "
                    f"images, not {tuple(background.shape)}"
                )
            classes, logits = predicted(prepared, images, labels, self.batch_size)
            parts = chunks(len(background), self.batch_size)
            behind = torch.cat([prepared(background[part]) for part in parts])
            heights = score(logits.double(), classes, self.target)
            floors = _scores(behind.double(), classes, self.target)
            check_finite("ExpectedGradients", heights, floors)

            chosen, alpha = self._drawn(number_images(images, ids), len(background))

            def place(row: Numbers, sample: Numbers) -> Places:
                starts = background[chosen[row, sample].to(background.device)]
                return starts, alpha[row, sample], torch.full(row.shape, 1 / self.samples)

            sums = walk(
                prepared,
                images,
                classes,
                self.target,
                samples=self.samples,
                place=place,
                batch_size=self.batch_size,
            )
            check_finite("ExpectedGradients", sums.scores, sums.each)
            known = uncertainty(logits, classes, self.target)
            gap = completeness(sums.each.sum(dim=1), heights - floors.mean(dim=1), known)
            error = self._error(self.samples * sums.each, floors, chosen.to(floors.device))
            return Attribution(
                sums.values, classes, gap, error, torch.full_like(classes, self.samples)
            )

    def _drawn(
        self, ids: Ids, count: int
    ) -> tuple[Int64[Tensor, "n samples"], Float[Tensor, "n samples"]]:
        """The background image and the α of each sample of each image."""
        n = self.samples
        chosen, alpha = np.empty((len(ids), n), np.int64), np.empty((len(ids), n))
        for row, generator in enumerate(generators(self.seed, ids, Stream.NOISE)):
            alpha[row] = generator.random(n)
            if self.stratified:
                alpha[row] = (np.arange(n) // 2 + alpha[row]) * 2 / n
                decks = [generator.permutation(count) for _ in range(-(-n // count))]
                chosen[row] = np.concatenate(decks)[:n]
            else:
                chosen[row] = generator.integers(count, size=n)
        return torch.from_numpy(chosen), torch.from_numpy(alpha)

    def _error(
        self,
        terms: Float[Tensor, "n samples"],
        floors: Float[Tensor, "n m"],
        chosen: Int64[Tensor, "n samples"],
    ) -> PerImage:
        """Standard error of the sum of an attribution, which is the mean of its samples' terms.

        When stratified, a term's mean over α is known, F(x) − F(x′), and is subtracted. What
        remains varies only by chance within a part of (0, 1): the mean has the variance
        Σ (r₁ − r₂)²/n² (Cochran 1977, section 5.3). Whole decks add nothing. The last, partial
        deck, q of the M background images, adds the variance of q draws without replacement:
        q (1 − q/M) S²/n².
        """
        n, count = self.samples, floors.shape[1]
        if not self.stratified:
            return (variance(terms) / n).sqrt()
        left = terms + floors.gather(1, chosen)
        squares: PerImage = (left[:, ::2] - left[:, 1::2]).square().sum(dim=1)
        rest = n % count
        if rest:
            squares += rest * (1 - rest / count) * variance(floors)
        return squares.sqrt() / n


def _scores(logits: Logits, classes: Labels, target: Target) -> Float[Tensor, "n m"]:
    """F of each background image (columns) for the class of each image (rows)."""
    scores = logits.new_empty(len(classes), len(logits))
    for one in torch.unique(classes):
        scores[classes == one] = score(logits, one.expand(len(logits)), target)
    return scores

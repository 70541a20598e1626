"""Integrated Gradients (Sundararajan, Taly and Yan 2017; B23 section 2.3.1)."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, PerImage
from advlens.attribution.base import (
    Attribution,
    Target,
    check_finite,
    chunks,
    completeness,
    score,
    slope,
    uncertainty,
    variance,
    within,
)
from advlens.attribution.baselines import Baseline, Starts, blurred, fixed, given, noise
from advlens.attribution.path import Numbers, Places, walk
from advlens.checks import check_positive, check_seed, check_types
from advlens.errors import SettingsError
from advlens.prepared import Prepared, check_labels, number_images, place_images, prepare


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    """The gradient averaged along the path from a baseline x′ to the image x, times x − x′.

    With g_i the gradient of F at x′ + (i/m)(x − x′), by the trapezoid rule:
    (x − x′) · 1/(2m) Σ_{i=1…m} (g_i + g_{i−1}). Baselines are pixels; the model normalizes them.
    All baselines of an image share the gradient at the image itself, so an image costs
    1 + baselines · m gradients.

    Attributes:
        steps: m, the number of intervals.
        baseline: "noise" (uniform pixels, drawn for each image and averaged over `baselines` of
            them, as in the code of B23), "black", or "blurred" (the image itself, see `blurred`).
        baselines: number of noise baselines.
        target: F, the softmax "probability" of the class (B23) or its "logit".
        formula: "paper" divides by m + 1 instead of m, as B23 eq. 11 does, which gives m/(m + 1) of
            the result.
        tolerance: the completeness gap to reach: m is doubled for the images that exceed it, and
            the old points are kept (default: m stays fixed).
        max_steps: the limit for doubling m; the result reports a gap that remains.
        batch_size: points per pass, from one image or several; sets the memory.
        seed: the seed of the noise.
    """

    steps: int = 50
    baseline: Baseline = "noise"
    baselines: int = 10
    target: Target = "probability"
    formula: Literal["trapezoid", "paper"] = "trapezoid"
    tolerance: float | None = None
    max_steps: int = 800
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "steps", "baselines", "tolerance", "max_steps", "batch_size")
        check_seed(self)
        if self.tolerance is not None and self.max_steps < self.steps:
            raise SettingsError(
                f"IntegratedGradients: max_steps {self.max_steps} is below steps {self.steps}"
            )

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
        baselines: Tensor | None = None,
    ) -> Attribution:
        """The attribution of each image.

        Args:
            model: pixels in [0, 1] → logits; pass its prepared copy to save the preparation.
            images: pixels in [0, 1], N×3×H×W.
            labels: the class to explain (default: the predicted one).
            ids: a stable number for each image that seeds its noise (default 0…N−1).
            baselines: pixels that replace those set, one 3×H×W for all images or one for each.

        Returns:
            The attribution. Its error is that of a mean over random baselines: NaN for a single
            draw, 0 without random baselines.

        Raises:
            DataError: images or baselines are not pixels in [0, 1].
            SettingsError: labels are not a class for each image.
            NumericError: a score or gradient is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            random = baselines is None and self.baseline == "noise"
            starts = self._starts(images, number_images(images, ids), baselines)
            sums = self._ends(
                prepared,
                images,
                check_labels(labels, images),
                starts,
                self.baselines if random else 1,
            )
            steps = self._between(prepared, images, starts, sums)
            totals, gap = self._results(sums, steps)
            draws = totals.shape[1]
            error = (variance(totals) / draws).sqrt() if random else torch.zeros_like(gap)
            scale = (self._scale(steps) / draws).to(images).view(-1, 1, 1, 1)
            return Attribution(sums.values * scale, sums.classes, gap, error, 1 + draws * steps)

    def _starts(self, images: Images, ids: Ids, baselines: Tensor | None) -> Starts:
        if baselines is not None:
            return given(baselines, images)
        if self.baseline == "noise":
            return noise(self.seed, images, ids)
        black = images.new_zeros(()).expand_as(images)
        return fixed(blurred(images) if self.baseline == "blurred" else black)

    def _scale(self, steps: Tensor) -> Tensor:
        """The factor of a sum over points, in float64."""
        return 1 / (steps.double() + (self.formula == "paper"))

    def _results(self, sums: "_Sums", steps: Tensor) -> tuple[Float[Tensor, "n draws"], PerImage]:
        """The sum of each baseline's attribution, and the completeness gap of their mean."""
        totals = sums.each * self._scale(steps)[:, None]
        difference = sums.scores - sums.starts.mean(dim=1)
        return totals, completeness(totals.mean(dim=1), difference, sums.uncertainty)

    def _ends(
        self, model: Prepared, images: Images, labels: Labels | None, starts: Starts, draws: int
    ) -> "_Sums":
        """Add the last point of every path, the image itself, with half weight."""
        count = len(images)
        sums = _Sums(
            classes=torch.zeros(count, dtype=torch.int64, device=images.device),
            scores=images.new_zeros(count, dtype=torch.float64),
            uncertainty=images.new_zeros(count, dtype=torch.float64),
            values=torch.zeros_like(images),
            each=images.new_zeros(count, draws, dtype=torch.float64),
            starts=images.new_zeros(count, draws, dtype=torch.float64),
        )
        for part in chunks(count, self.batch_size):
            choose = partial(within, None if labels is None else labels[part])
            classes, logits, gradient = slope(model, images[part], choose, self.target)
            sums.classes[part] = classes
            sums.scores[part] = score(logits.double(), classes, self.target)
            sums.uncertainty[part] = uncertainty(logits, classes, self.target)
            for draw in range(draws):
                change = images[part] - starts(torch.arange(part.start, part.stop), draw)
                share = change.mul_(gradient).mul_(0.5)
                sums.values[part] += share
                sums.each[part, draw] = share.sum(dim=(1, 2, 3), dtype=torch.float64)
        check_finite("IntegratedGradients", sums.scores, sums.each)
        return sums

    def _between(
        self, model: Prepared, images: Images, starts: Starts, sums: "_Sums"
    ) -> Int64[Tensor, " n"]:
        """Add the other points, and more for images with too large a gap; return each image's m."""
        m, left = self.steps, torch.arange(len(images))  # the images that still get points
        steps = torch.full_like(sums.classes, m)
        positions, weights = torch.arange(m) / m, torch.ones(m)
        weights[0] = 0.5
        while len(left):
            draws = sums.each.shape[1]
            walked = walk(
                model,
                images[left],
                sums.classes[left],
                self.target,
                samples=draws * len(positions),
                batch_size=self.batch_size,
                place=partial(_place, starts, left, draws, positions, weights),
            )
            check_finite("IntegratedGradients", walked.scores, walked.each)
            sums.values[left] += walked.values
            sums.each[left] += walked.each.view(len(left), draws, -1).sum(dim=2)
            if m == self.steps:
                sums.starts[:] = walked.scores.view(len(left), draws, -1)[:, :, 0]
            m *= 2
            if self.tolerance is None or m > self.max_steps:
                break
            _, gap = self._results(sums, steps)
            left = (gap > self.tolerance).nonzero().squeeze(1).cpu()
            steps[left] = m
            positions, weights = torch.arange(1, m, 2) / m, torch.ones(m // 2)
        return steps


@dataclass(frozen=True)
class _Sums:
    """The running results of each image.

    Attributes:
        classes, scores, uncertainty: the class explained, F of the image, and the uncertainty of F.
        values: Σ (x − x′) g over baselines and points; the end points count half.
        each: the same for each baseline, summed over the input values.
        starts: F of each baseline.
    """

    classes: Labels
    scores: PerImage
    uncertainty: PerImage
    values: Images
    each: Float[Tensor, "n draws"]
    starts: Float[Tensor, "n draws"]


def _place(
    starts: Starts,
    images: Numbers,
    draws: int,
    positions: Tensor,
    weights: Tensor,
    row: Numbers,
    sample: Numbers,
) -> Places:
    """Baselines, α and weights of an image's samples, path by path."""
    path, point = row * draws + sample // len(positions), sample % len(positions)
    paths, which = torch.unique_consecutive(path, return_inverse=True)
    images_at = torch.cat([starts(images[one // draws][None], int(one % draws)) for one in paths])
    return images_at[which.to(images_at.device)], positions[point], weights[point]

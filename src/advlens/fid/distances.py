"""Distances between feature distributions (FID, KID) and between images' features.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule …, NeurIPS 2017; Bińkowski et al.,
Demystifying MMD GANs, ICLR 2018. Every distance carries its features and its number of images,
because it means nothing without them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from advlens.arrays import Labels, PerImage
from advlens.errors import DataError, NumericError
from advlens.fid.representations import Features, Source
from advlens.intervals import Z95


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and covariance of the features of n images.

    Attributes:
        source: the source of the features.
        n: number of images.
        mean: the mean of their features.
        covariance: their covariance, with divisor n − 1.
    """

    source: Source
    n: int
    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]


class FeatureStatistics:
    """Mean and covariance of features, streamed; memory is d×d, whatever the number of images.

    Merged shards equal one pass over the whole up to float64 rounding, not bit for bit (Chan et al.
    1983: the scatter matrices add up, plus that of the two means).

    Args:
        source: the source of the features.
    """

    def __init__(self, source: Source):
        self.source = source
        self.n = 0
        self.mean = torch.zeros(source.dimension, dtype=torch.float64)
        self.scatter = torch.zeros(source.dimension, source.dimension, dtype=torch.float64)

    def update(self, features: Features) -> None:
        """Process a batch.

        Raises:
            NumericError: a feature is not finite.
        """
        if not torch.isfinite(features).all():
            raise NumericError(f"a feature of {self.source} is NaN or infinite; check the images")
        self.mean, self.scatter = (part.to(features.device) for part in (self.mean, self.scatter))
        if len(features):
            values = features.double()
            mean = values.mean(dim=0)
            values = values - mean
            self.scatter.addmm_(values.T, values)
            self._move(len(values), mean)

    def merge(self, other: "FeatureStatistics") -> None:
        """Merge what another accumulator saw.

        Raises:
            DataError: it holds features of another source.
        """
        _same(self.source, other.source)
        if other.n:
            self.scatter += other.scatter.to(self.scatter.device)
            self._move(other.n, other.mean.to(self.mean.device))

    def compute(self) -> Moments:
        """The moments.

        Raises:
            DataError: it has fewer than two images.
        """
        if self.n < 2:
            raise DataError(f"{self.n} images have no covariance; give at least 2")
        covariance = self.scatter / (self.n - 1)
        return Moments(source=self.source, n=self.n, mean=self.mean, covariance=covariance)

    def _move(self, n: int, mean: Tensor) -> None:
        """Add n more images with this mean."""
        shift, total = mean - self.mean, self.n + n
        self.scatter.addr_(shift, shift, alpha=self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total


@dataclass(frozen=True, kw_only=True)
class Distance:
    """A distance between two sets of images, with everything that must be reported beside it.

    Attributes:
        measure: the name of the measure, "FID" or "KID".
        value: the distance; an unbiased KID can be below 0.
        error: its standard error, if it has one.
        n: number of images in the first and in the second set.
        source: the source of the features.
    """

    measure: Literal["FID", "KID"]
    value: float
    error: float | None
    n: tuple[int, int]
    source: Source

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, if the distance has a standard error."""
        if self.error is None:
            return None
        return self.value - Z95 * self.error, self.value + Z95 * self.error

    @property
    def warning(self) -> str | None:
        """Why the value is unreliable, if it is."""
        if self.measure == "KID" or min(self.n) > self.source.dimension:
            return None
        return (
            f"{min(self.n)} images are too few for the covariance of {self.source.dimension} "
            "features: this FID is far above that of many images, and compares only with FIDs of "
            "as many images"
        )

    def __str__(self) -> str:
        spread = "" if self.error is None else f" ± {self.error:.2g}"
        text = f"{self.measure} {self.value:.4g}{spread}, n = {self.n[0]} and {self.n[1]}"
        return f"{text} ({self.source})" + (f"; {self.warning}" if self.warning else "")


def fid(first: Moments, second: Moments) -> Distance:
    """Squared Fréchet distance between the Gaussians with the moments of two sets (B23 §2.5).

    |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½, in float64. B23 prints the last sign as plus.

    Raises:
        DataError: the features have two sources.
        NumericError: a moment is not finite.
    """
    _same(first.source, second.source)
    return Distance(
        measure="FID",
        value=frechet_distance(first, second),
        error=None,
        n=(first.n, second.n),
        source=first.source,
    )


def frechet_distance(first: Moments, second: Moments) -> float:
    """The value of `fid`."""
    for part in (first.mean, second.mean, first.covariance, second.covariance):
        if not torch.isfinite(part).all():
            raise NumericError("a mean or covariance of features is NaN or infinite")
    apart = (first.mean - second.mean).square().sum()
    spread = first.covariance.trace() + second.covariance.trace()
    # rounding may leave −1e-13 for equal sets
    return max(0.0, (apart + spread).item() - 2 * _trace_of_root(first, second))


def _trace_of_root(first: Moments, second: Moments) -> float:
    """tr (Σ₁Σ₂)^½.

    With Σ₁ = LLᵀ, it is the sum of the roots of the eigenvalues of LᵀΣ₂L. If an eigenvalue is so
    small that it is only rounding, so is its root, 1e-8 times too large; in that case it is the sum
    of the singular values of R₂ᵀR₁, with Σ = RRᵀ of full column rank.
    """
    if min(first.n, second.n) > len(first.mean):
        lower, failed = torch.linalg.cholesky_ex(first.covariance)
        if not failed:
            values = torch.linalg.eigvalsh(lower.T @ second.covariance @ lower)
            if values[0] > _rounding(values):
                return float(values.sqrt().sum())
    roots = _root(second.covariance).T @ _root(first.covariance)
    return float(torch.linalg.svdvals(roots).sum())


def _root(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d rank"]:
    """R with RRᵀ = Σ."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > _rounding(values)
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root


def _rounding(eigenvalues: Tensor) -> float:
    """The smallest eigenvalue that is more than rounding."""
    eps = torch.finfo(eigenvalues.dtype).eps
    return len(eigenvalues) * eps * max(eigenvalues[-1].item(), 0.0)


def kid(
    first: Features,
    second: Features,
    source: Source,
    *,
    classes: Labels | None = None,
    block: int = 1024,
) -> Distance:
    """Unbiased MMD² with the kernel k(x, y) = (xᵀy / d + 1)³, over all pairs of images.

    Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ) / n(n−1) − 2 Σ k(xᵢ, yⱼ) / mn. Bińkowski et al.
    average it over random subsets, which has the same mean and a larger spread. The standard error
    is the jackknife's over the images of both sets, which is not too small on average (Efron and
    Stein 1981).

    A set that is made with a fixed number of images m_c of each class has fewer pairs of one class
    than independent images: their sum counts m_c / (m_c − 1) times, with the divisor m² for all
    pairs, and the jackknife leaves images out within classes.

    Args:
        first, second: the features of the images of two sets.
        source: the source of the features.
        classes: the class of each image of the first set, if their numbers are fixed.
        block: images per step; memory follows its square.

    Raises:
        DataError: a set, or a class, has fewer than 3 images.
        NumericError: a feature is not finite.
    """
    strata = [torch.arange(len(first))]
    if classes is not None:
        strata = [(classes == each).nonzero()[:, 0] for each in sorted({*classes.tolist()})]
    least = min(len(second), *map(len, strata))
    if least < 3:
        what = "images" if classes is None else "images of a set or class"
        raise DataError(f"{least} {what} are too few for a KID with its error; give at least 3")
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise NumericError(f"a feature of {source} is NaN or infinite; check the images")
    across = _kernel_sums(first, second, block)
    between = across[0].sum() / (len(first) * len(second))
    parts = [
        _within(first, across[0] / len(second), strata, block),
        _within(second, across[1] / len(first), [torch.arange(len(second))], block),
    ]
    return Distance(
        measure="KID",
        value=(parts[0][0] + parts[1][0] - 2 * between).item(),
        error=math.sqrt(parts[0][1] + parts[1][1]),
        n=(len(first), len(second)),
        source=source,
    )


def _within(
    features: Features, across: Tensor, strata: Sequence[Tensor], block: int
) -> tuple[Tensor, float]:
    """The mean kernel of a set's pairs, and the set's part of the jackknife variance of a KID.

    Args:
        features: the features of the set's images.
        across: the mean kernel of each image and the images of the other set.
        strata: the images of each class, or all of them.
        block: images per step.
    """
    m, own = len(features), _self_kernel(features)
    whole = _kernel_sums(features, features, block)[0] - own
    mean, variance = whole.new_zeros(()), 0.0
    for stratum in strata:
        count, part, same = len(stratum), features[stratum], whole[stratum]
        if count < m:
            same = _kernel_sums(part, part, block)[0] - own[stratum]
        other = whole[stratum] - same
        mean = mean + (other.sum() + same.sum() * count / (count - 1)) / m**2
        # the value without each image, except for terms that are the same for all
        left = (same.sum() - 2 * same) * count**2 / ((count - 1) * (count - 2))
        left += 2 * (other.sum() - other) * count / (count - 1)
        left = left / m**2 - 2 * (across[stratum].sum() - across[stratum]) * count / (count - 1) / m
        variance += (count - 1) / count * (left - left.mean()).square().sum().item()
    return mean, variance


def _kernel(first: Features, second: Features) -> Float64[Tensor, "m n"]:
    product = first.double() @ second.double().T
    return product.div_(first.shape[1]).add_(1).pow_(3)


def _self_kernel(features: Features) -> Float64[Tensor, " n"]:
    product = features.double().square().sum(dim=1)
    return product.div_(features.shape[1]).add_(1).pow_(3)


def _kernel_sums(
    first: Features, second: Features, block: int
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " n"]]:
    """Sums of the kernel over the other set's images, for each image of each set."""
    rows = torch.zeros(len(first), dtype=torch.float64, device=first.device)
    columns = torch.zeros(len(second), dtype=torch.float64, device=first.device)
    for i in range(0, len(first), block):
        for j in range(0, len(second), block):
            kernel = _kernel(first[i : i + block], second[j : j + block])
            rows[i : i + block] += kernel.sum(dim=1)
            columns[j : j + block] += kernel.sum(dim=0)
    return rows, columns


def feature_distances(first: Features, second: Features) -> PerImage:
    """L2 distance of each image's features from its partner's, such as its inversion's (B23 §2.4).

    It is computed in float64, in the unit of the features.
    """
    return (first.double() - second.double()).square().sum(dim=1).sqrt()


def _same(first: Source, second: Source) -> None:
    if first != second:
        raise DataError(
            f"features of different sources cannot be compared: {first}; {second}; use one network"
        )

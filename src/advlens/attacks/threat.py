"""Balls around an image: what an attack may change, and the steepest step within it.

Radii are in pixel units of [0, 1]; a radius may be one number, one per image (shape N), or drawn
for each image.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, PerImage
from advlens.checks import check_types
from advlens.errors import SettingsError
from advlens.seeding import Stream, normal, uniform


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A radius drawn uniformly for each image, anew for each seed (D19, D22: 4 to 16 of 255).

    Attributes:
        low: the smallest radius in pixel units, ≥ 0.
        high: the largest.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_types(self)
        if not (0 <= self.low <= self.high < math.inf):
            raise SettingsError(
                "a radius is drawn between two finite numbers 0 ≤ low ≤ high in pixel units, "
                f"not {self.low} and {self.high}"
            )

    def draw(self, seed: int, ids: Ids) -> PerImage:
        """One radius per image, on the CPU; other images in the batch do not change it."""
        share = uniform(seed, ids, (), Stream.EPSILON).double()
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True, kw_only=True)
class Threat:
    """The ball of radius `epsilon` around an image, cut with the pixel range [0, 1]."""

    epsilon: float | PerImage | Uniform
    norm: ClassVar[str]

    def __post_init__(self) -> None:
        check_types(self)
        if isinstance(self.epsilon, Uniform):
            return
        if isinstance(self.epsilon, Tensor):
            fits = self.epsilon.ndim == 1 and bool(
                (self.epsilon.isfinite() & (self.epsilon >= 0)).all()
            )
        else:
            fits = math.isfinite(self.epsilon) and self.epsilon >= 0
        if not fits:
            raise SettingsError(
                "epsilon must be a finite number ≥ 0 in pixel units, or one per image, "
                f"not {self.epsilon}"
            )

    @property
    def radii(self) -> tuple[float, float]:
        """The smallest and the largest radius that an image may have."""
        if isinstance(self.epsilon, Uniform):
            return self.epsilon.low, self.epsilon.high
        if isinstance(self.epsilon, Tensor):
            return self.epsilon.min().item(), self.epsilon.max().item()
        return float(self.epsilon), float(self.epsilon)

    @property
    def spread(self) -> str:
        """How radii differ between images, as in "uniform from 0.01 to 0.06"; else empty."""
        low, high = self.radii
        if low == high:
            return ""
        drawn = "uniform from " if isinstance(self.epsilon, Uniform) else ""
        return f"{drawn}{low:g} to {high:g}"

    def check_count(self, images: int) -> None:
        """Refuse radii that are not one for each of so many images."""
        if isinstance(self.epsilon, Tensor) and len(self.epsilon) != images:
            raise SettingsError(
                f"epsilon has {len(self.epsilon)} values for {images} images; give one each"
            )

    def at(self, positions: Tensor) -> Self:
        """The balls of the images at these positions alone."""
        if not isinstance(self.epsilon, Tensor):
            return self
        part = copy.copy(self)  # not made anew: to check its radii again would make a GPU wait
        object.__setattr__(part, "epsilon", self.epsilon.to(positions.device)[positions])
        return part

    def drawn(self, seed: int, ids: Ids) -> Self:
        """The balls of these images, with radii where they have yet to be drawn."""
        if isinstance(self.epsilon, Uniform):
            return replace(self, epsilon=self.epsilon.draw(seed, ids))
        return self

    def radius(self, like: Images) -> float | Tensor:
        """Epsilon, shaped to multiply a batch of images."""
        if isinstance(self.epsilon, Uniform):
            raise SettingsError("epsilon has yet to be drawn for these images; use threat.drawn")
        if isinstance(self.epsilon, Tensor):
            self.check_count(len(like))
            return self.epsilon.to(like).view(-1, 1, 1, 1)
        return self.epsilon

    def step(
        self, current: Images, gradient: Images, images: Images, length: float | Tensor
    ) -> Images:
        """One steepest step of this length, from points of the images' balls to such points."""
        return self.project(current + length * self.steepest(gradient), images)

    def sample(self, images: Images, *, seed: int, ids: Ids) -> Images:
        """A uniform point of each image's ball, clamped to [0, 1]."""
        raise NotImplementedError

    def project(self, candidates: Images, images: Images) -> Images:
        """The candidates brought back into each image's ball and into [0, 1]."""
        raise NotImplementedError

    def steepest(self, gradient: Images) -> Images:
        """The direction of unit length in this norm that raises the objective most; 0 for 0."""
        raise NotImplementedError

    def length(self, difference: Images) -> PerImage:
        """Length of each difference in this norm."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Linf(Threat):
    """Every pixel value may change by at most epsilon."""

    norm: ClassVar[str] = "Linf"

    def sample(self, images: Images, *, seed: int, ids: Ids) -> Images:
        drawn = uniform(seed, ids, images.shape[1:], Stream.START, images.device)
        noise = drawn.to(images) * 2 - 1
        return (images + self.radius(images) * noise).clamp(0, 1)

    def project(self, candidates: Images, images: Images) -> Images:
        radius = self.radius(images)
        return torch.clamp(candidates, images - radius, images + radius).clamp_(0, 1)

    def steepest(self, gradient: Images) -> Images:
        return gradient.sign()

    def length(self, difference: Images) -> PerImage:
        return difference.abs().amax(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class L2(Threat):
    """The Euclidean length of the change is at most epsilon."""

    norm: ClassVar[str] = "L2"

    def sample(self, images: Images, *, seed: int, ids: Ids) -> Images:
        direction = normal(seed, ids, images.shape[1:], Stream.START).to(images)
        share = uniform(seed, ids, (1, 1, 1), Stream.RADIUS, images.device).to(images)
        dimensions = images[0].numel() if len(images) else 1
        # a uniform point of a d-ball lies at radius u^(1/d)
        distance = self.radius(images) * share ** (1 / dimensions)
        return (images + distance * self.steepest(direction)).clamp(0, 1)

    def project(self, candidates: Images, images: Images) -> Images:
        difference = candidates - images
        factor = (self.radius(images) / _euclidean(difference).clamp_min(1e-30)).clamp(max=1)
        return torch.addcmul(images, difference, factor).clamp_(0, 1)

    def steepest(self, gradient: Images) -> Images:
        # Scaled by the largest element first: norms of 1e-30 are real on confident models, and
        # their squares would vanish in float32; an additive guard would shorten their steps.
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1)
        direction: Images = scaled / _euclidean(scaled).clamp_min(1)
        return direction

    def length(self, difference: Images) -> PerImage:
        return _euclidean(difference).flatten()


def _euclidean(images: Images) -> Tensor:
    """Length of each image as one vector, shape N×1×1×1."""
    length: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return length

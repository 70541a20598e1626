"""Quality measures of attributions: a number per image, to compare with RandomAttribution's.

None of these measures knows what the model really does. A measure is NaN where there is nothing to
measure: a map that is 0 everywhere or, for agreement, constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, PerImage
from advlens.attribution.base import (
    Attribution,
    Maps,
    check_finite,
    chunks,
    score,
)
from advlens.attribution.baselines import blurred
from advlens.checks import check_positive, check_seed, check_types
from advlens.errors import DataError, SettingsError
from advlens.prepared import check_classes, check_labels, number_images, place_images, prepare
from advlens.seeding import Stream, derived, uniform


def sparseness(maps: Maps) -> PerImage:
    """Gini index of the sizes |a| of a map's P values; higher: concentrated on fewer pixels.

    Σ_k (2k − P − 1) a_k / (P Σ a_k), a_k rising (Hurley and Rickard 2009; Chalasani et al. 2020).
    The index is 0 if all are equal, 1 − 1/P for a single pixel, and .41 for RandomAttribution.
    """
    sizes = maps.flatten(1).abs().double().sort(dim=1).values
    count = sizes.shape[1]
    ranks = torch.arange(1, count + 1, device=maps.device)
    return (sizes * (2 * ranks - count - 1)).sum(dim=1) / (count * sizes.sum(dim=1))


def total_variation(maps: Maps) -> PerImage:
    """Σ |a − b| over neighbors, beside and below, for a map with Σ |a| = 1; lower: smoother.

    It is 0 for an even map, near 4 if every pixel stands alone, and 2.8 for RandomAttribution.
    """
    maps = maps.double()
    beside, below = (maps.diff(dim=dim).abs().sum(dim=(1, 2)) for dim in (2, 1))
    return (beside + below) / maps.abs().sum(dim=(1, 2))


def rank_correlation(maps: Maps, others: Maps) -> PerImage:
    """Spearman's correlation of two maps' values, ties at their mean rank; 1: same order.

    It is about 0 for a random map.
    """
    first, second = (_ranks(part.flatten(1)) for part in (maps, others))
    lengths = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    correlation: PerImage = (first * second).sum(dim=1) / lengths
    return correlation


def overlap(maps: Maps, others: Maps, *, share: float = 0.1) -> PerImage:
    """The share of a map's top pixels that are also among the other's; 1: all.

    The top pixels are `share` of all pixels, rounded, at least one; a random map scores that share.

    Raises:
        SettingsError: a share is not between 0 and 1.
    """
    if not 0 < share <= 1:
        raise SettingsError(f"overlap: share must be above 0 and at most 1, not {share}")
    top = max(1, round(share * maps[0].numel())) if len(maps) else 1
    first, second = (_order(part) < top for part in (maps, others))
    even, even_too = (part.amax(dim=(1, 2)) == part.amin(dim=(1, 2)) for part in (maps, others))
    return torch.where(even | even_too, torch.nan, (first & second).sum(dim=1) / top)


@dataclass(frozen=True)
class Curves:
    """The class's probability as pixels are inserted or deleted, in the order of the attribution.

    Attributes:
        insertion: from none of the image's pixels (all filled) to all; the first column has none.
        deletion: from all pixels to none; the first column is the image.
    """

    insertion: Float[Tensor, "n shares"]
    deletion: Float[Tensor, "n shares"]

    @property
    def insertion_area(self) -> PerImage:
        """The area in [0, 1]; higher: the first pixels suffice for the class."""
        return _area(self.insertion)

    @property
    def deletion_area(self) -> PerImage:
        """The area in [0, 1]; lower: without the first pixels the class is gone."""
        return _area(self.deletion)


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """Insertion and deletion (Petsiuk et al. 2018): do the pixels that should matter, matter?

    An image costs 2·steps forward passes.

    Attributes:
        steps: equal shares of the pixels, in the order of falling map values.
        fill: what replaces a hidden pixel: the image's "mean" color, or the pixel of the "blurred"
            image.
        batch_size: images per pass; sets the memory.
    """

    steps: int = 32
    fill: Literal["mean", "blurred"] = "mean"
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "steps", "batch_size")

    def __call__(self, model: nn.Module, images: Images, maps: Maps, targets: Labels) -> Curves:
        """The curves of each image's map, for the class that it explains.

        Raises:
            DataError: images are not pixels in [0, 1], or maps have another size.
            SettingsError: targets are not a class for each image.
            NumericError: a probability is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            targets, maps = check_labels(targets, images), maps.to(images.device)
            if maps.shape != (len(images), *images.shape[2:]):
                raise DataError(
                    f"maps must be one {tuple(images.shape[2:])} for each of {len(images)} images, "
                    f"not {tuple(maps.shape)}"
                )
            mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
            filled = blurred(images) if self.fill == "blurred" else mean
            order, samples = _order(maps).view(maps.shape), 2 * self.steps
            scores = [images.new_empty(0, dtype=torch.float64)]
            for part in chunks(len(images) * samples, self.batch_size):
                number = torch.arange(part.start, part.stop, device=images.device)
                row, sample = number // samples, number % samples
                # columns 0…steps delete, the others insert; both share the whole image and the
                # empty one
                first = (sample - (sample > self.steps) * self.steps) * maps[0].numel() / self.steps
                early = order[row] < first.round().view(-1, 1, 1)
                shown = (early == (sample > self.steps).view(-1, 1, 1)).unsqueeze(1)
                logits = prepared(torch.where(shown, images[row], filled[row]))
                check_classes(targets, logits.shape[1])
                scores.append(score(logits.double(), targets[row], "probability"))
            curves = torch.cat(scores).view(len(images), samples)
            check_finite("Faithfulness", curves)
            deletion, insertion = curves[:, : self.steps + 1], curves[:, self.steps + 1 :]
            return Curves(
                torch.cat([deletion[:, -1:], insertion, deletion[:, :1]], dim=1), deletion
            )


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How much an attribution changes when the image hardly does (Yeh et al. 2019).

    Attributes:
        radius: radius of the noise, uniform in ± radius for each value, in pixel units.
        draws: number of noise draws; each takes an attribution.
        seed: the seed of the noise.
    """

    radius: float = 0.02
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "radius", "draws")
        check_seed(self)

    def __call__(
        self,
        method: Callable[..., Attribution],
        model: nn.Module,
        images: Images,
        attribution: Attribution,
        *,
        ids: Ids | None = None,
        **given: Tensor,
    ) -> Float[Tensor, "n draws"]:
        """‖a(x + δ) − a(x)‖₂ / ‖a(x)‖₂ for each image and draw of δ; lower: more stable.

        The class explained stays fixed, and so does the method's own randomness. The mean over
        draws is Yeh's average sensitivity, relative; the maximum is the maximum sensitivity. A
        method that ignores the image has 0; RandomAttribution has 1.4.

        Args:
            method: the method that made the attribution.
            model, images, ids: the arguments of its call.
            attribution: the attribution of these images.
            given: its other arguments, such as a background.
        """
        with torch.no_grad():
            images, numbers = place_images(model, images), number_images(images, ids)
            before, changes = attribution.values.flatten(1), []
            for draw in range(self.draws):
                seed, shape = derived(self.seed, draw), tuple(images.shape[1:])
                noise = uniform(seed, numbers, shape, Stream.NOISE, images.device)
                moved = (images + self.radius * (2 * noise.to(images) - 1)).clamp(0, 1)
                again = method(model, moved, attribution.targets, ids=ids, **given)
                change = torch.linalg.vector_norm(again.values.flatten(1) - before, dim=1)
                changes.append(change / torch.linalg.vector_norm(before, dim=1))
            return torch.stack(changes, dim=1)


def _order(maps: Maps) -> Int64[Tensor, "n pixels"]:
    """Each pixel's rank by falling value, from 0; ties go from the upper left."""
    falling = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(falling.shape[1], device=maps.device).expand_as(falling)
    return torch.empty_like(falling).scatter_(1, falling, places)


def _ranks(values: Float[Tensor, "n pixels"]) -> Float[Tensor, "n pixels"]:
    """Ranks in float64, ties at their mean rank, minus their mean."""
    ordered, values = values.sort(dim=1).values.contiguous(), values.contiguous()
    sides = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    ranks = torch.stack(list(sides)).double().mean(dim=0)
    return ranks - ranks.mean(dim=1, keepdim=True)


def _area(curves: Float[Tensor, "n shares"]) -> PerImage:
    """The area by the trapezoid rule, over shares from 0 to 1."""
    return torch.trapezoid(curves, dim=1) / (curves.shape[1] - 1)

"""Attributions, the score that they explain, and the random one that measures are compared with."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, Logits, PerImage
from advlens.checks import check_positive, check_seed, check_types
from advlens.drawing import FULL_COLOR, MOST, drawn, frame_of, heat_map, pictures_html
from advlens.errors import DataError, NumericError
from advlens.losses import cross_entropy, log_odds, rounding
from advlens.prepared import (
    Prepared,
    check_classes,
    check_labels,
    number_images,
    place_images,
    prepare,
)
from advlens.seeding import Stream, derived, normal

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Maps = Float[Tensor, "n h w"]
Target = Literal["probability", "logit"]


@dataclass(frozen=True)
class Attribution:
    """The contribution of each input value to the model's score F for a class.

    Attributes:
        values: the attribution of each input value, in units of F, N×3×H×W.
        targets: the class explained.
        gap: completeness gap |Σ values − ΔF| / |ΔF|, where ΔF is F(image) less the mean F of the
            baselines; 0 where the two agree within the rounding of F. It is also large where ΔF is
            close to 0.
        error: standard error of Σ values over random baselines or samples, in units of F.
        points: gradients per image; each takes a forward and a backward pass.
    """

    values: Images
    targets: Labels
    gap: PerImage
    error: PerImage
    points: Int64[Tensor, " n"]

    @property
    def maps(self) -> Maps:
        """The attribution of each pixel, summed over its channels."""
        return self.values.sum(dim=1)

    def plot(self, images: Images | None = None) -> "Figure":
        """The first heat maps: red supports the class, blue opposes it.

        Args:
            images: those that were attributed, to lie under the maps and beside them.

        Raises:
            DataError: they are others, as their number or size tells.
        """
        if images is not None and images.shape != (len(self.maps), 3, *self.maps.shape[1:]):
            raise DataError(
                f"the images must be the {len(self.maps)} that were attributed, of "
                f"{'×'.join(map(str, self.maps.shape[1:]))} pixels, not {tuple(images.shape)}"
            )
        return drawn(self._pictures(images))

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each image: the class, the completeness gap, the standard error, the points."""
        return frame_of(
            [
                {"target": target, "gap": gap, "error": error, "points": points}
                for target, gap, error, points in zip(
                    *(v.tolist() for v in (self.targets, self.gap, self.error, self.points)),
                    strict=True,
                )
            ]
        )

    def _repr_html_(self) -> str:
        return pictures_html(self._pictures(None))

    def _pictures(self, images: Images | None) -> dict[str, list[Tensor]]:
        maps = self.maps[:MOST].detach().cpu().float()
        under = torch.ones(len(maps), 3, *maps.shape[1:]) if images is None else images.cpu()
        heat = [
            heat_map(image, values, FULL_COLOR * max(float(values.abs().mean()), 1e-12))
            for image, values in zip(under, maps, strict=False)
        ]
        shown = {"attribution": heat}
        return shown if images is None else {"image": [*under[:MOST]]} | shown


@dataclass(frozen=True, kw_only=True)
class RandomAttribution:
    """Standard normal numbers, the control that every measure is compared with.

    The numbers are drawn anew for every image and every change of it, so the smallest noise changes
    all of them. Completeness gap and standard error are NaN because neither is defined here.

    Attributes:
        batch_size: images per pass when classes must be predicted.
        seed: the seed of the numbers.
    """

    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "batch_size")
        check_seed(self)

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
    ) -> Attribution:
        """Random numbers for each image; arguments and errors are as in the other methods."""
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            targets, _ = predicted(prepared, images, labels, self.batch_size)
            values = torch.zeros_like(images)
            for row, number in enumerate(number_images(images, ids)):
                content = zlib.crc32(images[row].contiguous().cpu().numpy().tobytes())
                seed = derived(self.seed, content)
                values[row] = normal(seed, number[None], tuple(images.shape[1:]), Stream.NOISE)[0]
            unknown = torch.full((len(images),), torch.nan, device=images.device)
            return Attribution(values, targets, unknown, unknown, torch.zeros_like(targets))


def score(logits: Logits, classes: Labels, target: Target) -> PerImage:
    """The score F: the class's softmax probability, or its logit.

    The probability is exp(−cross entropy): where it rounds to 1 in float32, the gradient of the
    softmax itself is 0, but this one is right.
    """
    if target == "logit":
        return logits.gather(1, classes.unsqueeze(1)).squeeze(1)
    return (-cross_entropy(logits, classes)).exp()


def uncertainty(logits: Logits, classes: Labels, target: Target) -> PerImage:
    """How far F may vary between batches: 2 F (1 − F) max |dz| for a probability.

    The last digits of float64, to which F near 1 is rounded, are added.
    """
    away = rounding(logits).double()
    if target == "logit":
        return away
    odds = log_odds(logits.double(), classes)
    return 2 * odds.sigmoid() * (-odds).sigmoid() * away + torch.finfo(torch.float64).eps


def slope(
    model: Prepared, points: Images, choose: Callable[[Logits], Labels], target: Target
) -> tuple[Labels, Logits, Images]:
    """The classes that are chosen from the logits, the logits, and the gradient of F.

    This takes one forward and one backward pass at the points.
    """
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        logits = model(points)
        classes = choose(logits.detach())
        (gradient,) = torch.autograd.grad(score(logits, classes, target).sum(), points)
    return classes, logits.detach(), gradient


def predicted(
    model: Prepared, images: Images, labels: Labels | None, batch_size: int
) -> tuple[Labels, Logits]:
    """The classes to explain and the logits, from one forward pass."""
    labels = check_labels(labels, images)
    parts = [model(images[part]) for part in chunks(len(images), batch_size)]
    logits = torch.cat(parts) if parts else images.new_empty(0, 1)
    return within(labels, logits), logits


def within(labels: Labels | None, logits: Logits) -> Labels:
    """The labels, or the predicted classes; SettingsError for a class that the model lacks."""
    return logits.argmax(dim=1) if labels is None else check_classes(labels, logits.shape[1])


def completeness(total: PerImage, difference: PerImage, uncertainty: PerImage) -> PerImage:
    """The gap |Σ values − ΔF| / |ΔF|; 0 where Σ values and ΔF agree within the rounding of F."""
    away, size = (total - difference).abs(), difference.abs().maximum(uncertainty)
    return torch.where(away > uncertainty, away / size, 0.0)


def variance(values: Float[Tensor, "n k"]) -> PerImage:
    """The variance of each image's values, with divisor k − 1; NaN for a single value."""
    away = values - values.mean(dim=1, keepdim=True)
    spread: PerImage = away.square().sum(dim=1) / (values.shape[1] - 1)
    return spread


def check_finite(name: str, *results: Tensor) -> None:
    """Raise NumericError where the model's results are not finite."""
    if not all(bool(result.isfinite().all()) for result in results):
        raise NumericError(
            f"{name}: the model returns NaN or infinity, or has such a gradient, on the way from a "
            "baseline to an image, so no attribution means anything: check its weights"
        )


def chunks(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size` that cover `count` elements."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]

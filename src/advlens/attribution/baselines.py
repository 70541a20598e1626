"""Images that show nothing, which attributions start from and measures fill pixels with."""

import math
from collections.abc import Callable
from typing import Literal

from jaxtyping import Int64
from torch import Tensor

from advlens.arrays import Ids, Images
from advlens.errors import DataError
from advlens.models.classifier import check_images
from advlens.seeding import Stream, derived, uniform

Baseline = Literal["noise", "black", "blurred"]
Starts = Callable[[Int64[Tensor, " k"], int], Images]
"""Numbers of images, and which of their baselines → the baselines."""


def blurred(images: Images) -> Images:
    """Gaussian blur of standard deviation 10 pixels at a shorter side of 224, else in proportion.

    That of Fong and Vedaldi 2017; mirrored at the borders.
    """
    from torchvision.transforms.functional import gaussian_blur  # takes a second to import

    sigma = 10 * min(images.shape[2:]) / 224
    smooth: Images = gaussian_blur(images, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
    return smooth


def noise(seed: int, images: Images, ids: Ids) -> Starts:
    """Uniform pixels in [0, 1], for each image and draw, made when they are asked for."""

    def starts(rows: Tensor, draw: int) -> Images:
        drawn = uniform(derived(seed, draw), ids[rows], tuple(images.shape[1:]), Stream.NOISE)
        return drawn.to(images)

    return starts


def fixed(baselines: Images) -> Starts:
    """The same for every draw: one baseline for each image."""
    return lambda rows, draw: baselines[rows.to(baselines.device)]


def given(baselines: Tensor, images: Images) -> Starts:
    """Baselines of the caller's: pixels, one 3×H×W for all images or one for each.

    Raises:
        DataError: no tensor, not pixels in [0, 1], or of another shape.
    """
    if not isinstance(baselines, Tensor):
        raise DataError(
            f"baselines must be a float tensor, not {type(baselines).__name__}; convert an array "
            "with torch.from_numpy(baselines)"
        )
    starts = baselines.unsqueeze(0) if baselines.ndim == 3 else baselines
    if starts.shape[1:] != images.shape[1:] or len(starts) not in (1, len(images)):
        raise DataError(
            f"baselines must be one image for all, {tuple(images.shape[1:])}, or one for each of "
            f"the {len(images)} images, not {tuple(baselines.shape)}"
        )
    return fixed(check_images(starts).to(images).expand_as(images))

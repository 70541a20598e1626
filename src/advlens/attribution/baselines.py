"""Baselines: images without content that attributions start from and measures fill pixels with."""

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
"""Maps image numbers and a baseline's number to the baselines."""


def blurred(images: Images) -> Images:
    """Gaussian blur of standard deviation 10 pixels at a shorter side of 224, else in proportion.

    The blur is that of Fong and Vedaldi 2017; it mirrors the image at its borders.
    """
    from torchvision.transforms.functional import gaussian_blur  # takes a second to import

    sigma = 10 * min(images.shape[2:]) / 224
    smooth: Images = gaussian_blur(images, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
    return smooth


def noise(seed: int, images: Images, ids: Ids) -> Starts:
    """Uniform pixels in [0, 1] for each image and draw, made on demand."""

    def starts(rows: Tensor, draw: int) -> Images:
        shape = tuple(images.shape[1:])
        drawn = uniform(derived(seed, draw), ids[rows], shape, Stream.NOISE, images.device)
        return drawn.to(images)

    return starts


def fixed(baselines: Images) -> Starts:
    """One fixed baseline for each image, the same for every draw."""
    return lambda rows, draw: baselines[rows.to(baselines.device)]


def given(baselines: Tensor, images: Images) -> Starts:
    """The caller's baselines: pixels, one 3×H×W for all images or one for each.

    Raises:
        DataError: not a tensor, not pixels in [0, 1], or of another shape.
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

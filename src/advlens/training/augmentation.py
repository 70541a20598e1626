"""Random crops, flips and rotations of a batch, on the device that holds the images."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from advlens.arrays import Images
from advlens.checks import check_numbers, check_types
from advlens.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images vary.

    Attributes:
        crop: black pixels around an image before a crop of the model's size is taken from it.
        flip: whether half of the images are mirrored.
        rotation: each image is rotated by up to so many degrees either way; corners turn black.
        resized_crop: instead of `crop`, a random part of the image is resized to the model's size;
            this is the range of its share of the area, such as (.08, 1). Sides are 3:4 to 4:3.
    """

    crop: int = 4
    flip: bool = True
    rotation: float = 0.0
    resized_crop: tuple[float, float] | None = None

    DRAWS: ClassVar[int] = 8
    """Random numbers for each image."""

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self, "crop", least=0)
        check_numbers(self, "rotation", least=0, most=180)
        if self.resized_crop is not None:
            low, high = self.resized_crop
            if not 0 < low <= high <= 1:
                raise SettingsError(
                    f"resized_crop must be two shares of the area, 0 < low ≤ high ≤ 1, not {low} "
                    f"and {high}"
                )
            if self.crop:
                raise SettingsError("crop and resized_crop exclude each other; set crop to 0")

    def __call__(
        self, images: UInt8[Tensor, "n 3 h w"], draws: Float[Tensor, "k n"], size: int
    ) -> Images:
        """The images, varied.

        Args:
            images: 0 to 255, N×3×H×W.
            draws: uniform in [0, 1), `DRAWS` for each image.
            size: height and width of the result.

        Returns:
            Pixels in [0, 1], N×3×size×size, channels last.
        """
        draws = draws.to(images.device)
        flips = (draws[2] < 0.5) & self.flip
        if self.resized_crop is None:
            pixels = _cropped(images, draws[:2], flips, self.crop, size)
        else:
            pixels = _resized(images, draws[4:], flips, self.resized_crop, size)
        if self.rotation:
            pixels = rotated(pixels, (2 * draws[3] - 1) * math.radians(self.rotation))
        return pixels.contiguous(memory_format=torch.channels_last)


def centered(images: UInt8[Tensor, "n 3 h w"], size: int) -> Images:
    """The central squares of images, as they are: pixels in [0, 1], N×3×size×size."""
    top = round((images.shape[2] - size) / 2)
    return images[:, :, top : top + size, top : top + size].float() / 255


def _cropped(images: Tensor, draws: Tensor, flips: Tensor, padding: int, size: int) -> Images:
    """Parts of the padded images, pixel for pixel."""
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    top = (draws[0] * (height + 2 * padding - size + 1)).long()
    left = (draws[1] * (width + 2 * padding - size + 1)).long()
    line = torch.arange(size, device=images.device)
    rows = top.view(-1, 1) + line
    columns = left.view(-1, 1) + torch.where(flips.view(-1, 1), size - 1 - line, line)
    number = torch.arange(count, device=images.device).view(-1, 1, 1)
    crops = padded[number, rows.unsqueeze(2), columns.unsqueeze(1)]
    return crops.permute(0, 3, 1, 2).float() / 255


def _resized(
    images: Tensor, draws: Tensor, flips: Tensor, scale: tuple[float, float], size: int
) -> Images:
    """Parts of the images, bilinearly resized; no side is longer than the image's."""
    area = scale[0] + (scale[1] - scale[0]) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(area)
    across = torch.stack(
        [torch.where(flips, -width, width), zero, (2 * draws[2] - 1) * (1 - width)]
    )
    down = torch.stack([zero, height, (2 * draws[3] - 1) * (1 - height)])
    return _sampled(images.float() / 255, torch.stack([across, down]), "border", size)


def rotated(pixels: Images, angles: Float[Tensor, " n"]) -> Images:
    """Each image rotated about its center, counterclockwise by an angle in radians."""
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    across, down = torch.stack([cosine, -sine, zero]), torch.stack([sine, cosine, zero])
    return _sampled(pixels, torch.stack([across, down]), "zeros", pixels.shape[-1])


def _sampled(pixels: Images, maps: Float[Tensor, "2 3 n"], outside: str, size: int) -> Images:
    """Bilinear samples at the affine maps of a size×size grid over [−1, 1]²."""
    grid = F.affine_grid(maps.permute(2, 0, 1), [len(pixels), 3, size, size], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)

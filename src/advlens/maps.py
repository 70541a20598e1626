"""Discrepancy maps: where in an image the cause of a unit's response lies.

Zhou, Khosla, Lapedriza, Oliva and Torralba, Object Detectors Emerge in Deep Scene CNNs, ICLR 2015,
section 3.2; shown for real and adversarial images in D22, section 2. An occluder of random pixels
slides over the image; where it changes the unit's response much, the image matters to the unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from advlens.arrays import Ids, Images
from advlens.checks import check_positive, check_types
from advlens.drawing import gray
from advlens.errors import DataError, NumericError, SettingsError
from advlens.prepared import number_images, place_images, prepare
from advlens.seeding import Stream, uniform

Units = Int64[Tensor, "n k"]
Pixels = Float[Tensor, "n h w 3"]
Line = Int64[Tensor, " places"]

YELLOW = (1.0, 0.85, 0.0)


@dataclass(frozen=True, kw_only=True)
class DiscrepancyMap:
    """The change of a unit's response when random pixels replace a patch of the image.

    An image costs one pass through the network up to the layer per occluder position, and one of
    its own, for any number of units: 5 185 with the paper's patch and stride.

    Attributes:
        patch: side of the square occluder in pixels. Default: 11 if the image's shorter side is
            224, as in the paper, otherwise in proportion, but at least 2.
        stride: distance between positions. Default: 3 at 224, otherwise in proportion, but at least
            1.
        batch_size: occluded images per pass, from one image or several; sets the memory.
        seed: the seed of the occluders; each image has its own.
    """

    patch: int | None = None
    stride: int | None = None
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "patch", "stride", "batch_size")

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        *,
        layer: str | None = None,
        units: Tensor | Sequence[Sequence[int]],
        ids: Ids | None = None,
    ) -> Float[Tensor, "n k h w"]:
        """A map N×K×H×W, ≥ 0, for each image and each of its K units.

        The value at an occluder's center is |r − r′|: r is the unit's response at its maximum on
        the untouched image (the first of equal ones), r′ the one at the same position of the
        occluded image. As in the paper, the size counts and not the sign, because what holds a unit
        back matters to it as well. The first occluder lies in the upper left corner; the last of
        each line touches the border, closer to the one before it if needed. Between centers the map
        is linear along both axes; beyond the outermost it is constant. A unit that responds nowhere
        in the image has no maximum there, and a map of 0.

        Args:
            model: pixels in [0, 1] → logits or maps; or its prepared copy.
            images: pixels in [0, 1], N×3×H×W.
            layer: name of a convolution (default: the last).
            units: the numbers of the K units of each image, N×K.
            ids: a stable number for each image that seeds its occluder (default 0…N−1).

        Raises:
            DataError: images are not pixels in [0, 1], or are smaller than the occluder.
            SettingsError: the layer lacks such units, or their number differs between images.
            ModelError: the model has no such layer.
            NumericError: a response is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            chosen = _checked(units, len(images)).to(images.device)
            height, width = images.shape[2:]
            patch, rows, columns = self._places(height, width)
            if len(images) == 0:
                return images.new_empty(*chosen.shape, height, width)
            ids = number_images(images, ids)
            shape = patch, patch, 3
            occluders = uniform(self.seed, ids, shape, Stream.OCCLUDER, images.device).to(images)
            pixels = images.permute(0, 2, 3, 1).contiguous()

            peaks = []
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                peaks.append(_peaks(prepared.features(images[part], layer), chosen[part]))
            responses, y, x = (torch.cat(part) for part in zip(*peaks, strict=True))

            grid = torch.cartesian_prod(rows, columns).to(images.device)
            changes = images.new_empty(len(images) * len(grid), chosen.shape[1])
            for start in range(0, len(changes), self.batch_size):
                end = min(start + self.batch_size, len(changes))
                number = torch.arange(start, end, device=images.device)
                image, place = number // len(grid), number % len(grid)
                occluded = occlude(pixels[image], occluders[image], grid[place])
                maps = prepared.features(occluded.permute(0, 3, 1, 2), layer)
                each = torch.arange(len(number), device=images.device)[:, None]
                now = maps[each, chosen[image], y[image], x[image]]
                changes[start:end] = (now - responses[image]).abs()
            changes = changes.view(len(images), len(rows), len(columns), -1)
            changes *= (responses > 0)[:, None, None, :]
            if not changes.isfinite().all():
                raise NumericError(
                    "DiscrepancyMap: a response is not finite on images in [0, 1], so changes of "
                    "it mean nothing; check the model's weights"
                )
            vertical, horizontal = _reading(rows, patch, height), _reading(columns, patch, width)
            return torch.einsum(
                "npqk,yp,xq->nkyx", changes, vertical.to(changes), horizontal.to(changes)
            )

    def _places(self, height: int, width: int) -> tuple[int, Line, Line]:
        """The occluder's side, and the rows and columns of its upper left corners."""
        side = min(height, width)
        patch = max(2, round(11 / 224 * side)) if self.patch is None else self.patch
        stride = max(1, round(3 / 224 * side)) if self.stride is None else self.stride
        if patch > side:
            raise DataError(
                f"DiscrepancyMap: images of {height} × {width} pixels are smaller than the "
                f"occluder of {patch}; give a smaller patch or larger images"
            )
        rows, columns = (
            torch.tensor([*range(0, length - patch, stride), length - patch])
            for length in (height, width)
        )
        return patch, rows, columns


def occlude(
    pixels: Pixels, occluders: Float[Tensor, "n patch patch 3"], corners: Int64[Tensor, "n 2"]
) -> Pixels:
    """Write an occluder into each image, with its upper left corner at the given row and column."""
    area = torch.arange(occluders.shape[1], device=pixels.device)
    y, x = corners[:, 0, None] + area, corners[:, 1, None] + area
    each = torch.arange(len(pixels), device=pixels.device)
    pixels[each[:, None, None], y[:, :, None], x[:, None, :]] = occluders
    return pixels


def _checked(units: Tensor | Sequence[Sequence[int]], images: int) -> Units:
    try:
        chosen = torch.as_tensor(units)
    except (TypeError, ValueError):  # rows of different lengths, or no numbers
        chosen = torch.empty(0)
    fraction = chosen.numel() > 0 and (chosen.is_floating_point() or chosen.dtype == torch.bool)
    if chosen.ndim != 2 or len(chosen) != images or fraction:
        raise SettingsError(
            "DiscrepancyMap: units must be whole numbers, the same number for each of the "
            f"{images} images (N×K), not {units}"
        )
    return chosen.long()


def _peaks(maps: Tensor, units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """The largest response of each image's units, with its row and column, all N×K."""
    last = maps.shape[1] - 1
    if units.numel() and not 0 <= units.min() <= units.max() <= last:
        raise SettingsError(
            f"DiscrepancyMap: the layer's units are 0 to {last}, but units {int(units.min())} to "
            f"{int(units.max())} are requested"
        )
    own = maps[torch.arange(len(maps), device=maps.device)[:, None], units].flatten(2)
    place = own.argmax(dim=2, keepdim=True)
    y, x = place.squeeze(2) // maps.shape[3], place.squeeze(2) % maps.shape[3]
    return own.gather(2, place).squeeze(2), y, x


def _reading(corners: Line, patch: int, length: int) -> Float[Tensor, "length places"]:
    """Weights that interpolate a line of values from the occluders' centers to every pixel."""
    centers = corners.numpy() + (patch - 1) / 2
    ones = np.eye(len(centers))
    return torch.from_numpy(
        np.stack([np.interp(np.arange(length), centers, one) for one in ones], axis=1)
    )


def marked(image: Float[Tensor, "3 h w"], region: Bool[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """A picture of a region: colors inside a yellow line; the rest is dim and gray.

    Args:
        image: pixels in [0, 1].
        region: pixels that belong to it; the line runs around them.

    Returns:
        Pixels in [0, 1], of the image's size.
    """
    inside = region.float()[None]
    width = max(1, round(min(region.shape) / 112))
    around = F.max_pool2d(inside, 2 * width + 1, stride=1, padding=width) - inside
    line = image.new_tensor(YELLOW)[:, None, None].expand_as(image)
    return torch.where(around > 0, line, torch.where(region, image, 0.5 * gray(image)))


def highlighted(
    image: Float[Tensor, "3 h w"], discrepancy: Float[Tensor, "h w"], share: float = 0.5
) -> Float[Tensor, "3 h w"]:
    """A picture of a discrepancy map: the region where it reaches a share of its maximum, `marked`.

    Args:
        image: pixels in [0, 1].
        discrepancy: its map for one unit, from `DiscrepancyMap`.
        share: the share of the map's maximum.

    Returns:
        Pixels in [0, 1], of the image's size; nothing is marked where the map is 0.
    """
    return marked(image, (discrepancy > 0) & (discrepancy >= share * discrepancy.max()))

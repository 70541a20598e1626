"""Unit masks without dense upsampling: only cells that may exceed a threshold are used."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from advlens.dissection.upsampling import Upsampling

CHUNK = 1 << 18
"""Pixels interpolated at a time: few enough to stay in a core's cache."""


@dataclass(frozen=True)
class Cells:
    """Cells of padded maps (see `upsampling`) with a corner above a bound, in the order of images.

    Attributes:
        images: position of the image in its batch.
        units: the unit of the layer.
        places: row of the cell × cells in a row + its column.
        corners: upper left, upper right, lower left, lower right.
    """

    images: Int32[Tensor, " n"]
    units: Int32[Tensor, " n"]
    places: Int32[Tensor, " n"]
    corners: Float32[Tensor, "n 4"]

    @classmethod
    def above(cls, maps: Float[Tensor, "n units h w"], bounds: Float[Tensor, " units"]) -> "Cells":
        """The cells in a batch of maps with a corner above its unit's bound."""
        padded = F.pad(maps.float(), (1, 1, 1, 1), mode="replicate").contiguous()
        images, units, height, width = padded.shape
        values = padded.view(-1)
        # run along memory across rows; what crosses a border is dropped below
        highest = torch.maximum(values[:-1], values[1:])
        highest = torch.maximum(highest[:-width], highest[width:])
        above = torch.zeros_like(padded, dtype=torch.bool)
        limits = bounds.repeat(images).repeat_interleave(height * width)[: len(highest)]
        torch.gt(highest, limits, out=above.view(-1)[: len(highest)])
        above[:, :, -1] = False
        above[..., -1] = False
        (first,) = above.view(-1).nonzero(as_tuple=True)
        corners = [values[first + step] for step in (0, 1, width, width + 1)]
        row, column = first // width % height, first % width
        unit = first // (height * width)
        return cls(
            (unit // units).int(),
            (unit % units).int(),
            (row * (width - 1) + column).int(),
            torch.stack(corners, dim=1),
        )

    def select(self, bounds: Float[Tensor, " units"]) -> "Cells":
        """The cells with a corner above a higher bound."""
        kept = self.corners.amax(dim=1) > bounds[self.units]
        return Cells(*(values[kept] for values in self.tensors))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All tensors, in the order of the fields."""
        return self.images, self.units, self.places, self.corners

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        return sum(values.nbytes for values in self.tensors)


@dataclass(frozen=True)
class Masks:
    """The pixels of a batch at which units exceed their thresholds, an entry per unit and pixel.

    Attributes:
        images: position of the image in its batch.
        units: the unit of the layer.
        places: image × pixels of a label map + row × its width + column.
    """

    images: Int32[Tensor, " n"]
    units: Int32[Tensor, " n"]
    places: Int32[Tensor, " n"]


def masks(cells: Cells, thresholds: Float[Tensor, " units"], upsampling: Upsampling) -> Masks:
    """Pixels where the upsampled maps strictly exceed the thresholds; interpolated in float64."""
    cells = cells.select(thresholds)
    each = upsampling.rows.pixels.shape[1] * upsampling.columns.pixels.shape[1]
    step = max(1, CHUNK // each)
    parts = [
        _masked(Cells(*(t[start : start + step] for t in cells.tensors)), thresholds, upsampling)
        for start in range(0, max(1, len(cells.images)), step)
    ]
    return Masks(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _masked(
    cells: Cells, thresholds: Float[Tensor, " units"], upsampling: Upsampling
) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = upsampling.rows, upsampling.columns
    height, width = upsampling.shape
    down, across = cells.places // len(columns.pixels), cells.places % len(columns.pixels)
    y, x = rows.fractions[down][:, :, None], columns.fractions[across]
    # differences of float32 are exact in float64, so a value above 0 is above the threshold
    heights = cells.corners.double() - thresholds.double()[cells.units][:, None]
    a, b, c, d = heights[:, :, None].unbind(1)
    upper, lower = torch.addcmul(a, x, b - a), torch.addcmul(c, x, d - c)
    values = torch.addcmul(upper[:, None], y, (lower - upper)[:, None])
    hits = (values > 0).view(-1).nonzero()[:, 0].int()  # NaN, the padding, is not above 0
    first = cells.images[:, None] * (height * width) + rows.pixels[down] * width
    places = (first[:, :, None] + columns.pixels[across][:, None]).view(-1)
    cell = hits // (values.shape[1] * values.shape[2])
    return (
        cells.images.index_select(0, cell),
        cells.units.index_select(0, cell),
        places.index_select(0, hits),
    )

"""Bilinear interpolation from a map's positions to the pixels of a label map, cell by cell.

A map is padded by repeating its border; a *cell* lies between four neighboring positions of the
padded map. Every label pixel lies in one cell, and its value is bilinear in the cell's corners, so
only cells with a corner above a threshold can hold pixels above it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int32
from torch import Tensor

from advlens.prepared import Fields


@dataclass(frozen=True)
class Axis:
    """The label pixels of each cell along one axis, padded to the longest cell.

    Attributes:
        pixels: index of each label pixel; 0 where padded.
        fractions: its position between the cell's two positions, 0 to 1; NaN where padded.
    """

    pixels: Int32[Tensor, "cells most"]
    fractions: Float64[Tensor, "cells most"]

    @classmethod
    def of(cls, side: int, labels: int, image: int, center: float, stride: float) -> "Axis":
        """One axis of an upsampling.

        Args:
            side: number of the map's positions.
            labels: number of the label map's pixels.
            image: number of the input image's pixels; map and label map both cover it.
            center: center of the receptive field of position 0, in image pixels (0: the first
                pixel's center).
            stride: distance between receptive fields, in image pixels.
        """
        places = (torch.arange(labels, dtype=torch.float64) + 0.5) * (image / labels) - 0.5
        places = ((places - center) / stride).clamp(-1, side)
        cells = places.floor().long() + 1
        cells.clamp_(max=side)
        fractions = places.clamp(0, side - 1) - (cells - 1).clamp(min=0)
        most = int(torch.bincount(cells).max())
        result = cls(
            torch.zeros(side + 1, most, dtype=torch.int32),
            torch.full((side + 1, most), torch.nan, dtype=torch.float64),
        )
        for cell in range(side + 1):
            (members,) = (cells == cell).nonzero(as_tuple=True)
            result.pixels[cell, : len(members)] = members.int()
            result.fractions[cell, : len(members)] = fractions[members]
        return result

    def to(self, device: torch.device) -> "Axis":
        """The same axis on a device."""
        return Axis(self.pixels.to(device), self.fractions.to(device))


@dataclass(frozen=True)
class Upsampling:
    """How a layer's maps become masks of the label maps' size.

    Attributes:
        shape: height and width of the label maps.
    """

    rows: Axis
    columns: Axis
    shape: tuple[int, int]

    @classmethod
    def of(
        cls,
        map_shape: tuple[int, int],
        label_shape: tuple[int, int],
        image_shape: tuple[int, int],
        fields: Fields | None,
    ) -> "Upsampling":
        """With the receptive-field centers as grid (Bau et al. 2017), or plain without fields.

        Plain bilinear upsampling spreads the positions evenly over the image.
        """
        axes = []
        for axis, (side, labels, image) in enumerate(
            zip(map_shape, label_shape, image_shape, strict=True)
        ):
            center, stride = (
                ((image / side - 1) / 2, image / side)
                if fields is None
                else (fields.center[axis], fields.stride[axis])
            )
            axes.append(Axis.of(side, labels, image, center, stride))
        return cls(axes[0], axes[1], label_shape)

    def to(self, device: torch.device) -> "Upsampling":
        """The same upsampling on a device."""
        return Upsampling(self.rows.to(device), self.columns.to(device), self.shape)

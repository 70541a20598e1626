"""Images in memory."""

from collections.abc import Sequence

from jaxtyping import UInt8
from torch import Tensor

from advlens.arrays import Labels
from advlens.datasets.base import ImageData, Stream, digest
from advlens.datasets.forms import check_pixels
from advlens.errors import DataError


class ArrayData(ImageData):
    """Images in memory, in the order of the array.

    Args:
        pixels: uint8, N×3×H×W, RGB from 0 to 255, on the CPU.
        name, classes, synsets, labels: as in `ImageData`; one label for each image.

    Raises:
        DataError: pixels, labels or classes have another form; the message says how to convert
            them.
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "n 3 h w"],
        *,
        name: str,
        classes: Sequence[str],
        synsets: Sequence[str] | None,
        labels: Labels,
    ) -> None:
        self.pixels = check_pixels(name, pixels)
        _, channels, height, width = pixels.shape
        super().__init__(
            name=name,
            classes=classes,
            synsets=synsets,
            labels=labels,
            image_shape=(channels, height, width),
        )
        if len(labels) != len(pixels):
            raise DataError(
                f"{name} has {len(labels)} labels for {len(pixels)} images; give one for each"
            )

    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        return (self.pixels[list(ids)] for ids in batches)

    def fingerprint(self) -> str:
        return digest(self.classes, self.synsets, self.labels, self.pixels)

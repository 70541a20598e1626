"""How image files become the inputs of a model."""

from dataclasses import asdict, dataclass
from typing import Literal

from advlens.checks import check_types
from advlens.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How an image file becomes a model's input; sets of fixed size such as CIFAR-10 ignore it."""

    size: int = 224
    """Height of the center crop, in pixels."""
    width: int | None = None
    """Its width, if it is not square."""
    resize: int | None = 256
    """Shorter side before the crop, in pixels, or, of a crop that is not square, of the area of its
    shape that the image then covers; None takes images as they are, all of this size."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, always antialiased, as in Pillow."""
    squeeze: bool = False
    """Whether the resize takes the whole image to the shape of the crop, whatever its own shape."""
    exif_orientation: bool = False
    """Whether images are turned first as their EXIF data say."""

    def __post_init__(self) -> None:
        check_types(self)
        shorter = min(self.shape)
        if shorter < 1 or (self.resize is not None and self.resize < shorter):
            raise SettingsError(
                f"cannot crop {shorter} pixels from a shorter side of {self.resize};"
                " choose a size of at least 1 and at most resize"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop."""
        return self.size, self.width or self.size

    def identity(self) -> dict[str, object]:
        """What tells the inputs apart from those of another transform, for fingerprints."""
        told = asdict(self)
        if not self.exif_orientation:
            del told["exif_orientation"]
        if self.width is None:
            del told["width"]
        if not self.squeeze:
            del told["squeeze"]
        return told

"""Decode image files into pixels, also files that lie about themselves."""

import itertools
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from advlens.datasets.transform import Transform
from advlens.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What Pillow decodes here; it knows many more formats, some of them by aged code."""
MAX_PIXELS = 25_000_000
"""Maximum number of pixels, checked before decoding; Pillow itself warns from 89 million."""
SUBFILE = 254
"""TIFF's tag that says what a page is."""
PART = 0b101
"""Its bits for a smaller copy of another page and for a mask."""
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class ImageError(DataError):
    """An image whose bytes cannot be used. Only such an image may be left out of a run, not one
    that the disk or the network fails to deliver.
    """


def read_rgb(
    path: Path, file: IO[bytes] | None = None, *, exif_orientation: bool = False
) -> Image.Image:
    """A JPEG, PNG, WebP, BMP or TIFF file, whatever its suffix, as 8-bit RGB.

    As in torchvision, transparency is dropped, color profiles are not applied, and of orientations
    in EXIF data only those of TIFF files are, by Pillow. 16-bit values keep their high byte.
    Smaller copies and masks in a TIFF file, and the pictures behind a photograph in a JPEG file,
    are left out.

    Args:
        path: the image's path.
        file: its bytes, if it is not a file of its own; then `path` only names it.
        exif_orientation: turn the image as its EXIF data say.

    Raises:
        ImageError: the file is not such an image, is truncated or damaged, is an animation or has
            several pages, has over 25 million pixels, or values of 32 bits.
        DataError: the file cannot be read.
    """
    try:
        with Image.open(file or path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"the image {path} has {width}x{height} pixels, more than {MAX_PIXELS};"
                    " make it smaller"
                )
            if _has_frames(image):
                raise ImageError(
                    f"the image {path} is an animation or has several pages; save the one that is "
                    "meant as a file of its own"
                )
            image.load()
            return as_rgb(image, path, exif_orientation)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make Pillow's parsers raise almost anything
        failed = isinstance(error, OSError) and error.errno is not None  # the disk's, not Pillow's
        raise (DataError if failed else ImageError)(
            f"cannot read the image {path}: {error}; replace the file or remove it"
        ) from error


def _has_frames(image: Any) -> bool:
    """Whether an opened file holds several images, so that it is open which one is meant."""
    if image.format != "TIFF":
        return image.format != "MPO" and getattr(image, "is_animated", False)
    try:
        for page in itertools.count(1):
            image.seek(page)
            if not image.tag_v2.get(SUBFILE, 0) & PART:
                return True
    except EOFError:
        image.seek(0)
    return False


def as_rgb(image: Image.Image, name: object, exif_orientation: bool) -> Image.Image:
    """A decoded image as 8-bit RGB, as `read_rgb` describes it.

    Args:
        image: the image.
        name: its path, or what else tells it apart.
        exif_orientation: turn it as its EXIF data say.

    Raises:
        ImageError: its values have 32 bits.
    """
    form = image.format
    if exif_orientation:
        image = ImageOps.exif_transpose(image)
    image.info.pop("transparency", None)
    if image.mode == "RGB":  # convert would copy it
        return image
    wide = image.mode == "F" or (image.mode == "I" and form != "PNG")
    if wide:  # Pillow would clip these at 255
        raise ImageError(
            f"the image {name} has values of 32 bits, whose range nothing tells; save 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def read_image(
    path: Path, transform: Transform, file: IO[bytes] | None = None
) -> UInt8[Tensor, "3 h w"]:
    """An image file as a model's input, equal to torchvision's Resize and CenterCrop.

    Args:
        path: the image's path.
        transform: the resize and crop to apply.
        file: its bytes, if it is not a file of its own.

    Raises:
        ImageError: as `read_rgb`, or the image is so narrow that its resized form is too large.
        DataError: as `read_rgb`, or the image must have the right size and does not.
    """
    image = read_rgb(path, file, exif_orientation=transform.exif_orientation)
    return fit_image(image, transform, path)


def fit_image(image: Image.Image, transform: Transform, name: object) -> UInt8[Tensor, "3 h w"]:
    """An RGB image as a model's input, as `read_image` describes it.

    Args:
        image: the image.
        transform: the resize and crop to apply.
        name: its path, or what else tells it apart.

    Raises:
        ImageError, DataError: as `read_image`.
    """
    width, height = image.size
    rows, columns = transform.shape
    if transform.resize is None:
        if (height, width) != transform.shape:
            raise DataError(
                f"the image {name} has {width}x{height} pixels, not {columns}x{rows}; give the "
                "data as folder:DIR to resize and crop it, or the model a size, as NAME:SIZE"
            )
        return _tensor(image)
    scale = transform.resize / min(rows, columns)
    if transform.squeeze:
        size = round(columns * scale), round(rows * scale)
    elif width * rows <= height * columns:  # it covers the width, and more than the height
        across = round(columns * scale)
        size = across, int(across * height / width)
    else:
        down = round(rows * scale)
        size = int(down * width / height), down
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"the image {name} has {width}x{height} pixels, too narrow for a shorter side"
            f" of {transform.resize}; crop it or remove it"
        )
    image = image.resize(size, FILTERS[transform.interpolation])
    left, top = round((size[0] - columns) / 2), round((size[1] - rows) / 2)
    image = image.crop((left, top, left + columns, top + rows))
    return _tensor(image)


def _tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

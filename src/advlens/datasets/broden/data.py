"""Images with labels for every pixel, read on demand."""

import contextlib
import copy
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8
from PIL import Image
from torch import Tensor

from advlens.datasets.base import ImageData, Stream, digest
from advlens.datasets.broden.layout import UNKNOWN, read_layout, readable
from advlens.datasets.decoding import MAX_PIXELS, ImageError, read_rgb
from advlens.datasets.reading import WORKERS, damaged, ordered
from advlens.errors import DataError, SettingsError
from advlens.files import sha256

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Annotations:
    """Labels of a batch of images, on the CPU; 0 means no label."""

    maps: Int32[Tensor, "n depth h w"]
    """Label maps of all categories, stacked; images with fewer maps are padded with zeros.

    No label occurs twice at one pixel: lower copies, and copies of a whole-image label, are 0.
    """
    whole: Int32[Tensor, "n some"]
    """Labels of the whole image, without duplicates, padded with zeros."""
    carries: Bool[Tensor, "n categories"]
    """Whether the image is labeled in the category."""


class BrodenData(ImageData):
    """Images in the Broden layout (docs/broden.md), in the order of index.csv.

    The tables are read and checked at once; pixels are read on demand, by threads that work ahead.
    Whole images are squeezed to a square, as in Broden, never cropped; label maps keep their size.
    There are no classes: every image has label 0, "unlabeled".

    Args:
        folder: a folder with index.csv, category.csv, label.csv, c_<category>.csv and images/.
        size: side of the squares, in pixels, bilinear and antialiased; default: the height of the
            first image. Images that already have the size are unchanged.

    Raises:
        DataError: a table, or a file that it names, is missing, damaged, or outside the folder.
    """

    labeled = False

    def __init__(self, folder: Path, *, size: int | None = None) -> None:
        self.root = Path(os.path.realpath(folder))
        layout = read_layout(self.root)
        self.rows = layout.rows
        self.categories = layout.categories
        """The categories, in the order of category.csv."""
        self.concepts = layout.concepts
        """The concepts, in the order of their numbers, which may have gaps."""
        self.label_shape = layout.label_shape
        """Height and width of all label maps."""
        self.label_count = self.concepts[-1].number + 1
        """The largest label number + 1."""
        self.size = self.rows[0].image_shape[0] if size is None else size
        if self.size < 1:
            raise SettingsError(f"cannot make images of {self.size} pixels; ask for 1 or more")
        self.positions = torch.arange(len(self.rows))
        """Id of each image in the original set."""
        self._images = Path(os.path.realpath(self.root / "images"))
        self._known = np.zeros(256 * 256, np.bool_)
        self._known[[0, *(concept.number for concept in self.concepts)]] = True
        super().__init__(
            name=f"broden:{self.root.name}",
            classes=("unlabeled",),
            synsets=None,
            labels=torch.zeros(len(self.rows), dtype=torch.int64),
            image_shape=(3, self.size, self.size),
        )

    def subset(self, count: int, seed: int) -> "BrodenData":  # type: ignore[override]  # see part
        """A random subset, in the order of the images; `positions` holds their ids in this set.

        Raises:
            SettingsError: the set has fewer images than `count`.
        """
        return super().subset(count, seed)  # type: ignore[return-value]

    def part(self, ids: Sequence[int]) -> "BrodenData":  # type: ignore[override]  # as a DataView
        part = copy.copy(self)
        vars(part).pop("_fingerprint", None)  # the whole set's
        part.positions = torch.tensor(self._checked(ids), dtype=torch.int64)
        part.labels = self.labels[part.positions]
        part.rows = [self.rows[i] for i in ids]
        return part

    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        ahead = 2 * WORKERS + max(map(len, batches), default=0)
        with contextlib.closing(ordered(self._image, chain(*batches), ahead)) as images:
            for ids in batches:
                yield torch.stack(list(islice(images, len(ids))))

    def damaged(
        self, ids: Sequence[int] | None = None, *, on_images: Callable[[int], object] = int
    ) -> dict[int, str]:
        def read(i: int) -> None:
            self._image(i)
            self._maps(i)

        return damaged(read, self._checked(range(len(self)) if ids is None else ids), on_images)

    def annotations(self, ids: Sequence[int]) -> Annotations:
        """The labels of some images.

        Raises:
            DataError: a label map cannot be read or holds an unknown label, or an id does not
                exist.
        """
        (annotations,) = self.annotation_batches([ids])
        return annotations

    def annotation_batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Annotations]:
        """The labels of each list of ids, in order, read by threads that work ahead.

        Raises:
            DataError: as `annotations`.
        """
        checked = [self._checked(ids) for ids in batches]
        return self._annotation_batches(checked)

    def _annotation_batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Annotations]:
        ahead = 2 * WORKERS + max(map(len, batches), default=0)
        with contextlib.closing(ordered(self._maps, chain(*batches), ahead)) as stacks:
            for ids in batches:
                rows = [self.rows[i] for i in ids]
                maps = torch.zeros(
                    (len(ids), max((len(row.maps) for row in rows), default=0), *self.label_shape),
                    dtype=torch.int32,
                )
                whole = torch.zeros(
                    (len(ids), max((len(row.whole) for row in rows), default=0)), dtype=torch.int32
                )
                for i, (row, stack) in enumerate(zip(rows, islice(stacks, len(ids)), strict=True)):
                    maps[i, : len(stack)] = torch.from_numpy(stack)
                    whole[i, : len(row.whole)] = torch.tensor(row.whole)
                carries = torch.tensor([row.carries for row in rows], dtype=torch.bool)
                yield Annotations(
                    maps=maps, whole=whole, carries=carries.reshape(-1, len(self.categories))
                )

    def _image(self, i: int) -> UInt8[Tensor, "3 h w"]:
        row = self.rows[i]
        path = readable(self._images, row.image, self.name)
        image = read_rgb(path)
        if image.size != row.image_shape[::-1]:
            raise DataError(
                f"the image {path} has {image.height}x{image.width} pixels (height x width), not "
                f"{row.image_shape[0]}x{row.image_shape[1]} as index.csv says; fix one of them"
            )
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def _maps(self, i: int) -> Int32[np.ndarray, "depth h w"]:
        """The label maps of an image, without duplicate labels at one pixel."""
        row = self.rows[i]
        maps = np.zeros((len(row.maps), *self.label_shape), np.int32)
        for depth, name in enumerate(row.maps):
            path = readable(self._images, name, self.name)
            labels = read_label_map(path, self.label_shape)
            known = self._known[labels]
            if not known.all():
                raise DataError(
                    f"the label map {path} holds label {labels[~known][0]}, which no category"
                    f" lists; {UNKNOWN}"
                )
            repeated = (maps[:depth] == labels).any(axis=0) | np.isin(labels, row.whole)
            maps[depth] = np.where(repeated, 0, labels)
        return maps

    def fingerprint(self) -> str:
        """SHA-256 of the tables, the size, and the bytes of every image and map, read once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        concepts = [(c.number, c.name, c.category, c.listed) for c in self.concepts]
        names = [name for row in self.rows for name in (row.image, *row.maps)]
        hashes = list(ordered(self._hash, names, 4 * WORKERS))
        return digest(self.categories, concepts, self.size, self.label_shape, self.rows, hashes)

    def _hash(self, name: str) -> str:
        path = readable(self._images, name, self.name)
        try:
            return sha256(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; open the data again") from error


def read_label_map(path: Path, shape: tuple[int, int]) -> Int32[np.ndarray, "h w"]:
    """The label numbers of an 8-bit RGB PNG of known shape: R + 256·G.

    Raises:
        DataError: the file is anything else, or is damaged.
    """
    size, (color, bits) = png_header(path, "label map")
    if (color, bits) != (2, 8):
        raise DataError(
            f"the label map {path} is a PNG of color type {color} and {bits} bits, not RGB of 8;"
            " save label = R + 256 G"
        )
    if size != shape:
        raise DataError(
            f"the label map {path} has {size[0]}x{size[1]} pixels (height x width), not"
            f" {shape[0]}x{shape[1]} as index.csv says; resize it to the nearest pixels"
        )
    try:
        with Image.open(path, formats=("PNG",)) as image:
            pixels = np.asarray(image).astype(np.int32)  # 256 times a byte is no byte
    except Exception as error:  # damaged bytes make Pillow's parsers raise almost anything
        raise ImageError(f"cannot read the label map {path}: {error}; replace the file") from error
    if pixels[..., 2].any():
        raise DataError(
            f"the label map {path} has blue pixels, so it is not a label map; save label = R + 256 "
            "G, B = 0"
        )
    labels: Int32[np.ndarray, "h w"] = pixels[..., 0] + 256 * pixels[..., 1]
    return labels


def png_header(path: Path, what: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a PNG file, its color type and its bits, which Pillow does not report.

    Raises:
        DataError: the file is not a PNG, or is too large to decode.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(26)
    except OSError as error:
        raise DataError(f"cannot read the {what} {path}: {error.strerror}") from error
    if len(header) < 26 or header[:8] != PNG or header[12:16] != b"IHDR":
        raise ImageError(f"the {what} {path} is not a PNG file; replace it")
    width, height, bits, color = struct.unpack(">IIBB", header[16:])
    if width * height > MAX_PIXELS:
        raise DataError(
            f"the {what} {path} has {width}x{height} pixels, more than {MAX_PIXELS}; make it"
            " smaller"
        )
    return (height, width), (color, bits)

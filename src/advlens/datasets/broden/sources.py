"""The sources of a user's own data set: images, masks, and tables that name their values."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from advlens.datasets.base import digest
from advlens.datasets.broden.colors import FOCAL
from advlens.datasets.broden.data import png_header
from advlens.datasets.broden.instances import ODD, Instance, centers, read_instances
from advlens.datasets.broden.layout import (
    MAX_LABEL,
    SIZES,
    readable,
    table,
    whole_number,
)
from advlens.datasets.folder import IGNORED, SUFFIXES
from advlens.datasets.reading import WORKERS, ordered
from advlens.errors import DataError
from advlens.files import sha256

COLOR = "color"
KINDS = {
    (0, 8): "gray",
    (0, 16): "gray",
    (2, 8): "RGB",
    **{(3, n): "palette" for n in (1, 2, 4, 8)},
}
"""Supported PNG masks, by color type and bit depth."""


class Source(NamedTuple):
    """Files and tables, checked as far as possible without reading pixels."""

    images: Path
    files: dict[str, str]
    """From each image of the new set, such as a/1.jpg, to its file in `images`, such as a/1.png."""
    masks: dict[tuple[str, str], Path]
    """The mask of an image and a category."""
    values: dict[str, dict[int, str]]
    """Names of the masks' values in each category; values without a name are unlabeled."""
    whole: dict[tuple[str, str], list[str]]
    """Names for the whole image, by image and category."""
    segments: dict[str, dict[int, int]]
    """The value of each segment of a panoptic mask, by the mask's name; empty for other masks."""
    instances: dict[str, list[Instance]]
    """In place of masks, the objects of each image that COCO's annotations list."""

    def names(self) -> list[str]:
        """All names without duplicates, in alphabetical order."""
        of_masks = [name for values in self.values.values() for name in values.values() if name]
        of_images = [name for names in self.whole.values() for name in names]
        return sorted({*FOCAL, *of_masks, *of_images})

    def categories(self) -> list[str]:
        """All categories, without duplicates."""
        return list(dict.fromkeys([COLOR, *self.values, *(category for _, category in self.whole)]))

    def digest(self) -> str:
        """SHA-256 of all sources; it reads every file."""
        paths = [*(self.images / file for file in self.files.values()), *self.masks.values()]
        hashes = list(ordered(sha256, paths, 4 * WORKERS))
        masks = [list(key) for key in self.masks]
        whole = [[*key, *names] for key, names in self.whole.items()]
        values = [[c, *value] for c, values in self.values.items() for value in values.items()]
        segments = [[n, *each.items()] for n, each in self.segments.items()]
        instances = [[*pair] for pair in self.instances.items()]
        return digest(self.files, masks, values, whole, hashes, *segments, *instances)


def find_source(
    images: Path, masks: Path | None, labels: Path | None, whole: Path | None
) -> Source:
    """Find the images, and the masks that the tables need.

    Raises:
        DataError: a table or folder is missing or damaged, a mask belongs to no image, or a name is
            not allowed in the Broden layout.
    """
    root = Path(os.path.realpath(images))
    files: dict[str, str] = {}
    for file in files_below(root):
        if not file.lower().endswith(SUFFIXES):
            continue
        readable(root, file, str(images))
        name = f"{os.path.splitext(file)[0]}.jpg"
        if name in files or ";" in name:
            raise DataError(
                f"{root / file} and {files.get(name, 'its semicolon')} cannot both be in index.csv;"
                " rename the file"
            )
        files[name] = file
    if not files:
        raise DataError(f"{images} holds no image ({', '.join(SUFFIXES)}); give another folder")
    values, segments = dict[str, dict[int, str]](), dict[str, dict[int, int]]()
    instances = dict[str, list[Instance]]()
    if masks is None and labels is not None and labels.suffix == ".json":
        values["object"], instances = read_instances(labels, _text(labels), files)
    elif (masks is None) != (labels is None):
        raise DataError(
            "masks need a table of labels, and the table needs masks; give both, or COCO's "
            "instances_*.json as labels alone"
        )
    elif labels is not None and labels.suffix == ".json":
        values, segments = read_panoptic(labels)
    elif labels is not None:
        values = read_ade(labels) or read_values(labels)
    return Source(
        root,
        files,
        {} if masks is None else find_masks(Path(os.path.realpath(masks)), files, values, segments),
        values,
        {} if whole is None else read_whole(whole, files),
        segments,
        instances,
    )


def files_below(root: Path) -> Iterator[str]:
    """Sorted paths of the files below a folder, except hidden ones, notes, and what links to other
    folders hold."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; check its permissions")

    files = (
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, names in os.walk(root, onerror=refuse)
        for file in names
        if not IGNORED.fullmatch(file)
    )
    return iter(sorted(files))


def find_masks(
    root: Path,
    files: dict[str, str],
    values: dict[str, dict[int, str]],
    segments: dict[str, dict[int, int]],
) -> dict[tuple[str, str], Path]:
    """The masks `<category>/<image>.png` below a folder, by image and category.

    They may lie in the folder itself where there is one category, or where all share the masks.
    """
    masks = dict[tuple[str, str], Path]()
    for file in files_below(root):
        path = readable(root, file, str(root))
        category, _, name = file.partition("/")
        own = [category] if category in values else []
        if segments or (len(values) == 1 and not own):
            own, name = list(values), file
        image = f"{name.removesuffix('.png')}.jpg"
        if not own or not name.endswith(".png") or image not in files:
            raise DataError(
                f"the mask {root / file} belongs to no image and category; name it <category>/"
                "<image>.png, with a category of the table of labels, or remove it"
            )
        if segments and path.name not in segments:
            raise DataError(
                f"the mask {path} is not among the annotations of --labels; give their own masks"
            )
        masks |= {(image, each): path for each in own}
    if not masks:
        raise DataError(f"{root} holds no masks; name them <category>/<image>.png")
    return masks


def read_values(path: Path) -> dict[str, dict[int, str]]:
    """The table of labels: value (in the masks), name, category."""
    result: dict[str, dict[int, str]] = {}
    for place, (text, name, category) in _table(path, ["value", "name", "category"]):
        value = 0 if text == "0" else whole_number(text, "value", place, MAX_LABEL)
        own = result.setdefault(_category(category, place), {})
        if value in own or not name.isprintable():
            raise DataError(f"{place}: value {value} of {category} occurs twice or is misnamed")
        own[value] = name
    return result


def read_ade(path: Path) -> dict[str, dict[int, str]]:
    """The labels of ADE20K's scene parsing, as objectInfo150.txt has them; none of other files."""
    head, *lines = _text(path).splitlines() or [""]
    if head.split("\t")[:1] + head.split("\t")[-1:] != ["Idx", "Name"]:
        return {}
    parts = [line.split("\t") for line in lines if line]
    try:
        return {"object": {int(part[0]): part[-1].split(",")[0].strip() for part in parts}}
    except ValueError as error:
        raise DataError(f"cannot read {path}: {error}; give objectInfo150.txt as it is") from error


def read_panoptic(path: Path) -> tuple[dict[str, dict[int, str]], dict[str, dict[int, int]]]:
    """The labels of COCO's panoptic annotations, things as objects beside stuff; their segments.

    Raises:
        DataError: the file is not of this form.
    """
    try:
        found = json.loads(_text(path))
        values: dict[str, dict[int, str]] = {}
        numbers = {int(each["id"]): n for n, each in enumerate(found["categories"], 1)}
        for number, each in enumerate(found["categories"], 1):
            for name, thing in (("object", 1), ("stuff", 0)):
                meant = str(each["name"]) if each["isthing"] == thing else ""
                values.setdefault(name, {})[number] = meant
        segments = {
            str(each["file_name"]): {
                int(part["id"]): numbers[int(part["category_id"])] for part in each["segments_info"]
            }
            for each in found["annotations"]
        }
    except ODD as error:
        raise DataError(
            f"{path} holds no panoptic annotations of COCO ({type(error).__name__}: {error}); give "
            "panoptic_*.json, or a table value,name,category"
        ) from error
    return {name: own for name, own in values.items() if any(own.values())}, segments


def _text(path: Path) -> str:
    real = Path(os.path.realpath(path))
    try:
        return readable(real.parent, real.name, str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {path}: {reason}; replace the file") from error


def read_whole(path: Path, files: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    """The table of labels for whole images: image, category, name."""
    names = {file: name for name, file in files.items()}
    result: dict[tuple[str, str], list[str]] = {}
    for place, (image, category, name) in _table(path, ["image", "category", "name"]):
        if image not in names or not name or not name.isprintable():
            raise DataError(f"{place}: there is no image {image!r}, or its label has no name")
        own = result.setdefault((names[image], _category(category, place)), [])
        if name in own:
            raise DataError(f"{place}: {image} has {name} twice; remove one")
        own.append(name)
    return result


def _table(path: Path, columns: list[str]) -> Iterator[tuple[str, list[str]]]:
    real = Path(os.path.realpath(path))
    return table(real.parent, real.name, columns)


def _category(name: str, place: str) -> str:
    """The category name, which becomes part of file names and a column of index.csv."""
    if not re.fullmatch("[A-Za-z0-9-]+", name) or name in (COLOR, "image", "split", *SIZES):
        raise DataError(
            f"{place}: {name!r} cannot be a category; use letters, digits and hyphens (colors are"
            " computed)"
        )
    return name


def read_mask(
    path: Path, shape: tuple[int, int], segments: dict[int, int] | None = None
) -> UInt16[np.ndarray, "h w"]:
    """The values of a mask: gray levels of 8 or 16 bits, palette indices, or R + 256·G.

    Args:
        path: the mask.
        shape: height and width of its image.
        segments: for a panoptic mask, the value of each of its segments R + 256·G + 65536·B; 0 is
            no segment.

    Raises:
        DataError: the file is not such a PNG, has another shape, or is damaged.
    """
    size, kind = png_header(path, "mask")
    if kind not in KINDS:
        raise DataError(
            f"the mask {path} is a PNG of color type {kind[0]} and {kind[1]} bits; save it as gray"
            " of 8 or 16 bits, with a palette, or as RGB with value = R + 256 G"
        )
    if size != shape:
        raise DataError(
            f"the mask {path} has {size[0]}x{size[1]} pixels (height x width), its image"
            f" {shape[0]}x{shape[1]}; resize it to the nearest pixels"
        )
    try:
        with Image.open(path, formats=("PNG",)) as image:
            pixels = np.asarray(image).astype(np.uint16)
    except Exception as error:  # damaged bytes make Pillow's parsers raise almost anything
        raise DataError(f"cannot read the mask {path}: {error}; replace the file") from error
    if pixels.ndim == 2 and segments is None:
        return pixels
    if pixels.ndim == 2:
        raise DataError(f"the mask {path} is not RGB, as COCO's panoptic masks are; replace it")
    if segments is not None:
        wide = pixels.astype(np.int64)
        numbers, places = np.unique(
            wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2], return_inverse=True
        )
        known = {0: 0, **segments}
        if missing := [number for number in numbers.tolist() if number not in known]:
            raise DataError(
                f"the mask {path} holds segment {missing[0]}, which its annotation does not list; "
                "give the masks that belong to --labels"
            )
        meant = np.array([known[number] for number in numbers.tolist()], np.uint16)
        values: UInt16[np.ndarray, "h w"] = meant[places.reshape(shape)]
        return values
    if pixels[..., 2].any():
        raise DataError(
            f"the mask {path} is a picture: it has blue pixels; save value = R + 256 G, B = 0"
        )
    return pixels[..., 0] + 256 * pixels[..., 1]


def nearest(values: UInt16[np.ndarray, "h w"], side: int) -> UInt16[np.ndarray, "s s"]:
    """A mask resized to side×side by its values at the centers of the new pixels."""
    rows, columns = centers(values.shape, side)
    squeezed: UInt16[np.ndarray, "s s"] = values[rows][:, columns]
    return squeezed

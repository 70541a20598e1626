"""Make a data set in the Broden layout from your own images and masks (docs/broden.md)."""

import csv
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from advlens.datasets.base import digest
from advlens.datasets.broden.colors import FOCAL, color_index
from advlens.datasets.broden.data import BrodenData, read_label_map
from advlens.datasets.broden.instances import painted
from advlens.datasets.broden.layout import MAX_LABEL
from advlens.datasets.broden.sources import COLOR, Source, find_source, nearest, read_mask
from advlens.datasets.decoding import read_rgb
from advlens.datasets.reading import WORKERS, ordered
from advlens.errors import DataError, RunError, SettingsError
from advlens.files import locked

ORIGIN = "made-from.txt"
"""A file in a finished set with the SHA-256 of its sources."""
TRAIN = 0.8
"""Share of the images in the split `train`; the rest is `val`."""


class Labeled(NamedTuple):
    """The metadata of one image."""

    image: str
    cells: dict[str, list[str | int]]
    """For each category the paths of its label maps, then the numbers of whole-image labels."""
    pixels: Counter[tuple[str, int]]
    """Pixels of the label maps, by category and number; all pixels for a whole-image label."""


def build_broden(
    images: Path,
    masks: Path | None,
    labels: Path | None,
    to: Path,
    *,
    whole: Path | None = None,
    size: int = 224,
    label_size: int = 112,
) -> Path:
    """Make a data set in the Broden layout; one made from identical sources is kept.

    Whole images are squeezed to `size` (bicubic, antialiased; JPEG of quality 95), masks to
    `label_size` (nearest pixel). Colors are computed (`colors.py`). As in Broden, label numbers
    follow the falling number of images that show a label, and rows are ordered by the MD5 of the
    image's name.

    Args:
        images: a folder of image files, at any depth.
        masks: a folder of `<category>/<image>.png`, or `<image>.png` for a single category, with
            the size of their images: gray levels of 8 or 16 bits, palette indices, or R + 256·G; or
            COCO's panoptic masks.
        labels: a table `value,name,category` that names the masks' values, or ADE20K's
            objectInfo150.txt. A value without a name is unlabeled, as is 0 if it is not listed. Or
            COCO's `panoptic_*.json`; or, without masks, COCO's `instances_*.json`, whose file names
            are relative to `images`, for the category object: a smaller one lies before larger
            ones.
        to: the folder to write; it appears once it is complete.
        whole: a table `image,category,name` of whole-image labels, such as the scene.
        size: side of the images, in pixels.
        label_size: side of the label maps, in pixels.

    Returns:
        `to`.

    Raises:
        DataError: an image, mask or table is missing or damaged, or holds an unlisted value.
        RunError: `to` holds something else, is in use by another process, or cannot be written.
    """
    if size < 1 or label_size < 1:
        raise SettingsError("images and label maps need at least 1 pixel; choose a larger size")
    target = Path(os.path.realpath(to))
    for folder in (images, masks):
        if folder is not None and target.is_relative_to(os.path.realpath(folder)):
            raise SettingsError(f"{to} lies in {folder}, which is read; choose another folder")
    source = find_source(images, masks, labels, whole)
    origin = digest(size, label_size, source.digest())
    if target.is_dir() and any(target.iterdir()):
        if _origin(target) != origin:
            raise RunError(
                f"{to} exists and was not made from these images, masks and tables; choose another"
                " folder or remove it"
            )
        BrodenData(target)
        return to
    unfinished = target.with_name(f".{target.name}.partial")
    with locked(unfinished):
        try:
            for path in unfinished.iterdir():  # left by a killed process
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _build(source, unfinished, size, label_size)
            (unfinished / ORIGIN).write_text(f"{origin}\n")
            BrodenData(unfinished)
            (unfinished / ".lock").unlink()
            os.rename(unfinished, target)
        except OSError as error:
            raise RunError(
                f"cannot write {to}: {error.strerror or error}; free space or choose another folder"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return to


def _origin(folder: Path) -> str | None:
    path = folder / ORIGIN
    return path.read_text(errors="replace").strip() if path.is_file() else None


def _build(source: Source, folder: Path, size: int, label_size: int) -> None:
    """Write all files; label numbers need every mask, so maps are written twice."""
    names = source.names()
    if len(names) > MAX_LABEL:
        raise DataError(f"{len(names)} labels are more than {MAX_LABEL}, the most a map can hold")
    first = {name: number for number, name in enumerate(names, 1)}
    label = partial(_label, source, folder / "images", first, size, label_size)
    labeled, images, pixels = [], Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for one in ordered(label, source.files, 2 * WORKERS):
        labeled.append(one)
        images.update(one.pixels.keys())
        pixels.update(one.pixels)
    of_label, area_of_label = Counter[int](), Counter[int]()
    for category, number in images:
        of_label[number] += images[category, number]
        area_of_label[number] += pixels[category, number]
    order = sorted(of_label, key=lambda n: (-of_label[n], -area_of_label[n], n))
    final = np.zeros(len(names) + 1, np.int64)
    final[order] = np.arange(1, len(order) + 1)
    cells = [cell for one in labeled for row in one.cells.values() for cell in row]
    maps = [folder / "images" / cell for cell in cells if isinstance(cell, str)]
    renumber = partial(_renumber, (label_size, label_size), final)
    for _ in ordered(renumber, maps, 2 * WORKERS):
        pass
    statistics = {
        (category, int(final[n])): (count, pixels[category, n] / label_size**2)
        for (category, n), count in images.items()
    }
    categories = write_labels(
        folder, {number: names[n - 1] for number, n in enumerate(order, 1)}, statistics
    )
    rows = [[one.image, *_cells(one, categories, final)] for one in labeled]
    write_index(folder, categories, rows, size, label_size)


def _label(
    source: Source, folder: Path, numbers: dict[str, int], size: int, label_size: int, name: str
) -> Labeled:
    """Write an image and its label maps with preliminary numbers, and count them."""
    image = read_rgb(source.images / source.files[name])
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    squeezed = image.resize((size, size), Image.Resampling.BICUBIC)
    squeezed.save(path, "JPEG", quality=95, subsampling=0)
    small = image.resize((label_size, label_size), Image.Resampling.BICUBIC)
    colors = np.array([numbers[color] for color in FOCAL])[color_index(np.asarray(small))]
    cells: dict[str, list[str | int]] = {}
    pixels = Counter[tuple[str, int]]()
    for category in source.categories():
        labels = colors if category == COLOR else None
        if (name, category) in source.masks:
            mask = source.masks[name, category]
            segments = source.segments.get(mask.name)
            values = nearest(read_mask(mask, (image.height, image.width), segments), label_size)
            labels = _meant(mask, values, source.values[category], numbers)
        elif name in source.instances and category in source.values:
            file = source.images / source.files[name]
            found = source.instances[name]
            values = painted(found, (image.height, image.width), label_size, str(file))
            labels = _meant(file, values, source.values[category], numbers)
        if labels is not None:
            cells[category] = [f"{name.removesuffix('.jpg')}_{category}.png"]
            save_label_map(folder / str(cells[category][0]), labels)
            for number, count in zip(*np.unique(labels, return_counts=True), strict=True):
                if number:
                    pixels[category, int(number)] = int(count)
        for label in source.whole.get((name, category), []):
            cells.setdefault(category, []).append(numbers[label])
            pixels[category, numbers[label]] = label_size**2
    return Labeled(name, cells, pixels)


def _meant(
    mask: Path, values: Int[np.ndarray, "h w"], names: dict[int, str], numbers: dict[str, int]
) -> Int[np.ndarray, "h w"]:
    """The label numbers for a mask's values."""
    meaning = np.full(MAX_LABEL + 1, -1)
    meaning[0] = 0
    for value, name in names.items():
        meaning[value] = numbers[name] if name else 0
    labels: Int[np.ndarray, "h w"] = meaning[values]
    if (labels < 0).any():
        raise DataError(
            f"the mask {mask} holds value {values[labels < 0][0]}, which the table of labels does"
            " not list; add it, without a name where it is unlabeled"
        )
    return labels


def _renumber(shape: tuple[int, int], final: Int[np.ndarray, " n"], path: Path) -> None:
    save_label_map(path, final[read_label_map(path, shape)])


def save_label_map(path: Path, labels: Int[np.ndarray, "h w"]) -> None:
    """Write labels as R + 256·G of an RGB PNG."""
    channels = [labels % 256, labels // 256, np.zeros_like(labels)]
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).save(path, "PNG")


def _cells(one: Labeled, categories: Sequence[str], final: Int[np.ndarray, " n"]) -> list[str]:
    return [
        ";".join(
            item if isinstance(item, str) else str(final[item])
            for item in one.cells.get(category, [])
        )
        for category in categories
    ]


def write_labels(
    folder: Path, names: dict[int, str], statistics: dict[tuple[str, int], tuple[int, float]]
) -> list[str]:
    """Write label.csv, category.csv and c_<category>.csv.

    Args:
        folder: the folder to write to.
        names: label names, by number.
        statistics: frequency (images) and coverage (images' worth of pixels) of each label in each
            of its categories.

    Returns:
        The categories, in the order of their smallest number.
    """
    labels = []
    for number, name in names.items():
        own = {c: tally for (c, n), tally in statistics.items() if n == number}
        shown = sorted(own, key=lambda category: (-own[category][0], category))
        frequency, coverage = (sum(part) for part in zip(*own.values(), strict=True))
        counts = ";".join(f"{category}({own[category][0]})" for category in shown)
        labels.append([number, name, counts, frequency, f"{coverage:.6f}", ""])
    _write(folder / "label.csv", "number,name,category,frequency,coverage,syns", labels)
    of_category: dict[str, dict[int, tuple[int, float]]] = {}
    for (category, number), tally in statistics.items():
        of_category.setdefault(category, {})[number] = tally
    categories = sorted(of_category, key=lambda category: min(of_category[category]))
    lines = []
    for category in categories:
        counted = sorted(of_category[category].items(), key=lambda item: (-item[1][0], item[0]))
        _write(
            folder / f"c_{category}.csv",
            "code,number,name,frequency,coverage",
            [
                [code, number, names[number], frequency, f"{coverage:.6f}"]
                for code, (number, (frequency, coverage)) in enumerate(counted, 1)
            ],
        )
        numbers, total = [n for n, _ in counted], sum(tally[0] for _, tally in counted)
        lines.append([category, min(numbers), max(numbers), len(numbers), total])
    _write(folder / "category.csv", "name,first,last,count,frequency", lines)
    return categories


def write_index(
    folder: Path, categories: Sequence[str], rows: Iterable[list[str]], size: int, label_size: int
) -> None:
    """Write index.csv, ordered by the MD5 of the image's name, which also decides the split."""
    lines = []
    for image, *cells in rows:
        place = hashlib.md5(image.encode(), usedforsecurity=False).digest()
        split = "train" if int.from_bytes(place[:8]) <= TRAIN * 2**64 else "val"
        line = [image, split, size, size, label_size, label_size, *cells]
        lines.append((place, line))
    columns = ",".join(["image,split,ih,iw,sh,sw", *categories])
    _write(folder / "index.csv", columns, [line for _, line in sorted(lines)])


def _write(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns.split(","), *rows])

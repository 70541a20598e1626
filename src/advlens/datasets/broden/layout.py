"""The tables of a data set in the Broden layout, checked before any pixel is read.

Bau et al., Network Dissection, CVPR 2017; the layout is that of Broden 1.0 (docs/broden.md).
"""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from advlens.datasets.decoding import MAX_PIXELS
from advlens.datasets.folder import listing
from advlens.errors import DataError

MAX_LABEL = 255 + 256 * 255
MAX_TABLE_BYTES = 1 << 30
"""Larger tables are refused; the index of Broden 1.0 has 8 MB."""
SIZES = ("ih", "iw", "sh", "sw")


@dataclass(frozen=True)
class Concept:
    """What a label number stands for."""

    number: int
    """The number in the label maps, from 1."""
    name: str
    category: str
    """The category, of those that list it, in which it covers most; ties go to the first."""
    listed: tuple[str, ...]
    """All categories that list it: images labeled in one of them may carry it."""


class Row(NamedTuple):
    """One image and its metadata."""

    image: str
    """Path below `images/`, as for the maps."""
    image_shape: tuple[int, int]
    maps: tuple[str, ...]
    """Label maps of all categories, in the categories' order."""
    whole: tuple[int, ...]
    """Labels of the whole image, without duplicates."""
    carries: tuple[bool, ...]
    """Whether the image is labeled in each category."""


class Layout(NamedTuple):
    """The contents of all tables."""

    categories: tuple[str, ...]
    concepts: tuple[Concept, ...]
    label_shape: tuple[int, int]
    rows: list[Row]


def read_layout(root: Path) -> Layout:
    """Read the tables of a data set, and check that each file they name exists.

    Args:
        root: the resolved folder of the data set.

    Raises:
        DataError: a table or file is missing, or a table holds an invalid value.
    """
    categories = read_categories(root)
    concepts = read_concepts(root, categories)
    label_shape, rows = read_index(root, categories, {concept.number for concept in concepts})
    return Layout(categories, concepts, label_shape, rows)


def read_categories(root: Path) -> tuple[str, ...]:
    """The names in category.csv, in order."""
    names: list[str] = []
    for place, (name,) in table(root, "category.csv", ["name"]):
        if name in names or not name or not name.isprintable():
            raise DataError(f"{place}: the category {name!r} occurs twice or has no name")
        names.append(name)
    if not names:
        raise DataError(f"{root / 'category.csv'} names no category; add one")
    return tuple(names)


def read_concepts(root: Path, categories: Sequence[str]) -> tuple[Concept, ...]:
    """The labels in label.csv that a category lists, by number."""
    names: dict[int, str] = {}
    for place, (text, name) in table(root, "label.csv", ["number", "name"]):
        number = whole_number(text, "number", place, MAX_LABEL)
        if not name or not name.isprintable():
            raise DataError(f"{place}: label {number} has no printable name; give it one")
        if number in names or name in names.values():
            raise DataError(f"{place}: label {number} ({name}) occurs twice; keep one of them")
        names[number] = name
    best: dict[int, tuple[float, str]] = {}
    listed: dict[int, tuple[str, ...]] = {}
    for category in categories:
        seen: set[int] = set()
        columns = ["number", "name", "coverage"]
        for place, (text, name, covered) in table(root, f"c_{category}.csv", columns):
            number = whole_number(text, "number", place, MAX_LABEL)
            if names.get(number) != name:
                raise DataError(
                    f"{place}: label {number} ({name!r}) is not in label.csv under this name; add"
                    " it there or remove it here"
                )
            if number in seen:
                raise DataError(f"{place}: label {number} ({name}) occurs twice; remove one")
            seen.add(number)
            listed[number] = (*listed.get(number, ()), category)
            coverage = amount(covered, "coverage", place)
            if number not in best or coverage > best[number][0]:
                best[number] = (coverage, category)
    if not best:
        raise DataError(f"the categories of {root} list no label; fill its c_<category>.csv")
    return tuple(
        Concept(number, names[number], best[number][1], listed[number]) for number in sorted(best)
    )


def read_index(
    root: Path, categories: Sequence[str], known: set[int]
) -> tuple[tuple[int, int], list[Row]]:
    """The size of the label maps (height, width), and the rows of index.csv."""
    images = inside(root, "images", str(root))
    present = regular_files(images)
    rows: list[Row] = []
    label_shape = None

    def named(path: str, place: str) -> str:
        if path not in present or not path.isprintable():
            readable(images, path, place)
        return path

    for place, (image, *values) in table(root, "index.csv", ["image", *SIZES, *categories]):
        sizes, cells = values[: len(SIZES)], values[len(SIZES) :]
        ih, iw, sh, sw = (
            whole_number(text, name, place, MAX_PIXELS)
            for name, text in zip(SIZES, sizes, strict=True)
        )
        if max(ih * iw, sh * sw) > MAX_PIXELS:
            raise DataError(f"{place}: {ih}x{iw} or {sh}x{sw} is above {MAX_PIXELS} pixels")
        if label_shape is None:
            label_shape = (sh, sw)
        elif label_shape != (sh, sw):
            raise DataError(
                f"{place}: label maps have {sh}x{sw} pixels, earlier ones "
                f"{label_shape[0]}x{label_shape[1]}; resize all maps to one size"
            )
        maps: list[str] = []
        whole: dict[int, None] = {}
        carries = []
        for cell in cells:
            items = [item for item in cell.split(";") if item.strip("0")]  # Broden has cells "0"
            carries.append(bool(items))
            for item in items:
                if not re.fullmatch("[0-9]+", item):
                    maps.append(named(item, place))
                elif (number := whole_number(item, "label", place, MAX_LABEL)) in known:
                    whole[number] = None
                else:
                    raise DataError(f"{place}: no category lists label {number}; {UNKNOWN}")
        rows.append(Row(named(image, place), (ih, iw), tuple(maps), tuple(whole), tuple(carries)))
    if label_shape is None:
        raise DataError(f"{root / 'index.csv'} names no image; add a row for each")
    return label_shape, rows


UNKNOWN = "add it to label.csv and to its c_<category>.csv, or set it to 0"


def table(root: Path, name: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """For each line of a CSV file: its place, for errors, and its values in some columns.

    Raises:
        DataError: the file is missing, not a UTF-8 table, or lacks one of the columns.
    """
    path = readable(root, name, str(root))
    try:
        if (size := path.stat().st_size) > MAX_TABLE_BYTES:
            raise DataError(f"{path} has {size} bytes, too many for a table; replace it")
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            for column in columns:
                if header.count(column) != 1:
                    raise DataError(
                        f"{path} has {header.count(column)} columns named {column!r} instead of "
                        "one; fix its first line"
                    )
            places = [header.index(column) for column in columns]
            for line in lines:
                if not line:
                    continue
                place = f"{path} line {lines.line_num}"
                if len(line) != len(header):
                    raise DataError(
                        f"{place} has {len(line)} values, expected {len(header)}; fix it"
                    )
                yield place, [line[i] for i in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the table {path}: {error}; replace it") from error


def whole_number(text: str, name: str, place: str, most: int) -> int:
    """A number from 1 to `most`, in decimal digits."""
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise DataError(f"{place}: {name} is {text[:80]!r}, not a whole number from 1 to {most}")
    return int(text)


def amount(text: str, name: str, place: str) -> float:
    """A finite, non-negative number."""
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]*)?(e[-+]?[0-9]{1,2})?", text):
        raise DataError(f"{place}: {name} is {text[:80]!r}, not a number of at least 0")
    return float(text)


def regular_files(folder: Path) -> set[str]:
    """Paths of the files below a folder, without following links; one scan serves all rows."""
    files, pending = set(), [""]
    while pending:
        prefix = pending.pop()
        for entry in listing(folder / prefix):
            if entry.is_file(follow_symlinks=False):
                files.add(prefix + entry.name)
            elif entry.is_dir(follow_symlinks=False):
                pending.append(f"{prefix}{entry.name}/")
    return files


def readable(folder: Path, name: str, place: str) -> Path:
    """The real path of a regular file below a resolved folder.

    Raises:
        DataError: the path leads out of the folder, or no file is there.
    """
    path = inside(folder, name, place)
    if not os.path.isfile(path):
        raise DataError(f"{place}: there is no file {folder / name[:200]}; put it there")
    return path


def inside(folder: Path, name: str, place: str) -> Path:
    """The real path of a file that a table names; it must lie below `folder` after all links."""
    if not name or not name.isprintable():
        raise DataError(f"{place}: {name[:200]!r} is not a printable path; rename the file")
    path = Path(os.path.realpath(folder / name))
    if folder not in path.parents:
        raise DataError(f"{place}: {name[:200]!r} leads out of {folder}; copy its target there")
    return path

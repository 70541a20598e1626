"""Images that a table lists: CSV or Parquet with the columns path, label and perhaps target."""

import csv
import os
import re
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import torch

from advlens.arrays import Labels
from advlens.datasets.folder import WNID
from advlens.datasets.reading import FileData
from advlens.datasets.transform import Transform
from advlens.errors import DataError, SettingsError

COLUMNS = ("path", "label", "target")
FORM = "a table has a header and the columns path, label and, for targeted attacks, target"
MOST_CLASSES = 100_000
"""Maximum number of classes that are counted rather than named."""


def load_csv(table: Path, split: Literal["test", "train"], transform: Transform) -> FileData:
    """The images that a CSV file lists, in its order.

    The paths are relative to the folder of the table. Labels and targets are class names, WordNet
    ids where all of them are, or numbers of the model's outputs, from 0, where all of them are
    whole numbers.

    Raises:
        DataError: the table is damaged, or has no such columns; an image does not exist; a label or
            a target is missing, or both are the same class.
    """
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            present = rows.fieldnames or ()
            return _listed(table, present, ((rows.line_num, row) for row in rows), transform)
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not in UTF-8 ({error}); save it as CSV in UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {table}: {reason}; {FORM}") from error


def load_parquet(table: Path, split: Literal["test", "train"], transform: Transform) -> FileData:
    """The same from a Parquet file.

    Raises:
        SettingsError: pyarrow is not installed.
        DataError: as `load_csv`.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise SettingsError(
            f"reading {table} needs pyarrow, which is not installed; pip install "
            "'advlens[parquet]', or save the table as CSV"
        ) from error
    try:
        with parquet.ParquetFile(table) as file:
            present = file.schema_arrow.names
            rows = file.read(columns=[name for name in COLUMNS if name in present]).to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"cannot read {table}: {error}; {FORM}") from error
    return _listed(table, present, enumerate(rows, 1), transform)


def _listed(
    table: Path,
    present: Sequence[str],
    rows: Iterable[tuple[int, dict[str, Any]]],
    transform: Transform,
) -> FileData:
    wanted = [name for name in COLUMNS if name in present]
    if wanted[:2] != ["path", "label"]:
        raise DataError(f"{table} has the columns {', '.join(present)[:200] or 'none'}; {FORM}")
    if twice := [name for name in wanted if [*present].count(name) > 1]:
        raise DataError(f"{table} has the column {twice[0]} twice; {FORM}")
    cells = dict[str, list[str]]({name: [] for name in wanted})
    for number, row in rows:
        if len(row) > len(present):  # under None stands what is left over
            raise DataError(
                f"line {number} of {table} has more cells than the header; put a cell that has a "
                "comma into quotation marks"
            )
        for name in wanted:
            cell = "" if row[name] is None else str(row[name]).strip()
            if not cell:
                raise DataError(f"line {number} of {table} has no {name}; give every image one")
            cells[name].append(cell)
        if not os.path.isfile(table.parent / cells["path"][-1]):
            raise DataError(
                f"line {number} of {table} names {table.parent / cells['path'][-1]}, which is no "
                "file; paths are relative to the folder of the table"
            )
        if "target" in cells and cells["target"][-1] == cells["label"][-1]:
            raise DataError(
                f"line {number} of {table} has the target {cells['target'][-1]!r}, which is the "
                "image's label; a target is another class"
            )
    if not cells["path"]:
        raise DataError(f"{table} lists no image; give each a line")
    classes, numbered = classes_of(table, {*cells["label"], *cells.get("target", ())})
    place = {name: number for number, name in enumerate(classes)}

    def numbers(names: Sequence[str]) -> Labels:
        return torch.tensor([int(name) if numbered else place[name] for name in names])

    data = FileData(
        table.parent,
        cells["path"],
        transform=transform,
        name=table.name,
        classes=classes,
        synsets=classes if all(map(WNID.fullmatch, classes)) else None,
        labels=numbers(cells["label"]),
    )
    data.numbered = numbered
    data.targets = numbers(cells["target"]) if "target" in cells else None
    return data


def classes_of(place: Path, names: Set[str]) -> tuple[list[str], bool]:
    """The classes of labels that are texts, and whether they are numbers of a model's outputs.

    Raises:
        DataError: they are, and one is too large, or not a whole number from 0; `place` is where
            they come from.
    """
    if not all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        if all(re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+\.?([eE][-+]?[0-9]+)?", name) for name in names):
            odd = next(name for name in sorted(names) if not re.fullmatch("[0-9]{1,9}", name))
            raise DataError(
                f"{place} has the label {odd}, but labels that are numbers count the model's "
                "outputs; write whole numbers from 0"
            )
        return sorted(names), False
    largest = max(map(int, names))
    if largest >= MOST_CLASSES:
        raise DataError(
            f"{place} has the class {largest}, but classes are counted to {MOST_CLASSES - 1}; "
            "count them from 0, in the order of the model's outputs"
        )
    return [str(number) for number in range(largest + 1)], True

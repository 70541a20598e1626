"""A run folder, read with every value checked, so that sections need no checks of their own."""

import csv
import io
import math
import operator
import re
import typing
from array import array
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from advlens.errors import RunError
from advlens.folders import open_plain, read_object, why
from advlens.runs.columns import Image, is_float, parsed
from advlens.runs.tables import TABLES, Row
from advlens.words import Estimate, printable

LARGEST_RECORD = 2**24
"""Bytes of `run.json`, at most."""
LONGEST_ROW, LONGEST_TEXT = 2**16, 10_000
"""Characters of a row of a table, and of a text of the record, at most."""
MOST_MODELS, MOST_COLUMNS = 100, 200


class _Row(Mapping[str, Any]):
    """One row of a table that is kept by columns, which take much less memory than dictionaries."""

    __slots__ = ("_columns", "_place")

    def __init__(self, columns: Mapping[str, Sequence[Any]], place: int):
        self._columns, self._place = columns, place

    def __getitem__(self, name: str) -> Any:
        value = self._columns[name][self._place]
        return None if value != value else value  # NaN, which no table holds, is an empty cell

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


class Rows(list[Row]):
    """Rows of a table, found by what their columns hold."""

    def where(self, **keys: Any) -> "Rows":
        """Those whose columns hold these values, or one of the values of a tuple."""
        wanted = {name: key if isinstance(key, tuple) else (key,) for name, key in keys.items()}
        return Rows(row for row in self if all(row[name] in wanted[name] for name in wanted))

    def one(self, **keys: Any) -> Row | None:
        """The first of these, if there is one."""
        return next(iter(self.where(**keys)), None)

    def known(self, column: str) -> "Rows":
        """Those in which the cell of a column is not empty."""
        return Rows(row for row in self if row[column] is not None)

    def values(self, *columns: str) -> list[Any]:
        """What a column holds, or several as a tuple; each once, in the order of the rows."""
        return list(dict.fromkeys(map(operator.itemgetter(*columns), self)))

    def grouped(self, *columns: str) -> "dict[Any, Rows]":
        """The rows of each value of a column, or of several as a tuple."""
        groups: dict[Any, Rows] = {}
        for row in self:
            groups.setdefault(operator.itemgetter(*columns)(row), Rows()).append(row)
        return groups

    def split(self, *columns: str) -> "list[Rows]":
        """The groups alone, in the order of their first rows."""
        return list(self.grouped(*columns).values())

    def ordered(self, column: str) -> "Rows":
        """By what a column holds, lowest first."""
        return Rows(sorted(self, key=operator.itemgetter(column)))

    def by(self, column: str) -> dict[Any, Row]:
        """The row of each value of a column; the last one, of several."""
        return {row[column]: row for row in self}

    def estimates(
        self, name: str = "mean", *, by: str = "model", n: str = "n"
    ) -> dict[str, Estimate]:
        """For each value of a column the row's estimate, as `Estimate.of`; without empty ones."""
        return {
            key: Estimate.of(row, name, n)
            for key, row in self.by(by).items()
            if row[name if name in row else f"{name}_mean"] is not None
        }


_LAYER = {"name": str, "units": int}
_MODEL = {
    "name": str,
    "spec": str,
    "weights": str | None,
    "parameters": int,
    "layers": [_LAYER],
    "image_size": object,
    "mean": list,
    "std": list,
    "classes": int,
    "batch_norm_folded": bool,
}
_STAGE = {
    "stage": str,
    "model": str,
    "seconds": float,
    "peak_memory_mb": float | None,
    "images_per_second": float | None,
}
_RECORD = {
    "advlens": str,
    "command": str,
    "created": str,
    "seed": int,
    "settings": dict,
    "models": [_MODEL],
    "data": {"name": str, "fingerprint": str, "images": int, "classes": [str]},
    "versions": dict,
    "machine": dict,
    "stages": [_STAGE],
    "warnings": [str],
    "unfinished": [{"model": str, "stage": str}],
    "notes": [str],
}


@dataclass(frozen=True)
class Results:
    """A run folder: `run.json` as `record`, the tables of `results/` by `table`."""

    run: Path
    record: Mapping[str, Any]
    _read: dict[str, Rows] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, run: Path) -> "Results":
        """Read `run.json`.

        Raises:
            RunError: it is absent, not JSON, or lacks something; the message names the place.
        """
        path = Path(run) / "run.json"
        try:
            record = read_object(path, LARGEST_RECORD)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and _is_begun(Path(run)):
                raise RunError(
                    f"the run in {run} is not finished; the command that began it goes on with it, "
                    "and there is nothing to show yet"
                ) from error
            reason = "it is not there" if isinstance(error, FileNotFoundError) else why(error)
            raise RunError(
                f"cannot read {path}: {reason}; name a folder made by `advlens audit`"
            ) from error
        # of which runs of earlier versions say nothing
        record = {"warnings": [], "unfinished": [], **_printable(record)}
        if problem := _problem(record, _RECORD, "the record"):
            raise _damaged(path, problem)
        names = [model["name"] for model in record["models"]]
        if len(set(names)) != len(names) or not names or not record["data"]["classes"]:
            raise _damaged(path, "it needs classes and at least one model, each under its own name")
        if len(names) > MOST_MODELS:
            raise _damaged(path, f"it has {len(names)} models, more than {MOST_MODELS}")
        return cls(Path(run), record)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models' names in the order of the command; a model's color goes by its place."""
        return tuple(model["name"] for model in self.record["models"])

    @property
    def chance(self) -> float:
        """Accuracy of guessing: 1 / number of classes."""
        return float(1 / len(self.record["data"]["classes"]))

    def table(self, name: str, columns: Mapping[str, Any] | None = None) -> Rows:
        """The rows of `results/<name>.csv`; none where there is no such file.

        A declared table is read once.

        Args:
            name: of the file, without `.csv`.
            columns: the type of each column that is needed: str, int, float, bool, or `float |
                None` and the like where a cell may be empty. Others are left out. By default those
                that `runs.tables` declares.

        Raises:
            RunError: the file is no such table; the message names the line and the column.
        """
        if columns is None:
            if name not in self._read:
                self._read[name] = self._rows(name, TABLES[name].types, TABLES[name].later)
            return self._read[name]
        return self._rows(name, columns)

    def _rows(self, name: str, columns: Mapping[str, Any], later: Sequence[str] = ()) -> Rows:
        path = self.run / "results" / f"{name}.csv"
        try:
            with closing(_lines(path)) as lines:
                _, header = next(lines, (0, list[str]()))
                if len(set(header)) != len(header) or len(header) > MOST_COLUMNS:
                    raise ValueError("it has two columns of one name, or too many")
                if missing := [name for name in columns if name not in (*header, *later)]:
                    raise ValueError(f"it has no column {missing[0]}")
                return self._kept(path, header, lines, columns)
        except FileNotFoundError:
            return Rows()
        except (OSError, ValueError, csv.Error) as error:
            raise _damaged(path, why(error)) from error

    def columns(self, name: str) -> list[str]:
        """The columns of `results/<name>.csv`.

        Raises:
            RunError: there is no such table, or it is damaged.
        """
        path = self.run / "results" / f"{name}.csv"
        try:
            with closing(_lines(path)) as lines:
                return next(lines, (0, list[str]()))[1]
        except (OSError, ValueError, csv.Error) as error:
            raise _damaged(path, why(error)) from error

    def _kept(
        self,
        path: Path,
        header: list[str],
        lines: Iterator[tuple[int, list[str]]],
        columns: Mapping[str, Any],
    ) -> Rows:
        """The rows of a file; equal texts are kept once."""
        kept: dict[str, Any] = {
            name: array("d") if is_float(kind) else [] for name, kind in columns.items()
        }
        places = {name: header.index(name) for name in columns if name in header}
        numbers = [name for name, kind in columns.items() if kind is Image]
        orders = _orders(columns)
        texts: dict[str, str] = {}
        rows = Rows()
        for line, cells in lines:
            if len(cells) != len(header):
                raise _damaged(path, f"line {line} has {len(cells)} cells, not {len(header)}")
            for name, kind in columns.items():
                text = cells[places[name]] if name in places else ""
                try:
                    value = parsed(printable(text), kind)
                except ValueError as error:
                    raise _damaged(
                        path, f"{name} in line {line} is {text[:40]!r}, {error}"
                    ) from error
                if isinstance(value, str):
                    value = texts.setdefault(value, value)
                kept[name].append(math.nan if value is None and is_float(kind) else value)
            if "model" in kept and kept["model"][-1] not in self.models:
                raise _damaged(
                    path,
                    f"line {line} is of {kept['model'][-1]!r}, which run.json does not name",
                )
            for less, more in orders:
                if kept[less][-1] > kept[more][-1]:
                    raise _damaged(path, f"{less} in line {line} is more than {more}")
            for name in numbers:
                last = kept[name][-1]
                if name == "first":
                    digits = "right" in kept
                    last += len(kept["right"][-1] if digits else kept["influences"][-1].split()) - 1
                if last >= self.record["data"]["images"]:
                    raise _damaged(path, f"{name} in line {line} is beyond the data's images")
            rows.append(_Row(kept, len(rows)))
        return rows

    def file(self, name: str) -> Path:
        """A file that a table names by its path relative to the run folder.

        Raises:
            RunError: the path leaves the run folder, or there is no such file.
        """
        try:
            root, path = self.run.resolve(), (self.run / name).resolve()
            inside = path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError):  # too long, or with a null character
            inside = False
        if not inside:
            raise RunError(
                f"{self.run} names the file {name[:200]!r}, which is not in the folder;"
                " make the run again with `advlens audit`"
            )
        return path


def _is_begun(run: Path) -> bool:
    """Whether a run or a training has begun here."""
    return (run / "parts").is_dir() or (run / "last.pt").is_file()


def _orders(columns: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of columns, the first of which is never more: of a value and its interval's ends."""
    pairs: list[tuple[str, str]] = []
    for low in (name for name in columns if re.fullmatch("(.*_)?low", name)):
        stem = low.removesuffix("low")
        names = (stem.removesuffix("_"), f"{stem}mean", f"{stem}difference")
        values = [name for name in names if name in columns]
        for inner in (low, *values):
            pairs.append((inner, f"{stem}high"))
        pairs += [(low, value) for value in values]
    return pairs


def _lines(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Rows with the number of their last line, none of them longer than a table of ours has."""
    length = 0

    def physical(file: io.TextIOWrapper) -> Iterator[str]:
        nonlocal length
        while line := file.readline(LONGEST_ROW + 1):
            length += len(line)
            if length > LONGEST_ROW:
                raise ValueError(f"a row has more than {LONGEST_ROW:,} characters")
            yield line

    with open_plain(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        reader = csv.reader(physical(text), strict=True)
        for cells in reader:
            yield reader.line_num, cells
            length = 0


def _problem(value: Any, expected: Any, where: str) -> str:
    """What is wrong with a part of the record, or nothing."""
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return f"{where} is not an object"
        problems = (
            _problem(value[key], kind, f"{where}'s {key}")
            if key in value
            else f"{where} has no {key}"
            for key, kind in expected.items()
        )
        return next(filter(None, problems), "")
    if isinstance(expected, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        return next(filter(None, (_problem(item, expected[0], where) for item in value)), "")
    kinds = typing.get_args(expected) or (expected,)
    if float in kinds:
        kinds += (int,)
    wrong = not isinstance(value, kinds) or (isinstance(value, bool) and int in kinds)
    wrong |= isinstance(value, str) and len(value) > LONGEST_TEXT
    wrong |= isinstance(value, int) and abs(value) >= 2**63
    return f"{where} is {str(value)[:40]!r}" if wrong else ""


def _printable(value: Any) -> Any:
    """A part of the record with printable texts."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(f"{path} is damaged: {problem}; make the run again with `advlens audit`")

"""Read run folders from Python, also with pandas."""

import math
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlens.errors import RunError
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.words import attack_name

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

NAMES = {
    "model",
    "layer",
    "class",
    "concept",
    "label",
    "predicted",
    "target_label",
    "start_label",
}
"""Columns with names: text in an undeclared table, even if all cells look like numbers."""
FIGURES = 4
"""Figures that a notebook shows of a run."""


@dataclass(frozen=True)
class RunResults:
    """The results of a finished run, checked as they are read.

    Attributes:
        results: the folder as the report reads it, with the type of each column.
    """

    results: Results

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.results.run

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`: command, settings, models, data, versions, stages, warnings, notes."""
        return dict(self.results.record)

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names, in the order of the command."""
        return self.results.models

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables: accuracy, units, layers, …"""
        return tuple(sorted(path.stem for path in (self.folder / "results").glob("*.csv")))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of `results/<table>.csv`, a dictionary each.

        A column holds whole numbers, numbers, truth values or texts, with None for an empty cell.

        Raises:
            RunError: the table does not exist (the message lists those that do), or is damaged.
        """
        if table not in self.tables:
            raise RunError(
                f"{self.folder} has no table {table!r}; it has {', '.join(self.tables) or 'none'}"
            )
        columns = self.results.columns(table)
        kinds = dict(TABLES[table].types) if table in TABLES else {}
        if unknown := [name for name in columns if name not in kinds]:
            cells = self.results.table(table, dict.fromkeys(unknown, str | None))
            for name in unknown:
                texts = [row[name] for row in cells if row[name] is not None]
                kinds[name] = str if name in NAMES else _kind(texts)
        types = {name: kinds[name] | None for name in columns}
        return [dict(row) for row in self.results.table(table, types)]

    def frame(self, table: str) -> "pandas.DataFrame":
        """The same rows as a pandas DataFrame; empty cells are NaN, or None in text columns.

        Raises:
            RunError: as `rows`.
            SettingsError: pandas is not installed.
        """
        from advlens.drawing import frame_of

        frame = frame_of(self.rows(table), self.results.columns(table))
        empty = [column for column in frame if frame[column].isna().all()]
        return frame.astype(dict.fromkeys(empty, float))

    def plot(self) -> "Figure":
        """The accuracies of the models with their 95 % intervals.

        Raises:
            RunError: the run has measured none.
        """
        from advlens.drawing import ranged

        rows = {f"{row['model']}: {attack_name(row)}": row for row in self.rows("accuracy")}
        return ranged(rows, "top1", "accuracy")

    def _repr_html_(self) -> str:
        """The accuracies, and the first figures of the report, small."""
        from advlens.drawing import file_html, table_html

        shown = ("model", "attack", "norm", "epsilon", "top1", "top1_low", "top1_high", "n")
        rows = self.rows("accuracy") if "accuracy" in self.tables else []
        table = table_html([{name: row[name] for name in shown if name in row} for row in rows])
        figures = sorted((self.folder / "figures").glob("*.png"))[:FIGURES]
        return f"<p>{escape(str(self.folder))}</p>{table}{''.join(map(file_html, figures))}"


def read_run(folder: str | Path) -> RunResults:
    """Open a run folder that `advlens audit`, `dissect` or `train` has written.

    Raises:
        RunError: the folder does not exist, holds no finished run, or has a damaged `run.json`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}; name one made by `advlens audit`")
    results = Results.read(folder)
    if results.record["unfinished"]:
        raise RunError(
            f"the run in {folder} is not finished; the command that began it goes on with it, and "
            "advlens report shows what is there"
        )
    return RunResults(results)


def _kind(texts: list[str]) -> Any:
    """The narrowest type that fits all these cells."""
    if texts and all(text in ("true", "false") for text in texts):
        return bool
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return str
    if not all(map(math.isfinite, numbers)):  # a text such as "nan"
        return str
    return int if numbers and all(text.lstrip("-").isdigit() for text in texts) else float

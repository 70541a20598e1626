"""The epochs that a training left behind, read with every value checked, as tables of a run."""

from pathlib import Path
from typing import Any

from advlens.errors import DataError, RunError
from advlens.folders import open_plain, parse_object, why
from advlens.runs.folder import Tables
from advlens.runs.results import Results
from advlens.runs.tables import TABLES
from advlens.training.words import Words

STORED = ("model.safetensors", "best.safetensors")
"""The weights files that a training writes into its folder."""
LARGEST, LONGEST = 2**22, 5000
"""The most bytes of a file and epochs of a training that are read."""
COLUMNS = [name for name in TABLES["training"].columns if name not in ("model", "kept")]
"""The columns of an epoch in `metrics.jsonl`."""
_REQUIRED = ("epoch", "loss", "natural", "adversarial")
_SHARES = ("natural", "adversarial", "train_natural_accuracy", "train_adversarial_accuracy")


def training_tables(folder: Path, model: str, words: Words | None = None) -> Tables:
    """The tables `training` (a row for each epoch) and `training_settings` of one model.

    Args:
        folder: the folder of the training, with `metrics.jsonl`.
        model: the model's name in the tables.
        words: how the model was trained, if that is known.

    Raises:
        DataError: `metrics.jsonl` is damaged; the message names the line.
    """
    rows = _epochs(folder / "metrics.jsonl")
    marked = [row for row in rows if row.pop("kept")]
    kept = marked[-1] if marked else max(rows, key=_score, default=None)
    tables: Tables = {"training": [{"model": model, **row, "kept": row is kept} for row in rows]}
    if words is not None:
        tables["training_settings"] = [{"model": model, **vars(words)}]
    return tables


def left_beside(weights: Path, model: str) -> Tables:
    """The tables of a training whose folder holds these weights; none for other weights.

    Raises:
        DataError: the folder holds damaged files of a training.
    """
    folder = weights.parent
    if weights.name not in STORED or not (folder / "metrics.jsonl").exists():
        return {}
    return training_tables(folder, model, _words(folder))


def _words(folder: Path) -> Words | None:
    """How the model was trained, as `finish` recorded it."""
    table = folder / "results" / "training_settings.csv"
    try:
        if not table.exists():
            return None
        rows = Results.read(folder).table("training_settings")
    except (RunError, OSError) as error:
        raise DataError(f"{error}") from error
    if not rows:
        return None
    return Words(**{key: value for key, value in rows[0].items() if key != "model"})


def _epochs(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, with every column of `training.csv`; absent values are None.

    "kept" says whether an epoch's weights replaced those kept before.
    """
    try:
        with open_plain(path, LARGEST) as file:
            lines = file.read().splitlines()
        if len(lines) > LONGEST:
            raise ValueError(f"it has more than {LONGEST} epochs")
        parsed = [parse_object(line) for line in lines]
    except (OSError, ValueError) as error:
        raise _damaged(path, why(error)) from error
    rows = []
    for number, row in enumerate(parsed, 1):
        if row.get("epoch") != number:
            raise _damaged(path, f"line {number} is not epoch {number}")
        for name in COLUMNS:
            if not _fits(name, row.get(name)):
                raise _damaged(path, f"{name} in line {number} is {str(row.get(name))[:40]}")
        rows.append({name: row.get(name) for name in COLUMNS} | {"kept": row.get("kept") is True})
    return rows


def _score(row: dict[str, Any]) -> float:
    """Where a file does not say which epoch was kept, the first with the highest score was."""
    return float(row["natural"] + row["adversarial"])


def _fits(name: str, value: Any) -> bool:
    if value is None:
        return name not in _REQUIRED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name in _SHARES:
        return 0 <= value <= 1
    if name in ("epoch", "n"):
        return isinstance(value, int) and 1 <= value < 2**53
    return abs(value) < 1e300  # also refuses NaN, infinity and what no float can hold


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path} is damaged: {problem}; train again into another folder")

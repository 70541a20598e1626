"""All units of a run as rows that a query filters and sorts, and the rows of a single one."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from advlens.errors import SettingsError
from advlens.report.sections.dissection.tables import Unit, unit_of
from advlens.runs.columns import UNIT
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import classes_text

COLUMNS = {
    "model": "Model",
    "layer": "Layer",
    "unit": "Unit",
    "concept": "Concept",
    "iou": "IoU",
    "attacked_concept": "Under attack",
    "attacked_iou": "IoU then",
    "lc": "LC",
    "consis_adv": "consis_adv",
    "cs1": "CS1",
    "cs2": "CS2",
    "classes": "Classes",
    "attacked_classes": "Classes under attack",
}
"""The columns of the rows and their headers."""
NUMBERS = ("unit", "iou", "attacked_iou", "lc", "consis_adv", "cs1", "cs2")
LEAST = ("lc", "cs1", "cs2", "iou")
"""Columns whose values a query may bound from below."""


def unit_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each unit of `units.csv` and `dissection.csv`, with `COLUMNS` and `pictured`.

    Raises:
        RunError: a table is damaged.
    """
    rows: dict[Unit, dict[str, Any]] = {}

    def put(row: Row, **values: Any) -> None:
        if (unit := unit_of(row)) not in rows:
            own = dict(zip(("model", "layer", "unit"), unit, strict=True))
            rows[unit] = dict.fromkeys(COLUMNS) | {"pictured": False} | own
        rows[unit].update(values)

    for row in results.table("units"):
        put(row, **{name: row[name] for name in ("lc", "consis_adv", "cs1", "cs2")})
    prefixes = {"real": "", "adversarial": "attacked_"}
    for row in results.table("dissection").where(images=tuple(prefixes)):
        prefix = prefixes[row["images"]]
        put(row, **{f"{prefix}concept": row["concept"], f"{prefix}iou": row["iou"]})
    for row in results.table("unit_classes").where(images=tuple(prefixes)):
        put(row, **{f"{prefixes[row['images']]}classes": classes_text(row, 2)})
    for name in ("pictures", "dissection_pictures"):
        for row in results.table(name):
            put(row, pictured=True)
    return list(rows.values())


def chosen(rows: Sequence[Mapping[str, Any]], asked: Mapping[str, str]) -> list[Mapping[str, Any]]:
    """The rows that a query asks for, in its order; cells without a value come last.

    Args:
        rows: those of `unit_rows`.
        asked: model and layer; concept: a part of a concept's name, on either images; lc, cs1, cs2
            and iou: the least value; pictured: only units with pictures; sort: a column, and
            down: from its highest value.

    Raises:
        SettingsError: a least value is no number.
    """
    least = {name: _number(COLUMNS[name], asked[name]) for name in LEAST if name in asked}
    part = asked.get("concept", "").lower()
    kept = [
        row
        for row in rows
        if all(asked.get(name, row[name]) == row[name] for name in ("model", "layer"))
        and all(row[name] is not None and row[name] >= value for name, value in least.items())
        and part in f"{row['concept'] or ''}\n{row['attacked_concept'] or ''}".lower()
        and (row["pictured"] or "pictured" not in asked)
    ]
    by = asked.get("sort")
    if by not in COLUMNS:
        return kept
    known = [row for row in kept if row[by] not in (None, "")]
    known.sort(key=lambda row: _key(row[by]), reverse="down" in asked)
    return known + [row for row in kept if row[by] in (None, "")]


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SettingsError(f"{name} must be at least a number, not {text[:40]!r}")
    return value


def _key(value: str | float) -> str | float:
    """Numbers within a text count as numbers: "layer 2" comes before "layer 10"."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[0-9]+", lambda found: found[0].zfill(9), value.lower())


def unit_tables(results: Results, asked: Mapping[str, str]) -> dict[str, Rows]:
    """The rows of each table about one unit, those of pictures by rank.

    Args:
        results: the run.
        asked: model, layer and unit.

    Raises:
        RunError: a table is damaged.
    """
    tables = {
        name: Rows(
            row
            for row in results.table(name)
            if all(str(row[key]) == asked.get(key) for key in UNIT)
        )
        for name in ("units", "unit_classes", "dissection", "pictures", "dissection_pictures")
    }
    return tables | {name: tables[name].ordered("rank") for name in tables if "pictures" in name}

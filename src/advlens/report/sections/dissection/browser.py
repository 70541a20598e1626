"""Every dissected unit, for the reader to search."""

import dataclasses
from collections.abc import Callable, Mapping

from advlens.report.blocks import Block, BrowserColumn, UnitBrowserBlock
from advlens.report.sections.dissection.grids import grid_name
from advlens.report.sections.dissection.tables import DissectionTables, Unit
from advlens.runs.results import Row

Rows = Mapping[Unit, Row]


def browser(tables: DissectionTables) -> list[Block]:
    """All units of all layers; columns of what was not measured are left out."""
    real, adversarial = tables.by_unit["real"], tables.by_unit["adversarial"]
    if not real:
        return []
    neurons = {(row["model"], row["layer"], row["unit"]): row for row in tables.neurons}
    pictured = {(row["model"], row["layer"], row["unit"]) for row in tables.pictures}

    def of(rows: Rows, name: str) -> Callable[[Unit], str | float | None]:
        return lambda unit: rows[unit][name] if unit in rows else None

    def attacked(name: str) -> Callable[[Unit], str | float | None]:
        return of(adversarial, name)

    def change(unit: Unit) -> str | None:
        return (
            _change(real[unit], adversarial[unit], tables.minimum) if unit in adversarial else None
        )

    columns = [
        (BrowserColumn(header="Model", kind="model", filter="choice"), of(real, "model")),
        (BrowserColumn(header="Layer", kind="text", filter="choice"), of(real, "layer")),
        (BrowserColumn(header="Unit", kind="unit"), of(real, "unit")),
        (BrowserColumn(header="Concept", kind="text", filter="search"), of(real, "concept")),
        (BrowserColumn(header="Category", kind="text", filter="choice"), of(real, "category")),
        (BrowserColumn(header="IoU", kind="number", filter="minimum"), of(real, "iou")),
        (BrowserColumn(header="By chance", kind="number"), of(real, "permuted_iou")),
        (BrowserColumn(header="Under attack", kind="text", filter="search"), attacked("concept")),
        (BrowserColumn(header="IoU then", kind="number"), attacked("iou")),
        (BrowserColumn(header="Change", kind="text", filter="choice"), change),
        (BrowserColumn(header="LC", kind="number"), of(neurons, "lc")),
        (BrowserColumn(header="CS1", kind="number"), of(neurons, "cs1")),
    ]
    measured = []
    for column, cell in columns:
        found = {cell(unit) for unit in real} - {None}
        if column.filter == "choice" and len(found) < 2:
            column = dataclasses.replace(column, filter="")
        if found:
            measured.append((column, cell))
    return [
        UnitBrowserBlock(
            title="All units",
            caption="Each dissected unit with its best concept, whether or not its IoU makes it a "
            f"detector (above {tables.minimum:g}), and the best IoU of its masks with the labels "
            "of other images."
            + (
                " Change compares what it detects on real and on adversarial images: kept (the "
                "same concept), changed (another one), lost, gained, or none on either."
                if adversarial
                else ""
            ),
            file="dissection.csv",
            columns=[column for column, _ in measured],
            rows=[[_filled(column, cell(unit)) for column, cell in measured] for unit in real],
            grids=[grid_name(unit) if unit in pictured else "" for unit in real],
        )
    ]


def _filled(column: BrowserColumn, cell: str | float | None) -> str | float | None:
    """Texts are never absent, so that the page's script can search them."""
    return "" if cell is None and column.kind == "text" else cell


def _change(real: Row, adversarial: Row, minimum: float) -> str:
    before, after = (row["label"] if row["iou"] > minimum else 0 for row in (real, adversarial))
    if before == after:
        return "kept" if before else "none"
    if not before:
        return "gained"
    return "changed" if after else "lost"

"""Single units: the pictures that a few respond to most, and every one for the reader to search."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

from advlens.report.blocks import Block, BrowserColumn, NoteBlock, UnitBrowserBlock
from advlens.report.grids import MAPS, Grid, GridBlock, cells
from advlens.report.sections.dissection.tables import DissectionTables, Unit, unit_of
from advlens.runs.columns import NAMED
from advlens.runs.tables import Row
from advlens.words import classes_text, file_name, file_names, number


def pictures(tables: DissectionTables) -> Iterator[Block]:
    """Units of one depth next to each other, model beside model; deepest layers first."""
    if not tables.pictures:
        return
    units = dict.fromkeys(map(unit_of, tables.pictures))
    layers = {
        model: [layer for layer in layers[::-1] if any(u[:2] == (model, layer) for u in units)]
        for model, layers in tables.layers.items()
    }
    reasons = tables.pictures.values("chosen")
    ways = ["named by the user (--units)"] * (NAMED in reasons)
    if reasons != [NAMED]:
        ways.append("chosen for the highest IoU")
        if tables.pictures.one(images="adversarial"):
            ways[-1] += ", half of them because their IoU falls most under attack"
    text = (
        "For a few units, the images of highest response. Within the yellow line the unit exceeds "
        f"its threshold. Units were {' or '.join(ways)}; units of two models have nothing to do "
        "with each other."
    )
    if any(row["map"] for row in tables.pictures):
        text += MAPS
    sheets = file_names("dissected-units", dict.fromkeys(unit[:2] for unit in units))
    yield NoteBlock(title="What chosen units respond to", text=text)
    for depth in itertools.zip_longest(
        *([(m, layer) for layer in names] for m, names in layers.items())
    ):
        places = [place for place in depth if place]
        columns = [[unit for unit in units if unit[:2] == place] for place in places]
        shown = [unit for row in itertools.zip_longest(*columns) for unit in row if unit]
        names = dict.fromkeys(layer for _, layer in places)
        yield GridBlock(
            title=f"Units of {', '.join(names)}",
            caption=f"{tables.behind}.",
            grids=[_grid(tables, unit, sheets[unit[:2]]) for unit in shown],
            labels="predicted",
        )


def grid_name(unit: Unit) -> str:
    """Of the unit's grid in the page, and of its figure's files."""
    return file_name("dissected", *unit)


def _grid(tables: DissectionTables, unit: Unit, sheet: str) -> Grid:
    model, layer, place = unit

    real, adversarial = (tables.by_unit[images].get(unit) for images in ("real", "adversarial"))
    measures = {"Real": _concept(real)} if real else {}
    if adversarial:
        measures["Adversarial"] = _concept(adversarial)
    return Grid(
        name=grid_name(unit),
        model=model,
        layer=layer,
        unit=place,
        measures=measures,
        kinds=cells(tables.pictures.where(model=model, layer=layer, unit=place)),
        sheet=sheet,
    )


def _concept(row: Row) -> str:
    return f"{row['concept']}, IoU {number(row['iou'])}" if row["label"] else "no concept"


def browser(tables: DissectionTables) -> Iterator[Block]:
    """All units of all layers; columns of what was not measured are left out."""
    real, adversarial = tables.by_unit["real"], tables.by_unit["adversarial"]
    if not real:
        return
    neurons = {unit_of(row): row for row in tables.neurons}
    classes = {(row["images"], *unit_of(row)): classes_text(row, 2) for row in tables.classes}
    pictured = set(map(unit_of, tables.pictures))

    def of(rows: Mapping[Unit, Row], name: str) -> Callable[[Unit], str | float | None]:
        return lambda unit: rows[unit][name] if unit in rows else None

    def most(images: str) -> Callable[[Unit], str | None]:
        return lambda unit: classes.get((images, *unit))

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
        (BrowserColumn(header="Classes", kind="text", filter="search"), most("real")),
        (
            BrowserColumn(header="Classes under attack", kind="text", filter="search"),
            most("adversarial"),
        ),
    ]
    measured = []
    for column, cell in columns:
        values = {cell(unit) for unit in real} - {None}
        if column.filter == "choice" and len(values) < 2:
            column = dataclasses.replace(column, filter="")
        if values:
            measured.append((column, cell))
    yield UnitBrowserBlock(
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

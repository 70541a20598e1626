"""The pictures that a few units respond to most, with their masks."""

import itertools

from advlens.report.blocks import Block, Cell, Grid, GridBlock, NoteBlock
from advlens.report.sections.dissection.tables import DissectionTables, Unit
from advlens.runs.results import Row
from advlens.words import file_name, number


def pictures(tables: DissectionTables) -> list[Block]:
    """Units of one depth next to each other, model beside model; deepest layers first."""
    if not tables.pictures:
        return []
    units = dict.fromkeys((row["model"], row["layer"], row["unit"]) for row in tables.pictures)
    layers = {
        model: [layer for layer in found[::-1] if any(u[:2] == (model, layer) for u in units)]
        for model, found in tables.layers.items()
    }
    text = (
        "For a few units, the images of highest response. Within the yellow line the unit exceeds "
        "its threshold. Units were chosen for the highest IoU"
    )
    if any(row["images"] == "adversarial" for row in tables.pictures):
        text += ", half of them because their IoU falls most under attack"
    text += "; units of two models have nothing to do with each other."
    if any(row["map"] for row in tables.pictures):
        text += (
            " Below each picture stands its discrepancy map (D22): within the yellow line, a small "
            "patch of random pixels changes the unit's response by at least half of the largest "
            "change."
        )
    blocks: list[Block] = [NoteBlock(title="What chosen units respond to", text=text)]
    for depth in itertools.zip_longest(
        *([(m, layer) for layer in names] for m, names in layers.items())
    ):
        places = [place for place in depth if place]
        columns = [[unit for unit in units if unit[:2] == place] for place in places]
        shown = [unit for row in itertools.zip_longest(*columns) for unit in row if unit]
        names = dict.fromkeys(layer for _, layer in places)
        blocks.append(
            GridBlock(
                title=f"Units of {', '.join(names)}",
                caption=f"{tables.behind}.",
                grids=[_grid(tables, unit) for unit in shown],
                labels="predicted",
            )
        )
    return blocks


def grid_name(unit: Unit) -> str:
    """Of the unit's grid in the page, and of its figure's files."""
    return file_name("dissected", *unit)


def _grid(tables: DissectionTables, unit: Unit) -> Grid:
    def cells(images: str) -> list[Cell]:
        rows = [
            row
            for row in tables.pictures
            if (row["model"], row["layer"], row["unit"], row["images"]) == (*unit, images)
        ]
        return [
            Cell(
                file=row["file"],
                label=row["label"],
                predicted=row["predicted"],
                framed=row["framed"],
                map=row["map"],
            )
            for row in sorted(rows, key=lambda row: row["rank"])
        ]

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
        real=cells("real"),
        adversarial=cells("adversarial"),
    )


def _concept(row: Row) -> str:
    return f"{row['concept']}, IoU {number(row['iou'])}" if row["label"] else "no concept"

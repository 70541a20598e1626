"""What components of a representation respond to."""

import itertools

from advlens.report.blocks import (
    Block,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
)
from advlens.report.sections.features.tables import FeatureTables
from advlens.runs.results import Row
from advlens.words import number

HEADINGS = {"visualized": "Visualized", "most": "Most active", "least": "Least active"}


def blocks(tables: FeatureTables) -> list[Block]:
    """Components beside the images that activate them most and least (figures 5, 9, 12, 15)."""
    rows = tables.visualization_pictures
    if not rows:
        return []
    components = [
        [(model, n) for n in dict.fromkeys(r["component"] for r in rows if r["model"] == model)]
        for model in tables.models
    ]
    shown = [key for keys in itertools.zip_longest(*components) for key in keys if key]
    return [
        NoteBlock(
            title="What does a component stand for?",
            text="A component is one number of the representation from which the model reads the "
            "class. An image is changed until the component is as high as it gets. Where the "
            "result shows what the most active images have in common, the component stands for "
            "something that people see. Components of two models have nothing to do with each "
            "other.",
        ),
        PictureRowsBlock(
            name="visualization",
            title="Components of the representation",
            caption="Below each picture: its class, and how active it makes the component.",
            file="visualization_pictures.csv",
            rows=[
                _row(model, component, [r for r in rows if _key(r) == (model, component)])
                for model, component in shown
            ],
        ),
    ]


def _key(row: Row) -> tuple[str, int]:
    return row["model"], row["component"]


def _row(model: str, component: int, rows: list[Row]) -> PictureRow:
    columns = []
    for kind, heading in HEADINGS.items():
        mine = sorted((r for r in rows if r["kind"] == kind), key=lambda row: row["rank"])
        if mine:
            columns.append(
                PictureColumn(heading=heading, pictures=[_picture(row, component) for row in mine])
            )
    return PictureRow(model=model, title=f"component {component}", columns=columns)


def _picture(row: Row, component: int) -> Picture:
    value = number(row["activation"])
    what = (
        f"Image changed to raise component {component}"
        if row["kind"] == "visualized"
        else f"Image of {row['label'] or 'no known class'}, {HEADINGS[row['kind']].lower()}"
    )
    return Picture(
        file=row["file"],
        alt=f"{what}, activation {value}",
        caption=f"{row['label']} {value}".strip(),
    )

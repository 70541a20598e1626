"""What the report says of features: what a model has learned, as pictures and as distances."""

import itertools
from collections.abc import Iterator

from advlens.report.blocks import (
    Block,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    Score,
    Section,
    Term,
    glossary,
)
from advlens.report.sections.features import generation, inversion
from advlens.report.sections.features.findings import findings, start_text
from advlens.report.sections.features.tables import DISTANCES, FeatureTables
from advlens.runs.measures import FEATURES
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import number

HEADINGS = {"visualized": "Visualized", "most": "Most active", "least": "Least active"}

REPRESENTATION = Term(
    name="Representation",
    meaning="The numbers from which the model's last layer reads the class.",
)


def section(results: Results) -> Section | None:
    """From the tables of visualization, inversion and generation; None without any of them."""
    tables = FeatureTables(results)
    if not tables.any:
        return None
    return Section(
        title="Features",
        anchor="features",
        lead="What has a model learned? Three experiments make it visible: images that raise one "
        "component of its representation, images that it represents like a given one, and images "
        "that show a class as the model sees it. All change pixels step by step, as an attack "
        "does, only farther.",
        findings=findings(tables),
        terms=_terms(tables),
        blocks=[
            *generation.blocks(tables),
            *inversion.blocks(tables),
            *_visualized(tables),
        ],
        scores=_scores(tables),
    )


def _terms(tables: FeatureTables) -> list[Term]:
    measured = {
        "distance": bool(tables.layers),
        **{name: bool(tables.distances.one(measure=name)) for name in DISTANCES},
    }
    return [REPRESENTATION, *glossary(FEATURES[name] for name in measured if measured[name])]


def _scores(tables: FeatureTables) -> list[Score]:
    scores = []
    for measure in tables.layers[:1]:
        for start in tables.starts[:1]:
            scores.append(
                Score(
                    label="Distance of inverted images",
                    estimates=tables.inverted(start, measure),
                    notes=dict.fromkeys(
                        tables.models, f"from {start_text(start)}, by {tables.layer(measure)}"
                    ),
                )
            )
    for measured in tables.networks[:1]:
        scores.append(
            Score(
                label="Distance of generated images (KID)",
                estimates=tables.distance("generated", "kid", measured),
                notes=dict.fromkeys(tables.models, f"features of {measured.features}"),
            )
        )
    return scores


def _visualized(tables: FeatureTables) -> Iterator[Block]:
    """Components beside the images that activate them most and least."""
    rows = tables.visualization_pictures
    if not rows:
        return
    each = [rows.where(model=model).split("component") for model in tables.models]
    yield NoteBlock(
        title="What does a component stand for?",
        text="A component is one number of the representation from which the model reads the "
        "class. An image is changed until the component is as high as it gets. Where the result "
        "shows what the most active images have in common, the component stands for something that "
        "people see. Components of two models have nothing to do with each other.",
    )
    yield PictureRowsBlock(
        name="visualization",
        title="Components of the representation",
        caption="Below each picture: its class, and how active it makes the component. Figures "
        "5, 9, 12 and 15 of B23 show one component each: 130 in figure 5, 492 in figure 9.",
        file="visualization_pictures.csv",
        rows=[_row(mine) for place in itertools.zip_longest(*each) for mine in place if mine],
    )


def _row(rows: Rows) -> PictureRow:
    """One component of one model."""
    component, columns = rows[0]["component"], []
    for kind, heading in HEADINGS.items():
        mine = rows.where(kind=kind).ordered("rank")
        if mine:
            columns.append(
                PictureColumn(heading=heading, pictures=[_picture(row, component) for row in mine])
            )
    return PictureRow(model=rows[0]["model"], title=f"component {component}", columns=columns)


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

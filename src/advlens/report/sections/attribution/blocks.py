"""Tables, the figure and the heat maps of the attribution section."""

from collections.abc import Iterator

from advlens.report.blocks import (
    MODEL,
    Block,
    Column,
    FigureBlock,
    N,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    TableBlock,
)
from advlens.report.panels import Dots, panels
from advlens.report.sections.attribution.findings import LARGE_GAP
from advlens.report.sections.attribution.tables import RANDOM, AttributionTables, named
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import file_names, percent


def measures(tables: AttributionTables) -> Iterator[Block]:
    """All measures, as a figure and in numbers."""
    yield NoteBlock(
        title="How good are the attributions?",
        text="Papers mostly judge heat maps by eye: smooth, and on the object. Here the same "
        "is counted, beside attributions that are random numbers: a measure on which those "
        "do as well says nothing.",
    )
    yield _figure(tables)
    yield _table(tables)
    yield from _methods(tables)


def _shown(tables: AttributionTables) -> list[str]:
    return [*tables.methods, *([RANDOM] if tables.rows.where(method=RANDOM) else [])]


def _figure(tables: AttributionTables) -> FigureBlock:
    dots = (
        Dots(
            tables.described(measure),
            named(method).split()[0],
            tables.values(method, measure),
        )
        for measure in tables.measures
        if tables.described(measure).claimed
        for method in _shown(tables)
    )
    return panels(
        "attribution-measures",
        tables.models,
        dots,
        "Means with 95% intervals over images, by method; ↑: higher is better, ↓: lower. "
        f"Each panel has its own scale. {tables.behind}.",
    )


def _table(tables: AttributionTables) -> TableBlock:
    def column(method: str) -> Column:
        return Column.looked_up(named(method), lambda row: tables.values(method, row["measure"]))

    return TableBlock(
        caption="Each measure with its 95% interval over images; ↑: higher is better, ↓: lower. "
        f"{tables.behind}.",
        file="attribution.csv",
        columns=[
            Column(
                header="Measure",
                cell=lambda row: tables.described(row["measure"]).name,
                kind="text",
            ),
            MODEL,
            *map(column, _shown(tables)),
        ],
        rows=[
            row
            for measure in tables.measures
            for model in tables.models
            if (row := tables.rows.one(measure=measure, model=model))
        ],
    )


def _methods(tables: AttributionTables) -> Iterator[Block]:
    rows = [row for method in tables.methods for row in tables.settings.where(method=method)]
    if not rows:
        return
    yield TableBlock(
        caption="How they were computed. A gradient is a forward and a backward pass.",
        file="attribution_methods.csv",
        columns=[
            Column(header="Method", cell=lambda row: named(row["method"]), kind="text"),
            MODEL,
            Column.words("Explained", "target"),
            Column.words("Baseline", "baseline", kind="long"),
            Column(header="Formula", cell=lambda row: row["formula"] or "–", kind="text"),
            Column(header="Gradients per image", cell=lambda row: f"{row['points']:,.0f}"),
            N,
        ],
        rows=rows,
    )


def heat_maps(tables: AttributionTables) -> Iterator[Block]:
    """For each method the images, and what each model looks at."""
    methods = list(filter(None, tables.pictures.values("method")))
    if not methods:
        return
    yield NoteBlock(
        title="What the models look at",
        text="Each row is one image as every model sees it. The class explained is the one that "
        "the model predicts, with its probability, also where that is wrong.",
    )
    names = file_names("attributions", ((named(method),) for method in methods))
    for method in methods:
        rows = tables.pictures.where(method=method)
        ranks = sorted(rows.values("rank"))
        yield PictureRowsBlock(
            name=names[named(method),],
            title=named(method),
            caption=f"{tables.setting(method) or named(method)}.",
            file="attribution_pictures.csv",
            rows=[_row(tables, rows, rank) for rank in ranks],
            heat=True,
        )


def _row(tables: AttributionTables, rows: Rows, rank: int) -> PictureRow:
    mine = rows.where(rank=rank)
    image = tables.pictures.one(method="", rank=rank)
    label = mine[0]["label"]
    columns = [_column(row) for row in mine]
    if image:
        picture = Picture(file=image["file"], alt=f"Image of {label}" if label else "Image")
        columns.insert(0, PictureColumn(heading="Image", pictures=[picture]))
    return PictureRow(title=label or f"image {mine[0]['id']}", columns=columns)


def _column(row: Row) -> PictureColumn:
    probability = "" if row["probability"] is None else f" {percent(row['probability'])}"
    wrong = bool(row["label"]) and row["label"] != row["predicted"]
    before = f"{row['label']} → " if wrong else ""
    gap = row["gap"] if row["gap"] is not None and row["gap"] > LARGE_GAP else None
    of = f" over an image of {row['label']}" if row["label"] else " over an image"
    return PictureColumn(
        heading=row["model"],
        model=True,
        pictures=[
            Picture(
                file=row["file"],
                alt=f"{named(row['method'])} of {row['model']}{of}: what speaks for "
                f"{row['predicted']}, red, and against it, blue",
                caption=f"{before}{row['predicted']}{probability}"
                + ("" if gap is None else f", gap {percent(gap)}"),
                wrong=wrong,
            )
        ],
    )

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
from advlens.report.panels import ARROWS, Dots, panels
from advlens.report.sections.attribution.findings import LARGE_GAP
from advlens.report.sections.attribution.tables import RANDOM, AttributionTables, described, named
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import count, file_names, percent

B23 = {"IntegratedGradients": (10, 16), "ExpectedGradients": (13, 17)}
"""The figures of B23 with many images, for each method."""
B23_IMAGES = 24


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


def _title(tables: AttributionTables, measure: str) -> str:
    return described(measure).title + ARROWS[tables.better[measure]]


def _figure(tables: AttributionTables) -> FigureBlock:
    dots = (
        Dots(
            described(measure).title,
            tables.better[measure],
            named(method).split()[0],
            tables.values(method, measure),
        )
        for measure in tables.measures
        if described(measure).claimed
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
            Column(header="Measure", cell=lambda row: _title(tables, row["measure"]), kind="text"),
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
            Column(header="Explained", cell=lambda row: row["target"], kind="text"),
            Column(header="Baseline", cell=lambda row: row["baseline"], kind="long"),
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
        setting = tables.setting(method)
        rows = tables.pictures.where(method=method)
        ranks = sorted(rows.values("rank"))
        yield PictureRowsBlock(
            name=names[named(method),],
            title=named(method),
            caption=f"{setting or named(method)}. {_beside_b23(method, len(ranks))}",
            file="attribution_pictures.csv",
            rows=[_row(tables, rows, rank) for rank in ranks],
            heat=True,
        )


def _beside_b23(method: str, shown: int) -> str:
    """How many images are shown, here and in the figures of B23 on this method."""
    images = f"{count(shown)} image{'' if shown == 1 else 's'}"
    if method not in B23:
        return f"{images}."
    cifar, imagenet = B23[method]
    figures = f"figures {cifar} (CIFAR-10) and {imagenet} (Small ImageNet 150) of B23"
    if shown == B23_IMAGES:
        return f"{images}, as many as in {figures}."
    return f"{images}; {figures} show {B23_IMAGES}."


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

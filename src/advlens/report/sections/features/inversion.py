"""What a model's representation keeps of an image."""

from collections.abc import Iterator

from advlens.report.blocks import (
    MODEL,
    Block,
    Column,
    N,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    TableBlock,
)
from advlens.report.sections.features.findings import start_text
from advlens.report.sections.features.tables import FeatureTables, layer_name
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import Estimate, count, file_names, listed, number

TITLES = {"representation": "Own representation", "pixels": "Pixels"}


def blocks(tables: FeatureTables) -> Iterator[Block]:
    """Triptychs and distances (tables 3 and 6 of B23)."""
    if not tables.inversion and not tables.inversion_pictures:
        return
    yield NoteBlock(
        title="What does a representation keep of an image?",
        text="An image is changed until the model represents it as it represents the target. "
        "Where the result looks like the target, the representation holds what people see "
        "of it; where it does not, the model takes two very different images for the same.",
    )
    yield from _pictures(tables)
    yield from _table(tables)


def _pictures(tables: FeatureTables) -> Iterator[Block]:
    rows = tables.inversion_pictures
    names = file_names("inversions", ((start,) for start in rows.values("start")))
    yield from (
        PictureRowsBlock(
            name=names[start,],
            title=f"From {start_text(start)}",
            caption="Below each inverted image stands the distance of its representation from the "
            f"target's, relative to the target's length.{_steps(tables, start)} Figures 4, 8, 11 "
            "and 18 of B23 show inversions after 10,000 steps of 1, L2 ε = 1000.",
            file="inversion_pictures.csv",
            rows=[
                _row(tables, mine)
                for mine in rows.where(start=start)
                .ordered("rank")
                .split("rank", "start_label", "target_label")
            ],
        )
        for start in rows.values("start")
    )


def _steps(tables: FeatureTables, start: str) -> str:
    texts = dict.fromkeys(
        f"{count(row['steps'])} steps of {row['step_size']:g}, L2 ε = {row['epsilon']:g}"
        for row in tables.inversion.where(start=start)
    )
    return f" {listed(list(texts))}." if texts else ""


def _row(tables: FeatureTables, rows: Rows) -> PictureRow:
    """Models share a row where they share the start and the target."""
    first = rows[0]
    label, target = first["start_label"], first["target_label"] or "target"
    start = f"an image of {label}" if label else start_text(first["start"])
    columns = [
        _reference("Target", first["target_file"], f"Target of the inversion: {target}"),
        _reference("Start", first["start_file"], f"Start of the inversion: {start}"),
    ]
    columns += [
        PictureColumn(
            heading=model,
            model=True,
            pictures=[
                Picture(
                    file=row["file"],
                    alt=f"What {model} represents like the target, {target}, at a distance of "
                    f"{number(row['distance'])}",
                    caption=number(row["distance"]),
                )
                for row in mine
            ],
        )
        for model in tables.models
        if (mine := rows.where(model=model))
    ]
    return PictureRow(title=f"{label} → {target}" if label else target, columns=columns)


def _reference(heading: str, file: str, alt: str) -> PictureColumn:
    return PictureColumn(heading=heading, pictures=[Picture(file=file, alt=alt)])


def _networks(tables: FeatureTables) -> str:
    networks = tables.inversion.where(measure=tuple(tables.layers)).values("features")
    return f", of features by {listed(networks)}" if networks else ""


def _table(tables: FeatureTables) -> Iterator[Block]:
    if not tables.inversion:
        return

    def column(measure: str) -> Column:
        def cell(row: Row) -> str:
            keys = {"start": row["start"], "model": row["model"], "measure": measure}
            distance = tables.inversion.one(**keys)
            if not distance:
                return "–"
            spread, start = distance["spread"], number(distance["untouched"])
            texts = [] if spread is None else [f"spread {number(spread)}"]
            return "; ".join([Estimate.of(distance).text(), *texts, f"start {start}"])

        title = TITLES.get(measure) or layer_name(measure).capitalize()
        return Column(header=title, cell=cell)

    yield TableBlock(
        caption="Mean distance of inverted images from their targets, with 95% intervals over "
        "images, their spread (standard deviation), and the distance of the untouched starts; "
        "lower is nearer. Own representation: "
        f"relative to its length; the others are L2 distances{_networks(tables)}.",
        file="inversion.csv",
        columns=[
            Column.words("Start", "start"),
            MODEL,
            *map(column, tables.inversion.values("measure")),
            N,
        ],
        rows=[
            row
            for start in tables.starts
            for model in tables.models
            if (row := tables.inversion.one(start=start, model=model))
        ],
    )

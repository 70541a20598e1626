"""What a model takes for the essence of a class."""

import itertools
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
from advlens.report.panels import Dots, panels
from advlens.report.sections.features.tables import (
    DISTANCES,
    KINDS,
    FeatureTables,
    Network,
    network,
)
from advlens.runs.measures import FEATURES
from advlens.runs.results import Rows
from advlens.words import count

IMAGES = Column(header="Images", cell=lambda row: row["images"].capitalize(), kind="text")
NETWORK = Column(header="Features", cell=lambda row: network(row).text, kind="long")


def blocks(tables: FeatureTables) -> Iterator[Block]:
    """Pictures and distances (tables 2 and 5 of B23)."""
    if not tables.generation and not tables.generation_pictures:
        return
    yield NoteBlock(
        title="What does a class look like to the model?",
        text="From a blurred start, drawn at random from the Gaussian of the class's images, "
        "an image is changed until the model's output for the class is as high as it gets. "
        "Scores stand between two bounds: the untouched start images, and real images "
        "compared with other real ones.",
    )
    yield from _pictures(tables)
    yield from _figure(tables)
    yield from _distances(tables)
    yield from _shares(tables)


def _pictures(tables: FeatureTables) -> Iterator[Block]:
    rows = tables.generation_pictures
    if not rows:
        return
    classes = rows.split("class")
    some = len(classes) < len(tables.classes)
    yield PictureRowsBlock(
        name="generation",
        title="Generated images by class",
        caption=(f"The first {len(classes)} of {len(tables.classes)} classes. " if some else "")
        + "Real images of the class, start images, and what each model makes of a start, in "
        "the order of the starts. B23 shows generated images in its figures 3 and 7, start "
        "images in 14 and 19.",
        file="generation_pictures.csv",
        rows=[_row(tables, mine, mine[0]["class"]) for mine in classes],
    )


def _row(tables: FeatureTables, rows: Rows, name: str) -> PictureRow:
    def column(kind: str, model: str, heading: str, alt: str) -> list[PictureColumn]:
        mine = rows.where(kind=kind, model=model)
        pictures = [Picture(file=row["file"], alt=f"{alt} {name}") for row in mine.ordered("rank")]
        of_model = kind == "generated"
        return [PictureColumn(heading=heading, pictures=pictures, model=of_model)] * bool(pictures)

    columns: list[PictureColumn] = []
    for kind, heading, alt in (
        ("real", "Real", "Real image of"),
        ("start", "Start", "Start image for"),
    ):
        owners = [model for model in tables.models if column(kind, model, "", "")]
        columns += [c for model in owners[:1] for c in column(kind, model, heading, alt)]
    for model in tables.models:
        columns += column("generated", model, model, f"What {model} generates for")
    return PictureRow(title=name, columns=columns)


def _figure(tables: FeatureTables) -> Iterator[Block]:
    dots = [
        Dots(FEATURES[name], kind, tables.distance(kind, name, measured))
        for measured in tables.networks[:1]
        for name in DISTANCES
        for kind in KINDS
    ]
    asked = (
        name
        for name in tables.recognizers
        if len(tables.recognized("generated", name)) == len(tables.models)
    )
    for name in itertools.islice(asked, 1):
        dots += [
            Dots(FEATURES["recognized"], kind, tables.recognized(kind, name)) for kind in KINDS
        ]
    if any(each.estimates for each in dots):
        yield panels(
            "generation-measures",
            tables.models,
            dots,
            "Generated images between the bounds: start images, and real images against other "
            "real ones. 95% intervals where there are some; ↑: higher is better, ↓: lower. Each "
            "panel has its own scale.",
        )


def _distances(tables: FeatureTables) -> Iterator[Block]:
    if not tables.distances:
        return

    def column(measure: str) -> Column:
        return Column.looked_up(
            measure.upper(), lambda row: tables.distance(row["images"], measure, network(row))
        )

    shown = [
        mine[0]
        for kind in KINDS
        for mine in tables.distances.where(images=kind).split("model", *Network._fields)
    ]
    several = len(tables.networks) > 1
    yield TableBlock(
        caption="Distance of generated, start and real images from real ones, with 95% "
        "intervals where there are some; lower is nearer. FID and KID depend on the features"
        + ("" if several else f" ({tables.networks[0].text})")
        + f" and, FID strongly, on the number of images.{tables.compared()}",
        file="generation.csv",
        columns=[
            IMAGES,
            MODEL,
            *map(column, DISTANCES),
            N,
            Column.of("Real images", "n_real", count),
            *([NETWORK] if several else []),
        ],
        rows=shown,
    )


def _shares(tables: FeatureTables) -> Iterator[Block]:
    names = {"confidence": "the model's own probability", "recognized": "recognized"}
    rows = tables.generation.where(measure=tuple(names))
    if not rows:
        return
    yield TableBlock(
        caption="How sure the model itself is of the wanted class, and the share of images "
        "that another network takes for it, with 95% intervals. The first is what generation "
        "raises; only the second is evidence.",
        file="generation.csv",
        columns=[
            IMAGES,
            MODEL,
            Column(header="Measure", cell=lambda row: names[row["measure"]], kind="text"),
            Column(header="By", cell=lambda row: row["features"] or "itself", kind="long"),
            Column.interval("Share", as_percent=True),
            N,
        ],
        rows=rows,
    )

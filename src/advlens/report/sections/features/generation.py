"""What a model takes for the essence of a class."""

from collections.abc import Mapping, Sequence

from advlens.report import figures
from advlens.report.blocks import (
    Block,
    Column,
    FigureBlock,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    TableBlock,
)
from advlens.report.sections.features.reference import fid_table
from advlens.report.sections.features.tables import KINDS, FeatureTables, Network, network
from advlens.runs.results import Row
from advlens.words import Estimate, count, number

MODEL = Column(header="Model", cell=lambda row: row["model"], kind="model")
IMAGES = Column(header="Images", cell=lambda row: row["images"].capitalize(), kind="text")
FEATURES = Column(header="Features", cell=lambda row: row["network"].text, kind="long")
TITLES = {"fid": "FID ↓", "kid": "KID ↓", "recognized": "Recognized ↑"}


def blocks(tables: FeatureTables) -> list[Block]:
    """Pictures and distances (figures 3, 7, 14 and 19, tables 2 and 5 of B23)."""
    if not tables.generation and not tables.generation_pictures:
        return []
    return [
        NoteBlock(
            title="What does a class look like to the model?",
            text="From a blurred start, drawn at random from the Gaussian of the class's images, "
            "an image is changed until the model's output for the class is as high as it gets. "
            "Scores stand between two bounds: the untouched start images, and real images "
            "compared with other real ones.",
        ),
        *_pictures(tables),
        *_figure(tables),
        *_distances(tables),
        *_shares(tables),
        *fid_table(tables),
    ]


def _pictures(tables: FeatureTables) -> list[Block]:
    rows = tables.generation_pictures
    if not rows:
        return []
    return [
        PictureRowsBlock(
            name="generation",
            title="Generated images by class",
            caption="Real images of the class, start images, and what each model makes of a start.",
            file="generation_pictures.csv",
            rows=[
                _row(tables, [row for row in rows if row["class"] == name], name)
                for name in dict.fromkeys(row["class"] for row in rows)
            ],
        )
    ]


def _row(tables: FeatureTables, rows: Sequence[Row], name: str) -> PictureRow:
    def column(kind: str, model: str, heading: str, alt: str) -> list[PictureColumn]:
        mine = [row for row in rows if (row["kind"], row["model"]) == (kind, model)]
        pictures = [
            Picture(file=row["file"], alt=f"{alt} {name}")
            for row in sorted(mine, key=lambda row: row["rank"])
        ]
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


def _figure(tables: FeatureTables) -> list[Block]:
    rows: list[Row] = []
    for measured in tables.networks[:1]:
        for measure in ("fid", "kid"):
            found = {images: tables.distance(images, measure, measured) for images in KINDS}
            rows += _dots(TITLES[measure], found)
    for recognizer in tables.recognizers:
        if len(tables.recognized("generated", recognizer)) == len(tables.models):
            found = {images: tables.recognized(images, recognizer) for images in KINDS}
            rows += _dots(TITLES["recognized"], found)
            break
    if not rows:
        return []
    values = "; ".join(
        f"{row['panel'][:-2]}, {row['group']}, {row['model']}: {number(row['mean'])}"
        for row in rows
    )
    return [
        FigureBlock(
            name="generation-measures",
            draw=lambda width: figures.measure_panels(rows, tables.models, width=width),
            alt=f"Dots with intervals, a panel for each measure. {values}.",
            caption="Generated images between the bounds: start images, and real images against "
            "other real ones. 95% intervals where there are some; ↑: higher is better, ↓: lower. "
            "Each panel has its own scale.",
        )
    ]


def _dots(panel: str, found: Mapping[str, Mapping[str, Estimate]]) -> list[Row]:
    return [
        {
            "panel": panel,
            "group": images,
            "model": model,
            "mean": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for images, estimates in found.items()
        for model, estimate in estimates.items()
    ]


def _distances(tables: FeatureTables) -> list[Block]:
    if not tables.distances:
        return []

    def column(measure: str) -> Column:
        def cell(row: Row) -> str:
            found = tables.distance(row["images"], measure, row["network"]).get(row["model"])
            if found is None:
                return "–"
            return number(found.value) if found.low is None else found.text()

        return Column(header=measure.upper(), cell=cell)

    keys: dict[tuple[str, str, Network], Row] = {}
    for row in tables.distances:
        keys.setdefault((row["model"], row["images"], network(row)), row)
    order = {kind: place for place, kind in enumerate(KINDS)}
    shown = sorted(keys.values(), key=lambda row: order[row["images"]])
    several = len(tables.networks) > 1
    return [
        TableBlock(
            caption="Distance of generated, start and real images from real ones, with 95% "
            "intervals where there are some; lower is nearer. Both depend on the features"
            + ("" if several else f" ({tables.networks[0].text})")
            + " and, FID strongly, on the number of images.",
            file="generation.csv",
            columns=[
                IMAGES,
                MODEL,
                column("fid"),
                column("kid"),
                Column(header="Images (n)", cell=lambda row: count(row["n"])),
                Column(
                    header="Real images",
                    cell=lambda row: "–" if row["n_real"] is None else count(row["n_real"]),
                ),
                *([FEATURES] if several else []),
            ],
            rows=[row | {"network": network(row)} for row in map(dict, shown)],
        )
    ]


def _shares(tables: FeatureTables) -> list[Block]:
    names = {"confidence": "the model's own probability", "recognized": "recognized"}
    rows = [row for row in tables.generation if row["measure"] in names]
    if not rows:
        return []
    return [
        TableBlock(
            caption="How sure the model itself is of the wanted class, and the share of images "
            "that another network takes for it, with 95% intervals. The first is what generation "
            "raises; only the second is evidence.",
            file="generation.csv",
            columns=[
                IMAGES,
                MODEL,
                Column(header="Measure", cell=lambda row: names[row["measure"]], kind="text"),
                Column(header="By", cell=lambda row: row["features"] or "itself", kind="long"),
                Column(header="Share", cell=_share),
                Column(header="Images (n)", cell=lambda row: count(row["n"])),
            ],
            rows=rows,
        )
    ]


def _share(row: Row) -> str:
    found = Estimate(value=row["mean"], low=row["low"], high=row["high"], n=row["n"])
    return found.text(as_percent=True)

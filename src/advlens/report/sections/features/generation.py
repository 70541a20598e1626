"""What a model takes for the essence of a class, and B23's tables beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advlens.report import figures
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
from advlens.report.sections.features.tables import KINDS, FeatureTables, Network, network, of_set
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import Estimate, count, listed, number

IMAGES = Column(header="Images", cell=lambda row: row["images"].capitalize(), kind="text")
FEATURES = Column(header="Features", cell=lambda row: network(row).text, kind="long")
ARROWS = {"FID": "↓", "KID": "↓", "Recognized": "↑"}
CIFAR10 = {
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
}
STEPS = 10_000
"""Of B23's inversions."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What B23 reports of a data set."""

    data: str
    fid_table: str
    inversion_table: str
    n: int
    """Images behind each FID, generated and real."""
    fid: tuple[tuple[str, float], ...]
    inversion: tuple[tuple[str, float, float], ...]
    """For each model the distances of its two figures."""


CIFAR = Reference(
    data="CIFAR-10",
    fid_table="Table 2",
    inversion_table="Table 3",
    n=10_000,
    fid=(("real data", 5.39), ("standard ResNet-18", 152.29), ("robust ResNet-18", 88.25)),
    inversion=(("standard ResNet-18", 30.1, 30.07), ("robust ResNet-18", 20.05, 21.18)),
)
IMAGENET150 = Reference(
    data="Small ImageNet 150",
    fid_table="Table 5",
    inversion_table="Table 6",
    n=9_000,
    fid=(("real data", 7.62), ("standard ResNet-50", 237.53), ("robust ResNet-50", 81.2)),
    inversion=(("standard ResNet-50", 23.3, 26.75), ("robust ResNet-50", 12.84, 14.91)),
)


def blocks(tables: FeatureTables) -> list[Block]:
    """Pictures and distances (tables 2 and 5 of B23)."""
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
    classes = rows.split("class")
    some = len(classes) < len(tables.classes)
    return [
        PictureRowsBlock(
            name="generation",
            title="Generated images by class",
            caption=(f"The first {len(classes)} of {len(tables.classes)} classes. " if some else "")
            + "Real images of the class, start images, and what each model makes of a start, in "
            "the order of the starts. B23 shows generated images in its figures 3 and 7, start "
            "images in 14 and 19.",
            file="generation_pictures.csv",
            rows=[_row(tables, mine, mine[0]["class"]) for mine in classes],
        )
    ]


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


def _figure(tables: FeatureTables) -> list[Block]:
    rows = Rows()
    for measured in tables.networks[:1]:
        for measure in ("FID", "KID"):
            distances = {kind: tables.distance(kind, measure.lower(), measured) for kind in KINDS}
            rows += _dots(measure, distances)
    for recognizer in tables.recognizers:
        if len(tables.recognized("generated", recognizer)) == len(tables.models):
            shares = {images: tables.recognized(images, recognizer) for images in KINDS}
            rows += _dots("Recognized", shares)
            break
    if not rows:
        return []
    values = "; ".join(
        f"{row['measure']}, {row['group']}, {row['model']}: {number(row['mean'])}" for row in rows
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


def _dots(measure: str, by_images: Mapping[str, Mapping[str, Estimate]]) -> list[dict[str, Any]]:
    return [
        {
            "measure": measure,
            "panel": f"{measure} {ARROWS[measure]}",
            "group": images,
            "model": model,
            "mean": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for images, estimates in by_images.items()
        for model, estimate in estimates.items()
    ]


def _distances(tables: FeatureTables) -> list[Block]:
    if not tables.distances:
        return []

    def column(measure: str) -> Column:
        def cell(row: Row) -> str:
            distance = tables.distance(row["images"], measure, network(row)).get(row["model"])
            return distance.text() if distance else "–"

        return Column(header=measure.upper(), cell=cell)

    shown = [
        mine[0]
        for kind in KINDS
        for mine in tables.distances.where(images=kind).split("model", *Network._fields)
    ]
    several = len(tables.networks) > 1
    return [
        TableBlock(
            caption="Distance of generated, start and real images from real ones, with 95% "
            "intervals where there are some; lower is nearer. FID and KID depend on the features"
            + ("" if several else f" ({tables.networks[0].text})")
            + f" and, FID strongly, on the number of images.{tables.compared()}",
            file="generation.csv",
            columns=[
                IMAGES,
                MODEL,
                column("fid"),
                column("kid"),
                N,
                Column(
                    header="Real images",
                    cell=lambda row: "–" if row["n_real"] is None else count(row["n_real"]),
                ),
                *([FEATURES] if several else []),
            ],
            rows=shown,
        )
    ]


def _shares(tables: FeatureTables) -> list[Block]:
    names = {"confidence": "the model's own probability", "recognized": "recognized"}
    rows = tables.generation.where(measure=tuple(names))
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
                Column(header="Share", cell=lambda row: Estimate.of(row).text(as_percent=True)),
                N,
            ],
            rows=rows,
        )
    ]


def reference(tables: FeatureTables) -> Reference | None:
    """B23's numbers for classes like those of this run."""
    if set(tables.classes) == CIFAR10:
        return CIFAR
    return IMAGENET150 if len(tables.classes) == 150 else None


def fid_table(tables: FeatureTables) -> list[Block]:
    """Table 2 or 5 of B23 beside ours."""
    paper = reference(tables)
    ours = tables.distances.where(measure="fid")
    if paper is None or not ours:
        return []
    rows: list[dict[str, Any]] = [
        {
            "source": f"B23, {paper.fid_table}",
            "images": images,
            "value": f"{value:g}",
            "n": paper.n,
            "features": "Inception-v3; size and resize not stated",
        }
        for images, value in paper.fid
    ]
    for images in reversed(KINDS):
        for row in ours.where(images=images):
            found = {
                "source": "this run",
                "images": _named(row),
                "value": number(row["mean"]),
                "n": row["n"],
                "features": network(row).text,
            }
            rows += [found] * (found not in rows)  # models share a comparison of real images
    return [
        TableBlock(
            caption=f"FID in B23 ({paper.data}) and here. Values do not compare across the two, "
            f"only the order of models: {_differences(tables, paper, ours)}.",
            file="generation.csv",
            columns=[
                Column(header="Source", cell=lambda row: row["source"], kind="text"),
                Column(header="Images", cell=lambda row: row["images"], kind="long"),
                Column(header="FID", cell=lambda row: row["value"]),
                N,
                Column(header="Features", cell=lambda row: row["features"], kind="long"),
            ],
            rows=rows,
        )
    ]


def _named(row: Row) -> str:
    """Both sets of images; runs of earlier versions named none."""
    first = f"{row['images']}, {row['model']}"
    if row["images"] == "real":
        first = f"real data, {row['set']}" if row["set"] else "real data"
    return f"{first}, against {of_set(row, 'n_real', 'real_set')}" if row["real_set"] else first


def _differences(tables: FeatureTables, paper: Reference, ours: Rows) -> str:
    texts = ["B23 states neither the number of features nor the resize"]
    if not tables.leaks:
        texts.append(
            "B23 draws its start images from Gaussians of the very test images that it measures "
            "against, here those of other images"
        )
    others = dict.fromkeys(m.features for m in map(network, ours) if not m.is_inception)
    if others:
        texts.append(f"{listed(list(others))} measures here in place of Inception")
    sizes = sorted(ours.values("n"))
    if sizes != [paper.n]:
        texts.append(
            f"FID falls with the number of images, {listed([count(n) for n in sizes])} here, "
            f"{count(paper.n)} there"
        )
    return "; ".join(texts)


def inversion_table(tables: FeatureTables) -> list[Block]:
    """Table 3 or 6 of B23 beside ours."""
    paper = reference(tables)
    ours = tables.inversion.where(measure=tuple(tables.layers))
    if paper is None or not ours:
        return []
    rows: list[dict[str, Any]] = [
        {
            "source": f"B23, {paper.inversion_table}",
            "model": model,
            "start": start,
            "value": f"{value:g}",
            "n": "3 jointly",
            "measure": "192 features of Inception-v3",
            "steps": STEPS,
        }
        for model, *values in paper.inversion
        for start, value in zip(("first figure", "second figure"), values, strict=True)
    ]
    rows += [
        {
            "source": "this run",
            "model": row["model"],
            "start": f"from {row['start']}",
            "value": number(row["mean"]),
            "n": count(row["n"]),
            "measure": tables.layer(row["measure"]),
            "steps": row["steps"],
        }
        for row in ours
    ]
    return [
        TableBlock(
            caption=f"Distance of inverted images in B23 ({paper.data}) and here. Values do not "
            "compare across the two, only the order of models: B23 takes three images as one "
            "vector, which makes a distance about √3 times that of one image; features and steps "
            "stand in their columns.",
            file="inversion.csv",
            columns=[
                Column(header="Source", cell=lambda row: row["source"], kind="text"),
                Column(header="Model", cell=lambda row: row["model"], kind="long"),
                Column(header="Start", cell=lambda row: row["start"], kind="text"),
                Column(header="Distance", cell=lambda row: row["value"]),
                Column(header="Images (n)", cell=lambda row: row["n"]),
                Column(header="Features", cell=lambda row: row["measure"], kind="long"),
                Column(header="Steps", cell=lambda row: count(row["steps"])),
            ],
            rows=rows,
        )
    ]

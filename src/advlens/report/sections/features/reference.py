"""B23's tables beside ours, where the data is the paper's."""

from collections.abc import Sequence
from dataclasses import dataclass

from advlens.report.blocks import Block, Column, TableBlock
from advlens.report.sections.features.tables import FeatureTables, Network, network
from advlens.runs.results import Row
from advlens.words import count, listed, number

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


def reference(tables: FeatureTables) -> Reference | None:
    """B23's numbers for classes like those of this run."""
    if set(tables.classes) == CIFAR10:
        return CIFAR
    return IMAGENET150 if len(tables.classes) == 150 else None


def fid_table(tables: FeatureTables) -> list[Block]:
    """Table 2 or 5 of B23 beside ours."""
    found = reference(tables)
    ours = [row for row in tables.distances if row["measure"] == "fid"]
    if found is None or not ours:
        return []
    rows: list[Row] = [
        {
            "source": f"B23, {found.fid_table}",
            "images": images,
            "value": f"{value:g}",
            "n": found.n,
            "features": "Inception-v3; size and resize not stated",
        }
        for images, value in found.fid
    ]
    rows += [
        {
            "source": "this run",
            "images": f"{row['images']}, {row['model']}",
            "value": number(row["mean"]),
            "n": row["n"],
            "features": network(row).text,
        }
        for row in ours
    ]
    return [
        TableBlock(
            caption=f"FID in B23 ({found.data}) and here. Values do not compare across the two, "
            f"only the order of models: {_differences(tables, found, ours)}.",
            file="generation.csv",
            columns=[
                Column(header="Source", cell=lambda row: row["source"], kind="text"),
                Column(header="Images", cell=lambda row: row["images"], kind="long"),
                Column(header="FID", cell=lambda row: row["value"]),
                Column(header="Images (n)", cell=lambda row: count(row["n"])),
                Column(header="Features", cell=lambda row: row["features"], kind="long"),
            ],
            rows=rows,
        )
    ]


def _differences(tables: FeatureTables, found: Reference, ours: Sequence[Row]) -> str:
    texts = [
        "B23 draws its start images from Gaussians of the very test images that it measures "
        "against, here those of other images"
    ]
    others = [m.features for m in map(network, ours) if not is_inception(m)]
    if others:
        texts.append(f"{listed(list(dict.fromkeys(others)))} measures here in place of Inception")
    if any(row["n"] != found.n for row in ours):
        sizes = sorted({row["n"] for row in ours})
        texts.append(
            f"FID falls with the number of images, {listed([count(n) for n in sizes])} here, "
            f"{count(found.n)} there"
        )
    return "; ".join(texts)


def is_inception(measured: Network) -> bool:
    """Whether these are the features that published scores rest on."""
    return "inception" in measured.features.lower() and measured.dimension == 2048


def inversion_table(tables: FeatureTables) -> list[Block]:
    """Table 3 or 6 of B23 beside ours."""
    found = reference(tables)
    ours = [row for row in tables.inversion if row["measure"] in tables.layers]
    if found is None or not ours:
        return []
    rows: list[Row] = [
        {
            "source": f"B23, {found.inversion_table}",
            "model": model,
            "start": start,
            "value": f"{value:g}",
            "n": "3 jointly",
            "measure": "192 features of Inception-v3",
            "steps": STEPS,
        }
        for model, *values in found.inversion
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
            caption=f"Distance of inverted images in B23 ({found.data}) and here. Values do not "
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

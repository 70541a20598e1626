"""Figures of the dissection section: detectors by concept, and by IoU threshold."""

from collections import Counter
from typing import Any

from advlens.report import figures
from advlens.report.blocks import Block, FigureBlock, NoteBlock
from advlens.report.sections.dissection.tables import DissectionTables
from advlens.words import count, file_name, percent


def concepts(tables: DissectionTables) -> list[Block]:
    """Detectors of each concept, one bar chart a model: figures 5 and 6 of Bau et al."""
    charts = [chart for place in tables.last if (chart := _chart(tables, *place))]
    if not charts:
        return []
    note = NoteBlock(
        title="Which concepts?",
        text="The detectors of the last dissected layer by concept, most frequent first, as Bau et "
        "al. draw them."
        + (
            " Below each bar, paler, those of the same concept under attack; the order is that of "
            "both together."
            if tables.under_attack
            else ""
        ),
    )
    return [note, *charts]


def _chart(tables: DissectionTables, model: str, layer: str) -> FigureBlock | None:
    found: dict[str, Counter[tuple[str, str]]] = {
        images: Counter(
            (row["concept"], row["category"])
            for row in tables.units
            if (row["model"], row["layer"], row["images"]) == (model, layer, images)
            and row["label"]
            and row["iou"] > tables.minimum
        )
        for images in ("real", "adversarial")
    }
    rows: list[dict[str, Any]] = [
        {"concept": concept, "category": category}
        | {images: counts[concept, category] for images, counts in found.items()}
        for concept, category in found["real"] | found["adversarial"]
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (-row["real"] - row["adversarial"], -row["real"], row["concept"]))
    cut = rows[figures.CONCEPTS :]
    rest = (
        f" Not shown: {count(len(cut))} rarer ones, with at most "
        f"{max(row['real'] + row['adversarial'] for row in cut)} detectors."
        if cut
        else ""
    )
    values = "; ".join(
        f"{row['concept']} ({row['category']}): {row['real']}"
        + (f", under attack {row['adversarial']}" if tables.under_attack else "")
        for row in rows[: figures.CONCEPTS]
    )
    kinds = f"{sum(row['real'] > 0 for row in rows)} concepts have a detector on real images"
    if tables.under_attack:
        kinds += f", {sum(row['adversarial'] > 0 for row in rows)} under attack"
    return FigureBlock(
        name=file_name("concepts", model, layer),
        draw=lambda width: figures.concept_bars(rows, adversarial=tables.under_attack, width=width),
        alt=f"Bars of detectors per concept, {model}, {layer}. {values}.",
        caption=f"{model}, {layer}: detectors per concept. {kinds}.{rest}",
    )


def sweep(tables: DissectionTables) -> list[Block]:
    """How far the shares hang on the IoU threshold."""
    rows = [
        row
        for row in tables.shares
        if row["category"] == "all" and (row["model"], row["layer"]) in tables.last
    ]
    if len({row["minimum"] for row in rows}) < 2:
        return []
    ends = "; ".join(
        f"{row['model']}, {row['images']}, {row['minimum']:g}: {percent(row['share'])}"
        for row in rows
        if row["images"] in ("real", "adversarial")
    )
    return [
        NoteBlock(
            title="Does it hang on the threshold?",
            text="What counts as a detector is a convention: an IoU above "
            f"{tables.minimum:g}. (D22 prints 0.4; at that no unit of the AlexNet of Bau et al. "
            "would be left, whose highest IoU is 0.219.)"
            + (
                " An order of models that another threshold turns around is none."
                if len(tables.layers) > 1
                else ""
            ),
        ),
        FigureBlock(
            name="dissection-sweep",
            draw=lambda width: figures.shares_by_threshold(
                rows, tables.models, minimum=tables.minimum, width=width
            ),
            alt=f"Share of detectors against the IoU threshold. {ends}.",
            caption="Share of detectors in the last dissected layer against the IoU above which "
            f"a unit counts as one, with 95% bands over units; dotted: by chance. {tables.behind}.",
        ),
    ]

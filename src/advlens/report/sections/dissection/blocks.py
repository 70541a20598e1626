"""Tables and figures of the dissection section."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from advlens.report.blocks import LAYER, MODEL, Block, Column, FigureBlock, NoteBlock, TableBlock
from advlens.report.figures import dissection as figures
from advlens.report.sections.dissection.tables import KINDS, DissectionTables, share
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import count, file_name, layer_text, percent

NAMES = dict(zip(KINDS, ("Real", "Adversarial", "Re-estimated"), strict=True))
IMAGES = Column(header="Images", cell=lambda row: NAMES[row["images"]], kind="text")
MOST_GROUPS = 8
"""Layers, over all models, above which the figure of shares shows only the last of each."""


def shares(tables: DissectionTables) -> Iterator[Block]:
    """Table 2 of D19 and Table 1 of D22, as a figure and in numbers."""
    rows = [row for images in KINDS for row in _rows(tables, tables.last, images)]
    if not rows:
        return
    yield NoteBlock(
        title="How many units detect something?",
        text="Each unit counts once, in the category of its best concept."
        + (
            " Thresholds are taken from the real images; rows “re-estimated” show adversarial "
            "images with thresholds of their own, so that a unit that merely responds less "
            "everywhere is not blamed for it."
            if tables.under_attack
            else ""
        ),
    )
    yield _shares_figure(tables)
    yield _shares_table(
        tables, tables.last, "the last dissected layer of each model (Table 2 of D19)"
    )
    if tables.together:
        yield _shares_table(
            tables, tables.together, "all dissected layers together (Table 1 of D22)"
        )


def _rows(
    tables: DissectionTables, places: Sequence[tuple[str, str]], images: str, category: str = "all"
) -> list[Row]:
    return [row for place in places if (row := tables.share(place, images, category))]


def _shares_figure(tables: DissectionTables) -> FigureBlock:
    each = tables.places
    places = each if len(each) <= MOST_GROUPS else tables.last
    rows = Rows(
        row
        for place in places
        for images in ("real", "adversarial")
        if tables.share(place, images)
        for category in (*tables.categories, "all")
        if (row := tables.share(place, images, category))
    )
    values = "; ".join(
        f"{row['model']}, {row['layer']}, {row['images']}: {percent(row['share'])}, by chance "
        f"{percent(row['permuted_share'])}"
        for row in rows.where(category="all")
    )
    return FigureBlock(
        name="dissection-shares",
        draw=partial(figures.category_shares, rows),
        alt=f"Bars of the share of detectors, by category. {values}.",
        caption="Share of units that detect a concept, by the concept's category; the line in a "
        "bar is the share that labels of other images give. "
        f"{'' if places is each else 'The last dissected layer of each model. '}{tables.behind}.",
    )


def _shares_table(
    tables: DissectionTables, places: Sequence[tuple[str, str]], where: str
) -> TableBlock:
    def column(category: str) -> Column:
        def cell(row: Row) -> str:
            share = tables.share((row["model"], row["layer"]), row["images"], category)
            if share is None:
                return "–"
            return f"{100 * share['share']:.1f} / {100 * share['permuted_share']:.1f}"

        return Column(header=category.capitalize(), cell=cell)

    return TableBlock(
        caption=f"Detectors among the units of {where}, with 95% Wilson intervals over units, "
        f"then by category, in % / by chance. {tables.behind}.",
        file="dissection_shares.csv",
        columns=[
            MODEL,
            IMAGES,
            Column(header="Detectors", cell=lambda row: share(row).text(as_percent=True)),
            Column.of("By chance", "permuted_share", percent),
            *map(column, tables.categories),
            Column.of("Units (n)", "units", count),
            LAYER,
        ],
        rows=[
            row for place in places for images in KINDS for row in _rows(tables, [place], images)
        ],
    )


def transitions(tables: DissectionTables) -> Iterator[Block]:
    """What becomes of each detector under attack."""
    places = [*tables.last, *tables.together]
    rows = [
        {"model": place[0], "layer": place[1], "images": images, "fates": fates}
        for place in places
        for images in KINDS[1:]
        if (fates := tables.fates(place, images))
    ]
    if not rows:
        return

    def column(header: str, fate: str) -> Column:
        return Column(
            header=header,
            cell=lambda row: (
                f"{getattr(row['fates'], fate)}: "
                + row["fates"].estimate(getattr(row["fates"], fate)).text(as_percent=True)
            ),
        )

    yield NoteBlock(
        title="What becomes of a detector under attack?",
        text="Equal shares can hide that other units detect other things. So each unit is "
        "followed from real to adversarial images: it keeps the same concept, detects "
        "another one, or loses it; a unit that detected nothing can gain one.",
    )
    yield TableBlock(
        caption="Detectors on real images by what they do under attack: number, and share of "
        f"these detectors with its 95% interval. {tables.behind}.",
        file="dissection_transitions.csv",
        columns=[
            MODEL,
            LAYER,
            IMAGES,
            Column(header="Detectors", cell=lambda row: count(row["fates"].detectors)),
            column("Same concept", "kept"),
            column("Another concept", "changed"),
            column("None", "lost"),
            Column(header="Gained", cell=lambda row: count(row["fates"].gained)),
        ],
        rows=rows,
    )
    yield _matrix(tables, tables.last, "the last dissected layer")
    yield from [_matrix(tables, tables.together, "all dissected layers")] if tables.together else []


def _matrix(tables: DissectionTables, places: Sequence[tuple[str, str]], where: str) -> TableBlock:
    names = [*tables.categories, "none"]
    cells = {
        (row["model"], row["layer"], row["before"], row["after"]): row
        for row in tables.transitions.where(images="adversarial")
    }

    def column(after: str) -> Column:
        def cell(row: Row) -> str:
            moved = cells.get((row["model"], row["layer"], row["before"], after))
            if moved is None or not moved["units"]:
                return "·"
            same = f" ({count(moved['same_concept'])})" if after == row["before"] != "none" else ""
            return f"{count(moved['units'])}{same}"

        return Column(header=f"→ {after}", cell=cell)

    return TableBlock(
        caption=f"Units of {where} by the category that they detect on real images (rows) and "
        "under attack (columns). In brackets, how many keep the same concept.",
        file="dissection_transitions.csv",
        columns=[
            MODEL,
            LAYER,
            Column.words("On real images", "before"),
            *map(column, names),
            Column.of("Units", "units", count),
        ],
        rows=[
            {"model": model, "layer": layer, "before": before, "units": units}
            for model, layer in places
            for before in names
            if (
                units := sum(
                    r["units"] for key, r in cells.items() if key[:3] == (model, layer, before)
                )
            )
        ],
        folded=where.startswith("all"),
    )


def concepts(tables: DissectionTables) -> Iterator[Block]:
    """Detectors of each concept, one bar chart a model: figures 5 and 6 of Bau et al."""
    charts = [chart for place in tables.last if (chart := _chart(tables, *place))]
    if not charts:
        return
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
    yield note
    yield from charts


def _chart(tables: DissectionTables, model: str, layer: str) -> FigureBlock | None:
    counted: dict[str, Counter[tuple[str, str]]] = {
        images: Counter(
            (row["concept"], row["category"])
            for row in tables.units.where(model=model, layer=layer, images=images)
            if row["label"] and row["iou"] > tables.minimum
        )
        for images in ("real", "adversarial")
    }
    rows = Rows(
        {"concept": concept, "category": category}
        | {images: counts[concept, category] for images, counts in counted.items()}
        for concept, category in counted["real"] | counted["adversarial"]
    )
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
        draw=partial(figures.concept_bars, rows, adversarial=tables.under_attack),
        alt=f"Bars of detectors per concept, {model}, {layer_text(layer)}. {values}.",
        caption=f"{model}, {layer_text(layer)}: detectors per concept. {kinds}.{rest}",
    )


def sweep(tables: DissectionTables) -> Iterator[Block]:
    """How far the shares hang on the IoU threshold."""
    rows = Rows(
        row
        for model, layer in tables.last
        for row in tables.shares.where(model=model, layer=layer, category="all")
    )
    if len(rows.values("minimum")) < 2:
        return
    ends = "; ".join(
        f"{row['model']}, {row['images']}, {row['minimum']:g}: {percent(row['share'])}"
        for row in rows.where(images=("real", "adversarial"))
    )
    yield NoteBlock(
        title="Does it hang on the threshold?",
        text="What counts as a detector is a convention: an IoU above "
        f"{tables.minimum:g}. (D22 prints 0.4; at that no unit of the AlexNet of Bau et al. "
        "would be left, whose highest IoU is 0.219.)"
        + (
            " An order of models that another threshold turns around is none."
            if len(tables.layers) > 1
            else ""
        ),
    )
    yield FigureBlock(
        name="dissection-sweep",
        draw=partial(figures.shares_by_threshold, rows, tables.models, minimum=tables.minimum),
        alt=f"Share of detectors against the IoU threshold. {ends}.",
        caption="Share of detectors in the last dissected layer against the IoU above which "
        f"a unit counts as one, with 95% bands over units; dotted: by chance. {tables.behind}.",
    )

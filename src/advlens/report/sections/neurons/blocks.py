"""Tables, figures and pictures of the neuron section."""

import itertools
from collections.abc import Collection, Iterator
from functools import partial

from advlens.report.blocks import LAYER, MODEL, Block, Column, FigureBlock, N, NoteBlock, TableBlock
from advlens.report.figures import neurons as figures
from advlens.report.grids import MAPS, Grid, GridBlock, cells
from advlens.report.sections.neurons.tables import EQUAL, NeuronTables, attacks, effect
from advlens.runs.columns import NAMED
from advlens.runs.measures import NEURONS
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import (
    NORMS,
    count,
    file_name,
    file_names,
    listed,
    number,
    percent,
    radius_text,
)


def table1(tables: NeuronTables) -> Iterator[Block]:
    """Table 1 of D19."""
    if not tables.table1:
        return
    yield NoteBlock(
        title="Does a unit keep standing for one thing?",
        text="Table 1 of D19: how alike the classes of a unit's strongest images are, real "
        "and adversarial, averaged over the units of the last convolution.",
    )
    yield TableBlock(
        caption="Consistency in the last convolution, on real images and under FGSM, with 95% "
        "jackknife intervals over images.",
        file="table1_d19.csv",
        columns=[
            MODEL,
            LAYER,
            Column.interval("LC = consis", "consis"),
            Column.interval("consis_adv", "consis_adv"),
            Column.of("Misclassified", "success", percent),
            Column.of("Live units", "units", count),
            N,
        ],
        rows=tables.table1,
    )


def histograms(tables: NeuronTables) -> Iterator[Block]:
    """Figure 5 of D19."""
    last = tables.last_layers.values("model", "layer")
    live = Rows(
        row
        for model, layer in last
        for row in tables.units.where(model=model, layer=layer, dead=False)
    )
    if not live:
        return
    means = "; ".join(
        f"{row['model']}: {number(row['consis'])} on real and {number(row['consis_adv'])} on "
        "adversarial images"
        for row in tables.table1
    )
    yield FigureBlock(
        name="consistency-histograms-fgsm",
        draw=partial(figures.consistency_histograms, live, tables.models, floors=_floors(tables)),
        alt=f"Histograms of consistency, units of the last convolution. Means: {means}.",
        caption="Units of the last convolution by consistency (Figure 5 of D19), on real and on "
        f"adversarial images ({behind(tables, 'fgsm')}). Solid: mean; dotted: LC of random images.",
    )


def consistency_table(tables: NeuronTables) -> TableBlock:
    """All kinds of images at the last convolution, with the attack's success beside each CS."""
    rows = [row for images in tables.headings for row in tables.at_last(images, "consis_adv")]
    told = "Shares of misclassified images count natural errors, too."
    if tables.targeted:
        told = (
            "The main attack succeeds where the class that it aims at is predicted; FGSM and noise "
            f"aim at none, so misclassified images are counted. {told}"
        )

    def column(measure: str) -> Column:
        return Column.looked_up(
            NEURONS[measure].title, lambda row: tables.at_last(row["images"], measure).estimates()
        )

    return TableBlock(
        caption=f"The last convolution under each kind of change. {told} The main attack is "
        f"{named(tables)}. 95% intervals; n = {count(tables.images)}. The file has all layers.",
        file="consistency.csv",
        columns=[
            Column(header="Attack", cell=lambda row: tables.headings[row["images"]], kind="text"),
            MODEL,
            Column(header="Radius ε", cell=_radius, kind="text"),
            Column.interval(
                "Success" if tables.targeted else "Misclassified", "success", as_percent=True
            ),
            *map(column, [*NEURONS][1:]),
        ],
        rows=rows,
    )


def _radius(row: Row) -> str:
    if row["epsilon"] is None:
        return "–"
    return f"{NORMS.get(row['norm'], row['norm'])} {radius_text(row)}"


def curves(tables: NeuronTables) -> Iterator[Block]:
    """Figure 10 of D22."""
    rows = Rows(row for row in tables.curves if row["images"] in tables.headings)
    if not rows:
        return
    ends = "; ".join(
        f"{row['model']}, {tables.headings[row['images']]}, LC {number(row['lc'])}: CS1 "
        f"{number(row['cs1'])}, CS2 {number(row['cs2'])}, {row['units']} units"
        for row in _ends(rows, "model", "images")
    )
    yield NoteBlock(
        title="Do units with a clear meaning keep it under attack?",
        text=f"{_figure10(tables)} units of all convolutions, sorted by what they are on real "
        "images. CS1 that falls and CS2 that rises with LC mean that the clearer the meaning "
        "of a unit looks, the more it follows the attack.",
    )
    yield FigureBlock(
        name=f"consistency-curves-{tables.main}",
        draw=partial(figures.consistency_curves, rows, tables.models, headings=tables.headings),
        alt=f"Curves of CS1 and CS2 against LC. {ends}.",
        caption="Mean CS1 and CS2 of the units in each bin of LC, with 95% intervals over "
        f"images; hollow: fewer than {figures.FEW} units; below, how many a bin holds. "
        + " ".join(
            f"{tables.headings[images]}: {behind(tables, images)}."
            for images in rows.values("images")
        ),
    )


def _figure10(tables: NeuronTables) -> str:
    adam = all(row["attack"] == "AdamAttack" for row in tables.at_last(tables.main, "cs1"))
    return "Figure 10 of D22:" if adam else "As in Figure 10 of D22, but under another attack:"


def _ends(rows: Rows, *columns: str) -> list[Row]:
    """The first and the last row of each group, for texts in place of a figure."""
    return [row for group in rows.split(*columns) for row in (group[0], *group[1:][-1:])]


def behind(tables: NeuronTables, images: str, models: Collection[str] = ()) -> str:
    """The attack behind a set of adversarial images, and its success, for captions.

    Args:
        tables: of the neuron stage.
        images: the set.
        models: those that are meant, by default all.
    """
    rows = tables.at_last(images, "cs1").where(model=tuple(models or tables.models))
    shares = listed([f"{percent(row['success'])} on {row['model']}" for row in rows])
    return f"{attacks(rows)}; {effect(rows)} {shares}" if rows else attacks(rows)


def named(tables: NeuronTables) -> str:
    """The main attack."""
    return attacks(tables.at_last(tables.main, "cs1"))


def depth(tables: NeuronTables) -> Iterator[Block]:
    """Layer means along the network, and the table behind them."""
    yield NoteBlock(
        title="From the first convolution to the last",
        text="Early units respond to colors and edges, which many classes share; late units are "
        "nearer to classes. Where along the way does an attack take hold?",
    )
    live = tables.layers.known("lc_mean")
    if live:
        means = "; ".join(
            f"{row['model']} {row['layer']}: LC {number(row['lc_mean'])}, "
            f"CS1 {number(row['cs1_mean'])}, CS2 {number(row['cs2_mean'])}"
            for row in _ends(live, "model")
        )
        yield FigureBlock(
            name=f"consistency-by-depth-{tables.main}",
            draw=partial(
                figures.consistency_by_depth, tables.layers, tables.models, floors=_floors(tables)
            ),
            alt=f"Layer means along the network. {means}.",
            caption="Layer means with 95% jackknife intervals over images; dotted: LC of random "
            f"images. Attack: {behind(tables, tables.main)}.",
        )
    yield _layer_table(tables)


def _layer_table(tables: NeuronTables) -> TableBlock:
    lc, *others = (Column.interval(each.title, measure) for measure, each in NEURONS.items())
    return TableBlock(
        caption=f"All convolutions under {named(tables)}, n = {count(tables.images)} images. "
        "Corrected: without the bias of few images, (k·LC − 1)/(k − 1).",
        file="layers.csv",
        columns=[
            MODEL,
            LAYER,
            Column.of("Units", "units", count),
            Column.of("Dead", "dead", count),
            Column.of("Top k", "top", count),
            lc,
            Column.of("LC corrected", "lc_corrected_mean", number),
            *others,
        ],
        rows=tables.layers,
        folded=True,
    )


def floors(tables: NeuronTables) -> Iterator[Block]:
    """What chance gives."""
    if not tables.floors:
        return
    yield TableBlock(
        caption="Floors: what the measures give by chance, without any unit.",
        file="floors.csv",
        columns=[
            MODEL,
            Column.words("Floor", "floor"),
            Column(header="Value", cell=lambda row: number(row["value"])),
            N,
        ],
        rows=tables.floors,
    )


def _floors(tables: NeuronTables) -> dict[str, float]:
    return {model: estimate.value for model, estimate in tables.random("lc").items()}


def pictures(tables: NeuronTables) -> Iterator[Block]:
    """Units next to each other: those chosen alike in each model."""
    if not tables.pictures:
        return
    reasons = tables.pictures.values("chosen")
    ways = ["named by the user (--units)"] * (NAMED in reasons)
    ways += ["chosen by the same rule in each model's last convolution"] * (reasons != [NAMED])
    text = (
        "The real and the adversarial images of highest response, for a few units "
        f"{' or '.join(ways)}. Units of two models have nothing to do with each other, even where "
        "they stand side by side."
    )
    if any(row["map"] for row in tables.pictures):
        text += MAPS
    yield NoteBlock(title="What a unit responds to", text=text)
    places = tables.pictures.values("model", "layer")
    sheets = file_names("units", [(*place, tables.main) for place in places])
    for chosen in tables.pictures.values("chosen"):
        rows = tables.pictures.where(chosen=chosen)
        each = [rows.where(model=m).values("model", "layer", "unit") for m in tables.models]
        keys = [key for row in itertools.zip_longest(*each) for key in row if key]
        caption = f"Adversarial images: {behind(tables, tables.main)}."
        if equal := rows.where(images=EQUAL):
            reached = behind(tables, EQUAL, equal.values("model"))
            caption += f" Equal success, where that attack reaches less: {reached}."
        yield GridBlock(
            title=f"Units of {chosen}",
            caption=caption,
            grids=[_grid(tables, *key, sheet=sheets[*key[:2], tables.main]) for key in keys],
        )


def _grid(tables: NeuronTables, model: str, layer: str, unit: int, *, sheet: str) -> Grid:
    key = {"model": model, "layer": layer, "unit": unit}
    values = tables.units.one(**key) or {}
    return Grid(
        name=file_name("unit", model, layer, unit),
        model=model,
        layer=layer,
        unit=unit,
        measures={
            **({"Dead": "positive on no real image"} if values.get("dead") else {}),
            **{
                each.title: number(values[measure])
                for measure, each in NEURONS.items()
                if values.get(measure) is not None
            },
        },
        kinds=cells(tables.pictures.where(**key)),
        sheet=sheet,
        classes=tables.frequent.get((model, layer, unit), {}),
    )

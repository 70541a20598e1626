"""The pictures that excite a few units most, model beside model."""

from advlens.report.blocks import Block, Cell, Grid, GridBlock, NoteBlock
from advlens.report.sections.neurons.blocks import behind
from advlens.report.sections.neurons.findings import is_framed
from advlens.report.sections.neurons.tables import MEASURES, NeuronTables
from advlens.runs.results import Row
from advlens.words import file_name, number

MAPS = (
    " Below each picture stands its discrepancy map (D22): within the yellow line, a small patch "
    "of random pixels changes the unit's response by at least half of the largest change."
)


def pictures(tables: NeuronTables) -> list[Block]:
    """Units next to each other: those chosen alike in each model."""
    if not tables.pictures:
        return []
    text = (
        "For a few units of the last convolution, the real and the adversarial images of highest "
        "response. Units of two models have nothing to do with each other; they stand side by side "
        "because they were chosen by the same rule."
    )
    if any(row["map"] for row in tables.pictures):
        text += MAPS
    blocks: list[Block] = [NoteBlock(title="What excites a unit", text=text)]
    for chosen in dict.fromkeys(row["chosen"] for row in tables.pictures):
        per_model = [
            list(
                dict.fromkeys(
                    (row["model"], row["layer"], row["unit"])
                    for row in tables.pictures
                    if (row["chosen"], row["model"]) == (chosen, model)
                )
            )
            for model in tables.models
        ]
        longest = max(map(len, per_model))
        keys = [
            units[place] for place in range(longest) for units in per_model if place < len(units)
        ]
        blocks.append(
            GridBlock(
                title=f"Units of {chosen}",
                caption=f"Adversarial images at equal ε: {behind(tables, 'least-likely')}.",
                grids=[_grid(tables, *key) for key in keys],
            )
        )
    return blocks


def _grid(tables: NeuronTables, model: str, layer: str, unit: int) -> Grid:
    def mine(row: Row) -> bool:
        return bool((row["model"], row["layer"], row["unit"]) == (model, layer, unit))

    rows = sorted(filter(mine, tables.pictures), key=lambda row: row["rank"])
    values = next(filter(mine, tables.units), {})
    names = dict(zip(MEASURES, ("LC", "consis_adv", "CS1", "CS2"), strict=True))
    real, adversarial = (
        [
            Cell(
                file=row["file"],
                label=row["label"],
                predicted=row["predicted"],
                framed=is_framed(row),
                map=row["map"],
            )
            for row in rows
            if row["images"] == kind
        ]
        for kind in ("real", "adversarial")
    )
    return Grid(
        name=file_name("unit", model, layer, unit),
        model=model,
        layer=layer,
        unit=unit,
        measures={
            name: number(values[measure])
            for measure, name in names.items()
            if values.get(measure) is not None
        },
        real=real,
        adversarial=adversarial,
    )

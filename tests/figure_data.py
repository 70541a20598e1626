"""What the figures of the tests are drawn from."""

from pathlib import Path

import numpy as np

from advlens.report.blocks import Picture, PictureColumn, PictureRow, PictureRowsBlock
from advlens.report.figures.style import CATEGORIES
from advlens.report.grids import Cell, Grid
from advlens.report.sections.dissection.tables import DissectionTables
from advlens.runs.results import Results, Rows
from synthetic_dissection import write_dissection
from synthetic_run import BOTH, LAYERS, write_run, write_training


def made(folder: Path) -> Results:
    """A run with all tables that plots are made of."""
    write_run(folder, shown=0)
    write_training(folder, epochs=6)
    return Results.read(write_dissection(folder, shown=0))


def shares(results: Results, minimum: float | None = 0.04) -> Rows:
    """Rows of the last layer; at all IoU thresholds those of all categories."""
    tables = DissectionTables(results)
    assert tables
    return Rows(
        row
        for row in tables.shares.where(layer=LAYERS[-1])
        if (row["minimum"] == minimum if minimum else row["category"] == "all")
    )


def pixels(file: str) -> np.ndarray:
    return np.random.default_rng(list(file.encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)


UNIT = {"model": "standard", "layer": "conv1", "unit": 3}
GRID = Grid(
    name="unit",
    measures={"LC": "0.5"},
    kinds={
        "real": [Cell(file=f"{n}", label="cat", predicted="cat") for n in range(8)],
        "adversarial": [
            Cell(file=f"a{n}", label="dog", predicted="cat", framed=n < 3) for n in range(8)
        ],
    },
    **UNIT,
)
MAPPED = Grid(
    name="mapped",
    measures={"Real": "a concept of a long name, IoU 0.1", "Adversarial": "x" * 99},
    kinds={"real": [Cell(file=f"{n}", label="", predicted="", map=f"m{n}") for n in range(3)]},
    **UNIT,
)


def picture_column(model: str, row: int) -> PictureColumn:
    pictures = [
        Picture(file=f"{model}{row}{k}", alt="x", caption="cat 0.9", wrong=k == 1) for k in range(3)
    ]
    return PictureColumn(heading=model, model=True, pictures=pictures)


IMAGE = PictureColumn(heading="Image", pictures=[Picture(file="i", alt="Image")])
ROWS = PictureRowsBlock(
    name="rows",
    title="Rows",
    caption="Rows.",
    file="rows.csv",
    rows=[
        PictureRow(
            title=f"row {row}",
            model="standard" if row else "",
            columns=[IMAGE, *(picture_column(model, row) for model in BOTH)],
        )
        for row in range(2)
    ],
)
DOTS = Rows(
    {"panel": panel, "group": group, "model": model, "mean": mean, "low": low, "high": mean + 0.2}
    for model, shift in (("standard", 0.0), ("robust", 0.3))
    for panel, group, mean, low in (
        ("First", "one", 0.5 + shift, 0.4 + shift),
        ("First", "two", -0.1, -0.2),
        ("Second", "one", 5.0, 4.0),
        ("Third", "one", 0.0, -1.0),
        ("Fourth", "two", 1.0, 0.0),
    )
)
BARS = Rows(
    {"concept": f"{'long' * (n % 9)} {n}", "category": category, "real": 31 - n, "adversarial": n}
    for n, category in zip(range(31), 6 * [*CATEGORIES, "new"], strict=False)
)
CAT, OTHER = "cat", "<script>$x^2$</a>&amp;"
PAIRS = Rows(
    {"panel": panel, "model": model, "label": label, "predicted": predicted, "share": 0.4}
    for panel in ("natural images", "PGD-20, L2 ε = 0.5")
    for model in BOTH
    for label in (CAT, OTHER)
    for predicted in (CAT, OTHER)
)
BINS = Rows(
    {"panel": panel, "model": model, "confidence": x, "accuracy": x / 2, "low": 0.0, "high": x}
    for panel in ("natural images", "PGD-20, L∞ ε = 8/255", "PGD-20, L2 ε = 0.5")
    for model in BOTH
    for x in (0.2, 0.9)
)

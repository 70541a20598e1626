"""The pictures that units respond to most, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from advlens.runs.results import Rows
from advlens.runs.tables import Row


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a grid; `file` is a PNG, relative to the run folder."""

    file: str
    label: str
    predicted: str
    framed: bool = False
    """The predicted class is semantically near the unit's real images (D22 §2)."""
    map: str = ""
    """PNG of its discrepancy map, shown below it."""

    @property
    def caption(self) -> str:
        """The label alone where the prediction agrees, else "label → predicted"."""
        same = self.label == self.predicted
        return self.label if same else f"{self.label} → {self.predicted}"


KINDS = {"real": "Real", "adversarial": "Adversarial", "equal-success": "Equal success"}
"""What a grid's kinds of images are called, by their names in the tables, in order."""
MAPS = (
    " Below each picture stands its discrepancy map (D22): within the yellow line, a small patch "
    "of random pixels changes the unit's response by at least half of the largest change."
)
"""What maps are, for the text above pictures that have some."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The pictures to which one unit responds most (figures 2 and 4–9 of D22)."""

    name: str
    """Of the figure's files."""
    model: str
    layer: str
    unit: int
    measures: Mapping[str, str]
    """Name and formatted value, such as {"LC": "0.533"}."""
    kinds: Mapping[str, Sequence[Cell]]
    """The pictures of each kind, by its name in `KINDS`; not all need be there."""
    sheet: str = ""
    """Name of the figure with all shown units of this layer, if there is one."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """For some kinds the most frequent classes, such as "cat 45%, dog 20%"."""

    @property
    def cells(self) -> list[Cell]:
        """All pictures."""
        return [cell for cells in self.kinds.values() for cell in cells]


def cells(rows: Rows) -> dict[str, list[Cell]]:
    """The pictures of a unit by their kind, from `pictures.csv` or `dissection_pictures.csv`."""
    return {
        kind: [
            Cell(
                file=row["file"],
                label=row["label"],
                predicted=row["predicted"],
                framed=is_framed(row),
                map=row["map"],
            )
            for row in mine.ordered("rank")
        ]
        for kind in KINDS
        if (mine := rows.where(images=kind))
    }


def is_framed(row: Row) -> bool:
    """D22 §2: misclassified, as a class near those of the unit's real images."""
    return bool(row["framed"] and row["label"] != row["predicted"])


@dataclass(frozen=True, kw_only=True)
class GridBlock:
    """Units of several models next to each other."""

    macro: ClassVar = "grids"
    title: str
    caption: str
    grids: Sequence[Grid]
    labels: Literal["true", "predicted"] = "true"
    """What a cell's label is: the image's class, or what the model predicts on the real image."""

    @property
    def files(self) -> list[str]:
        """Of all pictures and maps."""
        cells = [cell for grid in self.grids for cell in grid.cells]
        return [file for cell in cells for file in (cell.file, cell.map) if file]

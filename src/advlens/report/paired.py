"""Models compared on the same images, as `differences.csv` and `changes.csv` have it."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from advlens.report.blocks import Measured
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import Direction, Estimate, Form, Says, count

SIGNIFICANT = 0.05
"""A corrected p below this establishes a difference."""


@dataclass(frozen=True)
class Paired:
    """The differences of one measure between models.

    Attributes:
        rows: rows of `differences.csv`, one for each pair of models.
        family: the number of comparisons for which their p is corrected.
    """

    rows: Rows
    family: int

    def of_all(self, models: Collection[str]) -> bool:
        """Whether each pair of these models is compared."""
        return len(self.rows) == math.comb(len(models), 2) > 0

    def among(self, models: Collection[str]) -> set[tuple[str, str]] | None:
        """The pairs that are established if each pair of these models is compared."""
        return self.established if self.of_all(models) else None

    @property
    def established(self) -> set[tuple[str, str]]:
        """Pairs of models of which the first has a higher value than the second."""
        return {_order(row) for row in self.rows if row["p_holm"] < SIGNIFICANT}

    def measured(self, form: Form = "number") -> Measured:
        """The differences, each with the higher model first."""
        texts = {" less ".join(_order(row)): _lead(row) for row in self.rows}
        name = "paired differences" + (", in percentage points" if form == "percent" else "")
        return Measured(name=name, estimates=texts, form=form, paired=True)

    def note(self, test: str) -> str:
        """How they were tested, in a sentence."""
        return (
            f"The models see the same images, so differences are paired: {test}, corrected for "
            f"{count(self.family)} comparisons (Holm)."
        )


def _order(row: Row) -> tuple[str, str]:
    pair = row["model"], row["other"]
    return pair if row["difference"] >= 0 else pair[::-1]


def _lead(row: Row) -> Estimate:
    low, high = row["low"], row["high"]
    if row["difference"] < 0:
        low, high = -high, -low
    return Estimate(value=abs(row["difference"]), low=low, high=high, n=row["n"])


def tested_change(measure: str, row: Row) -> Says:
    """How a measure of a model changes from real images, by a row of `changes.csv`."""
    if row["p_holm"] >= SIGNIFICANT:
        return Says(measure, (row["model"],), "open", ("real images",))
    direction: Direction = "higher" if row["difference"] > 0 else "lower"
    return Says(measure, (row["model"],), direction, ("real images",))

"""Models compared on the same images, as `differences.csv` and `changes.csv` have it."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

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
        rows: rows of `differences.csv`, one for each pair of models; none where a pair is missing.
        family: the number of comparisons for which their p is corrected.
    """

    rows: Rows
    family: int

    @classmethod
    def of(cls, differences: Rows, models: Collection[str], **keys: Any) -> "Paired":
        """Those of these models in what these columns say, if each pair is compared."""
        rows = differences.where(**keys)
        complete = len(rows) == math.comb(len(models), 2)
        return cls(rows if complete else Rows(), len(differences))

    @property
    def known(self) -> bool:
        """Whether the models were compared so."""
        return bool(self.rows)

    @property
    def established(self) -> set[tuple[str, str]] | None:
        """Pairs of models of which the first has a higher value than the second, if known."""
        apart = {_order(row) for row in self.rows if row["p_holm"] < SIGNIFICANT}
        return apart if self.known else None

    def measured(self, form: Form = "number", of: str = "") -> list[Measured]:
        """The differences, each with the higher model first, if they are known.

        Args:
            form: of the values.
            of: in what, where the finding has several.
        """
        texts = {" less ".join(_order(row)): _lead(row) for row in self.rows}
        name = f"paired differences{of}" + ", in percentage points" * (form == "percent")
        return [Measured(name=name, estimates=texts, form=form, paired=True)] if texts else []

    def note(self, test: str) -> str:
        """How they were tested, in a sentence, if they were."""
        return (
            f"The models see the same images, so differences are paired: {test}, corrected for "
            f"{count(self.family)} comparisons (Holm)."
        ) * self.known


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

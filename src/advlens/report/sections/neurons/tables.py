"""The neuron stage's tables, as the report reads them."""

from dataclasses import dataclass
from functools import cached_property

from advlens.runs.results import Results, Row
from advlens.words import Estimate

MEASURES = ("lc", "consis_adv", "cs1", "cs2")


@dataclass(frozen=True)
class NeuronTables:
    """All rows of the neuron stage; an absent table has none."""

    models: tuple[str, ...]
    images: int
    layers: list[Row]
    units: list[Row]
    consistency: list[Row]
    floors: list[Row]
    table1: list[Row]
    curves: list[Row]
    pictures: list[Row]

    @classmethod
    def read(cls, results: Results) -> "NeuronTables":
        """Read them from the run folder."""
        return cls(
            models=results.models,
            images=results.record["data"]["images"],
            layers=results.table("layers") or [],
            units=results.table("units") or [],
            consistency=results.table("consistency") or [],
            floors=results.table("floors") or [],
            table1=[row for row in results.table("table1_d19") or [] if row["consis"] is not None],
            curves=results.table("curves") or [],
            pictures=results.table("pictures") or [],
        )

    @cached_property
    def last_layers(self) -> list[Row]:
        """The row of the last convolution of each model that has one."""
        last = {row["model"]: row for row in self.layers}
        return [last[model] for model in self.models if model in last]

    def at_last(self, images: str, measure: str) -> list[Row]:
        """Rows of `consistency.csv` for one kind of images, at each model's last convolution."""
        last = {(row["model"], row["layer"]) for row in self.last_layers}
        found = {
            row["model"]: row
            for row in self.consistency
            if (row["images"], row["measure"]) == (images, measure)
            and (row["model"], row["layer"]) in last
            and row["mean"] is not None
        }
        return [found[model] for model in self.models if model in found]

    def estimate(self, row: Row, measure: str) -> Estimate:
        """A layer's mean of a measure."""
        return Estimate(
            value=row[f"{measure}_mean"],
            low=row[f"{measure}_low"],
            high=row[f"{measure}_high"],
            n=self.images,
        )

    def random(self, measure: str) -> dict[str, float]:
        """A measure (lc, cs1) of random images in place of the top ones, for each model."""
        return {
            row["model"]: row["value"]
            for row in self.floors
            if (row["measure"], row["kind"]) == (measure, "random")
        }


def mean(row: Row) -> Estimate:
    """The mean of a row of `consistency.csv`."""
    return Estimate(value=row["mean"], low=row["low"], high=row["high"], n=row["n"])


def success(row: Row) -> Estimate:
    """The share of images on which the attack of a row reached its goal."""
    return Estimate.of(row, "success")

"""The neuron stage's tables, as the report reads them."""

from dataclasses import dataclass
from functools import cached_property

from advlens.runs.results import Results, Row
from advlens.words import Estimate

MEASURES = ("lc", "consis_adv", "cs1", "cs2")
_OPEN = float | None
_NAMES = {"model": str, "layer": str}
_ATTACK = {"attack": str, "norm": str, "epsilon": float, "steps": int}

UNITS = _NAMES | {"unit": int, "dead": bool} | dict.fromkeys((*MEASURES, "consis_adv_fgsm"), _OPEN)
LAYERS = (
    _NAMES
    | {"units": int, "dead": int, "top": int, "lc_corrected_mean": _OPEN}
    | {f"{measure}_{part}": _OPEN for measure in MEASURES for part in ("mean", "low", "high")}
)
CONSISTENCY = (
    _NAMES
    | {"images": str}
    | _ATTACK
    | {"success": float, "success_low": float, "success_high": float, "measure": str}
    | {"mean": _OPEN, "low": _OPEN, "high": _OPEN, "units": int, "n": int}
)
FLOORS = {"model": str, "floor": str, "value": float, "n": int}
TABLE1 = (
    _NAMES
    | {"success": float, "units": int, "n": int}
    | {f"consis{part}": _OPEN for part in ("", "_low", "_high")}
    | {f"consis_adv{part}": _OPEN for part in ("", "_low", "_high")}
)
CURVES = (
    {"model": str, "images": str, "bin_low": float, "bin_high": float, "lc": float}
    | {"cs1": float, "cs1_low": _OPEN, "cs1_high": _OPEN}
    | {"cs2": float, "cs2_low": _OPEN, "cs2_high": _OPEN, "units": int}
)
PICTURES = (
    _NAMES
    | {"unit": int, "lc": float, "chosen": str, "images": str, "rank": int}
    | {"label": str, "predicted": str, "framed": bool, "file": str, "map": str}
)


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
            layers=results.table("layers", LAYERS) or [],
            units=results.table("units", UNITS) or [],
            consistency=results.table("consistency", CONSISTENCY) or [],
            floors=results.table("floors", FLOORS) or [],
            table1=[
                row
                for row in results.table("table1_d19", TABLE1) or []
                if row["consis"] is not None
            ],
            curves=results.table("curves", CURVES) or [],
            pictures=results.table("pictures", PICTURES) or [],
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
        """LC or CS1 of random images in place of the top ones, for each model."""
        return {
            row["model"]: row["value"]
            for row in self.floors
            if row["floor"].startswith(f"{measure} of ")
        }


def mean(row: Row) -> Estimate:
    """The mean of a row of `consistency.csv`."""
    return Estimate(value=row["mean"], low=row["low"], high=row["high"], n=row["n"])


def success(row: Row) -> Estimate:
    """The share of images on which the attack of a row reached its goal."""
    return Estimate.of(row, "success")

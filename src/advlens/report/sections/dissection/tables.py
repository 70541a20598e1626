"""The dissection stage's tables, as the report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from advlens.errors import RunError
from advlens.intervals import wilson
from advlens.report.figures.style import category_order
from advlens.report.paired import tested_change
from advlens.report.tables import Tables, table
from advlens.runs.results import Results, Rows
from advlens.runs.tables import TABLES, Row
from advlens.words import Estimate, Says, attack_name, changed, count, listed, percent

ALL = "all layers"
MINIMUM = 0.04
"""IoU above which a unit detects its best concept, where no table says otherwise."""
KINDS = ("real", "adversarial", "adversarial-reestimated")

Unit = tuple[str, str, int]
"""Model, layer, number."""


@dataclass(frozen=True, kw_only=True)
class Fates:
    """What becomes of the units of a layer under attack, by their concept on real images."""

    detectors: int
    kept: int
    changed: int
    gained: int

    @property
    def lost(self) -> int:
        """Detectors that detect nothing under attack."""
        return self.detectors - self.kept - self.changed

    def estimate(self, units: int) -> Estimate:
        """The share of the detectors that these units are."""
        low, high = wilson(units, self.detectors)
        return Estimate(value=units / max(self.detectors, 1), low=low, high=high, n=self.detectors)


class DissectionTables(Tables):
    """The tables of the dissection stage."""

    units = table("dissection")
    images = table("dissection_images")
    pictures = table("dissection_pictures")
    neurons = table("units")
    classes = table("unit_classes")

    @cached_property
    def shares(self) -> Rows:
        """The detectors of each layer and category."""
        return _counts(self.results, "dissection_shares")

    @cached_property
    def transitions(self) -> Rows:
        """What becomes of them under attack."""
        return _counts(self.results, "dissection_transitions")

    @cached_property
    def minimum(self) -> float:
        """IoU above which a unit detects its best concept."""
        return next((row["minimum"] for row in self.images), MINIMUM)

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """The dissected layers of each model that has some, in their order."""
        by_model = {model: self.units.where(model=model).values("layer") for model in self.models}
        return {model: layers for model, layers in by_model.items() if layers}

    @property
    def places(self) -> list[tuple[str, str]]:
        """All dissected layers of all models."""
        return [(model, layer) for model, layers in self.layers.items() for layer in layers]

    @cached_property
    def last(self) -> list[tuple[str, str]]:
        """The last dissected layer of each model: D19's Table 2."""
        return [(model, layers[-1]) for model, layers in self.layers.items()]

    @cached_property
    def together(self) -> list[tuple[str, str]]:
        """All layers of each model that has several: D22's Table 1."""
        return [(model, ALL) for model, layers in self.layers.items() if len(layers) > 1]

    @cached_property
    def categories(self) -> list[str]:
        """Names, in the papers' order."""
        return category_order(set(self.shares.values("category")) - {"all"})

    @cached_property
    def _shares(self) -> dict[tuple[str, str, str, str], Row]:
        return {
            (row["model"], row["layer"], row["images"], row["category"]): row
            for row in self.shares
            if abs(row["minimum"] - self.minimum) < 1e-6
        }

    def share(self, place: tuple[str, str], images: str, category: str = "all") -> Row | None:
        """The share of detectors at a place (model and layer), at the main IoU threshold."""
        return self._shares.get((*place, images, category))

    def at_last(self, images: str) -> dict[str, Row]:
        """For each model the shares at its last dissected layer."""
        rows = {place[0]: self.share(place, images) for place in self.last}
        return {model: row for model, row in rows.items() if row}

    def detectors(self, places: Sequence[tuple[str, str]], images: str) -> dict[str, Estimate]:
        """For each model at these places its share of units that detect a concept."""
        rows = {place[0]: self.share(place, images) for place in places}
        return {model: share(row) for model, row in rows.items() if row}

    @cached_property
    def under_attack(self) -> bool:
        """Whether units were dissected on adversarial images, too."""
        return bool(self.units.one(images="adversarial"))

    def attacked(self, model: str) -> Row | None:
        """The row of `dissection_images.csv` of a model that was attacked."""
        return next((row for row in self.images.where(model=model) if row["attack"]), None)

    def change(self, name: str, place: tuple[str, str], before: Row, after: Row) -> Says:
        """How a share of detectors changes under attack: unit by unit, or by its intervals.

        Args:
            name: the detectors.
            place: model and layer.
            before, after: their rows of `dissection_shares.csv`.
        """
        model, layer = place
        measure = name.removeprefix("share of ")
        where = {"measure": measure, "model": model, "layer": layer, "images": "adversarial"}
        if row := self.changes.one(**where):
            return tested_change(name, row)
        return changed(name, model, share(before), share(after))

    @property
    def tested(self) -> str:
        """How changes were tested, if they were, as the end of a note."""
        return (
            " Changes are tested unit by unit: McNemar's exact test, corrected for "
            f"{count(len(self.changes))} comparisons (Holm)."
            if self.changes.one(measure="detectors")
            else ""
        )

    def fates(self, place: tuple[str, str], images: str) -> Fates | None:
        """What becomes of the units at a place."""
        model, layer = place
        rows = self.transitions.where(model=model, layer=layer, images=images)
        if not rows:
            return None
        before = [row for row in rows if row["before"] != "none"]
        kept = sum(row["same_concept"] for row in before)
        return Fates(
            detectors=sum(row["units"] for row in before),
            kept=kept,
            changed=sum(row["units"] for row in before if row["after"] != "none") - kept,
            gained=sum(r["units"] for r in rows.where(before="none") if r["after"] != "none"),
        )

    @cached_property
    def by_unit(self) -> dict[str, dict[Unit, Row]]:
        """For each kind of images the row of each unit."""
        return {
            images: {unit_of(row): row for row in self.units.where(images=images)}
            for images in KINDS
        }

    @cached_property
    def behind(self) -> str:
        """What was dissected, and how it was attacked, for captions."""
        sizes = [
            f"{count(r['n'])} images of {r['data']} with {count(r['labels'])} labels"
            for r in self.images
        ]
        attacks: dict[str, list[str]] = {}
        for row in self.images:
            if row["attack"]:
                share = "" if row["success"] is None else f" (success {percent(row['success'])})"
                attacks.setdefault(attack_name(row), []).append(row["model"] + share)
        texts = [f"{name} on {listed(models)}" for name, models in attacks.items()]
        return "; attack: ".join(
            filter(None, [listed(list(dict.fromkeys(sizes))), "; ".join(texts)])
        )


def _counts(results: Results, name: str) -> Rows:
    """The rows of a table, none of which may count more units than there are."""
    rows = results.table(name)
    parts = TABLES[name].columns.keys() & {"detectors", "permuted_detectors", "same_concept"}
    for row in rows:
        if not all(0 <= row[part] <= row["units"] for part in parts):
            raise RunError(
                f"{results.run / 'results' / name}.csv is damaged: {row['layer']} of "
                f"{row['model']} has counts beyond its {row['units']} units; make the run again "
                "with `advlens dissect`"
            )
    return rows


def unit_of(row: Row) -> Unit:
    """That of a row of `dissection.csv` and the like."""
    return row["model"], row["layer"], row["unit"]


def share(row: Row) -> Estimate:
    """The share of a row of `dissection_shares.csv`, over units."""
    return Estimate.of(row, "share", n="units")


def chance(row: Row) -> Estimate:
    """The share that the same masks reach with the labels of other images."""
    low, high = wilson(row["permuted_detectors"], row["units"])
    return Estimate(value=row["permuted_share"], low=low, high=high, n=row["units"])

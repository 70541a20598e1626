"""The neuron stage's tables, as the report reads them."""

from collections.abc import Iterable
from functools import cached_property

from advlens.report.tables import Tables, table
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import Estimate, attack_name, classes_text, count, shared

EQUAL = "equal-success"
"""The set of images of the attack that reaches the same success on each model."""


class NeuronTables(Tables):
    """The tables of the neuron stage."""

    layers = table("layers")
    units = table("units")
    classes = table("unit_classes")
    consistency = table("consistency")
    floors = table("floors")
    curves = table("curves")
    pictures = table("pictures")

    @cached_property
    def images(self) -> int:
        """Images of the data set."""
        return int(self.results.record["data"]["images"])

    @cached_property
    def table1(self) -> Rows:
        """Those of D19's Table 1 with a live unit."""
        return self.results.table("table1_d19").known("consis")

    @cached_property
    def last_layers(self) -> Rows:
        """The row of the last convolution of each model that has one."""
        last = self.layers.by("model")
        return Rows(last[model] for model in self.models if model in last)

    def at_last(self, images: str, measure: str) -> Rows:
        """Rows of `consistency.csv` for one kind of images, at each model's last convolution."""
        rows = self.consistency.where(images=images, measure=measure).known("mean")
        last_rows = (
            rows.one(model=last["model"], layer=last["layer"]) for last in self.last_layers
        )
        return Rows(filter(None, last_rows))

    @cached_property
    def frequent(self) -> dict[tuple[str, str, int], dict[str, str]]:
        """For each unit and kind of images the most frequent classes, as "cat 45%, dog 20%"."""
        units = self.classes.grouped("model", "layer", "unit")
        return {
            unit: {row["images"]: classes_text(row) for row in rows} for unit, rows in units.items()
        }

    @cached_property
    def main(self) -> str:
        """The name of the main attack's set: the first of `consistency.csv`."""
        return next(iter(self.consistency.values("images")), "least-likely")

    @cached_property
    def headings(self) -> dict[str, str]:
        """What the sets of attacked images are called, in order.

        An attack without a radius that was calibrated is the one at equal success.
        """
        names = {self.main: "Equal ε", EQUAL: "Equal success"}
        if self.consistency.where(images=self.main, epsilon=None):
            (own, equal) = (self.at_last(images, "cs1") for images in (self.main, EQUAL))
            names[self.main] = " and ".join(own.values("attack"))
            if own.values("settings") == equal.values("settings"):
                del names[self.main]
        return names | {"fgsm": names.get("fgsm", "FGSM"), "noise": "Noise (control)"}

    @property
    def targeted(self) -> bool:
        """Whether the main attack aims at a class."""
        return is_aimed(self.at_last(self.main, "cs1"))

    @property
    def tested(self) -> str:
        """How changes from real to adversarial images were tested, if they were."""
        if not self.changes:
            return ""
        return (
            "Both are of the same images, so a change is tested by a paired jackknife over images, "
            f"corrected for {count(len(self.changes))} comparisons (Holm)."
        )

    @cached_property
    def beyond_noise(self) -> list[str]:
        """Models whose images change farther at equal success than those of the control."""
        noise, equal = (
            self.at_last(images, "cs1").known("distance").by("model") for images in ("noise", EQUAL)
        )
        return [
            m for m in equal if m in noise and equal[m]["distance"] > 1.1 * noise[m]["distance"]
        ]

    def random(self, measure: str) -> dict[str, Estimate]:
        """A measure (lc, cs1) of random images in place of the top ones, for each model."""
        rows = self.floors.where(measure=measure, kind="random")
        return {row["model"]: Estimate.only(row["value"], row["n"]) for row in rows}


def is_aimed(rows: Iterable[Row]) -> bool:
    """Whether an attack aims at a class, so that its success does not count natural errors."""
    return all(row["targeted"] is not False for row in rows)


def effect(rows: Iterable[Row]) -> str:
    """What the column success holds the share of: "success", or "misclassified" without an aim."""
    return "success" if is_aimed(rows) else "misclassified"


def attacks(rows: Rows) -> str:
    """The attacks behind rows, by model where they differ."""
    return shared({row["model"]: attack_name(row) for row in rows}) if rows else "an attack"

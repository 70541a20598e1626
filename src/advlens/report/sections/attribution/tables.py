"""The attribution stage's tables, as the report reads them."""

from functools import cached_property

from advlens.report.blocks import Term
from advlens.report.paired import Paired
from advlens.report.tables import Tables, table
from advlens.runs.measures import ATTRIBUTIONS, Measure
from advlens.runs.tables import Row
from advlens.words import Estimate, count, listed

RANDOM = "Random"
METHODS = {
    "IntegratedGradients": Term(
        name="Integrated Gradients",
        meaning="The gradient of the model's score for the class, added up along the straight line "
        "from a baseline without content, such as noise, to the image. Each pixel gets its share "
        "of what the score gains on the way: above 0 it speaks for the class, below against it. "
        "Source: Sundararajan, Taly and Yan, ICML 2017.",
    ),
    "ExpectedGradients": Term(
        name="Expected Gradients",
        meaning="The same with real images as baselines, averaged over many of them: an estimate "
        "of Shapley values (SHAP). Source: Erion, Janizek, Sturmfels, Lundberg and Lee, 2020.",
    ),
    RANDOM: Term(
        name="Random",
        meaning="Random numbers in place of an attribution: what a measure gives when nothing is "
        "explained.",
    ),
}


def named(method: str) -> str:
    """A method in the field's words."""
    return METHODS[method].name if method in METHODS else method


class AttributionTables(Tables):
    """The tables of the attribution stage."""

    rows = table("attribution")
    settings = table("attribution_methods")
    pictures = table("attribution_pictures")

    @cached_property
    def methods(self) -> list[str]:
        """Those compared with random attributions."""
        return [method for method in self.rows.values("method") if method != RANDOM]

    def compared(self, measure: str) -> list[str]:
        """The methods by which a measure compares models.

        The agreement of Integrated Gradients with expected gradients is that of expected gradients
        with Integrated Gradients, and counts once.
        """
        twice = measure == "agreement" and "IntegratedGradients" in self.methods
        return [each for each in self.methods if not (twice and each == "ExpectedGradients")]

    @cached_property
    def measures(self) -> list[str]:
        """Names, in the report's order; those it does not know come last."""
        measured = self.rows.values("measure")
        return [
            *(m for m in ATTRIBUTIONS if m in measured),
            *(m for m in measured if m not in ATTRIBUTIONS),
        ]

    @cached_property
    def better(self) -> dict[str, str]:
        """For each measure "higher", "lower" or nothing."""
        return {row["measure"]: row["better"] for row in self.rows}

    @cached_property
    def images(self) -> int:
        """The most that any measure rests on."""
        return int(max(self.rows.values("n")))

    @cached_property
    def behind(self) -> str:
        """How many images, for captions."""
        least = min(self.rows.values("n"))
        n = f"{count(least)} to {count(self.images)}" if least < self.images else count(least)
        return f"n = {n} images; each model explains the class that it predicts"

    def described(self, measure: str) -> Measure:
        """A measure in words; one that is not known here goes by its own name."""
        if measure in ATTRIBUTIONS:
            return ATTRIBUTIONS[measure]
        better = self.better[measure]
        return Measure(measure.capitalize(), f"better by {measure}", better)  # type: ignore[arg-type]

    def values(self, method: str, measure: str) -> dict[str, Estimate]:
        """Means over images for each model that has them."""
        return self.rows.where(method=method, measure=measure).estimates()

    def ahead(self, method: str, measure: str) -> dict[str, Estimate]:
        """By how much each model's attributions are better than random ones of the same model.

        What a measure owes to the model, such as an insertion curve to its confidence, random
        attributions owe it too. The interval is of the differences image by image. Empty where
        nothing is better, or without random ones.
        """
        if not self.better.get(measure):
            return {}
        return self.rows.where(method=method, measure=measure).estimates("ahead")

    @property
    def tested(self) -> str:
        """How the models were compared: on the same images, or by their intervals."""
        if self.differences.where(method=tuple(self.methods)):
            return Paired(self.differences, len(self.differences)).note("Student's t")
        return (
            "The intervals are disjoint of how far each model's attributions are ahead of random "
            "ones, each image compared with itself."
        )

    def setting(self, method: str) -> str:
        """How a method was computed, such as "10 noise images as baselines, probability"."""
        texts = [
            f"What is explained: the {row['target']} of the predicted class; baseline: "
            f"{row['baseline']}; {_points(row)} gradients an image"
            for row in self.settings.where(method=method)
        ]
        return listed(list(dict.fromkeys(texts)))


def _points(row: Row) -> str:
    points = row["points"]
    return count(int(points)) if points.is_integer() else f"{points:,.1f}"
